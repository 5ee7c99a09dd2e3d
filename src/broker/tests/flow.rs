//! Too much of anything: credit between shards, slow consumers, greedy publishers.

use super::{peer::Got, world::*};
use crate::{
    codec::*,
    stats::{CloseReason, DropReason},
};

/// A publisher on shard 0 and a subscriber on shard 1.
fn across(w: &mut World, qos: QoS) -> (C, C) {
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    let to = w.connect(Version::V5, &w.id_on(1, "to"));
    w.subscribe(to, "a", qos);
    (from, to)
}

/// However many publish: who finds no credit is not read from, and its message not taken.
#[test]
fn without_credit_no_publisher_loses_qos_0_however_many_there_are() {
    for (retain, shared) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut w = World::new(2);
        w.credit = 8;
        let (_, to) = across(&mut w, Q0);
        let topic = w.topic_on(1, "t");
        w.subscribe(to, &topic, Q0);
        if shared {
            w.subscribe(to, &format!("$share/g/{topic}"), Q0);
        }
        let publishers: Vec<C> =
            (0..30).map(|n| w.connect(Version::V5, &w.id_on(0, &format!("{n}-")))).collect();
        w.delivers_mail = false;
        for (n, from) in publishers.iter().enumerate() {
            w.publish_with(*from, &topic, &[b'0' + n as u8], Q0, retain, <_>::default());
        }
        let waiting = publishers.iter().filter(|from| !w.peers[**from].unread.is_empty()).count();
        assert!((22..28).contains(&waiting), "{waiting} messages are not taken");
        assert_eq!(w.totals().publish_received, 30 - waiting as u64);
        w.delivers_mail = true;
        w.settle();
        assert_eq!(w.dropped(DropReason::NoCredit), 0);
        let copies = 1 + usize::from(shared);
        let texts = w.texts(to);
        let count = |text: &str| texts.iter().filter(|t| *t == text).count();
        for n in 0..30 {
            assert_eq!(count(&char::from(b'0' + n).to_string()), copies, "{n} {retain} {shared}");
        }
        assert!(publishers.iter().all(|from| !w.peers[*from].paused));
        w.end();
    }
}

/// Who publishes to others is not held up by a shard that is behind.
#[test]
fn who_publishes_elsewhere_does_not_wait_for_a_shard_without_credit() {
    let mut w = World::new(3);
    w.credit = 4;
    across(&mut w, Q0);
    let near = w.connect(Version::V5, &w.id_on(0, "near"));
    let far = w.connect(Version::V5, &w.id_on(2, "far"));
    w.subscribe(near, "near", Q0);
    w.subscribe(far, "far", Q0);
    let publishers: Vec<C> =
        (0..6).map(|n| w.connect(Version::V5, &w.id_on(0, &format!("{n}-")))).collect();
    w.delivers_mail = false;
    for from in &publishers {
        w.publish(*from, "a", b"x", Q0);
    }
    let other = w.connect(Version::V5, &w.id_on(0, "other"));
    let alias = PublishProperties { topic_alias: Some(1), ..<_>::default() };
    w.publish_with(other, "near", b"1", Q0, false, alias);
    w.publish_with(other, "", b"2", Q1, false, alias);
    w.publish_with(other, "far", b"3", Q2, false, <_>::default());
    assert_eq!(w.texts(near), ["1", "2"]);
    assert!(!w.peers[other].paused);
    // A topic by its alias: it waits, and the alias is still set when it goes on.
    w.publish_with(other, "a", b"4", Q0, false, alias);
    w.publish_with(other, "", b"5", Q0, false, alias);
    assert!(w.peers[other].paused);
    w.delivers_mail = true;
    w.settle();
    assert_eq!(w.texts(far), ["3"]);
    assert_eq!(w.totals().publish_dropped.total(), 0);
    assert!(w.peers[other].unread.is_empty());
    w.end();
}

