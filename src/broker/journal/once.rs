//! Exactly once: what is owed of a QoS 2 message becomes durable together with its reception, on
//! whatever shards it is owed. See [`journal`](super).

use super::{Journal, await_epoch};
use crate::{
    record::{Change, Epoch, Position, SessionNumber},
    topics::ShardId,
};

/// What this shard has given back to another one, or will, of an epoch of its own.
#[derive(Debug)]
pub(super) struct Awaited {
    pub epoch: Epoch,
    /// Which epoch of the other shard's it belongs to, once that is known.
    pub theirs: Option<Epoch>,
    pub positions: Vec<Position>,
}

/// A delivery that another shard's batch brings to the store, or a later one of this shard's.
#[derive(Debug)]
pub(super) struct Unstaged {
    pub session: SessionNumber,
    /// What has happened to it meanwhile, which must not come to the store before it.
    pub late: Vec<(Epoch, Change)>,
}

/// Where a message came from whose reception is kept together with what is owed of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Once {
    /// From a client of this shard.
    Here,
    /// From a client of another shard.
    From(ShardId),
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
                if let Some((session, position)) = position_put(&change) {
                    self.unstaged.insert(position, Unstaged { session, late: Vec::new() });
                }
                self.once_here.push(change);
            }
            Some(Once::From(shard)) => {
                let at = shard.index();
                if let (Some(changes), Some(awaited)) =
                    (self.once_for.get_mut(at), self.awaited.get_mut(at))
                {
                    self.staged += 1;
                    let epoch = self.epoch;
                    let is_it = |last: &Awaited| last.epoch == epoch && last.theirs.is_none();
                    if !awaited.back().is_some_and(is_it) {
                        let (theirs, positions) = (None, Vec::new());
                        awaited.push_back(Awaited { epoch, theirs, positions });
                    }
                    if let (Some((session, position)), Some(last)) =
                        (position_put(&change), awaited.back_mut())
                    {
                        last.positions.push(position);
                        self.unstaged.insert(position, Unstaged { session, late: Vec::new() });
                    }
                    changes.push(change);
                }
            }
        }
    }

    /// What was staged for the message of a client of this shard that has been delivered.
    pub fn take_once(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.once_here)
    }

    /// Whether anything is not in the store's hands yet that will be: it cannot be read from there.
    pub fn awaits_once(&self) -> bool {
        !self.deferred.is_empty() || self.awaited.iter().any(|awaited| !awaited.is_empty())
    }

    /// The delivery that has to come to the store before a change, if it has not yet.
    pub(super) fn unstaged_before(&mut self, change: &Change) -> Option<&mut Unstaged> {
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

    /// The first delivery of a session that is not in the store's hands yet: what is read from behind
    /// it has come there too early.
    pub fn first_unstaged(&self, session: SessionNumber) -> Option<Position> {
        let of_it = self.unstaged.iter().filter(|(_, unstaged)| unstaged.session == session);
        of_it.map(|(position, _)| *position).min()
    }

    /// Stages what was put aside for it, and what has happened to it since.
    pub fn stage_once(&mut self, changes: Vec<Change>) {
        let positions: Vec<_> = changes.iter().filter_map(position_put).map(|put| put.1).collect();
        changes.into_iter().for_each(|change| self.push(change));
        self.have_staged(positions);
    }

    fn have_staged(&mut self, positions: Vec<Position>) {
        for position in positions {
            let late = self.unstaged.remove(&position).map(|unstaged| unstaged.late);
            for (epoch, change) in late.into_iter().flatten() {
                // Whoever waits for its own epoch waits for the one in which it is staged.
                self.carry(epoch);
                self.push(change);
            }
        }
    }

    /// Stages what other shards have given back of what was sent up to that epoch.
    pub fn stage_returned(&mut self, epoch: Epoch) {
        for (sent, shard, changes) in std::mem::take(&mut self.returned) {
            if sent > epoch {
                self.returned.push((sent, shard, changes));
                continue;
            }
            self.to_tell.push((sent, shard));
            // Not its own: what has happened to them since, their shards tell.
            self.staged += changes.len() as u64;
            self.changes.extend(changes);
            await_epoch(&mut self.pending, self.epoch);
        }
    }

    /// The shards that have given something back that is durable by now, with the epoch in which it
    /// was sent to them.
    pub fn take_told(&mut self) -> Vec<(Epoch, ShardId)> {
        if self.to_tell.is_empty() {
            return Vec::new();
        }
        let complete = self.complete();
        self.to_tell.extract_if(.., |(epoch, _)| *epoch <= complete).collect()
    }

    /// What another shard has received up to its `epoch` is durable, and what was given back to it.
    pub fn on_once(&mut self, from: ShardId, epoch: Epoch) {
        let Some(awaited) = self.awaited.get_mut(from.index()) else { return };
        let mut positions = Vec::new();
        while awaited.front().is_some_and(|first| first.theirs.is_some_and(|e| e <= epoch)) {
            positions.extend(awaited.pop_front().into_iter().flat_map(|first| first.positions));
        }
        self.have_staged(positions);
    }
}

/// The session and the position of a delivery that is put.
fn position_put(change: &Change) -> Option<(SessionNumber, Position)> {
    match *change {
        Change::PutDelivery { session, position, .. } => Some((session, position)),
        _ => None,
    }
}
