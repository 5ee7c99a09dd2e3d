//! Proofs of the handshakes, over all interleavings.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib mesh`. A lost wake-up leaves a thread waiting
//! for ever, which loom reports as a deadlock. `scripts/loom_mutants.py` breaks the handshakes, one
//! line at a time, and checks that a test here fails each time; `docs/fuzzing.md` has the result.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::*;
use loom::thread;

fn pair(credit: u32) -> (Endpoint<u32>, Endpoint<u32>) {
    let mut ends = mesh(2, credit).unwrap();
    let second = ends.pop().unwrap();
    (ends.pop().unwrap(), second)
}

/// Every interleaving in which threads are preempted at most so many times.
fn bounded(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(test);
}

/// Receives batches, asleep whenever there is none, until `items` items have come.
fn receive<T: Send>(end: &Endpoint<T>, items: usize) -> Vec<(usize, T)> {
    let mut received = Vec::new();
    while received.len() < items {
        match end.receive() {
            Some(batch) => {
                received.extend(batch.items.into_iter().map(|item| (batch.from, item)));
                end.returned(batch.from, batch.cost);
            }
            None => sleep(end),
        }
    }
    received
}

fn sleep<T: Send>(end: &Endpoint<T>) {
    if end.prepare_sleep() {
        end.wait();
        end.awake();
        end.clear_wake();
    }
}

#[test]
fn no_wake_up_is_lost() {
    loom::model(|| {
        let (a, b) = pair(10);
        let sender = thread::spawn(move || {
            a.send(1, vec![1], 1);
            a.send(1, vec![2], 1);
        });
        assert_eq!(receive(&b, 2), [(0, 1), (0, 2)]);
        sender.join().unwrap();
    });
}

#[test]
fn two_senders_keep_their_order_and_wake_the_receiver() {
    bounded(3, || {
        let mut ends = mesh(2, 10).unwrap();
        let a = ends.pop().unwrap();
        let receiver = ends.pop().unwrap();
        let outside = receiver.sender();
        let sender = thread::spawn(move || {
            a.send(0, vec![10], 1);
            a.send(0, vec![11, 12], 2);
        });
        let foreign = thread::spawn(move || {
            outside.send(0, vec![20]);
            outside.send(0, vec![21]);
        });
        let received = receive(&receiver, 5);
        let of = |from| received.iter().filter(|r| r.0 == from).map(|r| r.1).collect::<Vec<_>>();
        assert_eq!(of(1), [10, 11, 12]);
        assert_eq!(of(OUTSIDE), [20, 21]);
        sender.join().unwrap();
        foreign.join().unwrap();
    });
}

/// The sender uses its credit up, and sleeps until it has some again.
#[test]
fn no_returned_credit_is_lost() {
    loom::model(|| {
        let (a, b) = pair(1);
        a.send(1, vec![1], 1);
        let receiver = thread::spawn(move || {
            let batch = b.receive().unwrap();
            b.returned(batch.from, batch.cost);
        });
        while a.credit(1) == 0 && !a.await_credit(1) {
            sleep(&a);
        }
        assert_eq!(a.credit(1), 1);
        receiver.join().unwrap();
    });
}

/// As above with the credit coming back in steps, of which the last one matters.
#[test]
fn no_credit_that_returns_in_steps_is_lost() {
    loom::model(|| {
        let (a, b) = pair(2);
        a.send(1, vec![1, 2, 3], 3);
        let receiver = thread::spawn(move || {
            b.returned(0, 1);
            b.returned(0, 1);
            b.returned(0, 1);
        });
        while a.credit(1) == 0 && !a.await_credit(1) {
            sleep(&a);
        }
        assert!(a.credit(1) > 0);
        receiver.join().unwrap();
    });
}

/// The sender asks anew, having sent more, while the receiver answers what it asked before.
#[test]
fn asking_again_while_credit_returns_loses_nothing() {
    bounded(4, || {
        let (a, b) = pair(1);
        a.send(1, vec![1], 1);
        assert!(!a.await_credit(1));
        let receiver = thread::spawn(move || {
            assert_eq!(receive(&b, 2), [(0, 1), (0, 2)]);
        });
        a.send(1, vec![2], 1);
        while a.credit(1) == 0 && !a.await_credit(1) {
            sleep(&a);
        }
        assert_eq!(a.credit(1), 1);
        receiver.join().unwrap();
    });
}

