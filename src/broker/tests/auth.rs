//! Enhanced authentication, driven by a module of the tests' own.

use std::{cell::RefCell, rc::Rc};

use super::{peer::Got, world::*};
use crate::{
    auth::{Authenticator, Credentials, Decision, Request, Ticket},
    codec::*,
    stats::CloseReason,
};

/// Answers with what the test has put down, and notes what it was asked.
#[derive(Clone, Default)]
struct Script(Rc<RefCell<Vec<String>>>, Rc<RefCell<Vec<Decision>>>, Rc<RefCell<Option<Ticket>>>);

impl Script {
    fn then(&self, decision: Decision) {
        self.1.borrow_mut().push(decision);
    }

    /// The ticket of the last question.
    fn ticket(&self) -> Ticket {
        self.2.borrow().unwrap()
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

impl Authenticator for Script {
    fn authenticate(&mut self, ticket: Ticket, request: Request<'_>) -> Decision {
        *self.2.borrow_mut() = Some(ticket);
        let text = |data: Option<&[u8]>| String::from_utf8_lossy(data.unwrap_or(b"-")).to_string();
        self.0.borrow_mut().push(match request {
            Request::Connect(Credentials { client_id, user_name, password, data, .. }) => {
                let user = user_name.unwrap_or("-");
                format!("connect {client_id} {user} {} {}", text(password), text(data))
            }
            Request::Continue { method, data } => format!("continue {method} {}", text(data)),
            Request::Reauthenticate { method, data } => format!("again {method} {}", text(data)),
        });
        let mut decisions = self.1.borrow_mut();
        match decisions.is_empty() {
            true => Decision::Accept { data: None },
            false => decisions.remove(0),
        }
    }

    fn abandoned(&mut self, _ticket: Ticket) {
        self.0.borrow_mut().push("abandoned".into());
    }
}

fn world() -> (World, Script) {
    let script = Script::default();
    let auth = script.clone();
    (World::with_auth(1, |_| (), move || Box::new(auth.clone())), script)
}

fn with_method(id: &str) -> Connect<'_> {
    let mut connect = hello(Version::V5, id);
    connect.properties.authentication_method = Some("M");
    connect.properties.authentication_data = Some(b"first");
    connect
}

fn auth(reason: ReasonCode, method: &'static str) -> Packet<'static> {
    let authentication_method = Some(method);
    let authentication_data = Some(&b"more"[..]);
    Packet::Auth(Auth { reason, authentication_method, authentication_data, ..<_>::default() })
}

const CONTINUE: ReasonCode = ReasonCode::ContinueAuthentication;
const AGAIN: ReasonCode = ReasonCode::ReAuthenticate;

#[test]
fn user_name_and_password_are_asked_about_and_a_refusal_is_told() {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        let (mut w, script) = world();
        let reason = ReasonCode::BadUserNameOrPassword;
        script.then(Decision::Refuse { reason });
        let mut connect = hello(version, "c");
        (connect.user_name, connect.password) = (Some("ada"), Some(&b"secret"[..]));
        let c = w.connect_with(&connect);
        assert_eq!(script.asked()[0], "connect c ada secret -");
        let got = w.got(c);
        assert!(matches!(got[..], [Got::Connack { reason: r, present: false, .. }] if r == reason));
        assert!(w.is_closed(c));
        assert_eq!((w.totals().auth_refused, w.closed(CloseReason::NotAuthorized)), (1, 1));
        assert_eq!(w.totals().sessions, 0);
        w.end();
    }
}

/// Shows: MQTT5-3.15.2-1, MQTT5-4.12.0-2, MQTT5-4.12.0-5
#[test]
fn an_exchange_ends_with_a_connack() {
    let (mut w, script) = world();
    script.then(Decision::Continue { data: b"who?".to_vec() });
    script.then(Decision::Continue { data: b"sure?".to_vec() });
    script.then(Decision::Accept { data: Some(b"welcome".to_vec()) });
    let c = w.connect_with(&with_method("c"));
    assert_eq!(w.got(c), [Got::Auth(CONTINUE, Some("M".into()), Some(b"who?".to_vec()))]);
    assert_eq!(w.totals().clients_connected, 0);
    w.send(c, &auth(CONTINUE, "M"));
    assert_eq!(w.got(c).len(), 1);
    w.send(c, &auth(CONTINUE, "M"));
    let got = w.got(c);
    assert!(matches!(got[..], [Got::Connack { reason: ReasonCode::Success, .. }]));
    connack(&got[0], |properties| {
        assert_eq!(properties.authentication_method, Some("M"));
        assert_eq!(properties.authentication_data, Some(&b"welcome"[..]));
    });
    assert_eq!(script.asked(), ["connect c - - first", "continue M more", "continue M more"]);
    w.publish(c, "a", b"", Q1);
    assert_eq!(w.got(c).len(), 1, "connected like any other");
    w.end();
}

/// Shows: MQTT5-3.1.2-30, MQTT5-4.12.0-3
#[test]
fn what_comes_in_the_midst_of_an_exchange_is_refused() {
    let wrong: [(Packet<'_>, bool); 4] = [
        (Packet::Pingreq, true),
        (auth(AGAIN, "M"), true),
        (auth(CONTINUE, "N"), true),
        (Packet::Disconnect(Disconnect::default()), false),
    ];
    for (packet, told) in wrong {
        let (mut w, script) = world();
        script.then(Decision::Continue { data: vec![] });
        let c = w.connect_with(&with_method("c"));
        w.got(c);
        w.send(c, &packet);
        assert!(w.is_closed(c));
        let got = w.got(c);
        assert_eq!(
            matches!(got[..], [Got::Connack { reason: ReasonCode::ProtocolError, .. }]),
            told
        );
        assert_eq!(script.asked().last().unwrap(), "abandoned");
        w.end();
    }
}

#[test]
fn an_answer_may_come_later() {
    let (mut w, script) = world();
    script.then(Decision::Pending);
    let mut connect = staying(Version::V3_1_1, "c");
    connect.keep_alive = 2;
    let c = w.connect_with(&connect);
    w.peers[c].send(&Packet::Pingreq);
    w.settle();
    assert!(w.got(c).is_empty() && w.peers[c].paused, "what comes behind waits");
    w.advance(5_000);
    w.brokers[0].on_authenticated(w.now, script.ticket(), Decision::Accept { data: None });
    w.settle();
    let got = w.got(c);
    assert!(matches!(got[..], [Got::Connack { reason: ReasonCode::Success, .. }, Got::Pingresp]));
    w.end();
}

#[test]
fn the_keep_alive_starts_with_connack() {
    let (mut w, script) = world();
    script.then(Decision::Pending);
    let mut connect = hello(Version::V5, "c");
    connect.keep_alive = 2;
    let c = w.connect_with(&connect);
    w.advance(9_800);
    w.brokers[0].on_authenticated(w.now, script.ticket(), Decision::Accept { data: None });
    w.settle();
    w.advance(2_000);
    assert!(!w.is_closed(c));
    w.advance(2_000);
    assert!(w.is_closed(c));
    w.end();
}

/// Shows: MQTT5-4.12.0-4
#[test]
fn a_later_answer_may_be_no_or_never() {
    let (mut w, script) = world();
    script.then(Decision::Pending);
    let c = w.connect_with(&hello(Version::V5, "c"));
    let reason = ReasonCode::NotAuthorized;
    w.brokers[0].on_authenticated(w.now, script.ticket(), Decision::Refuse { reason });
    w.settle();
    assert!(w.is_closed(c));
    assert_eq!(script.asked(), ["connect c - - -"], "nothing is abandoned that was decided");
    // A second answer finds nobody.
    w.brokers[0].on_authenticated(w.now, script.ticket(), Decision::Accept { data: None });
    w.settle();

    script.asked();
    script.then(Decision::Pending);
    let c = w.connect_with(&hello(Version::V5, "c"));
    w.advance(10_300);
    assert!(w.peers[c].aborted);
    assert_eq!(w.closed(CloseReason::ConnectTimeout), 1);
    assert_eq!(script.asked(), ["connect c - - -", "abandoned"]);
    script.then(Decision::Pending);
    let c = w.connect_with(&hello(Version::V5, "c"));
    w.cut(c);
    assert_eq!(script.asked(), ["connect c - - -", "abandoned"]);
    w.end();
}

/// Shows: MQTT5-3.15.2-1, MQTT5-4.12.0-5, MQTT5-4.12.1-2
#[test]
fn a_client_authenticates_again() {
    let (mut w, script) = world();
    let c = w.connected(&with_method("c"));
    script.then(Decision::Continue { data: b"who?".to_vec() });
    script.then(Decision::Pending);
    w.send(c, &auth(AGAIN, "M"));
    w.send(c, &auth(CONTINUE, "M"));
    w.send(c, &Packet::Pingreq);
    w.brokers[0].on_authenticated(w.now, script.ticket(), Decision::Accept { data: None });
    w.settle();
    assert_eq!(
        w.got(c),
        [
            Got::Auth(CONTINUE, Some("M".into()), Some(b"who?".to_vec())),
            Got::Pingresp,
            Got::Auth(ReasonCode::Success, Some("M".into()), None),
        ]
    );
    script.then(Decision::Refuse { reason: ReasonCode::NotAuthorized });
    w.send(c, &auth(AGAIN, "M"));
    assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::NotAuthorized)]);
    w.end();
}

