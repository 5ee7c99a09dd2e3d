//! Messages from one shard of the broker to another.

use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

use super::Broker;
use crate::{
    session::Message,
    topics::{GroupRoute, SessionKey, ShardId, ShardSet},
};

/// What one shard tells another.
#[derive(Debug)]
pub enum ShardMessage {
    /// A message that somebody on your shard wants.
    Publish(Arc<Message>),
    /// A message for one member of a shared subscription.
    Shared {
        /// The group.
        group: Arc<GroupRoute>,
        /// What to deliver.
        message: Arc<Message>,
        /// Which of your members, as a hint.
        index: u32,
        /// Whether one of them was online when you were chosen.
        online: bool,
        /// The shards that had no member left when it came to them.
        tried: ShardSet,
    },
    /// Keep this as the retained message of its topic, or drop that one if this is empty.
    Retain(Arc<Message>),
    /// What do you keep that this filter matches?
    RetainedQuery(Box<RetainedQuery>),
    /// Some of it.
    RetainedAnswer(Box<RetainedAnswer>),
}

impl ShardMessage {
    /// Whether it uses up credit: messages of publishers do, questions and answers do not.
    fn is_data(&self) -> bool {
        matches!(self, Self::Publish(_) | Self::Shared { .. } | Self::Retain(_))
    }
}

/// Asks an owner of retained messages for a few of them.
#[derive(Debug)]
pub struct RetainedQuery {
    /// Who asks.
    pub from: ShardId,
    /// For which session.
    pub session: SessionKey,
    /// And for which use of that session's slot.
    pub serial: u32,
    /// The filter.
    pub filter: Box<str>,
    /// Go on with this topic.
    pub after: Option<Box<str>>,
    /// At most this many, and no more than half an outbox.
    pub limit: usize,
}

/// The answer to a [`RetainedQuery`].
#[derive(Debug)]
pub struct RetainedAnswer {
    /// As asked.
    pub session: SessionKey,
    /// As asked.
    pub serial: u32,
    /// In the order of their topics.
    pub messages: Vec<Arc<Message>>,
    /// Where to go on; `None` when that was all.
    pub next: Option<Box<str>>,
}

/// What one shard has for the others at the end of a turn, and how much they still take.
#[derive(Debug)]
pub struct Mail {
    outgoing: Vec<Outgoing>,
}

#[derive(Debug, Default)]
struct Outgoing {
    /// Messages to retain, each with the shards that were known to want it when it was routed.
    /// They go out before everything else; see [`Broker::take_mail`].
    retained: Vec<(Arc<Message>, ShardSet)>,
    items: Vec<ShardMessage>,
    /// The data items among them.
    cost: u32,
    credit: u32,
}

impl Mail {
    /// No mail for `shards` shards, and no credit.
    pub fn new(shards: usize) -> Self {
        Self { outgoing: (0..shards).map(|_| Outgoing::default()).collect() }
    }

    /// How many more data items the reactor may pass to `to`.
    pub fn set_credit(&mut self, to: ShardId, credit: u32) {
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(to.0)) {
            outgoing.credit = credit;
        }
    }

    /// Whether a data item for `to` is within its credit. Without it QoS 0 messages are dropped,
    /// and others sent all the same while their publisher is not read from.
    pub fn has_credit(&self, to: ShardId) -> bool {
        self.outgoing.get(usize::from(to.0)).is_some_and(|outgoing| outgoing.cost < outgoing.credit)
    }

    /// Stages an item for `to`.
    pub fn push(&mut self, to: ShardId, item: ShardMessage) {
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(to.0)) {
            outgoing.cost += u32::from(item.is_data());
            outgoing.items.push(item);
        }
    }

    /// Stages a message to be retained by `owner`.
    pub(super) fn push_retained(&mut self, owner: ShardId, message: Arc<Message>) {
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(owner.0)) {
            outgoing.cost += 1;
            outgoing.retained.push((message, ShardSet::default()));
        }
    }

    /// The message that was staged last for `owner` was routed to these shards.
    pub(super) fn was_routed(&mut self, owner: ShardId, shards: ShardSet) {
        let outgoing = self.outgoing.get_mut(usize::from(owner.0));
        if let Some((_, seen)) = outgoing.and_then(|outgoing| outgoing.retained.last_mut()) {
            *seen = shards;
        }
    }

    /// Whether anything is staged.
    pub fn has_items(&self) -> bool {
        self.outgoing.iter().any(|o| !o.items.is_empty() || !o.retained.is_empty())
    }
}

impl Broker {
    /// Passes on everything staged: shard, items in order, and the credit that they use up.
    ///
    /// Messages for subscribers go first, so that none comes behind an answer that has a newer one.
    /// Then those to be retained go to their owners, and only then is it looked up once more who
    /// wants them, and is asked what others retain: a subscription made in the meantime either
    /// finds the new message retained or is seen now. Without this it could get neither, and keep
    /// an old value for ever.
    pub fn take_mail(&mut self, mut send: impl FnMut(ShardId, Vec<ShardMessage>, u32)) {
        if !self.mail.has_items() {
            return;
        }
        let mut retained: Vec<(Arc<Message>, ShardSet)> = Vec::new();
        let mut last: Vec<Vec<ShardMessage>> = Vec::new();
        for (to, outgoing) in self.mail.outgoing.iter_mut().enumerate() {
            let is_question = |item: &ShardMessage| matches!(item, ShardMessage::RetainedQuery(_));
            let items = std::mem::take(&mut outgoing.items);
            let (questions, items) = match items.iter().any(is_question) {
                true => items.into_iter().partition(is_question),
                false => (Vec::new(), items),
            };
            last.push(questions);
            let cost = std::mem::take(&mut outgoing.cost);
            outgoing.credit = outgoing.credit.saturating_sub(cost);
            outgoing.cost = outgoing.retained.len() as u32;
            if !items.is_empty() {
                send(ShardId(to as u16), items, cost - outgoing.cost);
            }
        }
        for (owner, outgoing) in self.mail.outgoing.iter_mut().enumerate() {
            let cost = std::mem::take(&mut outgoing.cost);
            let staged = std::mem::take(&mut outgoing.retained);
            if staged.is_empty() {
                continue;
            }
            let items = staged.iter().map(|(m, _)| ShardMessage::Retain(m.for_another_shard()));
            send(ShardId(owner as u16), items.collect(), cost);
            // Of each topic the last one counts.
            for (message, seen) in staged {
                retained.retain(|(earlier, _)| earlier.view().topic != message.view().topic);
                retained.push((message, seen));
            }
        }
        if !retained.is_empty() {
            fence(Ordering::SeqCst);
        }
        let mut costs = vec![0; last.len()];
        for (message, seen) in &retained {
            let mut missed = self.shared.routes.shards_for(message.view().topic).difference(*seen);
            missed.remove(self.id);
            for to in missed.iter().map(ShardId::index) {
                if let (Some(items), Some(cost)) = (last.get_mut(to), costs.get_mut(to)) {
                    items.push(ShardMessage::Publish(message.for_another_shard()));
                    *cost += 1;
                }
                self.stats.cross_shard_sent.add(1);
            }
        }
        for (to, (items, cost)) in last.into_iter().zip(costs).enumerate() {
            if !items.is_empty() {
                send(ShardId(to as u16), items, cost);
            }
        }
    }
}
