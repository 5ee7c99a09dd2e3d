//! The queue of a session: what waits for its client to return or to take more. With a store, what
//! is not about to be sent is kept there alone, and read again a part at a time.

use std::sync::Arc;

use super::{
    SessionKey,
    deliver::{Clients, Delivered, Encoding, Matched, QueuedBytes},
    keep::Keeping,
    send::{Line, ToSend, line},
};
use crate::{
    codec::{PacketId, QoS},
    record::{Change, DeliveryRecord, DeliveryState, Load, Loaded, MessageRecord, SessionNumber},
    session::{Delivery, Enqueued, Message, Next, Outgoing, QueueCaps},
    stats::{DropReason, ShardStats},
};

/// The emptied in-flight states kept for reuse.
const SPARE_OUTGOING: usize = 4_096;

impl QueuedBytes {
    /// What is left of it with what is in the queues now.
    fn left(self, stats: &ShardStats) -> Self {
        let queued = stats.queued_bytes.get();
        let in_memory = queued.saturating_sub(stats.stored_queued_bytes.get());
        Self {
            memory: self.memory.saturating_sub(in_memory),
            stored: self.stored.saturating_sub(queued),
        }
    }
}

impl Clients {
    pub(super) fn enqueue(
        &mut self,
        key: SessionKey,
        matched: Matched<'_>,
        qos: QoS,
        retain: bool,
        encoding: &mut Encoding<'_>,
    ) -> Delivered {
        if encoding.publication.is_expired(self.now.monotonic) {
            return Err(DropReason::Expired);
        }
        let Some(client) = self.sessions.get_mut(key.index()) else { return Ok(()) };
        // What is in the store need not be in memory, unless it is about to be sent.
        let in_memory = if client.is_online() { self.config.queued_in_memory } else { 0 };
        let mut delivery = encoding.owed(matched, qos, retain);
        let outgoing = client.outgoing.get_or_insert_with(|| self.spare.pop().unwrap_or_default());
        let before = Queued::of(outgoing);
        let from = outgoing.stored().from;
        let number = client.number;
        let is_kept = number != 0 && !self.journal.has_failed();
        let left = self.max_queued_bytes.left(&self.stats);
        let room = if is_kept { left.stored } else { left.memory };
        let (caps, reason) = before.caps(self.config.queue, room);
        let size = delivery.message.size();
        let expired = outgoing.drop_expired(size, caps, self.now.monotonic);
        let stored_alone = is_kept
            && (outgoing.stored().messages > 0
                || outgoing.queued_in_memory() >= in_memory
                || left.memory < size as u64);
        let kept = is_kept.then(|| {
            delivery.position = self.journal.number();
            delivery.clone()
        });
        let enqueued = match stored_alone {
            true => outgoing.enqueue_stored(delivery.position, qos, size, caps),
            false => outgoing.enqueue(delivery, caps),
        };
        count_queued(&self.stats, before, outgoing);
        if outgoing.is_empty() {
            client.outgoing = None;
        }
        self.stats.publish_dropped.add(DropReason::Expired, expired.len() as u64);
        let mut keeping = Keeping::new(&mut self.journal, self.now);
        for position in expired {
            keeping.drop_delivery(number, position);
        }
        let Enqueued::Waits { dropped, dropped_stored } = enqueued else { return Err(reason) };
        self.stats.publish_dropped.add(reason, (dropped.len() + dropped_stored) as u64);
        for position in dropped {
            keeping.drop_delivery(number, position);
        }
        for _ in 0..dropped_stored {
            keeping.push(Change::DropOldest { session: number, from });
        }
        if let Some(delivery) = kept {
            keeping.delivery(number, &delivery, DeliveryState::Queued, &mut encoding.kept);
        }
        Ok(())
    }

