//! Minimised histories that failed once, as the simulation prints them.

use super::{
    history::{Action::*, Hello, Sent, Setup, WillOf},
    replay,
};
use crate::topics::Strategy::*;

const SETUP: Setup = Setup {
    shards: 3,
    inflight: 3,
    in_memory: 2,
    queue: 10_000,
    drop_oldest: false,
    outbox: 1 << 20,
    packets_per_turn: 7,
    credit: 10,
    wires: false,
    strategy: Local,
    groups: false,
};
const HELLO: Hello = Hello { on: 0, clean: false, expiry: 3_600, prompt: true, will: None };
const SENT: Sent = Sent { topic: 0, qos: 2, retain: false, empty: false, expiry: 0 };

/// The packet id of a QoS 2 message is not kept before other shards have kept the message: it would
/// be taken for a duplicate when it comes again, and be lost.
#[test]
fn seed_37() {
    let setup = Setup { queue: 3, outbox: 60, packets_per_turn: 3, wires: true, ..SETUP };
    let actions = [
        Connect(0, Hello { prompt: false, ..HELLO }),
        Connect(4, Hello { on: 2, ..HELLO }),
        Settle,
        Subscribe(0, 0, 1),
        Settle,
        Publish(4, SENT),
        Turn(2),
        Commit(2, true),
        Crash(2, 100_000, false),
    ];
    replay(setup, &actions);
}

/// The same, with a retained message that another shard keeps.
#[test]
fn seed_5() {
    let actions = [
        Connect(2, Hello { on: 1, ..HELLO }),
        Settle,
        Subscribe(2, 2, 2),
        Settle,
        Crash(2, 3_000, true),
        Connect(3, Hello { on: 1, expiry: 0, ..HELLO }),
        Settle,
        Publish(3, Sent { topic: 2, retain: true, ..SENT }),
        Turn(0),
        Commit(3, false),
        Crash(2, 100, false),
    ];
    replay(Setup { shards: 1, ..SETUP }, &actions);
}

/// A store that has failed cannot end a session: a clean start is refused.
#[test]
fn seed_103() {
    let will = Some(WillOf { qos: 2, retain: false, delay: 60 });
    let actions = [
        Connect(4, Hello { on: 2, will, ..HELLO }),
        Settle,
        Fail,
        Settle,
        Connect(4, Hello { on: 2, clean: true, expiry: 0, ..HELLO }),
    ];
    replay(Setup { shards: 2, outbox: 200, ..SETUP }, &actions);
}

/// Nor if it had ended in memory when the store failed.
#[test]
fn seed_741() {
    let actions = [
        Connect(3, Hello { on: 2, prompt: false, ..HELLO }),
        Settle,
        Fail,
        Connect(3, Hello { on: 1, clean: true, expiry: 0, ..HELLO }),
        Read(3, 1_000),
        Connect(3, HELLO),
    ];
    replay(SETUP, &actions);
}

/// A second clean start is not acknowledged either before what the first one has ended is kept as
/// such.
#[test]
fn seed_1773() {
    let will = Some(WillOf { qos: 1, retain: false, delay: 60 });
    let actions = [
        Connect(2, Hello { will, ..HELLO }),
        Settle,
        Crash(1, 3_000, false),
        Fail,
        Connect(2, Hello { on: 1, clean: true, expiry: 0, ..HELLO }),
        Turn(0),
        Connect(2, Hello { expiry: 0, ..HELLO }),
    ];
    replay(Setup { shards: 2, inflight: 1, queue: 5, ..SETUP }, &actions);
}

/// A session that has expired while the broker was away is not resumed, however soon its client
/// comes.
#[test]
fn seed_222() {
    let actions = [
        Connect(4, Hello { on: 1, clean: true, expiry: 2, ..HELLO }),
        Settle,
        Cut(4, 1),
        Settle,
        Crash(2, 3_000, false),
        Connect(4, Hello { on: 2, expiry: 2, ..HELLO }),
    ];
    replay(Setup { shards: 2, ..SETUP }, &actions);
}

/// Who waits for a deferred change that comes to nothing is let go.
#[test]
fn seed_190() {
    let actions = [
        Connect(3, Hello { on: 2, ..HELLO }),
        Connect(4, Hello { on: 2, ..HELLO }),
        Settle,
        Subscribe(3, 3, 2),
        Settle,
        Crash(3, 100_000, false),
        Connect(4, Hello { on: 2, expiry: 0, ..HELLO }),
        Settle,
        Publish(4, Sent { topic: 2, ..SENT }),
        Cut(4, 1_000),
    ];
    replay(Setup { shards: 1, outbox: 200, wires: true, ..SETUP }, &actions);
}

/// Two shards that both had nobody for the other one's message of a group do not wait for each other.
#[test]
fn seed_5504() {
    let retain = Sent { retain: true, ..SENT };
    let actions = [
        Connect(0, HELLO),
        Connect(1, Hello { on: 1, prompt: false, ..HELLO }),
        Connect(2, HELLO),
        Connect(4, Hello { prompt: false, ..HELLO }),
        Settle,
        Subscribe(0, 7, 2),
        Subscribe(1, 7, 1),
        Settle,
        Publish(4, Sent { topic: 2, qos: 1, ..retain }),
        Publish(2, Sent { topic: 1, ..retain }),
        Turn(1),
        Unsubscribe(0, 7),
        Cut(1, 1),
    ];
    replay(Setup { in_memory: 3, drop_oldest: true, packets_per_turn: 6, ..SETUP }, &actions);
}

