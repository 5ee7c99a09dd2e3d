//! The engine: fjall, a log-structured merge tree with a journal.
//!
//! Two trees share the journal: what comes and goes with messages, and what stays longer, so that
//! tidying up after the former leaves the latter alone.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use tracing::{debug, warn};

use super::engine::{Engine, EngineError, Scan, Write};
use super::journal::{self, Damage};
use super::{encoding, keys};

/// Bytes that each tree collects in memory before it writes them out in order.
const MEMTABLE_BYTES: u64 = 64 << 20;
/// Bytes of blocks that are kept in memory.
const CACHE_BYTES: u64 = 64 << 20;
/// Bytes of journals at which a tree that is seldom written is written out, so that they can go.
const JOURNAL_BYTES: u64 = 64 << 20;
/// Open files.
const MAX_FILES: usize = 128;
/// Threads that write out and merge: with one, a long merge would hold up the writers.
const THREADS: usize = 2;
/// At this many memtables that wait to be written out, fjall would wait for them without looking
/// whether its threads still live; so the waiting is done here, before that.
const MAX_SEALED: usize = 3;
/// The same for tables that wait to be merged.
const MAX_UNMERGED: usize = 20;
/// Entries of which it is not worth while to free the space.
const GARBAGE: usize = 100_000;

/// The engine's own entry, put into each tree after each merge. Nothing reads it.
const MERGED: &str = "merged";

/// An open fjall database.
pub(super) struct Fjall {
    database: Database,
    records: Keyspace,
    queues: Keyspace,
    /// What frees space at present.
    merge: Option<JoinHandle<Result<(), EngineError>>>,
}

impl Fjall {
    /// Opens the database in a folder, or makes one there.
    pub(super) fn open(path: &Path, damage: Damage) -> Result<Self, EngineError> {
        journal::check(path, damage)?;
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .max_cached_files(Some(MAX_FILES))
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(THREADS)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let records = database.keyspace("records", options)?;
        let queues = database.keyspace("queues", options)?;
        Ok(Self { database, records, queues, merge: None })
    }

    /// Writes everything to tables and merges them.
    #[cfg(test)]
    pub(super) fn merge_all(&self) -> Result<(), EngineError> {
        merge(&self.database, &self.trees())
    }

    fn trees(&self) -> [Keyspace; 2] {
        [self.records.clone(), self.queues.clone()]
    }

    fn tree(&self, key: &[u8]) -> &Keyspace {
        if key.first().is_some_and(|&kind| keys::is_queue(kind)) {
            &self.queues
        } else {
            &self.records
        }
    }

    /// Waits until there is room for another write.
    fn wait_for_room(&self) -> Result<(), EngineError> {
        for tree in [&self.records, &self.queues] {
            while tree.sealed_memtable_count() >= MAX_SEALED
                || tree.l0_table_count() >= MAX_UNMERGED
            {
                // The way to learn that one of its threads has failed.
                self.database.persist(PersistMode::Buffer)?;
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }
}

impl Engine for Fjall {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.tree(key).get(key)?.map(Bytes::from))
    }

    fn scan(&self, range: Range<Vec<u8>>) -> Scan<'_> {
        let entries = self.tree(&range.start).range(range);
        Box::new(entries.map(|entry| {
            let (key, value) = entry.into_inner()?;
            Ok((Bytes::from(key), Bytes::from(value)))
        }))
    }

    fn write(&mut self, writes: Vec<Write>) -> Result<(), EngineError> {
        self.wait_for_room()?;
        let mut batch = self.database.batch();
        for write in writes {
            match write {
                Write::Put(key, value) => batch.insert(&self.tree(&key).clone(), key, value),
                Write::Remove(key) => batch.remove(&self.tree(&key).clone(), key),
                Write::RemoveOnce(key) => batch.remove_weak(&self.tree(&key).clone(), key),
            }
        }
        Ok(batch.commit()?)
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn upkeep(&mut self, deliveries: usize) -> Result<bool, EngineError> {
        match self.merge.take_if(|merge| merge.is_finished()).map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            // The space for the merged tables is lacking, not that for the journal.
            Some(Ok(Err(EngineError::Io(error)))) if error.kind() == ErrorKind::StorageFull => {
                warn!("the space of what was removed cannot be freed: {error}");
            }
            Some(Ok(Err(error))) => return Err(error),
            Some(Err(_)) => {
                return Err(EngineError::Failed("its merging thread has panicked".to_owned()));
            }
        }
        // Each delivery has up to four entries.
        let entries = self.queues.approximate_len();
        if self.merge.is_none() && entries > deliveries.saturating_mul(4).saturating_add(GARBAGE) {
            debug!(entries, deliveries, "freeing the space of what was removed");
            let (database, trees) = (self.database.clone(), self.trees());
            let thread = thread::Builder::new().name("store-merge".to_owned());
            self.merge = Some(thread.spawn(move || merge(&database, &trees))?);
        }
        Ok(self.merge.is_some())
    }
}

impl Drop for Fjall {
    /// Waits for what is under way, for it writes to a folder that may soon be somebody else's.
    fn drop(&mut self) {
        self.merge.take().map(JoinHandle::join);
    }
}

/// Writes out what is in memory, which lets old journals go, and merges all that the queues have.
fn merge(database: &Database, [records, queues]: &[Keyspace; 2]) -> Result<(), EngineError> {
    write_out(database, &[records, queues])?;
    queues.major_compact()?;
    // The files that were merged go when memory is next written out, so there has to be something
    // that can be. And fjall keeps a journal until each tree has a table newer than what the journal
    // holds of it, which a tree that was merged to nothing never has.
    for tree in [records, queues] {
        tree.insert(keys::of_meta(MERGED), encoding::nothing())?;
    }
    write_out(database, &[records, queues])
}

fn write_out(database: &Database, trees: &[&Keyspace]) -> Result<(), EngineError> {
    for tree in trees {
        tree.rotate_memtable()?;
    }
    while trees.iter().any(|tree| tree.sealed_memtable_count() > 0) {
        // The way to learn that one of its threads has failed.
        database.persist(PersistMode::Buffer)?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

impl From<fjall::Error> for EngineError {
    fn from(error: fjall::Error) -> Self {
        use fjall::{Error, LsmError};
        match error {
            Error::Io(error) | Error::Storage(LsmError::Io(error)) => Self::Io(error),
            Error::Poisoned => Self::Failed("see what the engine logged".to_owned()),
            other => Self::Damaged(other.to_string()),
        }
    }
}
