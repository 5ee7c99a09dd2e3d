//! 4.8: errors.

use super::*;
use ringmq::codec::AckKind;

#[test]
fn mqtt311_4_8_0_1_a_violation_closes_its_connection_and_no_other() {
    let server = Server::start(&[]);
    let mut neighbour = server.connect(V3, "neighbour");
    for bytes in [
        // Packets that only a server sends, and types that are reserved.
        &b"\x20\x02\0\0"[..],
        b"\x90\x03\0\x01\0",
        b"\xb0\x02\0\x01",
        b"\xd0\0",
        b"\xf0\0",
        b"\0\0",
        // Lengths that do not fit.
        b"\x40\x01\0",
        b"\x40\x03\0\x01\0",
        b"\x62\x01\0",
        b"\x62\x03\0\x01\0",
        b"\x30\xff\xff\xff\xff\x01",
    ] {
        closed(&server, bytes);
        neighbour.expect_nothing();
    }
}

#[test]
fn mqtt311_4_8_0_1_an_acknowledgement_of_the_wrong_kind_closes_the_connection() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    for (qos, wrong) in [(Q1, AckKind::Pubrec), (Q2, AckKind::Puback), (Q2, AckKind::Pubcomp)] {
        let mut client = server.connect(V3, "client");
        client.subscribe("t", Q2);
        publisher.publish("t", "x", qos);
        let message = client.expect_message("t", "x");
        client.ack(wrong, message.packet_id);
        client.expect_closed();
    }
}

/// A limit that is reached is such an error: there is no word for it in MQTT 3.1.1.
#[test]
fn mqtt311_4_8_0_2_a_packet_that_finds_no_room_closes_its_connection_and_no_other() {
    let server = Server::start(&["--max-awaiting-rel=2", "--max-packet-size=4KiB"]);
    let mut neighbour = server.connect(V3, "neighbour");
    neighbour.subscribe("t", Q2);
    let mut client = server.connect(V3, "client");
    for id in [b"\0\x01", b"\0\x02"] {
        exchange(&mut client, &packet(0x34, &[b"\0\x01t", id]), &packet(0x50, &[id]));
        neighbour.take_message("t", "");
    }
    client.send_raw(b"\x34\x05\0\x01t\0\x03");
    client.expect_closed();
    closed(&server, &packet(0x30, &[b"\0\x01t", &[b'x'; 5_000]]));
    neighbour.expect_nothing();
}
