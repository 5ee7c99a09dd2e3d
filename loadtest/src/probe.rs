//! What the operating system says about a process and the machine.

use std::fs;

use serde_json::{Value, json};

/// A reading of a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessSample {
    /// Resident memory in bytes.
    pub rss: u64,
    /// Resident memory of its own in bytes: of `rss` what is not read from files.
    pub anon: u64,
    /// Proportional share of resident memory in bytes; 0 if it was not asked for.
    pub pss: u64,
    /// Processor time in seconds.
    pub cpu: f64,
    /// Open descriptors, over all descriptor tables.
    pub descriptors: u64,
}

/// A reading of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct MachineSample {
    /// Kernel slab memory in bytes.
    pub slab: u64,
    /// TCP buffers in bytes.
    pub tcp_buffers: u64,
    /// TCP sockets in use.
    pub tcp_sockets: u64,
    /// Memory that is available in bytes.
    pub available: u64,
    /// Processor time of all processes in seconds.
    pub busy: f64,
    /// Processor time that a hypervisor took, in seconds.
    pub stolen: f64,
}

/// All readings at one time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Seconds since the start of the run.
    pub at: f64,
    /// The broker, if its process id is known and it is still there.
    pub broker: Option<ProcessSample>,
    /// This process.
    pub tool: ProcessSample,
    /// The machine.
    pub machine: MachineSample,
}

impl Sample {
    /// Takes a reading; the proportional share takes longer and is left out unless `thorough`.
    pub fn take(at: f64, broker: Option<u32>, thorough: bool) -> Self {
        Self {
            at,
            broker: broker.and_then(|pid| process(&pid.to_string(), thorough)),
            tool: process("self", false).unwrap_or_default(),
            machine: machine(),
        }
    }

    /// For the report.
    pub fn json(&self) -> Value {
        let process = |sample: &ProcessSample| {
            json!({
                "rss_bytes": sample.rss,
                "anon_bytes": sample.anon,
                "pss_bytes": sample.pss,
                "cpu_seconds": sample.cpu,
                "descriptors": sample.descriptors,
            })
        };
        json!({
            "at_seconds": self.at,
            "broker": self.broker.as_ref().map(process),
            "tool": process(&self.tool),
            "machine": {
                "slab_bytes": self.machine.slab,
                "tcp_buffer_bytes": self.machine.tcp_buffers,
                "tcp_sockets": self.machine.tcp_sockets,
                "available_bytes": self.machine.available,
                "busy_cpu_seconds": self.machine.busy,
                "stolen_cpu_seconds": self.machine.stolen,
            },
        })
    }
}

fn process(pid: &str, thorough: bool) -> Option<ProcessSample> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut sample = ProcessSample {
        rss: field(&status, "VmRSS:") * 1024,
        anon: field(&status, "RssAnon:") * 1024,
        cpu: cpu_seconds(pid)?,
        descriptors: descriptors(pid),
        ..ProcessSample::default()
    };
    if thorough && let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        sample.pss = field(&rollup, "Pss:") * 1024;
    }
    Some(sample)
}

fn cpu_seconds(pid: &str) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    // Nanoseconds, where /proc/PID/stat has hundredths of a second.
    let mut exact = 0;
    for thread in threads.flatten() {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        exact += text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11).filter_map(|word| word.parse::<u64>().ok());
    let ticks = fields.next()? + fields.next()?;
    let coarse = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    // Threads that have ended are only in the coarse sum.
    let exact = exact as f64 / 1e9;
    Some(if (exact - coarse).abs() < 0.1 { exact } else { coarse })
}

/// The size of a directory of descriptors is their number (Linux 6.2 and later). Threads with
/// another number than the first have a table of their own.
fn descriptors(pid: &str) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let mut counts = Vec::new();
    for thread in threads.flatten() {
        if let Ok(metadata) = fs::metadata(thread.path().join("fd")) {
            let count = metadata.len();
            if !counts.contains(&count) {
                counts.push(count);
            }
        }
    }
    counts.iter().sum()
}

fn machine() -> MachineSample {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let tcp = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let word = |name: &str| {
        let mut words = tcp.split(' ').skip_while(|word| *word != name);
        words.nth(1).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
    };
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let times: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse::<f64>().ok())
        .map(|value| value / ticks)
        .collect();
    let time = |at: usize| times.get(at).copied().unwrap_or_default();
    MachineSample {
        slab: field(&meminfo, "Slab:") * 1024,
        tcp_buffers: word("mem") * rustix::param::page_size() as u64,
        tcp_sockets: word("inuse"),
        available: field(&meminfo, "MemAvailable:") * 1024,
        busy: time(0) + time(1) + time(2) + time(5) + time(6),
        stolen: time(7),
    }
}

/// The machine's memory in bytes.
pub fn total_memory() -> u64 {
    field(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:") * 1024
}

/// The number behind a name at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        let sample = Sample::take(1.0, Some(std::process::id()), true);
        let broker = sample.broker.unwrap_or_default();
        assert!(broker.anon > 50_000 && broker.rss > broker.anon);
        assert!(broker.pss > 50_000 && broker.descriptors >= 3);
        assert!(sample.machine.slab > 0 && sample.machine.available > 0);
        assert!(sample.machine.busy > 0.0);
    }

    #[test]
    fn a_process_that_is_gone_has_no_reading() {
        assert!(Sample::take(0.0, Some(u32::MAX / 2), true).broker.is_none());
    }
}
