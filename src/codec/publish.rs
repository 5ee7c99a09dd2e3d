//! PUBLISH (MQTT 5.0, 3.3).

use super::primitive::{
    Reader, body_len, fill_length, packet_len, put_length_prefixed, put_string, put_u16, put_u32,
    put_variable_byte_integer, variable_byte_integer_len,
};
use super::property::{Allowed, Property, Section};
use super::{
    DecodeError, DecodeErrorKind, EncodeError, Frame, MAX_REMAINING_LENGTH, PacketId, PacketType,
    QoS, SubscriptionIds, UserProperties, Version,
};

const RETAIN: u8 = 0x01;
const QOS: u8 = 0x06;
const QOS_SHIFT: u8 = 1;
const DUP: u8 = 0x08;

const TOPIC_ALIAS: u8 = 0x23;
const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;

/// A PUBLISH packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Publish<'a> {
    /// DUP: an earlier attempt may have been made. Never with QoS 0.
    pub dup: bool,
    /// The QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// The Topic Name; empty only when a Topic Alias stands for it. Wildcards are not refused here.
    pub topic: &'a str,
    /// The Packet Identifier: with QoS 1 and 2, never with QoS 0.
    pub packet_id: Option<PacketId>,
    /// The properties, of 5.0 only.
    pub properties: PublishProperties<'a>,
    /// The payload.
    pub payload: &'a [u8],
}

/// The properties of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishProperties<'a> {
    /// Payload Format Indicator: `true` says that the payload is UTF-8. Not checked here.
    pub payload_format_indicator: Option<bool>,
    /// Message Expiry Interval in seconds.
    pub message_expiry_interval: Option<u32>,
    /// Topic Alias, not 0.
    pub topic_alias: Option<u16>,
    /// Response Topic, a topic name without wildcards.
    pub response_topic: Option<&'a str>,
    /// Correlation Data.
    pub correlation_data: Option<&'a [u8]>,
    /// Subscription Identifiers. Only a server may send them `[MQTT-3.3.4-6]`; who receives them
    /// from a client has to refuse.
    pub subscription_identifiers: SubscriptionIds<'a>,
    /// Content Type.
    pub content_type: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Publish<'a> {
    /// Reads a PUBLISH, as [`Packet::decode`](super::Packet::decode) does, without the detour over
    /// the larger type. The frame must be one of a PUBLISH.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the packet; [`DecodeErrorKind::FixedHeaderFlags`] when it is another.
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Publish<'a>, DecodeError> {
        if frame.check(version)? != PacketType::Publish {
            return Err(DecodeErrorKind::FixedHeaderFlags(frame.header).into());
        }
        Ok(Publish::decode_checked(frame, version)?)
    }

    /// Reads a PUBLISH whose fixed header has been checked.
    #[inline]
    pub(super) fn decode_checked(
        frame: &Frame<'a>,
        version: Version,
    ) -> Result<Publish<'a>, DecodeErrorKind> {
        let header = frame.header;
        let mut reader = Reader::new(frame.body);
        // [MQTT-3.3.1-4]
        let qos = QoS::from_u8((header & QOS) >> QOS_SHIFT).ok_or(DecodeErrorKind::InvalidQoS)?;
        let topic = reader.string()?;
        // [MQTT-2.2.1-2]
        let packet_id = if qos == QoS::AtMostOnce { None } else { Some(reader.packet_id()?) };
        let properties = if version == Version::V5 {
            PublishProperties::decode(&mut reader)?
        } else {
            PublishProperties::default()
        };
        // [MQTT-4.7.3-1], and 3.3.2.1: without a topic a Topic Alias must be there.
        if topic.is_empty() && properties.topic_alias.is_none() {
            return Err(DecodeErrorKind::EmptyTopicName);
        }
        Ok(Publish {
            dup: header & DUP != 0,
            qos,
            retain: header & RETAIN != 0,
            topic,
            packet_id,
            properties,
            payload: reader.take_rest(),
        })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let result = self.encode_from(version, out, start);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn encode_from(
        &self,
        version: Version,
        out: &mut Vec<u8>,
        start: usize,
    ) -> Result<(), EncodeError> {
        let alias = version == Version::V5 && self.properties.topic_alias.is_some();
        let header = fixed_header(self.dup, self.qos, self.retain, self.packet_id)?;
        if self.topic.is_empty() && !alias {
            return Err(EncodeError::Empty);
        }
        out.extend_from_slice(&[header, 0]);
        put_string(out, self.topic)?;
        if let Some(id) = self.packet_id {
            put_u16(out, id.get());
        }
        if version == Version::V5 {
            put_length_prefixed(out, |out| self.properties.encode(out))?;
        }
        let head = out.len().saturating_sub(start + 2);
        fill_length(out, start + 1, head.saturating_add(self.payload.len()))?;
        out.extend_from_slice(self.payload);
        Ok(())
    }
}

