//! 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK.

use super::*;
use ringmq::codec::AckKind;

#[test]
fn mqtt311_3_10_3_1_filters_that_are_not_text_close_the_connection() {
    let server = Server::start(&[]);
    closed(&server, &packet(0xa2, &[b"\0\x01", &field(b"\xff")]));
    closed(&server, &packet(0xa2, &[b"\0\x01", &field(b"a"), &field(b"\xc3")]));
    // Not in one piece.
    closed(&server, &packet(0xa2, &[b"\0\x01", &field(b"a"), b"\0"]));
    let mut client = server.connect(V3, "client");
    let request = packet(0xa2, &[b"\0\x01", &field(b"a"), &field("ä".as_bytes())]);
    exchange(&mut client, &request, b"\xb0\x02\0\x01");
}

#[test]
fn mqtt311_3_10_3_2_an_unsubscribe_without_a_filter_closes_the_connection() {
    let server = Server::start(&[]);
    for bytes in [&b"\xa2\x02\0\x01"[..], b"\xa2\0", b"\xa2\x01\0", b"\xa2\x04\0\x01\0\0"] {
        closed(&server, bytes);
    }
}

#[test]
fn mqtt311_3_10_4_1_only_the_same_filter_is_unsubscribed_from() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    let mut client = server.connect(V3, "client");
    let others = ["a/c", "A/b", "a/b/", "a/#", "+/b", "a/b/#", "#", "+/+", "/a/b", "a"];
    client.subscribe("a/b", Q1);
    client.unsubscribe(&others);
    publisher.publish("a/b", "still", Q1);
    client.take_message("a/b", "still");
    // Nor does the name end the wildcards that match it.
    for filter in ["a/+", "a/#"] {
        client.subscribe(filter, Q1);
    }
    client.unsubscribe(&["a/b"]);
    publisher.publish("a/b", "wildcards", Q1);
    client.take_message("a/b", "wildcards");
    client.unsubscribe(&["a/+"]);
    publisher.publish("a/b", "one wildcard", Q1);
    client.take_message("a/b", "one wildcard");
    client.unsubscribe(&["a/#"]);
    publisher.publish("a/b", "nothing", Q1);
    client.expect_nothing();
    // Another client's subscription is its own.
    let mut other = server.connect(V3, "other");
    other.subscribe("a/b", Q1);
    client.unsubscribe(&["a/b"]);
    publisher.publish("a/b", "other", Q1);
    other.take_message("a/b", "other");
}

#[test]
fn mqtt311_3_10_4_2_after_unsuback_no_new_messages_come() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    let mut client = resume(&server, "client");
    for filter in ["t", "+", "t/#"] {
        client.subscribe(filter, Q2);
        client.unsubscribe(&[filter]);
        for qos in [Q0, Q1, Q2] {
            publisher.publish("t", "x", qos);
        }
        publisher.expect_nothing();
        client.expect_nothing();
    }
    client.disconnect();
    publisher.publish("t", "x", Q1);
    resume(&server, "client").expect_nothing();
}

#[test]
fn mqtt311_3_10_4_3_what_has_begun_is_delivered_to_the_end() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    let mut client = resume(&server, "client");
    client.subscribe("t", Q2);
    publisher.publish("t", "one", Q1);
    publisher.publish("t", "two", Q2);
    let one = client.expect_message("t", "one").packet_id;
    let two = client.expect_message("t", "two").packet_id;
    client.unsubscribe(&["t"]);
    client.cut();
    let mut client = resume(&server, "client");
    assert_eq!(client.expect_message("t", "one").packet_id, one);
    assert_eq!(client.expect_message("t", "two").packet_id, two);
    client.ack(AckKind::Puback, one);
    client.ack(AckKind::Pubrec, two);
    client.expect_ack(AckKind::Pubrel, two);
    client.ack(AckKind::Pubcomp, two);
    client.expect_nothing();
    client.cut();
    resume(&server, "client").expect_nothing();
}

/// Shows: MQTT311-3.10.4-5
#[test]
fn mqtt311_3_10_4_4_every_unsubscribe_is_answered() {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    client.subscribe("t", Q0);
    // The first one ends a subscription, the others none.
    for id in [b"\0\x07", b"\0\x07", b"\xff\xff", b"\0\x01"] {
        exchange(&mut client, &packet(0xa2, &[id, b"\0\x01t"]), &packet(0xb0, &[id]));
    }
}

#[test]
fn mqtt311_3_10_4_6_many_filters_have_one_answer() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    let mut client = server.connect(V3, "client");
    for filter in ["a", "b", "c", "d/+"] {
        client.subscribe(filter, Q0);
    }
    let filters = [&b"a"[..], b"x", b"d/+", b"c", b"a"].map(field).concat();
    exchange(&mut client, &packet(0xa2, &[b"\0\x09", &filters]), b"\xb0\x02\0\x09");
    for topic in ["a", "b", "c", "d/e"] {
        publisher.publish(topic, "", Q1);
    }
    client.expect_message("b", "");
    client.expect_nothing();
}
