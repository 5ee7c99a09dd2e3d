//! Any packet.

use std::fmt;

use super::{
    Ack, Auth, Connack, Connect, DecodeError, DecodeErrorKind, Disconnect, EncodeError, Frame,
    Publish, Suback, Subscribe, Unsuback, Unsubscribe, Version,
};

/// The type of a packet: the high four bits of its first byte (MQTT 5.0, table 2-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // The names say all.
pub enum PacketType {
    Connect = 1,
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Subscribe = 8,
    Suback = 9,
    Unsubscribe = 10,
    Unsuback = 11,
    Pingreq = 12,
    Pingresp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// The type for 1 to 15, `None` for anything else.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<PacketType> {
        Some(match value {
            1 => PacketType::Connect,
            2 => PacketType::Connack,
            3 => PacketType::Publish,
            4 => PacketType::Puback,
            5 => PacketType::Pubrec,
            6 => PacketType::Pubrel,
            7 => PacketType::Pubcomp,
            8 => PacketType::Subscribe,
            9 => PacketType::Suback,
            10 => PacketType::Unsubscribe,
            11 => PacketType::Unsuback,
            12 => PacketType::Pingreq,
            13 => PacketType::Pingresp,
            14 => PacketType::Disconnect,
            15 => PacketType::Auth,
            _ => return None,
        })
    }

    /// Whether it belongs to the delivery of a message: PUBLISH and what answers it.
    #[must_use]
    pub const fn is_of_delivery(self) -> bool {
        use PacketType::{Puback, Pubcomp, Publish, Pubrec, Pubrel};
        matches!(self, Publish | Puback | Pubrec | Pubrel | Pubcomp)
    }

    /// The first byte of a packet of this type; for PUBLISH without DUP, QoS and RETAIN.
    #[must_use]
    pub const fn header(self) -> u8 {
        let flags = match self {
            PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe => 0x02,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }
}

/// The name in capitals, as the specification writes it.
impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PacketType::Connect => "CONNECT",
            PacketType::Connack => "CONNACK",
            PacketType::Publish => "PUBLISH",
            PacketType::Puback => "PUBACK",
            PacketType::Pubrec => "PUBREC",
            PacketType::Pubrel => "PUBREL",
            PacketType::Pubcomp => "PUBCOMP",
            PacketType::Subscribe => "SUBSCRIBE",
            PacketType::Suback => "SUBACK",
            PacketType::Unsubscribe => "UNSUBSCRIBE",
            PacketType::Unsuback => "UNSUBACK",
            PacketType::Pingreq => "PINGREQ",
            PacketType::Pingresp => "PINGRESP",
            PacketType::Disconnect => "DISCONNECT",
            PacketType::Auth => "AUTH",
        })
    }
}

/// A packet of any type, borrowed from the buffer that it was decoded from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // A box would be an allocation.
#[allow(missing_docs)] // See the types.
pub enum Packet<'a> {
    Connect(Connect<'a>),
    Connack(Connack<'a>),
    Publish(Publish<'a>),
    Puback(Ack<'a>),
    Pubrec(Ack<'a>),
    Pubrel(Ack<'a>),
    Pubcomp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    Suback(Suback<'a>),
    Unsubscribe(Unsubscribe<'a>),
    Unsuback(Unsuback<'a>),
    Pingreq,
    Pingresp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

impl<'a> Packet<'a> {
    /// Reads the packet in a frame. A CONNECT tells its own version; every other packet is read as
    /// one of `version`.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the packet by itself. Nothing is allocated, on success or failure.
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Packet<'a>, DecodeError> {
        // CONNECT finds its version first, and checks its fixed header with that.
        if frame.packet_type() == Some(PacketType::Connect) {
            return Connect::decode(frame).map(Packet::Connect);
        }
        let packet_type = frame.check(version)?;
        let ack = || Ack::decode(frame.body, packet_type, version);
        Ok(match packet_type {
            PacketType::Connect => Packet::Connect(Connect::decode(frame)?),
            PacketType::Connack => Packet::Connack(Connack::decode(frame.body, version)?),
            PacketType::Publish => Packet::Publish(Publish::decode_checked(frame, version)?),
            PacketType::Puback => Packet::Puback(ack()?),
            PacketType::Pubrec => Packet::Pubrec(ack()?),
            PacketType::Pubrel => Packet::Pubrel(ack()?),
            PacketType::Pubcomp => Packet::Pubcomp(ack()?),
            PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(frame.body, version)?),
            PacketType::Suback => Packet::Suback(Suback::decode(frame.body, version)?),
            PacketType::Unsubscribe => {
                Packet::Unsubscribe(Unsubscribe::decode(frame.body, version)?)
            }
            PacketType::Unsuback => Packet::Unsuback(Unsuback::decode(frame.body, version)?),
            PacketType::Pingreq => empty(frame.body, Packet::Pingreq)?,
            PacketType::Pingresp => empty(frame.body, Packet::Pingresp)?,
            PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(frame.body, version)?),
            PacketType::Auth => Packet::Auth(Auth::decode(frame.body)?),
        })
    }

    /// Appends the packet to `out` as `version` writes it; a CONNECT in its own version. What the
    /// version does not know is left out.
    ///
    /// # Errors
    ///
    /// When the packet breaks a rule that would make the other side refuse it. `out` is then as it
    /// was.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Packet::Connect(connect) => connect.encode(out),
            Packet::Connack(connack) => connack.encode(version, out),
            Packet::Publish(publish) => publish.encode(version, out),
            Packet::Puback(ack) => ack.encode(PacketType::Puback, version, out),
            Packet::Pubrec(ack) => ack.encode(PacketType::Pubrec, version, out),
            Packet::Pubrel(ack) => ack.encode(PacketType::Pubrel, version, out),
            Packet::Pubcomp(ack) => ack.encode(PacketType::Pubcomp, version, out),
            Packet::Subscribe(subscribe) => subscribe.encode(version, out),
            Packet::Suback(suback) => suback.encode(version, out),
            Packet::Unsubscribe(unsubscribe) => unsubscribe.encode(version, out),
            Packet::Unsuback(unsuback) => unsuback.encode(version, out),
            Packet::Pingreq | Packet::Pingresp => {
                out.extend_from_slice(&[self.packet_type().header(), 0]);
                Ok(())
            }
            Packet::Disconnect(disconnect) => disconnect.encode(version, out),
            Packet::Auth(auth) => auth.encode(version, out),
        }
    }

    /// The type of the packet.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Packet::Connect(_) => PacketType::Connect,
            Packet::Connack(_) => PacketType::Connack,
            Packet::Publish(_) => PacketType::Publish,
            Packet::Puback(_) => PacketType::Puback,
            Packet::Pubrec(_) => PacketType::Pubrec,
            Packet::Pubrel(_) => PacketType::Pubrel,
            Packet::Pubcomp(_) => PacketType::Pubcomp,
            Packet::Subscribe(_) => PacketType::Subscribe,
            Packet::Suback(_) => PacketType::Suback,
            Packet::Unsubscribe(_) => PacketType::Unsubscribe,
            Packet::Unsuback(_) => PacketType::Unsuback,
            Packet::Pingreq => PacketType::Pingreq,
            Packet::Pingresp => PacketType::Pingresp,
            Packet::Disconnect(_) => PacketType::Disconnect,
            Packet::Auth(_) => PacketType::Auth,
        }
    }
}

fn empty<'a>(body: &[u8], packet: Packet<'a>) -> Result<Packet<'a>, DecodeErrorKind> {
    if body.is_empty() { Ok(packet) } else { Err(DecodeErrorKind::TrailingBytes) }
}
