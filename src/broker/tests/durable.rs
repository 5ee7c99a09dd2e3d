//! What survives a crash, and what is not promised before it does. MQTT 5.0 section 4.1.

use super::{
    peer::Got,
    world::{C, Q0, Q1, Q2, World, hello},
};
use crate::{broker::Config, codec::*};

const SHARDS: [usize; 3] = [1, 2, 3];

/// A CONNECT of a session that outlives its connection.
pub(super) fn kept(id: &str) -> Connect<'_> {
    let mut connect = Connect { clean_start: false, ..hello(Version::V5, id) };
    connect.properties.session_expiry_interval = Some(3_600);
    connect
}

pub(super) fn slow(world: &mut World, is_slow: bool) {
    world.store.as_mut().unwrap().is_slow = is_slow;
    world.settle();
}

fn batches(world: &World) -> usize {
    world.store.as_ref().unwrap().waiting.len()
}

/// A subscriber with a session that is kept, and is away.
pub(super) fn absent_subscriber(world: &mut World, id: &str, filter: &str, qos: QoS) {
    let c = world.connected(&kept(id));
    world.subscribe(c, filter, qos);
    world.cut(c);
}

fn acks(world: &mut World, c: C) -> Vec<AckKind> {
    let got = world.got(c).into_iter();
    got.filter_map(|got| if let Got::Ack(kind, ..) = got { Some(kind) } else { None }).collect()
}

#[test]
fn a_message_is_acknowledged_when_it_is_kept_on_whatever_shard() {
    for shards in SHARDS {
        for n in 0..8 {
            let mut w = World::durable_with(shards, |_| ());
            let id = format!("subscriber-{n}");
            absent_subscriber(&mut w, &id, "t", Q1);
            let publisher = w.connect(Version::V5, "publisher");
            slow(&mut w, true);
            w.publish(publisher, "t", b"one", Q1);
            w.publish(publisher, "t", b"two", Q2);
            assert!(acks(&mut w, publisher).is_empty(), "{shards} shards");
            slow(&mut w, false);
            assert_eq!(acks(&mut w, publisher), [AckKind::Puback, AckKind::Pubrec]);

            for restarted in SHARDS {
                let mut w = w_again(shards, &id);
                w = w.crash(restarted, 10, |_| ());
                let (c, present) = w.resumed(&kept(&id));
                assert!(present);
                assert_eq!(w.texts(c), ["one", "two"], "{shards} shards, then {restarted}");
            }
        }
    }
}

/// What a client has unacknowledged with QoS 1 is bounded by the outbox that its PUBACKs wait in.
#[test]
fn whoever_goes_on_while_its_pubacks_wait_for_the_store_is_not_read_from_at_last() {
    for shards in SHARDS {
        let mut w = World::durable_with(shards, |c| c.max_outbox_bytes = 400);
        absent_subscriber(&mut w, "subscriber", "t", Q1);
        let publisher = w.connect(Version::V5, "publisher");
        slow(&mut w, true);
        for _ in 0..300 {
            w.publish(publisher, "t", b"x", Q1);
        }
        assert_eq!(w.totals().publish_received, 100, "{shards} shards");
        assert!(w.peers[publisher].paused && !w.peers[publisher].unread.is_empty());
        assert!(acks(&mut w, publisher).is_empty());
        slow(&mut w, false);
        assert_eq!(acks(&mut w, publisher).len(), 300);
        assert!(!w.peers[publisher].paused);
    }
}

/// The same with everything acknowledged, for there is no copy of a world.
fn w_again(shards: usize, id: &str) -> World {
    let mut w = World::durable_with(shards, |_| ());
    absent_subscriber(&mut w, id, "t", Q1);
    let publisher = w.connect(Version::V5, "publisher");
    w.publish(publisher, "t", b"one", Q1);
    w.publish(publisher, "t", b"two", Q2);
    assert_eq!(acks(&mut w, publisher).len(), 2);
    w
}

