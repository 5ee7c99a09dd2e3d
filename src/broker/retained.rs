//! Retained messages. Each topic has one shard that keeps its message; a new subscription asks
//! that shard, or all of them if its filter has wildcards, a few messages at a time and no faster
//! than its client takes them. MQTT 5.0 sections 3.3.1.3 and 3.8.3.1.

use std::{collections::VecDeque, sync::Arc};

use super::{
    Broker, SessionKey,
    deliver::{Encoding, Matched},
    mail::{RetainedAnswer, RetainedQuery, ShardMessage},
};
use crate::{codec::SubscriptionOptions, session::Message, stats::DropReason, topics::ShardId};

/// The messages asked for at once.
const BATCH: usize = 64;
/// The topics looked at for one question: what is left is looked at in a later turn.
const VISITED: usize = 1_000;
/// The questions that one session asks its own shard in one turn.
const QUESTIONS_PER_TURN: usize = 4;
/// The topics swept for expired messages at each tick.
const SWEPT_PER_TICK: usize = 256;
/// The topics remembered for one session as out of date in what is on its way. Beyond it, an old
/// value may come behind a new one.
const SUPERSEDED: usize = 1_024;

/// The retained messages that a session's new subscriptions still wait for, one subscription after
/// the other.
#[derive(Debug, Default)]
pub struct RetainedRequests {
    queue: VecDeque<RetainedRequest>,
    /// A question is on its way.
    asked: bool,
    /// Topics for which a newer retained message has been delivered in the meantime: what is
    /// still on its way for them is out of date.
    superseded: Vec<Box<str>>,
}

/// The retained messages for one subscription.
#[derive(Debug)]
pub struct RetainedRequest {
    filter: Box<str>,
    options: SubscriptionOptions,
    id: u32,
    /// The shard that is asked next, if the filter has wildcards.
    shard: usize,
    /// The topic behind which to go on there.
    after: Option<Box<str>>,
    /// The subscription is gone; what is on its way is not wanted any more.
    cancelled: bool,
}

impl RetainedRequest {
    /// Nothing is asked yet.
    pub fn new(filter: &str, options: SubscriptionOptions, id: u32) -> Self {
        Self { filter: filter.into(), options, id, shard: 0, after: None, cancelled: false }
    }
}

impl RetainedRequests {
    /// A message that is retained was delivered just now.
    pub fn superseded(&mut self, topic: &str) {
        if self.queue.is_empty() || self.superseded.iter().any(|known| **known == *topic) {
            return;
        }
        if self.superseded.len() < SUPERSEDED {
            self.superseded.push(topic.into());
        }
    }

    /// The subscription is gone.
    pub fn cancel(&mut self, filter: &str) {
        // The first one may be waiting for an answer, which must find it.
        let asked = usize::from(self.asked);
        if let Some(first) = self.queue.front_mut().filter(|first| *first.filter == *filter) {
            first.cancelled = true;
        }
        let mut at = 0;
        self.queue.retain(|request| {
            at += 1;
            at <= asked || *request.filter != *filter
        });
    }
}

impl Broker {
    /// Makes a message the retained one of its topic, wherever that is kept. `[MQTT-3.3.1-5]`
    pub(super) fn retain(&mut self, encoding: &mut Encoding<'_>) {
        let topic = encoding.publication.topic;
        let owner = self.shared.retained_owner(topic);
        if !encoding.publication.payload.is_empty() && !topic.starts_with('$') {
            // Before anyone can learn that it was accepted; the owner takes back what is too much.
            self.shared.expect_retained(1);
        }
        let message = encoding.message();
        if owner == self.id {
            let message = Arc::clone(message);
            self.on_retain(message);
        } else {
            let message = message.for_another_shard();
            self.mail.push(owner, ShardMessage::Retain(message));
        }
    }

    /// This shard keeps the retained message of that topic: here is a new one, or an empty one
    /// that removes it. `[MQTT-3.3.1-6]`, `[MQTT-3.3.1-7]`
    pub(super) fn on_retain(&mut self, message: Arc<Message>) {
        let view = message.view();
        let counts = i64::from(!view.topic.starts_with('$'));
        if view.payload.is_empty() {
            if self.retained.remove(view.topic).is_some() {
                self.shared.expect_retained(-counts);
            }
        } else {
            let size = u32::try_from(message.size()).unwrap_or(u32::MAX);
            match self.retained.set(view.topic, Arc::clone(&message), size) {
                Ok(None) => {}
                Ok(Some(_)) => self.shared.expect_retained(-counts),
                Err(_) => {
                    // What was there is older than what could not be kept.
                    let removed = self.retained.remove(view.topic).is_some();
                    self.shared.expect_retained(-counts * (1 + i64::from(removed)));
                    self.stats.publish_dropped.add(DropReason::RetainedFull, 1);
                }
            }
        }
        self.count_retained();
    }

    fn count_retained(&self) {
        self.stats.retained_messages.set(self.retained.len() as u64);
        self.stats.retained_bytes.set(self.retained.bytes());
    }

    /// Notes that a new subscription is to get what is retained.
    pub(super) fn want_retained(&mut self, session: SessionKey, request: RetainedRequest) {
        // Topics that begin with `$` are not counted, and only filters that name them match them.
        if !request.filter.starts_with('$') && !self.shared.may_have_retained() {
            return;
        }
        if let Some(client) = self.clients.sessions.get_mut(session.index()) {
            client.rare().retained.queue.push_back(request);
        }
    }

