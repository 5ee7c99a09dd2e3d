//! What a session still has to deliver: messages in flight with their packet ids, and the queue
//! behind them. MQTT 5.0 sections 4.3, 4.4, 4.6 and 4.9.

use std::{collections::VecDeque, num::NonZeroU32, sync::Arc};

use thin_vec::ThinVec;

use super::message::Message;
use crate::codec::{PacketId, QoS};

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
}

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
    /// It waits, and this many older ones were dropped for it.
    Waits(usize),
    /// It did not fit and was dropped.
    Dropped,
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
    /// The message is delivered; its packet id is free again.
    Done,
    /// A PUBREL is to be sent.
    Release,
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
        self.inflight.is_empty() && self.queue.is_empty()
    }

    /// The messages in the queue, those in flight not counted.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The bytes in the queue, by [`Message::size`].
    pub fn queued_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Whether a QoS 0 message waits in the queue, which another one must not overtake.
    /// `[MQTT-4.6.0-6]`
    pub fn queues_qos0(&self) -> bool {
        self.queued_qos0 > 0
    }

    /// The messages in flight.
    pub fn inflight(&self) -> usize {
        self.inflight.len()
    }

    /// Whether a new message may be sent at once: none waits before it and the window of
    /// `window` messages has room.
    pub fn has_room(&self, window: u16) -> bool {
        self.queue.is_empty() && self.sent == self.inflight.len() && self.window_room(window)
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
            delivery: Some(delivery),
        });
        self.sent += 1;
        self.window_used += 1;
        Some(packet_id)
    }

    /// Puts a message behind those that wait.
    pub fn enqueue(&mut self, delivery: Delivery, caps: QueueCaps) -> Enqueued {
        let size = delivery.message.size();
        if size > caps.bytes || caps.messages == 0 {
            return Enqueued::Dropped;
        }
        let mut dropped = 0;
        while self.queue.len() >= caps.messages || self.queue_bytes + size > caps.bytes {
            if !caps.drop_oldest || self.queue.is_empty() {
                return Enqueued::Dropped;
            }
            self.pop_queue();
            dropped += 1;
        }
        self.queue_bytes += size;
        self.queued_qos0 += usize::from(delivery.qos == QoS::AtMostOnce);
        self.queue.push_back(delivery);
        Enqueued::Waits(dropped)
    }

    /// The next packet that may be sent within a window of `window` messages: first what was in
    /// flight before the present connection, in the original order `[MQTT-4.4.0-1]`
    /// `[MQTT-4.6.0-1]`, then the queue. Counts messages that expired in the queue in `expired`.
    pub fn next(
        &mut self,
        window: u16,
        now: u64,
        last: &mut u16,
        expired: &mut u64,
    ) -> Option<Next<'_>> {
        if self.sent < self.inflight.len() {
            return self.resend(window);
        }
        while self.queue.front().is_some_and(|d| d.message.view().is_expired(now)) {
            self.pop_queue();
            *expired += 1;
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
                if let Some(entry) = self.inflight.get_mut(at) {
                    entry.phase = Phase::Pubcomp;
                    entry.delivery = None;
                }
                Acknowledged::Release
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

    /// Forgets a message that cannot be sent to this client at all.
    pub fn discard(&mut self, packet_id: PacketId) {
        if let Some((at, _)) = self.position(packet_id) {
            self.finish(at);
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

    /// How many messages are lost if the session ends now.
    pub fn undelivered(&self) -> usize {
        self.inflight.iter().filter(|e| e.delivery.is_some()).count() + self.queue.len()
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
        if let Some(entry) = self.inflight.remove(at) {
            self.sent -= 1;
            self.window_used -= usize::from(entry.counted);
        }
        Acknowledged::Done
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
