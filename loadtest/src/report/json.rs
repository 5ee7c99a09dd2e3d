//! The result as JSON.

use serde_json::{Value, json};

use crate::{
    latency::Latency,
    outcome::{FlowTally, Outcome},
    shared::Counts,
};

/// One object for one run; an array for a suite.
pub fn report(outcomes: &[Outcome]) -> String {
    let value = match outcomes {
        [outcome] => one(outcome),
        several => several.iter().map(one).collect(),
    };
    format!("{value:#}\n")
}

fn one(outcome: &Outcome) -> Value {
    json!({
        "title": outcome.title,
        "tool_version": env!("CARGO_PKG_VERSION"),
        "good": outcome.is_good(),
        "clients": outcome.clients,
        "workers": outcome.workers,
        "offered_rate": outcome.offered_rate,
        "interrupted": outcome.interrupted,
        "broker_gone": outcome.broker_gone,
        "connect": {
            "seconds": outcome.connect_seconds,
            "per_second": per(outcome.connected_count as f64, outcome.connect_seconds),
            "connected": outcome.connected_count,
            "gave_up": outcome.total.gave_up,
            "failed_attempts": outcome.total.failed_attempts,
            "lost": outcome.total.lost,
            "cpu_seconds": outcome.connected.broker.zip(outcome.before.broker)
                .map(|(after, before)| after.cpu - before.cpu),
        },
        "measured": measured(outcome),
        "total": counts(&outcome.total),
        "bytes_per_connection": {
            "broker": outcome.broker_bytes(),
            "kernel": outcome.kernel_bytes(),
            "tool": outcome.tool_bytes(),
        },
        "latency_ms": {
            "connect": latency(&outcome.connect),
            "subscribe": latency(&outcome.subscribe),
            "publish_ack": latency(&outcome.acknowledge),
            "end_to_end": latency(&outcome.delivery),
            "tool_lateness": latency(&outcome.lateness),
        },
        "flows": outcome.flows.iter().map(flow).collect::<Value>(),
        "broken_promises": outcome.broken(),
        "storms": outcome.storms.iter().map(|round| json!({
            "seconds": round.seconds,
            "failed_attempts": round.failed_attempts,
            "missing": round.missing,
        })).collect::<Value>(),
        "failures": outcome.failures.iter().map(|(failure, count)| json!({
            "what": failure.to_string(),
            "count": count,
            "advice": failure.advice(),
        })).collect::<Value>(),
        "notes": outcome.notes,
        "samples": {
            "before": outcome.before.json(),
            "connected": outcome.connected.json(),
            "measurement_start": outcome.measurement.0.json(),
            "measurement_end": outcome.measurement.1.json(),
            "all": outcome.samples.iter().map(|sample| sample.json()).collect::<Value>(),
        },
        "seconds": outcome.seconds.iter().map(|second| json!({
            "at_seconds": second.at,
            "connections": second.ready,
            "connects_per_second": second.connects,
            "sent_per_second": second.sent,
            "received_per_second": second.received,
            "p50_ms": second.p50,
            "p99_ms": second.p99,
        })).collect::<Value>(),
    })
}

fn measured(outcome: &Outcome) -> Value {
    let cpu = outcome.broker_cpu();
    let deliveries = outcome.deliveries() as f64;
    let (broker_each, tool_each) = outcome.cpu_per_message();
    json!({
        "seconds": outcome.measured_seconds,
        "sent_per_second": per(outcome.measured.sent as f64, outcome.measured_seconds),
        "received_per_second": per(outcome.measured.received as f64, outcome.measured_seconds),
        "broker_cpu_seconds": cpu,
        "broker_cpu_share": cpu.and_then(|cpu| per(cpu, outcome.measured_seconds)),
        "messages_per_broker_cpu_second": cpu.and_then(|cpu| per(deliveries, cpu)),
        "connects_per_broker_cpu_second":
            cpu.and_then(|cpu| per(outcome.measured.connected_ever as f64, cpu)),
        "tool_cpu_seconds": outcome.tool_cpu(),
        "broker_cpu_us_per_message": broker_each,
        "tool_cpu_us_per_message": tool_each,
        "stolen_cpu_seconds": outcome.measurement.1.machine.stolen
            - outcome.measurement.0.machine.stolen,
        "machine_busy_cpu_seconds": outcome.measurement.1.machine.busy
            - outcome.measurement.0.machine.busy,
        "counts": counts(&outcome.measured),
    })
}

fn per(amount: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| amount / of)
}

fn latency(latency: &Latency) -> Value {
    if latency.count() == 0 {
        return Value::Null;
    }
    json!({
        "count": latency.count(),
        "mean": latency.mean(),
        "p50": latency.percentile(50.0),
        "p90": latency.percentile(90.0),
        "p99": latency.percentile(99.0),
        "p99.9": latency.percentile(99.9),
        "max": latency.max(),
    })
}

fn flow(flow: &FlowTally) -> Value {
    json!({
        "name": flow.name,
        "qos": flow.qos,
        "delivery_qos": flow.delivery_qos,
        "sent": flow.sent,
        "acknowledged": flow.acknowledged,
        "expected": flow.expected,
        "received": flow.tally.received,
        "lost": flow.tally.lost,
        "lost_excused": flow.excused,
        "duplicates": flow.tally.duplicates,
        "reordered": flow.tally.reordered,
        "broken_promises": flow.broken,
    })
}

fn counts(counts: &Counts) -> Value {
    json!({
        "connected": counts.connected_ever,
        "cut": counts.cut,
        "lost_connections": counts.lost,
        "sent": counts.sent,
        "acknowledged": counts.acknowledged,
        "received": counts.received,
        "foreign": counts.foreign,
        "overruns": counts.overruns,
        "unsent": counts.owed,
        "stalls": counts.stalls,
        "pings": counts.pings,
        "pings_answered": counts.pongs,
        "bytes_sent": counts.bytes_sent,
        "bytes_received": counts.bytes_received,
    })
}
