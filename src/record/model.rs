//! What a store has to do, done in memory: the reference that the store's tests compare with, and
//! the store of the broker's tests.
//!
//! It holds what was applied to it, knows no crash and is never slow: who wants to see a crash
//! applies only the batches that were durable. It panics when it is given what [`record`](super)
//! does not allow, so that a test finds whoever does so.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Change, DeliveryRecord, DeliveryState, Load, Loaded, MessageNumber, MessageRecord, Position,
    Restored, SessionNumber, SessionRecord, StoredDelivery, StoredQueue, StoredSession,
    SubscriptionRecord,
};

/// All that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    sessions: BTreeMap<SessionNumber, Session>,
    retained: BTreeMap<Box<str>, MessageRecord>,
    highest: u64,
}

/// What is kept of one session. There may be parts without a record: a start drops them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Session {
    record: Option<SessionRecord>,
    subscriptions: BTreeMap<Box<str>, SubscriptionRecord>,
    received: BTreeSet<u16>,
    deliveries: BTreeMap<Position, Delivery>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Delivery {
    record: DeliveryRecord,
    body: MessageRecord,
}

impl Model {
    /// Makes the changes of one batch.
    ///
    /// # Panics
    ///
    /// If a delivery refers to a body that was not put before it in the same batch, or has a
    /// position that its session has already used and not dropped; if a number is 0.
    pub fn apply(&mut self, batch: &[Change]) {
        let mut bodies = HashMap::new();
        for change in batch {
            self.make(change, &mut bodies);
        }
    }

    /// What a start finds: sessions by their numbers, then retained messages by their topics. Of
    /// two sessions with one client id the older one has ended; what has no session goes.
    pub fn restore(&mut self) -> Vec<Restored> {
        let mut newest = HashMap::new();
        for (&session, kept) in &self.sessions {
            if let Some(record) = kept.record.as_ref().filter(|record| !record.is_ended) {
                newest.insert(record.client_id.clone(), session);
            }
        }
        self.sessions.retain(|_, kept| kept.record.is_some());
        let sessions = self.sessions.iter().filter_map(|(&session, kept)| {
            let mut stored = kept.stored(session)?;
            stored.record.is_ended |= newest.get(&stored.record.client_id) != Some(&session);
            Some(stored)
        });
        let retained = self
            .retained
            .iter()
            .map(|(topic, body)| Restored::Retained { topic: topic.clone(), body: body.clone() });
        sessions.map(|session| Restored::Session(Box::new(session))).chain(retained).collect()
    }

    /// The answer to `load`, by what was applied before.
    pub fn load(&self, load: &Load) -> Loaded {
        let mut loaded = Loaded {
            session: load.session,
            tag: load.tag,
            deliveries: Vec::new(),
            lost: 0,
            is_last: true,
        };
        let mut bytes: usize = 0;
        let deliveries = self.sessions.get(&load.session).map(|kept| &kept.deliveries);
        for (&position, delivery) in deliveries.iter().flat_map(|kept| kept.range(load.from..)) {
            bytes = bytes.saturating_add(delivery.body.data.len());
            let is_full = loaded.deliveries.len() >= load.limit || bytes > load.max_bytes;
            if is_full && !loaded.deliveries.is_empty() {
                loaded.is_last = false;
                break;
            }
            loaded.deliveries.push(delivery.stored(position));
        }
        loaded
    }

    /// A number greater than that of every session, message and position that was ever applied.
    pub fn next_number(&self) -> u64 {
        self.highest.saturating_add(1)
    }

    /// The deliveries that are kept for a session.
    pub fn deliveries(&self, session: SessionNumber) -> usize {
        self.sessions.get(&session).map_or(0, |kept| kept.deliveries.len())
    }

    fn make<'a>(
        &mut self,
        change: &'a Change,
        bodies: &mut HashMap<MessageNumber, &'a MessageRecord>,
    ) {
        match change {
            Change::PutSession { session, record } => {
                self.count(*session);
                self.of(*session).record = Some(record.clone());
            }
            Change::EndSession { session } => {
                self.sessions.remove(session);
            }
            Change::PutSubscription { session, filter, record } => {
                self.of(*session).subscriptions.insert(filter.clone(), *record);
            }
            Change::DropSubscription { session, filter } => {
                self.of(*session).subscriptions.remove(filter);
            }
            Change::PutMessage { message, body } => {
                self.count(*message);
                bodies.insert(*message, body);
            }
            Change::PutDelivery { session, position, message, record } => {
                self.count(*position);
                let Some(&body) = bodies.get(message) else {
                    panic!("session {session}, {position}: body {message} is not in this batch");
                };
                let delivery = Delivery { record: record.clone(), body: body.clone() };
                let old = self.of(*session).deliveries.insert(*position, delivery);
                assert!(old.is_none(), "session {session}: position {position} is used again");
            }
            Change::SetState { session, position, state } => {
                if let Some(delivery) = self.of(*session).deliveries.get_mut(position) {
                    delivery.record.state = *state;
                }
            }
            Change::DropDelivery { session, position } => {
                self.of(*session).deliveries.remove(position);
            }
            Change::DropOldest { session, from } => {
                let deliveries = &mut self.of(*session).deliveries;
                let oldest = deliveries.range(from..).next().map(|(&position, _)| position);
                oldest.and_then(|position| deliveries.remove(&position));
            }
            Change::PutReceived { session, packet_id } => {
                self.of(*session).received.insert(*packet_id);
            }
            Change::DropReceived { session, packet_id } => {
                self.of(*session).received.remove(packet_id);
            }
            Change::PutRetained { topic, body } => {
                self.retained.insert(topic.clone(), body.clone());
            }
            Change::DropRetained { topic } => {
                self.retained.remove(topic);
            }
        }
    }

    fn of(&mut self, session: SessionNumber) -> &mut Session {
        self.sessions.entry(session).or_default()
    }

    fn count(&mut self, number: u64) {
        assert!(number != 0, "0 is none");
        self.highest = self.highest.max(number);
    }
}

