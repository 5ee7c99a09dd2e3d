//! Minimised histories that failed once, as the simulation prints them.

use super::{
    history::{Action::*, Asked, Hello, Sent, Setup, Shows::*, WillOf},
    replay,
};
use crate::topics::Strategy::*;

/// A message that expires on its way to another shard is not delivered. `[MQTT-3.3.2-5]`
#[test]
fn seed_19() {
    let setup = Setup {
        shards: 3,
        inflight: 2,
        outbox: 567,
        packets_per_turn: 5,
        queue: 3,
        queue_bytes: 1038,
        queues_bytes: 11753,
        drop_oldest: false,
        queue_qos0: false,
        credit: 18,
        shapes: 64,
        dawdles: false,
        send_timeout: 1000000,
        turn: 0,
        sessions: 0,
        retained: 1000,
        strategy: Local,
    };
    let actions = vec![
        Connect(
            0,
            Hello {
                on: 3,
                clean: false,
                keep_alive: 0,
                eager: false,
                expiry: 2,
                receive: 1,
                packet: 100,
                aliases: 0,
                prompt: false,
                will: Some(WillOf { topic: 1, qos: 1, retain: false, delay: 1 }),
                shows: Password,
                later: false,
            },
        ),
        Connect(
            2,
            Hello {
                on: 0,
                clean: false,
                keep_alive: 0,
                eager: false,
                expiry: 0,
                receive: 0,
                packet: 100,
                aliases: 2,
                prompt: true,
                will: None,
                shows: Password,
                later: false,
            },
        ),
        Settle,
        Subscribe(
            0,
            Asked { filter: 7, qos: 0, no_local: false, as_published: true, handling: 0, id: 0 },
        ),
        Settle,
        Publish(2, Sent { topic: 6, qos: 2, retain: false, size: 100, expiry: 10, alias: 1 }),
        Turn(1),
        Time(100000),
    ];
    replay(setup, &actions);
}

/// What has expired goes to no other member when a session of a group ends. `[MQTT-3.3.2-5]`
#[test]
fn seed_152() {
    let setup = Setup {
        shards: 3,
        inflight: 2,
        outbox: 1048576,
        packets_per_turn: 2,
        queue: 10000,
        queue_bytes: 1048576,
        queues_bytes: 1073741824,
        drop_oldest: true,
        queue_qos0: false,
        credit: 5,
        shapes: 64,
        dawdles: true,
        send_timeout: 5,
        turn: 0,
        sessions: 0,
        retained: 1000,
        strategy: Sticky,
    };
    let actions = vec![
        Connect(
            1,
            Hello {
                on: 3,
                clean: false,
                keep_alive: 0,
                eager: false,
                expiry: 3600,
                receive: 2,
                packet: 0,
                aliases: 2,
                prompt: true,
                will: Some(WillOf { topic: 6, qos: 0, retain: true, delay: 60 }),
                shows: Password,
                later: false,
            },
        ),
        Connect(
            5,
            Hello {
                on: 1,
                clean: true,
                keep_alive: 0,
                eager: false,
                expiry: 2,
                receive: 5,
                packet: 0,
                aliases: 0,
                prompt: true,
                will: None,
                shows: Password,
                later: false,
            },
        ),
        Settle,
        Subscribe(
            5,
            Asked { filter: 13, qos: 1, no_local: false, as_published: false, handling: 0, id: 0 },
        ),
        Room(5, 30),
        Publish(5, Sent { topic: 3, qos: 2, retain: false, size: 20, expiry: 1, alias: 1 }),
        Settle,
        Time(3000),
        Subscribe(
            1,
            Asked { filter: 13, qos: 2, no_local: true, as_published: false, handling: 1, id: 0 },
        ),
        Connect(
            5,
            Hello {
                on: 1,
                clean: true,
                keep_alive: 0,
                eager: false,
                expiry: 3600,
                receive: 1,
                packet: 0,
                aliases: 1,
                prompt: true,
                will: Some(WillOf { topic: 6, qos: 1, retain: false, delay: 0 }),
                shows: Password,
                later: false,
            },
        ),
    ];
    replay(setup, &actions);
}

