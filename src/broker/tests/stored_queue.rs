//! Queues that are kept in the store alone but for what is about to be sent.

use super::{
    durable::{absent_subscriber, kept, slow},
    world::{Q0, Q1, Q2, World},
};
use crate::{broker::Config, codec::*};

/// `[MQTT-4.6.0-6]`: those of QoS 0 that wait in the store alone are not overtaken by a live one, also
/// not when a start has found them there; where none waits, a live one does not wait either.
#[test]
fn a_live_qos_0_message_comes_behind_those_in_the_store() {
    let change = |config: &mut Config| {
        config.queue_qos0 = true;
        config.max_inflight = 1;
        config.queued_in_memory = 1;
    };
    for restarts in [false, true] {
        for (waiting, expected) in [("a0b1c", "012"), ("abc", "2")] {
            let mut w = World::durable_with(1, change);
            absent_subscriber(&mut w, "s", "t", Q1);
            let mut publisher = w.connect(Version::V5, "p");
            for text in waiting.chars() {
                let qos = if text.is_ascii_digit() { Q0 } else { Q1 };
                w.publish(publisher, "t", text.to_string().as_bytes(), qos);
            }
            if restarts {
                w = w.crash(1, 10, change);
                publisher = w.connect(Version::V5, "p");
            }
            let (c, _) = w.resumed(&kept("s"));
            w.publish(publisher, "t", b"2", Q0);
            let mut seen = Vec::new();
            loop {
                let messages = w.messages(c);
                seen.extend(messages.iter().filter(|m| m.qos == 0).map(|m| m.text().to_owned()));
                if seen.is_empty() && waiting == "abc" {
                    panic!("it waits, although none of QoS 0 does");
                }
                let Some(last) = messages.iter().rfind(|m| m.qos == 1) else { break };
                w.ack(c, AckKind::Puback, last.id);
            }
            assert_eq!(seen.concat(), expected, "{waiting}, restarts: {restarts}");
        }
    }
}

/// `[MQTT-4.3.1-1]`: what waited in the store with QoS 0 is not sent before the store has let go of it.
#[test]
fn a_stored_qos_0_message_does_not_come_again_after_a_crash() {
    let change = |config: &mut Config| config.queue_qos0 = true;
    let mut most = 0;
    for commits in 0.. {
        let mut w = World::durable_with(1, change);
        absent_subscriber(&mut w, "s", "t", Q1);
        let publisher = w.connect(Version::V5, "p");
        w.publish(publisher, "t", b"0", Q0);
        slow(&mut w, true);
        let c = w.connect_with(&kept("s"));
        let mut is_over = false;
        for _ in 0..commits {
            is_over = !w.commit();
            w.settle();
        }
        let before = w.texts(c).len();
        let mut w = w.crash(1, 10, change);
        let (c, _) = w.resumed(&kept("s"));
        let after = w.texts(c).len();
        assert!(before + after <= 1, "{commits} commits: {before}, then {after}");
        most = most.max(before);
        if is_over {
            break;
        }
    }
    assert_eq!(most, 1);
}

/// The same when it cannot be read on with at once, and what is in memory expires meanwhile: the window
/// is full then, so that an acknowledgement is to come, and asks.
#[test]
fn retained_messages_come_when_a_queue_that_was_not_read_on_with_has_expired() {
    let mut w = World::durable_with(2, |c| {
        (c.max_inflight, c.queued_in_memory, c.queue.messages) = (1, 3, 4);
    });
    let (from, keeper, to) = (w.id_on(0, "from"), w.id_on(1, "keeper"), w.id_on(1, "to"));
    absent_subscriber(&mut w, &keeper, "once", Q2);
    absent_subscriber(&mut w, &to, "a", Q1);
    let from = w.connected(&kept(&from));
    w.peers[from].acknowledges = true;
    w.retain(from, "r", b"kept", Q0);
    w.publish(from, "a", b"first", Q1);
    for _ in 0..3 {
        let expiry = PublishProperties { message_expiry_interval: Some(1), ..<_>::default() };
        w.publish_with(from, "a", b"late", Q1, false, expiry);
    }
    let c = w.connected(&kept(&to));
    w.ask(c, &[("r", SubscriptionOptions::new(Q0))], 0);
    assert_eq!(w.texts(c), ["first"], "there is no room for more");
    slow(&mut w, true);
    w.publish(from, "once", b"x", Q2);
    w.cut(c);
    let c = w.connect_with(&kept(&to));
    assert_eq!(w.brokers[1].clients.unread.len(), 1, "what other shards keep is awaited");
    w.advance(2_000);
    slow(&mut w, false);
    let again = w.messages(c);
    assert_eq!(again.iter().map(|m| m.text()).collect::<Vec<_>>(), ["first"]);
    assert_eq!(w.totals().queued_messages, 2, "one in the store, and one of the other session");
    w.ack(c, AckKind::Puback, again[0].id);
    assert_eq!(w.texts(c), ["kept"]);
}
