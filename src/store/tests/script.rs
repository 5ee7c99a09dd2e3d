//! Random changes that keep to what [`record`](crate::record) says of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::record::{
    Batch, Change, DeliveryRecord, DeliveryState, Load, MessageRecord, NEVER, Position,
    SessionNumber, SessionRecord, SubscriptionRecord, WillRecord,
};

pub(super) const SHARDS: usize = 2;

/// Something that a broker does. Sessions are named by their place among those that there are.
#[derive(Debug, Clone)]
pub(super) enum Step {
    NewSession { client: u8, record: Box<SessionRecord> },
    ChangeSession { session: usize, record: Box<SessionRecord> },
    EndSession { session: usize },
    Subscribe { session: usize, filter: u8, record: SubscriptionRecord },
    Unsubscribe { session: usize, filter: u8 },
    Publish { to: Vec<usize>, body: MessageRecord, record: DeliveryRecord },
    Send { session: usize },
    Receive { session: usize, nth: usize },
    Acknowledge { session: usize, nth: usize },
    Overflow { session: usize, nth: usize },
    Received { session: usize, packet_id: u16 },
    Released { session: usize, packet_id: u16 },
    Retain { topic: u8, body: MessageRecord },
    Forget { topic: u8 },
}

pub(super) fn message() -> impl Strategy<Value = MessageRecord> {
    let parts = (vec(any::<u8>(), 0..300), any::<[usize; 2]>());
    let rest = (0..=2_u8, any::<bool>(), prop_oneof![Just(NEVER), any::<u64>()]);
    (parts, rest).prop_map(|((data, at), (qos, retain, expires_at))| {
        let mut at = at.map(|at| at % (data.len() + 1));
        at.sort_unstable();
        MessageRecord {
            data: Bytes::from(data),
            properties_at: at[0] as u16,
            payload_at: at[1] as u32,
            qos,
            retain,
            expires_at,
        }
    })
}

pub(super) fn session() -> impl Strategy<Value = SessionRecord> {
    let will = (message(), any::<u32>(), any::<Option<u32>>()).prop_map(
        |(body, delay_interval, expiry_interval)| WillRecord {
            body,
            delay_interval,
            expiry_interval,
        },
    );
    let strings = ("[a-z]{0,9}", proptest::option::of("\\PC{0,9}"));
    let numbers = (any::<u32>(), any::<Option<u64>>(), proptest::bool::weighted(0.1));
    (strings, numbers, proptest::option::of(will)).prop_map(
        |((client_id, user_name), (expiry_interval, offline_since, is_ended), will)| {
            SessionRecord {
                client_id: client_id.into(),
                user_name: user_name.map(Into::into),
                expiry_interval,
                offline_since,
                will,
                is_ended,
            }
        },
    )
}

pub(super) fn subscription() -> impl Strategy<Value = SubscriptionRecord> {
    (any::<u8>(), any::<u32>()).prop_map(|(options, id)| SubscriptionRecord { options, id })
}

pub(super) fn state() -> impl Strategy<Value = DeliveryState> {
    prop_oneof![
        Just(DeliveryState::Queued),
        any::<u16>().prop_map(DeliveryState::Sent),
        any::<u16>().prop_map(DeliveryState::Received),
    ]
}

