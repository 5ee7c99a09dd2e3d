//! What a session still has to deliver: messages in flight with their packet ids, and the queue
//! behind them. MQTT 5.0 sections 4.3, 4.4, 4.6 and 4.9.

use std::{collections::VecDeque, num::NonZeroU32, sync::Arc};

use thin_vec::ThinVec;

use super::message::Message;
use crate::{
    codec::{PacketId, QoS},
    record::StoredQueue,
};

/// One message owed to one session.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message; shared with all that it is owed to.
    pub message: Arc<Message>,
    /// The lower of the publisher's and the subscription's QoS. `[MQTT-3.8.4-8]`
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// Whether it came through a shared subscription, and a tag that tells through which of the
    /// session's: if the session ends before it is acknowledged, another member gets it. MQTT 5.0
    /// section 4.8.2.
    pub shared: Option<NonZeroU32>,
    /// The identifiers of all subscriptions that matched. `[MQTT-3.3.4-3]`
    pub subscription_ids: ThinVec<u32>,
    /// Its place in the store; [`UNSTORED`] if it is not kept there.
    pub position: u64,
}

/// The position of a delivery that is not kept in the store.
pub const UNSTORED: u64 = 0;

/// So many messages of a full queue are looked at for whether they have expired, on the average.
const LOOKED_AT_PER_MILLISECOND: u64 = 64;

/// The caps on the queue of one session.
#[derive(Debug, Clone, Copy)]
pub struct QueueCaps {
    /// The most messages in the queue, those in flight not counted.
    pub messages: usize,
    /// The most bytes in the queue, by [`Message::size`].
    pub bytes: usize,
    /// Which message goes when the queue is full: the oldest one, or else the new one.
    pub drop_oldest: bool,
}

/// What became of a message that was put into the queue.
#[derive(Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It waits; older ones may have been dropped for it.
    Waits {
        /// The positions of those in memory.
        dropped: Vec<u64>,
        /// How many more of those that are kept in the store alone, the oldest ones.
        dropped_stored: usize,
    },
    /// It did not fit and was dropped.
    Dropped,
}

impl Enqueued {
    /// It waits, and nothing was dropped for it.
    pub const WAITS: Self = Self::Waits { dropped: Vec::new(), dropped_stored: 0 };
}

/// The part of a queue that is kept in the store alone, behind the part that is in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredPart {
    /// How many messages.
    pub messages: usize,
    /// Their bytes, by [`Message::size`]; from the store itself they are known on the average only.
    pub bytes: usize,
    /// The first one's position, or one between it and all those in memory.
    pub from: u64,
    /// The position of the last one of QoS 0; [`UNSTORED`] if there is none.
    pub last_qos0: u64,
    /// The next ones are being read.
    pub loading: bool,
    /// How many came behind it since they are being read.
    pub came_since: usize,
}

/// What to send next.
#[derive(Debug)]
pub enum Next<'a> {
    /// A PUBLISH; QoS 0 if there is no packet id. `dup` if it was sent before on another
    /// connection. `[MQTT-3.3.1-1]`
    Publish {
        /// The message and how to send it.
        delivery: &'a Delivery,
        /// The packet id; none for QoS 0.
        packet_id: Option<PacketId>,
        /// The DUP flag.
        dup: bool,
    },
    /// A QoS 0 message that waited in the queue; it is forgotten with this.
    Unacknowledged(Delivery),
    /// The PUBREL of a QoS 2 message whose PUBREC came before the connection was lost.
    Pubrel(PacketId),
}

/// The answer to an acknowledgement from the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Acknowledged {
    /// The message is delivered; its packet id is free again. It had this position.
    Done(u64),
    /// A PUBREL is to be sent. It has this position.
    Release(u64),
    /// No message with that packet id is in flight.
    UnknownPacketId,
    /// The packet does not belong to the state that the message is in.
    WrongState,
}

