//! SUBSCRIBE and SUBACK (MQTT 5.0, 3.8 and 3.9).

use std::fmt;
use std::num::NonZeroU32;

use super::ack::{decode_reason_properties, encode_reason_properties};
use super::primitive::{Reader, put_length_prefixed, put_packet, put_string, put_u16};
use super::property::{Allowed, Property, Section};
use super::{
    DecodeErrorKind, EncodeError, PacketId, PacketType, QoS, ReasonCode, ReasonCodes,
    UserProperties, Version,
};

const OPTION_QOS: u8 = 0x03;
const OPTION_NO_LOCAL: u8 = 0x04;
const OPTION_RETAIN_AS_PUBLISHED: u8 = 0x08;
const OPTION_RETAIN_HANDLING: u8 = 0x30;
const OPTION_RETAIN_HANDLING_SHIFT: u8 = 4;
const OPTION_RESERVED: u8 = 0xC0;

/// A SUBSCRIBE packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// The Packet Identifier.
    pub packet_id: PacketId,
    /// Subscription Identifier, 1 to 268,435,455, of 5.0 only.
    pub subscription_id: Option<NonZeroU32>,
    /// User Properties, of 5.0 only.
    pub user_properties: UserProperties<'a>,
    /// The topic filters, at least one.
    pub filters: SubscribeFilters<'a>,
}

/// What is sent of the retained messages when a subscription is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// 0: send retained messages at the time of the subscribe.
    #[default]
    SendAtSubscribe = 0,
    /// 1: send them only if the subscription does not yet exist.
    SendAtNewSubscribe = 1,
    /// 2: do not send them.
    DoNotSend = 2,
}

/// Subscription Options. Before 5.0 there is only the QoS; the others have their defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SubscriptionOptions {
    /// Maximum QoS; before 5.0 the requested QoS.
    pub qos: QoS,
    /// No Local: nothing back to the client that published it.
    pub no_local: bool,
    /// Retain As Published: keep the RETAIN flag when forwarding.
    pub retain_as_published: bool,
    /// Retain Handling.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// Options with this QoS and defaults otherwise.
    #[must_use]
    pub const fn new(qos: QoS) -> SubscriptionOptions {
        SubscriptionOptions {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::SendAtSubscribe,
        }
    }

    /// The byte as MQTT 5.0 writes it.
    #[must_use]
    pub const fn to_u8(self) -> u8 {
        let mut byte =
            self.qos.value() | (self.retain_handling as u8) << OPTION_RETAIN_HANDLING_SHIFT;
        if self.no_local {
            byte |= OPTION_NO_LOCAL;
        }
        if self.retain_as_published {
            byte |= OPTION_RETAIN_AS_PUBLISHED;
        }
        byte
    }

    /// The options in a byte as MQTT 5.0 writes it; `None` for QoS 3, Retain Handling 3 and
    /// reserved bits.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<SubscriptionOptions> {
        if byte & OPTION_RESERVED != 0 {
            return None;
        }
        let Some(qos) = QoS::from_u8(byte & OPTION_QOS) else { return None };
        let retain_handling = match (byte & OPTION_RETAIN_HANDLING) >> OPTION_RETAIN_HANDLING_SHIFT
        {
            0 => RetainHandling::SendAtSubscribe,
            1 => RetainHandling::SendAtNewSubscribe,
            2 => RetainHandling::DoNotSend,
            _ => return None,
        };
        Some(SubscriptionOptions {
            qos,
            no_local: byte & OPTION_NO_LOCAL != 0,
            retain_as_published: byte & OPTION_RETAIN_AS_PUBLISHED != 0,
            retain_handling,
        })
    }

    fn decode(byte: u8, version: Version) -> Result<SubscriptionOptions, DecodeErrorKind> {
        let reserved = match version {
            Version::V3_1 => 0, // Six bits that are "not used".
            Version::V3_1_1 => !OPTION_QOS,
            Version::V5 => OPTION_RESERVED,
        };
        // [MQTT-3.8.3-5], [MQTT311-3.8.3-4]
        if byte & reserved != 0 {
            return Err(DecodeErrorKind::ReservedSubscriptionOptions);
        }
        let byte = byte & used_options(version);
        if byte & OPTION_QOS == OPTION_QOS {
            return Err(DecodeErrorKind::InvalidSubscriptionQoS);
        }
        SubscriptionOptions::from_u8(byte).ok_or(DecodeErrorKind::InvalidRetainHandling)
    }
}

/// The bits of the options byte that mean something.
const fn used_options(version: Version) -> u8 {
    match version {
        Version::V3_1 | Version::V3_1_1 => OPTION_QOS,
        Version::V5 => !OPTION_RESERVED,
    }
}

impl<'a> Subscribe<'a> {
    pub(super) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeErrorKind> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut subscription_id = None;
        let mut user_properties = UserProperties::default();
        if version == Version::V5 {
            let section = Section::decode(&mut reader, Allowed::SUBSCRIBE, |property| {
                if let Property::SubscriptionIdentifier(id) = property {
                    subscription_id = Some(id);
                }
            })?;
            user_properties = section.user_properties();
        }
        let filters = SubscribeFilters::decode(reader.take_rest(), version)?;
        Ok(Subscribe { packet_id, subscription_id, user_properties, filters })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_packet(out, PacketType::Subscribe.header(), |out| {
            put_u16(out, self.packet_id.get());
            if version == Version::V5 {
                put_length_prefixed(out, |out| {
                    if let Some(id) = self.subscription_id {
                        Property::SubscriptionIdentifier(id).encode(out)?;
                    }
                    self.user_properties.encode(out)
                })?;
            }
            if self.filters.is_empty() {
                return Err(EncodeError::EmptyPayload);
            }
            for (filter, options) in self.filters {
                if filter.is_empty() {
                    return Err(EncodeError::Empty);
                }
                if version == Version::V5 && options.no_local && is_shared(filter) {
                    return Err(EncodeError::NoLocalOnSharedSubscription);
                }
                put_string(out, filter)?;
                out.push(options.to_u8() & used_options(version));
            }
            Ok(())
        })
    }
}

