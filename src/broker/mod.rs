//! One shard's whole state: connections, sessions, subscriptions, retained messages, timers.
//!
//! Synchronous and without I/O: bytes, ticks and messages of other shards go in through the `on_*`
//! functions; bytes come out in outboxes, everything else as [`Effect`]s and as mail for other
//! shards, which the reactor carries out. Time is an argument of every call; randomness comes
//! from a seed. So any number of brokers with a made-up clock are a simulation of the whole
//! server.

mod acknowledge;
mod authenticate;
mod client;
mod close;
mod config;
mod connect;
mod connection;
mod deliver;
mod estate;
mod explain;
mod journal;
mod keep;
mod mail;
mod outbox;
mod presence;
mod publish;
mod queue;
mod receive;
mod restore;
mod retained;
mod send;
mod share;
mod subscribe;
mod sys;
mod tick;
pub mod timer;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

pub use config::Config;
use connection::Connection;
use deliver::{Clients, QueuedBytes};
use journal::Journal;
pub use mail::{Mail, ShardMessage};
use outbox::Outbox;
pub use share::Tried;
use sys::SysReport;
use timer::TimerWheel;

pub use crate::topics::SessionKey;
use crate::{
    auth::{Authenticator, Ticket},
    session::Message,
    stats::{CloseReason, ShardStats, StoreStats},
    topics::{
        FilterId, FilterIndex, GroupRoute, GroupTable, HashSeed, Retained, RouteTable, ShardId,
        SharedGroups,
    },
};

/// A connection of this shard, by number; numbers are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionKey(pub u32);

impl ConnectionKey {
    /// No connection.
    pub const NONE: Self = Self(u32::MAX);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The present, as the reactor tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never goes back; its zero is the start of the broker, or
    /// earlier.
    pub monotonic: u64,
    /// Milliseconds of Unix time, for what people read.
    pub unix: u64,
}

/// What the reactor is to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// When its outbox is written: end the stream, and read on until the client ends its own.
    Finish(ConnectionKey),
    /// Close it now.
    Abort(ConnectionKey),
    /// Read from it again.
    Resume(ConnectionKey),
}

/// What became of bytes from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many bytes were used up. The rest is to come again, with more behind it.
    pub consumed: usize,
    /// Some of it belonged to the delivery of a message: PUBLISH, or an acknowledgement of one.
    pub talks: bool,
    /// What to do next with the connection.
    pub next: NextStep,
}

/// What the reactor does next with a connection that it has read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Read more. At least this many bytes, all told, are needed for the packet that has begun, as
    /// far as is known.
    Read,
    /// Come back with the rest in the next turn: this one's share of packets is used up.
    Yield,
    /// Wait for [`Effect::Resume`].
    Pause,
    /// Give the connection, and these bytes, to its home shard.
    HandOver(ShardId),
}

/// What all shards share: who wants what where. Each shard has a clone; clones are one and the same.
#[derive(Clone)]
pub struct Shared {
    /// Which shards have a subscriber for a topic.
    pub routes: RouteTable,
    /// Which shards have members of which shared subscription.
    pub groups: GroupTable,
    /// The counters of every shard.
    pub stats: Vec<Arc<ShardStats>>,
    /// The seed of every hash that clients can influence.
    pub seed: HashSeed,
    /// The first number that is free in the store, if there is one.
    store: Option<u64>,
    /// The figures of the store. Nobody writes them if there is none.
    pub store_stats: Arc<StoreStats>,
    /// An upper bound of the retained messages outside `$`-topics, on all shards and on their way
    /// to them: while it is 0, a new subscription asks no one.
    retained: Arc<AtomicI64>,
}

impl Shared {
    /// For `shards` shards.
    pub fn new(shards: usize, max_shapes: usize, seed: HashSeed) -> Self {
        Self {
            routes: RouteTable::new(seed.clone(), max_shapes),
            groups: GroupTable::new(seed.clone(), shards, max_shapes),
            stats: (0..shards).map(|_| Arc::default()).collect(),
            seed,
            store: None,
            store_stats: Arc::default(),
            retained: Arc::default(),
        }
    }

