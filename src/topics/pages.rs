//! Storage for very many values of one size, which gives memory back.

use std::collections::BTreeSet;

use slab::Slab;

const PAGE_BITS: u32 = 12;
const PAGE_LEN: usize = 1 << PAGE_BITS;

/// Values by index, in pages. Unlike one vector, pages never move while they grow, which would
/// stall a shard, and a page without a value is freed. New values fill the first pages first, so
/// that the last ones become empty.
#[derive(Debug)]
pub(super) struct Pages<T> {
    pages: Vec<Slab<T>>,
    /// The pages that have room.
    open: BTreeSet<u32>,
    len: usize,
}

impl<T> Pages<T> {
    pub(super) const fn new() -> Self {
        Self { pages: Vec::new(), open: BTreeSet::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores a value and gives its index. There is room for 2^32 values, more than fit into the
    /// memory of any machine.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        let page = self.open.first().copied().unwrap_or_else(|| {
            self.pages.push(Slab::new());
            let page = (self.pages.len() - 1) as u32;
            self.open.insert(page);
            page
        });
        let Some(values) = self.pages.get_mut(page as usize) else { return u32::MAX };
        // A slab fills its gaps before it grows, so the key stays below the length of a page.
        let key = values.insert(value) as u32;
        if values.len() == PAGE_LEN {
            self.open.remove(&page);
        }
        self.len += 1;
        page << PAGE_BITS | key
    }

    #[inline]
    pub(super) fn get(&self, at: u32) -> Option<&T> {
        let (page, key) = split(at);
        self.pages.get(page)?.get(key)
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        let (page, key) = split(at);
        self.pages.get_mut(page)?.get_mut(key)
    }

    pub(super) fn remove(&mut self, at: u32) -> Option<T> {
        let (page, key) = split(at);
        let values = self.pages.get_mut(page)?;
        let value = values.try_remove(key)?;
        self.len -= 1;
        self.open.insert(page as u32);
        if values.is_empty() {
            *values = Slab::new();
        }
        Some(value)
    }
}

#[inline]
fn split(at: u32) -> (usize, usize) {
    ((at >> PAGE_BITS) as usize, at as usize & (PAGE_LEN - 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    #[test]
    fn pages_are_freed_and_the_first_are_filled_first() {
        let mut pages = Pages::new();
        let all: Vec<u32> = (0..3 * PAGE_LEN as u32).map(|value| pages.insert(value)).collect();
        assert!(all.iter().zip(0..).all(|(&at, value)| pages.get(at) == Some(&value)));
        assert_eq!((pages.pages.len(), pages.open.len()), (3, 0));
        for &at in &all[PAGE_LEN / 2..] {
            assert_eq!(pages.remove(at).map(|value| all[value as usize]), Some(at));
            assert_eq!(pages.get(at), None);
            assert_eq!(pages.remove(at), None);
        }
        let allocated: Vec<bool> = pages.pages.iter().map(|page| page.capacity() > 0).collect();
        assert_eq!(allocated, [true, false, false]);
        for _ in 0..PAGE_LEN / 2 {
            assert!((pages.insert(7) as usize) < PAGE_LEN);
        }
        assert_eq!(pages.insert(8) as usize, PAGE_LEN);
        assert_eq!(pages.len(), PAGE_LEN + 1);
        *pages.get_mut(0).unwrap() = 9;
        assert_eq!((pages.get(0), pages.get(u32::MAX)), (Some(&9), None));
    }
}
