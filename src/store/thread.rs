//! The store's thread: takes all that waits, commits it, tells the shards, reads what they ask for.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::error;

use super::commit::{Commit, Memory};
use super::engine::{Engine, EngineError};
use super::folder::Folder;
use super::{Durability, StoreSettings, load};
use crate::record::{Batch, Change, Epoch, Load, Outcome};
use crate::stats::StoreStats;

/// Bytes of changes that are committed at a time, so that nobody waits for very long; one batch is
/// committed however large it is.
const MAX_COMMIT_BYTES: usize = 8 << 20;
/// Time from one commit to the next while there is much to do. On a disk that is faster than this,
/// commits of a few changes each would cost more than what they commit, and wake the shards for each.
const COMMIT_INTERVAL: Duration = Duration::from_millis(1);
/// Changes of a commit that are much to do. A lone publisher has fewer, and waits for nothing.
const MANY_CHANGES: usize = 8;
/// Deliveries of ended sessions that are removed in one commit.
const MAX_SWEPT: usize = 10_000;
/// How often the engine may look after its space, while there are writes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// What a change takes up, its text and data apart.
const CHANGE_BYTES: usize = mem::size_of::<Change>();

/// A shard's way to the store.
#[derive(Debug, Clone)]
pub struct StoreHandle {
    orders: Sender<Order>,
    backlog: Arc<AtomicUsize>,
    max_backlog_bytes: usize,
}

impl StoreHandle {
    /// Hands a batch over. Its changes are committed behind those of the shard's earlier batches,
    /// and its loads are answered with what is there then. After [`shut_down`](Self::shut_down)
    /// nothing is answered.
    pub fn submit(&self, shard: usize, batch: Batch) {
        let bytes = size_of(&batch);
        self.backlog.fetch_add(bytes, Ordering::Relaxed);
        // A thread that is gone has told every shard so, or was told to go.
        _ = self.orders.send(Order::Batch { shard, bytes, batch });
    }

    /// Bytes of changes that were submitted and are not committed.
    pub fn backlog_bytes(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Whether so much waits to be committed that no more should be submitted for now.
    pub fn is_full(&self) -> bool {
        self.backlog_bytes() >= self.max_backlog_bytes
    }

    /// Commits what was submitted before, writes it to the disk whatever the durability, and ends
    /// the thread.
    pub fn shut_down(&self) {
        _ = self.orders.send(Order::ShutDown);
    }
}

/// About what a batch takes up in memory.
fn size_of(batch: &Batch) -> usize {
    let texts = batch.changes.iter().map(|change| match change {
        Change::PutMessage { body, .. } => body.data.len(),
        Change::PutRetained { topic, body } => topic.len() + body.data.len(),
        Change::PutSession { record, .. } => {
            let will = record.will.as_ref().map_or(0, |will| will.body.data.len());
            record.client_id.len() + record.user_name.as_ref().map_or(0, |name| name.len()) + will
        }
        Change::PutSubscription { filter, .. } | Change::DropSubscription { filter, .. } => {
            filter.len()
        }
        Change::DropRetained { topic } => topic.len(),
        _ => 0,
    });
    texts.sum::<usize>() + batch.changes.len() * CHANGE_BYTES
}

#[derive(Debug)]
enum Order {
    Batch { shard: usize, bytes: usize, batch: Batch },
    ShutDown,
}

/// Starts the thread of what [`prepare`] made.
pub(super) fn start<F>(worker: Worker<F>) -> io::Result<JoinHandle<()>>
where
    F: Fn(usize, Outcome) + Send + 'static,
{
    thread::Builder::new().name("store".to_owned()).spawn(move || worker.run())
}

/// Makes the worker of a store and the handle that it takes its orders from.
pub(super) fn prepare<F: Fn(usize, Outcome)>(
    settings: &StoreSettings,
    engine: Box<dyn Engine>,
    folder: Option<Folder>,
    memory: Memory,
    teller: Teller<F>,
) -> (StoreHandle, Worker<F>) {
    let (orders, incoming) = mpsc::channel();
    let backlog = Arc::new(AtomicUsize::new(0));
    let handle = StoreHandle {
        orders,
        backlog: Arc::clone(&backlog),
        max_backlog_bytes: settings.max_backlog_bytes,
    };
    let worker = Worker {
        incoming,
        backlog,
        durability: settings.durability,
        engine,
        memory,
        unsynced_since: None,
        upkeep: Instant::now(),
        upkeep_interval: UPKEEP_INTERVAL,
        is_untidy: false,
        busy_since: None,
        commit_interval: COMMIT_INTERVAL,
        teller,
        _folder: folder,
    };
    (handle, worker)
}

pub(super) struct Worker<F: Fn(usize, Outcome)> {
    // Fields are dropped in this order: the folder is unlocked when the engine is closed.
    incoming: Receiver<Order>,
    backlog: Arc<AtomicUsize>,
    pub(super) durability: Durability,
    engine: Box<dyn Engine>,
    memory: Memory,
    /// Since when there is something that the disk may not have.
    unsynced_since: Option<Instant>,
    /// When the engine last looked after its space.
    upkeep: Instant,
    pub(super) upkeep_interval: Duration,
    /// Whether there is a reason for it to do so again.
    is_untidy: bool,
    /// When the last commit began, if it had many changes.
    busy_since: Option<Instant>,
    pub(super) commit_interval: Duration,
    teller: Teller<F>,
    _folder: Option<Folder>,
}

/// What is taken at a time.
#[derive(Default)]
struct Intake {
    bytes: usize,
    changes: Vec<Change>,
    epochs: BTreeMap<usize, Epoch>,
    loads: Vec<(usize, Load)>,
    /// Nothing comes any more.
    is_last: bool,
}

impl<F: Fn(usize, Outcome)> Worker<F> {
    pub(super) fn run(mut self) {
        while !self.turn() {}
        if self.teller.failed.is_some() {
            return;
        }
        if let Err(error) = self.commit(Vec::new()).and_then(|()| self.sync()) {
            self.teller.fail(&error);
        }
    }

