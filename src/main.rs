//! The `ringmq` broker: parses flags into settings and runs the shards.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use ringmq::{
    cli::{CliError, Invocation, LogFormat, LogSettings, Settings},
    shard::{
        Server, Stalled, Stalls, Trim,
        capacity::{Capacity, Demand, Reading},
    },
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// How often the main thread looks for signals and at the shards.
const LOOK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(50);

fn main() -> ExitCode {
    match Settings::load() {
        Ok(Invocation::Print(text)) => {
            // A reader that has seen enough (`ringmq --help | head`) is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Invocation::Run(settings)) => match run(*settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!("{error}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(CliError::EXIT_CODE)
        }
    }
}

fn run(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
    start_logging(&settings.log);
    // Before anything can go wrong that a signal would cut short.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let demand = Demand {
        shards: settings.shards.count,
        separate_tables: settings.shards.separate_descriptor_tables,
        listeners: settings.listeners.addresses.len(),
        max_connections: settings.connections.max.map(Into::into),
        backlog: settings.tcp.backlog,
    };
    let capacity = Capacity::new(&Reading::take(), &demand);
    let server = Server::start(settings, &capacity)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        shards = demand.shards,
        driver = %server.driver(),
        "ringmq is running"
    );
    tracing::info!("{capacity}");
    for note in &capacity.notes {
        tracing::info!("{note}");
    }
    for address in server.addresses() {
        tracing::info!(%address, "listening");
    }
    let (mut trim, mut stalls) = (Trim::default(), Stalls::default());
    let signal = loop {
        if let Some(signal) = signals.pending().next() {
            break signal;
        }
        if server.has_failed() {
            return Err("a shard has ended; the broker cannot serve its clients any more".into());
        }
        let open = server.stats().iter().map(|stats| stats.connections_open.get()).sum();
        trim.look(open, |shrink| server.shrink(shrink));
        if let Some(Stalled { shards, milliseconds }) = stalls.look(server.stats()) {
            tracing::warn!(shards, milliseconds, "shards have stood still");
        }
        std::thread::sleep(LOOK_INTERVAL);
    };
    tracing::info!(signal = signal_hook::low_level::signal_name(signal), "stopping");
    // A second signal does not wait.
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            std::process::exit(1);
        }
    });
    match server.shut_down() {
        true => tracing::info!("stopped"),
        false => tracing::warn!("stopped, with some clients still connected"),
    }
    Ok(())
}

fn start_logging(log: &LogSettings) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(log.level.filter())
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
