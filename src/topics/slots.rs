//! One segment of the route table: a hash table in atomic words.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::shard_set::{MAX_SHARDS, ShardId, ShardSet};

const SHARD_BITS: u32 = MAX_SHARDS.trailing_zeros();
const SHARD_MASK: u64 = MAX_SHARDS as u64 - 1;
const _: () = assert!(MAX_SHARDS.is_power_of_two(), "a word has whole bits for the shard");

const EMPTY: u64 = 0;
const REMOVED: u64 = 1;
const MIN_WORDS: usize = 8;

/// Pairs of a fingerprint and a shard, 8 bytes each: the shard in the low 8 bits of the word, of
/// the fingerprint the high 56 bits. Two fingerprints that differ in the low bits only are taken
/// for one, which at worst adds a shard to an answer.
///
/// One writer at a time, and any number of readers meanwhile. A pair never moves, so no reader
/// can miss one that is there all the time. When the words get full, the writer makes new ones.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Linear probing; there is always an empty word to stop at, unless there are no words.
    words: Box<[AtomicU64]>,
    pairs: AtomicUsize,
    /// Words that are not empty: pairs and removed ones.
    used: AtomicUsize,
}

impl Slots {
    /// The shards that have a fingerprint.
    #[inline]
    pub(super) fn shards(&self, fingerprint: u64) -> ShardSet {
        let tag = tag(fingerprint);
        let mut shards = ShardSet::EMPTY;
        for word in self.probe(tag) {
            let word = word.load(Ordering::Acquire);
            if word == EMPTY {
                break;
            }
            if word >> SHARD_BITS == tag {
                shards.insert(ShardId((word & SHARD_MASK) as u16));
            }
        }
        shards
    }

    /// Adds a pair, even if it is there; gives new slots when these are full.
    pub(super) fn add(&self, fingerprint: u64, shard: ShardId) -> Option<Self> {
        let word = pair(fingerprint, shard);
        if (self.used.load(Ordering::Relaxed) + 1) * 4 <= self.words.len() * 3 {
            self.put(word);
            return None;
        }
        let new = self.rebuilt(1);
        new.put(word);
        Some(new)
    }

    /// Removes a pair once. `None` when it is not there; else perhaps new slots, for these have
    /// become too large.
    pub(super) fn remove(&self, fingerprint: u64, shard: ShardId) -> Option<Option<Self>> {
        let wanted = pair(fingerprint, shard);
        let mut probe = self.probe(tag(fingerprint));
        let slot = probe
            .by_ref()
            .map(|slot| (slot, slot.load(Ordering::Relaxed)))
            .take_while(|&(_, word)| word != EMPTY)
            .find(|&(_, word)| word == wanted)?
            .0;
        let is_last = probe.next().is_some_and(|next| next.load(Ordering::Relaxed) == EMPTY);
        slot.store(if is_last { EMPTY } else { REMOVED }, Ordering::Release);
        self.used.fetch_sub(usize::from(is_last), Ordering::Relaxed);
        let pairs = self.pairs.fetch_sub(1, Ordering::Relaxed) - 1;
        let too_large = self.words.len() > MIN_WORDS && pairs * 8 < self.words.len();
        Some(too_large.then(|| self.rebuilt(0)))
    }

    /// The number of pairs.
    pub(super) fn len(&self) -> usize {
        self.pairs.load(Ordering::Relaxed)
    }

    /// The words in the order in which a pair with this tag looks for a place.
    #[inline]
    fn probe(&self, tag: u64) -> impl Iterator<Item = &AtomicU64> {
        let home = ((tag & u64::from(u32::MAX)) * self.words.len() as u64) >> 32;
        let (before, from) = self.words.split_at_checked(home as usize).unwrap_or_default();
        from.iter().chain(before)
    }

    fn put(&self, word: u64) {
        for slot in self.probe(word >> SHARD_BITS) {
            let old = slot.load(Ordering::Relaxed);
            if old == EMPTY || old == REMOVED {
                slot.store(word, Ordering::Release);
                self.used.fetch_add(usize::from(old == EMPTY), Ordering::Relaxed);
                self.pairs.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// A copy that is half full with so many pairs more.
    fn rebuilt(&self, more: usize) -> Self {
        let words = match (self.len() + more) * 2 {
            0 => 0,
            words => words.max(MIN_WORDS),
        };
        let words = (0..words).map(|_| AtomicU64::new(EMPTY)).collect();
        let new = Self { words, pairs: AtomicUsize::new(0), used: AtomicUsize::new(0) };
        for word in self.words.iter().map(|word| word.load(Ordering::Relaxed)) {
            if word != EMPTY && word != REMOVED {
                new.put(word);
            }
        }
        new
    }
}

/// What of a fingerprint is kept; never 0, which the words that are no pair have.
#[inline]
fn tag(fingerprint: u64) -> u64 {
    (fingerprint >> SHARD_BITS).max(1)
}

fn pair(fingerprint: u64, shard: ShardId) -> u64 {
    tag(fingerprint) << SHARD_BITS | (u64::from(shard.0) & SHARD_MASK)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_follow_a_model(
            steps in vec((any::<bool>(), 0..40u64, 0..4u16), 1..600), low_bits in 0..128u64,
        ) {
            let fingerprint = |number: u64| {
                // Neighbours, some at the very end, so that probes run together and wrap around.
                (number.wrapping_neg() << 33 | number << 7) & !0x7F | low_bits
            };
            let (mut slots, mut model) = (Slots::default(), BTreeMap::<(u64, u16), usize>::new());
            for (add, number, shard) in steps {
                let count = model.entry((number, shard)).or_default();
                if add {
                    *count += 1;
                    if let Some(new) = slots.add(fingerprint(number), ShardId(shard)) {
                        slots = new;
                    }
                } else {
                    let removed = slots.remove(fingerprint(number), ShardId(shard));
                    prop_assert_eq!(removed.is_some(), *count > 0);
                    *count = count.saturating_sub(1);
                    if let Some(Some(new)) = removed {
                        slots = new;
                    }
                }
                prop_assert_eq!(slots.len(), model.values().sum::<usize>());
                let words = || slots.words.iter().map(|word| word.load(Ordering::Relaxed));
                let used = words().filter(|&word| word != EMPTY).count();
                prop_assert_eq!(slots.used.load(Ordering::Relaxed), used);
                prop_assert!(slots.words.is_empty() || used < slots.words.len());
                for number in 0..40 {
                    let shards = slots.shards(fingerprint(number));
                    for shard in 0..4 {
                        let there = model.get(&(number, shard)).is_some_and(|&count| count > 0);
                        prop_assert_eq!(shards.contains(ShardId(shard)), there);
                    }
                }
            }
        }
    }
}
