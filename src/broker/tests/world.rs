//! The harness: several shards, a clock, and perhaps a store. What clients do and what the reactor does
//! is below.

mod clients;
mod reactor;

use std::{collections::VecDeque, sync::Arc};

use super::peer::Peer;
pub use super::peer::{connack, hello, staying};
use crate::{
    auth::{Anonymous, Authenticator},
    broker::{Broker, Config, Now, ShardMessage, Shared},
    codec::QoS,
    record::{self, Restored, model::Model},
    stats::{self, CloseReason, DropReason, Totals},
    topics::{HashSeed, ShardId},
};

/// A client's number in a [`World`].
pub type C = usize;

pub const Q0: QoS = QoS::AtMostOnce;
pub const Q1: QoS = QoS::AtLeastOnce;
pub const Q2: QoS = QoS::ExactlyOnce;

/// A batch's number among all of them, its items, and their cost.
type Batch = (u64, Vec<ShardMessage>, u32);

pub struct World {
    pub brokers: Vec<Broker>,
    pub shared: Shared,
    pub peers: Vec<Peer>,
    pub now: Now,
    /// What a shard's clock showed when the shard last looked at it, if that may be past.
    pub(super) looked: Vec<Option<Now>>,
    /// Whether [`World::settle`] delivers mail.
    pub delivers_mail: bool,
    /// Items that each shard may have on their way to each other shard.
    pub credit: u32,
    /// Whether the next clients answer QoS 1 and 2 by themselves: unless there is a store.
    pub acknowledges: bool,
    /// The shard that accepts the next connection.
    pub accepts_on: usize,
    /// Mail on its way: from, to, batches.
    pub(super) mail: Vec<Vec<VecDeque<Batch>>>,
    /// The batches sent so far.
    pub(super) batches: u64,
    /// What is kept, if there is a store.
    pub store: Option<Store>,
    next_id: u16,
}

/// A store as slow as the test wants it.
#[derive(Default)]
pub struct Store {
    /// What is durable.
    pub kept: Model,
    /// What shards have handed over since, oldest first.
    pub waiting: VecDeque<(usize, record::Batch)>,
    /// [`World::settle`] leaves it alone.
    pub is_slow: bool,
}

impl World {
    pub fn new(shards: usize) -> Self {
        Self::with(shards, |_| ())
    }

    pub fn with(shards: usize, change: impl FnOnce(&mut Config)) -> Self {
        Self::with_auth(shards, change, || Box::new(Anonymous { allowed: true }))
    }

    pub fn with_auth(
        shards: usize,
        change: impl FnOnce(&mut Config),
        auth: impl Fn() -> Box<dyn Authenticator>,
    ) -> Self {
        let now = Now { monotonic: 1_000, unix: 1_700_000_000_000 };
        Self::begin(shards, change, auth, now, None)
    }

    /// With a store in which nothing is yet.
    pub fn durable(shards: usize) -> Self {
        Self::durable_with(shards, |_| ())
    }

    /// With a store in which nothing is yet.
    pub fn durable_with(shards: usize, change: impl FnOnce(&mut Config)) -> Self {
        let now = Now { monotonic: 1_000, unix: 1_700_000_000_000 };
        let auth = || Box::new(Anonymous { allowed: true }) as Box<dyn Authenticator>;
        Self::begin(shards, change, auth, now, Some(Model::default()))
    }

    /// Everything dies, what is not kept is lost, and after `pause` milliseconds there is another
    /// broker of `shards` shards.
    pub fn crash(self, shards: usize, pause: u64, change: impl FnOnce(&mut Config)) -> Self {
        let kept = self.store.map(|store| store.kept);
        let now = Now { monotonic: 5_000, unix: self.now.unix + pause };
        let auth = || Box::new(Anonymous { allowed: true }) as Box<dyn Authenticator>;
        Self::begin(shards, change, auth, now, kept)
    }

