//! The settings in effect as a TOML file that `--config` would read.

use std::fmt::Write;

use clap::{Arg, ArgMatches};

use super::flags;
use super::settings::Settings;
use super::sources::NOT_IN_FILE;

/// All settings by subject, with what the machine decides (shards, node name) filled in.
pub(super) fn toml(matches: &ArgMatches, settings: &Settings) -> String {
    let command = flags::command();
    let mut text = String::new();
    let mut heading = None;
    for arg in command.get_arguments() {
        let Some(name) = arg.get_long().filter(|name| !NOT_IN_FILE.contains(name)) else {
            continue;
        };
        let value = match name {
            "shards" => settings.shards.count.to_string(),
            "node-name" => quoted(&settings.monitoring.node_name),
            "allow-anonymous" => settings.listeners.allow_anonymous.to_string(),
            _ => match value(arg, matches) {
                Some(value) => value,
                None => continue,
            },
        };
        if heading != arg.get_help_heading() {
            let gap = if heading.is_some() { "\n" } else { "" };
            heading = arg.get_help_heading();
            let _ = writeln!(text, "{gap}# {}", heading.unwrap_or_default());
        }
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

/// The value of `arg` in TOML: a truth value, or as it was written or its default is.
fn value(arg: &Arg, matches: &ArgMatches) -> Option<String> {
    if let Ok(Some(truth)) = matches.try_get_one::<bool>(arg.get_id().as_str()) {
        return Some(truth.to_string());
    }
    let mut values = matches.get_raw(arg.get_id().as_str())?;
    if matches!(arg.get_action(), clap::ArgAction::Append) {
        let values: Vec<String> = values.map(|value| quoted(&value.to_string_lossy())).collect();
        return Some(format!("[{}]", values.join(", ")));
    }
    let value = values.next_back()?.to_string_lossy();
    let bare = value.parse::<i64>().is_ok_and(|number| number.to_string() == value);
    Some(if bare { value.into_owned() } else { quoted(&value) })
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
