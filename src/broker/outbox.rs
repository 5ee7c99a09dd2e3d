//! Bytes on their way to clients.
//!
//! What a turn of the event loop produces is encoded once, into an arena that all connections of
//! the shard share; an outbox is a list of ranges of it, and consecutive ranges are joined. So a
//! message for a thousand subscribers is encoded once, and a run of such messages is one slice of
//! memory in each subscriber's single vectored write. At the end of the turn every outbox is
//! written; what a socket does not take is copied to a backlog of the connection's own, and the
//! arena is empty again. Nothing here is shared by reference, nothing outlives the turn but a
//! backlog.

use std::{collections::VecDeque, io::IoSlice};

use super::ConnectionKey;
use crate::record::Epoch;

/// The arena's capacity that is kept from turn to turn, in bytes.
const ARENA_KEPT: usize = 1 << 20;
/// When the arenas hold this many bytes, what is queued is to be moved to backlogs, by
/// [`Outboxes::spill`]. Ranges have room for 31 bits: this leaves nearly all of it for the copies of
/// a single message.
const ARENA_MAX: usize = 64 << 20;
/// The outboxes kept for reuse.
const SPARE_OUTBOXES: usize = 4_096;
/// Set in [`Range::start`] for a range of the control arena.
const CONTROL: u32 = 1 << 31;

/// A range of one of the arenas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    start: u32,
    end: u32,
}

impl Range {
    /// The length in bytes.
    pub fn len(self) -> usize {
        (self.end - (self.start & !CONTROL)) as usize
    }
}

/// The bytes queued for one connection. A connection with nothing to send has none.
#[derive(Debug, Default)]
pub struct Outbox {
    /// What the socket did not take in earlier turns, from `written` on.
    backlog: Vec<u8>,
    written: usize,
    /// What this turn adds behind that; empty while blocked.
    ranges: Vec<Range>,
    /// The first range's bytes that are written already.
    skip: usize,
    /// The bytes in `ranges`.
    in_ranges: usize,
    /// The socket takes nothing at present: it is written to again when it is writable.
    blocked: bool,
    /// Its connection is on the list of those to write.
    listed: bool,
    /// The client's time of the last progress, in milliseconds of the broker's clock.
    progress_at: u64,
    /// What must not be written yet.
    held: Option<Box<Held>>,
}

/// Packets that promise what is not durable yet, and all that came behind the first of them.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    /// The bytes at the front that are let go.
    released: usize,
    /// Where the packets end that wait for each epoch, oldest first. Never empty.
    parts: VecDeque<(usize, Epoch)>,
}

impl Outbox {
    /// The bytes that wait to be written, those that must not be yet included.
    pub fn queued(&self) -> usize {
        let held = self.held.as_ref().map_or(0, |held| held.bytes.len() - held.released);
        self.writable() + held
    }

    fn writable(&self) -> usize {
        self.backlog.len() - self.written + self.in_ranges
    }

    /// Whether packets wait for what they promise to become durable.
    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Whether it is not emptied just now: by its client's doing or for what is not durable.
    pub fn is_stuck(&self) -> bool {
        self.blocked || self.is_holding()
    }

    /// Whether the socket is full and the shard waits for it to become writable.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Takes it off the list of those to write. False if it was not on it: what the list has is
    /// an outbox of its connection's number that has ended.
    pub fn unlist(&mut self) -> bool {
        std::mem::take(&mut self.listed)
    }

    /// When the client last took anything, while blocked.
    pub fn progress_at(&self) -> u64 {
        self.progress_at
    }
}

/// The arenas of one shard, and the list of connections that have something to write.
#[derive(Debug, Default)]
pub struct Outboxes {
    /// PUBLISH packets. Apart from the control packets, so that messages to one receiver stay
    /// next to each other although acknowledgements to others are written in between.
    data: Vec<u8>,
    control: Vec<u8>,
    dirty: VecDeque<ConnectionKey>,
    #[expect(clippy::vec_box, reason = "the boxes are what is recycled")]
    spare: Vec<Box<Outbox>>,
}

impl Outboxes {
    /// Encodes a PUBLISH, or a part of one, into the arena.
    pub fn encode(&mut self, f: impl FnOnce(&mut Vec<u8>)) -> Range {
        let start = self.data.len();
        f(&mut self.data);
        Range { start: start as u32, end: self.data.len() as u32 }
    }

