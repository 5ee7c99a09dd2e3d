//! The world while a history runs: turns that can end in the middle, mail and a store that take their
//! time, and the crash.

use std::collections::VecDeque;

use super::{
    super::{
        seeds::Wrong,
        world::{C, World},
    },
    client::{Actor, Link},
    history::{Action, Hello, Setup, VERSIONS},
    verdict::{Life, Message, Moment, Reception, Will},
};
use crate::{
    broker::Config,
    record::{self, Outcome},
    session::QueueCaps,
    stats::{CloseReason, DropReason},
};

/// What sessions of 3.x clients last for, in seconds.
pub const MAX_EXPIRY: u32 = 3_600;
/// How much earlier or later than due something may happen, in milliseconds.
pub const TOLERANCE: u64 = 300;
/// Why messages of QoS 1 and 2 may be missing.
const LOSSES: [DropReason; 4] =
    [DropReason::QueueFull, DropReason::QueuesFull, DropReason::TooLarge, DropReason::NoMember];

/// How far a shard is with the end of its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Reading,
    Effects,
    Mail,
    Batch,
}

pub struct Simulation {
    pub w: World,
    pub setup: Setup,
    pub at: Moment,
    pub actors: Vec<Actor>,
    /// By connection, since the last start.
    pub links: Vec<Link>,
    pub lives: Vec<Life>,
    pub messages: Vec<Message>,
    pub wills: Vec<Will>,
    pub receptions: Vec<Reception>,
    stages: Vec<Stage>,
    /// Batches that shards are about to hand over.
    hands: Vec<Option<record::Batch>>,
    outcomes: Vec<VecDeque<Outcome>>,
    /// The store has failed since the last start.
    pub failed: bool,
    /// Messages that were dropped for want of room.
    pub losses: u64,
    /// When the broker was last started, as a Unix time.
    pub restarted_at: u64,
    /// The first thing that is wrong.
    pub wrong: Wrong,
}

fn config(setup: Setup) -> impl FnOnce(&mut Config) {
    move |c| {
        c.max_inflight = setup.inflight;
        c.queued_in_memory = setup.in_memory;
        c.queue_qos0 = setup.queues_qos0();
        c.max_outbox_bytes = setup.outbox;
        c.packets_per_turn = setup.packets_per_turn;
        c.queue =
            QueueCaps { messages: setup.queue, bytes: 1 << 20, drop_oldest: setup.drop_oldest };
        c.send_timeout = 1_000_000_000;
        c.max_session_expiry = MAX_EXPIRY;
        c.strategy = setup.strategy;
        c.presence_events = false;
    }
}

impl Simulation {
    fn new(setup: Setup) -> Self {
        let w = World::durable_with(setup.shards, config(setup));
        let mut simulation = Self {
            restarted_at: 0,
            setup,
            at: 0,
            actors: (0..VERSIONS.len()).map(Actor::new).collect(),
            links: Vec::new(),
            lives: Vec::new(),
            messages: Vec::new(),
            wills: Vec::new(),
            receptions: Vec::new(),
            stages: Vec::new(),
            hands: Vec::new(),
            outcomes: Vec::new(),
            failed: false,
            losses: 0,
            wrong: Wrong::default(),
            w,
        };
        simulation.start();
        simulation
    }

    fn start(&mut self) {
        let shards = self.w.brokers.len();
        self.w.delivers_mail = false;
        self.w.credit = self.setup.credit;
        self.w.renew_credit();
        self.stages = vec![Stage::Reading; shards];
        self.hands = (0..shards).map(|_| None).collect();
        self.outcomes = (0..shards).map(|_| VecDeque::new()).collect();
        self.links.clear();
        self.failed = false;
        self.restarted_at = self.w.now.unix;
    }

    /// Runs a whole history, and says what is wrong first.
    pub fn run(setup: Setup, actions: &[Action]) -> Result<(), String> {
        let mut simulation = Self::new(setup);
        for (n, action) in actions.iter().enumerate() {
            simulation.step(*action);
            simulation.observe();
            let outcome = simulation.wrong.take();
            outcome.map_err(|wrong| format!("{wrong} (action {n}: {action:?})"))?;
        }
        simulation.conclude(actions.len());
        simulation.wrong.take()?;
        simulation.w.end();
        Ok(())
    }

