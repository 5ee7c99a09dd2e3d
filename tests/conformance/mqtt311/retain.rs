//! 3.3.1.3: retained messages.

use super::*;

/// Publishes with RETAIN, and sees it through.
fn retain(client: &mut Client, topic: &str, payload: &str, qos: QoS) {
    client.publish_with(topic, payload.as_bytes(), qos, |publish| publish.retain = true);
    // Also that a QoS 0 message has been handled.
    client.expect_nothing();
}

/// A broker that [`retained`] can ask, and a client.
fn start() -> (Server, Client) {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    client.retain(LAST, "x");
    // While nothing is retained outside $-topics, nobody is asked.
    client.retain("something", "x");
    (server, client)
}

fn owned(topic: &str, payload: &str, qos: QoS) -> (String, String, QoS, bool) {
    (topic.into(), payload.into(), qos, true)
}

/// Shows: MQTT311-3.3.1-8
#[test]
fn mqtt311_3_3_1_5_a_retained_message_is_kept_with_its_qos() {
    let (server, mut client) = start();
    for qos in [Q0, Q1, Q2] {
        retain(&mut client, "t", "x", qos);
        assert_eq!(retained(&server, "t"), [owned("t", "x", qos)]);
        assert_eq!(retained(&server, "t"), [owned("t", "x", qos)], "and again");
    }
}

#[test]
fn mqtt311_3_3_1_6_a_new_subscription_brings_the_last_message_of_each_topic() {
    let (server, mut client) = start();
    for (topic, text) in [("a/1", "old"), ("a/2", "two"), ("a/1", "one"), ("b/1", "other")] {
        retain(&mut client, topic, text, Q1);
    }
    let both = [owned("a/1", "one", Q1), owned("a/2", "two", Q1)];
    assert_eq!(retained(&server, "a/+"), both);
    assert_eq!(retained(&server, "a/#"), both);
    assert_eq!(retained(&server, "a/2"), both[1..]);
    assert_eq!(retained(&server, "a/3"), []);
    assert_eq!(retained(&server, "+/1"), [both[0].clone(), owned("b/1", "other", Q1)]);
}

#[test]
fn mqtt311_3_3_1_7_a_retained_message_of_qos_0_displaces_another() {
    let (server, mut client) = start();
    retain(&mut client, "t", "old", Q2);
    retain(&mut client, "t", "new", Q0);
    assert_eq!(retained(&server, "t"), [owned("t", "new", Q0)]);
}

#[test]
fn mqtt311_3_3_1_9_for_a_subscription_that_exists_retain_is_not_set() {
    let (server, mut client) = start();
    let mut there = resume(&server, "there");
    there.subscribe("t", Q2);
    for qos in [Q0, Q1, Q2] {
        retain(&mut client, "t", "x", qos);
        assert!(!there.take_message("t", "x").retain);
    }
    there.disconnect();
    retain(&mut client, "t", "meanwhile", Q1);
    assert!(!resume(&server, "there").take_message("t", "meanwhile").retain);
}

#[test]
fn mqtt311_3_3_1_10_an_empty_retained_message_is_passed_on_and_removes_the_old_one() {
    let (server, mut client) = start();
    let mut there = server.connect(V3, "there");
    there.subscribe("t", Q1);
    for qos in [Q0, Q1, Q2] {
        retain(&mut client, "t", "x", Q1);
        there.take_message("t", "x");
        retain(&mut client, "t", "", qos);
        assert!(!there.take_message("t", "").retain);
        assert_eq!(retained(&server, "t"), []);
    }
}

#[test]
fn mqtt311_3_3_1_11_an_empty_message_is_not_retained() {
    let (server, mut client) = start();
    for qos in [Q0, Q1, Q2] {
        retain(&mut client, "t", "", qos);
        assert_eq!(retained(&server, "t"), []);
    }
}

#[test]
fn mqtt311_3_3_1_12_without_retain_nothing_is_stored_or_removed() {
    let (server, mut client) = start();
    for qos in [Q0, Q1, Q2] {
        client.publish("t", "x", qos);
        client.expect_nothing();
    }
    assert_eq!(retained(&server, "t"), []);
    retain(&mut client, "t", "kept", Q1);
    for text in ["x", ""] {
        client.publish("t", text, Q1);
        assert_eq!(retained(&server, "t"), [owned("t", "kept", Q1)]);
    }
}
