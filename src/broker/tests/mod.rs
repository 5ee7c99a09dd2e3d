//! Tests of the broker core, without I/O: several shards, a made-up clock, made-up clients that
//! speak bytes, and mail that moves when a test says so. Fuzzing uses the harness, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(missing_docs)] // It is no part of the interface.

#[cfg(test)]
mod alias;
#[cfg(test)]
mod auth;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod durable;
#[cfg(test)]
mod estate;
#[cfg(test)]
mod expiry;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod fetch;
#[cfg(test)]
mod flow;
pub mod peer;
#[cfg(test)]
mod presence;
#[cfg(test)]
mod qos;
#[cfg(test)]
mod retained;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod session;
#[cfg(test)]
mod shared;
#[cfg(test)]
mod shrink;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod stored_queue;
#[cfg(test)]
mod subscribe;
#[cfg(test)]
mod timeouts;
#[cfg(test)]
mod wall_clock;
#[cfg(test)]
mod will;
pub mod world;
