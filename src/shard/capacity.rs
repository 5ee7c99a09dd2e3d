//! How many connections this machine and its limits bear, and which limit binds.
//!
//! A [`Reading`] is what the kernel says, a [`Demand`] what the settings ask for, and
//! [`Capacity::new`] a pure function of the two. The broker prints the result at its start: a fleet
//! that outgrows a limit should not be the first to find it.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::{KERNEL_BYTES_PER_POLL, KERNEL_BYTES_PER_SOCKET, USER_BYTES_PER_CONNECTION};

/// Memory of an idle connection, in bytes: 832 in the broker (its budget, with one subscription),
/// and in the kernel 3,640 for the socket and 256 for the armed poll. Data on its way comes on top.
pub const BYTES_PER_CONNECTION: u64 =
    USER_BYTES_PER_CONNECTION + KERNEL_BYTES_PER_SOCKET + KERNEL_BYTES_PER_POLL;

/// Descriptors of one table that are no connections, whatever the number of shards: standard input
/// and output, the log, the ring or epoll, signals, and what libraries open in passing.
const OTHER_DESCRIPTORS: u64 = 32;

/// Descriptors that each shard costs in every table: its wake-up and the socket pair on which it
/// is handed connections. They are made before the tables part, so every table has all of them.
const DESCRIPTORS_PER_SHARD: u64 = 4;

/// The first kernel with `IORING_SETUP_DEFER_TASKRUN`.
const DEFER_TASKRUN: KernelVersion = KernelVersion { major: 6, minor: 1 };

/// The version of the running kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 in 6.1.
    pub major: u32,
    /// 1 in 6.1.
    pub minor: u32,
}

impl KernelVersion {
    /// Whether a ring can be asked for `IORING_SETUP_DEFER_TASKRUN`.
    pub fn has_defer_taskrun(self) -> bool {
        self >= DEFER_TASKRUN
    }

    /// Reads the release that `uname` gives, as `6.1.0-13-amd64`.
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self { major, minor })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the kernel says. `None` is what could not be read, and bounds nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// Descriptors that one table may hold: RLIMIT_NOFILE, the soft limit.
    pub descriptors: Option<u64>,
    /// The highest value that RLIMIT_NOFILE can have: sysctl `fs.nr_open`.
    pub nr_open: Option<u64>,
    /// Open files that the whole machine may still have: sysctl `fs.file-max` less those in use.
    pub files_left: Option<u64>,
    /// Bytes of memory available on the machine: `MemAvailable`.
    pub memory: Option<u64>,
    /// Bytes of memory that the limits of this control group (a container's) leave.
    pub memory_in_group: Option<u64>,
    /// The longest backlog of a listener: sysctl `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// The version of the kernel.
    pub kernel: Option<KernelVersion>,
}

impl Reading {
    /// Raises RLIMIT_NOFILE's soft limit to its hard one, which needs no privilege, and reads what
    /// holds after it.
    pub fn take() -> Self {
        let limit = raise_descriptor_limit();
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Self::from_parts(limit, &release, &read)
    }

    /// A reading from a limit, a kernel's release and the files that `read` knows.
    fn from_parts(limit: Rlimit, release: &str, read: &dyn Fn(&str) -> Option<String>) -> Self {
        let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
        Self {
            descriptors: limit.current,
            nr_open: number("/proc/sys/fs/nr_open"),
            files_left: read("/proc/sys/fs/file-nr").and_then(|text| files_left(&text)),
            memory: read("/proc/meminfo").and_then(|text| memory_available(&text)),
            memory_in_group: memory_in_group(read),
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            kernel: KernelVersion::parse(release),
        }
    }
}

/// What the settings ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Shards, at least one.
    pub shards: usize,
    /// Whether each shard has a descriptor table of its own.
    pub separate_tables: bool,
    /// Addresses listened on; each shard has a socket for each.
    pub listeners: usize,
    /// The cap on connections that was set, over all shards.
    pub max_connections: Option<u32>,
    /// The backlog that was set.
    pub backlog: u32,
}

impl Demand {
    fn tables(&self) -> u64 {
        if self.separate_tables { self.shards.max(1) as u64 } else { 1 }
    }

