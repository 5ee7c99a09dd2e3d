//! Shapes of topic filters, and the fingerprints by which filters are found.

use std::fmt;
use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use super::bytes::separators;
use super::name::is_reserved;

/// The most levels, `#` not counted, that a wildcard filter with a [`Shape`] can have.
pub const MAX_SHAPE_LEVELS: usize = 32;

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// The secret of all hashes that a client could otherwise steer: fingerprints of topics and
/// filters, the home shard of a client. Drawn at start, the same for all shards of a process.
#[derive(Clone)]
pub struct HashSeed {
    state: RandomState,
    /// The bits of a fingerprint that are kept, so that tests can bring about collisions.
    #[cfg(test)]
    mask: u64,
}

impl HashSeed {
    /// A seed from 256 random bits.
    #[must_use]
    pub fn new(seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        Self {
            state: RandomState::with_seeds(a, b, c, d),
            #[cfg(test)]
            mask: u64::MAX,
        }
    }

    /// A seed under which fingerprints have only so many bits.
    #[cfg(test)]
    pub(super) fn narrow(bits: u32) -> Self {
        Self { mask: (1 << bits) - 1, ..Self::new([1, 2, 3, 4]) }
    }

    /// The hash of a whole string, for example of a client identifier or a topic name.
    #[inline]
    #[must_use]
    pub fn hash(&self, text: &str) -> u64 {
        self.hash_bytes(text.as_bytes())
    }

    /// The hash of a byte string.
    #[inline]
    #[must_use]
    pub fn hash_bytes(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write(bytes);
        self.narrowed(hasher.finish())
    }

    #[cfg(not(test))]
    #[inline]
    fn narrowed(&self, hash: u64) -> u64 {
        hash
    }

    #[cfg(test)]
    fn narrowed(&self, hash: u64) -> u64 {
        hash & self.mask
    }

    /// The hash of one topic level at its position. Fingerprints are sums of these, so two levels
    /// that change places must not cancel out.
    #[inline]
    fn hash_level(&self, position: usize, level: &[u8]) -> u64 {
        let odd = MULTIPLIER.wrapping_mul(2 * position as u64 + 1);
        let product = u128::from(self.hash_bytes(level) ^ MULTIPLIER) * u128::from(odd);
        (product as u64) ^ ((product >> 64) as u64)
    }
}

impl fmt::Debug for HashSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashSeed(secret)")
    }
}

/// What a topic filter looks like when its literal levels are left out: which levels are `+`, how
/// many levels there are, and whether `#` follows. All filters without a wildcard have one shape,
/// [`Shape::EXACT`].
///
/// In memory: bits 0 to 31 say which levels are `+`, bits 32 to 37 how many levels there are
/// before `#`, bit 38 that `#` follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape(u64);

impl Shape {
    /// The shape of filters without a wildcard, whatever their length.
    pub const EXACT: Self = Self(0);

    const MULTI_LEVEL: u64 = 1 << 38;
    /// The bits that a shape can use.
    pub(super) const BITS: u32 = 39;

    /// The shape of a valid topic filter; `None` when it has a wildcard and more than
    /// [`MAX_SHAPE_LEVELS`] levels.
    #[must_use]
    pub fn of(filter: &str) -> Option<Self> {
        Self::of_bytes(filter.as_bytes())
    }

    /// [`Shape::of`] for bytes that are known to be UTF-8.
    pub(super) fn of_bytes(filter: &[u8]) -> Option<Self> {
        let (mut plus, mut levels, mut multi_level) = (0u64, 0usize, 0);
        let mut wildcard = false;
        for level in filter.split(|&byte| byte == b'/') {
            match level {
                b"#" => {
                    (wildcard, multi_level) = (true, Self::MULTI_LEVEL);
                    break;
                }
                b"+" => {
                    wildcard = true;
                    plus |= 1u64.checked_shl(u32::try_from(levels).ok()?).unwrap_or(0);
                }
                _ => {}
            }
            levels += 1;
        }
        match (wildcard, levels) {
            (false, _) => Some(Self::EXACT),
            (true, 0..=MAX_SHAPE_LEVELS) => Some(Self(plus | (levels as u64) << 32 | multi_level)),
            (true, _) => None,
        }
    }

