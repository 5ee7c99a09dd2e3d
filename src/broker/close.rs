//! How connections and sessions end: DISCONNECT both ways, wills, and session expiry.

use super::{
    Broker, ConnectionKey, Effect, Now, SessionKey, Timer,
    client::{Client, Will},
    connection::State,
    deliver::Encoding,
    estate,
    explain::explanation,
    journal::Deferred,
    keep::Keeping,
    publish::{Origin, Routed},
    receive::tenths,
};
use crate::{
    codec::{Connack, ConnackProperties, Disconnect, Packet, PacketType, ReasonCode, Version},
    record::Change,
    session::{Delivery, Message, Publication, UNSTORED, expiry},
    stats::{CloseReason, DropReason},
};

/// What is due later than this is looked at in between, in tenths of a second: ten minutes. Timers
/// are not cancelled, and those of clients that come and go must not pile up until they are due.
const LOOK_AGAIN: u32 = 600 * 10;

impl Broker {
    /// The client ends the connection. MQTT 5.0 section 3.14.4.
    pub(super) fn on_disconnect(
        &mut self,
        key: ConnectionKey,
        disconnect: &Disconnect<'_>,
    ) -> Result<(), ReasonCode> {
        if is_servers(disconnect.reason) || disconnect.server_reference.is_some() {
            return Err(ReasonCode::ProtocolError);
        }
        let Some(connection) = self.clients.connections.get(key.index()) else { return Ok(()) };
        let Some(client) = self.clients.sessions.get_mut(connection.session.index()) else {
            return Ok(());
        };
        if let Some(interval) = disconnect.session_expiry_interval {
            // A session that was to end with the connection, as CONNECT had it, cannot be kept after
            // all: MQTT 5.0 section 3.14.2.2.2.
            if !connection.asked_to_stay && interval != 0 {
                return Err(ReasonCode::ProtocolError);
            }
            client.expiry_interval = interval.min(self.config.max_session_expiry);
        }
        if disconnect.reason == ReasonCode::Success {
            client.will = None; // [MQTT-3.14.4-3], [MQTT-3.1.2-10]
        }
        self.close(key, CloseReason::Disconnect, None);
        Ok(())
    }

    /// The client has violated the protocol: it is told so, as far as its version allows, and the
    /// connection ends. `[MQTT-4.13.1-1]`
    pub(super) fn violated(&mut self, key: ConnectionKey, reason: ReasonCode) {
        self.close(key, close_reason(reason), Some(reason));
    }

    /// The same, with a Reason String of its own.
    pub(super) fn violated_by(&mut self, key: ConnectionKey, reason: ReasonCode, text: &str) {
        self.close_with(key, close_reason(reason), Some(reason), Some(text));
    }

    /// Answers a CONNECT with a reason not to accept it, and ends the connection.
    /// `[MQTT-3.1.4-2]`, `[MQTT-3.2.2-7]`
    pub(super) fn refuse(&mut self, key: ConnectionKey, cause: ReasonCode) {
        self.refuse_with(key, cause, explanation(PacketType::Connack, cause));
    }

    /// The same, with a Reason String of its own.
    pub(super) fn refuse_with(
        &mut self,
        key: ConnectionKey,
        cause: ReasonCode,
        text: Option<&str>,
    ) {
        let reason = match cause {
            cause if cause.is_allowed_in(PacketType::Connack) => cause,
            ReasonCode::ServerShuttingDown => ReasonCode::ServerUnavailable,
            _ => ReasonCode::UnspecifiedError,
        };
        // Who takes not even the shortest one is not told.
        self.clients.try_explained(key, text, |reason_string| {
            let properties = ConnackProperties { reason_string, ..<_>::default() };
            Packet::Connack(Connack { session_present: false, reason, properties })
        });
        self.close(key, close_reason(cause), None);
    }

    /// Ends the connection at once, with nothing said.
    pub(super) fn abort(&mut self, key: ConnectionKey, cause: CloseReason) {
        self.close(key, cause, None);
        self.effects.push(Effect::Abort(key));
    }

    /// Ends a connection. With a `reason`, an MQTT 5 client gets a DISCONNECT that says it. The
    /// session is detached here and now; the bytes in the outbox still go out.
    pub(super) fn close(
        &mut self,
        key: ConnectionKey,
        cause: CloseReason,
        reason: Option<ReasonCode>,
    ) {
        let text = reason.and_then(|reason| explanation(PacketType::Disconnect, reason));
        self.close_with(key, cause, reason, text);
    }

