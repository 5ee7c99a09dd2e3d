//! What was received of each stream: loss, duplicates and reordering, exactly.

use std::{collections::BTreeMap, ops::AddAssign};

/// How a message fits into its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is the next one, after this many that are missing.
    Next {
        /// How many were passed over.
        skipped: u32,
    },
    /// It was missing, and comes after a later one.
    Late,
    /// It was here before.
    Duplicate,
}

/// The messages of one stream that one receiver has got.
#[derive(Debug, Clone, Default)]
pub struct Track {
    next: u32,
    irregular: Option<Box<Irregular>>,
}

/// Only streams in which something went wrong have this.
#[derive(Debug, Clone, Default)]
struct Irregular {
    /// Start and end (exclusive) of runs of messages that have not come yet.
    missing: BTreeMap<u32, u32>,
    duplicates: u64,
    reordered: u64,
}

impl Track {
    /// Notes an arrival.
    pub fn note(&mut self, sequence: u32) -> Arrival {
        if sequence == self.next {
            self.next = self.next.wrapping_add(1);
            return Arrival::Next { skipped: 0 };
        }
        let irregular = self.irregular.get_or_insert_default();
        if sequence > self.next {
            irregular.missing.insert(self.next, sequence);
            let skipped = sequence - self.next;
            self.next = sequence.wrapping_add(1);
            return Arrival::Next { skipped };
        }
        let run =
            irregular.missing.range(..=sequence).next_back().map(|(start, end)| (*start, *end));
        match run {
            Some((start, end)) if sequence < end => {
                irregular.missing.remove(&start);
                if start < sequence {
                    irregular.missing.insert(start, sequence);
                }
                if sequence + 1 < end {
                    irregular.missing.insert(sequence + 1, end);
                }
                irregular.reordered += 1;
                Arrival::Late
            }
            _ => {
                irregular.duplicates += 1;
                Arrival::Duplicate
            }
        }
    }

    /// The sum, given how many messages the stream had.
    pub fn tally(&self, sent: u32) -> Tally {
        let tail = u64::from(sent.saturating_sub(self.next));
        let mut tally = Tally { lost: tail, ..Tally::default() };
        if let Some(irregular) = &self.irregular {
            tally.lost += irregular.missing.iter().map(|(a, b)| u64::from(b - a)).sum::<u64>();
            tally.duplicates = irregular.duplicates;
            tally.reordered = irregular.reordered;
        }
        tally.received = u64::from(sent.max(self.next)) - tally.lost;
        tally
    }

    /// The number after the highest one seen.
    pub fn next(&self) -> u32 {
        self.next
    }
}

/// The sum of one or many streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Different messages received.
    pub received: u64,
    /// Messages that never came.
    pub lost: u64,
    /// Copies beyond the first.
    pub duplicates: u64,
    /// Messages that came after a later one of their stream.
    pub reordered: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
    }
}

/// The messages of one stream that any member of a group has got: one bit for each. Members run on
/// several threads; their bits are put together at the end.
#[derive(Debug, Clone, Default)]
pub struct Bits {
    words: Vec<u64>,
    duplicates: u64,
}

impl Bits {
    /// Notes an arrival; false if it was here before.
    pub fn note(&mut self, sequence: u32) -> bool {
        let (word, bit) = ((sequence / 64) as usize, 1u64 << (sequence % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let Some(word) = self.words.get_mut(word) else { return true };
        let new = *word & bit == 0;
        *word |= bit;
        self.duplicates += u64::from(!new);
        new
    }

    /// Takes in what another thread has seen of the same stream.
    pub fn merge(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            self.duplicates += u64::from((*mine & theirs).count_ones());
            *mine |= theirs;
        }
        self.duplicates += other.duplicates;
    }

    /// The sum, given how many messages the stream had.
    pub fn tally(&self, sent: u32) -> Tally {
        let received = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
        let lost = u64::from(sent).saturating_sub(received);
        Tally { received, lost, duplicates: self.duplicates, reordered: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(sequences: &[u32], sent: u32) -> Tally {
        let mut track = Track::default();
        for sequence in sequences {
            track.note(*sequence);
        }
        track.tally(sent)
    }

    #[test]
    fn what_comes_in_order_is_all_there() {
        assert_eq!(tally(&[0, 1, 2], 3), Tally { received: 3, ..Tally::default() });
        assert_eq!(tally(&[], 2), Tally { lost: 2, ..Tally::default() });
    }

    #[test]
    fn loss_is_told_from_lateness() {
        let lost = tally(&[0, 4, 5], 7);
        assert_eq!(lost, Tally { received: 3, lost: 4, duplicates: 0, reordered: 0 });
        let late = tally(&[0, 4, 2, 1, 3], 5);
        assert_eq!(late, Tally { received: 5, lost: 0, duplicates: 0, reordered: 3 });
    }

    #[test]
    fn duplicates_are_told_from_late_ones() {
        let twice = tally(&[0, 0, 3, 2, 2, 3], 4);
        assert_eq!(twice, Tally { received: 3, lost: 1, duplicates: 3, reordered: 1 });
    }

    #[test]
    fn any_order_is_counted_as_a_set_would() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..500 {
            let sequences: Vec<u32> = (0..40).map(|_| random.u32(..30)).collect();
            let tally = tally(&sequences, 30);
            let different: std::collections::BTreeSet<_> = sequences.iter().collect();
            assert_eq!(tally.received, different.len() as u64);
            assert_eq!(tally.lost, 30 - different.len() as u64);
            assert_eq!(tally.duplicates, 40 - different.len() as u64);
        }
    }

    #[test]
    fn members_of_a_group_are_put_together() {
        let (mut a, mut b) = (Bits::default(), Bits::default());
        assert!(a.note(0) && a.note(70) && !a.note(70));
        assert!(b.note(1) && b.note(70) && b.note(200));
        a.merge(&b);
        let expected = Tally { received: 4, lost: 6, duplicates: 2, reordered: 0 };
        assert_eq!(a.tally(10), expected);
    }

    #[test]
    fn a_track_takes_sixteen_bytes() {
        assert_eq!(size_of::<Track>(), 16);
    }
}
