//! Runs the tool, and reads what it says.
#![allow(dead_code)]

use std::process::{Command, Output};

use serde_json::Value;

/// A finished run.
pub struct Run {
    pub status: Option<i32>,
    pub json: Value,
    pub stderr: String,
}

/// Runs `ringmq-load` with these words, against this port.
pub fn load(words: &str, port: u16) -> Run {
    let output = start(words, port).output().unwrap();
    finished(output)
}

/// The command that [`load`] runs.
pub fn start(words: &str, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq-load"));
    command.args(arguments(words, port)).args(["--quiet", "--workers", "2"]);
    command
}

/// These words, and what every test wants.
pub fn arguments(words: &str, port: u16) -> Vec<String> {
    let common = format!("-p {port} --json - --settle 0.05");
    [words, &common].iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect()
}

/// What came of it.
pub fn finished(output: Output) -> Run {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    Run { status: output.status.code(), json, stderr }
}

impl Run {
    /// A number, by its JSON pointer.
    #[track_caller]
    pub fn number(&self, pointer: &str) -> f64 {
        let value = self.json.pointer(pointer).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("{pointer} in {:#} {}", self.json, self.stderr))
    }

    /// The only flow's number of this name.
    #[track_caller]
    pub fn flow(&self, name: &str) -> u64 {
        self.number(&format!("/flows/0/{name}")) as u64
    }

    /// What to do about the first failure.
    pub fn advice(&self) -> &str {
        self.json["failures"][0]["advice"].as_str().unwrap_or_default()
    }

    /// Whether a failure was reported whose text contains this.
    pub fn has_failure(&self, text: &str) -> bool {
        let failures = self.json.pointer("/failures").and_then(Value::as_array);
        failures.is_some_and(|all| {
            all.iter().any(|it| it["what"].as_str().is_some_and(|what| what.contains(text)))
        })
    }
}
