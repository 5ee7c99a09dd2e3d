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

use super::simulation::shrink::{as_test, shrink_actions};

/// The seeds that every run of the tests tries.
const SEEDS: u64 = 300;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What goes wrong in a history; a panic is something wrong, too.
fn outcome(setup: Setup, actions: &[Action]) -> Option<String> {
    let run = std::panic::AssertUnwindSafe(|| Simulation::run(setup, actions).err());
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Some(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Runs a history that once failed.
fn replay(setup: Setup, actions: &[Action]) {
    assert_eq!(outcome(setup, actions), None);
}

#[test]
fn every_crash_keeps_the_promises() {
    let from = variable("CRASH_FROM").unwrap_or(0);
    let seeds = variable("CRASH_SEEDS").unwrap_or(SEEDS);
    for seed in from..from + seeds {
        let History { setup, actions } = History::of(seed);
        let Some(wrong) = outcome(setup, &actions) else { continue };
        let tried = seed - from + 1;
        let mut report = format!("seed {seed} (number {tried}): {wrong}");
        if std::env::var_os("SIMULATE_AS_IT_IS").is_none() {
            let (small, wrong) = shrink_actions(&actions, &wrong, |some| outcome(setup, some));
            report += &format!("\nminimised to {} actions: {wrong}", small.len());
            report += &as_test(seed, &setup, &small);
        }
        panic!("{report}");
    }
}
