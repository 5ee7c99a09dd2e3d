//! Timeouts of connections under a made-up clock.

use super::{peer::Got, world::*};
use crate::{codec::*, stats::CloseReason};

#[test]
fn a_connection_without_connect_is_closed_in_time() {
    let mut w = World::new(1);
    let silent = w.open(Version::V5);
    let partial = w.open(Version::V5);
    w.send_bytes(partial, &[0x10, 50, 0]);
    w.advance(9_800);
    assert!(!w.is_closed(silent) && !w.is_closed(partial));
    w.advance(300);
    assert!(w.peers[silent].aborted && w.peers[partial].aborted);
    assert_eq!(w.closed(CloseReason::ConnectTimeout), 2);
    w.end();
}

/// Shows: MQTT5-3.1.2-22, MQTT311-3.1.2-24
#[test]
fn keep_alive_is_one_and_a_half_times() {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        let mut w = World::new(1);
        let mut connect = hello(version, "c");
        connect.keep_alive = 20;
        let c = w.connected(&connect);
        for _ in 0..5 {
            w.advance(29_800);
            assert!(!w.is_closed(c));
            w.send(c, &Packet::Pingreq);
            assert_eq!(w.got(c), [Got::Pingresp]);
        }
        w.advance(30_300);
        assert!(w.is_closed(c));
        assert_eq!(w.closed(CloseReason::KeepAliveTimeout), 1);
        let told: &[Got] = match version {
            Version::V5 => &[Got::Disconnect(ReasonCode::KeepAliveTimeout)],
            _ => &[],
        };
        assert_eq!(w.got(c), told);
        w.end();
    }
}

#[test]
fn a_keep_alive_shorter_than_the_connect_timeout_holds_too() {
    let mut w = World::new(1);
    let mut connect = hello(Version::V5, "c");
    connect.keep_alive = 1;
    let c = w.connected(&connect);
    w.advance(1_300);
    assert!(!w.is_closed(c));
    w.advance(400);
    assert!(w.is_closed(c));
    w.end();
}

#[test]
fn without_keep_alive_a_connection_stays() {
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    w.advance(100 * 3_600_000);
    assert!(!w.is_closed(c));
    w.end();
}

/// Shows: MQTT5-3.2.2-21
#[test]
fn the_servers_keep_alive_overrides_that_of_mqtt_5_clients() {
    let mut w = World::with(1, |c| c.server_keep_alive = Some(10));
    let mut connect = hello(Version::V5, "five");
    connect.keep_alive = 1_000;
    let five = w.connected(&connect);
    (connect.version, connect.client_id) = (Version::V3_1_1, "three");
    let three = w.connected(&connect);
    w.advance(16_000);
    assert!(w.is_closed(five) && !w.is_closed(three));
    w.end();
}

#[test]
fn a_timer_of_an_earlier_connection_does_not_hurt_the_next_one_in_its_slot() {
    let mut w = World::new(1);
    let mut connect = hello(Version::V5, "a");
    connect.keep_alive = 10;
    let a = w.connected(&connect);
    let key = w.peers[a].key;
    w.advance(9_000);
    w.cut(a);
    // Due at 10 s for the old connection, at 19 s for the new one.
    let b = w.open(Version::V5);
    assert_eq!(w.peers[b].key, key, "the slot is used again");
    w.advance(9_700);
    assert!(!w.is_closed(b));
    w.advance(500);
    assert!(w.is_closed(b));
    w.end();
}

#[test]
fn a_timer_of_an_earlier_session_does_not_hurt_the_next_one_in_its_slot() {
    let mut w = World::new(1);
    let mut connect = staying(Version::V5, "a");
    connect.properties.session_expiry_interval = Some(10);
    let a = w.connected(&connect);
    w.cut(a);
    connect.clean_start = true;
    let a = w.connected(&connect);
    w.disconnect(a);
    let other = w.connected(&staying(Version::V5, "b"));
    w.cut(other);
    w.advance(11_000);
    assert_eq!(w.totals().sessions, 1, "b stays for an hour");
    w.advance(3_600_000);
    assert_eq!(w.totals().sessions, 0);
    w.end();
}

#[test]
fn a_client_that_does_not_close_is_closed_after_the_linger_time() {
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    w.peers[c].lingers = true;
    w.send_bytes(c, &[0xFF, 0xFF]);
    assert!(w.peers[c].finished && !w.is_closed(c));
    w.send_bytes(c, b"and so on");
    assert!(w.peers[c].unread.is_empty(), "read and thrown away");
    w.advance(1_800);
    assert!(!w.is_closed(c));
    w.advance(400);
    assert!(w.is_closed(c) && w.peers[c].aborted);
    w.end();
}

