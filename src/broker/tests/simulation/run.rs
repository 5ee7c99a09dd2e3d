//! The simulated world while a history runs: links between clients and shards, and the model that
//! is told of everything that a shard has handled.

use std::{cell::Cell, collections::BTreeMap};

use super::{
    super::{
        seeds::Wrong,
        world::{C, World},
    },
    client::{Actor, Link},
    doorkeeper::Doorkeeper,
    history::{Action, Setup, VERSIONS},
    model::{Message, Moment, Retained, Session},
    verdict::Reception,
};
use crate::{
    broker::{Config, mail::Rest},
    session::QueueCaps,
    stats::DropReason,
};

/// What sessions of 3.x clients last for, in seconds.
pub const MAX_EXPIRY: u32 = 3_600;
/// The unacknowledged QoS 1 and 2 messages of one client.
pub const MAX_PENDING: usize = 20;

/// A message for the shard that keeps its topic's retained one.
pub struct Retaining {
    pub number: usize,
    pub from: usize,
    pub owner: usize,
    /// The batch that it is in, or one before.
    pub bound: Option<u64>,
}

/// What a shard is held up in.
pub enum HeldUp {
    /// Handling so many bytes that have come on a connection.
    Read(C, usize),
    /// Sending mail, at the end of a turn.
    Turn {
        /// When it began, in milliseconds of the clock.
        began: u64,
        /// Connections are read from again.
        resumed: bool,
        /// What is still to be sent.
        rest: Option<Rest>,
    },
}

pub struct Simulation {
    pub w: World,
    pub setup: Setup,
    pub at: Moment,
    pub actors: Vec<Actor>,
    /// By connection.
    pub links: Vec<Link>,
    pub sessions: Vec<Session>,
    pub messages: Vec<Message>,
    pub retained: Retained,
    pub retaining: Vec<Retaining>,
    /// Those that their publishers' shards keep themselves, since the last tick began.
    pub just_retained: Vec<usize>,
    /// Messages that were not retained, for there were too many.
    pub not_retained: u64,
    /// Copies that are not sent to the other shards, by shard: message, copy.
    pub unsent: Vec<Vec<(usize, usize)>>,
    /// When each batch has arrived.
    pub arrivals: BTreeMap<u64, Moment>,
    pub receptions: Vec<Reception>,
    /// Wills published by each shard.
    pub wills: Vec<u64>,
    /// Shards whose turn has begun: when, in milliseconds of the clock.
    pub awake: Vec<Option<u64>>,
    pub next_tick: Vec<u64>,
    /// What each shard is held up in.
    pub held_up: Vec<Option<HeldUp>>,
    /// When the turn whose output is looked at began, in milliseconds of the clock.
    pub began: u64,
    pub doorkeeper: Doorkeeper,
    /// Clients that were not let in.
    pub refused: u64,
    /// PUBLISH packets and wills for the topic that is forbidden.
    pub forbidden: u64,
    /// The first thing that is wrong.
    pub wrong: Wrong,
}

impl Simulation {
    pub fn new(setup: Setup) -> Self {
        let (doorkeeper, shards) = (Doorkeeper::default(), Cell::new(0));
        let auth = || Box::new(doorkeeper.on(shards.replace(shards.get() + 1))) as Box<_>;
        let configure = |c: &mut Config| {
            c.max_inflight = setup.inflight;
            c.max_outbox_bytes = setup.outbox;
            c.packets_per_turn = setup.packets_per_turn;
            c.queue = QueueCaps {
                messages: setup.queue,
                bytes: setup.queue_bytes,
                drop_oldest: setup.drop_oldest,
            };
            c.max_queued_total_bytes = setup.queues_bytes;
            c.queue_qos0 = setup.queue_qos0;
            c.max_filter_shapes = setup.shapes;
            c.send_timeout = setup.send_timeout * 1_000;
            c.max_session_expiry = MAX_EXPIRY;
            c.max_sessions = setup.sessions;
            c.max_retained_messages = setup.retained;
            c.strategy = setup.strategy;
        };
        let mut w = World::with_auth(setup.shards, configure, auth);
        w.delivers_mail = false;
        w.credit = setup.credit;
        w.renew_credit();
        Self {
            setup,
            at: 0,
            actors: VERSIONS.iter().enumerate().map(|(n, v)| Actor::new(n, *v)).collect(),
            links: Vec::new(),
            sessions: Vec::new(),
            messages: Vec::new(),
            retained: Retained::default(),
            retaining: Vec::new(),
            just_retained: Vec::new(),
            not_retained: 0,
            unsent: vec![Vec::new(); setup.shards],
            arrivals: BTreeMap::new(),
            receptions: Vec::new(),
            wills: vec![0; setup.shards],
            awake: vec![None; setup.shards],
            next_tick: vec![0; setup.shards],
            held_up: (0..setup.shards).map(|_| None).collect(),
            began: 0,
            doorkeeper,
            refused: 0,
            forbidden: 0,
            wrong: Wrong::default(),
            w,
        }
    }

