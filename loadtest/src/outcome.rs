//! What came of a run.

use std::collections::HashMap;

use ringmq::codec::QoS;

use crate::{
    failure::Failures,
    latency::Latency,
    ledger::{Bits, Tally},
    plan::{Expects, Plan},
    probe::Sample,
    shared::Counts,
    worker::WorkerOutcome,
};

/// The messages of a flow: what was sent, and what became of it.
#[derive(Debug, Clone, Default)]
pub struct FlowTally {
    /// The flow's name.
    pub name: String,
    /// QoS of publishing.
    pub qos: u8,
    /// QoS that the delivery promises.
    pub delivery_qos: u8,
    /// Messages sent.
    pub sent: u64,
    /// Messages acknowledged by the broker.
    pub acknowledged: u64,
    /// Deliveries that had to be; 0 if nobody here counts them.
    pub expected: u64,
    /// The deliveries.
    pub tally: Tally,
    /// Deliveries missing that nobody had promised: QoS 0, messages that were not acknowledged,
    /// receivers that were not connected all the time.
    pub excused: u64,
    /// Deliveries missing, doubled or out of order against what the QoS promises.
    pub broken: u64,
}

/// A storm: all connections cut, all back.
#[derive(Debug, Clone, Copy)]
pub struct StormRound {
    /// Seconds until everyone was connected again, and subscribed.
    pub seconds: f64,
    /// Attempts that failed meanwhile.
    pub failed_attempts: u64,
    /// Clients that were not back in time.
    pub missing: u64,
}

/// A second of the run.
#[derive(Debug, Clone, Copy)]
pub struct Second {
    /// Seconds since the start of the run.
    pub at: f64,
    /// Connections in use.
    pub ready: u64,
    /// Connections made in a second.
    pub connects: f64,
    /// Messages sent in a second.
    pub sent: f64,
    /// Messages received in a second.
    pub received: f64,
    /// Median latency in milliseconds.
    pub p50: Option<f64>,
    /// 99th percentile in milliseconds.
    pub p99: Option<f64>,
}

/// All that is known about a run when it is over.
pub struct Outcome {
    /// What it was.
    pub title: String,
    /// The number of clients.
    pub clients: u64,
    /// Threads of the tool.
    pub workers: u32,
    /// Messages that were due in a second; 0 in saturation.
    pub offered_rate: f64,
    /// Seconds from the first connection to the last that was ready.
    pub connect_seconds: f64,
    /// Seconds of the measurement.
    pub measured_seconds: f64,
    /// What was counted in the measurement.
    pub measured: Counts,
    /// What was counted over all.
    pub total: Counts,
    /// Latencies.
    pub connect: Latency,
    /// Latencies of SUBSCRIBE to SUBACK.
    pub subscribe: Latency,
    /// Latencies of publishing to PUBACK or PUBCOMP.
    pub acknowledge: Latency,
    /// Latencies from end to end.
    pub delivery: Latency,
    /// How late the tool itself was.
    pub lateness: Latency,
    /// The flows.
    pub flows: Vec<FlowTally>,
    /// The storms.
    pub storms: Vec<StormRound>,
    /// What went wrong.
    pub failures: Failures,
    /// The run second by second.
    pub seconds: Vec<Second>,
    /// Readings: before the first connection, when all were ready, at the start and the end of the
    /// measurement, at the end; and one for each second between.
    pub samples: Vec<Sample>,
    /// The reading before the first connection.
    pub before: Sample,
    /// The reading when all were ready.
    pub connected: Sample,
    /// Connections that were ready then.
    pub connected_count: u64,
    /// The readings at the start and the end of the measurement.
    pub measurement: (Sample, Sample),
    /// The broker was lost in the middle.
    pub broker_gone: bool,
    /// The user has interrupted the run.
    pub interrupted: bool,
    /// The window that the broker's Receive Maximum allowed, if less than was wanted.
    pub lowered_window: Option<u32>,
    /// What the reader should know, the tool's own limits above all.
    pub notes: Vec<String>,
}

