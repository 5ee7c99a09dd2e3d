//! The filters of one shard: which of them match a topic, and who subscribed to each.

use hashbrown::HashTable;

use super::name::matches_bytes;
use super::shape::{FilterKey, HashSeed, LevelHashes, Shape};
use super::subscribers::{Removed, SessionKey, Subscriber, Subscribers};
use super::trie::FilterTrie;
use crate::pages::Pages;

/// A filter of one [`FilterIndex`]. It is given out anew after the filter's last subscriber left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(pub u32);

/// What [`FilterIndex::subscribe`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribed {
    /// The filter, to find its subscribers and to unsubscribe by.
    pub filter: FilterId,
    /// The session was subscribed to this filter; its options and identifier are replaced.
    pub existed: bool,
    /// This shard has to be added to the route table under this key, for the filter is the first
    /// one here that needs it.
    pub first: Option<FilterKey>,
}

/// How the index finds a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// By hash.
    Shape,
    /// Level by level, as one of those that found no place among the shapes.
    Fallback,
    /// Level by level as well, and it would be one more of them.
    NewFallback,
}

/// What [`FilterIndex::unsubscribe`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribed {
    /// The session was subscribed and no longer is.
    pub removed: bool,
    /// The filter is one of those that are matched level by level.
    pub fallback: bool,
    /// This shard has to be removed from the route table under this key, for no filter here needs
    /// it any more.
    pub last: Option<FilterKey>,
}

/// One shard's topic filters and their subscribers.
///
/// A filter of up to 38 bytes with one subscriber takes 64 bytes and a hash slot of 5 bytes, which
/// is 6 to 11 bytes at the table's load; a longer filter takes one more allocation of its length.
///
/// A match costs one hash look-up for filters without wildcard and one for every wildcard shape in
/// use, at most `max_shapes`, whatever the number of filters.
#[derive(Debug)]
pub struct FilterIndex {
    seed: HashSeed,
    max_shapes: usize,
    entries: Pages<Entry>,
    exact: HashTable<u32>,
    /// The wildcard shapes in use.
    shapes: Vec<ShapeFilters>,
    /// The most levels that one of `shapes` has.
    deepest: usize,
    /// The wildcard filters that came when all shapes were taken, or have too many levels.
    fallback: HashTable<u32>,
    trie: FilterTrie,
    subscriptions: usize,
}

/// The filters of one shape, as indices into the entries.
#[derive(Debug)]
struct ShapeFilters {
    shape: Shape,
    filters: HashTable<u32>,
}

#[derive(Debug)]
struct Entry {
    fingerprint: u64,
    subscribers: Subscribers,
    filter: FilterText,
}

/// As much as makes an [`Entry`] 64 bytes.
const INLINE_BYTES: usize = 38;

#[derive(Debug)]
enum FilterText {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Heap(Box<[u8]>),
}

const _: () = assert!(size_of::<Entry>() == 64, "a million filters are a million of these");
const _: () = assert!(size_of::<Option<Entry>>() == 64, "the mark of a free slot costs nothing");

impl FilterIndex {
    /// An empty index that finds filters of up to `max_shapes` wildcard shapes by hash.
    #[must_use]
    pub fn new(seed: HashSeed, max_shapes: usize) -> Self {
        Self {
            trie: FilterTrie::new(seed.clone()),
            seed,
            max_shapes,
            entries: Pages::new(),
            exact: HashTable::new(),
            shapes: Vec::new(),
            deepest: 0,
            fallback: HashTable::new(),
            subscriptions: 0,
        }
    }

    /// Subscribes a session to a valid filter, or replaces its options and identifier there.
    pub fn subscribe(&mut self, filter: &str, subscriber: Subscriber) -> Subscribed {
        let key = FilterKey::of(&self.seed, filter);
        if let Some(id) = self.find_by(&key, filter.as_bytes()) {
            let existed = self
                .entries
                .get_mut(id.0 as usize)
                .is_some_and(|entry| entry.subscribers.insert(subscriber).is_some());
            self.subscriptions += usize::from(!existed);
            return Subscribed { filter: id, existed, first: None };
        }
        let first = (!self.other_needs(&key)).then_some(key);
        let id = self.add(&key, filter.as_bytes(), subscriber);
        self.subscriptions += 1;
        Subscribed { filter: id, existed: false, first }
    }

    /// Ends a session's subscription to a filter.
    pub fn unsubscribe(&mut self, filter: FilterId, session: SessionKey) -> Unsubscribed {
        let removed = self
            .entries
            .get_mut(filter.0 as usize)
            .map_or(Removed::Absent, |entry| entry.subscribers.remove(session));
        self.subscriptions -= usize::from(removed != Removed::Absent);
        let removed_any = removed != Removed::Absent;
        let fallback = removed_any && self.is_fallback(filter);
        let last = if removed == Removed::Last { self.drop_filter(filter) } else { None };
        Unsubscribed { removed: removed_any, fallback, last }
    }