    /// A new moment.
    pub fn next(&mut self) -> Moment {
        self.at += 1;
        self.at
    }

    fn step(&mut self, action: Action) {
        let shards = self.w.brokers.len();
        match action {
            Action::Connect(client, hello) => self.connect(client, hello),
            Action::Disconnect(client, with_will, expiry) => {
                self.disconnect(client, with_will, expiry);
            }
            Action::Cut(client, bytes) => self.cut(client, bytes),
            Action::Publish(client, sent) => self.publish(client, sent),
            Action::Subscribe(client, filter, qos) => self.subscribe(client, filter, qos),
            Action::Unsubscribe(client, filter) => self.unsubscribe(client, filter),
            Action::Answer(client, count) => self.answer(client, count),
            Action::Prompt(client, prompt) => {
                if let Some(c) = self.actors[client].connection {
                    self.links[c].prompt = prompt;
                }
            }
            Action::Room(client, bytes) => {
                if let Some(c) = self.actors[client].connection {
                    self.room(c, bytes);
                }
            }
            Action::Arrive(client, bytes) => {
                if let Some(c) = self.actors[client].connection {
                    self.w.peers[c].arrive(bytes);
                }
            }
            Action::Read(client, bytes) => {
                for c in 0..self.links.len() {
                    if self.links[c].client == client {
                        self.read(c, bytes);
                    }
                }
            }
            Action::Step(shard) if shard < shards => self.go_on(shard),
            Action::Turn(shard) if shard < shards => {
                self.read_all(shard);
                self.end_turn(shard);
            }
            Action::Mail(from, to, count) if from < shards && to < shards => {
                (0..count).for_each(|_| _ = self.deliver(from, to));
            }
            Action::Commit(count, late) => _ = self.commit(count, late),
            Action::Hear(shard, count) if shard < shards => {
                (0..count).for_each(|_| _ = self.hear(shard));
            }
            Action::Time(milliseconds) => self.pass(milliseconds),
            Action::Settle => self.settle(),
            Action::Rush => _ = self.go_on_for_long(false),
            Action::Fail => self.fail_store(),
            Action::Crash(shards, pause, arrives) => self.crash(shards, pause, arrives),
            Action::Step(_) | Action::Turn(_) | Action::Mail(..) | Action::Hear(..) => {}
        }
    }

    // ---- Turns -----------------------------------------------------------------------------

    /// Something comes to a shard: it has ended the turn before.
    pub fn begin(&mut self, shard: usize) {
        while self.stages[shard] != Stage::Reading {
            self.go_on(shard);
        }
    }

    /// One step of `Shard::end_turn`.
    fn go_on(&mut self, shard: usize) {
        self.stages[shard] = match self.stages[shard] {
            Stage::Reading => {
                self.w.brokers[shard].on_turn(self.w.now);
                self.w.apply_effects(shard);
                Stage::Effects
            }
            Stage::Effects => {
                let waiting = |w: &World| w.store.as_ref().map_or(0, |store| store.waiting.len());
                let before = waiting(&self.w);
                self.w.send_mail(shard);
                if waiting(&self.w) > before
                    && let Some(store) = &mut self.w.store
                {
                    self.hands[shard] = store.waiting.pop_back().map(|(_, batch)| batch);
                }
                Stage::Mail
            }
            Stage::Mail => {
                if let Some(batch) = self.hands[shard].take()
                    && let Some(store) = &mut self.w.store
                    && !self.failed
                {
                    store.waiting.push_back((shard, batch));
                }
                Stage::Batch
            }
            Stage::Batch => {
                while let Some(key) = self.w.brokers[shard].next_to_write() {
                    self.w.write(shard, key);
                }
                self.w.brokers[shard].end_turn();
                Stage::Reading
            }
        };
    }

    fn end_turn(&mut self, shard: usize) {
        self.go_on(shard);
        self.begin(shard);
    }

    fn read_all(&mut self, shard: usize) -> bool {
        let mut busy = false;
        for c in 0..self.links.len() {
            busy |= self.w.peers[c].shard == shard && self.read(c, usize::MAX);
        }
        busy
    }

