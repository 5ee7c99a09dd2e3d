//! Mailboxes between shards: batches, credits, wake-ups, and the hand-over of descriptors.
//!
//! Every shard owns one [`Endpoint`]. Its mailbox is one lock-free queue of [`Batch`]es that any
//! other shard (and, through a [`Sender`], any other thread) pushes into. What one sender sends,
//! data and control alike, arrives in the order in which it was sent. Nothing is ever refused:
//! *data* is bounded by the sender, who asks [`Endpoint::credit`] first; control items are not
//! counted.
//!
//! This module knows nothing of MQTT, of the reactor, or of what an item is.
//!
//! # Going to sleep
//!
//! A receiver that finds its mailbox empty announces that it will sleep, looks once more, and only
//! then waits for its eventfd. A sender pushes first and looks for the announcement after. Between
//! the two steps both sides have a sequentially consistent fence, so at least one of them sees the
//! other: a batch is never left behind a sleeping shard. While the receiver is awake a send costs
//! no system call.
//!
//! # Credit
//!
//! Each ordered pair of shards has an allowance of data items that are sent and not yet given back
//! with [`Endpoint::returned`]. A sender that has come to the last quarter of it, the reserve, calls
//! [`Endpoint::await_credit`]; the receiver wakes it once half of the allowance is back, by the same
//! kind of handshake.
//!
//! # Descriptor tables
//!
//! The eventfds are made by [`mesh()`] and keep their numbers in every descriptor table that is
//! copied from that one afterwards ([`unshare_descriptor_table`]). Sockets that are opened later
//! cross from table to table through [`handover()`].

mod credit;
#[cfg(not(loom))]
mod descriptor_table;
mod endpoint;
#[cfg(not(loom))]
mod handover;
mod mailbox;
mod sync;
mod wake;

#[cfg(not(loom))]
pub use descriptor_table::unshare_descriptor_table;
pub use endpoint::{Batch, Endpoint, OUTSIDE, Sender, mesh};
#[cfg(not(loom))]
pub use handover::{HandoverReceiver, HandoverSender, SendError, handover};

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
