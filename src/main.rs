//! The `ringmq` broker: parses flags into settings and runs the shards.

use std::process::ExitCode;

use ringmq::cli::{CliError, Invocation, Settings};

fn main() -> ExitCode {
    match Settings::load() {
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Invocation::Run(_settings)) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(CliError::EXIT_CODE)
        }
    }
}