    fn read(&mut self, c: C, bytes: usize) -> bool {
        if self.w.peers[c].key.is_none() || self.w.peers[c].paused {
            return false;
        }
        self.begin(self.w.peers[c].shard);
        let (_, more) = self.w.read_some(c, bytes);
        let peer = &self.w.peers[c];
        let at_end = peer.held == peer.unread.len() && !peer.paused && !more;
        let closes = peer.cut && at_end && peer.key.is_some();
        if closes {
            self.w.close(c, CloseReason::PeerClosed);
        }
        more || closes
    }

    fn room(&mut self, c: C, bytes: usize) {
        let peer = &mut self.w.peers[c];
        peer.room = bytes;
        let (shard, key) = (peer.shard, peer.key);
        if bytes > 0
            && std::mem::take(&mut peer.blocked)
            && let Some(key) = key
        {
            self.begin(shard);
            self.w.write(shard, key);
        }
    }

    fn deliver(&mut self, from: usize, to: usize) -> bool {
        if self.w.mail[from][to].is_empty() {
            return false;
        }
        self.begin(to);
        self.w.deliver_batch(from, to)
    }

    /// Time passes, and every shard sees it.
    fn pass(&mut self, milliseconds: u64) {
        (0..self.w.brokers.len()).for_each(|shard| self.begin(shard));
        self.w.now.monotonic += milliseconds;
        self.w.now.unix += milliseconds;
        let now = self.w.now;
        self.w.brokers.iter_mut().for_each(|broker| broker.on_tick(now));
    }

    // ---- The store -------------------------------------------------------------------------

    /// The store keeps the oldest of its batches, and shards will hear of it.
    fn commit(&mut self, count: usize, late: bool) -> bool {
        let Some(store) = self.w.store.as_mut().filter(|_| !self.failed) else { return false };
        let mut loads = Vec::new();
        let count = count.min(store.waiting.len());
        for (shard, batch) in store.waiting.drain(..count) {
            store.kept.apply(&batch.changes);
            self.outcomes[shard].push_back(Outcome::Durable(batch.epoch));
            for load in batch.loads {
                match late {
                    true => loads.push((shard, load)),
                    false => {
                        let loaded = store.kept.load(&load);
                        self.outcomes[shard].push_back(Outcome::Loaded(loaded));
                    }
                }
            }
        }
        for (shard, load) in loads {
            self.outcomes[shard].push_back(Outcome::Loaded(store.kept.load(&load)));
        }
        count > 0
    }

    fn hear(&mut self, shard: usize) -> bool {
        if self.outcomes[shard].is_empty() {
            return false;
        }
        self.begin(shard);
        let outcome = self.outcomes[shard].pop_front();
        let now = self.w.now;
        outcome.map(|outcome| self.w.brokers[shard].on_outcome(now, outcome)).is_some()
    }

