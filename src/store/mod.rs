//! The durable store: takes the changes that shards make ([`record`](crate::record)), makes them
//! survive on a thread of its own, and gives them back at the next start.
//!
//! Everything that waits when the thread comes around is committed together, with one sync of the
//! disk for all of it. What a later change in the same commit takes back is never written: a message
//! that was delivered and acknowledged in the meantime costs the disk nothing.
//!
//! A store that could not write has failed for good. It says so to every shard, takes nothing any
//! more and never claims that something is durable which may not be.

mod commit;
mod encoding;
mod engine;
mod fjall;
mod folder;
mod journal;
mod keys;
mod load;
mod restore;
#[cfg(test)]
mod tests;
mod thread;

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tracing::info;

pub use restore::Summary;
pub use thread::StoreHandle;

use crate::record::{Outcome, Restored};
use crate::stats::StoreStats;
use commit::Memory;
use engine::{Engine, EngineError, Write};
use folder::Folder;
use journal::Damage;
use restore::Leftovers;
use thread::{Teller, Worker};

/// How a store is to be opened.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The data folder. It is made if there is none.
    pub path: PathBuf,
    /// When changes count as durable.
    pub durability: Durability,
    /// Bytes of changes that may wait to be committed before [`StoreHandle::is_full`] says so.
    pub max_backlog_bytes: usize,
    /// Whether to open a store whose journal is damaged, without what cannot be read of it. Without
    /// this it is refused.
    pub salvage: bool,
}

/// When changes count as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the disk has them: a power cut loses nothing that was promised.
    Always,
    /// When the operating system has them. The disk gets them after this time at the latest: a
    /// crash of the broker loses nothing, a power cut as much as came in this time.
    Interval(Duration),
    /// When the operating system has them; it decides when the disk gets them.
    Os,
}

