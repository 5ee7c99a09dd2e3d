//! Tests of the broker core, without I/O: several shards, a made-up clock, made-up clients that
//! speak bytes, and mail that moves when a test says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod alias;
mod auth;
mod explain;
mod flow;
mod peer;
mod presence;
mod qos;
mod retained;
mod session;
mod shared;
mod simulation;
mod subscribe;
mod timeouts;
mod wall_clock;
mod will;
mod world;
