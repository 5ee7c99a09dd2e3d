//! The store, as the shards use it: opened before they start, read into them, and told at the end
//! of each turn what to keep.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use super::{Envelope, Shard, server::StartError};
use crate::{
    broker::Shared,
    cli::{self, DurabilitySettings},
    mesh::{self, Sender},
    record::Restored,
    store::{self, Store, StoreHandle, StoreSettings, Summary},
    topics::ShardId,
};

/// Parts of what the store has kept that may wait for one shard to take them in.
const PARTS_AHEAD: usize = 1_024;

/// A store that is open, in the hands of a thread that waits to read it into the shards.
pub(super) struct OpenedStore {
    /// The seed of the hashes that what is kept depends on.
    pub seed: [u64; 4],
    /// The first number that is free.
    pub first_number: u64,
    proceed: mpsc::Sender<(Restorer, Shared, Sender<Envelope>)>,
    running: Receiver<Result<RunningStore, StartError>>,
}

impl OpenedStore {
    /// Opens the store that the settings ask for, if any. With `own_table` its files are in a
    /// descriptor table of its own: those of the shards are copies, and would keep files open, and
    /// their room on the disk taken, that the store has deleted.
    ///
    /// The mesh has to be there: the store tells shards through its descriptors.
    ///
    /// # Errors
    /// When it cannot be opened; see [`OpenError`](store::OpenError).
    pub fn open(
        settings: &DurabilitySettings,
        own_table: bool,
    ) -> Result<Option<Self>, StartError> {
        let Some(settings) = store_settings(settings) else { return Ok(None) };
        let (report, opened) = mpsc::channel();
        let (proceed, orders) = mpsc::channel::<(Restorer, Shared, Sender<Envelope>)>();
        let (run, running) = mpsc::channel();
        thread::Builder::new().name("store-open".into()).spawn(move || {
            let parted = if own_table { mesh::unshare_descriptor_table() } else { Ok(()) };
            let opened = parted.map_err(StartError::from).and_then(|()| {
                let store = Store::open(settings)?;
                Ok((store.seed(), store.next_number(), store))
            });
            let store = match opened {
                Ok((seed, number, store)) => report.send(Ok((seed, number))).map(|()| store),
                Err(error) => return drop(report.send(Err(error))),
            };
            // Without orders the start was given up.
            if let (Ok(store), Ok((restorer, shared, sender))) = (store, orders.recv()) {
                let _ = run.send(restorer.restore(store, &shared, sender));
            }
        })?;
        let (seed, first_number) = opened.recv().map_err(io::Error::other)??;
        Ok(Some(Self { seed, first_number, proceed, running }))
    }

    /// Reads the store into the shards and lets it run; see [`Restorer::restore`].
    ///
    /// # Errors
    /// When it cannot be read, or its thread not be started.
    pub fn restore(
        self,
        restorer: Restorer,
        shared: Shared,
        sender: Sender<Envelope>,
    ) -> Result<RunningStore, StartError> {
        let ended = |_| io::Error::other("the thread that opened the store has ended");
        self.proceed.send((restorer, shared, sender)).map_err(|_| ended(mpsc::RecvError))?;
        self.running.recv().map_err(ended)?
    }
}

fn store_settings(settings: &DurabilitySettings) -> Option<StoreSettings> {
    let path = settings.data_dir.clone()?;
    let durability = match settings.durability {
        cli::Durability::Always => store::Durability::Always,
        cli::Durability::Interval(time) => store::Durability::Interval(time),
        cli::Durability::Os => store::Durability::Os,
    };
    let max_backlog_bytes = usize::try_from(settings.max_backlog_bytes).unwrap_or(usize::MAX);
    Some(StoreSettings { path, durability, max_backlog_bytes, salvage: settings.salvage })
}

/// A store whose thread runs.
pub(super) struct RunningStore {
    pub handle: StoreHandle,
    thread: JoinHandle<()>,
}

