//! The properties of MQTT 5.0 (2.2.2).
//!
//! A section of properties is read once, in full, when its packet is decoded: every identifier,
//! every value, what may be there and how often. Properties that may repeat stay in the section
//! and are read from it again by an iterator.

use std::fmt;
use std::num::NonZeroU32;

use super::primitive::{
    Reader, put_binary, put_string, put_u16, put_u32, put_variable_byte_integer,
};
use super::{DecodeErrorKind, EncodeError, MAX_REMAINING_LENGTH, QoS};

/// One property and its value, checked for range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::enum_variant_names)] // "User Property" is the specification's name.
pub(super) enum Property<'a> {
    PayloadFormatIndicator(bool),
    MessageExpiryInterval(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionIdentifier(NonZeroU32),
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQoS(QoS),
    RetainAvailable(bool),
    UserProperty(&'a str, &'a str),
    MaximumPacketSize(u32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifiersAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

impl<'a> Property<'a> {
    /// The identifier (MQTT 5.0, table 2-4).
    pub(super) const fn id(&self) -> u8 {
        match self {
            Property::PayloadFormatIndicator(_) => 0x01,
            Property::MessageExpiryInterval(_) => 0x02,
            Property::ContentType(_) => 0x03,
            Property::ResponseTopic(_) => 0x08,
            Property::CorrelationData(_) => 0x09,
            Property::SubscriptionIdentifier(_) => 0x0B,
            Property::SessionExpiryInterval(_) => 0x11,
            Property::AssignedClientIdentifier(_) => 0x12,
            Property::ServerKeepAlive(_) => 0x13,
            Property::AuthenticationMethod(_) => 0x15,
            Property::AuthenticationData(_) => 0x16,
            Property::RequestProblemInformation(_) => 0x17,
            Property::WillDelayInterval(_) => 0x18,
            Property::RequestResponseInformation(_) => 0x19,
            Property::ResponseInformation(_) => 0x1A,
            Property::ServerReference(_) => 0x1C,
            Property::ReasonString(_) => 0x1F,
            Property::ReceiveMaximum(_) => 0x21,
            Property::TopicAliasMaximum(_) => 0x22,
            Property::TopicAlias(_) => 0x23,
            Property::MaximumQoS(_) => 0x24,
            Property::RetainAvailable(_) => 0x25,
            Property::UserProperty(..) => 0x26,
            Property::MaximumPacketSize(_) => 0x27,
            Property::WildcardSubscriptionAvailable(_) => 0x28,
            Property::SubscriptionIdentifiersAvailable(_) => 0x29,
            Property::SharedSubscriptionAvailable(_) => 0x2A,
        }
    }

    /// Reads the value of the property with this identifier.
    fn decode(id: u32, reader: &mut Reader<'a>) -> Result<Property<'a>, DecodeErrorKind> {
        Ok(match id {
            0x01 => Property::PayloadFormatIndicator(boolean(0x01, reader)?),
            0x02 => Property::MessageExpiryInterval(reader.u32()?),
            0x03 => Property::ContentType(reader.string()?),
            0x08 => Property::ResponseTopic(response_topic(reader)?),
            0x09 => Property::CorrelationData(reader.binary()?),
            0x0B => Property::SubscriptionIdentifier(
                NonZeroU32::new(reader.variable_byte_integer()?)
                    .ok_or(DecodeErrorKind::InvalidPropertyValue(0x0B))?,
            ),
            0x11 => Property::SessionExpiryInterval(reader.u32()?),
            0x12 => Property::AssignedClientIdentifier(reader.string()?),
            0x13 => Property::ServerKeepAlive(reader.u16()?),
            0x15 => Property::AuthenticationMethod(reader.string()?),
            0x16 => Property::AuthenticationData(reader.binary()?),
            0x17 => Property::RequestProblemInformation(boolean(0x17, reader)?),
            0x18 => Property::WillDelayInterval(reader.u32()?),
            0x19 => Property::RequestResponseInformation(boolean(0x19, reader)?),
            0x1A => Property::ResponseInformation(reader.string()?),
            0x1C => Property::ServerReference(reader.string()?),
            0x1F => Property::ReasonString(reader.string()?),
            0x21 => match reader.u16()? {
                0 => return Err(DecodeErrorKind::InvalidPropertyValue(0x21)),
                maximum => Property::ReceiveMaximum(maximum),
            },
            0x22 => Property::TopicAliasMaximum(reader.u16()?),
            0x23 => match reader.u16()? {
                0 => return Err(DecodeErrorKind::ZeroTopicAlias), // [MQTT-3.3.2-8]
                alias => Property::TopicAlias(alias),
            },
            0x24 => match QoS::from_u8(reader.u8()?) {
                Some(qos) if qos < QoS::ExactlyOnce => Property::MaximumQoS(qos),
                _ => return Err(DecodeErrorKind::InvalidPropertyValue(0x24)),
            },
            0x25 => Property::RetainAvailable(boolean(0x25, reader)?),
            // [MQTT-1.5.7-1]
            0x26 => Property::UserProperty(reader.string()?, reader.string()?),
            0x27 => match reader.u32()? {
                0 => return Err(DecodeErrorKind::InvalidPropertyValue(0x27)),
                maximum => Property::MaximumPacketSize(maximum),
            },
            0x28 => Property::WildcardSubscriptionAvailable(boolean(0x28, reader)?),
            0x29 => Property::SubscriptionIdentifiersAvailable(boolean(0x29, reader)?),
            0x2A => Property::SharedSubscriptionAvailable(boolean(0x2A, reader)?),
            _ => return Err(DecodeErrorKind::UnknownProperty(id)),
        })
    }

    /// Appends identifier and value, or nothing on an error.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.push(self.id());
        let result = self.encode_value(out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn encode_value(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let out_of_range = Err(EncodeError::InvalidPropertyValue(self.id()));
        match *self {
            Property::PayloadFormatIndicator(value)
            | Property::RequestProblemInformation(value)
            | Property::RequestResponseInformation(value)
            | Property::RetainAvailable(value)
            | Property::WildcardSubscriptionAvailable(value)
            | Property::SubscriptionIdentifiersAvailable(value)
            | Property::SharedSubscriptionAvailable(value) => out.push(u8::from(value)),
            Property::MessageExpiryInterval(value)
            | Property::SessionExpiryInterval(value)
            | Property::WillDelayInterval(value) => put_u32(out, value),
            Property::MaximumPacketSize(0) => return out_of_range,
            Property::MaximumPacketSize(value) => put_u32(out, value),
            Property::ServerKeepAlive(value) | Property::TopicAliasMaximum(value) => {
                put_u16(out, value);
            }
            Property::ReceiveMaximum(0) | Property::TopicAlias(0) => return out_of_range,
            Property::ReceiveMaximum(value) | Property::TopicAlias(value) => put_u16(out, value),
            Property::MaximumQoS(QoS::ExactlyOnce) => return out_of_range,
            Property::MaximumQoS(qos) => out.push(qos.value()),
            Property::SubscriptionIdentifier(id) if id.get() > MAX_REMAINING_LENGTH => {
                return out_of_range;
            }
            Property::SubscriptionIdentifier(id) => put_variable_byte_integer(out, id.get()),
            Property::ResponseTopic(topic) if !is_response_topic(topic) => return out_of_range,
            Property::ContentType(text)
            | Property::ResponseTopic(text)
            | Property::AssignedClientIdentifier(text)
            | Property::AuthenticationMethod(text)
            | Property::ResponseInformation(text)
            | Property::ServerReference(text)
            | Property::ReasonString(text) => put_string(out, text)?,
            Property::CorrelationData(bytes) | Property::AuthenticationData(bytes) => {
                put_binary(out, bytes)?;
            }
            Property::UserProperty(name, value) => {
                put_string(out, name)?;
                put_string(out, value)?;
            }
        }
        Ok(())
    }
}

/// Which properties a section may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    /// A bit for each identifier.
    any: u64,
    /// Those among them that may occur more than once.
    repeated: u64,
}

/// The columns of MQTT 5.0, table 2-4.
impl Allowed {
    pub(super) const CONNECT: Allowed =
        Allowed::new(&[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27], &[0x26]);
    pub(super) const WILL: Allowed =
        Allowed::new(&[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26], &[0x26]);
    pub(super) const CONNACK: Allowed = Allowed::new(
        &[
            0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27,
            0x28, 0x29, 0x2A,
        ],
        &[0x26],
    );
    pub(super) const PUBLISH: Allowed =
        Allowed::new(&[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26], &[0x0B, 0x26]);
    /// What a server passes on unchanged with a message, the expiry interval aside.
    pub(super) const FORWARDED: Allowed = Allowed::new(&[0x01, 0x03, 0x08, 0x09, 0x26], &[0x26]);
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
    pub(super) const ACK: Allowed = Allowed::new(&[0x1F, 0x26], &[0x26]);
    pub(super) const SUBSCRIBE: Allowed = Allowed::new(&[0x0B, 0x26], &[0x26]);
    pub(super) const UNSUBSCRIBE: Allowed = Allowed::new(&[0x26], &[0x26]);
    pub(super) const DISCONNECT: Allowed = Allowed::new(&[0x11, 0x1C, 0x1F, 0x26], &[0x26]);
    pub(super) const AUTH: Allowed = Allowed::new(&[0x15, 0x16, 0x1F, 0x26], &[0x26]);

    const fn new(any: &[u8], repeated: &[u8]) -> Allowed {
        Allowed { any: bits(any), repeated: bits(repeated) }
    }
}

/// A section of properties that has been read and found right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section<'a> {
    raw: &'a [u8],
    seen: u64,
}

impl<'a> Section<'a> {
    /// Reads the Property Length and the properties, and shows each to `each`.
    pub(super) fn decode(
        reader: &mut Reader<'a>,
        allowed: Allowed,
        each: impl FnMut(Property<'a>),
    ) -> Result<Section<'a>, DecodeErrorKind> {
        let len = reader.variable_byte_integer()?;
        let raw = reader.bytes(usize::try_from(len).unwrap_or(usize::MAX))?;
        Section::decode_raw(raw, allowed, each)
    }

    /// Reads properties that fill a slice, without a Property Length.
    pub(super) fn decode_raw(
        raw: &'a [u8],
        allowed: Allowed,
        mut each: impl FnMut(Property<'a>),
    ) -> Result<Section<'a>, DecodeErrorKind> {
        let mut seen = 0;
        let mut rest = Reader::new(raw);
        while !rest.is_empty() {
            let property = next_property(&mut rest)?;
            let id = property.id();
            let bit = 1 << id;
            if allowed.any & bit == 0 {
                return Err(DecodeErrorKind::PropertyNotAllowed(id));
            }
            if seen & bit & !allowed.repeated != 0 {
                return Err(DecodeErrorKind::DuplicateProperty(id));
            }
            seen |= bit;
            each(property);
        }
        Ok(Section { raw, seen })
    }

    /// The User Properties of the section.
    pub(super) fn user_properties(&self) -> UserProperties<'a> {
        if self.seen & bits(&[0x26]) == 0 {
            return UserProperties::default();
        }
        UserProperties(UserSource::Wire(self.raw))
    }

    /// The Subscription Identifiers of the section.
    pub(super) fn subscription_ids(&self) -> SubscriptionIds<'a> {
        if self.seen & bits(&[0x0B]) == 0 {
            return SubscriptionIds::default();
        }
        SubscriptionIds(IdSource::Wire(self.raw))
    }
}

