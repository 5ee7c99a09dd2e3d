//! What must be refused, why, and with which Reason Code.

use std::num::NonZeroU32;

use super::DecodeErrorKind as Kind;
use super::Version::{V3_1, V3_1_1, V5};
use super::*;

#[track_caller]
fn refused(header: u8, body: &[u8], version: Version, kind: DecodeErrorKind) {
    let bytes = super::packet(header, body);
    assert_eq!(decode(&bytes, version).map_err(|error| error.kind), Err(kind));
}

/// The error of a CONNECT, and the version to answer it in.
#[track_caller]
fn connect_refused(body: &[u8], kind: DecodeErrorKind, version: Option<Version>) {
    let bytes = super::packet(0x10, body);
    assert_eq!(decode(&bytes, V5), Err(DecodeError { kind, version }));
}

#[test]
fn protocol_names_and_levels() {
    let refused = |name: &[u8], level, kind, version| {
        let len = (name.len() as u16).to_be_bytes();
        connect_refused(&[&len, name, &[level, 2, 0, 0, 0, 1, b'c']].concat(), kind, version);
    };
    let level = Kind::UnsupportedProtocolLevel;
    refused(b"mqtt", 4, Kind::UnknownProtocolName, None);
    refused(b"MQTT", 3, level(3), Some(V3_1_1));
    refused(b"MQTT", 6, level(6), Some(V5));
    refused(b"MQIsdp", 4, level(4), Some(V3_1));
    refused(b"MQIsdp", 0x83, Kind::BridgeProtocolLevel(0x83), Some(V3_1));
    refused(b"MQTT", 0x84, Kind::BridgeProtocolLevel(0x84), Some(V3_1_1));
    for kind in [level(6), Kind::BridgeProtocolLevel(0x83), Kind::UnknownProtocolName] {
        assert_eq!(kind.reason_code(), ReasonCode::UnsupportedProtocolVersion);
        assert_eq!(kind.reason_code().connack_3x(), 1);
    }
}

#[test]
fn connect_flags() {
    let flags = |level, flags| [b"\0\x04MQTT", &[level, flags, 0, 60][..]].concat();
    for (level, version) in [(4, V3_1_1), (5, V5)] {
        let refused = |bits, kind| connect_refused(&flags(level, bits), kind, Some(version));
        refused(0x03, Kind::ReservedConnectFlag);
        refused(0x1E, Kind::InvalidQoS);
        refused(0x0A, Kind::WillFlagsWithoutWill);
        refused(0x22, Kind::WillFlagsWithoutWill);
    }
    connect_refused(&flags(4, 0x42), Kind::PasswordWithoutUserName, Some(V3_1_1));
    let nameless = [&flags(5, 0x42)[..], b"\0\0\x01c\0\x02pw"].concat();
    let bytes = super::packet(0x10, &nameless);
    let Ok(Packet::Connect(connect)) = decode(&bytes, V5) else { panic!() };
    assert_eq!((connect.user_name, connect.password), (None, Some(&b"pw"[..])));
}

#[test]
fn client_identifiers() {
    let empty = |name: &[u8], flags| [name, &[flags, 0, 60, 0, 0][..]].concat();
    connect_refused(&empty(b"\0\x06MQIsdp\x03", 2), Kind::EmptyClientId, Some(V3_1));
    connect_refused(&empty(b"\0\x04MQTT\x04", 0), Kind::EmptyClientId, Some(V3_1_1));
    assert_eq!(Kind::EmptyClientId.reason_code(), ReasonCode::ClientIdentifierNotValid);
    assert_eq!(Kind::EmptyClientId.reason_code().connack_3x(), 2);
    assert!(decode(&super::packet(0x10, &empty(b"\0\x04MQTT\x04", 2)), V5).is_ok());
    assert!(decode(b"\x10\x0D\0\x04MQTT\x05\0\0\x3C\0\0\0", V5).is_ok());
}

