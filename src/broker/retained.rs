//! Retained messages. Each topic has one shard that keeps its message; a new subscription asks
//! that shard, or all of them if its filter has wildcards, a few messages at a time and no faster
//! than its client takes them. MQTT 5.0 sections 3.3.1.3 and 3.8.3.1.

use std::{
    collections::VecDeque,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use super::{
    Broker, SessionKey,
    client::Client,
    deliver::{Encoding, Matched},
    keep::Keeping,
    mail::{Credit, RetainedAnswer, RetainedQuery, ShardMessage},
    publish::Routed,
};
use crate::{
    codec::{QoS, SubscriptionOptions},
    limits,
    record::Change,
    session::Message,
    stats::DropReason,
    topics::ShardId,
};

/// The questions that one session asks its own shard in one turn.
const QUESTIONS_PER_TURN: usize = 4;
/// The topics remembered for which a newer message came while a session waits for retained ones.
/// Beyond it a client may get a message twice, the second time as a retained one.
const MAX_SUPERSEDED: usize = 1_024;
/// Their bytes; they are compared one by one.
const MAX_SUPERSEDED_BYTES: usize = 64 << 10;

/// The retained messages that a session's new subscriptions still wait for, one subscription after
/// the other.
#[derive(Debug, Default)]
pub struct RetainedRequests {
    queue: VecDeque<RetainedRequest>,
    /// A question is on its way.
    asked: bool,
    /// The session is among those that go on in the next turn.
    goes_on: bool,
    /// Topics for which a message has been delivered in the meantime that another shard than its
    /// own retains: an answer that comes later is out of date if that shard had not had it yet. The
    /// last message of each shard that sent any.
    superseded: Vec<(Box<str>, Superseding)>,
    superseded_bytes: usize,
}

/// A message that its shard has sent to another one to be retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superseding {
    /// Who sent it.
    pub from: ShardId,
    /// Which it is of all those that this shard has sent to that one.
    pub number: NonZeroU64,
}

/// The retained messages for one subscription.
#[derive(Debug)]
pub struct RetainedRequest {
    filter: Box<str>,
    options: SubscriptionOptions,
    id: u32,
    /// The shard that is asked next, if the filter has wildcards.
    shard: usize,
    /// The topic to go on with there.
    after: Option<Box<str>>,
    /// Nobody wants the answer that is on its way any more.
    cancelled: bool,
}

impl RetainedRequest {
    /// Nothing is asked yet.
    pub fn new(filter: &str, options: SubscriptionOptions, id: u32) -> Self {
        Self { filter: filter.into(), options, id, shard: 0, after: None, cancelled: false }
    }
}

impl RetainedRequests {
    /// A message that is retained was delivered just now; the shard that keeps its topic may not
    /// have had it yet when it answered.
    pub fn superseded(&mut self, topic: &str, by: Superseding) {
        if self.queue.is_empty() {
            return;
        }
        let mut known = self.superseded.iter_mut();
        if let Some((_, last)) = known.find(|(t, last)| last.from == by.from && **t == *topic) {
            last.number = last.number.max(by.number);
        } else if self.superseded.len() < MAX_SUPERSEDED
            && self.superseded_bytes + topic.len() <= MAX_SUPERSEDED_BYTES
        {
            self.superseded.push((topic.into(), by));
            self.superseded_bytes += topic.len();
        }
    }

    /// Whether what a shard answers for `topic` is older than what has been delivered, when it had
    /// `taken` so many messages to be retained from each shard.
    fn is_out_of_date(&self, topic: &str, taken: &[u64]) -> bool {
        let had =
            |by: &Superseding| taken.get(by.from.index()).is_some_and(|n| *n >= by.number.get());
        self.superseded.iter().any(|(known, by)| **known == *topic && !had(by))
    }

    /// How many requests wait, and how many topics are remembered for them.
    #[cfg(test)]
    pub fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.superseded.len())
    }

    /// The subscription has been replaced: what it is still to get follows the new one.
    /// `[MQTT-3.8.4-3]`
    fn replace(&mut self, by: &RetainedRequest) {
        let waiting = self.queue.iter_mut().filter(|request| !request.cancelled);
        for request in waiting.filter(|request| *request.filter == *by.filter) {
            (request.options, request.id) = (by.options, by.id);
        }
    }

    /// The subscription is gone.
    pub fn cancel(&mut self, filter: &str) {
        self.strike(filter);
        self.tidy();
    }

    fn strike(&mut self, filter: &str) {
        // The first one may be waiting for an answer, which must find it and is then thrown away.
        let mut waits = self.asked;
        self.queue.retain_mut(|request| {
            let is_it = *request.filter == *filter;
            request.cancelled |= is_it;
            std::mem::take(&mut waits) || !is_it
        });
    }

    /// Nothing waits any more: what was remembered for it is not needed.
    fn tidy(&mut self) {
        if self.queue.is_empty() {
            self.superseded = Vec::new();
            self.superseded_bytes = 0;
        }
    }
}

