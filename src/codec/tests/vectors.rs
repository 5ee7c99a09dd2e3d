//! Packets written by hand, byte by byte as the specifications lay them out.

use std::num::NonZeroU32;

use super::*;

/// Decodes to `packet` and is what `packet` encodes to.
fn both_ways(bytes: &[u8], version: Version, packet: Packet<'_>) {
    assert_eq!(decode(bytes, version), Ok(packet.clone()), "{version}");
    assert_eq!(encode(&packet, version).as_deref(), Ok(bytes), "{version}");
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

/// The variable headers are the examples of MQTT 3.1.1, figure 3.6, and of 5.0, figure 3-6.
#[test]
fn connect() {
    let mut connect = Connect {
        version: Version::V3_1_1,
        clean_start: true,
        keep_alive: 10,
        client_id: "c",
        will: Some(Will {
            topic: "w",
            payload: b"bye",
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: WillProperties::default(),
        }),
        user_name: Some("u"),
        password: Some(b"pw"),
        properties: ConnectProperties::default(),
    };
    let rest = b"\0\x01c\0\x01w\0\x03bye\0\x01u\0\x02pw";
    let bytes = super::packet(0x10, &[b"\0\x04MQTT\x04\xCE\0\x0A", &rest[..]].concat());
    both_ways(&bytes, Version::V3_1_1, Packet::Connect(connect));

    connect.version = Version::V3_1;
    let bytes = super::packet(0x10, &[b"\0\x06MQIsdp\x03\xCE\0\x0A", &rest[..]].concat());
    both_ways(&bytes, Version::V3_1, Packet::Connect(connect));

    connect.version = Version::V5;
    connect.properties.session_expiry_interval = Some(10);
    let rest = b"\0\x01c\0\0\x01w\0\x03bye\0\x01u\0\x02pw";
    let head = b"\0\x04MQTT\x05\xCE\0\x0A\x05\x11\0\0\0\x0A";
    let bytes = super::packet(0x10, &[head, &rest[..]].concat());
    both_ways(&bytes, Version::V5, Packet::Connect(connect));
    // The version asked for does not count.
    assert_eq!(decode(&bytes, Version::V3_1), Ok(Packet::Connect(connect)));
}

#[test]
fn connect_with_every_property() {
    let head = b"\0\x04MQTT\x05\x06\0\0";
    let properties = b"\x11\0\0\0\x78\x21\0\x14\x27\0\0\x10\0\x22\0\x08\x19\x01\x17\0\
        \x15\0\x05PLAIN\x16\0\x01x\x26\0\x01k\0\x01v";
    let will = b"\x18\0\0\0\x05\x02\0\0\0\x3C\x01\x01\x03\0\x01t\x08\0\x01r\x09\0\x01c\
        \x26\0\x01n\0\x01m";
    let body = [
        &head[..],
        &[properties.len() as u8],
        properties,
        b"\0\0",
        &[will.len() as u8],
        will,
        b"\0\x01w\0\0",
    ];
    let bytes = super::packet(0x10, &body.concat());
    let user_properties: &[_] = &[("k", "v")];
    let will_user_properties: &[_] = &[("n", "m")];
    let connect = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 0,
        client_id: "",
        will: Some(Will {
            topic: "w",
            payload: b"",
            qos: QoS::AtMostOnce,
            retain: false,
            properties: WillProperties {
                delay_interval: 5,
                publish: PublishProperties {
                    payload_format_indicator: Some(true),
                    message_expiry_interval: Some(60),
                    response_topic: Some("r"),
                    correlation_data: Some(b"c"),
                    content_type: Some("t"),
                    user_properties: will_user_properties.into(),
                    ..PublishProperties::default()
                },
            },
        }),
        user_name: None,
        password: None,
        properties: ConnectProperties {
            session_expiry_interval: Some(120),
            receive_maximum: Some(20),
            maximum_packet_size: Some(4_096),
            topic_alias_maximum: 8,
            request_response_information: true,
            request_problem_information: false,
            authentication_method: Some("PLAIN"),
            authentication_data: Some(b"x"),
            user_properties: user_properties.into(),
        },
    };
    assert_eq!(decode(&bytes, Version::V5), Ok(Packet::Connect(connect)));
    let packet = Packet::Connect(connect);
    assert_eq!(decode(&encode(&packet, Version::V5).unwrap(), Version::V5), Ok(packet));
}

