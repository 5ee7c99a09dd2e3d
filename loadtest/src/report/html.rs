//! The result as one HTML page with plots, which needs nothing from anywhere else.

use std::fmt::Write;

use super::{
    plot::{Axis, Plot},
    table::{self, count, milliseconds},
};
use crate::{latency::Latency, outcome::Outcome};

/// The page.
pub fn page(outcomes: &[Outcome]) -> String {
    let mut html = String::from(HEAD);
    for outcome in outcomes {
        section(&mut html, outcome);
    }
    let _ = write!(
        html,
        "<footer>ringmq-load {} · {}</footer>\n</main></body></html>\n",
        env!("CARGO_PKG_VERSION"),
        escape(&machine()),
    );
    html
}

fn section(html: &mut String, outcome: &Outcome) {
    let (class, verdict) = match (outcome.is_good(), outcome.broken()) {
        (true, _) => ("good", "good".to_owned()),
        (false, 0) => ("bad", "not good: see the failures and notes below".to_owned()),
        (false, broken) => ("bad", format!("{broken} deliveries broke a promise of their QoS")),
    };
    let _ = writeln!(
        html,
        "<section><h1>{}</h1>\n<p class=\"verdict {class}\">{}</p>",
        escape(&outcome.title),
        escape(&verdict)
    );
    figures(html, outcome);
    html.push_str("<div class=\"plots\">\n");
    for plot in plots(outcome) {
        html.push_str(&plot);
    }
    html.push_str("</div>\n");
    latencies(html, outcome);
    ledger(html, outcome);
    if !outcome.failures.is_empty() {
        html.push_str("<h2>Failures</h2><ul>");
        for (failure, times) in &outcome.failures {
            let text = format!("{times} × {failure}: {}", failure.advice());
            let _ = write!(html, "<li>{}</li>", escape(&text));
        }
        html.push_str("</ul>\n");
    }
    if !outcome.notes.is_empty() {
        html.push_str("<h2>Notes</h2><ul>");
        for note in &outcome.notes {
            let _ = write!(html, "<li>{}</li>", escape(note));
        }
        html.push_str("</ul>\n");
    }
    html.push_str("</section>\n");
}

fn figures(html: &mut String, outcome: &Outcome) {
    let seconds = outcome.measured_seconds.max(1e-9);
    let mut all = vec![(
        format!("{} of {}", outcome.connected_count, outcome.clients),
        format!("connections in {:.2} s", outcome.connect_seconds),
    )];
    if outcome.total.sent + outcome.total.received > 0 {
        all.push((count(outcome.measured.sent as f64 / seconds), "sent per second".into()));
        all.push((count(outcome.measured.received as f64 / seconds), "received per second".into()));
    }
    if outcome.delivery.count() > 0 {
        let p50 = milliseconds(outcome.delivery.percentile(50.0));
        let p99 = milliseconds(outcome.delivery.percentile(99.0));
        all.push((format!("{p50} / {p99} ms"), "end to end, p50 / p99".into()));
    }
    if let Some(cpu) = outcome.broker_cpu() {
        let share = format!("{:.0} %", 100.0 * cpu / seconds);
        all.push((share, "of a core taken by the broker".into()));
        if outcome.deliveries() > 0 {
            let messages = count(outcome.deliveries() as f64 / cpu.max(1e-9));
            all.push((messages, "messages per broker CPU second".into()));
        }
    }
    match outcome.cpu_per_message() {
        (Some(broker), Some(tool)) => all.push((
            format!("{broker:.2} / {tool:.2} µs"),
            "of processor time per message, broker / tool".into(),
        )),
        (None, Some(tool)) => {
            all.push((format!("{tool:.2} µs"), "of the tool's processor time per message".into()));
        }
        _ => {}
    }
    if outcome.connected_count >= 1000 {
        let show = |value: Option<f64>| value.map(|value| format!("{value:.0} B"));
        if let Some(value) = show(outcome.broker_bytes()) {
            all.push((value, "broker memory per connection".into()));
        }
        if let Some(value) = show(outcome.kernel_bytes()) {
            all.push((value, "kernel memory per connection, both ends".into()));
        }
    }
    for (number, round) in outcome.storms.iter().enumerate() {
        all.push((
            format!("{:.3} s", round.seconds),
            format!("until all were back, {}", number + 1),
        ));
    }
    html.push_str("<div class=\"figures\">");
    for (value, what) in all {
        let _ = write!(html, "<div><b>{}</b>{}</div>", escape(&value), escape(&what));
    }
    html.push_str("</div>\n");
}

