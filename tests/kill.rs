//! The broker is killed with SIGKILL at random moments, under load from several clients, and started
//! again with another number of shards. The clients resume, as the protocol wants it, and in the end
//! their books are compared: nothing that was acknowledged is missing, nothing of QoS 2 came twice,
//! and everything came in order.
//!
//! `KILL_ROUNDS` says how often (`scripts/kill-rounds.sh`), `KILL_SEED` with which random numbers.

mod support;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use ringmq::codec::{Ack, AckKind};
use support::{Client, Packet, PacketId, Publish, QoS, ReasonCode, Server, Signal, Version};

/// How often `cargo test` kills it.
const ROUNDS: u64 = 4;
/// Messages of one publisher that are not acknowledged.
const WINDOW: usize = 20;
const PUBLISHERS: [(Version, QoS); 4] = [
    (Version::V5, QoS::AtLeastOnce),
    (Version::V5, QoS::ExactlyOnce),
    (Version::V3_1_1, QoS::AtLeastOnce),
    (Version::V3_1_1, QoS::ExactlyOnce),
];
const SUBSCRIBERS: [(Version, &str); 4] = [
    (Version::V5, "load/#"),
    (Version::V3_1_1, "load/+"),
    (Version::V5, "load/1"),
    (Version::V3_1_1, "load/3"),
];

/// Where the broker listens now: its address, and which one it is.
#[derive(Default)]
struct Place {
    now: Mutex<Option<(u64, SocketAddr)>>,
    changed: Condvar,
}

impl Place {
    fn set(&self, place: Option<(u64, SocketAddr)>) {
        *self.now.lock().unwrap() = place;
        self.changed.notify_all();
    }

    /// Waits for a broker later than number `after`.
    fn later_than(&self, after: u64) -> (u64, SocketAddr) {
        let found = |place: &mut Option<(u64, SocketAddr)>| place.is_none_or(|(n, _)| n <= after);
        let guard = self.now.lock().unwrap();
        let place = self.changed.wait_while(guard, found).unwrap();
        place.unwrap()
    }
}

/// What all clients share.
#[derive(Default)]
struct World {
    place: Place,
    /// Everything acknowledged so far, for the killer to see that the load runs.
    acknowledged: AtomicU64,
    /// Nothing new is published any more.
    ends: std::sync::atomic::AtomicBool,
}

/// Connects until a broker lets the client in, with its session; says which one it was.
fn resume(world: &World, id: &str, version: Version, after: u64) -> (u64, Client, bool) {
    let mut after = after;
    loop {
        let (number, address) = world.place.later_than(after);
        let Ok(mut client) = Client::to(address, version) else {
            after = number;
            continue;
        };
        let connect = support::Connect {
            version,
            clean_start: false,
            keep_alive: 0,
            client_id: id,
            will: None,
            user_name: None,
            password: None,
            properties: ringmq::codec::ConnectProperties {
                session_expiry_interval: Some(3_600),
                ..<_>::default()
            },
        };
        let sent = client.try_send(&Packet::Connect(connect));
        let answer = if sent { client.receive_or_disconnect() } else { None };
        let Some(answer) = answer else {
            after = number;
            continue;
        };
        let Packet::Connack(connack) = answer.packet() else { panic!("no CONNACK first") };
        assert_eq!(connack.reason, ReasonCode::Success, "{id}");
        return (number, client, connack.session_present);
    }
}

/// A message that is under way to the broker.
struct Pending {
    id: PacketId,
    number: u64,
    /// PUBREC has come.
    received: bool,
}

