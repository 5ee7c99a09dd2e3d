//! What sessions that have ended leave in the store of shared subscriptions: other members get it.
//! MQTT 5.0 section 4.8.2.
//!
//! The store is told that the session has ended and keeps its deliveries. When that is durable they
//! are read, a part at a time, and dealt out. Each part leaves the store in the same batch in which it
//! comes to whoever gets it, so that nothing of QoS 2 comes twice; the next part is read when that is
//! durable. With the last one the session is forgotten. A start finds what is left and goes on; also
//! what is left of a session whose client had another one before its end was kept.

use std::collections::VecDeque;

use super::{
    Broker,
    client::{Client, Will},
    journal::{Deferred, Once},
    queue::delivery,
};
use crate::{
    record::{
        Change, Epoch, Load, Loaded, Position, SessionNumber, SessionRecord, StoredDelivery,
        StoredSession,
    },
    session::{Outgoing, UNSTORED},
    stats::DropReason,
    topics,
};

/// The most messages that are read at a time.
const READ_AT_ONCE: usize = 64;
/// No more are read at a time behind so many bytes.
const MAX_READ_BYTES: usize = 256 << 10;
/// What the loads are known by: no session's are.
pub(super) const LOAD_TAG: u64 = u64::MAX;

/// What a session has left. There may be as many of these as there were sessions.
#[derive(Debug)]
struct Estate {
    session: SessionNumber,
    /// The hashes of the session's groups.
    groups: Box<[u64]>,
    /// It is read on when this is durable.
    epoch: Epoch,
    /// What is before this is dealt out.
    from: Position,
    /// Something that waited was before that: what is behind it was never sent.
    is_behind_waiting: bool,
    /// The messages that wait, and their bytes.
    messages: usize,
    bytes: usize,
    /// A will that may not have been kept wherever it went, to be published first.
    will: Option<Box<Will>>,
}

