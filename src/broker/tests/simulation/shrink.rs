//! Makes a failing history smaller, by delta debugging over its actions.

use std::fmt::Write;

use super::{history::History, outcome};

/// The histories tried at most.
const TRIES: usize = 3_000;

/// A small history that fails in the same way, and how.
pub fn shrink(history: &History, wrong: &str) -> (History, String) {
    let mut tries = TRIES;
    let mut best = (history.clone(), wrong.to_owned());
    let mut fails = |candidate: &History| {
        tries = tries.checked_sub(1)?;
        outcome(candidate).err().filter(|other| kind(other) == kind(wrong))
    };
    let mut size = history.actions.len() / 2;
    while size > 0 {
        let mut at = 0;
        let before = best.0.actions.len();
        while at < best.0.actions.len() {
            let mut candidate = best.0.clone();
            let end = (at + size).min(candidate.actions.len());
            candidate.actions.drain(at..end);
            match fails(&candidate) {
                Some(wrong) => best = (candidate, wrong),
                None => at += size,
            }
        }
        // With single actions again, as long as that helps.
        if size > 1 || best.0.actions.len() == before {
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
pub fn as_test(seed: u64, history: &History) -> String {
    let mut text =
        format!("\n\n#[test]\nfn seed_{seed}() {{\n    let setup = {:?};\n", history.setup);
    text += "    let actions = vec![\n";
    for action in &history.actions {
        let _ = writeln!(text, "        {action:?},");
    }
    text + "    ];\n    replay(setup, actions);\n}\n"
}