/// A group's only member went offline while a message was on its way to it: it gets it when it is
/// back.
#[test]
fn seed_294() {
    let setup = Setup {
        shards: 3,
        inflight: 4,
        outbox: 1048576,
        packets_per_turn: 4,
        queue: 10000,
        queue_bytes: 1048576,
        queues_bytes: 1073741824,
        drop_oldest: false,
        queue_qos0: false,
        credit: 12,
        shapes: 64,
        dawdles: true,
        send_timeout: 1000000,
        turn: 7,
        sessions: 3,
        retained: 1000,
        strategy: HashClientId,
    };
    let member = Hello {
        on: 2,
        clean: false,
        keep_alive: 30,
        eager: true,
        expiry: 3600,
        receive: 1,
        packet: 0,
        aliases: 0,
        prompt: false,
        will: Some(WillOf { topic: 6, qos: 1, retain: true, delay: 60 }),
        shows: Password,
        later: false,
    };
    let publisher = Hello {
        on: 0,
        clean: false,
        keep_alive: 0,
        eager: false,
        expiry: 3600,
        receive: 0,
        packet: 0,
        aliases: 2,
        prompt: false,
        will: None,
        shows: Password,
        later: false,
    };
    let subscription =
        Asked { filter: 10, qos: 1, no_local: false, as_published: true, handling: 1, id: 2 };
    let message = Sent { topic: 4, qos: 1, retain: false, size: 5, expiry: 0, alias: 1 };
    let actions = [
        Connect(2, publisher),
        Connect(0, member),
        Turn(0),
        Read(0, 33),
        Turn(1),
        Subscribe(0, subscription),
        Publish(2, message),
        Turn(0),
        Turn(1),
        Cut(0, 1),
        Turn(0),
    ];
    replay(setup, &actions);
}

/// What a topic's own shard answers is not held back for an older message that the same shard has
/// sent before: the subscriber would keep the old value for ever. `[MQTT-3.3.1-9]`
#[test]
fn seed_57864() {
    let setup = Setup {
        shards: 2,
        inflight: 3,
        outbox: 1048576,
        packets_per_turn: 7,
        queue: 10000,
        queue_bytes: 1048576,
        queues_bytes: 1073741824,
        drop_oldest: false,
        queue_qos0: false,
        credit: 15,
        shapes: 64,
        dawdles: false,
        send_timeout: 5,
        turn: 0,
        sessions: 0,
        retained: 1000,
        strategy: HashTopic,
    };
    let first = Hello {
        on: 2,
        clean: false,
        keep_alive: 30,
        eager: true,
        expiry: 30,
        receive: 2,
        packet: 0,
        aliases: 0,
        prompt: true,
        will: Some(WillOf { topic: 6, qos: 0, retain: false, delay: 0 }),
        shows: Password,
        later: false,
    };
    let other = Hello {
        on: 0,
        clean: false,
        keep_alive: 0,
        eager: true,
        expiry: 30,
        receive: 1,
        packet: 0,
        aliases: 2,
        prompt: true,
        will: None,
        shows: Password,
        later: false,
    };
    let everything =
        Asked { filter: 4, qos: 0, no_local: false, as_published: false, handling: 2, id: 1 };
    let one = Asked { filter: 5, qos: 1, no_local: true, as_published: false, handling: 0, id: 0 };
    let actions = [
        Connect(0, first),
        Connect(3, other),
        Connect(4, Hello { eager: false, ..other }),
        Subscribe(3, everything),
        Settle,
        Publish(0, Sent { topic: 2, qos: 1, retain: true, size: 20, expiry: 1, alias: 0 }),
        Publish(4, Sent { topic: 2, qos: 0, retain: true, size: 20, expiry: 0, alias: 0 }),
        Read(4, 69),
        Subscribe(0, one),
    ];
    replay(setup, &actions);
}
