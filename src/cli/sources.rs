//! Where values come from, and which of them counts.

use std::io;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use toml::Value;

use super::error::{CliError, Origin};
use super::flags;

/// What the settings are read from beside the command line, so that tests can give their own.
pub struct Sources<'a> {
    /// The value of an environment variable. An empty value counts as not set.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The text of a file.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<String>,
    /// The name of this machine, for the node name.
    pub hostname: &'a str,
    /// The cores that this process may use, for the number of shards.
    pub cores: usize,
}

/// What the command line, the environment and the file make together.
pub(super) enum Merged {
    /// Values of all flags.
    Matches(ArgMatches),
    /// `--help` or `--version` was asked for: the text.
    Text(String),
}

/// The flags that are no settings: they cannot be keys of the file.
pub(super) const NOT_IN_FILE: [&str; 4] = ["config", "check-config", "help", "version"];

/// Adds the values of the environment and of the file to `args`, for the flags that `args` has not.
/// All of them become arguments, so that there is one parser and one set of messages.
pub(super) fn merge(args: Vec<String>, sources: &Sources<'_>) -> Result<Merged, CliError> {
    let command = flags::command();
    let mut words = vec![command.get_name().to_owned()];
    words.extend(args);
    let matches = match command.clone().try_get_matches_from(&words) {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => return Ok(Merged::Text(error.to_string())),
        Err(error) => return Err(usage(&error)),
    };

    let mut given = Given { command: &command, words, known: Vec::new() };
    for flag in flag_names(&command) {
        let id = flag.replace('-', "_");
        if matches.value_source(&id) == Some(ValueSource::CommandLine) {
            given.known.push(flag);
        }
    }
    for flag in flag_names(&command) {
        let variable = variable(&flag);
        if let Some(value) = (sources.env)(&variable).filter(|value| !value.is_empty()) {
            given.add(flag, &[value], || Origin::Environment(variable))?;
        }
    }
    if let Some(path) = given.matches()?.get_one::<std::path::PathBuf>("config") {
        for (key, values) in read(path, &command, sources)? {
            let origin = || Origin::File(path.clone(), key.clone());
            given.add(key.clone(), &values, origin)?;
        }
    }
    given.matches().map(Merged::Matches)
}

/// The long names of all flags, in the order of `--help`.
pub(super) fn flag_names(command: &Command) -> Vec<String> {
    command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

/// The environment variable of a flag.
pub(super) fn variable(flag: &str) -> String {
    format!("RINGMQ_{}", flag.replace('-', "_").to_ascii_uppercase())
}

/// The arguments so far, and which flags are among them.
struct Given<'a> {
    command: &'a Command,
    words: Vec<String>,
    known: Vec<String>,
}

impl Given<'_> {
    /// Adds `values` of `flag`, unless a source that goes before this one has set it. A value that
    /// cannot be read is an error either way.
    fn add(
        &mut self,
        flag: String,
        values: &[String],
        origin: impl FnOnce() -> Origin,
    ) -> Result<(), CliError> {
        let words: Vec<String> = values.iter().map(|value| format!("--{flag}={value}")).collect();
        let alone = std::iter::once(self.command.get_name().to_owned()).chain(words.clone());
        if let Err(error) = self.command.clone().try_get_matches_from(alone) {
            return Err(CliError::Value { origin: origin(), problem: problem(&error) });
        }
        if !self.known.contains(&flag) {
            self.words.extend(words);
            self.known.push(flag);
        }
        Ok(())
    }

    fn matches(&self) -> Result<ArgMatches, CliError> {
        self.command.clone().try_get_matches_from(&self.words).map_err(|error| usage(&error))
    }
}

/// The keys of the file and their values as one would type them.
fn read(
    path: &Path,
    command: &Command,
    sources: &Sources<'_>,
) -> Result<Vec<(String, Vec<String>)>, CliError> {
    let text = (sources.read_file)(path)
        .map_err(|error| CliError::ReadFile { path: path.to_owned(), error })?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| CliError::ParseFile {
        path: path.to_owned(),
        problem: error.to_string().trim_end().to_owned(),
    })?;
    let names = flag_names(command);
    let mut keys = Vec::new();
    for (key, value) in &table {
        if !names.contains(key) || NOT_IN_FILE.contains(&key.as_str()) {
            let remedy = suggestion(key, command);
            return Err(CliError::UnknownKey { path: path.to_owned(), key: key.clone(), remedy });
        }
        let values = match value {
            Value::Array(values) if values.is_empty() => Err("an empty list"),
            Value::Array(values) if is_list(command, key) => values.iter().map(typed).collect(),
            value => typed(value).map(|value| vec![value]),
        };
        let values: Vec<String> = values.map_err(|kind| CliError::Value {
            origin: Origin::File(path.to_owned(), key.clone()),
            problem: format!("{kind} is no value for it; see --help for what it takes"),
        })?;
        keys.push((key.clone(), values));
    }
    Ok(keys)
}

/// A value of the file as one would type it, or what it is instead.
fn typed(value: &Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(truth) => Ok(truth.to_string()),
        Value::Float(_) => Err("a number with a fraction"),
        Value::Datetime(_) => Err("a date"),
        Value::Array(_) => Err("a list"),
        Value::Table(_) => Err("a table"),
    }
}

fn is_list(command: &Command, flag: &str) -> bool {
    command.get_arguments().any(|arg| {
        arg.get_long() == Some(flag) && matches!(arg.get_action(), clap::ArgAction::Append)
    })
}

/// What to say about a key that is no setting.
fn suggestion(key: &str, command: &Command) -> String {
    if NOT_IN_FILE.contains(&key) {
        return "this one works on the command line only".to_owned();
    }
    let flag = format!("--{}", key.replace('_', "-"));
    let meant = if flag_names(command).iter().any(|name| flag.strip_prefix("--") == Some(name)) {
        Some(flag)
    } else {
        match command.clone().try_get_matches_from([command.get_name(), &flag]) {
            Err(error) if error.kind() == ErrorKind::UnknownArgument => {
                match error.get(ContextKind::SuggestedArg) {
                    Some(ContextValue::String(flag)) => Some(flag.clone()),
                    _ => None,
                }
            }
            _ => None,
        }
    };
    match meant.as_deref().and_then(|flag| flag.strip_prefix("--")) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "the keys are the names of the flags, see --help, and stand in no table".to_owned(),
    }
}

/// An error of the command line itself, in clap's words.
pub(super) fn usage(error: &clap::Error) -> CliError {
    CliError::Usage(message(error))
}

/// The first paragraph of clap's message: without the usage and the pointer to `--help`.
fn problem(error: &clap::Error) -> String {
    let text = message(error);
    text.split("\n\n").next().unwrap_or(&text).trim_end().to_owned()
}

/// clap's message without the word in front, which `main` gives to all errors.
fn message(error: &clap::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned()
}
