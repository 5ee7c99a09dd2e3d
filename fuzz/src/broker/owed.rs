//! What the broker owes to whom, as far as it can be known without knowing in which order shards
//! have seen things: a naive model of subscriptions and publications, in steps of the walk.

use std::collections::{BTreeMap, HashMap, HashSet};

use ringmq::{broker::tests::peer::Msg, codec::SubscriptionOptions};

use crate::topics::naive_matches;

/// A message of a client that the walk knows, by its payload.
pub struct Publication {
    pub by: usize,
    /// The messages of a client are numbered.
    pub number: u32,
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    /// It is sent when its connection breaks, and so in no order with the others.
    pub is_will: bool,
    pub expiry: Option<u32>,
    /// The step at which the broker could have it.
    pub at: u32,
    /// The broker has acknowledged it.
    pub accepted: bool,
}

struct Subscription {
    filter: String,
    options: SubscriptionOptions,
    id: u32,
    session: u32,
    /// The step at which the client asked for it.
    from: u32,
    /// The step at which the client knew that it had ended.
    until: Option<u32>,
}

/// The books of one client.
#[derive(Default)]
struct Account {
    /// The number of its sessions so far.
    session: u32,
    subscriptions: Vec<Subscription>,
    /// What it received anew, in order: publisher, topic, QoS, number.
    seen: Vec<(usize, String, u8, u32)>,
}

/// The books of all clients.
pub struct Owed {
    pub step: u32,
    publications: HashMap<Vec<u8>, Publication>,
    /// Payloads that came, or may have come, as bytes that nobody has checked.
    wild: HashSet<Vec<u8>>,
    accounts: Vec<Account>,
}

impl Owed {
    pub fn new(clients: usize) -> Self {
        Self {
            step: 0,
            publications: HashMap::new(),
            wild: HashSet::new(),
            accounts: (0..clients).map(|_| Account::default()).collect(),
        }
    }

    pub fn published(&mut self, payload: &[u8], publication: Publication) {
        self.publications.insert(payload.to_vec(), publication);
    }

    pub fn accepted(&mut self, payload: &[u8]) {
        if let Some(publication) = self.publications.get_mut(payload) {
            publication.accepted = true;
        }
    }

    /// Anybody may be sent this payload from now on.
    pub fn wild(&mut self, payload: &[u8]) {
        self.wild.insert(payload.to_vec());
    }

    pub fn new_session(&mut self, client: usize) {
        self.accounts[client].session += 1;
    }

    /// The client asks for a subscription, and may have it from now on.
    pub fn subscribes(
        &mut self,
        client: usize,
        filter: &str,
        options: SubscriptionOptions,
        id: u32,
    ) {
        let (from, account) = (self.step, &mut self.accounts[client]);
        let session = account.session;
        let filter = filter.to_owned();
        let new = Subscription { filter, options, id, session, from, until: None };
        account.subscriptions.push(new);
    }

    /// The broker has said that the client has no such subscription any more, or only one that it
    /// asked for later than at step `asked`.
    pub fn unsubscribed(&mut self, client: usize, filter: &str, asked: u32) {
        for subscription in &mut self.accounts[client].subscriptions {
            let ended = subscription.filter == filter && subscription.from <= asked;
            if ended && subscription.until.is_none() {
                subscription.until = Some(self.step);
            }
        }
    }

    /// A client was sent a message: checks that it was owed.
    pub fn received(&mut self, client: usize, message: &Msg) {
        if self.wild.contains(&message.payload) {
            return;
        }
        // Reports of the broker's own, and the removal of a retained message, which has no payload
        // to know it by.
        if message.topic.starts_with("$SYS/") || message.payload.is_empty() {
            assert!(self.owing(client, &message.topic, 0).next().is_some(), "{message:?}");
            return;
        }
        let Some(publication) = self.publications.get(&message.payload) else {
            panic!("nobody has published {message:?}");
        };
        assert_eq!(message.topic, publication.topic, "{message:?}");
        assert!(message.qos <= publication.qos, "{message:?}");
        assert!(!message.retain || publication.retain, "{message:?}");
        assert!(message.expiry.is_none_or(|left| Some(left) <= publication.expiry), "{message:?}");
        let owing = || self.owing(client, &publication.topic, publication.at);
        let granted = owing()
            // No Local does not hold back what was retained: see docs/conformance.md.
            .filter(|it| publication.by != client || !it.options.no_local || message.retain)
            .map(|it| it.options.qos.value());
        let granted = granted.max().unwrap_or_else(|| panic!("{client} is not owed {message:?}"));
        assert!(message.qos <= granted, "{client}: {message:?}, of QoS {granted} at most");
        for id in &message.ids {
            assert!(owing().any(|it| it.id == *id), "{client}: {id} in {message:?}");
        }
        if !message.again && !publication.is_will {
            let seen = (publication.by, message.topic.clone(), message.qos, publication.number);
            self.accounts[client].seen.push(seen);
        }
    }

    /// The client's subscriptions that match a topic, but for those that ended before step `at`.
    fn owing(&self, client: usize, topic: &str, at: u32) -> impl Iterator<Item = &Subscription> {
        let account = &self.accounts[client];
        account.subscriptions.iter().filter(move |it| {
            it.session == account.session
                && it.until.is_none_or(|until| until >= at)
                && naive_matches(unshared(&it.filter), topic)
        })
    }

    /// Checks that a client with one subscription, that it has always had, has seen everything:
    /// QoS 1 at least once, QoS 2 exactly once, and in order.
    pub fn all_seen(&self, client: usize, filter: &str) {
        let seen = &self.accounts[client].seen;
        let mut times: HashMap<(usize, u32), u32> = HashMap::new();
        // [MQTT-4.6.0-6]
        let mut last: BTreeMap<(usize, &str, u8), u32> = BTreeMap::new();
        for (by, topic, qos, number) in seen {
            let times = times.entry((*by, *number)).or_default();
            *times += 1;
            if *times > 1 {
                assert_eq!(*qos, 1, "{by}:{number} is at {client} {times} times");
                continue;
            }
            let last = last.entry((*by, topic, *qos)).or_default();
            assert!(*last < *number, "{by}:{number} is behind {last} at {client}");
            *last = *number;
        }
        for (payload, publication) in &self.publications {
            let certain = publication.accepted
                && publication.expiry.is_none()
                && !self.wild.contains(payload)
                && naive_matches(filter, &publication.topic);
            let key = (publication.by, publication.number);
            assert!(!certain || times.contains_key(&key), "{key:?} is lost to {client}");
        }
    }
}

/// The topic filter of a shared subscription, or of any other.
fn unshared(filter: &str) -> &str {
    match filter.strip_prefix("$share/") {
        Some(rest) => rest.split_once('/').map_or("", |(_, filter)| filter),
        None => filter,
    }
}
