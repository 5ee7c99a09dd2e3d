//! Any packets, built field by field: what can be written, reads as it was.

use std::num::NonZeroU32;

use arbitrary::{Result, Unstructured};
use bumpalo::Bump;
use ringmq::codec::*;

use crate::{VERSIONS, codec::read};

/// Checks the packets that `data` is the recipe of.
pub fn check(data: &[u8]) {
    let mut fields = Fields { u: Unstructured::new(data), lists: &Bump::new() };
    while !fields.u.is_empty() {
        let Ok((packet, version)) = fields.packet() else { return };
        written_and_read(&packet, version);
    }
}

fn written_and_read(packet: &Packet<'_>, version: Version) {
    let mut bytes = b"before".to_vec();
    if packet.encode(version, &mut bytes).is_err() {
        assert_eq!(bytes, b"before", "a packet that is refused leaves nothing behind");
        return;
    }
    let bytes = bytes.strip_prefix(b"before").expect("what was there stays");
    let came = read(bytes, version);
    assert_eq!(came.packet_type(), packet.packet_type());
    match (version, &came, packet) {
        (Version::V5, came, packet) => assert_eq!(came, packet),
        (_, Packet::Connect(came), Packet::Connect(packet)) => same_connect(came, packet),
        (_, Packet::Publish(came), Packet::Publish(packet)) => {
            let properties = PublishProperties::default();
            assert_eq!(*came, Publish { properties, ..*packet });
        }
        (_, Packet::Subscribe(came), Packet::Subscribe(packet)) => {
            assert_eq!(came.packet_id, packet.packet_id);
            let bare = |(filter, options): (_, SubscriptionOptions)| (filter, options.qos);
            assert!(came.filters.iter().map(bare).eq(packet.filters.iter().map(bare)));
        }
        (_, Packet::Unsubscribe(came), Packet::Unsubscribe(packet)) => {
            assert_eq!(came.packet_id, packet.packet_id);
            assert!(came.filters.iter().eq(packet.filters.iter()));
        }
        (_, Packet::Suback(came), Packet::Suback(packet)) => {
            assert_eq!(came.packet_id, packet.packet_id);
            assert_eq!(came.reasons.iter().count(), packet.reasons.iter().count());
            for (came, reason) in came.reasons.iter().zip(packet.reasons.iter()) {
                assert!(came == reason || came.is_error() && reason.is_error());
            }
        }
        (_, Packet::Unsuback(came), Packet::Unsuback(packet)) => {
            assert_eq!(came.packet_id, packet.packet_id);
        }
        (
            _,
            Packet::Puback(came)
            | Packet::Pubrec(came)
            | Packet::Pubrel(came)
            | Packet::Pubcomp(came),
            Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack),
        ) => assert_eq!(*came, Ack::new(ack.packet_id, ReasonCode::Success)),
        (_, Packet::Connack(came), Packet::Connack(packet)) => {
            assert_eq!(came.reason.connack_3x(), packet.reason.connack_3x());
            assert!(version == Version::V3_1 || came.session_present == packet.session_present);
        }
        _ => {}
    }
}

/// A CONNECT of 3.x: all but the properties.
fn same_connect(came: &Connect<'_>, packet: &Connect<'_>) {
    let will = packet.will.map(|will| Will { properties: WillProperties::default(), ..will });
    assert_eq!(*came, Connect { properties: ConnectProperties::default(), will, ..*packet });
}

/// Takes fields from bytes; lists stand in `lists`, for packets borrow them.
struct Fields<'a> {
    u: Unstructured<'a>,
    lists: &'a Bump,
}

impl<'a> Fields<'a> {
    /// A packet and the version to write it in.
    fn packet(&mut self) -> Result<(Packet<'a>, Version)> {
        let version = *self.u.choose(&VERSIONS)?;
        let packet_type = PacketType::from_u8(self.u.int_in_range(1..=15)?);
        Ok((self.packet_of(packet_type.expect("15 types"), version)?, version))
    }

