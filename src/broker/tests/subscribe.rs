//! Subscriptions: overlapping ones, options, caps, and the answers to them.

use super::{peer::Got, world::*};
use crate::{codec::*, stats::CloseReason};

fn options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions::new(qos)
}

#[test]
fn overlapping_subscriptions_give_one_copy_with_all_identifiers() {
    let mut w = World::new(2);
    let from = w.connect(Version::V5, "from");
    let to = w.connect(Version::V5, "to");
    w.subscribe_with(to, "a/#", options(Q0), 7);
    w.subscribe_with(to, "a/+", options(Q2), 9);
    w.subscribe_with(to, "b", options(Q2), 11);
    w.publish(from, "a/b", b"x", Q2);
    let messages = w.messages(to);
    assert_eq!((messages.len(), messages[0].qos), (1, 2));
    let mut ids = messages[0].ids.clone();
    ids.sort_unstable();
    assert_eq!(ids, [7, 9]);
    w.end();
}

#[test]
fn a_subscription_is_replaced_by_the_same_filter() {
    let mut w = World::new(1);
    let to = w.connect(Version::V5, "to");
    w.subscribe_with(to, "a", options(Q2), 1);
    w.subscribe_with(to, "a", options(Q0), 2);
    w.publish(to, "a", b"x", Q0);
    let messages = w.messages(to);
    assert_eq!((messages.len(), messages[0].qos, &messages[0].ids[..]), (1, 0, &[2][..]));
    assert_eq!(w.totals().subscriptions, 1);
    w.unsubscribe(to, "a");
    w.unsubscribe(to, "a");
    let got = w.got(to);
    let reasons = |got: &Got| match got {
        Got::Unsuback(_, reasons) => reasons.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(reasons(&got[0]), [ReasonCode::Success]);
    assert_eq!(reasons(&got[1]), [ReasonCode::NoSubscriptionExisted]);
    w.end();
}

#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    let other = w.connect(Version::V5, "other");
    w.subscribe_with(c, "a", SubscriptionOptions { no_local: true, ..options(Q0) }, 0);
    w.publish(c, "a", b"mine", Q0);
    w.publish(other, "a", b"theirs", Q0);
    assert_eq!(w.texts(c), ["theirs"]);
    // A second subscription without the option delivers after all.
    w.subscribe(c, "+", Q0);
    w.publish(c, "a", b"mine", Q0);
    assert_eq!(w.texts(c), ["mine"]);
    w.end();
}

#[test]
fn retain_as_published_keeps_the_flag() {
    let mut w = World::new(2);
    let from = w.connect(Version::V3_1_1, "from");
    let keeps = w.connect(Version::V5, "keeps");
    let plain = w.connect(Version::V5, "plain");
    w.subscribe_with(
        keeps,
        "a",
        SubscriptionOptions { retain_as_published: true, ..options(Q1) },
        0,
    );
    w.subscribe(plain, "a", Q1);
    w.retain(from, "a", b"x", Q1);
    assert!(w.messages(keeps)[0].retain);
    assert!(!w.messages(plain)[0].retain);
    w.end();
}

#[test]
fn dollar_topics_are_kept_out_of_wildcards() {
    let mut w = World::new(1);
    let c = w.connect(Version::V3_1_1, "c");
    for filter in ["#", "+/x", "$mine/#"] {
        w.subscribe(c, filter, Q0);
    }
    w.publish(c, "$mine/x", b"1", Q0);
    w.publish(c, "mine/x", b"2", Q0);
    assert_eq!(w.texts(c), ["1", "2"]);
    w.end();
}

#[test]
fn each_filter_of_a_subscribe_has_its_answer() {
    let mut w = World::with(1, |c| {
        c.max_subscriptions = 3;
        c.max_qos = Q1;
        c.max_topic_levels = 4;
    });
    let c = w.connect(Version::V5, "c");
    let id = w.ask(
        c,
        &[
            ("a", options(Q2)),
            ("a/#/b", options(Q0)),
            ("$share//a", options(Q0)),
            ("a/b/c/d/e", options(Q0)),
            ("b", options(Q0)),
            ("$share/g/c", options(Q1)),
            ("d", options(Q0)),
            ("$share/h/d", options(Q0)),
            ("a", options(Q0)),
        ],
        0,
    );
    use ReasonCode as R;
    assert_eq!(
        w.got(c),
        [Got::Suback(
            id,
            vec![
                R::granted(Q1),
                R::TopicFilterInvalid,
                R::TopicFilterInvalid,
                R::TopicFilterInvalid,
                R::granted(Q0),
                R::granted(Q1),
                R::QuotaExceeded,
                R::QuotaExceeded,
                R::granted(Q0),
            ]
        )]
    );
    assert_eq!(w.totals().subscriptions, 3);
    w.end();
}

#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    // Written by hand, for the codec does not write it.
    w.send_bytes(c, &[0x82, 13, 0, 1, 0, 0, 7, b'$', b's', b'h', b'a', b'r', b'e', b'/', 4]);
    assert!(w.is_closed(c));
    w.end();
}

