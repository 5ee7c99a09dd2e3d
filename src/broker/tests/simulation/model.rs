//! What a naive server would know: sessions, subscriptions, wills, retained messages, messages.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::world::C,
    history::{Asked, FILTERS, TOPICS},
};

/// A moment: every event has its own, in their order.
pub type Moment = u64;
/// The end of time.
pub const EVER: Moment = Moment::MAX;

/// A message, by number.
#[derive(Debug)]
pub struct Message {
    pub topic: usize,
    pub qos: u8,
    pub retain: bool,
    /// The payload as it was sent.
    pub payload: String,
    /// Message Expiry Interval in milliseconds.
    pub expiry: Option<u64>,
    /// Whose it is.
    pub client: usize,
    /// Who published it; nobody for a will.
    pub publisher: Option<usize>,
    pub copies: Vec<Copy>,
}

/// One time that a broker took a message in: twice if the client sends a QoS 1 message again.
#[derive(Debug)]
pub struct Copy {
    /// When.
    pub at: Moment,
    pub shard: usize,
    /// When the message expires, in milliseconds of the clock.
    pub expires_at: Option<u64>,
    /// When it was sent to the other shards, and the number of the last batch to each.
    pub sent: Option<(Moment, Vec<u64>)>,
}

/// A subscription of a session for a time.
#[derive(Debug)]
pub struct Subscription {
    pub asked: Asked,
    pub from: Moment,
    pub to: Moment,
    /// Whether retained messages are owed for it.
    pub fetches: bool,
}

impl Subscription {
    /// The ShareName and the filter.
    pub fn filter(&self) -> (Option<&'static str>, &'static str) {
        split(FILTERS[self.asked.filter])
    }

    pub fn matches(&self, topic: usize) -> bool {
        matches(self.filter().1, TOPICS[topic])
    }

    pub fn is_shared(&self) -> bool {
        self.filter().0.is_some()
    }
}

/// A will that is not published and not cancelled.
#[derive(Debug, Clone)]
pub struct Will {
    /// The number that its message will have.
    pub number: usize,
    pub delay: u32,
    /// In milliseconds of the clock, once the connection is lost.
    pub due: Option<u64>,
}

#[derive(Debug)]
pub struct Session {
    pub client: usize,
    pub shard: usize,
    pub ended: Moment,
    pub connection: Option<C>,
    /// In seconds.
    pub expiry: u32,
    /// In milliseconds of the clock, once the connection is lost.
    pub expires: Option<u64>,
    pub will: Option<Will>,
    /// QoS 2 packet ids of the client's, not released.
    pub unreleased: BTreeSet<u16>,
    /// Messages that the client has seen and not acknowledged to the end, by packet id.
    pub held: BTreeMap<u16, usize>,
    pub subscriptions: Vec<Subscription>,
    /// When nothing waited for it.
    pub empty_at: Vec<Moment>,
    /// The connections that it had, from when to when.
    pub connections: Vec<(C, Moment, Moment)>,
}

impl Session {
    pub fn is_alive(&self) -> bool {
        self.ended == EVER
    }

    pub fn subscribe(&mut self, asked: Asked, at: Moment) {
        let (share, _) = split(FILTERS[asked.filter]);
        let existed = self.unsubscribe(asked.filter, at);
        let fetches = share.is_none() && (asked.handling == 0 || asked.handling == 1 && !existed);
        self.subscriptions.push(Subscription { asked, from: at, to: EVER, fetches });
    }

    /// Whether there was such a subscription.
    pub fn unsubscribe(&mut self, filter: usize, at: Moment) -> bool {
        let open = |s: &&mut Subscription| s.asked.filter == filter && s.to == EVER;
        let found = self.subscriptions.iter_mut().find(open);
        found.map(|subscription| subscription.to = at).is_some()
    }

    pub fn end(&mut self, at: Moment) {
        self.ended = at;
        for subscription in self.subscriptions.iter_mut().filter(|s| s.to == EVER) {
            subscription.to = at;
        }
    }

    /// The plain subscriptions for a topic that the client's own messages come back through, or
    /// all if the message is not its own.
    fn plain(&self, message: &Message) -> impl Iterator<Item = &Subscription> {
        let own = message.client == self.client;
        let topic = message.topic;
        self.subscriptions
            .iter()
            .filter(move |s| !s.is_shared() && s.matches(topic) && !(own && s.asked.no_local))
    }

    /// Those that existed at some time from `from` to `to`.
    pub fn plain_in(
        &self,
        message: &Message,
        from: Moment,
        to: Moment,
    ) -> impl Iterator<Item = &Subscription> {
        self.plain(message).filter(move |s| s.from <= to && s.to >= from)
    }

    /// Whether some subscription matched at any time from `from` to `to`.
    pub fn is_covered(&self, message: &Message, from: Moment, to: Moment) -> bool {
        let mut at = from;
        loop {
            let best = self.plain(message).filter(|s| s.from <= at && s.to > at).map(|s| s.to);
            match best.max() {
                None => return false,
                Some(until) if until > to => return true,
                Some(until) => at = until,
            }
        }
    }
}

/// Values that topics had: from when to when, which message.
#[derive(Debug, Default)]
pub struct Retained {
    pub reigns: BTreeMap<usize, Vec<(usize, Moment, Moment)>>,
}

impl Retained {
    /// The topic has this message from now on, or none.
    pub fn set(&mut self, topic: usize, number: Option<usize>, at: Moment) {
        let reigns = self.reigns.entry(topic).or_default();
        if let Some(last) = reigns.last_mut().filter(|(_, _, to)| *to == EVER) {
            last.2 = at;
        }
        reigns.extend(number.map(|number| (number, at, EVER)));
    }

    pub fn now(&self, topic: usize) -> Option<(usize, Moment)> {
        let last = self.reigns.get(&topic)?.last()?;
        (last.2 == EVER).then_some((last.0, last.1))
    }
}

/// The ShareName, if any, and the filter.
pub fn split(filter: &'static str) -> (Option<&'static str>, &'static str) {
    match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        Some((share, filter)) => (Some(share), filter),
        None => (None, filter),
    }
}

/// MQTT 5.0 section 4.7, without regard to speed.
pub fn matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter.split_first(), topic.split_first()) {
            (None, None) => true,
            (Some((&"#", _)), _) => true,
            (Some((&"+", filter)), Some((_, topic))) => levels(filter, topic),
            (Some((a, filter)), Some((b, topic))) => a == b && levels(filter, topic),
            _ => false,
        }
    }
    let filter: Vec<_> = filter.split('/').collect();
    let levels_of: Vec<_> = topic.split('/').collect();
    let reserved = topic.starts_with('$') && ["#", "+"].contains(&filter[0]);
    !reserved && levels(&filter, &levels_of)
}
