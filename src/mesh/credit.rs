//! Credit: how many data items one shard may have on their way to another.
//!
//! Counters only ever grow, so that each has one writer: the sender counts what it sent, the
//! receiver what it gave back, and the difference is what is on its way.

use super::sync::{AtomicU64, Ordering, fence};
use std::cell::Cell;

/// `Return::wake_at` of a sender that waits for nothing.
const NOT_STARVED: u64 = u64::MAX;

/// The shared half of one ordered pair of shards.
pub(super) struct Return {
    /// Units given back since the start. Written by the receiver only.
    returned: AtomicU64,
    /// The value of `returned` at which the sender wants to be woken.
    ///
    /// The sender's writes could be stores, but only of swaps does loom know the one order.
    wake_at: AtomicU64,
}

impl Return {
    pub(super) fn new() -> Self {
        Self { returned: AtomicU64::new(0), wake_at: AtomicU64::new(NOT_STARVED) }
    }

    /// The receiver gives `cost` units back; true when the sender waits for them and must be told.
    pub(super) fn give_back(&self, cost: u32) -> bool {
        let returned = self.returned.load(Ordering::Relaxed).wrapping_add(u64::from(cost));
        self.returned.store(returned, Ordering::Release);
        // Pairs with the fence in `Allowance::starve`: either the sender sees `returned`, or this
        // thread sees `wake_at`.
        fence(Ordering::SeqCst);
        let wake_at = self.wake_at.load(Ordering::Relaxed);
        // When the exchange fails the sender has asked anew, and has looked at `returned` since.
        wake_at <= returned
            && self
                .wake_at
                .compare_exchange(wake_at, NOT_STARVED, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// The sender's half of one ordered pair of shards.
pub(super) struct Allowance {
    limit: u32,
    /// Units sent since the start.
    sent: Cell<u64>,
    /// The last value read of `Return::returned`.
    returned: Cell<u64>,
}

impl Allowance {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, sent: Cell::new(0), returned: Cell::new(0) }
    }

    /// Notes that `cost` units were sent.
    pub(super) fn spend(&self, cost: u32) {
        self.sent.set(self.sent.get().wrapping_add(u64::from(cost)));
    }

    /// What may still be sent. Looks at the shared counter only if something is on its way as far
    /// as known: to a receiver that is sent nothing it costs nothing.
    pub(super) fn left(&self, shared: &Return) -> u32 {
        if self.left_as_known() < self.limit {
            self.returned.set(shared.returned.load(Ordering::Acquire));
        }
        self.left_as_known()
    }

    /// The part of the limit that is kept back from those who send much. Less than the half at which
    /// a sender is woken, so that it can go on when it is.
    pub(super) fn reserve(&self) -> u32 {
        self.limit / 4
    }

    /// Whether more than the reserve is left.
    pub(super) fn is_ample(&self, shared: &Return) -> bool {
        self.left(shared) > self.reserve()
    }

    /// Asks to be told of returned credit; true when more than the reserve is left already.
    pub(super) fn starve(&self, shared: &Return) -> bool {
        // Waking at the first unit would make the two sides take turns for every batch.
        let wake_at = self.sent.get().wrapping_sub(u64::from(self.limit / 2));
        shared.wake_at.swap(wake_at, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !self.is_ample(shared) {
            return false;
        }
        shared.wake_at.swap(NOT_STARVED, Ordering::Relaxed);
        true
    }

    fn left_as_known(&self) -> u32 {
        let on_its_way = self.sent.get().wrapping_sub(self.returned.get());
        u32::try_from(u64::from(self.limit).saturating_sub(on_its_way)).unwrap_or(0)
    }
}
