//! The hot paths without I/O: `cargo bench --bench core`, or with a filter behind it.
//!
//! Times are of one call unless a counter says otherwise. The stored baseline is under
//! `docs/perf/`.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::{io::IoSlice, net::SocketAddr, sync::Arc};

use divan::{Bencher, black_box, counter::ItemsCount};
use ringmq::{
    auth::Anonymous,
    broker::{Broker, Config, ConnectionKey, Now, Shared, timer::TimerWheel},
    codec::{
        Connect, FrameStatus, Packet, PacketId, Publish, PublishHead, QoS, Subscribe,
        SubscribeFilters, SubscriptionOptions, Version, frame,
    },
    mesh,
    topics::{FilterIndex, HashSeed, RouteTable, SessionKey, ShardId, Subscriber},
};

fn main() {
    divan::main();
}

const MILLION: usize = 1_000_000;

fn publish(version: Version, topic: &str, qos: QoS) -> Vec<u8> {
    let packet_id = PacketId::new(7).filter(|_| qos > QoS::AtMostOnce);
    let publish = Publish { topic, qos, packet_id, payload: &[7; 64], ..Publish::default() };
    let mut bytes = Vec::new();
    Packet::Publish(publish).encode(version, &mut bytes).unwrap();
    bytes
}

#[divan::bench(args = [Version::V3_1_1, Version::V5], sample_size = 10_000)]
fn decode_publish(bencher: Bencher, version: Version) {
    let bytes = publish(version, "fleet/0123456789abcdef/telemetry", QoS::AtLeastOnce);
    bencher.bench(|| {
        let Ok(FrameStatus::Complete(frame)) = frame(black_box(&bytes), 1 << 20) else { panic!() };
        Publish::decode(&frame, version).unwrap().payload.len()
    });
}

#[divan::bench(args = [Version::V3_1_1, Version::V5], sample_size = 10_000)]
fn encode_publish(bencher: Bencher, version: Version) {
    let head = PublishHead {
        qos: QoS::AtLeastOnce,
        packet_id: PacketId::new(7),
        topic: "fleet/0123456789abcdef/telemetry",
        payload_len: 64,
        ..PublishHead::default()
    };
    let mut out = Vec::with_capacity(1 << 10);
    bencher.bench_local(|| {
        out.clear();
        black_box(&head).encode(version, &mut out).unwrap();
        out.extend_from_slice(&[7; 64]);
        out.len()
    });
}

#[derive(Debug, Clone, Copy)]
enum Filters {
    Exact,
    SingleLevel,
    MultiLevel,
    Mixed,
}

const FILTERS: [Filters; 4] =
    [Filters::Exact, Filters::SingleLevel, Filters::MultiLevel, Filters::Mixed];

impl Filters {
    fn filter(self, i: usize) -> String {
        match self {
            Self::Exact => format!("dev/{i:024}/cmd"),
            Self::SingleLevel => format!("dev/{i:024}/+"),
            Self::MultiLevel => format!("dev/{i:024}/#"),
            Self::Mixed => match i % 3 {
                0 => Self::Exact.filter(i),
                1 => Self::SingleLevel.filter(i),
                _ => Self::MultiLevel.filter(i),
            },
        }
    }
}

fn seed() -> HashSeed {
    HashSeed::new([1, 2, 3, 4])
}

/// Topics in an order that no cache foresees.
fn topics(count: usize) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..count).map(|_| format!("dev/{:024}/cmd", random.usize(..MILLION))).collect()
}

/// A match among a million filters.
#[divan::bench(args = FILTERS, sample_count = 20, sample_size = 10_000)]
fn match_in_a_million(bencher: Bencher, filters: Filters) {
    let mut index = FilterIndex::new(seed(), 64);
    for i in 0..MILLION {
        let session = SessionKey(i as u32);
        index.subscribe(&filters.filter(i), Subscriber { session, options: 0, id: 0 });
    }
    let topics = topics(10_000);
    let (mut next, mut found) = (0, Vec::new());
    bencher.bench_local(|| {
        found.clear();
        index.matching(&topics[next], &mut found);
        next = (next + 1) % topics.len();
        found.len()
    });
}

