//! Histories: what clients, sockets, shards and the clock do, one action after the other. A history
//! is made from a seed, and stays meaningful when actions are taken out of it.

use super::super::seeds::{self, one_of};
use crate::{codec::Version, topics::Strategy};

/// The clients, by the number that they have in a history.
pub const VERSIONS: [Version; 6] =
    [Version::V3_1, Version::V3_1_1, Version::V5, Version::V5, Version::V3_1_1, Version::V5];
pub const TOPICS: [&str; 8] = ["t/1", "t/2", "t/1/x", "s/1", "s/2", "$d/1", "w", "$SYS/x"];
/// The last one is the broker's own: clients may not publish there.
pub const FORBIDDEN: usize = TOPICS.len() - 1;
/// Those of wills.
const WILL_TOPICS: [usize; 2] = [1, 6];
/// The first ones are not shared.
pub const FILTERS: [&str; 14] = [
    "t/#",
    "t/+",
    "t/1",
    "+/2",
    "#",
    "t/1/x",
    "s/+",
    "w",
    "$d/#",
    "$SYS/x",
    "$share/g/s/+",
    "$share/h/s/1",
    "$share/g/t/1",
    "$share/h/#",
];
pub const PLAIN_FILTERS: usize = 10;
/// More retained messages than there are topics.
pub const ROOMY: u64 = 1_000;
const ACTIONS: usize = 300;

/// What is set once.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub shards: usize,
    /// The window towards clients.
    pub inflight: u16,
    /// The bytes that an outbox takes.
    pub outbox: usize,
    pub packets_per_turn: u32,
    /// The messages that a session's queue takes.
    pub queue: usize,
    /// The bytes that a session's queue takes.
    pub queue_bytes: usize,
    /// The bytes that all queues take.
    pub queues_bytes: u64,
    pub drop_oldest: bool,
    pub queue_qos0: bool,
    /// Items on their way between two shards.
    pub credit: u32,
    pub shapes: usize,
    /// Mail arrives when an action says so, else when it is sent.
    pub dawdles: bool,
    /// Seconds without progress until a slow client is disconnected.
    pub send_timeout: u64,
    /// Milliseconds that pass in a turn before it takes its mail in.
    pub turn: u64,
    /// The sessions that there may be, over all shards; 0 for no cap.
    pub sessions: u64,
    /// The retained messages, over all shards.
    pub retained: u64,
    pub strategy: Strategy,
}

/// A CONNECT.
#[derive(Debug, Clone, Copy)]
pub struct Hello {
    /// The shard that accepts.
    pub on: usize,
    pub clean: bool,
    /// Keep Alive in seconds; 0 for none.
    pub keep_alive: u16,
    /// Whether the client does not wait for CONNACK.
    pub eager: bool,
    /// Session Expiry Interval, for MQTT 5.
    pub expiry: u32,
    /// Receive Maximum, for MQTT 5; 0 for none.
    pub receive: u16,
    /// Maximum Packet Size, for MQTT 5; 0 for none.
    pub packet: u32,
    /// Topic Alias Maximum, for MQTT 5.
    pub aliases: u16,
    /// Whether the client answers at once.
    pub prompt: bool,
    pub will: Option<WillOf>,
    pub shows: Shows,
    /// Whether it is decided later who may come in, unless the client shows nothing.
    pub later: bool,
}

/// What a client shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    Nothing,
    WrongPassword,
    Password,
}

/// A will.
#[derive(Debug, Clone, Copy)]
pub struct WillOf {
    pub topic: usize,
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
    /// Bytes of the payload, at least; 0 for none at all.
    pub size: usize,
    /// Message Expiry Interval, for MQTT 5; 0 for none.
    pub expiry: u32,
    /// Topic Alias, for MQTT 5; 0 for none.
    pub alias: u16,
}

/// A SUBSCRIBE for one filter. All but the QoS is for MQTT 5.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub filter: usize,
    pub qos: u8,
    pub no_local: bool,
    pub as_published: bool,
    pub handling: u8,
    pub id: u32,
}

