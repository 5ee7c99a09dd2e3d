//! Connections on which messages have flowed for some time, and which are heard first while the shard
//! has more to read than it can in a moment.
//!
//! The ring names some 20 connections at a time, in the order in which something happened there: when a
//! fleet comes, goes or subscribes, its packets stand before everybody else's, and a message that
//! comes now waits behind all of them. So a shard that reads many others asks its regulars now and then, with one system
//! call for all, which of them have something to say, and reads it at once. The ring's own event for
//! them then finds nothing, or what has come since.

use std::rc::Rc;

use hashbrown::HashTable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Shard, connection::Step};
use crate::{broker::ConnectionKey, limits};

/// The regulars of one shard.
#[derive(Debug, Default)]
pub(super) struct Regulars {
    known: HashTable<Regular>,
    /// Reads of others since the last turn.
    strangers: usize,
    /// When they are asked again at the earliest, in milliseconds of the shard's clock.
    next: u64,
    /// Those that go on in the next turn with bytes that were read here.
    left: Vec<ConnectionKey>,
    /// Those that do so when the broker says so.
    paused: HashTable<u32>,
}

#[derive(Debug)]
struct Regular {
    key: u32,
    /// When a message last flowed on it, in milliseconds of the shard's clock.
    heard: u64,
}

