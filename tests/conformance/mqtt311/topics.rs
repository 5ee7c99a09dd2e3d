//! 4.7: topic names and topic filters.

use super::*;
use crate::support::ReasonCode;

/// A SUBSCRIBE to this filter with QoS 0.
fn subscribe(filter: &[u8]) -> Vec<u8> {
    packet(0x82, &[b"\0\x01", &field(filter), b"\0"])
}

/// An UNSUBSCRIBE from this filter.
fn unsubscribe(filter: &[u8]) -> Vec<u8> {
    packet(0xa2, &[b"\0\x01", &field(filter)])
}

/// Which of `topics` a filter brings.
fn brings(server: &Server, filter: &str, topics: &[&'static str]) -> Vec<&'static str> {
    let mut client = server.connect(V3, "matching");
    assert_eq!(client.subscribe(filter, Q0), ReasonCode::granted(Q0), "{filter}");
    let mut found = Vec::new();
    for topic in topics {
        client.publish(topic, "", Q0);
        for message in client.drain() {
            assert_eq!(message.topic, *topic);
            found.push(*topic);
        }
    }
    found
}

const TOPICS: [&str; 8] = ["a", "a/b", "a/b/c", "/a", "a/", "/", "b", "a//b"];

#[test]
fn mqtt311_4_7_1_2_a_number_sign_is_the_last_level_of_a_filter() {
    let server = Server::start(&[]);
    for bad in ["#/a", "a/#/b", "a#", "a/b#", "#a", "##", "a/#/", "#/", "a/#b"] {
        closed(&server, &subscribe(bad.as_bytes()));
        closed(&server, &unsubscribe(bad.as_bytes()));
    }
    assert_eq!(brings(&server, "#", &TOPICS), TOPICS);
    assert_eq!(brings(&server, "a/#", &TOPICS), ["a", "a/b", "a/b/c", "a/", "a//b"]);
    assert_eq!(brings(&server, "/#", &TOPICS), ["/a", "/"]);
}

#[test]
fn mqtt311_4_7_1_3_a_plus_sign_is_a_whole_level_of_a_filter() {
    let server = Server::start(&[]);
    for bad in ["a+", "+a", "a/b+", "a/+b/c", "++", "a/++"] {
        closed(&server, &subscribe(bad.as_bytes()));
        closed(&server, &unsubscribe(bad.as_bytes()));
    }
    assert_eq!(brings(&server, "+", &TOPICS), ["a", "b"]);
    assert_eq!(brings(&server, "+/b", &TOPICS), ["a/b"]);
    assert_eq!(brings(&server, "+/+", &TOPICS), ["a/b", "/a", "a/", "/"]);
    assert_eq!(brings(&server, "a/+/c", &TOPICS), ["a/b/c"]);
    assert_eq!(brings(&server, "a/+/b", &TOPICS), ["a//b"]);
    assert_eq!(brings(&server, "/+", &TOPICS), ["/a", "/"]);
    assert_eq!(brings(&server, "+/b/#", &TOPICS), ["a/b", "a/b/c"]);
}

#[test]
fn mqtt311_4_7_2_1_wildcards_do_not_match_dollar_topics() {
    let server = Server::start(&[]);
    let topics = ["$x/a", "x/a", "$x", "a/$x"];
    assert_eq!(brings(&server, "#", &topics), ["x/a", "a/$x"]);
    assert_eq!(brings(&server, "+/a", &topics), ["x/a"]);
    assert_eq!(brings(&server, "+/#", &topics), ["x/a", "a/$x"]);
    assert_eq!(brings(&server, "+", &topics), [""; 0]);
    assert_eq!(brings(&server, "$x/#", &topics), ["$x/a", "$x"]);
    assert_eq!(brings(&server, "$x/+", &topics), ["$x/a"]);
    assert_eq!(brings(&server, "a/+", &topics), ["a/$x"]);
    // Neither retained.
    let mut client = server.connect(V3, "client");
    client.retain("$x/a", "kept");
    client.retain(LAST, "x");
    assert_eq!(retained(&server, "#"), []);
    assert_eq!(retained(&server, "+/a"), []);
    assert_eq!(retained(&server, "$x/#").len(), 1);
}

#[test]
fn mqtt311_4_7_3_1_empty_topics_close_the_connection() {
    let server = Server::start(&[]);
    closed(&server, b"\x30\x02\0\0");
    closed(&server, b"\x32\x04\0\0\0\x01");
    closed(&server, &subscribe(b""));
    closed(&server, &unsubscribe(b""));
    refused(&server, &connect(0x06, &[b"client", b"", b"gone"]));
    assert_eq!(brings(&server, "/", &TOPICS), ["/"]);
}

#[test]
fn mqtt311_4_7_3_2_the_null_character_in_topics_closes_the_connection() {
    let server = Server::start(&[]);
    for topic in [&b"\0"[..], b"a/\0/b", b"\0a"] {
        closed(&server, &packet(0x30, &[&field(topic)]));
        closed(&server, &subscribe(topic));
        closed(&server, &unsubscribe(topic));
        refused(&server, &connect(0x06, &[b"client", topic, b"gone"]));
    }
}

#[test]
fn mqtt311_4_7_3_3_topics_have_up_to_65535_bytes() {
    let server = Server::start(&[]);
    let longest = "ä".repeat(32_767) + "x";
    assert_eq!(longest.len(), 65_535);
    let mut client = server.connect(V3, "client");
    client.subscribe(&longest, Q1);
    client.publish(&longest, "x", Q0);
    client.take_message(&longest, "x");
    let shorter = longest.strip_suffix('x').unwrap();
    client.publish(shorter, "x", Q0);
    client.expect_nothing();
}

#[test]
fn mqtt311_4_7_3_4_topics_are_compared_as_they_are() {
    let server = Server::start(&[]);
    // Composed and decomposed, case, spaces, slashes, characters without a meaning.
    let topics = [
        "\u{e9}",
        "e\u{301}",
        "E",
        "e",
        "e ",
        " e",
        "e/",
        "//e",
        "/e",
        "\u{fffd}",
        "\u{378}",
        "\u{feff}e",
        "\u{1}",
    ];
    for topic in topics {
        assert_eq!(brings(&server, topic, &topics), [topic]);
    }
}