    /// Descriptors of one table that are no connections.
    fn reserve(&self) -> u64 {
        let shards = self.shards as u64;
        let listening_shards = if self.separate_tables { 1 } else { shards };
        OTHER_DESCRIPTORS
            + DESCRIPTORS_PER_SHARD * shards
            + listening_shards * self.listeners as u64
    }
}

/// What can bound the number of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// `--max-connections`.
    MaxConnections,
    /// RLIMIT_NOFILE.
    Descriptors,
    /// sysctl `fs.file-max`.
    OpenFiles,
    /// The machine's memory.
    Memory,
    /// The memory of this control group.
    MemoryInGroup,
}

/// How many connections the limits bear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// Idle connections that fit, over all shards. `u64::MAX` when nothing is known.
    pub connections: u64,
    /// Connections that one descriptor table can hold: of a shard when `separate_tables`, else of
    /// the process.
    pub per_table: u64,
    /// The limit that is reached first.
    pub bound: Bound,
    /// That limit as it is, for people.
    pub because: String,
    /// What raises that limit, for people, with the command where there is one.
    pub remedy: String,
    /// What else is worth a line in the log: each says what, why and what to do.
    pub notes: Vec<String>,
}

impl Capacity {
    /// The capacity for `demand` under the limits of `reading`.
    pub fn new(reading: &Reading, demand: &Demand) -> Self {
        let bounds = bounds(reading, demand);
        let per_table = per_table(reading, demand);
        let lowest = bounds.iter().min_by_key(|(_, connections)| *connections).copied();
        let (bound, connections) = lowest.unwrap_or((Bound::Memory, u64::MAX));
        let next = bounds
            .iter()
            .filter(|(other, _)| *other != bound)
            .map(|(_, connections)| *connections)
            .min();
        // Raise to where another limit takes over, or by half when no other is known.
        let target = next.unwrap_or(connections.saturating_add(connections / 2));
        Self {
            connections,
            per_table,
            bound,
            because: because(bound, reading, demand),
            remedy: remedy(bound, target, reading, demand),
            notes: notes(reading, demand),
        }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.connections == u64::MAX {
            return write!(f, "room for an unknown number of connections: no limit could be read");
        }
        let connections = grouped(self.connections);
        write!(f, "room for {connections} connections: {}; {}", self.because, self.remedy)
    }
}

/// Every limit that is known, in connections. Where two are equal the first one counts: the
/// one that is harder to raise.
fn bounds(reading: &Reading, demand: &Demand) -> Vec<(Bound, u64)> {
    let in_memory = |bytes: u64| bytes / BYTES_PER_CONNECTION;
    let descriptors =
        reading.descriptors.map(|_| per_table(reading, demand).saturating_mul(demand.tables()));
    let files_left = reading
        .files_left
        .map(|files| files.saturating_sub(demand.reserve().saturating_mul(demand.tables())));
    [
        (Bound::MaxConnections, demand.max_connections.map(u64::from)),
        (Bound::Memory, reading.memory.map(in_memory)),
        (Bound::MemoryInGroup, reading.memory_in_group.map(in_memory)),
        (Bound::OpenFiles, files_left),
        (Bound::Descriptors, descriptors),
    ]
    .into_iter()
    .filter_map(|(bound, connections)| Some((bound, connections?)))
    .collect()
}

fn per_table(reading: &Reading, demand: &Demand) -> u64 {
    match reading.descriptors {
        Some(descriptors) => descriptors.saturating_sub(demand.reserve()),
        None => u64::MAX,
    }
}

