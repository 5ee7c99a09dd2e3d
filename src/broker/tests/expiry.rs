//! Message Expiry Intervals, the shortest one of all among them. MQTT 5.0 section 3.3.2.3.3.

use super::{peer::Msg, world::*};
use crate::{codec::*, stats::DropReason};

fn expiring(seconds: u32) -> PublishProperties<'static> {
    PublishProperties { message_expiry_interval: Some(seconds), ..<_>::default() }
}

fn seen(messages: &[Msg]) -> Vec<(&str, Option<u32>)> {
    messages.iter().map(|m| (m.text(), m.expiry)).collect()
}

/// An interval of 0: whoever can be sent the message at once gets it, on whatever shard, also if it
/// takes a moment to get there.
///
/// Shows: MQTT5-3.3.2-5
#[test]
fn a_message_that_expires_at_once_is_delivered_to_who_is_there() {
    for qos in [Q0, Q1, Q2] {
        for shard in 0..2 {
            let mut w = World::new(2);
            let from = w.connect(Version::V5, &w.id_on(0, "from"));
            let to = w.connect(Version::V5, &w.id_on(shard, "to"));
            let member = w.connect(Version::V5, &w.id_on(shard, "member"));
            let old = w.connect(Version::V3_1_1, &w.id_on(shard, "old"));
            w.subscribe(to, "t", qos);
            w.subscribe(member, "$share/g/t", qos);
            w.subscribe(old, "t", qos);
            w.delivers_mail = false;
            w.publish_with(from, "t", b"now", qos, false, expiring(0));
            w.jump(20);
            w.delivers_mail = true;
            w.settle();
            for c in [to, member] {
                assert_eq!(seen(&w.messages(c)), [("now", Some(0))], "{qos:?} on shard {shard}");
            }
            assert_eq!(w.texts(old), ["now"]);
            assert_eq!(w.dropped(DropReason::Expired), 0);
            w.end();
        }
    }
}

/// It waits for nobody and takes nobody's place.
///
/// Shows: MQTT5-3.3.2-5
#[test]
fn a_message_that_expires_at_once_waits_for_nobody() {
    for shard in 0..2 {
        let mut w = World::with(2, |c| {
            c.queue_qos0 = true;
            c.queue.messages = 1;
            c.queue.drop_oldest = true;
        });
        let from = w.connect(Version::V5, &w.id_on(0, "from"));
        let away = w.id_on(shard, "away");
        let to = w.connected(&staying(Version::V5, &away));
        w.subscribe(to, "t", Q2);
        w.cut(to);
        w.publish(from, "t", b"stays", Q1);
        for qos in [Q0, Q1, Q2] {
            w.publish_with(from, "t", b"now", qos, false, expiring(0));
        }
        assert_eq!(w.dropped(DropReason::Expired), 3, "shard {shard}");
        assert_eq!(w.totals().queued_messages, 1);
        let to = w.connected(&staying(Version::V5, &away));
        assert_eq!(w.texts(to), ["stays"]);
        // Nor for room in the window of one who is there.
        let mut connect = staying(Version::V5, &away);
        connect.properties.receive_maximum = Some(1);
        w.acknowledges = false;
        let to = w.connected(&connect);
        w.publish(from, "t", b"first", Q1);
        w.publish_with(from, "t", b"now", Q1, false, expiring(0));
        let first = w.messages(to);
        assert_eq!(seen(&first), [("first", None)]);
        w.ack(to, AckKind::Puback, first[0].id);
        assert!(w.messages(to).is_empty());
        w.end();
    }
}