    /// Waits for something to do and does it; whether it was the last.
    pub(super) fn turn(&mut self) -> bool {
        let intake = self.take();
        let is_last = intake.is_last;
        self.handle(intake);
        is_last
    }

    /// Waits for something to do and takes all of it.
    fn take(&mut self) -> Intake {
        let mut intake = Intake::default();
        let first = match self.patience() {
            None => self.incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(patience) => self.incoming.recv_timeout(patience),
        };
        match first {
            Ok(order) => {
                intake.add(order);
                thread::sleep(self.gathering());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => intake.is_last = true,
        }
        while !intake.is_last && intake.bytes < MAX_COMMIT_BYTES {
            let Ok(order) = self.incoming.try_recv() else { break };
            intake.add(order);
        }
        intake
    }

    /// How long to let orders gather before they are committed.
    pub(super) fn gathering(&self) -> Duration {
        match self.busy_since {
            Some(since) => self.commit_interval.saturating_sub(since.elapsed()),
            None => Duration::ZERO,
        }
    }

    /// How long to wait for orders; `None` for as long as it takes.
    pub(super) fn patience(&self) -> Option<Duration> {
        if self.teller.failed.is_some() {
            return None;
        }
        if self.memory.is_untidy() {
            return Some(Duration::ZERO);
        }
        let upkeep =
            self.is_untidy.then(|| self.upkeep_interval.saturating_sub(self.upkeep.elapsed()));
        let sync = match (self.durability, self.unsynced_since) {
            (Durability::Interval(interval), Some(since)) => {
                Some(interval.saturating_sub(since.elapsed()))
            }
            _ => None,
        };
        [upkeep, sync].into_iter().flatten().min()
    }

    fn handle(&mut self, intake: Intake) {
        let Intake { bytes, changes, epochs, loads, .. } = intake;
        self.busy_since = (changes.len() >= MANY_CHANGES).then(Instant::now);
        if let Some(reason) = &self.teller.failed {
            for &shard in epochs.keys() {
                (self.teller.tell)(shard, Outcome::Failed(reason.clone()));
            }
            self.backlog.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        let committed = self.commit(changes).and_then(|()| self.sync_if_due());
        let backlog = self.backlog.fetch_sub(bytes, Ordering::Relaxed) - bytes;
        self.teller.stats.backlog_bytes.set(backlog as u64);
        if let Err(error) = committed {
            return self.teller.fail(&error);
        }
        for (shard, epoch) in epochs {
            (self.teller.tell)(shard, Outcome::Durable(epoch));
        }
        for (shard, load) in loads {
            match load::load(&*self.engine, &load) {
                Ok((loaded, lost)) => {
                    self.memory.lose(lost);
                    (self.teller.tell)(shard, Outcome::Loaded(loaded));
                }
                Err(error) => return self.teller.fail(&error),
            }
        }
        if let Err(error) = self.upkeep_if_due() {
            self.teller.fail(&error);
        }
    }

    fn commit(&mut self, changes: Vec<Change>) -> Result<(), EngineError> {
        let mut commit = Commit::new(&*self.engine, &mut self.memory);
        for change in changes {
            commit.apply(change)?;
        }
        commit.sweep(MAX_SWEPT)?;
        let writes = commit.into_writes()?;
        if writes.is_empty() {
            return Ok(());
        }
        let stats = &self.teller.stats;
        stats.entries_written.add(writes.len() as u64);
        stats.commits.add(1);
        self.engine.write(writes)?;
        self.unsynced_since.get_or_insert_with(Instant::now);
        // Without a start that has counted there is nothing to judge by.
        self.is_untidy = self.memory.deliveries.is_some();
        Ok(())
    }

    fn sync_if_due(&mut self) -> Result<(), EngineError> {
        match (self.durability, self.unsynced_since) {
            (Durability::Always, Some(_)) => self.sync(),
            (Durability::Interval(interval), Some(since)) if since.elapsed() >= interval => {
                self.sync()
            }
            _ => Ok(()),
        }
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        if self.unsynced_since.is_some() {
            let began = Instant::now();
            self.engine.sync()?;
            self.unsynced_since = None;
            let stats = &self.teller.stats;
            stats.syncs.add(1);
            stats.sync_microseconds.add(began.elapsed().as_micros() as u64);
        }
        Ok(())
    }

    fn upkeep_if_due(&mut self) -> Result<(), EngineError> {
        if let Some(deliveries) = self.memory.deliveries
            && self.is_untidy
            && self.upkeep.elapsed() >= self.upkeep_interval
        {
            self.is_untidy = self.engine.upkeep(deliveries)?;
            self.upkeep = Instant::now();
        }
        Ok(())
    }
}

impl Intake {
    fn add(&mut self, order: Order) {
        match order {
            Order::Batch { shard, bytes, batch } => {
                self.bytes += bytes;
                self.changes.extend(batch.changes);
                self.epochs.insert(shard, batch.epoch);
                self.loads.extend(batch.loads.into_iter().map(|load| (shard, load)));
            }
            Order::ShutDown => self.is_last = true,
        }
    }
}

/// Tells the shards, and whoever reads the figures.
pub(super) struct Teller<F: Fn(usize, Outcome)> {
    pub shards: usize,
    pub tell: F,
    pub stats: Arc<StoreStats>,
    /// Why nothing is taken any more.
    pub failed: Option<Box<str>>,
}

impl<F: Fn(usize, Outcome)> Teller<F> {
    fn fail(&mut self, error: &EngineError) {
        error!("the store has failed and takes no more changes: {error}");
        self.tell_failed(error.to_string().into());
    }

    fn tell_failed(&mut self, reason: Box<str>) {
        for shard in 0..self.shards {
            (self.tell)(shard, Outcome::Failed(reason.clone()));
        }
        self.stats.failed.set(1);
        self.failed = Some(reason);
    }
}

impl<F: Fn(usize, Outcome)> Drop for Teller<F> {
    /// Nobody is to wait for a thread that has died of a bug.
    fn drop(&mut self) {
        if thread::panicking() && self.failed.is_none() {
            self.tell_failed("the store's thread has panicked".into());
        }
    }
}