/// A look-up in a route table of a million filters.
#[divan::bench(args = FILTERS, sample_count = 20, sample_size = 10_000)]
fn route_in_a_million(bencher: Bencher, filters: Filters) {
    let routes = RouteTable::new(seed(), 64);
    let mut index = FilterIndex::new(seed(), 64);
    for i in 0..MILLION {
        let session = SessionKey(i as u32);
        let subscriber = Subscriber { session, options: 0, id: 0 };
        if let Some(key) = index.subscribe(&filters.filter(i), subscriber).first {
            routes.add(ShardId((i % 64) as u16), &key);
        }
    }
    let topics = topics(10_000);
    let mut next = 0;
    bencher.bench_local(|| {
        let shards = routes.shards_for(&topics[next]);
        next = (next + 1) % topics.len();
        shards
    });
}

/// A broker with one publisher and so many subscribers of its topic.
struct FanOut {
    broker: Broker,
    publisher: ConnectionKey,
}

const NOW: Now = Now { monotonic: 1_000, unix: 1_000 };

impl FanOut {
    fn new(subscribers: usize, qos: QoS) -> Self {
        let config = Config { max_inflight: u16::MAX, ..Config::default() };
        let shared = Shared::new(1, 64, seed());
        let authenticator = Box::new(Anonymous { allowed: true });
        let mut broker = Broker::new(ShardId(0), Arc::new(config), shared, authenticator, NOW, 1);
        let publisher = connect(&mut broker, "publisher");
        for i in 0..subscribers {
            let key = connect(&mut broker, &format!("subscriber-{i}"));
            let filters = [("fan/out", SubscriptionOptions::new(qos))];
            let subscribe = Subscribe {
                packet_id: PacketId::FIRST,
                subscription_id: None,
                user_properties: Default::default(),
                filters: SubscribeFilters::from(&filters[..]),
            };
            send(&mut broker, key, &Packet::Subscribe(subscribe));
        }
        drain(&mut broker);
        Self { broker, publisher }
    }
}

fn connect(broker: &mut Broker, client_id: &str) -> ConnectionKey {
    let key = broker.on_accepted(NOW, SocketAddr::from(([127, 0, 0, 1], 1)));
    let connect = Connect {
        version: Version::V3_1_1,
        clean_start: true,
        keep_alive: 0,
        client_id,
        will: None,
        user_name: None,
        password: None,
        properties: Default::default(),
    };
    send(broker, key, &Packet::Connect(connect));
    key
}

fn send(broker: &mut Broker, key: ConnectionKey, packet: &Packet<'_>) {
    let mut bytes = Vec::new();
    packet.encode(Version::V3_1_1, &mut bytes).unwrap();
    broker.on_bytes(NOW, key, &bytes);
}

/// Writes everything to sockets that take everything.
fn drain(broker: &mut Broker) -> usize {
    let mut total = 0;
    while let Some(key) = broker.next_to_write() {
        loop {
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = broker.output(key, &mut slices);
            let bytes = slices[..filled].iter().map(|slice| slice.len()).sum();
            total += bytes;
            if filled == 0 || broker.on_written(key, bytes) {
                break;
            }
        }
    }
    broker.end_turn();
    total
}

/// Sixteen messages in one turn to so many subscribers: everything but the system calls.
#[divan::bench(args = [1, 10, 1_000])]
fn fan_out_qos0(bencher: Bencher, subscribers: usize) {
    let mut fan = FanOut::new(subscribers, QoS::AtMostOnce);
    let bytes = publish(Version::V3_1_1, "fan/out", QoS::AtMostOnce).repeat(16);
    bencher.counter(ItemsCount::new(16 * subscribers)).bench_local(|| {
        fan.broker.on_bytes(NOW, fan.publisher, &bytes);
        drain(&mut fan.broker)
    });
}

/// A message and its hop to another thread's mailbox and back, without any sleep.
#[divan::bench(sample_size = 10_000)]
fn mailbox_push_and_receive(bencher: Bencher) {
    let endpoints = mesh::mesh::<u64>(2, 1_024).unwrap();
    let [a, b] = &endpoints[..] else { panic!() };
    bencher.bench_local(|| {
        a.send(1, vec![1, 2, 3, 4], 4);
        let batch = b.receive().unwrap();
        b.returned(0, batch.cost);
        batch.items.len()
    });
}

/// A timer set and, sixty seconds later, fired, among a million others.
#[divan::bench(sample_count = 20, sample_size = 10_000)]
fn timer_wheel(bencher: Bencher) {
    let mut wheel = TimerWheel::new(0);
    for i in 0..MILLION as u64 {
        wheel.insert(i * 60 / 1_000, i as u32);
    }
    let mut now = 0;
    bencher.bench_local(|| {
        now += 1;
        wheel.advance(now, |key| {
            black_box(key);
        });
        wheel.insert(now + 60_000, now as u32);
    });
}