/// User Properties: name and value pairs whose order counts and whose names may repeat. Borrowed
/// from a packet, or from a slice to be encoded.
#[derive(Clone, Copy)]
pub struct UserProperties<'a>(UserSource<'a>);

#[derive(Clone, Copy)]
enum UserSource<'a> {
    /// A checked section, in which other properties may stand between.
    Wire(&'a [u8]),
    Slice(&'a [(&'a str, &'a str)]),
}

impl<'a> UserProperties<'a> {
    /// The pairs, in order.
    #[must_use]
    pub fn iter(&self) -> UserPropertiesIter<'a> {
        UserPropertiesIter(self.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Appends the properties with their identifiers.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.iter().try_for_each(|(name, value)| Property::UserProperty(name, value).encode(out))
    }
}

impl Default for UserProperties<'_> {
    fn default() -> Self {
        UserProperties(UserSource::Slice(&[]))
    }
}

/// Pairs to be encoded: each text at most 65,535 bytes long and without U+0000.
impl<'a> From<&'a [(&'a str, &'a str)]> for UserProperties<'a> {
    fn from(pairs: &'a [(&'a str, &'a str)]) -> Self {
        UserProperties(UserSource::Slice(pairs))
    }
}

impl<'a> IntoIterator for UserProperties<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = UserPropertiesIter<'a>;

    fn into_iter(self) -> UserPropertiesIter<'a> {
        self.iter()
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterator over [`UserProperties`].
#[derive(Clone)]
pub struct UserPropertiesIter<'a>(UserSource<'a>);