/// Nobody can be made to wait with a will: without credit it is dropped, if it has QoS 0.
#[test]
fn without_credit_wills_of_qos_0_are_dropped_and_counted() {
    let mut w = World::new(2);
    w.credit = 3;
    let (_, to) = across(&mut w, Q0);
    let wills: Vec<C> = (0..5)
        .map(|n| {
            let id = w.id_on(0, &format!("{n}-"));
            let mut connect = hello(Version::V5, &id);
            connect.will = Some(Will {
                topic: "a",
                payload: b"x",
                qos: Q0,
                retain: false,
                properties: <_>::default(),
            });
            w.connected(&connect)
        })
        .collect();
    w.delivers_mail = false;
    wills.iter().for_each(|c| w.cut(*c));
    assert_eq!(w.dropped(DropReason::NoCredit), 2);
    w.delivers_mail = true;
    w.settle();
    assert_eq!(w.messages(to).len(), 3);
    w.end();
}

/// Whoever publishes much waits before there is nothing left for others.
#[test]
fn a_flood_of_qos_0_leaves_a_reserve_of_the_credit_to_others() {
    for retain in [false, true] {
        let mut w = World::new(2);
        w.credit = 8;
        let (from, to) = across(&mut w, Q0);
        let other = w.connect(Version::V5, &w.id_on(0, "other"));
        w.subscribe(to, "b", Q0);
        let topic = w.topic_on(1, "c");
        w.delivers_mail = false;
        for n in 0..20 {
            match retain {
                true => w.retain(from, &topic, &[b'a' + n], Q0),
                false => w.publish(from, "a", &[b'a' + n], Q0),
            }
        }
        assert!(w.peers[from].paused && !w.peers[from].unread.is_empty());
        w.publish(other, "b", b"x", Q0);
        w.delivers_mail = true;
        w.settle();
        let texts = w.texts(to);
        assert_eq!(texts.len(), if retain { 1 } else { 21 });
        assert!(texts.contains(&"x".into()));
        assert_eq!(w.totals().publish_dropped.total(), 0);
        w.end();
    }
}

#[test]
fn without_credit_publishers_wait_and_nothing_is_lost() {
    for qos in [Q0, Q1, Q2] {
        let mut w = World::new(2);
        w.credit = 4;
        let (from, to) = across(&mut w, Q2);
        w.delivers_mail = false;
        for n in 0..20 {
            w.publish(from, "a", &[b'a' + n], qos);
        }
        assert!(w.peers[from].paused && !w.peers[from].unread.is_empty());
        assert_eq!(w.totals().reads_paused, 1);
        w.delivers_mail = true;
        w.settle();
        let expected: Vec<_> = (0..20).map(|n| char::from(b'a' + n).to_string()).collect();
        assert_eq!(w.texts(to), expected);
        assert!(!w.peers[from].paused);
        assert_eq!(w.totals().publish_dropped.total(), 0);
        w.end();
    }
}

#[test]
fn a_publisher_that_is_not_read_from_is_not_blamed_for_its_silence() {
    let mut w = World::new(2);
    w.credit = 1;
    let mut connect = hello(Version::V5, "");
    let id = w.id_on(0, "from");
    (connect.client_id, connect.keep_alive) = (&id, 10);
    let from = w.connected(&connect);
    let to = w.connect(Version::V5, &w.id_on(1, "to"));
    w.subscribe(to, "a", Q1);
    w.delivers_mail = false;
    for _ in 0..3 {
        w.publish(from, "a", b"x", Q1);
    }
    assert!(w.peers[from].paused);
    for _ in 0..5 {
        w.send(from, &Packet::Pingreq);
        w.advance(10_000);
    }
    assert!(!w.is_closed(from), "its PINGREQs lie in the socket");
    w.delivers_mail = true;
    w.settle();
    assert_eq!(w.messages(to).len(), 3);
    w.advance(14_000);
    assert!(!w.is_closed(from));
    w.advance(2_000);
    assert_eq!(w.got(from).pop(), Some(Got::Disconnect(ReasonCode::KeepAliveTimeout)));
    w.end();
}