pub(super) fn delivery() -> impl Strategy<Value = DeliveryRecord> {
    (0..=2_u8, any::<bool>(), any::<u32>(), vec(any::<u32>(), 0..3), state()).prop_map(
        |(qos, retain, shared, subscription_ids, state)| DeliveryRecord {
            qos,
            retain,
            shared,
            subscription_ids,
            state,
        },
    )
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let at = || 0..8_usize;
    let nth = || 0..4_usize;
    let queued = delivery().prop_map(|mut record| {
        record.state = DeliveryState::Queued;
        record
    });
    prop_oneof![
        3 => (0..6_u8, session())
            .prop_map(|(client, record)| Step::NewSession { client, record: record.into() }),
        1 => (at(), session())
            .prop_map(|(session, record)| Step::ChangeSession { session, record: record.into() }),
        1 => at().prop_map(|session| Step::EndSession { session }),
        2 => (at(), 0..4_u8, subscription())
            .prop_map(|(session, filter, record)| Step::Subscribe { session, filter, record }),
        1 => (at(), 0..4_u8).prop_map(|(session, filter)| Step::Unsubscribe { session, filter }),
        8 => (vec(at(), 1..4), message(), queued)
            .prop_map(|(to, body, record)| Step::Publish { to, body, record }),
        4 => at().prop_map(|session| Step::Send { session }),
        2 => (at(), nth()).prop_map(|(session, nth)| Step::Receive { session, nth }),
        4 => (at(), nth()).prop_map(|(session, nth)| Step::Acknowledge { session, nth }),
        2 => (at(), nth()).prop_map(|(session, nth)| Step::Overflow { session, nth }),
        1 => (at(), 0..3_u16)
            .prop_map(|(session, packet_id)| Step::Received { session, packet_id }),
        1 => (at(), 0..3_u16)
            .prop_map(|(session, packet_id)| Step::Released { session, packet_id }),
        2 => (0..4_u8, message()).prop_map(|(topic, body)| Step::Retain { topic, body }),
        1 => (0..4_u8).prop_map(|topic| Step::Forget { topic }),
    ]
}

/// Some are longer than a key may be.
fn name(kind: &str, number: u8) -> Box<str> {
    format!("{kind}/{number}{}", "/x".repeat(usize::from(number % 3) * 150)).into()
}

/// What a broker knows: enough to make changes of steps.
#[derive(Debug, Default)]
pub(super) struct Broker {
    next: u64,
    sessions: BTreeMap<SessionNumber, BTreeMap<Position, DeliveryState>>,
    epochs: [u64; SHARDS],
}

impl Broker {
    /// A batch for each shard: all of a session's changes are in one shard's.
    pub(super) fn batches(&mut self, steps: &[Step]) -> Vec<(usize, Batch)> {
        let mut changes: [Vec<Change>; SHARDS] = Default::default();
        for step in steps {
            self.step(step, &mut changes);
        }
        let mut batches = Vec::new();
        for (shard, changes) in changes.into_iter().enumerate() {
            self.epochs[shard] += 1;
            batches.push((shard, Batch { epoch: self.epochs[shard], changes, loads: Vec::new() }));
        }
        batches
    }