    fn packet_of(&mut self, packet_type: PacketType, version: Version) -> Result<Packet<'a>> {
        Ok(match packet_type {
            PacketType::Connect => Packet::Connect(self.connect(version)?),
            PacketType::Connack => Packet::Connack(Connack {
                session_present: self.u.arbitrary()?,
                reason: self.reason()?,
                properties: self.connack_properties()?,
            }),
            PacketType::Publish => Packet::Publish(self.publish()?),
            PacketType::Puback => Packet::Puback(self.ack()?),
            PacketType::Pubrec => Packet::Pubrec(self.ack()?),
            PacketType::Pubrel => Packet::Pubrel(self.ack()?),
            PacketType::Pubcomp => Packet::Pubcomp(self.ack()?),
            PacketType::Subscribe => Packet::Subscribe(Subscribe {
                packet_id: self.packet_id()?,
                subscription_id: NonZeroU32::new(self.u.arbitrary()?),
                user_properties: self.user_properties()?,
                filters: self.list(|f| Ok((f.u.arbitrary()?, f.options()?)))?.into(),
            }),
            PacketType::Suback => Packet::Suback(Suback {
                packet_id: self.packet_id()?,
                reasons: self.list(Self::reason)?.into(),
                reason_string: self.u.arbitrary()?,
                user_properties: self.user_properties()?,
            }),
            PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe {
                packet_id: self.packet_id()?,
                user_properties: self.user_properties()?,
                filters: self.list(|f| f.u.arbitrary::<&str>())?.into(),
            }),
            PacketType::Unsuback => Packet::Unsuback(Unsuback {
                packet_id: self.packet_id()?,
                reasons: self.list(Self::reason)?.into(),
                reason_string: self.u.arbitrary()?,
                user_properties: self.user_properties()?,
            }),
            PacketType::Pingreq => Packet::Pingreq,
            PacketType::Pingresp => Packet::Pingresp,
            PacketType::Disconnect => Packet::Disconnect(Disconnect {
                reason: self.reason()?,
                session_expiry_interval: self.u.arbitrary()?,
                reason_string: self.u.arbitrary()?,
                server_reference: self.u.arbitrary()?,
                user_properties: self.user_properties()?,
            }),
            PacketType::Auth => Packet::Auth(Auth {
                reason: self.reason()?,
                authentication_method: self.u.arbitrary()?,
                authentication_data: self.u.arbitrary()?,
                reason_string: self.u.arbitrary()?,
                user_properties: self.user_properties()?,
            }),
        })
    }

    fn connect(&mut self, version: Version) -> Result<Connect<'a>> {
        let properties = ConnectProperties {
            session_expiry_interval: self.u.arbitrary()?,
            receive_maximum: self.u.arbitrary()?,
            maximum_packet_size: self.u.arbitrary()?,
            topic_alias_maximum: self.u.arbitrary()?,
            request_response_information: self.u.arbitrary()?,
            request_problem_information: self.u.arbitrary()?,
            authentication_method: self.u.arbitrary()?,
            authentication_data: self.u.arbitrary()?,
            user_properties: self.user_properties()?,
        };
        let will = if self.u.arbitrary()? { Some(self.will()?) } else { None };
        Ok(Connect {
            version,
            clean_start: self.u.arbitrary()?,
            keep_alive: self.u.arbitrary()?,
            client_id: self.u.arbitrary()?,
            will,
            user_name: self.u.arbitrary()?,
            password: self.u.arbitrary()?,
            properties,
        })
    }

    fn will(&mut self) -> Result<Will<'a>> {
        Ok(Will {
            topic: self.u.arbitrary()?,
            payload: self.u.arbitrary()?,
            qos: self.qos()?,
            retain: self.u.arbitrary()?,
            properties: WillProperties {
                delay_interval: self.u.arbitrary()?,
                publish: self.publish_properties()?,
            },
        })
    }

    fn connack_properties(&mut self) -> Result<ConnackProperties<'a>> {
        Ok(ConnackProperties {
            session_expiry_interval: self.u.arbitrary()?,
            receive_maximum: self.u.arbitrary()?,
            maximum_qos: self.qos()?,
            retain_available: self.u.arbitrary()?,
            maximum_packet_size: self.u.arbitrary()?,
            assigned_client_identifier: self.u.arbitrary()?,
            topic_alias_maximum: self.u.arbitrary()?,
            reason_string: self.u.arbitrary()?,
            user_properties: self.user_properties()?,
            wildcard_subscription_available: self.u.arbitrary()?,
            subscription_identifiers_available: self.u.arbitrary()?,
            shared_subscription_available: self.u.arbitrary()?,
            server_keep_alive: self.u.arbitrary()?,
            response_information: self.u.arbitrary()?,
            server_reference: self.u.arbitrary()?,
            authentication_method: self.u.arbitrary()?,
            authentication_data: self.u.arbitrary()?,
        })
    }

    fn publish(&mut self) -> Result<Publish<'a>> {
        let id: u16 = self.u.arbitrary()?;
        Ok(Publish {
            dup: self.u.arbitrary()?,
            qos: self.qos()?,
            retain: self.u.arbitrary()?,
            topic: self.u.arbitrary()?,
            packet_id: PacketId::new(id),
            properties: self.publish_properties()?,
            payload: self.u.arbitrary()?,
        })
    }

    fn publish_properties(&mut self) -> Result<PublishProperties<'a>> {
        let ids = self.list(|f| {
            let id = f.u.int_in_range(1..=MAX_REMAINING_LENGTH)?;
            Ok(NonZeroU32::new(id).expect("at least 1"))
        })?;
        Ok(PublishProperties {
            payload_format_indicator: self.u.arbitrary()?,
            message_expiry_interval: self.u.arbitrary()?,
            topic_alias: self.u.arbitrary()?,
            response_topic: self.u.arbitrary()?,
            correlation_data: self.u.arbitrary()?,
            subscription_identifiers: ids.into(),
            content_type: self.u.arbitrary()?,
            user_properties: self.user_properties()?,
        })
    }

    fn ack(&mut self) -> Result<Ack<'a>> {
        Ok(Ack {
            packet_id: self.packet_id()?,
            reason: self.reason()?,
            reason_string: self.u.arbitrary()?,
            user_properties: self.user_properties()?,
        })
    }

    fn qos(&mut self) -> Result<QoS> {
        Ok(*self.u.choose(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])?)
    }

    fn packet_id(&mut self) -> Result<PacketId> {
        let id = self.u.int_in_range(1..=u16::MAX)?;
        Ok(PacketId::new(id).expect("at least 1"))
    }

    /// Any Reason Code; most do not go with most packets.
    fn reason(&mut self) -> Result<ReasonCode> {
        Ok(ReasonCode::try_from(self.u.arbitrary::<u8>()?).unwrap_or(ReasonCode::Success))
    }

    fn options(&mut self) -> Result<SubscriptionOptions> {
        let options = SubscriptionOptions::from_u8(self.u.arbitrary()?);
        Ok(options.unwrap_or(SubscriptionOptions::new(QoS::ExactlyOnce)))
    }

    fn user_properties(&mut self) -> Result<UserProperties<'a>> {
        let pairs: &[(&str, &str)] = self.list(|f| f.u.arbitrary())?;
        Ok(pairs.into())
    }

    fn list<T: Copy>(&mut self, item: impl Fn(&mut Self) -> Result<T>) -> Result<&'a [T]> {
        let mut items = bumpalo::collections::Vec::new_in(self.lists);
        while items.len() < 8 && self.u.ratio(1, 3)? {
            items.push(item(self)?);
        }
        Ok(items.into_bump_slice())
    }
}