fn plots(outcome: &Outcome) -> Vec<String> {
    let mut plots = Vec::new();
    let mut percentiles = Plot::new("Latency by percentile", Axis::Percentile, Axis::Log("ms"));
    for (name, latency) in rows(outcome) {
        if latency.count() > 1 {
            let points = latency.points().into_iter().map(|(at, value, _)| (at, value));
            percentiles.line(name, points.collect());
        }
    }
    plots.push(percentiles);
    let over = |name: &'static str, value: &dyn Fn(&crate::outcome::Second) -> Option<f64>| {
        let points = outcome
            .seconds
            .iter()
            .filter_map(|second| Some((second.at, value(second)?)))
            .collect::<Vec<_>>();
        (name, points)
    };
    let mut rates = Plot::new("Messages per second", Axis::Seconds, Axis::Linear(""));
    if outcome.total.sent + outcome.total.received > 0 {
        for (name, points) in [
            over("sent", &|second| Some(second.sent)),
            over("received", &|second| Some(second.received)),
        ] {
            rates.line(name, points);
        }
    }
    plots.push(rates);
    let mut latency = Plot::new("End-to-end latency over time", Axis::Seconds, Axis::Log("ms"));
    for (name, points) in [over("p50", &|second| second.p50), over("p99", &|second| second.p99)] {
        latency.line(name, points);
    }
    plots.push(latency);
    let mut connections = Plot::new("Connections", Axis::Seconds, Axis::Linear(""));
    for (name, points) in [
        over("open", &|second| Some(second.ready as f64)),
        over("connects per second", &|second| Some(second.connects)),
    ] {
        connections.line(name, points);
    }
    plots.push(connections);
    plots.push(memory_plot(outcome));
    plots.push(cpu_plot(outcome));
    plots.iter().filter_map(Plot::svg).collect()
}

fn memory_plot(outcome: &Outcome) -> Plot {
    let mut memory = Plot::new("Memory", Axis::Seconds, Axis::Linear("B"));
    let broker = outcome.samples.iter().filter_map(|it| Some((it.at, it.broker?.rss as f64)));
    memory.line("broker RSS", broker.collect());
    memory.line("tool RSS", outcome.samples.iter().map(|it| (it.at, it.tool.rss as f64)).collect());
    memory.line(
        "kernel slab, above the start",
        outcome
            .samples
            .iter()
            .map(|it| (it.at, it.machine.slab.saturating_sub(outcome.before.machine.slab) as f64))
            .collect(),
    );
    memory
}

fn cpu_plot(outcome: &Outcome) -> Plot {
    let mut plot = Plot::new("Processor time, % of a core", Axis::Seconds, Axis::Linear("%"));
    let share = |value: &dyn Fn(&crate::probe::Sample) -> Option<f64>| {
        outcome
            .samples
            .windows(2)
            .filter_map(|pair| {
                let [before, after] = pair else { return None };
                let elapsed = after.at - before.at;
                let spent = value(after)? - value(before)?;
                (elapsed > 0.2).then(|| (after.at, 100.0 * spent.max(0.0) / elapsed))
            })
            .collect::<Vec<_>>()
    };
    plot.line("broker", share(&|sample| Some(sample.broker?.cpu)));
    plot.line("tool", share(&|sample| Some(sample.tool.cpu)));
    plot.line("whole machine", share(&|sample| Some(sample.machine.busy)));
    plot
}

