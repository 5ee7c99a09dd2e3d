//! Reason Codes (MQTT 5.0, 2.4) and lists of them.

use std::fmt;

use super::{DecodeErrorKind, EncodeError, PacketType, QoS};

/// A Reason Code of MQTT 5.0. The 3.x return codes are told as the Reason Codes that mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum ReasonCode {
    /// Success; in DISCONNECT Normal disconnection; in SUBACK Granted QoS 0.
    #[default]
    Success = 0x00,
    /// Granted QoS 1.
    GrantedQoS1 = 0x01,
    /// Granted QoS 2.
    GrantedQoS2 = 0x02,
    /// Disconnect with Will Message.
    DisconnectWithWillMessage = 0x04,
    /// No matching subscribers.
    NoMatchingSubscribers = 0x10,
    /// No subscription existed.
    NoSubscriptionExisted = 0x11,
    /// Continue authentication.
    ContinueAuthentication = 0x18,
    /// Re-authenticate.
    ReAuthenticate = 0x19,
    /// Unspecified error; in a 3.1.1 SUBACK Failure.
    UnspecifiedError = 0x80,
    /// Malformed Packet.
    MalformedPacket = 0x81,
    /// Protocol Error.
    ProtocolError = 0x82,
    /// Implementation specific error.
    ImplementationSpecificError = 0x83,
    /// Unsupported Protocol Version.
    UnsupportedProtocolVersion = 0x84,
    /// Client Identifier not valid.
    ClientIdentifierNotValid = 0x85,
    /// Bad User Name or Password.
    BadUserNameOrPassword = 0x86,
    /// Not authorized.
    NotAuthorized = 0x87,
    /// Server unavailable.
    ServerUnavailable = 0x88,
    /// Server busy.
    ServerBusy = 0x89,
    /// Banned.
    Banned = 0x8A,
    /// Server shutting down.
    ServerShuttingDown = 0x8B,
    /// Bad authentication method.
    BadAuthenticationMethod = 0x8C,
    /// Keep Alive timeout.
    KeepAliveTimeout = 0x8D,
    /// Session taken over.
    SessionTakenOver = 0x8E,
    /// Topic Filter invalid.
    TopicFilterInvalid = 0x8F,
    /// Topic Name invalid.
    TopicNameInvalid = 0x90,
    /// Packet Identifier in use.
    PacketIdentifierInUse = 0x91,
    /// Packet Identifier not found.
    PacketIdentifierNotFound = 0x92,
    /// Receive Maximum exceeded.
    ReceiveMaximumExceeded = 0x93,
    /// Topic Alias invalid.
    TopicAliasInvalid = 0x94,
    /// Packet too large.
    PacketTooLarge = 0x95,
    /// Message rate too high.
    MessageRateTooHigh = 0x96,
    /// Quota exceeded.
    QuotaExceeded = 0x97,
    /// Administrative action.
    AdministrativeAction = 0x98,
    /// Payload format invalid.
    PayloadFormatInvalid = 0x99,
    /// Retain not supported.
    RetainNotSupported = 0x9A,
    /// QoS not supported.
    QoSNotSupported = 0x9B,
    /// Use another server.
    UseAnotherServer = 0x9C,
    /// Server moved.
    ServerMoved = 0x9D,
    /// Shared Subscriptions not supported.
    SharedSubscriptionsNotSupported = 0x9E,
    /// Connection rate exceeded.
    ConnectionRateExceeded = 0x9F,
    /// Maximum connect time.
    MaximumConnectTime = 0xA0,
    /// Subscription Identifiers not supported.
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// Wildcard Subscriptions not supported.
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// 0x00 as DISCONNECT names it.
    pub const NORMAL_DISCONNECTION: ReasonCode = ReasonCode::Success;
    /// 0x00 as SUBACK names it.
    pub const GRANTED_QOS_0: ReasonCode = ReasonCode::Success;

    /// The byte on the wire.
    #[must_use]
    pub const fn value(self) -> u8 {
        self as u8
    }

    /// Whether the code tells a failure: 0x80 or above.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.value() >= 0x80
    }

    /// The SUBACK code that grants this QoS.
    #[must_use]
    pub const fn granted(qos: QoS) -> ReasonCode {
        match qos {
            QoS::AtMostOnce => ReasonCode::GRANTED_QOS_0,
            QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
            QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
        }
    }

    /// The CONNACK return code, 0 to 5, by which MQTT 3.x says the same, or the nearest there is:
    /// 3.x knows no other refusals (MQTT 3.1.1, table 3.1).
    #[must_use]
    pub const fn connack_3x(self) -> u8 {
        match self {
            code if !code.is_error() => 0,
            ReasonCode::UnsupportedProtocolVersion => 1,
            ReasonCode::ClientIdentifierNotValid => 2,
            ReasonCode::BadUserNameOrPassword | ReasonCode::BadAuthenticationMethod => 4,
            ReasonCode::NotAuthorized
            | ReasonCode::Banned
            | ReasonCode::TopicNameInvalid
            | ReasonCode::RetainNotSupported
            | ReasonCode::QoSNotSupported => 5,
            _ => 3,
        }
    }

    /// The Reason Code for a CONNACK return code of MQTT 3.x, `None` for a reserved one.
    #[must_use]
    pub const fn from_connack_3x(return_code: u8) -> Option<ReasonCode> {
        Some(match return_code {
            0 => ReasonCode::Success,
            1 => ReasonCode::UnsupportedProtocolVersion,
            2 => ReasonCode::ClientIdentifierNotValid,
            3 => ReasonCode::ServerUnavailable,
            4 => ReasonCode::BadUserNameOrPassword,
            5 => ReasonCode::NotAuthorized,
            _ => return None,
        })
    }

    /// Whether a packet of this type may carry the code (MQTT 5.0, table 2-6). Packets without a
    /// Reason Code may carry none.
    #[must_use]
    pub const fn is_allowed_in(self, packet: PacketType) -> bool {
        let code = self.value();
        match packet {
            PacketType::Connack => {
                matches!(code, 0 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
            }
            PacketType::Puback | PacketType::Pubrec => {
                matches!(code, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            PacketType::Pubrel | PacketType::Pubcomp => matches!(code, 0 | 0x92),
            PacketType::Suback => {
                matches!(code, 0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
            }
            PacketType::Unsuback => {
                matches!(code, 0 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
            }
            // 0x8C is in table 2-6, though 3.14.2.1 leaves it out.
            PacketType::Disconnect => matches!(
                code,
                0 | 4 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B..=0x90 | 0x93..=0xA2
            ),
            PacketType::Auth => matches!(code, 0 | 0x18 | 0x19),
            _ => false,
        }
    }

    /// Reads a Reason Code that stands in a packet of this type.
    pub(super) fn decode(byte: u8, packet: PacketType) -> Result<ReasonCode, DecodeErrorKind> {
        let code = ReasonCode::try_from(byte).map_err(DecodeErrorKind::UnknownReasonCode)?;
        if !code.is_allowed_in(packet) {
            return Err(DecodeErrorKind::ReasonCodeNotAllowed(byte));
        }
        Ok(code)
    }

    /// The byte to write into a packet of this type.
    pub(super) fn encode(self, packet: PacketType) -> Result<u8, EncodeError> {
        if !self.is_allowed_in(packet) {
            return Err(EncodeError::ReasonCodeNotAllowed(self));
        }
        Ok(self.value())
    }
}

/// Fails with the value itself when MQTT 5.0 knows no such Reason Code.
impl TryFrom<u8> for ReasonCode {
    type Error = u8;

    fn try_from(value: u8) -> Result<ReasonCode, u8> {
        use ReasonCode as R;
        Ok(match value {
            0x00 => R::Success,
            0x01 => R::GrantedQoS1,
            0x02 => R::GrantedQoS2,
            0x04 => R::DisconnectWithWillMessage,
            0x10 => R::NoMatchingSubscribers,
            0x11 => R::NoSubscriptionExisted,
            0x18 => R::ContinueAuthentication,
            0x19 => R::ReAuthenticate,
            0x80 => R::UnspecifiedError,
            0x81 => R::MalformedPacket,
            0x82 => R::ProtocolError,
            0x83 => R::ImplementationSpecificError,
            0x84 => R::UnsupportedProtocolVersion,
            0x85 => R::ClientIdentifierNotValid,
            0x86 => R::BadUserNameOrPassword,
            0x87 => R::NotAuthorized,
            0x88 => R::ServerUnavailable,
            0x89 => R::ServerBusy,
            0x8A => R::Banned,
            0x8B => R::ServerShuttingDown,
            0x8C => R::BadAuthenticationMethod,
            0x8D => R::KeepAliveTimeout,
            0x8E => R::SessionTakenOver,
            0x8F => R::TopicFilterInvalid,
            0x90 => R::TopicNameInvalid,
            0x91 => R::PacketIdentifierInUse,
            0x92 => R::PacketIdentifierNotFound,
            0x93 => R::ReceiveMaximumExceeded,
            0x94 => R::TopicAliasInvalid,
            0x95 => R::PacketTooLarge,
            0x96 => R::MessageRateTooHigh,
            0x97 => R::QuotaExceeded,
            0x98 => R::AdministrativeAction,
            0x99 => R::PayloadFormatInvalid,
            0x9A => R::RetainNotSupported,
            0x9B => R::QoSNotSupported,
            0x9C => R::UseAnotherServer,
            0x9D => R::ServerMoved,
            0x9E => R::SharedSubscriptionsNotSupported,
            0x9F => R::ConnectionRateExceeded,
            0xA0 => R::MaximumConnectTime,
            0xA1 => R::SubscriptionIdentifiersNotSupported,
            0xA2 => R::WildcardSubscriptionsNotSupported,
            _ => return Err(value),
        })
    }
}

/// The name that the specification gives the code, in its spelling.
impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ReasonCode as R;
        f.write_str(match self {
            R::Success => "Success",
            R::GrantedQoS1 => "Granted QoS 1",
            R::GrantedQoS2 => "Granted QoS 2",
            R::DisconnectWithWillMessage => "Disconnect with Will Message",
            R::NoMatchingSubscribers => "No matching subscribers",
            R::NoSubscriptionExisted => "No subscription existed",
            R::ContinueAuthentication => "Continue authentication",
            R::ReAuthenticate => "Re-authenticate",
            R::UnspecifiedError => "Unspecified error",
            R::MalformedPacket => "Malformed Packet",
            R::ProtocolError => "Protocol Error",
            R::ImplementationSpecificError => "Implementation specific error",
            R::UnsupportedProtocolVersion => "Unsupported Protocol Version",
            R::ClientIdentifierNotValid => "Client Identifier not valid",
            R::BadUserNameOrPassword => "Bad User Name or Password",
            R::NotAuthorized => "Not authorized",
            R::ServerUnavailable => "Server unavailable",
            R::ServerBusy => "Server busy",
            R::Banned => "Banned",
            R::ServerShuttingDown => "Server shutting down",
            R::BadAuthenticationMethod => "Bad authentication method",
            R::KeepAliveTimeout => "Keep Alive timeout",
            R::SessionTakenOver => "Session taken over",
            R::TopicFilterInvalid => "Topic Filter invalid",
            R::TopicNameInvalid => "Topic Name invalid",
            R::PacketIdentifierInUse => "Packet Identifier in use",
            R::PacketIdentifierNotFound => "Packet Identifier not found",
            R::ReceiveMaximumExceeded => "Receive Maximum exceeded",
            R::TopicAliasInvalid => "Topic Alias invalid",
            R::PacketTooLarge => "Packet too large",
            R::MessageRateTooHigh => "Message rate too high",
            R::QuotaExceeded => "Quota exceeded",
            R::AdministrativeAction => "Administrative action",
            R::PayloadFormatInvalid => "Payload format invalid",
            R::RetainNotSupported => "Retain not supported",
            R::QoSNotSupported => "QoS not supported",
            R::UseAnotherServer => "Use another server",
            R::ServerMoved => "Server moved",
            R::SharedSubscriptionsNotSupported => "Shared Subscriptions not supported",
            R::ConnectionRateExceeded => "Connection rate exceeded",
            R::MaximumConnectTime => "Maximum connect time",
            R::SubscriptionIdentifiersNotSupported => "Subscription Identifiers not supported",
            R::WildcardSubscriptionsNotSupported => "Wildcard Subscriptions not supported",
        })
    }
}

/// The Reason Codes of a SUBACK or UNSUBACK: borrowed from a packet, or from a slice to be encoded.
#[derive(Clone, Copy)]
pub struct ReasonCodes<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    /// Checked when decoded.
    Wire(&'a [u8]),
    Slice(&'a [ReasonCode]),
}

impl<'a> ReasonCodes<'a> {
    /// Reads the rest of a packet of this type as Reason Codes.
    pub(super) fn decode(bytes: &'a [u8], packet: PacketType) -> Result<Self, DecodeErrorKind> {
        if bytes.is_empty() {
            return Err(DecodeErrorKind::EmptyPayload);
        }
        for &byte in bytes {
            ReasonCode::decode(byte, packet)?;
        }
        Ok(ReasonCodes(Source::Wire(bytes)))
    }

    /// The codes in order.
    #[must_use]
    pub fn iter(&self) -> ReasonCodesIter<'a> {
        ReasonCodesIter(self.0)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.0 {
            Source::Wire(bytes) => bytes.len(),
            Source::Slice(codes) => codes.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for ReasonCodes<'_> {
    fn default() -> Self {
        ReasonCodes(Source::Slice(&[]))
    }
}

impl<'a> From<&'a [ReasonCode]> for ReasonCodes<'a> {
    fn from(codes: &'a [ReasonCode]) -> Self {
        ReasonCodes(Source::Slice(codes))
    }
}

impl<'a> IntoIterator for ReasonCodes<'a> {
    type Item = ReasonCode;
    type IntoIter = ReasonCodesIter<'a>;

    fn into_iter(self) -> ReasonCodesIter<'a> {
        self.iter()
    }
}

impl PartialEq for ReasonCodes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ReasonCodes<'_> {}

impl fmt::Debug for ReasonCodes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterator over [`ReasonCodes`].
#[derive(Clone)]
pub struct ReasonCodesIter<'a>(Source<'a>);

impl Iterator for ReasonCodesIter<'_> {
    type Item = ReasonCode;

    fn next(&mut self) -> Option<ReasonCode> {
        match &mut self.0 {
            Source::Wire(bytes) => {
                let (&first, rest) = bytes.split_first()?;
                *bytes = rest;
                ReasonCode::try_from(first).ok()
            }
            Source::Slice(codes) => {
                let (&first, rest) = codes.split_first()?;
                *codes = rest;
                Some(first)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_its_code_or_none() {
        let mut known = 0;
        for byte in 0..=255u8 {
            match ReasonCode::try_from(byte) {
                Ok(code) => {
                    known += 1;
                    assert_eq!(code.value(), byte);
                    assert_eq!(code.is_error(), byte >= 0x80);
                    assert!(!code.to_string().is_empty());
                }
                Err(value) => assert_eq!(value, byte),
            }
        }
        assert_eq!(known, 43);
    }

    #[test]
    fn return_codes_of_3x_survive_the_way_back() {
        for return_code in 0..=5 {
            let code = ReasonCode::from_connack_3x(return_code).unwrap();
            assert_eq!(code.connack_3x(), return_code);
        }
        assert_eq!(ReasonCode::from_connack_3x(6), None);
        assert_eq!(ReasonCode::ServerBusy.connack_3x(), 3);
    }

    #[test]
    fn every_code_belongs_somewhere() {
        let packets = (1..=15).filter_map(PacketType::from_u8).collect::<Vec<_>>();
        for code in (0..=255).filter_map(|byte| ReasonCode::try_from(byte).ok()) {
            assert!(packets.iter().any(|&packet| code.is_allowed_in(packet)), "{code}");
        }
    }
}
