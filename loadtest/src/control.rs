//! Takes a run through its phases: connect, measure, drain, close.

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ringmq::shard::DriverKind;

use crate::{
    cli::{Cli, Common, Verb},
    clock::{self, SECOND},
    latency::live_quantile,
    outcome::{Outcome, Second, StormRound},
    plan::Plan,
    probe::Sample,
    report,
    shared::{Counts, Phase, Shared},
    verb::{Course, Job, PlanError},
    worker::{self, WorkerOutcome},
};

/// How often the phases are looked after.
const POLL: Duration = Duration::from_millis(5);
/// How far ahead the first message is due, so that every thread is ready for it.
const LEAD: u64 = SECOND / 20;

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The command line is wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The operating system refuses something.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// A file cannot be written.
    #[error("cannot write {0}: {1}")]
    Write(String, std::io::Error),
    /// A thread has failed.
    #[error("a thread has failed")]
    Thread,
}

/// Does what the command line asks for. True if everything went as it should.
///
/// # Errors
/// See [`RunError`].
pub fn main(cli: Cli) -> Result<bool, RunError> {
    let common = cli.verb.common();
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second time it ends at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let jobs = match &cli.verb {
        Verb::Suite(suite) => crate::suite::jobs(&suite.own, common)?,
        verb => vec![Job::new(verb, common)?],
    };
    let mut outcomes = Vec::new();
    for job in jobs {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        let outcome = Run::start(job, common, Arc::clone(&interrupted))?.finish()?;
        match &common.json {
            _ if common.quiet => {}
            // Standard output is for the JSON alone.
            Some(path) if path.as_os_str() == "-" => eprint!("{}", report::table(&outcome)),
            _ => print!("{}", report::table(&outcome)),
        }
        outcomes.push(outcome);
    }
    report::write_files(&outcomes, common)?;
    Ok(!outcomes.is_empty() && outcomes.iter().all(Outcome::is_good))
}

struct Run {
    job: Job,
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<std::io::Result<WorkerOutcome>>>,
    common: Common,
    interrupted: Arc<AtomicBool>,
    started: u64,
    before: Sample,
    connected: Sample,
    connected_count: u64,
    connect_seconds: f64,
    measurement: (Sample, Sample),
    measured: (Counts, Counts),
    storms: Vec<StormRound>,
    seconds: Vec<Second>,
    samples: Vec<Sample>,
    last: (u64, Counts, Vec<u32>),
    broker_gone: bool,
}

