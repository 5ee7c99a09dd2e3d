//! What outlives the process, in plain terms: the changes that shards make to durable state, and
//! what a start finds of it.
//!
//! The broker core emits [`Change`]s and takes [`Restored`] parts in; the store keeps them and knows
//! nothing else of MQTT. Between the two lies an order: the changes of one shard are kept in the
//! order in which it made them, and those of one [`Batch`] all together or not at all. Whoever has
//! heard that an epoch is durable ([`Outcome::Durable`]) may promise what its changes say.
//!
//! Times are Unix times, for a monotonic clock does not survive. Nothing here does I/O.

use bytes::Bytes;

#[cfg(any(test, feature = "fuzzing"))]
pub mod model;

/// A session, by a number that no other session of this store ever had. 0 is none.
pub type SessionNumber = u64;
/// A message body, by a number that no other body of this store ever had.
pub type MessageNumber = u64;
/// A delivery within its session: they are owed in the order of these, which are never used again.
pub type Position = u64;
/// The changes of one shard up to the end of one of its turns; counts up from 1 at each start.
pub type Epoch = u64;

/// A Unix time that never comes.
pub const NEVER: u64 = u64::MAX;

/// One change of durable state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// There is such a session, or its record is another one now.
    PutSession {
        /// Which one.
        session: SessionNumber,
        /// All of its record.
        record: SessionRecord,
    },
    /// A session has ended: its record, subscriptions, deliveries and received packet ids go.
    EndSession {
        /// Which one.
        session: SessionNumber,
    },
    /// A session subscribes, or its subscription has other options now.
    PutSubscription {
        /// Which session.
        session: SessionNumber,
        /// The filter; of a shared subscription with `$share/<ShareName>/` before it.
        filter: Box<str>,
        /// What it asked for.
        record: SubscriptionRecord,
    },
    /// A session has unsubscribed.
    DropSubscription {
        /// Which session.
        session: SessionNumber,
        /// The filter, as it was put.
        filter: Box<str>,
    },
    /// A body that deliveries in this batch refer to. It is kept while a delivery does.
    PutMessage {
        /// Its number.
        message: MessageNumber,
        /// The body.
        body: MessageRecord,
    },
    /// A message is owed to a session.
    PutDelivery {
        /// Which session.
        session: SessionNumber,
        /// Its place.
        position: Position,
        /// The body, put earlier in this batch.
        message: MessageNumber,
        /// How it is to be delivered, and how far that is.
        record: DeliveryRecord,
    },
    /// A delivery that was put has come further.
    SetState {
        /// Which session.
        session: SessionNumber,
        /// The delivery.
        position: Position,
        /// How far it is.
        state: DeliveryState,
    },
    /// A delivery is over: acknowledged, expired or dropped.
    DropDelivery {
        /// Which session.
        session: SessionNumber,
        /// The delivery.
        position: Position,
    },
    /// The oldest delivery of a session at or behind a position is dropped, for its queue is full.
    DropOldest {
        /// Which session.
        session: SessionNumber,
        /// Where to look from.
        from: Position,
    },
    /// A QoS 2 message of the session's client was received and is not released.
    PutReceived {
        /// Which session.
        session: SessionNumber,
        /// Its packet id.
        packet_id: u16,
    },
    /// It is released.
    DropReceived {
        /// Which session.
        session: SessionNumber,
        /// Its packet id.
        packet_id: u16,
    },
    /// A topic has a retained message, or another one than before.
    PutRetained {
        /// The topic name.
        topic: Box<str>,
        /// The message.
        body: MessageRecord,
    },
    /// A topic has no retained message any more.
    DropRetained {
        /// The topic name.
        topic: Box<str>,
    },
}

/// A session, its subscriptions and messages apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Whose it is.
    pub client_id: Box<str>,
    /// The user name, if the client gave one.
    pub user_name: Option<Box<str>>,
    /// How long it outlives its connection, in seconds; `u32::MAX` for ever.
    pub expiry_interval: u32,
    /// Since when it has no connection, in milliseconds; `None` while it has one.
    pub offline_since: Option<u64>,
    /// The will of its connection, or the one that waits to be published.
    pub will: Option<WillRecord>,
    /// It has ended, but some of its deliveries are still to go to other members of its groups.
    pub is_ended: bool,
}

/// A will that may have to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillRecord {
    /// What to publish.
    pub body: MessageRecord,
    /// How long after the connection was lost, in seconds.
    pub delay_interval: u32,
    /// The Message Expiry Interval that it gets then, in seconds.
    pub expiry_interval: Option<u32>,
}

/// A subscription, its filter apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionRecord {
    /// The Subscription Options byte.
    pub options: u8,
    /// The Subscription Identifier; 0 for none.
    pub id: u32,
}