impl Outcome {
    /// Takes in what the threads have to tell.
    pub fn gather(&mut self, plan: &Plan, workers: Vec<WorkerOutcome>) {
        let mut streams = vec![(0, 0); plan.total_streams() as usize];
        let mut shares: HashMap<u32, Bits> = HashMap::new();
        for worker in &workers {
            for (stream, sent, acknowledged) in &worker.streams {
                if let Some(entry) = streams.get_mut(*stream as usize) {
                    *entry = (*sent, *acknowledged);
                }
            }
            for (stream, bits) in &worker.shares {
                shares.entry(*stream).or_default().merge(bits);
            }
        }
        self.flows = tally(plan, &streams, &shares, &workers);
        for worker in workers {
            self.connect.merge(&worker.connect);
            self.subscribe.merge(&worker.subscribe);
            self.acknowledge.merge(&worker.acknowledge);
            self.delivery.merge(&worker.delivery);
            self.lateness.merge(&worker.lateness);
            self.lowered_window = self.lowered_window.or(worker.lowered_window);
            for (failure, count) in worker.failures {
                *self.failures.entry(failure).or_default() += count;
            }
        }
    }

    /// Deliveries that broke a promise.
    pub fn broken(&self) -> u64 {
        self.flows.iter().map(|flow| flow.broken).sum()
    }

    /// Whether everything went as it should.
    pub fn is_good(&self) -> bool {
        let missing: u64 = self.storms.iter().map(|round| round.missing).sum();
        self.broken() == 0
            && !self.broker_gone
            && missing == 0
            && self.total.gave_up == 0
            && self.total.lost == 0
    }

    /// Messages that crossed the broker in the measurement: received where receivers are here,
    /// else sent.
    pub fn deliveries(&self) -> u64 {
        if self.total.received > 0 { self.measured.received } else { self.measured.sent }
    }

    /// The broker's processor time in the measurement, in seconds.
    pub fn broker_cpu(&self) -> Option<f64> {
        Some(self.measurement.1.broker?.cpu - self.measurement.0.broker?.cpu)
    }

    /// The tool's processor time in the measurement, in seconds.
    pub fn tool_cpu(&self) -> f64 {
        self.measurement.1.tool.cpu - self.measurement.0.tool.cpu
    }

    /// Microseconds of processor time for each message that crossed the broker: the broker's, and
    /// the tool's.
    pub fn cpu_per_message(&self) -> (Option<f64>, Option<f64>) {
        let deliveries = self.deliveries() as f64;
        let each = |seconds: f64| (deliveries > 0.0).then(|| seconds * 1e6 / deliveries);
        (self.broker_cpu().and_then(each), each(self.tool_cpu()))
    }

    /// Bytes of the broker's memory for each connection.
    pub fn broker_bytes(&self) -> Option<f64> {
        let grown = self.connected.broker?.rss as f64 - self.before.broker?.rss as f64;
        self.per_connection(grown)
    }

    /// Bytes of the tool's memory for each connection.
    pub fn tool_bytes(&self) -> Option<f64> {
        self.per_connection(self.connected.tool.rss as f64 - self.before.tool.rss as f64)
    }

    /// Bytes of the kernel's memory for each connection: slab and TCP buffers, of both ends if the
    /// broker is on this machine.
    pub fn kernel_bytes(&self) -> Option<f64> {
        let kernel = |sample: &Sample| (sample.machine.slab + sample.machine.tcp_buffers) as f64;
        self.per_connection(kernel(&self.connected) - kernel(&self.before))
    }

    fn per_connection(&self, bytes: f64) -> Option<f64> {
        (self.connected_count > 0).then(|| bytes / self.connected_count as f64)
    }
}

