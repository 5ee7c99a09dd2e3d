//! Counters of one shard, without locks, shared cache lines or read-modify-write operations.
//!
//! Every [`ShardStats`] has one writer, its shard; anybody may read, at any time and without a
//! consistent cut. What needs a figure for the whole broker sums them up with [`sum`]. Each value
//! has a name and a text, so that a list of all of them ([`Totals::each`]) is also the list of
//! metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, written by one thread. Wraps at 2^64.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. For the one writer only: two would lose each other's additions.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks, written by one thread.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds `n`. For the one writer only.
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Takes `n` away. For the one writer only.
    pub fn sub(&self, n: u64) {
        self.set(self.get().wrapping_sub(n));
    }

    /// Replaces the value. For the one writer only.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A set of reasons to count by.
pub trait Reason: Copy + 'static {
    /// All of them, each at the index that [`index`](Self::index) gives.
    const ALL: &'static [Self];
    /// The place in [`ALL`](Self::ALL).
    fn index(self) -> usize;
    /// A name for metrics: lower case with underscores.
    fn name(self) -> &'static str;
    /// What it means, in a few words.
    fn text(self) -> &'static str;
}