#[test]
fn what_nobody_keeps_is_not_waited_for() {
    for shards in SHARDS {
        let mut w = World::durable_with(shards, |_| ());
        let subscriber = w.connect(Version::V5, "s");
        w.subscribe(subscriber, "t", Q2);
        let publisher = w.connect(Version::V3_1_1, "p");
        absent_subscriber(&mut w, "another", "else", Q1);
        slow(&mut w, true);
        w.publish(publisher, "t", b"0", Q0);
        w.publish(publisher, "t", b"1", Q1);
        w.publish(publisher, "nobody", b"2", Q2);
        assert_eq!(acks(&mut w, publisher), [AckKind::Puback, AckKind::Pubrec]);
        assert_eq!(w.texts(subscriber), ["0", "1"]);
        w.publish(publisher, "else", b"3", Q0);
        assert_eq!(batches(&w), 0, "QoS 0 and clean sessions cost the store nothing");
    }
}

#[test]
fn an_acknowledged_message_that_is_delivered_and_acknowledged_does_not_come_back() {
    let mut w = World::durable_with(2, |_| ());
    let c = w.connected(&kept("s"));
    w.subscribe(c, "t", Q1);
    let publisher = w.connect(Version::V5, "p");
    w.publish(publisher, "t", b"m", Q1);
    let [message] = &w.messages(c)[..] else { panic!() };
    let id = message.id;
    w.ack(c, AckKind::Puback, id);
    let mut w = w.crash(1, 10, |_| ());
    let (c, present) = w.resumed(&kept("s"));
    assert!(present);
    assert!(w.got(c).is_empty());
}

#[test]
fn what_is_in_flight_keeps_its_packet_id_and_comes_first() {
    let mut w = World::durable_with(1, |config| config.max_inflight = 2);
    let c = w.connected(&kept("s"));
    w.subscribe(c, "t", Q2);
    let publisher = w.connect(Version::V5, "p");
    for (payload, qos) in [(b"a", Q1), (b"b", Q2), (b"c", Q1)] {
        w.publish(publisher, "t", payload, qos);
    }
    let before = w.messages(c);
    assert_eq!(before.len(), 2);
    let mut w = w.crash(3, 10, |config| config.max_inflight = 9);
    let (c, _) = w.resumed(&kept("s"));
    let after = w.messages(c);
    let seen: Vec<_> = after.iter().map(|m| (m.text(), m.dup, m.qos)).collect();
    assert_eq!(seen, [("a", true, 1), ("b", true, 2), ("c", false, 1)]);
    assert_eq!([after[0].id, after[1].id], [before[0].id, before[1].id]);
    assert!(!before.iter().any(|m| m.id == after[2].id));
}

/// A QoS 2 message to a client whose session is kept is not sent before it is kept under its packet
/// id, and not released before that is.
#[test]
fn exactly_once_waits_for_the_store_at_each_step() {
    let mut w = World::durable_with(1, |_| ());
    let c = w.connected(&kept("s"));
    w.subscribe(c, "t", Q2);
    let publisher = w.connect(Version::V5, "p");
    slow(&mut w, true);
    w.publish(publisher, "t", b"m", Q2);
    assert!(w.messages(c).is_empty());
    slow(&mut w, false);
    let message = w.messages(c).remove(0);
    slow(&mut w, true);
    w.ack(c, AckKind::Pubrec, message.id);
    assert!(acks(&mut w, c).is_empty());
    slow(&mut w, false);
    assert_eq!(acks(&mut w, c), [AckKind::Pubrel]);
    let mut w = w.crash(2, 10, |_| ());
    let (c, _) = w.resumed(&kept("s"));
    assert_eq!(acks(&mut w, c), [AckKind::Pubrel]);
    w.ack(c, AckKind::Pubcomp, message.id);
    let mut w = w.crash(1, 10, |_| ());
    let (c, _) = w.resumed(&kept("s"));
    assert!(w.got(c).is_empty());
}