#[test]
fn connect_bodies() {
    let v4 = |rest: &[u8]| [b"\0\x04MQTT\x04", rest].concat();
    let v5 = |rest: &[u8]| [b"\0\x04MQTT\x05", rest].concat();
    connect_refused(&v4(b"\x02\0\0\0\x01cx"), Kind::TrailingBytes, Some(V3_1_1));
    connect_refused(&v4(b"\x02\0\0\0\x02c"), Kind::UnexpectedEnd, Some(V3_1_1));
    connect_refused(&v4(b"\x02\0\0\0\x01\xFF"), Kind::InvalidUtf8, Some(V3_1_1));
    connect_refused(&v4(b"\x02\0\0\0\x01\0"), Kind::NullCharacter, Some(V3_1_1));
    connect_refused(&v4(b"\x82\0\0\0\x01c"), Kind::UnexpectedEnd, Some(V3_1_1));
    connect_refused(&v4(b"\x06\0\0\0\x01c\0\0\0\0"), Kind::EmptyTopicName, Some(V3_1_1));
    connect_refused(&v5(b"\x02\0\0"), Kind::UnexpectedEnd, Some(V5));
    let property = |property: &[u8], kind| {
        let len = [property.len() as u8];
        connect_refused(&v5(&[b"\x02\0\0", &len[..], property, b"\0\0"].concat()), kind, Some(V5));
    };
    property(b"\x21\0\0", Kind::InvalidPropertyValue(0x21));
    property(b"\x27\0\0\0\0", Kind::InvalidPropertyValue(0x27));
    property(b"\x19\x02", Kind::InvalidPropertyValue(0x19));
    property(b"\x17\x02", Kind::InvalidPropertyValue(0x17));
    property(b"\x22\0\x01\x22\0\x01", Kind::DuplicateProperty(0x22));
    property(b"\x16\0\0", Kind::MissingAuthenticationMethod);
    property(b"\x01\0", Kind::PropertyNotAllowed(0x01));
    property(b"\x04\0", Kind::UnknownProperty(4));
    property(b"\x80\x01\0", Kind::UnknownProperty(128));
    property(b"\x91\0\0\0\0\0", Kind::VariableByteIntegerNotMinimal);
    property(b"\x11\0\0\0", Kind::UnexpectedEnd);
    // A will has no Topic Alias.
    let will = v5(b"\x06\0\0\0\0\x01c\x03\x23\0\x01\0\x01w\0\0");
    connect_refused(&will, Kind::PropertyNotAllowed(0x23), Some(V5));
    // The Remaining Length of a 5.0 CONNECT is in its shortest form.
    let padded = [b"\x10\x8D\0", &v5(b"\0\0\x3C\0\0\0")[..]].concat();
    let kind = Kind::VariableByteIntegerNotMinimal;
    assert_eq!(decode(&padded, V5), Err(DecodeError { kind, version: Some(V5) }));
}

/// Which CONNECTs get an answer, and which just a closed connection.
#[test]
fn refusals_of_a_connect() {
    let answer = |body: &[u8]| decode(&super::packet(0x10, body), V5).unwrap_err().connack();
    let unsupported = ReasonCode::UnsupportedProtocolVersion;
    assert_eq!(answer(b"\0\x04MQTT\x03"), Some((V3_1_1, unsupported)));
    assert_eq!(answer(b"\0\x06MQIsdp\x83"), Some((V3_1, unsupported)));
    assert_eq!(answer(b"\0\x04MQTT\x06"), Some((V5, unsupported)));
    assert_eq!(answer(b"\0\x04HTTP\x04"), None);
    let unnamed = Some((V3_1_1, ReasonCode::ClientIdentifierNotValid));
    assert_eq!(answer(b"\0\x04MQTT\x04\0\0\0\0\0"), unnamed);
    assert_eq!(answer(b"\0\x04MQTT\x04\x01\0\0\0\0"), None);
    let malformed = Some((V5, ReasonCode::MalformedPacket));
    assert_eq!(answer(b"\0\x04MQTT\x05\x01\0\0\0\0\0"), malformed);
}

#[test]
fn connack() {
    refused(0x20, &[2, 0], V3_1_1, Kind::ConnackFlags(2));
    refused(0x20, &[1, 5], V3_1_1, Kind::ConnackFlags(1));
    refused(0x20, &[1, 0x87, 0], V5, Kind::ConnackFlags(1));
    refused(0x20, &[0, 6], V3_1_1, Kind::UnknownReasonCode(6));
    refused(0x20, &[0, 0x8E, 0], V5, Kind::ReasonCodeNotAllowed(0x8E));
    refused(0x20, &[0, 0, 2, 0x24, 2], V5, Kind::InvalidPropertyValue(0x24));
    refused(0x20, &[0, 0], V5, Kind::UnexpectedEnd);
    refused(0x20, &[0, 0, 0], V3_1, Kind::TrailingBytes);
}