    /// Queues bytes that [`Outboxes::encode`] has laid down in this turn.
    pub fn push(&mut self, key: ConnectionKey, slot: &mut Option<Box<Outbox>>, range: Range) {
        let outbox = slot.get_or_insert_with(|| self.spare.pop().unwrap_or_default());
        if let Some(held) = &mut outbox.held {
            held.bytes.extend_from_slice(slice(&self.data, &self.control, range));
            if let Some((end, _)) = held.parts.back_mut() {
                *end = held.bytes.len();
            }
            return;
        }
        if !outbox.listed && !outbox.blocked {
            self.dirty.push_back(key);
            outbox.listed = true;
        }
        if outbox.blocked {
            spill(outbox, &self.data, &self.control);
            let bytes = slice(&self.data, &self.control, range);
            outbox.backlog.extend_from_slice(bytes);
            return;
        }
        outbox.in_ranges += range.len();
        match outbox.ranges.last_mut() {
            Some(last) if last.end == range.start & !CONTROL && same_arena(*last, range) => {
                last.end = range.end;
            }
            _ => outbox.ranges.push(range),
        }
    }

    /// Encodes and queues a control packet.
    pub fn control(
        &mut self,
        key: ConnectionKey,
        slot: &mut Option<Box<Outbox>>,
        f: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.control.len() as u32 | CONTROL;
        f(&mut self.control);
        let range = Range { start, end: self.control.len() as u32 };
        if range.len() > 0 {
            self.push(key, slot, range);
        }
    }

    /// From now on nothing more is written on this connection until `epoch` is durable, but what is
    /// queued already. Says whether it waited for that epoch before.
    pub fn hold(&mut self, slot: &mut Option<Box<Outbox>>, epoch: Epoch) -> bool {
        let outbox = slot.get_or_insert_with(|| self.spare.pop().unwrap_or_default());
        let held = outbox.held.get_or_insert_default();
        let waits = held.parts.back().is_some_and(|(_, last)| *last >= epoch);
        if !waits {
            held.parts.push_back((held.bytes.len(), epoch));
        }
        waits
    }

    /// All epochs up to `watermark` are durable: what waited for them may be written.
    pub fn release(
        &mut self,
        key: ConnectionKey,
        slot: &mut Option<Box<Outbox>>,
        watermark: Epoch,
    ) {
        let Some(outbox) = slot else { return };
        let Some(mut held) = outbox.held.take() else { return };
        let mut end = held.released;
        while let Some((up_to, _)) = held.parts.front().filter(|(_, epoch)| *epoch <= watermark) {
            end = *up_to;
            held.parts.pop_front();
        }
        let start = self.control.len() as u32 | CONTROL;
        self.control.extend_from_slice(held.bytes.get(held.released..end).unwrap_or_default());
        let range = Range { start, end: self.control.len() as u32 };
        if range.len() > 0 {
            self.push(key, slot, range);
        }
        if held.parts.is_empty() {
            // It may have held nothing at all.
            if slot.as_ref().is_some_and(|outbox| outbox.queued() == 0 && !outbox.listed) {
                self.recycle(slot);
            }
            return;
        }
        held.released = end;
        if let Some(outbox) = slot {
            outbox.held = Some(held);
        }
    }

    /// What waits for an epoch is never to be written. Says whether anything did.
    pub fn forget_held(&mut self, slot: &mut Option<Box<Outbox>>) -> bool {
        slot.as_mut().is_some_and(|outbox| outbox.held.take().is_some())
    }

    /// The bytes encoded in this turn so far.
    pub fn encoded(&self) -> usize {
        self.data.len() + self.control.len()
    }

    /// Whether the arenas hold so much that it is to be spilled before the next message.
    pub fn is_full(&self) -> bool {
        self.encoded() >= ARENA_MAX
    }

    /// Moves what is queued in the arenas for one connection to its backlog.
    pub fn spill(&self, outbox: &mut Outbox) {
        spill(outbox, &self.data, &self.control);
    }

    /// Empties the arenas; every outbox has been spilled.
    pub fn clear(&mut self) {
        for arena in [&mut self.data, &mut self.control] {
            arena.clear();
            arena.shrink_to(ARENA_KEPT);
        }
    }

    /// The next connection with something to write, if any.
    pub fn next_dirty(&mut self) -> Option<ConnectionKey> {
        self.dirty.pop_front()
    }

