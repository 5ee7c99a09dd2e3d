//! Deterministic simulation of the whole server: brokers, a mesh, a clock, sockets and clients, all
//! made up. One seed is one history; the oracle knows what a naive server would have done.
//!
//! `SIMULATE_SEEDS` and `SIMULATE_FROM` choose the seeds (`scripts/simulate.sh`).

mod client;
mod doorkeeper;
mod handled;
mod history;
pub mod model;
mod queues;
mod reactor;
mod regressions;
mod run;
mod verdict;

use history::{Action, History, Setup};
use run::Simulation;

use super::seeds::{outcome, try_all};

/// The seeds that every run of the tests tries.
const SEEDS: u64 = 200;

/// Runs a history that once failed.
fn replay(setup: Setup, actions: &[Action]) {
    assert_eq!(outcome(|| Simulation::run(setup, actions)), None);
}

#[test]
fn every_seed_keeps_the_rules() {
    try_all("SIMULATE", SEEDS, History::of, Simulation::run);
}

#[test]
fn one_seed_is_one_history() {
    let [a, b] = [0, 0].map(|_| {
        let history = History::of(7);
        let mut simulation = Simulation::new(history.setup);
        history.actions.iter().for_each(|action| simulation.step(*action));
        format!("{:?}{:?}", simulation.receptions, simulation.w.totals())
    });
    assert_eq!(a, b);
}