impl Broker {
    /// Makes a message the retained one of its topic, wherever that is kept. `[MQTT-3.3.1-5]`
    /// Without credit it is sent all the same, for what is retained must not be out of date, but
    /// its publisher is to wait.
    pub(super) fn retain(&mut self, encoding: &mut Encoding<'_>, routed: &mut Routed) {
        let topic = encoding.publication.topic;
        let owner = self.shared.retained_owner(topic);
        if !encoding.publication.payload.is_empty() && !topic.starts_with('$') {
            // Before it is looked up who wants it; the owner takes back what is too much.
            self.shared.expect_retained(1);
            fence(Ordering::SeqCst);
        }
        let message = encoding.message();
        if owner == self.id {
            // What this shard answers from now on is no older.
            let message = Arc::clone(message);
            self.on_retain(message);
        } else {
            let message = Arc::clone(message);
            routed.congested |= self.mail.credit(owner) != Credit::Ample;
            if message.view().qos > QoS::AtMostOnce {
                self.clients.journal.ask(owner);
            }
            let number = self.mail.push_retained(owner, message);
            encoding.supersedes = number.map(|number| Superseding { from: self.id, number });
        }
    }

    /// The same, from another shard. If that has `missed` who subscribes to it here, it is delivered:
    /// an answer that was given here before had an older one.
    pub(super) fn on_retain_from(&mut self, from: ShardId, message: Arc<Message>, missed: bool) {
        if let Some(taken) = self.retained_taken.get_mut(from.index()) {
            *taken += 1;
        }
        self.on_retain(Arc::clone(&message));
        let mut encoding = Encoding::of(&message);
        if missed && !encoding.publication.is_too_late(self.now.monotonic) {
            self.deliver_here(None, &mut encoding);
        }
    }

    /// This shard keeps the retained message of that topic: here is a new one, or an empty one
    /// that removes it. `[MQTT-3.3.1-6]`, `[MQTT-3.3.1-7]`
    pub(super) fn on_retain(&mut self, message: Arc<Message>) {
        let view = message.view();
        let counts = i64::from(!view.topic.starts_with('$'));
        if self.clients.journal.has_failed() && view.qos > QoS::AtMostOnce {
            self.clients.journal.refuse();
        }
        if view.payload.is_empty() {
            if self.retained.remove(view.topic).is_some() {
                self.shared.expect_retained(-counts);
                Keeping::new(&mut self.clients.journal, self.now).retained(&message);
            }
        } else {
            let size = u32::try_from(message.size()).unwrap_or(u32::MAX);
            match self.retained.set(view.topic, Arc::clone(&message), size) {
                Ok(None) => self.keep_retained(&message),
                Ok(Some(_)) => {
                    self.shared.expect_retained(-counts);
                    self.keep_retained(&message);
                }
                Err(_) => {
                    // What was there is older than what could not be kept.
                    let removed = self.retained.remove(view.topic).is_some();
                    if removed {
                        let topic = Box::from(view.topic);
                        self.clients.journal.push(Change::DropRetained { topic });
                    }
                    self.shared.expect_retained(-counts * (1 + i64::from(removed)));
                    self.stats.publish_dropped.add(DropReason::RetainedFull, 1);
                }
            }
        }
        self.count_retained();
    }

    fn keep_retained(&mut self, message: &Message) {
        // What the broker says of itself is said anew after a restart.
        if !message.view().topic.starts_with("$SYS/") {
            Keeping::new(&mut self.clients.journal, self.now).retained(message);
        }
    }

    pub(super) fn count_retained(&self) {
        self.stats.retained_messages.set(self.retained.len() as u64);
        self.stats.retained_bytes.set(self.retained.bytes());
    }

    /// A subscription has been replaced by one that asks for other options, and perhaps for nothing
    /// that is retained: what the old one was to get is not lost. `[MQTT-3.8.4-4]`
    pub(super) fn replace_wanted(&mut self, session: SessionKey, by: &RetainedRequest) {
        let client = self.clients.sessions.get_mut(session.index());
        if let Some(rare) = client.and_then(|client| client.rare.as_mut()) {
            rare.retained.replace(by);
        }
    }

