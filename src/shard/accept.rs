//! Accepting connections: as many as the limits allow, and no faster.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Newcomer, Shard, renewal::Task};
use crate::{
    limits,
    stats::ShardStats,
    transport::{Accepted, Listener, Socket},
};

/// How long a listener waits when there is no room for a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// The least time between two warnings about that.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

impl Shard {
    /// The task of one listener.
    pub(super) async fn accept_from(self: Rc<Self>, listener: Rc<Listener>) {
        let mut rate = self.settings.connections.connect_rate.map(|rate| Rate::new(rate.get()));
        let mut warned: Option<Instant> = None;
        let task = Task::new(&self);
        while let Some(Ok(())) = task.or_end(listener.readable()).await {
            if self.draining.get() {
                return;
            }
            self.touch();
            let pause = match self.accept_some(&listener, rate.as_mut()) {
                Outcome::Waiting => continue,
                Outcome::Closed => return,
                Outcome::TooFast(pause) => pause,
                Outcome::Full(why) => {
                    self.stats.accept_paused.add(1);
                    if warned.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
                        warned = Some(Instant::now());
                        tracing::warn!(
                            shard = self.endpoint.id(),
                            connections = self.broker.borrow().connections(),
                            "accepting is paused: {why}; clients wait in the backlog. Raise the \
                             descriptor limit (ulimit -n) or --shards, or lower the load"
                        );
                    }
                    PAUSE
                }
            };
            task.or_end(monoio::time::sleep(pause)).await;
        }
    }

    /// Accepts in the middle of a long turn. What stands in the way of that, the listeners' own
    /// tasks find out.
    pub(super) fn accept_between_reads(self: &Rc<Self>) {
        let reads = self.reads_since_accept.get() + 1;
        self.reads_since_accept.set(reads);
        if reads < limits::READS_PER_ACCEPT || self.settings.connections.connect_rate.is_some() {
            return;
        }
        self.reads_since_accept.set(0);
        for listener in self.listeners.borrow().iter().filter(|listener| listener.is_ready()) {
            self.accept_some(listener, None);
        }
    }

    fn accept_some(self: &Rc<Self>, listener: &Listener, mut rate: Option<&mut Rate>) -> Outcome {
        // A connection may have its home on any shard.
        let is_full = |stats: &Arc<ShardStats>| stats.connections_open.get() >= self.max_open;
        if self.all_stats.iter().any(is_full) {
            return Outcome::Full("a shard's descriptor table is full".into());
        }
        for _ in 0..limits::ACCEPTS_AT_ONCE {
            if is_full(&self.stats) {
                return Outcome::Waiting;
            }
            if let Some(pause) = rate.as_mut().and_then(|rate| rate.take().err()) {
                return Outcome::TooFast(pause);
            }
            let (descriptor, peer) = match listener.accept() {
                Accepted::Connection(descriptor, peer) => (descriptor, peer),
                Accepted::Nothing => {
                    if let Some(rate) = rate {
                        rate.give_back();
                    }
                    return Outcome::Waiting;
                }
                Accepted::Exhausted(error) => return Outcome::Full(error.to_string()),
                Accepted::Closed => return Outcome::Closed,
            };
            self.stats.connections_accepted.add(1);
            if self.is_full() {
                self.stats.connections_refused.add(1);
                continue;
            }
            if self.addresses.as_ref().is_some_and(|counts| !counts.admit(peer.ip())) {
                self.stats.connections_refused.add(1);
                tracing::debug!(%peer, "refused: too many connections from this address");
                continue;
            }
            match Socket::new(descriptor) {
                Ok(socket) => self.welcome(Newcomer { socket, peer, bytes: Vec::new() }),
                Err(error) => self.lost(peer, &error),
            }
        }
        Outcome::Waiting
    }

    /// Has a connection wait until it is taken in. It counts as open, for it has a descriptor.
    pub(super) fn welcome(&self, newcomer: Newcomer) {
        self.stats.connections_open.add(1);
        self.newcomers.borrow_mut().push_back(newcomer);
        self.touch();
    }

    /// Takes in some of those that wait; says whether there are more.
    pub(super) fn take_in(self: &Rc<Self>) -> bool {
        if self.renewal.is_wanted() {
            return false;
        }
        for _ in 0..limits::NEWCOMERS_PER_TURN {
            let newcomer = self.newcomers.borrow_mut().pop_front();
            let Some(Newcomer { socket, peer, bytes }) = newcomer else { return false };
            self.stats.connections_open.sub(1);
            self.open(socket, peer, bytes);
        }
        !self.newcomers.borrow().is_empty()
    }

    /// Closes those that wait, when the broker stops.
    pub(super) fn turn_away(&self) {
        for newcomer in self.newcomers.borrow_mut().drain(..) {
            if let Some(addresses) = &self.addresses {
                addresses.release(newcomer.peer.ip());
            }
            self.stats.connections_open.sub(1);
            newcomer.socket.close();
        }
    }

    /// Whether far more connections are open than clients may connect: those are not even told.
    /// Up to that, the answer to CONNECT tells them.
    fn is_full(&self) -> bool {
        let Some(max) = self.settings.connections.max else { return false };
        let open: u64 = self.all_stats.iter().map(|stats| stats.connections_open.get()).sum();
        let max = u64::from(max.get());
        open >= max + max / 10 + 100
    }
}

enum Outcome {
    Waiting,
    Closed,
    TooFast(Duration),
    Full(String),
}

/// A token bucket that holds one second's worth.
struct Rate {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Rate {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, tokens: per_second, at: Instant::now() }
    }

    /// Gives a token back that was not needed.
    fn give_back(&mut self) {
        self.tokens += 1.0;
    }

    /// Takes a token, or says how long it takes until there is one.
    fn take(&mut self) -> Result<(), Duration> {
        let now = Instant::now();
        let earned = now.duration_since(self.at).as_secs_f64() * self.per_second;
        self.at = now;
        self.tokens = (self.tokens + earned).min(self.per_second);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / self.per_second))
    }
}