impl Run {
    fn start(job: Job, common: &Common, interrupted: Arc<AtomicBool>) -> Result<Self, RunError> {
        let driver = match common.driver.as_str() {
            "auto" => ringmq::cli::Driver::Auto,
            "io_uring" => ringmq::cli::Driver::IoUring,
            "epoll" => ringmq::cli::Driver::Epoll,
            _ => return Err(PlanError::Usage("--driver: auto, io_uring or epoll".into()).into()),
        };
        let driver = DriverKind::choose(driver)?;
        let plan = Arc::new(job.plan.clone());
        let shared = Arc::new(Shared::new(plan.workers)?);
        if let Some(pid) = common.pid
            && Sample::take(0.0, Some(pid), false).broker.is_none()
        {
            return Err(PlanError::Usage(format!("--pid {pid}: no such process")).into());
        }
        let mut threads = Vec::new();
        for id in 0..plan.workers {
            let (plan, shared) = (Arc::clone(&plan), Arc::clone(&shared));
            let thread = thread::Builder::new()
                .name(format!("load-{id}"))
                .spawn(move || worker::run(id, plan, shared, driver))?;
            threads.push(thread);
        }
        // What the threads need for themselves is not the connections' memory.
        while shared.counts().prepared < u64::from(plan.workers) {
            if threads.iter().any(JoinHandle::is_finished) {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let before = Sample::take(0.0, common.pid, true);
        let now = clock::now();
        shared.set_phase(Phase::Connect);
        Ok(Self {
            plan,
            threads,
            common: common.clone(),
            interrupted,
            started: now,
            before,
            connected: before,
            connected_count: 0,
            connect_seconds: 0.0,
            measurement: (before, before),
            measured: (Counts::default(), Counts::default()),
            storms: Vec::new(),
            seconds: Vec::new(),
            samples: vec![before],
            last: (now, Counts::default(), Vec::new()),
            broker_gone: false,
            shared,
            job,
        })
    }

    fn finish(mut self) -> Result<Outcome, RunError> {
        self.connect();
        if !self.is_over() {
            match self.job.course {
                Course::Hold => self.measure(false),
                Course::Traffic | Course::Churn => self.measure(true),
                Course::Storm(rounds) => self.storm(rounds),
            }
        }
        self.drain();
        let drained = self.shared.counts();
        self.samples.push(self.sample(true));
        self.shared.set_phase(Phase::Close);
        let mut workers = Vec::new();
        let mut last_ready = self.started;
        for thread in std::mem::take(&mut self.threads) {
            let outcome = thread.join().map_err(|_| RunError::Thread)??;
            last_ready = last_ready.max(outcome.last_ready);
            workers.push(outcome);
        }
        // What came until the end was acknowledged, and counts; that everybody leaves does not.
        let Counts { ready, lost, .. } = drained;
        let total = Counts { ready, lost, ..self.shared.counts() };
        self.clear_line();
        if self.job.course == Course::Hold && self.connect_seconds == 0.0 {
            self.connect_seconds = (last_ready - self.started) as f64 / 1e9;
        }
        let seconds = self.measurement.1.at - self.measurement.0.at;
        let mut outcome = Outcome {
            title: self.job.title.clone(),
            clients: self.plan.clients().into(),
            workers: self.plan.workers,
            offered_rate: self.plan.rate(),
            connect_seconds: self.connect_seconds,
            measured_seconds: seconds,
            measured: self.measured.1.since(&self.measured.0),
            total,
            connect: Default::default(),
            subscribe: Default::default(),
            acknowledge: Default::default(),
            delivery: Default::default(),
            lateness: Default::default(),
            flows: Vec::new(),
            storms: self.storms,
            failures: Default::default(),
            seconds: self.seconds,
            samples: self.samples,
            before: self.before,
            connected: self.connected,
            connected_count: self.connected_count,
            measurement: self.measurement,
            broker_gone: self.broker_gone,
            interrupted: self.interrupted.load(Ordering::Relaxed),
            lowered_window: None,
            notes: Vec::new(),
        };
        outcome.gather(&self.plan, workers);
        outcome.notes = report::notes(&outcome, &self.plan);
        Ok(outcome)
    }

    /// Waits until every client is ready or has given up.
    fn connect(&mut self) {
        let clients = u64::from(self.plan.clients());
        loop {
            let counts = self.shared.counts();
            if counts.ready + counts.gave_up + counts.lost >= clients || self.is_over() {
                break;
            }
            self.tick("connecting");
            thread::sleep(POLL);
        }
        self.connect_seconds = self.since(self.started);
        self.wait(self.common.settle, "settling");
        self.connected = self.sample(true);
        self.connected_count = self.shared.counts().ready;
        self.samples.push(self.connected);
        let counts = self.shared.counts();
        self.broker_gone |= counts.ready == 0 && counts.gave_up < clients && !self.is_over();
    }

    /// Lets messages flow, or just time pass, and measures.
    fn measure(&mut self, flow: bool) {
        let warmup = (self.job.warmup * 1e9) as u64;
        let start = clock::now() + LEAD;
        let from = start + warmup;
        let to = match self.job.duration {
            Some(seconds) => from + (seconds * 1e9) as u64,
            None => u64::MAX,
        };
        self.shared.start.store(start, Ordering::Relaxed);
        self.shared.measure_from.store(from, Ordering::Relaxed);
        self.shared.measure_to.store(to, Ordering::Relaxed);
        if flow {
            self.shared.set_phase(Phase::Run);
        }
        self.wait_until(from, "warming up");
        self.measurement.0 = self.sample(false);
        self.measured.0 = self.shared.counts();
        while clock::now() < to && !self.is_over() && !self.has_sent_all() {
            self.tick("running");
            let left = to.saturating_sub(clock::now());
            thread::sleep(POLL.min(Duration::from_nanos(left)));
        }
        self.measured.1 = self.shared.counts();
        self.measurement.1 = self.sample(false);
    }

    fn has_sent_all(&self) -> bool {
        let limit = self.plan.limit;
        limit > 0 && self.shared.counts().sent >= limit
    }

    fn storm(&mut self, rounds: u32) {
        let clients = u64::from(self.plan.clients());
        self.measurement.0 = self.sample(false);
        self.measured.0 = self.shared.counts();
        for _ in 0..rounds {
            let before = self.shared.counts();
            let begin = clock::now();
            self.shared.storms.fetch_add(1, Ordering::Relaxed);
            self.shared.wake_all();
            let deadline = begin + self.plan.connect_timeout;
            let mut back = 0;
            // Until the last thread has cut its connections, some still count as ready.
            let mut all_cut = false;
            while clock::now() < deadline && !self.is_interrupted() {
                let counts = self.shared.counts();
                all_cut = all_cut || counts.cut - before.cut >= before.ready;
                back = counts.ready;
                if all_cut && back >= clients {
                    break;
                }
                self.tick("storm");
                thread::sleep(Duration::from_millis(1));
            }
            let counts = self.shared.counts();
            self.storms.push(StormRound {
                seconds: self.since(begin),
                failed_attempts: counts.failed_attempts - before.failed_attempts,
                missing: clients - back.min(clients),
            });
            self.wait(self.job.duration.unwrap_or(1.0), "storm is over");
            if self.is_interrupted() {
                break;
            }
        }
        self.measured.1 = self.shared.counts();
        self.measurement.1 = self.sample(false);
    }

    /// Waits for what is under way.
    fn drain(&mut self) {
        self.shared.set_phase(Phase::Drain);
        if self.shared.counts().ready == 0 {
            return;
        }
        let mut quiet_since = clock::now();
        let mut last = self.shared.counts();
        while self.since(quiet_since) < self.common.drain {
            let counts = self.shared.counts();
            let expects = self.plan.flows.iter().all(|flow| flow.fanout > 0);
            let expected: u64 = match self.plan.flows.as_slice() {
                [flow] => counts.sent * u64::from(flow.fanout),
                _ => counts.sent,
            };
            if counts.acknowledged >= counts.sent_acknowledged
                && (!expects || counts.received >= expected)
                && counts.pongs >= counts.pings
            {
                // The last answers are on their way.
                thread::sleep(Duration::from_millis(20));
                return;
            }
            let arrived = |counts: &Counts| (counts.received, counts.acknowledged, counts.pongs);
            if arrived(&counts) != arrived(&last) {
                last = counts;
                quiet_since = clock::now();
            }
            if counts.ready == 0 {
                return;
            }
            self.tick("draining");
            thread::sleep(POLL);
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Whether there is no use in going on.
    fn is_over(&mut self) -> bool {
        let counts = self.shared.counts();
        let clients = u64::from(self.plan.clients());
        let nobody = counts.ready == 0 && counts.lost > 0 && !self.plan.reconnect;
        self.broker_gone |= nobody && counts.lost + counts.gave_up >= clients;
        let no_one_connected = counts.gave_up >= clients;
        self.broker_gone |= self.threads.iter().any(JoinHandle::is_finished);
        self.is_interrupted() || self.broker_gone || no_one_connected
    }

    fn wait(&mut self, seconds: f64, what: &str) {
        self.wait_until(clock::now() + (seconds.max(0.0) * 1e9) as u64, what);
    }

    fn wait_until(&mut self, until: u64, what: &str) {
        while clock::now() < until && !self.is_over() {
            self.tick(what);
            thread::sleep(POLL.min(Duration::from_nanos(until.saturating_sub(clock::now()))));
        }
    }

    fn since(&self, then: u64) -> f64 {
        clock::now().saturating_sub(then) as f64 / 1e9
    }

    fn sample(&self, thorough: bool) -> Sample {
        Sample::take(self.since(self.started), self.common.pid, thorough)
    }

    /// Once in a second: notes how it goes, and says so.
    fn tick(&mut self, what: &str) {
        let now = clock::now();
        let elapsed = (now - self.last.0) as f64 / 1e9;
        if elapsed < 1.0 {
            return;
        }
        let (counts, live) = (self.shared.counts(), self.shared.live());
        let since = counts.since(&self.last.1);
        let second = Second {
            at: self.since(self.started),
            ready: counts.ready,
            connects: since.connected_ever as f64 / elapsed,
            sent: since.sent as f64 / elapsed,
            received: since.received as f64 / elapsed,
            p50: live_quantile(&self.last.2, &live, 0.5),
            p99: live_quantile(&self.last.2, &live, 0.99),
        };
        let sample = self.sample(false);
        let line = report::progress(what, &second, &counts, &sample, self.plan.clients());
        self.seconds.push(second);
        self.samples.push(sample);
        self.last = (now, counts, live);
        if self.common.quiet {
            return;
        }
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    }

    fn clear_line(&self) {
        if !self.common.quiet && std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}