/// The topic filters of a SUBSCRIBE with their options, in order: borrowed from a packet, or from a
/// slice to be encoded. None is empty; what else a topic filter must be, is not checked here.
#[derive(Clone, Copy)]
pub struct SubscribeFilters<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    /// Checked when decoded.
    Wire {
        bytes: &'a [u8],
        len: usize,
        used_options: u8,
    },
    Slice(&'a [(&'a str, SubscriptionOptions)]),
}

impl<'a> SubscribeFilters<'a> {
    fn decode(bytes: &'a [u8], version: Version) -> Result<Self, DecodeErrorKind> {
        let mut reader = Reader::new(bytes);
        let mut len = 0;
        while !reader.is_empty() {
            let filter = reader.string()?; // [MQTT-3.8.3-1]
            let options = SubscriptionOptions::decode(reader.u8()?, version)?;
            // [MQTT-4.7.3-1]
            if filter.is_empty() {
                return Err(DecodeErrorKind::EmptyTopicFilter);
            }
            // [MQTT-3.8.3-4]
            if options.no_local && is_shared(filter) {
                return Err(DecodeErrorKind::NoLocalOnSharedSubscription);
            }
            len += 1;
        }
        // [MQTT-3.8.3-2], [MQTT311-3.8.3-3]
        if len == 0 {
            return Err(DecodeErrorKind::EmptyPayload);
        }
        Ok(SubscribeFilters(Source::Wire { bytes, len, used_options: used_options(version) }))
    }

    /// The filters, in order.
    #[must_use]
    pub fn iter(&self) -> SubscribeFiltersIter<'a> {
        SubscribeFiltersIter(self.0)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.0 {
            Source::Wire { len, .. } => len,
            Source::Slice(filters) => filters.len(),
        }
    }

    /// Whether there is none, which no SUBSCRIBE may be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a [(&'a str, SubscriptionOptions)]> for SubscribeFilters<'a> {
    fn from(filters: &'a [(&'a str, SubscriptionOptions)]) -> Self {
        SubscribeFilters(Source::Slice(filters))
    }
}

impl<'a> IntoIterator for SubscribeFilters<'a> {
    type Item = (&'a str, SubscriptionOptions);
    type IntoIter = SubscribeFiltersIter<'a>;

    fn into_iter(self) -> SubscribeFiltersIter<'a> {
        self.iter()
    }
}

impl PartialEq for SubscribeFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscribeFilters<'_> {}

impl fmt::Debug for SubscribeFilters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterator over [`SubscribeFilters`].
#[derive(Clone)]
pub struct SubscribeFiltersIter<'a>(Source<'a>);

impl<'a> Iterator for SubscribeFiltersIter<'a> {
    type Item = (&'a str, SubscriptionOptions);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::Wire { bytes, used_options, .. } => {
                let mut reader = Reader::new(bytes);
                let filter = reader.string().ok()?;
                let options = SubscriptionOptions::from_u8(reader.u8().ok()? & *used_options)?;
                *bytes = reader.take_rest();
                Some((filter, options))
            }
            Source::Slice(filters) => {
                let (&first, rest) = filters.split_first()?;
                *filters = rest;
                Some(first)
            }
        }
    }
}

/// A SUBACK packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suback<'a> {
    /// The Packet Identifier of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// A Reason Code for each topic filter, in order. Before 5.0 every error is written as 0x80,
    /// Failure.
    pub reasons: ReasonCodes<'a>,
    /// Reason String, of 5.0 only.
    pub reason_string: Option<&'a str>,
    /// User Properties, of 5.0 only.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Suback<'a> {
    pub(super) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeErrorKind> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut reason_string = None;
        let mut user_properties = UserProperties::default();
        if version == Version::V5 {
            (reason_string, user_properties) = decode_reason_properties(&mut reader)?;
        }
        let codes = reader.take_rest();
        // [MQTT311-3.9.3-2]
        if version < Version::V5
            && let Some(&code) = codes.iter().find(|code| !matches!(code, 0..=2 | 0x80))
        {
            return Err(DecodeErrorKind::UnknownReasonCode(code));
        }
        let reasons = ReasonCodes::decode(codes, PacketType::Suback)?; // [MQTT-3.9.3-2]
        Ok(Suback { packet_id, reasons, reason_string, user_properties })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_packet(out, PacketType::Suback.header(), |out| {
            put_u16(out, self.packet_id.get());
            if version == Version::V5 {
                encode_reason_properties(self.reason_string, &self.user_properties, out)?;
            }
            if self.reasons.is_empty() {
                return Err(EncodeError::EmptyPayload);
            }
            for reason in self.reasons {
                let code = reason.encode(PacketType::Suback)?;
                // 3.1 has no code for a failure, and no server should send one. [MQTT311-3.9.3-2]
                let failure = version < Version::V5 && reason.is_error();
                out.push(if failure { ReasonCode::UnspecifiedError.value() } else { code });
            }
            Ok(())
        })
    }
}

/// Whether the filter is one of a shared subscription (MQTT 5.0, 4.8.2).
fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}