#[test]
fn publish() {
    refused(0x36, b"\0\x01t\0\x01", V5, Kind::InvalidQoS);
    refused(0x38, b"\0\x01t", V3_1_1, Kind::DupWithQoS0);
    refused(0x32, b"\0\x01t\0\0x", V3_1_1, Kind::ZeroPacketId);
    refused(0x32, b"\0\x01t\0", V3_1_1, Kind::UnexpectedEnd);
    refused(0x30, b"\0\0x", V3_1_1, Kind::EmptyTopicName);
    refused(0x30, b"\0\0\0x", V5, Kind::EmptyTopicName);
    refused(0x30, b"\0\x01t", V5, Kind::UnexpectedEnd);
    refused(0x30, b"\0\x03t", V3_1, Kind::UnexpectedEnd);
    refused(0x30, b"\0\x03\xED\xA0\x80", V3_1_1, Kind::InvalidUtf8);
    refused(0x30, b"\0\x02t\0", V3_1_1, Kind::NullCharacter);
    let property = |property: &[u8], kind| {
        refused(0x30, &[&b"\0\x01t"[..], &[property.len() as u8], property].concat(), V5, kind);
    };
    property(b"\x23\0\0", Kind::ZeroTopicAlias);
    property(b"\x0B\0", Kind::InvalidPropertyValue(0x0B));
    property(b"\x0B\x80\x80\x80\x80\x01", Kind::VariableByteIntegerTooLong);
    property(b"\x01\x02", Kind::InvalidPropertyValue(1));
    property(b"\x01\0\x01\0", Kind::DuplicateProperty(1));
    property(b"\x08\0\x03a/#", Kind::InvalidResponseTopic);
    property(b"\x08\0\x01+", Kind::InvalidResponseTopic);
    property(b"\x08\0\0", Kind::InvalidResponseTopic);
    property(b"\x26\0\x01a\0\x01\0", Kind::NullCharacter);
    property(b"\x26\0\x01a\0", Kind::UnexpectedEnd);
    property(b"\x11\0\0\0\0", Kind::PropertyNotAllowed(0x11));
    // The section ends in the middle of a property, though the packet does not.
    refused(0x30, b"\0\x01t\x02\x23\0\x01", V5, Kind::UnexpectedEnd);
    assert_eq!(Kind::ZeroTopicAlias.reason_code(), ReasonCode::TopicAliasInvalid);
    assert_eq!(Kind::EmptyTopicName.reason_code(), ReasonCode::ProtocolError);
    assert_eq!(Kind::InvalidUtf8.reason_code(), ReasonCode::MalformedPacket);
}

#[test]
fn another_packet_is_no_publish() {
    let frame = Frame { header: 0xC0, body: &[], len: 2 };
    let error = Publish::decode(&frame, V5).unwrap_err();
    assert_eq!(error.kind, Kind::FixedHeaderFlags(0xC0));
    assert_eq!(Frame { header: 0, ..frame }.packet_type(), None);
}

#[test]
fn acknowledgements() {
    refused(0x40, &[0, 0], V5, Kind::ZeroPacketId);
    refused(0x40, &[0], V3_1_1, Kind::UnexpectedEnd);
    refused(0x40, &[0, 1, 0], V3_1_1, Kind::TrailingBytes);
    refused(0x40, &[0, 1, 0x05], V5, Kind::UnknownReasonCode(5));
    refused(0x40, &[0, 1, 0x92], V5, Kind::ReasonCodeNotAllowed(0x92));
    refused(0x62, &[0, 1, 0x10], V5, Kind::ReasonCodeNotAllowed(0x10));
    refused(0x62, &[0, 1, 0, 1], V5, Kind::UnexpectedEnd);
    refused(0x62, &[0, 1, 0, 0, 0], V5, Kind::TrailingBytes);
    refused(0x60, &[0, 1], V5, Kind::FixedHeaderFlags(0));
    refused(0x6A, &[0, 1], V3_1_1, Kind::FixedHeaderFlags(0x0A));
    refused(0x41, &[0, 1], V3_1, Kind::FixedHeaderFlags(1));
    assert_eq!(Kind::ReasonCodeNotAllowed(0x92).reason_code(), ReasonCode::ProtocolError);
}

