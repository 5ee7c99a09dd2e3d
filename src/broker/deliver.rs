//! From a message and a subscription to bytes in an outbox, or a place in a queue.

use std::{collections::VecDeque, num::NonZeroU32, sync::Arc};

use hashbrown::HashTable;
use thin_vec::ThinVec;

use super::{
    Config, ConnectionKey, Now, SessionKey,
    client::Client,
    connection::{Connection, State},
    journal::Journal,
    keep::Bodies,
    outbox::{Outboxes, Range},
    receive::encode,
    retained::Superseding,
    send::{ToSend, count_sent, line, packet_size},
};
use crate::{
    codec::{Packet, PublishHead, QoS, SubscriptionOptions, Version},
    pages::Pages,
    record::{DeliveryState, Epoch},
    session::{Delivery, Message, Outgoing, Publication, UNSTORED},
    stats::{DropReason, ShardStats},
};

/// The sessions that there is always a place for in the table of their clients once there were as many.
const KEPT: usize = 1_024;

/// The clients of one shard: sessions, connections, and the bytes on their way.
pub struct Clients {
    pub(super) config: Arc<Config>,
    pub(super) stats: Arc<ShardStats>,
    pub(super) connections: Pages<Connection>,
    pub(super) sessions: Pages<Client>,
    /// Client identifier to session.
    pub(super) by_id: HashTable<SessionKey>,
    pub(super) out: Outboxes,
    pub(super) max_queued_bytes: QueuedBytes,
    /// The work done since this was last set to 0, in the units of
    /// [`WORK_PER_TURN`](crate::limits::WORK_PER_TURN).
    pub(super) work: usize,
    /// Connections whose clients do not take an answer as large as the one that is due.
    pub(super) unsendable: Vec<ConnectionKey>,
    /// What is to outlive the process.
    pub(super) journal: Journal,
    /// Sessions that have more to read from the store once it has all that was given to it.
    pub(super) unread: Vec<SessionKey>,
    /// Connections with packets that wait for an epoch, in the order of the epochs.
    pub(super) holding: VecDeque<(Epoch, ConnectionKey)>,
    /// The broker's clocks; set at the start of each turn.
    pub(super) now: Now,
    #[expect(clippy::vec_box, reason = "the boxes are what is recycled")]
    pub(super) spare: Vec<Box<Outgoing>>,
}

/// The most bytes in all queues of a shard.
#[derive(Debug, Clone, Copy)]
pub struct QueuedBytes {
    /// In memory.
    pub memory: u64,
    /// In memory and in the store, if there is one.
    pub stored: u64,
}

/// Which subscription, or subscriptions, a message is delivered for.
#[derive(Debug, Clone, Copy)]
pub struct Matched<'a> {
    /// The options of the subscription; of the one with the highest QoS if several match.
    pub options: SubscriptionOptions,
    /// The Subscription Identifiers of all of them.
    pub ids: &'a [u32],
    /// The tag of the shared subscription that it came through, if any.
    pub shared: Option<NonZeroU32>,
    /// Whether it is a retained message sent because of a new subscription. `[MQTT-3.3.1-8]`
    pub retained: bool,
}

/// A publication together with what was already made of it in this turn, so that each wire layout
/// is encoded once and an owned copy is made only when someone needs it.
pub struct Encoding<'a> {
    /// The publication.
    pub publication: Publication<'a>,
    /// If it is retained, but not by the shard that it comes from: a retained message of its topic
    /// that comes later may be older.
    pub(super) supersedes: Option<Superseding>,
    message: Option<Arc<Message>>,
    /// What this shard has staged of it to be kept.
    pub(super) kept: Bodies,
    /// QoS 0 packets: MQTT 3.x without and with RETAIN, MQTT 5 without and with.
    whole: [Option<Range>; 4],
    payload: Option<Range>,
}

impl<'a> Encoding<'a> {
    /// Nothing is made of it yet.
    pub fn new(publication: Publication<'a>) -> Self {
        Self {
            supersedes: None,
            publication,
            message: None,
            kept: Bodies::default(),
            whole: [None; 4],
            payload: None,
        }
    }