    /// The same, with a Reason String of its own.
    fn close_with(
        &mut self,
        key: ConnectionKey,
        cause: CloseReason,
        reason: Option<ReasonCode>,
        text: Option<&str>,
    ) {
        let Some(connection) = self.clients.connections.get(key.index()) else { return };
        let (state, version) = (connection.state, connection.version);
        match (state, reason) {
            (State::Closing, _) => return,
            (State::Connected, Some(reason)) if version == Version::V5 => {
                let reason = match reason {
                    reason if reason.is_allowed_in(PacketType::Disconnect) => reason,
                    // What an authentication module says may be meant for CONNACK.
                    _ if cause == CloseReason::NotAuthorized => ReasonCode::NotAuthorized,
                    _ => ReasonCode::UnspecifiedError,
                };
                // Who takes not even the shortest one is not told.
                self.clients.try_explained(key, text, |reason_string| {
                    Packet::Disconnect(Disconnect { reason, reason_string, ..<_>::default() })
                });
            }
            // Before CONNACK, CONNACK says it. [MQTT-3.14.0-1]
            (State::Authenticating, Some(reason)) => return self.refuse_with(key, reason, text),
            _ => {}
        }
        self.abandon_exchange(key);
        self.detach(key, cause);
        let linger = self.now.monotonic + self.config.linger;
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        connection.state = State::Closing;
        connection.finishing = true;
        connection.last_packet = tenths(self.now.monotonic);
        connection.extra().cause = Some(cause);
        if std::mem::take(&mut connection.paused) {
            self.effects.push(Effect::Resume(key));
        }
        self.effects.push(Effect::Finish(key));
        self.arm_connection(key, linger);
    }

    /// Takes the session off a connection that ends: it goes offline, or ends with it.
    pub(super) fn detach(&mut self, key: ConnectionKey, cause: CloseReason) {
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        let session = std::mem::replace(&mut connection.session, SessionKey::NONE);
        let Some(client) = self.clients.sessions.get_mut(session.index()) else { return };
        client.connection = ConnectionKey::NONE;
        self.stats.clients_connected.sub(1);
        if let Some(outgoing) = &mut client.outgoing {
            outgoing.connection_lost();
        }
        if let Some(incoming) = &mut client.incoming {
            incoming.connection_lost();
            if incoming.is_empty() {
                client.incoming = None;
            }
        }
        if cause == CloseReason::ServerShutdown && client.number == 0 {
            // Everybody leaves at once, and nobody is left to be told.
            client.will = None;
        }
        let now = tenths(self.now.monotonic);
        if let Some(will) = &mut client.will {
            will.due_at = now.saturating_add(will.delay_interval.saturating_mul(10)).max(1);
        }
        client.expires_at = match client.expiry_interval {
            u32::MAX => u32::MAX,
            seconds => now.saturating_add(seconds.saturating_mul(10)),
        };
        let persistent = client.is_persistent();
        if persistent {
            self.keep_record(session);
        }
        self.announce_groups(session, false);
        self.announce_disconnected(key, session, cause);
        if persistent {
            self.on_session_deadline(session);
        } else {
            self.end_session(session);
        }
    }

    /// Something may be due for an offline session: its will, or its end.
    pub(super) fn on_session_deadline(&mut self, key: SessionKey) {
        let Some(client) = self.clients.sessions.get_mut(key.index()) else { return };
        if client.is_online() {
            return;
        }
        let now = tenths(self.now.monotonic);
        if client.expires_at <= now {
            self.stats.sessions_expired.add(1);
            return self.end_session(key);
        }
        if client.will.as_ref().is_some_and(|will| will.due_at <= now) {
            self.publish_will(key);
            self.keep_after_all(key);
        }
        self.arm_session(key);
    }

    /// Ends a session and forgets it. A will that still waits is published: `[MQTT-3.1.3-9]`.
    pub(super) fn end_session(&mut self, key: SessionKey) {
        self.unsubscribe_all(key);
        self.publish_will(key);
        let Some(mut client) = self.clients.sessions.remove(key.index()) else { return };
        let hash = self.shared.seed.hash(&client.id);
        if let Ok(entry) = self.clients.by_id.find_entry(hash, |k| *k == key) {
            entry.remove();
        }
        self.stats.sessions.sub(1);
        self.end_kept(&mut client);
    }

    /// Puts the record of a session as it is now, if it is kept; but not before a will that it has
    /// had is kept wherever it went.
    pub(super) fn keep_record(&mut self, key: SessionKey) {
        let Some(client) = self.clients.sessions.get(key.index()) else { return };
        let journal = &mut self.clients.journal;
        match journal.defers(client.serial) {
            true => journal.defer(Deferred::Restate(key, client.serial)),
            false => Keeping::new(journal, self.now).session(client),
        }
    }

