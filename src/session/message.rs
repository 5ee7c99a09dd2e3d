//! An application message as the broker holds it, and the borrowed view that it is made from.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    codec::{PublishProperties, QoS},
    record::MessageRecord,
};

/// The message of one PUBLISH on its way through a shard, borrowed from where it was read.
///
/// Most messages are delivered in the turn in which they arrive and never become a [`Message`].
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    /// The topic name, aliases already resolved.
    pub topic: &'a str,
    /// The application's payload.
    pub payload: &'a [u8],
    /// The properties that a server passes on unchanged, encoded for MQTT 5
    /// (see [`PublishProperties::encode_forwarded`]). `[MQTT-3.3.2-17]`
    pub forwarded: &'a [u8],
    /// The quality of service that the publisher asked for.
    pub qos: QoS,
    /// The RETAIN flag as the publisher set it.
    pub retain: bool,
    /// When the message expires, in milliseconds of the broker's clock; [`NEVER`] if it does not,
    /// [`AT_ONCE`] if it waits for nobody.
    pub expires_at: u64,
}

/// The expiry time of a message that does not expire.
pub const NEVER: u64 = u64::MAX;
/// The expiry time of a message with a Message Expiry Interval of 0: it goes to those that it can be
/// sent to at once, and is neither queued nor retained. Its way to another shard is part of a delivery
/// that has begun.
pub const AT_ONCE: u64 = 0;

impl Publication<'_> {
    /// The seconds left of the Message Expiry Interval at `now`: what a server sends on.
    /// `None` for a message that does not expire. `[MQTT-3.3.2-6]`
    pub fn remaining_expiry(&self, now: u64) -> Option<u32> {
        remaining(self.expires_at, now)
    }

    /// Whether the message has expired at `now`: it must not wait any more, nor be sent when it has
    /// waited. `[MQTT-3.3.2-5]`
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires_at <= now
    }

    /// Whether the message has expired at `now` on its way to a shard and must not be delivered there.
    /// `[MQTT-3.3.2-5]`
    pub fn is_too_late(&self, now: u64) -> bool {
        self.expires_at != AT_ONCE && self.is_expired(now)
    }
}

/// An application message that outlives its packet: queued, in flight, retained, or on its way to
/// another shard. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic, forwarded properties and payload in one allocation.
    data: Bytes,
    properties_at: u16,
    payload_at: u32,
    qos: QoS,
    retain: bool,
    expires_at: u64,
}

impl Message {
    /// Copies a publication. One allocation holds topic, properties and payload.
    pub fn new(publication: &Publication<'_>) -> Self {
        let topic = publication.topic.as_bytes();
        debug_assert!(topic.len() <= usize::from(u16::MAX), "[MQTT-4.7.3-3]");
        let mut data = Vec::with_capacity(
            topic.len() + publication.forwarded.len() + publication.payload.len(),
        );
        data.extend_from_slice(topic);
        data.extend_from_slice(publication.forwarded);
        let payload_at = data.len() as u32;
        data.extend_from_slice(publication.payload);
        Self {
            data: Bytes::from(data),
            properties_at: topic.len() as u16,
            payload_at,
            qos: publication.qos,
            retain: publication.retain,
            expires_at: publication.expires_at,
        }
    }

    /// What a store keeps of it; `expires_at` is its expiry as a Unix time.
    pub fn to_record(&self, expires_at: u64) -> MessageRecord {
        MessageRecord {
            data: self.data.clone(),
            properties_at: self.properties_at,
            payload_at: self.payload_at,
            qos: self.qos.value(),
            retain: self.retain,
            expires_at,
        }
    }

    /// The message that a store has kept; `expires_at` is its expiry on the broker's clock.
    pub fn from_record(record: MessageRecord, expires_at: u64) -> Self {
        let MessageRecord { data, properties_at, payload_at, qos, retain, .. } = record;
        let qos = QoS::from_u8(qos).unwrap_or(QoS::AtMostOnce);
        Self { data, properties_at, payload_at, qos, retain, expires_at }
    }

    /// A second handle on the same bytes with reference counts of its own, for another shard:
    /// the two shards' counters never share a cache line.
    pub fn for_another_shard(self: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self::clone(self))
    }

    /// The borrowed view.
    pub fn view(&self) -> Publication<'_> {
        let (topic, rest) =
            self.data.split_at_checked(self.properties_at.into()).unwrap_or_default();
        let (forwarded, payload) = rest
            .split_at_checked((self.payload_at as usize).saturating_sub(topic.len()))
            .unwrap_or_default();
        Publication {
            topic: std::str::from_utf8(topic).unwrap_or_default(),
            payload,
            forwarded,
            qos: self.qos,
            retain: self.retain,
            expires_at: self.expires_at,
        }
    }

    /// The bytes that this message counts for in caps on queues and on the retained store.
    pub fn size(&self) -> usize {
        self.data.len() + size_of::<Self>()
    }
}

/// The publication's properties of an MQTT 5 PUBLISH, encoded to be forwarded.
/// Nothing is written for a packet without such properties.
pub fn forwarded<'b>(properties: &PublishProperties<'_>, buffer: &'b mut Vec<u8>) -> &'b [u8] {
    buffer.clear();
    properties.encode_forwarded(buffer);
    buffer
}

/// When a message that arrived at `now` with this Message Expiry Interval expires.
pub fn expiry(interval: Option<u32>, now: u64) -> u64 {
    match interval {
        None => NEVER,
        Some(0) => AT_ONCE,
        Some(seconds) => now + u64::from(seconds) * 1000,
    }
}

fn remaining(expires_at: u64, now: u64) -> Option<u32> {
    if expires_at == NEVER {
        return None;
    }
    // Rounded up, for whole seconds that it has waited are taken off: a message within its last second
    // does not arrive with 0, which would mean another thing to the next broker.
    Some(u32::try_from(expires_at.saturating_sub(now).div_ceil(1000)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn publication() -> Publication<'static> {
        Publication {
            topic: "a/b",
            payload: b"hello",
            forwarded: &[1, 1],
            qos: QoS::AtLeastOnce,
            retain: true,
            expires_at: 5_000,
        }
    }

    #[test]
    fn a_message_gives_back_what_it_was_made_of() {
        let message = Message::new(&publication());
        let view = message.view();
        assert_eq!(view.topic, "a/b");
        assert_eq!(view.forwarded, &[1, 1]);
        assert_eq!(view.payload, b"hello");
        assert_eq!((view.qos, view.retain, view.expires_at), (QoS::AtLeastOnce, true, 5_000));
    }

    #[test]
    fn expiry_counts_down_and_rounds_up() {
        let p = publication();
        assert_eq!(p.remaining_expiry(0), Some(5));
        assert_eq!(p.remaining_expiry(4_001), Some(1));
        assert!(!p.is_expired(4_999));
        assert!(p.is_expired(5_000) && p.is_too_late(5_000));
        let forever = Publication { expires_at: NEVER, ..p };
        assert_eq!(forever.remaining_expiry(9), None);
        assert!(!forever.is_expired(u64::MAX - 1));
    }

    #[test]
    fn an_expiry_interval_starts_when_the_message_arrives() {
        assert_eq!(expiry(Some(10), 500), 10_500);
        assert_eq!(expiry(None, 500), NEVER);
        let at_once = Publication { expires_at: expiry(Some(0), 500), ..publication() };
        for now in [500, 501, 50_000] {
            assert!(at_once.is_expired(now) && !at_once.is_too_late(now));
            assert_eq!(at_once.remaining_expiry(now), Some(0));
        }
    }
}