/// Publishes numbers until the world ends and all are acknowledged; says how many.
fn publish(world: &World, me: usize) -> u64 {
    let (version, qos) = PUBLISHERS[me];
    let (name, topic) = (format!("publisher-{me}"), format!("load/{me}"));
    let (mut next, mut last_id, mut at) = (0, PacketId::FIRST, 0);
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let mut known = false;
    'connection: loop {
        let (number, mut client, present) = resume(world, &name, version, at);
        at = number;
        assert!(present || !known, "{name}: its session is gone");
        known = true;
        for message in &pending {
            if !send(&mut client, message, &topic, qos, true) {
                continue 'connection;
            }
        }
        loop {
            while pending.len() < WINDOW && !world.ends.load(Ordering::Relaxed) {
                last_id = last_id.next();
                let message = Pending { id: last_id, number: next, received: false };
                next += 1;
                let sent = send(&mut client, &message, &topic, qos, false);
                pending.push_back(message);
                if !sent {
                    continue 'connection;
                }
            }
            if pending.is_empty() {
                return next;
            }
            let Some(reply) = client.receive_or_disconnect() else { continue 'connection };
            let (kind, ack) = match reply.packet() {
                Packet::Puback(ack) => (AckKind::Puback, ack),
                Packet::Pubrec(ack) => (AckKind::Pubrec, ack),
                Packet::Pubcomp(ack) => (AckKind::Pubcomp, ack),
                other => panic!("{name}: {other:?}"),
            };
            // It may have released a packet id and died before it could say so.
            let is_known = kind == AckKind::Pubcomp && at > 1;
            let unknown = ack.reason == ReasonCode::PacketIdentifierNotFound;
            assert!(!ack.reason.is_error() || is_known && unknown, "{name}: {ack:?}");
            let found = pending.iter().position(|message| message.id == ack.packet_id);
            let found = found.unwrap_or_else(|| panic!("{name}: {kind:?} for nothing: {ack:?}"));
            world.acknowledged.fetch_add(1, Ordering::Relaxed);
            if kind != AckKind::Pubrec {
                pending.remove(found);
            } else {
                pending[found].received = true;
                if !send(&mut client, &pending[found], &topic, qos, false) {
                    continue 'connection;
                }
            }
        }
    }
}

fn send(client: &mut Client, message: &Pending, topic: &str, qos: QoS, dup: bool) -> bool {
    if message.received {
        return client.try_send(&Packet::Pubrel(Ack::new(message.id, ReasonCode::Success)));
    }
    let payload = message.number.to_string();
    let publish = Publish {
        dup,
        qos,
        topic,
        packet_id: Some(message.id),
        payload: payload.as_bytes(),
        ..Publish::default()
    };
    client.try_send(&Packet::Publish(publish))
}

/// What a subscriber got: the numbers of each topic, each time.
type Book = BTreeMap<String, Vec<u64>>;

/// Takes everything until the last numbers, which come by `last`, are there.
fn subscribe(
    world: &World,
    me: usize,
    ready: &mpsc::Sender<()>,
    last: &Receiver<Vec<u64>>,
) -> Book {
    let (version, filter) = SUBSCRIBERS[me];
    let name = format!("subscriber-{me}");
    let mut book = Book::new();
    let mut unreleased: HashSet<u16> = HashSet::new();
    let mut wanted: Option<Vec<u64>> = None;
    let (mut at, mut known) = (0, false);
    'connection: loop {
        let (number, mut client, present) = resume(world, &name, version, at);
        at = number;
        assert!(present || !known, "{name}: its session is gone");
        if !known {
            let granted = client.subscribe(filter, QoS::ExactlyOnce);
            assert_eq!(granted, ReasonCode::granted(QoS::ExactlyOnce));
            known = true;
            ready.send(()).unwrap();
        }
        loop {
            wanted = wanted.or_else(|| last.try_recv().ok());
            if wanted.as_ref().is_some_and(|wanted| has_all(&book, filter, wanted)) {
                return book;
            }
            if !client.wait_for_bytes(Duration::from_millis(100)) {
                continue;
            }
            let Some(reply) = client.receive_or_disconnect() else { continue 'connection };
            let answer = match reply.packet() {
                Packet::Publish(publish) => {
                    let id = publish.packet_id.expect("QoS 1 or 2");
                    let is_new = publish.qos != QoS::ExactlyOnce || unreleased.insert(id.get());
                    if is_new {
                        let number = std::str::from_utf8(publish.payload).unwrap().parse().unwrap();
                        book.entry(publish.topic.to_owned()).or_default().push(number);
                    }
                    let ack = Ack::new(id, ReasonCode::Success);
                    match publish.qos {
                        QoS::ExactlyOnce => Packet::Pubrec(ack),
                        _ => Packet::Puback(ack),
                    }
                }
                Packet::Pubrel(ack) => {
                    unreleased.remove(&ack.packet_id.get());
                    Packet::Pubcomp(Ack::new(ack.packet_id, ReasonCode::Success))
                }
                other => panic!("{name}: {other:?}"),
            };
            if !client.try_send(&answer) {
                continue 'connection;
            }
        }
    }
}

