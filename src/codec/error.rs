//! What can be wrong with a packet, and which Reason Code says so.

use super::{PacketType, QoS, ReasonCode, Version};

/// Why bytes are not a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct DecodeError {
    /// What is wrong.
    pub kind: DecodeErrorKind,
    /// The version in which a refusal of a CONNECT can be sent, when the CONNECT got as far as to
    /// tell. `None` for every other packet.
    pub version: Option<Version>,
}

impl DecodeError {
    /// The Reason Code to tell the other side: the only mapping from errors to the wire.
    ///
    /// Before 5.0 there is no packet to tell it in once the client is connected; the connection is
    /// just closed `[MQTT311-4.8.0-1]`.
    #[must_use]
    pub const fn reason_code(&self) -> ReasonCode {
        self.kind.reason_code()
    }

    /// The version and Reason Code of the CONNACK by which to refuse a CONNECT that could not be
    /// decoded; `None` when the connection is to be closed without a word. That is so when the
    /// protocol is unknown, and before 5.0 for all but an unsupported level `[MQTT311-3.1.2-2]` and
    /// an empty Client Identifier `[MQTT311-3.1.3-8]`: 3.1.1 answers nothing to a CONNECT that is
    /// no valid packet `[MQTT311-3.1.4-1]`.
    #[must_use]
    pub fn connack(&self) -> Option<(Version, ReasonCode)> {
        let reason = self.reason_code();
        let version = self.version?;
        let told = version == Version::V5
            || matches!(
                reason,
                ReasonCode::UnsupportedProtocolVersion | ReasonCode::ClientIdentifierNotValid
            );
        told.then_some((version, reason))
    }
}

impl From<DecodeErrorKind> for DecodeError {
    fn from(kind: DecodeErrorKind) -> DecodeError {
        DecodeError { kind, version: None }
    }
}

/// The things that can be wrong with a packet. Numbers in braces are those of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// A packet type that is reserved: 0, and 15 before MQTT 5.0.
    #[error("reserved packet type {0}")]
    ReservedPacketType(u8),
    /// The low four bits of the first byte are not what the packet type prescribes.
    #[error("invalid fixed header flags {0:#03x}")]
    FixedHeaderFlags(u8),
    /// QoS 3 in a PUBLISH or a will.
    #[error("QoS 3 does not exist")]
    InvalidQoS,
    /// QoS 3 in a subscription.
    #[error("subscription with QoS 3")]
    InvalidSubscriptionQoS,
    /// DUP is set with QoS 0.
    #[error("DUP set on a QoS 0 PUBLISH")]
    DupWithQoS0,
    /// A Variable Byte Integer has more than four bytes.
    #[error("variable byte integer longer than four bytes")]
    VariableByteIntegerTooLong,
    /// A Variable Byte Integer has more bytes than its value needs.
    #[error("variable byte integer not in its shortest form")]
    VariableByteIntegerNotMinimal,
    /// The packet is larger than this receiver accepts.
    #[error("packet larger than the maximum packet size")]
    PacketTooLarge,
    /// The packet ends in the middle of a field, or a field that must be there is missing.
    #[error("packet ends before its last field")]
    UnexpectedEnd,
    /// Bytes are left after the last field.
    #[error("bytes left after the last field")]
    TrailingBytes,
    /// A string is not well-formed UTF-8 (encoded surrogates included).
    #[error("string is not well-formed UTF-8")]
    InvalidUtf8,
    /// A string contains U+0000.
    #[error("string contains U+0000")]
    NullCharacter,
    /// A Packet Identifier is 0.
    #[error("packet identifier 0")]
    ZeroPacketId,
    /// The Protocol Name is neither `MQTT` nor `MQIsdp`.
    #[error("unknown protocol name")]
    UnknownProtocolName,
    /// The Protocol Level does not exist under this Protocol Name.
    #[error("unsupported protocol level {0}")]
    UnsupportedProtocolLevel(u8),
    /// The Protocol Level has the bit 0x80 by which some bridges announce themselves.
    #[error("private bridge protocol level {0:#04x} is not supported, use the plain level")]
    BridgeProtocolLevel(u8),
    /// Bit 0 of the Connect Flags is set.
    #[error("reserved connect flag set")]
    ReservedConnectFlag,
    /// Will QoS or Will Retain is set, and the Will Flag is not.
    #[error("will QoS or will retain set without a will")]
    WillFlagsWithoutWill,
    /// A password without a user name, before MQTT 5.0.
    #[error("password without user name")]
    PasswordWithoutUserName,
    /// An empty Client Identifier where the version or Clean Session 0 forbids it.
    #[error("empty client identifier")]
    EmptyClientId,
    /// The Connect Acknowledge Flags have reserved bits, or Session Present with a refusal.
    #[error("invalid connect acknowledge flags {0:#04x}")]
    ConnackFlags(u8),
    /// A topic name is empty, and no Topic Alias stands for it.
    #[error("empty topic name")]
    EmptyTopicName,
    /// A topic filter is empty.
    #[error("empty topic filter")]
    EmptyTopicFilter,
    /// SUBSCRIBE, SUBACK, UNSUBSCRIBE or UNSUBACK without an entry.
    #[error("no entry in the payload")]
    EmptyPayload,
    /// A Response Topic is empty or contains a wildcard.
    #[error("invalid response topic")]
    InvalidResponseTopic,
    /// Reserved bits of the Subscription Options are set.
    #[error("reserved subscription option bits set")]
    ReservedSubscriptionOptions,
    /// Retain Handling is 3.
    #[error("retain handling 3 does not exist")]
    InvalidRetainHandling,
    /// No Local is set on a shared subscription.
    #[error("no local set on a shared subscription")]
    NoLocalOnSharedSubscription,
    /// A property with an identifier that MQTT does not know.
    #[error("unknown property {0:#04x}")]
    UnknownProperty(u32),
    /// A property that this packet cannot have.
    #[error("property {0:#04x} does not belong to this packet")]
    PropertyNotAllowed(u8),
    /// A property that may occur once occurs twice.
    #[error("property {0:#04x} given more than once")]
    DuplicateProperty(u8),
    /// A property has a value outside its range.
    #[error("value of property {0:#04x} out of range")]
    InvalidPropertyValue(u8),
    /// A Topic Alias is 0.
    #[error("topic alias 0")]
    ZeroTopicAlias,
    /// Authentication Data without Authentication Method, or an AUTH without a method.
    #[error("authentication method missing")]
    MissingAuthenticationMethod,
    /// A Reason Code (before 5.0: return code) that MQTT does not know.
    #[error("unknown reason code {0:#04x}")]
    UnknownReasonCode(u8),
    /// A Reason Code that this packet cannot have.
    #[error("reason code {0:#04x} does not belong to this packet")]
    ReasonCodeNotAllowed(u8),
}