    /// Of a message that exists.
    pub fn of(message: &'a Arc<Message>) -> Self {
        Self { message: Some(Arc::clone(message)), ..Self::new(message.view()) }
    }

    /// The owned message; made at the first call.
    pub fn message(&mut self) -> &Arc<Message> {
        self.message.get_or_insert_with(|| Arc::new(Message::new(&self.publication)))
    }

    /// The message for another shard. One that is for that shard `alone`, and that nobody here has
    /// needed yet, is made there and then and not held here.
    pub(super) fn for_another_shard(&mut self, alone: bool) -> Arc<Message> {
        match self.message {
            None if alone => Arc::new(Message::new(&self.publication)),
            _ => self.message().for_another_shard(),
        }
    }

    /// The message as it is owed to one session.
    pub(super) fn owed(&mut self, matched: Matched<'_>, qos: QoS, retain: bool) -> Delivery {
        Delivery {
            message: Arc::clone(self.message()),
            qos,
            retain,
            shared: matched.shared,
            subscription_ids: ThinVec::from(matched.ids),
            position: UNSTORED,
        }
    }

    fn whole(&mut self, out: &mut Outboxes, version: Version, retain: bool, now: u64) -> Range {
        let layout = usize::from(version == Version::V5) * 2 + usize::from(retain);
        let Some(slot) = self.whole.get_mut(layout) else { return out.encode(|_| ()) };
        *slot.get_or_insert_with(|| {
            let head = PublishHead {
                dup: false,
                qos: QoS::AtMostOnce,
                retain,
                topic: self.publication.topic,
                packet_id: None,
                topic_alias: None,
                message_expiry_interval: self.publication.remaining_expiry(now),
                subscription_ids: &[],
                forwarded: self.publication.forwarded,
                payload_len: self.publication.payload.len(),
            };
            out.encode(|arena| {
                if head.encode(version, arena).is_ok() {
                    arena.extend_from_slice(self.publication.payload);
                }
            })
        })
    }
}

/// What a client did not get, and why, is counted by these; `Ok` is sent or queued.
pub(super) type Delivered = Result<(), DropReason>;

impl Clients {
    /// No clients yet, and room for so many bytes in all their queues.
    pub fn new(
        config: Arc<Config>,
        stats: Arc<ShardStats>,
        max_queued_bytes: QueuedBytes,
        journal: Journal,
    ) -> Self {
        Self {
            config,
            stats,
            connections: Pages::new(),
            sessions: Pages::new(),
            by_id: HashTable::new(),
            out: Outboxes::default(),
            max_queued_bytes,
            work: 0,
            unsendable: Vec::new(),
            journal,
            unread: Vec::new(),
            holding: VecDeque::new(),
            now: Now::default(),
            spare: Vec::new(),
        }
    }

    /// Lets go of the memory that a fleet has had, when nobody of it is left.
    pub fn shrink(&mut self) {
        if self.sessions.is_empty() && self.by_id.capacity() > KEPT {
            self.by_id = HashTable::new();
        }
    }

    /// Lets go of what is kept for reuse.
    pub fn let_go(&mut self) {
        if self.sessions.is_empty() {
            self.by_id = HashTable::new();
        }
        self.spare = Vec::new();
        self.out.shrink();
        self.unsendable.shrink_to_fit();
        self.unread.shrink_to_fit();
        self.holding.shrink_to_fit();
    }

    /// Makes room in the arenas when one turn has produced very much. To be called between
    /// messages only, for what was encoded of one message is gone with it.
    pub fn relieve(&mut self) {
        if !self.out.is_full() {
            return;
        }
        // All of them: one that is being written just now is not on the list of those to write.
        for connection in self.connections.values_mut() {
            if let Some(outbox) = &mut connection.outbox {
                self.out.spill(outbox);
            }
        }
        self.out.clear();
    }

