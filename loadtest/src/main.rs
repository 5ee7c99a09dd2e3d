//! The `ringmq-load` binary.

use std::process::ExitCode;

use clap::Parser;
use ringmq_load::{cli::Cli, control};

fn main() -> ExitCode {
    match control::main(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
