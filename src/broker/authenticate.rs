//! Authentication: the exchange between client and authentication module, passed on in both
//! directions. MQTT 5.0 section 4.12.

use super::{
    Broker, ConnectionKey, Effect, Now,
    connection::{Exchange, State},
    receive::encode,
};
use crate::{
    auth::{Decision, Request, Ticket},
    codec::{Auth, Packet, ReasonCode},
};

impl Broker {
    /// A ticket that was never given out before, on this shard.
    pub(super) fn new_ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// The answer to a question that the authentication module had left open. Nothing happens if
    /// the connection has gone in the meantime.
    pub fn on_authenticated(&mut self, now: Now, ticket: Ticket, decision: Decision) {
        self.set_now(now);
        let Some(key) = self.asked.remove(&ticket) else { return };
        self.on_decision(key, decision);
        self.end_unsendable();
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
        let (ticket, request) = match (auth.reason, connection.exchange()) {
            // It is the client's turn. [MQTT-4.12.0-3]
            (ReasonCode::ContinueAuthentication, Some(exchange)) if !exchange.asked => {
                exchange.asked = true;
                (exchange.ticket, Request::Continue { method: &method, data })
            }
            (ReasonCode::ReAuthenticate, None) if state == State::Connected => {
                let ticket = self.new_ticket();
                let Some(connection) = self.clients.connections.get_mut(key.index()) else {
                    return Ok(());
                };
                let exchange = Exchange { ticket, asked: true, connect: None };
                connection.extra().exchange = Some(exchange);
                (ticket, Request::Reauthenticate { method: &method, data })
            }
            _ => return Err(ReasonCode::ProtocolError),
        };
        let decision = self.authenticator.authenticate(ticket, request);
        self.on_decision(key, decision);
        Ok(())
    }

    /// Carries a decision out about the exchange that is under way on a connection.
    pub(super) fn on_decision(&mut self, key: ConnectionKey, decision: Decision) {
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        let state = connection.state;
        let Some(exchange) = connection.exchange() else { return };
        exchange.asked = decision == Decision::Pending;
        let ticket = exchange.ticket;
        if decision == Decision::Pending {
            self.asked.insert(ticket, key);
            // What comes behind CONNECT waits.
            connection.paused |= state == State::Authenticating;
            return;
        }
        if state == State::Authenticating && std::mem::take(&mut connection.paused) {
            self.effects.push(Effect::Resume(key));
        }
        if let Decision::Continue { data } = &decision {
            return self.send_auth(key, ReasonCode::ContinueAuthentication, Some(data));
        }
        let exchange = connection.extra.as_mut().and_then(|extra| extra.exchange.take());
        let connect = exchange.and_then(|exchange| exchange.connect);
        match (decision, connect) {
            (Decision::Accept { data }, Some((packet, assigned))) => {
                self.accept_pending(key, &packet, assigned, data.as_deref());
            }
            (Decision::Accept { data }, None) => {
                self.send_auth(key, ReasonCode::Success, data.as_deref());
            }
            (Decision::Refuse { reason }, connect) => {
                self.stats.auth_refused.add(1);
                match connect {
                    Some(_) => self.refuse(key, reason),
                    None => self.violated(key, reason), // MQTT 5.0 section 4.12.1
                }
            }
            (Decision::Pending | Decision::Continue { .. }, _) => {}
        }
    }

    /// The connection ends: nobody waits for a decision any more.
    pub(super) fn abandon_exchange(&mut self, key: ConnectionKey) {
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        let exchange = connection.extra.as_mut().and_then(|extra| extra.exchange.take());
        if let Some(exchange) = exchange {
            self.asked.remove(&exchange.ticket);
            self.authenticator.abandoned(exchange.ticket);
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
