//! Retained messages that are still to be fetched when something changes for their session.

use super::world::*;
use crate::{codec::*, stats::DropReason};

fn options(qos: QoS, retain_handling: RetainHandling) -> SubscriptionOptions {
    SubscriptionOptions { retain_handling, ..SubscriptionOptions::new(qos) }
}

/// A subscription is replaced while its retained message is on its way: that comes, once, as the new
/// one asks for, whether that wants retained messages itself or not. `[MQTT-3.8.4-3]`,
/// `[MQTT-3.8.4-4]`
#[test]
fn what_is_still_to_be_fetched_follows_a_subscription_that_is_replaced() {
    use RetainHandling as H;
    for handling in [H::SendAtSubscribe, H::SendAtNewSubscribe, H::DoNotSend] {
        for wildcard in [false, true] {
            let mut w = World::new(2);
            let topic = w.topic_on(1, "r/");
            let filter = if wildcard { "r/+" } else { &*topic };
            let from = w.connect(Version::V5, &w.id_on(0, "from"));
            let to = w.connect(Version::V5, &w.id_on(0, "to"));
            w.retain(from, &topic, b"x", Q2);
            w.delivers_mail = false;
            w.subscribe_with(to, filter, options(Q0, H::SendAtSubscribe), 1);
            w.subscribe_with(to, filter, options(Q1, handling), 2);
            assert!(w.messages(to).is_empty(), "it is on its way");
            w.delivers_mail = true;
            w.settle();
            let got: Vec<_> = w.messages(to).into_iter().map(|m| (m.qos, m.ids)).collect();
            assert_eq!(got, [(1, vec![2])], "{handling:?}");
            w.end();
        }
    }
}

/// The same when all that was retained is gone by then, and something else is later.
#[test]
fn what_is_still_to_be_fetched_follows_also_while_nothing_is_retained() {
    let mut w = World::new(2);
    let topic = w.topic_on(1, "r/");
    let from = w.connect(Version::V5, &w.id_on(1, "from"));
    let to = w.connect(Version::V5, &w.id_on(0, "to"));
    w.retain(from, &topic, b"gone", Q1);
    w.delivers_mail = false;
    w.subscribe_with(to, &topic, SubscriptionOptions::new(Q0), 1);
    w.retain(from, &topic, b"", Q1);
    w.subscribe_with(to, &topic, SubscriptionOptions::new(Q1), 2);
    w.retain(from, &topic, b"x", Q1);
    w.delivers_mail = true;
    w.settle();
    let got: Vec<_> = w.messages(to).into_iter().map(|m| (m.qos, m.ids)).collect();
    assert!(!got.is_empty() && got.iter().all(|got| *got == (1, vec![2])), "{got:?}");
    w.end();
}

/// What was delivered while a subscription waited for retained messages is known also when it is
/// replaced before it has asked for any.
#[test]
fn a_replaced_subscription_gets_nothing_older_than_what_has_come() {
    let mut w = World::with(3, |c| c.max_outbox_bytes = 1_000);
    let [here, owner, there] = [0, 1, 2];
    let topic = w.topic_on(owner, "r/");
    let from = w.connect(Version::V5, &w.id_on(there, "from"));
    let to = w.connect(Version::V5, &w.id_on(here, "to"));
    w.retain(from, &topic, b"old", Q0);
    fill_outbox(&mut w, from, to);
    w.subscribe_later(to, &topic);
    // Its subscribers have the new message before the shard that is to retain it.
    w.delivers_mail = false;
    w.handle_retain(from, &topic, b"new");
    let rest = w.send_first_mail(there);
    assert!(w.deliver_batch(there, here));
    w.subscribe_later(to, &topic);
    w.make_room(to, usize::MAX);
    assert!(w.deliver_batch(here, owner), "the question comes first");
    w.send_last_mail(there, rest);
    w.delivers_mail = true;
    w.settle();
    let texts = w.texts(to);
    assert_eq!(texts.iter().filter(|text| text.len() < 9).collect::<Vec<_>>(), ["new"]);
    w.end();
}

