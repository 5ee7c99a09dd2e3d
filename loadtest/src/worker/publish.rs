//! Publishing: on a schedule, or as fast as the messages are received.

use ringmq::codec::{PacketId, PublishHead, QoS, Version};

use super::{
    State, Worker,
    conn::{Inflight, Sender},
};
use crate::{
    clock::{MILLISECOND, SECOND},
    header::Header,
    plan::Pace,
    shared::Phase,
};

/// Messages of the schedule taken in one turn at the most, so that what arrives is read in time.
const DUE_PER_TURN: usize = 4096;
/// Bytes of packets for one connection in one write.
const BYTES_PER_WRITE: usize = 64 * 1024;
/// How long a sender in saturation waits for a message of QoS 0 that does not come.
const FORGET_AFTER: u64 = SECOND;
/// The same for QoS 1 and 2, which ought to come.
const FORGET_ACKNOWLEDGED_AFTER: u64 = 5 * SECOND;

impl Worker {
    /// When the next message of the schedule is due; for the timer.
    pub(super) fn next_due(&self) -> u64 {
        if self.phase != Phase::Run {
            return u64::MAX;
        }
        (0..self.flows.len()).map(|flow| self.due(flow)).min().unwrap_or(u64::MAX)
    }

    /// When a flow's next message is due.
    fn due(&self, at: usize) -> u64 {
        let Some(flow) = self.flows.get(at) else { return u64::MAX };
        if flow.left == 0 {
            return u64::MAX;
        }
        self.due_of(at, flow.round, flow.position)
    }

    /// When a message of a flow is due, by its number in its stream and the stream's position.
    fn due_of(&self, at: usize, round: u64, position: u32) -> u64 {
        let Some(flow) = self.flows.get(at) else { return u64::MAX };
        let Pace::Every(interval) = flow.pace else { return u64::MAX };
        if flow.sources == 0 {
            return u64::MAX;
        }
        let start = self.shared.start.load(std::sync::atomic::Ordering::Relaxed);
        let offset = u64::from(position) * interval / u64::from(flow.sources);
        let grain = self.plan.grain.max(1);
        let on_grid = (round * interval + offset) / grain * grain;
        start.saturating_add(on_grid + flow.phase)
    }

    /// Takes the messages from the schedule that are due by now.
    pub(super) fn publish_due(&mut self) {
        if self.phase != Phase::Run {
            return;
        }
        for at in 0..self.flows.len() {
            for _ in 0..DUE_PER_TURN {
                if self.due(at) > self.now {
                    break;
                }
                let Some(flow) = self.flows.get_mut(at) else { break };
                let source = flow.first_source + flow.position;
                flow.left -= 1;
                flow.position += 1;
                if flow.position == flow.sources {
                    flow.position = 0;
                    flow.round += 1;
                }
                if let Some(source) = self.sources.get_mut(source as usize) {
                    source.owed += 1;
                }
                self.mine(|mine| mine.counters.owed.add(1));
                self.queue(source);
            }
        }
    }

    /// Lets every source of a saturating flow begin.
    pub(super) fn start_saturating(&mut self) {
        for source in 0..self.sources.len() {
            let flow = self.sources.get(source).map_or(0, |source| source.flow);
            let saturates =
                self.flows.get(flow as usize).is_some_and(|flow| flow.pace_is_saturate());
            if saturates {
                self.queue(source as u32);
            }
        }
    }

    /// Has a source served in this turn.
    fn queue(&mut self, at: u32) {
        if let Some(source) = self.sources.get_mut(at as usize)
            && !std::mem::replace(&mut source.queued, true)
        {
            self.ready.push_back(at);
        }
    }

    /// A sender has room again: what waits for it is served.
    pub(super) fn serve_waiting(&mut self, sender: u32) {
        let Some(sender) = self.senders.get_mut(sender as usize) else { return };
        let room = sender.room().max(1) as usize;
        let count = sender.waiting.len().min(room);
        self.ready.extend(sender.waiting.drain(..count));
    }

    /// Serves the sources that may have something to send.
    pub(super) fn publish_ready(&mut self) {
        if self.phase != Phase::Run {
            return;
        }
        for _ in 0..self.ready.len() {
            let Some(at) = self.ready.pop_front() else { return };
            self.serve_source(at);
        }
    }

