//! The tables of `docs/configuration.md`, made from the flags so that they cannot differ.

use std::fmt::Write;

use clap::Arg;

use super::flags;

/// Stands before the tables in the page; what is above is written by hand.
pub(super) const BEGIN: &str = "<!-- made from the flags: UPDATE_DOCS=1 cargo test --lib page -->";
/// Stands behind the tables.
pub(super) const END: &str = "<!-- end of what is made from the flags -->";

/// `page` with the text between the marks made anew; `None` when a mark is missing.
pub(super) fn renewed(page: &str) -> Option<String> {
    let (above, rest) = page.split_once(BEGIN)?;
    let (_, below) = rest.split_once(END)?;
    Some(format!("{above}{BEGIN}\n{}\n{END}{below}", tables()))
}

/// A heading and a table for every subject, as `--help` groups them.
fn tables() -> String {
    let command = flags::command();
    let mut text = String::new();
    let mut heading = None;
    for arg in command.get_arguments().filter(|arg| arg.get_help_heading().is_some()) {
        if heading != arg.get_help_heading() {
            heading = arg.get_help_heading();
            let heading = heading.unwrap_or_default();
            let _ = write!(text, "\n## {heading}\n\n| flag | default | meaning |\n|---|---|---|\n");
        }
        let _ = writeln!(text, "| {} | {} | {} |", typed(arg), default(arg), meaning(arg));
    }
    text
}

fn typed(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(|names| names.first());
    let value = value.map(|name| name.replace('|', "\\|")).unwrap_or_default();
    format!("`--{} {value}`", arg.get_long().unwrap_or_default())
}

fn default(arg: &Arg) -> String {
    let values = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let values: Vec<_> = values.filter(|value| !value.is_empty()).collect();
    if values.is_empty() { String::new() } else { format!("`{}`", values.join(",")) }
}

fn meaning(arg: &Arg) -> String {
    let mut text = format!("{}.", arg.get_help().map(ToString::to_string).unwrap_or_default());
    if arg.is_hide_possible_values_set() {
        return text;
    }
    for value in arg.get_possible_values() {
        let meaning = value.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = write!(text, "<br>`{}`: {meaning}", value.get_name());
    }
    text
}