    /// Delivers to one session, or queues for it, or drops and counts.
    pub fn deliver(&mut self, key: SessionKey, matched: Matched<'_>, encoding: &mut Encoding<'_>) {
        self.work += 1;
        let publication = &encoding.publication;
        let qos = publication.qos.min(matched.options.qos);
        let retain =
            matched.retained || (publication.retain && matched.options.retain_as_published);
        let delivered = if qos == QoS::AtMostOnce {
            self.deliver_qos0(key, matched, retain, encoding)
        } else {
            self.deliver_acknowledged(key, matched, qos, retain, encoding)
        };
        if let Err(reason) = delivered {
            self.stats.publish_dropped.add(reason, 1);
        } else if let Some(by) = encoding.supersedes
            && let Some(client) = self.sessions.get_mut(key.index())
            && let Some(rare) = &mut client.rare
        {
            rare.retained.superseded(encoding.publication.topic, by);
        }
    }

    fn deliver_qos0(
        &mut self,
        key: SessionKey,
        matched: Matched<'_>,
        retain: bool,
        encoding: &mut Encoding<'_>,
    ) -> Delivered {
        let Some(client) = self.sessions.get(key.index()) else { return Ok(()) };
        let Some(connection) = self.connections.get_mut(client.connection.index()) else {
            if self.config.queue_qos0 && client.is_persistent() {
                return self.enqueue(key, matched, QoS::AtMostOnce, retain, encoding);
            }
            return Err(DropReason::Offline);
        };
        if client.outgoing.as_ref().is_some_and(|outgoing| outgoing.queues_qos0()) {
            return self.enqueue(key, matched, QoS::AtMostOnce, retain, encoding);
        }
        if connection.queued() >= self.config.max_outbox_bytes {
            return Err(DropReason::OutboxFull);
        }
        let has_aliases = connection.extra.as_ref().is_some_and(|e| e.outbound_aliases.is_some());
        if connection.version == Version::V5 && (has_aliases || !matched.ids.is_empty()) {
            let to_send = ToSend { qos: QoS::AtMostOnce, retain, dup: false, packet_id: None };
            let payload = Some(&mut encoding.payload);
            let mut line = line!(self, client.connection, connection);
            return line.publish(&encoding.publication, to_send, matched.ids, payload);
        }
        let now = self.now.monotonic;
        let range = encoding.whole(&mut self.out, connection.version, retain, now);
        if range.len() > connection.maximum_packet_size() {
            return Err(DropReason::TooLarge);
        }
        self.out.push(client.connection, &mut connection.outbox, range);
        count_sent(&self.stats, &encoding.publication);
        Ok(())
    }

    fn deliver_acknowledged(
        &mut self,
        key: SessionKey,
        matched: Matched<'_>,
        qos: QoS,
        retain: bool,
        encoding: &mut Encoding<'_>,
    ) -> Delivered {
        let Some(client) = self.sessions.get_mut(key.index()) else { return Ok(()) };
        let number = client.number;
        if number != 0 && self.journal.has_failed() {
            self.journal.refuse();
            return Err(DropReason::StoreFailed);
        }
        let Some(connection) = self.connections.get_mut(client.connection.index()) else {
            return match client.is_persistent() {
                true => self.enqueue(key, matched, qos, retain, encoding),
                false => Err(DropReason::Offline),
            };
        };
        let window = connection.window(self.config.max_inflight);
        let has_room = client.outgoing.as_ref().is_none_or(|outgoing| outgoing.has_room(window));
        if !has_room || connection.queued() >= self.config.max_outbox_bytes {
            return self.enqueue(key, matched, qos, retain, encoding);
        }
        if packet_size(connection.version, &encoding.publication, matched.ids)
            > connection.maximum_packet_size()
        {
            return Err(DropReason::TooLarge);
        }
        let mut delivery = encoding.owed(matched, qos, retain);
        let outgoing = client.outgoing.get_or_insert_with(|| self.spare.pop().unwrap_or_default());
        let kept = (number != 0).then(|| {
            delivery.position = self.journal.number();
            delivery.clone()
        });
        let Some(packet_id) = outgoing.send(delivery, &mut client.last_packet_id) else {
            return self.enqueue(key, matched, qos, retain, encoding);
        };
        let mut line = line!(self, client.connection, connection);
        if let Some(delivery) = kept {
            let state = DeliveryState::Sent(packet_id.get());
            line.keeping().delivery(number, &delivery, state, &mut encoding.kept);
            if qos == QoS::ExactlyOnce {
                // A client that answers to a packet id that is not kept would get it twice.
                line.hold();
            }
        }
        let to_send = ToSend { qos, retain, dup: false, packet_id: Some(packet_id) };
        let payload = Some(&mut encoding.payload);
        line.publish(&encoding.publication, to_send, matched.ids, payload).inspect_err(|_| {
            let position = outgoing.discard(packet_id);
            line.keeping().drop_delivery(number, position);
        })
    }