/// The QoS 1 and 2 messages in flight to one client, and the queue of those that wait.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// In the order in which they were first sent.
    inflight: VecDeque<Inflight>,
    queue: VecDeque<Delivery>,
    queue_bytes: usize,
    /// It is not looked before this for what has expired in the queue.
    look_for_expired_at: u64,
    stored: StoredPart,
    /// How many in the queue are QoS 0.
    queued_qos0: usize,
    /// How many of `inflight`, from the front, were sent on the present connection.
    sent: usize,
    /// How many of those count against the client's Receive Maximum.
    window_used: usize,
    free_ids: FreeIds,
}

/// Packet ids that are known to be free: so many behind the one assigned last.
#[derive(Debug, Clone, Copy, Default)]
struct FreeIds {
    last: u16,
    count: u16,
}

#[derive(Debug)]
struct Inflight {
    packet_id: PacketId,
    phase: Phase,
    /// Whether it was sent as PUBLISH on the present connection, and so uses up send quota.
    counted: bool,
    /// Whether it was ever sent before the present connection.
    dup: bool,
    /// Gone once the client has taken a QoS 2 message over.
    delivery: Option<Delivery>,
    /// The delivery's, also when it is gone.
    position: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Puback,
    Pubrec,
    Pubcomp,
}

impl Outgoing {
    /// Whether nothing is owed: the state can be freed.
    pub fn is_empty(&self) -> bool {
        self.inflight.is_empty() && self.queue.is_empty() && self.stored.messages == 0
    }

    /// The messages in the queue, those in flight not counted.
    pub fn queued(&self) -> usize {
        self.queue.len() + self.stored.messages
    }

    /// The bytes in the queue, by [`Message::size`].
    pub fn queued_bytes(&self) -> usize {
        self.queue_bytes + self.stored.bytes
    }

    /// The messages in the queue that are in memory.
    pub fn queued_in_memory(&self) -> usize {
        self.queue.len()
    }

    /// The part of the queue that is kept in the store alone.
    pub fn stored(&self) -> StoredPart {
        self.stored
    }

    /// Whether a QoS 0 message waits in the queue, which another one must not overtake; also when
    /// the last one in the store alone has just been dropped for a newer message.
    /// `[MQTT-4.6.0-6]`
    pub fn queues_qos0(&self) -> bool {
        let StoredPart { messages, from, last_qos0, .. } = self.stored;
        self.queued_qos0 > 0 || messages > 0 && last_qos0 >= from
    }

    /// The messages in flight.
    pub fn inflight(&self) -> usize {
        self.inflight.len()
    }

    /// Whether a new message may be sent at once: none waits before it and the window of
    /// `window` messages has room.
    pub fn has_room(&self, window: u16) -> bool {
        self.queue.is_empty()
            && self.stored.messages == 0
            && self.sent == self.inflight.len()
            && self.window_room(window)
    }

    fn window_room(&self, window: u16) -> bool {
        self.window_used < usize::from(window)
    }

    /// Puts a message into flight that is being sent now; the caller has seen
    /// [`Outgoing::has_room`]. Returns its packet id, counted up from `last`, or `None` when all
    /// 65,535 are in use.
    pub fn send(&mut self, delivery: Delivery, last: &mut u16) -> Option<PacketId> {
        let packet_id = self.free_packet_id(*last)?;
        *last = packet_id.get();
        let phase = match delivery.qos {
            QoS::ExactlyOnce => Phase::Pubrec,
            _ => Phase::Puback,
        };
        self.inflight.push_back(Inflight {
            packet_id,
            phase,
            counted: true,
            dup: false,
            position: delivery.position,
            delivery: Some(delivery),
        });
        self.sent += 1;
        self.window_used += 1;
        Some(packet_id)
    }

    /// Puts a message behind those that wait.
    pub fn enqueue(&mut self, delivery: Delivery, caps: QueueCaps) -> Enqueued {
        let size = delivery.message.size();
        let enqueued = self.make_room(size, caps);
        if enqueued != Enqueued::Dropped {
            self.push_queue(delivery);
        }
        enqueued
    }