impl Session {
    /// How a start finds it; `None` without a record.
    fn stored(&self, session: SessionNumber) -> Option<StoredSession> {
        let mut inflight = Vec::new();
        let mut queue = StoredQueue::default();
        for (&position, delivery) in &self.deliveries {
            if !delivery.record.state.waits(queue.messages > 0) {
                inflight.push(delivery.stored(position));
                continue;
            }
            if queue.messages == 0 {
                queue.from = position;
            }
            queue.messages += 1;
            queue.bytes += delivery.body.data.len();
            if delivery.record.qos == 0 {
                queue.last_qos0 = position;
            }
        }
        Some(StoredSession {
            session,
            record: self.record.clone()?,
            subscriptions: self.subscriptions.iter().map(|(f, s)| (f.clone(), *s)).collect(),
            received: self.received.iter().copied().collect(),
            inflight,
            queue,
        })
    }
}

impl Delivery {
    fn stored(&self, position: Position) -> StoredDelivery {
        let is_received = matches!(self.record.state, DeliveryState::Received(_));
        let body = (!is_received).then(|| self.body.clone());
        StoredDelivery { position, record: self.record.clone(), body }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::NEVER;

    fn body(data: &'static str) -> MessageRecord {
        MessageRecord {
            data: Bytes::from_static(data.as_bytes()),
            properties_at: 1,
            payload_at: 1,
            qos: 1,
            retain: false,
            expires_at: NEVER,
        }
    }

    fn session(session: SessionNumber, client_id: &str) -> Change {
        let record = SessionRecord {
            client_id: client_id.into(),
            user_name: None,
            expiry_interval: u32::MAX,
            offline_since: None,
            will: None,
            is_ended: false,
        };
        Change::PutSession { session, record }
    }

    fn delivery(session: SessionNumber, position: Position, message: MessageNumber) -> Change {
        let record = DeliveryRecord {
            qos: 1,
            retain: false,
            shared: 0,
            subscription_ids: Vec::new(),
            state: DeliveryState::Queued,
        };
        Change::PutDelivery { session, position, message, record }
    }

    fn with_deliveries() -> Model {
        let mut model = Model::default();
        model.apply(&[
            session(1, "a"),
            Change::PutMessage { message: 2, body: body("a12345") },
            delivery(1, 10, 2),
            delivery(1, 11, 2),
            delivery(1, 12, 2),
        ]);
        model
    }

    fn positions(loaded: &Loaded) -> Vec<Position> {
        loaded.deliveries.iter().map(|delivery| delivery.position).collect()
    }

    #[test]
    fn a_load_ends_at_its_limits_but_gives_one() {
        let model = with_deliveries();
        for (from, limit, max_bytes, expected, is_last) in [
            (0, 9, 99, vec![10, 11, 12], true),
            (11, 9, 99, vec![11, 12], true),
            (0, 2, 99, vec![10, 11], false),
            (0, 9, 12, vec![10, 11], false),
            (0, 9, 1, vec![10], false),
            (0, 0, 0, vec![10], false),
            (13, 9, 99, vec![], true),
        ] {
            let loaded = model.load(&Load { session: 1, tag: 7, from, limit, max_bytes });
            assert_eq!((positions(&loaded), loaded.is_last), (expected, is_last), "{from} {limit}");
            assert_eq!((loaded.session, loaded.tag, loaded.lost), (1, 7, 0));
        }
    }

    #[test]
    fn a_start_finds_what_is_under_way_apart_from_what_waits() {
        let mut model = with_deliveries();
        model.apply(&[
            Change::SetState { session: 1, position: 10, state: DeliveryState::Received(3) },
            Change::DropOldest { session: 1, from: 11 },
        ]);
        let restored = model.restore();
        let [Restored::Session(found)] = &restored[..] else { panic!("{restored:?}") };
        assert_eq!(found.inflight.len(), 1);
        assert_eq!(found.inflight[0].body, None);
        assert_eq!(found.queue, StoredQueue { from: 12, messages: 1, bytes: 6, last_qos0: 0 });
        assert_eq!(model.next_number(), 13);
    }

    #[test]
    fn of_two_sessions_with_one_client_id_the_older_one_has_ended() {
        let mut model = with_deliveries();
        model.apply(&[session(3, "a"), session(2, "b")]);
        model.apply(&[Change::PutReceived { session: 9, packet_id: 1 }]);
        let found = |model: &mut Model| -> Vec<(SessionNumber, bool)> {
            let number = |restored| match restored {
                Restored::Session(session) => (session.session, session.record.is_ended),
                Restored::Retained { .. } => (0, false),
            };
            model.restore().into_iter().map(number).collect()
        };
        assert_eq!(found(&mut model), [(1, true), (2, false), (3, false)]);
        assert_eq!((model.deliveries(1), model.deliveries(9)), (3, 0));
        model.apply(&[Change::EndSession { session: 1 }, Change::EndSession { session: 3 }]);
        assert_eq!(found(&mut model), [(2, false)]);
    }

    #[test]
    #[should_panic(expected = "not in this batch")]
    fn a_body_has_to_be_put_in_the_same_batch() {
        let mut model = with_deliveries();
        model.apply(&[delivery(1, 13, 2)]);
    }
}