    /// The filter with exactly this text, when it has a subscriber.
    #[must_use]
    pub fn find(&self, filter: &str) -> Option<FilterId> {
        self.find_by(&FilterKey::of(&self.seed, filter), filter.as_bytes())
    }

    /// The text of a filter; empty for an identifier that is not in use.
    #[must_use]
    pub fn filter(&self, filter: FilterId) -> &str {
        let bytes = self.entries.get(filter.0 as usize).map_or(&[][..], Entry::filter);
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The length of a filter in bytes; 0 for an identifier that is not in use.
    #[must_use]
    pub fn filter_len(&self, filter: FilterId) -> usize {
        self.entries.get(filter.0 as usize).map_or(0, |entry| entry.filter().len())
    }

    /// The subscribers of a filter, each session once, in no particular order; none for an
    /// identifier that is not in use.
    #[inline]
    #[must_use]
    pub fn subscribers(&self, filter: FilterId) -> &[Subscriber] {
        self.entries.get(filter.0 as usize).map_or(&[], |entry| entry.subscribers.as_slice())
    }

    /// Appends the filters that match a topic name, each once, in no particular order. Gives the
    /// number of steps that filters without a place among the shapes have cost; 0 if there is none.
    #[inline]
    pub fn matching(&mut self, topic: &str, out: &mut Vec<FilterId>) -> usize {
        if !self.exact.is_empty() {
            let hash = self.seed.hash(topic);
            out.extend(find_text(&self.exact, &self.entries, hash, topic.as_bytes()));
        }
        if !self.shapes.is_empty() {
            self.matching_shapes(topic, out);
        }
        if self.trie.is_empty() { 0 } else { self.trie.matching(topic, out) }
    }

    /// Whether a session is among the subscribers of a filter.
    #[must_use]
    pub fn is_subscriber(&self, filter: FilterId, session: SessionKey) -> bool {
        self.entries.get(filter.0 as usize).is_some_and(|entry| entry.subscribers.contains(session))
    }

    /// The number of different filters.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no filter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of subscriptions: filters counted once for every subscriber.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// The number of filters that are matched level by level because they found no place among the
    /// shapes. The cost of [`FilterIndex::matching`] can grow with it, up to one step per level.
    #[must_use]
    pub fn fallback_len(&self) -> usize {
        self.fallback.len()
    }

    /// Where a valid filter is kept, or would be if somebody subscribed to it now.
    #[must_use]
    pub fn place(&self, filter: &str) -> Place {
        if self.fallback.is_empty() && self.shapes.len() < self.max_shapes {
            // Nearly always.
            return if Shape::of(filter).is_some() { Place::Shape } else { Place::NewFallback };
        }
        let key = FilterKey::of(&self.seed, filter);
        if find_text(&self.fallback, &self.entries, key.fingerprint, filter.as_bytes()).is_some() {
            return Place::Fallback;
        }
        match key.shape {
            Some(shape) if self.table(shape).is_some() => Place::Shape,
            Some(_) if self.shapes.len() < self.max_shapes => Place::Shape,
            _ => Place::NewFallback,
        }
    }

    fn matching_shapes(&self, topic: &str, out: &mut Vec<FilterId>) {
        let levels = LevelHashes::of(&self.seed, topic, self.deepest);
        for ShapeFilters { shape, filters } in &self.shapes {
            let Some(hash) = levels.fingerprint(*shape) else { continue };
            let found = filters.find(hash, |&at| {
                self.entries.get(at as usize).is_some_and(|entry| {
                    entry.fingerprint == hash && matches_bytes(entry.filter(), topic.as_bytes())
                })
            });
            out.extend(found.map(|&at| FilterId(at)));
        }
    }

    fn is_fallback(&self, filter: FilterId) -> bool {
        !self.fallback.is_empty()
            && self
                .fallback
                .find(fingerprint(&self.entries, filter.0), |&at| at == filter.0)
                .is_some()
    }

    fn find_by(&self, key: &FilterKey, filter: &[u8]) -> Option<FilterId> {
        let by_shape = key.shape.and_then(|shape| self.table(shape));
        by_shape
            .and_then(|table| find_text(table, &self.entries, key.fingerprint, filter))
            .or_else(|| find_text(&self.fallback, &self.entries, key.fingerprint, filter))
    }

    /// Whether a filter that is there already has the same key, so that the route table knows of
    /// this shard. Filters without a shape are counted one by one by the route table.
    fn other_needs(&self, key: &FilterKey) -> bool {
        let Some(shape) = key.shape else { return false };
        let same = |&at: &u32| {
            self.entries.get(at as usize).is_some_and(|entry| {
                entry.fingerprint == key.fingerprint
                    && Shape::of_bytes(entry.filter()) == Some(shape)
            })
        };
        let by_shape = self.table(shape).and_then(|table| table.find(key.fingerprint, same));
        by_shape.or_else(|| self.fallback.find(key.fingerprint, same)).is_some()
    }

    fn table(&self, shape: Shape) -> Option<&HashTable<u32>> {
        if shape == Shape::EXACT {
            return Some(&self.exact);
        }
        self.shapes.iter().find(|filters| filters.shape == shape).map(|filters| &filters.filters)
    }

    fn add(&mut self, key: &FilterKey, filter: &[u8], subscriber: Subscriber) -> FilterId {
        let entry = Entry {
            fingerprint: key.fingerprint,
            subscribers: Subscribers::One(subscriber),
            filter: FilterText::new(filter),
        };
        let at = self.entries.insert(entry) as u32;
        let shaped = key.shape.filter(|&shape| self.make_table(shape));
        if shaped.is_none() {
            self.trie.insert(filter, FilterId(at));
        }
        let entries = &self.entries;
        let table = match shaped {
            Some(Shape::EXACT) => &mut self.exact,
            Some(shape) => match self.shapes.iter_mut().find(|filters| filters.shape == shape) {
                Some(filters) => &mut filters.filters,
                None => &mut self.fallback,
            },
            None => &mut self.fallback,
        };
        table.insert_unique(key.fingerprint, at, |&at| fingerprint(entries, at));
        FilterId(at)
    }

    /// Makes sure that filters of the shape have a table; false when all shapes are taken.
    fn make_table(&mut self, shape: Shape) -> bool {
        if self.table(shape).is_some() {
            return true;
        }
        if self.shapes.len() >= self.max_shapes {
            return false;
        }
        self.shapes.push(ShapeFilters { shape, filters: HashTable::new() });
        self.deepest = self.deepest.max(shape.levels());
        true
    }

    fn drop_filter(&mut self, filter: FilterId) -> Option<FilterKey> {
        let entry = self.entries.get(filter.0 as usize)?;
        let shape = Shape::of_bytes(entry.filter());
        let key = FilterKey { shape, fingerprint: entry.fingerprint };
        let from_shape = match shape {
            Some(Shape::EXACT) => take(&mut self.exact, &self.entries, filter),
            Some(shape) => self
                .shapes
                .iter_mut()
                .find(|filters| filters.shape == shape)
                .is_some_and(|filters| take(&mut filters.filters, &self.entries, filter)),
            None => false,
        };
        if !from_shape {
            take(&mut self.fallback, &self.entries, filter);
            self.trie.remove(entry.filter());
        } else if shape.is_some_and(Shape::is_wildcard) {
            self.shapes.retain(|filters| !filters.filters.is_empty());
            self.deepest = self.shapes.iter().map(|it| it.shape.levels()).max().unwrap_or(0);
        }
        self.entries.remove(filter.0 as usize);
        (!self.other_needs(&key)).then_some(key)
    }
}

impl Entry {
    #[inline]
    fn filter(&self) -> &[u8] {
        match &self.filter {
            FilterText::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            FilterText::Heap(bytes) => bytes,
        }
    }
}

impl FilterText {
    fn new(filter: &[u8]) -> Self {
        let mut bytes = [0; INLINE_BYTES];
        match (bytes.get_mut(..filter.len()), u8::try_from(filter.len())) {
            (Some(start), Ok(len)) => {
                start.copy_from_slice(filter);
                Self::Inline { len, bytes }
            }
            _ => Self::Heap(filter.into()),
        }
    }
}

#[inline]
fn find_text(
    table: &HashTable<u32>,
    entries: &Pages<Entry>,
    hash: u64,
    text: &[u8],
) -> Option<FilterId> {
    let same = |&at: &u32| {
        entries
            .get(at as usize)
            .is_some_and(|entry| entry.fingerprint == hash && entry.filter() == text)
    };
    table.find(hash, same).map(|&at| FilterId(at))
}

fn fingerprint(entries: &Pages<Entry>, at: u32) -> u64 {
    entries.get(at as usize).map_or(0, |entry| entry.fingerprint)
}

/// Takes a filter out of a table; says whether it was there. A table that has become much too
/// large is made smaller.
fn take(table: &mut HashTable<u32>, entries: &Pages<Entry>, filter: FilterId) -> bool {
    let Ok(slot) = table.find_entry(fingerprint(entries, filter.0), |&at| at == filter.0) else {
        return false;
    };
    slot.remove();
    if table.is_empty() {
        *table = HashTable::new();
    } else if table.len() < table.capacity() / 8 {
        table.shrink_to(table.len() * 2, |&at| fingerprint(entries, at));
    }
    true
}

#[cfg(test)]
mod tests;