#[test]
fn a_message_published_after_suback_reaches_the_subscriber_on_another_shard() {
    let mut w = World::new(4);
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    for shard in 0..4 {
        let to = w.connect(Version::V5, &w.id_on(shard, "to"));
        w.subscribe(to, "x/+/#", Q1);
        w.publish(from, "x/y", b"now", Q1);
        assert_eq!(w.texts(to), ["now"]);
        w.unsubscribe(to, "x/+/#");
        w.publish(from, "x/y", b"no more", Q1);
        assert!(w.messages(to).is_empty());
    }
    w.end();
}

#[test]
fn packets_in_the_wrong_place_end_the_connection() {
    let server_only: [&[u8]; 4] =
        [&[0x20, 3, 0, 0, 0], &[0x90, 4, 0, 1, 0, 0], &[0xD0, 0], &[0xB0, 4, 0, 1, 0, 0]];
    for bytes in server_only {
        let mut w = World::new(1);
        let c = w.connect(Version::V5, "c");
        w.send_bytes(c, bytes);
        assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::ProtocolError)]);
        w.end();
    }
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    w.send(c, &Packet::Connect(hello(Version::V5, "c")));
    assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::ProtocolError)]);
    let c = w.open(Version::V5);
    w.send(c, &Packet::Pingreq);
    assert!(w.got(c).is_empty() && w.is_closed(c) && w.peers[c].aborted);
    w.end();
}

#[test]
fn bytes_one_at_a_time_are_as_good_as_at_once() {
    let mut w = World::new(2);
    let mut bytes = Vec::new();
    Packet::Connect(hello(Version::V5, "slow")).encode(Version::V5, &mut bytes).unwrap();
    Packet::Pingreq.encode(Version::V5, &mut bytes).unwrap();
    let c = w.open(Version::V5);
    for byte in bytes {
        w.send_bytes(c, &[byte]);
    }
    let got = w.got(c);
    assert!(matches!(got[..], [Got::Connack { reason: ReasonCode::Success, .. }, Got::Pingresp]));
    w.end();
}

#[test]
fn a_wildcard_filter_may_not_be_too_deep_to_be_found_by_hash() {
    for (version, refused) in [
        (Version::V5, ReasonCode::TopicFilterInvalid),
        (Version::V3_1_1, ReasonCode::UnspecifiedError),
    ] {
        let mut w = World::new(1);
        let c = w.connect(version, "c");
        let deep = "a/".repeat(32);
        let (plus, hash) = (format!("{deep}+"), format!("{deep}a/#"));
        let (shared, exact) = (format!("$share/g/{plus}"), format!("{deep}a"));
        let last = format!("{deep}#");
        let filters = [&plus, &hash, &shared, &exact, &last].map(|f| (f.as_str(), options(Q0)));
        let id = w.ask(c, &filters, 0);
        let granted = ReasonCode::granted(Q0);
        assert_eq!(w.got(c), [Got::Suback(id, vec![refused, refused, refused, granted, granted])]);
        w.end();
    }
}

/// Filters of as many shapes as asked for.
/// MQTT 3.1.1, 4.7.1 and 4.8: a violation of the protocol. MQTT 5 has a reason code for it.
#[test]
fn an_unsubscribe_with_an_invalid_filter_ends_the_connection_before_mqtt_5() {
    let invalid = ["a/#/b", "#/", "a#", "+a/b"];
    for (version, filter) in
        [Version::V3_1, Version::V3_1_1].iter().flat_map(|v| invalid.map(|filter| (*v, filter)))
    {
        let mut w = World::new(1);
        let c = w.connect(version, "c");
        w.unsubscribe(c, filter);
        assert_eq!(w.got(c), [], "{version:?} {filter}");
        assert!(w.is_closed(c));
        assert_eq!(w.closed(CloseReason::ProtocolError), 1);
        w.end();
    }
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    for filter in invalid {
        w.unsubscribe(c, filter);
        let got = w.got(c);
        let reasons = [ReasonCode::TopicFilterInvalid];
        assert!(matches!(&got[..], [Got::Unsuback(_, r)] if *r == reasons), "{filter}: {got:?}");
    }
    w.end();
}

fn shapes(count: u32) -> Vec<String> {
    let level = |shape: u32, at: u32| if shape >> at & 1 == 1 { "+" } else { "a" };
    let filter = |shape: u32| (0..8).map(|at| level(shape, at)).collect::<Vec<_>>().join("/");
    (1..=count).map(filter).collect()
}