impl<'a> Iterator for UserPropertiesIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        match &mut self.0 {
            UserSource::Wire(raw) => find_map(raw, |property| match property {
                Property::UserProperty(name, value) => Some((name, value)),
                _ => None,
            }),
            UserSource::Slice(pairs) => {
                let (&first, rest) = pairs.split_first()?;
                *pairs = rest;
                Some(first)
            }
        }
    }
}

/// The Subscription Identifiers of a PUBLISH, in order: borrowed from a packet, or from a slice to
/// be encoded.
#[derive(Clone, Copy)]
pub struct SubscriptionIds<'a>(IdSource<'a>);

#[derive(Clone, Copy)]
enum IdSource<'a> {
    /// A checked section, in which other properties may stand between.
    Wire(&'a [u8]),
    Slice(&'a [NonZeroU32]),
}

impl<'a> SubscriptionIds<'a> {
    /// The identifiers, in order.
    #[must_use]
    pub fn iter(&self) -> SubscriptionIdsIter<'a> {
        SubscriptionIdsIter(self.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl Default for SubscriptionIds<'_> {
    fn default() -> Self {
        SubscriptionIds(IdSource::Slice(&[]))
    }
}

/// Identifiers to be encoded: 1 to 268,435,455.
impl<'a> From<&'a [NonZeroU32]> for SubscriptionIds<'a> {
    fn from(ids: &'a [NonZeroU32]) -> Self {
        SubscriptionIds(IdSource::Slice(ids))
    }
}

impl<'a> IntoIterator for SubscriptionIds<'a> {
    type Item = NonZeroU32;
    type IntoIter = SubscriptionIdsIter<'a>;

    fn into_iter(self) -> SubscriptionIdsIter<'a> {
        self.iter()
    }
}

