//! CONNECT and the will (MQTT 5.0, 3.1).

use super::primitive::{Reader, put_binary, put_length_prefixed, put_packet, put_string, put_u16};
use super::property::{Allowed, Property, Section};
use super::{
    DecodeError, DecodeErrorKind, EncodeError, Frame, PacketType, PublishProperties, QoS,
    UserProperties, Version,
};

const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS: u8 = 0x18;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

/// A CONNECT packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that the client speaks, and in which the packet is written.
    pub version: Version,
    /// Clean Start; before 5.0 Clean Session.
    pub clean_start: bool,
    /// Keep Alive in seconds, 0 for none.
    pub keep_alive: u16,
    /// The Client Identifier. Empty when the server shall assign one, which 3.1 does not know and
    /// 3.1.1 allows with Clean Session only. 3.1 says at most 23 characters; whether longer
    /// ones are accepted is for the broker to say.
    pub client_id: &'a str,
    /// The will.
    pub will: Option<Will<'a>>,
    /// The User Name.
    pub user_name: Option<&'a str>,
    /// The Password. Before 5.0 only with a User Name.
    pub password: Option<&'a [u8]>,
    /// The properties, of 5.0 only.
    pub properties: ConnectProperties<'a>,
}

/// The message that the server publishes when the client is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// The Will Topic, not empty. Whether it has wildcards is not checked here.
    pub topic: &'a str,
    /// The Will Payload.
    pub payload: &'a [u8],
    /// The Will QoS.
    pub qos: QoS,
    /// Will Retain.
    pub retain: bool,
    /// The Will Properties, of 5.0 only.
    pub properties: WillProperties<'a>,
}

/// The Will Properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WillProperties<'a> {
    /// Will Delay Interval in seconds.
    pub delay_interval: u32,
    /// What is published with the will. Never has a Topic Alias or Subscription Identifiers.
    pub publish: PublishProperties<'a>,
}

/// The properties of a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectProperties<'a> {
    /// Session Expiry Interval in seconds; `u32::MAX` is never. Absent means 0.
    pub session_expiry_interval: Option<u32>,
    /// Receive Maximum, not 0. Absent means 65,535.
    pub receive_maximum: Option<u16>,
    /// Maximum Packet Size in bytes, not 0. Absent means no limit.
    pub maximum_packet_size: Option<u32>,
    /// Topic Alias Maximum. 0, the default, means no aliases.
    pub topic_alias_maximum: u16,
    /// Request Response Information. The default is `false`.
    pub request_response_information: bool,
    /// Request Problem Information. The default is `true`.
    pub request_problem_information: bool,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data, only with a method.
    pub authentication_data: Option<&'a [u8]>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}

impl Default for ConnectProperties<'_> {
    fn default() -> Self {
        ConnectProperties {
            session_expiry_interval: None,
            receive_maximum: None,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            authentication_data: None,
            user_properties: UserProperties::default(),
        }
    }
}

