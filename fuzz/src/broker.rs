//! Clients of all versions do what they may, and some do what they may not, on one to three shards
//! whose mail dawdles; sockets are slow, connections break, time passes.
//!
//! Nothing panics or runs for ever, nobody is sent what it is not owed or more than its window
//! takes, observers see everything that was acknowledged, and in the end nothing is left behind.

mod owed;

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use ringmq::{
    broker::tests::{
        peer::Got,
        world::{C, World},
    },
    codec::*,
};

use crate::VERSIONS;
use owed::{Owed, Publication};

const MAX_STEPS: u32 = 400;
/// The first of the clients are never cut short: they see everything below `t`.
const OBSERVERS: usize = 2;
const OBSERVED: &str = "t/#";
const CLIENTS: usize = OBSERVERS + 4;
const TOPICS: [&str; 8] = ["t/1", "t/2", "t/1", "t", "t/a/b", "u/1", "$x/1", "t/2/"];
const FILTERS: [&str; 12] = [
    "t/#",
    "t/+",
    "t/1",
    "+/1",
    "#",
    "$share/g/t/+",
    "$share/h/t/1",
    "$share/g/t/1",
    "$SYS/#",
    "t/+/b",
    "$x/#",
    "u/+",
];
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// Checks what the steps that `data` tells of lead to.
pub fn check(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(mut walk) = Walk::new(&mut u) else { return };
    while !u.is_empty() && walk.owed.step < MAX_STEPS && walk.step(&mut u).is_ok() {}
    walk.end();
}