impl RunningStore {
    /// Lets the store run.
    pub fn start(store: Store, sender: Sender<Envelope>) -> io::Result<Self> {
        let shards = sender.shards();
        let (handle, thread) = store.run(shards, move |shard, outcome| {
            sender.send(shard, vec![Envelope::Store(outcome)])
        })?;
        Ok(Self { handle, thread })
    }

    /// Whether its thread has ended, which it does not by itself unless something is badly wrong.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Commits what shards have handed over, and ends.
    pub fn shut_down(self) {
        self.handle.shut_down();
        if self.thread.join().is_err() {
            tracing::error!("the store's thread has panicked");
        }
    }
}

/// What a shard waits for before it lets clients in.
pub(super) struct Recovery {
    parts: Receiver<Restored>,
    done: SyncSender<()>,
    /// Says how to reach the store, once every shard is done.
    go: Receiver<StoreHandle>,
}

impl Recovery {
    /// Takes in what is this shard's, and waits until all others have theirs. None if the start is
    /// given up.
    pub fn run(self, mut take: impl FnMut(Restored)) -> Option<StoreHandle> {
        self.parts.into_iter().for_each(&mut take);
        self.done.send(()).ok()?;
        drop(self.done);
        self.go.recv().ok()
    }
}

/// The other end of the [`Recovery`] of all shards.
pub(super) struct Restorer {
    parts: Vec<SyncSender<Restored>>,
    done: Receiver<()>,
    go: Vec<mpsc::Sender<StoreHandle>>,
}

impl Restorer {
    /// For so many shards.
    pub fn new(shards: usize) -> (Self, Vec<Recovery>) {
        let (report, done) = mpsc::sync_channel(shards);
        let (mut parts, mut go, mut recoveries) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..shards {
            let (part, its_parts) = mpsc::sync_channel(PARTS_AHEAD);
            let (begin, its_go) = mpsc::channel();
            parts.push(part);
            go.push(begin);
            recoveries.push(Recovery { parts: its_parts, done: report.clone(), go: its_go });
        }
        (Self { parts, done, go }, recoveries)
    }

    /// Reads what the store has kept into the shards that it belongs to, lets the store run, and
    /// then all shards at once: before the last of them knows its subscriptions, a message for them
    /// could be lost.
    ///
    /// # Errors
    /// When the store cannot be read or its thread not be started. A shard that has ended says so
    /// itself.
    pub fn restore(
        self,
        store: Store,
        shared: &Shared,
        sender: Sender<Envelope>,
    ) -> Result<RunningStore, StartError> {
        let began = Instant::now();
        let summary = store.restore(&mut |part| {
            let home: ShardId = match &part {
                Restored::Session(stored) => shared.home_shard(&stored.record.client_id),
                Restored::Retained { topic, .. } => shared.retained_owner(topic),
            };
            if let Some(parts) = self.parts.get(home.index()) {
                let _ = parts.send(part);
            }
        })?;
        drop(self.parts);
        let ready = self.done.iter().take(self.go.len()).count();
        if ready < self.go.len() {
            return Err(io::Error::other("a shard ended while it was read into").into());
        }
        let Summary { sessions, subscriptions, retained, inflight, queued, lost, .. } = summary;
        let milliseconds = began.elapsed().as_millis() as u64;
        tracing::info!(
            sessions,
            subscriptions,
            retained,
            inflight,
            queued,
            lost,
            milliseconds,
            "the store is read"
        );
        let running =
            RunningStore::start(store.with_stats(Arc::clone(&shared.store_stats)), sender)?;
        for go in self.go {
            let _ = go.send(running.handle.clone());
        }
        Ok(running)
    }
}

impl Shard {
    /// Hands over what this turn has changed.
    pub(super) fn submit(&self) {
        let mut broker = self.broker.borrow_mut();
        let Some(store) = self.store.get() else { return };
        if let Some(batch) = broker.take_batch() {
            store.submit(self.endpoint.id(), batch);
        }
        broker.set_store_congested(store.is_full());
    }

    /// Whether the store has more to do than it should have.
    pub(super) fn is_store_full(&self) -> bool {
        self.store.get().is_some_and(StoreHandle::is_full)
    }
}