impl<'a> Connect<'a> {
    /// Reads a CONNECT. Once the protocol is known, an error tells in which version to answer.
    pub(super) fn decode(frame: &Frame<'a>) -> Result<Connect<'a>, DecodeError> {
        let mut reader = Reader::new(frame.body);
        let version = protocol(&mut reader)?;
        frame
            .check(version)
            .and_then(|_| Connect::decode_rest(&mut reader, version))
            .map_err(|kind| DecodeError { kind, version: Some(version) })
    }

    fn decode_rest(
        reader: &mut Reader<'a>,
        version: Version,
    ) -> Result<Connect<'a>, DecodeErrorKind> {
        let flags = reader.u8()?;
        check_flags(flags, version)?;
        let clean_start = flags & CLEAN_START != 0;
        let keep_alive = reader.u16()?;
        let properties = if version == Version::V5 {
            ConnectProperties::decode(reader)?
        } else {
            ConnectProperties::default()
        };
        let client_id = reader.string()?;
        // [MQTT311-3.1.3-7], [MQTT311-3.1.3-8]; 3.1 wants 1 to 23 characters.
        let may_be_empty = match version {
            Version::V3_1 => false,
            Version::V3_1_1 => clean_start,
            Version::V5 => true,
        };
        if client_id.is_empty() && !may_be_empty {
            return Err(DecodeErrorKind::EmptyClientId);
        }
        let will =
            if flags & WILL != 0 { Some(Will::decode(reader, flags, version)?) } else { None };
        // In 3.1 the Remaining Length takes precedence over these two flags.
        let present = |flag, reader: &Reader<'_>| {
            flags & flag != 0 && !(version == Version::V3_1 && reader.is_empty())
        };
        let user_name = if present(USER_NAME, reader) { Some(reader.string()?) } else { None };
        let password = if present(PASSWORD, reader) { Some(reader.binary()?) } else { None };
        reader.finish()?;
        Ok(Connect {
            version,
            clean_start,
            keep_alive,
            client_id,
            will,
            user_name,
            password,
            properties,
        })
    }

    /// Appends the packet in its own version.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.version < Version::V5 && self.password.is_some() && self.user_name.is_none() {
            return Err(EncodeError::PasswordWithoutUserName); // [MQTT311-3.1.2-22]
        }
        let may_be_empty = match self.version {
            Version::V3_1 => false,
            Version::V3_1_1 => self.clean_start,
            Version::V5 => true,
        };
        if self.client_id.is_empty() && !may_be_empty {
            return Err(EncodeError::Empty);
        }
        put_packet(out, PacketType::Connect.header(), |out| {
            put_string(out, self.version.protocol_name())?;
            out.push(self.version.protocol_level());
            out.push(self.flags());
            put_u16(out, self.keep_alive);
            if self.version == Version::V5 {
                put_length_prefixed(out, |out| self.properties.encode(out))?;
            }
            put_string(out, self.client_id)?;
            if let Some(will) = &self.will {
                will.encode(self.version, out)?;
            }
            if let Some(user_name) = self.user_name {
                put_string(out, user_name)?;
            }
            if let Some(password) = self.password {
                put_binary(out, password)?;
            }
            Ok(())
        })
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        if self.clean_start {
            flags |= CLEAN_START;
        }
        if let Some(will) = &self.will {
            flags |= WILL | will.qos.value() << WILL_QOS_SHIFT;
            if will.retain {
                flags |= WILL_RETAIN;
            }
        }
        if self.password.is_some() {
            flags |= PASSWORD;
        }
        if self.user_name.is_some() {
            flags |= USER_NAME;
        }
        flags
    }
}

impl<'a> Will<'a> {
    fn decode(
        reader: &mut Reader<'a>,
        flags: u8,
        version: Version,
    ) -> Result<Will<'a>, DecodeErrorKind> {
        let properties = if version == Version::V5 {
            WillProperties::decode(reader)?
        } else {
            WillProperties::default()
        };
        let topic = reader.string()?;
        // [MQTT-4.7.3-1]
        if topic.is_empty() {
            return Err(DecodeErrorKind::EmptyTopicName);
        }
        Ok(Will {
            topic,
            payload: reader.binary()?,
            qos: will_qos(flags)?,
            retain: flags & WILL_RETAIN != 0,
            properties,
        })
    }

    fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if version == Version::V5 {
            put_length_prefixed(out, |out| self.properties.encode(out))?;
        }
        if self.topic.is_empty() {
            return Err(EncodeError::Empty);
        }
        put_string(out, self.topic)?;
        put_binary(out, self.payload)
    }
}

impl<'a> WillProperties<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<WillProperties<'a>, DecodeErrorKind> {
        let mut properties = WillProperties::default();
        let section = Section::decode(reader, Allowed::WILL, |property| match property {
            Property::WillDelayInterval(seconds) => properties.delay_interval = seconds,
            other => properties.publish.set(other),
        })?;
        properties.publish.user_properties = section.user_properties();
        Ok(properties)
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.publish.topic_alias.is_some() {
            return Err(EncodeError::PropertyNotAllowed(0x23));
        }
        if !self.publish.subscription_identifiers.is_empty() {
            return Err(EncodeError::PropertyNotAllowed(0x0B));
        }
        if self.delay_interval != 0 {
            Property::WillDelayInterval(self.delay_interval).encode(out)?;
        }
        self.publish.encode(out)
    }
}