fn tally(
    plan: &Plan,
    streams: &[(u32, u32)],
    shares: &HashMap<u32, Bits>,
    workers: &[WorkerOutcome],
) -> Vec<FlowTally> {
    let mut flows: Vec<FlowTally> = Vec::new();
    for (at, flow) in plan.flows.iter().enumerate() {
        let first = plan.first_stream(at) as usize;
        let of_flow = streams.get(first..first + flow.streams as usize).unwrap_or_default();
        flows.push(FlowTally {
            name: flow.name.to_owned(),
            qos: flow.qos.value(),
            delivery_qos: flow.delivery_qos.value(),
            sent: of_flow.iter().map(|(sent, _)| u64::from(*sent)).sum(),
            acknowledged: of_flow.iter().map(|(_, acknowledged)| u64::from(*acknowledged)).sum(),
            ..FlowTally::default()
        });
    }
    let mut shared = Vec::new();
    for receiver in workers.iter().flat_map(|worker| &worker.received) {
        match receiver.expects {
            Expects::Nothing | Expects::Anything => {}
            Expects::Share { flow } => {
                let interrupted = shared.iter().position(|(other, _)| *other == flow);
                match interrupted.and_then(|at| shared.get_mut(at)) {
                    Some((_, interrupted)) => *interrupted |= receiver.interrupted,
                    None => shared.push((flow, receiver.interrupted)),
                }
            }
            Expects::Streams { flow, first, stride, .. } => {
                let base = plan.first_stream(flow as usize) + first;
                let Some(sum) = flows.get_mut(flow as usize) else { continue };
                for (at, track) in receiver.tracks.iter().enumerate() {
                    let stream = base + at as u32 * stride;
                    let counts = streams.get(stream as usize).copied().unwrap_or_default();
                    judge(sum, counts, track.tally(counts.0), receiver.interrupted);
                }
            }
        }
    }
    for (flow, interrupted) in shared {
        let first = plan.first_stream(flow as usize);
        let Some(sum) = flows.get_mut(flow as usize) else { continue };
        let count = plan.flows.get(flow as usize).map_or(0, |flow| flow.streams);
        for stream in first..first + count {
            let counts = streams.get(stream as usize).copied().unwrap_or_default();
            let tally = shares.get(&stream).unwrap_or(&Bits::default()).tally(counts.0);
            judge(sum, counts, tally, interrupted);
        }
    }
    flows
}

/// Adds a stream's tally at one receiver, and says what of it breaks a promise.
fn judge(sum: &mut FlowTally, counts: (u32, u32), tally: Tally, interrupted: bool) {
    let (sent, acknowledged) = (u64::from(counts.0), u64::from(counts.1));
    sum.expected += sent;
    sum.tally += tally;
    let qos = sum.delivery_qos;
    let excused = match qos {
        0 => tally.lost,
        _ if interrupted => tally.lost,
        // Delivery at QoS 1 is promised with the acknowledgement.
        _ => tally.lost.min(sent.saturating_sub(acknowledged)),
    };
    sum.excused += excused;
    sum.broken += tally.lost - excused;
    if qos != QoS::AtLeastOnce.value() {
        sum.broken += tally.duplicates;
    }
    // [MQTT-4.6.0-6]; what is sent again after a reconnect may be late in QoS 1.
    if !interrupted {
        sum.broken += tally.reordered;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(qos: u8, counts: (u32, u32), tally: Tally, interrupted: bool) -> (u64, u64) {
        let mut sum = FlowTally { delivery_qos: qos, ..FlowTally::default() };
        judge(&mut sum, counts, tally, interrupted);
        (sum.broken, sum.excused)
    }

    #[test]
    fn each_qos_promises_something_else() {
        let lost = Tally { received: 8, lost: 2, ..Tally::default() };
        assert_eq!(judged(0, (10, 0), lost, false), (0, 2));
        assert_eq!(judged(1, (10, 10), lost, false), (2, 0));
        assert_eq!(judged(1, (10, 9), lost, false), (1, 1));
        assert_eq!(judged(2, (10, 10), lost, true), (0, 2));
        let doubled = Tally { received: 10, duplicates: 3, ..Tally::default() };
        assert_eq!(judged(0, (10, 0), doubled, false), (3, 0));
        assert_eq!(judged(1, (10, 10), doubled, false), (0, 0));
        assert_eq!(judged(2, (10, 10), doubled, false), (3, 0));
        let reordered = Tally { received: 10, reordered: 1, ..Tally::default() };
        for qos in 0..3 {
            assert_eq!(judged(qos, (10, 10), reordered, false), (1, 0));
        }
    }
}