    /// Runs a whole history, and says what is wrong first.
    pub fn run(setup: Setup, actions: &[Action]) -> Result<(), String> {
        let mut simulation = Self::new(setup);
        for (n, action) in actions.iter().enumerate() {
            simulation.step(*action);
            let outcome = simulation.wrong.take();
            outcome.map_err(|wrong| format!("{wrong} (action {n}: {action:?})"))?;
        }
        simulation.conclude();
        simulation.wrong.take()?;
        simulation.w.end();
        Ok(())
    }

    /// A new moment.
    pub fn next(&mut self) -> Moment {
        self.at += 1;
        self.at
    }

    pub fn step(&mut self, action: Action) {
        let shards = self.setup.shards;
        match action {
            Action::Connect(client, hello) => self.connect(client, hello),
            Action::Disconnect(client, with_will, expiry) => {
                self.disconnect(client, with_will, expiry);
            }
            Action::Cut(client, bytes) => self.cut(client, bytes),
            Action::Publish(client, sent) => self.publish(client, sent),
            Action::Subscribe(client, asked) => self.subscribe(client, asked),
            Action::Unsubscribe(client, filter) => self.unsubscribe(client, filter),
            Action::Ping(client) => self.ping(client),
            Action::Answer(client, count) => {
                if let Some(c) = self.actors[client].connection {
                    self.answer(c, count);
                }
            }
            Action::Prompt(client, prompt) => {
                if let Some(c) = self.actors[client].connection {
                    self.links[c].prompt = prompt;
                    self.collect(c);
                }
            }
            Action::Room(client, bytes) => {
                if let Some(c) = self.actors[client].connection {
                    self.room(c, bytes);
                }
            }
            Action::Read(client, bytes) => {
                for c in self.connections_of(client) {
                    self.read(c, bytes);
                }
            }
            Action::Decide(client) => {
                for c in self.connections_of(client) {
                    self.decide(c);
                }
            }
            Action::HoldRead(client) => {
                for c in self.connections_of(client) {
                    self.hold_read(c);
                }
            }
            Action::End(shard) if shard < shards => {
                self.end_turn(shard);
            }
            Action::Turn(shard) if shard < shards => {
                self.read_all(shard);
                self.end_turn(shard);
            }
            Action::TurnOf(client) => {
                let shard = self.home(client);
                self.read_all(shard);
                self.end_turn(shard);
            }
            Action::HoldTurn(client) => {
                let shard = self.home(client);
                self.read_all(shard);
                self.begin_end_of_turn(shard);
            }
            Action::Arrive(from, to, batches) if from < shards && to < shards => {
                for _ in 0..batches {
                    self.arrive(from, to);
                }
            }
            Action::Time(milliseconds) => self.pass(milliseconds),
            Action::Settle => self.settle(),
            Action::End(_) | Action::Turn(_) | Action::Arrive(..) => {}
        }
    }

    fn home(&self, client: usize) -> usize {
        self.w.shared.home_shard(&self.actors[client].name).index()
    }

    fn connections_of(&self, client: usize) -> Vec<C> {
        (0..self.links.len()).filter(|c| self.links[*c].client == client).collect()
    }

    /// Everybody comes back, takes everything, and then nothing must be missing.
    fn conclude(&mut self) {
        // Nobody's keep-alive ends meanwhile.
        self.setup.turn = 0;
        for round in 0..3 {
            for client in 0..self.actors.len() {
                if let Some(c) = self.actors[client].connection {
                    self.links[c].prompt = true;
                    self.room(c, usize::MAX);
                    self.collect(c);
                } else if round < 2 {
                    self.come_back(client);
                }
            }
            self.settle();
        }
        self.look_at_the_rest();
        self.judge();
        self.look_at_retained();
    }

    /// Connections of clients that went away without a word.
    fn look_at_the_rest(&mut self) {
        for client in 0..self.actors.len() {
            let Some(c) = self.actors[client].connection else { continue };
            let link = &self.links[c];
            let waiting = self.actors[client].pending.len() + link.asked.len() + link.pings;
            let open = self.links[c].open && self.links[c].session.is_some();
            self.wrong.check(open && waiting == 0, || {
                format!("unanswered: client {client} waits for {waiting} answers")
            });
        }
        let late = self.retaining.first().map(|r| r.number);
        self.wrong
            .check(late.is_none(), || format!("retained: {late:?} has not come to its owner"));
        let totals = self.w.totals();
        let counted = (totals.auth_refused, totals.acl_refused);
        let expected = (self.refused, self.forbidden);
        self.wrong.check(counted == expected, || {
            format!("counted: refused clients and messages {counted:?}, expected {expected:?}")
        });
        let (refused, counted) = (self.not_retained, self.w.dropped(DropReason::RetainedFull));
        self.wrong.check(refused == counted, || {
            format!("retained: {counted} were too many, expected {refused}")
        });
    }
}
