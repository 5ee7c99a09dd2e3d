//! The changes of many batches as one set of writes, each key once: what a later change takes back
//! is not written at all.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use tracing::error;

use super::encoding::{self, Body};
use super::engine::{Engine, EngineError, Write};
use super::keys::{self, Names};
use super::restore::Leftovers;
use crate::record::{
    Change, DeliveryRecord, DeliveryState, MessageNumber, MessageRecord, Position, SessionNumber,
    SessionRecord, SubscriptionRecord,
};

/// The store's own entry: a number that is greater than every one kept.
pub(super) const NEXT_NUMBER: &str = "next_number";
/// How far [`NEXT_NUMBER`] is put ahead, so that it is seldom written.
const AHEAD: u64 = 1 << 20;
/// Sessions whose [`Oldest`] is remembered.
const MAX_OLDEST: usize = 65_536;

/// What the store knows from one commit to the next.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) names: Names,
    /// Greater than every session number, message number and position that is kept.
    pub(super) next_number: u64,
    /// Sessions that have ended and have deliveries left to be removed.
    ended: Vec<Ended>,
    /// How many deliveries there are, if a start has counted them.
    pub(super) deliveries: Option<usize>,
    /// What was found that is to go and that no shard knows of.
    leftovers: Leftovers,
    /// Where the deliveries of a session begin that drops its oldest.
    oldest: HashMap<SessionNumber, Oldest>,
}

/// A session that has ended, and from where on it may have deliveries.
#[derive(Debug, Clone, Copy)]
struct Ended {
    session: SessionNumber,
    from: Position,
}

/// From `from` on there is nothing before `next`. Without it each search for the oldest delivery
/// would pass by all that were removed before.
#[derive(Debug, Clone, Copy)]
struct Oldest {
    from: Position,
    next: Position,
}

impl Memory {
    pub(super) fn new(seed: [u64; 4], next_number: u64, leftovers: Leftovers) -> Self {
        Self {
            names: Names::new(seed),
            next_number,
            ended: Vec::new(),
            oldest: HashMap::new(),
            deliveries: leftovers.deliveries,
            leftovers,
        }
    }

    /// Has deliveries that turned out to be unreadable removed with the next commit.
    pub(super) fn lose(&mut self, lost: Vec<(SessionNumber, Position)>) {
        self.leftovers.lost.extend(lost);
    }

    /// Whether there is something to be removed for which no commit has to come.
    pub(super) fn is_untidy(&self) -> bool {
        let Leftovers { ended, lost, .. } = &self.leftovers;
        !self.ended.is_empty() || !ended.is_empty() || !lost.is_empty()
    }
}

/// Changes that are to be written together.
pub(super) struct Commit<'a> {
    engine: &'a dyn Engine,
    memory: &'a mut Memory,
    sessions: BTreeMap<SessionNumber, Option<SessionRecord>>,
    subscriptions: BTreeMap<(SessionNumber, Box<str>), Option<SubscriptionRecord>>,
    received: BTreeMap<(SessionNumber, u16), bool>,
    retained: BTreeMap<Box<str>, Option<MessageRecord>>,
    /// Deliveries that the engine does not have yet.
    fresh: BTreeMap<(SessionNumber, Position), Fresh>,
    /// What becomes of those that it has.
    stored: BTreeMap<(SessionNumber, Position), Fate>,
    bodies: HashMap<MessageNumber, MessageRecord>,
    /// Deliveries gone that referred to a shared body.
    released: BTreeMap<MessageNumber, u64>,
    highest: u64,
}

struct Fresh {
    message: MessageNumber,
    record: DeliveryRecord,
}

enum Fate {
    State(DeliveryState),
    Dropped,
    /// There is none, but a state that belongs to nothing.
    Stateless,
}

impl<'a> Commit<'a> {
    pub(super) fn new(engine: &'a dyn Engine, memory: &'a mut Memory) -> Self {
        Self {
            engine,
            memory,
            sessions: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            received: BTreeMap::new(),
            retained: BTreeMap::new(),
            fresh: BTreeMap::new(),
            stored: BTreeMap::new(),
            bodies: HashMap::new(),
            released: BTreeMap::new(),
            highest: 0,
        }
    }