    /// Loads of all sessions, from somewhere.
    pub(super) fn loads(&self, nth: usize, limit: usize, max_bytes: usize) -> Vec<Load> {
        let mut loads = Vec::new();
        for (&session, deliveries) in &self.sessions {
            let from = deliveries.keys().nth(nth).copied().unwrap_or(0);
            loads.push(Load { session, tag: session * 3, from, limit, max_bytes });
        }
        loads
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn nth(&self, at: usize) -> Option<SessionNumber> {
        let count = self.sessions.len();
        (count > 0).then(|| self.sessions.keys().nth(at % count).copied())?
    }

    fn step(&mut self, step: &Step, changes: &mut [Vec<Change>; SHARDS]) {
        let shard = |session: SessionNumber| session as usize % SHARDS;
        match step {
            Step::NewSession { client, record } => {
                let session = self.number();
                self.sessions.insert(session, BTreeMap::new());
                let record = SessionRecord { client_id: name("c", *client), ..*record.clone() };
                changes[shard(session)].push(Change::PutSession { session, record });
            }
            Step::Publish { to, body, record } => self.publish(to, body, record, changes),
            Step::Retain { topic, body } => changes[usize::from(*topic) % SHARDS]
                .push(Change::PutRetained { topic: name("t", *topic), body: body.clone() }),
            Step::Forget { topic } => changes[usize::from(*topic) % SHARDS]
                .push(Change::DropRetained { topic: name("t", *topic) }),
            Step::ChangeSession { session: at, .. }
            | Step::EndSession { session: at }
            | Step::Subscribe { session: at, .. }
            | Step::Unsubscribe { session: at, .. }
            | Step::Send { session: at }
            | Step::Receive { session: at, .. }
            | Step::Acknowledge { session: at, .. }
            | Step::Overflow { session: at, .. }
            | Step::Received { session: at, .. }
            | Step::Released { session: at, .. } => {
                let Some(session) = self.nth(*at) else { return };
                let change = self.of_session(session, step);
                changes[shard(session)].extend(change);
            }
        }
    }

    fn publish(
        &mut self,
        to: &[usize],
        body: &MessageRecord,
        record: &DeliveryRecord,
        changes: &mut [Vec<Change>; SHARDS],
    ) {
        let message = self.number();
        let mut is_put = [false; SHARDS];
        for &at in to {
            let Some(session) = self.nth(at) else { return };
            let shard = session as usize % SHARDS;
            if !std::mem::replace(&mut is_put[shard], true) {
                changes[shard].push(Change::PutMessage { message, body: body.clone() });
            }
            let position = self.number();
            let record = record.clone();
            self.sessions.get_mut(&session).unwrap().insert(position, record.state);
            changes[shard].push(Change::PutDelivery { session, position, message, record });
        }
    }

    fn of_session(&mut self, session: SessionNumber, step: &Step) -> Option<Change> {
        let deliveries = self.sessions.get_mut(&session).unwrap();
        let nth = |nth: usize| deliveries.keys().nth(nth).copied();
        match step {
            Step::ChangeSession { record, .. } => {
                let record = SessionRecord { client_id: "changed".into(), ..*record.clone() };
                return Some(Change::PutSession { session, record });
            }
            Step::EndSession { .. } => {
                self.sessions.remove(&session);
                return Some(Change::EndSession { session });
            }
            Step::Send { .. } => {
                let waits = |(_, state): &(&u64, &mut _)| **state == DeliveryState::Queued;
                let (&position, state) = deliveries.iter_mut().find(waits)?;
                *state = DeliveryState::Sent(position as u16);
                return Some(Change::SetState { session, position, state: *state });
            }
            Step::Receive { nth: place, .. } => {
                let position = nth(*place)?;
                let state = deliveries.get_mut(&position)?;
                if *state != DeliveryState::Queued {
                    *state = DeliveryState::Received(7);
                    return Some(Change::SetState { session, position, state: *state });
                }
            }
            Step::Acknowledge { nth: place, .. } => {
                let position = nth(*place)?;
                deliveries.remove(&position);
                return Some(Change::DropDelivery { session, position });
            }
            Step::Overflow { nth: place, .. } => {
                let from = nth(*place).map_or(0, |position| position.saturating_sub(1));
                let oldest = deliveries.range(from..).next().map(|(&position, _)| position);
                oldest.and_then(|position| deliveries.remove(&position));
                return Some(Change::DropOldest { session, from });
            }
            Step::Subscribe { filter, record, .. } => {
                let (filter, record) = (name("f", *filter), *record);
                return Some(Change::PutSubscription { session, filter, record });
            }
            Step::Unsubscribe { filter, .. } => {
                return Some(Change::DropSubscription { session, filter: name("f", *filter) });
            }
            Step::Received { packet_id, .. } => {
                return Some(Change::PutReceived { session, packet_id: *packet_id });
            }
            Step::Released { packet_id, .. } => {
                return Some(Change::DropReceived { session, packet_id: *packet_id });
            }
            _ => {}
        }
        None
    }

    /// What a start has found: the sessions that are left.
    pub(super) fn keep(&mut self, is_there: impl Fn(SessionNumber) -> bool) {
        self.sessions.retain(|&session, _| is_there(session));
    }
}
