//! CONNECT: who it is, which session it gets, and what the two sides may send each other.
//! MQTT 5.0 sections 3.1 and 3.2.

use std::sync::Arc;

use super::{
    Broker, ConnectionKey, SessionKey,
    client::{Client, Will},
    close::{close_reason, will_message},
    connection::{Exchange, State},
    journal::Mark,
    receive::tenths,
};
use crate::{
    auth::{Credentials, Decision, Request},
    codec::{self, Connack, ConnackProperties, Connect, FrameStatus, Packet, ReasonCode, Version},
    limits,
    session::{OutboundAliases, forwarded},
    stats::CloseReason,
    topics,
};

/// The random part of an assigned client identifier, in hexadecimal digits.
const ASSIGNED_ID_DIGITS: usize = 20;

impl Broker {
    /// A CONNECT whose home is this shard. `packet` is the same CONNECT in bytes.
    pub(super) fn on_connect(&mut self, key: ConnectionKey, connect: &Connect<'_>, packet: &[u8]) {
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        connection.version = connect.version;
        connection.problem_information = connect.properties.request_problem_information;
        if let Some(maximum) = connect.properties.maximum_packet_size {
            connection.extra().maximum_packet_size = maximum;
        }
        connection.last_packet = tenths(self.now.monotonic);
        if let Err(reason) = self.check_connect(connect) {
            // No return code before MQTT 5 says that. [MQTT311-3.1.4-1], [MQTT311-3.2.2-6]
            if reason == ReasonCode::TopicNameInvalid && connect.version < Version::V5 {
                return self.abort(key, close_reason(reason));
            }
            return self.refuse(key, reason);
        }
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        connection.state = State::Authenticating;
        let method = connect.properties.authentication_method;
        if let Some(method) = method {
            connection.extra().authentication_method = Some(method.into());
        }
        let peer = connection.peer();
        let assigned = connect.client_id.is_empty().then(|| self.assign_client_id());
        let request = Request::Connect(Credentials {
            client_id: assigned.as_deref().unwrap_or(connect.client_id),
            user_name: connect.user_name,
            password: connect.password,
            peer,
            method,
            data: connect.properties.authentication_data,
        });
        let ticket = self.new_ticket();
        let decision = self.authenticator.authenticate(ticket, request);
        if let Decision::Accept { data } = decision {
            return self.accept(key, connect, assigned, data.as_deref());
        }
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        let connect = Some((packet.to_vec(), assigned));
        connection.extra().exchange = Some(Exchange { ticket, asked: true, connect });
        self.on_decision(key, decision);
    }

    /// What can be said of a CONNECT without knowing who sent it.
    fn check_connect(&self, connect: &Connect<'_>) -> Result<(), ReasonCode> {
        if self.drain_until.is_some() {
            return Err(ReasonCode::ServerShuttingDown);
        }
        if connect.client_id.is_empty() {
            let may_be_assigned = match connect.version {
                Version::V3_1 => false,
                Version::V3_1_1 => connect.clean_start, // [MQTT-3.1.3-7] and 8 of MQTT 3.1.1
                Version::V5 => true,
            };
            if !may_be_assigned || !self.config.allow_empty_client_id {
                return Err(ReasonCode::ClientIdentifierNotValid);
            }
        }
        let is_too_long = || connect.client_id.chars().count() > limits::CLIENT_ID_3_1;
        if connect.version == Version::V3_1 && !self.config.allow_long_client_ids && is_too_long() {
            return Err(ReasonCode::ClientIdentifierNotValid); // MQTT 3.1, 3.1
        }
        let connected = || self.shared.stats.iter().map(|s| s.clients_connected.get()).sum::<u64>();
        // Who takes its own session over is not one more.
        let is_connected = || {
            let hash = self.shared.seed.hash(connect.client_id);
            let session = self.find_session(connect.client_id, hash);
            session
                .and_then(|s| self.clients.sessions.get(s.index()))
                .is_some_and(Client::is_online)
        };
        let maximum = self.config.max_connections;
        if maximum > 0 && connected() >= maximum && !is_connected() {
            return Err(ReasonCode::QuotaExceeded);
        }
        let Some(will) = &connect.will else { return Ok(()) };
        topics::validate_topic_name(will.topic, self.config.max_topic_levels)
            .map_err(|_| ReasonCode::TopicNameInvalid)?;
        if will.topic.starts_with("$SYS/") {
            self.stats.acl_refused.add(1);
            return Err(ReasonCode::NotAuthorized);
        }
        if will.qos > self.config.max_qos {
            return Err(ReasonCode::QoSNotSupported); // [MQTT-3.2.2-12]
        }
        if will.retain && !self.config.retain_available {
            return Err(ReasonCode::RetainNotSupported); // [MQTT-3.2.2-13]
        }
        let is_utf8 = will.properties.publish.payload_format_indicator == Some(true);
        if self.config.validate_payload_format
            && is_utf8
            && std::str::from_utf8(will.payload).is_err()
        {
            return Err(ReasonCode::PayloadFormatInvalid);
        }
        Ok(())
    }