/// What has expired in a full queue goes before anything else does, wherever in the queue it is.
///
/// Shows: MQTT5-3.3.2-5
#[test]
fn what_has_expired_in_a_full_queue_takes_no_place_in_it() {
    for drop_oldest in [false, true] {
        for by_bytes in [false, true] {
            let mut w = World::with(1, |c| {
                c.queue.drop_oldest = drop_oldest;
                match by_bytes {
                    true => c.queue.bytes = 1_000,
                    false => c.queue.messages = 3,
                }
            });
            let from = w.connect(Version::V5, "from");
            let to = w.connected(&staying(Version::V5, "to"));
            w.subscribe(to, "t", Q1);
            w.cut(to);
            let payload = |text: &str| text.repeat(250);
            w.publish(from, "t", payload("a").as_bytes(), Q1);
            for (text, seconds) in [("b", 5), ("c", 1)] {
                w.publish_with(from, "t", payload(text).as_bytes(), Q1, false, expiring(seconds));
            }
            w.advance(2_000);
            w.publish(from, "t", payload("d").as_bytes(), Q1);
            assert_eq!(w.dropped(DropReason::Expired), 1);
            assert_eq!((w.dropped(DropReason::QueueFull), w.totals().queued_messages), (0, 3));
            w.advance(10_000);
            w.publish(from, "t", payload("e").as_bytes(), Q1);
            let to = w.connected(&staying(Version::V5, "to"));
            let texts: Vec<_> = w.texts(to).iter().map(|text| text[..1].to_owned()).collect();
            assert_eq!(texts.concat(), "ade", "the oldest dropped: {drop_oldest}");
            w.end();
        }
    }
}

/// It is not retained, but what was retained before is older and goes.
#[test]
fn a_message_that_expires_at_once_is_not_retained() {
    for owner in 0..2 {
        let mut w = World::new(2);
        let topic = w.topic_on(owner, "r/");
        let from = w.connect(Version::V5, &w.id_on(0, "from"));
        let to = w.connect(Version::V5, &w.id_on(1, "to"));
        w.subscribe(to, &topic, Q1);
        w.retain(from, &topic, b"before", Q1);
        w.publish_with(from, &topic, b"now", Q1, true, expiring(0));
        assert_eq!(w.texts(to), ["before", "now"]);
        w.subscribe(to, &topic, Q1);
        assert!(w.messages(to).is_empty());
        w.jump(100);
        assert_eq!(w.totals().retained_messages, 0);
        w.end();
    }
}

/// A member of a group that ends leaves nothing of it for another one.
#[test]
fn a_message_that_expires_at_once_does_not_go_to_another_member_later() {
    let mut w = World::new(2);
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    w.acknowledges = false;
    let one = w.connect(Version::V5, &w.id_on(0, "one"));
    w.subscribe(one, "$share/g/t", Q1);
    w.publish_with(from, "t", b"now", Q1, false, expiring(0));
    assert_eq!(w.texts(one), ["now"]);
    let other = w.connect(Version::V5, &w.id_on(1, "other"));
    w.subscribe(other, "$share/g/t", Q1);
    w.cut(one);
    assert!(w.messages(other).is_empty());
    w.end();
}

/// Not before its time, and not after it; the whole seconds that it has waited are taken off, so that
/// what arrives is never more than what was sent.
///
/// Shows: MQTT5-3.3.2-5, MQTT5-3.3.2-6
#[test]
fn an_interval_is_over_to_the_millisecond_and_told_in_whole_seconds() {
    for (waited, expected) in
        [(0, Some(2)), (1, Some(2)), (999, Some(2)), (1_000, Some(1)), (1_999, Some(1))]
            .into_iter()
            .chain([(2_000, None), (2_001, None)])
    {
        let mut w = World::new(2);
        let from = w.connect(Version::V5, &w.id_on(0, "from"));
        let topic = w.topic_on(1, "t/");
        let away = w.id_on(1, "away");
        let to = w.connected(&staying(Version::V5, &away));
        w.subscribe(to, &topic, Q1);
        let beside = w.connect(Version::V5, &w.id_on(1, "beside"));
        w.subscribe(beside, &topic, Q1);
        w.cut(to);
        w.delivers_mail = false;
        w.publish_with(from, &topic, b"x", Q1, true, expiring(2));
        w.now.monotonic += waited;
        w.delivers_mail = true;
        w.settle();
        let expected: Vec<_> = expected.map(|seconds| ("x", Some(seconds))).into_iter().collect();
        assert_eq!(seen(&w.messages(beside)), expected, "on its way for {waited} ms");
        let to = w.connected(&staying(Version::V5, &away));
        assert_eq!(seen(&w.messages(to)), expected, "queued for {waited} ms");
        w.subscribe(beside, &topic, Q1);
        assert_eq!(seen(&w.messages(beside)), expected, "retained for {waited} ms");
        w.jump(10_000);
        w.jump(100);
        w.end();
    }
}
