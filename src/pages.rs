//! Storage for very many values of one size, which gives memory back.

use std::collections::BTreeSet;

use slab::Slab;

const PAGE_BITS: u32 = 12;
const PAGE_LEN: usize = 1 << PAGE_BITS;

/// Values by index, in pages. Unlike one vector, pages never move while they grow, which would
/// stall a shard, and a page without a value is freed. New values fill the first pages first, so
/// that the last ones become empty.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    pages: Vec<Slab<T>>,
    /// The pages that have room.
    open: BTreeSet<usize>,
    len: usize,
}

impl<T> Pages<T> {
    pub(crate) const fn new() -> Self {
        Self { pages: Vec::new(), open: BTreeSet::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores a value and gives its index, which fits into 32 bits: more values than that do not fit
    /// into the memory of any machine.
    pub(crate) fn insert(&mut self, value: T) -> usize {
        let page = self.open.first().copied().unwrap_or_else(|| {
            self.pages.push(Slab::new());
            let page = self.pages.len() - 1;
            self.open.insert(page);
            page
        });
        let Some(values) = self.pages.get_mut(page) else { return usize::MAX };
        // A slab fills its gaps before it grows, so the key stays below the length of a page.
        let key = values.insert(value);
        if values.len() == PAGE_LEN {
            self.open.remove(&page);
        }
        self.len += 1;
        page << PAGE_BITS | key
    }

    #[inline]
    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        let (page, key) = split(at);
        self.pages.get(page)?.get(key)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        let (page, key) = split(at);
        self.pages.get_mut(page)?.get_mut(key)
    }

    /// All values with their indices.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.pages.iter().enumerate().flat_map(|(page, values)| {
            values.iter().map(move |(key, value)| (page << PAGE_BITS | key, value))
        })
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.iter_mut().flat_map(Slab::iter_mut).map(|(_, value)| value)
    }

    pub(crate) fn remove(&mut self, at: usize) -> Option<T> {
        let (page, key) = split(at);
        let values = self.pages.get_mut(page)?;
        let value = values.try_remove(key)?;
        self.len -= 1;
        if self.len == 0 {
            *self = Self::new();
            return Some(value);
        }
        self.open.insert(page);
        if values.is_empty() {
            *values = Slab::new();
        }
        Some(value)
    }
}

#[inline]
fn split(at: usize) -> (usize, usize) {
    (at >> PAGE_BITS, at & (PAGE_LEN - 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn pages_are_freed_and_the_first_are_filled_first() {
        let mut pages = Pages::new();
        let all: Vec<usize> = (0..3 * PAGE_LEN).map(|value| pages.insert(value)).collect();
        assert!(all.iter().zip(0..).all(|(&at, value)| pages.get(at) == Some(&value)));
        assert_eq!((pages.pages.len(), pages.open.len()), (3, 0));
        for &at in &all[PAGE_LEN / 2..] {
            assert_eq!(pages.remove(at).map(|value| all[value]), Some(at));
            assert_eq!(pages.get(at), None);
            assert_eq!(pages.remove(at), None);
        }
        let allocated: Vec<bool> = pages.pages.iter().map(|page| page.capacity() > 0).collect();
        assert_eq!(allocated, [true, false, false]);
        for _ in 0..PAGE_LEN / 2 {
            assert!(pages.insert(7) < PAGE_LEN);
        }
        assert_eq!(pages.insert(8), PAGE_LEN);
        assert_eq!(pages.len(), PAGE_LEN + 1);
        assert!(pages.iter().map(|(at, _)| at).eq(0..=PAGE_LEN));
        *pages.get_mut(0).unwrap() = 9;
        assert_eq!((pages.get(0), pages.get(usize::MAX)), (Some(&9), None));
        assert!((0..=PAGE_LEN).all(|at| pages.remove(at).is_some()));
        assert_eq!((pages.len(), pages.pages.capacity(), pages.open.len()), (0, 0, 0));
    }
}