impl<'a> PublishProperties<'a> {
    /// Appends what a server passes on unchanged with a message: Payload Format Indicator, Content
    /// Type, Response Topic, Correlation Data and User Properties in their order `[MQTT-3.3.2-4]`,
    /// `[MQTT-3.3.2-15]`, `[MQTT-3.3.2-16]`, `[MQTT-3.3.2-17]`, `[MQTT-3.3.2-18]`,
    /// `[MQTT-3.3.2-20]`. There is no length in front.
    ///
    /// A property whose value has no encoding (too long, U+0000 in a string, a wildcard in the
    /// Response Topic) is left out; properties that were decoded always have one.
    pub fn encode_forwarded(&self, out: &mut Vec<u8>) {
        for property in self.forwarded().into_iter().flatten() {
            let _ = property.encode(out);
        }
        for (name, value) in self.user_properties {
            let _ = Property::UserProperty(name, value).encode(out);
        }
    }

    /// Reads what [`encode_forwarded`](Self::encode_forwarded) wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are anything else.
    pub fn decode_forwarded(bytes: &'a [u8]) -> Result<PublishProperties<'a>, DecodeError> {
        let mut properties = PublishProperties::default();
        let section = Section::decode_raw(bytes, Allowed::FORWARDED, |property| {
            properties.set(property);
        })?;
        properties.user_properties = section.user_properties();
        Ok(properties)
    }

    fn decode(reader: &mut Reader<'a>) -> Result<PublishProperties<'a>, DecodeErrorKind> {
        let mut properties = PublishProperties::default();
        let section = Section::decode(reader, Allowed::PUBLISH, |property| {
            properties.set(property);
        })?;
        properties.user_properties = section.user_properties();
        properties.subscription_identifiers = section.subscription_ids();
        Ok(properties)
    }

    /// Takes over a property that is not a list.
    pub(super) fn set(&mut self, property: Property<'a>) {
        match property {
            Property::PayloadFormatIndicator(utf8) => self.payload_format_indicator = Some(utf8),
            Property::MessageExpiryInterval(seconds) => {
                self.message_expiry_interval = Some(seconds);
            }
            Property::TopicAlias(alias) => self.topic_alias = Some(alias),
            Property::ResponseTopic(topic) => self.response_topic = Some(topic),
            Property::CorrelationData(data) => self.correlation_data = Some(data),
            Property::ContentType(text) => self.content_type = Some(text),
            _ => {}
        }
    }

    /// Appends all properties, without a length in front.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let properties = [
            self.topic_alias.map(Property::TopicAlias),
            self.message_expiry_interval.map(Property::MessageExpiryInterval),
        ];
        properties.into_iter().flatten().try_for_each(|property| property.encode(out))?;
        for id in self.subscription_identifiers {
            Property::SubscriptionIdentifier(id).encode(out)?;
        }
        self.forwarded().into_iter().flatten().try_for_each(|property| property.encode(out))?;
        self.user_properties.encode(out)
    }

    fn forwarded(&self) -> [Option<Property<'a>>; 4] {
        [
            self.payload_format_indicator.map(Property::PayloadFormatIndicator),
            self.content_type.map(Property::ContentType),
            self.response_topic.map(Property::ResponseTopic),
            self.correlation_data.map(Property::CorrelationData),
        ]
    }
}

/// A PUBLISH on its way to a client, without its payload: what an outbox holds in front of shared
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishHead<'a> {
    /// DUP, never with QoS 0.
    pub dup: bool,
    /// The QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// The Topic Name; empty only with a Topic Alias. Taken as it is, not searched for U+0000.
    pub topic: &'a str,
    /// The Packet Identifier: with QoS 1 and 2, never with QoS 0.
    pub packet_id: Option<PacketId>,
    /// Topic Alias, not 0. Left out before 5.0.
    pub topic_alias: Option<u16>,
    /// Message Expiry Interval in seconds. Left out before 5.0.
    pub message_expiry_interval: Option<u32>,
    /// Subscription Identifiers, 1 to 268,435,455. Left out before 5.0.
    pub subscription_ids: &'a [u32],
    /// What [`PublishProperties::encode_forwarded`] wrote. Left out before 5.0.
    pub forwarded: &'a [u8],
    /// The length of the payload that will follow, in bytes.
    pub payload_len: usize,
}

