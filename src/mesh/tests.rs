//! Tests of the mailboxes with real threads and eventfds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::*;
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::thread;

/// Far longer than any test takes: reached only when a wake-up was lost.
const LOST: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

fn pair(credit: u32) -> (Endpoint<u64>, Endpoint<u64>) {
    let mut ends = mesh(2, credit).unwrap();
    let second = ends.pop().unwrap();
    (ends.pop().unwrap(), second)
}

fn readable<T: Send>(end: &Endpoint<T>, timeout: Timespec) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(end.wake_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).unwrap() == 1
}

/// Sleeps until something is to be done, as a shard does.
fn sleep<T: Send>(end: &Endpoint<T>) {
    if end.prepare_sleep() {
        assert!(readable(end, LOST), "a wake-up was lost");
        end.awake();
        end.clear_wake();
    }
}

#[test]
fn a_batch_arrives_as_it_was_sent() {
    let (a, b) = pair(10);
    assert_eq!((a.id(), b.id(), a.shards()), (0, 1, 2));
    assert!(b.is_empty());
    a.send(1, vec![1, 2, 3], 2);
    b.sender().send(1, vec![4]);
    b.send(1, vec![5], 1);
    assert!(a.is_empty() && !b.is_empty());
    let batches: Vec<_> = std::iter::from_fn(|| b.receive()).collect();
    assert_eq!(
        batches.into_iter().map(|batch| (batch.from, batch.items, batch.cost)).collect::<Vec<_>>(),
        [(0, vec![1, 2, 3], 2), (OUTSIDE, vec![4], 0), (1, vec![5], 1)]
    );
    assert!(b.is_empty());
}

#[test]
fn an_empty_batch_is_not_sent() {
    let (a, b) = pair(10);
    a.send(1, Vec::new(), 3);
    a.sender().send(1, Vec::new());
    assert!(b.receive().is_none());
    assert_eq!(a.credit(1), 10);
}

#[test]
fn only_a_sleeping_receiver_is_woken_and_only_once() {
    let (a, b) = pair(10);
    a.send(1, vec![1], 0);
    assert!(!readable(&b, AT_ONCE), "it was awake");
    assert!(!b.prepare_sleep(), "a batch waits");
    assert!(b.receive().is_some());
    assert!(b.prepare_sleep());
    a.send(1, vec![2], 0);
    a.send(1, vec![3], 0);
    assert!(readable(&b, AT_ONCE));
    b.awake();
    b.clear_wake();
    assert!(!readable(&b, AT_ONCE));
    a.send(1, vec![4], 0);
    assert!(!readable(&b, AT_ONCE), "it was awake");
    assert_eq!(std::iter::from_fn(|| b.receive()).count(), 3);
}

#[test]
fn credit_runs_out_and_comes_back() {
    let (a, b) = pair(4);
    assert_eq!((a.credit(1), a.credit(0), b.credit(0)), (4, 4, 4));
    a.send(1, vec![0; 3], 3);
    assert_eq!((a.credit(1), b.credit(0)), (1, 4));
    a.send(1, vec![0; 3], 3);
    assert_eq!(a.credit(1), 0, "more was sent than there was credit for");
    assert!(!a.await_credit(1));
    b.returned(0, 3);
    assert!(!a.take_credit_returned(), "half is not back yet");
    assert_eq!(a.credit(1), 1);
    b.returned(0, 1);
    assert!(a.take_credit_returned());
    assert!(!a.take_credit_returned());
    b.returned(0, 2);
    assert!(!a.take_credit_returned(), "it was not asked for again");
    // A part of it is left, and all of it is known: a burst within the credit is never too large.
    assert_eq!(a.credit(1), 4);
    a.send(1, vec![0], 1);
    assert_eq!(a.credit(1), 3);
    assert!(a.await_credit(1));
    b.returned(0, 1);
    assert!(!a.take_credit_returned());
}

#[test]
fn whoever_has_come_to_the_reserve_waits_for_half_of_the_credit() {
    let (a, b) = pair(8);
    a.send(1, vec![0; 5], 5);
    assert!(a.has_ample_credit(1) && a.await_credit(1));
    a.send(1, vec![0], 1);
    assert_eq!((a.credit(1), a.reserve()), (2, 2));
    assert!(!a.has_ample_credit(1) && !a.await_credit(1));
    b.returned(0, 1);
    assert!(!a.take_credit_returned(), "half is not back yet");
    b.returned(0, 1);
    assert!(a.take_credit_returned() && a.has_ample_credit(1));
}

