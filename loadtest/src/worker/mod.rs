//! One thread of the load generator: its connections, and the messages that it sends and receives.
//!
//! All connections of a thread are served by one loop over one structure, not by a task each: a
//! client that does nothing costs a few dozen bytes and no timer. The sockets are in an epoll set,
//! edge-triggered; the thread's event loop, which is monoio's as in the broker, waits for that set
//! alone. A turn serves every socket that is ready, then publishes what is due, and writes
//! what all its connections have to say in few system calls.

mod conn;
mod connect;
mod publish;
mod receive;
mod write;

use std::{
    collections::{HashMap, VecDeque},
    io,
    ops::ControlFlow,
    os::fd::OwnedFd,
    sync::Arc,
};

use ringmq::{shard::DriverKind, transport::Socket};
use rustix::{
    event::epoll::{self, Event, EventData, EventFlags},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

pub use conn::Received;
use conn::{Conn, NONE, Receiver, Sender, Source, State};

use crate::{
    clock::{self, MILLISECOND, SECOND},
    failure::{Failure, Failures},
    latency::Latency,
    ledger::{Bits, Track},
    plan::{Expects, Pace, Plan},
    shared::{PerWorker, Phase, Shared},
};

/// The bytes read from a connection in one go.
const READ_BUFFER: usize = 128 * 1024;
/// The most events taken at a time.
const EVENTS: usize = 1024;
/// The longest that a thread sleeps, in nanoseconds.
const LONGEST_SLEEP: u64 = 100 * MILLISECOND;

const TIMER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;

/// What a thread has to tell at the end.
#[derive(Default)]
pub struct WorkerOutcome {
    /// From when a connection was due, or else begun, to CONNACK.
    pub connect: Latency,
    /// From SUBSCRIBE to SUBACK.
    pub subscribe: Latency,
    /// From when a QoS 1 or 2 message was due to PUBACK or PUBCOMP.
    pub acknowledge: Latency,
    /// From when a message was due to its arrival.
    pub delivery: Latency,
    /// From when a message was due until it was sent.
    pub lateness: Latency,
    /// Stream, messages sent, messages acknowledged.
    pub streams: Vec<(u32, u32, u32)>,
    /// What each receiver got.
    pub received: Vec<Received>,
    /// What the members of shared groups got, by stream.
    pub shares: HashMap<u32, Bits>,
    /// What went wrong.
    pub failures: Failures,
    /// When the last connection became ready, on the monotonic clock.
    pub last_ready: u64,
    /// The broker's Receive Maximum, if it lowered the window.
    pub lowered_window: Option<u32>,
}

/// A flow as far as this thread publishes it.
struct LocalFlow {
    /// Its sources begin here.
    first_source: u32,
    sources: u32,
    pace: Pace,
    fanout: u32,
    /// The next message on the schedule: round and source.
    round: u64,
    position: u32,
    /// How far this thread's grid is shifted, so that the threads take turns.
    phase: u64,
    /// Messages left to send, if limited.
    left: u64,
}

struct Worker {
    id: u32,
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    epoll: Socket,
    timer: OwnedFd,
    /// When the timer fires; 0 if it is not set.
    armed: u64,
    conns: Vec<Conn>,
    /// First connection and first member of each group.
    groups: Vec<(u32, u32)>,
    senders: Vec<Sender>,
    sources: Vec<Source>,
    flows: Vec<LocalFlow>,
    receivers: Vec<Receiver>,
    tracks: Vec<Track>,
    outcome: WorkerOutcome,
    buffer: Box<[u8]>,
    /// Packets for one connection, until they are collected.
    out: Vec<u8>,
    writes: write::Writes,
    now: u64,
    phase: Phase,
    /// Sources to be served in this turn.
    ready: VecDeque<u32>,
    /// Deliveries of this turn by the thread that has sent them.
    settled: Vec<Vec<(u32, u32)>>,
    mail: Vec<(u32, u32)>,
    last_progress: u64,
    measure: (u64, u64),
    connecting: connect::Connecting,
    /// The next connection that the keep-alive visits, and when its round began.
    visit: (usize, u64),
    /// When the next connection is to be cut in churn, and how many were.
    churned: (u64, u64),
    /// Some flow waits for deliveries.
    saturates: bool,
}

/// Runs a thread until the run is over. The calling thread's descriptor table becomes its own.
///
/// # Errors
/// When the kernel refuses the event loop.
pub fn run(
    id: u32,
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    driver: DriverKind,
) -> io::Result<WorkerOutcome> {
    ringmq::mesh::unshare_descriptor_table()?;
    driver.run(async || {
        let run = async {
            let mut worker = Worker::new(id, Arc::clone(&plan), Arc::clone(&shared))?;
            worker.serve().await?;
            Ok(worker.finish())
        };
        ControlFlow::Break(run.await)
    })?
}

impl Worker {
    fn new(id: u32, plan: Arc<Plan>, shared: Arc<Shared>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), flags)?;
        if let Some(mine) = shared.workers.get(id as usize) {
            epoll::add(&epoll, &mine.wake, EventData::new_u64(WAKE), flags)?;
        }
        let now = clock::now();
        let mut worker = Self {
            id,
            epoll: Socket::new(epoll)?,
            timer,
            armed: 0,
            conns: Vec::new(),
            groups: Vec::new(),
            senders: Vec::new(),
            sources: Vec::new(),
            flows: Vec::new(),
            receivers: Vec::new(),
            tracks: Vec::new(),
            outcome: WorkerOutcome::default(),
            buffer: vec![0; READ_BUFFER].into(),
            out: Vec::new(),
            writes: write::Writes::new(),
            now,
            phase: Phase::Prepare,
            ready: VecDeque::new(),
            settled: vec![Vec::new(); shared.workers.len()],
            mail: Vec::new(),
            last_progress: now,
            measure: (u64::MAX, u64::MAX),
            connecting: connect::Connecting::new(&plan, id, now),
            visit: (0, now),
            churned: (now, 0),
            saturates: plan.saturates(),
            plan,
            shared,
        };
        worker.make_clients();
        worker.make_sources();
        worker.connecting.expect(worker.conns.len());
        Ok(worker)
    }

    fn make_clients(&mut self) {
        let plan = Arc::clone(&self.plan);
        let count = (0..plan.groups.len()).map(|group| plan.members(group, self.id).len()).sum();
        self.conns.reserve_exact(count);
        for (at, group) in plan.groups.iter().enumerate() {
            let members = plan.members(at, self.id);
            self.groups.push((self.conns.len() as u32, members.start));
            let publishes = plan.flows.iter().any(|flow| flow.group == at);
            for member in members {
                let mut conn = Conn::new(at as u8);
                if publishes {
                    conn.sender = self.senders.len() as u32;
                    self.senders.push(Sender {
                        conn: self.conns.len() as u32,
                        window: plan.window,
                        next: 0,
                        inflight: VecDeque::new(),
                        waiting: VecDeque::new(),
                    });
                }
                if let Some(subscription) = &group.subscription {
                    let expects = (subscription.expects)(member);
                    if expects == Expects::Nothing {
                        self.conns.push(conn);
                        continue;
                    }
                    conn.receiver = self.receivers.len() as u32;
                    self.make_receiver(expects);
                }
                self.conns.push(conn);
            }
        }
    }

    fn make_receiver(&mut self, expects: Expects) {
        let mut first_stream = 0;
        let tracks = self.tracks.len() as u32;
        match expects {
            Expects::Streams { flow, first, count, .. } => {
                first_stream = self.plan.first_stream(flow as usize) + first;
                self.tracks.resize(self.tracks.len() + count as usize, Track::default());
            }
            Expects::Share { flow } => first_stream = self.plan.first_stream(flow as usize),
            Expects::Nothing | Expects::Anything => {}
        }
        self.receivers.push(Receiver {
            expects,
            first_stream,
            tracks,
            received: 0,
            interrupted: false,
            unreleased: VecDeque::new(),
        });
    }

    fn make_sources(&mut self) {
        let plan = Arc::clone(&self.plan);
        for (at, flow) in plan.flows.iter().enumerate() {
            let first_stream = plan.first_stream(at);
            let streams = plan.streams(flow, self.id);
            let (first_conn, first_member) = self.groups.get(flow.group).copied().unwrap_or((0, 0));
            let total = u64::from(flow.streams.max(1));
            let before = plan.limit * u64::from(streams.start) / total;
            let upto = plan.limit * u64::from(streams.end) / total;
            self.flows.push(LocalFlow {
                first_source: self.sources.len() as u32,
                sources: streams.len() as u32,
                pace: flow.pace,
                fanout: flow.fanout,
                round: 0,
                position: 0,
                phase: plan.grain * u64::from(self.id) / u64::from(plan.workers.max(1)),
                left: if plan.limit == 0 { u64::MAX } else { upto - before },
            });
            for stream in streams {
                let member = plan.publisher_of(flow, stream);
                let conn = first_conn + member - first_member;
                let sender = self.conns.get(conn as usize).map_or(NONE, |conn| conn.sender);
                self.sources.push(Source {
                    stream: first_stream + stream,
                    flow: at as u32,
                    sender,
                    sequence: 0,
                    owed: 0,
                    under_way: 0,
                    acknowledged: 0,
                    queued: false,
                    checked: (0, 0),
                    qos: flow.qos,
                    id_at: 0,
                    payload_at: 0,
                    packet: Box::default(),
                });
            }
        }
    }

    async fn serve(&mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        self.mine(|mine| mine.counters.prepared.add(1));
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            events.clear();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, buffer, Some(&at_once)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.mine(PerWorker::awake);
            self.now = clock::now();
            for event in &events {
                self.on_event(event.data.u64(), event.flags);
            }
            self.end_turn();
            if self.phase == Phase::Close {
                return Ok(());
            }
            // A full batch means that there is more.
            if events.len() < EVENTS && self.may_sleep() {
                self.epoll.readable().await?;
            }
        }
    }

    fn mine<R: Default>(&self, with: impl FnOnce(&PerWorker) -> R) -> R {
        self.shared.workers.get(self.id as usize).map(|mine| with(mine)).unwrap_or_default()
    }

    fn on_event(&mut self, data: u64, flags: EventFlags) {
        match data {
            TIMER => self.armed = 0,
            WAKE => {
                let mut count = [0; 8];
                self.mine(|mine| {
                    let _ = rustix::io::read(&mine.wake, &mut count);
                });
            }
            conn => self.on_socket(conn as usize, flags),
        }
    }

    /// What is to be done once in a turn, after all sockets that were ready.
    fn end_turn(&mut self) {
        self.follow_phase();
        if self.next_connection() <= self.now {
            // What was answered has its time measured, and opening many connections takes long.
            self.flush();
        }
        self.open_connections();
        self.keep_alive();
        self.settle();
        self.publish_due();
        self.publish_ready();
        self.flush();
        let cpu = clock::thread_cpu;
        if self.now.wrapping_sub(self.last_progress) > SECOND / 4 {
            self.last_progress = self.now;
            self.forget_stalled();
            self.mine(|mine| mine.counters.cpu.set(cpu()));
        }
    }

    fn follow_phase(&mut self) {
        let phase = self.shared.phase();
        use std::sync::atomic::Ordering::Relaxed;
        self.measure =
            (self.shared.measure_from.load(Relaxed), self.shared.measure_to.load(Relaxed));
        let storms = self.shared.storms.load(Relaxed);
        if storms != self.connecting.storms {
            self.connecting.storms = storms;
            self.cut_all();
        }
        if phase == self.phase {
            return;
        }
        self.phase = phase;
        match phase {
            Phase::Connect => self.connecting.begin(self.now),
            Phase::Run => {
                self.delay_acknowledgements();
                self.start_saturating();
            }
            Phase::Close => self.say_goodbye(),
            Phase::Prepare | Phase::Drain => {}
        }
    }

    /// Sets the timer; false if there is something to do at once.
    fn may_sleep(&mut self) -> bool {
        let mut next = self.now + LONGEST_SLEEP;
        next = next.min(self.next_connection()).min(self.next_visit()).min(self.next_due());
        let now = clock::now();
        if next <= now {
            return false;
        }
        if self.armed == 0 || self.armed > next {
            self.armed = next;
            let at = Timespec { tv_sec: (next / SECOND) as _, tv_nsec: (next % SECOND) as _ };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
            let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once);
        }
        self.mine(PerWorker::prepare_sleep)
    }

    fn fail(&mut self, failure: Failure) {
        *self.outcome.failures.entry(failure).or_default() += 1;
    }

    fn finish(mut self) -> WorkerOutcome {
        self.mine(|mine| mine.counters.cpu.set(clock::thread_cpu()));
        for source in &self.sources {
            self.outcome.streams.push((source.stream, source.sequence, source.acknowledged));
        }
        for receiver in self.receivers {
            let count = match receiver.expects {
                Expects::Streams { count, .. } => count as usize,
                _ => 0,
            };
            let from = receiver.tracks as usize;
            self.outcome.received.push(Received {
                expects: receiver.expects,
                tracks: self.tracks.get(from..from + count).unwrap_or_default().to_vec(),
                interrupted: receiver.interrupted,
                received: receiver.received,
            });
        }
        self.outcome
    }
}
