//! The ledger and the histograms against a broker that does wrong on purpose.

mod common;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use common::{arguments, finished, load};
use ringmq::codec::{
    Ack, Connack, ConnackProperties, FrameStatus, Packet, PacketId, Publish, QoS, ReasonCode,
    ReasonCodes, Suback, UserProperties, Version, frame,
};

/// What the broker does wrong, each at every so-manieth message; 0 for never.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    lose: u64,
    duplicate: u64,
    /// Holds a message back until the next one has been sent.
    swap: u64,
    /// Waits before it passes a message on.
    delay: Duration,
    /// Closes every connection at this message.
    die: u64,
    refuse: Option<ReasonCode>,
}

struct Fake {
    faults: Faults,
    messages: AtomicU64,
    subscribers: Mutex<Vec<(String, QoS, TcpStream)>>,
    all: Mutex<Vec<TcpStream>>,
    held: Mutex<Option<Vec<u8>>>,
    /// The addresses that connections came from.
    peers: Mutex<Vec<String>>,
}

impl Fake {
    /// Starts a broker; says its port.
    fn start(faults: Faults) -> u16 {
        Self::start_watched(faults).0
    }

    /// Starts a broker that can be asked who came; says its port.
    fn start_watched(faults: Faults) -> (u16, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let fake = Arc::new(Self {
            faults,
            messages: AtomicU64::new(0),
            subscribers: Mutex::default(),
            all: Mutex::default(),
            held: Mutex::default(),
            peers: Mutex::default(),
        });
        let watched = Arc::clone(&fake);
        thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                fake.peers.lock().unwrap().push(peer.ip().to_string());
                stream.set_nodelay(true).unwrap();
                fake.all.lock().unwrap().push(stream.try_clone().unwrap());
                let fake = Arc::clone(&fake);
                thread::spawn(move || fake.serve(stream));
            }
        });
        (port, watched)
    }

    fn serve(&self, mut stream: TcpStream) {
        let (mut buffer, mut bytes) = ([0; 4096], Vec::new());
        while let Ok(received) = stream.read(&mut buffer) {
            if received == 0 {
                return;
            }
            bytes.extend_from_slice(&buffer[..received]);
            while let Ok(FrameStatus::Complete(frame)) = frame(&bytes, 1 << 20) {
                let packet = Packet::decode(&frame, Version::V3_1_1).unwrap();
                let mut answer = Vec::new();
                self.handle(&packet, &stream, &mut answer);
                let _ = stream.write_all(&answer);
                let len = frame.len;
                bytes.drain(..len);
            }
        }
    }

    fn handle(&self, packet: &Packet<'_>, stream: &TcpStream, answer: &mut Vec<u8>) {
        let encode = |packet: Packet<'_>, answer: &mut Vec<u8>| {
            packet.encode(Version::V3_1_1, answer).unwrap();
        };
        match packet {
            Packet::Connect(_) => {
                let reason = self.faults.refuse.unwrap_or_default();
                let properties = ConnackProperties::default();
                encode(
                    Packet::Connack(Connack { session_present: false, reason, properties }),
                    answer,
                );
            }
            Packet::Subscribe(subscribe) => {
                let mut subscribers = self.subscribers.lock().unwrap();
                let mut reasons = Vec::new();
                for (filter, options) in subscribe.filters.iter() {
                    let stream = stream.try_clone().unwrap();
                    subscribers.push((filter.to_owned(), options.qos, stream));
                    reasons.push(ReasonCode::granted(options.qos));
                }
                let suback = Suback {
                    packet_id: subscribe.packet_id,
                    reasons: ReasonCodes::from(reasons.as_slice()),
                    reason_string: None,
                    user_properties: UserProperties::default(),
                };
                encode(Packet::Suback(suback), answer);
            }
            Packet::Publish(publish) => {
                if let Some(packet_id) = publish.packet_id {
                    let ack = Ack {
                        packet_id,
                        reason: ReasonCode::Success,
                        reason_string: None,
                        user_properties: UserProperties::default(),
                    };
                    encode(Packet::Puback(ack), answer);
                }
                self.pass_on(publish);
            }
            Packet::Pingreq => encode(Packet::Pingresp, answer),
            _ => {}
        }
    }

    fn pass_on(&self, publish: &Publish<'_>) {
        let number = self.messages.fetch_add(1, Ordering::SeqCst) + 1;
        let every = |nth: u64| nth > 0 && number.is_multiple_of(nth);
        if number == self.faults.die {
            for stream in self.all.lock().unwrap().iter() {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
        thread::sleep(self.faults.delay);
        if every(self.faults.lose) {
            return;
        }
        let mut packets = Vec::new();
        let mut copy = *publish;
        copy.packet_id = publish.packet_id.and(PacketId::new((number % 60_000) as u16 + 1));
        Packet::Publish(copy).encode(Version::V3_1_1, &mut packets).unwrap();
        if every(self.faults.duplicate) {
            packets.extend_from_within(..);
        }
        let mut held = self.held.lock().unwrap();
        if every(self.faults.swap) {
            *held = Some(packets);
            return;
        }
        packets.extend(held.take().unwrap_or_default());
        for (filter, _, stream) in self.subscribers.lock().unwrap().iter_mut() {
            if ringmq::topics::matches(filter, publish.topic) {
                let _ = stream.write_all(&packets);
            }
        }
    }
}

const ONE_PAIR: &str = "pair -c 1 --rate 400 -L 200 --drain 0.3 -s 32";

#[test]
fn a_good_broker_is_found_good() {
    let port = Fake::start(Faults::default());
    for qos in [0, 1] {
        let run = load(&format!("{ONE_PAIR} -q {qos}"), port);
        assert_eq!((run.status, run.flow("sent"), run.flow("received")), (Some(0), 200, 200));
        assert_eq!(run.number("/broken_promises"), 0.0);
        assert_eq!(run.number("/latency_ms/end_to_end/count"), 200.0);
        assert_eq!(run.flow("acknowledged"), if qos == 0 { 0 } else { 200 });
    }
}

#[test]
fn loss_is_counted_and_breaks_the_promise_of_qos_1_only() {
    let port = Fake::start(Faults { lose: 10, ..Faults::default() });
    let run = load(&format!("{ONE_PAIR} -q 0"), port);
    assert_eq!((run.status, run.flow("lost"), run.flow("received")), (Some(0), 20, 180));
    let run = load(&format!("{ONE_PAIR} -q 1"), port);
    assert_eq!((run.status, run.flow("lost"), run.flow("broken_promises")), (Some(1), 20, 20));
}

#[test]
fn duplicates_are_counted_and_break_the_promise_of_qos_0_only() {
    let port = Fake::start(Faults { duplicate: 20, ..Faults::default() });
    let run = load(&format!("{ONE_PAIR} -q 0"), port);
    assert_eq!((run.status, run.flow("duplicates"), run.flow("received")), (Some(1), 10, 200));
    let run = load(&format!("{ONE_PAIR} -q 1"), port);
    assert_eq!((run.status, run.flow("duplicates"), run.flow("lost")), (Some(0), 10, 0));
}

#[test]
fn reordering_is_counted_and_is_never_allowed() {
    let port = Fake::start(Faults { swap: 25, ..Faults::default() });
    // The last message of 199 is not held back.
    let run = load("pair -c 1 --rate 400 -L 199 --drain 0.3 -s 32 -q 1", port);
    assert_eq!((run.status, run.flow("reordered"), run.flow("lost")), (Some(1), 7, 0));
}

#[test]
fn delay_shows_in_the_latencies_and_in_full() {
    let port = Fake::start(Faults { delay: Duration::from_millis(20), ..Faults::default() });
    // 100 in a second, of which the broker does 50: the queue grows, and latency counts from when
    // a message was due, so the last waits for about a second.
    let run = load("pair -c 1 --rate 100 -L 100 --drain 3 -s 32 -q 1", port);
    assert_eq!((run.status, run.flow("received")), (Some(0), 100));
    assert!(run.number("/latency_ms/end_to_end/p50") > 20.0);
    assert!(run.number("/latency_ms/end_to_end/max") > 900.0);
    // PUBACK is held up with the message before.
    assert!(run.number("/latency_ms/publish_ack/max") > 900.0);
}

#[test]
fn a_window_that_is_full_delays_and_does_not_drop() {
    let port = Fake::start(Faults { delay: Duration::from_millis(10), ..Faults::default() });
    let run = load("pair -c 1 --rate 200 -L 60 -F 1 --drain 3 --duration 5 -s 32 -q 1", port);
    assert_eq!((run.status, run.flow("sent"), run.flow("received")), (Some(0), 60, 60));
    assert!(run.number("/total/overruns") > 20.0);
    assert!(run.number("/latency_ms/tool_lateness/max") > 100.0);
}

#[test]
fn lost_messages_do_not_hold_up_a_saturated_sender() {
    let port = Fake::start(Faults { lose: 10, ..Faults::default() });
    let run = load("pair -c 2 --saturate -L 400 --duration 20 --drain 0.3 -s 32", port);
    assert_eq!(run.flow("sent"), 400);
    assert_eq!(run.flow("lost"), 40);
}

#[test]
fn a_broker_that_dies_in_the_middle_is_reported() {
    let port = Fake::start(Faults { die: 50, ..Faults::default() });
    let run = load("pair -c 1 --rate 200 --duration 20 -s 32 -q 1", port);
    assert_eq!(run.status, Some(1));
    assert_eq!(run.json["broker_gone"], true);
    assert!(run.flow("sent") >= 50 && run.has_failure("connection lost"), "{:#}", run.json);
}

#[test]
fn a_refusal_says_what_to_do() {
    let refuse = Some(ReasonCode::NotAuthorized);
    let port = Fake::start(Faults { refuse, ..Faults::default() });
    let run = load("conn -c 3 --duration 1", port);
    assert_eq!((run.status, run.number("/connect/gave_up")), (Some(1), 3.0));
    assert!(run.has_failure("Not authorized"));
    assert!(run.advice().contains("-u"), "{}", run.advice());
}

#[test]
fn loss_duplicates_and_reordering_at_once_are_told_apart() {
    let port = Fake::start(Faults { lose: 10, duplicate: 25, swap: 33, ..Faults::default() });
    // Lost: 10, 20, ... 190; doubled: 25, 75, 125, 175; held back: 33, 66, 99, 132, 165.
    let run = load("pair -c 1 --rate 400 -L 197 --drain 0.3 -s 32 -q 1", port);
    assert_eq!((run.flow("lost"), run.flow("received")), (19, 178), "{:#}", run.json);
    assert_eq!((run.flow("duplicates"), run.flow("reordered")), (4, 5));
    assert_eq!((run.status, run.flow("broken_promises")), (Some(1), 24));
}

#[test]
fn source_addresses_and_targets_are_used_in_turn() {
    let (port, first) = Fake::start_watched(Faults::default());
    let (other, second) = Fake::start_watched(Faults::default());
    // A list with a range in it; the second target has its port behind it.
    let words = format!(
        "conn -c 24 --duration 0.1 --ifaddr 127.0.0.5,127.0.0.7-127.0.0.9 \
         -h 127.0.0.1,127.0.0.1:{other}"
    );
    let run = load(&words, port);
    assert_eq!((run.status, run.number("/connect/connected")), (Some(0), 24.0));
    let mut all = Vec::new();
    for fake in [first, second] {
        let peers = fake.peers.lock().unwrap();
        assert_eq!(peers.len(), 12);
        all.extend(peers.iter().cloned());
    }
    for address in ["127.0.0.5", "127.0.0.7", "127.0.0.8", "127.0.0.9"] {
        assert_eq!(all.iter().filter(|peer| *peer == address).count(), 6, "{address}");
    }
}

#[test]
fn an_address_that_is_not_ours_is_said() {
    let port = Fake::start(Faults::default());
    // 192.0.2.0/24 is for documentation.
    let run = load("conn -c 4 --duration 1 --ifaddr 192.0.2.77", port);
    assert_eq!((run.status, run.number("/connect/gave_up")), (Some(1), 4.0));
    assert!(run.has_failure("not an address of this machine"), "{:#}", run.json);
    assert!(run.advice().contains("ip address"), "{:#}", run.json);
}

#[test]
fn every_thread_has_a_descriptor_table_of_its_own() {
    let port = Fake::start(Faults::default());
    let limited = |words: &str| {
        let script = "ulimit -n 100 && exec \"$0\" \"$@\"";
        let output = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_ringmq-load")])
            .args(arguments(words, port))
            .output();
        finished(output.unwrap())
    };
    // Twice as many connections as a table may have descriptors.
    let run = limited("conn -c 200 --duration 0.1");
    assert_eq!((run.status, run.number("/connect/connected")), (Some(0), 200.0), "{}", run.stderr);
    assert!(run.number("/workers") >= 3.0, "{:#}", run.json);
    let run = limited("conn -c 200 --duration 0.1 --workers 2");
    assert_eq!(run.status, Some(2));
    assert!(run.stderr.contains("ulimit -n") && run.stderr.contains("threads"), "{}", run.stderr);
}

#[test]
fn nobody_at_the_port_is_said() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let run = load("conn -c 2 --duration 1", port);
    assert_eq!(run.status, Some(1));
    assert!(run.has_failure("connection refused"), "{:#}", run.json);
    assert!(run.advice().contains("-p"), "{:#}", run.json);
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    for (words, expected) in [
        ("conn --ssl", "TLS"),
        ("conn --ws", "WebSocket"),
        ("pair -s 8", "at least 16 bytes"),
        ("pair -q 3", "0, 1 or 2"),
        ("conn -V 6", "3.1.1"),
        ("pub -t a/#", "wildcards"),
        ("pub -t a --saturate", "-q 1 or 2"),
        ("conn --ifaddr 127.0.0.9-127.0.0.2", "--ifaddr"),
        ("conn --pid 4194304", "no such process"),
        ("suite nonsense", "not a scenario"),
        ("conn -c 30000 --ifaddr 127.0.0.1", "source address"),
        ("conn -c 0", "at least one client"),
    ] {
        let run = load(words, 1);
        assert_eq!(run.status, Some(2), "{words}: {}", run.stderr);
        assert!(run.stderr.contains(expected), "{words}: {}", run.stderr);
    }
}
