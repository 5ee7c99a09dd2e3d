//! Scenarios by name, in the notation of the Open MQTT Benchmark Suite.

use crate::{
    cli::{Cli, Common, SuiteArgs},
    verb::{Job, PlanError},
};
use clap::Parser;

/// The scenarios that the suite itself describes.
const STANDARD: [&str; 4] =
    ["conn-tcp-1M-5K", "p2p-50K-50K-50K-50K", "fanout-5-1000-5-250K", "sharedsub-50K-500-50K-50K"];

/// The jobs of a suite.
///
/// # Errors
/// When a name is not understood, or a job cannot be made.
pub fn jobs(args: &SuiteArgs, common: &Common) -> Result<Vec<Job>, PlanError> {
    let names: Vec<String> = match args.scenarios.is_empty() {
        true => STANDARD.map(str::to_owned).to_vec(),
        false => args.scenarios.clone(),
    };
    if args.scale <= 0.0 {
        return Err(PlanError::Usage("--scale: more than 0".into()));
    }
    names.iter().map(|name| job(name, args.scale, common)).collect()
}

fn job(name: &str, scale: f64, common: &Common) -> Result<Job, PlanError> {
    let words = flags(name, scale)?;
    let words = std::iter::once("ringmq-load".to_owned()).chain(words);
    let cli = Cli::try_parse_from(words).map_err(|error| PlanError::Usage(error.to_string()))?;
    let own = cli.verb.common();
    let mut common = common.clone();
    common.duration = Some(common.duration.unwrap_or(10.0));
    if common.connrate == 0.0 {
        common.connrate = own.connrate;
    }
    if own.mqtt_version == "5" {
        common.mqtt_version = "5".into();
    }
    let mut job = Job::new(&cli.verb, &common)?;
    let scale = match scale {
        1.0 => String::new(),
        scale => format!(" × {scale}"),
    };
    job.title = format!("{name}{scale} ({})", job.title);
    Ok(job)
}

/// The command line that a scenario's name stands for: 16 bytes of payload, QoS 1, Keep Alive 300,
/// as the suite has it.
fn flags(name: &str, scale: f64) -> Result<Vec<String>, PlanError> {
    let unknown = || {
        PlanError::Usage(format!(
            "{name}: not a scenario. There are conn-tcp-CLIENTS-RATE, \
             p2p-PUBLISHERS-SUBSCRIBERS-TOPICS-RATE, fanout-PUBLISHERS-SUBSCRIBERS-TOPICS-RATE, \
             fanin-PUBLISHERS-SUBSCRIBERS-TOPICS-RATE and \
             sharedsub-PUBLISHERS-SUBSCRIBERS-TOPICS-RATE; 50K is 50000, 1M is 1000000"
        ))
    };
    let plain = name.strip_prefix("singlenode-").unwrap_or(name);
    let mut words = plain.split('-');
    let kind = words.next().unwrap_or_default();
    let mut words = words.peekable();
    if kind == "conn" && words.next() != Some("tcp") {
        return Err(unknown());
    }
    let numbers: Vec<f64> =
        words.map(|word| number(word).ok_or_else(unknown)).collect::<Result<_, _>>()?;
    let scaled = |value: f64| ((value * scale).round().max(1.0) as u64).to_string();
    let mut flags: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| flags.extend(words.iter().map(|word| (*word).to_owned()));
    match (kind, numbers.as_slice()) {
        ("conn", [clients, rate]) => {
            add(&["conn", "-c", &scaled(*clients), "-R", &rate.to_string()]);
        }
        ("p2p", [publishers, subscribers, _, rate]) if publishers == subscribers => {
            add(&["pair", "-c", &scaled(*publishers), "--rate", &scaled(*rate)]);
        }
        // Topics are few, and stay; the rate is that of the deliveries.
        ("fanout", [publishers, subscribers, topics, rate]) if publishers == topics => {
            let subscribers = (subscribers * scale).round().max(1.0);
            let published = (rate * scale / subscribers).to_string();
            let (publishers, subscribers) = (publishers.to_string(), subscribers.to_string());
            add(&["fan-out", "-c", &subscribers, "--publishers", &publishers]);
            add(&["--rate", &published]);
        }
        ("fanin", [publishers, subscribers, _, rate]) => {
            add(&["fan-in", "-c", &scaled(*publishers), "--receivers", &scaled(*subscribers)]);
            add(&["--rate", &scaled(*rate)]);
        }
        ("sharedsub" | "sharesub", [publishers, subscribers, _, rate]) => {
            add(&["shared", "-c", &scaled(*publishers), "--receivers", &scaled(*subscribers)]);
            add(&["--rate", &scaled(*rate), "-V", "5"]);
        }
        _ => return Err(unknown()),
    }
    if kind != "conn" {
        add(&["-q", "1", "-s", "16"]);
    }
    Ok(flags)
}

/// A number that may end in K or M.
fn number(word: &str) -> Option<f64> {
    let (digits, factor) = match word.to_ascii_uppercase().chars().last()? {
        'K' => (word.get(..word.len() - 1)?, 1e3),
        'M' => (word.get(..word.len() - 1)?, 1e6),
        _ => (word, 1.0),
    };
    digits.parse::<f64>().ok().filter(|value| *value > 0.0).map(|value| value * factor)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(name: &str, scale: f64) -> String {
        flags(name, scale).unwrap().join(" ")
    }

    #[test]
    fn names_stand_for_command_lines() {
        assert_eq!(line("conn-tcp-1M-5K", 0.01), "conn -c 10000 -R 5000");
        assert_eq!(line("p2p-50K-50K-50K-50K", 0.1), "pair -c 5000 --rate 5000 -q 1 -s 16");
        assert_eq!(
            line("singlenode-fanout-5-1000-5-250K", 1.0),
            "fan-out -c 1000 --publishers 5 --rate 250 -q 1 -s 16"
        );
        assert_eq!(
            line("sharedsub-50K-500-50K-50K", 0.01),
            "shared -c 500 --receivers 5 --rate 500 -V 5 -q 1 -s 16"
        );
    }

    #[test]
    fn other_names_are_refused() {
        for name in
            ["", "conn-tls-1M-5K", "p2p-1-2-1-1", "p2p-1K", "fanout-x-1-1-1", "conn-tcp-0-1"]
        {
            assert!(flags(name, 1.0).is_err(), "{name}");
        }
    }
}
