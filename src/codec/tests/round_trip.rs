//! What is encoded, decodes to what it was, less what the version does not know.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn packets_round_trip((packet, version) in any::packet()) {
        let bytes = encode(&packet, version).unwrap();
        prop_assert_eq!(decode(&bytes, version).unwrap(), known_to(&packet, version));
        // The order of properties and what has its default are settled after one round.
        let again = encode(&decode(&bytes, version).unwrap(), version).unwrap();
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn output_is_appended((packet, version) in any::packet()) {
        let bytes = encode(&packet, version).unwrap();
        let mut out = b"before".to_vec();
        packet.encode(version, &mut out).unwrap();
        prop_assert_eq!(out.strip_prefix(b"before").unwrap(), bytes);
    }

    #[test]
    fn the_short_way_reads_the_same(publish in any::publish(), version in any::version()) {
        let bytes = encode(&Packet::Publish(publish), version).unwrap();
        let frame = whole(&bytes).unwrap();
        let short = Publish::decode(&frame, version).unwrap();
        prop_assert_eq!(Packet::Publish(short), Packet::decode(&frame, version).unwrap());
    }

    #[test]
    fn a_head_and_its_payload_are_a_publish(publish in any::publish(), version in any::version()) {
        testing::check_head(&publish, version);
    }

    #[test]
    fn forwarded_properties_come_back(publish in any::publish()) {
        testing::check_forwarded(&publish);
    }
}

#[test]
fn short_acknowledgements_are_the_packets() {
    let id = PacketId::new(0x1234).unwrap();
    let reason = ReasonCode::PacketIdentifierNotFound;
    let kinds = [AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp];
    for version in VERSIONS {
        for kind in kinds {
            let mut out = Vec::new();
            encode_ack(kind, id, ReasonCode::Success, version, &mut out);
            let ack = Ack::new(id, ReasonCode::Success);
            let packet = match kind {
                AckKind::Puback => Packet::Puback(ack),
                AckKind::Pubrec => Packet::Pubrec(ack),
                AckKind::Pubrel => Packet::Pubrel(ack),
                AckKind::Pubcomp => Packet::Pubcomp(ack),
            };
            assert_eq!(out, encode(&packet, version).unwrap());
            assert_eq!(out.len(), 4);
        }
        let mut out = Vec::new();
        encode_ack(AckKind::Pubcomp, id, reason, version, &mut out);
        assert_eq!(out, encode(&Packet::Pubcomp(Ack::new(id, reason)), version).unwrap());
        assert_eq!(out.len(), if version == Version::V5 { 5 } else { 4 });
    }
}

#[test]
fn options_pack_into_a_byte_and_back() {
    let mut valid = 0;
    for byte in 0..=255u8 {
        if let Some(options) = SubscriptionOptions::from_u8(byte) {
            assert_eq!(options.to_u8(), byte);
            valid += 1;
        }
    }
    assert_eq!(valid, 3 * 2 * 2 * 3);
}

/// The packet without what `version` cannot say.
fn known_to(packet: &Packet<'static>, version: Version) -> Packet<'static> {
    if version == Version::V5 {
        return packet.clone();
    }
    let bare = |ack: &Ack<'static>| Ack::new(ack.packet_id, ReasonCode::Success);
    match packet.clone() {
        Packet::Connect(mut connect) => {
            connect.properties = ConnectProperties::default();
            if let Some(will) = &mut connect.will {
                will.properties = WillProperties::default();
            }
            Packet::Connect(connect)
        }
        Packet::Connack(connack) => Packet::Connack(Connack {
            session_present: connack.session_present && version > Version::V3_1,
            reason: ReasonCode::from_connack_3x(connack.reason.connack_3x()).unwrap(),
            properties: ConnackProperties::default(),
        }),
        Packet::Publish(publish) => {
            Packet::Publish(Publish { properties: PublishProperties::default(), ..publish })
        }
        Packet::Puback(ack) => Packet::Puback(bare(&ack)),
        Packet::Pubrec(ack) => Packet::Pubrec(bare(&ack)),
        Packet::Pubrel(ack) => Packet::Pubrel(bare(&ack)),
        Packet::Pubcomp(ack) => Packet::Pubcomp(bare(&ack)),
        Packet::Subscribe(subscribe) => {
            let filters = subscribe.filters.iter();
            let filters = filters
                .map(|(filter, options)| (filter, SubscriptionOptions::new(options.qos)))
                .collect::<Vec<_>>();
            Packet::Subscribe(Subscribe {
                packet_id: subscribe.packet_id,
                subscription_id: None,
                user_properties: UserProperties::default(),
                filters: (&*filters.leak() as &'static [_]).into(),
            })
        }
        Packet::Suback(suback) => {
            let failure = ReasonCode::UnspecifiedError;
            let reasons = suback.reasons.iter();
            let reasons = reasons
                .map(|reason| if reason.is_error() { failure } else { reason })
                .collect::<Vec<_>>();
            Packet::Suback(Suback {
                packet_id: suback.packet_id,
                reasons: (&*reasons.leak() as &'static [_]).into(),
                reason_string: None,
                user_properties: UserProperties::default(),
            })
        }
        Packet::Unsubscribe(unsubscribe) => Packet::Unsubscribe(Unsubscribe {
            user_properties: UserProperties::default(),
            ..unsubscribe
        }),
        Packet::Unsuback(unsuback) => Packet::Unsuback(Unsuback {
            packet_id: unsuback.packet_id,
            reasons: ReasonCodes::default(),
            reason_string: None,
            user_properties: UserProperties::default(),
        }),
        Packet::Disconnect(_) => Packet::Disconnect(Disconnect::default()),
        other => other,
    }
}
