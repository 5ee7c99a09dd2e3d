//! What a start finds in the store, and what to do when the store fails.

use std::sync::Arc;

use super::{
    Broker, Now, SessionKey,
    client::{Client, Will},
    close::close_reason,
    journal::from_unix,
    queue::{Queued, count_queued, delivery},
    receive::tenths,
};
use crate::{
    codec::{PacketId, ReasonCode},
    record::{DeliveryState, MessageRecord, Restored, StoredDelivery, StoredSession, WillRecord},
    session::{Message, Outgoing},
    stats::CloseReason,
    topics::{self, Subscriber},
};

impl Broker {
    /// A part of what the store has kept and this shard is the home of. To be called before the
    /// shard takes connections in.
    pub fn on_restored(&mut self, now: Now, restored: Restored) {
        self.set_now(now);
        match restored {
            Restored::Session(stored) if stored.record.is_ended => self.restore_estate(*stored),
            Restored::Session(stored) => self.restore_session(*stored),
            Restored::Retained { body, .. } => self.restore_retained(body),
        }
    }

    fn restore_retained(&mut self, body: MessageRecord) {
        let message = self.restored_message(body);
        let view = message.view();
        let counts = i64::from(!view.topic.starts_with('$'));
        let size = u32::try_from(message.size()).unwrap_or(u32::MAX);
        match self.retained.set(view.topic, Arc::clone(&message), size) {
            Ok(None) => self.shared.expect_retained(counts),
            Ok(Some(_)) => {}
            Err(_) => self.stats.publish_dropped.add(crate::stats::DropReason::RetainedFull, 1),
        }
        self.count_retained();
    }

    pub(super) fn restored_will(&self, will: WillRecord, due_at: u32) -> Will {
        let WillRecord { body, delay_interval, expiry_interval } = will;
        Will { message: self.restored_message(body), delay_interval, expiry_interval, due_at }
    }

    fn restored_message(&self, body: MessageRecord) -> Arc<Message> {
        let expires_at = from_unix(self.now, body.expires_at);
        Arc::new(Message::from_record(body, expires_at))
    }

    fn restore_session(&mut self, stored: StoredSession) {
        let StoredSession { session: number, record, subscriptions, received, inflight, queue } =
            stored;
        // Since it went away, or since now if it was connected when the broker ended.
        let offline_since = record.offline_since.unwrap_or(self.now.unix);
        self.serial = self.serial.wrapping_add(1);
        let mut client = Client::new(&record.client_id, self.serial);
        client.number = number;
        client.expiry_interval = record.expiry_interval;
        client.expires_at = self.due(offline_since, record.expiry_interval);
        if record.user_name.is_some() {
            client.rare().user_name = record.user_name;
        }
        client.will = record.will.map(|will| {
            let due_at = self.due(offline_since, will.delay_interval).max(1);
            Box::new(self.restored_will(will, due_at))
        });
        for packet_id in received.into_iter().filter_map(PacketId::new) {
            client.incoming.get_or_insert_default().restore(packet_id);
        }
        let mut outgoing = Outgoing::default();
        for stored in inflight {
            client.last_packet_id = self.restore_inflight(&mut outgoing, stored);
        }
        outgoing.restore_stored(queue);
        count_queued(&self.stats, Queued::default(), &outgoing);
        if !outgoing.is_empty() {
            client.outgoing = Some(Box::new(outgoing));
        }
        let key = self.insert_session(client);
        for (filter, record) in subscriptions {
            let subscriber = Subscriber { session: key, options: record.options, id: record.id };
            self.restore_subscription(&filter, subscriber);
        }
        // Not now if it is due: other shards may not have what a will of it is for.
        self.arm_session(key);
    }

    /// So many seconds after a Unix time, in tenths of a second of the broker's clock.
    fn due(&self, since: u64, seconds: u32) -> u32 {
        if seconds == u32::MAX {
            return u32::MAX;
        }
        let at = since.saturating_add(u64::from(seconds) * 1000);
        tenths(from_unix(self.now, at)).max(1)
    }

    fn restore_inflight(&self, outgoing: &mut Outgoing, stored: StoredDelivery) -> u16 {
        let packet_id = match stored.record.state {
            DeliveryState::Sent(packet_id) | DeliveryState::Received(packet_id) => packet_id,
            DeliveryState::Queued => 0,
        };
        let Some(valid) = PacketId::new(packet_id) else { return packet_id };
        let owed = stored.body.map(|body| {
            let expires_at = from_unix(self.now, body.expires_at);
            delivery(stored.position, stored.record, body, expires_at)
        });
        outgoing.restore_inflight(valid, stored.position, owed);
        packet_id
    }

    fn restore_subscription(&mut self, filter: &str, subscriber: Subscriber) {
        match topics::parse_shared(filter) {
            Ok(Some((share, filter))) => {
                // Only shapes beyond the cap are refused, and it may have been lowered.
                if let Err(error) = self.join_group(share, filter, subscriber, false) {
                    tracing::warn!(filter, %error, "a shared subscription is not restored");
                }
            }
            _ => {
                self.subscribe_plain(filter, subscriber);
            }
        }
    }

    /// The store takes nothing any more. Sessions that it keeps go offline, and come back when it is
    /// in order; everything else goes on.
    pub(super) fn on_store_failed(&mut self, reason: &str) {
        if self.clients.journal.has_failed() {
            return;
        }
        tracing::error!(reason, "the store has failed: sessions that it keeps are refused");
        self.clients.journal.fail();
        self.drop_holding();
        let stored = self.clients.sessions.iter().filter(|(_, client)| client.number != 0);
        let online: Vec<_> = stored.map(|(_, c)| c.connection).collect();
        for key in online {
            let reason = ReasonCode::ImplementationSpecificError;
            self.close(key, close_reason(reason), Some(reason));
        }
        self.answer_promises();
        self.clients.journal.give_up();
    }

    /// Nobody who waits for something to become durable is told that it has.
    pub(super) fn drop_holding(&mut self) {
        for (_, key) in std::mem::take(&mut self.clients.holding) {
            let Some(connection) = self.clients.connections.get_mut(key.index()) else { continue };
            if self.clients.out.forget_held(&mut connection.outbox) {
                // It may not even have its CONNACK: nothing can be said to it.
                self.abort(key, CloseReason::ServerError);
            }
        }
    }

    /// Adds a session; there is none yet with its client identifier.
    pub(super) fn insert_session(&mut self, client: Client) -> SessionKey {
        let hash = self.shared.seed.hash(&client.id);
        let key = SessionKey(self.clients.sessions.insert(client) as u32);
        let (sessions, seed) = (&self.clients.sessions, &self.shared.seed);
        let hash_of =
            |key: &SessionKey| sessions.get(key.index()).map_or(0, |client| seed.hash(&client.id));
        self.clients.by_id.insert_unique(hash, key, hash_of);
        self.stats.sessions.add(1);
        key
    }
}