    /// Puts the record of a session anew: its will is published, which must not be forgotten before
    /// it is kept wherever it went.
    fn keep_after_all(&mut self, key: SessionKey) {
        let Some(client) = self.clients.sessions.get(key.index()) else { return };
        self.change_behind_will(client.serial, Deferred::Restate(key, client.serial));
    }

    /// Makes a change of a session, by its serial number, that must not become durable before an
    /// earlier will of it is kept wherever it went, nor before what was sent in this turn.
    fn change_behind_will(&mut self, serial: u32, change: Deferred) {
        match self.clients.journal.defers(serial) {
            true => self.clients.journal.defer(change),
            false => self.change_behind_sent(change),
        }
    }

    /// Makes a change that must not become durable before what was sent in this turn to other shards
    /// that may have to keep it: now, if nothing was.
    pub(super) fn change_behind_sent(&mut self, change: Deferred) {
        match self.clients.journal.has_asked() {
            true => self.clients.journal.defer(change),
            false => self.change_after_all(change),
        }
    }

    /// What was deferred until messages to other shards are kept there.
    pub(super) fn change_after_all(&mut self, deferred: Deferred) {
        match deferred {
            Deferred::End(change) => self.clients.journal.push(*change),
            Deferred::Restate(key, serial) => {
                let client = self.clients.sessions.get(key.index());
                let Some(client) = client.filter(|client| client.serial == serial) else { return };
                Keeping::new(&mut self.clients.journal, self.now).session(client);
            }
            Deferred::Once(changes) => self.clients.journal.stage_once(changes),
            Deferred::Received(key, serial, packet_id) => {
                let client = self.clients.sessions.get(key.index());
                let Some(client) = client.filter(|client| client.serial == serial) else { return };
                let incoming = client.incoming.as_ref();
                if incoming.is_some_and(|incoming| incoming.is_unreleased(packet_id)) {
                    let (session, packet_id) = (client.number, packet_id.get());
                    self.clients.journal.push(Change::PutReceived { session, packet_id });
                }
            }
        }
    }

    /// Passes on what a session that has ended leaves behind, and forgets it for good.
    fn end_kept(&mut self, client: &mut Client) {
        let session = client.number;
        let has_failed = self.clients.journal.has_failed();
        let leaves = session != 0 && !has_failed && self.leave_estate(client);
        self.leave_messages(client, leaves);
        if session == 0 {
            return;
        }
        self.clients.journal.ends(&client.id);
        let change = match leaves {
            true => Change::PutSession { session, record: estate::ended(client.id.clone()) },
            false => Change::EndSession { session },
        };
        self.change_behind_will(client.serial, Deferred::End(Box::new(change)));
    }

    /// What is in memory goes to other members of its groups; if the session leaves its messages in
    /// the store, only what is not there.
    fn leave_messages(&mut self, client: &mut Client, leaves: bool) {
        let Some(outgoing) = client.outgoing.take() else { return };
        // A store that has failed will have the session again when it is in order.
        let in_store = leaves || client.number != 0 && self.clients.journal.has_failed();
        if !leaves {
            self.stats.queued_messages.sub(outgoing.queued() as u64);
            self.stats.queued_bytes.sub(outgoing.queued_bytes() as u64);
            self.stats.stored_queued_bytes.sub(outgoing.stored().bytes as u64);
        }
        let is_left = |delivery: &Delivery| !in_store || delivery.position == UNSTORED;
        let stored = if in_store { 0 } else { outgoing.stored().messages };
        let mut lost = stored + outgoing.in_memory().filter(|delivery| is_left(delivery)).count();
        let groups: Vec<_> = client.groups().map(|membership| membership.hash).collect();
        for delivery in outgoing.into_shared().filter(is_left) {
            lost -= 1;
            if let Err(reason) = self.redispatch(&delivery, &groups) {
                self.stats.publish_dropped.add(reason, 1);
            }
        }
        self.stats.publish_dropped.add(DropReason::SessionEnded, lost as u64);
    }

    /// Publishes the session's will, if it has one.
    fn publish_will(&mut self, key: SessionKey) {
        let Some(client) = self.clients.sessions.get_mut(key.index()) else { return };
        let Some(will) = client.will.take() else { return };
        // It is the client's own message, wherever that matters. [MQTT-3.8.3-3]
        let origin = Some(Origin { session: key, hash: self.shared.seed.hash(&client.id) });
        self.publish_as_will(origin, &will);
    }