#[test]
fn filters_beyond_the_shapes_are_capped_for_a_session_and_for_a_shard() {
    let mut w = World::with(1, |c| {
        c.max_filter_shapes = 10;
        c.max_unshaped_filters = 70;
    });
    let (a, b) = (w.connect(Version::V5, "a"), w.connect(Version::V5, "b"));
    let filters = shapes(100);
    let all: Vec<_> = filters.iter().map(|f| (f.as_str(), options(Q0))).collect();
    let (granted, refused) = (ReasonCode::granted(Q0), ReasonCode::QuotaExceeded);
    let id = w.ask(a, &all, 0);
    let expected: Vec<_> = (0..100).map(|n| if n < 74 { granted } else { refused }).collect();
    assert_eq!(w.got(a), [Got::Suback(id, expected)]);
    // The shard has room for six more, and for what it has already.
    let id = w.ask(b, &all[74..], 0);
    let expected: Vec<_> = (0..26).map(|n| if n < 6 { granted } else { refused }).collect();
    assert_eq!(w.got(b), [Got::Suback(id, expected)]);
    let id = w.ask(b, &all[..12], 0);
    assert_eq!(w.got(b), [Got::Suback(id, vec![granted; 12])]);
    // A place that is given up can be taken again; what exists can be replaced.
    w.unsubscribe(a, &filters[20]);
    w.got(a);
    let id = w.ask(a, &[all[99], all[98], all[21]], 0);
    assert_eq!(w.got(a), [Got::Suback(id, vec![granted, refused, granted])]);
    w.end();
}

#[test]
fn steps_of_matching_without_a_shape_end_a_turn() {
    let mut w = World::with(1, |c| c.max_filter_shapes = 1);
    let c = w.connect(Version::V5, "c");
    let filters = shapes(60);
    for filter in &filters {
        w.subscribe(c, filter, Q0);
    }
    let from = w.connect(Version::V5, "from");
    for _ in 0..500 {
        w.peers[from]
            .send(&Packet::Publish(Publish { topic: "a/a/a/a/a/a/a/b", ..Publish::default() }));
    }
    let unread = w.peers[from].unread.len();
    w.turn(0);
    let left = w.peers[from].unread.len();
    assert!(left > unread / 2, "{left} of {unread} bytes are left for the next turn");
    w.settle();
    assert!(w.peers[from].unread.is_empty());
    w.end();
}

#[test]
fn the_text_of_a_sessions_filters_is_capped() {
    let mut w = World::with(1, |c| c.max_subscription_bytes = 1_000);
    let c = w.connected(&staying(Version::V5, "c"));
    let (granted, refused) = (ReasonCode::granted(Q0), ReasonCode::QuotaExceeded);
    let of = |n: usize, byte: &str| format!("{n:02}/{}", byte.repeat(47));
    for n in 0..19 {
        w.subscribe(c, &of(n, "x"), Q0);
    }
    let shared = format!("$share/g/{}", "y".repeat(41));
    let id = w.ask(c, &[(&shared, options(Q0)), ("a", options(Q0))], 0);
    assert_eq!(w.got(c), [Got::Suback(id, vec![granted, refused])]);
    // What exists can be replaced, and what is given up can be used again.
    let first = of(0, "x");
    let id = w.ask(c, &[(&first, options(Q0)), (&shared, options(Q0))], 0);
    assert_eq!(w.got(c), [Got::Suback(id, vec![granted, granted])]);
    w.unsubscribe(c, &shared);
    w.unsubscribe(c, &first);
    w.got(c);
    let (long, fits) = ("l".repeat(101), "l".repeat(100));
    let id = w.ask(c, &[(&long, options(Q0)), (&fits, options(Q0))], 0);
    assert_eq!(w.got(c), [Got::Suback(id, vec![refused, granted])]);
    w.end();
}

#[test]
fn the_rest_of_a_very_long_subscribe_is_refused_and_filters_end_a_turn() {
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    let plain: Vec<String> = (0..600).map(|n| format!("f/{n}")).collect();
    let shared: Vec<String> = (0..600).map(|n| format!("$share/g/{n}")).collect();
    let filters: Vec<_> = plain.iter().chain(&shared).map(|f| (f.as_str(), options(Q0))).collect();
    let id = w.ask(c, &filters, 0);
    let (granted, refused) = (ReasonCode::granted(Q0), ReasonCode::QuotaExceeded);
    let expected = (0..1_200).map(|n| if n < 1_024 { granted } else { refused }).collect();
    assert_eq!(w.got(c), [Got::Suback(id, expected)]);
    assert_eq!((w.totals().subscriptions, w.totals().shared_subscriptions), (1_024, 424));
    for _ in 0..40 {
        let subscribe = Subscribe {
            packet_id: w.id(),
            subscription_id: None,
            user_properties: <_>::default(),
            filters: filters[..].into(),
        };
        w.peers[c].send(&Packet::Subscribe(subscribe));
    }
    let unread = w.peers[c].unread.len();
    w.turn(0);
    let left = w.peers[c].unread.len();
    assert!(left > unread / 2, "{left} of {unread} bytes are left for the next turn");
    w.settle();
    assert_eq!(w.got(c).len(), 40);
    for filter in [&shared[3], &shared[423], &shared[3], &plain[0], &shared[424]] {
        w.unsubscribe(c, filter);
    }
    let reasons = w.got(c).into_iter().map(|got| match got {
        Got::Unsuback(_, reasons) => reasons[0],
        other => panic!("{other:?}"),
    });
    use ReasonCode as R;
    let (yes, no) = (R::Success, R::NoSubscriptionExisted);
    assert_eq!(reasons.collect::<Vec<_>>(), [yes, yes, no, yes, no]);
    w.end();
}
