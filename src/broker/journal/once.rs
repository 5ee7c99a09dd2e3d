//! Exactly once: what is owed of a QoS 2 message becomes durable together with its reception, on
//! whatever shards it is owed. See [`journal`](super).

use std::collections::{HashMap, VecDeque};

use super::{Journal, await_epoch};
use crate::{
    record::{Change, Epoch, Position, SessionNumber},
    topics::ShardId,
};

/// Where a message came from whose reception is kept together with what is owed of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Once {
    /// From a client of this shard.
    Here,
    /// From a client of another shard.
    From(ShardId),
}

/// What has to become durable together with the receptions of messages, here or elsewhere.
#[derive(Debug)]
pub(super) struct Receptions {
    /// With that of the message of this shard that is being delivered.
    here: Vec<Change>,
    /// With those by each other shard.
    elsewhere: Vec<Elsewhere>,
    /// Deliveries that are not in the store's hands yet for such a reason.
    unstaged: HashMap<Position, Unstaged>,
    /// Those that were staged late, in these epochs, which are not durable yet: what was read from the
    /// store may lack them, and have others behind them.
    staged_late: Vec<(Epoch, SessionNumber, Position)>,
    /// What other shards have given back, and in which epoch of this one it was sent.
    returned: Vec<(Epoch, ShardId, Vec<Change>)>,
    /// Who is to be told when that is durable.
    to_tell: Vec<(Epoch, ShardId)>,
}

/// What has to become durable together with receptions by another shard.
#[derive(Debug, Default)]
struct Elsewhere {
    /// What there was since its last `Keep`.
    changes: Vec<Change>,
    /// This shard's epochs in which there was anything that is not known to be durable.
    awaited: VecDeque<Awaited>,
}

/// What this shard has given back to another one, or will, of an epoch of its own.
#[derive(Debug)]
struct Awaited {
    epoch: Epoch,
    /// Which epoch of the other shard's it belongs to, once that is known.
    theirs: Option<Epoch>,
    positions: Vec<Position>,
}

/// A delivery that another shard's batch brings to the store, or a later one of this shard's.
#[derive(Debug)]
pub(super) struct Unstaged {
    session: SessionNumber,
    /// What has happened to it meanwhile, which must not come to the store before it.
    pub late: Vec<(Epoch, Change)>,
}

impl Receptions {
    /// None yet, on one of `shards` shards.
    pub fn new(shards: usize) -> Self {
        Self {
            here: Vec::new(),
            elsewhere: (0..shards).map(|_| Elsewhere::default()).collect(),
            unstaged: HashMap::new(),
            staged_late: Vec::new(),
            returned: Vec::new(),
            to_tell: Vec::new(),
        }
    }

    /// Whether there is anything for the message that is being delivered.
    pub fn has_any_here(&self) -> bool {
        !self.here.is_empty()
    }

    /// The last epoch up to which all that belongs to receptions elsewhere is durable.
    pub fn kept(&self) -> Epoch {
        let awaited = self.elsewhere.iter().filter_map(|other| other.awaited.front());
        awaited.map(|first| first.epoch - 1).min().unwrap_or(Epoch::MAX)
    }

    /// The delivery that has to come to the store before a change, if it has not yet.
    pub fn unstaged_before(&mut self, change: &Change) -> Option<&mut Unstaged> {
        if self.unstaged.is_empty() {
            return None;
        }
        let position = match *change {
            Change::DropDelivery { position, .. } | Change::SetState { position, .. } => position,
            Change::DropOldest { session, .. } | Change::EndSession { session } => {
                let of_it = self.unstaged.iter().filter(|(_, u)| u.session == session);
                of_it.map(|(position, _)| *position).max()?
            }
            _ => return None,
        };
        self.unstaged.get_mut(&position)
    }

    /// Another shard has given this back of what it was sent in that epoch of this one.
    pub fn give_back(&mut self, epoch: Epoch, from: ShardId, changes: Vec<Change>) {
        self.returned.push((epoch, from, changes));
    }

    /// What is to be given back to another shard, which is at this epoch of its own.
    pub fn take_for(&mut self, other: ShardId, theirs: Epoch) -> Vec<Change> {
        let Some(other) = self.elsewhere.get_mut(other.index()) else { return Vec::new() };
        for awaited in &mut other.awaited {
            awaited.theirs.get_or_insert(theirs);
        }
        std::mem::take(&mut other.changes)
    }

    /// The store has failed: nothing of all that will be kept.
    pub fn fail(&mut self) {
        self.here.clear();
        self.unstaged.clear();
        self.staged_late.clear();
        self.elsewhere.iter_mut().for_each(|other| other.changes.clear());
        self.returned.clear();
        self.to_tell.clear();
    }

    /// All of this shard's up to this epoch is durable.
    pub fn on_durable(&mut self, epoch: Epoch) {
        self.staged_late.retain(|(staged, ..)| *staged > epoch);
    }

    /// What other shards have been given back is not waited for any more.
    pub fn give_up(&mut self) {
        self.elsewhere.iter_mut().for_each(|other| other.awaited.clear());
    }

    /// Puts a change aside for a reception by this shard.
    fn push_here(&mut self, change: Change) {
        note_unstaged(&mut self.unstaged, &change);
        self.here.push(change);
    }

