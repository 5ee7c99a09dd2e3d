//! The result as text.

use std::fmt::Write;

use crate::{
    latency::Latency,
    outcome::{Outcome, Second},
    plan::Plan,
    probe::Sample,
    shared::Counts,
};

/// How it goes, in one line.
pub fn progress(
    what: &str,
    second: &Second,
    counts: &Counts,
    sample: &Sample,
    clients: u32,
) -> String {
    let mut line = format!("{:5.0} s {what:10} {}/{clients} clients", second.at, second.ready);
    if second.connects >= 1.0 {
        let _ = write!(line, ", {} conn/s", count(second.connects));
    }
    if counts.sent > 0 {
        let _ = write!(line, ", {} sent/s", count(second.sent));
    }
    if counts.received > 0 {
        let _ = write!(line, ", {} recv/s", count(second.received));
    }
    if let (Some(p50), Some(p99)) = (second.p50, second.p99) {
        let _ = write!(line, ", p50 {} p99 {} ms", milliseconds(p50), milliseconds(p99));
    }
    if counts.owed > 100 {
        let _ = write!(line, ", {} behind", count(counts.owed as f64));
    }
    if let Some(broker) = sample.broker {
        let _ = write!(line, ", broker {}", bytes(broker.rss as f64));
    }
    if counts.failed_attempts + counts.lost > 0 {
        let _ = write!(line, ", {} failed, {} lost", counts.failed_attempts, counts.lost);
    }
    line
}

/// The summary.
pub fn table(outcome: &Outcome) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "\n{}", outcome.title);
    connections(&mut text, outcome);
    if outcome.total.sent + outcome.total.received > 0 {
        rates(&mut text, outcome);
    }
    memory(&mut text, outcome);
    latencies(&mut text, outcome);
    ledger(&mut text, outcome);
    for (failure, count) in &outcome.failures {
        let _ = writeln!(text, "  failed       {count} × {failure}: {}", failure.advice());
    }
    for note in &outcome.notes {
        let _ = writeln!(text, "  note         {note}");
    }
    let verdict = match (outcome.is_good(), outcome.broken()) {
        (true, _) => "good".to_owned(),
        (false, 0) => "not good: see above".to_owned(),
        (false, broken) => format!("{broken} deliveries broke a promise of their QoS"),
    };
    let _ = writeln!(text, "  verdict      {verdict}");
    text
}

fn connections(text: &mut String, outcome: &Outcome) {
    let rate = outcome.connected_count as f64 / outcome.connect_seconds.max(1e-9);
    let _ = writeln!(
        text,
        "  connections  {} of {} in {:.2} s, {}/s",
        outcome.connected_count,
        outcome.clients,
        outcome.connect_seconds,
        count(rate),
    );
    for (number, round) in outcome.storms.iter().enumerate() {
        let _ = writeln!(
            text,
            "  storm {}      all back in {:.3} s, {} failed attempts, {} missing",
            number + 1,
            round.seconds,
            round.failed_attempts,
            round.missing,
        );
    }
    if outcome.total.pings > 0 {
        let _ = writeln!(
            text,
            "  keep-alive   {} pings sent, {} answered",
            outcome.total.pings, outcome.total.pongs
        );
    }
    if outcome.measured.cut > 0 && outcome.storms.is_empty() {
        let _ = writeln!(
            text,
            "  reconnected  {} in {:.1} s",
            outcome.measured.connected_ever, outcome.measured_seconds
        );
    }
}

fn rates(text: &mut String, outcome: &Outcome) {
    let seconds = outcome.measured_seconds.max(1e-9);
    let _ = write!(
        text,
        "  messages     {}/s sent, {}/s received over {:.1} s",
        count(outcome.measured.sent as f64 / seconds),
        count(outcome.measured.received as f64 / seconds),
        outcome.measured_seconds,
    );
    if outcome.offered_rate > 0.0 {
        let _ = write!(text, ", {}/s due", count(outcome.offered_rate));
    }
    text.push('\n');
    let (broker_each, tool_each) = outcome.cpu_per_message();
    let rows = [
        ("broker CPU", outcome.broker_cpu(), broker_each),
        ("tool CPU", Some(outcome.tool_cpu()), tool_each),
    ];
    for (name, cpu, each) in rows {
        let Some(cpu) = cpu else { continue };
        let _ = write!(text, "  {name:<12} {:.0} % of a core", 100.0 * cpu / seconds);
        if let Some(each) = each {
            let messages = count(1e6 / each.max(1e-9));
            let _ = write!(text, ", {each:.2} µs a message, {messages} messages in a CPU second");
        }
        text.push('\n');
    }
}

fn memory(text: &mut String, outcome: &Outcome) {
    if let Some(broker) = outcome.connected.broker {
        let _ = writeln!(
            text,
            "  broker       {} RSS, {} PSS, {} descriptors when all were connected",
            bytes(broker.rss as f64),
            bytes(broker.pss as f64),
            broker.descriptors,
        );
    }
    if outcome.connected_count < 1000 {
        return;
    }
    let show = |value: Option<f64>| value.map_or("?".into(), |value| format!("{value:.0} B"));
    let _ = writeln!(
        text,
        "  a connection {} in the broker, {} in the tool, {} in the kernel (both ends)",
        show(outcome.broker_bytes()),
        show(outcome.tool_bytes()),
        show(outcome.kernel_bytes()),
    );
}