/// An answer that comes when its client is gone is asked for again when that is back.
#[test]
fn retained_messages_are_not_lost_with_the_connection() {
    for qos in [Q0, Q1] {
        let mut w = World::new(2);
        let from = w.connect(Version::V5, &w.id_on(1, "from"));
        for n in 0..100 {
            w.retain(from, &format!("r/{n}"), b"x", Q1);
        }
        let id = w.id_on(0, "to");
        let to = w.connected(&staying(Version::V5, &id));
        w.delivers_mail = false;
        w.subscribe(to, "r/+", qos);
        let before = w.messages(to).len();
        assert!(before > 0 && before < 100, "another shard has the rest");
        w.cut(to);
        w.delivers_mail = true;
        w.settle();
        let to = w.connected(&staying(Version::V5, &id));
        assert_eq!(w.messages(to).len(), 100 - before, "{qos:?}");
        assert_eq!(w.dropped(DropReason::Offline), 0);
        w.end();
    }
}

/// So is one that comes when the client's outbox has filled up since it was asked for.
#[test]
fn retained_messages_are_not_lost_to_an_outbox_that_fills_up() {
    let mut w = World::with(2, |c| c.max_outbox_bytes = 2_000);
    let topic = w.topic_on(1, "r/");
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    let to = w.connect(Version::V5, &w.id_on(0, "to"));
    w.retain(from, &topic, &[b'r'; 100], Q0);
    w.subscribe(to, "live", Q0);
    w.peers[to].room = 0;
    w.delivers_mail = false;
    w.subscribe_later(to, &topic);
    for _ in 0..10 {
        w.publish(from, "live", &[b'x'; 400], Q0);
    }
    assert!(w.dropped(DropReason::OutboxFull) > 0);
    w.delivers_mail = true;
    w.settle();
    w.make_room(to, usize::MAX);
    assert_eq!(w.messages(to).iter().filter(|m| m.retain).count(), 1);
    w.end();
}

/// A live message that is dropped does not take the place of the retained one.
#[test]
fn a_live_message_that_is_dropped_supersedes_nothing() {
    let mut w = World::with(3, |c| c.max_outbox_bytes = 2_000);
    let [here, owner, there] = [0, 1, 2];
    let topic = w.topic_on(owner, "r/");
    let from = w.connect(Version::V5, &w.id_on(there, "from"));
    let filler = w.connect(Version::V5, &w.id_on(here, "filler"));
    let to = w.connect(Version::V5, &w.id_on(here, "to"));
    w.retain(from, &topic, b"old", Q0);
    w.subscribe(to, "live", Q0);
    w.peers[to].room = 0;
    w.delivers_mail = false;
    w.subscribe_later(to, &topic);
    assert!(w.deliver_batch(here, owner), "the question");
    w.turn(owner);
    for _ in 0..10 {
        w.publish(filler, "live", &[b'x'; 400], Q0);
    }
    w.retain(from, &topic, b"new", Q0);
    assert!(w.deliver_batch(there, here), "which is dropped");
    w.make_room(to, usize::MAX);
    w.delivers_mail = true;
    w.settle();
    assert!(w.messages(to).iter().any(|m| m.retain), "the old one, or the new one");
    w.end();
}

/// Has a client take nothing, with so much waiting for it that no more is fetched.
fn fill_outbox(w: &mut World, from: C, to: C) {
    w.subscribe(to, "filler", Q0);
    w.peers[to].room = 0;
    w.publish(from, "filler", &[b'x'; 800], Q0);
}

impl World {
    /// Subscribes; SUBACK is still to be read.
    fn subscribe_later(&mut self, c: C, filter: &str) {
        self.ask(c, &[(filter, SubscriptionOptions::new(Q1))], 0);
    }
}
