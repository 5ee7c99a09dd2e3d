//! Makes a failing history smaller, by delta debugging over its actions.

use std::fmt::{Debug, Write};

/// The histories tried at most.
const TRIES: usize = 3_000;

/// A few of the actions that fail in the same way, and how. `outcome` says how actions fail.
pub fn shrink<A: Clone>(
    actions: &[A],
    wrong: &str,
    outcome: impl Fn(&[A]) -> Option<String>,
) -> (Vec<A>, String) {
    let mut tries = TRIES;
    let mut best = (actions.to_vec(), wrong.to_owned());
    let mut fails = |candidate: &[A]| {
        tries = tries.checked_sub(1)?;
        outcome(candidate).filter(|other| kind(other) == kind(wrong))
    };
    let mut size = actions.len() / 2;
    while size > 0 {
        let mut at = 0;
        let before = best.0.len();
        while at < best.0.len() {
            let mut candidate = best.0.clone();
            let end = (at + size).min(candidate.len());
            candidate.drain(at..end);
            match fails(&candidate) {
                Some(wrong) => best = (candidate, wrong),
                None => at += size,
            }
        }
        // With single actions again, as long as that helps.
        if size > 1 || best.0.len() == before {
            size /= 2;
        }
    }
    best
}

/// What went wrong, without the particulars.
fn kind(wrong: &str) -> &str {
    wrong
        .split([':', '('])
        .next()
        .unwrap_or_default()
        .trim_end_matches(|c: char| !c.is_alphabetic())
}

/// The history as a regression test.
pub fn as_test(seed: u64, setup: &impl Debug, actions: &[impl Debug]) -> String {
    let mut text = format!("\n\n#[test]\nfn seed_{seed}() {{\n    let setup = {setup:?};\n");
    text += "    let actions = vec![\n";
    for action in actions {
        let _ = writeln!(text, "        {action:?},");
    }
    text + "    ];\n    replay(setup, &actions);\n}\n"
}
