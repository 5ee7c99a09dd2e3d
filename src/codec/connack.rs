//! CONNACK (MQTT 5.0, 3.2).

use super::primitive::{Reader, put_length_prefixed, put_packet};
use super::property::{Allowed, Property, Section};
use super::{DecodeErrorKind, EncodeError, PacketType, QoS, ReasonCode, UserProperties, Version};

const SESSION_PRESENT: u8 = 0x01;

/// A CONNACK packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connack<'a> {
    /// Whether the server has a session for the client. 3.1 does not tell.
    pub session_present: bool,
    /// The Reason Code; before 5.0 a return code, see [`ReasonCode::connack_3x`].
    pub reason: ReasonCode,
    /// The properties, of 5.0 only.
    pub properties: ConnackProperties<'a>,
}

/// The properties of a CONNACK. What is absent or has its default, is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnackProperties<'a> {
    /// Session Expiry Interval in seconds, when it is not the client's.
    pub session_expiry_interval: Option<u32>,
    /// Receive Maximum, not 0. Absent means 65,535.
    pub receive_maximum: Option<u16>,
    /// Maximum QoS. The default is QoS 2.
    pub maximum_qos: QoS,
    /// Retain Available. The default is `true`.
    pub retain_available: bool,
    /// Maximum Packet Size in bytes, not 0. Absent means no limit.
    pub maximum_packet_size: Option<u32>,
    /// Assigned Client Identifier.
    pub assigned_client_identifier: Option<&'a str>,
    /// Topic Alias Maximum. 0, the default, means no aliases.
    pub topic_alias_maximum: u16,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// Wildcard Subscription Available. The default is `true`.
    pub wildcard_subscription_available: bool,
    /// Subscription Identifiers Available. The default is `true`.
    pub subscription_identifiers_available: bool,
    /// Shared Subscription Available. The default is `true`.
    pub shared_subscription_available: bool,
    /// Server Keep Alive in seconds, when it is not the client's.
    pub server_keep_alive: Option<u16>,
    /// Response Information.
    pub response_information: Option<&'a str>,
    /// Server Reference.
    pub server_reference: Option<&'a str>,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data, only with a method.
    pub authentication_data: Option<&'a [u8]>,
}

impl Default for ConnackProperties<'_> {
    fn default() -> Self {
        ConnackProperties {
            session_expiry_interval: None,
            receive_maximum: None,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            maximum_packet_size: None,
            assigned_client_identifier: None,
            topic_alias_maximum: 0,
            reason_string: None,
            user_properties: UserProperties::default(),
            wildcard_subscription_available: true,
            subscription_identifiers_available: true,
            shared_subscription_available: true,
            server_keep_alive: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        }
    }
}

impl<'a> Connack<'a> {
    pub(super) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeErrorKind> {
        let mut reader = Reader::new(body);
        let flags = reader.u8()?;
        let code = reader.u8()?;
        let (reason, properties) = if version == Version::V5 {
            let reason = ReasonCode::decode(code, PacketType::Connack)?;
            (reason, ConnackProperties::decode(&mut reader)?)
        } else {
            let reason = ReasonCode::from_connack_3x(code)
                .ok_or(DecodeErrorKind::UnknownReasonCode(code))?;
            (reason, ConnackProperties::default())
        };
        reader.finish()?;
        // In 3.1 the first byte is not used.
        let session_present = version > Version::V3_1 && flags & SESSION_PRESENT != 0;
        // [MQTT-3.2.2-1], [MQTT-3.2.2-6], [MQTT311-3.2.2-4]
        if version > Version::V3_1
            && (flags & !SESSION_PRESENT != 0 || session_present && reason.is_error())
        {
            return Err(DecodeErrorKind::ConnackFlags(flags));
        }
        Ok(Connack { session_present, reason, properties })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.session_present && self.reason.is_error() {
            return Err(EncodeError::SessionPresentInRefusal);
        }
        let code = self.reason.encode(PacketType::Connack)?;
        put_packet(out, PacketType::Connack.header(), |out| {
            out.push(u8::from(self.session_present && version > Version::V3_1));
            if version < Version::V5 {
                out.push(self.reason.connack_3x());
                return Ok(());
            }
            out.push(code);
            put_length_prefixed(out, |out| self.properties.encode(out))
        })
    }
}