fn because(bound: Bound, reading: &Reading, demand: &Demand) -> String {
    let each = grouped(BYTES_PER_CONNECTION);
    match bound {
        Bound::MaxConnections => "--max-connections allows no more".to_owned(),
        Bound::Descriptors => {
            let limit = grouped(reading.descriptors.unwrap_or_default());
            match demand.tables() {
                1 => format!("the descriptor limit is {limit}"),
                tables => format!("the descriptor limit is {limit} in each of {tables} shards"),
            }
        }
        Bound::OpenFiles => {
            let left = grouped(reading.files_left.unwrap_or_default());
            format!("fs.file-max leaves {left} open files to the whole machine")
        }
        Bound::Memory => {
            let memory = mebibytes(reading.memory.unwrap_or_default());
            format!("{memory} MiB of memory are available, an idle connection takes {each} B")
        }
        Bound::MemoryInGroup => {
            let memory = mebibytes(reading.memory_in_group.unwrap_or_default());
            format!(
                "the control group's limit leaves {memory} MiB of memory, an idle connection \
                 takes {each} B"
            )
        }
    }
}

/// What raises `bound` so that `target` connections fit.
fn remedy(bound: Bound, target: u64, reading: &Reading, demand: &Demand) -> String {
    match bound {
        Bound::MaxConnections => format!("for more: --max-connections {target}"),
        Bound::Descriptors => {
            let limit = target.div_ceil(demand.tables()).saturating_add(demand.reserve());
            raise_descriptors(limit, reading)
        }
        Bound::OpenFiles => {
            let in_tables = demand.reserve().saturating_mul(demand.tables());
            let files = target.saturating_add(in_tables);
            format!(
                "for more: `sysctl -w fs.file-max=N` with N at least {files} above the files in \
                 use (`sysctl fs.file-nr`)"
            )
        }
        Bound::Memory => "for more: add memory".to_owned(),
        Bound::MemoryInGroup => {
            "for more: raise the container's memory limit (memory.max, `docker run --memory`)"
                .to_owned()
        }
    }
}

fn raise_descriptors(limit: u64, reading: &Reading) -> String {
    let nr_open = match reading.nr_open {
        Some(nr_open) if nr_open < limit => format!("`sysctl -w fs.nr_open={limit}`, then "),
        _ => String::new(),
    };
    format!(
        "for more: {nr_open}`ulimit -n {limit}` as root before the start (systemd: \
         LimitNOFILE={limit})"
    )
}

fn notes(reading: &Reading, demand: &Demand) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(somaxconn) = reading.somaxconn.filter(|max| *max < u64::from(demand.backlog)) {
        notes.push(format!(
            "the kernel cuts --backlog {backlog} to net.core.somaxconn = {somaxconn}, which slows \
             the return of many clients at once; `sysctl -w net.core.somaxconn={backlog}` raises \
             it",
            backlog = demand.backlog
        ));
    }
    if let Some(kernel) = reading.kernel.filter(|kernel| !kernel.has_defer_taskrun()) {
        notes.push(format!(
            "Linux {kernel} lacks IORING_SETUP_DEFER_TASKRUN, without which io_uring takes more \
             CPU per message; Linux {DEFER_TASKRUN} has it"
        ));
    }
    notes
}

/// Raises the soft limit as far as is allowed and gives what holds after it.
fn raise_descriptor_limit() -> Rlimit {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // A refusal leaves the soft limit, which the reading then shows as it is.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    getrlimit(Resource::Nofile)
}