    /// The CONNECT that was put aside for an authentication module is accepted.
    pub(super) fn accept_pending(
        &mut self,
        key: ConnectionKey,
        packet: &[u8],
        assigned: Option<Box<str>>,
        data: Option<&[u8]>,
    ) {
        // It was decoded before, so none of this fails.
        let Ok(FrameStatus::Complete(frame)) = codec::frame(packet, u32::MAX) else { return };
        if let Ok(Packet::Connect(connect)) = Packet::decode(&frame, Version::V5) {
            self.accept(key, &connect, assigned, data);
        }
    }

    /// Gives the connection its session and says so.
    fn accept(
        &mut self,
        key: ConnectionKey,
        connect: &Connect<'_>,
        assigned: Option<Box<str>>,
        data: Option<&[u8]>,
    ) {
        let client_id = assigned.as_deref().unwrap_or(connect.client_id);
        if !self.has_session_room(client_id) {
            return self.refuse(key, ReasonCode::QuotaExceeded);
        }
        let expiry_interval = self.session_expiry(connect);
        let is_ending = self.clients.journal.is_ending(client_id);
        let is_kept = expiry_interval > 0 || is_ending || self.is_session_kept(client_id);
        if is_kept && self.clients.journal.has_failed() {
            return self.refuse(key, ReasonCode::ServerUnavailable);
        }
        let mark = self.clients.journal.mark();
        let (session, session_present) = self.take_session(client_id, connect.clean_start);
        let will = connect.will.as_ref().map(|will| {
            let mut buffer = Vec::new();
            let properties = &will.properties;
            let forwarded = forwarded(&properties.publish, &mut buffer);
            Box::new(Will {
                message: Arc::new(will_message(will, forwarded)),
                delay_interval: properties.delay_interval,
                expiry_interval: properties.publish.message_expiry_interval,
                due_at: 0,
            })
        });
        let Some(client) = self.clients.sessions.get_mut(session.index()) else { return };
        client.connection = key;
        client.expiry_interval = expiry_interval;
        client.expires_at = 0;
        client.will = will; // a delayed one of the connection before is cancelled: [MQTT-3.1.3-9]
        match (connect.user_name, &mut client.rare) {
            (None, None) => {}
            (user_name, _) => client.rare().user_name = user_name.map(Into::into),
        }
        self.attach(key, session, connect);
        self.keep_session(key, session, mark);
        if is_ending {
            // On an earlier connection, perhaps, whose CONNACK is lost.
            self.clients.hold(key);
        }
        let told = self.send_connack(key, connect, session_present, assigned.as_deref(), data);
        self.stats.clients_connected.add(1);
        self.stats.sessions_resumed.add(session_present.into());
        if !told {
            // Without a CONNACK there is no DISCONNECT either. [MQTT-3.14.0-1]
            return self.close(key, CloseReason::PacketTooLarge, None);
        }
        self.announce_groups(session, true);
        self.announce_connected(key, session);
        self.clients.pump(session);
        self.fetch_retained(session);
    }

    /// Keeps a session that is to outlive its connection. What is said on this connection waits until
    /// it is kept, with all that happened before: the client may have heard of that on another one.
    /// So does a client whose earlier session has ended since `mark`.
    fn keep_session(&mut self, key: ConnectionKey, session: SessionKey, mark: Mark) {
        let Some(client) = self.clients.sessions.get_mut(session.index()) else { return };
        let journal = &mut self.clients.journal;
        if client.number == 0 && client.is_persistent() && journal.is_enabled() {
            client.number = journal.number();
        }
        self.keep_record(session);
        if self.clients.journal.has_staged_since(mark) {
            self.clients.hold(key);
        }
    }

    /// Whether the client has a session already, or there may be one more.
    fn has_session_room(&self, client_id: &str) -> bool {
        let maximum = self.config.max_sessions;
        let sessions = || self.shared.stats.iter().map(|s| s.sessions.get()).sum::<u64>();
        maximum == 0
            || sessions() < maximum
            || self.find_session(client_id, self.shared.seed.hash(client_id)).is_some()
    }

    /// Whether the client has a session that is kept: not even its end could be, if the store fails.
    fn is_session_kept(&self, client_id: &str) -> bool {
        let session = self.find_session(client_id, self.shared.seed.hash(client_id));
        let client = session.and_then(|key| self.clients.sessions.get(key.index()));
        client.is_some_and(|client| client.number != 0)
    }

