//! Deterministic simulation of the whole server: brokers, a mesh, a clock, sockets and clients, all
//! made up. One seed is one history; the oracle knows what a naive server would have done.
//!
//! `SIMULATE_SEEDS` and `SIMULATE_FROM` choose the seeds (`scripts/simulate.sh`).

mod client;
mod handled;
mod history;
pub mod model;
mod reactor;
mod regressions;
mod run;
pub mod shrink;
mod verdict;

use history::{Action, History, Setup};
use run::Simulation;

/// The seeds that every run of the tests tries.
const SEEDS: u64 = 200;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a history; a panic is something wrong, too.
fn outcome(history: &History) -> Result<(), String> {
    let run = std::panic::AssertUnwindSafe(|| Simulation::run(history));
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Runs a history that once failed.
fn replay(setup: Setup, actions: Vec<Action>) {
    assert_eq!(outcome(&History { setup, actions }), Ok(()));
}

#[test]
fn every_seed_keeps_the_rules() {
    let from = variable("SIMULATE_FROM").unwrap_or(0);
    let seeds = variable("SIMULATE_SEEDS").unwrap_or(SEEDS);
    for seed in from..from + seeds {
        let history = History::of(seed);
        let Err(wrong) = outcome(&history) else { continue };
        let tried = seed - from + 1;
        let mut report = format!("seed {seed} (number {tried}): {wrong}");
        if std::env::var_os("SIMULATE_AS_IT_IS").is_none() {
            let (small, wrong) = shrink::shrink(&history, &wrong);
            report += &format!("\nminimised to {} actions: {wrong}", small.actions.len());
            report += &shrink::as_test(seed, &small.setup, &small.actions);
        }
        panic!("{report}");
    }
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