/// A client over all its connections.
struct Client {
    version: Version,
    connection: Option<C>,
    /// It has sent bytes that nobody checks: nobody knows any more what it is owed.
    wild: bool,
    /// Everything that it has sent since.
    wild_bytes: Vec<u8>,
    /// The QoS 2 messages that it has and that are not released.
    unreleased: Vec<u16>,
    /// What it has not acknowledged, and what it would do so with.
    unacknowledged: BTreeMap<u16, AckKind>,
    /// The messages and UNSUBSCRIBEs that it waits for an acknowledgement of.
    published: BTreeMap<u16, Vec<u8>>,
    unsubscribing: BTreeMap<u16, (&'static str, u32)>,
    /// The aliases that it has set.
    aliases: BTreeMap<u16, &'static str>,
    window: usize,
    max_packet_size: usize,
    number: u32,
}

struct Walk {
    w: World,
    clients: Vec<Client>,
    owed: Owed,
    max_inflight: u16,
    /// No queue is so small that messages for observers are dropped.
    spacious: bool,
}

impl Walk {
    fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        let shards = u.int_in_range(1..=3)?;
        let spacious = u.ratio(3, 4)?;
        let max_inflight = u.int_in_range(1..=5)?;
        let queue = if spacious { 10_000 } else { u.int_in_range(0..=4)? };
        let max_outbox_bytes = u.int_in_range(200..=2_000)?;
        let packets_per_turn = u.int_in_range(1..=5)?;
        let max_filter_shapes = u.int_in_range(0..=4)?;
        let choices: u8 = u.arbitrary()?;
        let mut w = World::with(shards, |c| {
            c.max_inflight = max_inflight;
            c.max_outbox_bytes = max_outbox_bytes;
            c.packets_per_turn = packets_per_turn;
            c.max_filter_shapes = max_filter_shapes;
            c.queue.messages = queue;
            c.queue.drop_oldest = choices & 1 == 0;
            c.queue_qos0 = choices & 2 == 0;
            c.sys_interval = if choices & 4 == 0 { 0 } else { 600_000 };
            c.max_packet_size = 1 << 14;
            // What is blocked here is blocked for long.
            c.send_timeout = 100_000_000;
        });
        w.credit = u.int_in_range(1..=20)?;
        w.delivers_mail = false;
        let client = |n| Client {
            version: VERSIONS[(n + 1) % 3],
            connection: None,
            wild: false,
            wild_bytes: Vec::new(),
            unreleased: Vec::new(),
            unacknowledged: BTreeMap::new(),
            published: BTreeMap::new(),
            unsubscribing: BTreeMap::new(),
            aliases: BTreeMap::new(),
            window: 0,
            max_packet_size: 0,
            number: 0,
        };
        let clients = (0..CLIENTS).map(client).collect();
        let mut walk = Self { w, clients, owed: Owed::new(CLIENTS), max_inflight, spacious };
        for n in 0..OBSERVERS {
            walk.connect(n, Wish::default());
            walk.subscribe(n, &[(OBSERVED, SubscriptionOptions::new(QoS::ExactlyOnce))], 0);
        }
        Ok(walk)
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        self.owed.step += 1;
        let [kind, who]: [u8; 2] = u.arbitrary()?;
        let n = usize::from(who) % CLIENTS;
        let plain = n >= OBSERVERS && !self.clients[n].wild && self.clients[n].connection.is_some();
        match kind % 32 {
            0 | 1 => self.cut(n, None),
            2 if self.clients[n].connection.is_some() => {
                let reason = if u.arbitrary()? { ReasonCode::Success } else { with_will() };
                self.cut(n, Some(Disconnect { reason, ..Disconnect::default() }));
            }
            2..=5 => {
                let wish = if n < OBSERVERS { Wish::observer(u)? } else { Wish::any(u)? };
                if u.arbitrary()? {
                    self.cut(n, None);
                }
                self.w.accepts_on = u.choose_index(self.w.brokers.len())?;
                self.connect(n, wish);
            }
            6..=8 if plain => {
                let mut filters = Vec::new();
                for _ in 0..u.int_in_range(1..=2)? {
                    let filter = *u.choose(&FILTERS)?;
                    filters.push((filter, options(u, filter)?));
                }
                let id = u.int_in_range(0..=3)?;
                self.subscribe(n, &filters, id);
            }
            9 if plain => self.unsubscribe(n, u.choose(&FILTERS)?),
            10..=16 if plain => self.publish(n, u)?,
            17 => self.w.advance(u.int_in_range(0..=15_000)?),
            18 | 19 => {
                if let Some(c) = self.clients[n].connection {
                    self.w.make_room(c, *u.choose(&[0, 50, 500, usize::MAX])?);
                }
            }
            20..=23 => {
                let routes = self.w.routes_with_mail();
                if !routes.is_empty() {
                    let (from, to) = routes[u.choose_index(routes.len())?];
                    self.w.deliver_batch(from, to);
                    self.w.settle();
                }
            }
            24 => {
                if let Some(c) = self.clients[n].connection.filter(|_| n >= OBSERVERS) {
                    self.w.peers[c].acknowledges = false;
                }
            }
            25 | 26 => self.acknowledge(n),
            27 if plain || self.clients[n].wild => {
                let len = u.int_in_range(1..=48)?;
                self.send_wild(n, u.bytes(len.min(u.len()))?);
            }
            28 => {
                let len = u.int_in_range(1..=80)?;
                self.send_strange(u.bytes(len.min(u.len()))?);
            }
            29 if plain => self.w.send(self.clients[n].connection.unwrap_or(0), &Packet::Pingreq),
            _ => self.w.settle(),
        }
        for n in 0..CLIENTS {
            self.collect(n);
        }
        Ok(())
    }

    fn connect(&mut self, n: usize, wish: Wish) {
        self.collect(n);
        if let Some(old) = self.clients[n].connection.take() {
            // The new connection takes over. What the old one is still sent, is lost.
            self.w.peers[old].room = 0;
            self.w.peers[old].acknowledges = false;
            self.clients[n].unreleased = self.w.peers[old].unreleased.clone();
        }
        let client = &mut self.clients[n];
        let c = self.w.open(client.version);
        let name = format!("c{n}");
        let topic = TOPICS[usize::from(wish.will_topic) % TOPICS.len()];
        client.number += 1;
        let payload = format!("{n}:{}", client.number).into_bytes();
        let mut connect = ringmq::broker::tests::world::hello(client.version, &name);
        connect.clean_start = wish.clean_start;
        connect.keep_alive = wish.keep_alive;
        connect.properties = ConnectProperties {
            session_expiry_interval: wish.expiry,
            receive_maximum: wish.receive_maximum,
            maximum_packet_size: wish.max_packet_size,
            topic_alias_maximum: wish.topic_alias_maximum,
            ..ConnectProperties::default()
        };
        connect.will = wish.will.map(|delay_interval| Will {
            topic,
            payload: &payload,
            qos: QoS::AtLeastOnce,
            retain: wish.will_topic & 0x80 != 0,
            properties: WillProperties { delay_interval, ..WillProperties::default() },
        });
        if let Some(will) = &connect.will {
            let publication = Publication {
                by: n,
                number: client.number,
                topic: topic.into(),
                qos: 1,
                retain: will.retain,
                is_will: true,
                expiry: None,
                at: self.owed.step,
                accepted: false,
            };
            self.owed.published(&payload, publication);
        }
        if !wish.clean_start {
            self.w.peers[c].unreleased = std::mem::take(&mut client.unreleased);
        }
        self.w.send(c, &Packet::Connect(connect));
        self.connected(n, c, &wish);
    }