/// One step. Clients, connections and shards that do not exist, or cannot do that, do nothing.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// The client connects; a connection that it has is left alone.
    Connect(usize, Hello),
    /// The client sends DISCONNECT, that asks for the will if so said; MQTT 5 clients may change
    /// the session expiry.
    Disconnect(usize, bool, Option<u32>),
    /// All connections of the client break. Of what they have sent so many bytes still arrive.
    Cut(usize, usize),
    Publish(usize, Sent),
    Subscribe(usize, Asked),
    Unsubscribe(usize, usize),
    /// The client sends PINGREQ.
    Ping(usize),
    /// The client sends so many of the answers that it owes.
    Answer(usize, usize),
    /// The client answers at once from now on, or does not.
    Prompt(usize, bool),
    /// The client's socket has room for so many bytes.
    Room(usize, usize),
    /// The shards read at most so many bytes from each connection of the client.
    Read(usize, usize),
    /// A shard's turn ends.
    End(usize),
    /// A shard reads from all its connections, and ends its turn.
    Turn(usize),
    /// It is decided whether the client may come in.
    Decide(usize),
    /// A shard looks into its mailbox for one of the client's connections, and is then held up before
    /// it handles what has come on that: until something else happens there.
    HoldRead(usize),
    /// The client's shard reads from all its connections and ends its turn.
    TurnOf(usize),
    /// The same, but it is held up when it has sent what is to be retained: until something else
    /// happens there.
    HoldTurn(usize),
    /// So many batches from one shard arrive at another.
    Arrive(usize, usize, usize),
    /// So many milliseconds pass.
    Time(u64),
    /// Everything that can go on goes on, until nothing can.
    Settle,
}

/// A whole history.
pub type History = seeds::History<Setup, Action>;

impl History {
    /// The one history of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let setup = setup(&mut rng);
        let mut actions = Vec::new();
        for client in 0..VERSIONS.len() {
            actions.push(Action::Connect(client, hello(&mut rng, &setup)));
        }
        actions.push(Action::Settle);
        for client in 0..VERSIONS.len() {
            actions.push(Action::Subscribe(client, asked(&mut rng, &setup)));
        }
        actions.push(Action::Settle);
        for _ in 0..ACTIONS {
            actions.push(action(&mut rng, &setup));
            if rng.u8(..100) == 0 {
                actions.extend(race(&mut rng));
            }
        }
        actions.extend(race(&mut rng));
        Self { setup, actions }
    }
}

fn setup(rng: &mut fastrand::Rng) -> Setup {
    let roomy = rng.bool();
    Setup {
        shards: rng.usize(1..=4),
        inflight: rng.u16(1..6),
        outbox: if roomy { 1 << 20 } else { rng.usize(200..2_000) },
        packets_per_turn: rng.u32(1..8),
        queue: if roomy { 10_000 } else { rng.usize(2..10) },
        queue_bytes: if roomy { 1 << 20 } else { rng.usize(500..3_000) },
        queues_bytes: if roomy { 1 << 30 } else { rng.u64(2_000..20_000) },
        drop_oldest: rng.bool(),
        queue_qos0: rng.u8(..4) == 0,
        credit: rng.u32(2..20),
        shapes: one_of(rng, &[64, 64, 64, 2]),
        dawdles: rng.bool(),
        send_timeout: one_of(rng, &[5, 1_000_000]),
        turn: one_of(rng, &[0, 0, 1, 7]),
        sessions: one_of(rng, &[0, 0, 0, 3, 5]),
        retained: one_of(rng, &[ROOMY, ROOMY, 1, 4]),
        strategy: one_of(
            rng,
            &[
                Strategy::RoundRobin,
                Strategy::Random,
                Strategy::Sticky,
                Strategy::HashClientId,
                Strategy::HashTopic,
                Strategy::Local,
            ],
        ),
    }
}

fn hello(rng: &mut fastrand::Rng, setup: &Setup) -> Hello {
    let tight = setup.queue < 1_000;
    let will = (rng.u8(..3) == 0).then(|| WillOf {
        topic: if rng.u8(..10) == 0 { FORBIDDEN } else { one_of(rng, &WILL_TOPICS) },
        qos: rng.u8(..3),
        retain: rng.u8(..4) == 0,
        delay: one_of(rng, &[0, 0, 1, 5, 60]),
    });
    Hello {
        on: rng.usize(..4),
        clean: rng.u8(..4) == 0,
        keep_alive: one_of(rng, &[0, 0, 0, 2, 30]),
        eager: rng.u8(..3) == 0,
        expiry: one_of(rng, &[0, 2, 30, 3_600, 3_600]),
        receive: one_of(rng, &[0, 1, 2, 5]),
        packet: if tight { one_of(rng, &[0, 0, 100, 160]) } else { 0 },
        aliases: rng.u16(..3),
        prompt: rng.u8(..4) != 0,
        will,
        shows: match rng.u8(..20) {
            0 => Shows::Nothing,
            1 => Shows::WrongPassword,
            _ => Shows::Password,
        },
        later: rng.u8(..4) == 0,
    }
}