/// Both sleep and wake each other, with credit for one item.
#[test]
fn a_sleeping_pair_gets_everything_through() {
    bounded(3, || {
        let (a, b) = pair(1);
        let receiver = thread::spawn(move || {
            assert_eq!(receive(&b, 2), [(0, 1), (0, 2)]);
        });
        for item in 1..=2 {
            while a.credit(1) == 0 && !a.await_credit(1) {
                sleep(&a);
            }
            a.send(1, vec![item], 1);
        }
        receiver.join().unwrap();
    });
}

/// What a shard does at the end of a turn and until the next one begins, in the order of
/// `shard/turn.rs` and its `watch_mailbox`: take the mail in, send, give credit back, announce
/// sleep or ask for another turn; then wait, clear the signal, and only then take the announcement
/// back.
struct Turns<'a, T> {
    end: &'a Endpoint<T>,
    received: Vec<T>,
    /// Sleeps that something else ends, a timer or a socket: the signal is not cleared then.
    other_events: u32,
}

impl<'a, T: Send> Turns<'a, T> {
    fn of(end: &'a Endpoint<T>) -> Self {
        Self { end, received: Vec::new(), other_events: 0 }
    }

    /// Ends turns until `is_done` says so after one. It is asked once the mail is in, and sends.
    fn run(&mut self, mut is_done: impl FnMut(&Endpoint<T>, &[T]) -> bool) {
        loop {
            let mut owed = Vec::new();
            while let Some(batch) = self.end.receive() {
                self.received.extend(batch.items);
                owed.push((batch.from, batch.cost));
            }
            // The flag alone says nothing: `send_mail` looks at the credit itself.
            self.end.take_credit_returned();
            let is_done = is_done(self.end, &self.received);
            for (from, cost) in owed {
                self.end.returned(from, cost);
            }
            if is_done {
                return;
            }
            self.until_next();
        }
    }

    fn until_next(&mut self) {
        let asleep = self.end.prepare_sleep();
        if !asleep {
            self.end.go_on();
        }
        if asleep && self.other_events > 0 {
            self.other_events -= 1;
        } else {
            self.end.wait();
            self.end.clear_wake();
        }
        if asleep {
            self.end.awake();
        }
    }
}

/// As `send_mail` asks of a broker that is starved.
fn has_credit<T: Send>(end: &Endpoint<T>, mut to: std::ops::Range<usize>) -> bool {
    to.all(|to| end.has_ample_credit(to) || end.await_credit(to))
}

/// With a limit of four, one unit is the reserve. Who waits has it and waits for more, so that the
/// first unit that returns matters, although the credit does not come out of nothing.
#[test]
fn no_wake_up_for_more_than_the_reserve_is_lost() {
    loom::model(|| {
        let (a, b) = pair(4);
        assert_eq!(a.reserve(), 1);
        a.send(1, vec![1, 2, 3], 3);
        let receiver = thread::spawn(move || b.returned(0, 1));
        while !has_credit(&a, 1..2) {
            sleep(&a);
        }
        assert_eq!(a.credit(1), 2);
        receiver.join().unwrap();
    });
}

/// The first unit that returns is the reserve alone, the second one matters, and there is no third.
#[test]
fn who_waits_for_more_than_the_reserve_is_woken_by_the_unit_that_makes_it_more() {
    bounded(4, || {
        let (a, b) = pair(4);
        a.send(1, vec![1, 2, 3, 4], 4);
        let receiver = thread::spawn(move || {
            b.returned(0, 1);
            b.returned(0, 1);
        });
        Turns::of(&a).run(|a, _| has_credit(a, 1..2));
        assert_eq!(a.credit(1), 2);
        receiver.join().unwrap();
    });
}

/// A shard that sends whenever there is more than the reserve, and one that takes it in.
#[test]
fn a_flood_that_leaves_the_reserve_gets_through() {
    bounded(3, || {
        let (a, b) = pair(4);
        let receiver = thread::spawn(move || {
            let mut turns = Turns::of(&b);
            turns.run(|_, received| received.len() == 5);
            assert_eq!(turns.received, [5, 4, 3, 2, 1]);
        });
        let mut left = 5;
        Turns::of(&a).run(|a, _| {
            while left > 0 && has_credit(a, 1..2) {
                a.send(1, vec![left], 1);
                left -= 1;
            }
            left == 0
        });
        receiver.join().unwrap();
    });
}