/// A message: topic, properties and payload in one run of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRecord {
    /// Topic name, forwarded properties, payload.
    pub data: Bytes,
    /// Where the properties begin.
    pub properties_at: u16,
    /// Where the payload begins.
    pub payload_at: u32,
    /// The QoS that it was published with.
    pub qos: u8,
    /// The RETAIN flag that it was published with.
    pub retain: bool,
    /// When it expires, in milliseconds; [`NEVER`] if it does not.
    pub expires_at: u64,
}

/// How a message is owed to one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRecord {
    /// The QoS to deliver it with.
    pub qos: u8,
    /// The RETAIN flag to deliver it with.
    pub retain: bool,
    /// The tag of the shared subscription that it came through; 0 for none.
    pub shared: u32,
    /// The Subscription Identifiers to send along.
    pub subscription_ids: Vec<u32>,
    /// How far it is.
    pub state: DeliveryState,
}

impl DeliveryState {
    /// Whether a start finds the delivery to wait. Behind one that waits nothing was ever sent,
    /// although it may have been about to be: what waited before it was kept as sent too late.
    pub fn waits(self, behind_one_that_waits: bool) -> bool {
        match self {
            Self::Queued => true,
            Self::Sent(_) => behind_one_that_waits,
            Self::Received(_) => false,
        }
    }
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It waits.
    Queued,
    /// It was sent with this packet id.
    Sent(u16),
    /// It was sent with QoS 2 and this packet id, and the client has received it.
    Received(u16),
}

/// What one shard wants of the store at the end of a turn.
#[derive(Debug, Default)]
pub struct Batch {
    /// Which epoch ends with it.
    pub epoch: Epoch,
    /// The changes, oldest first.
    pub changes: Vec<Change>,
    /// What it wants to read once they are made.
    pub loads: Vec<Load>,
}

/// Asks for the next deliveries of a session that are kept in the store alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Which session.
    pub session: SessionNumber,
    /// What the shard knows it by; comes back as it is.
    pub tag: u64,
    /// From this position on.
    pub from: Position,
    /// So many at the most.
    pub limit: usize,
    /// No more after so many bytes; at least one.
    pub max_bytes: usize,
}

/// The answer to a [`Load`].
#[derive(Debug, PartialEq, Eq)]
pub struct Loaded {
    /// As asked.
    pub session: SessionNumber,
    /// As asked.
    pub tag: u64,
    /// In the order of their positions.
    pub deliveries: Vec<StoredDelivery>,
    /// Deliveries in that range that cannot be read any more; they are no longer there.
    pub lost: usize,
    /// Whether nothing was left behind them when they were read.
    pub is_last: bool,
}

/// A delivery as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDelivery {
    /// Its place.
    pub position: Position,
    /// How it is owed.
    pub record: DeliveryRecord,
    /// What is owed; `None` for one that the client has received.
    pub body: Option<MessageRecord>,
}

/// What the store tells a shard.
#[derive(Debug)]
pub enum Outcome {
    /// All that the shard's epochs up to this one have changed survives a crash.
    Durable(Epoch),
    /// What it asked for.
    Loaded(Loaded),
    /// The store has failed and takes nothing any more; epochs that were not durable never will be.
    Failed(Box<str>),
}

/// A part of what a start finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Restored {
    /// A session; or what one that has ended left behind, if its record says so.
    Session(Box<StoredSession>),
    /// A retained message.
    Retained {
        /// The topic name.
        topic: Box<str>,
        /// The message.
        body: MessageRecord,
    },
}

/// A session as a start finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// Its number.
    pub session: SessionNumber,
    /// Its record.
    pub record: SessionRecord,
    /// Its subscriptions.
    pub subscriptions: Vec<(Box<str>, SubscriptionRecord)>,
    /// The packet ids of QoS 2 messages that are not released.
    pub received: Vec<u16>,
    /// The deliveries that were under way, in the order of their positions.
    pub inflight: Vec<StoredDelivery>,
    /// Those that wait.
    pub queue: StoredQueue,
}

/// The deliveries of a session that wait and are kept in the store alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredQueue {
    /// The first one's position, or an earlier one that is behind all that are in memory.
    pub from: Position,
    /// How many they are.
    pub messages: usize,
    /// The bytes of their bodies' data.
    pub bytes: usize,
    /// The position of the last one of QoS 0; 0 if there is none.
    pub last_qos0: Position,
}

#[cfg(test)]
mod tests {
    use super::DeliveryState::{Queued, Received, Sent};

    #[test]
    fn behind_a_delivery_that_waits_only_what_was_received_was_sent() {
        for behind in [false, true] {
            assert!(Queued.waits(behind));
            assert_eq!(Sent(1).waits(behind), behind);
            assert!(!Received(1).waits(behind));
        }
    }
}
