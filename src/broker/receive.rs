//! Bytes from a client: cut into packets, and each packet to the function that handles it.

use super::{Broker, ConnectionKey, NextStep, Now, Progress, connection::State};
use crate::{
    codec::{self, DecodeError, Frame, FrameStatus, Packet, PacketType, Publish, ReasonCode},
    limits,
    stats::CloseReason,
    topics::ShardId,
};

/// The bytes that one call encodes for all receivers before it yields, apart from those of its last
/// packet. Enough that a publisher to very many still shares its writes among many messages.
const ENCODED_PER_CALL: usize = 16 << 20;

impl Broker {
    /// Bytes came in on a connection: those left over by the last call, and new ones behind them.
    ///
    /// At most `packets_per_turn` packets are handled, fewer if they cause very much output. Nothing is kept of bytes not consumed.
    pub fn on_bytes(&mut self, now: Now, key: ConnectionKey, bytes: &[u8]) -> Progress {
        self.set_now(now);
        let mut progress = Progress { consumed: 0, talks: false, next: NextStep::Read };
        progress.next = self.handle_packets(key, bytes, &mut progress);
        if !matches!(progress.next, NextStep::HandOver(_)) {
            self.stats.bytes_received.add(progress.consumed as u64);
        }
        progress
    }

    /// The shard holds too many bytes of packets that are not complete, and this connection has
    /// just added to them.
    pub fn on_too_much_unread(&mut self, now: Now, key: ConnectionKey) {
        self.set_now(now);
        self.violated(key, ReasonCode::QuotaExceeded);
    }

    fn handle_packets(
        &mut self,
        key: ConnectionKey,
        bytes: &[u8],
        progress: &mut Progress,
    ) -> NextStep {
        self.clients.work = 0;
        for _ in 0..self.config.packets_per_turn {
            if self.clients.work > limits::WORK_PER_TURN {
                break;
            }
            let Some(connection) = self.clients.connections.get(key.index()) else {
                return NextStep::Read;
            };
            if connection.state == State::Closing {
                progress.consumed = bytes.len();
                return NextStep::Read;
            }
            if connection.paused {
                return NextStep::Pause;
            }
            let (state, version) = (connection.state, connection.version);
            let rest = bytes.get(progress.consumed..).unwrap_or_default();
            let frame = match codec::frame(rest, self.config.max_packet_size) {
                Ok(FrameStatus::Incomplete { .. }) => return NextStep::Read,
                Ok(FrameStatus::Complete(frame)) => frame,
                Err(error) => {
                    self.on_decode_error(key, &error);
                    continue;
                }
            };
            let packet_type = frame.packet_type();
            let handled = match (state, packet_type) {
                (State::AwaitConnect, _) => match self.on_first_packet(key, &frame, rest) {
                    Some(home) => return NextStep::HandOver(home),
                    None => Ok(Ok(())),
                },
                // What nearly all packets are, past the large type that holds any.
                (State::Connected, Some(PacketType::Publish)) => {
                    let publish = Publish::decode(&frame, version);
                    if publish.as_ref().is_ok_and(|publish| self.has_to_wait(key, publish)) {
                        return NextStep::Pause;
                    }
                    publish.map(|publish| self.on_publish(key, &publish))
                }
                _ => Packet::decode(&frame, version).map(|packet| self.on_packet(key, packet)),
            };
            let handled = match handled {
                Ok(handled) => handled,
                Err(error) => {
                    self.on_decode_error(key, &error);
                    continue;
                }
            };
            progress.consumed += frame.len;
            progress.talks |= packet_type.is_some_and(PacketType::is_of_delivery);
            self.stats.packets_received.add(1);
            self.on_packet_done(key, handled);
            if self.clients.out.encoded() > ENCODED_PER_CALL {
                break;
            }
        }
        NextStep::Yield
    }

    fn on_packet_done(&mut self, key: ConnectionKey, handled: Result<(), ReasonCode>) {
        if let Err(reason) = handled {
            self.violated(key, reason);
            return self.end_unsendable();
        }
        self.end_unsendable();
        let max_outbox = self.config.max_outbox_bytes;
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        connection.last_packet = tenths(self.now.monotonic);
        // Whoever sends without reading the answers is not read from until it does.
        if connection.outbox.as_ref().is_some_and(|o| o.is_stuck() && o.queued() >= max_outbox) {
            connection.paused = true;
            self.stats.reads_paused.add(1);
        }
    }

