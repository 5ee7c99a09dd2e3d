//! 3.4 to 3.7: PUBACK, PUBREC, PUBREL, PUBCOMP.

use ringmq::codec::AckKind;

use super::{V5, accepted, leaves_out_the_reason_string, packet, refused, subscriber};
use crate::support::{QoS, ReasonCode, Server};

const SUCCESS: ReasonCode = ReasonCode::Success;

/// A client must not use another one, either.
fn only_these_reasons_are_taken(header: u8, allowed: &[u8]) {
    let server = Server::start(&[]);
    for reason in 0..=0xff {
        let ack = [header, 3, 0x7f, 0xff, reason];
        if allowed.contains(&reason) {
            accepted(&server, &ack);
        } else {
            let unknown = ReasonCode::try_from(reason).is_err();
            let told =
                if unknown { ReasonCode::MalformedPacket } else { ReasonCode::ProtocolError };
            refused(&server, &ack, told);
        }
    }
}

/// The reasons that the broker itself has for a PUBACK or PUBREC.
fn the_broker_tells_why(qos: QoS) {
    let server = Server::start(&["--validate-payload-format=true"]);
    let mut client = server.connect(V5, "client");
    assert_eq!(client.publish("nobody", "x", qos), ReasonCode::NoMatchingSubscribers);
    assert_eq!(client.publish("$SYS/x", "x", qos), ReasonCode::NotAuthorized);
    let invalid = client.publish_with("nobody", b"\xff", qos, |publish| {
        publish.properties.payload_format_indicator = Some(true);
    });
    assert_eq!(invalid, ReasonCode::PayloadFormatInvalid);
    let _somebody = subscriber(&server, "somebody");
    assert_eq!(client.publish("somebody", "x", qos), SUCCESS);
}

const OF_PUBACK: [u8; 9] = [0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];

#[test]
fn mqtt5_3_4_2_1_puback_has_a_reason_of_its_table() {
    only_these_reasons_are_taken(0x40, &OF_PUBACK);
    the_broker_tells_why(QoS::AtLeastOnce);
}

#[test]
fn mqtt5_3_4_2_2_puback_leaves_out_a_reason_string_that_makes_it_too_large() {
    leaves_out_the_reason_string(|client| {
        client.send_publish("$SYS/x", "x", QoS::AtLeastOnce);
    });
}

#[test]
fn mqtt5_3_5_2_1_pubrec_has_a_reason_of_its_table() {
    only_these_reasons_are_taken(0x50, &OF_PUBACK);
    the_broker_tells_why(QoS::ExactlyOnce);
}

#[test]
fn mqtt5_3_5_2_2_pubrec_leaves_out_a_reason_string_that_makes_it_too_large() {
    leaves_out_the_reason_string(|client| {
        client.send_publish("$SYS/x", "x", QoS::ExactlyOnce);
    });
}

#[test]
fn mqtt5_3_6_1_1_other_flags_of_pubrel_are_malformed() {
    let server = Server::start(&[]);
    for flags in (0..16).filter(|flags| *flags != 2) {
        refused(&server, &[0x60 | flags, 2, 0, 1], ReasonCode::MalformedPacket);
    }
    accepted(&server, b"\x62\x02\0\x01");
}

#[test]
fn mqtt5_3_6_2_1_pubrel_has_a_reason_of_its_table() {
    only_these_reasons_are_taken(0x62, &[0, 0x92]);
    let server = Server::start(&[]);
    let mut client = subscriber(&server, "t");
    client.publish("t", "x", QoS::AtMostOnce);
    client.expect_message("t", "x");
    // The answer to a PUBREC for a message that there is not, and for one that there is.
    client.ack(AckKind::Pubrec, 77);
    assert_eq!(client.expect_ack(AckKind::Pubrel, 77), ReasonCode::PacketIdentifierNotFound);
    server.connect(V5, "publisher").publish("t", "x", QoS::ExactlyOnce);
    let id = client.expect_message("t", "x").packet_id;
    client.ack(AckKind::Pubrec, id);
    assert_eq!(client.expect_ack(AckKind::Pubrel, id), SUCCESS);
}

#[test]
fn mqtt5_3_7_2_1_pubcomp_has_a_reason_of_its_table() {
    only_these_reasons_are_taken(0x70, &[0, 0x92]);
    let server = Server::start(&[]);
    let mut client = server.connect(V5, "client");
    client.ack(AckKind::Pubrel, 77);
    assert_eq!(client.expect_ack(AckKind::Pubcomp, 77), ReasonCode::PacketIdentifierNotFound);
    let id = client.send_publish("t", "x", QoS::ExactlyOnce);
    client.expect_ack(AckKind::Pubrec, id);
    client.ack(AckKind::Pubrel, id);
    assert_eq!(client.expect_ack(AckKind::Pubcomp, id), SUCCESS);
}

/// No numbers: 3.4.2.1, 3.4.2.2.1 and their likes.
#[test]
fn what_has_its_default_may_be_left_out_at_the_end() {
    let server = Server::start(&[]);
    for header in [0x40, 0x50, 0x62, 0x70] {
        for body in [&b"\0\x01"[..], b"\0\x01\0", b"\0\x01\0\0", b"\0\x01\0\x04\x1f\0\x01x"] {
            accepted(&server, &packet(header, &[body]));
        }
        // Less than an identifier, a property length without its properties, bytes behind it.
        for body in [&b""[..], b"\0", b"\0\x01\0\x01", b"\0\x01\0\0\0"] {
            refused(&server, &packet(header, &[body]), ReasonCode::MalformedPacket);
        }
        // A property that is there twice, and one that does not belong there.
        let twice = packet(header, &[b"\0\x01\0\x06\x1f\0\0\x1f\0\0"]);
        refused(&server, &twice, ReasonCode::ProtocolError);
        let other = packet(header, &[b"\0\x01\0\x02\x01\0"]);
        refused(&server, &other, ReasonCode::MalformedPacket);
    }
}
