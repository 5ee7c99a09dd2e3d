//! The engines behind one interface, each set up as the broker would: no compression, every commit
//! synced, about the same memory.

use std::path::Path;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{Durability, ReadableDatabase, TableDefinition};

/// One write.
pub enum Op {
    Put(Vec<u8>, Vec<u8>),
    /// Of a key that was put once.
    Remove(Vec<u8>),
}

pub trait Engine {
    /// Makes all of these writes, and syncs.
    fn commit(&mut self, ops: Vec<Op>);
    /// Calls `each` with the keys that begin with `prefix`, and reads their values, up to `limit`.
    fn scan(&mut self, prefix: &[u8], limit: usize, each: &mut dyn FnMut(&[u8]));
    /// Gives back what it can of the disk.
    fn compact(&mut self);
}

/// Memory for blocks.
pub const CACHE: usize = 64 << 20;

pub struct Fjall {
    database: Database,
    tree: Keyspace,
}

impl Fjall {
    pub fn open(path: &Path) -> Self {
        let database = Database::builder(path)
            .cache_size(CACHE as u64)
            .max_journaling_size(64 << 20)
            .worker_threads(2)
            .open()
            .unwrap();
        let tree = database.keyspace("queues", KeyspaceCreateOptions::default).unwrap();
        Self { database, tree }
    }
}

impl Engine for Fjall {
    fn commit(&mut self, ops: Vec<Op>) {
        let mut batch = self.database.batch();
        for op in ops {
            match op {
                Op::Put(key, value) => batch.insert(&self.tree, key, value),
                Op::Remove(key) => batch.remove_weak(&self.tree, key),
            }
        }
        batch.commit().unwrap();
        self.database.persist(PersistMode::SyncData).unwrap();
    }

    fn scan(&mut self, prefix: &[u8], limit: usize, each: &mut dyn FnMut(&[u8])) {
        for entry in self.tree.prefix(prefix).take(limit) {
            let (key, value) = entry.into_inner().unwrap();
            std::hint::black_box(value);
            each(&key);
        }
    }

    fn compact(&mut self) {
        self.rotate();
        self.tree.major_compact().unwrap();
        // The files that were merged go with the next memtable.
        self.tree.insert("merged", "").unwrap();
        self.rotate();
    }
}

impl Fjall {
    fn rotate(&self) {
        self.tree.rotate_memtable().unwrap();
        while self.tree.sealed_memtable_count() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("queues");

pub struct Redb {
    database: redb::Database,
}

impl Redb {
    pub fn open(path: &Path) -> Self {
        let database =
            redb::Database::builder().set_cache_size(2 * CACHE).create(path.join("redb")).unwrap();
        Self { database }
    }
}

impl Engine for Redb {
    fn commit(&mut self, ops: Vec<Op>) {
        let mut transaction = self.database.begin_write().unwrap();
        transaction.set_durability(Durability::Immediate).unwrap();
        {
            let mut table = transaction.open_table(TABLE).unwrap();
            for op in ops {
                match op {
                    Op::Put(key, value) => _ = table.insert(&key[..], &value[..]).unwrap(),
                    Op::Remove(key) => _ = table.remove(&key[..]).unwrap(),
                }
            }
        }
        transaction.commit().unwrap();
    }

    fn scan(&mut self, prefix: &[u8], limit: usize, each: &mut dyn FnMut(&[u8])) {
        let transaction = self.database.begin_read().unwrap();
        let table = transaction.open_table(TABLE).unwrap();
        for entry in table.range(prefix..).unwrap().take(limit) {
            let (key, value) = entry.unwrap();
            if !key.value().starts_with(prefix) {
                break;
            }
            std::hint::black_box(value.value());
            each(key.value());
        }
    }

    fn compact(&mut self) {
        while self.database.compact().unwrap() {}
    }
}