    fn begin(
        shards: usize,
        change: impl FnOnce(&mut Config),
        auth: impl Fn() -> Box<dyn Authenticator>,
        now: Now,
        mut kept: Option<Model>,
    ) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let config = Arc::new(config);
        let seed = HashSeed::new([1, 2, 3, 4]);
        let mut shared = Shared::new(shards, config.max_filter_shapes, seed);
        let restored = kept.as_mut().map(Model::restore).unwrap_or_default();
        if let Some(kept) = &kept {
            shared = shared.with_store(kept.next_number());
        }
        let brokers = (0..shards as u16).map(ShardId).map(|id| {
            let (config, shared) = (Arc::clone(&config), shared.clone());
            Broker::new(id, config, shared, auth(), now, 7 + u64::from(id.0))
        });
        let mut world = Self {
            brokers: brokers.collect(),
            shared,
            peers: Vec::new(),
            now,
            looked: vec![None; shards],
            delivers_mail: true,
            credit: 1_000,
            acknowledges: kept.is_none(),
            accepts_on: 0,
            mail: (0..shards).map(|_| (0..shards).map(|_| VecDeque::new()).collect()).collect(),
            batches: 0,
            store: kept.map(|kept| Store { kept, ..Store::default() }),
            next_id: 0,
        };
        for part in restored {
            let home = match &part {
                Restored::Session(stored) => world.shared.home_shard(&stored.record.client_id),
                Restored::Retained { topic, .. } => world.shared.retained_owner(topic),
            };
            world.brokers[home.index()].on_restored(now, part);
        }
        world.renew_credit();
        world
    }

    /// The time that a shard goes by.
    pub(super) fn now_on(&self, shard: usize) -> Now {
        self.looked[shard].unwrap_or(self.now)
    }

    // ---- Time ------------------------------------------------------------------------------

    /// Lets time pass, and every deadline in it come.
    pub fn advance(&mut self, milliseconds: u64) {
        let end = self.now.monotonic + milliseconds;
        loop {
            let due = self.brokers.iter().filter_map(Broker::next_deadline).min();
            let next = due.map_or(end, |at| at.max(self.now.monotonic + 10)).min(end);
            self.jump(next - self.now.monotonic);
            if next == end {
                return;
            }
        }
    }

    /// Lets time pass at once.
    pub fn jump(&mut self, milliseconds: u64) {
        self.now.monotonic += milliseconds;
        self.now.unix += milliseconds;
        for broker in &mut self.brokers {
            broker.on_tick(self.now);
        }
        self.settle();
    }

    // ---- Counters and state ----------------------------------------------------------------

    pub fn totals(&self) -> Totals {
        let shards: Vec<_> = self.shared.stats.iter().map(|stats| &**stats).collect();
        stats::sum(&shards)
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.totals().publish_dropped.get(reason)
    }

    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.totals().connections_closed.get(reason)
    }

    /// A client identifier that lives on a shard.
    pub fn id_on(&self, shard: usize, name: &str) -> String {
        let home = |id: &String| self.shared.home_shard(id) == ShardId(shard as u16);
        (0..).map(|n| format!("{name}-{n}")).find(home).unwrap()
    }

    /// A topic below `prefix` whose retained message lives on a shard.
    pub fn topic_on(&self, shard: usize, prefix: &str) -> String {
        let owner = |topic: &String| self.shared.retained_owner(topic) == ShardId(shard as u16);
        (0..).map(|n| format!("{prefix}{n}")).find(owner).unwrap()
    }

    /// All clients leave, time passes, and then nothing must be left of them.
    pub fn end(mut self) {
        self.delivers_mail = true;
        for c in 0..self.peers.len() {
            self.close(c, CloseReason::PeerClosed);
        }
        self.settle();
        self.advance(3 * 3_600_000);
        // Timers may be left over from what has ended early.
        self.jump(48 * 3_600_000);
        for broker in &self.brokers {
            assert_eq!(broker.connections(), 0, "connections");
            assert_eq!(broker.sessions(), 0, "sessions");
            assert_eq!(broker.clients.by_id.len(), 0, "client identifiers");
            assert_eq!((broker.index.len(), broker.index.subscriptions()), (0, 0), "index");
            assert_eq!((broker.groups.len(), broker.groups.members()), (0, 0), "groups");
            assert!(broker.estates.is_empty(), "estates");
            assert_eq!(broker.timers.len(), 0, "timers");
            assert!(broker.fetching.is_empty() && broker.queries.is_empty(), "fetching");
            assert!(!broker.has_output() && broker.encoded_bytes() == 0, "outboxes");
        }
        assert!(self.shared.routes.is_empty(), "routes");
        assert!(self.shared.routes.everything().is_empty(), "shards that want everything");
        assert_eq!(self.shared.groups.len(), 0, "group table");
        assert!(self.routes_with_mail().is_empty());
        let totals = self.totals();
        let gauges = [
            totals.clients_connected,
            totals.sessions,
            totals.subscriptions,
            totals.shared_subscriptions,
            totals.connections_open,
            totals.queued_messages,
            totals.queued_bytes,
            totals.stored_queued_bytes,
        ];
        assert_eq!(gauges, [0; 8], "gauges");
        let retained: usize = self.brokers.iter().map(|b| b.retained.len()).sum();
        assert_eq!(totals.retained_messages, retained as u64);
        let kept = self.store.as_mut().map(|store| store.kept.restore()).unwrap_or_default();
        assert_eq!(kept.len(), retained * usize::from(self.store.is_some()), "in the store");
    }
}