    /// Puts a message of `size` bytes behind those that wait, which is kept in the store alone, at
    /// `position`.
    pub fn enqueue_stored(
        &mut self,
        position: u64,
        qos: QoS,
        size: usize,
        caps: QueueCaps,
    ) -> Enqueued {
        let enqueued = self.make_room(size, caps);
        if enqueued != Enqueued::Dropped {
            let stored = &mut self.stored;
            if stored.messages == 0 && !stored.loading {
                stored.from = position;
            }
            stored.messages += 1;
            stored.bytes += size;
            stored.came_since += usize::from(stored.loading);
            if qos == QoS::AtMostOnce {
                stored.last_qos0 = position;
            }
        }
        enqueued
    }

    /// Drops what has expired in memory, wherever in the queue it is, if there is no room for a message
    /// of `size` bytes otherwise, and says the positions. `[MQTT-3.3.2-5]`
    pub fn drop_expired(&mut self, size: usize, caps: QueueCaps, now: u64) -> Vec<u64> {
        let has_room = self.queued() < caps.messages && self.queued_bytes() + size <= caps.bytes;
        if has_room || now < self.look_for_expired_at {
            return Vec::new();
        }
        (self.queue_bytes, self.queued_qos0, self.look_for_expired_at) = (0, 0, u64::MAX);
        let mut expired = Vec::new();
        for delivery in std::mem::take(&mut self.queue) {
            match delivery.message.view().is_expired(now) {
                true => expired.push(delivery.position),
                false => self.push_queue(delivery),
            }
        }
        // The longer it takes the less often.
        let rest = self.queue.len() as u64 / LOOKED_AT_PER_MILLISECOND;
        self.look_for_expired_at = self.look_for_expired_at.max(now + rest);
        expired
    }

    /// Drops old messages for one of `size` bytes, if that is what the caps say.
    fn make_room(&mut self, size: usize, caps: QueueCaps) -> Enqueued {
        if size > caps.bytes || caps.messages == 0 {
            return Enqueued::Dropped;
        }
        let (mut dropped, mut dropped_stored) = (Vec::new(), 0);
        while self.queued() >= caps.messages || self.queued_bytes() + size > caps.bytes {
            if !caps.drop_oldest || self.queued() == 0 {
                return Enqueued::Dropped;
            }
            match self.pop_queue() {
                Some(oldest) => dropped.push(oldest.position),
                // Which are the oldest will be known in a moment; until then it is a few too many.
                None if self.stored.loading => break,
                None => {
                    self.take_stored(1);
                    dropped_stored += 1;
                }
            }
        }
        Enqueued::Waits { dropped, dropped_stored }
    }

    fn push_queue(&mut self, delivery: Delivery) {
        self.queue_bytes += delivery.message.size();
        let expires_at = delivery.message.view().expires_at;
        self.look_for_expired_at = self.look_for_expired_at.min(expires_at);
        self.queued_qos0 += usize::from(delivery.qos == QoS::AtMostOnce);
        self.queue.push_back(delivery);
    }

    /// So many of the oldest messages that are kept in the store alone are not any more.
    fn take_stored(&mut self, messages: usize) {
        let stored = &mut self.stored;
        let messages = messages.min(stored.messages);
        let share = stored.bytes.checked_div(stored.messages).unwrap_or(0) * messages;
        stored.messages -= messages;
        stored.bytes = if stored.messages == 0 { 0 } else { stored.bytes - share };
    }

    /// Whether more is to be read from the store now, for all in memory is on its way and the window
    /// has room. Says from which position on, and counts on [`Outgoing::loaded`] being called.
    pub fn wants_load(&mut self, window: u16) -> Option<u64> {
        let wants = self.stored.messages > 0
            && !self.stored.loading
            && self.queue.is_empty()
            && self.sent == self.inflight.len()
            && self.window_room(window);
        if !wants {
            return None;
        }
        (self.stored.loading, self.stored.came_since) = (true, 0);
        Some(self.stored.from)
    }

    /// The oldest messages that were kept in the store alone have come. `lost` are gone, and if
    /// `is_last` there is none left of those that were there when they were asked for.
    pub fn loaded(&mut self, deliveries: Vec<Delivery>, lost: usize, is_last: bool) {
        if let Some(last) = deliveries.last() {
            self.stored.from = last.position + 1;
        }
        self.take_stored(deliveries.len() + lost);
        let came_since = self.stored.came_since;
        if is_last && self.stored.messages > came_since {
            self.take_stored(self.stored.messages - came_since);
        }
        self.stored.loading = false;
        deliveries.into_iter().for_each(|delivery| self.push_queue(delivery));
    }

