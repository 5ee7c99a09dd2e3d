//! Shared subscriptions over all shards: which groups match, and whose turn it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
use papaya::{Compute, HashMap, Operation};

use super::name::{TopicError, matches};
use super::route::{ByFingerprint, for_each_fingerprint};
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

/// The groups of shared subscriptions, shared by all shards. Reading takes no lock.
#[derive(Debug)]
pub struct GroupTable {
    seed: HashSeed,
    shards: usize,
    shapes: ShapeSlots,
    /// The number of groups that have a member.
    groups: CachePadded<AtomicUsize>,
    /// The groups by the fingerprint of their topic filter.
    by_filter: ByFingerprint<Groups>,
}

type Groups = Arc<[Arc<GroupRoute>]>;

/// One group: a share name, a topic filter, and how many members it has on which shard.
#[derive(Debug)]
pub struct GroupRoute {
    share: Box<str>,
    filter: Box<str>,
    shape: Shape,
    /// Members over all shards. A group that has come to 0 stays dead, and is taken out of the
    /// table by whoever took the last member; a new member then makes a new group.
    members: AtomicU32,
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
        Self {
            seed,
            shards: shards.min(MAX_SHARDS),
            shapes: ShapeSlots::new(max_shapes),
            groups: CachePadded::default(),
            by_filter: HashMap::default(),
        }
    }

    /// Whether there is no group: one relaxed load.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.load(Ordering::Relaxed) == 0
    }

    /// The number of groups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.load(Ordering::Relaxed)
    }

    /// The key under which [`GroupTable::join`] and the other calls know a topic filter.
    #[must_use]
    pub fn key(&self, filter: &str) -> FilterKey {
        FilterKey::of(&self.seed, filter)
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
        let shape = key.shape.filter(|_| shard.index() < self.shards);
        let shape = shape.ok_or(TopicError::TooManyShapes)?;
        if shape.is_wildcard() && !self.shapes.acquire(shard, shape) {
            return Err(TopicError::TooManyShapes);
        }
        let joined = self.join_or_make(shard, share, filter, key, online);
        if joined.is_err() {
            self.release(shard, shape);
        }
        joined
    }

    /// Takes out a member that had joined; `online` is what it was last said to be.
    pub fn leave(&self, shard: ShardId, share: &str, filter: &str, key: &FilterKey, online: bool) {
        let Some(group) = self.find(share, filter, key) else { return };
        if !group.change(shard, -1, -i32::from(online)) {
            return;
        }
        if group.members.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.groups.fetch_sub(1, Ordering::AcqRel);
            self.sweep(key);
        }
        if let Some(shape) = key.shape {
            self.release(shard, shape);
        }
    }

    /// Notes that a member on a shard came online or went offline.
    pub fn set_online(
        &self,
        shard: ShardId,
        share: &str,
        filter: &str,
        key: &FilterKey,
        online: bool,
    ) {
        if let Some(group) = self.find(share, filter, key) {
            group.change(shard, 0, if online { 1 } else { -1 });
        }
    }

    /// Appends the groups whose filter matches a valid topic name.
    pub fn matching(&self, topic: &str, out: &mut Vec<Arc<GroupRoute>>) {
        self.for_each_matching(topic, |group| out.push(Arc::clone(group)));
    }

    /// Calls back with the groups whose filter matches a valid topic name, without touching their
    /// reference counts.
    #[inline]
    pub fn for_each_matching(&self, topic: &str, mut found: impl FnMut(&Arc<GroupRoute>)) {
        if self.is_empty() {
            return;
        }
        let map = self.by_filter.pin();
        let mut look_up = |shape: Shape, fingerprint: u64| {
            for group in map.get(&fingerprint).into_iter().flat_map(|groups| groups.iter()) {
                // Without the shape, a group could be found under two of them by coincidence.
                if group.is_live() && group.shape == shape && matches(&group.filter, topic) {
                    found(group);
                }
            }
        };
        look_up(Shape::EXACT, self.seed.hash(topic));
        for_each_fingerprint(&self.shapes, &self.seed, topic, look_up);
    }

    fn find(&self, share: &str, filter: &str, key: &FilterKey) -> Option<Arc<GroupRoute>> {
        let map = self.by_filter.pin();
        let groups = map.get(&key.fingerprint)?;
        groups.iter().find(|group| group.is_live() && group.is(share, filter)).cloned()
    }

    fn join_or_make(
        &self,
        shard: ShardId,
        share: &str,
        filter: &str,
        key: &FilterKey,
        online: bool,
    ) -> Result<(), TopicError> {
        let shape = key.shape.unwrap_or(Shape::EXACT);
        loop {
            if let Some(group) = self.find(share, filter, key)
                && group.join_live()
            {
                group.change(shard, 1, i32::from(online));
                return Ok(());
            }
            let new = Arc::new(GroupRoute::new(share, filter, shape, self.shards, shard, online));
            let map = self.by_filter.pin();
            let outcome = map.compute(key.fingerprint, |entry| {
                let old = entry.map(|(_, groups)| &**groups).unwrap_or_default();
                let live = || old.iter().filter(|group| group.is_live());
                if live().any(|group| group.is(share, filter)) {
                    return Operation::Abort(None);
                }
                if live().count() >= MAX_GROUPS_PER_FILTER {
                    return Operation::Abort(Some(TopicError::TooManyGroups));
                }
                Operation::Insert(live().chain([&new]).cloned().collect::<Groups>())
            });
            match outcome {
                Compute::Aborted(Some(error)) => return Err(error),
                // Another shard made the group a moment ago: join that one.
                Compute::Aborted(None) => {}
                _ => {
                    self.groups.fetch_add(1, Ordering::AcqRel);
                    return Ok(());
                }
            }
        }
    }

    /// Drops the dead groups of a filter.
    fn sweep(&self, key: &FilterKey) {
        self.by_filter.pin().compute(key.fingerprint, |entry| {
            let Some((_, groups)) = entry else { return Operation::Abort(()) };
            if groups.iter().all(|group| group.is_live()) {
                return Operation::Abort(());
            }
            let live: Groups = groups.iter().filter(|group| group.is_live()).cloned().collect();
            if live.is_empty() { Operation::Remove } else { Operation::Insert(live) }
        });
    }

    fn release(&self, shard: ShardId, shape: Shape) {
        if shape.is_wildcard() {
            self.shapes.release(shard, shape);
        }
    }
}

impl GroupRoute {
    fn new(
        share: &str,
        filter: &str,
        shape: Shape,
        shards: usize,
        first: ShardId,
        online: bool,
    ) -> Self {
        let group = Self {
            share: share.into(),
            filter: filter.into(),
            shape,
            members: AtomicU32::new(1),
            by_shard: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            turns: CachePadded::default(),
            sticky: AtomicU64::new(0),
        };
        group.change(first, 1, i32::from(online));
        group
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
        self.members.load(Ordering::Relaxed)
    }

    /// The number of members over all shards that are online.
    #[must_use]
    pub fn online(&self) -> u32 {
        self.counts().map(|(_, counts)| counts.online).sum()
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

    fn is(&self, share: &str, filter: &str) -> bool {
        *self.share == *share && *self.filter == *filter
    }

    fn is_live(&self) -> bool {
        self.members.load(Ordering::Acquire) > 0
    }

    /// Counts one more member, unless the group is dead.
    fn join_live(&self) -> bool {
        self.members
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |members| {
                (members > 0).then_some(members + 1)
            })
            .is_ok()
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
