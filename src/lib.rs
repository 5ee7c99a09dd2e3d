//! RingMQ: an MQTT broker for huge device fleets, one io_uring reactor per core.
//!
//! The modules in reading order. Which may import which, `docs/ARCHITECTURE.md` says and
//! `tests/architecture.rs` checks.
//!
//! | module | what it is |
//! |---|---|
//! | [`limits`] | every cap and its default |
//! | [`codec`] | the wire format of MQTT 3.1, 3.1.1 and 5.0 |
//! | [`topics`] | topic names and filters: who wants a message |
//! | [`stats`] | counters, one set per shard |
//! | [`session`] | one client's protocol state |
//! | [`auth`] | who may connect |
//! | [`broker`] | one shard's whole state, without any I/O |
//! | [`mesh`] | mailboxes and hand-over between shards |
//! | [`cli`] | flags, environment and file to settings |
//! | [`transport`] | sockets |
//! | [`shard`] | the reactor: ties a broker core to sockets, mailboxes and a clock |

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

// Loom, which explores the interleavings of `mesh`, is not to see the rest.
pub mod mesh;

#[cfg(not(loom))]
pub use without_loom::*;

#[cfg(not(loom))]
#[path = ""]
mod without_loom {
    pub mod auth;
    pub mod broker;
    pub mod cli;
    pub mod codec;
    pub mod limits;
    pub mod session;
    pub mod shard;
    pub mod stats;
    pub mod topics;
    pub mod transport;
}