/// In 3.1 the reserved bit and the flags of a will that is not there say nothing, and the two last
/// strings may be missing though their flags are set.
#[test]
fn connect_of_3_1_is_lenient() {
    let expected = Connect {
        version: Version::V3_1,
        clean_start: false,
        keep_alive: 60,
        client_id: "c",
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    };
    let bytes = super::packet(0x10, b"\0\x06MQIsdp\x03\xF9\0\x3C\0\x01c");
    assert_eq!(decode(&bytes, Version::V3_1), Ok(Packet::Connect(expected)));
    let bytes = super::packet(0x10, b"\0\x06MQIsdp\x03\xC0\0\x3C\0\x01c\0\x01u");
    let named = Connect { user_name: Some("u"), ..expected };
    assert_eq!(decode(&bytes, Version::V3_1), Ok(Packet::Connect(named)));
}

#[test]
fn connack() {
    let connack = Connack { session_present: true, ..Connack::default() };
    both_ways(&[0x20, 2, 1, 0], Version::V3_1_1, Packet::Connack(connack));
    both_ways(&[0x20, 3, 1, 0, 0], Version::V5, Packet::Connack(connack));
    assert_eq!(encode(&Packet::Connack(connack), Version::V3_1).unwrap(), [0x20, 2, 0, 0]);

    let refusal = Connack { reason: ReasonCode::BadUserNameOrPassword, ..Connack::default() };
    both_ways(&[0x20, 2, 0, 4], Version::V3_1, Packet::Connack(refusal));
    both_ways(&[0x20, 2, 0, 4], Version::V3_1_1, Packet::Connack(refusal));
    both_ways(&[0x20, 3, 0, 0x86, 0], Version::V5, Packet::Connack(refusal));

    let connack = Connack {
        properties: ConnackProperties {
            receive_maximum: Some(32),
            maximum_qos: QoS::AtLeastOnce,
            assigned_client_identifier: Some("auto"),
            server_keep_alive: Some(60),
            ..ConnackProperties::default()
        },
        ..Connack::default()
    };
    let bytes = b"\x20\x12\0\0\x0F\x21\0\x20\x24\x01\x12\0\x04auto\x13\0\x3C";
    both_ways(bytes, Version::V5, Packet::Connack(connack));
}

/// The first variable header is the specifications' example: topic a/b, Packet Identifier 10.
#[test]
fn publish() {
    let publish = Publish {
        qos: QoS::AtLeastOnce,
        topic: "a/b",
        packet_id: Some(id(10)),
        ..Publish::default()
    };
    both_ways(b"\x32\x07\0\x03a/b\0\x0A", Version::V3_1_1, Packet::Publish(publish));
    both_ways(b"\x32\x08\0\x03a/b\0\x0A\0", Version::V5, Packet::Publish(publish));

    let publish = Publish {
        dup: true,
        qos: QoS::ExactlyOnce,
        retain: true,
        packet_id: Some(id(1)),
        topic: "t",
        payload: b"\0\xFF",
        ..Publish::default()
    };
    both_ways(b"\x3D\x07\0\x01t\0\x01\0\xFF", Version::V3_1, Packet::Publish(publish));

    let ids = [1, 268_435_455].map(|id| NonZeroU32::new(id).unwrap());
    let user_properties: &[_] = &[("b", "1"), ("a", "2"), ("b", "1")];
    let publish = Publish {
        topic: "",
        payload: b"x",
        properties: PublishProperties {
            topic_alias: Some(7),
            subscription_identifiers: ids[..].into(),
            user_properties: user_properties.into(),
            ..PublishProperties::default()
        },
        ..Publish::default()
    };
    let bytes = b"\x30\x23\0\0\x1F\x23\0\x07\x0B\x01\x0B\xFF\xFF\xFF\x7F\
        \x26\0\x01b\0\x011\x26\0\x01a\0\x012\x26\0\x01b\0\x011x";
    both_ways(bytes, Version::V5, Packet::Publish(publish));
}

