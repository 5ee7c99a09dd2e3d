//! Connections on which messages flow all the time. They wait in an epoll set, not each on the ring.
//!
//! To wait on the ring is best for a client that is silent: it costs the least memory. But a poll is armed
//! for each read, the ring names some 20 connections at a time, and each is read by a task of its own. A
//! set is told of a connection once and names many at a time, and all are read in one go.
//!
//! And they can be heard before others: when a fleet comes, goes or subscribes, its packets stand before
//! everybody else's on the ring, and a message that comes now would wait behind all of them. So a shard
//! that has read many others looks at the set before its turn ends.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsFd, BorrowedFd},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use hashbrown::HashTable;
use rustix::event::{
    Timespec,
    epoll::{self, Event, EventData, EventFlags},
};

use super::{Shard, connection::Step, renewal::Task};
use crate::{broker::ConnectionKey, limits, stats::ShardStats, transport::Socket};

/// The regulars of one shard, and those that may become one.
pub(super) struct Regulars {
    known: HashTable<Regular>,
    /// Where those in the set are counted.
    stats: Arc<ShardStats>,
    /// Waited for on the ring, and not closed before the event loop.
    set: Rc<Socket>,
    events: Vec<Event>,
    /// Reads of others since the last turn.
    strangers: usize,
    /// When those who have fallen silent are looked for next, in milliseconds of the shard's clock.
    next_look: u64,
    /// Those that go on in the next turn with bytes that were read here.
    left: Vec<ConnectionKey>,
}

#[derive(Debug)]
struct Regular {
    key: u32,
    /// When a message last flowed on it, in milliseconds of the shard's clock.
    heard: u64,
    place: Place,
}

/// Where a connection is waited for.
#[derive(Debug)]
enum Place {
    /// On the ring: a message has flowed once.
    Ring,
    /// Still on the ring, for the last time.
    Candidate,
    /// In the set. Its task sleeps until it is to go on by itself.
    Set(Waker, WaitsFor),
    /// In the set no more; its task is woken, and does this.
    Leaving(Step),
}

/// What a connection in the set goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    /// Bytes from the client.
    Bytes,
    /// The next turn, with bytes that were read.
    Turn,
    /// The broker, with bytes that were read.
    Broker,
}

