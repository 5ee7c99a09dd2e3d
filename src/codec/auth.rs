//! AUTH (MQTT 5.0, 3.15).

use super::primitive::{Reader, put_length_prefixed, put_packet};
use super::property::{Allowed, Property, Section};
use super::{DecodeErrorKind, EncodeError, PacketType, ReasonCode, UserProperties, Version};

/// An AUTH packet, of 5.0 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Auth<'a> {
    /// The Reason Code: Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// Authentication Method. Absent only in an AUTH without any content, which means Success.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Auth<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<Auth<'a>, DecodeErrorKind> {
        let mut auth = Auth::default();
        let mut reader = Reader::new(body);
        // 3.15.2.1: Success without properties may be left out as a whole.
        if reader.is_empty() {
            return Ok(auth);
        }
        auth.reason = ReasonCode::decode(reader.u8()?, PacketType::Auth)?; // [MQTT-3.15.2-1]
        let section = Section::decode(&mut reader, Allowed::AUTH, |property| match property {
            Property::AuthenticationMethod(name) => auth.authentication_method = Some(name),
            Property::AuthenticationData(data) => auth.authentication_data = Some(data),
            Property::ReasonString(text) => auth.reason_string = Some(text),
            _ => {}
        })?;
        auth.user_properties = section.user_properties();
        reader.finish()?;
        // 3.15.2.2.2: leaving out the method is a Protocol Error.
        if auth.authentication_method.is_none() {
            return Err(DecodeErrorKind::MissingAuthenticationMethod);
        }
        Ok(auth)
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if version < Version::V5 {
            return Err(EncodeError::NotInVersion { packet: PacketType::Auth, version });
        }
        put_packet(out, PacketType::Auth.header(), |out| {
            if *self == Auth::default() {
                return Ok(());
            }
            let Some(method) = self.authentication_method else {
                return Err(EncodeError::MissingAuthenticationMethod);
            };
            out.push(self.reason.encode(PacketType::Auth)?);
            put_length_prefixed(out, |out| {
                Property::AuthenticationMethod(method).encode(out)?;
                if let Some(data) = self.authentication_data {
                    Property::AuthenticationData(data).encode(out)?;
                }
                if let Some(text) = self.reason_string {
                    Property::ReasonString(text).encode(out)?;
                }
                self.user_properties.encode(out)
            })
        })
    }
}