    /// With a store, in which no session, body or delivery has a number from `first_number` on.
    pub fn with_store(self, first_number: u64) -> Self {
        Self { store: Some(first_number), ..self }
    }

    /// The shard that all sessions of this client live on.
    pub fn home_shard(&self, client_id: &str) -> ShardId {
        self.shard_of(self.seed.hash(client_id))
    }

    /// The shard that keeps the retained message of this topic.
    pub fn retained_owner(&self, topic: &str) -> ShardId {
        self.shard_of(self.seed.hash(topic))
    }

    fn shard_of(&self, hash: u64) -> ShardId {
        // The high half: the low bits pick buckets in the tables that use the same hash.
        ShardId((((hash >> 32) * self.stats.len() as u64) >> 32) as u16)
    }

    fn expect_retained(&self, change: i64) {
        self.retained.fetch_add(change, Ordering::Relaxed);
    }

    fn may_have_retained(&self) -> bool {
        self.retained.load(Ordering::Relaxed) > 0
    }
}

/// What a timer is for.
#[derive(Debug, Clone, Copy)]
enum Timer {
    Connection(ConnectionKey),
    Session(SessionKey),
}

/// One shard of the broker.
pub struct Broker {
    id: ShardId,
    config: Arc<Config>,
    shared: Shared,
    stats: Arc<ShardStats>,
    now: Now,
    clients: Clients,
    index: FilterIndex,
    groups: SharedGroups,
    retained: Retained<Arc<Message>>,
    retained_sweep: Option<Box<str>>,
    /// How many messages to be retained have come from each shard.
    retained_taken: Box<[u64]>,
    /// What sessions that have ended leave behind.
    estates: estate::Estates,
    timers: TimerWheel<Timer>,
    authenticator: Box<dyn Authenticator>,
    /// The ticket of the last exchange.
    tickets: u64,
    /// The exchanges whose answer is still to come.
    asked: HashMap<Ticket, ConnectionKey>,
    rng: fastrand::Rng,
    serial: u32,
    /// When the shard ends at the latest, once it drains.
    drain_until: Option<u64>,
    /// Messages for other shards, staged until the end of the turn.
    mail: Mail,
    effects: Vec<Effect>,
    /// Sessions whose retained messages are fetched on in the next turn.
    fetching: VecDeque<SessionKey>,
    /// Questions of other shards about retained messages that are left for the next turn.
    queries: VecDeque<Box<mail::RetainedQuery>>,
    /// Connections that are not read from until another shard has taken messages in.
    starved: Vec<ConnectionKey>,
    report: SysReport,
    // Buffers that are empty between calls.
    matching: Vec<FilterId>,
    targets: Vec<publish::Target>,
    group_routes: Vec<Arc<GroupRoute>>,
    forwarded: Vec<u8>,
    fired: Vec<Timer>,
}

impl Broker {
    /// An empty shard `id`. `seed` drives its random choices.
    pub fn new(
        id: ShardId,
        config: Arc<Config>,
        shared: Shared,
        authenticator: Box<dyn Authenticator>,
        now: Now,
        seed: u64,
    ) -> Self {
        let shards = shared.stats.len();
        let stats = shared.stats.get(usize::from(id.0)).cloned().unwrap_or_default();
        let share_of = |total: u64| total.div_ceil(shards.max(1) as u64);
        Self {
            id,
            stats: Arc::clone(&stats),
            now,
            clients: Clients::new(
                Arc::clone(&config),
                stats,
                QueuedBytes {
                    memory: share_of(config.max_queued_total_bytes),
                    stored: share_of(config.max_stored_queue_bytes),
                },
                Journal::new(id, shards, shared.store),
            ),
            index: FilterIndex::new(shared.seed.clone(), config.max_filter_shapes),
            groups: SharedGroups::new(shared.seed.clone()),
            estates: estate::Estates::default(),
            retained: Retained::new(
                share_of(config.max_retained_messages) as usize,
                share_of(config.max_retained_bytes),
            ),
            retained_sweep: None,
            retained_taken: vec![0; shards].into(),
            timers: TimerWheel::new(now.monotonic),
            authenticator,
            tickets: 0,
            asked: HashMap::new(),
            rng: fastrand::Rng::with_seed(seed),
            serial: 0,
            drain_until: None,
            mail: Mail::new(shards),
            effects: Vec::new(),
            fetching: VecDeque::new(),
            queries: VecDeque::new(),
            starved: Vec::new(),
            report: SysReport::new(now),
            matching: Vec::new(),
            targets: Vec::new(),
            group_routes: Vec::new(),
            forwarded: Vec::new(),
            fired: Vec::new(),
            config,
            shared,
        }
    }

