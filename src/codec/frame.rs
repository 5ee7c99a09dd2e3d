//! The fixed header: where a packet begins and ends in a buffer (MQTT 5.0, 2.1).

use super::primitive::{packet_len, variable_byte_integer};
use super::{DecodeError, DecodeErrorKind, PacketType, QoS, Version};

/// One packet in a buffer, told by its fixed header; the body has not been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The first byte: packet type and flags.
    pub header: u8,
    /// What comes after the Remaining Length.
    pub body: &'a [u8],
    /// The length of the whole packet in bytes, fixed header included.
    pub len: usize,
}

impl Frame<'_> {
    /// The type of the packet; `None` for the reserved type 0, which [`frame`] never lets through.
    #[must_use]
    pub const fn packet_type(&self) -> Option<PacketType> {
        PacketType::from_u8(self.header >> 4)
    }

    /// The checks of the fixed header that need to know the version.
    pub(super) fn check(&self, version: Version) -> Result<PacketType, DecodeErrorKind> {
        check_header(self.header)?;
        let packet_type =
            self.packet_type().ok_or(DecodeErrorKind::ReservedPacketType(self.header >> 4))?;
        if version < Version::V5 {
            if packet_type == PacketType::Auth {
                return Err(DecodeErrorKind::ReservedPacketType(self.header >> 4));
            }
        } else if self.len != packet_len(self.body.len()) {
            // [MQTT-1.5.5-1]; 3.x does not ask for the shortest form.
            return Err(DecodeErrorKind::VariableByteIntegerNotMinimal);
        }
        if packet_type != PacketType::Publish && self.header & 0x08 != 0 && version > Version::V3_1
        {
            return Err(DecodeErrorKind::FixedHeaderFlags(self.header & 0x0F)); // [MQTT-2.1.3-1]
        }
        Ok(packet_type)
    }
}

/// What [`frame`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameStatus<'a> {
    /// A whole packet.
    Complete(Frame<'a>),
    /// The beginning of a packet, or nothing.
    Incomplete {
        /// The length of the whole packet in bytes, as soon as its fixed header is there.
        needed: Option<usize>,
    },
}

/// Finds the packet at the front of `buf`.
///
/// `max_packet_size` is the most that a whole packet may take, in bytes, fixed header included.
/// More may follow in `buf`; the next packet begins at [`Frame::len`].
///
/// # Errors
///
/// As soon as they show, which may be long before the packet is complete: a reserved packet type,
/// flags that no version allows, a Remaining Length of more than four bytes, a packet that is too
/// large ([`DecodeErrorKind::PacketTooLarge`]), a PINGREQ or PINGRESP with a body. What depends on
/// the version is left to [`Packet::decode`](super::Packet::decode).
pub fn frame(buf: &[u8], max_packet_size: u32) -> Result<FrameStatus<'_>, DecodeError> {
    let Some((&header, rest)) = buf.split_first() else {
        return Ok(FrameStatus::Incomplete { needed: None });
    };
    check_header(header)?;
    let Some((body_len, length_len)) = variable_byte_integer(rest)? else {
        return Ok(FrameStatus::Incomplete { needed: None });
    };
    let len = usize::try_from(body_len).unwrap_or(usize::MAX).saturating_add(1 + length_len);
    // [MQTT-3.1.2-24], [MQTT-3.2.2-15]
    if u32::try_from(len).map_or(true, |len| len > max_packet_size) {
        return Err(DecodeErrorKind::PacketTooLarge.into());
    }
    if matches!(header >> 4, PINGREQ | PINGRESP) && body_len != 0 {
        return Err(DecodeErrorKind::TrailingBytes.into());
    }
    let Some(body) = buf.get(1 + length_len..len) else {
        return Ok(FrameStatus::Incomplete { needed: Some(len) });
    };
    Ok(FrameStatus::Complete(Frame { header, body, len }))
}

const PINGREQ: u8 = PacketType::Pingreq as u8;
const PINGRESP: u8 = PacketType::Pingresp as u8;

