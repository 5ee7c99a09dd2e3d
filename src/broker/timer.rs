//! A timer wheel: many deadlines, 12 to 16 bytes each, at a constant cost.
//!
//! Time is counted in ticks of [`TICK_MS`]. Five levels of 64 slots each cover about two years. An
//! entry lies in the level of the highest six bits in which its deadline differs from the present
//! tick, and moves down a level whenever the present reaches its slot, so that it is moved at most
//! four times. There is no cancelling: owners check that what fires is still due. A slot keeps its
//! entries in blocks that are freed as soon as the slot is emptied, so that no list is ever half
//! empty for having doubled.

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
        let behind = self.occupied.rotate_right((present as u32 + 1) % u64::BITS);
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
