//! PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT 5.0, 3.4 to 3.7).

use super::primitive::{Reader, put_length_prefixed, put_packet, put_u16};
use super::property::{Allowed, Property, Section};
use super::{
    DecodeErrorKind, EncodeError, PacketId, PacketType, ReasonCode, UserProperties, Version,
};

/// A PUBACK, PUBREC, PUBREL or PUBCOMP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The Packet Identifier of the PUBLISH.
    pub packet_id: PacketId,
    /// The Reason Code, of 5.0 only.
    pub reason: ReasonCode,
    /// Reason String, of 5.0 only.
    pub reason_string: Option<&'a str>,
    /// User Properties, of 5.0 only.
    pub user_properties: UserProperties<'a>,
}

/// Which of the four packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AckKind {
    /// PUBACK: the answer to a PUBLISH of QoS 1.
    Puback,
    /// PUBREC: the first answer to a PUBLISH of QoS 2.
    Pubrec,
    /// PUBREL: the answer to a PUBREC.
    Pubrel,
    /// PUBCOMP: the answer to a PUBREL.
    Pubcomp,
}

impl AckKind {
    /// The packet type.
    #[must_use]
    pub const fn packet_type(self) -> PacketType {
        match self {
            AckKind::Puback => PacketType::Puback,
            AckKind::Pubrec => PacketType::Pubrec,
            AckKind::Pubrel => PacketType::Pubrel,
            AckKind::Pubcomp => PacketType::Pubcomp,
        }
    }
}

/// Appends an acknowledgement without properties: four bytes, and in 5.0 a fifth for a `reason`
/// other than Success. 3.x has no reasons. The caller chooses a reason that the packet may have
/// ([`ReasonCode::is_allowed_in`]).
#[inline]
pub fn encode_ack(
    kind: AckKind,
    id: PacketId,
    reason: ReasonCode,
    version: Version,
    out: &mut Vec<u8>,
) {
    let header = kind.packet_type().header();
    let [high, low] = id.get().to_be_bytes();
    if version < Version::V5 || reason == ReasonCode::Success {
        out.extend_from_slice(&[header, 2, high, low]);
    } else {
        out.extend_from_slice(&[header, 3, high, low, reason.value()]);
    }
}

impl<'a> Ack<'a> {
    /// An acknowledgement without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, reason: ReasonCode) -> Ack<'a> {
        let user_properties = UserProperties::default();
        Ack { packet_id, reason, reason_string: None, user_properties }
    }

    pub(super) fn decode(
        body: &'a [u8],
        packet_type: PacketType,
        version: Version,
    ) -> Result<Ack<'a>, DecodeErrorKind> {
        let mut reader = Reader::new(body);
        let mut ack = Ack::new(reader.packet_id()?, ReasonCode::Success);
        if version < Version::V5 {
            reader.finish()?;
            return Ok(ack);
        }
        // 3.4.2.1, 3.4.2.2.1: what is left out at the end has its default.
        if !reader.is_empty() {
            // [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1]
            ack.reason = ReasonCode::decode(reader.u8()?, packet_type)?;
        }
        if !reader.is_empty() {
            (ack.reason_string, ack.user_properties) = decode_reason_properties(&mut reader)?;
        }
        reader.finish()?;
        Ok(ack)
    }

    pub(super) fn encode(
        &self,
        packet_type: PacketType,
        version: Version,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        put_packet(out, packet_type.header(), |out| {
            put_u16(out, self.packet_id.get());
            if version < Version::V5 {
                return Ok(());
            }
            let reason = self.reason.encode(packet_type)?;
            let bare = self.reason_string.is_none() && self.user_properties.is_empty();
            if bare && self.reason == ReasonCode::Success {
                return Ok(());
            }
            out.push(reason);
            if bare {
                return Ok(());
            }
            encode_reason_properties(self.reason_string, &self.user_properties, out)
        })
    }
}

/// Reads a section of Reason String and User Properties.
pub(super) fn decode_reason_properties<'a>(
    reader: &mut Reader<'a>,
) -> Result<(Option<&'a str>, UserProperties<'a>), DecodeErrorKind> {
    let mut reason_string = None;
    let section = Section::decode(reader, Allowed::ACK, |property| {
        if let Property::ReasonString(text) = property {
            reason_string = Some(text);
        }
    })?;
    Ok((reason_string, section.user_properties()))
}

/// Appends a section of Reason String and User Properties.
pub(super) fn encode_reason_properties(
    reason_string: Option<&str>,
    user_properties: &UserProperties<'_>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    put_length_prefixed(out, |out| {
        if let Some(text) = reason_string {
            Property::ReasonString(text).encode(out)?;
        }
        user_properties.encode(out)
    })
}