    fn serve_source(&mut self, at: u32) {
        let Some(source) = self.sources.get_mut(at as usize) else { return };
        let Some(flow) = self.flows.get_mut(source.flow as usize) else { return };
        source.queued = false;
        let (wanted, saturates) = match flow.pace {
            Pace::Every(_) => (source.owed, false),
            Pace::Saturate { credit } => {
                let fanout = flow.fanout.max(1);
                let room = (credit * fanout).saturating_sub(source.under_way) / fanout;
                (room.min(u32::try_from(flow.left).unwrap_or(u32::MAX)), true)
            }
        };
        if wanted == 0 {
            return;
        }
        let Some(sender) = self.senders.get_mut(source.sender as usize) else { return };
        let conn = sender.conn as usize;
        let open = self
            .conns
            .get(conn)
            .is_some_and(|conn| conn.state == State::Ready && conn.unwritten.is_none());
        let room = match source.qos {
            QoS::AtMostOnce => u32::MAX,
            _ => sender.room(),
        };
        if !open || room == 0 {
            source.queued = true;
            sender.waiting.push_back(at);
            return;
        }
        if saturates {
            flow.left -= u64::from(wanted.min(room));
        }
        let count = self.encode_messages(at, wanted.min(room));
        if saturates
            && let Some(source) = self.sources.get(at as usize)
            && let Some(flow) = self.flows.get_mut(source.flow as usize)
        {
            flow.left += u64::from(wanted.min(room) - count);
        }
        self.write(conn);
        if count < wanted {
            self.queue(at);
        }
    }

    /// Writes up to `count` messages of a source to `self.out`; says how many.
    fn encode_messages(&mut self, at: u32, count: u32) -> u32 {
        self.out.clear();
        let mut written = 0;
        let (from, to) = self.measure;
        let mut overruns = 0;
        let mut scheduled = 0;
        while written < count && self.out.len() < BYTES_PER_WRITE {
            let Some(source) = self.sources.get(at as usize) else { break };
            let (flow, sequence) = (source.flow as usize, source.sequence);
            let due = match self.flows.get(flow) {
                Some(local) if !local.pace_is_saturate() => {
                    self.due_of(flow, sequence.into(), at - local.first_source)
                }
                _ => self.now,
            };
            let per_message =
                self.plan.flows.get(flow).is_some_and(|flow| flow.topic_of_message.is_some());
            if source.packet.is_empty() || per_message {
                self.make_packet(at);
            }
            let (run, now) = (self.plan.run, self.now);
            let Some(source) = self.sources.get_mut(at as usize) else { break };
            let Some(flow) = self.flows.get(flow) else { break };
            let begin = self.out.len();
            self.out.extend_from_slice(&source.packet);
            let payload = begin + source.payload_at as usize;
            let header = Header { run, due, stream: source.stream, sequence };
            header.write(self.out.get_mut(payload..).unwrap_or_default());
            if source.qos > QoS::AtMostOnce
                && let Some(sender) = self.senders.get_mut(source.sender as usize)
            {
                let id = Sender::packet_id(sender.next).to_be_bytes();
                let id_at = begin + usize::from(source.id_at);
                if let Some(place) = self.out.get_mut(id_at..id_at + 2) {
                    place.copy_from_slice(&id);
                }
                sender.next = sender.next.wrapping_add(1);
                sender.inflight.push_back(Some(Inflight { due, source: at }));
            }
            source.sequence = sequence.wrapping_add(1);
            source.under_way = source.under_way.saturating_add(flow.fanout);
            written += 1;
            if !flow.pace_is_saturate() {
                source.owed -= 1;
                scheduled += 1;
                let late = now.saturating_sub(due);
                overruns += u64::from(late > MILLISECOND);
                if due >= from && due < to {
                    self.outcome.lateness.record(late);
                }
            }
        }
        let acknowledged =
            self.sources.get(at as usize).is_some_and(|source| source.qos > QoS::AtMostOnce);
        self.mine(|mine| {
            mine.counters.sent.add(written.into());
            mine.counters.sent_acknowledged.add(if acknowledged { written.into() } else { 0 });
            mine.counters.owed.sub(scheduled);
            mine.counters.overruns.add(overruns);
        });
        written
    }

    /// Makes the packet that a source sends again and again, with other numbers in it.
    fn make_packet(&mut self, at: u32) {
        let plan = std::sync::Arc::clone(&self.plan);
        let Some(source) = self.sources.get_mut(at as usize) else { return };
        let Some(flow) = plan.flows.get(source.flow as usize) else { return };
        let stream = source.stream - plan.first_stream(source.flow as usize);
        let topic = match &flow.topic_of_message {
            Some(topic) => topic(stream, source.sequence),
            None => (flow.topic)(stream),
        };
        let head = PublishHead {
            dup: false,
            qos: flow.qos,
            retain: flow.retain,
            topic: &topic,
            packet_id: if flow.qos > QoS::AtMostOnce { PacketId::new(1) } else { None },
            topic_alias: None,
            message_expiry_interval: None,
            subscription_ids: &[],
            forwarded: &[],
            payload_len: flow.payload,
        };
        let mut packet = Vec::with_capacity(head.packet_size(plan.version));
        // Topics and sizes have been checked when the plan was made.
        let _ = head.encode(plan.version, &mut packet);
        let payload_at = packet.len();
        packet.resize(payload_at + flow.payload, b'.');
        let properties = usize::from(plan.version == Version::V5);
        source.payload_at = payload_at as u32;
        source.id_at = payload_at.saturating_sub(2 + properties) as u16;
        source.packet = packet.into();
    }