impl<'a> ConnectProperties<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<ConnectProperties<'a>, DecodeErrorKind> {
        let mut properties = ConnectProperties::default();
        let section = Section::decode(reader, Allowed::CONNECT, |property| match property {
            Property::SessionExpiryInterval(seconds) => {
                properties.session_expiry_interval = Some(seconds);
            }
            Property::ReceiveMaximum(maximum) => properties.receive_maximum = Some(maximum),
            Property::MaximumPacketSize(bytes) => properties.maximum_packet_size = Some(bytes),
            Property::TopicAliasMaximum(maximum) => properties.topic_alias_maximum = maximum,
            Property::RequestResponseInformation(value) => {
                properties.request_response_information = value;
            }
            Property::RequestProblemInformation(value) => {
                properties.request_problem_information = value;
            }
            Property::AuthenticationMethod(name) => properties.authentication_method = Some(name),
            Property::AuthenticationData(data) => properties.authentication_data = Some(data),
            _ => {}
        })?;
        // 3.1.2.11.10: data without a method is a Protocol Error.
        if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
            return Err(DecodeErrorKind::MissingAuthenticationMethod);
        }
        properties.user_properties = section.user_properties();
        Ok(properties)
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(EncodeError::MissingAuthenticationMethod);
        }
        let properties = [
            self.session_expiry_interval.map(Property::SessionExpiryInterval),
            self.receive_maximum.map(Property::ReceiveMaximum),
            self.maximum_packet_size.map(Property::MaximumPacketSize),
            (self.topic_alias_maximum != 0)
                .then_some(Property::TopicAliasMaximum(self.topic_alias_maximum)),
            self.request_response_information.then_some(Property::RequestResponseInformation(true)),
            (!self.request_problem_information)
                .then_some(Property::RequestProblemInformation(false)),
            self.authentication_method.map(Property::AuthenticationMethod),
            self.authentication_data.map(Property::AuthenticationData),
        ];
        properties.into_iter().flatten().try_for_each(|property| property.encode(out))?;
        self.user_properties.encode(out)
    }
}

/// Reads Protocol Name and Protocol Level `[MQTT-3.1.2-1]`, `[MQTT-3.1.2-2]`,
/// `[MQTT311-3.1.2-1]`, `[MQTT311-3.1.2-2]`.
///
/// Where they do not fit, the error tells the version whose CONNACK the client is most likely to
/// understand.
fn protocol(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let name = reader.string()?;
    if name != "MQTT" && name != "MQIsdp" {
        return Err(DecodeErrorKind::UnknownProtocolName.into());
    }
    let level = reader.u8()?;
    let (kind, version) = match (name, level) {
        ("MQIsdp", 3) => return Ok(Version::V3_1),
        ("MQTT", 4) => return Ok(Version::V3_1_1),
        ("MQTT", 5) => return Ok(Version::V5),
        ("MQIsdp", 0x83) => (DecodeErrorKind::BridgeProtocolLevel(level), Version::V3_1),
        ("MQTT", 0x84) => (DecodeErrorKind::BridgeProtocolLevel(level), Version::V3_1_1),
        ("MQIsdp", _) => (DecodeErrorKind::UnsupportedProtocolLevel(level), Version::V3_1),
        (_, 0..=4 | 0x80..) => (DecodeErrorKind::UnsupportedProtocolLevel(level), Version::V3_1_1),
        _ => (DecodeErrorKind::UnsupportedProtocolLevel(level), Version::V5),
    };
    Err(DecodeError { kind, version: Some(version) })
}

/// The Connect Flags. In 3.1 bit 0 and the flags of a will that is not there mean nothing.
fn check_flags(flags: u8, version: Version) -> Result<(), DecodeErrorKind> {
    // [MQTT-3.1.2-3], [MQTT311-3.1.2-3]
    if flags & 0x01 != 0 && version > Version::V3_1 {
        return Err(DecodeErrorKind::ReservedConnectFlag);
    }
    if flags & WILL != 0 {
        will_qos(flags)?;
    } else if flags & (WILL_QOS | WILL_RETAIN) != 0 && version > Version::V3_1 {
        // [MQTT-3.1.2-11], [MQTT-3.1.2-13], [MQTT311-3.1.2-13], [MQTT311-3.1.2-15]
        return Err(DecodeErrorKind::WillFlagsWithoutWill);
    }
    // [MQTT311-3.1.2-22]
    if flags & (USER_NAME | PASSWORD) == PASSWORD && version < Version::V5 {
        return Err(DecodeErrorKind::PasswordWithoutUserName);
    }
    Ok(())
}

/// `[MQTT-3.1.2-12]`, `[MQTT311-3.1.2-14]`
fn will_qos(flags: u8) -> Result<QoS, DecodeErrorKind> {
    QoS::from_u8((flags & WILL_QOS) >> WILL_QOS_SHIFT).ok_or(DecodeErrorKind::InvalidQoS)
}
