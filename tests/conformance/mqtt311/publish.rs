//! 3.3: PUBLISH, retained messages apart.

use super::*;
use crate::support::ReasonCode;

/// Shows: MQTT311-4.4.0-1
#[test]
fn mqtt311_3_3_1_1_dup_is_set_when_a_message_is_sent_again() {
    let server = Server::start(&[]);
    let mut client = resume(&server, "client");
    client.subscribe("t", Q2);
    let mut publisher = server.connect(V3, "publisher");
    for (text, qos) in [("one", Q1), ("two", Q2)] {
        publisher.publish("t", text, qos);
        assert!(!client.expect_message("t", text).dup);
    }
    // Again and again, until they are acknowledged.
    for _ in 0..2 {
        client.cut();
        client = resume(&server, "client");
        for text in ["one", "two"] {
            assert!(client.expect_message("t", text).dup, "{text}");
        }
    }
}

#[test]
fn mqtt311_3_3_1_2_dup_with_qos_0_closes_the_connection() {
    let server = Server::start(&[]);
    for header in [0x38, 0x39] {
        closed(&server, &packet(header, &[b"\0\x01t"]));
    }
    // What waited in a session is sent without it, too.
    let server = Server::start(&["--queue-qos0=true"]);
    let mut client = resume(&server, "client");
    client.subscribe("t", Q0);
    client.disconnect();
    let mut publisher = server.connect(V3, "publisher");
    publisher.publish("t", "x", Q0);
    publisher.expect_nothing();
    answered(&server, &connect(0x00, &[b"client"]), b"\x20\x02\x01\0\x30\x04\0\x01tx");
}

#[test]
fn mqtt311_3_3_1_3_dup_is_not_passed_on() {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    client.subscribe("t", Q2);
    let mut publisher = server.connect(V3, "publisher");
    for (bytes, qos) in [(b"\x3a\x05\0\x01t\0\x01", Q1), (b"\x3c\x05\0\x01t\0\x02", Q2)] {
        publisher.send_raw(bytes);
        let message = client.take_message("t", "");
        assert_eq!((message.qos, message.dup), (qos, false));
    }
}

#[test]
fn mqtt311_3_3_1_4_qos_3_closes_the_connection() {
    let server = Server::start(&[]);
    let mut neighbour = server.connect(V3, "neighbour");
    neighbour.subscribe("t", Q2);
    for header in [0x36, 0x37, 0x3e, 0x3f] {
        closed(&server, &packet(header, &[b"\0\x01t\0\x01"]));
    }
    neighbour.expect_nothing();
}

#[test]
fn mqtt311_3_3_2_1_the_topic_name_comes_first_and_is_text() {
    let server = Server::start(&[]);
    for bytes in [&b"\x30\0"[..], b"\x30\x01\0", b"\x30\x02\0\x01", b"\x32\x04\0\x01t\0"] {
        closed(&server, bytes);
    }
    closed(&server, &packet(0x30, &[&field(b"\xff")]));
    let mut client = server.connect(V3, "client");
    client.subscribe("ä/ü", Q0);
    client.send_raw(&packet(0x30, &[&field("ä/ü".as_bytes()), b"x"]));
    client.expect_message("ä/ü", "x");
}

/// Shows: MQTT311-4.7.1-1
#[test]
fn mqtt311_3_3_2_2_wildcards_in_a_topic_name_close_the_connection() {
    let server = Server::start(&[]);
    let mut neighbour = server.connect(V3, "neighbour");
    neighbour.subscribe("#", Q0);
    for topic in ["#", "+", "a/#", "a/+/b", "a#", "+a"] {
        for header in [0x30, 0x31, 0x32, 0x34] {
            let id: &[u8] = if header < 0x32 { b"" } else { b"\0\x01" };
            closed(&server, &packet(header, &[&field(topic.as_bytes()), id]));
        }
    }
    neighbour.expect_nothing();
}

#[test]
fn mqtt311_3_3_2_3_the_topic_that_arrives_matches_the_filter() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    for (filter, matching) in [
        ("a/+", &["a/b", "a/c"][..]),
        ("b/#", &["b", "b/c/d"]),
        ("+/c", &["a/c", "/c", "x/c"]),
        ("c", &["c"]),
    ] {
        let mut client = server.connect(V3, "client");
        client.subscribe(filter, Q1);
        for topic in ["a/b", "a/c", "b", "b/c/d", "/c", "x/c", "c"] {
            publisher.publish(topic, "", Q1);
        }
        let found: Vec<_> = client.drain().into_iter().map(|message| message.topic).collect();
        assert_eq!(found, matching, "{filter}");
    }
}

#[test]
fn mqtt311_3_3_4_1_each_qos_has_its_answer() {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    exchange(&mut client, b"\x30\x03\0\x01t\xc0\0", b"\xd0\0");
    exchange(&mut client, b"\x32\x05\0\x01t\0\x01\xc0\0", b"\x40\x02\0\x01\xd0\0");
    exchange(&mut client, b"\x34\x05\0\x01t\0\x02\xc0\0", b"\x50\x02\0\x02\xd0\0");
    exchange(&mut client, b"\x62\x02\0\x02\xc0\0", b"\x70\x02\0\x02\xd0\0");
}

#[test]
fn mqtt311_3_3_5_1_overlapping_filters_give_the_highest_qos() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    for order in [["a/b", "a/+", "#"], ["#", "a/b", "a/+"], ["a/+", "#", "a/b"]] {
        let mut client = server.connect(V3, "client");
        for (filter, qos) in order.into_iter().zip([Q0, Q2, Q1]) {
            client.subscribe(filter, qos);
        }
        for qos in [Q0, Q1, Q2] {
            publisher.publish("a/b", "x", qos);
            assert_eq!(client.take_message("a/b", "x").qos, qos, "{order:?}");
            client.expect_nothing();
        }
    }
}

#[test]
fn mqtt311_3_3_5_2_what_a_client_may_not_publish_is_acknowledged_all_the_same() {
    let server = Server::start(&[]);
    let topic = "$SYS/device";
    let mut neighbour = server.connect(V3, "neighbour");
    neighbour.subscribe(topic, Q2);
    let mut client = server.connect(V3, "client");
    for qos in [Q0, Q1, Q2] {
        assert_eq!(client.publish(topic, "x", qos), ReasonCode::Success);
        client.expect_nothing();
    }
    neighbour.expect_nothing();
}
