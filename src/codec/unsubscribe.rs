//! UNSUBSCRIBE and UNSUBACK (MQTT 5.0, 3.10 and 3.11).

use std::fmt;

use super::ack::{decode_reason_properties, encode_reason_properties};
use super::primitive::{Reader, put_length_prefixed, put_packet, put_string, put_u16};
use super::property::{Allowed, Section};
use super::{
    DecodeErrorKind, EncodeError, PacketId, PacketType, ReasonCodes, UserProperties, Version,
};

/// An UNSUBSCRIBE packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// The Packet Identifier.
    pub packet_id: PacketId,
    /// User Properties, of 5.0 only.
    pub user_properties: UserProperties<'a>,
    /// The topic filters, at least one.
    pub filters: UnsubscribeFilters<'a>,
}

impl<'a> Unsubscribe<'a> {
    pub(super) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeErrorKind> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut user_properties = UserProperties::default();
        if version == Version::V5 {
            let section = Section::decode(&mut reader, Allowed::UNSUBSCRIBE, |_| {})?;
            user_properties = section.user_properties();
        }
        let filters = UnsubscribeFilters::decode(reader.take_rest())?;
        Ok(Unsubscribe { packet_id, user_properties, filters })
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_packet(out, PacketType::Unsubscribe.header(), |out| {
            put_u16(out, self.packet_id.get());
            if version == Version::V5 {
                put_length_prefixed(out, |out| self.user_properties.encode(out))?;
            }
            if self.filters.is_empty() {
                return Err(EncodeError::EmptyPayload);
            }
            for filter in self.filters {
                if filter.is_empty() {
                    return Err(EncodeError::Empty);
                }
                put_string(out, filter)?;
            }
            Ok(())
        })
    }
}

/// The topic filters of an UNSUBSCRIBE, in order: borrowed from a packet, or from a slice to be
/// encoded. None is empty; what else a topic filter must be, is not checked here.
#[derive(Clone, Copy)]
pub struct UnsubscribeFilters<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    /// Checked when decoded.
    Wire {
        bytes: &'a [u8],
        len: usize,
    },
    Slice(&'a [&'a str]),
}

impl<'a> UnsubscribeFilters<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeErrorKind> {
        let mut reader = Reader::new(bytes);
        let mut len = 0;
        while !reader.is_empty() {
            // [MQTT-3.10.3-1], [MQTT-4.7.3-1]
            if reader.string()?.is_empty() {
                return Err(DecodeErrorKind::EmptyTopicFilter);
            }
            len += 1;
        }
        // [MQTT-3.10.3-2], [MQTT311-3.10.3-2]
        if len == 0 {
            return Err(DecodeErrorKind::EmptyPayload);
        }
        Ok(UnsubscribeFilters(Source::Wire { bytes, len }))
    }

    /// The filters, in order.
    #[must_use]
    pub fn iter(&self) -> UnsubscribeFiltersIter<'a> {
        UnsubscribeFiltersIter(self.0)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.0 {
            Source::Wire { len, .. } => len,
            Source::Slice(filters) => filters.len(),
        }
    }

    /// Whether there is none, which no UNSUBSCRIBE may be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a [&'a str]> for UnsubscribeFilters<'a> {
    fn from(filters: &'a [&'a str]) -> Self {
        UnsubscribeFilters(Source::Slice(filters))
    }
}

impl<'a> IntoIterator for UnsubscribeFilters<'a> {
    type Item = &'a str;
    type IntoIter = UnsubscribeFiltersIter<'a>;

    fn into_iter(self) -> UnsubscribeFiltersIter<'a> {
        self.iter()
    }
}

impl PartialEq for UnsubscribeFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UnsubscribeFilters<'_> {}

impl fmt::Debug for UnsubscribeFilters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterator over [`UnsubscribeFilters`].
#[derive(Clone)]
pub struct UnsubscribeFiltersIter<'a>(Source<'a>);

impl<'a> Iterator for UnsubscribeFiltersIter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        match &mut self.0 {
            Source::Wire { bytes, .. } => {
                let mut reader = Reader::new(bytes);
                let filter = reader.string().ok()?;
                *bytes = reader.take_rest();
                Some(filter)
            }
            Source::Slice(filters) => {
                let (&first, rest) = filters.split_first()?;
                *filters = rest;
                Some(first)
            }
        }
    }
}

/// An UNSUBACK packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsuback<'a> {
    /// The Packet Identifier of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// A Reason Code for each topic filter, in order. 3.x has none: there it is left out, and empty
    /// when decoded.
    pub reasons: ReasonCodes<'a>,
    /// Reason String, of 5.0 only.
    pub reason_string: Option<&'a str>,
    /// User Properties, of 5.0 only.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Unsuback<'a> {
    pub(super) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeErrorKind> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut unsuback = Unsuback {
            packet_id,
            reasons: ReasonCodes::default(),
            reason_string: None,
            user_properties: UserProperties::default(),
        };
        if version < Version::V5 {
            reader.finish()?;
            return Ok(unsuback);
        }
        (unsuback.reason_string, unsuback.user_properties) = decode_reason_properties(&mut reader)?;
        // [MQTT-3.11.3-2]
        unsuback.reasons = ReasonCodes::decode(reader.take_rest(), PacketType::Unsuback)?;
        Ok(unsuback)
    }

    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_packet(out, PacketType::Unsuback.header(), |out| {
            put_u16(out, self.packet_id.get());
            if version < Version::V5 {
                return Ok(());
            }
            encode_reason_properties(self.reason_string, &self.user_properties, out)?;
            if self.reasons.is_empty() {
                return Err(EncodeError::EmptyPayload);
            }
            for reason in self.reasons {
                out.push(reason.encode(PacketType::Unsuback)?);
            }
            Ok(())
        })
    }
}
