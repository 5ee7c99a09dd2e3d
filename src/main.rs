//! The `ringmq` broker: parses flags into settings and runs the shards.

use std::io::Write;
use std::process::ExitCode;

use ringmq::cli::{CliError, Invocation, Settings};

fn main() -> ExitCode {
    match Settings::load() {
        Ok(Invocation::Print(text)) => {
            // A reader that has seen enough (`ringmq --help | head`) is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Invocation::Run(_settings)) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(CliError::EXIT_CODE)
        }
    }
}
