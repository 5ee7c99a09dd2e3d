//! 3.1.2.4: Clean Session.

use super::*;

#[test]
fn mqtt311_3_1_2_4_a_session_goes_on() {
    let server = Server::start(&[]);
    let mut client = resume(&server, "client");
    assert!(!client.connack.session_present);
    client.subscribe("t", Q1);
    client.disconnect();
    let mut publisher = server.connect(V3, "publisher");
    for end in [true, false] {
        let mut client = resume(&server, "client");
        assert!(client.connack.session_present);
        publisher.publish("t", "x", Q1);
        client.take_message("t", "x");
        client.expect_nothing();
        if end { client.disconnect() } else { client.cut() }
    }
    assert!(resume(&server, "client").connack.session_present);
}

/// Shows: MQTT311-4.5.0-1
#[test]
fn mqtt311_3_1_2_5_messages_wait_for_a_client_that_is_away() {
    let server = Server::start(&[]);
    let mut client = resume(&server, "client");
    client.subscribe("a/+", Q2);
    client.subscribe("b", Q1);
    client.disconnect();
    let mut there = server.connect(V3, "there");
    there.subscribe("#", Q2);
    let mut publisher = server.connect(V3, "publisher");
    for (topic, text, qos) in
        [("a/1", "one", Q1), ("a/2", "two", Q2), ("b", "three", Q2), ("c", "none", Q2)]
    {
        publisher.publish(topic, text, qos);
        there.take_message(topic, text);
    }
    let mut client = resume(&server, "client");
    for (topic, text, qos) in [("a/1", "one", Q1), ("a/2", "two", Q2), ("b", "three", Q1)] {
        let message = client.take_message(topic, text);
        assert_eq!((message.qos, message.dup), (qos, false), "{topic}");
    }
    client.expect_nothing();
}

#[test]
fn mqtt311_3_1_2_6_a_clean_session_begins_and_ends_with_its_connection() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    let mut client = resume(&server, "client");
    client.subscribe("t", Q2);
    // A message in flight, one that waits, and an identifier of its own that is not released.
    publisher.publish("t", "in flight", Q1);
    client.expect_message("t", "in flight");
    exchange(&mut client, b"\x34\x05\0\x01x\0\x09", b"\x50\x02\0\x09");
    client.cut();
    publisher.publish("t", "waiting", Q1);
    let mut watcher = server.connect(V3, "watcher");
    watcher.subscribe("x", Q2);

    let mut client = server.connect(V3, "client");
    assert!(!client.connack.session_present);
    client.expect_nothing();
    publisher.publish("t", "later", Q1);
    client.expect_nothing();
    exchange(&mut client, b"\x34\x05\0\x01x\0\x09", b"\x50\x02\0\x09");
    watcher.take_message("x", "");
    client.subscribe("t", Q1);
    client.disconnect();

    publisher.publish("t", "later still", Q1);
    let mut client = resume(&server, "client");
    assert!(!client.connack.session_present);
    publisher.publish("t", "at last", Q1);
    client.expect_nothing();
}

#[test]
fn mqtt311_3_1_2_7_retained_messages_outlive_the_session() {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    client.retain("t", "kept");
    client.disconnect();
    let mut client = resume(&server, "client");
    client.retain("u", "kept too");
    client.disconnect();
    // Ends the session.
    let mut client = server.connect(V3, "client");
    client.subscribe("t", Q0);
    client.expect_message("t", "kept");
    client.subscribe("u", Q0);
    client.expect_message("u", "kept too");
}

/// Shows: MQTT311-4.1.0-1
#[test]
fn mqtt311_3_1_3_2_each_client_identifier_has_its_own_session() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    // They differ in case, and by a character at the end.
    for id in ["client", "Client", "client1", "ç"] {
        let mut client = resume(&server, id);
        assert!(!client.connack.session_present, "{id}");
        client.subscribe(id, Q1);
        client.disconnect();
    }
    for id in ["client", "Client", "client1", "ç"] {
        publisher.publish(id, id, Q1);
        let mut client = resume(&server, id);
        assert!(client.connack.session_present, "{id}");
        client.take_message(id, id);
        client.expect_nothing();
    }
}
