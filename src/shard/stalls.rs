//! What the log says of shards that have stood still.
//!
//! When the process was stopped, or the machine had no processor for it, all shards find so at about
//! the same time. They count it, and the main thread says it in one line.

use std::sync::Arc;

use crate::stats::ShardStats;

/// The looks in which no shard may find anything more before it is said: 150 ms.
const QUIET: u32 = 3;
/// The looks after which it is said in any case: 2 s.
const LONGEST: u32 = 40;

/// Watches what shards have counted of their own stalls.
#[derive(Debug, Default)]
pub struct Stalls {
    /// What each shard had counted, in milliseconds, when it was last said.
    said: Vec<u64>,
    /// What all had counted at the last look.
    total: u64,
    /// Looks since the first stall that has not been said yet, and since the last one.
    looks: Option<(u32, u32)>,
}

/// Shards that have stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled {
    /// How many.
    pub shards: usize,
    /// The longest that one of them did, in milliseconds.
    pub milliseconds: u64,
}

impl Stalls {
    /// Takes a look at the shards' counters; to be called every 50 ms. Gives what has not been said yet,
    /// once for stalls that follow each other closely.
    pub fn look(&mut self, stats: &[Arc<ShardStats>]) -> Option<Stalled> {
        let counted = || stats.iter().map(|stats| stats.stalled_milliseconds.get());
        let total = counted().sum();
        let (since_first, since_last) = match (self.looks, total == self.total) {
            (None, true) => return None,
            (None, false) => (0, 0),
            (Some((first, last)), true) => (first + 1, last + 1),
            (Some((first, _)), false) => (first + 1, 0),
        };
        self.total = total;
        self.looks = Some((since_first, since_last));
        if since_last < QUIET && since_first < LONGEST {
            return None;
        }
        self.looks = None;
        self.said.resize(stats.len(), 0);
        let mut stalled = Stalled { shards: 0, milliseconds: 0 };
        for (now, said) in counted().zip(&mut self.said) {
            let more = now - std::mem::replace(said, now);
            stalled.shards += usize::from(more > 0);
            stalled.milliseconds = stalled.milliseconds.max(more);
        }
        Some(stalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards() -> Vec<Arc<ShardStats>> {
        (0..3).map(|_| Arc::default()).collect()
    }

    #[test]
    fn stalls_that_come_together_are_said_once() {
        let (stats, mut stalls) = (shards(), Stalls::default());
        assert_eq!(stalls.look(&stats), None);
        stats[0].stalled_milliseconds.add(900);
        assert_eq!(stalls.look(&stats), None);
        stats[2].stalled_milliseconds.add(950);
        let said: Vec<_> = (0..100).filter_map(|_| stalls.look(&stats)).collect();
        assert_eq!(said, [Stalled { shards: 2, milliseconds: 950 }]);
        stats[2].stalled_milliseconds.add(600);
        let said: Vec<_> = (0..100).filter_map(|_| stalls.look(&stats)).collect();
        assert_eq!(said, [Stalled { shards: 1, milliseconds: 600 }]);
    }

    #[test]
    fn stalls_that_do_not_end_are_said_every_two_seconds() {
        let (stats, mut stalls) = (shards(), Stalls::default());
        let mut said = 0;
        for _ in 0..410 {
            stats[1].stalled_milliseconds.add(1);
            said += u32::from(stalls.look(&stats).is_some());
        }
        assert_eq!(said, 10);
    }
}
