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
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const KEY: ConnectionKey = ConnectionKey(3);

    fn bytes(out: &Outboxes, slot: &Option<Box<Outbox>>) -> Vec<Vec<u8>> {
        let mut slices = [IoSlice::new(&[]); 8];
        let Some(outbox) = slot else { return Vec::new() };
        let n = out.slices(outbox, &mut slices);
        slices[..n].iter().map(|s| s.to_vec()).collect()
    }

    fn data(out: &mut Outboxes, slot: &mut Option<Box<Outbox>>, bytes: &[u8]) -> Range {
        let range = out.encode(|arena| arena.extend_from_slice(bytes));
        out.push(KEY, slot, range);
        range
    }

    #[test]
    fn consecutive_messages_are_one_slice_for_each_receiver() {
        let (mut out, mut a, mut b) = (Outboxes::default(), None, None);
        for message in [b"one", b"two"] {
            let range = data(&mut out, &mut a, message);
            out.push(ConnectionKey(4), &mut b, range);
            out.control(ConnectionKey(5), &mut None, |arena| arena.push(0));
        }
        assert_eq!(bytes(&out, &a), [b"onetwo"]);
        assert_eq!(bytes(&out, &b), [b"onetwo"]);
        assert_eq!(a.as_ref().unwrap().queued(), 6);
    }

    #[test]
    fn order_is_kept_between_messages_and_control_packets() {
        let (mut out, mut slot) = (Outboxes::default(), None);
        data(&mut out, &mut slot, b"m1");
        out.control(KEY, &mut slot, |arena| arena.extend_from_slice(b"c1"));
        out.control(KEY, &mut slot, |arena| arena.extend_from_slice(b"c2"));
        data(&mut out, &mut slot, b"m2");
        assert_eq!(bytes(&out, &slot), [&b"m1"[..], b"c1c2", b"m2"]);
    }

    #[test]
    fn a_short_write_goes_on_where_it_stopped() {
        let (mut out, mut slot) = (Outboxes::default(), None);
        data(&mut out, &mut slot, b"hello");
        out.control(KEY, &mut slot, |arena| arena.extend_from_slice(b"ack"));
        assert!(!out.written(&mut slot, 2, 0));
        assert_eq!(bytes(&out, &slot), [&b"llo"[..], b"ack"]);
        assert!(!out.written(&mut slot, 4, 0));
        assert_eq!(bytes(&out, &slot), [b"ck"]);
        assert!(out.written(&mut slot, 2, 0));
        assert!(slot.is_none());
    }

    #[test]
    fn what_the_socket_does_not_take_survives_the_turn() {
        let (mut out, mut slot) = (Outboxes::default(), None);
        data(&mut out, &mut slot, b"hello");
        assert!(!out.written(&mut slot, 1, 0));
        out.block(&mut slot, 7);
        out.end_turn();
        data(&mut out, &mut slot, b" world");
        assert!(slot.as_ref().unwrap().is_blocked());
        assert_eq!(bytes(&out, &slot), [b"ello world"]);
        assert!(!out.written(&mut slot, 3, 8));
        out.block(&mut slot, 9);
        assert_eq!(bytes(&out, &slot), [b"o world"]);
        assert_eq!(slot.as_ref().unwrap().progress_at(), 8);
        assert!(out.written(&mut slot, 7, 9));
    }

    #[test]
    fn a_connection_is_dirty_once() {
        let (mut out, mut slot) = (Outboxes::default(), None);
        data(&mut out, &mut slot, b"x");
        data(&mut out, &mut slot, b"y");
        assert_eq!(out.next_dirty(), Some(KEY));
        assert_eq!(out.next_dirty(), None);
    }

    #[test]
    fn what_promises_something_waits_until_that_is_durable_and_holds_up_what_is_behind_it() {
        let (mut out, mut slot) = (Outboxes::default(), None);
        data(&mut out, &mut slot, b"m1");
        assert!(!out.hold(&mut slot, 5));
        out.control(KEY, &mut slot, |arena| arena.extend_from_slice(b"a5"));
        assert!(out.hold(&mut slot, 5));
        data(&mut out, &mut slot, b"m2");
        assert!(!out.hold(&mut slot, 6));
        out.control(KEY, &mut slot, |arena| arena.extend_from_slice(b"a6"));
        assert_eq!(out.next_dirty(), Some(KEY));
        assert!(slot.as_mut().unwrap().unlist());
        assert_eq!(bytes(&out, &slot), [b"m1"]);
        assert!(out.written(&mut slot, 2, 0), "nothing is left that may be written");
        out.end_turn();
        assert_eq!((slot.as_ref().unwrap().queued(), out.next_dirty()), (6, None));

        out.release(KEY, &mut slot, 4);
        assert_eq!(out.next_dirty(), None);
        out.release(KEY, &mut slot, 5);
        assert_eq!(out.next_dirty(), Some(KEY));
        assert_eq!(bytes(&out, &slot), [b"a5m2"]);
        out.release(KEY, &mut slot, 6);
        assert_eq!(bytes(&out, &slot), [b"a5m2a6"]);
        data(&mut out, &mut slot, b"m3");
        assert!(!slot.as_ref().unwrap().is_holding());
        assert!(out.written(&mut slot, 8, 0));
        assert!(slot.is_none());
    }

    #[test]
    fn a_hold_with_nothing_behind_it_leaves_nothing() {
        let (mut out, mut slot) = (Outboxes::default(), None);
        out.hold(&mut slot, 1);
        out.release(KEY, &mut slot, 1);
        assert!(slot.is_none());
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A packet of its own for one connection.
        Own(usize, u8),
        /// A control packet.
        Control(usize, u8),
        /// One packet for all connections.
        All(u8),
        /// The socket takes so many bytes, and no more if that is less than all.
        Write(usize, usize),
        /// Every socket takes so many bytes, and the turn ends.
        EndTurn(usize),
        /// The connection is gone, and its slot used again.
        Close(usize),
        /// The arenas are full.
        Spill,
    }

    const CONNECTIONS: usize = 3;

    fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
        use proptest::prelude::*;
        let c = 0..CONNECTIONS;
        let step = prop_oneof![
            4 => (c.clone(), 0..40u8).prop_map(|(c, n)| Step::Own(c, n)),
            4 => (c.clone(), 0..10u8).prop_map(|(c, n)| Step::Control(c, n)),
            4 => (0..40u8).prop_map(Step::All),
            3 => (c.clone(), 0..100usize).prop_map(|(c, n)| Step::Write(c, n)),
            2 => (0..200usize).prop_map(Step::EndTurn),
            1 => c.prop_map(Step::Close),
            1 => Just(Step::Spill),
        ];
        proptest::collection::vec(step, 0..150)
    }

    /// Outboxes, and the bytes that each connection is owed.
    #[derive(Default)]
    struct Model {
        out: Outboxes,
        slots: [Option<Box<Outbox>>; CONNECTIONS],
        owed: [Vec<u8>; CONNECTIONS],
        next: u8,
    }

    impl Model {
        fn bytes(&mut self, n: u8) -> Vec<u8> {
            let next = (0..n).map(|i| self.next.wrapping_add(i)).collect();
            self.next = self.next.wrapping_add(n);
            next
        }

        /// The socket takes at most `room` bytes; what it takes is what it is owed.
        fn write(&mut self, c: usize, mut room: usize) {
            while self.slots[c].is_some() {
                let mut slices = [IoSlice::new(&[]); 2];
                let n = self.out.slices(self.slots[c].as_ref().unwrap(), &mut slices);
                let all: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
                let sent = all.len().min(room);
                assert_eq!(all[..sent], self.owed[c][..sent]);
                self.owed[c].drain(..sent);
                room -= sent;
                if self.out.written(&mut self.slots[c], sent, 1) {
                    break;
                }
                if sent < all.len() || sent == 0 {
                    return self.out.block(&mut self.slots[c], 1);
                }
            }
            assert!(self.owed[c].is_empty());
        }

        fn step(&mut self, step: &Step) {
            let key = |c: usize| ConnectionKey(c as u32);
            match *step {
                Step::Own(c, n) => {
                    let bytes = self.bytes(n);
                    self.owed[c].extend_from_slice(&bytes);
                    let range = self.out.encode(|arena| arena.extend_from_slice(&bytes));
                    self.out.push(key(c), &mut self.slots[c], range);
                }
                Step::Control(c, n) => {
                    let bytes = self.bytes(n);
                    self.owed[c].extend_from_slice(&bytes);
                    let f = |arena: &mut Vec<u8>| arena.extend_from_slice(&bytes);
                    self.out.control(key(c), &mut self.slots[c], f);
                }
                Step::All(n) => {
                    let bytes = self.bytes(n);
                    let range = self.out.encode(|arena| arena.extend_from_slice(&bytes));
                    for c in 0..CONNECTIONS {
                        self.owed[c].extend_from_slice(&bytes);
                        self.out.push(key(c), &mut self.slots[c], range);
                    }
                }
                Step::Write(c, room) => self.write(c, room),
                Step::EndTurn(room) => {
                    while let Some(key) = self.out.next_dirty() {
                        if !self.slots[key.index()].as_ref().is_some_and(|o| o.is_blocked()) {
                            self.write(key.index(), room);
                        }
                    }
                    self.out.end_turn();
                    assert_eq!(self.out.encoded(), 0);
                }
                Step::Spill => {
                    for slot in self.slots.iter_mut().flatten() {
                        self.out.spill(slot);
                    }
                    self.out.clear();
                }
                Step::Close(c) => {
                    self.out.recycle(&mut self.slots[c]);
                    self.owed[c].clear();
                }
            }
            for c in 0..CONNECTIONS {
                let queued = self.slots[c].as_ref().map_or(0, |outbox| outbox.queued());
                assert_eq!(queued, self.owed[c].len());
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn every_connection_gets_its_bytes_in_order(steps in steps()) {
            let mut model = Model::default();
            for step in &steps {
                model.step(step);
            }
            for c in 0..CONNECTIONS {
                model.write(c, usize::MAX);
            }
        }
    }
}
