//! The wildcard shapes in use by any shard, readable without a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam_utils::CachePadded;

use super::shape::Shape;
use super::shard_set::{MAX_SHARDS, ShardId};

const SHARDS_BITS: u32 = 9;
const SHARDS_MASK: u64 = (1 << SHARDS_BITS) - 1;

const _: () = assert!(MAX_SHARDS <= SHARDS_MASK as usize, "a slot counts the shards that hold it");
const _: () = assert!(Shape::BITS + SHARDS_BITS <= u64::BITS, "shape and count share one word");

/// A fixed number of slots, each with a shape and the number of shards that hold it.
///
/// How many filters of a shape a shard has is counted apart, in counters that only that shard
/// writes, so that the slots, which every publish reads, change only with a shard's first and last
/// filter of a shape.
#[derive(Debug)]
pub(super) struct ShapeSlots {
    /// The shape in the high bits and the number of shards in the low ones; 0 is free.
    slots: Box<[AtomicU64]>,
    /// The slots from here on have never been used. It never shrinks.
    used: CachePadded<AtomicUsize>,
    /// Held while a shard takes a slot, so that no shape gets two of them: a group that is found
    /// under both would be given a message twice. Taken at a shard's first filter of a shape.
    taking: Mutex<()>,
    /// For every shard, its filters by slot.
    filters: Box<[CachePadded<Box<[AtomicU32]>>]>,
}

impl ShapeSlots {
    pub(super) fn new(max_shapes: usize) -> Self {
        let counters = || CachePadded::new((0..max_shapes).map(|_| AtomicU32::new(0)).collect());
        Self {
            slots: (0..max_shapes).map(|_| AtomicU64::new(0)).collect(),
            used: CachePadded::new(AtomicUsize::new(0)),
            taking: Mutex::new(()),
            filters: (0..MAX_SHARDS).map(|_| counters()).collect(),
        }
    }

    /// Counts one more filter of a wildcard shape on a shard; false when all slots are taken.
    ///
    /// Called by the shard itself, as is [`ShapeSlots::release`].
    pub(super) fn acquire(&self, shard: ShardId, shape: Shape) -> bool {
        let Some(filters) = self.filters.get(shard.index()) else { return false };
        if let Some((_, count)) = self.held(filters, shape) {
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return true;
        }
        let Some(at) = self.take_slot(shape) else { return false };
        self.used.fetch_max(at + 1, Ordering::AcqRel);
        if let Some(count) = filters.get(at) {
            count.store(1, Ordering::Relaxed);
        }
        true
    }

    /// Counts one filter less, after an [`ShapeSlots::acquire`] that found a slot.
    pub(super) fn release(&self, shard: ShardId, shape: Shape) {
        let Some(filters) = self.filters.get(shard.index()) else { return };
        let Some((slot, count)) = self.held(filters, shape) else { return };
        let left = count.load(Ordering::Relaxed) - 1;
        count.store(left, Ordering::Relaxed);
        if left == 0 {
            // The closure always gives a value, so there is nothing to report.
            let _ = slot.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |old| {
                Some(if old & SHARDS_MASK > 1 { old - 1 } else { 0 })
            });
        }
    }

    /// The shapes in use, each once. One that is taken or freed meanwhile is among them or not.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = Shape> + Clone {
        let used = self.used.load(Ordering::Acquire);
        let words = self.slots.iter().take(used).map(|slot| slot.load(Ordering::Acquire));
        words.filter(|&word| word != 0).map(shape_in)
    }

    /// The slot of a shape that the shard with these counters holds, and its counter.
    fn held<'a>(
        &'a self,
        filters: &'a [AtomicU32],
        shape: Shape,
    ) -> Option<(&'a AtomicU64, &'a AtomicU32)> {
        self.slots.iter().zip(filters).find(|(slot, count)| {
            count.load(Ordering::Relaxed) > 0 && shape_in(slot.load(Ordering::Relaxed)) == shape
        })
    }

    /// Adds a shard to the slot of a shape, or takes a free one; gives its index.
    fn take_slot(&self, shape: Shape) -> Option<usize> {
        let words = || self.slots.iter().map(|slot| slot.load(Ordering::Acquire)).enumerate();
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let shared = words().find(|&(_, word)| word != 0 && shape_in(word) == shape);
            let (at, old) = shared.or_else(|| words().find(|&(_, word)| word == 0))?;
            let new = if old == 0 { (shape.bits() << SHARDS_BITS) | 1 } else { old + 1 };
            let slot = self.slots.get(at)?;
            if slot.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Some(at);
            }
        }
    }
}

fn shape_in(word: u64) -> Shape {
    Shape::from_bits(word >> SHARDS_BITS)
}