#[test]
fn a_slow_consumer_loses_qos_0_beyond_its_outbox_and_keeps_qos_1() {
    let mut w = World::with(1, |c| c.max_outbox_bytes = 1_000);
    let from = w.connect(Version::V5, "from");
    let to = w.connect(Version::V5, "to");
    w.subscribe(to, "#", Q1);
    w.peers[to].room = 0;
    for _ in 0..20 {
        w.publish(from, "zero", &[b'0'; 94], Q0);
    }
    let dropped = w.dropped(DropReason::OutboxFull);
    assert!((9..=10).contains(&dropped), "{dropped}");
    for n in 0..5 {
        w.publish(from, "one", &[b'a' + n], Q1);
    }
    assert_eq!(w.totals().queued_messages, 5);
    w.make_room(to, usize::MAX);
    let messages = w.messages(to);
    let one: Vec<_> = messages.iter().filter(|m| m.qos == 1).map(|m| m.text()).collect();
    assert_eq!(one, ["a", "b", "c", "d", "e"]);
    assert_eq!(messages.len() as u64, 25 - dropped);
    assert_eq!(w.dropped(DropReason::OutboxFull), dropped);
    w.publish(from, "one", b"f", Q1);
    assert_eq!(w.texts(to), ["f"], "and goes on as if nothing had been");
    w.end();
}

#[test]
fn an_outbox_that_was_full_within_one_turn_does_not_strand_the_queue() {
    let mut w = World::with(1, |c| c.max_outbox_bytes = 1_000);
    let from = w.connect(Version::V5, "from");
    let to = w.connect(Version::V5, "to");
    w.subscribe(to, "#", Q1);
    // All of it in one turn, and the socket takes it all.
    for n in 0..20 {
        let qos = if n % 2 == 0 { Q0 } else { Q1 };
        let packet_id = (qos > Q0).then(|| w.id());
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic: "a",
            packet_id,
            properties: <_>::default(),
            payload: &[b'x'; 300],
        };
        w.peers[from].send(&Packet::Publish(publish));
    }
    w.peers[to].acknowledges = false;
    w.settle();
    let messages = w.messages(to);
    assert_eq!(messages.iter().filter(|m| m.qos == 1).count(), 10);
    assert_eq!(w.totals().queued_messages, 0);
    w.end();
}

#[test]
fn a_client_that_takes_nothing_for_too_long_is_closed() {
    let mut w = World::with(1, |c| (c.send_timeout, c.linger) = (5_000, 1_000));
    let from = w.connect(Version::V5, "from");
    let to = w.connect(Version::V5, "to");
    w.subscribe(to, "#", Q0);
    w.peers[to].room = 10;
    w.publish(from, "a", &[b'x'; 100], Q0);
    w.advance(4_000);
    w.make_room(to, 10);
    w.advance(4_500);
    assert!(!w.is_closed(to), "some progress was made");
    w.advance(800);
    assert_eq!(w.totals().clients_connected, 1);
    // The outbox is full, so the DISCONNECT may never be read; if it is, it says why.
    w.make_room(to, usize::MAX);
    let got = w.got(to);
    assert_eq!(got.last(), Some(&Got::Disconnect(ReasonCode::QuotaExceeded)));
    assert_eq!(w.closed(CloseReason::SlowConsumer), 1);

    let to = w.connect(Version::V5, "to");
    w.subscribe(to, "#", Q0);
    w.peers[to].room = 0;
    w.publish(from, "a", &[b'x'; 100], Q0);
    w.advance(6_500);
    assert!(w.peers[to].aborted, "after the linger time");
    assert_eq!(w.closed(CloseReason::SlowConsumer), 2);
    w.end();
}