    /// Ends connections whose clients do not take an answer that is due.
    pub(super) fn end_unsendable(&mut self) {
        while let Some(key) = self.clients.unsendable.pop() {
            let text = "an answer would be larger than the client's Maximum Packet Size";
            self.violated_by(key, ReasonCode::PacketTooLarge, text);
        }
    }

    /// The first packet must be a CONNECT. `[MQTT-3.1.0-1]` Returns the home shard of the client
    /// if that is another one.
    fn on_first_packet(
        &mut self,
        key: ConnectionKey,
        frame: &Frame<'_>,
        bytes: &[u8],
    ) -> Option<ShardId> {
        match Packet::decode(frame, codec::Version::V5) {
            Ok(Packet::Connect(connect)) => {
                if !connect.client_id.is_empty() {
                    let home = self.shared.home_shard(connect.client_id);
                    if home != self.id {
                        return Some(home);
                    }
                }
                let packet = bytes.get(..frame.len).unwrap_or_default();
                self.on_connect(key, &connect, packet);
            }
            Ok(_) => self.abort(key, CloseReason::ProtocolError),
            Err(error) => self.on_decode_error(key, &error),
        }
        None
    }

    fn on_packet(&mut self, key: ConnectionKey, packet: Packet<'_>) -> Result<(), ReasonCode> {
        let state = self.clients.connections.get(key.index()).map(|c| c.state);
        if state == Some(State::Authenticating) {
            return match packet {
                Packet::Auth(auth) => self.on_auth(key, &auth),
                Packet::Disconnect(_) => {
                    self.abort(key, CloseReason::Disconnect);
                    Ok(())
                }
                // [MQTT-3.1.4-6], and [MQTT-4.12.0-1] while an exchange is under way.
                _ => Err(ReasonCode::ProtocolError),
            };
        }
        match packet {
            Packet::Publish(publish) => self.on_publish(key, &publish),
            Packet::Puback(ack) => self.on_puback(key, &ack),
            Packet::Pubrec(ack) => self.on_pubrec(key, &ack),
            Packet::Pubrel(ack) => self.on_pubrel(key, &ack),
            Packet::Pubcomp(ack) => self.on_pubcomp(key, &ack),
            Packet::Subscribe(subscribe) => self.on_subscribe(key, &subscribe),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(key, &unsubscribe),
            Packet::Pingreq => {
                // [MQTT-3.12.4-1]
                self.clients.control(key, |version, out| encode(&Packet::Pingresp, version, out));
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.on_disconnect(key, &disconnect),
            Packet::Auth(auth) => self.on_auth(key, &auth),
            // A second CONNECT [MQTT-3.1.0-2], or a packet that only servers send.
            Packet::Connect(_)
            | Packet::Connack(_)
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::Pingresp => Err(ReasonCode::ProtocolError),
        }
    }

    /// The client sent what is no MQTT packet, or one that is not allowed: the connection ends.
    /// `[MQTT-4.13.1-1]`
    fn on_decode_error(&mut self, key: ConnectionKey, error: &DecodeError) {
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        tracing::debug!(peer = %connection.peer(), %error, "bad packet");
        let reason = error.reason_code();
        if connection.state != State::AwaitConnect {
            return self.violated_by(key, reason, &error.to_string());
        }
        match error.connack() {
            Some((version, reason)) => {
                connection.version = version;
                self.refuse_with(key, reason, Some(&error.to_string()));
            }
            // What speaks no MQTT gets no MQTT answer, and before MQTT 5 a CONNECT that is no valid
            // packet gets none. [MQTT311-3.1.4-1]
            None => self.abort(key, super::close::close_reason(reason)),
        }
    }
}

/// Encodes a packet of the broker's own making.
pub(super) fn encode(packet: &Packet<'_>, version: codec::Version, out: &mut Vec<u8>) {
    let start = out.len();
    if let Err(error) = packet.encode(version, out) {
        // Only strings and lists that are too long can fail, and the broker sends no such.
        out.truncate(start);
        tracing::error!(%error, "a packet could not be encoded; this is a bug");
    }
}

/// A time in tenths of a second, in the 32 bits that a connection has for it: 13 years.
pub(super) fn tenths(milliseconds: u64) -> u32 {
    (milliseconds / 100) as u32
}