fn latencies(text: &mut String, outcome: &Outcome) {
    let rows: [(&str, &Latency); 5] = [
        ("connect", &outcome.connect),
        ("subscribe", &outcome.subscribe),
        ("publish ack", &outcome.acknowledge),
        ("end to end", &outcome.delivery),
        ("tool late", &outcome.lateness),
    ];
    if rows.iter().all(|(_, latency)| latency.count() == 0) {
        return;
    }
    let _ = writeln!(
        text,
        "  {:<12} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12}",
        "ms", "p50", "p90", "p99", "p99.9", "max", "count"
    );
    for (name, latency) in rows {
        if latency.count() == 0 {
            continue;
        }
        let _ = write!(text, "  {name:<12}");
        for percentile in [50.0, 90.0, 99.0, 99.9] {
            let _ = write!(text, " {:>10}", milliseconds(latency.percentile(percentile)));
        }
        let _ = writeln!(text, " {:>10} {:>12}", milliseconds(latency.max()), latency.count());
    }
}

fn ledger(text: &mut String, outcome: &Outcome) {
    for flow in outcome.flows.iter().filter(|flow| flow.sent > 0) {
        let _ = write!(text, "  {:<12} QoS {}: {} sent", flow.name, flow.qos, flow.sent);
        if flow.qos > 0 {
            let _ = write!(text, ", {} acknowledged", flow.acknowledged);
        }
        if flow.expected > 0 {
            let _ = write!(
                text,
                "; {} of {} received, {} lost, {} twice, {} out of order",
                flow.tally.received,
                flow.expected,
                flow.tally.lost,
                flow.tally.duplicates,
                flow.tally.reordered,
            );
        }
        if flow.broken > 0 {
            let _ = write!(text, "; {} BROKEN PROMISES", flow.broken);
        }
        text.push('\n');
    }
}

/// What the reader should know, the tool's own limits above all.
pub fn notes(outcome: &Outcome, plan: &Plan) -> Vec<String> {
    let mut notes = Vec::new();
    let seconds = outcome.measured_seconds.max(1e-9);
    let share = (outcome.measured.cpu as f64 / 1e9) / seconds / f64::from(plan.workers);
    if share > 0.9 {
        notes.push(format!(
            "the tool's threads were {:.0} % busy: the tool was the limit. Give more --workers or \
             another machine",
            share * 100.0
        ));
    }
    let (sent, overruns) = (outcome.total.sent.max(1), outcome.total.overruns);
    if overruns > 0 {
        notes.push(format!(
            "{overruns} messages ({:.2} %) were sent more than 1 ms after they were due (see 'tool \
             late'); latencies count from when they were due",
            100.0 * overruns as f64 / sent as f64,
        ));
    }
    if outcome.total.owed > 0 {
        notes.push(format!(
            "{} messages that were due could not be sent at all: the broker, the window (-F) or \
             the tool was too slow",
            outcome.total.owed
        ));
    }
    if outcome.total.stalls > 0 {
        notes.push(format!(
            "saturated senders waited in vain for lost or very late messages {} times",
            outcome.total.stalls
        ));
    }
    if let Some(window) = outcome.lowered_window {
        notes.push(format!("the broker's Receive Maximum lowered -F to {window}"));
    }
    let stolen = outcome.measurement.1.machine.stolen - outcome.measurement.0.machine.stolen;
    if stolen > 0.02 * seconds {
        notes.push(format!("the hypervisor took {stolen:.1} s of processor time meanwhile"));
    }
    let busy = outcome.measurement.1.machine.busy - outcome.measurement.0.machine.busy;
    if let Some(broker) = outcome.broker_cpu() {
        let others = busy - broker - outcome.tool_cpu();
        if others > 0.1 * seconds && outcome.measured_seconds > 0.5 {
            notes.push(format!(
                "other programs took {:.0} % of a core meanwhile",
                100.0 * others / seconds
            ));
        }
    }
    if outcome.broker_gone {
        notes.push(
            "the broker closed every connection, or is gone: this is what came till then".into(),
        );
    }
    if outcome.interrupted {
        notes.push("interrupted".into());
    }
    notes
}

/// A number with three digits or so.
pub(super) fn count(value: f64) -> String {
    match value {
        value if value >= 10e6 => format!("{:.1} M", value / 1e6),
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 10e3 => format!("{:.1} k", value / 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

/// A time in milliseconds with three digits or so.
pub(super) fn milliseconds(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

/// Bytes with a unit.
pub(super) fn bytes(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{:.2} GB", value / 1e9),
        value if value >= 1e6 => format!("{:.1} MB", value / 1e6),
        value => format!("{:.0} kB", value / 1e3),
    }
}
