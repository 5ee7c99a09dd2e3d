//! RingMQ: an MQTT broker for huge device fleets, one io_uring reactor per core.
//!
//! The modules in reading order; each may import only those named before it (with the exceptions
//! that `docs/ARCHITECTURE.md` lists), which `tests/architecture.rs` keeps true. Loom sees the mesh alone.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[cfg(not(loom))]
pub mod auth; // who may connect
#[cfg(not(loom))]
pub mod broker; // one shard's whole state, without any I/O
#[cfg(not(loom))]
pub mod cli; // flags, environment and file to settings
#[cfg(not(loom))]
pub mod codec; // the MQTT 3.1, 3.1.1 and 5.0 wire format
#[cfg(not(loom))]
pub mod limits; // every cap and its default
pub mod mesh; // mailboxes between shards
#[cfg(not(loom))]
pub mod session; // one client's protocol state
#[cfg(not(loom))]
pub mod shard;
#[cfg(not(loom))]
pub mod stats; // counters, one set per shard
#[cfg(not(loom))]
pub mod topics; // topic names and filters: who wants a message
#[cfg(not(loom))]
pub mod transport; // sockets // the reactor
