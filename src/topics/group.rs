//! Shared subscriptions over all shards: which groups match, and whose turn it is.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
use hashbrown::HashTable;

use super::name::{TopicError, matches};
use super::route::for_each_fingerprint;
use super::segments::{SegmentCache, Segments};
use super::shape::{FilterKey, HashSeed, Shape};
use super::shape_slots::ShapeSlots;
use super::shard_set::{MAX_SHARDS, ShardId, ShardSet};

/// The most share names for one topic filter. Every one of them gets its own copy of a matching
/// message, and the list of them is copied when one is added.
pub const MAX_GROUPS_PER_FILTER: usize = 1_024;

/// How the member that gets a message is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Every member in turn, over all shards.
    #[default]
    RoundRobin,
    /// Any member.
    Random,
    /// The same member until it goes offline or leaves.
    Sticky,
    /// By the publisher's client identifier, so that one member sees all of one publisher.
    HashClientId,
    /// By the topic name, so that one member sees all of one topic.
    HashTopic,
    /// In turn among the members on the publisher's shard, and only without any there elsewhere.
    Local,
}

/// The shard, and a hint at the member there, that a message to a group goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// The shard that the member lives on.
    pub shard: ShardId,
    /// Which of its members, as [`SharedGroups::pick`](super::SharedGroups::pick) takes it.
    pub index: u32,
    /// The shard had a member online. If none is any more when the message arrives there, another
    /// shard may have one: pick again with this shard among those tried.
    pub online: bool,
}

/// A segment is copied when a group comes or goes: so many that this stays cheap with very many
/// groups.
const SEGMENTS: usize = 256;
const SEGMENT_BITS: u32 = SEGMENTS.trailing_zeros();

/// The groups of shared subscriptions. One shard makes the table, every other shard gets a clone:
/// clones are one table. Reading takes no lock, but for the moment after a group came or went.
#[derive(Debug)]
pub struct GroupTable {
    shared: Arc<Shared>,
    cache: RefCell<SegmentCache<Groups>>,
}

#[derive(Debug)]
struct Shared {
    seed: HashSeed,
    shards: usize,
    shapes: ShapeSlots,
    groups: CachePadded<AtomicUsize>,
    by_filter: Segments<Groups>,
}

/// Groups by the fingerprint of their topic filter.
#[derive(Debug, Clone, Default)]
struct Groups(HashTable<(u64, Arc<[Arc<GroupRoute>]>)>);

/// One group: a share name, a topic filter, and how many members it has on which shard.
#[derive(Debug)]
pub struct GroupRoute {
    share: Box<str>,
    filter: Box<str>,
    shape: Shape,
    /// For every shard its [`Counts`]. Only the shard itself writes its own.
    by_shard: Box<[AtomicU64]>,
    /// Turns taken.
    turns: CachePadded<AtomicUsize>,
    /// The [`Pick`] of the sticky strategy, packed; 0 for none.
    sticky: AtomicU64,
}

/// A shard's members of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    members: u32,
    online: u32,
}

impl GroupTable {
    /// An empty table for shards 0 to `shards - 1`. The seed must be that of the filter indexes.
    #[must_use]
    pub fn new(seed: HashSeed, shards: usize, max_shapes: usize) -> Self {
        let shared = Shared {
            seed,
            shards: shards.min(MAX_SHARDS),
            shapes: ShapeSlots::new(max_shapes),
            groups: CachePadded::default(),
            by_filter: Segments::new(SEGMENTS),
        };
        let cache = RefCell::new(shared.by_filter.cache());
        Self { shared: Arc::new(shared), cache }
    }