    /// Takes one more change, behind all that were taken before.
    pub(super) fn apply(&mut self, change: Change) -> Result<(), EngineError> {
        match change {
            Change::PutSession { session, record } => {
                self.count(session);
                self.sessions.insert(session, Some(record));
            }
            Change::EndSession { session } => self.end_session(session)?,
            Change::PutSubscription { session, filter, record } => {
                self.subscriptions.insert((session, filter), Some(record));
            }
            Change::DropSubscription { session, filter } => {
                self.subscriptions.insert((session, filter), None);
            }
            Change::PutMessage { message, body } => {
                self.count(message);
                self.bodies.insert(message, body);
            }
            Change::PutDelivery { session, position, message, record } => {
                self.put_delivery(session, position, Fresh { message, record });
            }
            Change::SetState { session, position, state } => {
                self.set_state(session, position, state);
            }
            Change::DropDelivery { session, position } => self.drop_delivery(session, position)?,
            Change::DropOldest { session, from } => self.drop_oldest(session, from)?,
            Change::PutReceived { session, packet_id } => {
                self.received.insert((session, packet_id), true);
            }
            Change::DropReceived { session, packet_id } => {
                self.received.insert((session, packet_id), false);
            }
            Change::PutRetained { topic, body } => {
                self.retained.insert(topic, Some(body));
            }
            Change::DropRetained { topic } => {
                self.retained.insert(topic, None);
            }
        }
        Ok(())
    }

    /// One delivery more, or one less, than there were.
    fn recount(&mut self, by: isize) {
        if let Some(deliveries) = &mut self.memory.deliveries {
            *deliveries = deliveries.saturating_add_signed(by);
        }
    }

    fn count(&mut self, number: u64) {
        self.highest = self.highest.max(number);
    }

    fn put_delivery(&mut self, session: SessionNumber, position: Position, delivery: Fresh) {
        self.count(position);
        if let Entry::Occupied(oldest) = self.memory.oldest.entry(session)
            && position < oldest.get().next
        {
            oldest.remove();
        }
        self.fresh.insert((session, position), delivery);
    }

    fn set_state(&mut self, session: SessionNumber, position: Position, state: DeliveryState) {
        let at = (session, position);
        if let Some(delivery) = self.fresh.get_mut(&at) {
            delivery.record.state = state;
        } else if !matches!(self.stored.get(&at), Some(Fate::Dropped)) {
            self.stored.insert(at, Fate::State(state));
        }
    }

    fn drop_delivery(
        &mut self,
        session: SessionNumber,
        position: Position,
    ) -> Result<(), EngineError> {
        let at = (session, position);
        if self.fresh.remove(&at).is_some() || self.is_dropped(at) {
            return Ok(());
        }
        match self.engine.get(&keys::of_delivery(keys::DELIVERY, session, position))? {
            Some(value) => self.drop_stored(at, &value),
            // A state that was set here belongs to nothing.
            None => _ = self.stored.remove(&at),
        }
        Ok(())
    }

    fn is_dropped(&self, at: (SessionNumber, Position)) -> bool {
        matches!(self.stored.get(&at), Some(Fate::Dropped))
    }

    fn drop_stored(&mut self, at: (SessionNumber, Position), value: &[u8]) {
        self.stored.insert(at, Fate::Dropped);
        match encoding::read_delivery(value).map(|stored| stored.body) {
            Ok(Body::Shared { message, .. }) => *self.released.entry(message).or_default() += 1,
            Ok(Body::Inline(_)) => {}
            Err(wrong) => error!(session = at.0, position = at.1, "unreadable delivery: {wrong}"),
        }
    }

