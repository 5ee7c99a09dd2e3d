//! One shard's mailbox: the queue, and the handshake between pushing and falling asleep.

use super::sync::{AtomicBool, Ordering, Queue, fence};
use super::wake::{Signal, Wake};
use crossbeam_utils::CachePadded;
use std::io;

/// A queue with many writers and one reader who sometimes sleeps.
pub(super) struct Mailbox<B> {
    queue: Queue<B>,
    flags: CachePadded<Flags>,
    signal: Wake,
}

struct Flags {
    /// The reader waits for the signal, or is about to. Whoever else resets it raises the signal.
    ///
    /// The reader's writes could be stores, but only of swaps does loom know the one order.
    sleeping: AtomicBool,
    /// Some receiver gave back credit that the owner of this mailbox was starved of.
    credit: AtomicBool,
}

impl<B> Mailbox<B> {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            queue: Queue::new(),
            flags: CachePadded::new(Flags {
                sleeping: AtomicBool::new(false),
                credit: AtomicBool::new(false),
            }),
            signal: Wake::new()?,
        })
    }

    /// Any thread: queues a batch and wakes the reader if it sleeps.
    pub(super) fn push(&self, batch: B) {
        self.queue.push(batch);
        self.wake();
    }

    /// Any thread: tells the reader that credit came back, and wakes it if it sleeps.
    pub(super) fn notify_credit(&self) {
        self.flags.credit.store(true, Ordering::Release);
        self.wake();
    }

    /// The reader: the oldest batch.
    pub(super) fn pop(&self) -> Option<B> {
        self.queue.pop()
    }

    /// Whether no batch waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The reader: whether credit came back since the last call.
    pub(super) fn take_credit(&self) -> bool {
        self.flags.credit.load(Ordering::Relaxed)
            && self.flags.credit.swap(false, Ordering::Acquire)
    }

    /// The reader: announces sleep; false when there is something to do instead.
    pub(super) fn prepare_sleep(&self) -> bool {
        self.flags.sleeping.swap(true, Ordering::Relaxed);
        // Pairs with the fence in `wake`: either this thread sees what was pushed before that
        // fence, or that thread sees `sleeping`.
        fence(Ordering::SeqCst);
        if self.is_empty() && !self.take_credit() {
            return true;
        }
        self.awake();
        false
    }

    /// The reader: takes the announcement back, so that nobody raises the signal any more.
    pub(super) fn awake(&self) {
        self.flags.sleeping.swap(false, Ordering::Relaxed);
    }

    pub(super) fn signal(&self) -> &Wake {
        &self.signal
    }

    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.flags.sleeping.load(Ordering::Relaxed)
            && self.flags.sleeping.swap(false, Ordering::Relaxed)
        {
            self.signal.raise();
        }
    }
}
