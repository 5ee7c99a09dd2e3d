//! One client's session as the shard keeps it: protocol state, subscriptions, will and expiry.

use std::sync::Arc;

use hashbrown::HashTable;
use thin_vec::ThinVec;

use super::{ConnectionKey, retained::RetainedRequests};
use crate::{
    codec::PacketId,
    record::SessionNumber,
    session::{Incoming, Message, Outgoing},
    topics::FilterId,
};

/// A session, connected or not. There are millions of these: what few of them need is boxed.
#[derive(Debug)]
pub struct Client {
    /// The client identifier.
    pub id: Box<str>,
    /// Messages that are owed to the client; `None` when there are none.
    pub outgoing: Option<Box<Outgoing>>,
    /// QoS 2 messages of the client's that are not released; `None` when there are none.
    pub incoming: Option<Box<Incoming>>,
    /// The will of the present connection, or a delayed one of the last.
    pub will: Option<Box<Will>>,
    /// The filters that it subscribes to, shared subscriptions not included.
    pub subscriptions: ThinVec<FilterId>,
    /// What most sessions do not have.
    pub rare: Option<Box<Rare>>,
    /// What the store knows it by; 0 if it is not kept there.
    pub number: SessionNumber,
    /// The connection; [`ConnectionKey::NONE`] while offline.
    pub connection: ConnectionKey,
    /// Tells this session from others that use the same slot, before and after.
    pub serial: u32,
    /// How long the session outlives its connection, in seconds: 0 for not at all, `u32::MAX` for
    /// ever. MQTT 5.0 section 3.1.2.11.2.
    pub expiry_interval: u32,
    /// When the session expires, in tenths of a second of the broker's clock; 0 while connected.
    pub expires_at: u32,
    /// The timer that counts, as in [`Connection::timer_at`](super::connection::Connection).
    pub timer_at: u32,
    /// The packet id that was given out last; they count up in each session.
    pub last_packet_id: u16,
}

/// A Will Message. MQTT 5.0 section 3.1.2.5.
#[derive(Debug)]
pub struct Will {
    /// What to publish.
    pub message: Arc<Message>,
    /// How long to wait with it after the connection is lost, in seconds.
    pub delay_interval: u32,
    /// The Message Expiry Interval, which starts when the will is published. `[MQTT-3.1.3.2]`
    pub expiry_interval: Option<u32>,
    /// When it is due, in tenths of a second; 0 while connected.
    pub due_at: u32,
}

/// The parts of a session that most do not need.
#[derive(Debug, Default)]
pub struct Rare {
    /// The user name, kept for presence events.
    pub user_name: Option<Box<str>>,
    /// The shared subscriptions.
    pub groups: Memberships,
    /// The bytes of all its filters, once it has many of them.
    pub filter_bytes: Option<usize>,
    /// How many of its filters came when all shapes were taken.
    pub unshaped: u16,
    /// Retained messages that are still to be fetched for new subscriptions.
    pub retained: RetainedRequests,
}

/// A shared subscription of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The hash of the two.
    pub hash: u64,
    /// The ShareName.
    pub share: Box<str>,
    /// The topic filter behind it.
    pub filter: Box<str>,
}

impl Membership {
    fn is(&self, share: &str, filter: &str) -> bool {
        *self.share == *share && *self.filter == *filter
    }

    /// The length of `$share/<ShareName>/<filter>`.
    pub fn len(&self) -> usize {
        "$share//".len() + self.share.len() + self.filter.len()
    }
}

/// The shared subscriptions of a session, which may be thousands.
#[derive(Debug, Default)]
pub struct Memberships(HashTable<Membership>);

impl Memberships {
    /// Adds one that is not there yet.
    pub fn insert(&mut self, membership: Membership) {
        self.0.insert_unique(membership.hash, membership, |m| m.hash);
    }

    /// Takes one out, if it is there.
    pub fn remove(&mut self, hash: u64, share: &str, filter: &str) -> Option<Membership> {
        let found = self.0.find_entry(hash, |m| m.is(share, filter)).ok()?;
        let (membership, _) = found.remove();
        if self.0.is_empty() {
            self.0 = HashTable::new();
        }
        Some(membership)
    }

    fn find(&self, hash: u64, share: &str, filter: &str) -> Option<&Membership> {
        self.0.find(hash, |m| m.is(share, filter))
    }
}

impl Client {
    /// A new, offline session.
    pub fn new(id: &str, serial: u32) -> Self {
        Self {
            id: id.into(),
            outgoing: None,
            incoming: None,
            will: None,
            subscriptions: ThinVec::new(),
            rare: None,
            number: 0,
            connection: ConnectionKey::NONE,
            serial,
            expiry_interval: 0,
            expires_at: 0,
            timer_at: 0,
            last_packet_id: 0,
        }
    }

    /// Whether the session outlives its connection.
    pub fn is_persistent(&self) -> bool {
        self.expiry_interval > 0
    }

    /// Since when there is no connection, in milliseconds of the broker's clock; `None` while there
    /// is one. What lasts for ever is not remembered to have begun.
    pub fn offline_since(&self, now: u64) -> Option<u64> {
        let began = match self.expires_at {
            _ if self.is_online() => return None,
            u32::MAX => return Some(now),
            at => at.saturating_sub(self.expiry_interval.saturating_mul(10)),
        };
        Some(u64::from(began) * 100)
    }

    /// Whether a connection is attached.
    pub fn is_online(&self) -> bool {
        self.connection != ConnectionKey::NONE
    }

    /// The packet id of a QoS 2 message from the client is free again; false if it was not in use.
    pub fn release(&mut self, packet_id: PacketId) -> bool {
        let incoming = self.incoming.get_or_insert_default();
        let known = incoming.release(packet_id);
        if incoming.is_empty() {
            self.incoming = None;
        }
        known
    }

    /// The rare parts, made if they do not exist.
    pub fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// The user name, if the client gave one.
    pub fn user_name(&self) -> Option<&str> {
        self.rare.as_ref().and_then(|rare| rare.user_name.as_deref())
    }

    /// The shared subscriptions.
    pub fn groups(&self) -> impl Iterator<Item = &Membership> {
        self.rare.as_ref().into_iter().flat_map(|rare| rare.groups.0.iter())
    }

    /// How many they are.
    pub fn group_count(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.groups.0.len())
    }

    /// Whether it has this shared subscription.
    pub fn is_member(&self, hash: u64, share: &str, filter: &str) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.groups.find(hash, share, filter).is_some())
    }

    /// The number of subscriptions, shared ones included.
    pub fn subscription_count(&self) -> usize {
        self.subscriptions.len() + self.group_count()
    }

    /// When something is next due while the session is offline, in tenths of a second.
    pub fn next_deadline(&self) -> Option<u32> {
        let will = self.will.as_ref().map(|will| will.due_at).filter(|at| *at != 0);
        let expiry = Some(self.expires_at).filter(|at| *at != 0 && *at != u32::MAX);
        will.into_iter().chain(expiry).min()
    }
}

// The budget of an idle connection (docs/ARCHITECTURE.md) counts on these sizes.
const _: () = assert!(size_of::<Client>() <= 88);
