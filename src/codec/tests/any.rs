//! Strategies for every packet. Their texts are leaked, for packets borrow; a test run is short.

use std::num::NonZeroU32;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

type Pairs = &'static [(&'static str, &'static str)];

pub fn version() -> impl Strategy<Value = Version> {
    select(&VERSIONS[..])
}

pub fn text() -> impl Strategy<Value = &'static str> {
    prop_oneof![8 => "[a-z/ -~äß€\u{FEFF}😀]{0,12}", 1 => "[^\0]{0,6}", 1 => "x{120,140}"]
        .prop_map(|text| &*text.leak())
}

pub fn topic() -> impl Strategy<Value = &'static str> {
    "[a-z/€]{1,12}".prop_map(|text| &*text.leak())
}

pub fn binary() -> impl Strategy<Value = &'static [u8]> {
    vec(any::<u8>(), 0..20).prop_map(|bytes| &*bytes.leak())
}

pub fn user_properties() -> impl Strategy<Value = UserProperties<'static>> {
    vec((text(), text()), 0..3).prop_map(|pairs| (&*pairs.leak() as Pairs).into())
}

pub fn qos() -> impl Strategy<Value = QoS> {
    select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..])
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

fn subscription_id() -> impl Strategy<Value = NonZeroU32> {
    prop_oneof![1..200u32, 1..=MAX_REMAINING_LENGTH].prop_map(|id| NonZeroU32::new(id).unwrap())
}

fn reason(packet: PacketType) -> impl Strategy<Value = ReasonCode> {
    let allowed = (0..=255)
        .filter_map(|byte| ReasonCode::try_from(byte).ok())
        .filter(|reason| reason.is_allowed_in(packet));
    select(allowed.collect::<Vec<_>>())
}

fn reasons(packet: PacketType) -> impl Strategy<Value = ReasonCodes<'static>> {
    vec(reason(packet), 1..5).prop_map(|reasons| (&*reasons.leak() as &'static [ReasonCode]).into())
}

prop_compose! {
    fn publish_properties()(
        payload_format_indicator in option::of(any::<bool>()),
        message_expiry_interval in option::of(any::<u32>()),
        topic_alias in option::of(1..=u16::MAX),
        response_topic in option::of(topic()),
        correlation_data in option::of(binary()),
        ids in vec(subscription_id(), 0..3),
        content_type in option::of(text()),
        user_properties in user_properties(),
    ) -> PublishProperties<'static> {
        PublishProperties {
            payload_format_indicator,
            message_expiry_interval,
            topic_alias,
            response_topic,
            correlation_data,
            subscription_identifiers: (&*ids.leak() as &'static [NonZeroU32]).into(),
            content_type,
            user_properties,
        }
    }
}

prop_compose! {
    pub fn publish()(
        qos in qos(),
        dup in any::<bool>(),
        retain in any::<bool>(),
        topic in topic(),
        id in packet_id(),
        properties in publish_properties(),
        payload in binary(),
    ) -> Publish<'static> {
        let with_id = qos != QoS::AtMostOnce;
        Publish {
            dup: dup && with_id,
            qos,
            retain,
            topic,
            packet_id: with_id.then_some(id),
            properties,
            payload,
        }
    }
}

prop_compose! {
    fn will()(
        topic in topic(),
        payload in binary(),
        qos in qos(),
        retain in any::<bool>(),
        delay_interval in any::<u32>(),
        publish in publish_properties(),
    ) -> Will<'static> {
        let publish = PublishProperties {
            topic_alias: None,
            subscription_identifiers: SubscriptionIds::default(),
            ..publish
        };
        let properties = WillProperties { delay_interval, publish };
        Will { topic, payload, qos, retain, properties }
    }
}

prop_compose! {
    fn authentication()(
        method in option::of(text()),
        data in option::of(binary()),
    ) -> (Option<&'static str>, Option<&'static [u8]>) {
        (method, method.and(data))
    }
}

prop_compose! {
    fn connect_properties()(
        session_expiry_interval in option::of(any::<u32>()),
        receive_maximum in option::of(1..=u16::MAX),
        maximum_packet_size in option::of(1..=u32::MAX),
        topic_alias_maximum in any::<u16>(),
        request_response_information in any::<bool>(),
        request_problem_information in any::<bool>(),
        (authentication_method, authentication_data) in authentication(),
        user_properties in user_properties(),
    ) -> ConnectProperties<'static> {
        ConnectProperties {
            session_expiry_interval,
            receive_maximum,
            maximum_packet_size,
            topic_alias_maximum,
            request_response_information,
            request_problem_information,
            authentication_method,
            authentication_data,
            user_properties,
        }
    }
}

prop_compose! {
    pub fn connect()(
        version in version(),
        clean_start in any::<bool>(),
        keep_alive in any::<u16>(),
        client_id in text(),
        will in option::of(will()),
        user_name in option::of(text()),
        password in option::of(binary()),
        properties in connect_properties(),
    ) -> Connect<'static> {
        let v5 = version == Version::V5;
        let named = v5 || user_name.is_some();
        Connect {
            version,
            clean_start,
            keep_alive,
            client_id: if client_id.is_empty() && !v5 { "device" } else { client_id },
            will,
            user_name,
            password: if named { password } else { None },
            properties,
        }
    }
}