impl PartialEq for SubscriptionIds<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscriptionIds<'_> {}

impl fmt::Debug for SubscriptionIds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterator over [`SubscriptionIds`].
#[derive(Clone)]
pub struct SubscriptionIdsIter<'a>(IdSource<'a>);

impl Iterator for SubscriptionIdsIter<'_> {
    type Item = NonZeroU32;

    fn next(&mut self) -> Option<NonZeroU32> {
        match &mut self.0 {
            IdSource::Wire(raw) => find_map(raw, |property| match property {
                Property::SubscriptionIdentifier(id) => Some(id),
                _ => None,
            }),
            IdSource::Slice(ids) => {
                let (&first, rest) = ids.split_first()?;
                *ids = rest;
                Some(first)
            }
        }
    }
}

/// The next property in a checked section for which `pick` has an answer.
fn find_map<'a, T>(raw: &mut &'a [u8], pick: impl Fn(Property<'a>) -> Option<T>) -> Option<T> {
    let mut reader = Reader::new(raw);
    let mut found = None;
    while found.is_none() && !reader.is_empty() {
        found = pick(next_property(&mut reader).ok()?);
    }
    *raw = reader.take_rest();
    found
}

fn next_property<'a>(reader: &mut Reader<'a>) -> Result<Property<'a>, DecodeErrorKind> {
    let id = reader.variable_byte_integer()?;
    Property::decode(id, reader)
}

/// A byte that must be 0 or 1.
fn boolean(id: u8, reader: &mut Reader<'_>) -> Result<bool, DecodeErrorKind> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeErrorKind::InvalidPropertyValue(id)),
    }
}

fn response_topic<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeErrorKind> {
    let topic = reader.string()?;
    if is_response_topic(topic) { Ok(topic) } else { Err(DecodeErrorKind::InvalidResponseTopic) }
}

/// A topic name `[MQTT-4.7.3-1]` without wildcards `[MQTT-3.3.2-14]`.
fn is_response_topic(topic: &str) -> bool {
    !topic.is_empty() && !topic.bytes().any(|byte| matches!(byte, b'+' | b'#'))
}

const fn bits(mut ids: &[u8]) -> u64 {
    let mut bits = 0;
    while let [id, rest @ ..] = ids {
        bits |= 1 << *id;
        ids = rest;
    }
    bits
}
