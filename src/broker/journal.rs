//! What is to outlive the process: the changes of a turn, and who waits until they are kept.
//!
//! A turn that changes anything durable is an epoch, and its changes go to the store in one batch.
//! An answer that promises something is held in the client's outbox until its epoch is durable:
//! here, and on every other shard that was sent something in it that had to be kept there. Those
//! say so by [`ShardMessage::Kept`](super::ShardMessage::Kept), after the `Keep` that follows what
//! was sent to them.
//!
//! # Exactly once
//!
//! That a QoS 2 message was received and that it is owed to others has to become durable together:
//! else its client, which sends it again after a crash, is either not believed or heard twice. If
//! some of it is owed on other shards, these give back what they have to change with their `Kept`,
//! the publisher's shard puts all of it into one batch, and tells them by `Once` when that is
//! durable. Until then nothing of it is sent. If another shard has no member of a group any more and
//! returns the message, what is owed of it then is kept with the same batch: its `Kept` comes behind
//! what it returns, and counts only when what was dealt out anew is kept, too ([`Journal::has_redealt`]).
//!
//! Without a store nothing is ever staged, and nothing waits.

mod endings;
mod once;
mod wall_clock;

use std::collections::VecDeque;

use super::{Now, SessionKey};
use endings::Endings;
pub use once::Once;
use once::Receptions;
use wall_clock::WallClock;

use crate::{
    codec::PacketId,
    record::{Batch, Change, Epoch, Load, NEVER, Position},
    topics::{ShardId, ShardSet},
};

/// The changes of one shard on their way to the store.
#[derive(Debug)]
pub struct Journal {
    shards: u64,
    enabled: bool,
    /// The store takes nothing any more.
    failed: bool,
    /// The store has more to do than it is to have: publishers of what it must keep wait.
    pub congested: bool,
    /// The present one.
    epoch: Epoch,
    changes: Vec<Change>,
    loads: Vec<Load>,
    /// Counts all that was staged.
    staged: u64,
    next_number: u64,
    /// By which clock the times of what has which number were told.
    wall_clock: WallClock,
    /// Epochs with changes that are not durable yet, oldest first; the present one may be the last.
    pending: VecDeque<Epoch>,
    /// The same for what was sent to each other shard.
    sent: Vec<VecDeque<Epoch>>,
    /// The shards that were sent something in the present epoch.
    asked: ShardSet,
    /// Epochs of which a message came back, for its shard had nobody for it, and the epochs in which
    /// it was sent once more: those are complete only with these.
    redealt: Vec<(Epoch, Epoch)>,
    /// Who is to be told when an epoch of its own is kept here.
    promises: VecDeque<Promise>,
    /// Changes that must not become durable before what was sent in their epoch is.
    deferred: VecDeque<(Epoch, Deferred)>,
    /// Epochs that are complete only when a later one is durable, in which their deferred changes
    /// are made.
    carried: VecDeque<(Epoch, Epoch)>,
    /// Kept sessions whose end is not durable yet.
    endings: Endings,
    /// Whose message is being delivered whose reception has to be kept together with it.
    once: Option<Once>,
    /// What has to be kept together with the receptions of such messages.
    receptions: Receptions,
    /// Counts what was refused, for the store has failed.
    refused: u64,
    /// As many of them are known to each other shard, or were not its own.
    told: Vec<u64>,
}

/// Another shard waits for this one.
#[derive(Debug)]
struct Promise {
    to: ShardId,
    /// The other shard's epoch.
    epoch: Epoch,
    /// The epoch of this shard's that has to be durable.
    kept: Epoch,
    refused: bool,
    changes: Vec<Change>,
}

/// An answer for another shard that waited for one of its epochs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Who waits.
    pub to: ShardId,
    /// Which of its epochs is kept.
    pub epoch: Epoch,
    /// Something of it was refused, for the store has failed.
    pub refused: bool,
    /// What is to be changed together with the reception of what came.
    pub changes: Vec<Change>,
}

