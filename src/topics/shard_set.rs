//! Shards by number, and small sets of them.

use std::fmt;

/// The most shards one process can have. One shard is one thread, so this is far above the cores
/// of the servers this is for; trials with many small descriptor tables use over a hundred.
pub const MAX_SHARDS: usize = 256;

const WORD_BITS: u16 = 64;
/// The words of a set.
pub(super) const WORDS: usize = MAX_SHARDS / WORD_BITS as usize;
const _: () = assert!(MAX_SHARDS == WORDS * WORD_BITS as usize, "a set has whole words");

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
pub struct ShardSet([u64; WORDS]);

impl ShardSet {
    /// The set without members.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// The set of one shard.
    #[must_use]
    pub fn only(shard: ShardId) -> Self {
        let mut set = Self::EMPTY;
        if let Some(word) = set.0.get_mut(usize::from(shard.0 / WORD_BITS)) {
            *word = 1 << (shard.0 % WORD_BITS);
        }
        set
    }

    /// A set from its words; bit `n` of word `w` is shard `64 * w + n`.
    #[must_use]
    pub const fn from_words(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    /// The words of the set.
    #[must_use]
    pub const fn words(self) -> [u64; WORDS] {
        self.0
    }

    /// Adds a shard; says whether it is new.
    pub fn insert(&mut self, shard: ShardId) -> bool {
        let new = !self.contains(shard);
        *self = self.union(Self::only(shard));
        new
    }

    /// Takes a shard out; says whether it was a member.
    pub fn remove(&mut self, shard: ShardId) -> bool {
        let was = self.contains(shard);
        *self = self.difference(Self::only(shard));
        was
    }

    /// Whether the shard is a member.
    #[must_use]
    pub fn contains(self, shard: ShardId) -> bool {
        !self.intersection(Self::only(shard)).is_empty()
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == [0; WORDS]
    }

    /// The number of members.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The members of either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    /// The members of both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    /// The members of this set that are not in the other.
    #[must_use]
    pub fn difference(self, other: Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }

    /// The members in ascending order.
    #[must_use]
    pub const fn iter(self) -> Iter {
        Iter(self)
    }

    fn zip(mut self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        for (mine, other) in self.0.iter_mut().zip(other.0) {
            *mine = combine(*mine, other);
        }
        self
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
        let (at, word) = self.0.0.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros() as u16;
        *word &= *word - 1;
        Some(ShardId(at as u16 * WORD_BITS + bit))
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
        assert!(set.insert(ShardId(255)));
        for shard in [256, 257, 319, 320, u16::MAX] {
            set.insert(ShardId(shard));
            assert!(!set.contains(ShardId(shard)));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [ShardId(255)]);
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in prop::collection::vec((any::<bool>(), 0u16..256), 0..200)) {
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
