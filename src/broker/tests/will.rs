//! Wills: when they are published, and when not.

use super::world::*;
use crate::{codec::*, stats::CloseReason};

fn with_will(version: Version, id: &str, delay: u32) -> Connect<'_> {
    let properties = WillProperties { delay_interval: delay, ..<_>::default() };
    let will = Will { topic: "will", payload: b"gone", qos: Q1, retain: false, properties };
    Connect { will: Some(will), ..staying(version, id) }
}

fn world() -> (World, C) {
    let mut w = World::new(2);
    let watcher = w.connect(Version::V5, "watcher");
    w.subscribe(watcher, "will", Q1);
    (w, watcher)
}

#[test]
fn a_lost_connection_publishes_the_will_and_a_disconnect_does_not() {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        let (mut w, watcher) = world();
        let c = w.connected(&with_will(version, "c", 0));
        w.disconnect(c);
        assert!(w.messages(watcher).is_empty());
        let c = w.connected(&with_will(version, "c", 0));
        w.cut(c);
        assert_eq!(w.texts(watcher), ["gone"]);
        assert_eq!(w.totals().wills_published, 1);
        w.advance(7_300_000);
        assert!(w.messages(watcher).is_empty(), "only once");
        w.end();
    }
}

#[test]
fn a_disconnect_can_ask_for_the_will() {
    let (mut w, watcher) = world();
    let c = w.connected(&with_will(Version::V5, "c", 0));
    w.send(c, &Packet::Disconnect(Disconnect::new(ReasonCode::DisconnectWithWillMessage)));
    assert_eq!(w.texts(watcher), ["gone"]);
    w.end();
}

#[test]
fn a_violation_publishes_the_will() {
    let (mut w, watcher) = world();
    let c = w.connected(&with_will(Version::V5, "c", 0));
    w.send_bytes(c, &[0xFF, 0xFF]);
    assert_eq!(w.texts(watcher), ["gone"]);
    assert_eq!(w.closed(CloseReason::MalformedPacket), 1);
    w.end();
}

/// Shows: MQTT5-3.1.2-8, MQTT5-3.1.3-9
#[test]
fn a_delayed_will_waits_and_a_return_cancels_it() {
    let (mut w, watcher) = world();
    let c = w.connected(&with_will(Version::V5, "c", 10));
    w.cut(c);
    w.advance(9_800);
    assert!(w.messages(watcher).is_empty());
    let c = w.connected(&staying(Version::V5, "c"));
    w.advance(20_000);
    assert!(w.messages(watcher).is_empty(), "cancelled");
    w.cut(c);
    w.advance(20_000);
    assert!(w.messages(watcher).is_empty(), "the new connection had none");

    let c = w.connected(&with_will(Version::V5, "c", 10));
    w.cut(c);
    w.advance(10_300);
    assert_eq!(w.texts(watcher), ["gone"]);
    w.end();
}

#[test]
fn the_end_of_the_session_does_not_wait_for_the_delay() {
    let (mut w, watcher) = world();
    let mut connect = with_will(Version::V5, "c", 1_000);
    connect.properties.session_expiry_interval = Some(5);
    let c = w.connected(&connect);
    w.cut(c);
    w.advance(5_300);
    assert_eq!(w.texts(watcher), ["gone"], "expired");
    let c = w.connected(&connect);
    w.cut(c);
    w.connect(Version::V5, "c");
    assert_eq!(w.texts(watcher), ["gone"], "clean start");
    connect.properties.session_expiry_interval = None;
    let c = w.connected(&connect);
    w.cut(c);
    assert_eq!(w.texts(watcher), ["gone"], "ended with its connection");
    w.end();
}

#[test]
fn a_take_over_publishes_a_will_without_delay_only() {
    for (delay, texts) in [(0, &["gone"][..]), (10, &[])] {
        let (mut w, watcher) = world();
        w.connected(&with_will(Version::V5, "c", delay));
        w.connected(&staying(Version::V5, "c"));
        w.advance(20_000);
        assert_eq!(w.texts(watcher), texts);
        w.end();
    }
}

#[test]
fn the_expiry_interval_of_a_will_starts_when_it_is_published() {
    let (mut w, watcher) = world();
    let mut connect = with_will(Version::V5, "c", 10);
    let Some(will) = &mut connect.will else { panic!() };
    will.properties.publish.message_expiry_interval = Some(30);
    will.properties.publish.content_type = Some("text");
    let c = w.connected(&connect);
    w.advance(100_000);
    w.cut(c);
    w.advance(10_300);
    let message = w.messages(watcher).pop().unwrap();
    assert_eq!(message.expiry, Some(30));
    assert_eq!(message.forwarded.0.as_deref(), Some("text"));
    w.end();
}

#[test]
fn a_retained_will_is_kept() {
    let (mut w, _) = world();
    let mut connect = with_will(Version::V5, "c", 0);
    let Some(will) = &mut connect.will else { panic!() };
    will.retain = true;
    let c = w.connected(&connect);
    w.cut(c);
    let late = w.connect(Version::V3_1_1, "late");
    w.subscribe(late, "#", Q0);
    assert!(w.messages(late)[0].retain);
    w.end();
}

#[test]
fn wills_that_are_refused() {
    type Change = fn(&mut crate::broker::Config);
    let cases: [(Change, &str, QoS, bool, ReasonCode); 4] = [
        (|_| (), "a/+", Q0, false, ReasonCode::TopicNameInvalid),
        (|_| (), "$SYS/broker/version", Q0, false, ReasonCode::NotAuthorized),
        (|c| c.max_qos = Q0, "a", Q1, false, ReasonCode::QoSNotSupported),
        (|c| c.retain_available = false, "a", Q0, true, ReasonCode::RetainNotSupported),
    ];
    for (change, topic, qos, retain, reason) in cases {
        let mut w = World::with(1, change);
        let will = Will { topic, payload: b"", qos, retain, properties: <_>::default() };
        let c = w.connect_with(&Connect { will: Some(will), ..hello(Version::V5, "c") });
        let got = w.got(c);
        assert!(matches!(got[..], [super::peer::Got::Connack { reason: r, .. }] if r == reason));
        assert!(w.is_closed(c));
        w.end();
    }
}

/// It is a message of the client's own, whose session may still be there.
#[test]
fn mqtt5_3_8_3_3_no_local_holds_for_the_will_too() {
    let (mut w, watcher) = world();
    for no_local in [true, false] {
        let c = w.connected(&with_will(Version::V5, "c", 0));
        w.subscribe_with(
            c,
            "+",
            SubscriptionOptions { no_local, ..SubscriptionOptions::new(Q1) },
            0,
        );
        w.cut(c);
        assert_eq!(w.texts(watcher), ["gone"]);
        let (c, present) = w.resumed(&staying(Version::V5, "c"));
        assert!(present);
        assert_eq!(w.messages(c).len(), usize::from(!no_local));
    }
    w.end();
}
