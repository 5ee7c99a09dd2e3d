//! Authentication: the exchange between client and authentication module, passed on in both
//! directions. MQTT 5.0 section 4.12.

use super::{Broker, ConnectionKey, Effect, Now, connection::State, receive::encode};
use crate::{
    auth::{Decision, Request},
    codec::{Auth, Packet, ReasonCode},
};

impl Broker {
    /// The answer to a question that the authentication module had left open.
    pub fn on_authenticated(&mut self, now: Now, connection: u32, decision: Decision) {
        self.set_now(now);
        self.on_decision(ConnectionKey(connection), decision);
    }

    /// An AUTH packet from the client.
    pub(super) fn on_auth(
        &mut self,
        key: ConnectionKey,
        auth: &Auth<'_>,
    ) -> Result<(), ReasonCode> {
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return Ok(()) };
        let state = connection.state;
        let Some(method) = connection.extra.as_ref().and_then(|e| e.authentication_method.clone())
        else {
            return Err(ReasonCode::ProtocolError); // [MQTT-4.12.0-6]
        };
        if auth.authentication_method != Some(&*method) {
            return Err(ReasonCode::ProtocolError); // [MQTT-4.12.0-5], [MQTT-4.12.1-1]
        }
        let data = auth.authentication_data;
        let request = match (auth.reason, state) {
            (ReasonCode::ContinueAuthentication, _) => Request::Continue { method: &method, data },
            (ReasonCode::ReAuthenticate, State::Connected) => {
                Request::Reauthenticate { method: &method, data }
            }
            _ => return Err(ReasonCode::ProtocolError),
        };
        let decision = self.authenticator.authenticate(key.0, request);
        self.on_decision(key, decision);
        Ok(())
    }

    /// Carries a decision out.
    pub(super) fn on_decision(&mut self, key: ConnectionKey, decision: Decision) {
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        let state = connection.state;
        if decision != Decision::Pending && std::mem::take(&mut connection.paused) {
            self.effects.push(Effect::Resume(key));
        }
        match (decision, state) {
            (Decision::Pending, State::Authenticating) => {
                if let Some(connection) = self.clients.connections.get_mut(key.index()) {
                    connection.paused = true;
                }
            }
            (Decision::Pending, _) | (_, State::Closing | State::AwaitConnect) => {}
            (Decision::Accept { data }, State::Authenticating) => {
                self.accept_pending(key, data.as_deref());
            }
            (Decision::Accept { data }, State::Connected) => {
                self.send_auth(key, ReasonCode::Success, data.as_deref());
            }
            (Decision::Continue { data }, _) => {
                self.send_auth(key, ReasonCode::ContinueAuthentication, Some(&data));
            }
            (Decision::Refuse { reason }, State::Authenticating) => {
                self.stats.auth_refused.add(1);
                self.refuse(key, reason);
            }
            (Decision::Refuse { reason }, State::Connected) => {
                self.stats.auth_refused.add(1);
                self.violated(key, reason); // MQTT 5.0 section 4.12.1
            }
        }
    }

    fn send_auth(&mut self, key: ConnectionKey, reason: ReasonCode, data: Option<&[u8]>) {
        let Some(connection) = self.clients.connections.get(key.index()) else { return };
        let method = connection.extra.as_ref().and_then(|e| e.authentication_method.clone());
        self.clients.control(key, |version, out| {
            let auth = Auth {
                reason,
                authentication_method: method.as_deref(),
                authentication_data: data,
                ..Auth::default()
            };
            encode(&Packet::Auth(auth), version, out);
        });
    }
}
