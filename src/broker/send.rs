//! One PUBLISH on its way to one client: from its header fields to bytes in an outbox.

use std::collections::VecDeque;

use super::{
    ConnectionKey, Now,
    connection::{Connection, Extra},
    deliver::Delivered,
    journal::Journal,
    keep::Keeping,
    outbox::{Outboxes, Range},
};
use crate::{
    codec::{AckKind, PacketId, PublishHead, QoS, ReasonCode, Version, encode_ack},
    record::Epoch,
    session::{AliasUse, Publication},
    stats::{DropReason, ShardStats},
};

/// A payload up to this size is copied behind each receiver's own head; a larger one is laid down
/// once and referred to. In bytes: about what one more slice in a vectored write costs.
const INLINE_PAYLOAD: usize = 512;

/// The header fields of one PUBLISH to one client.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToSend {
    pub qos: QoS,
    pub retain: bool,
    pub dup: bool,
    pub packet_id: Option<PacketId>,
}

/// A client's connection, and what sending on it takes of [`Clients`](super::deliver::Clients).
pub(super) struct Line<'a> {
    pub key: ConnectionKey,
    pub connection: &'a mut Connection,
    pub out: &'a mut Outboxes,
    pub holding: &'a mut VecDeque<(Epoch, ConnectionKey)>,
    pub journal: &'a mut Journal,
    pub stats: &'a ShardStats,
    pub now: Now,
}

/// The [`Line`] of a connection of `$clients`. It borrows only what it names, so that the session may
/// be borrowed beside it.
macro_rules! line {
    ($clients:expr, $key:expr, $connection:expr) => {
        $crate::broker::send::Line {
            key: $key,
            connection: $connection,
            out: &mut $clients.out,
            holding: &mut $clients.holding,
            journal: &mut $clients.journal,
            stats: &$clients.stats,
            now: $clients.now,
        }
    };
}
pub(super) use line;

impl Line<'_> {
    /// Stages changes.
    pub fn keeping(&mut self) -> Keeping<'_> {
        Keeping::new(self.journal, self.now)
    }

    /// From here on, what is sent waits for all that has been staged in this turn.
    pub fn hold(&mut self) {
        let epoch = self.journal.epoch();
        if self.journal.is_pending() && !self.out.hold(&mut self.connection.outbox, epoch) {
            self.holding.push_back((epoch, self.key));
        }
    }

    /// Sends a PUBREL.
    pub fn pubrel(&mut self, packet_id: PacketId) {
        let version = self.connection.version;
        self.out.control(self.key, &mut self.connection.outbox, |arena| {
            encode_ack(AckKind::Pubrel, packet_id, ReasonCode::Success, version, arena);
        });
        self.stats.packets_sent.add(1);
    }

    /// Encodes one PUBLISH and sends it. `payload` holds the place where a large payload was laid
    /// down for an earlier receiver.
    pub fn publish(
        &mut self,
        publication: &Publication<'_>,
        to_send: ToSend,
        ids: &[u32],
        payload: Option<&mut Option<Range>>,
    ) -> Delivered {
        let version = self.connection.version;
        let mut head = PublishHead {
            dup: to_send.dup,
            qos: to_send.qos,
            retain: to_send.retain,
            topic: publication.topic,
            packet_id: to_send.packet_id,
            topic_alias: None,
            message_expiry_interval: publication.remaining_expiry(self.now.monotonic),
            subscription_ids: ids,
            forwarded: publication.forwarded,
            payload_len: publication.payload.len(),
        };
        if head.packet_size(version) > self.connection.maximum_packet_size() {
            return Err(DropReason::TooLarge);
        }
        if let Some(extra) = &mut self.connection.extra {
            use_alias(&mut head, extra, publication.topic, version);
        }
        let inline = publication.payload.len() <= INLINE_PAYLOAD;
        let mut encoded = Ok(());
        let range = self.out.encode(|arena| {
            encoded = head.encode(version, arena);
            if encoded.is_ok() && inline {
                arena.extend_from_slice(publication.payload);
            }
        });
        if encoded.is_err() {
            return Err(DropReason::TooLarge);
        }
        self.out.push(self.key, &mut self.connection.outbox, range);
        if !inline {
            let mut own = None;
            let range = *payload.unwrap_or(&mut own).get_or_insert_with(|| {
                self.out.encode(|arena| arena.extend_from_slice(publication.payload))
            });
            self.out.push(self.key, &mut self.connection.outbox, range);
        }
        count_sent(self.stats, publication);
        Ok(())
    }
}

pub(super) fn count_sent(stats: &ShardStats, publication: &Publication<'_>) {
    stats.publish_sent.add(1);
    stats.publish_bytes_sent.add(publication.payload.len() as u64);
}

/// The size of one PUBLISH to one client.
pub(super) fn packet_size(version: Version, publication: &Publication<'_>, ids: &[u32]) -> usize {
    // Without an alias, which is left out where it would make the packet too large.
    let head = PublishHead {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: publication.topic,
        packet_id: Some(PacketId::FIRST),
        topic_alias: None,
        message_expiry_interval: Some(0).filter(|_| publication.expires_at != u64::MAX),
        subscription_ids: ids,
        forwarded: publication.forwarded,
        payload_len: publication.payload.len(),
    };
    head.packet_size(version)
}

fn use_alias<'a>(head: &mut PublishHead<'a>, extra: &mut Extra, topic: &'a str, version: Version) {
    let maximum = extra.maximum_packet_size as usize;
    let Some(aliases) = &mut extra.outbound_aliases else { return };
    let (name, alias, is_new) = match aliases.lookup(topic) {
        AliasUse::Full => return,
        AliasUse::Known(alias) => ("", alias, false),
        AliasUse::Sets(alias) => (topic, alias, true),
    };
    (head.topic, head.topic_alias) = (name, Some(alias));
    // A known one, too, may take more than a short topic. [MQTT-3.1.2-24]
    if head.packet_size(version) > maximum {
        (head.topic, head.topic_alias) = (topic, None);
    } else if is_new {
        aliases.set(topic, alias);
    }
}
