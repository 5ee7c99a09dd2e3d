//! What a start finds: everything once, session by session, with no more than one session's parts
//! in memory at a time.

use std::collections::{BTreeSet, HashMap};
use std::iter::Peekable;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{error, info};

use super::encoding::{self, Body, DecodeError};
use super::engine::{Engine, EngineError, Scan};
use super::keys::{self, Name};
use crate::record::{
    DeliveryState, MessageRecord, Position, Restored, SessionNumber, SessionRecord, StoredDelivery,
    StoredQueue, StoredSession,
};

/// How often a long start says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// What a start has found, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Sessions.
    pub sessions: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Retained messages.
    pub retained: usize,
    /// Deliveries that were under way.
    pub inflight: usize,
    /// Deliveries that wait.
    pub queued: usize,
    /// The bytes of the bodies of those that wait.
    pub queued_bytes: usize,
    /// Sessions that have ended: another one has their client id, they have left something for other
    /// members of their groups, or they have no record.
    pub ended: usize,
    /// Records that could not be read, each of which was logged.
    pub lost: usize,
}

/// The filter of a subscription's entry, if it can be told.
pub(super) fn filter(key: &[u8], value: &[u8]) -> Option<Box<str>> {
    match keys::filter_of(key)? {
        Name::Plain(filter) => Some(filter.into()),
        Name::InValue => Some(encoding::read_subscription(value).ok()?.1),
    }
}

/// What a start finds that is to go.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    /// What sessions without a record have.
    pub(super) ended: Vec<SessionNumber>,
    /// Deliveries that cannot be read.
    pub(super) lost: Vec<(SessionNumber, Position)>,
    /// The deliveries that there are, if they were counted.
    pub(super) deliveries: Option<usize>,
}

/// Gives everything to `each`.
pub(super) fn restore(
    engine: &dyn Engine,
    each: &mut dyn FnMut(Restored),
) -> Result<(Summary, Leftovers), EngineError> {
    let mut pass = Pass {
        engine,
        subscriptions: Cursor::new(engine, keys::SUBSCRIPTION),
        received: Cursor::new(engine, keys::RECEIVED),
        deliveries: Cursor::new(engine, keys::DELIVERY),
        states: States(engine.scan(keys::all(keys::STATE)).peekable()),
        orphans: BTreeSet::new(),
        lost: Vec::new(),
        summary: Summary::default(),
        reported: Instant::now(),
    };
    pass.sessions(each)?;
    pass.retained(each)?;
    pass.summary.ended += pass.orphans.len();
    if pass.summary.ended > 0 {
        info!(sessions = pass.summary.ended, "sessions that were ending when the broker stopped");
    }
    let ended = pass.orphans.into_iter().collect();
    let deliveries = Some(pass.deliveries.taken);
    Ok((pass.summary, Leftovers { ended, lost: pass.lost, deliveries }))
}

struct Pass<'a> {
    engine: &'a dyn Engine,
    subscriptions: Cursor<'a>,
    received: Cursor<'a>,
    deliveries: Cursor<'a>,
    states: States<'a>,
    /// Sessions that are not given, but have something left.
    orphans: BTreeSet<SessionNumber>,
    lost: Vec<(SessionNumber, Position)>,
    summary: Summary,
    reported: Instant,
}

