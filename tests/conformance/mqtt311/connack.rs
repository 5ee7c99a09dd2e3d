//! 3.2: CONNACK.

use super::*;

const PRESENT: &[u8] = b"\x20\x02\x01\0";

#[test]
fn mqtt311_3_2_0_1_connack_comes_before_everything() {
    let server = Server::start(&[]);
    let mut client = resume(&server, "client");
    client.subscribe("t", Q1);
    client.disconnect();
    server.connect(V3, "publisher").publish("t", "x", Q1);
    // A message waits, and the client asks for more before it has an answer.
    let bytes = [&connect(0x00, &[b"client"])[..], b"\xc0\0", b"\x82\x06\0\x01\0\x01u\0"].concat();
    let mut client = answered(&server, &bytes, PRESENT);
    client.take_message("t", "x");
}

#[test]
fn mqtt311_3_2_2_1_a_clean_session_is_never_present() {
    let server = Server::start(&[]);
    answered(&server, &connect(0x02, &[b"client"]), ACCEPTED).disconnect();
    answered(&server, &connect(0x00, &[b"client"]), ACCEPTED).disconnect();
    answered(&server, &connect(0x02, &[b"client"]), ACCEPTED).disconnect();
}

#[test]
fn mqtt311_3_2_2_2_a_session_that_is_kept_is_present() {
    let server = Server::start(&[]);
    answered(&server, &connect(0x00, &[b"client"]), ACCEPTED).disconnect();
    answered(&server, &connect(0x00, &[b"client"]), PRESENT).cut();
    answered(&server, &connect(0x00, &[b"client"]), PRESENT);
    // Also while its client is still connected.
    answered(&server, &connect(0x00, &[b"client"]), PRESENT);
}

#[test]
fn mqtt311_3_2_2_3_a_session_that_is_not_there_is_not_present() {
    let server = Server::start(&[]);
    answered(&server, &connect(0x00, &[b"one"]), ACCEPTED).disconnect();
    answered(&server, &connect(0x00, &[b"two"]), ACCEPTED).disconnect();
    answered(&server, &connect(0x02, &[b"one"]), ACCEPTED).disconnect();
    answered(&server, &connect(0x00, &[b"one"]), ACCEPTED).disconnect();
}

/// Shows: MQTT311-3.2.2-5
#[test]
fn mqtt311_3_2_2_4_a_refusal_has_no_session_and_ends_the_connection() {
    let server = Server::start(&["--max-connections=1"]);
    answered(&server, &connect(0x00, &[b"client"]), ACCEPTED).disconnect();
    let _other = server.connect(V3, "other");
    let mut client = answered(&server, &connect(0x00, &[b"client"]), b"\x20\x02\0\x03");
    client.expect_closed();
}

/// No return code says that a will is to blame.
#[test]
fn mqtt311_3_2_2_6_a_will_with_wildcards_is_refused_without_a_connack() {
    let server = Server::start(&[]);
    for topic in [&b"#"[..], b"a/+", b"a+b"] {
        refused(&server, &connect(0x06, &[b"client", topic, b"gone"]));
    }
}