#[test]
fn a_received_qos2_message_is_remembered_until_it_is_released() {
    let mut w = World::durable_with(2, |_| ());
    absent_subscriber(&mut w, "s", "t", Q2);
    let publisher = w.connected(&kept("p"));
    let id = w.id();
    let publish = Publish {
        qos: Q2,
        topic: "t",
        packet_id: Some(id),
        payload: b"once",
        ..Publish::default()
    };
    w.send(publisher, &Packet::Publish(publish));
    assert_eq!(acks(&mut w, publisher), [AckKind::Pubrec]);
    let mut w = w.crash(3, 10, |_| ());
    let (publisher, present) = w.resumed(&kept("p"));
    assert!(present);
    w.send(publisher, &Packet::Publish(Publish { dup: true, ..publish }));
    assert_eq!(acks(&mut w, publisher), [AckKind::Pubrec]);
    slow(&mut w, true);
    w.ack(publisher, AckKind::Pubrel, id.get());
    assert!(acks(&mut w, publisher).is_empty(), "the id must not be used again before");
    slow(&mut w, false);
    assert_eq!(acks(&mut w, publisher), [AckKind::Pubcomp]);
    let mut w = w.crash(1, 10, |_| ());
    let (publisher, _) = w.resumed(&kept("p"));
    w.send(publisher, &Packet::Publish(publish));
    let (c, _) = w.resumed(&kept("s"));
    assert_eq!(w.texts(c), ["once", "once"], "the second one is another message");
}

#[test]
fn a_session_is_there_when_its_client_has_been_told_so() {
    let mut w = World::durable_with(2, |_| ());
    slow(&mut w, true);
    let c = w.connect_with(&kept("s"));
    assert!(w.got(c).is_empty(), "CONNACK waits");
    slow(&mut w, false);
    assert!(matches!(w.got(c)[..], [Got::Connack { present: false, .. }]));
    slow(&mut w, true);
    w.ask(c, &[("t", SubscriptionOptions::new(Q1))], 0);
    assert!(w.got(c).is_empty(), "SUBACK waits");
    slow(&mut w, false);
    assert!(matches!(w.got(c)[..], [Got::Suback(..)]));
    slow(&mut w, true);
    w.unsubscribe(c, "t");
    assert!(w.got(c).is_empty(), "UNSUBACK waits");
    slow(&mut w, false);
    assert!(matches!(w.got(c)[..], [Got::Unsuback(..)]));
}

#[test]
fn a_clean_start_ends_what_was_kept() {
    let mut w = World::durable_with(1, |_| ());
    absent_subscriber(&mut w, "s", "t", Q1);
    let clean = w.connect(Version::V5, "s");
    w.cut(clean);
    let mut w = w.crash(2, 10, |_| ());
    let (_, present) = w.resumed(&kept("s"));
    assert!(!present);
}

#[test]
fn subscriptions_come_back_with_their_options_and_identifiers() {
    for shards in SHARDS {
        let mut w = World::durable_with(shards, |_| ());
        let c = w.connected(&kept("s"));
        let options =
            SubscriptionOptions { retain_as_published: true, ..SubscriptionOptions::new(Q2) };
        w.subscribe_with(c, "a/+", options, 7);
        w.subscribe_with(c, "$share/g/b", SubscriptionOptions::new(Q1), 9);
        w.subscribe(c, "gone", Q1);
        w.unsubscribe(c, "gone");
        w.cut(c);
        let mut w = w.crash(shards + 1, 10, |_| ());
        let publisher = w.connect(Version::V5, "p");
        w.retain(publisher, "a/1", b"1", Q2);
        w.publish(publisher, "b", b"2", Q1);
        w.publish(publisher, "gone", b"3", Q1);
        let (c, _) = w.resumed(&kept("s"));
        let messages = w.messages(c);
        let seen: Vec<_> =
            messages.iter().map(|m| (m.text(), m.retain, m.ids.clone(), m.qos)).collect();
        assert_eq!(seen, [("1", true, vec![7], 2), ("2", false, vec![9], 1)]);
    }
}

