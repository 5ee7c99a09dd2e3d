//! Protocol version, QoS and Packet Identifier.

use std::fmt;
use std::num::NonZeroU16;

/// A version of the protocol. Ordered by age, so `version < Version::V5` means "one of 3.x".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V3_1,
    /// MQTT 3.1.1 (`MQTT`, level 4).
    V3_1_1,
    /// MQTT 5.0 (`MQTT`, level 5).
    V5,
}

impl Version {
    /// The Protocol Level (MQTT 5.0: Protocol Version) byte of CONNECT.
    #[must_use]
    pub const fn protocol_level(self) -> u8 {
        match self {
            Version::V3_1 => 3,
            Version::V3_1_1 => 4,
            Version::V5 => 5,
        }
    }

    /// The Protocol Name of CONNECT.
    #[must_use]
    pub const fn protocol_name(self) -> &'static str {
        match self {
            Version::V3_1 => "MQIsdp",
            Version::V3_1_1 | Version::V5 => "MQTT",
        }
    }
}

/// `3.1`, `3.1.1` or `5.0`.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::V3_1 => "3.1",
            Version::V3_1_1 => "3.1.1",
            Version::V5 => "5.0",
        })
    }
}

/// Quality of service. Ordered: the higher, the stronger the promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0.
    #[default]
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// 0, 1 or 2.
    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    /// The QoS for 0, 1 or 2, `None` for anything else.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<QoS> {
        match value {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// Fails with the value itself when it is none of 0, 1, 2.
impl TryFrom<u8> for QoS {
    type Error = u8;

    fn try_from(value: u8) -> Result<QoS, u8> {
        QoS::from_u8(value).ok_or(value)
    }
}

/// `0`, `1` or `2`.
impl fmt::Display for QoS {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

/// A Packet Identifier: 1 to 65,535, never 0 `[MQTT-2.2.1-3]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The first Packet Identifier, 1.
    pub const FIRST: PacketId = PacketId(NonZeroU16::MIN);

    /// `None` for 0.
    #[must_use]
    pub const fn new(id: u16) -> Option<PacketId> {
        match NonZeroU16::new(id) {
            Some(id) => Some(PacketId(id)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// The following Packet Identifier; after 65,535 comes 1.
    #[must_use]
    pub const fn next(self) -> PacketId {
        match self.0.checked_add(1) {
            Some(id) => PacketId(id),
            None => PacketId::FIRST,
        }
    }

    /// The Packet Identifier `steps` times [`next`](Self::next), for fewer than 65,535 steps.
    #[must_use]
    pub fn advance(self, steps: u16) -> PacketId {
        let sum = u32::from(self.get()) + u32::from(steps);
        let wrapped = if sum > u32::from(u16::MAX) { sum - u32::from(u16::MAX) } else { sum };
        PacketId::new(wrapped as u16).unwrap_or(PacketId::FIRST)
    }

    /// How many times [`next`](Self::next) leads from `start` to this one: at most 65,534.
    #[must_use]
    pub const fn steps_after(self, start: PacketId) -> u16 {
        let (to, from) = (self.get(), start.get());
        if to >= from { to - from } else { u16::MAX - (from - to) }
    }
}

/// The number in decimal.
impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn packet_ids_wrap_past_zero() {
        assert_eq!(PacketId::new(0), None);
        assert_eq!(PacketId::FIRST.next().get(), 2);
        assert_eq!(PacketId::new(65_535).map(PacketId::next), Some(PacketId::FIRST));
    }

    #[test]
    fn steps_lead_past_zero_and_back() {
        for (start, steps, end) in [
            (1, 0, 1),
            (1, 65_534, 65_535),
            (65_535, 1, 1),
            (7, 65_534, 6),
            (65_534, 65_534, 65_533),
        ] {
            let [start, end] = [start, end].map(|id| PacketId::new(id).unwrap());
            assert_eq!(start.advance(steps), end);
            assert_eq!(end.steps_after(start), steps);
        }
    }

    #[test]
    fn versions_are_ordered_and_named() {
        assert!(Version::V3_1 < Version::V3_1_1 && Version::V3_1_1 < Version::V5);
        assert_eq!(
            [Version::V3_1, Version::V3_1_1, Version::V5].map(|v| v.to_string()),
            ["3.1", "3.1.1", "5.0"]
        );
    }

    #[test]
    fn qos_three_does_not_exist() {
        assert_eq!(QoS::try_from(2), Ok(QoS::ExactlyOnce));
        assert_eq!(QoS::try_from(3), Err(3));
    }
}