fn rows(outcome: &Outcome) -> [(&'static str, &Latency); 5] {
    [
        ("end to end", &outcome.delivery),
        ("publish ack", &outcome.acknowledge),
        ("connect", &outcome.connect),
        ("subscribe", &outcome.subscribe),
        ("tool late", &outcome.lateness),
    ]
}

fn latencies(html: &mut String, outcome: &Outcome) {
    if rows(outcome).iter().all(|(_, latency)| latency.count() == 0) {
        return;
    }
    html.push_str(
        "<h2>Latency, ms</h2><div class=\"scroll\"><table><tr><th></th><th>p50</th><th>p90</th><th>p99</th>\
         <th>p99.9</th><th>max</th><th>count</th></tr>",
    );
    for (name, latency) in rows(outcome) {
        if latency.count() == 0 {
            continue;
        }
        let _ = write!(html, "<tr><td>{name}</td>");
        for percentile in [50.0, 90.0, 99.0, 99.9, 100.0] {
            let _ = write!(html, "<td>{}</td>", milliseconds(latency.percentile(percentile)));
        }
        let _ = write!(html, "<td>{}</td></tr>", latency.count());
    }
    html.push_str("</table></div>\n");
}

fn ledger(html: &mut String, outcome: &Outcome) {
    if outcome.flows.iter().all(|flow| flow.sent == 0) {
        return;
    }
    html.push_str(
        "<h2>Ledger</h2><div class=\"scroll\"><table><tr><th></th><th>QoS</th><th>sent</th><th>acknowledged</th>\
         <th>expected</th><th>received</th><th>lost</th><th>twice</th><th>out of order</th>\
         <th>broken promises</th></tr>",
    );
    for flow in &outcome.flows {
        let _ = write!(html, "<tr><td>{}</td><td>{}</td>", escape(&flow.name), flow.qos);
        let tally = flow.tally;
        for value in [
            flow.sent,
            flow.acknowledged,
            flow.expected,
            tally.received,
            tally.lost,
            tally.duplicates,
            tally.reordered,
            flow.broken,
        ] {
            let _ = write!(html, "<td>{value}</td>");
        }
        html.push_str("</tr>");
    }
    html.push_str("</table></div>\n");
}

fn machine() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, |count| count.get());
    let memory = table::bytes(crate::probe::total_memory() as f64);
    format!("Linux {}, {processors} processors, {memory} of memory", release.trim())
}

/// Text as it may stand in HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>ringmq-load</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#667080;--line:#d9dee5;--back:#fff;
--c0:#2563c9;--c1:#d1493b;--c2:#2a8f4f;--c3:#9a5bc4;--c4:#c58312}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#98a2b3;--line:#343b46;--back:#14171c;
--c0:#6ba3f5;--c1:#f0847a;--c2:#63c088;--c3:#c29be0;--c4:#e3b25c}}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px}
h1{font-size:22px;margin:8px 0}h2{font-size:16px;margin:24px 0 8px}
.verdict{display:inline-block;margin:0 0 12px;padding:2px 12px;border-radius:12px;color:#fff}
.good{background:#23803f}.bad{background:#b93227}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:12px}
.figures div{border:1px solid var(--line);border-radius:8px;padding:8px 14px;color:var(--soft);font-size:13px}
.figures b{display:block;color:var(--ink);font-size:19px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(400px,100%),1fr));gap:16px;margin-top:16px}
figure{margin:0;border:1px solid var(--line);border-radius:8px;padding:10px}
figcaption{font-weight:600;font-size:14px}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}
svg .grid{stroke:var(--line);stroke-width:1}
svg path,svg polyline{fill:none;stroke-width:1.8}
.s0{stroke:var(--c0)}.s1{stroke:var(--c1);stroke-dasharray:6 3}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}
.k{display:inline-block;width:12px;height:3px;margin:0 5px 3px 12px}
.k0{background:var(--c0)}.k1{background:var(--c1)}.k2{background:var(--c2)}.k3{background:var(--c3)}.k4{background:var(--c4)}
.legend{font-size:12px;color:var(--soft);margin-left:-12px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
td,th{padding:3px 12px;border-bottom:1px solid var(--line);text-align:right;font-weight:normal}
th{color:var(--soft)}td:first-child{text-align:left;white-space:nowrap}
.scroll{overflow-x:auto}
section+section{margin-top:40px;border-top:2px solid var(--line);padding-top:16px}
@media(max-width:600px){main{padding:12px}svg text{font-size:15px}}
footer{margin-top:32px;color:var(--soft);font-size:12px}
</style></head><body><main>
"#;
