//! Memory that is given back to the system when a fleet has gone.
//!
//! The allocator keeps what was freed, for there is always something in use behind it. What a
//! million connections have held is taken from it on purpose, but not while they may be about to
//! come back: they would have to be given all of it anew, page by page.

/// Fewer connections than this are not worth it: 13 MB.
const LEAST: u64 = 20_000;
/// The looks for which the number of connections must have stayed: 5 s.
const STILL: u32 = 100;
/// It stays if it changes by no more than this between two looks.
const FEW: u64 = 100;
/// The looks after which the shards have let go of what they do not need: 1 s.
const LET_GO: u32 = 20;

/// Watches the number of connections, and gives memory back when most of them have gone for good.
#[derive(Debug, Default)]
pub struct Trim {
    /// The most connections since memory was given back.
    most: u64,
    last: u64,
    /// Looks since the number changed.
    still: u32,
    /// Looks until what the shards have let go of is given back, if they were asked to.
    left: Option<u32>,
}

impl Trim {
    /// Takes a look at the number of open connections; to be called every 50 ms. When it has come
    /// to half of what it was or less and stays there, has the shards let go of what they do not need
    /// any more, and gives it back a second later; shards that allocate meanwhile may wait for some
    /// milliseconds.
    pub fn look(&mut self, open: u64, shrink: impl FnOnce()) {
        if self.is_due(open) {
            shrink();
            self.left = Some(LET_GO);
        }
        self.left = self.left.and_then(|left| left.checked_sub(1));
        if self.left == Some(0) {
            give_back();
        }
    }

    fn is_due(&mut self, open: u64) -> bool {
        self.most = self.most.max(open);
        let stays = open.abs_diff(self.last) <= FEW;
        self.still = if stays { self.still.saturating_add(1) } else { 0 };
        self.last = open;
        let due = self.most - open >= LEAST && open <= self.most / 2 && self.still >= STILL;
        if due {
            self.most = open;
        }
        due
    }
}

/// Empties the allocator's cache of the present thread, which keeps up to 16 pieces of each small size;
/// each of them, wherever it lies, holds a page of 4 KiB back.
///
/// Only the end of a thread does that, so what is in the cache is passed to one that ends at once. It
/// takes some 100 µs.
#[cfg(target_env = "gnu")]
pub(super) fn empty_thread_cache() {
    let sizes = (24..=1_032_usize).step_by(16).flat_map(|size| [size; 16]);
    let cached: Vec<Vec<u8>> = sizes.map(Vec::with_capacity).collect();
    // Without a thread they go back to where they were.
    if let Ok(thread) = std::thread::Builder::new().spawn(move || drop(cached)) {
        let _ = thread.join();
    }
}

#[cfg(not(target_env = "gnu"))]
pub(super) fn empty_thread_cache() {}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: it takes no pointer, and locks what it looks at.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators see to it by themselves, or cannot be asked.
#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often memory is given back while the number goes from one to the next, a look each.
    fn given_back(trim: &mut Trim, numbers: impl IntoIterator<Item = u64>) -> usize {
        numbers.into_iter().filter(|&open| trim.is_due(open)).count()
    }

    #[test]
    fn memory_is_given_back_once_when_most_have_gone() {
        let mut trim = Trim::default();
        assert_eq!(given_back(&mut trim, (0..=1_000).map(|n| n * 1_000)), 0);
        assert_eq!(given_back(&mut trim, (0..1_000).rev().map(|n| n * 1_000)), 0);
        assert_eq!(given_back(&mut trim, vec![0; 1_000]), 1);
        assert_eq!(given_back(&mut trim, [vec![100_000; 500], vec![60_000; 500]].concat()), 0);
        assert_eq!(given_back(&mut trim, vec![40_000; 500]), 1);
    }

    #[test]
    fn who_comes_back_finds_it_as_it_was() {
        let mut trim = Trim::default();
        let storm = [vec![200_000; 200], vec![0; 60], vec![200_000; 500]].concat();
        assert_eq!(given_back(&mut trim, storm), 0);
        let slow = (0..=200).map(|n| n * 1_000);
        assert_eq!(given_back(&mut trim, vec![0].into_iter().chain(slow)), 0);
    }

    #[test]
    fn a_few_are_not_worth_it() {
        let mut trim = Trim::default();
        assert_eq!(given_back(&mut trim, [vec![LEAST - 1; 200], vec![0; 500]].concat()), 0);
    }
}
