//! The ends of the mesh: [`Endpoint`] for a shard, [`Sender`] for every other thread.

use super::credit::{Allowance, Return};
use super::mailbox::Mailbox;
use super::sync::Arc;
use super::wake::Signal;
use crossbeam_utils::CachePadded;
use std::io;
#[cfg(not(loom))]
use std::os::fd::{AsFd, BorrowedFd};

/// [`Batch::from`] of a batch that no shard sent, but a [`Sender`].
pub const OUTSIDE: usize = usize::MAX;

/// Items that one sender put into a mailbox at once, in their order.
#[derive(Debug)]
pub struct Batch<T> {
    /// The index of the sending shard, or [`OUTSIDE`].
    pub from: usize,
    /// The items, oldest first. Never empty.
    pub items: Vec<T>,
    /// The units of credit that the sender spent, to be given back with [`Endpoint::returned`].
    pub cost: u32,
}

/// Makes a mesh of `shards` endpoints, the index of each being its place in the result.
///
/// `credit` is how many data items each ordered pair of shards may have on their way; 0 makes every
/// sender starve for ever.
///
/// The eventfds are opened in the calling thread's descriptor table. A thread that uses an endpoint
/// or a sender must use that table or one copied from it later.
///
/// # Errors
///
/// When an eventfd cannot be made, for want of descriptors or memory.
pub fn mesh<T: Send>(shards: usize, credit: u32) -> io::Result<Vec<Endpoint<T>>> {
    let mailboxes = (0..shards)
        .map(|_| Mailbox::new().map(Arc::new))
        .collect::<io::Result<Box<[Arc<Mailbox<Batch<T>>>]>>>()?;
    let returns = (0..shards)
        .map(|_| (0..shards).map(|_| CachePadded::new(Return::new())).collect())
        .collect();
    let shared = Arc::new(Shared { mailboxes, returns });
    let endpoint = |(id, mailbox)| Endpoint {
        id,
        mailbox: Arc::clone(mailbox),
        shared: Arc::clone(&shared),
        allowances: (0..shards).map(|_| Allowance::new(credit)).collect(),
    };
    Ok(shared.mailboxes.iter().enumerate().map(endpoint).collect())
}

/// One shard's end of the mesh: its own mailbox to read, everybody's to write to.
///
/// It is used by one thread at a time (`Send`, not `Sync`). Dropping it closes nothing: what is
/// sent to its mailbox afterwards lies there until the last endpoint and sender are gone.
pub struct Endpoint<T> {
    id: usize,
    /// This shard's own.
    mailbox: Arc<Mailbox<Batch<T>>>,
    shared: Arc<Shared<T>>,
    /// By receiver.
    allowances: Box<[Allowance]>,
}

impl<T: Send> Endpoint<T> {
    /// This shard's index.
    pub fn id(&self) -> usize {
        self.id
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.shared.mailboxes.len()
    }

    /// A sender of control items for threads that are no shards.
    pub fn sender(&self) -> Sender<T> {
        Sender { shared: Arc::clone(&self.shared) }
    }

    /// Puts `items` into the mailbox of shard `to` and spends `cost` units of credit, also when
    /// there are fewer left. Nothing happens when `items` is empty or there is no such shard.
    ///
    /// One push, and one wake-up if the receiver sleeps.
    pub fn send(&self, to: usize, items: Vec<T>, cost: u32) {
        let allowance = self.allowances.get(to);
        debug_assert!(allowance.is_some(), "there is no shard {to}");
        if let Some(allowance) = allowance
            && !items.is_empty()
        {
            allowance.spend(cost);
            self.shared.push(to, Batch { from: self.id, items, cost });
        }
    }

    /// How many units of data may still be sent to shard `to`.
    ///
    /// More may come back at any time. The receiver's counter is read only if something is on its
    /// way to it.
    pub fn credit(&self, to: usize) -> u32 {
        self.pair(to).map_or(0, |(allowance, shared)| allowance.left(shared))
    }

    /// How many units of the credit towards each shard are a reserve: a quarter. Whoever sends more
    /// than a little is to wait when no more are left.
    pub fn reserve(&self) -> u32 {
        self.allowances.first().map_or(0, Allowance::reserve)
    }