fn topics(filter: &str) -> Vec<usize> {
    match filter.strip_prefix("load/").and_then(|level| level.parse().ok()) {
        Some(one) => vec![one],
        None => (0..PUBLISHERS.len()).collect(),
    }
}

fn has_all(book: &Book, filter: &str, wanted: &[u64]) -> bool {
    topics(filter).into_iter().all(|topic| {
        let got = book.get(&format!("load/{topic}"));
        // The last one may come again, but none comes behind it for the first time.
        wanted[topic] == 0 || got.is_some_and(|got| got.contains(&(wanted[topic] - 1)))
    })
}

fn check(name: &str, book: &Book, filter: &str, wanted: &[u64]) {
    for topic in topics(filter) {
        let got = book.get(&format!("load/{topic}")).cloned().unwrap_or_default();
        let mut seen = HashSet::new();
        let first: Vec<u64> = got.iter().copied().filter(|number| seen.insert(*number)).collect();
        let all: Vec<u64> = (0..wanted[topic]).collect();
        let missing: Vec<_> = all.iter().filter(|number| !seen.contains(number)).collect();
        assert!(missing.is_empty(), "{name}, load/{topic}: {missing:?} were acknowledged and lost");
        assert_eq!(first, all, "{name}, load/{topic}: out of order");
        if PUBLISHERS[topic].1 == QoS::ExactlyOnce {
            assert_eq!(got.len(), all.len(), "{name}, load/{topic}: QoS 2 came twice");
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_acknowledged_is_lost_when_the_broker_is_killed() {
    let rounds = variable("KILL_ROUNDS").unwrap_or(ROUNDS);
    let seed = variable("KILL_SEED").unwrap_or(1);
    println!("KILL_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", folder.path().join("data").display());
    let world = Arc::new(World::default());
    let (ready, all_ready) = mpsc::channel();
    let mut lasts = Vec::new();
    let subscribers: Vec<_> = (0..SUBSCRIBERS.len())
        .map(|me| {
            let (world, ready) = (Arc::clone(&world), ready.clone());
            let (tell, last) = mpsc::channel();
            lasts.push(tell);
            thread::spawn(move || subscribe(&world, me, &ready, &last))
        })
        .collect();
    let start = |number: u64, shards: u64| {
        let shards = format!("--shards={shards}");
        let server = Server::start(&[&data, &shards, "--max-queued-messages=1000000"]);
        world.place.set(Some((number, server.address())));
        server
    };
    let mut server = start(1, 2);
    subscribers.iter().for_each(|_| all_ready.recv().unwrap());
    let publishers: Vec<_> = (0..PUBLISHERS.len())
        .map(|me| {
            let world = Arc::clone(&world);
            thread::spawn(move || publish(&world, me))
        })
        .collect();
    for round in 0..rounds {
        // A random moment, by how much has been acknowledged until then.
        let until = world.acknowledged.load(Ordering::Relaxed) + rng.u64(1..2_000);
        while world.acknowledged.load(Ordering::Relaxed) < until {
            thread::yield_now();
            assert!(server.status().is_none(), "the broker has ended:\n{}", server.log());
        }
        world.place.set(None);
        server.signal(Signal::KILL);
        server.wait();
        server = start(round + 2, rng.u64(1..6));
    }
    world.ends.store(true, Ordering::Relaxed);
    let wanted: Vec<u64> = publishers.into_iter().map(|p| p.join().unwrap()).collect();
    lasts.iter().for_each(|last| last.send(wanted.clone()).unwrap());
    for (me, subscriber) in subscribers.into_iter().enumerate() {
        let book = subscriber.join().unwrap();
        check(&format!("subscriber-{me}"), &book, SUBSCRIBERS[me].1, &wanted);
    }
    println!("{rounds} times killed, {wanted:?} messages");
}