/// `/proc/sys/fs/file-nr`: files in use, always 0, fs.file-max.
fn files_left(text: &str) -> Option<u64> {
    let mut numbers = text.split_whitespace().map(|number| number.parse::<u64>().ok());
    let used = numbers.next()??;
    let max = numbers.nth(1)??;
    Some(max.saturating_sub(used))
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn memory_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// What the tightest limit among this process's control group and those above it leaves, in bytes
/// (version 2; `None` without a limit).
fn memory_in_group(read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let groups = read("/proc/self/cgroup")?;
    let mut group = groups.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end_matches('/');
    let mut least = None;
    loop {
        let number = |file: &str| -> Option<u64> {
            read(&format!("/sys/fs/cgroup{group}/{file}"))?.trim().parse().ok()
        };
        if let (Some(max), Some(used)) = (number("memory.max"), number("memory.current")) {
            let left = max.saturating_sub(used);
            least = Some(least.map_or(left, |least: u64| least.min(left)));
        }
        let Some((above, _)) = group.rsplit_once('/') else { return least };
        group = above;
    }
}

fn mebibytes(bytes: u64) -> String {
    grouped(bytes >> 20)
}

/// A number with a comma before every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    const GIB: u64 = 1 << 30;

    fn demand() -> Demand {
        Demand {
            shards: 2,
            separate_tables: true,
            listeners: 1,
            max_connections: None,
            backlog: 65_535,
        }
    }

    fn reading() -> Reading {
        Reading {
            descriptors: Some(20_000),
            nr_open: Some(1_048_576),
            files_left: Some(10_000_000),
            memory: Some(16 * GIB),
            memory_in_group: None,
            somaxconn: Some(65_535),
            kernel: Some(KernelVersion { major: 6, minor: 18 }),
        }
    }

    #[test]
    fn each_shard_has_the_descriptors_of_its_table() {
        let capacity = Capacity::new(&reading(), &demand());
        // 32 of the process, 4 for each of two shards, one listener.
        assert_eq!(capacity.per_table, 20_000 - 41);
        assert_eq!(capacity.connections, 2 * (20_000 - 41));
        assert_eq!(capacity.bound, Bound::Descriptors);
        assert!(capacity.because.contains("20,000 in each of 2 shards"), "{capacity}");
        assert!(capacity.notes.is_empty());
    }

    #[test]
    fn one_table_is_shared_with_the_listeners_of_all_shards() {
        let demand = Demand { separate_tables: false, shards: 4, listeners: 3, ..demand() };
        let capacity = Capacity::new(&reading(), &demand);
        assert_eq!(capacity.connections, 20_000 - 32 - 16 - 12);
        assert_eq!(capacity.per_table, capacity.connections);
        assert!(capacity.because.ends_with("the descriptor limit is 20,000"), "{capacity}");
    }

    #[test]
    fn the_command_raises_descriptors_to_where_memory_binds() {
        let capacity = Capacity::new(&reading(), &demand());
        let in_memory = 16 * GIB / BYTES_PER_CONNECTION;
        let limit = in_memory.div_ceil(2) + 41;
        assert!(capacity.remedy.contains(&format!("`ulimit -n {limit}`")), "{capacity}");
        assert!(capacity.remedy.contains(&format!("`sysctl -w fs.nr_open={limit}`")), "{capacity}");

        let raised = Reading { descriptors: Some(limit), nr_open: Some(limit), ..reading() };
        let capacity = Capacity::new(&raised, &demand());
        assert_eq!((capacity.bound, capacity.connections), (Bound::Memory, in_memory));
        assert!(capacity.because.contains("16,384 MiB"), "{capacity}");
        assert!(capacity.because.contains("4,728 B"), "{capacity}");
    }

    #[test]
    fn nr_open_is_named_only_when_it_is_in_the_way() {
        let reading = Reading { memory: Some(GIB), ..reading() };
        let capacity = Capacity::new(&reading, &demand());
        assert_eq!(capacity.bound, Bound::Descriptors);
        assert!(!capacity.remedy.contains("nr_open"), "{capacity}");
    }

    #[test]
    fn the_flag_binds_when_it_is_lowest_and_names_what_is_possible() {
        let demand = Demand { max_connections: Some(1_000), ..demand() };
        let capacity = Capacity::new(&reading(), &demand);
        assert_eq!((capacity.bound, capacity.connections), (Bound::MaxConnections, 1_000));
        assert!(capacity.remedy.ends_with("--max-connections 39918"), "{capacity}");
    }

    #[test]
    fn a_flag_above_the_descriptors_is_what_they_should_be_raised_to() {
        let demand = Demand { max_connections: Some(100_000), ..demand() };
        let capacity = Capacity::new(&reading(), &demand);
        assert_eq!(capacity.bound, Bound::Descriptors);
        assert!(capacity.remedy.contains("`ulimit -n 50041`"), "{capacity}");
    }

    #[test]
    fn the_machines_open_files_and_the_container_can_bind() {
        let few_files = Reading { files_left: Some(10_082), ..reading() };
        let capacity = Capacity::new(&few_files, &demand());
        assert_eq!((capacity.bound, capacity.connections), (Bound::OpenFiles, 10_000));
        assert!(capacity.remedy.contains("fs.file-max"), "{capacity}");

        let container = Reading { memory_in_group: Some(64 << 20), ..reading() };
        let capacity = Capacity::new(&container, &demand());
        assert_eq!(capacity.bound, Bound::MemoryInGroup);
        assert_eq!(capacity.connections, (64 << 20) / BYTES_PER_CONNECTION);
        assert!(capacity.remedy.contains("memory.max"), "{capacity}");
    }

    #[test]
    fn limits_below_the_reserve_leave_no_room() {
        let reading = Reading { descriptors: Some(20), ..reading() };
        assert_eq!(Capacity::new(&reading, &demand()).connections, 0);
    }

    #[test]
    fn unreadable_limits_bound_nothing() {
        let capacity = Capacity::new(&Reading::default(), &demand());
        assert_eq!((capacity.connections, capacity.per_table), (u64::MAX, u64::MAX));
        assert!(capacity.to_string().contains("unknown"), "{capacity}");
        assert!(capacity.notes.is_empty());
    }

    #[test]
    fn a_short_backlog_and_an_old_kernel_are_noted() {
        let old = Reading {
            somaxconn: Some(4_096),
            kernel: Some(KernelVersion { major: 5, minor: 15 }),
            ..reading()
        };
        let notes = Capacity::new(&old, &demand()).notes;
        assert_eq!(notes.len(), 2);
        assert!(notes[0].contains("`sysctl -w net.core.somaxconn=65535`"), "{}", notes[0]);
        assert!(notes[1].contains("Linux 5.15 lacks IORING_SETUP_DEFER_TASKRUN"), "{}", notes[1]);
    }

    #[test]
    fn kernel_releases_are_read() {
        let version = |release| KernelVersion::parse(release).map(|v| (v.major, v.minor));
        assert_eq!(version("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(version("6.18.44"), Some((6, 18)));
        assert_eq!(version("5.10-rc3"), Some((5, 10)));
        assert_eq!(version("unknown"), None);
        assert!(KernelVersion::parse("6.1").unwrap().has_defer_taskrun());
        assert!(KernelVersion::parse("10.0").unwrap().has_defer_taskrun());
        assert!(!KernelVersion::parse("6.0.19").unwrap().has_defer_taskrun());
    }

    #[test]
    fn the_kernels_files_are_read() {
        let read = |path: &str| -> Option<String> {
            let text = match path {
                "/proc/sys/fs/nr_open" => "1048576\n",
                "/proc/sys/fs/file-nr" => "1024\t0\t5000\n",
                "/proc/meminfo" => "MemTotal:  9 kB\nMemAvailable:    2048 kB\nBuffers: 1 kB\n",
                "/proc/sys/net/core/somaxconn" => "4096\n",
                "/proc/self/cgroup" => "1:name=x:/y\n0::/a/b\n",
                "/sys/fs/cgroup/a/b/memory.max" => "max\n",
                "/sys/fs/cgroup/a/b/memory.current" => "7\n",
                "/sys/fs/cgroup/a/memory.max" => "1000\n",
                "/sys/fs/cgroup/a/memory.current" => "300\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let limit = Rlimit { current: Some(1_024), maximum: None };
        let reading = Reading::from_parts(limit, "6.12.1", &read);
        let expected = Reading {
            descriptors: Some(1_024),
            nr_open: Some(1_048_576),
            files_left: Some(3_976),
            memory: Some(2 << 20),
            memory_in_group: Some(700),
            somaxconn: Some(4_096),
            kernel: Some(KernelVersion { major: 6, minor: 12 }),
        };
        assert_eq!(reading, expected);
        let nothing = Reading::from_parts(Rlimit { current: None, maximum: None }, "", &|_| None);
        assert_eq!(nothing, Reading::default());
    }

    #[test]
    fn this_machine_can_be_read() {
        let reading = Reading::take();
        assert_eq!(reading.descriptors, getrlimit(Resource::Nofile).maximum);
        assert!(reading.kernel.is_some());
        assert!(Capacity::new(&reading, &demand()).connections > 0);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234), "1,234");
        assert_eq!(grouped(123_456_789), "123,456,789");
    }
}
