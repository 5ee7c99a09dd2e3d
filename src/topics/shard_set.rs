//! Shards by number, and small sets of them.

use std::fmt;

/// The most shards one process can have. One shard is one thread, so this is far above the cores
/// of the servers this is for; trials with many descriptor tables use over a hundred.
pub const MAX_SHARDS: usize = 128;

const WORD_BITS: u16 = 64;
const _: () = assert!(MAX_SHARDS == 2 * WORD_BITS as usize, "ShardSet holds two words");

/// The number of a shard, counted from 0, below [`MAX_SHARDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The number as an index into a slice with one element per shard.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of shards: one bit each. Numbers from [`MAX_SHARDS`] up are never members.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ShardSet([u64; 2]);

impl ShardSet {
    /// The set without members.
    pub const EMPTY: Self = Self([0; 2]);

    /// The set of one shard.
    #[must_use]
    pub const fn only(shard: ShardId) -> Self {
        match shard.0 {
            bit @ 0..64 => Self([1 << bit, 0]),
            bit @ 64..128 => Self([0, 1 << (bit - WORD_BITS)]),
            _ => Self::EMPTY,
        }
    }

    /// A set from its two words; bit `n` of word `w` is shard `64 * w + n`.
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// The two words of the set.
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        self.0
    }

    /// Adds a shard; says whether it is new.
    pub const fn insert(&mut self, shard: ShardId) -> bool {
        let new = !self.contains(shard);
        *self = self.union(Self::only(shard));
        new
    }

    /// Takes a shard out; says whether it was a member.
    pub const fn remove(&mut self, shard: ShardId) -> bool {
        let was = self.contains(shard);
        *self = self.difference(Self::only(shard));
        was
    }

    /// Whether the shard is a member.
    #[must_use]
    pub const fn contains(self, shard: ShardId) -> bool {
        !self.intersection(Self::only(shard)).is_empty()
    }

    /// Whether there is no member.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        let [low, high] = self.0;
        low | high == 0
    }

    /// The number of members.
    #[must_use]
    pub const fn len(self) -> usize {
        let [low, high] = self.0;
        (low.count_ones() + high.count_ones()) as usize
    }

    /// The members of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, other.0);
        Self([a | c, b | d])
    }

    /// The members of both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, other.0);
        Self([a & c, b & d])
    }

    /// The members of this set that are not in the other.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        let ([a, b], [c, d]) = (self.0, other.0);
        Self([a & !c, b & !d])
    }

    /// The members in ascending order.
    #[must_use]
    pub const fn iter(self) -> Iter {
        Iter(self)
    }
}

impl IntoIterator for ShardSet {
    type Item = ShardId;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> Self {
        let mut set = Self::EMPTY;
        for shard in shards {
            set.insert(shard);
        }
        set
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|shard| shard.0)).finish()
    }
}

/// The members of a [`ShardSet`], ascending.
#[derive(Debug, Clone)]
pub struct Iter(ShardSet);

impl Iterator for Iter {
    type Item = ShardId;

    fn next(&mut self) -> Option<ShardId> {
        let [low, high] = &mut self.0.0;
        let (word, base) = if *low != 0 { (low, 0) } else { (high, WORD_BITS) };
        if *word == 0 {
            return None;
        }
        let bit = word.trailing_zeros() as u16;
        *word &= *word - 1;
        Some(ShardId(base + bit))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.len(), Some(self.0.len()))
    }
}

impl ExactSizeIterator for Iter {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_beyond_the_last_shard_are_never_members() {
        let mut set = ShardSet::EMPTY;
        assert!(set.insert(ShardId(127)));
        for shard in [128, 129, 191, 192, u16::MAX] {
            set.insert(ShardId(shard));
            assert!(!set.contains(ShardId(shard)));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [ShardId(127)]);
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in prop::collection::vec((any::<bool>(), 0u16..128), 0..200)) {
            let (mut set, mut model) = (ShardSet::EMPTY, BTreeSet::new());
            for (add, shard) in steps {
                if add {
                    prop_assert_eq!(set.insert(ShardId(shard)), model.insert(shard));
                } else {
                    prop_assert_eq!(set.remove(ShardId(shard)), model.remove(&shard));
                }
                prop_assert_eq!(set.len(), model.len());
                prop_assert_eq!(set.is_empty(), model.is_empty());
                prop_assert_eq!(set.contains(ShardId(shard)), add);
            }
            let members: Vec<u16> = set.iter().map(|shard| shard.0).collect();
            prop_assert_eq!(members, model.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(set.iter().collect::<ShardSet>(), set);
            prop_assert_eq!(ShardSet::from_words(set.words()), set);
        }
    }
}