    /// Sends what waits for a session as far as the client's window and its outbox allow.
    pub fn pump(&mut self, key: SessionKey) {
        let Some(client) = self.sessions.get_mut(key.index()) else { return };
        let Some(connection) = self.connections.get_mut(client.connection.index()) else { return };
        let Some(outgoing) = &mut client.outgoing else { return };
        let window = connection.window(self.config.max_inflight);
        let before = Queued::of(outgoing);
        let (number, now) = (client.number, self.now.monotonic);
        let mut expired = Vec::new();
        let mut too_large = 0;
        let mut line = line!(self, client.connection, connection);
        while line.connection.queued() < self.config.max_outbox_bytes {
            let last = &mut client.last_packet_id;
            let Some(next) = outgoing.next(window, now, last, &mut expired) else { break };
            let (sent, packet_id) = match &next {
                Next::Publish { delivery, packet_id, dup } => {
                    (line.send_waiting(number, delivery, *packet_id, *dup), *packet_id)
                }
                Next::Unacknowledged(delivery) => {
                    (line.send_waiting(number, delivery, None, false), None)
                }
                Next::Pubrel(packet_id) => {
                    line.pubrel(*packet_id);
                    continue;
                }
            };
            if sent.is_err() {
                too_large += 1;
                // The client must not see it [MQTT-3.1.2-25]; it counts as delivered.
                if let Some(packet_id) = packet_id {
                    let position = outgoing.discard(packet_id);
                    line.keeping().drop_delivery(number, position);
                }
            }
        }
        let has_room = connection.queued() < self.config.max_outbox_bytes;
        if has_room && outgoing.stored().messages > 0 && self.journal.awaits_once() {
            self.unread.push(key);
        } else if has_room && let Some(from) = outgoing.wants_load(window) {
            let tag = load_tag(key, client.serial);
            let (limit, max_bytes) = (self.config.queued_in_memory, self.config.max_outbox_bytes);
            self.journal.load(Load { session: number, tag, from, limit: limit.max(1), max_bytes });
        }
        count_queued(&self.stats, before, outgoing);
        let mut keeping = Keeping::new(&mut self.journal, self.now);
        for position in &expired {
            keeping.drop_delivery(number, *position);
        }
        self.stats.publish_dropped.add(DropReason::Expired, expired.len() as u64);
        self.stats.publish_dropped.add(DropReason::TooLarge, too_large);
        self.free_outgoing(key);
    }

    /// Goes on with sessions that could not be read on with, for not all was in the store's hands.
    pub fn read_on(&mut self) {
        if !self.unread.is_empty() && !self.journal.awaits_once() {
            std::mem::take(&mut self.unread).into_iter().for_each(|key| self.pump(key));
        }
    }

    /// Gives back a session's outgoing state when it holds nothing.
    pub fn free_outgoing(&mut self, key: SessionKey) {
        let Some(client) = self.sessions.get_mut(key.index()) else { return };
        if client.outgoing.as_ref().is_some_and(|outgoing| outgoing.is_empty()) {
            let outgoing = client.outgoing.take();
            if self.spare.len() < SPARE_OUTGOING {
                self.spare.extend(outgoing);
            }
        }
    }

    /// What was asked of the store has come, perhaps for a session that has ended.
    pub fn on_loaded(&mut self, loaded: Loaded) {
        let (key, serial) = of_tag(loaded.tag);
        let Some(client) = self.sessions.get_mut(key.index()) else { return };
        if client.serial != serial || client.number != loaded.session {
            return;
        }
        let Some(outgoing) = &mut client.outgoing else { return };
        let before = Queued::of(outgoing);
        let end = self.journal.first_unstaged(client.number).unwrap_or(u64::MAX);
        let read = loaded.deliveries.len();
        let stored = loaded.deliveries.into_iter().take_while(|d| d.position < end);
        let stored: Vec<_> = stored.collect();
        let (asked, is_last) = (stored.len(), loaded.is_last && stored.len() == read);
        let deliveries: Vec<_> = stored
            .into_iter()
            .filter_map(|stored| {
                if stored.record.state != DeliveryState::Queued {
                    // It was not sent after all, and its packet id may be another one's.
                    let mut keeping = Keeping::new(&mut self.journal, self.now);
                    keeping.state(loaded.session, stored.position, DeliveryState::Queued);
                }
                let at = stored.body.as_ref()?.expires_at;
                let expires_at = self.journal.expiry(self.now, stored.position, at);
                Some(delivery(stored.position, stored.record, stored.body?, expires_at))
            })
            .collect();
        let lost = loaded.lost + asked - deliveries.len();
        outgoing.loaded(deliveries, lost, is_last);
        count_queued(&self.stats, before, outgoing);
        self.stats.publish_dropped.add(DropReason::StoreFailed, lost as u64);
        self.pump(key);
    }
}

