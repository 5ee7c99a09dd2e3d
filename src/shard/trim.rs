//! Memory that is given back to the system when a fleet has gone.
//!
//! The allocator keeps what was freed, for there is always something in use behind it. What a
//! million connections have held is taken from it on purpose, but not while they may be about to
//! come back: they would have to be given all of it anew, page by page.

#[cfg(target_env = "gnu")]
use std::{
    alloc::{Layout, alloc, dealloc},
    mem::take,
    sync::{Mutex, PoisonError},
};

/// Fewer connections than this are not worth it: 13 MB.
const LEAST: u64 = 20_000;
/// The looks for which the number of connections must have stayed: 5 s.
const STILL: u32 = 100;
/// It stays if it changes by no more than this between two looks.
const FEW: u64 = 100;
/// The looks after which the shards have done what they were asked to: 1 s.
const DONE: u32 = 20;

/// What the shards are asked to do, one after the other; after each the memory is given back. They let go
/// again at the end, for what a thread has cached while others freed lies on pages that are free by then.
const STAGES: [Shrink; 3] = [Shrink::LetGo, Shrink::Renew, Shrink::LetGo];

/// What shards can be asked to do when a fleet has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shrink {
    /// Let go of what connections that have gone have left.
    LetGo,
    /// Go on with a new event loop, if nobody is connected. What it takes, it takes from memory that
    /// was given back: the pages that it does not use yet stay with the system.
    Renew,
}

/// Watches the number of connections, and gives memory back when most of them have gone for good.
#[derive(Debug, Default)]
pub struct Trim {
    /// The most connections since memory was given back.
    most: u64,
    last: u64,
    /// Looks since the number changed.
    still: u32,
    /// Looks since the shards were asked for the first of the stages.
    asked: Option<u32>,
}