    /// Whether anything that a new subscription may get is retained.
    pub(super) fn may_be_retained(&self, filter: &str) -> bool {
        // The route is there by now: whoever does not see it has announced its message before.
        fence(Ordering::SeqCst);
        // Topics that begin with `$` are not counted, and only filters that name them match them.
        filter.starts_with('$') || self.shared.may_have_retained()
    }

    /// Notes that a subscription is to get what is retained. `existed` if it is not a new one.
    pub(super) fn want_retained(
        &mut self,
        session: SessionKey,
        request: RetainedRequest,
        existed: bool,
    ) {
        if let Some(client) = self.clients.sessions.get_mut(session.index()) {
            let requests = &mut client.rare().retained;
            // Subscribing anew starts anew: there are no more requests than subscriptions, and one.
            // What has been delivered meanwhile stays known.
            if existed {
                requests.strike(&request.filter);
            }
            requests.queue.push_back(request);
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
            if self.clients.work > limits::WORK_PER_TURN {
                break;
            }
        }
        let client = self.clients.sessions.get_mut(session.index());
        let Some(rare) = client.and_then(|client| client.rare.as_mut()) else { return };
        // Once, however often the session asks in this turn.
        if !std::mem::replace(&mut rare.retained.goes_on, true) {
            self.fetching.push_back(session);
        }
    }

    /// How many retained messages a session has room for: none while its client is away, or when half
    /// of what its outbox or its queue takes is used up. The other half takes one answer.
    fn room_for_retained(&self, client: &Client) -> usize {
        let connection = self.clients.connections.get(client.connection.index());
        let low_water = self.config.max_outbox_bytes / 2;
        if connection.is_none_or(|connection| connection.queued() > low_water) {
            return 0;
        }
        let queued = client.outgoing.as_ref().map_or(0, |outgoing| outgoing.queued());
        (self.config.queue.messages / 2).max(1).saturating_sub(queued)
    }