    /// Whether there is no group: one relaxed load.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of groups: one relaxed load.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.groups.load(Ordering::Relaxed)
    }

    /// The key under which [`GroupTable::join`] and the other calls know a topic filter.
    #[must_use]
    pub fn key(&self, filter: &str) -> FilterKey {
        FilterKey::of(&self.shared.seed, filter)
    }

    /// Adds a member on a shard. To be called by the shard itself, once per session and group,
    /// before the SUBACK.
    ///
    /// # Errors
    ///
    /// The filter's wildcard shape has no place in the table, or the filter has
    /// [`MAX_GROUPS_PER_FILTER`] share names.
    pub fn join(
        &self,
        shard: ShardId,
        share: &str,
        filter: &str,
        key: &FilterKey,
        online: bool,
    ) -> Result<(), TopicError> {
        let Shared { shards, shapes, by_filter, groups, .. } = &*self.shared;
        let shape = key.shape.filter(|_| shard.index() < *shards);
        let shape = shape.ok_or(TopicError::TooManyShapes)?;
        if shape.is_wildcard() && !shapes.acquire(shard, shape) {
            return Err(TopicError::TooManyShapes);
        }
        let joined = by_filter.change(segment(key), |present| {
            if let Some(group) = present.find(share, filter, key) {
                group.change(shard, 1, i32::from(online));
                return (None, Ok(()));
            }
            let of_filter = present.of(key.fingerprint);
            if of_filter.len() >= MAX_GROUPS_PER_FILTER {
                return (None, Err(TopicError::TooManyGroups));
            }
            let group = GroupRoute::new(share, filter, shape, *shards);
            group.change(shard, 1, i32::from(online));
            groups.fetch_add(1, Ordering::Relaxed);
            let of_filter = of_filter.iter().cloned().chain([Arc::new(group)]).collect();
            (Some(present.with(key.fingerprint, of_filter)), Ok(()))
        });
        let joined = joined.unwrap_or(Ok(()));
        if joined.is_err() {
            self.release(shard, shape);
        }
        joined
    }

    /// Takes out a member that had joined; `online` is what it was last said to be.
    pub fn leave(&self, shard: ShardId, share: &str, filter: &str, key: &FilterKey, online: bool) {
        let left = self.shared.by_filter.change(segment(key), |present| {
            let group = present.find(share, filter, key);
            let Some(group) = group.filter(|it| it.change(shard, -1, -i32::from(online))) else {
                return (None, false);
            };
            if group.members() > 0 {
                return (None, true);
            }
            self.shared.groups.fetch_sub(1, Ordering::Relaxed);
            let others = present.of(key.fingerprint).iter().filter(|it| !Arc::ptr_eq(it, group));
            (Some(present.with(key.fingerprint, others.cloned().collect())), true)
        });
        if let (Some(true), Some(shape)) = (left, key.shape) {
            self.release(shard, shape);
        }
    }

    /// Notes that a member on a shard came online or went offline. To be called by the shard
    /// itself.
    pub fn set_online(
        &self,
        shard: ShardId,
        share: &str,
        filter: &str,
        key: &FilterKey,
        online: bool,
    ) {
        let mut cache = self.cache.borrow_mut();
        let groups = self.shared.by_filter.read(segment(key), &mut cache);
        if let Some(group) = groups.and_then(|groups| groups.find(share, filter, key)) {
            group.change(shard, 0, if online { 1 } else { -1 });
        }
    }

    /// Appends the groups whose filter matches a valid topic name.
    #[inline]
    pub fn matching(&self, topic: &str, out: &mut Vec<Arc<GroupRoute>>) {
        if !self.is_empty() {
            self.matching_any(topic, out);
        }
    }

    fn matching_any(&self, topic: &str, out: &mut Vec<Arc<GroupRoute>>) {
        let Shared { seed, shapes, by_filter, .. } = &*self.shared;
        let mut cache = self.cache.borrow_mut();
        let mut look_up = |shape: Shape, fingerprint: u64| {
            let key = FilterKey { shape: Some(shape), fingerprint };
            let Some(groups) = by_filter.read(segment(&key), &mut cache) else { return };
            let of_filter = groups.of(fingerprint).iter();
            // Without the shape, a group could be found under two of them by coincidence.
            let found = of_filter.filter(|it| it.shape == shape && matches(&it.filter, topic));
            out.extend(found.cloned());
        };
        look_up(Shape::EXACT, seed.hash(topic));
        for_each_fingerprint(shapes, seed, topic, look_up);
    }

    fn release(&self, shard: ShardId, shape: Shape) {
        if shape.is_wildcard() {
            self.shared.shapes.release(shard, shape);
        }
    }
}

impl Clone for GroupTable {
    fn clone(&self) -> Self {
        let shared = Arc::clone(&self.shared);
        Self { cache: RefCell::new(shared.by_filter.cache()), shared }
    }
}

impl Groups {
    #[inline]
    fn of(&self, fingerprint: u64) -> &[Arc<GroupRoute>] {
        self.0.find(fingerprint, |it| it.0 == fingerprint).map_or(&[], |it| &it.1)
    }

    fn find(&self, share: &str, filter: &str, key: &FilterKey) -> Option<&Arc<GroupRoute>> {
        let mut groups = self.of(key.fingerprint).iter();
        groups.find(|group| *group.share == *share && *group.filter == *filter)
    }

    /// A copy with other groups under a fingerprint.
    fn with(&self, fingerprint: u64, groups: Arc<[Arc<GroupRoute>]>) -> Self {
        let mut table = self.0.clone();
        if let Ok(old) = table.find_entry(fingerprint, |it| it.0 == fingerprint) {
            old.remove();
        }
        if !groups.is_empty() {
            table.insert_unique(fingerprint, (fingerprint, groups), |it| it.0);
        }
        Self(table)
    }
}

/// The segment that a filter's groups are in. The segment's own table uses the lowest and the
/// highest bits.
#[inline]
fn segment(key: &FilterKey) -> usize {
    (key.fingerprint >> 32) as usize & ((1 << SEGMENT_BITS) - 1)
}

impl GroupRoute {
    fn new(share: &str, filter: &str, shape: Shape, shards: usize) -> Self {
        Self {
            share: share.into(),
            filter: filter.into(),
            shape,
            by_shard: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            turns: CachePadded::default(),
            sticky: AtomicU64::new(0),
        }
    }