prop_compose! {
    fn connack_numbers()(
        session_expiry_interval in option::of(any::<u32>()),
        receive_maximum in option::of(1..=u16::MAX),
        maximum_qos in qos(),
        maximum_packet_size in option::of(1..=u32::MAX),
        topic_alias_maximum in any::<u16>(),
        server_keep_alive in option::of(any::<u16>()),
        available in any::<[bool; 4]>(),
    ) -> ConnackProperties<'static> {
        ConnackProperties {
            session_expiry_interval,
            receive_maximum,
            maximum_qos,
            retain_available: available[0],
            maximum_packet_size,
            topic_alias_maximum,
            wildcard_subscription_available: available[1],
            subscription_identifiers_available: available[2],
            shared_subscription_available: available[3],
            server_keep_alive,
            ..ConnackProperties::default()
        }
    }
}

prop_compose! {
    fn connack()(
        session_present in any::<bool>(),
        reason in reason(PacketType::Connack),
        numbers in connack_numbers(),
        assigned_client_identifier in option::of(text()),
        reason_string in option::of(text()),
        user_properties in user_properties(),
        response_information in option::of(text()),
        server_reference in option::of(text()),
        (authentication_method, authentication_data) in authentication(),
    ) -> Connack<'static> {
        let properties = ConnackProperties {
            assigned_client_identifier,
            reason_string,
            user_properties,
            response_information,
            server_reference,
            authentication_method,
            authentication_data,
            ..numbers
        };
        Connack { session_present: session_present && !reason.is_error(), reason, properties }
    }
}

fn ack(packet: PacketType) -> impl Strategy<Value = Ack<'static>> {
    (packet_id(), reason(packet), option::of(text()), user_properties()).prop_map(
        |(packet_id, reason, reason_string, user_properties)| Ack {
            packet_id,
            reason,
            reason_string,
            user_properties,
        },
    )
}

pub fn options() -> impl Strategy<Value = SubscriptionOptions> {
    let all = (0..=255).filter_map(SubscriptionOptions::from_u8).collect::<Vec<_>>();
    select(all)
}

fn filter() -> impl Strategy<Value = (&'static str, SubscriptionOptions)> {
    let plain = ("[a-z/+#$]{1,12}".prop_map(|text| &*text.leak()), options());
    let shared = options().prop_map(|options| {
        ("$share/group/a/+", SubscriptionOptions { no_local: false, ..options })
    });
    prop_oneof![4 => plain, 1 => shared]
}

prop_compose! {
    fn subscribe()(
        packet_id in packet_id(),
        subscription_id in option::of(subscription_id()),
        user_properties in user_properties(),
        filters in vec(filter(), 1..5),
    ) -> Subscribe<'static> {
        let filters = (&*filters.leak() as &'static [_]).into();
        Subscribe { packet_id, subscription_id, user_properties, filters }
    }
}

prop_compose! {
    fn suback()(
        packet_id in packet_id(),
        reasons in reasons(PacketType::Suback),
        reason_string in option::of(text()),
        user_properties in user_properties(),
    ) -> Suback<'static> {
        Suback { packet_id, reasons, reason_string, user_properties }
    }
}

prop_compose! {
    fn unsubscribe()(
        packet_id in packet_id(),
        user_properties in user_properties(),
        filters in vec(topic(), 1..5),
    ) -> Unsubscribe<'static> {
        let filters = (&*filters.leak() as &'static [_]).into();
        Unsubscribe { packet_id, user_properties, filters }
    }
}

prop_compose! {
    fn unsuback()(
        packet_id in packet_id(),
        reasons in reasons(PacketType::Unsuback),
        reason_string in option::of(text()),
        user_properties in user_properties(),
    ) -> Unsuback<'static> {
        Unsuback { packet_id, reasons, reason_string, user_properties }
    }
}

prop_compose! {
    fn disconnect()(
        reason in reason(PacketType::Disconnect),
        session_expiry_interval in option::of(any::<u32>()),
        reason_string in option::of(text()),
        server_reference in option::of(text()),
        user_properties in user_properties(),
    ) -> Disconnect<'static> {
        Disconnect {
            reason,
            session_expiry_interval,
            reason_string,
            server_reference,
            user_properties,
        }
    }
}

prop_compose! {
    fn auth()(
        reason in reason(PacketType::Auth),
        method in text(),
        authentication_data in option::of(binary()),
        reason_string in option::of(text()),
        user_properties in user_properties(),
    ) -> Auth<'static> {
        let authentication_method = Some(method);
        Auth { reason, authentication_method, authentication_data, reason_string, user_properties }
    }
}

/// A packet and the version to write it in: any, but only 5.0 for an AUTH, and its own for a
/// CONNECT.
pub fn packet() -> impl Strategy<Value = (Packet<'static>, Version)> {
    let packet = prop_oneof![
        3 => connect().prop_map(Packet::Connect),
        2 => connack().prop_map(Packet::Connack),
        3 => publish().prop_map(Packet::Publish),
        1 => ack(PacketType::Puback).prop_map(Packet::Puback),
        1 => ack(PacketType::Pubrec).prop_map(Packet::Pubrec),
        1 => ack(PacketType::Pubrel).prop_map(Packet::Pubrel),
        1 => ack(PacketType::Pubcomp).prop_map(Packet::Pubcomp),
        2 => subscribe().prop_map(Packet::Subscribe),
        1 => suback().prop_map(Packet::Suback),
        1 => unsubscribe().prop_map(Packet::Unsubscribe),
        1 => unsuback().prop_map(Packet::Unsuback),
        1 => Just(Packet::Pingreq),
        1 => Just(Packet::Pingresp),
        1 => disconnect().prop_map(Packet::Disconnect),
        1 => prop_oneof![4 => auth(), 1 => Just(Auth::default())].prop_map(Packet::Auth),
    ];
    (packet, version()).prop_map(|(packet, version)| {
        let version = match &packet {
            Packet::Connect(connect) => connect.version,
            Packet::Auth(_) => Version::V5,
            _ => version,
        };
        (packet, version)
    })
}