impl Trim {
    /// Takes a look at the number of open connections; to be called every 50 ms. When it has come
    /// to half of what it was or less and stays there, has the shards let go of what they do not need
    /// any more, and make new event loops. What is free is given back a second after each of three
    /// stages; shards that allocate meanwhile wait for it.
    pub fn look(&mut self, open: u64, ask: impl Fn(Shrink)) {
        let since = self.asked.map(|looks| looks + 1);
        self.asked = match self.is_due(open) {
            true => Some(0),
            // They come back, or others go: it is not the time.
            false if self.still == 0 => None,
            false => since,
        };
        if self.asked.is_none() {
            // Of shards that had been asked before clients came back.
            free_cached();
        }
        let Some(looks) = self.asked.filter(|looks| looks % DONE == 0) else { return };
        if looks > 0 {
            give_back();
        }
        match STAGES.get((looks / DONE) as usize) {
            Some(stage) => ask(*stage),
            None => self.asked = None,
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

/// Smaller pieces are never a mapping of their own.
#[cfg(target_env = "gnu")]
const BLOCK: usize = 120 << 10;
/// What a heap may have of gaps that a block fits in, and the most that its end must have before the
/// allocator cuts it, together.
#[cfg(target_env = "gnu")]
const BLOCKS: usize = (128 << 20) / BLOCK;

/// What threads had in their caches.
#[cfg(target_env = "gnu")]
static CACHED: Mutex<Vec<Vec<Vec<u8>>>> = Mutex::new(Vec::new());

/// Readies what the present thread has freed for being given back, by some thousand calls of the allocator
/// and the kernel. For a moment it takes 128 MiB of addresses.
///
/// The allocator keeps up to 16 pieces of each small size in a cache of the thread, each of which,
/// wherever it lies, holds a page back. Only the end of a thread empties its cache, so what is in it is left to
/// [`give_back`]. To make a thread here would fill it again: whoever takes a piece gets its neighbours in
/// the list into the cache.
#[cfg(target_env = "gnu")]
pub(super) fn ready_to_give_back() {
    let sizes = (24..=1_032_usize).step_by(16).flat_map(|size| [size; 16]);
    let cached: Vec<Vec<u8>> = sizes.map(Vec::with_capacity).collect();
    CACHED.lock().unwrap_or_else(PoisonError::into_inner).push(cached);
    cut_heap_end();
}

/// Gives back the free end of the present thread's heap, which [`give_back`] leaves as it is.
///
/// When no gap is left that a block fits in, the next ones are taken from the end. The pages within
/// them are given back here; and when all are freed, the end is so large that the allocator cuts it.
#[cfg(target_env = "gnu")]
fn cut_heap_end() {
    let Ok(layout) = Layout::array::<u8>(BLOCK) else { return };
    // 4 to 64 KiB.
    let page = rustix::param::page_size();
    let mut blocks = Vec::with_capacity(BLOCKS);
    for _ in 0..BLOCKS {
        // SAFETY: the layout has a size.
        let block = unsafe { alloc(layout) };
        if block.is_null() {
            break;
        }
        blocks.push(block);
        let begin = block.align_offset(page);
        let whole = BLOCK.saturating_sub(begin) / page * page;
        if whole > 0 {
            // SAFETY: these are whole pages, within a block that nobody has written to.
            unsafe { libc::madvise(block.add(begin).cast(), whole, libc::MADV_DONTNEED) };
        }
    }
    for block in blocks {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(block, layout) };
    }
}

#[cfg(not(target_env = "gnu"))]
pub(super) fn ready_to_give_back() {}

/// Frees what threads had in their caches.
#[cfg(target_env = "gnu")]
fn free_cached() {
    let cached = take(&mut *CACHED.lock().unwrap_or_else(PoisonError::into_inner));
    if cached.is_empty() {
        return;
    }
    // Without a thread they go to the cache of this one.
    if let Ok(thread) = std::thread::Builder::new().spawn(move || drop(cached)) {
        let _ = thread.join();
    }
}

#[cfg(not(target_env = "gnu"))]
fn free_cached() {}

#[cfg(target_env = "gnu")]
fn give_back() {
    free_cached();
    // SAFETY: it takes no pointer, and locks what it looks at.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators see to it by themselves, or cannot be asked.
#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
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
    fn what_is_in_use_stays_as_it_is() {
        let thread = std::thread::spawn(|| {
            let piece = |n: usize| vec![n as u8; 16 + n % 3_000];
            let mut pieces: Vec<_> = (0..50_000).map(piece).collect();
            // Gaps of all sizes, and a free end.
            for n in (0..50_000).filter(|n| n % 1_000 < 900 || *n > 45_000) {
                pieces[n] = Vec::new();
            }
            for _ in 0..2 {
                ready_to_give_back();
                give_back();
            }
            for n in (0..50_000).filter(|&n| !pieces[n].is_empty()) {
                assert_eq!(pieces[n], piece(n));
            }
            pieces.iter().filter(|piece| !piece.is_empty()).count()
        });
        assert_eq!(thread.join().unwrap(), 4_500);
    }

    #[test]
    fn what_the_shards_let_go_of_is_given_back_before_they_go_on_with_new_event_loops() {
        let (mut trim, asked) = (Trim::default(), std::cell::RefCell::new(Vec::new()));
        let mut look =
            |at: u32, open| trim.look(open, |shrink| asked.borrow_mut().push((at, shrink)));
        look(0, 100_000);
        (1..1_000).for_each(|at| look(at, 0));
        let let_go = STILL + 1;
        let expected = [
            (let_go, Shrink::LetGo),
            (let_go + DONE, Shrink::Renew),
            (let_go + 2 * DONE, Shrink::LetGo),
        ];
        assert_eq!(*asked.borrow(), expected);
    }

    #[test]
    fn nothing_more_is_asked_once_they_come_back() {
        let (mut trim, asked) = (Trim::default(), std::cell::RefCell::new(Vec::new()));
        let mut look = |open| trim.look(open, |shrink| asked.borrow_mut().push(shrink));
        look(100_000);
        (0..=STILL).for_each(|_| look(0));
        [10, 5_000, 20_000].into_iter().for_each(&mut look);
        (0..1_000).for_each(|_| look(100_000));
        assert_eq!(*asked.borrow(), [Shrink::LetGo]);
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_threads_had_in_their_caches_is_freed_when_clients_come_back() {
        let mut trim = Trim::default();
        ready_to_give_back();
        // Other tests may leave something too, but not for ever.
        let is_empty = || CACHED.lock().unwrap().is_empty();
        let looked = (0..1_000).any(|_| {
            trim.look(100_000, |_| ());
            is_empty()
        });
        assert!(looked);
    }

    #[test]
    fn a_few_are_not_worth_it() {
        let mut trim = Trim::default();
        assert_eq!(given_back(&mut trim, [vec![LEAST - 1; 200], vec![0; 500]].concat()), 0);
    }
}
