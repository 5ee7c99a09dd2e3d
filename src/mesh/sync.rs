//! The synchronisation primitives of the mesh: the real ones, or loom's models of them.

#[cfg(loom)]
pub(super) use loom::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering, fence},
};
#[cfg(not(loom))]
pub(super) use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering, fence},
};

#[cfg(not(loom))]
pub(super) use crossbeam_queue::SegQueue as Queue;
#[cfg(loom)]
pub(super) use model::Queue;

#[cfg(loom)]
mod model {
    use loom::sync::Mutex;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use std::collections::VecDeque;

    /// The part of `SegQueue` that the mesh uses, as a model.
    ///
    /// `is_empty` takes no lock and orders nothing, as a weak reading of the real queue's promise:
    /// were it to lock, the lock would order the sleep handshake and hide a missing fence.
    pub(in crate::mesh) struct Queue<T> {
        items: Mutex<VecDeque<T>>,
        len: AtomicUsize,
    }

    impl<T> Queue<T> {
        pub(in crate::mesh) fn new() -> Self {
            Self { items: Mutex::new(VecDeque::new()), len: AtomicUsize::new(0) }
        }

        pub(in crate::mesh) fn push(&self, item: T) {
            let Ok(mut items) = self.items.lock() else { return };
            items.push_back(item);
            self.len.fetch_add(1, Ordering::Relaxed);
        }

        pub(in crate::mesh) fn pop(&self) -> Option<T> {
            let mut items = self.items.lock().ok()?;
            let item = items.pop_front()?;
            self.len.fetch_sub(1, Ordering::Relaxed);
            Some(item)
        }

        pub(in crate::mesh) fn is_empty(&self) -> bool {
            self.len.load(Ordering::Relaxed) == 0
        }
    }
}