/// Lists may have other properties between their entries.
#[test]
fn scattered_properties() {
    let properties = b"\x26\0\x01a\0\x011\x0B\x05\x02\0\0\0\x09\x26\0\x01a\0\x012\x0B\x05\x01\x00";
    let mut body = b"\0\x01t".to_vec();
    body.push(properties.len() as u8);
    body.extend_from_slice(properties);
    let bytes = super::packet(0x30, &body);
    let Ok(Packet::Publish(publish)) = decode(&bytes, Version::V5) else { panic!() };
    let read = publish.properties;
    assert!(read.user_properties.iter().eq([("a", "1"), ("a", "2")]));
    assert!(read.subscription_identifiers.iter().map(NonZeroU32::get).eq([5, 5]));
    assert_eq!(read.message_expiry_interval, Some(9));
    assert_eq!(read.payload_format_indicator, Some(false));
    let mut forwarded = Vec::new();
    read.encode_forwarded(&mut forwarded);
    assert_eq!(forwarded, b"\x01\0\x26\0\x01a\0\x011\x26\0\x01a\0\x012");
}

#[test]
fn acknowledgements() {
    let ack = Ack::new(id(0x0102), ReasonCode::Success);
    for version in VERSIONS {
        both_ways(&[0x40, 2, 1, 2], version, Packet::Puback(ack));
        both_ways(&[0x50, 2, 1, 2], version, Packet::Pubrec(ack));
        both_ways(&[0x62, 2, 1, 2], version, Packet::Pubrel(ack));
        both_ways(&[0x70, 2, 1, 2], version, Packet::Pubcomp(ack));
    }
    assert_eq!(decode(&[0x6A, 2, 1, 2], Version::V3_1), Ok(Packet::Pubrel(ack)));
    // The longer forms of the same.
    assert_eq!(decode(&[0x40, 3, 1, 2, 0], Version::V5), Ok(Packet::Puback(ack)));
    assert_eq!(decode(&[0x40, 4, 1, 2, 0, 0], Version::V5), Ok(Packet::Puback(ack)));

    let nobody = Ack::new(id(1), ReasonCode::NoMatchingSubscribers);
    both_ways(&[0x40, 3, 0, 1, 0x10], Version::V5, Packet::Puback(nobody));
    let told = Ack { reason_string: Some("no"), ..nobody };
    both_ways(b"\x50\x09\0\x01\x10\x05\x1F\0\x02no", Version::V5, Packet::Pubrec(told));
}

/// The first payload is the specifications' example: a/b with QoS 1, c/d with QoS 2.
#[test]
fn subscribe() {
    let filters: &[_] = &[
        ("a/b", SubscriptionOptions::new(QoS::AtLeastOnce)),
        ("c/d", SubscriptionOptions::new(QoS::ExactlyOnce)),
    ];
    let subscribe = Subscribe {
        packet_id: id(10),
        subscription_id: None,
        user_properties: UserProperties::default(),
        filters: filters.into(),
    };
    let bytes = b"\x82\x0E\0\x0A\0\x03a/b\x01\0\x03c/d\x02";
    both_ways(bytes, Version::V3_1, Packet::Subscribe(subscribe));
    both_ways(bytes, Version::V3_1_1, Packet::Subscribe(subscribe));
    both_ways(b"\x82\x0F\0\x0A\0\0\x03a/b\x01\0\x03c/d\x02", Version::V5, {
        Packet::Subscribe(subscribe)
    });

    let options = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let filters: &[_] = &[("#", options)];
    let subscribe =
        Subscribe { subscription_id: NonZeroU32::new(300), filters: filters.into(), ..subscribe };
    both_ways(b"\x82\x0A\0\x0A\x03\x0B\xAC\x02\0\x01#\x2E", Version::V5, {
        Packet::Subscribe(subscribe)
    });
    let Ok(Packet::Subscribe(read)) = decode(b"\x8A\x06\0\x0A\0\x01#\xFD", Version::V3_1) else {
        panic!()
    };
    assert_eq!(read.filters.len(), 1);
    assert!(read.filters.iter().eq([("#", SubscriptionOptions::new(QoS::AtLeastOnce))]));
}