/// All that is left, in the order in which it is dealt out.
#[derive(Debug, Default)]
pub(super) struct Estates {
    waiting: VecDeque<Estate>,
    /// A part of the first one is being read.
    is_reading: bool,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Estates {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// The record of a session that has ended and left something.
pub(super) fn ended(client_id: Box<str>) -> SessionRecord {
    SessionRecord {
        client_id,
        user_name: None,
        expiry_interval: 0,
        offline_since: None,
        will: None,
        is_ended: true,
    }
}

impl Broker {
    /// A session ends whose messages are kept: leaves those in the store that may be another
    /// member's. False if there are none.
    pub(super) fn leave_estate(&mut self, client: &Client) -> bool {
        let Some(outgoing) = &client.outgoing else { return false };
        let mut in_memory = outgoing.in_memory();
        let is_shared = outgoing.stored().messages > 0
            || in_memory.any(|d| d.shared.is_some() && d.position != UNSTORED);
        if !is_shared || client.group_count() == 0 {
            return false;
        }
        let bytes_in_memory = outgoing.queued_bytes() - outgoing.stored().bytes;
        self.stats.stored_queued_bytes.add(bytes_in_memory as u64);
        let groups = client.groups().map(|membership| membership.hash).collect();
        self.add_estate(client.number, groups, outgoing, None);
        true
    }

    /// A start has found what a session has left.
    pub(super) fn restore_estate(&mut self, stored: StoredSession) {
        let StoredSession { session, record, subscriptions, inflight, queue, .. } = stored;
        let shared = subscriptions.iter().filter_map(|(f, _)| topics::parse_shared(f).ok()?);
        let groups: Box<_> = shared.map(|(share, f)| self.group_hash(share, f)).collect();
        let is_empty = groups.is_empty() || inflight.is_empty() && queue.messages == 0;
        if is_empty && record.will.is_none() {
            return self.clients.journal.push(Change::EndSession { session });
        }
        let mut outgoing = Outgoing::default();
        outgoing.restore_stored(queue);
        self.stats.queued_messages.add(outgoing.queued() as u64);
        self.stats.queued_bytes.add(outgoing.queued_bytes() as u64);
        self.stats.stored_queued_bytes.add(outgoing.queued_bytes() as u64);
        // Another session of its client may be all that tells that it has ended.
        let record = SessionRecord { will: record.will, ..ended(record.client_id) };
        let will = record.will.clone().map(|will| Box::new(self.restored_will(will, 0)));
        self.clients.journal.push(Change::PutSession { session, record });
        self.add_estate(session, groups, &outgoing, will);
    }

    fn add_estate(
        &mut self,
        session: SessionNumber,
        groups: Box<[u64]>,
        outgoing: &Outgoing,
        will: Option<Box<Will>>,
    ) {
        self.estates.waiting.push_back(Estate {
            session,
            groups,
            epoch: self.clients.journal.epoch(),
            from: 0,
            is_behind_waiting: false,
            messages: outgoing.queued(),
            bytes: outgoing.queued_bytes(),
            will,
        });
    }

    /// Reads on what is left, if all before it is durable.
    pub(super) fn read_estates(&mut self) {
        if !self.is_estate_due() {
            return;
        }
        if let Some(will) = self.estates.waiting.front_mut().and_then(|first| first.will.take()) {
            self.publish_as_will(None, &will);
            let epoch = self.clients.journal.epoch();
            self.estates.waiting.front_mut().into_iter().for_each(|first| first.epoch = epoch);
            if !self.is_estate_due() {
                return;
            }
        }
        let Some(&Estate { session, from, .. }) = self.estates.waiting.front() else { return };
        self.estates.is_reading = true;
        let (limit, max_bytes) = (READ_AT_ONCE, MAX_READ_BYTES);
        self.clients.journal.load(Load { session, tag: LOAD_TAG, from, limit, max_bytes });
    }

    /// Whether the first one can be read on.
    fn is_estate_due(&self) -> bool {
        let journal = &self.clients.journal;
        let is_durable = |first: &Estate| first.epoch <= journal.watermark();
        let is_due = self.estates.waiting.front().is_some_and(is_durable);
        is_due && !self.estates.is_reading && !journal.has_failed()
    }

    /// A part of what is left has been read.
    pub(super) fn on_estate_loaded(&mut self, loaded: Loaded) {
        self.estates.is_reading = false;
        let Some(mut estate) = self.estates.waiting.pop_front() else { return };
        let Loaded { session, deliveries, lost, is_last, .. } = loaded;
        self.count_read(&mut estate, deliveries.len() + lost, is_last);
        self.stats.publish_dropped.add(DropReason::StoreFailed, lost as u64);
        let mut over = Vec::new();
        self.clients.journal.deliver_once(Some(Once::Here));
        for stored in deliveries {
            let position = stored.position;
            estate.from = position + 1;
            over.push(Change::DropDelivery { session, position });
            if let Err(reason) = self.pass_on(&mut estate, stored) {
                self.stats.publish_dropped.add(reason, 1);
            }
        }
        self.clients.journal.deliver_once(None);
        let mut changes = self.clients.journal.take_once();
        match is_last {
            true => changes.push(Change::EndSession { session }),
            false => {
                changes.append(&mut over);
                estate.epoch = self.clients.journal.epoch();
                self.estates.waiting.push_front(estate);
            }
        }
        self.change_behind_sent(Deferred::Once(changes));
        if self.estates.waiting.is_empty() {
            self.estates.waiting = VecDeque::new();
        }
        self.read_estates();
    }

    /// Deals a message out that a session has left, if it is for a group and cannot have been sent
    /// with QoS 2.
    fn pass_on(&mut self, estate: &mut Estate, stored: StoredDelivery) -> Result<(), DropReason> {
        let StoredDelivery { position, record, body } = stored;
        let waits = record.state.waits(estate.is_behind_waiting);
        estate.is_behind_waiting |= waits;
        // What its client has received is delivered.
        let Some(body) = body else { return Ok(()) };
        if record.qos == 2 && !waits {
            return Err(DropReason::SessionEnded);
        }
        let expires_at = self.clients.journal.expiry(self.now, position, body.expires_at);
        let delivery = delivery(position, record, body, expires_at);
        self.clients.relieve();
        self.redispatch(&delivery, &estate.groups)
    }

    /// So many messages of what is left do not wait any more.
    fn count_read(&self, estate: &mut Estate, read: usize, is_last: bool) {
        let messages = if is_last { estate.messages } else { read.min(estate.messages) };
        let share = estate.bytes.checked_div(estate.messages).unwrap_or(0) * messages;
        let bytes = if messages == estate.messages { estate.bytes } else { share };
        estate.messages -= messages;
        estate.bytes -= bytes;
        self.stats.queued_messages.sub(messages as u64);
        self.stats.queued_bytes.sub(bytes as u64);
        self.stats.stored_queued_bytes.sub(bytes as u64);
    }
}
