//! A timer wheel: many deadlines, 12 to 16 bytes each, at a constant cost.
//!
//! Time is counted in ticks of [`TICK_MS`]. Five levels of 64 slots each cover about two years. An
//! entry lies in the level of the highest six bits in which its deadline differs from the present
//! tick, and moves down a level whenever the present reaches its slot, so that it is moved at most
//! four times. There is no cancelling: owners check that what fires is still due; a fleet that has
//! gone can be [let go of](TimerWheel::retain) before. A slot keeps its entries in blocks that are
//! freed as soon as the slot is emptied, so that no list is ever half empty for having doubled.

/// The length of a tick, in milliseconds.
pub const TICK_MS: u64 = 64;

/// Six bits of a tick number per level.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 5;

/// How far ahead an entry may lie, in ticks: short of a full turn of the highest level, so that the
/// present slot of that level is never meant a turn later.
const HORIZON: u64 = (SLOTS as u64 - 1) << (SLOT_BITS * (LEVELS as u32 - 1));

/// Entries in a block of a slot.
const BLOCK: usize = 64;

const _: () = assert!(HORIZON < u32::MAX as u64 / 2, "deadlines are kept as 32-bit ticks");
const _: () = assert!(SLOTS == u64::BITS as usize, "one bit of a u64 per slot");

/// Keys by the time at which they are due.
///
/// `K` is whatever finds the owner again, of 8 bytes with an alignment of 4 if each entry is to take
/// 12 bytes.
#[derive(Debug)]
pub struct TimerWheel<K> {
    /// The tick that the last `advance` reached. Every entry of a level is due after it.
    now: u64,
    levels: [Level<K>; LEVELS],
    /// Entries that were due when they were inserted.
    due: Slot<K>,
    len: usize,
}

impl<K: Copy> TimerWheel<K> {
    /// An empty wheel at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self {
            now: now_ms / TICK_MS,
            levels: std::array::from_fn(Level::new),
            due: Slot::new(),
            len: 0,
        }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lets `key` fire at the first [`advance`](Self::advance) to `deadline_ms` rounded up to a
    /// whole tick, or at the next one if that is past.
    ///
    /// A deadline more than about two years ahead fires after two years, too early: its owner then
    /// inserts it again.
    pub fn insert(&mut self, deadline_ms: u64, key: K) {
        let deadline = deadline_ms.div_ceil(TICK_MS).min(self.now + HORIZON);
        self.len += 1;
        self.place(deadline, key);
    }

    /// Goes on to `now_ms` and calls `fire` for everything that is due, in order of the ticks and
    /// within a tick in no particular order. A time before the last one counts as the last one.
    pub fn advance(&mut self, now_ms: u64, mut fire: impl FnMut(K)) {
        let target = (now_ms / TICK_MS).max(self.now);
        for entry in self.due.take().into_iter().flatten() {
            self.len -= 1;
            fire(entry.key);
        }
        while let Some(next) = self.next_tick().filter(|&next| next <= target) {
            self.now = next;
            self.turn(&mut fire);
        }
        self.now = target;
    }

    /// A time in milliseconds at which [`advance`](Self::advance) is worth calling: never after the
    /// earliest deadline, but sometimes before it, when entries are only to be moved. `None` when
    /// there is no entry.
    pub fn next_deadline(&self) -> Option<u64> {
        if !self.due.is_empty() {
            return Some(self.now * TICK_MS);
        }
        self.next_tick().map(|tick| tick * TICK_MS)
    }

    /// Forgets all entries whose key is not to be kept. It looks at each.
    pub fn retain(&mut self, mut keep: impl FnMut(K) -> bool) {
        let mut kept = 0;
        let mut sift = |slot: &mut Slot<K>| {
            for entry in slot.take().into_iter().flatten() {
                if keep(entry.key) {
                    kept += 1;
                    slot.push(entry);
                }
            }
        };
        sift(&mut self.due);
        for level in &mut self.levels {
            for (number, slot) in level.slots.iter_mut().enumerate() {
                sift(slot);
                if slot.is_empty() {
                    level.occupied &= !(1 << number);
                }
            }
        }
        self.len = kept;
    }

    fn place(&mut self, deadline: u64, key: K) {
        if deadline <= self.now {
            self.due.push(Entry { deadline: deadline as u32, key });
            return;
        }
        let highest_bit = (deadline ^ self.now).ilog2();
        let level = ((highest_bit / SLOT_BITS) as usize).min(LEVELS - 1);
        if let Some(level) = self.levels.get_mut(level) {
            level.push(deadline, Entry { deadline: deadline as u32, key });
        }
    }

    /// Empties the slots that start at the present tick: fires what is due, moves the rest down.
    fn turn(&mut self, fire: &mut impl FnMut(K)) {
        let now = self.now;
        // From the top, for what moves down may be due in a lower slot of this very tick.
        for number in (0..LEVELS).rev() {
            let slot = match self.levels.get_mut(number) {
                Some(level) if now.trailing_zeros() >= level.shift => level.take(now),
                _ => continue,
            };
            for entry in slot.into_iter().flatten() {
                let ahead = entry.deadline.wrapping_sub(now as u32);
                if ahead == 0 {
                    self.len -= 1;
                    fire(entry.key);
                } else {
                    self.place(now + u64::from(ahead), entry.key);
                }
            }
        }
    }

    /// The next tick at which a slot that is not empty starts.
    fn next_tick(&self) -> Option<u64> {
        self.levels.iter().filter_map(|level| level.next_tick(self.now)).min()
    }
}

