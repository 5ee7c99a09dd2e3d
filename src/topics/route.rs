//! Which shards want a topic.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use papaya::{Compute, HashMap, Operation};

use super::shape::{FilterKey, HashSeed, LevelHashes, Shape};
use super::shape_slots::ShapeSlots;
use super::shard_set::{MAX_SHARDS, ShardId, ShardSet};

/// A map by fingerprints, which are hashes already.
pub(super) type ByFingerprint<V> = HashMap<u64, V, BuildHasherDefault<Fingerprint>>;

/// The table, shared by all shards, that tells for a topic which shards have a filter that
/// matches. Reading takes no lock.
///
/// It knows fingerprints, no filters: it may name a shard that has no matching filter, which costs
/// a wasted message, but it never leaves one out. A shard sets its mark before it acknowledges a
/// subscription, so a publish that follows the SUBACK is always seen.
///
/// Beyond `max_shapes` wildcard shapes, and for filters without a shape, a shard gets everything.
#[derive(Debug)]
pub struct RouteTable {
    seed: HashSeed,
    shapes: ShapeSlots,
    routes: ByFingerprint<ShardSet>,
    /// The shards that get every topic, as the words of a [`ShardSet`].
    everything: CachePadded<[AtomicU64; 2]>,
    /// For every shard, how many of its filters make it get everything. Only the shard itself
    /// writes its counter.
    everything_filters: Box<[CachePadded<AtomicU32>]>,
}

impl RouteTable {
    /// An empty table. The seed must be that of the shards' filter indexes.
    #[must_use]
    pub fn new(seed: HashSeed, max_shapes: usize) -> Self {
        Self {
            seed,
            shapes: ShapeSlots::new(max_shapes),
            routes: HashMap::default(),
            everything: CachePadded::default(),
            everything_filters: (0..MAX_SHARDS).map(|_| CachePadded::default()).collect(),
        }
    }

    /// Adds a shard under a key that [`FilterIndex::subscribe`](super::FilterIndex::subscribe)
    /// reported as the first. To be called by the shard itself, before the SUBACK.
    pub fn add(&self, shard: ShardId, key: &FilterKey) {
        let Some(shape) = key.shape else { return self.add_everything(shard) };
        if shape.is_wildcard() && !self.shapes.acquire(shard, shape) {
            return self.add_everything(shard);
        }
        let routes = self.routes.pin();
        let outcome = routes.compute(key.fingerprint, |entry| {
            let mut shards = entry.map_or(ShardSet::EMPTY, |(_, shards)| *shards);
            if shards.insert(shard) { Operation::Insert(shards) } else { Operation::Abort(()) }
        });
        if let Compute::Aborted(()) = outcome {
            // Two filters of different shapes with one fingerprint. One of them holds the mark,
            // the other makes the shard get everything; which is which does not matter when they
            // go. The shape of the one that goes last stays taken, for good.
            self.add_everything(shard);
        }
    }

    /// Removes a shard under a key that
    /// [`FilterIndex::unsubscribe`](super::FilterIndex::unsubscribe) reported as the last. To be
    /// called by the shard itself.
    pub fn remove(&self, shard: ShardId, key: &FilterKey) {
        let Some(shape) = key.shape else { return self.remove_everything(shard) };
        let routes = self.routes.pin();
        let outcome = routes.compute(key.fingerprint, |entry| {
            let Some((_, &(mut shards))) = entry else { return Operation::Abort(()) };
            match (shards.remove(shard), shards.is_empty()) {
                (false, _) => Operation::Abort(()),
                (true, false) => Operation::Insert(shards),
                (true, true) => Operation::Remove,
            }
        });
        match outcome {
            Compute::Aborted(()) => self.remove_everything(shard),
            _ if shape.is_wildcard() => self.shapes.release(shard, shape),
            _ => {}
        }
    }

    /// The shards that may have a filter that matches a valid topic name.
    #[inline]
    #[must_use]
    pub fn shards_for(&self, topic: &str) -> ShardSet {
        let [low, high] = &*self.everything;
        let mut shards =
            ShardSet::from_words([low.load(Ordering::Acquire), high.load(Ordering::Acquire)]);
        let routes = self.routes.pin();
        if let Some(exact) = routes.get(&self.seed.hash(topic)) {
            shards = shards.union(*exact);
        }
        for_each_fingerprint(&self.shapes, &self.seed, topic, |_, fingerprint| {
            if let Some(found) = routes.get(&fingerprint) {
                shards = shards.union(*found);
            }
        });
        shards
    }

    /// The number of different fingerprints, over all shards.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether no shard is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.everything().is_empty()
    }

    /// The shards that get every topic.
    #[must_use]
    pub fn everything(&self) -> ShardSet {
        let [low, high] = &*self.everything;
        ShardSet::from_words([low.load(Ordering::Acquire), high.load(Ordering::Acquire)])
    }

    fn add_everything(&self, shard: ShardId) {
        let Some(count) = self.everything_filters.get(shard.index()) else { return };
        let before = count.load(Ordering::Relaxed);
        count.store(before + 1, Ordering::Relaxed);
        if before == 0 {
            for (word, bits) in self.everything.iter().zip(ShardSet::only(shard).words()) {
                word.fetch_or(bits, Ordering::AcqRel);
            }
        }
    }

    fn remove_everything(&self, shard: ShardId) {
        let Some(count) = self.everything_filters.get(shard.index()) else { return };
        let before = count.load(Ordering::Relaxed);
        debug_assert!(before > 0, "removed without having been added");
        count.store(before.saturating_sub(1), Ordering::Relaxed);
        if before == 1 {
            for (word, bits) in self.everything.iter().zip(ShardSet::only(shard).words()) {
                word.fetch_and(!bits, Ordering::AcqRel);
            }
        }
    }
}

/// Calls back with every wildcard shape in use of which a filter can match the topic, and the
/// fingerprint that it must have.
#[inline]
pub(super) fn for_each_fingerprint(
    shapes: &ShapeSlots,
    seed: &HashSeed,
    topic: &str,
    mut found: impl FnMut(Shape, u64),
) {
    let shapes = shapes.iter();
    let Some(deepest) = shapes.clone().map(|shape| shape.levels()).max() else { return };
    let levels = LevelHashes::of(seed, topic, deepest);
    for shape in shapes {
        if shape.levels() <= deepest
            && let Some(fingerprint) = levels.fingerprint(shape)
        {
            found(shape, fingerprint);
        }
    }
}

/// The hash of a fingerprint: itself.
#[derive(Debug, Default)]
pub(super) struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only `u64` keys are hashed; anything else still has to be hashed somehow.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    #[inline]
    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}

#[cfg(test)]
mod tests;