    /// Whether filters of this shape have a wildcard.
    #[must_use]
    pub const fn is_wildcard(self) -> bool {
        self.0 != Self::EXACT.0
    }

    /// The number of levels before `#`; 0 for [`Shape::EXACT`].
    #[must_use]
    pub const fn levels(self) -> usize {
        ((self.0 >> 32) & 0x3F) as usize
    }

    /// Whether the last level is `#`.
    #[must_use]
    pub const fn multi_level(self) -> bool {
        self.0 & Self::MULTI_LEVEL != 0
    }

    const fn plus_levels(self) -> u32 {
        self.0 as u32
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The fingerprint of a filter of this shape whose literal levels hash to `sum`. Different
    /// shapes with the same sum have different fingerprints, since the multiplier is odd.
    #[inline]
    fn fingerprint(self, seed: &HashSeed, sum: u64) -> u64 {
        seed.narrowed(sum ^ self.0.wrapping_mul(MULTIPLIER))
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_wildcard() {
            return f.write_str("Shape(exact)");
        }
        let mut levels: Vec<&str> = (0..self.levels())
            .map(|level| if self.plus_levels() >> level & 1 == 1 { "+" } else { "x" })
            .collect();
        if self.multi_level() {
            levels.push("#");
        }
        write!(f, "Shape({})", levels.join("/"))
    }
}

/// What a topic filter is looked up by. Two filters may share a fingerprint by chance; a client
/// that does not know the [`HashSeed`] cannot bring that about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FilterKey {
    /// The filter's shape; `None` for a wildcard filter with too many levels for one.
    pub shape: Option<Shape>,
    /// The hash of the shape and the literal levels.
    pub fingerprint: u64,
}

impl FilterKey {
    /// The key of a valid topic filter.
    #[must_use]
    pub fn of(seed: &HashSeed, filter: &str) -> Self {
        let shape = Shape::of(filter);
        let fingerprint = match shape {
            Some(shape) if shape.is_wildcard() => {
                let literals = filter
                    .as_bytes()
                    .split(|&byte| byte == b'/')
                    .take(shape.levels())
                    .enumerate()
                    .filter(|&(_, level)| level != b"+");
                let sum = literals.fold(0, |sum, (at, level)| sum ^ seed.hash_level(at, level));
                shape.fingerprint(seed, sum)
            }
            _ => seed.hash(filter),
        };
        Self { shape, fingerprint }
    }
}

/// The hashes of a topic's first levels, from which the fingerprint of any shape is put together.
pub(super) struct LevelHashes<'a> {
    seed: &'a HashSeed,
    /// Element `n` is the sum of the hashes of the first `n` levels.
    sums: [u64; MAX_SHAPE_LEVELS + 1],
    /// The number of levels, or one more than were hashed when there are still more.
    levels: usize,
    /// The topic starts with `$`.
    reserved: bool,
}

impl<'a> LevelHashes<'a> {
    /// Hashes at most `deepest` levels, the most that any shape in use has.
    #[inline]
    pub(super) fn of(seed: &'a HashSeed, topic: &str, deepest: usize) -> Self {
        let topic = topic.as_bytes();
        let mut hashes =
            Self { seed, sums: [0; MAX_SHAPE_LEVELS + 1], levels: 0, reserved: is_reserved(topic) };
        let (mut start, mut sum) = (0, 0);
        let mut ends = separators(topic).chain([topic.len()]);
        for (at, slot) in hashes.sums.iter_mut().skip(1).take(deepest).enumerate() {
            let Some(end) = ends.next() else { return hashes };
            sum ^= seed.hash_level(at, topic.get(start..end).unwrap_or_default());
            *slot = sum;
            start = end + 1;
            hashes.levels += 1;
        }
        hashes.levels += usize::from(ends.next().is_some());
        hashes
    }

