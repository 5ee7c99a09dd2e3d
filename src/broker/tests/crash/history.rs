//! Histories: what clients, shards, the store and the clock do, one action after the other, and when
//! all of it dies. A history stays meaningful when actions are taken out of it.

use super::super::seeds::{self, one_of};
use crate::{codec::Version, topics::Strategy};

/// The clients, by the number that they have in a history.
pub const VERSIONS: [Version; 5] =
    [Version::V3_1_1, Version::V5, Version::V5, Version::V3_1_1, Version::V5];
pub const TOPICS: [&str; 5] = ["a", "b", "a/x", "s", "w"];
/// The topic of all wills.
pub const WILL_TOPIC: usize = 4;
/// The first ones are not shared.
pub const FILTERS: [&str; 8] = ["a", "+", "#", "a/#", "b", "w", "$share/g/s", "$share/h/+"];
pub const PLAIN_FILTERS: usize = 6;
const ACTIONS: usize = 160;
/// The clients that are members of a group where there is nothing else; the first one stays.
const MEMBERS: usize = 3;

/// What is set once.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Shards at the beginning.
    pub shards: usize,
    /// The window towards clients.
    pub inflight: u16,
    /// The messages of an online session's queue that are in memory.
    pub in_memory: usize,
    /// The messages that a session's queue takes.
    pub queue: usize,
    pub drop_oldest: bool,
    /// The bytes that an outbox takes.
    pub outbox: usize,
    pub packets_per_turn: u32,
    /// Items on their way between two shards.
    pub credit: u32,
    /// What clients receive takes its time.
    pub wires: bool,
    pub strategy: Strategy,
    /// The first clients are members of a group, the others publish to it, and nothing else goes on:
    /// there what sessions leave is seen best.
    pub groups: bool,
}

impl Setup {
    /// Whether messages of QoS 0 wait for absent clients, too.
    pub fn queues_qos0(self) -> bool {
        !self.groups
    }
}

/// A CONNECT.
#[derive(Debug, Clone, Copy)]
pub struct Hello {
    /// The shard that accepts.
    pub on: usize,
    pub clean: bool,
    /// Session Expiry Interval, for MQTT 5.
    pub expiry: u32,
    /// Whether the client answers at once.
    pub prompt: bool,
    pub will: Option<WillOf>,
}

/// A will.
#[derive(Debug, Clone, Copy)]
pub struct WillOf {
    pub qos: u8,
    pub retain: bool,
    /// Will Delay Interval, for MQTT 5.
    pub delay: u32,
}

/// A PUBLISH.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    pub topic: usize,
    pub qos: u8,
    pub retain: bool,
    /// No payload: nothing is to be retained any more.
    pub empty: bool,
    /// Message Expiry Interval, for MQTT 5; 0 for none.
    pub expiry: u32,
}

/// One step. Clients and shards that do not exist, or cannot do that, do nothing.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// The client connects, and leaves a connection that it has alone.
    Connect(usize, Hello),
    /// The client sends DISCONNECT, that asks for the will if so said; MQTT 5 clients may change
    /// the session expiry.
    Disconnect(usize, bool, Option<u32>),
    /// The client's connections break. Of what it has sent so many bytes still arrive.
    Cut(usize, usize),
    Publish(usize, Sent),
    /// Client, filter, QoS.
    Subscribe(usize, usize, u8),
    Unsubscribe(usize, usize),
    /// The client sends so many of the answers that it owes.
    Answer(usize, usize),
    /// The client answers at once from now on, or does not.
    Prompt(usize, bool),
    /// The client's socket has room for so many bytes.
    Room(usize, usize),
    /// So many bytes that were written arrive at the client.
    Arrive(usize, usize),
    /// The shards read at most so many bytes from each connection of the client.
    Read(usize, usize),
    /// A shard goes one step on in the end of its turn: effects, mail, batch, write.
    Step(usize),
    /// A shard reads from all its connections, and ends its turn.
    Turn(usize),
    /// So many batches of mail from one shard come to another.
    Mail(usize, usize, usize),
    /// The store keeps so many of the batches that it has. What is to be read is read after all of
    /// them, or each in its place.
    Commit(usize, bool),
    /// A shard hears so many things from the store.
    Hear(usize, usize),
    /// So many milliseconds pass.
    Time(u64),
    /// Everything that can go on goes on, until nothing can.
    Settle,
    /// The same, but the store does nothing.
    Rush,
    /// The store fails.
    Fail,
    /// All dies. So many shards come back after so many milliseconds. What was written may still
    /// have arrived.
    Crash(usize, u64, bool),
}

/// A whole history.
pub type History = seeds::History<Setup, Action>;

impl History {
    /// The one history of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let setup = setup(&mut rng);
        let fails = rng.u8(..6) == 0;
        let groups = setup.groups;
        let group = rng.usize(PLAIN_FILTERS..FILTERS.len());
        let mut actions = Vec::new();
        for client in 0..VERSIONS.len() {
            let hello = Hello { clean: false, expiry: 3_600, ..hello(&mut rng) };
            actions.push(Action::Connect(client, hello));
        }
        actions.push(Action::Settle);
        for client in 0..VERSIONS.len() {
            match groups {
                true if client < MEMBERS => actions.push(Action::Subscribe(client, group, 2)),
                true => {}
                false => actions.push(subscribe(&mut rng, client)),
            }
        }
        actions.push(Action::Settle);
        for _ in 0..ACTIONS {
            let action = match (action(&mut rng), groups) {
                (action, true) => of_group(&mut rng, action, group),
                (action, false) => action,
            };
            let was_long = matches!(action, Action::Crash(_, 3_000.., _));
            actions.push(action);
            if was_long && !groups && rng.bool() {
                // Before the broker comes to look who has expired meanwhile.
                let client = rng.usize(..VERSIONS.len());
                actions.push(Action::Connect(client, Hello { clean: false, ..hello(&mut rng) }));
            }
        }
        if fails {
            let at = rng.usize(11..actions.len());
            actions.insert(at, Action::Fail);
        }
        Self { setup, actions }
    }
}

