//! One shard's members of shared subscriptions.

use hashbrown::HashTable;
use slab::Slab;

use super::group::Strategy;
use super::shape::HashSeed;
use super::subscribers::{SessionKey, Subscriber, SubscriberList};

/// The groups that have a member on this shard, with those members.
///
/// Which shard gets a message is decided by [`GroupRoute::pick`](super::GroupRoute::pick); this
/// turns the pick into a session. The caller keeps it and the group table in step.
#[derive(Debug)]
pub struct SharedGroups {
    seed: HashSeed,
    groups: Slab<Group>,
    by_name: HashTable<u32>,
    members: usize,
}

#[derive(Debug)]
struct Group {
    hash: u64,
    share: Box<str>,
    filter: Box<str>,
    /// Members that are online come first.
    members: SubscriberList,
    online: usize,
    sticky: Option<SessionKey>,
}

impl SharedGroups {
    /// No groups.
    #[must_use]
    pub fn new(seed: HashSeed) -> Self {
        Self { seed, groups: Slab::new(), by_name: HashTable::new(), members: 0 }
    }

    /// Adds a member, or replaces its options and identifier; says whether it was a member. The
    /// group table wants to hear of new members only.
    pub fn join(
        &mut self,
        share: &str,
        filter: &str,
        subscriber: Subscriber,
        online: bool,
    ) -> bool {
        let hash = self.hash(share, filter);
        let at = self.find(hash, share, filter).unwrap_or_else(|| self.add(hash, share, filter));
        let Some(group) = self.groups.get_mut(at as usize) else { return false };
        if let Some(position) = group.members.position(subscriber.session) {
            group.members.replace(position, subscriber);
            group.set_online(subscriber.session, online);
            return true;
        }
        group.members.push(subscriber);
        group.set_online(subscriber.session, online);
        self.members += 1;
        false
    }

    /// Takes a member out; says whether it was online, or `None` when it was no member.
    pub fn leave(&mut self, share: &str, filter: &str, session: SessionKey) -> Option<bool> {
        let at = self.find(self.hash(share, filter), share, filter)?;
        let group = self.groups.get_mut(at as usize)?;
        group.members.position(session)?;
        let was_online = group.set_online(session, false);
        group.members.swap_remove(group.members.position(session)?);
        self.members -= 1;
        if group.members.len() == 0 {
            self.remove(at);
        }
        Some(was_online)
    }

    /// Notes that a member came online or went offline; says whether that is a change, of which
    /// the group table wants to hear.
    pub fn set_online(
        &mut self,
        share: &str,
        filter: &str,
        session: SessionKey,
        online: bool,
    ) -> bool {
        let at = self.find(self.hash(share, filter), share, filter);
        let group = at.and_then(|at| self.groups.get_mut(at as usize));
        group.is_some_and(|group| {
            group.members.position(session).is_some() && group.set_online(session, online) != online
        })
    }

    /// The member that a message goes to: the one that the pick's `index` hints at, or the next
    /// one that is online. When none is online, an offline one. `None` when the group has no
    /// member here any more.
    ///
    /// `is_online` is asked about members that were said to be online, and can pass over one for
    /// other reasons too, such as a full outbox.
    pub fn pick(
        &mut self,
        share: &str,
        filter: &str,
        strategy: Strategy,
        index: u32,
        is_online: impl Fn(SessionKey) -> bool,
    ) -> Option<Subscriber> {
        let at = self.find(self.hash(share, filter), share, filter)?;
        let group = self.groups.get_mut(at as usize)?;
        let members = group.members.as_slice();
        let online = members.get(..group.online).unwrap_or_default();
        if strategy == Strategy::Sticky
            && let Some(at) = group.sticky.and_then(|session| group.members.position(session))
            && let Some(member) =
                online.get(at).or_else(|| members.get(at).filter(|_| online.is_empty()))
            && (online.is_empty() || is_online(member.session))
        {
            return Some(*member);
        }
        let in_turn = |members: &[Subscriber], accept: &dyn Fn(SessionKey) -> bool| {
            let start = (index as usize).checked_rem(members.len())?;
            let (before, from) = members.split_at_checked(start)?;
            from.iter().chain(before).find(|member| accept(member.session)).copied()
        };
        let picked = in_turn(online, &is_online).or_else(|| in_turn(members, &|_| true))?;
        group.sticky = Some(picked.session);
        Some(picked)
    }

    /// The number of groups with a member on this shard.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether no group has a member on this shard.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The number of memberships on this shard.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members
    }

    fn hash(&self, share: &str, filter: &str) -> u64 {
        self.seed.hash(share).rotate_left(32) ^ self.seed.hash(filter)
    }

    fn find(&self, hash: u64, share: &str, filter: &str) -> Option<u32> {
        let same = |&at: &u32| {
            self.groups.get(at as usize).is_some_and(|group| {
                group.hash == hash && *group.share == *share && *group.filter == *filter
            })
        };
        self.by_name.find(hash, same).copied()
    }

    fn add(&mut self, hash: u64, share: &str, filter: &str) -> u32 {
        let at = self.groups.insert(Group {
            hash,
            share: share.into(),
            filter: filter.into(),
            members: SubscriberList::default(),
            online: 0,
            sticky: None,
        }) as u32;
        let groups = &self.groups;
        let hash_of = |&at: &u32| groups.get(at as usize).map_or(0, |group| group.hash);
        self.by_name.insert_unique(hash, at, hash_of);
        at
    }

    fn remove(&mut self, at: u32) {
        let Some(group) = self.groups.try_remove(at as usize) else { return };
        if let Ok(slot) = self.by_name.find_entry(group.hash, |&other| other == at) {
            slot.remove();
        }
        if self.groups.is_empty() {
            self.groups = Slab::new();
            self.by_name = HashTable::new();
        }
    }
}

impl Group {
    /// Moves a member to the part of the list where it belongs; says whether it was online.
    fn set_online(&mut self, session: SessionKey, online: bool) -> bool {
        let Some(at) = self.members.position(session) else { return false };
        let was_online = at < self.online;
        match (was_online, online) {
            (false, true) => {
                self.members.swap(at, self.online);
                self.online += 1;
            }
            (true, false) => {
                self.online -= 1;
                self.members.swap(at, self.online);
            }
            _ => {}
        }
        was_online
    }
}

#[cfg(test)]
mod tests;