    /// The fingerprint that a filter of this wildcard shape must have to match the topic; `None`
    /// when no filter of the shape can.
    #[inline]
    pub(super) fn fingerprint(&self, shape: Shape) -> Option<u64> {
        let levels = shape.levels();
        let fits = if shape.multi_level() { self.levels >= levels } else { self.levels == levels };
        let starts_with_wildcard = levels == 0 || shape.plus_levels() & 1 == 1;
        if !fits || (self.reserved && starts_with_wildcard) {
            return None;
        }
        let mut sum = *self.sums.get(levels)?;
        let mut plus = shape.plus_levels();
        while plus != 0 {
            let at = plus.trailing_zeros() as usize;
            plus &= plus - 1;
            // The sum up to a level and the sum beyond it differ by the hash of the level.
            sum ^= self.sums.get(at)? ^ self.sums.get(at + 1)?;
        }
        Some(shape.fingerprint(self.seed, sum))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use proptest::prelude::*;

    use super::*;
    use crate::topics::testing::{any_filter, any_topic, naive_matches, seed};

    #[test]
    fn a_shape_says_what_is_masked() {
        let shape = |filter| format!("{:?}", Shape::of(filter).unwrap());
        assert_eq!(shape("a/b/c"), "Shape(exact)");
        assert_eq!(shape("a/+/c"), "Shape(x/+/x)");
        assert_eq!(shape("+"), "Shape(+)");
        assert_eq!(shape("#"), "Shape(#)");
        assert_eq!(shape("/+/#"), "Shape(x/+/#)");
        assert_eq!(Shape::of("a/+/c"), Shape::of("b//+").map(|_| Shape::of("x/+/y").unwrap()));
        assert_ne!(Shape::of("a/+"), Shape::of("a/+/#"));
    }

    #[test]
    fn wildcard_filters_beyond_32_levels_have_no_shape() {
        let levels = |count: usize| vec!["a"; count].join("/");
        assert_eq!(Shape::of(&levels(1_000)), Some(Shape::EXACT));
        for (filter, has_shape) in [
            (format!("{}/#", levels(32)), true),
            (format!("{}/#", levels(33)), false),
            (format!("{}/+", levels(31)), true),
            (format!("{}/+", levels(32)), false),
            (format!("+/{}", levels(31)), true),
            (format!("+/{}", levels(32)), false),
            (format!("{}/+", levels(1_000)), false),
        ] {
            assert_eq!(Shape::of(&filter).is_some(), has_shape, "{filter}");
        }
        let deepest = FilterKey::of(&seed(), &format!("{}/+", levels(31)));
        let hashes = |topic: String| {
            LevelHashes::of(&seed(), &topic, 32).fingerprint(deepest.shape.unwrap())
        };
        assert_eq!(hashes(levels(32)), Some(deepest.fingerprint));
        assert_eq!(hashes(levels(31)), None);
        assert_eq!(hashes(levels(33)), None);
    }

    #[test]
    fn levels_that_change_places_change_the_fingerprint() {
        let fingerprint = |filter| FilterKey::of(&seed(), filter).fingerprint;
        assert_ne!(fingerprint("a/b/+"), fingerprint("b/a/+"));
        assert_ne!(fingerprint("a/a/+"), fingerprint("b/b/+"));
        assert_ne!(fingerprint("/a/+"), fingerprint("a//+"));
        assert_ne!(fingerprint("+"), fingerprint("#"));
    }

    proptest! {
        #[test]
        fn a_topic_has_the_fingerprints_of_the_filters_that_match(
            filter in any_filter(), topic in any_topic(), deeper in 0..3usize,
        ) {
            let seed = seed();
            let key = FilterKey::of(&seed, &filter);
            let shape = key.shape.unwrap();
            let found = if shape.is_wildcard() {
                LevelHashes::of(&seed, &topic, shape.levels() + deeper).fingerprint(shape)
            } else {
                Some(seed.hash(&topic))
            };
            prop_assert_eq!(found == Some(key.fingerprint), naive_matches(&filter, &topic));
        }
    }
}
