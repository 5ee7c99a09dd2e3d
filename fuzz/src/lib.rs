//! What fuzzing checks: a module for each target, each with a function `check` that takes any
//! bytes and panics when something is wrong. `targets/` hands it what the fuzzer makes up,
//! `tests/replay.rs` the inputs that are kept. See `docs/fuzzing.md`.

pub mod broker;
pub mod codec;
pub mod config;
pub mod packet;
pub mod topics;

use ringmq::codec::Version;

/// Every version that the broker speaks.
const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];