impl Pass<'_> {
    fn sessions(&mut self, each: &mut dyn FnMut(Restored)) -> Result<(), EngineError> {
        let newest = self.newest()?;
        for entry in self.engine.scan(keys::all(keys::SESSION)) {
            let (key, value) = entry?;
            let Some(session) = keys::session_of(&key) else { continue };
            match encoding::read_session(&value) {
                Ok(record) => {
                    let is_newest = newest.get(&record.client_id) == Some(&session);
                    let mut found = self.session(session, record)?;
                    found.record.is_ended |= !is_newest;
                    match found.record.is_ended {
                        true => self.summary.ended += 1,
                        false => self.summary.sessions += 1,
                    }
                    each(Restored::Session(Box::new(found)));
                }
                Err(wrong) => {
                    self.lose(&format_args!("session {session}"), wrong);
                    self.orphans.insert(session);
                }
            }
            self.report();
        }
        self.skip_to(SessionNumber::MAX)
    }

    /// The session that has each client id: of two the newer one, for the end of the older one may
    /// not have been written.
    fn newest(&self) -> Result<HashMap<Box<str>, SessionNumber>, EngineError> {
        let mut newest = HashMap::new();
        for entry in self.engine.scan(keys::all(keys::SESSION)) {
            let (key, value) = entry?;
            if let (Some(session), Ok(record)) =
                (keys::session_of(&key), encoding::read_session(&value))
                && !record.is_ended
            {
                newest.insert(record.client_id, session);
            }
        }
        Ok(newest)
    }

    fn session(
        &mut self,
        session: SessionNumber,
        record: SessionRecord,
    ) -> Result<StoredSession, EngineError> {
        self.skip_to(session)?;
        let mut found = StoredSession {
            session,
            record,
            subscriptions: Vec::new(),
            received: Vec::new(),
            inflight: Vec::new(),
            queue: StoredQueue::default(),
        };
        while let Some((key, value)) = self.subscriptions.next_of(session)? {
            self.subscription(&mut found, &key, &value);
        }
        while let Some((key, _)) = self.received.next_of(session)? {
            found.received.extend(keys::packet_id_of(&key));
        }
        while let Some((key, value)) = self.deliveries.next_of(session)? {
            self.delivery(&mut found, &key, &value)?;
            self.report();
        }
        self.summary.subscriptions += found.subscriptions.len();
        self.summary.inflight += found.inflight.len();
        self.summary.queued += found.queue.messages;
        self.summary.queued_bytes += found.queue.bytes;
        // Those under long names come in the order of their hashes.
        found.subscriptions.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found)
    }

    fn subscription(&mut self, found: &mut StoredSession, key: &[u8], value: &[u8]) {
        match (encoding::read_subscription(value), filter(key, value)) {
            (Ok((record, _)), Some(filter)) => found.subscriptions.push((filter, record)),
            (result, _) => {
                let wrong = result.err().unwrap_or(DecodeError::Field("filter"));
                self.lose(&format_args!("a subscription of session {}", found.session), wrong);
            }
        }
    }

    fn delivery(
        &mut self,
        found: &mut StoredSession,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), EngineError> {
        let Some(position) = keys::position_of(key) else { return Ok(()) };
        let mut stored = match encoding::read_delivery(value) {
            Ok(stored) => stored,
            Err(wrong) => {
                self.lose_delivery(found.session, position, wrong);
                return Ok(());
            }
        };
        if let Some(state) = self.states.of_delivery(key)? {
            stored.record.state = state;
        }
        if stored.record.state.waits(found.queue.messages > 0) {
            if found.queue.messages == 0 {
                found.queue.from = position;
            }
            found.queue.messages += 1;
            found.queue.bytes += stored.body.len();
            if stored.record.qos == 0 {
                found.queue.last_qos0 = position;
            }
            return Ok(());
        }
        let body = match stored.record.state {
            DeliveryState::Received(_) => None,
            _ => match body(self.engine, stored.body)? {
                Some(body) => Some(body),
                None => {
                    self.lose_delivery(found.session, position, DecodeError::CutOff);
                    return Ok(());
                }
            },
        };
        found.inflight.push(StoredDelivery { position, record: stored.record, body });
        Ok(())
    }

    fn retained(&mut self, each: &mut dyn FnMut(Restored)) -> Result<(), EngineError> {
        for entry in self.engine.scan(keys::all(keys::RETAINED)) {
            let (key, value) = entry?;
            match (encoding::read_retained(&value), keys::topic_of(&key)) {
                (Ok((body, in_value)), Some(name)) => {
                    let topic = match name {
                        Name::Plain(topic) => topic.into(),
                        Name::InValue => in_value,
                    };
                    self.summary.retained += 1;
                    each(Restored::Retained { topic, body });
                }
                (result, _) => {
                    let wrong = result.err().unwrap_or(DecodeError::Field("topic"));
                    self.lose(&"a retained message", wrong);
                }
            }
            self.report();
        }
        Ok(())
    }

    /// Passes by what belongs to earlier sessions, which have no record.
    fn skip_to(&mut self, session: SessionNumber) -> Result<(), EngineError> {
        let orphans = &mut self.orphans;
        for cursor in [&mut self.subscriptions, &mut self.received, &mut self.deliveries] {
            cursor.skip_to(session, &mut |orphan| _ = orphans.insert(orphan))?;
        }
        Ok(())
    }

    fn lose_delivery(&mut self, session: SessionNumber, position: Position, wrong: DecodeError) {
        self.lose(&format_args!("delivery {position} of session {session}"), wrong);
        self.lost.push((session, position));
    }

    fn lose(&mut self, what: &dyn std::fmt::Display, wrong: DecodeError) {
        self.summary.lost += 1;
        error!("{what} cannot be read and is lost: {wrong}");
    }

    fn report(&mut self) {
        if self.reported.elapsed() >= PROGRESS_INTERVAL {
            self.reported = Instant::now();
            let Summary { sessions, retained, inflight, queued, .. } = self.summary;
            info!(sessions, retained, inflight, queued, "reading the data folder");
        }
    }
}