#[test]
fn a_greedy_client_yields_after_its_share_of_packets() {
    let mut w = World::with(1, |c| c.packets_per_turn = 4);
    let greedy = w.connect(Version::V5, "greedy");
    let modest = w.connect(Version::V5, "modest");
    for _ in 0..10 {
        w.peers[greedy].send(&Packet::Pingreq);
    }
    w.peers[modest].send(&Packet::Pingreq);
    w.turn(0);
    assert_eq!((w.got(greedy).len(), w.got(modest).len()), (4, 1));
    w.settle();
    assert_eq!(w.got(greedy).len(), 6);
    w.end();
}

#[test]
fn a_client_that_causes_much_output_yields() {
    let mut w = World::new(1);
    let receivers: Vec<_> = (0..100)
        .map(|n| {
            let c = w.connect(Version::V5, &format!("to{n}"));
            w.subscribe_with(c, "#", SubscriptionOptions::new(Q0), 1);
            c
        })
        .collect();
    let from = w.connect(Version::V5, "from");
    for _ in 0..400 {
        w.peers[from].send(&Packet::Publish(large()));
    }
    let key = w.peers[from].key.unwrap();
    let bytes = std::mem::take(&mut w.peers[from].unread);
    let progress = w.brokers[0].on_bytes(w.now, key, &bytes);
    assert_eq!(progress.next, crate::broker::NextStep::Yield);
    assert!(w.brokers[0].encoded_bytes() < 17 << 20, "{}", w.brokers[0].encoded_bytes());
    w.peers[from].unread = bytes[progress.consumed..].to_vec();
    w.settle();
    for to in receivers {
        assert_eq!(w.messages(to).len(), 400);
    }
    w.end();
}

/// As large as is copied for each receiver.
fn large() -> Publish<'static> {
    Publish {
        dup: false,
        qos: Q0,
        retain: false,
        topic: "a",
        packet_id: None,
        properties: <_>::default(),
        payload: &[b'x'; 500],
    }
}

#[test]
fn much_mail_in_one_turn_does_not_hold_everything_in_one_piece() {
    let mut w = World::new(2);
    w.credit = 10_000;
    let receivers: Vec<_> = (0..100)
        .map(|n| {
            let c = w.connect(Version::V5, &w.id_on(1, &format!("to{n}")));
            w.subscribe_with(c, "#", SubscriptionOptions::new(Q0), 1);
            c
        })
        .collect();
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    w.delivers_mail = false;
    for _ in 0..1_500 {
        w.send(from, &Packet::Publish(large()));
    }
    while w.deliver_batch(0, 1) {
        assert!(w.brokers[1].encoded_bytes() < 65 << 20, "{}", w.brokers[1].encoded_bytes());
    }
    w.settle();
    for to in receivers {
        assert_eq!(w.messages(to).len(), 1_500);
    }
    w.end();
}

#[test]
fn whoever_sends_without_reading_is_not_read_from() {
    let mut w = World::with(1, |c| c.max_outbox_bytes = 1_000);
    let c = w.connect(Version::V5, "c");
    w.peers[c].room = 0;
    for _ in 0..2_000 {
        w.peers[c].send(&Packet::Pingreq);
    }
    w.settle();
    assert!(w.peers[c].paused);
    let left = w.peers[c].unread.len();
    assert!(left > 1_000, "{left} bytes left");
    w.make_room(c, 600);
    assert!(w.peers[c].paused || w.peers[c].unread.len() < left);
    w.make_room(c, usize::MAX);
    assert_eq!(w.got(c).len(), 2_000);
    assert!(!w.peers[c].paused);
    w.end();
}

#[test]
fn a_connection_whose_writing_fails_while_it_is_paused_is_read_again() {
    let mut w = World::with(1, |c| c.max_outbox_bytes = 1_000);
    let c = w.connect(Version::V5, "c");
    w.peers[c].room = 0;
    for _ in 0..2_000 {
        w.peers[c].send(&Packet::Pingreq);
    }
    w.settle();
    assert!(w.peers[c].paused);
    let key = w.peers[c].key.unwrap();
    w.brokers[0].on_write_failed(key);
    w.settle();
    assert!(!w.peers[c].paused, "reading finds out that the connection is gone");
    w.end();
}