#[test]
fn a_reason_that_only_connack_knows_becomes_one_that_disconnect_knows() {
    let (mut w, script) = world();
    let c = w.connected(&with_method("c"));
    script.then(Decision::Refuse { reason: ReasonCode::BadUserNameOrPassword });
    w.send(c, &auth(AGAIN, "M"));
    assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::NotAuthorized)]);
    assert_eq!(w.closed(CloseReason::NotAuthorized), 1);
    w.end();
}

#[test]
fn draining_ends_an_exchange_with_a_connack() {
    let (mut w, script) = world();
    script.then(Decision::Pending);
    let c = w.connect_with(&with_method("c"));
    w.brokers[0].on_drain(w.now);
    w.settle();
    let got = w.got(c);
    assert!(matches!(got[..], [Got::Connack { reason: ReasonCode::ServerUnavailable, .. }]));
    assert_eq!(w.closed(CloseReason::ServerShutdown), 1);
    w.end();
}

/// Shows: MQTT5-4.12.0-7, MQTT5-4.12.1-1
#[test]
fn auth_without_a_method_or_with_another_is_a_protocol_error() {
    let (mut w, _script) = world();
    let c = w.connect(Version::V5, "c");
    w.send(c, &auth(AGAIN, "M"));
    assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::ProtocolError)]);
    let c = w.connected(&with_method("d"));
    w.send(c, &auth(AGAIN, "N"));
    assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::ProtocolError)]);
    w.end();
}

