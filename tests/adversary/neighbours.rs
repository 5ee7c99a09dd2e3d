//! Well-behaved clients that are watched while others misbehave.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::support::{Client, PATIENCE, QoS, ReasonCode, Server, Version};

/// No message may take longer. What a quiet machine does in a millisecond, one that runs other
/// tests beside this one may do in a second; a broker that lets a neighbour starve takes for ever.
pub const BOUND: Duration = Duration::from_secs(10);
/// Pairs of a publisher and a subscriber: so many that no shard of two is without a client.
const PAIRS: usize = 6;
/// The pause between two rounds, so that the neighbours are not a flood themselves.
const PACE: Duration = Duration::from_millis(5);

/// Pairs of clients that talk to each other all the time: a message of QoS 0 and one of QoS 1 in
/// each round.
pub struct Neighbours {
    /// With what each says at the end of a round.
    pairs: Vec<(Receiver<()>, JoinHandle<Figures>)>,
    stop: Arc<AtomicBool>,
}

/// What was seen of a pair, or of all together.
#[derive(Default)]
pub struct Figures {
    /// From sending to arrival, of each message of QoS 1.
    latencies: Vec<Duration>,
    /// Messages of QoS 0 that did not arrive.
    lost: u64,
}

impl Neighbours {
    /// Connects them; they talk until [`Neighbours::finish`].
    pub fn start(server: &Server) -> Neighbours {
        let stop = Arc::new(AtomicBool::new(false));
        let pairs = (0..PAIRS).map(|number| {
            let version = [Version::V3_1_1, Version::V5][number % 2];
            let mut subscriber = server.connect(version, &format!("neighbour-{number}-hears"));
            let publisher = server.connect(version, &format!("neighbour-{number}-speaks"));
            let topic = format!("neighbours/{number}");
            subscriber.subscribe(&topic, QoS::AtLeastOnce);
            let (tell, rounds) = mpsc::channel();
            let stop = Arc::clone(&stop);
            let mut pair = Pair { publisher, subscriber, topic, figures: Figures::default() };
            let thread = thread::spawn(move || {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    pair.talk(round);
                    // Nobody may want to know any more.
                    let _ = tell.send(());
                    thread::sleep(PACE);
                }
                pair.figures
            });
            (rounds, thread)
        });
        let neighbours = Neighbours { pairs: pairs.collect(), stop };
        neighbours.go_on();
        neighbours
    }

    /// Waits until each pair has had two more rounds: all of them are served now.
    pub fn go_on(&self) {
        let deadline = Instant::now() + PATIENCE;
        for (rounds, _) in &self.pairs {
            // Those that are over do not count.
            rounds.try_iter().for_each(drop);
            for _ in 0..2 {
                match rounds.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Timeout) => panic!("the neighbours do not get on"),
                    Err(_) => panic!("a neighbour has failed, see above"),
                }
            }
        }
    }

    /// Ends the talk. Every message of QoS 1 has arrived in order and in time, and all of QoS 0.
    pub fn finish(mut self) {
        self.go_on();
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Figures::default();
        for (_, thread) in self.pairs.drain(..) {
            let figures = thread.join().expect("the neighbours got what they should");
            all.latencies.extend(figures.latencies);
            all.lost += figures.lost;
        }
        all.latencies.sort();
        let at = |share: f64| all.latencies[((all.latencies.len() - 1) as f64 * share) as usize];
        let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
        let rounds = all.latencies.len();
        eprintln!("neighbours: {rounds} rounds, p50 {p50:?}, p99 {p99:?}, max {max:?}");
        assert!(max < BOUND, "a message took {max:?}");
        assert_eq!(all.lost, 0, "messages of QoS 0 are lost");
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Pair {
    publisher: Client,
    subscriber: Client,
    topic: String,
    figures: Figures,
}

impl Pair {
    /// A message of QoS 0 and one of QoS 1 behind it. As they keep their order, the second one
    /// tells whether the first one is lost.
    fn talk(&mut self, round: u64) {
        let text = round.to_string();
        let sent = Instant::now();
        self.publisher.send_publish(&self.topic, &text, QoS::AtMostOnce);
        let id = self.publisher.send_publish(&self.topic, &text, QoS::AtLeastOnce);
        let first = self.subscriber.expect_message(&self.topic, &text);
        let second = match first.qos {
            QoS::AtMostOnce => self.subscriber.expect_message(&self.topic, &text),
            _ => {
                self.figures.lost += 1;
                first
            }
        };
        self.figures.latencies.push(sent.elapsed());
        assert_eq!((second.qos, second.dup), (QoS::AtLeastOnce, false));
        self.subscriber.acknowledge(&second);
        let reason = self.publisher.expect_ack(ringmq::codec::AckKind::Puback, id);
        assert_eq!(reason, ReasonCode::Success);
    }
}
