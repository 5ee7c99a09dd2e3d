//! What can be wrong with the settings, said with the setting, its value and the remedy.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// Why the broker cannot start with the settings it was given. `main` prints it to standard error
/// and exits with [`CliError::EXIT_CODE`].
#[derive(Debug, Error)]
pub enum CliError {
    /// The command line cannot be read; the text is clap's, and complete.
    #[error("{0}")]
    Usage(String),
    /// A value from the environment or the file cannot be read.
    #[error("{origin}: {problem}")]
    Value {
        /// Where the value comes from.
        origin: Origin,
        /// What is wrong with it, with the flag and the value.
        problem: String,
    },
    /// Values that can be read, but not used, or not together.
    #[error("{flag} {value}: {problem}; {remedy}")]
    Refused {
        /// The flag at fault, `--shards`.
        flag: &'static str,
        /// Its value in effect, wherever it comes from.
        value: String,
        /// Why it cannot be.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The file given with `--config` cannot be read.
    #[error("cannot read the file given with --config, {}: {error}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file given with `--config` is not TOML.
    #[error("{} is no valid TOML: {problem}", path.display())]
    ParseFile {
        /// The file.
        path: PathBuf,
        /// Where and why, over several lines.
        problem: String,
    },
    /// The file has a key that is no setting.
    #[error("{}: unknown key `{key}`; {remedy}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The key that was perhaps meant, or where to find all of them.
        remedy: String,
    },
}

impl CliError {
    /// The exit status of a process that was given settings it cannot use.
    pub const EXIT_CODE: u8 = 2;
}

/// Where a value comes from that is not on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The environment variable of this name.
    Environment(String),
    /// This key of this file.
    File(PathBuf, String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Environment(variable) => write!(f, "environment variable {variable}"),
            Origin::File(path, key) => write!(f, "key `{key}` in {}", path.display()),
        }
    }
}
