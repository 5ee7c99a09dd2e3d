//! One client's protocol state: what outlives a connection and what a connection needs.
//!
//! Pure: packets and time in, packets and verdicts out. There is no socket here, no clock, and
//! no knowledge of topics beyond their names; the broker core decides who gets what.

mod alias;
mod incoming;
mod message;
mod outgoing;

pub use alias::{AliasUse, InboundAliases, OutboundAliases};
pub use incoming::{Incoming, Received};
pub use message::{AT_ONCE, Message, NEVER, Publication, expiry, forwarded};
pub use outgoing::{
    Acknowledged, Delivery, Enqueued, Next, Outgoing, QueueCaps, StoredPart, UNSTORED,
};