    fn connected(&mut self, n: usize, c: C, wish: &Wish) {
        let Got::Connack { present, reason, .. } = self.w.peers[c].inbox.remove(0) else {
            panic!("no CONNACK first");
        };
        assert_eq!(reason, ReasonCode::Success);
        assert!(!present || !wish.clean_start, "[MQTT-3.1.2-4]");
        assert!(
            n >= OBSERVERS
                || present
                || self.owed.step == 0
                || self.clients[n].version == Version::V3_1
        );
        let told = self.clients[n].version > Version::V3_1;
        if if told { !present } else { wish.clean_start } {
            self.owed.new_session(n);
            self.clients[n].wild = false;
        }
        let client = &mut self.clients[n];
        client.connection = Some(c);
        client.wild_bytes.clear();
        client.unacknowledged.clear();
        client.published.clear();
        client.unsubscribing.clear();
        client.aliases.clear();
        let window = wish.receive_maximum.filter(|_| client.version == Version::V5);
        client.window = usize::from(window.unwrap_or(u16::MAX).min(self.max_inflight));
        let max = wish.max_packet_size.filter(|_| client.version == Version::V5);
        client.max_packet_size = max.unwrap_or(u32::MAX) as usize;
    }

    /// The connection breaks, with or without a DISCONNECT before it.
    fn cut(&mut self, n: usize, disconnect: Option<Disconnect<'_>>) {
        self.collect(n);
        let Some(c) = self.clients[n].connection else { return };
        if let Some(disconnect) = disconnect {
            self.w.send(c, &Packet::Disconnect(disconnect));
        }
        self.w.cut(c);
        self.collect(n);
    }