    /// Puts a change of the present epoch aside for a reception by another shard. False if there is
    /// no such shard.
    fn push_for(&mut self, other: ShardId, present: Epoch, change: Change) -> bool {
        let Some(other) = self.elsewhere.get_mut(other.index()) else { return false };
        let is_it = |last: &Awaited| last.epoch == present && last.theirs.is_none();
        if !other.awaited.back().is_some_and(is_it) {
            let (theirs, positions) = (None, Vec::new());
            other.awaited.push_back(Awaited { epoch: present, theirs, positions });
        }
        if let Some(last) = other.awaited.back_mut() {
            last.positions.extend(note_unstaged(&mut self.unstaged, &change));
        }
        other.changes.push(change);
        true
    }
}

impl Journal {
    /// From here on a message is delivered whose reception is kept together with what is owed of it;
    /// with `None`, no more.
    pub fn deliver_once(&mut self, once: Option<Once>) {
        self.once = once.filter(|_| self.enabled && !self.failed);
    }

    /// Whether such a message is being delivered, and from where.
    pub fn once(&self) -> Option<Once> {
        self.once
    }

    /// Stages a change that becomes durable together with the reception of the message that is
    /// being delivered.
    pub fn push_once(&mut self, change: Change) {
        match self.once {
            None => self.push(change),
            Some(Once::Here) => {
                self.staged += 1;
                self.receptions.push_here(change);
            }
            Some(Once::From(shard)) => {
                let is_staged = self.receptions.push_for(shard, self.epoch, change);
                self.staged += u64::from(is_staged);
            }
        }
    }

    /// What was staged for the message of a client of this shard that has been delivered.
    pub fn take_once(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.receptions.here)
    }

    /// Whether anything is not in the store's hands yet that will be: it cannot be read from there.
    pub fn awaits_once(&self) -> bool {
        let elsewhere = &self.receptions.elsewhere;
        !self.deferred.is_empty() || elsewhere.iter().any(|other| !other.awaited.is_empty())
    }

    /// The first delivery of a session that may not have been in the store when it was read from: what
    /// was read from behind it has come there too early.
    pub fn first_unstaged(&self, session: SessionNumber) -> Option<Position> {
        let unstaged =
            self.receptions.unstaged.iter().map(|(at, unstaged)| (unstaged.session, *at));
        let late = self.receptions.staged_late.iter().map(|(_, session, at)| (*session, *at));
        let of_it = unstaged.chain(late).filter(|(owner, _)| *owner == session);
        of_it.map(|(_, position)| position).min()
    }

    /// Stages what was put aside for it, and what has happened to it since.
    pub fn stage_once(&mut self, changes: Vec<Change>) {
        let positions: Vec<_> = changes.iter().filter_map(position_put).map(|put| put.1).collect();
        let late = changes.iter().filter_map(position_put);
        let late: Vec<_> = late.map(|(session, at)| (self.epoch, session, at)).collect();
        changes.into_iter().for_each(|change| self.push(change));
        if !self.failed {
            self.receptions.staged_late.extend(late);
        }
        self.have_staged(positions);
    }

    fn have_staged(&mut self, positions: Vec<Position>) {
        for position in positions {
            let late = self.receptions.unstaged.remove(&position).map(|unstaged| unstaged.late);
            for (epoch, change) in late.into_iter().flatten() {
                // Whoever waits for its own epoch waits for the one in which it is staged.
                self.carry(epoch);
                self.push(change);
            }
        }
    }

    /// Stages what other shards have given back of what was sent up to that epoch.
    pub fn stage_returned(&mut self, epoch: Epoch) {
        for (sent, shard, changes) in std::mem::take(&mut self.receptions.returned) {
            if sent > epoch {
                self.receptions.returned.push((sent, shard, changes));
                continue;
            }
            self.receptions.to_tell.push((sent, shard));
            // Not its own: what has happened to them since, their shards tell.
            self.staged += changes.len() as u64;
            self.changes.extend(changes);
            await_epoch(&mut self.pending, self.epoch);
        }
    }

    /// The shards that have given something back that is durable by now, with the epoch in which it
    /// was sent to them.
    pub fn take_told(&mut self) -> Vec<(Epoch, ShardId)> {
        if self.receptions.to_tell.is_empty() {
            return Vec::new();
        }
        let complete = self.complete();
        self.receptions.to_tell.extract_if(.., |(epoch, _)| *epoch <= complete).collect()
    }

    /// What another shard has received up to its `epoch` is durable, and what was given back to it.
    pub fn on_once(&mut self, from: ShardId, epoch: Epoch) {
        let Some(other) = self.receptions.elsewhere.get_mut(from.index()) else { return };
        let awaited = &mut other.awaited;
        let mut positions = Vec::new();
        while awaited.front().is_some_and(|first| first.theirs.is_some_and(|e| e <= epoch)) {
            positions.extend(awaited.pop_front().into_iter().flat_map(|first| first.positions));
        }
        self.have_staged(positions);
    }
}

/// Notes the delivery that a change puts, if it does; its position.
fn note_unstaged(unstaged: &mut HashMap<Position, Unstaged>, change: &Change) -> Option<Position> {
    let (session, position) = position_put(change)?;
    unstaged.insert(position, Unstaged { session, late: Vec::new() });
    Some(position)
}

/// The session and the position of a delivery that is put.
fn position_put(change: &Change) -> Option<(SessionNumber, Position)> {
    match *change {
        Change::PutDelivery { session, position, .. } => Some((session, position)),
        _ => None,
    }
}