fn asked(rng: &mut fastrand::Rng, setup: &Setup) -> Asked {
    // Shared subscriptions are refused when all shapes are taken.
    let filters = if setup.shapes < 64 { PLAIN_FILTERS } else { FILTERS.len() };
    Asked {
        filter: rng.usize(..filters),
        qos: one_of(rng, &[0, 1, 1, 2, 2]),
        no_local: rng.u8(..4) == 0,
        as_published: rng.bool(),
        handling: one_of(rng, &[0, 0, 0, 1, 2]),
        id: rng.u32(..4),
    }
}

fn sent(rng: &mut fastrand::Rng, setup: &Setup) -> Sent {
    let retain = rng.u8(..4) == 0;
    // What has expired takes room until it is swept: the model does not know when that is.
    let expires = !retain || setup.retained >= ROOMY;
    Sent {
        topic: if rng.u8(..20) == 0 { FORBIDDEN } else { rng.usize(..FORBIDDEN) },
        qos: rng.u8(..3),
        retain,
        size: if retain && rng.u8(..4) == 0 { 0 } else { one_of(rng, &[5, 5, 20, 100, 600]) },
        expiry: if expires { one_of(rng, &[0, 0, 0, 1, 10]) } else { 0 },
        alias: rng.u16(..3),
    }
}

/// Somebody subscribes to a topic for which others have messages to be retained, while a shard is held
/// up. Nobody else has the filter, so that their shards know of nobody before.
fn race(rng: &mut fastrand::Rng) -> Vec<Action> {
    let (topic, filter) = one_of(rng, &[(3, 6), (4, 6), (5, 8), (6, 7)]);
    let mut clients: Vec<usize> = (0..VERSIONS.len()).collect();
    rng.shuffle(&mut clients);
    // It is alone on its shard, if there are three shards or more.
    if let Some(alone) = clients.iter().position(|client| *client == 2) {
        clients.swap(alone, one_of(rng, &[0, 0, 2, alone]));
    }
    let [first, second, third, ..] = clients[..] else { return Vec::new() };
    let mut publish = |client| {
        let qos = rng.u8(1..3);
        let sent = Sent { topic, qos, retain: true, size: 5, expiry: 0, alias: 0 };
        Action::Publish(client, sent)
    };
    let publish = [publish(first), publish(second)];
    let asked = Asked { filter, qos: 1, no_local: false, as_published: false, handling: 0, id: 0 };
    let subscribe = Action::Subscribe(third, asked);
    let mut actions: Vec<_> =
        clients.iter().map(|client| Action::Unsubscribe(*client, filter)).collect();
    actions.push(Action::Settle);
    match rng.u8(..4) {
        0 | 1 => {
            actions.extend([publish[0], Action::HoldTurn(first)]);
            actions.extend([publish[1], Action::TurnOf(second)]);
            actions.extend([subscribe, Action::TurnOf(third), Action::TurnOf(first)]);
        }
        2 => {
            actions.extend([publish[0], Action::Read(first, usize::MAX)]);
            actions.extend([subscribe, Action::TurnOf(third)]);
        }
        _ => {
            actions.extend([publish[0], Action::Settle, subscribe, Action::HoldRead(third)]);
            actions.extend([publish[1], Action::TurnOf(second)]);
        }
    }
    actions.push(Action::Settle);
    actions
}

fn action(rng: &mut fastrand::Rng, setup: &Setup) -> Action {
    let client = rng.usize(..VERSIONS.len());
    let shard = rng.usize(..setup.shards);
    match rng.u8(..100) {
        0..26 => Action::Publish(client, sent(rng, setup)),
        26..36 => Action::Turn(shard),
        36..40 => Action::HoldTurn(client),
        40..46 => Action::Read(client, rng.usize(..200)),
        46..48 => Action::HoldRead(client),
        48..54 => Action::End(shard),
        54..61 => Action::Arrive(rng.usize(..setup.shards), shard, rng.usize(1..4)),
        61..66 => Action::Answer(client, rng.usize(1..4)),
        66..73 => Action::Subscribe(client, asked(rng, setup)),
        73..76 => Action::Unsubscribe(client, asked(rng, setup).filter),
        76..81 => Action::Connect(client, hello(rng, setup)),
        81..84 => Action::Cut(client, one_of(rng, &[0, 0, 1, 7, 30, 1_000])),
        84 => Action::Disconnect(client, rng.bool(), one_of(rng, &[None, None, Some(1)])),
        85..90 => Action::Room(client, one_of(rng, &[0, 1, 30, 300, usize::MAX, usize::MAX])),
        90..94 => Action::Time(one_of(rng, &[1, 1, 3, 50, 500, 1_000, 3_000, 20_000, 100_000])),
        94 => Action::Prompt(client, rng.u8(..4) != 0),
        95 => Action::Ping(client),
        96 => Action::Decide(client),
        _ => Action::Settle,
    }
}
