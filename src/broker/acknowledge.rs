//! The acknowledgements of QoS 1 and 2 from a client. MQTT 5.0 sections 4.3 and 4.9.

use super::{Broker, ConnectionKey, SessionKey, explain::explanation, keep::Keeping};
use crate::{
    codec::{Ack, AckKind, Packet, PacketId, ReasonCode, encode_ack},
    record::{Change, DeliveryState, SessionNumber},
    session::{Acknowledged, Outgoing},
};

impl Broker {
    /// A QoS 1 message has arrived. `[MQTT-4.3.2-3]`
    pub(super) fn on_puback(
        &mut self,
        key: ConnectionKey,
        ack: &Ack<'_>,
    ) -> Result<(), ReasonCode> {
        let acknowledged = self.outgoing(key, |outgoing| outgoing.puback(ack.packet_id));
        self.on_acknowledged(key, ack.packet_id, acknowledged)
    }

    /// A QoS 2 message has arrived, or the client does not want it. `[MQTT-4.3.3-4]`
    pub(super) fn on_pubrec(
        &mut self,
        key: ConnectionKey,
        ack: &Ack<'_>,
    ) -> Result<(), ReasonCode> {
        let refused = ack.reason.is_error();
        let acknowledged = self.outgoing(key, |outgoing| outgoing.pubrec(ack.packet_id, refused));
        // A PUBREL that is not remembered would be followed by the same message once more.
        if let Acknowledged::Release(position) = acknowledged {
            let state = DeliveryState::Received(ack.packet_id.get());
            let (number, now) = (self.number(key), self.now);
            Keeping::new(&mut self.clients.journal, now).state(number, position, state);
            if number != 0 {
                self.clients.hold(key);
            }
        }
        if acknowledged == Acknowledged::UnknownPacketId && !refused {
            // MQTT 5.0 section 3.6.2.1: the client is to forget the packet id as well.
            self.acknowledge(
                key,
                AckKind::Pubrel,
                ack.packet_id,
                ReasonCode::PacketIdentifierNotFound,
            );
            return Ok(());
        }
        self.on_acknowledged(key, ack.packet_id, acknowledged)
    }

    /// A QoS 2 message is complete. `[MQTT-4.3.3-5]`
    pub(super) fn on_pubcomp(
        &mut self,
        key: ConnectionKey,
        ack: &Ack<'_>,
    ) -> Result<(), ReasonCode> {
        let acknowledged = self.outgoing(key, |outgoing| outgoing.pubcomp(ack.packet_id));
        self.on_acknowledged(key, ack.packet_id, acknowledged)
    }

    /// The client releases the packet id of a QoS 2 message of its own. `[MQTT-4.3.3-11]`
    pub(super) fn on_pubrel(
        &mut self,
        key: ConnectionKey,
        ack: &Ack<'_>,
    ) -> Result<(), ReasonCode> {
        let Some(connection) = self.clients.connections.get(key.index()) else { return Ok(()) };
        let Some(client) = self.clients.sessions.get(connection.session.index()) else {
            return Ok(());
        };
        let is_kept = client.number != 0;
        let session = connection.session;
        let known = self.release_received(session, ack.packet_id);
        if is_kept {
            // Else the client could use the id again, and its message be taken for the old one.
            self.clients.hold(key);
        }
        let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        self.acknowledge(key, AckKind::Pubcomp, ack.packet_id, reason);
        Ok(())
    }

    /// The packet id of a QoS 2 message from a client is free again; false if it was not in use.
    pub(super) fn release_received(&mut self, session: SessionKey, packet_id: PacketId) -> bool {
        let Some(client) = self.clients.sessions.get_mut(session.index()) else { return false };
        let known = client.release(packet_id);
        if known && client.number != 0 {
            let (session, packet_id) = (client.number, packet_id.get());
            self.clients.journal.push(Change::DropReceived { session, packet_id });
        }
        known
    }

    /// What the store knows the session of a connection by; 0 if it is not kept.
    fn number(&self, key: ConnectionKey) -> SessionNumber {
        let connection = self.clients.connections.get(key.index());
        let client = connection.and_then(|c| self.clients.sessions.get(c.session.index()));
        client.map_or(0, |client| client.number)
    }

    /// Sends an acknowledgement.
    pub(super) fn acknowledge(
        &mut self,
        key: ConnectionKey,
        kind: AckKind,
        packet_id: PacketId,
        reason: ReasonCode,
    ) {
        let text = match reason.is_error() {
            true => explanation(kind.packet_type(), reason),
            false => None,
        };
        if text.is_none() {
            let encode = |version, out: &mut _| encode_ack(kind, packet_id, reason, version, out);
            return self.clients.control(key, encode);
        }
        self.clients.answer(key, text, |reason_string| {
            let ack = Ack { reason_string, ..Ack::new(packet_id, reason) };
            match kind {
                AckKind::Puback => Packet::Puback(ack),
                AckKind::Pubrec => Packet::Pubrec(ack),
                AckKind::Pubrel => Packet::Pubrel(ack),
                AckKind::Pubcomp => Packet::Pubcomp(ack),
            }
        });
    }

    fn outgoing(
        &mut self,
        key: ConnectionKey,
        f: impl FnOnce(&mut Outgoing) -> Acknowledged,
    ) -> Acknowledged {
        let connection = self.clients.connections.get(key.index());
        connection
            .and_then(|connection| self.clients.sessions.get_mut(connection.session.index()))
            .and_then(|client| client.outgoing.as_mut())
            .map_or(Acknowledged::UnknownPacketId, |outgoing| f(outgoing))
    }

    fn on_acknowledged(
        &mut self,
        key: ConnectionKey,
        packet_id: PacketId,
        acknowledged: Acknowledged,
    ) -> Result<(), ReasonCode> {
        match acknowledged {
            Acknowledged::Done(position) => {
                let (number, now) = (self.number(key), self.now);
                Keeping::new(&mut self.clients.journal, now).drop_delivery(number, position);
            }
            Acknowledged::Release(_) => {
                self.acknowledge(key, AckKind::Pubrel, packet_id, ReasonCode::Success);
                return Ok(());
            }
            // It answers what an earlier connection sent, or what it answered before: harmless.
            Acknowledged::UnknownPacketId => return Ok(()),
            Acknowledged::WrongState => return Err(ReasonCode::ProtocolError),
        }
        let Some(connection) = self.clients.connections.get(key.index()) else { return Ok(()) };
        let session = connection.session;
        self.clients.pump(session);
        self.fetch_retained(session);
        Ok(())
    }
}
