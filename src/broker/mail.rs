//! Messages from one shard of the broker to another.

use std::{
    collections::BTreeSet,
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use super::{Broker, Now, estate, journal::Kept, queue, share::Tried};
use crate::{
    codec::QoS,
    record::{Batch, Change, Epoch, Outcome},
    session::Message,
    stats::ShardStats,
    topics::{GroupRoute, SessionKey, ShardId, ShardSet},
};

/// What one shard tells another.
#[derive(Debug)]
pub enum ShardMessage {
    /// A message that somebody on your shard wants.
    Publish {
        /// Who sends it.
        from: ShardId,
        /// The message.
        message: Arc<Message>,
        /// If its sender has sent it to another shard to be retained: which of all those it is.
        retain: Option<NonZeroU64>,
    },
    /// The same, of a client whose session is kept, with QoS 2: what is owed of it is kept together
    /// with its reception.
    PublishOnce {
        /// The client's shard.
        from: ShardId,
        /// The message.
        message: Arc<Message>,
        /// As with [`ShardMessage::Publish`].
        retain: Option<NonZeroU64>,
    },
    /// A message for one member of a shared subscription.
    Shared {
        /// Who sends it.
        from: ShardId,
        /// The group.
        group: Arc<GroupRoute>,
        /// What to deliver.
        message: Arc<Message>,
        /// Which of your members, as a hint.
        index: u32,
        /// Whether one of them was online when you were chosen.
        online: bool,
        /// Where it has been before.
        tried: Tried,
        /// As with [`ShardMessage::PublishOnce`], the shard of the client, if that is so.
        once: Option<ShardId>,
    },
    /// The same comes back: no such member is left.
    Returned {
        /// Who sends it back.
        from: ShardId,
        /// The group.
        group: Arc<GroupRoute>,
        /// What to deliver.
        message: Arc<Message>,
        /// Where it has been.
        tried: Tried,
        /// Whether what is owed of it is kept together with its reception.
        once: bool,
    },
    /// Keep this as the retained message of its topic, or drop that one if this is empty.
    Retain {
        /// Who sends it.
        from: ShardId,
        /// The message.
        message: Arc<Message>,
        /// When it was routed nobody on your shard wanted it: whoever does now has come since.
        missed: bool,
    },
    /// What do you keep that this filter matches?
    RetainedQuery(Box<RetainedQuery>),
    /// Some of it.
    RetainedAnswer(Box<RetainedAnswer>),
    /// Tell me when all that I have sent up to this epoch of mine is kept.
    Keep {
        /// Who asks.
        from: ShardId,
        /// The sender's epoch.
        epoch: Epoch,
    },
    /// It is kept.
    Kept {
        /// Who says so.
        from: ShardId,
        /// The receiver's epoch.
        epoch: Epoch,
        /// Some of it is not and will not be, for the store has failed.
        refused: bool,
        /// What is to be kept together with the reception of what came.
        changes: Vec<Change>,
    },
    /// All that was given back of your messages is kept, and their reception.
    Once {
        /// Who says so.
        from: ShardId,
        /// Up to this epoch of the sender's.
        epoch: Epoch,
    },
}

// Mailboxes are made of them.
const _: () = assert!(size_of::<ShardMessage>() <= 72);

impl ShardMessage {
    /// Whether it uses up credit: messages of publishers do, questions and answers do not.
    fn is_data(&self) -> bool {
        use ShardMessage as M;
        matches!(
            self,
            M::Publish { .. } | M::PublishOnce { .. } | M::Shared { .. } | M::Retain { .. }
        )
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
    /// How many messages to be retained had come from each shard by then. Empty if there are no
    /// `messages`.
    pub taken: Box<[u64]>,
}

/// What one shard has for the others at the end of a turn, and how much they still take.
#[derive(Debug)]
pub struct Mail {
    outgoing: Vec<Outgoing>,
    /// The shards that are without credit.
    spent: ShardSet,
}

/// What a shard may still send to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credit {
    Ample,
    /// A message is sent, and whoever published it is not read from until there is more.
    Reserve,
    /// Who publishes has to wait before the message is taken. What nobody can be made to wait with is
    /// sent, but for QoS 0 messages, which are dropped.
    Spent,
}

#[derive(Debug, Default)]
struct Outgoing {
    /// What to retain. It goes out before questions about it; see [`Broker::take_mail`].
    retained: Vec<Retaining>,
    /// All that was ever staged to be retained.
    retained_count: u64,
    items: Vec<ShardMessage>,
    /// How many there were the last time.
    usual: usize,
    /// The data items among them.
    cost: u32,
    credit: u32,
    reserve: u32,
}

impl Outgoing {
    /// The credit that is left when what is staged is sent.
    fn left(&self) -> u32 {
        self.credit.saturating_sub(self.cost)
    }
}

/// A message on its way to the shard that is to retain it.
#[derive(Debug)]
struct Retaining {
    message: Arc<Message>,
    /// Which it is of all those that went to that shard.
    number: NonZeroU64,
    /// The shards that were known to want it when it was routed, and its owner.
    seen: ShardSet,
}

/// What is left to send when those who retain messages have them.
#[derive(Debug)]
pub(super) struct Rest {
    /// By shard.
    last: Vec<Last>,
    /// What was sent to be retained: the last message of each topic.
    retained: Vec<Retaining>,
}

/// What one shard is sent behind everything else, and the credit that it uses up.
#[derive(Debug)]
struct Last {
    items: Vec<ShardMessage>,
    cost: u32,
}

impl Mail {
    /// No mail for `shards` shards, and no credit.
    pub fn new(shards: usize) -> Self {
        let mut spent = ShardSet::EMPTY;
        (0..shards).for_each(|shard| _ = spent.insert(ShardId(shard as u16)));
        Self { outgoing: (0..shards).map(|_| Outgoing::default()).collect(), spent }
    }

    /// How many more data items the reactor may pass to `to`, and how many of them are the reserve
    /// of those who do not publish much.
    pub fn set_credit(&mut self, to: ShardId, credit: u32, reserve: u32) {
        if let Some(outgoing) = self.outgoing.get_mut(usize::from(to.0)) {
            (outgoing.credit, outgoing.reserve) = (credit, reserve);
            match outgoing.left() {
                0 => self.spent.insert(to),
                _ => self.spent.remove(to),
            };
        }
    }

    /// The shards that take no more data items without credit for them.
    pub(super) fn spent(&self) -> ShardSet {
        self.spent
    }

    /// What is left for data items for `to`, those that are staged taken off.
    pub(super) fn credit(&self, to: ShardId) -> Credit {
        let Some(outgoing) = self.outgoing.get(usize::from(to.0)) else { return Credit::Spent };
        match outgoing.left() {
            0 => Credit::Spent,
            left if left <= outgoing.reserve => Credit::Reserve,
            _ => Credit::Ample,
        }
    }

    /// Stages an item for `to`.
    pub fn push(&mut self, to: ShardId, item: ShardMessage) {
        let outgoing = match item.is_data() {
            true => self.charge(to),
            false => self.outgoing.get_mut(usize::from(to.0)),
        };
        if let Some(outgoing) = outgoing {
            if outgoing.items.capacity() == 0 {
                outgoing.items.reserve(outgoing.usual);
            }
            outgoing.items.push(item);
        }
    }

    /// Takes the credit for a data item that is about to be staged.
    fn charge(&mut self, to: ShardId) -> Option<&mut Outgoing> {
        let outgoing = self.outgoing.get_mut(usize::from(to.0))?;
        outgoing.cost += 1;
        if outgoing.left() == 0 {
            self.spent.insert(to);
        }
        Some(outgoing)
    }

    /// Stages a message to be retained by `owner`, and says which it is of all those.
    pub(super) fn push_retained(
        &mut self,
        owner: ShardId,
        message: Arc<Message>,
    ) -> Option<NonZeroU64> {
        let outgoing = self.charge(owner)?;
        outgoing.retained_count += 1;
        let number = NonZeroU64::new(outgoing.retained_count)?;
        outgoing.retained.push(Retaining { message, number, seen: ShardSet::default() });
        Some(number)
    }

    /// The message that was staged last for `owner` was routed to these shards.
    pub(super) fn was_routed(&mut self, owner: ShardId, shards: ShardSet) {
        let outgoing = self.outgoing.get_mut(usize::from(owner.0));
        if let Some(last) = outgoing.and_then(|outgoing| outgoing.retained.last_mut()) {
            last.seen = shards;
        }
    }

    /// Whether anything is staged.
    pub fn has_items(&self) -> bool {
        self.outgoing.iter().any(|o| !o.items.is_empty() || !o.retained.is_empty())
    }

    /// Sends all but what is to be retained and questions about that; those are what is to be sent
    /// last to each shard.
    fn send_items(&mut self, send: &mut impl FnMut(ShardId, Vec<ShardMessage>, u32)) -> Vec<Last> {
        let mut last = Vec::with_capacity(self.outgoing.len());
        for (to, outgoing) in self.outgoing.iter_mut().enumerate() {
            let is_question = |item: &ShardMessage| matches!(item, ShardMessage::RetainedQuery(_));
            outgoing.usual = outgoing.items.len();
            let items = std::mem::take(&mut outgoing.items);
            let (questions, items) = match items.iter().any(is_question) {
                true => items.into_iter().partition(is_question),
                false => (Vec::new(), items),
            };
            last.push(Last { items: questions, cost: 0 });
            let cost = std::mem::take(&mut outgoing.cost);
            outgoing.credit = outgoing.credit.saturating_sub(cost);
            outgoing.cost = outgoing.retained.len() as u32;
            if !items.is_empty() {
                send(ShardId(to as u16), items, cost - outgoing.cost);
            }
        }
        last
    }

    /// Sends the messages that are to be retained. Returns the last one of each topic.
    fn send_retained(
        &mut self,
        from: ShardId,
        send: &mut impl FnMut(ShardId, Vec<ShardMessage>, u32),
    ) -> Vec<Retaining> {
        let mut retained: Vec<Retaining> = Vec::new();
        for (owner, outgoing) in self.outgoing.iter_mut().enumerate() {
            let cost = std::mem::take(&mut outgoing.cost);
            let staged = std::mem::take(&mut outgoing.retained);
            if staged.is_empty() {
                continue;
            }
            let owner = ShardId(owner as u16);
            let mut topics = BTreeSet::new();
            let later = staged.iter().rev();
            let mut are_last: Vec<_> =
                later.map(|later| topics.insert(later.message.view().topic)).collect();
            are_last.reverse();
            let items = staged.iter().zip(&are_last).map(|(retaining, is_last)| {
                let message = retaining.message.for_another_shard();
                let missed = *is_last && !retaining.seen.contains(owner);
                ShardMessage::Retain { from, message, missed }
            });
            send(owner, items.collect(), cost);
            let last = staged.into_iter().zip(are_last).filter(|(_, is_last)| *is_last);
            retained.extend(last.map(|(mut retaining, _)| {
                retaining.seen.insert(owner);
                retaining
            }));
        }
        retained
    }
}

impl Broker {
    /// Passes on everything staged: shard, items in order, and the credit that they use up.
    ///
    /// Messages for subscribers go first, so that none comes behind an answer that has a newer one.
    /// Then those to be retained go to their owners, and only then is it looked up once more who
    /// wants them, and is asked what others retain: a subscription made in the meantime either
    /// finds the new message retained or is seen now. Without this it could get neither, and keep
    /// an old value for ever. The owner looks for itself, when it comes to retain the message.
    pub fn take_mail(&mut self, mut send: impl FnMut(ShardId, Vec<ShardMessage>, u32)) {
        if let Some(rest) = self.take_first_mail(&mut send) {
            self.take_last_mail(rest, send);
        }
    }

    /// The first half of [`Broker::take_mail`], up to the second look. Other shards may do anything
    /// between the two.
    pub(super) fn take_first_mail(
        &mut self,
        mut send: impl FnMut(ShardId, Vec<ShardMessage>, u32),
    ) -> Option<Rest> {
        if !self.mail.has_items() {
            return None;
        }
        let last = self.mail.send_items(&mut send);
        let retained = self.mail.send_retained(self.id, &mut send);
        Some(Rest { last, retained })
    }

    /// The second half, before anything else happens on this shard.
    pub(super) fn take_last_mail(
        &mut self,
        rest: Rest,
        mut send: impl FnMut(ShardId, Vec<ShardMessage>, u32),
    ) {
        let Rest { mut last, retained } = rest;
        if !retained.is_empty() {
            fence(Ordering::SeqCst);
        }
        for retaining in &retained {
            self.send_where_missed(retaining, &mut last);
        }
        let asked = self.clients.journal.take_asked();
        let (from, epoch) = (self.id, self.clients.journal.epoch());
        for to in asked.iter().map(ShardId::index) {
            // Behind all that was sent.
            if let Some(last) = last.get_mut(to) {
                last.items.push(ShardMessage::Keep { from, epoch });
            }
        }
        for (to, Last { items, cost }) in last.into_iter().enumerate() {
            if !items.is_empty() {
                send(ShardId(to as u16), items, cost);
            }
        }
    }

    /// A message went to these shards, and to the one that retains it: stages it for those that have
    /// come to want it since.
    fn send_where_missed(&mut self, retaining: &Retaining, last: &mut [Last]) {
        let (view, retain) = (retaining.message.view(), Some(retaining.number));
        let mut missed = self.shared.routes.shards_for(view.topic).difference(retaining.seen);
        missed.remove(self.id);
        for to in missed.iter() {
            if let Some(last) = last.get_mut(to.index()) {
                let message = retaining.message.for_another_shard();
                last.items.push(ShardMessage::Publish { from: self.id, message, retain });
                last.cost += 1;
            }
            self.ask_to_keep(to, view.qos);
            self.stats.cross_shard_sent.add(1);
        }
    }
}

/// What becomes durable, and what is told about it.
impl Broker {
    /// Ends the epoch, after [`Broker::take_mail`] and before anything else happens: what the store
    /// is to do, if anything.
    pub fn take_batch(&mut self) -> Option<Batch> {
        let mut is_more_complete = false;
        while let Some((epoch, deferred)) = self.clients.journal.next_deferred() {
            is_more_complete = true;
            let mark = self.clients.journal.mark();
            self.clients.journal.stage_returned(epoch);
            self.change_after_all(deferred);
            if self.clients.journal.has_staged_since(mark) {
                self.clients.journal.carry(epoch);
            }
        }
        if is_more_complete {
            // What was deferred may have come to nothing.
            self.clients.release();
            self.clients.read_on();
            self.read_estates();
        }
        self.clients.journal.end_epoch()
    }

    /// The store has more to do than it should have, or not any more.
    pub fn set_store_congested(&mut self, congested: bool) {
        self.clients.journal.congested = congested;
    }

    /// The store has done something.
    pub fn on_outcome(&mut self, now: Now, outcome: Outcome) {
        self.set_now(now);
        match outcome {
            Outcome::Durable(epoch) => {
                self.clients.journal.on_durable(epoch);
                self.on_kept_more();
            }
            Outcome::Loaded(loaded) if loaded.tag == estate::LOAD_TAG => {
                self.on_estate_loaded(loaded);
            }
            Outcome::Loaded(loaded) => {
                let session = queue::session_of(&loaded);
                self.clients.on_loaded(loaded);
                // What has expired left the queue without an acknowledgement that would ask.
                self.fetch_retained(session);
            }
            Outcome::Failed(reason) => self.on_store_failed(&reason),
        }
    }

    /// Another shard may keep a message of this QoS, which is being sent to it: who published it is
    /// not answered before it has.
    pub(super) fn ask_to_keep(&mut self, to: ShardId, qos: QoS) {
        let keeps = |stats: &Arc<ShardStats>| stats.stored_subscriptions.get() > 0;
        if qos > QoS::AtMostOnce && self.shared.stats.get(to.index()).is_some_and(keeps) {
            self.clients.journal.ask(to);
        }
    }

    /// Another shard has kept, or refused, what it was sent.
    pub(super) fn on_kept(
        &mut self,
        from: ShardId,
        epoch: Epoch,
        refused: bool,
        changes: Vec<Change>,
    ) {
        if refused {
            // Whoever waits for that epoch must not be told that all is well.
            self.drop_holding();
        }
        self.clients.journal.on_kept(from, epoch, changes);
        self.on_kept_more();
    }

    /// What was given back to another shard is durable.
    pub(super) fn on_once(&mut self, from: ShardId, epoch: Epoch) {
        self.clients.journal.on_once(from, epoch);
        self.clients.read_on();
        self.on_kept_more();
    }

    /// More is durable than was before.
    pub(super) fn on_kept_more(&mut self) {
        for (epoch, to) in self.clients.journal.take_told() {
            let from = self.id;
            self.mail.push(to, ShardMessage::Once { from, epoch });
        }
        self.clients.release();
        self.read_estates();
        self.answer_promises();
    }

    /// Tells other shards what they wait for.
    pub(super) fn answer_promises(&mut self) {
        for Kept { to, epoch, refused, changes } in self.clients.journal.answers() {
            let from = self.id;
            self.mail.push(to, ShardMessage::Kept { from, epoch, refused, changes });
        }
    }
}