/// The checks of the first byte that hold in every version `[MQTT-2.1.3-1]`, `[MQTT311-2.2.2-2]`.
fn check_header(header: u8) -> Result<(), DecodeErrorKind> {
    let flags = header & 0x0F;
    let valid = match PacketType::from_u8(header >> 4) {
        None => return Err(DecodeErrorKind::ReservedPacketType(header >> 4)),
        Some(PacketType::Publish) => match QoS::from_u8(flags >> 1 & 0x03) {
            // [MQTT-3.3.1-4]
            None => return Err(DecodeErrorKind::InvalidQoS),
            // [MQTT-3.3.1-2]
            Some(QoS::AtMostOnce) if flags & 0x08 != 0 => {
                return Err(DecodeErrorKind::DupWithQoS0);
            }
            Some(_) => true,
        },
        // [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1]. In 3.1 they may be sent again with DUP.
        Some(PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe) => {
            flags & 0x07 == 0x02
        }
        Some(_) => flags == 0,
    };
    if valid { Ok(()) } else { Err(DecodeErrorKind::FixedHeaderFlags(flags)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(buf: &[u8], max: u32) -> DecodeErrorKind {
        frame(buf, max).unwrap_err().kind
    }

    #[test]
    fn a_packet_is_found_when_it_is_whole() {
        let buf = [0x30, 0x04, 0x00, 0x01, b'a', b'x', 0xC0, 0x00];
        for len in 0..2 {
            assert_eq!(frame(&buf[..len], 100), Ok(FrameStatus::Incomplete { needed: None }));
        }
        for len in 2..6 {
            assert_eq!(frame(&buf[..len], 100), Ok(FrameStatus::Incomplete { needed: Some(6) }));
        }
        let publish = Frame { header: 0x30, body: &buf[2..6], len: 6 };
        assert_eq!(frame(&buf[..6], 100), Ok(FrameStatus::Complete(publish)));
        assert_eq!(frame(&buf, 100), Ok(FrameStatus::Complete(publish)));
        let pingreq = Frame { header: 0xC0, body: &[], len: 2 };
        assert_eq!(frame(&buf[6..], 100), Ok(FrameStatus::Complete(pingreq)));
        assert_eq!(pingreq.packet_type(), Some(PacketType::Pingreq));
    }

    #[test]
    fn a_claim_is_refused_before_its_bytes_come() {
        let claim = [0x30, 0xFF, 0xFF, 0xFF, 0x7F];
        assert_eq!(kind(&claim, 1 << 20), DecodeErrorKind::PacketTooLarge);
        assert_eq!(
            frame(&claim, u32::MAX),
            Ok(FrameStatus::Incomplete { needed: Some(268_435_460) })
        );
        assert!(frame(&[0x30, 0x04], 6).is_ok());
        assert_eq!(kind(&[0x30, 0x05], 6), DecodeErrorKind::PacketTooLarge);
        let endless = [0x30, 0x80, 0x80, 0x80, 0x80];
        assert_eq!(kind(&endless, u32::MAX), DecodeErrorKind::VariableByteIntegerTooLong);
        assert_eq!(kind(&[0xC0, 0x01], 100), DecodeErrorKind::TrailingBytes);
    }

    #[test]
    fn first_bytes_that_no_version_knows() {
        for header in 0..=255u8 {
            let flags = header & 0x0F;
            let expected = match header >> 4 {
                0 => Some(DecodeErrorKind::ReservedPacketType(0)),
                3 if flags & 0x06 == 0x06 => Some(DecodeErrorKind::InvalidQoS),
                3 if flags & 0x0E == 0x08 => Some(DecodeErrorKind::DupWithQoS0),
                3 => None,
                6 | 8 | 10 if flags & 0x07 == 0x02 => None,
                6 | 8 | 10 => Some(DecodeErrorKind::FixedHeaderFlags(flags)),
                _ if flags == 0 => None,
                _ => Some(DecodeErrorKind::FixedHeaderFlags(flags)),
            };
            assert_eq!(frame(&[header], 100).err().map(|e| e.kind), expected, "{header:#x}");
        }
    }

    #[test]
    fn the_rest_depends_on_the_version() {
        let check = |header, len, version| Frame { header, body: &[], len }.check(version);
        let dup = Err(DecodeErrorKind::FixedHeaderFlags(0x0A));
        assert_eq!(check(0x8A, 2, Version::V3_1), Ok(PacketType::Subscribe));
        assert_eq!(check(0x8A, 2, Version::V3_1_1), dup);
        assert_eq!(check(0x6A, 2, Version::V5), dup);
        let reserved = Err(DecodeErrorKind::ReservedPacketType(15));
        assert_eq!(check(0xF0, 2, Version::V3_1_1), reserved);
        assert_eq!(check(0xF0, 2, Version::V5), Ok(PacketType::Auth));
        let padded = Err(DecodeErrorKind::VariableByteIntegerNotMinimal);
        assert_eq!(check(0xC0, 3, Version::V5), padded);
        assert_eq!(check(0xC0, 3, Version::V3_1_1), Ok(PacketType::Pingreq));
    }
}