    /// This shard.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// A connection was accepted from `peer`, on this shard or on the one that hands it over.
    pub fn on_accepted(&mut self, now: Now, peer: SocketAddr) -> ConnectionKey {
        self.set_now(now);
        let connection = Connection::new(peer, (now.unix / 1000) as u32);
        let key = ConnectionKey(self.clients.connections.insert(connection) as u32);
        self.arm_connection(key, now.monotonic + self.config.connect_timeout);
        self.stats.connections_open.add(1);
        key
    }

    /// The connection is closed and its number free. Without a DISCONNECT before it, this is what
    /// publishes the will. `[MQTT-3.1.2-8]`
    pub fn on_closed(&mut self, now: Now, key: ConnectionKey, reason: CloseReason) {
        self.set_now(now);
        self.detach(key, reason);
        self.abandon_exchange(key);
        let Some(mut connection) = self.clients.connections.remove(key.index()) else { return };
        let reason = connection.extra.as_ref().and_then(|e| e.cause).unwrap_or(reason);
        self.clients.out.recycle(&mut connection.outbox);
        self.stats.connections_open.sub(1);
        self.stats.connections_closed.add(reason, 1);
        tracing::debug!(peer = %connection.peer(), reason = stats_name(reason), "connection closed");
    }

    /// The connection goes to another shard: it is forgotten here, and nothing is counted.
    pub fn on_handed_over(&mut self, key: ConnectionKey) {
        if self.clients.connections.remove(key.index()).is_some() {
            self.stats.connections_open.sub(1);
        }
    }

    /// What is to be done with connections, since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        let mut effects = std::mem::take(&mut self.effects);
        // A connection may be gone since, and another one have its number: that is to be spared.
        effects.retain(|effect| match *effect {
            Effect::Finish(key) | Effect::Abort(key) => self.is_finishing(key),
            Effect::Resume(key) => !self.is_paused(key),
        });
        effects
    }

    /// Whether there is work that does not wait for anything: the reactor runs another turn.
    pub fn has_work(&self) -> bool {
        !self.fetching.is_empty() || !self.queries.is_empty()
    }

    /// The messages for other shards.
    pub fn mail(&mut self) -> &mut Mail {
        &mut self.mail
    }

    /// Where a connection comes from.
    pub fn peer(&self, key: ConnectionKey) -> Option<SocketAddr> {
        self.clients.connections.get(key.index()).map(Connection::peer)
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        self.clients.connections.len()
    }

    /// The number of sessions, connected or not.
    pub fn sessions(&self) -> usize {
        self.clients.sessions.len()
    }

    fn set_now(&mut self, now: Now) {
        self.now = now;
        self.clients.now = now;
        self.clients.journal.set_now(now);
    }
}

/// Writing: the reactor empties outboxes at the end of each turn.
impl Broker {
    /// The next connection whose outbox is to be written. Each is named once a turn.
    pub fn next_to_write(&mut self) -> Option<ConnectionKey> {
        while let Some(key) = self.clients.out.next_dirty() {
            let connection = self.clients.connections.get_mut(key.index());
            if connection.and_then(|c| c.outbox.as_deref_mut()).is_some_and(Outbox::unlist) {
                return Some(key);
            }
        }
        None
    }

    /// Whether any outbox is to be written.
    pub fn has_output(&self) -> bool {
        self.clients.out.has_dirty()
    }

    /// The bytes encoded in this turn; the reactor ends the turn early when they are many.
    pub fn encoded_bytes(&self) -> usize {
        self.clients.out.encoded()
    }