    /// What a store has kept of a session: messages that wait.
    pub fn restore_stored(&mut self, queue: StoredQueue) {
        let StoredQueue { from, messages, bytes, last_qos0 } = queue;
        // As `Message::size` counts them.
        let bytes = bytes + messages * size_of::<Message>();
        self.stored = StoredPart { messages, bytes, from, last_qos0, ..StoredPart::default() };
    }

    /// What a store has kept of a session: a message that was sent with this packet id before, or
    /// one of QoS 2 that the client has received and that is to be released.
    pub fn restore_inflight(
        &mut self,
        packet_id: PacketId,
        position: u64,
        delivery: Option<Delivery>,
    ) {
        let phase = match &delivery {
            None => Phase::Pubcomp,
            Some(delivery) if delivery.qos == QoS::ExactlyOnce => Phase::Pubrec,
            Some(_) => Phase::Puback,
        };
        let (counted, dup) = (false, true);
        self.inflight.push_back(Inflight { packet_id, phase, counted, dup, delivery, position });
    }

    /// The next packet that may be sent within a window of `window` messages: first what was in
    /// flight before the present connection, in the original order `[MQTT-4.4.0-1]`
    /// `[MQTT-4.6.0-1]`, then the queue. The positions of messages that expired in the queue come
    /// into `expired`.
    pub fn next(
        &mut self,
        window: u16,
        now: u64,
        last: &mut u16,
        expired: &mut Vec<u64>,
    ) -> Option<Next<'_>> {
        if self.sent < self.inflight.len() {
            return self.resend(window);
        }
        while self.queue.front().is_some_and(|d| d.message.view().is_expired(now)) {
            expired.extend(self.pop_queue().map(|delivery| delivery.position));
        }
        if self.queue.front()?.qos == QoS::AtMostOnce {
            return self.pop_queue().map(Next::Unacknowledged);
        }
        if !self.window_room(window) || self.inflight.len() >= usize::from(u16::MAX) {
            return None;
        }
        let delivery = self.pop_queue()?;
        let packet_id = self.send(delivery, last)?;
        let delivery = self.inflight.back()?.delivery.as_ref()?;
        Some(Next::Publish { delivery, packet_id: Some(packet_id), dup: false })
    }

    fn resend(&mut self, window: u16) -> Option<Next<'_>> {
        let room = self.window_room(window);
        let entry = self.inflight.get_mut(self.sent)?;
        let Some(delivery) = &entry.delivery else {
            self.sent += 1;
            return Some(Next::Pubrel(entry.packet_id));
        };
        if !room {
            return None;
        }
        entry.counted = true;
        self.sent += 1;
        self.window_used += 1;
        Some(Next::Publish { delivery, packet_id: Some(entry.packet_id), dup: entry.dup })
    }

    /// The client has acknowledged a QoS 1 message. `[MQTT-4.3.2-3]`
    pub fn puback(&mut self, packet_id: PacketId) -> Acknowledged {
        match self.position(packet_id) {
            None => Acknowledged::UnknownPacketId,
            Some((at, Phase::Puback)) => self.finish(at),
            Some(_) => Acknowledged::WrongState,
        }
    }

    /// The client has received a QoS 2 message, or refused it if `refused`. `[MQTT-4.3.3-4]`
    pub fn pubrec(&mut self, packet_id: PacketId, refused: bool) -> Acknowledged {
        match self.position(packet_id) {
            None => Acknowledged::UnknownPacketId,
            Some((_, Phase::Puback)) => Acknowledged::WrongState,
            Some((at, _)) if refused => self.finish(at),
            Some((at, _)) => {
                let Some(entry) = self.inflight.get_mut(at) else {
                    return Acknowledged::UnknownPacketId;
                };
                entry.phase = Phase::Pubcomp;
                entry.delivery = None;
                Acknowledged::Release(entry.position)
            }
        }
    }

    /// The client has completed a QoS 2 message. `[MQTT-4.3.3-5]`
    pub fn pubcomp(&mut self, packet_id: PacketId) -> Acknowledged {
        match self.position(packet_id) {
            None => Acknowledged::UnknownPacketId,
            Some((at, Phase::Pubcomp)) => self.finish(at),
            Some(_) => Acknowledged::WrongState,
        }
    }

    /// Forgets a message that cannot be sent to this client at all, and says its position.
    pub fn discard(&mut self, packet_id: PacketId) -> u64 {
        match self.position(packet_id).map(|(at, _)| self.finish(at)) {
            Some(Acknowledged::Done(position)) => position,
            _ => UNSTORED,
        }
    }

    /// The connection is gone: everything in flight is to be sent again on the next one.
    pub fn connection_lost(&mut self) {
        for entry in &mut self.inflight {
            entry.dup |= entry.counted;
            entry.counted = false;
        }
        self.sent = 0;
        self.window_used = 0;
    }

    /// The messages that another member of the group should get now that the session has ended:
    /// those of shared subscriptions that the client never took over, QoS 2 in flight excepted.
    /// `[MQTT-4.8.2-5]`, MQTT 5.0 section 4.8.2.
    pub fn into_shared(self) -> impl Iterator<Item = Delivery> {
        let inflight = self.inflight.into_iter().filter(|e| e.phase == Phase::Puback);
        inflight.filter_map(|e| e.delivery).chain(self.queue).filter(|d| d.shared.is_some())
    }

    /// The messages in memory that the client has not received, as far as is known.
    pub fn in_memory(&self) -> impl Iterator<Item = &Delivery> {
        self.inflight.iter().filter_map(|entry| entry.delivery.as_ref()).chain(&self.queue)
    }

    fn pop_queue(&mut self) -> Option<Delivery> {
        let delivery = self.queue.pop_front()?;
        self.queue_bytes = self.queue_bytes.saturating_sub(delivery.message.size());
        self.queued_qos0 -= usize::from(delivery.qos == QoS::AtMostOnce);
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        Some(delivery)
    }

    fn position(&self, packet_id: PacketId) -> Option<(usize, Phase)> {
        // Only what was sent on this connection can be acknowledged on it. Acknowledgements come
        // in order, so the search nearly always ends at the first entry.
        let mut sent = self.inflight.iter().take(self.sent);
        let at = sent.position(|entry| entry.packet_id == packet_id)?;
        Some((at, self.inflight.get(at)?.phase))
    }

    fn finish(&mut self, at: usize) -> Acknowledged {
        let Some(entry) = self.inflight.remove(at) else { return Acknowledged::UnknownPacketId };
        self.sent -= 1;
        self.window_used -= usize::from(entry.counted);
        Acknowledged::Done(entry.position)
    }

    /// The next packet id behind `last` that is not in use. Only when a run of free ids is used up
    /// is it looked at what is in flight, to find the next run: with a large window a look for
    /// every message would cost more than the rest of its way.
    fn free_packet_id(&mut self, last: u16) -> Option<PacketId> {
        let candidate = PacketId::new(last).map_or(PacketId::FIRST, PacketId::next);
        let known = self.free_ids;
        if known.count > 0 && known.last == last {
            self.free_ids = FreeIds { last: candidate.get(), count: known.count - 1 };
            return Some(candidate);
        }
        let ids = self.inflight.iter().map(|entry| entry.packet_id.steps_after(candidate));
        let mut ahead: Vec<u16> = ids.collect();
        ahead.sort_unstable();
        let passed_over =
            ahead.iter().zip(0..).take_while(|(id, steps)| *id == steps).count() as u16;
        let end_of_run = ahead.get(usize::from(passed_over)).copied().unwrap_or(u16::MAX);
        let count = end_of_run.checked_sub(passed_over)?.checked_sub(1)?;
        let packet_id = candidate.advance(passed_over);
        self.free_ids = FreeIds { last: packet_id.get(), count };
        Some(packet_id)
    }
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