/// Slots of connections are numbered one after the other by the broker itself.
fn hash(key: u32) -> u64 {
    u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Regulars {
    /// None yet.
    ///
    /// # Errors
    /// When the kernel refuses the set, for want of descriptors or memory.
    pub fn new(stats: Arc<ShardStats>) -> io::Result<Self> {
        Ok(Self {
            known: HashTable::new(),
            stats,
            set: Rc::new(Socket::new(epoll::create(epoll::CreateFlags::CLOEXEC)?)?),
            events: Vec::new(),
            strangers: 0,
            next_look: 0,
            left: Vec::new(),
        })
    }

    /// A connection is read from; unless it is [met](Self::meet) and known, it is a stranger.
    pub fn count_read(&mut self) {
        self.strangers += 1;
    }

    /// Messages flow on a connection; `age` says for how many seconds it has been open.
    pub fn meet(&mut self, key: ConnectionKey, now: u64, age: impl FnOnce() -> u64) {
        if let Some(regular) = self.get(key) {
            regular.heard = now;
            if matches!(regular.place, Place::Ring) {
                regular.place = Place::Candidate;
            }
            self.strangers = self.strangers.saturating_sub(1);
        } else if self.known.len() < limits::MAX_REGULARS && age() >= limits::REGULAR_AFTER {
            let regular = Regular { key: key.0, heard: now, place: Place::Ring };
            self.known.insert_unique(hash(key.0), regular, |regular| hash(regular.key));
        }
    }

    /// Whether a connection is to wait in the set from now on.
    pub fn has_candidate(&mut self, key: ConnectionKey) -> bool {
        self.get(key).is_some_and(|regular| matches!(regular.place, Place::Candidate))
    }

    /// A connection is gone, or its task goes on by itself.
    pub fn forget(&mut self, key: ConnectionKey) {
        if let Ok(regular) = self.known.find_entry(hash(key.0), |regular| regular.key == key.0) {
            regular.remove();
        }
    }

    /// Gives back the memory of those that there were.
    pub fn shrink(&mut self) {
        self.known.shrink_to_fit(|regular| hash(regular.key));
        self.left.shrink_to_fit();
        self.events = Vec::new();
    }

    /// Whether some go on in the next turn.
    pub fn goes_on(&self) -> bool {
        !self.left.is_empty()
    }

    /// A connection that was not to be read from may go on.
    pub fn resume(&mut self, key: ConnectionKey) {
        if let Some(waits_for @ WaitsFor::Broker) = self.member(key) {
            *waits_for = WaitsFor::Turn;
            self.left.push(key);
        }
    }

    fn get(&mut self, key: ConnectionKey) -> Option<&mut Regular> {
        self.known.find_mut(hash(key.0), |regular| regular.key == key.0)
    }

    /// What a connection waits for, if it is in the set.
    fn member(&mut self, key: ConnectionKey) -> Option<&mut WaitsFor> {
        match &mut self.get(key)?.place {
            Place::Set(_, waits_for) => Some(waits_for),
            _ => None,
        }
    }

    /// Polls the wait of a connection that is, or is to be, in the set.
    fn poll(
        &mut self,
        cx: &Context<'_>,
        key: ConnectionKey,
        descriptor: BorrowedFd<'_>,
    ) -> Poll<Step> {
        let set = Rc::clone(&self.set);
        // It was forgotten: nobody else can have its place yet, for that takes some time.
        let Some(regular) = self.get(key) else { return Poll::Ready(Step::Gone) };
        let step = match &mut regular.place {
            Place::Set(waker, _) => {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            Place::Candidate => {
                let data = EventData::new_u64(key.0.into());
                if epoll::add(set.as_fd(), descriptor, data, INTEREST).is_ok() {
                    regular.place = Place::Set(cx.waker().clone(), WaitsFor::Bytes);
                    self.stats.connections_regular.add(1);
                    return Poll::Pending;
                }
                Step::Read
            }
            Place::Ring => Step::Read,
            Place::Leaving(step) => *step,
        };
        self.forget(key);
        Poll::Ready(step)
    }

    /// Has a connection's task go on by itself, with this.
    fn dismiss(&mut self, key: ConnectionKey, descriptor: BorrowedFd<'_>, step: Step) {
        let Some(regular) = self.get(key) else { return };
        let Place::Set(waker, _) = &regular.place else { return };
        waker.wake_by_ref();
        regular.place = Place::Leaving(step);
        self.stats.connections_regular.sub(1);
        // It is in the set for as long as it is a member.
        let _ = epoll::delete(self.set.as_fd(), descriptor);
    }

    /// Ends a turn. Says whether the set is to be looked at.
    fn is_due(&mut self) -> bool {
        let strangers = std::mem::take(&mut self.strangers);
        strangers >= limits::STRANGERS_OF_A_BUSY_TURN && self.stats.connections_regular.get() > 0
    }

    /// Forgets those that have become silent; gives those in the set, which are to be dismissed. Does so
    /// once in a while.
    fn take_silent(&mut self, now: u64) -> Vec<ConnectionKey> {
        let mut members = Vec::new();
        if self.known.is_empty() || now < self.next_look {
            return members;
        }
        let silent_for = limits::REGULAR_FOR.as_millis() as u64;
        self.next_look = now + silent_for / 8;
        self.known.retain(|regular| {
            let is_silent = regular.heard + silent_for < now;
            match regular.place {
                Place::Ring => !is_silent,
                Place::Set(_, WaitsFor::Bytes) if is_silent => {
                    members.push(ConnectionKey(regular.key));
                    true
                }
                _ => true,
            }
        });
        members
    }

    /// Takes from the set what it names.
    fn take_events(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        events.reserve_exact(limits::REGULARS_OF_A_LOOK);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let room = rustix::buffer::spare_capacity(&mut events);
        // It is interrupted at the most, and then the ring tells again.
        let _ = epoll::wait(self.set.as_fd(), room, Some(&at_once));
        events
    }
}

/// Each time that something comes, and when the client ends the stream.
const INTEREST: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

impl Shard {
    /// Reads what regulars have to say when the ring names their set.
    pub(super) async fn watch_regulars(self: Rc<Self>) {
        let task = Task::new(&self);
        let set = Rc::clone(&self.regulars.borrow().set);
        while let Some(Ok(())) = task.or_end(set.readable()).await {
            self.touch();
            self.hear_set();
        }
    }

    /// Goes on with what regulars have left, and reads what they have to say, if the turn has read many
    /// others.
    pub(super) fn hear_regulars(self: &Rc<Self>) {
        let left = std::mem::take(&mut self.regulars.borrow_mut().left);
        for key in left {
            if let Some(waits_for @ WaitsFor::Turn) = self.regulars.borrow_mut().member(key) {
                *waits_for = WaitsFor::Bytes;
            } else {
                continue;
            }
            let step = self.handle_kept(key, self.take_unread(key));
            // What has come meanwhile is not told of again.
            self.go_on_later(key, step.and_read_on(true));
        }
        if self.regulars.borrow_mut().is_due() {
            let heard = self.hear_set();
            self.stats.reads_ahead.add(heard);
        }
    }

    /// Reads from those in the set that have something to say. Says how many.
    fn hear_set(self: &Rc<Self>) -> u64 {
        let events = self.regulars.borrow_mut().take_events();
        let mut heard = 0;
        for event in &events {
            let (key, flags) = (ConnectionKey(event.data.u64() as u32), event.flags);
            let Some((descriptor, _)) = self.descriptor(key) else { continue };
            // What was read of a connection is handled before more is.
            if let Some(WaitsFor::Bytes) = self.regulars.borrow_mut().member(key) {
                heard += 1;
            } else {
                continue;
            }
            let step = self.read(key, descriptor);
            // With another flag, the stream ends behind what came.
            self.go_on_later(key, step.and_read_on(flags != EventFlags::IN));
        }
        self.regulars.borrow_mut().events = events;
        heard
    }

    /// Notes what remains to be done with a connection in the set.
    fn go_on_later(&self, key: ConnectionKey, step: Step) {
        if step == Step::Read {
            return;
        }
        let Some((descriptor, _)) = self.descriptor(key) else { return };
        let mut regulars = self.regulars.borrow_mut();
        let waits_for = match step {
            Step::ReadOn => {
                // Asked about again, the set looks whether there is something.
                let data = EventData::new_u64(key.0.into());
                if epoll::modify(regulars.set.as_fd(), descriptor, data, INTEREST).is_err() {
                    regulars.dismiss(key, descriptor, step);
                }
                return;
            }
            // It may have been told to go on already: a turn that produces much ends before this.
            Step::Pause if self.broker.borrow().is_paused(key) => WaitsFor::Broker,
            Step::Yield | Step::Pause => WaitsFor::Turn,
            // Here and now, before what others have sent since.
            Step::Close(reason) => {
                regulars.dismiss(key, descriptor, Step::Gone);
                drop(regulars);
                return self.closed(key, reason);
            }
            step => return regulars.dismiss(key, descriptor, step),
        };
        if let Some(now) = regulars.member(key) {
            *now = waits_for;
        }
        if waits_for == WaitsFor::Turn {
            regulars.left.push(key);
        }
    }

    /// Has those wait on the ring again that have become silent.
    pub(super) fn dismiss_silent_regulars(&self) {
        let silent = self.regulars.borrow_mut().take_silent(self.now().monotonic);
        for key in silent {
            if let Some((descriptor, _)) = self.descriptor(key) {
                self.regulars.borrow_mut().dismiss(key, descriptor, Step::Read);
            }
        }
    }

    /// Waits in the set for as long as a connection is there, and says how it goes on.
    pub(super) async fn wait_in_set(&self, key: ConnectionKey, descriptor: BorrowedFd<'_>) -> Step {
        poll_fn(|cx| self.regulars.borrow_mut().poll(cx, key, descriptor)).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs::File, io::Write, ops::ControlFlow, os::unix::net::UnixStream};

    use super::*;
    use crate::shard::DriverKind;

    const KEY: ConnectionKey = ConnectionKey(1);

    fn old() -> u64 {
        limits::REGULAR_AFTER
    }

    /// Runs a test in an event loop, without which there are no sockets.
    fn with_regulars(test: impl FnOnce(Regulars)) {
        let mut test = Some(test);
        let life = async || {
            let test = test.take().unwrap();
            test(Regulars::new(Arc::default()).unwrap());
            ControlFlow::Break(())
        };
        DriverKind::Epoll.run(life).unwrap();
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    /// Makes a connection a candidate.
    fn introduce(regulars: &mut Regulars, key: ConnectionKey) {
        (0..2).for_each(|_| regulars.meet(key, 0, old));
    }

    /// The keys and flags that the set names.
    fn events(regulars: &mut Regulars) -> Vec<(u64, EventFlags)> {
        regulars.take_events().iter().map(|event| (event.data.u64(), event.flags)).collect()
    }

    #[test]
    fn the_second_message_on_a_connection_that_is_not_new_makes_it_a_candidate() {
        with_regulars(|mut regulars| {
            (0..2).for_each(|_| regulars.meet(KEY, 0, || old() - 1));
            assert!(regulars.known.is_empty());
            regulars.meet(KEY, 0, old);
            assert!(!regulars.has_candidate(KEY));
            regulars.meet(KEY, 5_000, || unreachable!("it is known"));
            assert!(regulars.has_candidate(KEY));
        });
    }

    #[test]
    fn the_silent_are_forgotten_or_dismissed() {
        with_regulars(|mut regulars| {
            let (mut client, socket) = UnixStream::pair().unwrap();
            regulars.meet(ConnectionKey(2), 5_000, old);
            introduce(&mut regulars, KEY);
            regulars.meet(KEY, 5_000, old);
            assert!(regulars.poll(&cx(), KEY, socket.as_fd()).is_pending());
            let at = 5_000 + limits::REGULAR_FOR.as_millis() as u64;
            assert!(regulars.take_silent(at).is_empty());
            assert_eq!(regulars.known.len(), 2);
            let later = at + limits::REGULAR_FOR.as_millis() as u64;
            // Who has something left to do is not to be dismissed before.
            *regulars.member(KEY).unwrap() = WaitsFor::Broker;
            assert!(regulars.take_silent(later).is_empty());
            assert_eq!(regulars.known.len(), 1, "the one on the ring");
            *regulars.member(KEY).unwrap() = WaitsFor::Bytes;
            assert!(regulars.take_silent(later).is_empty(), "it looks once in a while");
            assert_eq!(regulars.take_silent(2 * later), [KEY]);
            regulars.dismiss(KEY, socket.as_fd(), Step::Yield);
            client.write_all(b"x").unwrap();
            assert!(events(&mut regulars).is_empty(), "the ring tells of that");
            assert_eq!(regulars.poll(&cx(), KEY, socket.as_fd()), Poll::Ready(Step::Yield));
            assert!(regulars.known.is_empty());
        });
    }

    #[test]
    fn no_more_are_known_than_may_be() {
        with_regulars(|mut regulars| {
            let max = limits::MAX_REGULARS as u32;
            (0..2 * max).for_each(|n| regulars.meet(ConnectionKey(n), 0, old));
            assert_eq!(regulars.known.len(), limits::MAX_REGULARS);
            regulars.forget(ConnectionKey(0));
            regulars.meet(ConnectionKey(u32::MAX), 0, old);
            assert_eq!(regulars.known.len(), limits::MAX_REGULARS);
        });
    }

    #[test]
    fn they_are_heard_first_after_busy_turns() {
        with_regulars(|mut regulars| {
            let busy = limits::STRANGERS_OF_A_BUSY_TURN;
            let turn = |regulars: &mut Regulars, reads| {
                (0..reads).for_each(|_| regulars.count_read());
                regulars.is_due()
            };
            assert!(!turn(&mut regulars, busy), "nobody is known");
            let (_client, socket) = UnixStream::pair().unwrap();
            introduce(&mut regulars, KEY);
            assert!(regulars.poll(&cx(), KEY, socket.as_fd()).is_pending());
            assert!(!turn(&mut regulars, busy - 1));
            assert!(!turn(&mut regulars, 1), "each turn counts for itself");
            assert!(turn(&mut regulars, busy));
            (0..busy).for_each(|_| regulars.count_read());
            regulars.meet(KEY, 0, old);
            assert!(!turn(&mut regulars, 0), "one of them is known");
        });
    }

    #[test]
    fn the_set_tells_once_of_what_comes_and_of_what_was_there() {
        with_regulars(|mut regulars| {
            let (mut client, socket) = UnixStream::pair().unwrap();
            client.write_all(b"x").unwrap();
            introduce(&mut regulars, KEY);
            assert!(regulars.poll(&cx(), KEY, socket.as_fd()).is_pending());
            assert_eq!(regulars.stats.connections_regular.get(), 1);
            assert!(!regulars.has_candidate(KEY));
            assert_eq!(events(&mut regulars), [(1, EventFlags::IN)]);
            assert!(events(&mut regulars).is_empty());
            client.write_all(b"x").unwrap();
            assert_eq!(events(&mut regulars), [(1, EventFlags::IN)]);
            drop(client);
            let [(1, flags)] = events(&mut regulars)[..] else { panic!("it has ended") };
            assert!(flags.contains(EventFlags::RDHUP));
            regulars.dismiss(KEY, socket.as_fd(), Step::Yield);
            assert_eq!(regulars.stats.connections_regular.get(), 0);
            assert_eq!(regulars.poll(&cx(), KEY, socket.as_fd()), Poll::Ready(Step::Yield));
        });
    }

    #[test]
    fn what_the_set_refuses_waits_on_the_ring() {
        with_regulars(|mut regulars| {
            introduce(&mut regulars, KEY);
            let file = File::open("/proc/self/exe").unwrap();
            assert_eq!(regulars.poll(&cx(), KEY, file.as_fd()), Poll::Ready(Step::Read));
            assert_eq!(regulars.stats.connections_regular.get(), 0);
            assert!(regulars.known.is_empty());
        });
    }

    #[test]
    fn who_was_paused_goes_on_once() {
        with_regulars(|mut regulars| {
            let (_client, socket) = UnixStream::pair().unwrap();
            regulars.resume(KEY);
            introduce(&mut regulars, KEY);
            assert!(regulars.poll(&cx(), KEY, socket.as_fd()).is_pending());
            regulars.resume(KEY);
            assert!(!regulars.goes_on(), "it was not paused");
            *regulars.member(KEY).unwrap() = WaitsFor::Broker;
            regulars.resume(KEY);
            regulars.resume(KEY);
            assert_eq!(regulars.left, [KEY]);
            *regulars.member(KEY).unwrap() = WaitsFor::Broker;
            regulars.dismiss(KEY, socket.as_fd(), Step::Yield);
            regulars.resume(KEY);
            assert_eq!(regulars.left, [KEY], "its task sees to that");
            assert_eq!(regulars.poll(&cx(), KEY, socket.as_fd()), Poll::Ready(Step::Yield));
        });
    }
}