impl<'a> ConnackProperties<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeErrorKind> {
        let mut properties = ConnackProperties::default();
        let section = Section::decode(reader, Allowed::CONNACK, |property| {
            properties.set(property);
        })?;
        if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
            return Err(DecodeErrorKind::MissingAuthenticationMethod);
        }
        properties.user_properties = section.user_properties();
        Ok(properties)
    }

    fn set(&mut self, property: Property<'a>) {
        match property {
            Property::SessionExpiryInterval(seconds) => {
                self.session_expiry_interval = Some(seconds);
            }
            Property::ReceiveMaximum(maximum) => self.receive_maximum = Some(maximum),
            Property::MaximumQoS(qos) => self.maximum_qos = qos,
            Property::RetainAvailable(value) => self.retain_available = value,
            Property::MaximumPacketSize(bytes) => self.maximum_packet_size = Some(bytes),
            Property::AssignedClientIdentifier(id) => self.assigned_client_identifier = Some(id),
            Property::TopicAliasMaximum(maximum) => self.topic_alias_maximum = maximum,
            Property::ReasonString(text) => self.reason_string = Some(text),
            Property::WildcardSubscriptionAvailable(value) => {
                self.wildcard_subscription_available = value;
            }
            Property::SubscriptionIdentifiersAvailable(value) => {
                self.subscription_identifiers_available = value;
            }
            Property::SharedSubscriptionAvailable(value) => {
                self.shared_subscription_available = value;
            }
            Property::ServerKeepAlive(seconds) => self.server_keep_alive = Some(seconds),
            Property::ResponseInformation(text) => self.response_information = Some(text),
            Property::ServerReference(text) => self.server_reference = Some(text),
            Property::AuthenticationMethod(name) => self.authentication_method = Some(name),
            Property::AuthenticationData(data) => self.authentication_data = Some(data),
            _ => {}
        }
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(EncodeError::MissingAuthenticationMethod);
        }
        let unavailable =
            |available: bool, property: Property<'a>| (!available).then_some(property);
        let properties = [
            self.session_expiry_interval.map(Property::SessionExpiryInterval),
            self.receive_maximum.map(Property::ReceiveMaximum),
            (self.maximum_qos < QoS::ExactlyOnce).then_some(Property::MaximumQoS(self.maximum_qos)),
            unavailable(self.retain_available, Property::RetainAvailable(false)),
            self.maximum_packet_size.map(Property::MaximumPacketSize),
            self.assigned_client_identifier.map(Property::AssignedClientIdentifier),
            (self.topic_alias_maximum != 0)
                .then_some(Property::TopicAliasMaximum(self.topic_alias_maximum)),
            self.reason_string.map(Property::ReasonString),
            unavailable(
                self.wildcard_subscription_available,
                Property::WildcardSubscriptionAvailable(false),
            ),
            unavailable(
                self.subscription_identifiers_available,
                Property::SubscriptionIdentifiersAvailable(false),
            ),
            unavailable(
                self.shared_subscription_available,
                Property::SharedSubscriptionAvailable(false),
            ),
            self.server_keep_alive.map(Property::ServerKeepAlive),
            self.response_information.map(Property::ResponseInformation),
            self.server_reference.map(Property::ServerReference),
            self.authentication_method.map(Property::AuthenticationMethod),
            self.authentication_data.map(Property::AuthenticationData),
        ];
        properties.into_iter().flatten().try_for_each(|property| property.encode(out))?;
        self.user_properties.encode(out)
    }
}
