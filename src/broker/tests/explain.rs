//! Reason Strings, and packets larger than a client takes.

use super::{peer::Got, world::*};
use crate::{codec::*, stats::CloseReason};

fn taking(id: &str, maximum_packet_size: Option<u32>, problem_information: bool) -> Connect<'_> {
    let mut connect = hello(Version::V5, id);
    connect.properties.maximum_packet_size = maximum_packet_size;
    connect.properties.request_problem_information = problem_information;
    connect
}

/// Has a PUBLISH of both kinds, a SUBSCRIBE and an UNSUBSCRIBE refused, and then breaks a rule.
fn err(w: &mut World, c: C) {
    w.publish(c, "$SYS/mine", b"", Q1);
    w.publish(c, "$SYS/mine", b"", Q2);
    w.ask(c, &[("a", SubscriptionOptions::new(Q0)), ("#/a", SubscriptionOptions::new(Q0))], 0);
    w.unsubscribe(c, "#/a");
    w.publish(c, "+", b"", Q0);
    assert!(w.is_closed(c));
}

#[test]
fn a_refusal_says_why_to_who_wants_to_know_and_has_room_for_it() {
    // Beside the codes, which everyone gets.
    for (maximum, wanted, expected) in
        [(None, true, 5), (None, false, 1), (Some(35), true, 1), (Some(24), true, 0)]
    {
        let mut w = World::new(1);
        let c = w.connected(&taking("c", maximum, wanted));
        err(&mut w, c);
        let got = w.got(c);
        assert_eq!(got.len(), 5, "{got:?}");
        assert_eq!(got[4], Got::Disconnect(ReasonCode::TopicNameInvalid));
        let texts = &w.peers[c].reason_strings;
        assert_eq!(texts.len(), expected, "{maximum:?} {wanted}: {texts:?}");
        assert!(texts.last().is_none_or(|text| text == "not a valid topic name"));
        assert!(w.peers[c].largest <= maximum.unwrap_or(200) as usize);
        w.end();
    }
    // Before MQTT 5 there are none.
    let mut w = World::new(1);
    let c = w.connect(Version::V3_1_1, "c");
    err(&mut w, c);
    w.end();
}

/// Shows: MQTT5-3.2.2-19
#[test]
fn a_connack_that_refuses_says_why_whatever_was_requested() {
    let mut w = World::with(1, |c| c.allow_empty_client_id = false);
    for (maximum, wanted, told) in
        [(None, true, true), (None, false, true), (Some(20), true, false)]
    {
        let c = w.connect_with(&taking("", maximum, wanted));
        let got = w.got(c);
        let reason = ReasonCode::ClientIdentifierNotValid;
        assert!(matches!(got[..], [Got::Connack { reason: r, .. }] if r == reason), "{got:?}");
        assert_eq!(w.peers[c].reason_strings.len(), usize::from(told));
        assert!(w.peers[c].largest <= maximum.unwrap_or(200) as usize);
    }
    w.end();
}

#[test]
fn an_undecodable_packet_is_told_what_is_wrong_with_it() {
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    w.send_bytes(c, &[0x38, 4, 0, 1, b'a', 0]);
    assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::MalformedPacket)]);
    assert_eq!(w.peers[c].reason_strings, ["DUP set on a QoS 0 PUBLISH"]);
    w.end();
}

#[test]
fn a_connack_leaves_out_what_it_can_before_it_is_too_large() {
    let response = |w: &World, maximum| {
        let mut connect = taking("c", maximum, true);
        connect.properties.request_response_information = true;
        let _ = w;
        connect
    };
    let mut w = World::with(1, |c| c.response_information = Some("r".repeat(50).into()));
    for (maximum, informed) in [(None, true), (Some(40), false)] {
        let connect = response(&w, maximum);
        let c = w.connect_with(&connect);
        let got = w.got(c);
        assert_eq!(connack(&got[0], |p| p.response_information.is_some()), informed);
        assert!(w.peers[c].largest <= maximum.unwrap_or(200) as usize);
    }
    // It fits not even without.
    let c = w.connect_with(&response(&w, Some(10)));
    assert!(w.got(c).is_empty() && w.is_closed(c));
    assert_eq!(w.closed(CloseReason::PacketTooLarge), 1);
    w.end();
}

#[test]
fn response_information_that_no_string_can_hold_is_left_out() {
    let mut w = World::with(1, |c| c.response_information = Some("r".repeat(50).into()));
    let id = "c".repeat(65_500);
    let mut connect = hello(Version::V5, &id);
    connect.properties.request_response_information = true;
    let c = w.connect_with(&connect);
    let got = w.got(c);
    assert!(connack(&got[0], |p| p.response_information.is_none()));
    w.end();
}

#[test]
fn answers_larger_than_the_client_takes_end_the_connection() {
    let mut w = World::new(1);
    let c = w.connected(&taking("c", Some(30), true));
    let filters = vec![("a", SubscriptionOptions::new(Q0)); 40];
    w.ask(c, &filters, 0);
    assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::PacketTooLarge)]);
    assert!(w.is_closed(c));
    w.end();
}

#[test]
fn a_client_that_takes_no_disconnect_does_not_cost_another_its_connection() {
    let mut w = World::new(1);
    let mut connect = taking("c", None, true);
    connect.properties.maximum_packet_size = Some(28);
    let old = w.connected(&connect);
    // As if it had said so: no CONNACK would have fitted either.
    w.brokers[0].clients.connections.get_mut(0).unwrap().extra().maximum_packet_size = 2;
    let new = w.connect(Version::V5, "c");
    assert!(w.is_closed(old) && !w.is_closed(new));
    assert!(w.got(old).is_empty());
    w.send(new, &Packet::Pingreq);
    assert_eq!(w.got(new), [Got::Pingresp]);
    w.end();
}