    /// Whether there is more credit towards shard `to` than the reserve.
    pub fn has_ample_credit(&self, to: usize) -> bool {
        self.pair(to).is_some_and(|(allowance, shared)| allowance.is_ample(shared))
    }

    /// Asks for a wake-up once half of the credit towards shard `to` is back, and looks once more:
    /// true when there is more than the reserve after all, and then nothing need be waited for.
    ///
    /// The wake-up makes [`prepare_sleep`](Self::prepare_sleep) return false once, or ends the
    /// sleep, and makes [`take_credit_returned`](Self::take_credit_returned) true.
    pub fn await_credit(&self, to: usize) -> bool {
        self.pair(to).is_some_and(|(allowance, shared)| allowance.starve(shared))
    }

    /// Whether an awaited credit came back since the last call. Which, tells
    /// [`credit`](Self::credit).
    pub fn take_credit_returned(&self) -> bool {
        self.mailbox.take_credit()
    }

    /// The oldest batch in this shard's mailbox.
    pub fn receive(&self) -> Option<Batch<T>> {
        self.mailbox.pop()
    }

    /// Gives `cost` units of credit back to shard `from`, and wakes it if it is starved of them.
    ///
    /// Call it once the items of a batch are dealt with, with the batch's `from` and `cost`.
    pub fn returned(&self, from: usize, cost: u32) {
        if cost > 0
            && let Some(pair) = self.shared.pair(from, self.id)
            && pair.give_back(cost)
            && let Some(sender) = self.shared.mailboxes.get(from)
        {
            sender.notify_credit();
        }
    }

    /// Whether this shard's mailbox is empty.
    pub fn is_empty(&self) -> bool {
        self.mailbox.is_empty()
    }

    /// Announces that this shard is about to wait for [`wake_fd`](Self::wake_fd).
    ///
    /// False when it must not, because a batch or awaited credit arrived: look at both, and try
    /// again. After true, wait; do not call [`clear_wake`](Self::clear_wake) in between.
    pub fn prepare_sleep(&self) -> bool {
        self.mailbox.prepare_sleep()
    }

    /// Ends a sleep: senders need no wake-up any more.
    pub fn awake(&self) {
        self.mailbox.awake();
    }

    /// Makes [`wake_fd`](Self::wake_fd) unreadable. Call it after the sleep and before
    /// [`receive`](Self::receive). Never blocks; one system call.
    pub fn clear_wake(&self) {
        self.mailbox.signal().clear();
    }

    fn pair(&self, to: usize) -> Option<(&Allowance, &Return)> {
        Some((self.allowances.get(to)?, self.shared.pair(self.id, to)?))
    }
}

#[cfg(not(loom))]
impl<T: Send> Endpoint<T> {
    /// The eventfd that becomes readable when a sleeping shard has to wake up.
    ///
    /// It may also become readable without a reason; then there is nothing to do but sleep again.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.mailbox.signal().as_fd()
    }
}

#[cfg(all(test, loom))]
impl<T: Send> Endpoint<T> {
    /// Blocks as a wait for the eventfd does.
    pub(super) fn wait(&self) {
        self.mailbox.signal().wait();
    }

    /// Ends the next wait, as a shard does that has more to do.
    pub(super) fn go_on(&self) {
        self.mailbox.signal().raise();
    }
}

/// Sends control items into the mailboxes from any thread.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Send> Sender<T> {
    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.shared.mailboxes.len()
    }

    /// Puts `items` into the mailbox of shard `to`, at no cost in credit. Nothing happens when
    /// `items` is empty or there is no such shard. What one thread sends arrives in its order.
    pub fn send(&self, to: usize, items: Vec<T>) {
        debug_assert!(to < self.shards(), "there is no shard {to}");
        if !items.is_empty() {
            self.shared.push(to, Batch { from: OUTSIDE, items, cost: 0 });
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<T> {
    mailboxes: Box<[Arc<Mailbox<Batch<T>>>]>,
    /// By receiver, then by sender: a row is written by one shard, its receiver.
    returns: Box<[Box<[CachePadded<Return>]>]>,
}

impl<T> Shared<T> {
    fn push(&self, to: usize, batch: Batch<T>) {
        if let Some(mailbox) = self.mailboxes.get(to) {
            mailbox.push(batch);
        }
    }

    fn pair(&self, from: usize, to: usize) -> Option<&Return> {
        Some(self.returns.get(to)?.get(from)?)
    }
}