impl Line<'_> {
    /// Sends what has waited in the queue of the session with this number, or was sent before if
    /// `dup`.
    fn send_waiting(
        &mut self,
        number: SessionNumber,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
        dup: bool,
    ) -> Delivered {
        let mut keeping = self.keeping();
        match packet_id {
            Some(packet_id) if !dup => {
                let state = DeliveryState::Sent(packet_id.get());
                keeping.state(number, delivery.position, state);
            }
            Some(_) => {}
            None => keeping.drop_delivery(number, delivery.position),
        }
        // As long as the store has it as it was, a start would send it again as a new one.
        if delivery.qos != QoS::AtLeastOnce && number != 0 {
            self.hold();
        }
        let to_send = ToSend { qos: delivery.qos, retain: delivery.retain, dup, packet_id };
        let publication = delivery.message.view();
        self.publish(&publication, to_send, &delivery.subscription_ids, None)?;
        self.stats.publish_resent.add(dup.into());
        Ok(())
    }
}

/// A delivery as the store has kept it.
pub(super) fn delivery(
    position: u64,
    record: DeliveryRecord,
    body: MessageRecord,
    expires_at: u64,
) -> Delivery {
    Delivery {
        message: Arc::new(Message::from_record(body, expires_at)),
        qos: QoS::from_u8(record.qos).unwrap_or(QoS::AtMostOnce),
        retain: record.retain,
        shared: std::num::NonZeroU32::new(record.shared),
        subscription_ids: record.subscription_ids.into(),
        position,
    }
}

/// What a session's loads are known by.
fn load_tag(key: SessionKey, serial: u32) -> u64 {
    u64::from(key.0) << 32 | u64::from(serial)
}

/// The session that something is read for.
pub(super) fn session_of(loaded: &Loaded) -> SessionKey {
    of_tag(loaded.tag).0
}

fn of_tag(tag: u64) -> (SessionKey, u32) {
    (SessionKey((tag >> 32) as u32), tag as u32)
}

/// What is in a session's queue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Queued {
    messages: usize,
    bytes: usize,
    /// The bytes of them in the store alone.
    stored: usize,
}

impl Queued {
    /// What is in it now.
    pub fn of(outgoing: &Outgoing) -> Self {
        let (messages, bytes) = (outgoing.queued(), outgoing.queued_bytes());
        Self { messages, bytes, stored: outgoing.stored().bytes }
    }

    /// Its caps, if all queues together take so many bytes more; and why a message is dropped that
    /// does not fit in.
    fn caps(self, mut caps: QueueCaps, room: u64) -> (QueueCaps, DropReason) {
        let room = self.bytes.saturating_add(usize::try_from(room).unwrap_or(usize::MAX));
        let mut reason = DropReason::QueueFull;
        if room < caps.bytes {
            caps.bytes = room;
            if self.messages < caps.messages {
                reason = DropReason::QueuesFull;
            }
        }
        (caps, reason)
    }
}

/// Counts what came into a session's queue and left it since it held `before`.
pub(super) fn count_queued(stats: &ShardStats, before: Queued, outgoing: &Outgoing) {
    let after = Queued::of(outgoing);
    let change = |before: usize, after: usize| (after as u64).wrapping_sub(before as u64);
    stats.queued_messages.add(change(before.messages, after.messages));
    stats.queued_bytes.add(change(before.bytes, after.bytes));
    stats.stored_queued_bytes.add(change(before.stored, after.stored));
}