    /// Sets what the connection and its client agree on.
    fn attach(&mut self, key: ConnectionKey, session: SessionKey, connect: &Connect<'_>) {
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        connection.session = session;
        connection.state = State::Connected;
        // An authentication module may have taken its time.
        connection.last_packet = tenths(self.now.monotonic);
        connection.keep_alive = match (connect.version, self.config.server_keep_alive) {
            (Version::V5, Some(seconds)) => seconds, // [MQTT-3.2.2-21]
            _ => connect.keep_alive,
        };
        let properties = &connect.properties;
        connection.asked_to_stay = properties.session_expiry_interval.is_some_and(|i| i > 0);
        if let Some(maximum) = properties.receive_maximum {
            connection.extra().receive_maximum = maximum;
        }
        let aliases = properties.topic_alias_maximum.min(self.config.outbound_topic_alias_maximum);
        if aliases > 0 {
            connection.extra().outbound_aliases = Some(OutboundAliases::new(aliases));
        }
        // The connect timeout is over: the timer that is set for it looks again, and an earlier
        // one is set if the keep-alive asks for it.
        if connection.keep_alive > 0 {
            let at = self.now.monotonic + u64::from(connection.keep_alive) * 1_500;
            self.arm_connection(key, at);
        }
    }

    /// The session of this client: the one that exists, unless the client wants a clean start, or
    /// a new one. `[MQTT-3.1.2-4]`, `[MQTT-3.1.2-5]`, `[MQTT-3.1.2-6]`
    fn take_session(&mut self, client_id: &str, clean_start: bool) -> (SessionKey, bool) {
        let hash = self.shared.seed.hash(client_id);
        if let Some(existing) = self.find_session(client_id, hash) {
            let old = self.clients.sessions.get(existing.index()).map(|client| client.connection);
            if let Some(old) = old.filter(|old| *old != ConnectionKey::NONE) {
                self.stats.sessions_taken_over.add(1);
                // [MQTT-3.1.4-3]
                self.close(old, CloseReason::TakenOver, Some(ReasonCode::SessionTakenOver));
            }
        }
        // After a start no time has passed yet: what was due before is due now.
        if let Some(existing) = self.find_session(client_id, hash)
            && self.clients.sessions.get(existing.index()).is_some_and(|c| c.number != 0)
        {
            self.on_session_deadline(existing);
        }
        // A session without expiry has ended with its connection just now.
        if let Some(existing) = self.find_session(client_id, hash) {
            if !clean_start {
                return (existing, true);
            }
            self.end_session(existing);
        }
        self.serial = self.serial.wrapping_add(1);
        (self.insert_session(Client::new(client_id, self.serial)), false)
    }

    fn find_session(&self, client_id: &str, hash: u64) -> Option<SessionKey> {
        let sessions = &self.clients.sessions;
        let is_it = |key: &SessionKey| {
            sessions.get(key.index()).is_some_and(|client| &*client.id == client_id)
        };
        self.clients.by_id.find(hash, is_it).copied()
    }

    fn session_expiry(&self, connect: &Connect<'_>) -> u32 {
        match connect.version {
            Version::V5 => connect
                .properties
                .session_expiry_interval
                .unwrap_or(0)
                .min(self.config.max_session_expiry),
            // Before MQTT 5 a clean session ends with its connection and others never do; here they
            // last as long as the longest MQTT 5 session.
            _ if connect.clean_start => 0,
            _ => self.config.max_session_expiry,
        }
    }

    /// An identifier that nobody else has, and whose home is this shard. `[MQTT-3.1.3-6]`
    fn assign_client_id(&mut self) -> Box<str> {
        loop {
            let random = self.rng.u128(..);
            let id = format!("ringmq-{random:032x}");
            let id = id.get(..7 + ASSIGNED_ID_DIGITS).unwrap_or(&id);
            let hash = self.shared.seed.hash(id);
            if self.shared.home_shard(id) == self.id && self.find_session(id, hash).is_none() {
                return id.into();
            }
        }
    }

    /// False if the client takes none as large as it would be.
    fn send_connack(
        &mut self,
        key: ConnectionKey,
        connect: &Connect<'_>,
        session_present: bool,
        assigned: Option<&str>,
        data: Option<&[u8]>,
    ) -> bool {
        let config = Arc::clone(&self.config);
        let requested = connect.properties.session_expiry_interval.unwrap_or(0);
        let granted = self.session_expiry(connect);
        let response = config
            .response_information
            .as_ref()
            .filter(|_| connect.properties.request_response_information) // [MQTT-3.1.2-28]
            .map(|prefix| format!("{prefix}/{}", assigned.unwrap_or(connect.client_id)))
            .filter(|response| response.len() <= topics::MAX_TOPIC_BYTES);
        let properties = ConnackProperties {
            session_expiry_interval: (granted != requested).then_some(granted),
            receive_maximum: Some(config.receive_maximum),
            maximum_qos: config.max_qos,
            retain_available: config.retain_available,
            maximum_packet_size: Some(config.max_packet_size),
            assigned_client_identifier: assigned,
            topic_alias_maximum: config.topic_alias_maximum,
            server_keep_alive: config.server_keep_alive,
            authentication_method: connect.properties.authentication_method,
            authentication_data: data,
            ..ConnackProperties::default()
        };
        let reason = ReasonCode::Success;
        // Response Information is what it can do without, as others can without a Reason String.
        self.clients.try_explained(key, response.as_deref(), |response_information| {
            let properties = ConnackProperties { response_information, ..properties };
            Packet::Connack(Connack { session_present, reason, properties })
        })
    }
}