    pub(super) fn publish_as_will(&mut self, origin: Option<Origin>, will: &Will) {
        let view = will.message.view();
        let expires_at = expiry(will.expiry_interval, self.now.monotonic);
        self.stats.wills_published.add(1);
        let publication = Publication { expires_at, ..view };
        self.route(origin, &mut Encoding::new(publication), Routed::default());
    }

    /// Publishes a message of the broker's own.
    pub(super) fn publish_own(&mut self, publication: Publication<'_>) {
        self.route(None, &mut Encoding::new(publication), Routed::default());
    }

    /// The broker stops: MQTT 5 clients are told, nobody is let in any more. What waits for slow
    /// clients still goes out, until the shutdown timeout ends.
    pub fn on_drain(&mut self, now: Now) {
        self.set_now(now);
        self.drain_until = Some(now.monotonic.saturating_add(self.config.shutdown_timeout));
        let keys: Vec<_> = self.clients.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            let key = ConnectionKey(key as u32);
            self.close(key, CloseReason::ServerShutdown, Some(ReasonCode::ServerShuttingDown));
        }
    }

    /// Sets the timer of a connection, unless an earlier one is set: that one will look again.
    pub(super) fn arm_connection(&mut self, key: ConnectionKey, at: u64) {
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        let mut at = at.next_multiple_of(100);
        if connection.state == State::Connected {
            at = at.min((self.now.monotonic + u64::from(LOOK_AGAIN) * 100).next_multiple_of(100));
        }
        if connection.timer_at == 0 || tenths(at) < connection.timer_at {
            connection.timer_at = tenths(at);
            self.timers.insert(at, Timer::Connection(key));
        }
    }

    /// Sets the timer of an offline session for what is due next.
    pub(super) fn arm_session(&mut self, key: SessionKey) {
        let Some(client) = self.clients.sessions.get_mut(key.index()) else { return };
        let Some(at) = client.next_deadline() else { return };
        let at = at.min(tenths(self.now.monotonic).saturating_add(LOOK_AGAIN));
        if client.timer_at == 0 || at < client.timer_at {
            client.timer_at = at;
            self.timers.insert(u64::from(at) * 100, Timer::Session(key));
        }
    }
}

/// Whether only a server may send DISCONNECT for this reason: MQTT 5.0 section 3.14.2.1.
fn is_servers(reason: ReasonCode) -> bool {
    matches!(reason.value(), 0x87..=0x8F | 0x9A..)
}

/// Under which heading a violation is counted.
pub(super) fn close_reason(reason: ReasonCode) -> CloseReason {
    use ReasonCode as R;
    match reason {
        R::MalformedPacket => CloseReason::MalformedPacket,
        R::PacketTooLarge => CloseReason::PacketTooLarge,
        R::UnsupportedProtocolVersion => CloseReason::UnsupportedVersion,
        R::ClientIdentifierNotValid => CloseReason::ClientIdInvalid,
        R::BadUserNameOrPassword | R::NotAuthorized | R::Banned | R::BadAuthenticationMethod => {
            CloseReason::NotAuthorized
        }
        R::TopicFilterInvalid | R::TopicNameInvalid | R::TopicAliasInvalid => {
            CloseReason::TopicInvalid
        }
        R::QoSNotSupported
        | R::RetainNotSupported
        | R::SharedSubscriptionsNotSupported
        | R::SubscriptionIdentifiersNotSupported
        | R::WildcardSubscriptionsNotSupported => CloseReason::NotSupported,
        R::ReceiveMaximumExceeded => CloseReason::ReceiveMaximumExceeded,
        R::QuotaExceeded | R::ConnectionRateExceeded | R::MessageRateTooHigh => {
            CloseReason::QuotaExceeded
        }
        R::SessionTakenOver => CloseReason::TakenOver,
        R::KeepAliveTimeout => CloseReason::KeepAliveTimeout,
        R::ServerBusy | R::ServerUnavailable => CloseReason::ServerBusy,
        R::ServerShuttingDown => CloseReason::ServerShutdown,
        R::AdministrativeAction => CloseReason::Administrative,
        R::UnspecifiedError | R::ImplementationSpecificError => CloseReason::ServerError,
        _ => CloseReason::ProtocolError,
    }
}

/// A will as the client's CONNECT states it, to be kept.
pub(super) fn will_message(will: &crate::codec::Will<'_>, forwarded: &[u8]) -> Message {
    Message::new(&Publication {
        topic: will.topic,
        payload: will.payload,
        forwarded,
        qos: will.qos,
        retain: will.retain,
        expires_at: crate::session::NEVER,
    })
}