    /// Queues a control packet for a connection, if it still takes any. If it is larger than its
    /// client takes, the connection is to end instead.
    pub fn control(&mut self, key: ConnectionKey, f: impl FnOnce(Version, &mut Vec<u8>)) {
        if !self.try_control(key, f) {
            self.unsendable.push(key);
        }
    }

    /// Queues a control packet for a connection, if it still takes any. False if it is larger than
    /// its client takes, and so not sent. `[MQTT-3.1.2-24]`
    pub fn try_control(
        &mut self,
        key: ConnectionKey,
        f: impl FnOnce(Version, &mut Vec<u8>),
    ) -> bool {
        let Some(connection) = self.connections.get_mut(key.index()) else { return true };
        if connection.state == State::Closing {
            return true;
        }
        let (version, maximum) = (connection.version, connection.maximum_packet_size());
        let mut fits = true;
        self.out.control(key, &mut connection.outbox, |arena| {
            let start = arena.len();
            f(version, arena);
            fits = arena.len() - start <= maximum;
            if !fits {
                arena.truncate(start);
            }
        });
        self.stats.packets_sent.add(fits.into());
        fits
    }

    /// Like [`Clients::try_control`], for a packet that has `text` as its Reason String where that
    /// fits. `[MQTT-3.2.2-19]`, `[MQTT-3.4.2-2]`, `[MQTT-3.5.2-2]`, `[MQTT-3.9.2-1]`,
    /// `[MQTT-3.14.2-3]`
    pub fn try_explained<'p>(
        &mut self,
        key: ConnectionKey,
        text: Option<&'p str>,
        packet: impl Fn(Option<&'p str>) -> Packet<'p>,
    ) -> bool {
        let explained = text.is_some()
            && self.try_control(key, |version, out| encode(&packet(text), version, out));
        explained || self.try_control(key, |version, out| encode(&packet(None), version, out))
    }

    /// Like [`Clients::control`], for an answer that has `text` as its Reason String where that
    /// fits and the client wants to know. `[MQTT-3.1.2-29]`
    pub fn answer<'p>(
        &mut self,
        key: ConnectionKey,
        text: Option<&'p str>,
        packet: impl Fn(Option<&'p str>) -> Packet<'p>,
    ) {
        let connection = self.connections.get(key.index());
        let text = text.filter(|_| connection.is_some_and(|c| c.problem_information));
        if !self.try_explained(key, text, packet) {
            self.unsendable.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_one_other_shard_alone_is_made_for_it_and_not_held() {
        let publication = Publication {
            topic: "a/b",
            payload: b"payload",
            forwarded: &[],
            qos: QoS::AtMostOnce,
            retain: false,
            expires_at: u64::MAX,
        };
        let mut encoding = Encoding::new(publication);
        let alone = encoding.for_another_shard(true);
        assert!(encoding.message.is_none());
        assert_eq!(alone.view().payload, b"payload");

        // The next ones share the bytes of one copy, but no counter of handles.
        let (first, second) = (encoding.for_another_shard(false), encoding.for_another_shard(true));
        assert_eq!(first.view().payload.as_ptr(), second.view().payload.as_ptr());
        for message in [&alone, &first, &second] {
            assert_eq!(Arc::strong_count(message), 1);
        }
    }
}
