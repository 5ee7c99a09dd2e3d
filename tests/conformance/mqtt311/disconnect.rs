//! 3.12 to 3.14: PINGREQ and DISCONNECT.

use super::*;

#[test]
fn mqtt311_3_12_4_1_a_pingreq_is_answered() {
    let server = Server::start(&[]);
    let mut client = answered(&server, &connect(0x02, &[b"client"]), ACCEPTED);
    exchange(&mut client, b"\xc0\0", b"\xd0\0");
    exchange(&mut client, b"\xc0\0\xc0\0\xc0\0", b"\xd0\0\xd0\0\xd0\0");
    closed(&server, b"\xc0\x01x");
}

/// A client that stays is closed on.
///
/// Shows: MQTT311-3.14.4-1
#[test]
fn mqtt311_3_14_4_2_nothing_behind_a_disconnect_counts() {
    let server = Server::start(&[]);
    let mut neighbour = server.connect(V3, "neighbour");
    neighbour.subscribe("t", Q0);
    closed(&server, b"\xe0\0\x30\x03\0\x01t\xc0\0");
    closed(&server, &[b"\xe0\0", &connect(0x02, &[b"client"])[..], b"\x30\x03\0\x01t"].concat());
    neighbour.expect_nothing();
    // A DISCONNECT with a body is none, and closes all the same.
    neighbour.subscribe("will", Q0);
    let with_will = connect(0x06, &[b"client", b"will", b"gone"]);
    let mut client = answered(&server, &with_will, ACCEPTED);
    client.send_raw(b"\xe0\x01\0");
    client.expect_closed();
    neighbour.expect_message("will", "gone");
}
