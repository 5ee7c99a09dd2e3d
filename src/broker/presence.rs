//! Presence: who comes and who goes, as messages that owners of devices can subscribe to.
//!
//! `$SYS/brokers/<node>/clients/<client id>/connected` and `.../disconnected`, JSON, QoS 1, not
//! retained. A client that nobody watches costs a look-up and no message.

use std::fmt::Write;

use serde::Serialize;

use super::{Broker, ConnectionKey, SessionKey};
use crate::{
    codec::QoS,
    session::{NEVER, Publication},
    stats::{CloseReason, Reason},
};

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
struct Connected<'a> {
    client_id: &'a str,
    user_name: Option<&'a str>,
    address: std::net::SocketAddr,
    protocol: String,
    keep_alive: u16,
    /// Milliseconds of Unix time.
    time: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
struct Disconnected<'a> {
    client_id: &'a str,
    user_name: Option<&'a str>,
    address: std::net::SocketAddr,
    protocol: String,
    reason: &'static str,
    /// Milliseconds of Unix time.
    time: u64,
    /// Seconds of Unix time.
    connected_at: u32,
}

impl Broker {
    /// A client has connected.
    pub(super) fn announce_connected(&mut self, key: ConnectionKey, session: SessionKey) {
        let Some(topic) = self.presence_topic(session, "connected") else { return };
        let Some(connection) = self.clients.connections.get(key.index()) else { return };
        let Some(client) = self.clients.sessions.get(session.index()) else { return };
        let event = Connected {
            client_id: &client.id,
            user_name: client.user_name(),
            address: connection.peer(),
            protocol: protocol(connection.version),
            keep_alive: connection.keep_alive,
            time: self.now.unix,
        };
        let payload = serde_json::to_vec(&event).unwrap_or_default();
        self.publish_presence(&topic, &payload);
    }

    /// A client is gone.
    pub(super) fn announce_disconnected(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        cause: CloseReason,
    ) {
        let Some(client) = self.clients.sessions.get(session.index()) else { return };
        tracing::debug!(client_id = %client.id, reason = cause.name(), "client disconnected");
        let Some(topic) = self.presence_topic(session, "disconnected") else { return };
        let Some(connection) = self.clients.connections.get(key.index()) else { return };
        let Some(client) = self.clients.sessions.get(session.index()) else { return };
        let event = Disconnected {
            client_id: &client.id,
            user_name: client.user_name(),
            address: connection.peer(),
            protocol: protocol(connection.version),
            reason: cause.name(),
            time: self.now.unix,
            connected_at: connection.connected_at,
        };
        let payload = serde_json::to_vec(&event).unwrap_or_default();
        self.publish_presence(&topic, &payload);
    }

    /// The topic of an event, if anyone listens.
    fn presence_topic(&self, session: SessionKey, event: &str) -> Option<String> {
        if !self.config.presence_events {
            return None;
        }
        let client = self.clients.sessions.get(session.index())?;
        let mut topic = String::with_capacity(64 + client.id.len());
        let node = &self.config.node_name;
        let _ = write!(topic, "$SYS/brokers/{node}/clients/");
        push_level(&mut topic, &client.id);
        let _ = write!(topic, "/{event}");
        if topic.len() > usize::from(u16::MAX) {
            return None; // [MQTT-4.7.3-3]: no such topic can be sent
        }
        let wanted = !self.shared.routes.shards_for(&topic).is_empty() || self.has_group(&topic);
        wanted.then_some(topic)
    }

    fn has_group(&self, topic: &str) -> bool {
        let mut groups = Vec::new();
        self.shared.groups.matching(topic, &mut groups);
        !groups.is_empty()
    }

    fn publish_presence(&mut self, topic: &str, payload: &[u8]) {
        let qos = QoS::AtLeastOnce;
        let expires_at = NEVER;
        let forwarded = &[];
        self.publish_own(Publication { topic, payload, forwarded, qos, retain: false, expires_at });
    }
}

fn protocol(version: crate::codec::Version) -> String {
    format!("MQTT {version}")
}

/// Writes a client identifier as one topic level: what would end the level, or be a wildcard, is
/// percent-encoded.
fn push_level(topic: &mut String, client_id: &str) {
    for character in client_id.chars() {
        match character {
            '/' | '+' | '#' | '%' => {
                let _ = write!(topic, "%{:02X}", u32::from(character));
            }
            other => topic.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_becomes_one_topic_level() {
        let mut topic = String::new();
        push_level(&mut topic, "a/b+c#d%é");
        assert_eq!(topic, "a%2Fb%2Bc%23d%25é");
    }
}