#[test]
fn retained_messages_come_back_until_they_expire() {
    let mut w = World::durable_with(2, |_| ());
    let publisher = w.connect(Version::V5, "p");
    w.retain(publisher, "r/kept", b"1", Q1);
    w.retain(publisher, "r/removed", b"2", Q1);
    w.retain(publisher, "r/removed", b"", Q1);
    let expiring =
        PublishProperties { message_expiry_interval: Some(10), ..PublishProperties::default() };
    w.publish_with(publisher, "r/short", b"3", Q1, true, expiring);
    w.retain(publisher, "r/other", b"4", Q0);
    let mut w = w.crash(3, 4_000, |_| ());
    let c = w.connect(Version::V5, "c");
    w.subscribe(c, "r/+", Q1);
    let mut seen: Vec<_> =
        w.messages(c).iter().map(|m| (m.text().to_owned(), m.retain, m.expiry)).collect();
    seen.sort();
    let expected = [("1", None), ("3", Some(6)), ("4", None)];
    assert_eq!(seen, expected.map(|(text, expiry)| (text.to_owned(), true, expiry)));
    let mut w = w.crash(1, 7_000, |_| ());
    let c = w.connect(Version::V5, "c");
    w.subscribe(c, "r/+", Q1);
    assert_eq!(w.messages(c).len(), 2);
}

#[test]
fn what_expired_while_nobody_was_there_is_not_delivered() {
    let mut w = World::durable_with(1, |_| ());
    absent_subscriber(&mut w, "s", "t", Q1);
    let publisher = w.connect(Version::V5, "p");
    let expiring =
        PublishProperties { message_expiry_interval: Some(10), ..PublishProperties::default() };
    w.publish_with(publisher, "t", b"short", Q1, false, expiring);
    w.publish(publisher, "t", b"long", Q1);
    let mut w = w.crash(1, 11_000, |_| ());
    let (c, _) = w.resumed(&kept("s"));
    assert_eq!(w.texts(c), ["long"]);
}

#[test]
fn a_session_expires_by_the_time_that_it_was_away() {
    let connect = |seconds| {
        let mut connect = kept("s");
        connect.properties.session_expiry_interval = Some(seconds);
        connect
    };
    for (pause, present) in [(20_000, true), (31_000, false)] {
        let mut w = World::durable_with(1, |_| ());
        let c = w.connected(&connect(60));
        w.cut(c);
        w.advance(30_000);
        let mut w = w.crash(2, pause, |_| ());
        w.advance(500);
        assert_eq!(w.resumed(&connect(60)).1, present);
        // Connected when the broker ended: only from then on it was away.
        w.advance(100_000);
        let mut w = w.crash(1, 55_000, |_| ());
        w.advance(500);
        assert!(w.resumed(&connect(60)).1);
    }
}

