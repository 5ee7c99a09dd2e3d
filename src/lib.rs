//! RingMQ: an MQTT broker for huge device fleets, one io_uring reactor per core.
//!
//! The modules in reading order; each may import only those named before it (with the exceptions
//! that `docs/ARCHITECTURE.md` lists), which `tests/architecture.rs` keeps true:

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod limits; // every cap and its default
pub mod codec; // the MQTT 3.1, 3.1.1 and 5.0 wire format
pub mod stats; // counters, one set per shard
pub mod topics; // topic names and filters: who wants a message
pub mod session; // one client's protocol state
pub mod auth; // who may connect
pub mod broker; // one shard's whole state, without any I/O
pub mod mesh; // mailboxes between shards
pub mod cli; // flags, environment and file to settings
pub mod transport; // sockets
pub mod shard; // the reactor