/// Why a store could not be opened or read. Each says what is wrong and what to do.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The folder cannot be made, read or written.
    #[error(
        "the data folder {path} cannot be used: {source}; it has to exist or be creatable, and the \
         broker's user needs the right to write to it",
        path = path.display()
    )]
    Folder {
        /// The data folder.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "the data folder {path} is in use by another broker (process {owner}); stop that one, or \
         give this one a folder of its own with --data-dir",
        path = path.display()
    )]
    InUse {
        /// The data folder.
        path: PathBuf,
        /// Its process id.
        owner: Box<str>,
    },
    /// There is something else in the folder.
    #[error(
        "the folder {path} is no data folder of a broker, but is not empty (it has `{found}`); give \
         an empty or a new one with --data-dir",
        path = path.display()
    )]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// One of the things in it.
        found: String,
    },
    /// Its format is not known.
    #[error(
        "the data folder {path} has format {found}, this broker knows format 1; run the version of \
         the broker that wrote it, or a newer one",
        path = path.display()
    )]
    Format {
        /// The data folder.
        path: PathBuf,
        /// Its format; 0 for one that is no number.
        found: u32,
    },
    /// The engine's files cannot be read.
    #[error(
        "the data in {path} cannot be read: {source}; if it is damaged, start with --salvage to go \
         on without what its journal has lost, restore a backup, or move the folder away to start \
         with nothing",
        path = path.display()
    )]
    Engine {
        /// The data folder.
        path: PathBuf,
        /// What the engine says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The store's own entry: its seed.
const SEED: &str = "seed";

/// A store that is opened and locked, and does not run yet.
pub struct Store {
    settings: StoreSettings,
    engine: Box<dyn Engine>,
    seed: [u64; 4],
    next_number: u64,
    /// What [`restore`](Self::restore) found that is to go.
    leftovers: RefCell<Leftovers>,
    /// `None` for an engine without one.
    folder: Option<Folder>,
    stats: Arc<StoreStats>,
}

impl Store {
    /// Opens the store in a folder, or makes one there.
    ///
    /// # Errors
    ///
    /// If the folder cannot be used, if another process uses it, if it holds something else or is
    /// of an unknown format, or if what it holds is damaged.
    pub fn open(settings: StoreSettings) -> Result<Self, OpenError> {
        let folder = Folder::lock(&settings.path)?;
        let failed = |error| OpenError::of_engine(&settings, error);
        let path = folder.engine(|new| {
            info!(path = %settings.path.display(), "making a data folder");
            let mut engine = fjall::Fjall::open(new, Damage::Refuse).map_err(failed)?;
            create(&mut engine).map_err(failed)
        })?;
        let damage = match settings.durability {
            _ if settings.salvage => Damage::Salvage,
            Durability::Always => Damage::Refuse,
            Durability::Interval(_) | Durability::Os => Damage::CutOff,
        };
        let engine = fjall::Fjall::open(&path, damage).map_err(failed)?;
        Self::with_engine(settings.clone(), Box::new(engine), Some(folder))
    }

    fn with_engine(
        settings: StoreSettings,
        engine: Box<dyn Engine>,
        folder: Option<Folder>,
    ) -> Result<Self, OpenError> {
        let failed = |error| OpenError::of_engine(&settings, error);
        let (seed, next_number) = read_meta(&*engine).map_err(failed)?;
        Ok(Self {
            settings,
            engine,
            seed,
            next_number,
            leftovers: RefCell::default(),
            folder,
            stats: Arc::default(),
        })
    }

    /// Counts what it does in `stats`.
    pub fn with_stats(self, stats: Arc<StoreStats>) -> Self {
        Self { stats, ..self }
    }

    /// Random numbers that were made with the store and stay with it.
    pub fn seed(&self) -> [u64; 4] {
        self.seed
    }

    /// Greater than every session number, message number and position that was ever kept.
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Gives everything that is kept to `each`, once: the sessions by their numbers, then the
    /// retained messages. A long one logs how far it is. Of two sessions with one client id the
    /// older one has ended. What has no session goes when the store runs.
    ///
    /// # Errors
    ///
    /// If the engine cannot read its files. A single record that cannot be read is no error: it is
    /// logged, counted and left out.
    pub fn restore(&self, each: &mut dyn FnMut(Restored)) -> Result<Summary, OpenError> {
        let (summary, leftovers) = restore::restore(&*self.engine, each)
            .map_err(|error| OpenError::of_engine(&self.settings, error))?;
        self.leftovers.replace(leftovers);
        Ok(summary)
    }

    /// Starts the store's thread, which calls `tell` with what it has to tell each shard. It ends
    /// after [`StoreHandle::shut_down`], or when all handles are gone.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn run<F>(self, shards: usize, tell: F) -> io::Result<(StoreHandle, JoinHandle<()>)>
    where
        F: Fn(usize, Outcome) + Send + 'static,
    {
        let (handle, worker) = self.prepare(shards, tell);
        Ok((handle, thread::start(worker)?))
    }

    fn prepare<F: Fn(usize, Outcome)>(self, shards: usize, tell: F) -> (StoreHandle, Worker<F>) {
        let memory = Memory::new(self.seed, self.next_number, self.leftovers.into_inner());
        let teller = Teller { shards, tell, stats: self.stats, failed: None };
        thread::prepare(&self.settings, self.engine, self.folder, memory, teller)
    }
}

impl OpenError {
    fn of_engine(settings: &StoreSettings, error: EngineError) -> Self {
        Self::Engine { path: settings.path.clone(), source: Box::new(error) }
    }
}

/// Makes what an empty store has.
fn create(engine: &mut dyn Engine) -> Result<(), EngineError> {
    let mut seed = [0; 4];
    for part in &mut seed {
        *part = getrandom::u64().map_err(|error| EngineError::Io(io::Error::other(error)))?;
    }
    engine.write(vec![
        Write::Put(keys::of_meta(SEED), encoding::seed(seed)),
        Write::Put(keys::of_meta(commit::NEXT_NUMBER), encoding::number(1)),
    ])?;
    engine.sync()
}

fn read_meta(engine: &dyn Engine) -> Result<([u64; 4], u64), EngineError> {
    let read = |name: &str| {
        let value = engine.get(&keys::of_meta(name))?;
        value.ok_or_else(|| EngineError::Damaged(format!("its `{name}` is missing")))
    };
    let damaged = |name: &str, wrong| EngineError::Damaged(format!("its `{name}`: {wrong}"));
    let seed = encoding::read_seed(&read(SEED)?).map_err(|wrong| damaged(SEED, wrong))?;
    let next_number = encoding::read_number(&read(commit::NEXT_NUMBER)?)
        .map_err(|wrong| damaged(commit::NEXT_NUMBER, wrong))?;
    Ok((seed, next_number))
}
