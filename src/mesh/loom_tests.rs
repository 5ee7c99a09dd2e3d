//! Proofs of the handshakes, over all interleavings.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --lib mesh`. A lost wake-up leaves a thread waiting
//! for ever, which loom reports as a deadlock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::*;
use loom::thread;

fn pair(credit: u32) -> (Endpoint<u32>, Endpoint<u32>) {
    let mut ends = mesh(2, credit).unwrap();
    let second = ends.pop().unwrap();
    (ends.pop().unwrap(), second)
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
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
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
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(|| {
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
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
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