/// The body of a delivery; `None` if it is not there.
pub(super) fn body(
    engine: &dyn Engine,
    body: Body<'_>,
) -> Result<Option<MessageRecord>, EngineError> {
    match body {
        Body::Inline(view) => Ok(Some(view.to_record())),
        Body::Shared { message, .. } => {
            let value = engine.get(&keys::of_message(keys::BODY, message))?;
            Ok(value.and_then(|value| encoding::read_message(&value).ok()))
        }
    }
}

/// The entries of one kind, taken session by session.
struct Cursor<'a> {
    entries: Peekable<Scan<'a>>,
    /// How many there were so far.
    taken: usize,
}

impl<'a> Cursor<'a> {
    fn new(engine: &'a dyn Engine, kind: u8) -> Self {
        Self { entries: engine.scan(keys::all(kind)).peekable(), taken: 0 }
    }

    /// Passes by all entries of earlier sessions and says whose they are.
    fn skip_to(
        &mut self,
        session: SessionNumber,
        skipped: &mut dyn FnMut(SessionNumber),
    ) -> Result<(), EngineError> {
        let is_before = |entry: &Result<(Bytes, Bytes), EngineError>| match entry {
            Ok((key, _)) => keys::session_of(key).is_none_or(|owner| owner < session),
            Err(_) => true,
        };
        while let Some(entry) = self.entries.next_if(is_before) {
            self.taken += 1;
            keys::session_of(&entry?.0).into_iter().for_each(&mut *skipped);
        }
        Ok(())
    }

    /// The next entry, if it is one of `session`.
    fn next_of(&mut self, session: SessionNumber) -> Result<Option<(Bytes, Bytes)>, EngineError> {
        let entry = self.entries.next_if(|entry| match entry {
            Ok((key, _)) => keys::session_of(key) == Some(session),
            Err(_) => true,
        });
        self.taken += usize::from(entry.is_some());
        entry.transpose()
    }
}

/// The states of deliveries, taken along with them.
pub(super) struct States<'a>(pub(super) Peekable<Scan<'a>>);

impl States<'_> {
    /// How far the delivery with this key has come, if it has; the keys have to ascend.
    pub(super) fn of_delivery(&mut self, key: &[u8]) -> Result<Option<DeliveryState>, EngineError> {
        let Some((_, at)) = key.split_first() else { return Ok(None) };
        loop {
            let entry = self.0.next_if(|entry| match entry {
                Ok((key, _)) => key.get(1..).is_none_or(|state| state <= at),
                Err(_) => true,
            });
            let Some((key, value)) = entry.transpose()? else { return Ok(None) };
            if key.get(1..) == Some(at) {
                return Ok(encoding::read_state(&value).ok());
            }
        }
    }
}
