//! The harness: several shards, and the part of the reactor.

use std::{collections::VecDeque, io::IoSlice, sync::Arc};

use super::peer::{Got, Msg, Peer};
pub use super::peer::{connack, hello, staying};
use crate::{
    auth::{Anonymous, Authenticator},
    broker::{Broker, Config, ConnectionKey, Effect, NextStep, Now, ShardMessage, Shared},
    codec::*,
    record::{self, Outcome, Restored, model::Model},
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

    // ---- What clients do -------------------------------------------------------------------

    /// A connection without a CONNECT.
    pub fn open(&mut self, version: Version) -> C {
        let shard = self.accepts_on;
        let peer = format!("10.0.0.1:{}", 10_000 + self.peers.len()).parse().unwrap();
        let now = self.now_on(shard);
        let key = self.brokers[shard].on_accepted(now, peer);
        let mut peer = Peer::new(version, shard, key);
        peer.acknowledges = self.acknowledges;
        self.peers.push(peer);
        self.peers.len() - 1
    }

    /// Connects; the CONNACK is still to be read.
    pub fn connect_with(&mut self, connect: &Connect<'_>) -> C {
        let c = self.open(connect.version);
        self.send(c, &Packet::Connect(*connect));
        c
    }

    /// Connects with a clean start, and checks that it is accepted.
    pub fn connect(&mut self, version: Version, id: &str) -> C {
        self.connected(&hello(version, id))
    }

    /// Connects and checks that it is accepted, with or without a session.
    pub fn connected(&mut self, connect: &Connect<'_>) -> C {
        self.resumed(connect).0
    }

    /// Connects and says whether there was a session.
    pub fn resumed(&mut self, connect: &Connect<'_>) -> (C, bool) {
        let c = self.connect_with(connect);
        let Got::Connack { present, reason, .. } = self.peers[c].inbox.remove(0) else {
            panic!("no CONNACK first")
        };
        assert_eq!(reason, ReasonCode::Success);
        (c, present)
    }

    pub fn send(&mut self, c: C, packet: &Packet<'_>) {
        self.peers[c].send(packet);
        self.settle();
    }

    pub fn send_bytes(&mut self, c: C, bytes: &[u8]) {
        self.peers[c].unread.extend_from_slice(bytes);
        self.settle();
    }

    pub fn ack(&mut self, c: C, kind: AckKind, id: u16) {
        self.peers[c].ack(kind, id);
        self.settle();
    }

    pub fn id(&mut self) -> PacketId {
        self.next_id = self.next_id % u16::MAX + 1;
        PacketId::new(self.next_id).unwrap()
    }

    /// Publishes without properties.
    pub fn publish(&mut self, c: C, topic: &str, payload: &[u8], qos: QoS) {
        self.publish_with(c, topic, payload, qos, false, PublishProperties::default());
    }

    pub fn retain(&mut self, c: C, topic: &str, payload: &[u8], qos: QoS) {
        self.publish_with(c, topic, payload, qos, true, PublishProperties::default());
    }

    pub fn publish_with(
        &mut self,
        c: C,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        retain: bool,
        properties: PublishProperties<'_>,
    ) {
        let packet_id = (qos > Q0).then(|| self.id());
        let publish = Publish { dup: false, qos, retain, topic, packet_id, properties, payload };
        self.send(c, &Packet::Publish(publish));
    }

    /// Subscribes and checks that it is granted.
    pub fn subscribe(&mut self, c: C, filter: &str, qos: QoS) {
        self.subscribe_with(c, filter, SubscriptionOptions::new(qos), 0);
    }

    pub fn subscribe_with(&mut self, c: C, filter: &str, options: SubscriptionOptions, id: u32) {
        let packet_id = self.ask(c, &[(filter, options)], id);
        let at = self.peers[c].inbox.iter().position(|got| matches!(got, Got::Suback(..)));
        let suback = self.peers[c].inbox.remove(at.expect("a SUBACK"));
        assert_eq!(suback, Got::Suback(packet_id, vec![ReasonCode::granted(options.qos)]));
    }

    /// Sends a SUBSCRIBE.
    pub fn ask(&mut self, c: C, filters: &[(&str, SubscriptionOptions)], id: u32) -> u16 {
        let packet_id = self.id();
        let subscription_id = std::num::NonZeroU32::new(id);
        let subscribe = Subscribe {
            packet_id,
            subscription_id,
            user_properties: <_>::default(),
            filters: filters.into(),
        };
        self.send(c, &Packet::Subscribe(subscribe));
        packet_id.get()
    }

    pub fn unsubscribe(&mut self, c: C, filter: &str) {
        let packet_id = self.id();
        let filters = [filter];
        let unsubscribe = Unsubscribe {
            packet_id,
            user_properties: <_>::default(),
            filters: UnsubscribeFilters::from(&filters[..]),
        };
        self.send(c, &Packet::Unsubscribe(unsubscribe));
    }

    /// The client sends DISCONNECT.
    pub fn disconnect(&mut self, c: C) {
        self.send(c, &Packet::Disconnect(Disconnect::default()));
    }

    /// The connection breaks.
    pub fn cut(&mut self, c: C) {
        self.close(c, CloseReason::PeerClosed);
        self.settle();
    }

    /// The socket takes `room` bytes more, and if it was full, is written to.
    pub fn make_room(&mut self, c: C, room: usize) {
        self.peers[c].room = room;
        if std::mem::take(&mut self.peers[c].blocked)
            && let Some(key) = self.peers[c].key
        {
            self.write(self.peers[c].shard, key);
        }
        self.settle();
    }

    /// What the client received since the last call.
    pub fn got(&mut self, c: C) -> Vec<Got> {
        std::mem::take(&mut self.peers[c].inbox)
    }

    /// The messages among it.
    pub fn messages(&mut self, c: C) -> Vec<Msg> {
        let got = self.got(c).into_iter();
        got.filter_map(|got| if let Got::Publish(m) = got { Some(m) } else { None }).collect()
    }

    /// The payloads of the messages.
    pub fn texts(&mut self, c: C) -> Vec<String> {
        self.messages(c).iter().map(|m| m.text().to_owned()).collect()
    }

    /// Whether the connection is over for the broker.
    pub fn is_closed(&self, c: C) -> bool {
        self.peers[c].key.is_none()
    }

    // ---- The reactor's part ----------------------------------------------------------------

    /// Runs turns until nothing happens any more.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            for shard in 0..self.brokers.len() {
                busy |= self.turn(shard);
            }
            if self.delivers_mail {
                busy |= self.deliver_all_mail();
            }
            if self.store.as_ref().is_some_and(|store| !store.is_slow) {
                busy |= self.commit();
            }
            if !busy {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// One turn of a shard; says whether anything happened.
    pub fn turn(&mut self, shard: usize) -> bool {
        let mut busy = self.brokers[shard].has_work();
        let now = self.now_on(shard);
        self.brokers[shard].on_turn(now);
        for c in 0..self.peers.len() {
            busy |= self.peers[c].shard == shard && self.read(c);
        }
        busy |= self.end_turn(shard);
        busy
    }

    /// Gives the broker what the client has sent, once.
    fn read(&mut self, c: C) -> bool {
        self.read_some(c, usize::MAX).1
    }

    /// Gives the broker what it has left over and at most so many bytes more. Says how many it has
    /// used up, and whether there is more to do.
    pub(super) fn read_some(&mut self, c: C, bytes: usize) -> (usize, bool) {
        let now = self.now_on(self.peers[c].shard);
        let peer = &mut self.peers[c];
        let Some(key) = peer.key else { return (0, false) };
        if peer.paused || peer.unread.is_empty() {
            return (0, false);
        }
        let shard = peer.shard;
        let end = peer.held.saturating_add(bytes).min(peer.unread.len());
        let progress = self.brokers[shard].on_bytes(now, key, &peer.unread[..end]);
        peer.unread.drain(..progress.consumed);
        peer.held = end - progress.consumed;
        let busy = match progress.next {
            NextStep::Read => progress.consumed > 0,
            NextStep::Yield => true,
            NextStep::Pause => {
                peer.paused = true;
                true
            }
            NextStep::HandOver(to) => {
                assert_eq!(progress.consumed, 0);
                let address = self.brokers[shard].peer(key).unwrap();
                self.brokers[shard].on_handed_over(key);
                let to = usize::from(to.0);
                // It comes with the mail.
                self.looked[to] = self.looked[to].map(|_| self.now);
                peer.key = Some(self.brokers[to].on_accepted(self.now, address));
                peer.shard = to;
                true
            }
        };
        (progress.consumed, busy)
    }

    fn end_turn(&mut self, shard: usize) -> bool {
        let mut busy = false;
        loop {
            let mut more = self.apply_effects(shard);
            more |= self.send_mail(shard);
            while let Some(key) = self.brokers[shard].next_to_write() {
                self.write(shard, key);
                more = true;
            }
            self.brokers[shard].end_turn();
            if !more {
                return busy;
            }
            busy = true;
        }
    }

    pub(super) fn apply_effects(&mut self, shard: usize) -> bool {
        let effects = self.brokers[shard].take_effects();
        let busy = !effects.is_empty();
        let mut finished = Vec::new();
        for effect in effects {
            let (Effect::Finish(key) | Effect::Abort(key) | Effect::Resume(key)) = effect;
            let Some(c) = self.find(shard, key) else { continue };
            match effect {
                Effect::Finish(_) if self.brokers[shard].has_queued(key) => {}
                Effect::Finish(_) => finished.push(c),
                Effect::Abort(_) => {
                    self.peers[c].aborted = true;
                    self.close(c, CloseReason::PeerClosed);
                }
                Effect::Resume(_) => self.peers[c].paused = false,
            }
        }
        // A client closes only when the broker has done all that it wanted.
        finished.into_iter().for_each(|c| self.finish(c));
        busy
    }

    /// Tells the broker that a connection is closed.
    pub fn close(&mut self, c: C, reason: CloseReason) {
        let Some(key) = self.peers[c].key.take() else { return };
        let shard = self.peers[c].shard;
        let now = self.now_on(shard);
        self.brokers[shard].on_closed(now, key, reason);
    }

    /// The broker ends its half of the stream, and the client its own.
    fn finish(&mut self, c: C) {
        self.peers[c].finished = true;
        if !self.peers[c].lingers {
            self.close(c, CloseReason::PeerClosed);
        }
    }

    pub(super) fn send_mail(&mut self, shard: usize) -> bool {
        let mut sent = false;
        let (mail, batches) = (&mut self.mail[shard], &mut self.batches);
        self.brokers[shard].take_mail(|to, items, cost| {
            assert_ne!(usize::from(to.0), shard, "no mail to oneself");
            *batches += 1;
            mail[usize::from(to.0)].push_back((*batches, items, cost));
            sent = true;
        });
        if let Some(batch) = self.brokers[shard].take_batch() {
            let store = self.store.as_mut().expect("without a store there is nothing to keep");
            store.waiting.push_back((shard, batch));
        }
        self.renew_credit();
        sent
    }

    /// The store keeps the oldest batch that it was given, and says so.
    pub fn commit(&mut self) -> bool {
        let Some(store) = &mut self.store else { return false };
        let Some((shard, batch)) = store.waiting.pop_front() else { return false };
        store.kept.apply(&batch.changes);
        let loaded: Vec<_> = batch.loads.iter().map(|load| store.kept.load(load)).collect();
        let broker = &mut self.brokers[shard];
        broker.on_outcome(self.now, Outcome::Durable(batch.epoch));
        for loaded in loaded {
            broker.on_outcome(self.now, Outcome::Loaded(loaded));
        }
        true
    }

    /// The store fails, and with it all that it has not kept.
    pub fn fail_store(&mut self) {
        let Some(store) = &mut self.store else { return };
        store.waiting.clear();
        for broker in &mut self.brokers {
            broker.on_outcome(self.now, Outcome::Failed("no space left on device".into()));
        }
        self.settle();
    }

    fn left(&self, from: usize, to: usize) -> u32 {
        let used = self.mail[from][to].iter().map(|(_, _, cost)| cost).sum();
        self.credit.saturating_sub(used)
    }

    pub(super) fn renew_credit(&mut self) {
        for from in 0..self.brokers.len() {
            let mut enough = true;
            for to in (0..self.brokers.len()).filter(|to| *to != from) {
                let left = self.left(from, to);
                enough &= left > 0;
                self.brokers[from].mail().set_credit(ShardId(to as u16), left);
            }
            if enough && self.brokers[from].is_starved() {
                self.brokers[from].on_credit();
            }
        }
    }

    /// The pairs of shards that have mail on its way.
    pub fn routes_with_mail(&self) -> Vec<(usize, usize)> {
        let n = self.brokers.len();
        let pairs = (0..n).flat_map(|from| (0..n).map(move |to| (from, to)));
        pairs.filter(|(from, to)| !self.mail[*from][*to].is_empty()).collect()
    }

    /// Delivers the oldest batch on one way.
    pub fn deliver_batch(&mut self, from: usize, to: usize) -> bool {
        let Some((_, items, _)) = self.mail[from][to].pop_front() else { return false };
        let now = self.now_on(to);
        for item in items {
            self.brokers[to].on_mail(now, item);
        }
        self.renew_credit();
        true
    }

    fn deliver_all_mail(&mut self) -> bool {
        let routes = self.routes_with_mail();
        for (from, to) in &routes {
            self.deliver_batch(*from, *to);
        }
        !routes.is_empty()
    }

    fn find(&self, shard: usize, key: ConnectionKey) -> Option<C> {
        self.peers.iter().position(|peer| peer.shard == shard && peer.key == Some(key))
    }

    /// Writes an outbox as far as the socket takes it, as the reactor does.
    pub(super) fn write(&mut self, shard: usize, key: ConnectionKey) {
        let Some(c) = self.find(shard, key) else {
            self.brokers[shard].on_write_failed(key);
            return;
        };
        if self.peers[c].blocked {
            return;
        }
        loop {
            let mut slices = [IoSlice::new(&[]); 4];
            let filled = self.brokers[shard].output(key, &mut slices);
            if filled == 0 {
                break;
            }
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|s| s.to_vec()).collect();
            let sent = bytes.len().min(self.peers[c].room);
            if self.peers[c].cut {
                return self.brokers[shard].on_write_failed(key);
            }
            if sent == 0 && !bytes.is_empty() {
                self.peers[c].blocked = true;
                return self.brokers[shard].on_blocked(key);
            }
            if self.peers[c].room != usize::MAX {
                self.peers[c].room -= sent;
            }
            self.peers[c].receive(&bytes[..sent]);
            if self.brokers[shard].on_written(key, sent) {
                break;
            }
            if sent < bytes.len() {
                self.peers[c].blocked = true;
                return self.brokers[shard].on_blocked(key);
            }
        }
        if self.brokers[shard].is_finishing(key) && !self.brokers[shard].has_queued(key) {
            self.finish(c);
        }
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
        ];
        assert_eq!(gauges, [0; 7], "gauges");
        let retained: usize = self.brokers.iter().map(|b| b.retained.len()).sum();
        assert_eq!(totals.retained_messages, retained as u64);
        let kept = self.store.as_mut().map(|store| store.kept.restore()).unwrap_or_default();
        assert_eq!(kept.len(), retained * usize::from(self.store.is_some()), "in the store");
    }
}