/// The first payload is the example of MQTT 3.1.1: QoS 0 granted, QoS 2 granted, failure.
#[test]
fn suback() {
    let reasons =
        [ReasonCode::GRANTED_QOS_0, ReasonCode::GrantedQoS2, ReasonCode::UnspecifiedError];
    let mut suback = Suback {
        packet_id: id(1),
        reasons: reasons[..].into(),
        reason_string: None,
        user_properties: UserProperties::default(),
    };
    both_ways(b"\x90\x05\0\x01\0\x02\x80", Version::V3_1_1, Packet::Suback(suback));
    both_ways(b"\x90\x06\0\x01\0\0\x02\x80", Version::V5, Packet::Suback(suback));
    let reasons = [ReasonCode::NotAuthorized];
    suback.reasons = reasons[..].into();
    assert_eq!(encode(&Packet::Suback(suback), Version::V3_1).unwrap(), b"\x90\x03\0\x01\x80");
    both_ways(b"\x90\x04\0\x01\0\x87", Version::V5, Packet::Suback(suback));
}

/// The payload is the specifications' example: a/b and c/d.
#[test]
fn unsubscribe_and_unsuback() {
    let filters: &[_] = &["a/b", "c/d"];
    let unsubscribe = Unsubscribe {
        packet_id: id(10),
        user_properties: UserProperties::default(),
        filters: filters.into(),
    };
    let bytes = b"\xA2\x0C\0\x0A\0\x03a/b\0\x03c/d";
    both_ways(bytes, Version::V3_1_1, Packet::Unsubscribe(unsubscribe));
    let bytes = b"\xA2\x0D\0\x0A\0\0\x03a/b\0\x03c/d";
    both_ways(bytes, Version::V5, Packet::Unsubscribe(unsubscribe));

    let mut unsuback = Unsuback {
        packet_id: id(10),
        reasons: ReasonCodes::default(),
        reason_string: None,
        user_properties: UserProperties::default(),
    };
    both_ways(b"\xB0\x02\0\x0A", Version::V3_1_1, Packet::Unsuback(unsuback));
    let reasons = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
    unsuback.reasons = reasons[..].into();
    both_ways(b"\xB0\x05\0\x0A\0\0\x11", Version::V5, Packet::Unsuback(unsuback));
}

#[test]
fn packets_without_a_body() {
    for version in VERSIONS {
        both_ways(&[0xC0, 0], version, Packet::Pingreq);
        both_ways(&[0xD0, 0], version, Packet::Pingresp);
        both_ways(&[0xE0, 0], version, Packet::Disconnect(Disconnect::default()));
    }
    both_ways(&[0xF0, 0], Version::V5, Packet::Auth(Auth::default()));
}

#[test]
fn disconnect_and_auth() {
    let taken_over = Disconnect::new(ReasonCode::SessionTakenOver);
    both_ways(&[0xE0, 1, 0x8E], Version::V5, Packet::Disconnect(taken_over));
    assert_eq!(encode(&Packet::Disconnect(taken_over), Version::V3_1_1).unwrap(), [0xE0, 0]);
    let moved = Disconnect {
        reason: ReasonCode::UseAnotherServer,
        server_reference: Some("b"),
        ..Disconnect::default()
    };
    both_ways(b"\xE0\x06\x9C\x04\x1C\0\x01b", Version::V5, Packet::Disconnect(moved));
    let expiry = Disconnect { session_expiry_interval: Some(0), ..Disconnect::default() };
    both_ways(b"\xE0\x07\0\x05\x11\0\0\0\0", Version::V5, Packet::Disconnect(expiry));

    let auth = Auth {
        reason: ReasonCode::ContinueAuthentication,
        authentication_method: Some("M"),
        authentication_data: Some(b"\x01"),
        ..Auth::default()
    };
    both_ways(b"\xF0\x0A\x18\x08\x15\0\x01M\x16\0\x01\x01", Version::V5, Packet::Auth(auth));
}

/// 3.x does not ask for the shortest form of the Remaining Length.
#[test]
fn padded_remaining_length() {
    assert_eq!(decode(&[0xC0, 0x80, 0x00], Version::V3_1_1), Ok(Packet::Pingreq));
    assert_eq!(
        decode(&[0xC0, 0x80, 0x00], Version::V5).map_err(|error| error.kind),
        Err(DecodeErrorKind::VariableByteIntegerNotMinimal)
    );
}