impl PublishHead<'_> {
    /// Appends everything up to the payload.
    ///
    /// # Errors
    ///
    /// When a field is not as its description says, or the packet would be longer than MQTT can
    /// say. `out` is then as it was.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let header = fixed_header(self.dup, self.qos, self.retain, self.packet_id)?;
        let topic_len = u16::try_from(self.topic.len()).map_err(|_| EncodeError::ValueTooLong)?;
        let v5 = version == Version::V5;
        if topic_len == 0 && !(v5 && self.topic_alias.is_some()) {
            return Err(EncodeError::Empty);
        }
        if v5 {
            self.check_properties()?;
        }
        let properties_len = if v5 { self.properties_len() } else { 0 };
        let remaining = body_len(self.body_len(version, properties_len))?;

        out.reserve(packet_len(remaining as usize).saturating_sub(self.payload_len));
        out.push(header);
        put_variable_byte_integer(out, remaining);
        put_u16(out, topic_len);
        out.extend_from_slice(self.topic.as_bytes());
        if let Some(id) = self.packet_id {
            put_u16(out, id.get());
        }
        if v5 {
            // Fits: it is less than the Remaining Length.
            put_variable_byte_integer(out, properties_len as u32);
            self.put_properties(out);
        }
        Ok(())
    }

    /// The length of the whole packet in bytes, payload included. Compare it with the receiver's
    /// Maximum Packet Size `[MQTT-3.1.2-24]`.
    #[must_use]
    pub fn packet_size(&self, version: Version) -> usize {
        let properties_len = if version == Version::V5 { self.properties_len() } else { 0 };
        packet_len(self.body_len(version, properties_len))
    }

    fn body_len(&self, version: Version, properties_len: usize) -> usize {
        let mut len = 2 + self.topic.len();
        if self.packet_id.is_some() {
            len += 2;
        }
        if version == Version::V5 {
            let value = u32::try_from(properties_len).unwrap_or(u32::MAX);
            len += variable_byte_integer_len(value) + properties_len;
        }
        len.saturating_add(self.payload_len)
    }

    fn properties_len(&self) -> usize {
        let mut len = self.forwarded.len();
        if self.topic_alias.is_some() {
            len += 3;
        }
        if self.message_expiry_interval.is_some() {
            len += 5;
        }
        for &id in self.subscription_ids {
            len += 1 + variable_byte_integer_len(id);
        }
        len
    }

    fn check_properties(&self) -> Result<(), EncodeError> {
        if self.topic_alias == Some(0) {
            return Err(EncodeError::InvalidPropertyValue(TOPIC_ALIAS)); // [MQTT-3.3.2-8]
        }
        if !self.subscription_ids.iter().all(|id| (1..=MAX_REMAINING_LENGTH).contains(id)) {
            return Err(EncodeError::InvalidPropertyValue(SUBSCRIPTION_IDENTIFIER));
        }
        Ok(())
    }

    fn put_properties(&self, out: &mut Vec<u8>) {
        if let Some(alias) = self.topic_alias {
            out.push(TOPIC_ALIAS);
            put_u16(out, alias);
        }
        if let Some(seconds) = self.message_expiry_interval {
            out.push(MESSAGE_EXPIRY_INTERVAL);
            put_u32(out, seconds);
        }
        for &id in self.subscription_ids {
            out.push(SUBSCRIPTION_IDENTIFIER);
            put_variable_byte_integer(out, id);
        }
        out.extend_from_slice(self.forwarded);
    }
}

/// The first byte, when the fields that it depends on fit each other.
#[inline]
fn fixed_header(
    dup: bool,
    qos: QoS,
    retain: bool,
    packet_id: Option<PacketId>,
) -> Result<u8, EncodeError> {
    // [MQTT-2.2.1-2], [MQTT-2.2.1-4]
    if packet_id.is_some() != (qos != QoS::AtMostOnce) {
        return Err(EncodeError::PacketId(qos));
    }
    // [MQTT-3.3.1-2]
    if dup && qos == QoS::AtMostOnce {
        return Err(EncodeError::DupWithQoS0);
    }
    let mut header = PacketType::Publish.header() | qos.value() << QOS_SHIFT;
    if dup {
        header |= DUP;
    }
    if retain {
        header |= RETAIN;
    }
    Ok(header)
}