    /// The share name.
    #[must_use]
    pub fn share(&self) -> &str {
        &self.share
    }

    /// The topic filter, without `$share/` and share name.
    #[must_use]
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// The number of members over all shards.
    #[must_use]
    pub fn members(&self) -> u32 {
        self.counts().map(|(_, counts)| counts.members).sum()
    }

    /// The number of members over all shards that are online.
    #[must_use]
    pub fn online(&self) -> u32 {
        self.counts().map(|(_, counts)| counts.online).sum()
    }

    /// Whether any of these shards has a member.
    #[must_use]
    pub fn has_members_on(&self, shards: ShardSet) -> bool {
        self.counts().any(|(shard, counts)| counts.members > 0 && shards.contains(shard))
    }

    /// Chooses the shard, and there the member, that a message goes to. Members that are online
    /// come first; only when no shard outside `tried` has one, an offline one is chosen.
    ///
    /// `here` is the publisher's shard, for [`Strategy::Local`]; the hashes, of publisher and
    /// topic, are for the strategies of that name. `None` when no shard outside `tried` has a
    /// member.
    #[must_use]
    pub fn pick(
        &self,
        strategy: Strategy,
        rng: &mut fastrand::Rng,
        here: ShardId,
        publisher_hash: u64,
        topic_hash: u64,
        tried: ShardSet,
    ) -> Option<Pick> {
        [true, false].into_iter().find_map(|online| {
            let weight = |counts: Counts| if online { counts.online } else { counts.members };
            let weights = || {
                self.counts()
                    .map(|(shard, counts)| (shard, weight(counts)))
                    .filter(|&(shard, weight)| weight > 0 && !tried.contains(shard))
            };
            let total: u64 = weights().map(|(_, weight)| u64::from(weight)).sum();
            let local = weights().find(|&(shard, _)| shard == here);
            let place = match (strategy, local) {
                _ if total == 0 => return None,
                (Strategy::Local, Some((shard, weight))) => {
                    let index = (self.turn() % u64::from(weight)) as u32;
                    return Some(Pick { shard, index, online });
                }
                (Strategy::RoundRobin | Strategy::Local, _) => self.turn() % total,
                (Strategy::HashClientId, _) => publisher_hash % total,
                (Strategy::HashTopic, _) => topic_hash % total,
                (Strategy::Sticky, _) => {
                    if let Some((shard, index)) = self.stuck()
                        && weights().any(|(other, _)| other == shard)
                    {
                        return Some(Pick { shard, index, online });
                    }
                    rng.u64(..total)
                }
                (Strategy::Random, _) => rng.u64(..total),
            };
            let (shard, index) = member_at(weights(), place)?;
            if strategy == Strategy::Sticky {
                self.stick(shard, index);
            }
            Some(Pick { shard, index, online })
        })
    }

    /// Changes a shard's counts; false when that would take a member that is not there.
    fn change(&self, shard: ShardId, members: i32, online: i32) -> bool {
        let Some(word) = self.by_shard.get(shard.index()) else { return false };
        let old = Counts::unpack(word.load(Ordering::Relaxed));
        let Some(members) = old.members.checked_add_signed(members) else { return false };
        let online = old.online.saturating_add_signed(online).min(members);
        word.store(Counts { members, online }.pack(), Ordering::Release);
        true
    }

    fn counts(&self) -> impl Iterator<Item = (ShardId, Counts)> {
        let words = self.by_shard.iter().map(|word| Counts::unpack(word.load(Ordering::Acquire)));
        words.zip(0..).map(|(counts, shard)| (ShardId(shard), counts))
    }

    fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed) as u64
    }

    fn stuck(&self) -> Option<(ShardId, u32)> {
        let word = self.sticky.load(Ordering::Relaxed);
        let shard = u16::try_from(word >> 32).ok()?.checked_sub(1)?;
        Some((ShardId(shard), word as u32))
    }

    fn stick(&self, shard: ShardId, index: u32) {
        let word = (u64::from(shard.0) + 1) << 32 | u64::from(index);
        self.sticky.store(word, Ordering::Relaxed);
    }
}

impl Counts {
    fn pack(self) -> u64 {
        u64::from(self.members) << 32 | u64::from(self.online)
    }

    fn unpack(word: u64) -> Self {
        Self { members: (word >> 32) as u32, online: word as u32 }
    }
}

/// The member at a place in the row of all members, shard after shard. Counts may have changed
/// since the place was chosen: a place beyond the row is one on its last shard.
fn member_at(
    weights: impl Iterator<Item = (ShardId, u32)>,
    mut place: u64,
) -> Option<(ShardId, u32)> {
    let mut last = None;
    for (shard, weight) in weights {
        if place < u64::from(weight) {
            return Some((shard, place as u32));
        }
        place -= u64::from(weight);
        last = Some((shard, place as u32));
    }
    last
}

#[cfg(test)]
mod tests;