    fn fail_store(&mut self) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        if let Some(store) = &mut self.w.store {
            store.waiting.clear();
        }
        for outcomes in &mut self.outcomes {
            outcomes.push_back(Outcome::Failed("no space left on device".into()));
        }
    }

    // ---- The end ---------------------------------------------------------------------------

    /// Everything dies, and comes back as it was kept.
    pub fn crash(&mut self, shards: usize, pause: u64, arrives: bool) {
        if arrives {
            self.w.peers.iter_mut().for_each(|peer| _ = peer.arrive(usize::MAX));
            self.collect();
        }
        (0..self.actors.len()).for_each(|client| self.lose(client));
        self.count_losses();
        let old = std::mem::replace(&mut self.w, World::new(1));
        self.w = old.crash(shards, pause, config(self.setup));
        self.start();
        let at = self.next();
        for life in &mut self.lives {
            if self.actors[life.client].is_in_doubt {
                life.quiet = None;
            }
            if life.lost_at.is_some() {
                life.quiet.get_or_insert(at);
            }
            if life.lost_at.is_some() && !life.offline_is_kept {
                life.gone_at = Some(self.w.now.unix);
                life.died_online = true;
            }
        }
    }

    pub fn count_losses(&mut self) {
        self.losses += LOSSES.iter().map(|reason| self.w.dropped(*reason)).sum::<u64>();
    }

    /// Sees which connections are over.
    pub fn observe(&mut self) {
        self.note_lost_wills();
        self.collect();
        for client in 0..self.actors.len() {
            let Some(c) = self.actors[client].connection else { continue };
            if self.w.peers[c].key.is_none() {
                self.w.peers[c].arrive(usize::MAX);
                self.collect();
                self.lose(client);
            }
        }
        let at = self.next();
        for life in self.lives.iter_mut().filter(|life| life.gone_at.is_none()) {
            let mut peers = self.links.iter().zip(&self.w.peers);
            let is_there = peers.any(|(link, p)| link.client == life.client && p.key.is_some());
            if life.lost_at.is_some() && !is_there {
                life.gone_at = Some(self.w.now.unix);
                life.quiet = Some(at);
            }
        }
    }

    /// Everything goes on until nothing can.
    pub fn settle(&mut self) {
        if self.go_on_for_long(true) {
            self.rest();
        }
    }

    /// Everything goes on until nothing can, with or without the store. Says whether it comes to that.
    fn go_on_for_long(&mut self, commits: bool) -> bool {
        for _ in 0..2_000 {
            let paused = |s: &Self| s.w.peers.iter().filter(|peer| peer.paused).count();
            let before = paused(self);
            let mut busy = false;
            let shards = self.w.brokers.len();
            for shard in 0..shards {
                busy |= self.w.brokers[shard].has_work();
                busy |= self.stages[shard] != Stage::Reading;
                busy |= self.read_all(shard);
                busy |= self.has_output(shard);
                self.end_turn(shard);
                for from in 0..shards {
                    busy |= self.deliver(from, shard);
                }
                busy |= self.hear(shard);
            }
            busy |= commits && self.commit(3, true);
            for peer in &mut self.w.peers {
                busy |= peer.arrive(usize::MAX);
            }
            self.observe();
            for peer in &self.w.peers {
                let has_more = peer.unread.len() > peer.held;
                busy |= peer.key.is_some() && !peer.paused && has_more;
            }
            // Whoever was paused may have sent before.
            if !busy && paused(self) == before {
                return true;
            }
        }
        self.wrong.fail(|| "settle: the world does not come to rest".into());
        false
    }

    fn has_output(&mut self, shard: usize) -> bool {
        let broker = &mut self.w.brokers[shard];
        broker.has_output() || broker.mail().has_items()
    }

    /// Nothing goes on: what is known to be offline is kept as such, and wills are due.
    fn rest(&mut self) {
        self.look_for_sleepers();
        if self.failed {
            return;
        }
        for life in &mut self.lives {
            life.offline_is_kept = life.gone_at.is_some() && !life.died_online;
        }
        self.note_due_wills();
    }

    /// Everybody comes back, takes everything, and then nothing must be missing, or left.
    fn conclude(&mut self, actions: usize) {
        let free = |s: &mut Self| {
            for client in 0..s.actors.len() {
                if let Some(c) = s.actors[client].connection {
                    s.links[c].prompt = true;
                    s.room(c, usize::MAX);
                }
            }
        };
        free(self);
        self.settle();
        if self.failed || actions.is_multiple_of(2) {
            self.crash(1 + actions % 3, 0, true);
        }
        self.pass(500);
        self.settle();
        self.pass(70_000);
        self.settle();
        for _ in 0..2 {
            self.come_back();
            free(self);
            self.settle();
        }
        self.look_for_undelivered();
        self.count_losses();
        self.judge();
        let received = self.receptions.len();
        self.look_at_store();
        self.crash(1 + actions % 3, 0, true);
        self.come_back();
        self.settle();
        // Wills are published again, or when their clients were cut off for the last time.
        let more = self.receptions.iter().skip(received).map(|r| r.number);
        let more: Vec<_> = more.filter(|number| !self.messages[*number].is_will).collect();
        self.wrong
            .check(more.is_empty(), || format!("again: {more:?} came after it was acknowledged"));
        self.look_at_retained();
    }

    fn come_back(&mut self) {
        for client in 0..self.actors.len() {
            let (clean, expiry, prompt) = (false, MAX_EXPIRY, true);
            if self.actors[client].connection.is_none() {
                self.connect(client, Hello { on: client, clean, expiry, prompt, will: None });
            }
        }
    }
}