    /// What to write next on a connection; returns how many slices are filled, 0 when there is
    /// nothing left.
    pub fn output<'a>(&'a self, key: ConnectionKey, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        let connection = self.clients.connections.get(key.index());
        let outbox: Option<&Outbox> = connection.and_then(|c| c.outbox.as_deref());
        outbox.map_or(0, |outbox| self.clients.out.slices(outbox, slices))
    }

    /// The socket took `bytes`. True when nothing is left to write.
    pub fn on_written(&mut self, key: ConnectionKey, bytes: usize) -> bool {
        self.stats.bytes_sent.add(bytes as u64);
        let now = self.now.monotonic;
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return true };
        // Above the low water something may wait, even if the socket takes all of it at once.
        let may_hold_up = connection.outbox.as_ref().is_some_and(|outbox| outbox.is_blocked())
            || connection.queued() > self.config.max_outbox_bytes / 2;
        let empty = self.clients.out.written(&mut connection.outbox, bytes, now);
        if connection.state == connection::State::Closing {
            connection.last_packet = receive::tenths(now);
        }
        if may_hold_up {
            self.on_drained(key);
        }
        empty
    }

    /// The socket takes no more for now; the reactor waits until it is writable.
    pub fn on_blocked(&mut self, key: ConnectionKey) {
        let now = self.now.monotonic;
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        self.clients.out.block(&mut connection.outbox, now);
        self.arm_connection(key, now + self.config.send_timeout);
    }

    /// Writing failed: nothing more goes to this client.
    pub fn on_write_failed(&mut self, key: ConnectionKey) {
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        self.clients.out.recycle(&mut connection.outbox);
        // Only reading finds out that the connection is gone.
        self.resume(key);
    }

    /// All outboxes are written or blocked.
    pub fn end_turn(&mut self) {
        self.clients.out.end_turn();
    }

    /// Whether a connection is not to be read from until [`Effect::Resume`].
    pub fn is_paused(&self, key: ConnectionKey) -> bool {
        self.clients.connections.get(key.index()).is_some_and(|c| c.paused)
    }

    /// For how long a connection has been open, in seconds.
    pub fn age(&self, now: Now, key: ConnectionKey) -> u64 {
        let connection = self.clients.connections.get(key.index());
        let since = connection.map_or(u64::MAX, |connection| connection.connected_at.into());
        (now.unix / 1000).saturating_sub(since)
    }

    /// Whether anything waits to be written on a connection.
    pub fn has_queued(&self, key: ConnectionKey) -> bool {
        self.clients.connections.get(key.index()).is_some_and(|c| c.outbox.is_some())
    }

    /// Whether the stream is to be ended now that its outbox is written.
    pub fn is_finishing(&self, key: ConnectionKey) -> bool {
        self.clients.connections.get(key.index()).is_some_and(|c| c.finishing)
    }

    /// A client that was slow has taken something: go on with what waits for that.
    fn on_drained(&mut self, key: ConnectionKey) {
        let low_water = self.config.max_outbox_bytes / 2;
        let Some(connection) = self.clients.connections.get(key.index()) else { return };
        if connection.queued() > low_water {
            return;
        }
        let session = connection.session;
        self.resume(key);
        self.clients.pump(session);
        self.fetch_retained(session);
    }

    /// Reads on from a connection, if it was not read from and nothing else speaks against it.
    fn resume(&mut self, key: ConnectionKey) {
        let now = receive::tenths(self.now.monotonic);
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        let max_outbox = self.config.max_outbox_bytes;
        let full = |outbox: &Outbox| outbox.is_stuck() && outbox.queued() >= max_outbox;
        if connection.state != connection::State::Authenticating
            && !connection.starved
            && !connection.outbox.as_deref().is_some_and(full)
            && std::mem::take(&mut connection.paused)
        {
            // It was the broker that did not listen.
            connection.last_packet = now;
            self.effects.push(Effect::Resume(key));
        }
    }
}

fn stats_name(reason: CloseReason) -> &'static str {
    crate::stats::Reason::name(reason)
}

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod tests;
