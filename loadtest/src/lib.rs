//! `ringmq-load`: the load generator of RingMQ, for any MQTT broker.
//!
//! The modules in reading order.
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`suite`] | scenarios by name |
//! | [`verb`] | from the command line to a plan |
//! | [`plan`] | what a run does: groups of clients, flows of messages |
//! | [`header`] | what every measured payload begins with |
//! | [`ledger`] | loss, duplicates and reordering |
//! | [`latency`] | histograms |
//! | [`failure`] | what can go wrong, and what to do about it |
//! | [`shared`] | what the threads share |
//! | [`worker`] | one thread: connections, publishing, receiving |
//! | [`probe`] | the broker's and the machine's memory and processor time |
//! | [`control`] | takes a run through its phases |
//! | [`outcome`] | what came of a run, and whether promises were broken |
//! | [`report`] | summary table, JSON, HTML |

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod cli;
pub mod clock;
pub mod control;
pub mod failure;
pub mod header;
pub mod latency;
pub mod ledger;
pub mod outcome;
pub mod plan;
pub mod probe;
pub mod report;
pub mod shared;
pub mod suite;
pub mod verb;
pub mod worker;