    fn subscribe(&mut self, n: usize, filters: &[(&'static str, SubscriptionOptions)], id: u32) {
        let Some(c) = self.clients[n].connection else { return };
        let v5 = self.clients[n].version == Version::V5;
        let id = if v5 { id } else { 0 };
        for (filter, options) in filters {
            let options = if v5 { *options } else { SubscriptionOptions::new(options.qos) };
            self.owed.subscribes(n, filter, options, id);
        }
        self.w.ask(c, filters, id);
    }

    fn unsubscribe(&mut self, n: usize, filter: &'static str) {
        let client = &mut self.clients[n];
        let Some(c) = client.connection else { return };
        let packet_id = self.w.id();
        client.unsubscribing.insert(packet_id.get(), (filter, self.owed.step));
        let filters = [filter];
        let unsubscribe = Unsubscribe {
            packet_id,
            user_properties: <_>::default(),
            filters: UnsubscribeFilters::from(&filters[..]),
        };
        self.w.send(c, &Packet::Unsubscribe(unsubscribe));
    }

    fn publish(&mut self, n: usize, u: &mut Unstructured<'_>) -> Result<()> {
        let [choices, length, chosen]: [u8; 3] = u.arbitrary()?;
        let client = &mut self.clients[n];
        let Some(c) = client.connection else { return Ok(()) };
        let topic = TOPICS[usize::from(chosen) % TOPICS.len()];
        let qos = QOS[usize::from(choices & 3) % 3];
        let retain = choices & 0x0C == 0x0C;
        let removes = retain && length == 0;
        let v5 = client.version == Version::V5;
        let expiry = (v5 && choices & 0x30 == 0x30).then_some(u32::from(length));
        let topic_alias = (v5 && choices & 0x40 != 0).then_some(1 + u16::from(chosen >> 6));
        client.number += 1;
        let text = format!("{n}:{}:{}", client.number, "x".repeat(6 * usize::from(length)));
        let payload = if removes { &[][..] } else { text.as_bytes() };
        let known = topic_alias.and_then(|alias| client.aliases.insert(alias, topic));
        let packet_id = (qos > QoS::AtMostOnce).then(|| self.w.id());
        if !removes {
            let publication = Publication {
                by: n,
                number: client.number,
                topic: topic.into(),
                qos: qos.value(),
                retain,
                is_will: false,
                expiry,
                at: self.owed.step,
                accepted: false,
            };
            self.owed.published(payload, publication);
        }
        if let Some(id) = packet_id {
            client.published.insert(id.get(), payload.to_vec());
        }
        let publish = Publish {
            dup: false,
            qos,
            retain,
            topic: if known == Some(topic) { "" } else { topic },
            packet_id,
            properties: PublishProperties {
                message_expiry_interval: expiry,
                topic_alias,
                ..PublishProperties::default()
            },
            payload,
        };
        self.w.send(c, &Packet::Publish(publish));
        Ok(())
    }

    /// The client acknowledges the oldest message that it has not.
    fn acknowledge(&mut self, n: usize) {
        let client = &mut self.clients[n];
        let Some(c) = client.connection.filter(|_| !client.wild) else { return };
        // What waits for a PUBREL cannot be answered.
        let mut open = client.unacknowledged.iter().map(|(id, kind)| (*id, *kind));
        let Some((id, kind)) = open.find(|(_, kind)| *kind != AckKind::Pubrel) else { return };
        if kind == AckKind::Pubrec {
            client.unacknowledged.insert(id, AckKind::Pubrel);
        } else {
            client.unacknowledged.remove(&id);
        }
        self.w.ack(c, kind, id);
    }

    /// A client sends what need not be a packet.
    fn send_wild(&mut self, n: usize, bytes: &[u8]) {
        let client = &mut self.clients[n];
        let Some(c) = client.connection else { return };
        client.wild = true;
        client.wild_bytes.extend_from_slice(bytes);
        let mut rest = &client.wild_bytes[..];
        while let Ok(FrameStatus::Complete(frame)) = frame(rest, u32::MAX) {
            if let Ok(Packet::Publish(publish)) = Packet::decode(&frame, client.version) {
                self.owed.wild(publish.payload);
            }
            rest = &rest[frame.len..];
        }
        self.w.send_bytes(c, bytes);
    }

    /// A stranger connects, or tries to, unless it would be as one of the clients.
    fn send_strange(&mut self, bytes: &[u8]) {
        let (mut rest, mut version) = (bytes, Version::V5);
        while let Ok(FrameStatus::Complete(frame)) = frame(rest, u32::MAX) {
            match Packet::decode(&frame, version) {
                Ok(Packet::Connect(connect)) if connect.client_id.starts_with('c') => return,
                Ok(Packet::Connect(connect)) => {
                    version = connect.version;
                    if let Some(will) = connect.will {
                        self.owed.wild(will.payload);
                    }
                }
                Ok(Packet::Publish(publish)) => self.owed.wild(publish.payload),
                Ok(_) => {}
                // In this version it is told why.
                Err(error) => version = error.version.unwrap_or(version),
            }
            rest = &rest[frame.len..];
        }
        let c = self.w.open(version);
        self.w.send_bytes(c, bytes);
    }

    /// Looks at what a client has received.
    fn collect(&mut self, n: usize) {
        let Some(c) = self.clients[n].connection else { return };
        assert!(self.w.peers[c].largest <= self.clients[n].max_packet_size);
        for got in self.w.got(c) {
            self.understand(n, c, got);
        }
        if self.w.is_closed(c) {
            self.clients[n].connection = None;
            self.clients[n].unreleased = std::mem::take(&mut self.w.peers[c].unreleased);
        }
    }

    fn understand(&mut self, n: usize, c: C, got: Got) {
        let acknowledges = self.w.peers[c].acknowledges;
        let client = &mut self.clients[n];
        if client.wild {
            return;
        }
        match got {
            Got::Publish(message) => {
                if message.qos > 0 && !acknowledges {
                    let kind = if message.qos == 1 { AckKind::Puback } else { AckKind::Pubrec };
                    client.unacknowledged.insert(message.id, kind);
                    assert!(client.unacknowledged.len() <= client.window, "[MQTT-3.3.4-9]");
                }
                self.owed.received(n, &message);
            }
            Got::Ack(AckKind::Puback | AckKind::Pubrec, id, reason) => {
                if let Some(payload) = client.published.remove(&id)
                    && !reason.is_error()
                {
                    self.owed.accepted(&payload);
                }
            }
            Got::Ack(AckKind::Pubrel, id, _) if !acknowledges => {
                client.unacknowledged.insert(id, AckKind::Pubcomp);
            }
            Got::Unsuback(id, _) => {
                if let Some((filter, asked)) = client.unsubscribing.remove(&id) {
                    self.owed.unsubscribed(n, filter, asked);
                }
            }
            _ => {}
        }
    }

    fn end(mut self) {
        self.w.delivers_mail = true;
        self.w.settle();
        for n in 0..OBSERVERS {
            if self.clients[n].connection.is_none() {
                self.connect(n, Wish::default());
            }
        }
        for _ in 0..3 {
            for c in 0..self.w.peers.len() {
                self.w.make_room(c, usize::MAX);
            }
        }
        for n in 0..CLIENTS {
            self.collect(n);
        }
        for n in (0..OBSERVERS).filter(|_| self.spacious) {
            self.owed.all_seen(n, OBSERVED);
        }
        self.w.end();
    }
}

/// How a client wants to be connected.
struct Wish {
    clean_start: bool,
    keep_alive: u16,
    expiry: Option<u32>,
    receive_maximum: Option<u16>,
    max_packet_size: Option<u32>,
    topic_alias_maximum: u16,
    /// The delay of a will.
    will: Option<u32>,
    will_topic: u8,
}

impl Default for Wish {
    /// A session that stays.
    fn default() -> Self {
        Self {
            clean_start: false,
            keep_alive: 0,
            expiry: Some(u32::MAX),
            receive_maximum: None,
            max_packet_size: None,
            topic_alias_maximum: 0,
            will: None,
            will_topic: 0,
        }
    }
}

impl Wish {
    fn observer(u: &mut Unstructured<'_>) -> Result<Self> {
        let topic_alias_maximum = u.int_in_range(0..=2)?;
        let receive_maximum = if u.arbitrary()? { Some(u.int_in_range(1..=6)?) } else { None };
        Ok(Self { topic_alias_maximum, receive_maximum, ..Self::default() })
    }

    fn any(u: &mut Unstructured<'_>) -> Result<Self> {
        let choices: u8 = u.arbitrary()?;
        Ok(Self {
            clean_start: choices & 1 == 0,
            keep_alive: if choices & 2 == 0 { 0 } else { u.int_in_range(1..=20)? },
            expiry: *u.choose(&[None, Some(0), Some(5), Some(600), Some(u32::MAX)])?,
            max_packet_size: if choices & 0x1C == 0x1C {
                Some(u.int_in_range(40..=2_000)?)
            } else {
                None
            },
            will: if choices & 0x20 == 0 { None } else { Some(u.int_in_range(0..=30)?) },
            will_topic: u.arbitrary()?,
            ..Self::observer(u)?
        })
    }
}

fn with_will() -> ReasonCode {
    ReasonCode::DisconnectWithWillMessage
}

fn options(u: &mut Unstructured<'_>, filter: &str) -> Result<SubscriptionOptions> {
    let options = SubscriptionOptions::from_u8(u.arbitrary()?);
    let options = options.unwrap_or(SubscriptionOptions::new(QoS::ExactlyOnce));
    // [MQTT-3.8.3-4]
    Ok(SubscriptionOptions {
        no_local: options.no_local && !filter.starts_with("$share"),
        ..options
    })
}