#[test]
fn subscriptions() {
    refused(0x82, b"\0\x01", V3_1_1, Kind::EmptyPayload);
    refused(0x82, b"\0\x01\0", V5, Kind::EmptyPayload);
    refused(0x82, b"\0\0\0\x01a\0", V3_1_1, Kind::ZeroPacketId);
    refused(0x82, b"\0\x01\0\0\0", V3_1_1, Kind::EmptyTopicFilter);
    refused(0x82, b"\0\x01\0\x01a\x03", V3_1_1, Kind::InvalidSubscriptionQoS);
    refused(0x82, b"\0\x01\0\x01a\x03", V3_1, Kind::InvalidSubscriptionQoS);
    refused(0x82, b"\0\x01\0\x01a\x05", V3_1_1, Kind::ReservedSubscriptionOptions);
    refused(0x82, b"\0\x01\0\0\x01a\x41", V5, Kind::ReservedSubscriptionOptions);
    refused(0x82, b"\0\x01\0\0\x01a\x33", V5, Kind::InvalidSubscriptionQoS);
    refused(0x82, b"\0\x01\0\0\x01a\x30", V5, Kind::InvalidRetainHandling);
    refused(0x82, b"\0\x01\0\0\x0A$share/g/a\x04", V5, Kind::NoLocalOnSharedSubscription);
    refused(0x82, b"\0\x01\x04\x0B\x01\x0B\x01\0\x01a\0", V5, Kind::DuplicateProperty(0x0B));
    refused(0x82, b"\0\x01\x02\x0B\0\0\x01a\0", V5, Kind::InvalidPropertyValue(0x0B));
    refused(0x82, b"\0\x01\0\x01a\0\0\x01b", V3_1_1, Kind::UnexpectedEnd);
    refused(0x8A, b"\0\x01\0\x01a\0", V3_1_1, Kind::FixedHeaderFlags(0x0A));
    refused(0xA2, b"\0\x01", V3_1_1, Kind::EmptyPayload);
    refused(0xA2, b"\0\x01\0", V5, Kind::EmptyPayload);
    refused(0xA2, b"\0\x01\0\0", V3_1_1, Kind::EmptyTopicFilter);
    refused(0xA2, b"\0\x01\x02\x0B\x01\0\x01a", V5, Kind::PropertyNotAllowed(0x0B));
    refused(0x90, b"\0\x01", V3_1_1, Kind::EmptyPayload);
    refused(0x90, b"\0\x01\x87", V3_1_1, Kind::UnknownReasonCode(0x87));
    refused(0x90, b"\0\x01\0\x11", V5, Kind::ReasonCodeNotAllowed(0x11));
    refused(0xB0, b"\0\x01\0", V5, Kind::EmptyPayload);
    refused(0xB0, b"\0\x01\0", V3_1_1, Kind::TrailingBytes);
}

#[test]
fn the_others() {
    refused(0xE0, &[0], V3_1_1, Kind::TrailingBytes);
    refused(0xE0, &[0x01], V5, Kind::ReasonCodeNotAllowed(1));
    refused(0xE0, &[0, 0, 0], V5, Kind::TrailingBytes);
    refused(0xF0, &[], V3_1_1, Kind::ReservedPacketType(15));
    refused(0xF0, &[0x18, 0], V5, Kind::MissingAuthenticationMethod);
    refused(0xF0, &[0x18], V5, Kind::UnexpectedEnd);
    refused(0xF0, &[0x80, 0], V5, Kind::ReasonCodeNotAllowed(0x80));
    refused(0xC0, &[0], V5, Kind::TrailingBytes);
    refused(0x00, &[], V5, Kind::ReservedPacketType(0));
}

/// What would be refused is not written, and the output stays as it was.
#[track_caller]
fn not_encoded(packet: Packet<'_>, version: Version, error: EncodeError) {
    let mut out = vec![7];
    assert_eq!(packet.encode(version, &mut out), Err(error), "{packet:?}");
    assert_eq!(out, [7]);
}

#[test]
fn publishes_that_are_not_encoded() {
    let publish = Publish { topic: "t", ..Publish::default() };
    let with = |change: fn(&mut Publish<'static>), version, error| {
        let mut changed = publish;
        change(&mut changed);
        not_encoded(Packet::Publish(changed), version, error);
    };
    let without_id = EncodeError::PacketId(QoS::AtLeastOnce);
    with(|p| p.qos = QoS::AtLeastOnce, V5, without_id);
    let with_id = EncodeError::PacketId(QoS::AtMostOnce);
    with(|p| p.packet_id = PacketId::new(1), V5, with_id);
    with(|p| p.dup = true, V5, EncodeError::DupWithQoS0);
    with(|p| p.topic = "", V5, EncodeError::Empty);
    with(|p| p.topic = "a\0", V3_1, EncodeError::NullCharacter);
    with(|p| p.topic = "x".repeat(65_536).leak(), V3_1, EncodeError::ValueTooLong);
    let out_of_range = EncodeError::InvalidPropertyValue;
    with(|p| p.properties.topic_alias = Some(0), V5, out_of_range(0x23));
    with(|p| p.properties.response_topic = Some("#"), V5, out_of_range(0x08));
    let beyond = |p: &mut Publish<'static>| {
        p.properties.subscription_identifiers = [NonZeroU32::MAX][..].to_vec().leak()[..].into();
    };
    with(beyond, V5, out_of_range(0x0B));
}