    /// Goes on fetching retained messages for a session, as far as its client takes them.
    pub(super) fn fetch_retained(&mut self, session: SessionKey) {
        for _ in 0..QUESTIONS_PER_TURN {
            let Some((shard, query)) = self.next_question(session) else { return };
            if shard != self.id {
                self.mail.push(shard, ShardMessage::RetainedQuery(Box::new(query)));
                return;
            }
            let answer = self.answer(&query);
            self.take_answer(answer);
        }
        self.fetching.push_back(session);
    }

    fn next_question(&mut self, session: SessionKey) -> Option<(ShardId, RetainedQuery)> {
        let client = self.clients.sessions.get_mut(session.index())?;
        let requests = &mut client.rare.as_mut()?.retained;
        if requests.asked {
            return None;
        }
        let request = requests.queue.front()?;
        let connection = self.clients.connections.get(client.connection.index())?;
        let queued = client.outgoing.as_ref().map_or(0, |outgoing| outgoing.queued());
        let room = (self.config.queue.messages / 2).max(1).saturating_sub(queued);
        if room == 0 || connection.queued() > self.config.max_outbox_bytes / 2 {
            return None;
        }
        let shard = match is_wildcard(&request.filter) {
            true => ShardId(request.shard as u16),
            false => self.shared.retained_owner(&request.filter),
        };
        requests.asked = true;
        let query = RetainedQuery {
            from: self.id,
            session,
            serial: client.serial,
            filter: request.filter.clone(),
            after: request.after.clone(),
            limit: room.min(BATCH),
            // With what is queued already, no more than the outbox takes: a QoS 0 message beyond
            // that would be dropped.
            max_bytes: self.config.max_outbox_bytes / 2,
        };
        Some((shard, query))
    }

    /// Another shard asks what is kept here.
    pub(super) fn on_retained_query(&mut self, query: &RetainedQuery) {
        let answer = self.answer(query);
        self.mail.push(query.from, ShardMessage::RetainedAnswer(Box::new(answer)));
    }

    /// Another shard has answered.
    pub(super) fn on_retained_answer(&mut self, answer: RetainedAnswer) {
        let session = answer.session;
        self.take_answer(answer);
        self.fetch_retained(session);
    }

    fn answer(&mut self, query: &RetainedQuery) -> RetainedAnswer {
        let mut found = Vec::new();
        let after = query.after.as_deref();
        let mut next = self.retained.scan(&query.filter, after, query.limit, VISITED, &mut found);
        let mut bytes = 0;
        let fitting = found.iter().take_while(|(_, message)| {
            bytes += message.size();
            bytes <= query.max_bytes
        });
        let fitting = fitting.count().max(1);
        if let Some((topic, _)) = found.get(fitting) {
            next = Some(Box::from(*topic));
            found.truncate(fitting);
        }
        let now = self.now.monotonic;
        let fresh = found.iter().filter(|(_, message)| !message.view().is_expired(now));
        let messages = match query.from == self.id {
            true => fresh.map(|(_, message)| Arc::clone(message)).collect(),
            false => fresh.map(|(_, message)| message.for_another_shard()).collect(),
        };
        RetainedAnswer { session: query.session, serial: query.serial, messages, next }
    }

    fn take_answer(&mut self, answer: RetainedAnswer) {
        let shards = self.shared.stats.len();
        let Some(client) = self.clients.sessions.get_mut(answer.session.index()) else { return };
        if client.serial != answer.serial {
            return;
        }
        let Some(rare) = &mut client.rare else { return };
        let requests = &mut rare.retained;
        requests.asked = false;
        let Some(request) = requests.queue.front_mut() else { return };
        if request.cancelled {
            requests.queue.pop_front();
            if requests.queue.is_empty() {
                requests.superseded = Vec::new();
            }
            return; // [MQTT-3.10.4-2]
        }
        let (options, id) = (request.options, request.id);
        request.after = answer.next;
        if request.after.is_none() {
            request.shard += 1;
            if !is_wildcard(&request.filter) || request.shard >= shards {
                requests.queue.pop_front();
            }
        }
        let superseded = match requests.queue.is_empty() {
            true => std::mem::take(&mut requests.superseded),
            false => requests.superseded.clone(),
        };
        let ids = if id == 0 { &[][..] } else { std::slice::from_ref(&id) };
        let matched = Matched { options, ids, shared: false, retained: true };
        for message in &answer.messages {
            let mut encoding = Encoding::of(message);
            let topic = encoding.publication.topic;
            if !superseded.iter().any(|newer| **newer == *topic) {
                self.clients.deliver(answer.session, matched, &mut encoding);
            }
        }
    }

    /// Goes on with what was left for this turn.
    pub(super) fn fetch_on(&mut self) {
        for session in std::mem::take(&mut self.fetching) {
            self.fetch_retained(session);
        }
    }

    /// Removes a few retained messages that have expired. `[MQTT-3.3.2-5]`
    pub(super) fn sweep_retained(&mut self) {
        if self.retained.is_empty() {
            return;
        }
        let mut found = Vec::new();
        let after = self.retained_sweep.take();
        let limit = SWEPT_PER_TICK;
        // `$`-topics are the broker's own and do not expire.
        self.retained_sweep = self.retained.scan("#", after.as_deref(), limit, limit, &mut found);
        let now = self.now.monotonic;
        let expired = found.iter().filter(|(_, message)| message.view().is_expired(now));
        let expired: Vec<Box<str>> = expired.map(|(topic, _)| Box::from(*topic)).collect();
        for topic in &expired {
            self.retained.remove(topic);
            self.shared.expect_retained(-1);
        }
        self.count_retained();
    }
}

fn is_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| byte == b'+' || byte == b'#')
}
