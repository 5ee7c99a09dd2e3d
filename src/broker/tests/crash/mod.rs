//! Deterministic simulation of crashes: broker cores, a store that keeps what it is given in its own
//! time, and clients that outlive the broker. One seed is one history; the oracle knows only what
//! clients have seen, and what they were promised.
//!
//! `CRASH_SEEDS` and `CRASH_FROM` choose the seeds (`scripts/simulate.sh --crash`).

mod client;
mod history;
mod judge;
mod regressions;
mod run;
mod verdict;

use history::{Action, History, Setup};
use run::Simulation;

use super::seeds::{outcome, try_all};

/// The seeds that every run of the tests tries.
const SEEDS: u64 = 300;

/// Runs a history that once failed.
fn replay(setup: Setup, actions: &[Action]) {
    assert_eq!(outcome(|| Simulation::run(setup, actions)), None);
}

#[test]
fn every_crash_keeps_the_promises() {
    try_all("CRASH", SEEDS, History::of, Simulation::run);
}