#[test]
fn others_that_are_not_encoded() {
    let id = PacketId::FIRST;
    let wrong = Ack::new(id, ReasonCode::ServerBusy);
    let error = EncodeError::ReasonCodeNotAllowed(ReasonCode::ServerBusy);
    not_encoded(Packet::Pubrel(wrong), V5, error);
    let packet = PacketType::Auth;
    let error = EncodeError::NotInVersion { packet, version: V3_1_1 };
    assert_eq!(error.to_string(), "MQTT 3.1.1 has no AUTH packet");
    not_encoded(Packet::Auth(Auth::default()), V3_1_1, error);
    let auth = Auth { reason: ReasonCode::ReAuthenticate, ..Auth::default() };
    not_encoded(Packet::Auth(auth), V5, EncodeError::MissingAuthenticationMethod);
    let mut connack = Connack { session_present: true, ..Connack::default() };
    connack.reason = ReasonCode::Banned;
    not_encoded(Packet::Connack(connack), V5, EncodeError::SessionPresentInRefusal);
    let unsubscribe = Unsubscribe {
        packet_id: id,
        user_properties: UserProperties::default(),
        filters: (&[][..] as &[&str]).into(),
    };
    not_encoded(Packet::Unsubscribe(unsubscribe), V5, EncodeError::EmptyPayload);
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    let filters = [("$share/g/a", options)];
    let subscribe = Subscribe {
        packet_id: id,
        subscription_id: None,
        user_properties: UserProperties::default(),
        filters: filters[..].into(),
    };
    not_encoded(Packet::Subscribe(subscribe), V5, EncodeError::NoLocalOnSharedSubscription);
}

/// A CONNECT is encoded in its own version, under the rules of that.
#[test]
fn connects_that_are_not_encoded() {
    let connect = Connect {
        version: V3_1_1,
        clean_start: false,
        keep_alive: 0,
        client_id: "c",
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    };
    let nameless = Connect { password: Some(b"pw"), ..connect };
    not_encoded(Packet::Connect(nameless), V5, EncodeError::PasswordWithoutUserName);
    let unnamed = Connect { client_id: "", ..connect };
    not_encoded(Packet::Connect(unnamed), V5, EncodeError::Empty);
    let publish = PublishProperties { topic_alias: Some(1), ..PublishProperties::default() };
    let will = Will {
        topic: "w",
        payload: b"",
        qos: QoS::AtMostOnce,
        retain: false,
        properties: WillProperties { delay_interval: 0, publish },
    };
    let alias = Connect { version: V5, will: Some(will), ..connect };
    not_encoded(Packet::Connect(alias), V5, EncodeError::PropertyNotAllowed(0x23));
    let topicless = Connect { will: Some(Will { topic: "", ..will }), ..connect };
    not_encoded(Packet::Connect(topicless), V5, EncodeError::Empty);
}

#[test]
fn heads_that_are_no_packets() {
    let head = PublishHead { topic: "t", ..PublishHead::default() };
    let encode = |head: PublishHead<'_>, version| head.encode(version, &mut Vec::new());
    assert_eq!(encode(head, V5), Ok(()));
    let largest = PublishHead { payload_len: MAX_REMAINING_LENGTH as usize - 3, ..head };
    assert_eq!(encode(largest, V3_1_1), Ok(()));
    assert_eq!(largest.packet_size(V3_1_1), MAX_REMAINING_LENGTH as usize + 5);
    assert_eq!(encode(largest, V5), Err(EncodeError::PacketTooLarge));
    let huge = PublishHead { payload_len: usize::MAX, ..head };
    assert_eq!(encode(huge, V3_1_1), Err(EncodeError::PacketTooLarge));
    assert!(huge.packet_size(V5) > MAX_REMAINING_LENGTH as usize);
    for ids in [&[0][..], &[MAX_REMAINING_LENGTH + 1]] {
        let head = PublishHead { subscription_ids: ids, ..head };
        assert_eq!(encode(head, V5), Err(EncodeError::InvalidPropertyValue(0x0B)));
        assert_eq!(encode(head, V3_1_1), Ok(()));
    }
    let head = PublishHead { topic: "", topic_alias: Some(1), ..head };
    assert_eq!(encode(head, V5), Ok(()));
    assert_eq!(encode(head, V3_1_1), Err(EncodeError::Empty));
}