#[test]
fn a_backlog_is_read_from_the_store_a_part_at_a_time() {
    for shards in [1, 2] {
        let change = |config: &mut Config| {
            config.max_inflight = 3;
            config.queued_in_memory = 4;
        };
        let mut w = World::durable_with(shards, change);
        absent_subscriber(&mut w, "s", "t", Q1);
        let publisher = w.connect(Version::V5, "p");
        let numbers = |range: std::ops::Range<usize>| range.map(|n| n.to_string());
        for text in numbers(0..20) {
            w.publish(publisher, "t", text.as_bytes(), Q1);
        }
        assert_eq!(acks(&mut w, publisher).len(), 20);
        let (mut c, _) = w.resumed(&kept("s"));
        let mut seen = Vec::new();
        for round in 0..40 {
            if round == 5 {
                w = w.crash(3 - shards, 10, change);
                c = w.resumed(&kept("s")).0;
            }
            if round == 6 {
                let publisher = w.connect(Version::V5, "p");
                for text in numbers(20..30) {
                    w.publish(publisher, "t", text.as_bytes(), Q1);
                }
            }
            for message in w.messages(c) {
                let text = message.text().to_owned();
                if !seen.contains(&text) {
                    seen.push(text);
                }
                w.ack(c, AckKind::Puback, message.id);
            }
        }
        assert_eq!(seen, numbers(0..30).collect::<Vec<_>>());
        let mut w = w.crash(1, 10, change);
        let (c, _) = w.resumed(&kept("s"));
        assert!(w.got(c).is_empty(), "all were acknowledged");
    }
}

#[test]
fn a_full_queue_in_the_store_drops_its_oldest() {
    let change = |config: &mut Config| {
        config.queue.messages = 3;
        config.queued_in_memory = 1;
    };
    let mut w = World::durable_with(1, change);
    absent_subscriber(&mut w, "s", "t", Q1);
    let publisher = w.connect(Version::V5, "p");
    for text in ["1", "2", "3", "4", "5"] {
        w.publish(publisher, "t", text.as_bytes(), Q1);
    }
    let mut w = w.crash(1, 10, change);
    let (c, _) = w.resumed(&kept("s"));
    assert_eq!(w.texts(c), ["3", "4", "5"]);
}

/// A client that leaves its identifier as its will, after a delay in seconds.
fn with_will(world: &mut World, connect: &Connect<'_>, delay: u32) -> C {
    let properties = WillProperties { delay_interval: delay, ..<_>::default() };
    let (topic, payload) = ("will/x", connect.client_id.as_bytes());
    let will = Will { topic, payload, qos: Q1, retain: false, properties };
    world.connected(&Connect { will: Some(will), ..*connect })
}

/// `docs/conformance.md` says this of wills.
#[test]
fn a_broker_that_stops_publishes_the_wills_of_kept_sessions_and_no_others() {
    for shards in SHARDS {
        for durable in [true, false] {
            let mut w = if durable { World::durable(shards) } else { World::new(shards) };
            absent_subscriber(&mut w, "s", "will/+", Q1);
            let clients = [
                with_will(&mut w, &kept("now"), 0),
                with_will(&mut w, &kept("later"), 60),
                with_will(&mut w, &hello(Version::V5, "clean"), 0),
            ];
            for broker in &mut w.brokers {
                broker.on_drain(w.now);
            }
            w.settle();
            for c in clients {
                assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::ServerShuttingDown)]);
            }
            assert_eq!(w.totals().wills_published, u64::from(durable), "{shards} shards");
            if !durable {
                continue;
            }
            let mut w = w.crash(shards, 1_000, |_| ());
            let (c, _) = w.resumed(&kept("s"));
            assert_eq!(w.texts(c), ["now"], "{shards} shards");
            w.advance(58_000);
            assert!(w.texts(c).is_empty());
            w.advance(2_000);
            assert_eq!(w.texts(c), ["later"]);
        }
    }
}

#[test]
fn wills_of_kept_sessions_are_published_after_a_crash() {
    for shards in SHARDS {
        let mut w = World::durable_with(shards, |_| ());
        absent_subscriber(&mut w, "s", "will/+", Q1);
        with_will(&mut w, &kept("now"), 0);
        with_will(&mut w, &kept("later"), 60);
        let mut w = w.crash(shards + 1, 10, |_| ());
        w.advance(1_000);
        let mut w = w.crash(shards, 10, |_| ());
        let (c, _) = w.resumed(&kept("s"));
        assert_eq!(w.texts(c), ["now"], "once");
        w.advance(61_000);
        assert_eq!(w.texts(c), ["later"]);
    }
}