    fn drop_oldest(&mut self, session: SessionNumber, from: Position) -> Result<(), EngineError> {
        let oldest = self.memory.oldest.get(&session).copied();
        let start = oldest.filter(|known| known.from <= from).map_or(from, |o| o.next.max(from));
        let mut found = None;
        for entry in self.engine.scan(keys::from_position(keys::DELIVERY, session, start)) {
            let (key, value) = entry?;
            let Some(position) = keys::position_of(&key) else { continue };
            if !self.is_dropped((session, position)) {
                found = Some((position, value));
                break;
            }
        }
        let fresh = self.fresh.range((session, from)..=(session, Position::MAX)).next();
        let fresh = fresh.map(|(&(_, position), _)| position);
        let dropped = match (fresh, found) {
            (Some(fresh), stored) if stored.as_ref().is_none_or(|(at, _)| fresh < *at) => {
                self.fresh.remove(&(session, fresh));
                fresh
            }
            (_, Some((position, value))) => {
                self.drop_stored((session, position), &value);
                position
            }
            _ => return Ok(()),
        };
        if self.memory.oldest.len() >= MAX_OLDEST {
            self.memory.oldest.clear();
        }
        let next = dropped.saturating_add(1);
        self.memory.oldest.insert(session, Oldest { from, next });
        Ok(())
    }

    fn end_session(&mut self, session: SessionNumber) -> Result<(), EngineError> {
        self.sessions.insert(session, None);
        let filters = (session, Box::from(""))..;
        let filters = self.subscriptions.range_mut(filters);
        for (_, record) in filters.take_while(|((owner, _), _)| *owner == session) {
            *record = None;
        }
        for (_, is_there) in self.received.range_mut((session, 0)..=(session, u16::MAX)) {
            *is_there = false;
        }
        for entry in self.engine.scan(keys::all_of(keys::SUBSCRIPTION, session)) {
            let (key, value) = entry?;
            if let Some(filter) = super::restore::filter(&key, &value) {
                self.subscriptions.insert((session, filter), None);
            }
        }
        for entry in self.engine.scan(keys::all_of(keys::RECEIVED, session)) {
            if let Some(packet_id) = keys::packet_id_of(&entry?.0) {
                self.received.insert((session, packet_id), false);
            }
        }
        let range = (session, 0)..=(session, Position::MAX);
        let fresh: Vec<_> = self.fresh.range(range).map(|(&at, _)| at).collect();
        for at in fresh {
            self.fresh.remove(&at);
        }
        self.memory.oldest.remove(&session);
        self.memory.ended.push(Ended { session, from: 0 });
        Ok(())
    }

    /// Removes what ended sessions have left, up to `budget` deliveries. The rest is for the next
    /// commit: a million of them at once would be a commit that everybody waits for.
    pub(super) fn sweep(&mut self, mut budget: usize) -> Result<(), EngineError> {
        for _ in 0..budget {
            let Some(session) = self.memory.leftovers.ended.pop() else { break };
            self.end_session(session)?;
        }
        for _ in 0..budget {
            let Some((session, position)) = self.memory.leftovers.lost.pop() else { break };
            self.drop_delivery(session, position)?;
        }
        while let Some(Ended { session, from }) = self.memory.ended.pop() {
            for entry in self.engine.scan(keys::from_position(keys::DELIVERY, session, from)) {
                let (key, value) = entry?;
                let Some(position) = keys::position_of(&key) else { continue };
                if self.is_dropped((session, position)) {
                    continue;
                }
                if budget == 0 {
                    self.memory.ended.push(Ended { session, from: position });
                    return Ok(());
                }
                budget -= 1;
                self.drop_stored((session, position), &value);
            }
            for entry in self.engine.scan(keys::all_of(keys::STATE, session)) {
                let Some(position) = keys::position_of(&entry?.0) else { continue };
                self.stored.entry((session, position)).or_insert(Fate::Stateless);
            }
        }
        Ok(())
    }

    /// All of it as writes; none, if nothing is left of it.
    pub(super) fn into_writes(mut self) -> Result<Vec<Write>, EngineError> {
        let mut writes = Vec::new();
        self.write_records(&mut writes)?;
        self.write_deliveries(&mut writes)?;
        self.write_fates(&mut writes)?;
        self.write_released(&mut writes)?;
        if self.highest >= self.memory.next_number {
            self.memory.next_number = self.highest.saturating_add(AHEAD);
            let value = encoding::number(self.memory.next_number);
            writes.push(Write::Put(keys::of_meta(NEXT_NUMBER), value));
        }
        Ok(writes)
    }

