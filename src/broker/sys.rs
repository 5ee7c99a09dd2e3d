//! `$SYS/broker/...`: the broker's figures as retained messages, under the names that Mosquitto
//! made customary. Shard 0 sums up all shards' counters and publishes.

use std::sync::Arc;

use super::{Broker, Now, ShardId};
use crate::{
    codec::QoS,
    session::{NEVER, Publication},
    stats::{self, DropReason, Reason, StoreStats, Totals},
};

/// The load averages, in the style of a Unix system: name and minutes.
const AVERAGES: [(&str, f64); 3] = [("1min", 1.0), ("5min", 5.0), ("15min", 15.0)];

/// A figure: its name below `$SYS/broker/`, and where it comes from.
type Figure<Source = Totals> = (&'static str, fn(&Source) -> u64);

/// The figures whose rate per minute is averaged: name under `load/`, and where it comes from.
const LOADS: [Figure; 7] = [
    ("messages/received", |t| t.packets_received),
    ("messages/sent", |t| t.packets_sent + t.publish_sent),
    ("publish/received", |t| t.publish_received),
    ("publish/sent", |t| t.publish_sent),
    ("publish/dropped", |t| t.publish_dropped.total()),
    ("bytes/received", |t| t.bytes_received),
    ("bytes/sent", |t| t.bytes_sent),
];

/// The figures themselves.
const FIGURES: [Figure; 25] = [
    ("clients/connected", |t| t.clients_connected),
    ("clients/disconnected", |t| t.sessions.saturating_sub(t.clients_connected)),
    ("clients/total", |t| t.sessions),
    ("clients/expired", |t| t.sessions_expired),
    ("connections/open", |t| t.connections_open),
    ("connections/accepted", |t| t.connections_accepted),
    ("messages/received", |t| t.packets_received),
    ("messages/sent", |t| t.packets_sent + t.publish_sent),
    ("publish/messages/received", |t| t.publish_received),
    ("publish/messages/sent", |t| t.publish_sent),
    ("publish/messages/dropped", |t| t.publish_dropped.total()),
    ("publish/bytes/received", |t| t.publish_bytes_received),
    ("publish/bytes/sent", |t| t.publish_bytes_sent),
    ("bytes/received", |t| t.bytes_received),
    ("bytes/sent", |t| t.bytes_sent),
    ("subscriptions/count", |t| t.subscriptions),
    ("shared_subscriptions/count", |t| t.shared_subscriptions),
    ("retained messages/count", |t| t.retained_messages),
    ("retained messages/bytes", |t| t.retained_bytes),
    ("wills/published", |t| t.wills_published),
    ("connections/regular", |t| t.connections_regular),
    ("reads/ahead", |t| t.reads_ahead),
    ("event_loops/renewed", |t| t.event_loops_renewed),
    ("stalls/count", |t| t.stalls),
    ("stalls/milliseconds", |t| t.stalled_milliseconds),
];

/// The figures of the store, if there is one.
const STORE_FIGURES: [Figure<StoreStats>; 6] = [
    ("store/commits", |s| s.commits.get()),
    ("store/entries/written", |s| s.entries_written.get()),
    ("store/syncs", |s| s.syncs.get()),
    ("store/syncs/microseconds", |s| s.sync_microseconds.get()),
    ("store/backlog/bytes", |s| s.backlog_bytes.get()),
    ("store/failed", |s| s.failed.get()),
];

/// What one report needs to know of the last.
#[derive(Debug)]
pub(super) struct SysReport {
    started: u64,
    last: u64,
    due: u64,
    maximum_connected: u64,
    before: [u64; LOADS.len()],
    averages: [[f64; AVERAGES.len()]; LOADS.len()],
}

impl SysReport {
    /// The broker starts; the first report is due at once.
    pub fn new(now: Now) -> Self {
        Self {
            started: now.monotonic,
            last: now.monotonic,
            due: now.monotonic,
            maximum_connected: 0,
            before: [0; LOADS.len()],
            averages: [[0.0; AVERAGES.len()]; LOADS.len()],
        }
    }

    /// Updates the averages: exponential ones over the rate per minute, as load averages are.
    fn average(&mut self, totals: &Totals, now: u64) {
        let minutes = (now - self.last) as f64 / 60_000.0;
        self.last = now;
        if minutes <= 0.0 {
            return;
        }
        for ((load, before), averages) in LOADS.iter().zip(&mut self.before).zip(&mut self.averages)
        {
            let value = load.1(totals);
            let rate = value.wrapping_sub(*before) as f64 / minutes;
            *before = value;
            for ((_, over), average) in AVERAGES.iter().zip(averages) {
                let keep = (-minutes / over).exp();
                *average = *average * keep + rate * (1.0 - keep);
            }
        }
    }
}

impl Broker {
    /// When the next report is due, on the shard that makes it.
    pub(super) fn next_report(&self) -> Option<u64> {
        (self.id == ShardId(0) && self.config.sys_interval > 0).then_some(self.report.due)
    }

    /// Publishes a report if one is due.
    pub(super) fn report(&mut self) {
        let now = self.now.monotonic;
        if self.next_report().is_none_or(|due| due > now) {
            return;
        }
        self.report.due = now + self.config.sys_interval;
        let shards: Vec<_> = self.shared.stats.iter().map(|stats| &**stats).collect();
        let totals = stats::sum(&shards);
        self.report.average(&totals, now);
        self.report.maximum_connected = self.report.maximum_connected.max(totals.clients_connected);
        let uptime = (now - self.report.started) / 1000;
        self.publish_figure("version", concat!("ringmq ", env!("CARGO_PKG_VERSION")));
        self.publish_figure("uptime", &format!("{uptime} seconds"));
        self.publish_figure("clients/maximum", &self.report.maximum_connected.to_string());
        for (name, figure) in FIGURES {
            self.publish_figure(name, &figure(&totals).to_string());
        }
        for reason in DropReason::ALL {
            let dropped = totals.publish_dropped.get(*reason);
            if dropped > 0 {
                let name = format!("publish/messages/dropped/{}", reason.name());
                self.publish_figure(&name, &dropped.to_string());
            }
        }
        if self.shared.store.is_some() {
            let stats = Arc::clone(&self.shared.store_stats);
            for (name, figure) in STORE_FIGURES {
                self.publish_figure(name, &figure(&stats).to_string());
            }
        }
        let averages = self.report.averages;
        for ((name, _), averages) in LOADS.iter().zip(averages) {
            for ((over, _), average) in AVERAGES.iter().zip(averages) {
                self.publish_figure(&format!("load/{name}/{over}"), &format!("{average:.2}"));
            }
        }
    }

    fn publish_figure(&mut self, name: &str, value: &str) {
        self.publish_own(Publication {
            topic: &format!("$SYS/broker/{name}"),
            payload: value.as_bytes(),
            forwarded: &[],
            qos: QoS::AtMostOnce,
            retain: true,
            expires_at: NEVER,
        });
    }
}