#[test]
fn returned_credit_ends_a_sleep_or_prevents_it() {
    let (a, b) = pair(2);
    a.send(1, vec![0; 2], 2);
    assert!(!a.await_credit(1));
    assert!(a.prepare_sleep());
    b.returned(0, 2);
    assert!(readable(&a, AT_ONCE));
    a.awake();
    a.clear_wake();
    assert!(a.take_credit_returned());
    a.send(1, vec![0; 2], 2);
    assert!(!a.await_credit(1));
    b.returned(0, 2);
    assert!(!a.prepare_sleep(), "credit came");
    assert!(a.prepare_sleep(), "and it was said once");
    assert_eq!(a.credit(1), 2);
}

#[test]
fn every_sender_s_order_is_kept_and_no_wake_up_lost() {
    const EACH: u64 = 20_000;
    let mut ends = mesh::<(usize, u64)>(4, 16).unwrap();
    let receiver = ends.remove(0);
    let outside = receiver.sender();
    thread::scope(|scope| {
        for end in ends {
            scope.spawn(move || {
                let mut next = 0;
                while next < EACH {
                    if end.credit(0) == 0 && !end.await_credit(0) {
                        sleep(&end);
                        continue;
                    }
                    let count = (next % 5 + 1).min(EACH - next).min(end.credit(0).into());
                    let items = (next..next + count).map(|n| (end.id(), n)).collect();
                    end.send(0, items, count as u32);
                    next += count;
                }
            });
        }
        scope.spawn(move || (0..EACH).for_each(|n| outside.send(0, vec![(0, n)])));

        let mut next = [0; 4];
        let mut on_hold = [0; 4];
        while next != [EACH; 4] {
            let Some(batch) = receiver.receive() else {
                sleep(&receiver);
                continue;
            };
            for (from, n) in batch.items {
                assert_eq!(batch.from, if from == 0 { OUTSIDE } else { from });
                assert_eq!(n, next[from]);
                next[from] += 1;
            }
            if batch.from != OUTSIDE {
                on_hold[batch.from] += batch.cost;
                assert!(on_hold[batch.from] <= 16);
            }
            // Give back now and then only, so that senders starve.
            if receiver.is_empty() {
                for (from, cost) in on_hold.iter_mut().enumerate() {
                    receiver.returned(from, std::mem::take(cost));
                }
            }
        }
        assert!(receiver.is_empty());
    });
}

#[test]
fn shards_that_are_each_other_s_receivers_do_not_lock_up() {
    const TURNS: u64 = 20_000;
    let ends = mesh::<u64>(2, 1).unwrap();
    thread::scope(|scope| {
        for end in ends {
            scope.spawn(move || {
                let other = 1 - end.id();
                let (mut sent, mut received) = (0, 0);
                while sent < TURNS || received < TURNS {
                    while let Some(batch) = end.receive() {
                        assert_eq!(batch.items, [received]);
                        received += 1;
                        end.returned(batch.from, batch.cost);
                    }
                    if sent < TURNS && (end.credit(other) > 0 || end.await_credit(other)) {
                        end.send(other, vec![sent], 1);
                        sent += 1;
                    } else if sent < TURNS || received < TURNS {
                        sleep(&end);
                    }
                }
            });
        }
    });
}

#[test]
fn what_was_never_received_is_dropped_with_the_mesh() {
    let item = std::sync::Arc::new(());
    let ends = mesh(2, 1).unwrap();
    ends[0].send(1, vec![item.clone(), item.clone()], 2);
    assert_eq!(std::sync::Arc::strong_count(&item), 3);
    drop(ends);
    assert_eq!(std::sync::Arc::strong_count(&item), 1);
}

proptest! {
    /// One thread plays both shards; the bookkeeping must agree with plain sums.
    #[test]
    fn credit_agrees_with_a_model(
        limit in 0..20_u32,
        steps in proptest::collection::vec((0..4_u8, 0..8_u32), 0..100),
    ) {
        let (a, b) = pair(limit);
        let (mut sent, mut returned) = (0_u32, 0_u32);
        let mut held = VecDeque::new();
        let mut wake_at = None;
        for (action, n) in steps {
            match action {
                0 => {
                    a.send(1, vec![u64::from(n)], n);
                    sent += n;
                }
                1 => held.extend(b.receive()),
                2 => if let Some(batch) = held.pop_front() {
                    b.returned(batch.from, batch.cost);
                    returned += batch.cost;
                    let due = batch.cost > 0 && wake_at.is_some_and(|at| returned >= at);
                    prop_assert_eq!(a.take_credit_returned(), due);
                    if due {
                        wake_at = None;
                    }
                },
                _ => if a.credit(1) <= a.reserve() {
                    prop_assert!(!a.has_ample_credit(1));
                    prop_assert!(!a.await_credit(1));
                    wake_at = Some(sent - limit / 2);
                },
            }
            let left = limit.saturating_sub(sent - returned);
            let said = a.credit(1);
            prop_assert!(said <= left);
            prop_assert_eq!(said == 0, left == 0);
        }
    }
}