impl DecodeErrorKind {
    /// See [`DecodeError::reason_code`].
    #[must_use]
    pub const fn reason_code(self) -> ReasonCode {
        use DecodeErrorKind as Kind;
        match self {
            Kind::ReservedPacketType(_)
            | Kind::FixedHeaderFlags(_)
            | Kind::InvalidQoS
            | Kind::DupWithQoS0
            | Kind::VariableByteIntegerTooLong
            | Kind::VariableByteIntegerNotMinimal
            | Kind::UnexpectedEnd
            | Kind::TrailingBytes
            | Kind::InvalidUtf8
            | Kind::NullCharacter
            | Kind::ReservedConnectFlag
            | Kind::WillFlagsWithoutWill
            | Kind::PasswordWithoutUserName
            | Kind::ConnackFlags(_)
            | Kind::ReservedSubscriptionOptions
            | Kind::UnknownProperty(_)
            | Kind::PropertyNotAllowed(_)
            | Kind::UnknownReasonCode(_) => ReasonCode::MalformedPacket,
            Kind::ZeroPacketId
            | Kind::EmptyTopicName
            | Kind::EmptyTopicFilter
            | Kind::EmptyPayload
            | Kind::InvalidResponseTopic
            | Kind::InvalidSubscriptionQoS
            | Kind::InvalidRetainHandling
            | Kind::NoLocalOnSharedSubscription
            | Kind::DuplicateProperty(_)
            | Kind::InvalidPropertyValue(_)
            | Kind::MissingAuthenticationMethod
            | Kind::ReasonCodeNotAllowed(_) => ReasonCode::ProtocolError,
            Kind::UnknownProtocolName
            | Kind::UnsupportedProtocolLevel(_)
            | Kind::BridgeProtocolLevel(_) => ReasonCode::UnsupportedProtocolVersion,
            Kind::EmptyClientId => ReasonCode::ClientIdentifierNotValid,
            Kind::ZeroTopicAlias => ReasonCode::TopicAliasInvalid,
            Kind::PacketTooLarge => ReasonCode::PacketTooLarge,
        }
    }
}

/// Why a packet cannot be encoded. The output is as it was before the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string or binary value is longer than 65,535 bytes.
    #[error("string or binary value longer than 65,535 bytes")]
    ValueTooLong,
    /// A string contains U+0000.
    #[error("string contains U+0000")]
    NullCharacter,
    /// The packet is larger than MQTT can say: more than 268,435,455 bytes after its length.
    #[error("packet longer than 268,435,455 bytes")]
    PacketTooLarge,
    /// The packet does not exist in this version.
    #[error("MQTT {version} has no {packet} packet")]
    NotInVersion {
        /// Which packet.
        packet: PacketType,
        /// Which version.
        version: Version,
    },
    /// QoS 1 or 2 without a Packet Identifier, or QoS 0 with one.
    #[error("packet identifier does not fit QoS {0}")]
    PacketId(QoS),
    /// DUP is set with QoS 0.
    #[error("DUP set on a QoS 0 PUBLISH")]
    DupWithQoS0,
    /// An empty topic name (and no Topic Alias), topic filter, or 3.x Client Identifier that must
    /// not be empty.
    #[error("empty topic name, topic filter or client identifier")]
    Empty,
    /// SUBSCRIBE, SUBACK, UNSUBSCRIBE or UNSUBACK without an entry.
    #[error("no entry in the payload")]
    EmptyPayload,
    /// A password without a user name, before MQTT 5.0.
    #[error("password without user name")]
    PasswordWithoutUserName,
    /// Session Present with a refusal.
    #[error("session present set in a refusal")]
    SessionPresentInRefusal,
    /// No Local is set on a shared subscription.
    #[error("no local set on a shared subscription")]
    NoLocalOnSharedSubscription,
    /// Authentication Data without Authentication Method, or an AUTH without a method.
    #[error("authentication method missing")]
    MissingAuthenticationMethod,
    /// A property has a value outside its range.
    #[error("value of property {0:#04x} out of range")]
    InvalidPropertyValue(u8),
    /// A property that this packet cannot have.
    #[error("property {0:#04x} does not belong to this packet")]
    PropertyNotAllowed(u8),
    /// A Reason Code that this packet cannot have.
    #[error("reason code {0:?} does not belong to this packet")]
    ReasonCodeNotAllowed(ReasonCode),
}
