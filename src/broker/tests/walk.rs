//! A random walk: clients of all versions do valid things, mail and sockets dawdle, connections
//! break. Observers that subscribe to everything see what the delivery guarantees promise.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{peer::Got, world::*};
use crate::codec::*;

const STEPS: usize = 400;
const OBSERVERS: usize = 3;
const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];
const FILTERS: [&str; 6] = ["t/#", "t/+", "t/1", "$share/g/t/+", "$share/h/t/1", "+/2"];

/// A client over all its connections.
struct Actor {
    name: String,
    version: Version,
    connection: Option<C>,
    /// Whether the broker has a session for it.
    has_session: bool,
    /// Whether the next connection break keeps the session.
    stays: bool,
    unreleased: Vec<u16>,
    /// QoS 1 and 2 messages of its own that are under way.
    pending: Vec<Pending>,
    last_id: u16,
    published: u32,
    /// What an observer received: publisher, topic, QoS, number.
    seen: Vec<(String, String, u8, u32)>,
}

#[derive(Clone)]
struct Pending {
    id: u16,
    qos: QoS,
    topic: String,
    payload: String,
    retain: bool,
    received: bool,
}

struct Walk {
    w: World,
    rng: fastrand::Rng,
    actors: Vec<Actor>,
    /// What was accepted: publisher, number, QoS.
    accepted: HashMap<(String, u32), u8>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let shards = rng.usize(1..=4);
        let mut w = World::with(shards, |c| {
            c.max_inflight = rng.u16(1..5);
            c.max_outbox_bytes = rng.usize(200..2_000);
            c.packets_per_turn = rng.u32(1..6);
            c.sys_interval = 5_000;
            c.queue.messages = 10_000;
            // What is blocked here is blocked for long.
            c.send_timeout = 100_000_000;
        });
        w.credit = rng.u32(2..20);
        let actors = (0..OBSERVERS + 5).map(|n| Actor {
            name: format!("c{n}"),
            version: VERSIONS[n % 3],
            connection: None,
            has_session: false,
            stays: false,
            unreleased: Vec::new(),
            pending: Vec::new(),
            last_id: 0,
            published: 0,
            seen: Vec::new(),
        });
        let mut walk = Self { w, rng, actors: actors.collect(), accepted: HashMap::new() };
        for n in 0..OBSERVERS {
            walk.connect(n);
            let c = walk.actors[n].connection.unwrap();
            walk.w.subscribe(c, "t/#", Q2);
        }
        walk
    }

    fn connect(&mut self, n: usize) {
        let (w, rng, actor) = (&mut self.w, &mut self.rng, &mut self.actors[n]);
        let observes = n < OBSERVERS;
        let mut connect = if observes || rng.bool() {
            staying(actor.version, &actor.name)
        } else {
            hello(actor.version, &actor.name)
        };
        connect.properties.topic_alias_maximum = rng.u16(0..3);
        connect.properties.receive_maximum = rng.bool().then(|| rng.u16(1..6));
        let topic = format!("t/{}", rng.u8(3..6));
        if !observes && rng.bool() {
            let delay_interval = rng.u32(0..20);
            let properties = WillProperties { delay_interval, ..<_>::default() };
            let will = Will { topic: &topic, payload: b"will", qos: Q1, retain: false, properties };
            connect.will = Some(will);
        }
        w.accepts_on = rng.usize(..w.brokers.len());
        let c = w.open(actor.version);
        let keeps = actor.has_session && !connect.clean_start;
        if keeps {
            w.peers[c].unreleased = std::mem::take(&mut actor.unreleased);
        }
        w.send(c, &Packet::Connect(connect));
        let Got::Connack { present, reason, .. } = w.peers[c].inbox.remove(0) else { panic!() };
        assert_eq!(reason, ReasonCode::Success);
        assert!(actor.version == Version::V3_1 || present == keeps, "{}", actor.name);
        actor.connection = Some(c);
        actor.stays = !connect.clean_start;
        actor.has_session = true;
        if !keeps {
            actor.pending.clear();
        }
        for pending in actor.pending.clone() {
            send(w, c, &pending, true);
        }
    }

    /// The connection breaks: what was under way in both directions is lost.
    fn cut(&mut self, n: usize, gently: bool) {
        self.collect(n);
        let actor = &mut self.actors[n];
        let Some(c) = actor.connection.take() else { return };
        if gently {
            self.w.disconnect(c);
        }
        self.w.cut(c);
        self.collect_from(n, c);
        let actor = &mut self.actors[n];
        actor.unreleased = std::mem::take(&mut self.w.peers[c].unreleased);
        actor.has_session = actor.stays;
    }

    fn publish(&mut self, n: usize) {
        let (rng, actor) = (&mut self.rng, &mut self.actors[n]);
        let Some(c) = actor.connection.filter(|_| actor.pending.len() < 20) else { return };
        actor.last_id += 1;
        actor.published += 1;
        let pending = Pending {
            id: actor.last_id,
            qos: [Q0, Q1, Q2][rng.usize(..3)],
            topic: format!("t/{}", rng.u8(..3)),
            payload: format!("{}:{}:{}", actor.name, actor.published, "x".repeat(rng.usize(..200))),
            retain: rng.u8(..8) == 0,
            received: false,
        };
        if pending.qos > Q0 {
            actor.pending.push(pending.clone());
        }
        send(&mut self.w, c, &pending, false);
    }

    /// Looks at what a client has received.
    fn collect(&mut self, n: usize) {
        if let Some(c) = self.actors[n].connection {
            self.collect_from(n, c);
        }
    }

    fn collect_from(&mut self, n: usize, c: C) {
        let actor = &mut self.actors[n];
        for got in self.w.got(c) {
            match got {
                Got::Publish(m) if n < OBSERVERS && !m.again && m.payload != b"will" => {
                    let mut parts = m.text().split(':');
                    let publisher = parts.next().unwrap().to_owned();
                    let number = parts.next().unwrap().parse().unwrap();
                    actor.seen.push((publisher, m.topic, m.qos, number));
                }
                Got::Ack(AckKind::Puback | AckKind::Pubrec, id, reason) => {
                    assert!(!reason.is_error());
                    let Some(at) = actor.pending.iter().position(|p| p.id == id) else { continue };
                    let pending = &mut actor.pending[at];
                    pending.received = true;
                    let number = pending.payload.split(':').nth(1).unwrap().parse().unwrap();
                    self.accepted.insert((actor.name.clone(), number), pending.qos.value());
                    if pending.qos == Q1 {
                        actor.pending.remove(at);
                    }
                }
                Got::Ack(AckKind::Pubcomp, id, _) => actor.pending.retain(|p| p.id != id),
                Got::Disconnect(reason) => assert_eq!(reason, ReasonCode::SessionTakenOver),
                _ => {}
            }
        }
    }

    fn step(&mut self) {
        let n = self.rng.usize(..self.actors.len());
        let observes = n < OBSERVERS;
        match self.rng.u8(..20) {
            0 if self.actors[n].connection.is_some() => self.cut(n, false),
            1 if self.actors[n].connection.is_some() => self.cut(n, true),
            2 => {
                // With a connection, this takes over; the old one finds out at once.
                if let Some(old) = self.actors[n].connection {
                    self.collect(n);
                    self.actors[n].unreleased = self.w.peers[old].unreleased.clone();
                    self.actors[n].has_session = self.actors[n].stays;
                    // What the old connection received and the harness has not looked at yet.
                    self.w.peers[old].room = 0;
                    self.w.peers[old].acknowledges = false;
                }
                self.connect(n);
            }
            3 if self.actors[n].connection.is_none() => self.connect(n),
            4 | 5 => {
                if let Some(c) = self.actors[n].connection.filter(|_| !observes) {
                    let filter = FILTERS[self.rng.usize(..FILTERS.len())];
                    let qos = [Q0, Q1, Q2][self.rng.usize(..3)];
                    self.w.ask(c, &[(filter, SubscriptionOptions::new(qos))], 0);
                }
            }
            6 => {
                if let Some(c) = self.actors[n].connection.filter(|_| !observes) {
                    self.w.unsubscribe(c, FILTERS[self.rng.usize(..FILTERS.len())]);
                }
            }
            7 => self.w.advance(self.rng.u64(..3_000)),
            8 | 9 => {
                if let Some(c) = self.actors[n].connection {
                    let room = [0, 50, 500, usize::MAX][self.rng.usize(..4)];
                    self.w.make_room(c, room);
                }
            }
            10..=13 => {
                for _ in 0..self.rng.usize(1..10) {
                    let routes = self.w.routes_with_mail();
                    if let Some((from, to)) = self.rng.choice(routes) {
                        self.w.deliver_batch(from, to);
                        self.w.settle();
                    }
                }
            }
            _ => self.publish(n),
        }
        self.collect(n);
    }

    fn run(mut self) {
        self.w.delivers_mail = false;
        for _ in 0..STEPS {
            self.step();
        }
        self.w.delivers_mail = true;
        for n in 0..self.actors.len() {
            if self.actors[n].connection.is_none() {
                self.connect(n);
            }
        }
        for _ in 0..3 {
            for n in 0..self.actors.len() {
                let c = self.actors[n].connection.unwrap();
                self.w.make_room(c, usize::MAX);
            }
            self.w.settle();
        }
        for n in 0..self.actors.len() {
            self.collect(n);
            assert!(self.actors[n].pending.is_empty(), "everything is acknowledged in the end");
        }
        for observer in &self.actors[..OBSERVERS] {
            check(observer, &self.accepted);
        }
        self.w.end();
    }
}