    /// Whether any connection has something to write.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Fills `slices` with what is to be written next and returns how many it filled.
    pub fn slices<'a>(&'a self, outbox: &'a Outbox, slices: &mut [IoSlice<'a>]) -> usize {
        let backlog = outbox.backlog.get(outbox.written..).filter(|b| !b.is_empty());
        let mut skip = outbox.skip;
        let ranges = outbox.ranges.iter().map(|range| {
            let bytes = slice(&self.data, &self.control, *range);
            bytes.get(std::mem::take(&mut skip)..).unwrap_or_default()
        });
        let mut filled = 0;
        for (to, from) in slices.iter_mut().zip(backlog.into_iter().chain(ranges)) {
            *to = IoSlice::new(from);
            filled += 1;
        }
        filled
    }

    /// The socket took `bytes`. Returns whether nothing is left that may be written; an outbox that
    /// is empty is taken out of its slot and kept for reuse.
    pub fn written(&mut self, slot: &mut Option<Box<Outbox>>, bytes: usize, now: u64) -> bool {
        let Some(outbox) = slot else { return true };
        outbox.progress_at = now;
        let from_backlog = bytes.min(outbox.backlog.len() - outbox.written);
        outbox.written += from_backlog;
        let mut left = bytes - from_backlog;
        outbox.in_ranges = outbox.in_ranges.saturating_sub(left);
        let mut whole = 0;
        for range in &outbox.ranges {
            let rest = range.len() - outbox.skip;
            if left < rest {
                outbox.skip += left;
                break;
            }
            left -= rest;
            outbox.skip = 0;
            whole += 1;
        }
        outbox.ranges.drain(..whole);
        if outbox.writable() > 0 {
            return false;
        }
        if outbox.held.is_none() {
            self.recycle(slot);
            return true;
        }
        (outbox.backlog, outbox.written) = (Vec::new(), 0);
        outbox.blocked = false;
        true
    }

    /// The socket takes no more for now: what is left is copied to the backlog, and the arena is
    /// free of it.
    pub fn block(&mut self, slot: &mut Option<Box<Outbox>>, now: u64) {
        let Some(outbox) = slot else { return };
        if !outbox.blocked {
            outbox.blocked = true;
            outbox.progress_at = now;
        }
        if outbox.written > 0 {
            outbox.backlog.drain(..outbox.written);
            outbox.written = 0;
        }
        spill(outbox, &self.data, &self.control);
        if outbox.backlog.capacity() > 4 * outbox.backlog.len() + 4_096 {
            outbox.backlog.shrink_to(2 * outbox.backlog.len());
        }
    }

    /// Forgets what is queued for a connection.
    pub fn recycle(&mut self, slot: &mut Option<Box<Outbox>>) {
        let Some(mut outbox) = slot.take() else { return };
        if self.spare.len() >= SPARE_OUTBOXES || outbox.ranges.capacity() > 1_024 {
            return;
        }
        outbox.backlog = Vec::new();
        outbox.ranges.clear();
        (outbox.written, outbox.skip, outbox.in_ranges) = (0, 0, 0);
        (outbox.blocked, outbox.listed) = (false, false);
        outbox.held = None;
        self.spare.push(outbox);
    }

    /// Ends the turn: every dirty connection was written or blocked.
    pub fn end_turn(&mut self) {
        self.clear();
        self.dirty.shrink_to(ARENA_KEPT / 8);
    }

    /// Lets go of what is kept for reuse.
    pub fn shrink(&mut self) {
        self.spare = Vec::new();
        self.dirty.shrink_to_fit();
        self.data.shrink_to_fit();
        self.control.shrink_to_fit();
    }
}

/// Copies what is left of an outbox's ranges to its backlog.
fn spill(outbox: &mut Outbox, data: &[u8], control: &[u8]) {
    let mut skip = std::mem::take(&mut outbox.skip);
    for range in outbox.ranges.drain(..) {
        let bytes = slice(data, control, range).get(std::mem::take(&mut skip)..);
        outbox.backlog.extend_from_slice(bytes.unwrap_or_default());
    }
    outbox.in_ranges = 0;
}

fn same_arena(a: Range, b: Range) -> bool {
    (a.start ^ b.start) & CONTROL == 0
}

fn slice<'a>(data: &'a [u8], control: &'a [u8], range: Range) -> &'a [u8] {
    let arena = if range.start & CONTROL == 0 { data } else { control };
    arena.get((range.start & !CONTROL) as usize..range.end as usize).unwrap_or_default()
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
