//! 3.1.3.1: the client identifier.

use super::*;

#[test]
fn mqtt311_3_1_3_3_a_connect_without_client_identifier_closes_the_connection() {
    let server = Server::start(&[]);
    refused(&server, &connect(0x02, &[]));
    refused(&server, &packet(0x10, &[b"\0\x04MQTT\x04\x02\0\0\0"]));
    refused(&server, &packet(0x10, &[b"\0\x04MQTT\x04\x02\0\0\0\x02a"]));
}

#[test]
fn mqtt311_3_1_3_5_identifiers_of_1_to_23_digits_and_letters_are_allowed() {
    const ALLOWED: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let server = Server::start(&[]);
    let mut characters = ALLOWED.bytes().cycle();
    for length in 1..=23 {
        let id: Vec<u8> = characters.by_ref().take(length).collect();
        answered(&server, &connect(0x02, &[&id]), ACCEPTED).expect_nothing();
    }
}

#[test]
fn mqtt311_3_1_3_6_an_empty_identifier_is_replaced_by_a_unique_one() {
    let server = Server::start(&[]);
    let mut clients: Vec<_> = (0..8).map(|_| server.connect(V3, "")).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert!(!client.connack.session_present);
        client.subscribe(&n.to_string(), Q1);
        client.expect_nothing();
    }
    let mut publisher = server.connect(V3, "");
    for (n, client) in clients.iter_mut().enumerate() {
        publisher.publish(&n.to_string(), "x", Q1);
        client.take_message(&n.to_string(), "x");
    }
    for client in &mut clients {
        client.expect_nothing();
    }
}

/// Shows: MQTT311-3.1.3-7
#[test]
fn mqtt311_3_1_3_8_an_empty_identifier_without_clean_session_is_refused_with_2() {
    let server = Server::start(&[]);
    answered(&server, &connect(0x00, &[b""]), b"\x20\x02\0\x02").expect_closed();
}

#[test]
fn mqtt311_3_1_3_9_an_identifier_that_is_not_taken_is_refused_with_2() {
    let server = Server::start(&["--allow-empty-client-id=false"]);
    for flags in [0x00, 0x02] {
        answered(&server, &connect(flags, &[b""]), b"\x20\x02\0\x02").expect_closed();
    }
    answered(&server, &connect(0x02, &[b"a"]), ACCEPTED);
}