#[test]
fn short_writes_keep_every_stream_whole() {
    let mut w = World::with(2, |c| c.max_outbox_bytes = 100_000);
    let from = w.connect(Version::V5, "from");
    let slow: Vec<_> = (0..4)
        .map(|n| {
            let c = w.connect(Version::V5, &format!("slow{n}"));
            w.subscribe(c, "#", if n % 2 == 0 { Q0 } else { Q2 });
            w.peers[c].room = 0;
            c
        })
        .collect();
    for n in 0..100u32 {
        let payload = vec![b'x'; (n * 13 % 700) as usize];
        w.publish(from, "a", &payload, if n % 3 == 0 { Q0 } else { Q2 });
        for c in &slow {
            w.make_room(*c, (n as usize * 31 + c) % 97);
        }
    }
    for c in slow {
        w.make_room(c, usize::MAX);
        let sizes = w.messages(c);
        let mut sizes: Vec<_> = sizes.iter().map(|m| (m.qos, m.payload.len())).collect();
        // Within one QoS the order is that of publishing.
        sizes.sort_by_key(|(qos, _)| *qos);
        let expected = |zero: bool| {
            let numbers = (0..100u32).filter(move |n| (n % 3 == 0) == zero);
            numbers.map(|n| (n * 13 % 700) as usize).collect::<Vec<_>>()
        };
        let (zero, two): (Vec<_>, Vec<_>) = sizes.into_iter().partition(|(qos, _)| *qos == 0);
        if two.is_empty() {
            assert_eq!(zero.len(), 100);
        } else {
            assert_eq!(zero.iter().map(|(_, n)| *n).collect::<Vec<_>>(), expected(true));
            assert_eq!(two.iter().map(|(_, n)| *n).collect::<Vec<_>>(), expected(false));
        }
    }
    w.end();
}

#[test]
fn a_starved_publisher_is_not_read_from_because_it_has_taken_its_answers() {
    let mut w = World::with(2, |c| c.max_outbox_bytes = 1_000);
    w.credit = 1;
    let (from, to) = across(&mut w, Q1);
    w.subscribe(from, "own", Q0);
    w.peers[from].room = 0;
    for _ in 0..8 {
        w.publish(from, "own", &[b'o'; 94], Q0);
    }
    w.delivers_mail = false;
    for _ in 0..4 {
        w.publish(from, "a", b"x", Q1);
    }
    assert!(w.peers[from].paused);
    let unread = w.peers[from].unread.len();
    assert!(unread > 0);
    w.make_room(from, usize::MAX);
    assert!(w.peers[from].paused, "the other shard has not caught up");
    assert_eq!(w.peers[from].unread.len(), unread);
    w.delivers_mail = true;
    w.settle();
    assert!(!w.peers[from].paused);
    assert_eq!(w.messages(to).len(), 4);
    w.end();
}

#[test]
fn a_publisher_that_does_not_read_is_not_read_from_because_others_have_caught_up() {
    let mut w = World::with(2, |c| c.max_outbox_bytes = 1_000);
    w.credit = 1;
    let (from, to) = across(&mut w, Q1);
    w.subscribe(from, "#", Q0);
    w.peers[from].room = 0;
    w.publish(from, "own", &[b'o'; 1_100], Q0);
    w.delivers_mail = false;
    w.publish(from, "a", b"1", Q1);
    w.publish(from, "a", b"2", Q1);
    w.publish(from, "a", b"3", Q1);
    assert!(w.peers[from].paused);
    let unread = w.peers[from].unread.len();
    w.delivers_mail = true;
    w.settle();
    assert!(w.peers[from].paused, "its outbox is full");
    assert_eq!(w.peers[from].unread.len(), unread);
    w.make_room(from, usize::MAX);
    assert_eq!(w.messages(to).len(), 3);
    w.end();
}