#[test]
fn nobody_knows_a_method_without_a_module() {
    let mut w = World::new(1);
    let c = w.connect_with(&with_method("c"));
    let got = w.got(c);
    assert!(matches!(got[..], [Got::Connack { reason: ReasonCode::BadAuthenticationMethod, .. }]));
    w.end();
}

#[test]
fn a_late_answer_is_not_taken_for_another_connections() {
    let (mut w, script) = world();
    script.then(Decision::Pending);
    let gone = w.connect_with(&hello(Version::V5, "gone"));
    let key = w.peers[gone].key;
    let late = script.ticket();
    w.cut(gone);
    script.then(Decision::Pending);
    let c = w.connect_with(&hello(Version::V5, "c"));
    assert_eq!(w.peers[c].key, key, "the slot is used again");
    w.brokers[0].on_authenticated(w.now, late, Decision::Accept { data: None });
    w.settle();
    assert!(w.got(c).is_empty(), "nobody has vouched for it");
    w.brokers[0].on_authenticated(w.now, script.ticket(), Decision::Accept { data: None });
    w.settle();
    assert_eq!(w.got(c).len(), 1);
    w.end();
}

#[test]
fn auth_out_of_turn_is_a_protocol_error_and_reaches_no_module() {
    // Nothing to continue, a question that is still open, and two exchanges at once.
    let cases: [(&[ReasonCode], Decision); 3] = [
        (&[CONTINUE], Decision::Pending),
        (&[AGAIN, CONTINUE], Decision::Pending),
        (&[AGAIN, AGAIN], Decision::Continue { data: vec![] }),
    ];
    for (packets, decision) in cases {
        let (mut w, script) = world();
        let c = w.connected(&with_method("c"));
        script.then(decision);
        for reason in packets {
            w.send(c, &auth(*reason, "M"));
        }
        let last = w.got(c).pop();
        assert_eq!(last, Some(Got::Disconnect(ReasonCode::ProtocolError)));
        let asked = script.asked();
        let questions = asked.iter().filter(|text| *text != "abandoned").count();
        assert_eq!(questions, packets.len(), "{asked:?}");
        assert_eq!(asked.len() - questions, packets.len() - 1, "what was begun is abandoned");
        w.end();
    }
}

#[test]
fn a_module_is_asked_about_the_client_id_that_is_assigned() {
    let (mut w, script) = world();
    script.then(Decision::Pending);
    let c = w.connect_with(&hello(Version::V5, ""));
    w.brokers[0].on_authenticated(w.now, script.ticket(), Decision::Accept { data: None });
    w.settle();
    let got = w.got(c);
    let assigned = connack(&got[0], |p| p.assigned_client_identifier.map(String::from)).unwrap();
    assert_eq!(script.asked(), [format!("connect {assigned} - - -")]);
    w.end();
}
