//! Histories that seeds stand for: which of them are tried, and what is said of one that fails.

use std::{env, fmt::Debug, panic};

use super::shrink::{as_test, shrink};

/// What is set once, and what happens then.
#[derive(Debug, Clone)]
pub struct History<S, A> {
    pub setup: S,
    pub actions: Vec<A>,
}

/// One of several choices, which may be there more than once to be more likely.
pub fn one_of<T: Copy>(rng: &mut fastrand::Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

/// The first thing that is wrong, if anything is.
#[derive(Debug, Default)]
pub struct Wrong(Option<String>);

impl Wrong {
    /// Notes that something is wrong.
    pub fn fail(&mut self, wrong: impl FnOnce() -> String) {
        self.0.get_or_insert_with(wrong);
    }

    /// Notes what is wrong, unless it is right.
    pub fn check(&mut self, is_right: bool, wrong: impl FnOnce() -> String) {
        if !is_right {
            self.fail(wrong);
        }
    }

    /// Whether anything is.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// An error if anything is wrong.
    pub fn take(&mut self) -> Result<(), String> {
        self.0.take().map_or(Ok(()), Err)
    }
}

/// What goes wrong in a history; a panic is something wrong, too.
pub fn outcome(run: impl FnOnce() -> Result<(), String>) -> Option<String> {
    let run = panic::AssertUnwindSafe(|| run().err());
    panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Some(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Tries so many seeds from 0 on, unless the variables `NAME_SEEDS` and `NAME_FROM` say otherwise. The
/// first that fails is minimised, unless `SIMULATE_AS_IT_IS` is set.
pub fn try_all<S: Copy + Debug, A: Clone + Debug>(
    name: &str,
    seeds: u64,
    history: impl Fn(u64) -> History<S, A>,
    run: impl Fn(S, &[A]) -> Result<(), String>,
) {
    let from = variable(&format!("{name}_FROM")).unwrap_or(0);
    let seeds = variable(&format!("{name}_SEEDS")).unwrap_or(seeds);
    for seed in from..from + seeds {
        let History { setup, actions } = history(seed);
        let Some(wrong) = outcome(|| run(setup, &actions)) else { continue };
        let tried = seed - from + 1;
        let mut report = format!("seed {seed} (number {tried}): {wrong}");
        if env::var_os("SIMULATE_AS_IT_IS").is_none() {
            let (small, wrong) = shrink(&actions, &wrong, |some| outcome(|| run(setup, some)));
            report += &format!("\nminimised to {} actions: {wrong}", small.len());
            report += &as_test(seed, &setup, &small);
        }
        panic!("{report}");
    }
}

fn variable(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}