#[test]
fn draining_tells_everyone_and_lets_nobody_in() {
    let mut w = World::new(2);
    let will =
        Will { topic: "will", payload: b"", qos: Q0, retain: false, properties: <_>::default() };
    let five = w.connected(&Connect { will: Some(will), ..staying(Version::V5, "five") });
    let three = w.connect(Version::V3_1_1, "three");
    let half = w.open(Version::V5);
    for broker in &mut w.brokers {
        broker.on_drain(w.now);
    }
    w.settle();
    assert_eq!(w.got(five), [Got::Disconnect(ReasonCode::ServerShuttingDown)]);
    assert!(w.is_closed(five) && w.is_closed(three) && w.is_closed(half));
    assert_eq!(w.totals().wills_published, 0);
    let late = w.connect_with(&hello(Version::V5, "late"));
    let got = w.got(late);
    assert!(matches!(got[..], [Got::Connack { reason: ReasonCode::ServerUnavailable, .. }]));
    assert_eq!(w.totals().sessions, 1, "the session that shall stay");
    w.end();
}

#[test]
fn timers_of_clients_that_come_and_go_do_not_pile_up() {
    let mut w = World::new(1);
    let mut connect = staying(Version::V5, "c");
    connect.keep_alive = 60_000;
    connect.clean_start = true;
    for _ in 0..500 {
        let c = w.connected(&connect);
        w.cut(c);
        w.advance(10_000);
    }
    let timers = w.brokers[0].timers.len();
    // Ten minutes' worth: two for each time.
    assert!(timers <= 2 * 62, "{timers}");
    let c = w.connected(&connect);
    w.advance(89_000_000);
    assert!(!w.is_closed(c));
    w.advance(1_100_000);
    assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::KeepAliveTimeout)]);
    w.end();
}

#[test]
fn a_connection_that_is_ended_just_before_its_keep_alive_is_due_lingers_all_the_same() {
    let mut w = World::new(1);
    let mut connect = hello(Version::V5, "c");
    connect.keep_alive = 10;
    let c = w.connected(&connect);
    w.peers[c].lingers = true;
    w.advance(14_800);
    w.send_bytes(c, &[0xFF, 0xFF]);
    w.advance(1_700);
    assert!(!w.is_closed(c));
    w.advance(500);
    assert!(w.is_closed(c) && w.peers[c].aborted);
    w.end();
}

#[test]
fn what_waits_for_a_slow_client_goes_out_until_the_shutdown_timeout() {
    let mut w = World::new(1);
    let (slow, stuck) = (w.connect(Version::V5, "slow"), w.connect(Version::V5, "stuck"));
    for c in [slow, stuck] {
        w.subscribe(c, "a", Q0);
        w.peers[c].lingers = true;
        w.peers[c].room = 0;
    }
    let from = w.connect(Version::V5, "from");
    w.publish(from, "a", &[b'x'; 1_000], Q0);
    w.brokers[0].on_drain(w.now);
    w.settle();
    w.advance(8_000);
    assert!(!w.is_closed(slow), "longer than it lingers");
    w.make_room(slow, usize::MAX);
    let got = w.got(slow);
    assert!(matches!(got[..], [Got::Publish(_), Got::Disconnect(_)]), "{got:?}");
    w.advance(1_700);
    assert!(!w.is_closed(slow) && !w.is_closed(stuck));
    w.advance(2_500);
    assert!(w.is_closed(slow) && w.is_closed(stuck));
    w.end();
}

#[test]
fn the_timers_of_those_who_have_gone_are_let_go_of_and_the_others_hold() {
    let mut w = World::new(1);
    let gone: Vec<_> =
        (0..100).map(|n| w.connected(&hello(Version::V5, &format!("gone-{n}")))).collect();
    let mut connect = hello(Version::V5, "c");
    connect.keep_alive = 20;
    let c = w.connected(&connect);
    for peer in gone {
        w.cut(peer);
    }
    assert!(w.brokers[0].timers.len() > 100, "they are due in their time");
    w.brokers[0].shrink();
    assert!(w.brokers[0].timers.len() < 10, "{}", w.brokers[0].timers.len());
    w.advance(29_000);
    assert!(!w.is_closed(c));
    w.advance(1_300);
    assert!(w.is_closed(c));
    w.end();
}
