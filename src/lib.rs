//! RingMQ: an MQTT broker for huge device fleets, one io_uring reactor per core.
//!
//! The modules in reading order. Which may import which, `docs/ARCHITECTURE.md` says and
//! `tests/architecture.rs` checks.
//!
//! | module | what it is |
//! |---|---|
//! | [`limits`] | every cap and its default |
//! | [`codec`] | the wire format of MQTT 3.1, 3.1.1 and 5.0 |
//! | `pages` | storage for very many values of one size |
//! | [`topics`] | topic names and filters: who wants a message |
//! | [`stats`] | counters, one set per shard |
//! | [`session`] | one client's protocol state |
//! | [`auth`] | who may connect |
//! | [`record`] | what outlives the process, in plain terms |
//! | [`store`] | what outlives the process, on disk |
//! | [`broker`] | one shard's whole state, without any I/O |
//! | [`mesh`] | mailboxes and hand-over between shards |
//! | [`cli`] | flags, environment and file to settings |
//! | [`transport`] | sockets |
//! | [`shard`] | the reactor: ties a broker core to sockets, mailboxes and a clock |

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

// Loom, which explores the interleavings of `mesh`, is to see nothing else.
#[cfg(not(loom))]
pub mod auth;
#[cfg(not(loom))]
pub mod broker;
#[cfg(not(loom))]
pub mod cli;
#[cfg(not(loom))]
pub mod codec;
#[cfg(not(loom))]
pub mod limits;
pub mod mesh;
#[cfg(not(loom))]
mod pages;
#[cfg(not(loom))]
pub mod record;
#[cfg(not(loom))]
pub mod session;
#[cfg(not(loom))]
pub mod shard;
#[cfg(not(loom))]
pub mod stats;
#[cfg(not(loom))]
pub mod store;
#[cfg(not(loom))]
pub mod topics;
#[cfg(not(loom))]
pub mod transport;