/// What is changed only when all that was sent to other shards before it is kept there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deferred {
    /// Deliveries of a message that went to other shards, too.
    Once(Vec<Change>),
    /// A session has ended, and its will may have gone to others.
    End(Box<Change>),
    /// A session's will was published: its record is to be put anew.
    Restate(SessionKey, u32),
    /// A QoS 2 message of a session's client was received, and went to others: were its packet id
    /// kept before they have it, it would not be taken in once more when they have lost it.
    Received(SessionKey, u32, PacketId),
}

/// A point in time between two changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

impl Journal {
    /// For one of `shards` shards; with a store whose numbers go on at `first_number`, if there is
    /// one.
    pub fn new(id: ShardId, shards: usize, first_number: Option<u64>) -> Self {
        Self {
            shards: shards.max(1) as u64,
            enabled: first_number.is_some(),
            failed: false,
            congested: false,
            epoch: 1,
            changes: Vec::new(),
            loads: Vec::new(),
            staged: 0,
            // 0 is no number.
            next_number: first_number.unwrap_or(1).max(1).saturating_add(u64::from(id.0)),
            wall_clock: WallClock::default(),
            pending: VecDeque::new(),
            sent: (0..shards).map(|_| VecDeque::new()).collect(),
            asked: ShardSet::default(),
            redealt: Vec::new(),
            promises: VecDeque::new(),
            deferred: VecDeque::new(),
            carried: VecDeque::new(),
            endings: Endings::default(),
            once: None,
            receptions: Receptions::new(shards),
            refused: 0,
            told: vec![0; shards],
        }
    }

