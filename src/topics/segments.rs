//! Shared values that are read all the time and replaced seldom.
//!
//! A value is kept in segments. Every shard holds its own reference to each segment's value, and
//! the version that it has seen. A read compares one number that seldom changes; only when it has
//! changed, the reader takes the segment's lock and gets itself the new value. So a reader shares
//! no written cache line with anyone, as it would through a reference count or a reader's lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;

/// The shared side.
#[derive(Debug)]
pub(super) struct Segments<T> {
    /// Apart from the values, whose locks are written by every writer.
    versions: Box<[AtomicU64]>,
    values: Box<[CachePadded<Mutex<Arc<T>>>]>,
    /// The value that all segments begin with.
    first: Arc<T>,
}

/// One reader's side.
#[derive(Debug)]
pub(super) struct SegmentCache<T>(Box<[Cached<T>]>);

#[derive(Debug)]
struct Cached<T> {
    version: u64,
    value: Arc<T>,
}

impl<T: Default> Segments<T> {
    /// So many segments with one and the same value.
    pub(super) fn new(segments: usize) -> Self {
        let first = Arc::new(T::default());
        let cell = || CachePadded::new(Mutex::new(Arc::clone(&first)));
        Self {
            versions: (0..segments).map(|_| AtomicU64::new(0)).collect(),
            values: (0..segments).map(|_| cell()).collect(),
            first,
        }
    }
}

impl<T> Segments<T> {
    /// What a new reader starts with.
    pub(super) fn cache(&self) -> SegmentCache<T> {
        SegmentCache(self.values.iter().zip(&self.versions).map(fetch).collect())
    }

    /// The present value of a segment. It includes every change that was over before.
    #[inline]
    pub(super) fn read<'c>(&self, segment: usize, cache: &'c mut SegmentCache<T>) -> Option<&'c T> {
        let (cached, version) = (cache.0.get_mut(segment)?, self.versions.get(segment)?);
        if version.load(Ordering::Acquire) != cached.version {
            *cached = fetch((self.values.get(segment)?, version));
        }
        Some(&cached.value)
    }

    /// Changes a segment, one writer at a time. The closure may change the value in place, as far
    /// as the value allows it, or give a new one; and it gives a result.
    pub(super) fn change<R>(
        &self,
        segment: usize,
        change: impl FnOnce(&T) -> (Option<T>, R),
    ) -> Option<R> {
        let (cell, version) = (self.values.get(segment)?, self.versions.get(segment)?);
        let mut value = lock(cell);
        let (new, result) = change(&value);
        if let Some(new) = new {
            *value = Arc::new(new);
            // Under the lock, so that version and value belong together.
            version.fetch_add(1, Ordering::Release);
        }
        Some(result)
    }

    /// Gives segments back the value that all have begun with, where theirs is as good as that.
    pub(super) fn reset(&self, is_as_good: impl Fn(&T) -> bool) {
        for (cell, version) in self.values.iter().zip(&self.versions) {
            let mut value = lock(cell);
            if !Arc::ptr_eq(&value, &self.first) && is_as_good(&value) {
                *value = Arc::clone(&self.first);
                version.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Calls back with every segment's value.
    pub(super) fn for_each(&self, mut see: impl FnMut(&T)) {
        self.values.iter().for_each(|cell| see(&lock(cell)));
    }

    /// Lets go of values that were replaced.
    pub(super) fn refresh(&self, cache: &mut SegmentCache<T>) {
        for segment in 0..self.versions.len() {
            self.read(segment, cache);
        }
    }
}

fn lock<T>(cell: &Mutex<Arc<T>>) -> MutexGuard<'_, Arc<T>> {
    // Writers leave a value whole at every point where they could panic.
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cold]
fn fetch<T>((cell, version): (&CachePadded<Mutex<Arc<T>>>, &AtomicU64)) -> Cached<T> {
    let value = lock(cell);
    Cached { version: version.load(Ordering::Relaxed), value: Arc::clone(&value) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_value_that_is_as_good_as_the_first_is_let_go_of_by_all_who_look() {
        let segments = Segments::<String>::new(3);
        let mut readers = [segments.cache(), segments.cache()];
        for (segment, text) in ["", "kept", "gone"].into_iter().enumerate() {
            segments.change(segment, |_| (Some(text.to_owned()), ()));
        }
        readers.iter_mut().for_each(|reader| segments.refresh(reader));
        let values: Vec<_> =
            segments.values.iter().map(|cell| Arc::downgrade(&lock(cell))).collect();
        segments.reset(|text| text != "kept");
        // Whoever has looked before may be reading it still.
        assert!(values.iter().all(|value| value.strong_count() > 0));
        readers.iter_mut().for_each(|reader| segments.refresh(reader));
        let holders: Vec<_> = values.iter().map(std::sync::Weak::strong_count).collect();
        assert_eq!(holders, [0, 3, 0]);
        for reader in &mut readers {
            let seen = |segment| segments.read(segment, reader).unwrap().clone();
            assert_eq!([0, 1, 2].map(seen), ["", "kept", ""]);
        }
        // It is nobody's to write to.
        segments.change(0, |text| (Some(format!("{text}new")), ()));
        assert_eq!(segments.read(2, readers.first_mut().unwrap()).unwrap(), "");
        assert_eq!(segments.read(0, readers.first_mut().unwrap()).unwrap(), "new");
    }
}
