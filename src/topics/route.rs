//! Which shards want a topic.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use super::segments::{SegmentCache, Segments};
use super::shape::{FilterKey, HashSeed, LevelHashes, Shape};
use super::shape_slots::ShapeSlots;
use super::shard_set::{MAX_SHARDS, ShardId, ShardSet, WORDS};
use super::slots::Slots;

/// So many that making one anew, when it has become full, takes a fraction of a millisecond with
/// millions of filters.
const SEGMENTS: usize = 128;
const SEGMENT_BITS: u32 = SEGMENTS.trailing_zeros();

/// The table that tells for a topic which shards have a filter that matches. One shard makes it,
/// every other shard gets a clone: clones are one table. Reading takes no lock, but for the moment
/// after a segment was made anew.
///
/// It knows fingerprints, no filters: it may name a shard that has no matching filter, which costs
/// a wasted message, but it never leaves one out. A shard sets its mark before it acknowledges a
/// subscription, so a publish that follows the SUBACK is always seen. A mark takes 8 bytes in a
/// table that is between half and three quarters full: 11 to 16 bytes for a filter of one shard.
///
/// Beyond `max_shapes` wildcard shapes, and for filters without a shape, a shard gets everything.
#[derive(Debug)]
pub struct RouteTable {
    shared: Arc<Shared>,
    cache: RefCell<SegmentCache<Slots>>,
}

#[derive(Debug)]
struct Shared {
    seed: HashSeed,
    shapes: ShapeSlots,
    /// The marks by the high bits of their fingerprints.
    marks: Segments<Slots>,
    everything: Everything,
}

/// The shards that get every topic.
#[derive(Debug)]
struct Everything {
    /// The words of a [`ShardSet`].
    shards: CachePadded<[AtomicU64; WORDS]>,
    /// For every shard, how many of its filters make it get everything. Only the shard itself
    /// writes its counter.
    filters: Box<[CachePadded<AtomicU32>]>,
}

impl RouteTable {
    /// An empty table. The seed must be that of the shards' filter indexes.
    #[must_use]
    pub fn new(seed: HashSeed, max_shapes: usize) -> Self {
        let shared = Shared {
            seed,
            shapes: ShapeSlots::new(max_shapes),
            marks: Segments::new(SEGMENTS),
            everything: Everything {
                shards: CachePadded::default(),
                filters: (0..MAX_SHARDS).map(|_| CachePadded::default()).collect(),
            },
        };
        let cache = RefCell::new(shared.marks.cache());
        Self { shared: Arc::new(shared), cache }
    }

    /// Adds a shard under a key that [`FilterIndex::subscribe`](super::FilterIndex::subscribe)
    /// reported as the first. To be called by the shard itself, before the SUBACK.
    pub fn add(&self, shard: ShardId, key: &FilterKey) {
        let Shared { shapes, marks, everything, .. } = &*self.shared;
        match key.shape {
            Some(shape) if !shape.is_wildcard() || shapes.acquire(shard, shape) => {
                marks.change(segment(key.fingerprint), |slots| {
                    (slots.add(key.fingerprint, shard), ())
                });
            }
            _ => everything.add(shard),
        }
    }

    /// Removes a shard under a key that
    /// [`FilterIndex::unsubscribe`](super::FilterIndex::unsubscribe) reported as the last. To be
    /// called by the shard itself.
    pub fn remove(&self, shard: ShardId, key: &FilterKey) {
        let Shared { shapes, marks, everything, .. } = &*self.shared;
        let Some(shape) = key.shape else { return everything.remove(shard) };
        let marked = marks.change(segment(key.fingerprint), |slots| {
            match slots.remove(key.fingerprint, shard) {
                Some(new) => (new, true),
                None => (None, false),
            }
        });
        // Without a mark of its own, the filter came when all shapes were taken. Should it have
        // taken away the mark of another filter with its fingerprint, then the shard goes on to
        // get everything in that filter's stead.
        if marked != Some(true) {
            everything.remove(shard);
        } else if shape.is_wildcard() {
            shapes.release(shard, shape);
        }
    }

    /// The shards that may have a filter that matches a valid topic name.
    #[inline]
    #[must_use]
    pub fn shards_for(&self, topic: &str) -> ShardSet {
        let Shared { seed, shapes, marks, everything } = &*self.shared;
        let mut cache = self.cache.borrow_mut();
        let mut shards = everything.shards();
        let mut look_up = |fingerprint: u64| {
            if let Some(slots) = marks.read(segment(fingerprint), &mut cache) {
                shards = shards.union(slots.shards(fingerprint));
            }
        };
        look_up(seed.hash(topic));
        for_each_fingerprint(shapes, seed, topic, |_, fingerprint| look_up(fingerprint));
        shards
    }

    /// Lets go of memory that other shards have replaced since this one looked last. To be called
    /// now and then by shards that are idle.
    pub fn refresh(&self) {
        self.shared.marks.refresh(&mut self.cache.borrow_mut());
    }

    /// Lets go of the memory of segments that have no mark any more; other shards have a part in it
    /// until they call this, or look into those segments.
    pub fn shrink(&self) {
        self.shared.marks.reset(|slots| slots.len() == 0);
        self.refresh();
    }

    /// The number of marks: different fingerprints, counted once for every shard.
    #[must_use]
    pub fn len(&self) -> usize {
        let mut len = 0;
        self.shared.marks.for_each(|slots| len += slots.len());
        len
    }

    /// Whether no shard is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.everything().is_empty()
    }

    /// The shards that get every topic.
    #[must_use]
    pub fn everything(&self) -> ShardSet {
        self.shared.everything.shards()
    }
}

impl Clone for RouteTable {
    fn clone(&self) -> Self {
        let shared = Arc::clone(&self.shared);
        Self { cache: RefCell::new(shared.marks.cache()), shared }
    }
}

impl Everything {
    #[inline]
    fn shards(&self) -> ShardSet {
        ShardSet::from_words(self.shards.each_ref().map(|word| word.load(Ordering::Acquire)))
    }

    fn add(&self, shard: ShardId) {
        let Some(count) = self.filters.get(shard.index()) else { return };
        let before = count.load(Ordering::Relaxed);
        count.store(before + 1, Ordering::Relaxed);
        if before == 0 {
            for (word, bits) in self.shards.iter().zip(ShardSet::only(shard).words()) {
                word.fetch_or(bits, Ordering::AcqRel);
            }
        }
    }

    fn remove(&self, shard: ShardId) {
        let Some(count) = self.filters.get(shard.index()) else { return };
        let before = count.load(Ordering::Relaxed);
        debug_assert!(before > 0, "removed without having been added");
        count.store(before.saturating_sub(1), Ordering::Relaxed);
        if before == 1 {
            for (word, bits) in self.shards.iter().zip(ShardSet::only(shard).words()) {
                word.fetch_and(!bits, Ordering::AcqRel);
            }
        }
    }
}

/// The segment that a fingerprint's marks are in. The slots use the lower bits.
#[inline]
fn segment(fingerprint: u64) -> usize {
    (fingerprint >> (u64::BITS - SEGMENT_BITS)) as usize
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

#[cfg(test)]
mod tests;
