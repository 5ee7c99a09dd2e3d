//! Any arguments, environment and file: they are refused with a reason, or they are settings; and
//! whoever prints the settings and reads them again, has the same.

use std::io;
use std::path::Path;

use ringmq::cli::{CliError, Invocation, Settings, Sources};
use ringmq::topics::MAX_SHARDS;

/// Checks `data` as lines of arguments, lines of `NAME=VALUE` and a file, with U+0000 between.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(3, '\0');
    let arguments: Vec<&str> = parts.next().unwrap_or_default().lines().collect();
    let environment = parts.next().unwrap_or_default();
    let file = parts.next();
    read(&arguments, environment, file);
    if let [argument] = arguments[..]
        && let Some((flag, value)) = argument.strip_prefix("--").and_then(|a| a.split_once('='))
    {
        same_from_everywhere(flag, value);
    }
}

fn read(arguments: &[&str], environment: &str, file: Option<&str>) {
    let settings = match invoked(arguments, environment, file) {
        Ok(Invocation::Run(settings)) => settings,
        Ok(Invocation::Print(text)) => return assert!(!text.is_empty()),
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    holds_together(&settings);
    // In front, for behind `--` it would be no flag.
    let asked: Vec<&str> =
        ["--check-config"].into_iter().chain(arguments.iter().copied()).collect();
    let Ok(Invocation::Print(printed)) = invoked(&asked, environment, file) else {
        panic!("what is accepted can be printed");
    };
    match invoked(&["--config=printed"], "", Some(&printed)) {
        Ok(Invocation::Run(again)) => assert_eq!(again, settings, "{printed}"),
        other => panic!("{other:?} is made of {printed}"),
    }
}

/// One setting means the same as an argument, as a variable and as a key of the file.
fn same_from_everywhere(flag: &str, value: &str) {
    let names_setting =
        flag.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let special = ["config", "check-config", "help", "version"].contains(&flag);
    if !names_setting || special || flag.is_empty() || value.is_empty() || value.contains('\n') {
        return;
    }
    let argument = invoked(&[&format!("--{flag}={value}")], "", None);
    let variable = format!("RINGMQ_{}={value}", flag.replace('-', "_").to_ascii_uppercase());
    let variable = invoked(&[], &variable, None);
    let key = format!("{flag} = {}", toml_string(value));
    let key = invoked(&["--config=x"], "", Some(&key));
    match (argument, variable, key) {
        (Ok(argument), Ok(variable), Ok(key)) => {
            assert_eq!(argument, variable);
            assert_eq!(argument, key);
        }
        // A variable that no flag has is none of ours.
        (Err(_), _, Err(_)) => {}
        other => panic!("--{flag}={value}: {other:?}"),
    }
}

fn invoked(
    arguments: &[&str],
    environment: &str,
    file: Option<&str>,
) -> Result<Invocation, CliError> {
    let variable = |name: &str| {
        let mut pairs = environment.lines().filter_map(|line| line.split_once('='));
        pairs.find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
    };
    let read_file =
        |_: &Path| file.map(str::to_owned).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
    let sources = Sources { env: &variable, read_file: &read_file, hostname: "host", cores: 3 };
    Settings::from_parts(arguments.iter().map(|&argument| argument.to_owned()), &sources)
}

fn holds_together(settings: &Settings) {
    assert!((1..=MAX_SHARDS).contains(&settings.shards.count));
    assert!(!settings.listeners.addresses.is_empty());
    assert!(settings.protocol.max_qos <= 2);
    let packet = u64::from(settings.protocol.max_packet_size);
    assert!(settings.connections.max_outbox_bytes >= packet);
    assert!(settings.connections.max_unread_bytes >= packet);
    assert!(settings.sessions.max_queued_bytes >= packet);
    let shards = settings.shards.count as u64;
    assert!(settings.sessions.max_queued_total_bytes / shards >= packet);
}

fn toml_string(value: &str) -> String {
    let escaped = value.chars().map(|c| format!("\\U{:08X}", u32::from(c)));
    format!("\"{}\"", escaped.collect::<String>())
}
