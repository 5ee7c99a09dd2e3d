//! From the broker's own terms to changes of durable state, and packets that wait for them.

use super::{
    ConnectionKey, Now,
    client::Client,
    deliver::Clients,
    journal::{Journal, to_unix},
    send::line,
};
use crate::{
    codec::QoS,
    record::{
        Change, DeliveryRecord, DeliveryState, MessageNumber, MessageRecord, SessionNumber,
        SessionRecord, WillRecord,
    },
    session::{Delivery, Message, UNSTORED},
};

/// The numbers of a body that is staged: for deliveries as such, and for those that become durable
/// together with the reception of their message.
#[derive(Debug, Default, Clone, Copy)]
pub struct Bodies {
    plain: Option<MessageNumber>,
    once: Option<MessageNumber>,
}

/// Stages changes. Those of sessions that are not kept, whose number is 0, are none.
pub struct Keeping<'a> {
    journal: &'a mut Journal,
    now: Now,
}

impl<'a> Keeping<'a> {
    /// Into this journal, at this time.
    pub fn new(journal: &'a mut Journal, now: Now) -> Self {
        Self { journal, now }
    }

    /// Stages a change.
    pub fn push(&mut self, change: Change) {
        self.journal.push(change);
    }

    /// A message is owed to a session; `bodies` knows what is staged of it.
    pub fn delivery(
        &mut self,
        session: SessionNumber,
        delivery: &Delivery,
        state: DeliveryState,
        bodies: &mut Bodies,
    ) {
        if session == 0 || delivery.position == UNSTORED {
            return;
        }
        let once = delivery.qos == QoS::ExactlyOnce && self.journal.once().is_some();
        let known = if once { &mut bodies.once } else { &mut bodies.plain };
        let push = if once { Journal::push_once } else { Journal::push };
        let message = match *known {
            Some(message) => message,
            None => {
                let message = self.journal.number();
                let body = self.body(&delivery.message);
                push(self.journal, Change::PutMessage { message, body });
                *known.insert(message)
            }
        };
        let record = DeliveryRecord {
            qos: delivery.qos.value(),
            retain: delivery.retain,
            shared: delivery.shared.map_or(0, |tag| tag.get()),
            subscription_ids: delivery.subscription_ids.to_vec(),
            state,
        };
        let position = delivery.position;
        push(self.journal, Change::PutDelivery { session, position, message, record });
    }

    /// A delivery is this far now.
    pub fn state(&mut self, session: SessionNumber, position: u64, state: DeliveryState) {
        if session != 0 && position != UNSTORED {
            self.journal.push(Change::SetState { session, position, state });
        }
    }

    /// A delivery is over.
    pub fn drop_delivery(&mut self, session: SessionNumber, position: u64) {
        if session != 0 && position != UNSTORED {
            self.journal.push(Change::DropDelivery { session, position });
        }
    }

    /// A session has changed, or is there.
    pub fn session(&mut self, client: &Client) {
        if client.number == 0 {
            return;
        }
        let offline_since = client.offline_since(self.now.monotonic);
        let will = client.will.as_ref().map(|will| WillRecord {
            body: self.body(&will.message),
            delay_interval: will.delay_interval,
            expiry_interval: will.expiry_interval,
        });
        let record = SessionRecord {
            client_id: client.id.clone(),
            user_name: client.user_name().map(Into::into),
            expiry_interval: client.expiry_interval,
            offline_since: offline_since.map(|at| to_unix(self.now, at)),
            will,
            is_ended: false,
        };
        self.journal.push(Change::PutSession { session: client.number, record });
    }

    /// A topic has this retained message now, or none if it is empty.
    pub fn retained(&mut self, message: &Message) {
        let view = message.view();
        let topic = Box::from(view.topic);
        let change = match view.payload {
            [] => Change::DropRetained { topic },
            _ => Change::PutRetained { topic, body: self.body(message) },
        };
        self.journal.push(change);
    }

    fn body(&self, message: &Message) -> MessageRecord {
        message.to_record(to_unix(self.now, message.view().expires_at))
    }
}

impl Clients {
    /// What is sent on a connection from here on waits until all that is staged so far is durable.
    pub fn hold(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.get_mut(key.index()) {
            line!(self, key, connection).hold();
        }
    }

    /// Lets go what has waited for what is durable now.
    pub fn release(&mut self) {
        let watermark = self.journal.watermark();
        while self.holding.front().is_some_and(|(epoch, _)| *epoch <= watermark) {
            let Some((_, key)) = self.holding.pop_front() else { break };
            if let Some(connection) = self.connections.get_mut(key.index()) {
                self.out.release(key, &mut connection.outbox, watermark);
            }
        }
    }
}