    /// A message is acknowledged, by PUBACK or PUBCOMP.
    pub(super) fn on_acknowledged(&mut self, sender: u32, packet_id: u16, refused: bool) {
        let Some(it) = self.senders.get_mut(sender as usize) else { return };
        let Some(message) = it.acknowledge(packet_id) else { return };
        let waits = !it.waiting.is_empty();
        if message.due >= self.measure.0 && message.due < self.measure.1 {
            self.outcome.acknowledge.record(self.now.saturating_sub(message.due));
        }
        if let Some(source) = self.sources.get_mut(message.source as usize)
            && !refused
        {
            source.acknowledged += 1;
        }
        self.mine(|mine| mine.counters.acknowledged.add(1));
        if waits {
            self.serve_waiting(sender);
        }
    }

    /// So many deliveries of a stream have been received: its source may go on.
    pub(super) fn on_delivered(&mut self, flow: u32, local_stream: u32, count: u32) {
        let Some(description) = self.plan.flows.get(flow as usize) else { return };
        let member = self.plan.publisher_of(description, local_stream);
        let worker = self.plan.worker_of(description.group, member);
        if worker == self.id {
            self.settle_source(flow, local_stream, count);
            return;
        }
        let stream = self.plan.first_stream(flow as usize) + local_stream;
        let Some(settled) = self.settled.get_mut(worker as usize) else { return };
        match settled.last_mut() {
            Some((last, sum)) if *last == stream => *sum += count,
            _ => settled.push((stream, count)),
        }
    }

    fn settle_source(&mut self, flow: u32, local_stream: u32, count: u32) {
        let Some(local) = self.flows.get(flow as usize) else { return };
        let Some(description) = self.plan.flows.get(flow as usize) else { return };
        let first = self.plan.streams(description, self.id).start;
        let at = local.first_source + local_stream.saturating_sub(first);
        let fanout = local.fanout;
        let Some(source) = self.sources.get_mut(at as usize) else { return };
        source.under_way = source.under_way.saturating_sub(count);
        let Pace::Saturate { credit } = description.pace else { return };
        // Woken for each message of its credit, a source that may have many would write them one
        // by one.
        if !source.queued
            && credit.saturating_mul(fanout) - source.under_way.min(credit * fanout) >= fanout
        {
            self.queue(at);
        }
    }

    /// Exchanges deliveries with the other threads.
    pub(super) fn settle(&mut self) {
        for (to, deliveries) in self.settled.iter_mut().enumerate() {
            if !deliveries.is_empty()
                && let Some(worker) = self.shared.workers.get(to)
            {
                worker.tell(deliveries);
                deliveries.clear();
            }
        }
        let mut mail = std::mem::take(&mut self.mail);
        if let Some(mine) = self.shared.workers.get(self.id as usize) {
            mine.take_mail(&mut mail);
        }
        for (stream, count) in mail.drain(..) {
            let mut first = 0;
            for flow in 0..self.plan.flows.len() {
                let streams = self.plan.flows.get(flow).map_or(0, |flow| flow.streams);
                if stream < first + streams {
                    self.settle_source(flow as u32, stream - first, count);
                    break;
                }
                first += streams;
            }
        }
        self.mail = mail;
    }

    /// Messages that were lost would hold up their sender for ever.
    pub(super) fn forget_stalled(&mut self) {
        if self.phase != Phase::Run {
            return;
        }
        let now = self.now;
        let mut stalled = Vec::new();
        for (at, source) in self.sources.iter_mut().enumerate() {
            let Some(flow) = self.flows.get(source.flow as usize) else { continue };
            if !flow.pace_is_saturate() || source.queued {
                continue;
            }
            if source.checked.0 != source.sequence || source.checked.1 == 0 {
                source.checked = (source.sequence, now);
                continue;
            }
            let patience = match source.qos {
                QoS::AtMostOnce => FORGET_AFTER,
                _ => FORGET_ACKNOWLEDGED_AFTER,
            };
            if source.under_way > 0 && now - source.checked.1 > patience {
                source.under_way = 0;
                source.checked.1 = now;
                stalled.push(at as u32);
            }
        }
        self.mine(|mine| mine.counters.stalls.add(stalled.len() as u64));
        for source in stalled {
            self.queue(source);
        }
    }
}

impl super::LocalFlow {
    fn pace_is_saturate(&self) -> bool {
        matches!(self.pace, Pace::Saturate { .. })
    }
}
