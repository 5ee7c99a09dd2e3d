//! Chapter 1: how data is represented.

use crate::support::{QoS, ReasonCode, Server, Version};

const V3: Version = Version::V3_1_1;

#[test]
fn mqtt311_1_5_3_1_ill_formed_text_closes_the_connection() {
    let server = Server::start(&[]);
    // A truncated sequence, an overlong one, surrogates, beyond the last code point.
    for text in [&b"\xc3"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80"] {
        let mut client = server.connect(V3, "client");
        client.send_raw(&publish_to(text));
        client.expect_closed();
    }
    let mut client = server.connect(V3, "client");
    client.send_raw(&publish_to("\u{d7ff}\u{e000}\u{10ffff}".as_bytes()));
    client.expect_nothing();
}

#[test]
fn mqtt311_1_5_3_2_the_null_character_closes_the_connection() {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    client.send_raw(&publish_to(b"a\0b"));
    client.expect_closed();
}

#[test]
fn mqtt311_1_5_3_3_a_zero_width_no_break_space_is_kept() {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    assert_eq!(client.subscribe("\u{feff}a\u{feff}", QoS::AtMostOnce), ReasonCode::Success);
    client.publish("a", "without", QoS::AtMostOnce);
    client.publish("\u{feff}a\u{feff}", "with", QoS::AtMostOnce);
    client.expect_message("\u{feff}a\u{feff}", "with");
}

/// A PUBLISH with QoS 0 to this topic, without a payload.
fn publish_to(topic: &[u8]) -> Vec<u8> {
    let length = topic.len() as u8;
    [&[0x30, length + 2, 0, length][..], topic].concat()
}