/// What another shard gives back when the store has failed is not waited for.
#[test]
fn seed_1771() {
    let will = Some(WillOf { qos: 1, retain: false, delay: 0 });
    let actions = [
        Connect(0, HELLO),
        Connect(1, Hello { on: 2, prompt: false, ..HELLO }),
        Settle,
        Subscribe(1, 2, 2),
        Rush,
        Publish(0, Sent { topic: 3, ..SENT }),
        Connect(0, Hello { on: 2, will, ..HELLO }),
        Rush,
        Fail,
    ];
    replay(Setup { shards: 2, inflight: 1, queue: 3, packets_per_turn: 5, ..SETUP }, &actions);
}

/// A will is not forgotten by the next record of its session before it is kept on other shards.
#[test]
fn seed_3640() {
    let will = |qos, delay| Some(WillOf { qos, retain: true, delay });
    let actions = [
        Connect(3, Hello { on: 1, ..HELLO }),
        Connect(4, Hello { on: 2, will: will(2, 5), ..HELLO }),
        Settle,
        Subscribe(3, 7, 1),
        Settle,
        Cut(4, 0),
        Settle,
        Crash(1, 100_000, false),
        Crash(2, 0, true),
        Settle,
        Connect(4, Hello { on: 2, expiry: 0, will: will(2, 1), ..HELLO }),
        Connect(0, Hello { on: 2, expiry: 0, prompt: false, will: will(1, 60), ..HELLO }),
        Rush,
        Commit(2, true),
        Crash(1, 100_000, true),
    ];
    replay(
        Setup { shards: 2, inflight: 1, in_memory: 3, wires: true, strategy: Random, ..SETUP },
        &actions,
    );
}

/// The will of a session whose client has had another one since, both before its end was kept.
#[test]
fn seed_41171() {
    let will = |qos| Some(WillOf { qos, retain: false, delay: 5 });
    let actions = [
        Connect(2, Hello { prompt: false, ..HELLO }),
        Connect(3, Hello { on: 2, will: will(2), ..HELLO }),
        Connect(4, Hello { on: 1, will: will(2), ..HELLO }),
        Settle,
        Subscribe(2, 7, 2),
        Subscribe(3, 5, 2),
        Settle,
        Cut(4, 7),
        Settle,
        Crash(3, 100_000, true),
        Settle,
        Connect(4, Hello { clean: true, will: will(1), ..HELLO }),
        Rush,
        Commit(2, true),
        Crash(1, 0, true),
    ];
    replay(
        Setup {
            shards: 1,
            inflight: 2,
            packets_per_turn: 1,
            wires: true,
            strategy: Random,
            ..SETUP
        },
        &actions,
    );
}

/// A delivery that was staged when those behind it had been read already.
#[test]
fn seed_31647() {
    let actions = [
        Connect(0, Hello { on: 2, ..HELLO }),
        Connect(
            1,
            Hello {
                on: 2,
                clean: false,
                expiry: 3_600,
                prompt: false,
                will: Some(WillOf { qos: 2, retain: true, delay: 60 }),
            },
        ),
        Connect(2, Hello { on: 1, ..HELLO }),
        Connect(
            3,
            Hello {
                on: 0,
                clean: false,
                expiry: 3_600,
                prompt: true,
                will: Some(WillOf { qos: 1, retain: false, delay: 5 }),
            },
        ),
        Connect(4, Hello { on: 0, ..HELLO }),
        Settle,
        Subscribe(2, 0, 2),
        Subscribe(3, 7, 2),
        Turn(0),
        Publish(3, Sent { topic: 0, qos: 2, retain: false, empty: false, expiry: 2 }),
        Turn(1),
        Connect(2, Hello { on: 2, ..HELLO }),
        Connect(1, Hello { on: 1, clean: true, expiry: 2, prompt: false, will: None }),
        Answer(1, 3),
        Step(1),
        Publish(3, Sent { topic: 1, qos: 2, ..SENT }),
        Connect(3, Hello { on: 2, clean: false, expiry: 2, prompt: true, will: None }),
        Commit(2, true),
        Crash(1, 100_000, false),
        Publish(2, Sent { topic: 3, qos: 0, retain: false, empty: false, expiry: 2 }),
        Publish(2, Sent { topic: 4, qos: 1, ..SENT }),
        Connect(
            1,
            Hello {
                on: 2,
                clean: false,
                expiry: 2,
                prompt: true,
                will: Some(WillOf { qos: 1, retain: false, delay: 60 }),
            },
        ),
        Turn(1),
        Settle,
        Crash(2, 0, true),
        Publish(0, Sent { topic: 1, qos: 1, ..SENT }),
        Settle,
        Time(3_000),
        Commit(3, true),
        Rush,
        Step(0),
        Connect(3, Hello { on: 2, clean: false, expiry: 0, prompt: false, will: None }),
        Rush,
        Publish(2, Sent { topic: 4, qos: 2, ..SENT }),
        Commit(3, false),
        Publish(4, Sent { topic: 1, qos: 2, retain: true, empty: true, expiry: 0 }),
        Rush,
        Connect(0, Hello { on: 2, ..HELLO }),
        Commit(1, true),
        Read(0, 1_000),
        Publish(2, Sent { topic: 1, qos: 1, ..SENT }),
    ];
    let setup = Setup { inflight: 4, queue: 5, drop_oldest: true, packets_per_turn: 1, ..SETUP };
    replay(Setup { credit: 7, strategy: RoundRobin, ..setup }, &actions);
}