fn send(w: &mut World, c: C, pending: &Pending, dup: bool) {
    let packet_id = PacketId::new(pending.id).filter(|_| pending.qos > Q0);
    if pending.received {
        return w.ack(c, AckKind::Pubrel, pending.id);
    }
    let publish = Publish {
        dup,
        qos: pending.qos,
        retain: pending.retain,
        topic: &pending.topic,
        packet_id,
        properties: <_>::default(),
        payload: pending.payload.as_bytes(),
    };
    w.send(c, &Packet::Publish(publish));
}

fn check(observer: &Actor, accepted: &HashMap<(String, u32), u8>) {
    let mut times: HashMap<(&str, u32), u32> = HashMap::new();
    let mut last: HashMap<(&str, &str, u8), u32> = HashMap::new();
    let mut known = HashSet::new();
    for (publisher, topic, qos, number) in &observer.seen {
        *times.entry((publisher, *number)).or_default() += 1;
        if !known.insert((publisher, number)) {
            assert_eq!(*qos, 1, "{publisher}:{number} twice at {}", observer.name);
            continue;
        }
        // [MQTT-4.6.0-6]
        let before = last.entry((publisher, topic, *qos)).or_default();
        assert!(*before < *number, "{publisher}:{number} behind {before} at {}", observer.name);
        *before = *number;
    }
    for ((publisher, number), qos) in accepted {
        let times = times.get(&(publisher.as_str(), *number)).copied().unwrap_or(0);
        assert!(times >= 1, "{publisher}:{number} of QoS {qos} is lost to {}", observer.name);
        assert!(*qos == 1 || times == 1, "{publisher}:{number} {times} times");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        // More by the environment: PROPTEST_CASES.
        cases: std::env::var_os("PROPTEST_CASES").map_or(48, |_| ProptestConfig::default().cases),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn guarantees_hold_on_any_walk(seed: u64) {
        Walk::new(seed).run();
    }
}
