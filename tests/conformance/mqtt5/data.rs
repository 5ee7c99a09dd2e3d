//! Chapter 1: how data is represented.

use super::{V5, accepted, packet, refused};
use crate::support::{QoS, ReasonCode, Server};

#[test]
fn mqtt5_1_5_4_1_ill_formed_text_is_a_malformed_packet() {
    let server = Server::start(&[]);
    // A truncated sequence, an overlong one, surrogates, beyond the last code point.
    for text in [&b"\xc3"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80"] {
        refused(&server, &publish(text, b""), ReasonCode::MalformedPacket);
    }
    accepted(&server, &publish("\u{d7ff}\u{e000}\u{10ffff}".as_bytes(), b""));
}

#[test]
fn mqtt5_1_5_4_2_the_null_character_is_a_malformed_packet() {
    let server = Server::start(&[]);
    refused(&server, &publish(b"a\0b", b""), ReasonCode::MalformedPacket);
    accepted(&server, &publish(b"a\x01b", b""));
}

#[test]
fn mqtt5_1_5_4_3_a_zero_width_no_break_space_is_kept() {
    let server = Server::start(&[]);
    let mut client = server.connect(V5, "client");
    assert_eq!(client.subscribe("\u{feff}a\u{feff}", QoS::AtMostOnce), ReasonCode::Success);
    client.publish("a", "without", QoS::AtMostOnce);
    client.publish_with("\u{feff}a\u{feff}", b"with", QoS::AtMostOnce, |publish| {
        publish.properties.content_type = Some("\u{feff}b");
    });
    let message = client.expect_message("\u{feff}a\u{feff}", "with");
    assert_eq!(message.content_type.as_deref(), Some("\u{feff}b"));
}

#[test]
fn mqtt5_1_5_5_1_a_variable_byte_integer_of_too_many_bytes_is_malformed() {
    let server = Server::start(&[]);
    // Remaining Length 4 in two bytes, and Property Length 0 in two.
    for packet in
        [&b"\x30\x84\0\0\x01t\0"[..], b"\x30\x05\0\x01t\x80\0", b"\x30\xff\xff\xff\xff\x01"]
    {
        refused(&server, packet, ReasonCode::MalformedPacket);
    }
    // What it sends takes as few as can be, at the borders of each length.
    let mut client = server.connect(V5, "client");
    client.subscribe("t", QoS::AtMostOnce);
    for length in [123, 124, 16_379, 16_380] {
        client.publish("t", vec![b'x'; length], QoS::AtMostOnce);
        // Topic and property length take 4 bytes.
        let integer = if length + 4 < 128 {
            1
        } else if length + 4 < 16_384 {
            2
        } else {
            3
        };
        assert_eq!(client.receive().len(), 1 + integer + 4 + length);
    }
}

#[test]
fn mqtt5_1_5_7_1_both_texts_of_a_pair_are_checked() {
    let server = Server::start(&[]);
    let pairs = [
        &b"\x26\0\x01\xff\0\x01v"[..],
        b"\x26\0\x01n\0\x01\xff",
        b"\x26\0\x01\0\0\x01v",
        b"\x26\0\x01n\0\x01\0",
    ];
    for pair in pairs {
        refused(&server, &publish(b"t", pair), ReasonCode::MalformedPacket);
    }
    accepted(&server, &publish(b"t", b"\x26\0\x01n\0\x01v"));
}

/// A PUBLISH with QoS 0, without a payload.
fn publish(topic: &[u8], properties: &[u8]) -> Vec<u8> {
    let lengths = [topic, properties].map(|part| [part.len() as u8]);
    packet(0x30, &[&[0], &lengths[0], topic, &lengths[1], properties])
}