/// Batches that come while the shard ends its turn, falls asleep or wakes up.
#[test]
fn a_shard_between_turns_misses_no_mail() {
    misses_no_mail(0);
}

/// A timer ends the first sleep, so that the signal may be raised with nobody asleep, and be found
/// raised when there is nothing to do.
#[test]
fn a_sleep_that_a_timer_ends_misses_no_mail() {
    misses_no_mail(1);
}

fn misses_no_mail(other_events: u32) {
    bounded(4, move || {
        let (a, b) = pair(10);
        let sender = thread::spawn(move || {
            a.send(1, vec![1], 1);
            a.send(1, vec![2], 1);
        });
        let mut turns = Turns::of(&b);
        turns.other_events = other_events;
        turns.run(|_, received| received.len() == 2);
        assert_eq!(turns.received, [1, 2]);
        sender.join().unwrap();
    });
}

/// Mail of an outsider and credit of another shard come at once, and each ends the sleep or is
/// seen before it: neither takes the other's wake-up.
#[test]
fn mail_and_credit_that_come_at_once_are_both_seen() {
    bounded(3, || {
        let (a, b) = pair(1);
        let outside = a.sender();
        a.send(1, vec![1], 1);
        let receiver = thread::spawn(move || b.returned(0, 1));
        let foreign = thread::spawn(move || outside.send(0, vec![2]));
        Turns::of(&a).run(|a, received| has_credit(a, 1..2) && received == [2]);
        receiver.join().unwrap();
        foreign.join().unwrap();
    });
}

/// A publisher without credit towards two shards asks one of them after the other.
#[test]
fn credit_of_two_shards_is_awaited_in_turn() {
    bounded(4, || {
        let mut ends = mesh::<u32>(3, 1).unwrap();
        let (c, b, a) = (ends.pop().unwrap(), ends.pop().unwrap(), ends.pop().unwrap());
        a.send(1, vec![1], 1);
        a.send(2, vec![1], 1);
        let others =
            [thread::spawn(move || b.returned(0, 1)), thread::spawn(move || c.returned(0, 1))];
        Turns::of(&a).run(|a, _| has_credit(a, 1..3));
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

/// Two shards send to a third with credit for one item each, all three as shards do.
#[test]
fn two_starved_senders_get_everything_through() {
    bounded(2, || {
        let mut ends = mesh(3, 1).unwrap();
        let receiver = ends.remove(0);
        let senders = ends.into_iter().map(|end| {
            thread::spawn(move || {
                let mut left = 2;
                Turns::of(&end).run(|end, _| {
                    while left > 0 && has_credit(end, 0..1) {
                        end.send(0, vec![end.id()], 1);
                        left -= 1;
                    }
                    left == 0
                });
            })
        });
        let senders: Vec<_> = senders.collect();
        let mut turns = Turns::of(&receiver);
        turns.run(|_, received| received.len() == 4);
        turns.received.sort_unstable();
        assert_eq!(turns.received, [1, 1, 2, 2]);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

/// Two shards send to each other with credit for one item, so that each has to take mail in while
/// it waits for credit.
#[test]
fn two_shards_that_starve_each_other_get_everything_through() {
    get_everything_through(3, [2, 2]);
}

/// Only one of them waits for credit, so that there is time for one more preemption.
#[test]
fn a_starved_shard_and_one_that_is_not_get_everything_through() {
    get_everything_through(4, [2, 1]);
}

/// Each of two shards sends so many items to the other.
fn get_everything_through(preemptions: usize, items: [u32; 2]) {
    bounded(preemptions, move || {
        let (a, b) = pair(1);
        let run = move |end: Endpoint<u32>, to: usize| {
            let [mut left, theirs] = if to == 1 { items } else { [items[1], items[0]] };
            let mut turns = Turns::of(&end);
            turns.run(|end, received| {
                while left > 0 && has_credit(end, to..to + 1) {
                    end.send(to, vec![left], 1);
                    left -= 1;
                }
                left == 0 && received.len() == theirs as usize
            });
            assert!(turns.received.iter().copied().eq((1..=theirs).rev()));
        };
        let other = thread::spawn(move || run(b, 0));
        run(a, 1);
        other.join().unwrap();
    });
}