/// Slots of connections are numbered one after the other by the broker itself.
fn hash(key: u32) -> u64 {
    u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Regulars {
    /// A connection is read from; unless it is [met](Self::meet) and known, it is a stranger.
    pub fn count_read(&mut self) {
        self.strangers += 1;
    }

    /// Messages flow on a connection; `age` says for how many seconds it has been open.
    pub fn meet(&mut self, key: ConnectionKey, now: u64, age: impl FnOnce() -> u64) {
        let known = self.known.find_mut(hash(key.0), |regular| regular.key == key.0);
        if let Some(regular) = known {
            regular.heard = now;
            self.strangers = self.strangers.saturating_sub(1);
        } else if self.known.len() < limits::MAX_REGULARS && age() >= limits::REGULAR_AFTER {
            let regular = Regular { key: key.0, heard: now };
            self.known.insert_unique(hash(key.0), regular, |regular| hash(regular.key));
        }
    }

    /// A connection is gone.
    pub fn forget(&mut self, key: ConnectionKey) {
        if let Ok(regular) = self.known.find_entry(hash(key.0), |regular| regular.key == key.0) {
            regular.remove();
        }
        self.take_paused(key);
    }

    /// Whether some go on in the next turn.
    pub fn goes_on(&self) -> bool {
        !self.left.is_empty()
    }

    /// A connection that was not to be read from may go on.
    pub fn resume(&mut self, key: ConnectionKey) {
        if self.take_paused(key) {
            self.left.push(key);
        }
    }

    fn pause(&mut self, key: ConnectionKey) {
        self.take_paused(key);
        self.paused.insert_unique(hash(key.0), key.0, |key| hash(*key));
    }

    fn take_paused(&mut self, key: ConnectionKey) -> bool {
        let paused = self.paused.find_entry(hash(key.0), |paused| *paused == key.0);
        paused.map(|paused| paused.remove()).is_ok()
    }

    /// Ends a turn. Says whether they are to be asked now.
    fn is_due(&mut self, now: u64) -> bool {
        let strangers = std::mem::take(&mut self.strangers);
        let is_due = strangers >= limits::STRANGERS_OF_A_BUSY_TURN
            && !self.known.is_empty()
            && now >= self.next;
        if is_due {
            let pause = limits::PAUSE_PER_REGULAR * self.known.len() as u32;
            self.next = now + (pause.as_millis() as u64).max(1);
        }
        is_due
    }

    /// Forgets those that have become silent.
    fn forget_silent(&mut self, now: u64) {
        let since = now.saturating_sub(limits::REGULAR_FOR.as_millis() as u64);
        self.known.retain(|regular| regular.heard >= since);
    }
}

impl Shard {
    /// Reads what regulars have to say, if the turn has read many others, and goes on with what was
    /// left.
    pub(super) fn hear_regulars(self: &Rc<Self>) {
        let left = std::mem::take(&mut self.regulars.borrow_mut().left);
        for key in left {
            let step = self.handle_kept(key, self.take_unread(key));
            self.go_on_later(key, &step);
        }
        if !self.regulars.borrow_mut().is_due(self.now().monotonic) {
            return;
        }
        for key in self.ready_regulars() {
            let Some((descriptor, _)) = self.descriptor(key) else { continue };
            self.stats.reads_ahead.add(1);
            let step = self.read(key, descriptor);
            self.go_on_later(key, &step);
        }
    }

    /// The regulars that have something to say.
    fn ready_regulars(&self) -> Vec<ConnectionKey> {
        let mut regulars = self.regulars.borrow_mut();
        regulars.forget_silent(self.now().monotonic);
        let (broker, unread) = (self.broker.borrow(), self.unread.borrow());
        // What was read of a connection is handled before more is.
        let is_read_from =
            |key: &ConnectionKey| !broker.is_paused(*key) && !unread.contains_key(&key.0);
        let (keys, mut descriptors): (Vec<_>, Vec<_>) = regulars
            .known
            .iter()
            .map(|regular| ConnectionKey(regular.key))
            .filter(is_read_from)
            .filter_map(|key| {
                let (descriptor, _) = self.descriptor(key)?;
                Some((key, PollFd::from_borrowed_fd(descriptor, PollFlags::IN)))
            })
            .unzip();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut descriptors, Some(&at_once)).is_err() {
            return Vec::new();
        }
        // What has ended is its task's business, which waits for the ring.
        let is_ready = |polled: &PollFd<'_>| polled.revents() == PollFlags::IN;
        let ready = keys.into_iter().zip(&descriptors).filter(|(_, polled)| is_ready(polled));
        ready.map(|(key, _)| key).collect()
    }

    /// Notes what remains to be done with bytes that were read for a connection whose task knows
    /// nothing of it.
    fn go_on_later(&self, key: ConnectionKey, step: &Step) {
        let mut regulars = self.regulars.borrow_mut();
        match step {
            Step::Yield => regulars.left.push(key),
            // It may have been told to go on already: a turn that produces much ends before this.
            Step::Pause if !self.broker.borrow().is_paused(key) => regulars.left.push(key),
            Step::Pause => regulars.pause(key),
            // The ring tells the task of the end of a stream, too.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ConnectionKey = ConnectionKey(1);

    fn old() -> u64 {
        limits::REGULAR_AFTER
    }

    #[test]
    fn a_connection_is_known_that_has_been_open_for_some_time_and_until_it_is_silent() {
        let mut regulars = Regulars::default();
        regulars.meet(KEY, 0, || old() - 1);
        assert!(regulars.known.is_empty());
        regulars.meet(KEY, 0, old);
        regulars.meet(KEY, 5_000, || unreachable!("it is known"));
        let silent_for = limits::REGULAR_FOR.as_millis() as u64;
        regulars.forget_silent(5_000 + silent_for);
        assert_eq!(regulars.known.len(), 1);
        regulars.forget_silent(5_001 + silent_for);
        assert!(regulars.known.is_empty());
    }

    #[test]
    fn no_more_are_known_than_may_be() {
        let mut regulars = Regulars::default();
        (0..2 * limits::MAX_REGULARS as u32).for_each(|n| regulars.meet(ConnectionKey(n), 0, old));
        assert_eq!(regulars.known.len(), limits::MAX_REGULARS);
        regulars.forget(ConnectionKey(0));
        regulars.meet(ConnectionKey(u32::MAX), 0, old);
        assert_eq!(regulars.known.len(), limits::MAX_REGULARS);
    }

    #[test]
    fn they_are_asked_after_busy_turns_and_not_too_often() {
        let mut regulars = Regulars::default();
        let turn = |regulars: &mut Regulars, reads, at| {
            (0..reads).for_each(|_| regulars.count_read());
            regulars.is_due(at)
        };
        let busy = limits::STRANGERS_OF_A_BUSY_TURN;
        assert!(!turn(&mut regulars, busy, 0), "nobody is known");
        (0..1_000).for_each(|n| regulars.meet(ConnectionKey(n), 0, old));
        assert!(!turn(&mut regulars, busy - 1, 0));
        assert!(!turn(&mut regulars, 1, 0), "each turn counts for itself");
        assert!(turn(&mut regulars, busy, 0));
        assert!(!turn(&mut regulars, busy, 4), "a thousand are asked every 5 ms");
        assert!(turn(&mut regulars, busy, 5));
        (0..busy).for_each(|_| regulars.count_read());
        regulars.meet(KEY, 0, old);
        assert!(!turn(&mut regulars, 0, 10), "one of them is known");
    }

    #[test]
    fn who_was_paused_goes_on_once() {
        let mut regulars = Regulars::default();
        regulars.meet(KEY, 0, old);
        regulars.pause(KEY);
        regulars.resume(KEY);
        regulars.resume(KEY);
        assert_eq!(regulars.left, [KEY]);
        regulars.pause(KEY);
        regulars.forget(KEY);
        regulars.resume(KEY);
        assert_eq!(regulars.left, [KEY], "it is gone");
    }
}