    fn next_question(&mut self, session: SessionKey) -> Option<(ShardId, RetainedQuery)> {
        let client = self.clients.sessions.get(session.index())?;
        let requests = &client.rare.as_ref()?.retained;
        if requests.asked || requests.queue.is_empty() {
            return None;
        }
        let room = self.room_for_retained(client);
        if room == 0 {
            return None;
        }
        let client = self.clients.sessions.get_mut(session.index())?;
        let requests = &mut client.rare.as_mut()?.retained;
        let request = requests.queue.front()?;
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
            limit: room.min(limits::RETAINED_BATCH),
        };
        Some((shard, query))
    }

    /// Another shard asks what is kept here. Each session has one question on its way at most, so
    /// there are no more of them than sessions.
    pub(super) fn on_retained_query(&mut self, query: Box<RetainedQuery>) {
        if self.clients.work > limits::WORK_PER_TURN || !self.queries.is_empty() {
            return self.queries.push_back(query);
        }
        self.answer_query(&query);
    }

    fn answer_query(&mut self, query: &RetainedQuery) {
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
        let (visited, mut next) = self.retained.scan(
            &query.filter,
            after,
            query.limit,
            limits::RETAINED_VISITS,
            &mut found,
        );
        self.clients.work += visited * limits::WORK_OF_A_LOOK;
        // No more than an outbox takes that was half empty when it was asked.
        let mut bytes = 0;
        let mut fits = |(_, message): &(&str, &Arc<Message>)| {
            let before = bytes;
            bytes += message.size();
            before <= self.config.max_outbox_bytes / 2
        };
        let fitting = found.iter().take_while(|found| fits(found)).count();
        if let Some((topic, _)) = found.get(fitting) {
            next = Some(Box::from(*topic));
            found.truncate(fitting);
        }
        let now = self.now.monotonic;
        let fresh = found.iter().filter(|(_, message)| !message.view().is_expired(now));
        let messages: Vec<_> = match query.from == self.id {
            true => fresh.map(|(_, message)| Arc::clone(message)).collect(),
            false => fresh.map(|(_, message)| message.for_another_shard()).collect(),
        };
        let taken = match messages.is_empty() {
            true => Box::default(),
            false => self.retained_taken.clone(),
        };
        RetainedAnswer { session: query.session, serial: query.serial, messages, next, taken }
    }

    fn take_answer(&mut self, mut answer: RetainedAnswer) {
        let shards = self.shared.stats.len();
        let client = self.clients.sessions.get(answer.session.index());
        let Some(client) = client.filter(|client| client.serial == answer.serial) else { return };
        let has_room = self.room_for_retained(client) > 0;
        let Some(client) = self.clients.sessions.get_mut(answer.session.index()) else { return };
        let Some(rare) = &mut client.rare else { return };
        let requests = &mut rare.retained;
        requests.asked = false;
        let Some(request) = requests.queue.front_mut() else { return };
        if request.cancelled {
            requests.queue.pop_front();
            return requests.tidy();
        }
        if !has_room && !answer.messages.is_empty() {
            // Asked for when there was some: to be asked for again.
            return;
        }
        let (options, id) = (request.options, request.id);
        request.after = answer.next;
        if request.after.is_none() {
            request.shard += 1;
            if !is_wildcard(&request.filter) || request.shard >= shards {
                requests.queue.pop_front();
            }
        }
        answer.messages.retain(|m| !requests.is_out_of_date(m.view().topic, &answer.taken));
        requests.tidy();
        let ids = if id == 0 { &[][..] } else { std::slice::from_ref(&id) };
        let matched = Matched { options, ids, shared: None, retained: true };
        for message in &answer.messages {
            self.clients.relieve();
            let mut encoding = Encoding::of(message);
            if !self.has_expired(&encoding) {
                self.clients.deliver(answer.session, matched, &mut encoding);
            }
        }
    }

    /// Goes on with what was left for this turn.
    pub(super) fn fetch_on(&mut self) {
        for query in std::mem::take(&mut self.queries) {
            if self.clients.work > limits::WORK_PER_TURN {
                self.queries.push_back(query);
            } else {
                self.answer_query(&query);
            }
        }
        for session in std::mem::take(&mut self.fetching) {
            if self.clients.work > limits::WORK_PER_TURN {
                self.fetching.push_back(session);
                continue;
            }
            let client = self.clients.sessions.get_mut(session.index());
            if let Some(rare) = client.and_then(|client| client.rare.as_mut()) {
                rare.retained.goes_on = false;
            }
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
        let limit = limits::RETAINED_SWEPT;
        self.retained_sweep = self.retained.walk(after.as_deref(), limit, &mut found);
        let now = self.now.monotonic;
        let expired = found.iter().filter(|(_, message)| message.view().is_expired(now));
        let expired: Vec<Box<str>> = expired.map(|(topic, _)| Box::from(*topic)).collect();
        for topic in expired {
            self.retained.remove(&topic);
            let counts = i64::from(!topic.starts_with('$'));
            self.clients.journal.push(Change::DropRetained { topic });
            self.shared.expect_retained(-counts);
        }
        self.count_retained();
    }
}

fn is_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| byte == b'+' || byte == b'#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topics_remembered_are_bounded_in_number_and_in_bytes() {
        let mut requests = RetainedRequests::default();
        let options = SubscriptionOptions::new(QoS::AtMostOnce);
        requests.queue.push_back(RetainedRequest::new("#", options, 0));
        let by = Superseding { from: ShardId(0), number: NonZeroU64::MIN };
        for n in 0..2_000 {
            requests.superseded(&format!("{n:030}"), by);
        }
        assert_eq!(requests.waiting(), (1, MAX_SUPERSEDED));
        requests.cancel("#");
        requests.queue.push_back(RetainedRequest::new("#", options, 0));
        for n in 0..20 {
            requests.superseded(&format!("{n:010000}"), by);
        }
        assert_eq!(requests.waiting(), (1, 6));
    }

    #[test]
    fn an_answer_is_out_of_date_if_it_was_given_without_any_of_the_messages_that_have_come() {
        let mut requests = RetainedRequests::default();
        let by = |from, number| Superseding {
            from: ShardId(from),
            number: NonZeroU64::new(number).unwrap(),
        };
        requests.superseded("t", by(0, 9));
        assert!(!requests.is_out_of_date("t", &[]), "nothing is waited for");
        let options = SubscriptionOptions::new(QoS::AtMostOnce);
        requests.queue.push_back(RetainedRequest::new("#", options, 0));
        requests.superseded("t", by(0, 3));
        requests.superseded("t", by(2, 5));
        requests.superseded("t", by(2, 4));
        assert_eq!(requests.waiting(), (1, 2), "the last message of each shard");
        for (taken, expected) in [([3, 0, 5], false), ([2, 9, 9], true), ([9, 9, 4], true)] {
            assert_eq!(requests.is_out_of_date("t", &taken), expected, "{taken:?}");
            assert!(!requests.is_out_of_date("u", &taken));
        }
    }
}