#[derive(Debug)]
struct Entry<K> {
    /// The low 32 bits of the tick; the rest follows from the present.
    deadline: u32,
    key: K,
}

/// 64 slots of `1 << shift` ticks each.
#[derive(Debug)]
struct Level<K> {
    shift: u32,
    /// A bit for each slot that is not empty.
    occupied: u64,
    slots: Box<[Slot<K>]>,
}

impl<K> Level<K> {
    fn new(number: usize) -> Self {
        Self {
            shift: SLOT_BITS * number as u32,
            occupied: 0,
            slots: (0..SLOTS).map(|_| Slot::new()).collect(),
        }
    }

    fn push(&mut self, tick: u64, entry: Entry<K>) {
        let number = self.slot_number(tick);
        if let Some(slot) = self.slots.get_mut(number) {
            self.occupied |= 1 << number;
            slot.push(entry);
        }
    }

    fn take(&mut self, tick: u64) -> Vec<Vec<Entry<K>>> {
        let number = self.slot_number(tick);
        self.occupied &= !(1 << number);
        self.slots.get_mut(number).map(Slot::take).unwrap_or_default()
    }

    fn next_tick(&self, now: u64) -> Option<u64> {
        // The present slot is empty: its entries have moved down. So the search starts behind it.
        let present = now >> self.shift;
        let behind = self.occupied.rotate_right(((present + 1) % SLOTS as u64) as u32);
        (behind != 0).then(|| (present + 1 + u64::from(behind.trailing_zeros())) << self.shift)
    }

    fn slot_number(&self, tick: u64) -> usize {
        (tick >> self.shift) as usize % SLOTS
    }
}

/// Entries in blocks, of which only the last may have room.
#[derive(Debug)]
struct Slot<K>(Vec<Vec<Entry<K>>>);