#[test]
fn a_store_that_failed_lets_clean_sessions_be_and_promises_nothing() {
    for shards in SHARDS {
        let mut w = World::durable_with(shards, |_| ());
        absent_subscriber(&mut w, "s", "kept", Q1);
        let online = w.connected(&kept("online"));
        let clean = w.connect(Version::V5, "clean");
        w.subscribe(clean, "+", Q1);
        let waiting = w.connect(Version::V3_1_1, "waiting");
        slow(&mut w, true);
        w.publish(waiting, "kept", b"1", Q1);
        w.fail_store();
        assert!(acks(&mut w, waiting).is_empty());
        assert!(w.is_closed(waiting), "it cannot be told otherwise");
        assert!(matches!(
            w.got(online)[..],
            [.., Got::Disconnect(ReasonCode::ImplementationSpecificError)]
        ));
        w.got(clean);

        let publisher = w.connect(Version::V5, "p");
        w.publish(publisher, "free", b"2", Q1);
        assert!(matches!(w.got(publisher)[..], [Got::Ack(AckKind::Puback, _, reason)]
            if !reason.is_error()));
        assert_eq!(w.texts(clean), ["2"]);
        let refused = w.connect_with(&kept("s"));
        assert!(matches!(
            w.got(refused)[..],
            [Got::Connack { reason: ReasonCode::ServerUnavailable, .. }]
        ));
        // On this shard it is refused; from another one nothing is heard of it but the end.
        w.publish(publisher, "kept", b"3", Q1);
        match &w.got(publisher)[..] {
            [Got::Ack(AckKind::Puback, _, ReasonCode::ImplementationSpecificError)] => {}
            [] if shards > 1 => assert!(w.is_closed(publisher)),
            got => panic!("{got:?}"),
        }
    }
}

#[test]
fn a_will_is_not_forgotten_with_a_later_one() {
    let mut w = World::durable_with(2, |_| ());
    let s = w.id_on(1, "s");
    let a = w.id_on(0, "a");
    absent_subscriber(&mut w, &s, "one", Q1);
    let with = |topic| {
        let will =
            Will { topic, payload: b"x", qos: Q1, retain: false, properties: <_>::default() };
        Some(will)
    };
    let c = w.connected(&Connect { will: with("one"), ..kept(&a) });
    w.delivers_mail = false;
    w.cut(c);
    let c = w.connect_with(&Connect { will: with("two"), ..kept(&a) });
    w.cut(c);
    let mut w = w.crash(2, 10, |_| ());
    w.advance(1_000);
    let (c, _) = w.resumed(&kept(&s));
    assert_eq!(w.texts(c), ["x"]);
}

/// What waits in the store leaves no room for retained messages until it has been read, also when
/// nothing of it is sent.
#[test]
fn retained_messages_come_when_a_stored_queue_turns_out_to_have_expired() {
    for shards in SHARDS {
        let mut w = World::durable_with(shards, |c| c.queue.messages = 10);
        absent_subscriber(&mut w, "to", "a", Q1);
        let from = w.connect(Version::V5, "from");
        w.peers[from].acknowledges = true;
        w.retain(from, "r", b"kept", Q0);
        for _ in 0..10 {
            let expiry = PublishProperties { message_expiry_interval: Some(1), ..<_>::default() };
            w.publish_with(from, "a", b"late", Q1, false, expiry);
        }
        w.advance(5_000);
        slow(&mut w, true);
        let to = w.connect_with(&kept("to"));
        w.peers[to].acknowledges = true;
        w.ask(to, &[("r", SubscriptionOptions::new(Q0))], 0);
        slow(&mut w, false);
        let is_it = |got: &Got| matches!(got, Got::Publish(message) if message.text() == "kept");
        assert_eq!(w.got(to).iter().filter(|got| is_it(got)).count(), 1, "{shards} shards");
    }
}
