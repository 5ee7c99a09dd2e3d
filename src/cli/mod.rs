//! The command line: flags, environment and file become [`Settings`].
//!
//! Every setting has one name. `--max-inflight 32` on the command line, `RINGMQ_MAX_INFLIGHT=32` in
//! the environment and `max-inflight = 32` in the TOML file given with `--config` mean the same and
//! are read by the same parser; the first of them in this order counts, then the default. Values
//! are checked here, alone and against each other, so that the rest of the crate can rely on them.

mod error;
mod flags;
#[cfg(test)]
mod page;
mod print;
mod settings;
mod sources;
mod validate;
mod value;

#[cfg(test)]
mod tests;

pub use error::{CliError, Origin};
pub use settings::{
    ConnectionSettings, Driver, Durability, DurabilitySettings, ListenerSettings, LogFormat,
    LogLevel, LogSettings, MonitoringSettings, ProtocolSettings, QueueOverflow, RetainedSettings,
    SessionSettings, Settings, ShardSettings, SharedStrategy, TcpKeepAlive, TcpSettings,
};
pub use sources::Sources;

use clap::FromArgMatches;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Run the broker.
    Run(Box<Settings>),
    /// Print this text to standard output and exit with status 0: `--help`, `--version` or
    /// `--check-config`.
    Print(String),
}

impl Settings {
    /// Reads this process's arguments, its environment and the file that they name.
    ///
    /// # Errors
    ///
    /// As [`Settings::from_parts`].
    pub fn load() -> Result<Invocation, CliError> {
        let mut args = Vec::new();
        for arg in std::env::args_os().skip(1) {
            args.push(arg.into_string().map_err(|arg| {
                CliError::Usage(format!("argument {arg:?} is not valid UTF-8; see --help"))
            })?);
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let name = rustix::system::uname();
        Self::from_parts(
            args,
            &Sources {
                env: &|name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()),
                read_file: &|path| std::fs::read_to_string(path),
                hostname: &name.nodename().to_string_lossy(),
                cores,
            },
        )
    }

    /// Reads settings from `args`, which are the words after the program's name, and from
    /// `sources`.
    ///
    /// # Errors
    ///
    /// An argument, variable or key that is unknown or has no valid value, a file that cannot be
    /// read, or values that do not go together.
    pub fn from_parts(
        args: impl IntoIterator<Item = String>,
        sources: &Sources<'_>,
    ) -> Result<Invocation, CliError> {
        let matches = match sources::merge(args.into_iter().collect(), sources)? {
            sources::Merged::Matches(matches) => matches,
            sources::Merged::Text(text) => return Ok(Invocation::Print(text)),
        };
        let flags =
            flags::Flags::from_arg_matches(&matches).map_err(|error| sources::usage(&error))?;
        let settings = validate::settings(&flags, sources)?;
        if flags.check_config {
            return Ok(Invocation::Print(print::toml(&matches, &settings)));
        }
        Ok(Invocation::Run(Box::new(settings)))
    }
}
