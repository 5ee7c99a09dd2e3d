//! The subscribers of one filter.

use std::slice;

use hashbrown::HashTable;

/// A session, by its index on the shard that it lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub u32);

impl SessionKey {
    /// No session.
    pub const NONE: Self = Self(u32::MAX);

    /// The place in the shard's table of sessions.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One session's subscription to one filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscriber {
    /// Who subscribed.
    pub session: SessionKey,
    /// The packed subscription options, kept unread.
    pub options: u8,
    /// The subscription identifier; 0 when there is none.
    pub id: u32,
}

const _: () = assert!(size_of::<Subscriber>() == 12, "a fan-out list is read once per message");

/// At least one subscriber; a single one, the common case by far, without an allocation.
#[derive(Debug)]
pub(super) enum Subscribers {
    One(Subscriber),
    Many(Box<SubscriberList>),
}

const _: () = assert!(size_of::<Subscribers>() == 16, "see index::Entry");

/// What became of a subscriber that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removed {
    /// There was none.
    Absent,
    /// It is gone, others are left.
    Gone,
    /// It is the last: the whole set is to be dropped.
    Last,
}

impl Subscribers {
    #[inline]
    pub(super) fn as_slice(&self) -> &[Subscriber] {
        match self {
            Self::One(subscriber) => slice::from_ref(subscriber),
            Self::Many(list) => list.as_slice(),
        }
    }

    pub(super) fn contains(&self, session: SessionKey) -> bool {
        match self {
            Self::One(only) => only.session == session,
            Self::Many(list) => list.position(session).is_some(),
        }
    }

    /// Adds a subscriber, or replaces what the session had; gives back what that was.
    pub(super) fn insert(&mut self, new: Subscriber) -> Option<Subscriber> {
        match self {
            Self::One(old) if old.session == new.session => Some(std::mem::replace(old, new)),
            Self::One(old) => {
                let mut list = SubscriberList::default();
                list.push(*old);
                list.push(new);
                *self = Self::Many(Box::new(list));
                None
            }
            Self::Many(list) => match list.position(new.session) {
                Some(at) => list.replace(at, new),
                None => {
                    list.push(new);
                    None
                }
            },
        }
    }

    pub(super) fn remove(&mut self, session: SessionKey) -> Removed {
        match self {
            Self::One(only) if only.session == session => Removed::Last,
            Self::One(_) => Removed::Absent,
            Self::Many(list) => {
                let Some(at) = list.position(session) else { return Removed::Absent };
                list.swap_remove(at);
                if let [only] = list.as_slice() {
                    *self = Self::One(*only);
                }
                Removed::Gone
            }
        }
    }
}

/// From how many subscribers on a list gets a table of positions.
const TABLE_FROM: usize = 24;

/// Subscribers in no particular order, each session once. Long lists find a session by a hash
/// table, so that a million sessions can join one list, one by one.
#[derive(Debug, Default)]
pub(super) struct SubscriberList {
    list: Vec<Subscriber>,
    /// Indices into `list` by session; empty while the list is short.
    positions: HashTable<u32>,
}

impl SubscriberList {
    #[inline]
    pub(super) fn as_slice(&self) -> &[Subscriber] {
        &self.list
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn position(&self, session: SessionKey) -> Option<usize> {
        if self.positions.is_empty() {
            return self.list.iter().position(|subscriber| subscriber.session == session);
        }
        self.positions
            .find(hash(session), |&at| session_at(&self.list, at) == Some(session))
            .map(|&at| at as usize)
    }

    /// Replaces the subscriber at a position by another of the same session.
    pub(super) fn replace(&mut self, at: usize, new: Subscriber) -> Option<Subscriber> {
        let old = self.list.get_mut(at)?;
        debug_assert_eq!(old.session, new.session);
        Some(std::mem::replace(old, new))
    }

    /// Appends a subscriber whose session is not on the list.
    pub(super) fn push(&mut self, new: Subscriber) {
        self.list.push(new);
        if !self.positions.is_empty() {
            self.note(self.list.len() - 1);
        } else if self.list.len() >= TABLE_FROM {
            self.positions.reserve(self.list.len(), |_| 0);
            for at in 0..self.list.len() {
                self.note(at);
            }
        }
    }

    /// Takes out the subscriber at a position; the last one takes its place.
    pub(super) fn swap_remove(&mut self, at: usize) {
        let last = self.list.len().saturating_sub(1);
        self.swap(at, last);
        self.forget(last);
        self.list.truncate(last);
        if self.list.len() < TABLE_FROM / 2 {
            self.positions = HashTable::new();
        }
        if self.list.len() < self.list.capacity() / 4 {
            self.list.shrink_to(self.list.len() * 2);
            let list = &self.list;
            self.positions.shrink_to(list.len() * 2, |&at| hash_at(list, at));
        }
    }

    /// Lets two subscribers change places.
    pub(super) fn swap(&mut self, a: usize, b: usize) {
        if a == b || a.max(b) >= self.list.len() {
            return;
        }
        if !self.positions.is_empty() {
            self.forget(a);
            self.forget(b);
            self.list.swap(a, b);
            self.note(a);
            self.note(b);
        } else {
            self.list.swap(a, b);
        }
    }

    fn note(&mut self, at: usize) {
        let (list, Ok(at)) = (&self.list, u32::try_from(at)) else { return };
        self.positions.insert_unique(hash_at(list, at), at, |&at| hash_at(list, at));
    }

    fn forget(&mut self, at: usize) {
        let (list, Ok(at)) = (&self.list, u32::try_from(at)) else { return };
        if let Ok(entry) = self.positions.find_entry(hash_at(list, at), |&other| other == at) {
            entry.remove();
        }
    }
}

fn session_at(list: &[Subscriber], at: u32) -> Option<SessionKey> {
    list.get(at as usize).map(|subscriber| subscriber.session)
}

fn hash_at(list: &[Subscriber], at: u32) -> u64 {
    session_at(list, at).map_or(0, hash)
}

/// Session keys are small numbers that this process hands out, so no secret is needed; the
/// product spreads them over the high bits, which the table also uses.
fn hash(session: SessionKey) -> u64 {
    let product = u64::from(session.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ (product >> 32)
}