    fn write_records(&mut self, writes: &mut Vec<Write>) -> Result<(), EngineError> {
        let mut put = |key: Vec<u8>, value: Option<Vec<u8>>| {
            match value {
                Some(value) => writes.push(Write::Put(key, value)),
                None if self.engine.get(&key)?.is_some() => writes.push(Write::Remove(key)),
                None => {}
            }
            Ok::<(), EngineError>(())
        };
        for (session, record) in std::mem::take(&mut self.sessions) {
            put(keys::of_session(session), record.as_ref().map(encoding::session))?;
        }
        for ((session, filter), record) in std::mem::take(&mut self.subscriptions) {
            let in_value = keys::is_in_value(&filter).then_some(&*filter);
            let value = record.map(|record| encoding::subscription(&record, in_value));
            put(self.memory.names.of_subscription(session, &filter), value)?;
        }
        for ((session, packet_id), is_there) in std::mem::take(&mut self.received) {
            let value = is_there.then(encoding::nothing);
            put(keys::of_received(session, packet_id), value)?;
        }
        for (topic, body) in std::mem::take(&mut self.retained) {
            let in_value = keys::is_in_value(&topic).then_some(&*topic);
            let value = body.map(|body| encoding::retained(&body, in_value));
            put(self.memory.names.of_retained(&topic), value)?;
        }
        Ok(())
    }

    fn write_deliveries(&mut self, writes: &mut Vec<Write>) -> Result<(), EngineError> {
        let mut references: BTreeMap<MessageNumber, u64> = BTreeMap::new();
        for delivery in self.fresh.values() {
            *references.entry(delivery.message).or_default() += 1;
        }
        for ((session, position), Fresh { message, record }) in std::mem::take(&mut self.fresh) {
            let Some(body) = self.bodies.get(&message) else {
                error!(session, position, message, "a delivery without a body is not kept");
                continue;
            };
            let value = if references.get(&message).is_some_and(|&count| count > 1) {
                encoding::delivery_shared(&record, message, body.data.len())
            } else {
                encoding::delivery_inline(&record, body)
            };
            writes.push(Write::Put(keys::of_delivery(keys::DELIVERY, session, position), value));
            self.recount(1);
        }
        for (message, count) in references {
            let Some(body) = self.bodies.get(&message) else { continue };
            if count == 1 {
                continue;
            }
            // Another shard may have put the same body in an earlier commit.
            let before = self.references(message)?;
            if before == 0 {
                let key = keys::of_message(keys::BODY, message);
                writes.push(Write::Put(key, encoding::message(body)));
            }
            let released = self.released.remove(&message).unwrap_or(0);
            let count = before.saturating_add(count).saturating_sub(released);
            let key = keys::of_message(keys::REFERENCES, message);
            writes.push(Write::Put(key, encoding::number(count)));
        }
        Ok(())
    }

    fn write_fates(&mut self, writes: &mut Vec<Write>) -> Result<(), EngineError> {
        for ((session, position), fate) in std::mem::take(&mut self.stored) {
            let state = keys::of_delivery(keys::STATE, session, position);
            match fate {
                Fate::Stateless => writes.push(Write::Remove(state)),
                Fate::State(now) => writes.push(Write::Put(state, encoding::state(now))),
                Fate::Dropped => {
                    let key = keys::of_delivery(keys::DELIVERY, session, position);
                    writes.push(Write::RemoveOnce(key));
                    self.recount(-1);
                    if self.engine.get(&state)?.is_some() {
                        writes.push(Write::Remove(state));
                    }
                }
            }
        }
        Ok(())
    }

    fn write_released(&mut self, writes: &mut Vec<Write>) -> Result<(), EngineError> {
        for (message, released) in std::mem::take(&mut self.released) {
            let key = keys::of_message(keys::REFERENCES, message);
            let left = self.references(message)?.saturating_sub(released);
            if left > 0 {
                writes.push(Write::Put(key, encoding::number(left)));
            } else {
                writes.push(Write::Remove(key));
                writes.push(Write::RemoveOnce(keys::of_message(keys::BODY, message)));
            }
        }
        Ok(())
    }

    /// The deliveries that refer to a shared body before this commit.
    fn references(&self, message: MessageNumber) -> Result<u64, EngineError> {
        let Some(value) = self.engine.get(&keys::of_message(keys::REFERENCES, message))? else {
            return Ok(0);
        };
        encoding::read_number(&value).map_err(|wrong| {
            EngineError::Damaged(format!("the references of message {message}: {wrong}"))
        })
    }
}
