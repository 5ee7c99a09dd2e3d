//! Chapter 1: how data is represented.

use super::*;

#[test]
fn mqtt311_1_5_3_1_ill_formed_text_closes_the_connection() {
    let server = Server::start(&[]);
    // A truncated sequence, an overlong one, surrogates, beyond the last code point.
    for text in [&b"\xc3"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80"] {
        closed(&server, &packet(0x30, &[&field(text)]));
    }
    let mut client = server.connect(V3, "client");
    client.send_raw(&packet(0x30, &[&field("\u{d7ff}\u{e000}\u{10ffff}".as_bytes())]));
    client.expect_nothing();
}

#[test]
fn mqtt311_1_5_3_2_the_null_character_closes_the_connection() {
    let server = Server::start(&[]);
    closed(&server, &packet(0x30, &[&field(b"a\0b")]));
    closed(&server, &packet(0x82, &[b"\0\x01", &field(b"a\0b"), b"\0"]));
    closed(&server, &packet(0xa2, &[b"\0\x01", &field(b"a\0b")]));
    refused(&server, &connect(0x02, &[b"a\0b"]));
    let mut client = server.connect(V3, "client");
    client.send_raw(&packet(0x30, &[&field(b"a\x01b"), b"\0"]));
    client.expect_nothing();
}

#[test]
fn mqtt311_1_5_3_3_a_zero_width_no_break_space_is_kept() {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    assert!(!client.subscribe("\u{feff}a\u{feff}", Q0).is_error());
    client.publish("a", "without", Q0);
    client.publish("\u{feff}a\u{feff}", "with", Q0);
    client.expect_message("\u{feff}a\u{feff}", "with");
}