fn setup(rng: &mut fastrand::Rng) -> Setup {
    let roomy = rng.u8(..3) != 0;
    Setup {
        shards: rng.usize(1..=3),
        inflight: rng.u16(1..5),
        in_memory: rng.usize(1..=3),
        queue: if roomy { 10_000 } else { rng.usize(2..6) },
        drop_oldest: rng.bool(),
        outbox: one_of(rng, &[1 << 20, 1 << 20, 60, 200]),
        packets_per_turn: rng.u32(1..8),
        credit: rng.u32(2..20),
        wires: rng.bool(),
        strategy: one_of(rng, &[Strategy::RoundRobin, Strategy::Random, Strategy::Local]),
        groups: rng.u8(..4) == 0,
    }
}

fn hello(rng: &mut fastrand::Rng) -> Hello {
    let will = (rng.u8(..3) == 0).then(|| WillOf {
        qos: rng.u8(1..3),
        retain: rng.u8(..4) == 0,
        delay: one_of(rng, &[0, 1, 5, 60]),
    });
    Hello {
        on: rng.usize(..3),
        clean: rng.u8(..8) == 0,
        expiry: one_of(rng, &[0, 2, 3_600, 3_600, 3_600, 3_600]),
        prompt: rng.u8(..4) != 0,
        will,
    }
}

fn sent(rng: &mut fastrand::Rng) -> Sent {
    let retain = rng.u8(..4) == 0;
    Sent {
        topic: rng.usize(..TOPICS.len()),
        qos: one_of(rng, &[0, 1, 1, 2, 2, 2]),
        retain,
        empty: retain && rng.u8(..4) == 0,
        expiry: if retain { 0 } else { one_of(rng, &[0, 0, 0, 0, 0, 0, 0, 2]) },
    }
}

fn subscribe(rng: &mut fastrand::Rng, client: usize) -> Action {
    Action::Subscribe(client, rng.usize(..FILTERS.len()), one_of(rng, &[0, 1, 1, 2, 2, 2]))
}

fn action(rng: &mut fastrand::Rng) -> Action {
    let client = rng.usize(..VERSIONS.len());
    let (shard, other) = (rng.usize(..3), rng.usize(..3));
    match rng.u8(..100) {
        0..22 => Action::Publish(client, sent(rng)),
        22..32 => Action::Turn(shard),
        32..38 => Action::Read(client, one_of(rng, &[1, 7, 20, 1_000, 1_000])),
        38..47 => Action::Step(shard),
        47..52 => Action::Mail(other, shard, rng.usize(1..3)),
        52..58 => Action::Commit(rng.usize(1..4), rng.bool()),
        58..63 => Action::Hear(shard, rng.usize(1..4)),
        63..66 => Action::Arrive(client, one_of(rng, &[1, 10, 1_000, 1_000])),
        66..70 => Action::Answer(client, rng.usize(1..4)),
        70..74 => subscribe(rng, client),
        74 => Action::Unsubscribe(client, rng.usize(..FILTERS.len())),
        75..81 => Action::Connect(client, hello(rng)),
        81..83 => Action::Cut(client, one_of(rng, &[0, 0, 1, 7, 30, 1_000])),
        83 => {
            let expiry = one_of(rng, &[None, None, Some(0), Some(2), Some(3_600)]);
            Action::Disconnect(client, rng.bool(), expiry)
        }
        84 | 85 => Action::Room(client, one_of(rng, &[0, 1, 30, usize::MAX, usize::MAX])),
        86..89 => Action::Time(one_of(rng, &[1, 50, 500, 3_000, 10_000])),
        89 => Action::Prompt(client, rng.u8(..4) != 0),
        90..93 => {
            let pause = one_of(rng, &[0, 100, 3_000, 100_000]);
            Action::Crash(rng.usize(1..=3), pause, rng.bool())
        }
        93..97 => Action::Rush,
        _ => Action::Settle,
    }
}

/// An action where the first clients are members of a group and the others publish to it.
fn of_group(rng: &mut fastrand::Rng, action: Action, group: usize) -> Action {
    match action {
        Action::Connect(client, hello) => {
            let is_member = client < MEMBERS;
            let clean = is_member && client > 0 && rng.bool();
            let prompt = !is_member || rng.u8(..4) == 0;
            Action::Connect(client, Hello { clean, expiry: 3_600, prompt, will: None, ..hello })
        }
        Action::Publish(client, sent) => {
            let client = MEMBERS + client % (VERSIONS.len() - MEMBERS);
            let qos = sent.qos.max(1);
            Action::Publish(client, Sent { topic: 3, qos, retain: false, empty: false, expiry: 0 })
        }
        Action::Disconnect(client, with_will, _) => Action::Disconnect(client, with_will, None),
        Action::Subscribe(client, ..) => Action::Subscribe(client % MEMBERS, group, 2),
        Action::Unsubscribe(..) | Action::Time(..) => {
            Action::Cut(rng.usize(..MEMBERS), one_of(rng, &[0, 1_000]))
        }
        action => action,
    }
}
