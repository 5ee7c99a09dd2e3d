//! An engine in memory that fails when it is told to, loses what was not synced when it crashes, and
//! panics when it is used in a way that a real one need not stand.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::store::engine::{Engine, EngineError, Scan, Write};
use crate::store::{Durability, Store, StoreSettings, create, keys};

/// What an engine in memory keeps when it is closed.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    entries: BTreeMap<Vec<u8>, Entry>,
    /// As a crash of the machine leaves it.
    synced: BTreeMap<Vec<u8>, Entry>,
    /// All sets of writes, oldest first.
    pub(super) written: Vec<Vec<Write>>,
    pub(super) syncs: usize,
    /// Fail the write that comes after so many.
    pub(super) fail_write_after: Option<usize>,
    /// Fail the sync that comes after so many.
    pub(super) fail_sync_after: Option<usize>,
    /// Panic at the next write.
    pub(super) panics: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    value: Vec<u8>,
    /// Times that it was put since it was not there.
    puts: usize,
}

impl Disk {
    /// A disk with an empty store on it.
    pub(super) fn new() -> Self {
        let disk = Self::default();
        create(&mut disk.clone()).unwrap();
        disk.state().written.clear();
        disk.state().syncs = 0;
        disk
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn open(&self, durability: Durability) -> Store {
        let path = "nowhere".into();
        let settings =
            StoreSettings { path, durability, max_backlog_bytes: usize::MAX, salvage: false };
        Store::with_engine(settings, Box::new(self.clone()), None).unwrap()
    }

    /// Forgets what was not synced.
    pub(super) fn lose_power(&self) {
        let mut state = self.state();
        state.entries = state.synced.clone();
    }

    /// The keys that there are.
    pub(super) fn keys(&self) -> Vec<Vec<u8>> {
        self.state().entries.keys().cloned().collect()
    }

    /// Replaces what is there under a key.
    pub(super) fn spoil(&self, key: &[u8], value: &[u8]) {
        let mut state = self.state();
        state.entries.get_mut(key).unwrap().value = value.to_vec();
        state.synced = state.entries.clone();
    }
}

fn count_down(counter: &mut Option<usize>) -> Result<(), EngineError> {
    match counter {
        Some(0) => Err(EngineError::Io(io::Error::from(io::ErrorKind::StorageFull))),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

impl Engine for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.state().entries.get(key).map(|entry| Bytes::from(entry.value.clone()));
        Ok(value)
    }

    fn scan(&self, range: Range<Vec<u8>>) -> Scan<'_> {
        assert_eq!(range.start[0], range.end[0].min(range.start[0]), "{range:?}");
        let entry = |(key, entry): (&Vec<u8>, &Entry)| {
            Ok((Bytes::from(key.clone()), Bytes::from(entry.value.clone())))
        };
        let entries: Vec<_> = self.state().entries.range(range).map(entry).collect();
        Box::new(entries.into_iter())
    }

    fn write(&mut self, writes: Vec<Write>) -> Result<(), EngineError> {
        let mut state = self.state();
        count_down(&mut state.fail_write_after)?;
        let panics = state.panics;
        if panics {
            drop(state);
            panic!("as told");
        }
        let mut named = std::collections::HashSet::new();
        for write in &writes {
            let (Write::Put(key, _) | Write::Remove(key) | Write::RemoveOnce(key)) = write;
            assert!(named.insert(key.clone()), "{write:?} is not the only write of its key");
            match write {
                Write::Put(key, value) => {
                    let entry = state.entries.entry(key.clone()).or_default();
                    *entry = Entry { value: value.clone(), puts: entry.puts + 1 };
                }
                Write::Remove(key) => _ = state.entries.remove(key),
                Write::RemoveOnce(key) => {
                    let puts = state.entries.remove(key).map(|entry| entry.puts);
                    assert_eq!(puts, Some(1), "{write:?}");
                }
            }
        }
        state.written.push(writes);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        let mut state = self.state();
        count_down(&mut state.fail_sync_after)?;
        state.syncs += 1;
        state.synced = state.entries.clone();
        Ok(())
    }

    fn upkeep(&mut self, deliveries: usize) -> Result<bool, EngineError> {
        let is_delivery = |key: &&Vec<u8>| key[0] == keys::DELIVERY;
        assert_eq!(self.state().entries.keys().filter(is_delivery).count(), deliveries);
        Ok(false)
    }
}