impl<K> Slot<K> {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, entry: Entry<K>) {
        match self.0.last_mut() {
            Some(block) if block.len() < BLOCK => block.push(entry),
            // The first block grows with its entries, as most slots of a small wheel hold few.
            None => self.0.push(vec![entry]),
            Some(_) => {
                let mut block = Vec::with_capacity(BLOCK);
                block.push(entry);
                self.0.push(block);
            }
        }
    }

    fn take(&mut self) -> Vec<Vec<Entry<K>>> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;
    use proptest::prelude::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;
    const YEAR_MS: u64 = 365 * DAY_MS;

    fn advance(wheel: &mut TimerWheel<u32>, now_ms: u64) -> Vec<u32> {
        let mut fired = Vec::new();
        wheel.advance(now_ms, |key| fired.push(key));
        fired
    }

    #[test]
    fn fires_at_the_tick_after_the_deadline_and_never_before() {
        let mut wheel = TimerWheel::new(1000);
        wheel.insert(2001, 1);
        let due = 2001_u64.next_multiple_of(TICK_MS);
        assert!(advance(&mut wheel, 2001).is_empty());
        assert!(advance(&mut wheel, due - 1).is_empty());
        assert_eq!(advance(&mut wheel, due), [1]);
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn fires_what_is_past_at_the_next_advance_even_when_time_stands_still() {
        let mut wheel = TimerWheel::new(10_000);
        wheel.insert(10, 1);
        wheel.insert(10_000, 2);
        assert!(wheel.next_deadline().unwrap() <= 10_000);
        assert_eq!(wheel.len(), 2);
        // 10,000 is rounded up to a tick that has not come.
        assert_eq!(advance(&mut wheel, 10_000), [1]);
        assert!(advance(&mut wheel, 10_000).is_empty());
        assert_eq!(advance(&mut wheel, 10_048), [2]);
        wheel.insert(0, 3);
        assert_eq!(advance(&mut wheel, 0), [3]);
    }

    #[test]
    fn a_clock_that_goes_back_fires_nothing_early() {
        let mut wheel = TimerWheel::new(DAY_MS);
        wheel.insert(DAY_MS + 1000, 1);
        assert!(advance(&mut wheel, 5).is_empty());
        assert!(advance(&mut wheel, DAY_MS).is_empty());
        assert_eq!(advance(&mut wheel, DAY_MS + 1024), [1]);
    }

    #[test]
    fn fires_the_far_future_after_two_years_for_the_owner_to_insert_again() {
        let mut wheel = TimerWheel::new(0);
        wheel.insert(136 * YEAR_MS, 1);
        wheel.insert(u64::MAX, 2);
        assert!(advance(&mut wheel, 2 * YEAR_MS).is_empty());
        let mut fired = advance(&mut wheel, 3 * YEAR_MS);
        fired.sort_unstable();
        assert_eq!(fired, [1, 2]);
    }

    #[test]
    fn holds_after_more_ticks_than_32_bits_count() {
        let wrap = (u64::from(u32::MAX) + 1) * TICK_MS;
        let mut wheel = TimerWheel::new(wrap - 10 * TICK_MS);
        wheel.insert(wrap - 5 * TICK_MS, 1);
        wheel.insert(wrap + 5 * TICK_MS, 2);
        wheel.insert(wrap + YEAR_MS, 3);
        assert_eq!(advance(&mut wheel, wrap - 1), [1]);
        assert!(advance(&mut wheel, wrap + 4 * TICK_MS).is_empty());
        assert_eq!(advance(&mut wheel, wrap + 5 * TICK_MS), [2]);
        assert!(advance(&mut wheel, wrap + YEAR_MS - TICK_MS).is_empty());
        assert_eq!(advance(&mut wheel, wrap + YEAR_MS + TICK_MS), [3]);
    }

    /// Keep-alive: everybody comes back after each firing, for a day.
    #[test]
    fn frees_its_blocks_and_keeps_none_half_empty() {
        assert_eq!(size_of::<Entry<(u32, u32)>>(), 12);
        assert_eq!(size_of::<Entry<u64>>(), 16);
        let mut wheel = TimerWheel::new(0);
        let entries = 100_000;
        for key in 0..entries {
            wheel.insert(90_000 + u64::from(key) % 60_000, key);
        }
        let capacity = |wheel: &TimerWheel<u32>| -> usize {
            let slots = wheel.levels.iter().flat_map(|level| &level.slots);
            slots.flat_map(|slot| &slot.0).map(Vec::capacity).sum()
        };
        // No slot wastes more than one block.
        assert!(capacity(&wheel) <= entries as usize + 2 * SLOTS * BLOCK);
        for minute in 1..=30_u64 {
            for key in advance(&mut wheel, minute * 60_000) {
                wheel.insert(minute * 60_000 + 90_000, key);
            }
            assert_eq!(wheel.len(), entries as usize);
            assert!(capacity(&wheel) <= entries as usize + 2 * SLOTS * BLOCK);
        }
        assert_eq!(advance(&mut wheel, DAY_MS).len(), entries as usize);
        assert_eq!(capacity(&wheel), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Advance(u64),
        AdvanceToNext,
        /// Forgets the keys that are multiples of this.
        Forget(u32),
    }

    /// Times of every size, often on the borders of slots and levels.
    fn duration() -> impl Strategy<Value = u64> {
        let border = (0..31_u32, 0..3_u64).prop_map(|(bit, off)| (1_u64 << bit) * TICK_MS + off);
        prop_oneof![0..200_u64, 0..10_000_u64, 0..DAY_MS, 0..3 * YEAR_MS, border]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => duration().prop_map(Step::Insert),
            2 => duration().prop_map(Step::Advance),
            1 => Just(Step::AdvanceToNext),
            1 => (1..4_u32).prop_map(Step::Forget),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_list(
            start in prop_oneof![Just(0), 0..u64::from(u32::MAX) * 2 * TICK_MS],
            steps in proptest::collection::vec(step(), 1..80),
        ) {
            let horizon_ms = HORIZON * TICK_MS;
            let mut now = start;
            let mut wheel = TimerWheel::new(now);
            let mut model: Vec<(u64, u32)> = Vec::new();
            for (key, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(ahead) => {
                        let ahead = ahead.min(horizon_ms - TICK_MS);
                        // Sometimes in the past.
                        let deadline = (now + ahead).saturating_sub(100);
                        wheel.insert(deadline, key as u32);
                        model.push((deadline.div_ceil(TICK_MS).max(now / TICK_MS), key as u32));
                        continue;
                    }
                    Step::Advance(by) => now += by,
                    Step::Forget(of) => {
                        wheel.retain(|key| key % of != 0);
                        model.retain(|(_, key)| key % of != 0);
                    }
                    Step::AdvanceToNext => now = wheel.next_deadline().unwrap_or(now).max(now),
                }
                let next = wheel.next_deadline();
                prop_assert_eq!(next.is_none(), model.is_empty());
                if let (Some(next), Some(&(earliest, _))) = (next, model.iter().min()) {
                    prop_assert!(next <= earliest * TICK_MS, "{next} {earliest}");
                }
                let mut fired = advance(&mut wheel, now);
                let tick_of = |key: &u32| model.iter().find(|(_, k)| k == key).unwrap().0;
                let ticks: Vec<u64> = fired.iter().map(tick_of).collect();
                let late = |tick: &u64| *tick <= now / TICK_MS;
                prop_assert!(ticks.iter().all(late), "fired early");
                prop_assert!(ticks.is_sorted(), "fired out of order");
                let mut expected: Vec<u32> =
                    model.iter().filter(|(tick, _)| late(tick)).map(|(_, key)| *key).collect();
                model.retain(|(tick, _)| !late(tick));
                fired.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(fired, expected);
                prop_assert_eq!(wheel.len(), model.len());
            }
        }
    }
}
