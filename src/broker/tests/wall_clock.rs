//! Steps of the wall clock: nothing that is due follows them.

use super::{peer::Got, world::*};
use crate::codec::*;

/// Milliseconds.
const YEAR: u64 = 365 * 24 * 3_600_000;

/// Worlds whose wall clock is set, before whatever is due comes due: not at all, a year ahead, a
/// year back, and to a time before it began to count. With a store and without one.
fn with_steps(body: impl Fn(&mut World, &dyn Fn(&mut World))) {
    for step in [|unix| unix, |unix| unix + YEAR, |unix| unix - YEAR, |_| 0] {
        for mut w in [World::new(2), World::durable(2)] {
            w.acknowledges = true;
            body(&mut w, &|w| {
                w.now.unix = step(w.now.unix);
                w.jump(0);
            });
            w.end();
        }
    }
}

#[test]
fn a_keep_alive_is_not_over_sooner_or_later() {
    with_steps(|w, step| {
        let mut connect = hello(Version::V5, "c");
        connect.keep_alive = 20;
        let c = w.connected(&connect);
        step(w);
        w.advance(29_800);
        assert!(!w.is_closed(c));
        w.send(c, &Packet::Pingreq);
        assert_eq!(w.got(c), [Got::Pingresp]);
        step(w);
        w.advance(29_800);
        assert!(!w.is_closed(c));
        w.advance(500);
        assert!(w.is_closed(c));
    });
}

#[test]
fn a_connection_without_connect_has_its_time() {
    with_steps(|w, step| {
        let c = w.open(Version::V5);
        step(w);
        w.advance(9_800);
        assert!(!w.is_closed(c));
        w.advance(300);
        assert!(w.is_closed(c));
    });
}

#[test]
fn a_session_lasts_as_long_as_agreed() {
    with_steps(|w, step| {
        let mut connect = staying(Version::V5, "c");
        connect.properties.session_expiry_interval = Some(60);
        let c = w.connected(&connect);
        w.cut(c);
        step(w);
        w.advance(59_500);
        let (c, present) = w.resumed(&connect);
        assert!(present);
        w.cut(c);
        step(w);
        w.advance(60_500);
        assert!(!w.resumed(&connect).1);
    });
}

#[test]
fn a_delayed_will_comes_when_it_is_due() {
    with_steps(|w, step| {
        let heir = w.connect(Version::V5, "heir");
        w.subscribe(heir, "will", Q1);
        let properties = WillProperties { delay_interval: 10, ..<_>::default() };
        let will = Will { topic: "will", payload: b"x", qos: Q0, retain: false, properties };
        let mut connect = staying(Version::V5, "c");
        connect.will = Some(will);
        let c = w.connected(&connect);
        w.cut(c);
        step(w);
        w.advance(9_500);
        assert!(w.got(heir).is_empty());
        w.advance(1_000);
        assert_eq!(w.texts(heir), ["x"]);
    });
}

#[test]
fn messages_expire_when_they_said_they_would() {
    with_steps(|w, step| {
        let away = w.connected(&staying(Version::V5, "away"));
        w.subscribe(away, "t/#", Q1);
        w.cut(away);
        let from = w.connect(Version::V5, "from");
        for (topic, seconds) in [("t/short", 5), ("t/long", 30)] {
            let properties =
                PublishProperties { message_expiry_interval: Some(seconds), ..<_>::default() };
            // One waits in a queue, and one is retained.
            w.publish_with(from, topic, b"x", Q1, true, properties);
        }
        step(w);
        w.advance(10_000);
        let expected = [("t/long", Some(20))];
        let away = w.connected(&staying(Version::V5, "away"));
        let queued = w.messages(away);
        let late = w.connect(Version::V5, "late");
        w.subscribe(late, "t/#", Q0);
        let retained = w.messages(late);
        for messages in [queued, retained] {
            let seen: Vec<_> = messages.iter().map(|m| (&*m.topic, m.expiry)).collect();
            assert_eq!(seen, expected);
        }
        w.retain(from, "t/long", b"", Q0);
    });
}
