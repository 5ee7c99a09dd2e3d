//! DISCONNECT (MQTT 5.0, 3.14).

use super::primitive::{Reader, put_length_prefixed, put_packet};
use super::property::{Allowed, Property, Section};
use super::{DecodeErrorKind, EncodeError, PacketType, ReasonCode, UserProperties, Version};

/// A DISCONNECT packet. In 3.x it has no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disconnect<'a> {
    /// The Reason Code.
    pub reason: ReasonCode,
    /// Session Expiry Interval in seconds. Only a client may send it `[MQTT-3.14.2-2]`.
    pub session_expiry_interval: Option<u32>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// Server Reference.
    pub server_reference: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Disconnect<'a> {
    /// A DISCONNECT without properties.
    #[must_use]
    pub fn new(reason: ReasonCode) -> Disconnect<'a> {
        Disconnect { reason, ..Disconnect::default() }
    }

    pub(super) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeErrorKind> {
        let mut reader = Reader::new(body);
        let mut disconnect = Disconnect::default();
        // 3.14.2.1, 3.14.2.2.1: what is left out at the end has its default.
        if version == Version::V5 && !reader.is_empty() {
            // [MQTT-3.14.2-1]
            disconnect.reason = ReasonCode::decode(reader.u8()?, PacketType::Disconnect)?;
            if !reader.is_empty() {
                disconnect.decode_properties(&mut reader)?;
            }
        }
        reader.finish()?;
        Ok(disconnect)
    }

    fn decode_properties(&mut self, reader: &mut Reader<'a>) -> Result<(), DecodeErrorKind> {
        let section = Section::decode(reader, Allowed::DISCONNECT, |property| match property {
            Property::SessionExpiryInterval(seconds) => {
                self.session_expiry_interval = Some(seconds);
            }
            Property::ReasonString(text) => self.reason_string = Some(text),
            Property::ServerReference(text) => self.server_reference = Some(text),
            _ => {}
        })?;
        self.user_properties = section.user_properties();
        Ok(())
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_packet(out, PacketType::Disconnect.header(), |out| {
            if version < Version::V5 {
                return Ok(());
            }
            let reason = self.reason.encode(PacketType::Disconnect)?;
            let bare = Disconnect { reason: self.reason, ..Disconnect::default() } == *self;
            if !bare {
                out.push(reason);
                return put_length_prefixed(out, |out| self.encode_properties(out));
            }
            if self.reason != ReasonCode::NORMAL_DISCONNECTION {
                out.push(reason);
            }
            Ok(())
        })
    }

    fn encode_properties(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let properties = [
            self.session_expiry_interval.map(Property::SessionExpiryInterval),
            self.reason_string.map(Property::ReasonString),
            self.server_reference.map(Property::ServerReference),
        ];
        properties.into_iter().flatten().try_for_each(|property| property.encode(out))?;
        self.user_properties.encode(out)
    }
}
