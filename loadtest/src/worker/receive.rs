//! Reading sockets, and what the packets mean that come in.

use ringmq::codec::{FrameStatus, Packet, ReasonCode, Version, frame};
use rustix::{event::epoll::EventFlags, io::Errno, net::RecvFlags};

use super::{State, Worker, conn::NONE};
use crate::{failure::Failure, header::Header, ledger::Arrival, plan::Expects};

const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const PINGRESP: u8 = 13;

/// Not MQTT, or not what may come here.
struct Unexpected;

impl Worker {
    /// A socket is ready.
    pub(super) fn on_socket(&mut self, at: usize, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            self.write_rest(at);
        }
        let ended = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if !ended && !flags.contains(EventFlags::IN) {
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(socket) = self.conns.get(at).and_then(|conn| conn.socket.as_ref()) {
            match rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => {
                    self.on_gone(at, Failure::Lost);
                    break;
                }
                Ok((received, _)) => {
                    self.now = crate::clock::now();
                    self.on_bytes(at, buffer.get(..received).unwrap_or_default());
                    if received < buffer.len() && !ended {
                        break;
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET | Errno::PIPE) => {
                    self.on_gone(at, Failure::Lost);
                    break;
                }
                Err(error) => {
                    self.on_gone(at, Failure::from_errno(error));
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// Lets the kernel acknowledge what receivers have read together with what they read next.
    ///
    /// In saturation only: a broker that leaves Nagle's algorithm on waits for acknowledgements, and
    /// latencies count at a fixed rate. There the kernel would soon stop to do it anyway, for a
    /// receiver that has few messages.
    pub(super) fn delay_acknowledgements(&self) {
        if !self.saturates {
            return;
        }
        let receivers = self.conns.iter().filter(|conn| conn.receiver != NONE);
        for socket in receivers.filter_map(|conn| conn.socket.as_ref()) {
            let _ = rustix::net::sockopt::set_tcp_quickack(socket, false);
        }
    }

    /// Bytes have come; the answers to all of them are one write.
    fn on_bytes(&mut self, at: usize, bytes: &[u8]) {
        self.mine(|mine| mine.counters.bytes_received.add(bytes.len() as u64));
        self.out.clear();
        let unread = self.conns.get_mut(at).and_then(|conn| conn.unread.take());
        let result = match unread {
            None => self.on_packets(at, bytes).map(|consumed| {
                let rest = bytes.get(consumed..).unwrap_or_default();
                if !rest.is_empty()
                    && let Some(conn) = self.conns.get_mut(at)
                {
                    conn.unread = Some(Box::new(rest.to_vec()));
                }
            }),
            Some(mut unread) => {
                unread.extend_from_slice(bytes);
                self.on_packets(at, &unread).map(|consumed| {
                    unread.drain(..consumed);
                    if !unread.is_empty()
                        && let Some(conn) = self.conns.get_mut(at)
                    {
                        conn.unread = Some(unread);
                    }
                })
            }
        };
        if result.is_err() {
            self.on_gone(at, Failure::Malformed);
            return;
        }
        if !self.out.is_empty() {
            self.write(at);
        }
    }

    /// Handles every whole packet; says how many bytes they took.
    fn on_packets(&mut self, at: usize, bytes: &[u8]) -> Result<usize, Unexpected> {
        let mut rest = bytes;
        let (mut received, mut sum) = (0u64, Deliveries::default());
        while let Some((&header, after)) = rest.split_first() {
            let Some((length, used)) = remaining_length(after)? else { break };
            let Some(body) = after.get(used..used + length) else { break };
            let packet = rest.get(..1 + used + length).unwrap_or_default();
            rest = after.get(used + length..).unwrap_or_default();
            match header >> 4 {
                PUBLISH => {
                    self.on_publish(at, header, body, &mut sum)?;
                    received += 1;
                }
                PUBACK | PUBREC | PUBREL | PUBCOMP => self.on_ack(at, header >> 4, body)?,
                PINGRESP => {
                    if let Some(conn) = self.conns.get_mut(at)
                        && std::mem::take(&mut conn.pinged)
                    {
                        self.mine(|mine| mine.counters.pongs.add(1));
                    }
                }
                _ => {
                    self.on_other(at, packet)?;
                    if self.conns.get(at).is_none_or(|conn| conn.socket.is_none()) {
                        return Ok(bytes.len());
                    }
                }
            }
        }
        if received > 0 {
            self.mine(|mine| {
                mine.counters.received.add(received - sum.foreign);
                mine.counters.foreign.add(sum.foreign);
            });
        }
        Ok(bytes.len() - rest.len())
    }

    fn on_publish(
        &mut self,
        at: usize,
        header: u8,
        body: &[u8],
        sum: &mut Deliveries,
    ) -> Result<(), Unexpected> {
        let (topic_len, rest) = body.split_first_chunk::<2>().ok_or(Unexpected)?;
        let topic_len = usize::from(u16::from_be_bytes(*topic_len));
        let mut rest = rest.get(topic_len..).ok_or(Unexpected)?;
        let qos = header >> 1 & 3;
        let mut duplicate = false;
        if qos > 0 {
            let (id, after) = rest.split_first_chunk::<2>().ok_or(Unexpected)?;
            rest = after;
            let answer = if qos == 1 { PUBACK } else { PUBREC };
            self.out.extend_from_slice(&[answer << 4, 2]);
            self.out.extend_from_slice(id);
            if qos == 2 {
                duplicate = self.note_unreleased(at, u16::from_be_bytes(*id));
            }
        }
        if self.plan.version == Version::V5 {
            let (length, used) = remaining_length(rest)?.ok_or(Unexpected)?;
            rest = rest.get(used + length..).ok_or(Unexpected)?;
        }
        if !duplicate {
            self.on_message(at, rest, sum);
        }
        Ok(())
    }

    /// Notes a QoS 2 packet id; true if that message is being received already `[MQTT-4.3.3-10]`.
    fn note_unreleased(&mut self, at: usize, id: u16) -> bool {
        let Some(receiver) = self.conns.get(at).map(|conn| conn.receiver) else { return false };
        let Some(receiver) = self.receivers.get_mut(receiver as usize) else { return false };
        let known = receiver.unreleased.contains(&id);
        if !known {
            receiver.unreleased.push_back(id);
        }
        known
    }

    fn on_message(&mut self, at: usize, payload: &[u8], sum: &mut Deliveries) {
        let Some(receiver) = self.conns.get(at).map(|conn| conn.receiver) else { return };
        let ours = Header::read(payload);
        let Some(receiver) = self.receivers.get_mut(receiver as usize) else {
            sum.foreign += 1;
            return;
        };
        receiver.received += 1;
        let Some(header) = ours else {
            sum.foreign += 1;
            return;
        };
        // Another process of this tool may have sent it: then its time is good, if nothing else.
        let anything = receiver.expects == Expects::Anything;
        if header.run != self.plan.run && !(anything && header.run >> 8 == self.plan.run >> 8) {
            sum.foreign += 1;
            return;
        }
        let age = header.age(self.now);
        let due = self.now - age;
        if due >= self.measure.0 && due < self.measure.1 {
            self.outcome.delivery.record(age);
        }
        if let Some(mine) = self.shared.workers.get(self.id as usize) {
            mine.live.record(age);
        }
        match receiver.expects {
            Expects::Nothing | Expects::Anything => {}
            Expects::Share { flow } => {
                let new =
                    self.outcome.shares.entry(header.stream).or_default().note(header.sequence);
                let local = header.stream.wrapping_sub(receiver.first_stream);
                if new && self.saturates {
                    self.on_delivered(flow, local, 1);
                }
            }
            Expects::Streams { flow, first, stride, count } => {
                let offset = header.stream.wrapping_sub(receiver.first_stream);
                let index = if stride > 1 { offset / stride } else { offset };
                if index >= count || index * stride != offset {
                    sum.foreign += 1;
                    return;
                }
                let tracks = receiver.tracks + index;
                let Some(track) = self.tracks.get_mut(tracks as usize) else { return };
                if let Arrival::Next { skipped } = track.note(header.sequence)
                    && self.saturates
                {
                    self.on_delivered(flow, first + offset, 1 + skipped);
                }
            }
        }
    }

    fn on_ack(&mut self, at: usize, kind: u8, body: &[u8]) -> Result<(), Unexpected> {
        let (id, rest) = body.split_first_chunk::<2>().ok_or(Unexpected)?;
        let packet_id = u16::from_be_bytes(*id);
        let reason = rest.first().copied().unwrap_or_default();
        let refused = reason >= 0x80;
        let Some(conn) = self.conns.get(at) else { return Ok(()) };
        let (sender, receiver) = (conn.sender, conn.receiver);
        if refused && kind != PUBREL {
            self.fail(Failure::Publish(
                ReasonCode::try_from(reason).unwrap_or(ReasonCode::UnspecifiedError),
            ));
        }
        match kind {
            PUBREC if !refused => {
                self.out.extend_from_slice(&[PUBREL << 4 | 2, 2]);
                self.out.extend_from_slice(id);
            }
            PUBREL => {
                self.out.extend_from_slice(&[PUBCOMP << 4, 2]);
                self.out.extend_from_slice(id);
                if let Some(receiver) = self.receivers.get_mut(receiver as usize)
                    && let Some(found) = receiver.unreleased.iter().position(|it| *it == packet_id)
                {
                    receiver.unreleased.remove(found);
                }
            }
            _ => self.on_acknowledged(sender, packet_id, refused),
        }
        Ok(())
    }

    /// Packets that are rare: the codec reads them.
    fn on_other(&mut self, at: usize, packet: &[u8]) -> Result<(), Unexpected> {
        let Ok(FrameStatus::Complete(frame)) = frame(packet, u32::MAX) else {
            return Err(Unexpected);
        };
        let packet = Packet::decode(&frame, self.plan.version).map_err(|_| Unexpected)?;
        let Some(conn) = self.conns.get(at) else { return Ok(()) };
        match (packet, conn.state) {
            (Packet::Connack(connack), State::Connecting) => {
                if connack.reason.is_error() {
                    self.attempt_failed(at, Failure::Connack(connack.reason));
                    return Ok(());
                }
                if let Some(maximum) = connack.properties.receive_maximum
                    && let Some(sender) = self.senders.get_mut(conn.sender as usize)
                    && u32::from(maximum) < sender.window
                {
                    sender.window = maximum.into();
                    self.outcome.lowered_window = Some(maximum.into());
                }
                self.on_connected(at);
                self.out.clear();
                Ok(())
            }
            (Packet::Suback(suback), State::Subscribing) => {
                if let Some(reason) = suback.reasons.iter().find(|reason| reason.is_error()) {
                    self.attempt_failed(at, Failure::Suback(reason));
                    return Ok(());
                }
                self.outcome.subscribe.record(self.now.saturating_sub(conn.since));
                self.on_ready(at);
                Ok(())
            }
            (Packet::Disconnect(disconnect), _) => {
                self.on_gone(at, Failure::Disconnected(disconnect.reason));
                Ok(())
            }
            _ => Err(Unexpected),
        }
    }
}

/// What one read has brought.
#[derive(Default)]
struct Deliveries {
    foreign: u64,
}

/// A Variable Byte Integer and its length; `None` if its end is missing.
fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Unexpected> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(Unexpected) }
}