    /// Whether there is a store, in order or not.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Whether the store has failed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// A number that no session, body or delivery of this store ever had. They grow.
    pub fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number = self.next_number.saturating_add(self.shards);
        number
    }

    /// The time has come on, and the wall clock may have been set.
    pub fn set_now(&mut self, now: Now) {
        if self.enabled {
            self.wall_clock.observe(now, self.next_number);
        }
    }

    /// When the delivery at `position`, which has been read from the store, expires on the broker's
    /// clock; what is past is now.
    pub fn expiry(&self, now: Now, position: Position, at: u64) -> u64 {
        self.wall_clock.expiry(now, position, at)
    }

    /// Stages a change.
    pub fn push(&mut self, change: Change) {
        if !self.enabled || self.failed {
            return;
        }
        self.staged += 1;
        let epoch = self.epoch;
        if let Some(unstaged) = self.receptions.unstaged_before(&change) {
            unstaged.late.push((epoch, change));
            return;
        }
        self.changes.push(change);
        await_epoch(&mut self.pending, epoch);
    }

    /// Asks for deliveries that are kept in the store alone.
    pub fn load(&mut self, load: Load) {
        self.loads.push(load);
    }

    /// `to` was sent something in this turn that it may have to keep.
    pub fn ask(&mut self, to: ShardId) {
        if !self.enabled {
            return;
        }
        self.staged += 1;
        self.asked.insert(to);
        if let Some(sent) = self.sent.get_mut(to.index()) {
            await_epoch(sent, self.epoch);
        }
    }

    /// A message has come back from `from`, and was dealt out anew in this turn.
    pub fn has_redealt(&mut self, from: ShardId) {
        let waits = self.sent.get(from.index()).and_then(|sent| sent.front());
        if let Some(&epoch) = waits
            && self.redealt.last() != Some(&(epoch, self.epoch))
        {
            self.redealt.push((epoch, self.epoch));
        }
    }

    /// Forgets what came back and is kept at last, unless that came back, too.
    fn forget_redealt(&mut self) {
        let kept = self.kept_here().min(self.kept_by_others());
        while let Some(at) = self.redealt.iter().position(|&(epoch, again)| {
            let came_back = |&(other, _): &(Epoch, Epoch)| other > epoch && other <= again;
            again <= kept && !self.redealt.iter().any(came_back)
        }) {
            self.redealt.swap_remove(at);
        }
    }

    /// Something could not be kept, for the store has failed.
    pub fn refuse(&mut self) {
        self.refused += 1;
    }

    /// How often that was.
    pub fn refusals(&self) -> u64 {
        self.refused
    }

    /// Where the journal is now; see [`Journal::has_staged_since`].
    pub fn mark(&self) -> Mark {
        Mark(self.staged)
    }

    /// Whether anything was staged, or sent to where it may be kept, since `mark`.
    pub fn has_staged_since(&self, mark: Mark) -> bool {
        self.staged != mark.0
    }

    /// Whether anything is not durable yet.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
            || !self.redealt.is_empty()
            || self.receptions.has_any_here()
            || self.awaits_once()
            || self.sent.iter().any(|sent| !sent.is_empty())
    }

    /// Whether nothing waits for anything.
    #[cfg(test)]
    pub fn is_at_rest(&self) -> bool {
        !self.is_pending()
            && self.promises.is_empty()
            && self.deferred.is_empty()
            && self.changes.is_empty()
            && self.loads.is_empty()
    }

    /// The present epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last epoch that is durable with all before it, here and where its messages went, and with
    /// what was deferred until then.
    pub fn watermark(&self) -> Epoch {
        let kept_together = self.receptions.kept();
        self.kept_here().min(self.kept_elsewhere()).min(self.complete()).min(kept_together)
    }

    /// The last epoch up to which nothing is deferred, or was and is not durable yet.
    fn complete(&self) -> Epoch {
        let deferred = self.deferred.front().map(|(epoch, _)| *epoch);
        let carried = self.carried.iter().map(|(epoch, _)| *epoch).min();
        let first = deferred.into_iter().chain(carried).min();
        first.map_or(Epoch::MAX, |first| first - 1)
    }

    fn kept_here(&self) -> Epoch {
        self.pending.front().map_or(Epoch::MAX, |first| first - 1)
    }

    fn kept_by_others(&self) -> Epoch {
        let first = self.sent.iter().filter_map(|sent| sent.front()).min();
        first.map_or(Epoch::MAX, |first| first - 1)
    }

    fn kept_elsewhere(&self) -> Epoch {
        let redealt = self.redealt.iter().map(|(epoch, _)| epoch - 1).min();
        self.kept_by_others().min(redealt.unwrap_or(Epoch::MAX))
    }

    /// A change that must not become durable before what was sent to other shards in this turn.
    pub fn defer(&mut self, change: Deferred) {
        self.staged += 1;
        self.deferred.push_back((self.epoch, change));
    }

    /// The kept session of this client has ended in the present epoch.
    pub fn ends(&mut self, client_id: &str) {
        self.forget_endings();
        self.endings.push(client_id, self.epoch);
    }

    /// Whether a kept session of this client has ended that may still be found after a crash: for
    /// good, if the store has failed.
    pub fn is_ending(&mut self, client_id: &str) -> bool {
        self.forget_endings();
        self.endings.contains(client_id)
    }

    fn forget_endings(&mut self) {
        if !self.failed && !self.endings.is_empty() {
            self.endings.forget(self.watermark());
        }
    }

    /// Whether the record of a session, by its serial number, is to be put anew later, for its will is
    /// not kept wherever it went. Nothing that lacks that will may be put before.
    pub fn defers(&self, serial: u32) -> bool {
        let is_it = |d: &Deferred| matches!(d, Deferred::Restate(_, of) if *of == serial);
        self.deferred.iter().any(|(_, deferred)| is_it(deferred))
    }

    /// Whether something was sent in this turn that another shard may keep.
    pub fn has_asked(&self) -> bool {
        self.asked != ShardSet::default()
    }

    /// The next deferred change whose time has come, and the epoch that it belongs to.
    pub fn next_deferred(&mut self) -> Option<(Epoch, Deferred)> {
        let (epoch, _) = self.deferred.front()?;
        if *epoch > self.kept_elsewhere() {
            return None;
        }
        self.deferred.pop_front()
    }

    /// A deferred change of that epoch is made in the present one: whoever waits for that one waits
    /// for this one, too.
    pub fn carry(&mut self, epoch: Epoch) {
        self.carried.push_back((epoch, self.epoch));
    }

    /// The shards that are to be asked whether they have kept what they were sent in this epoch.
    pub fn take_asked(&mut self) -> ShardSet {
        std::mem::take(&mut self.asked)
    }

    /// Ends the epoch if anything happened in it; what the store is to do, if anything.
    pub fn end_epoch(&mut self) -> Option<Batch> {
        let has_sent = self.sent.iter().any(|sent| sent.back() == Some(&self.epoch));
        if self.changes.is_empty() && self.loads.is_empty() && !has_sent {
            return None;
        }
        let epoch = self.epoch;
        self.epoch += 1;
        if self.changes.is_empty() && self.loads.is_empty() {
            return None;
        }
        let changes = std::mem::take(&mut self.changes);
        Some(Batch { epoch, changes, loads: std::mem::take(&mut self.loads) })
    }

    /// The store has kept all up to this epoch.
    pub fn on_durable(&mut self, epoch: Epoch) {
        pop_up_to(&mut self.pending, epoch);
        self.receptions.on_durable(epoch);
        while self.carried.front().is_some_and(|(_, in_epoch)| *in_epoch <= epoch) {
            self.carried.pop_front();
        }
        self.forget_redealt();
    }

    /// Another shard has kept all that it was sent up to this epoch, but for what it gives back.
    pub fn on_kept(&mut self, from: ShardId, epoch: Epoch, changes: Vec<Change>) {
        if !changes.is_empty() && !self.failed {
            self.receptions.give_back(epoch, from, changes);
        }
        if let Some(sent) = self.sent.get_mut(from.index()) {
            pop_up_to(sent, epoch);
        }
        self.forget_redealt();
    }

    /// Another shard asks to be told when all that it has sent up to its `epoch` is kept.
    pub fn on_keep(&mut self, from: ShardId, epoch: Epoch) {
        let kept = self.pending.back().copied().unwrap_or(0);
        let told = self.told.get_mut(from.index());
        let refused = told.is_some_and(|t| std::mem::replace(t, self.refused) != self.refused);
        let changes = self.receptions.take_for(from, epoch);
        self.promises.push_back(Promise { to: from, epoch, kept, refused, changes });
    }

    /// The answers that are due.
    pub fn answers(&mut self) -> Vec<Kept> {
        if self.promises.is_empty() {
            return Vec::new();
        }
        let here = self.kept_here();
        let failed = self.failed;
        let mut due = Vec::new();
        self.promises.retain_mut(|promise| {
            let is_kept = promise.kept <= here;
            let is_due = is_kept || failed;
            if is_due {
                let refused = promise.refused || !is_kept;
                let changes = std::mem::take(&mut promise.changes);
                due.push(Kept { to: promise.to, epoch: promise.epoch, refused, changes });
            }
            !is_due
        });
        due
    }

    /// The store has failed: nothing that is pending will ever be kept.
    pub fn fail(&mut self) {
        self.failed = true;
        self.changes.clear();
        self.loads.clear();
        self.deferred.clear();
        self.carried.clear();
        self.redealt.clear();
        self.receptions.fail();
    }

    /// What was pending when the store failed is not waited for any more: whoever waited is told.
    pub fn give_up(&mut self) {
        self.pending.clear();
        self.receptions.give_up();
    }
}

/// Adds the present epoch to those that are waited for, if it is not the last of them.
fn await_epoch(epochs: &mut VecDeque<Epoch>, present: Epoch) {
    if epochs.back() != Some(&present) {
        epochs.push_back(present);
    }
}

fn pop_up_to(epochs: &mut VecDeque<Epoch>, last: Epoch) {
    while epochs.front().is_some_and(|first| *first <= last) {
        epochs.pop_front();
    }
}

/// A time of the broker's clock as a Unix time.
pub fn to_unix(now: Now, at: u64) -> u64 {
    if at == u64::MAX {
        return NEVER;
    }
    now.unix.saturating_add(at).saturating_sub(now.monotonic)
}

/// A Unix time that a start has found on the broker's clock; what is past is now.
pub fn from_unix(now: Now, at: u64) -> u64 {
    if at == NEVER {
        return u64::MAX;
    }
    now.monotonic.saturating_add(at.saturating_sub(now.unix))
}
