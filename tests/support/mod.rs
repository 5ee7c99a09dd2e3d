//! The real broker in a process of its own, and what tests need to look at it from outside.
//!
//! Tests wait for packets and log lines, never for time to pass: a packet that must not come is
//! shown by the answer to a later one (see [`Client::expect_nothing`]).

// Every test file uses its own part of this.
#![allow(dead_code, unused_imports)]

mod client;

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

pub use client::{Client, Connacked, Message, Reply};
pub use ringmq::codec::{
    Ack, Connect, Disconnect, Packet, PacketId, Publish, QoS, ReasonCode, RetainHandling,
    SubscriptionOptions, Version, Will,
};
pub use rustix::process::Signal;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    process::{Pid, PidfdFlags, kill_process, pidfd_open},
};
use socket2::{Domain, Socket, Type};

/// How long to wait for what should come at once. Machines that run tests can be very busy.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// All protocol versions.
pub const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];
/// The numbers of shards that tests run over.
pub const SHARDS: [usize; 3] = [1, 2, 7];

/// Runs `body` against fresh brokers of 1, 2 and 7 shards, with these flags.
pub fn over_shards(flags: &[&str], body: impl Fn(&Server)) {
    for shards in SHARDS {
        let shards = shards.to_string();
        let mut all = vec!["--shards", &shards];
        all.extend_from_slice(flags);
        body(&Server::start(&all));
    }
}

/// A running broker. It is killed when this is dropped.
pub struct Server {
    child: Child,
    address: SocketAddr,
    log: Arc<Log>,
}

impl Server {
    /// Starts the broker on a free port of the loopback interface. Without a `--data-dir` it keeps
    /// everything in memory.
    pub fn start(flags: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
        command.args(flags);
        if !flags.iter().any(|flag| flag.starts_with("--data-dir")) {
            command.arg("--in-memory");
        }
        Server::start_by(command)
    }

    /// Starts it by a command that only lacks where to listen and how to log.
    pub fn start_by(mut command: Command) -> Server {
        command.args(["--listen", "127.0.0.1:0", "--log-format", "json"]);
        let mut child = clean(&mut command).spawn().expect("the broker can be started");
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("stderr is a pipe");
        thread::spawn({
            let log = Arc::clone(&log);
            move || log.fill(BufReader::new(stderr))
        });
        let Some(line) = log.wait_for("\"listening\"") else {
            let _ = child.kill();
            panic!("the broker does not listen; its log:\n{}", log.text());
        };
        let line: serde_json::Value = serde_json::from_str(&line).expect("a JSON log line");
        let address = line["address"].as_str().expect("an address").parse().expect("an address");
        Server { child, address, log }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection that has sent nothing yet, for packets of `version`.
    pub fn open(&self, version: Version) -> Client {
        let stream = TcpStream::connect(self.address).expect("the broker accepts");
        Client::new(stream, version)
    }

    /// The same from another address of the loopback interface, say 127.0.0.2.
    pub fn open_from(&self, source: [u8; 4], version: Version) -> Client {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("an address of this machine");
        socket.connect(&self.address.into()).expect("the broker accepts");
        Client::new(socket.into(), version)
    }

    /// A connected client that starts clean.
    pub fn connect(&self, version: Version, client_id: &str) -> Client {
        self.connect_with(version, client_id, |_| ())
    }

    /// A connected client; `adjust` changes the CONNECT packet.
    pub fn connect_with<'a>(
        &self,
        version: Version,
        client_id: &'a str,
        adjust: impl FnOnce(&mut Connect<'a>),
    ) -> Client {
        let client = self.try_connect(version, client_id, adjust);
        assert_eq!(client.connack.reason, ReasonCode::Success, "{client_id}");
        client
    }

    /// A client whose CONNECT is answered, one way or the other: see [`Client::connack`].
    pub fn try_connect<'a>(
        &self,
        version: Version,
        client_id: &'a str,
        adjust: impl FnOnce(&mut Connect<'a>),
    ) -> Client {
        let mut client = self.open(version);
        client.send_connect(client_id, adjust);
        client.expect_connack();
        client
    }

    /// A persistent client: Clean Session 0, or a session expiry of an hour in MQTT 5.
    pub fn connect_persistent(&self, version: Version, client_id: &str) -> Client {
        self.connect_with(version, client_id, |connect| {
            connect.clean_start = false;
            connect.properties.session_expiry_interval = Some(3_600);
        })
    }

    /// Every message that comes until all that is retained for the client's subscriptions has
    /// come: they are served in order, so one more subscription says when they are through.
    pub fn with_what_is_retained(&self, client: &mut Client) -> Vec<Message> {
        const LAST: &str = "$last";
        self.connect(Version::V5, "setter").retain(LAST, "x");
        client.send_subscribe(&[(LAST, SubscriptionOptions::default())], 0);
        let mut messages = Vec::new();
        loop {
            match client.receive().message() {
                Some(message) if message.topic == LAST => break,
                message => messages.extend(message),
            }
        }
        client.unsubscribe(&[LAST]);
        messages
    }

    /// Waits for a log line that contains `text`.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.log.wait_for(text).unwrap_or_else(|| panic!("no {text:?} in\n{}", self.log.text()))
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id");
        kill_process(pid, signal).expect("the broker runs");
    }

    /// The exit status, if the process has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for the process to end, for so long at the most.
    pub fn wait_for(&mut self, time: Duration) -> Option<ExitStatus> {
        wait_for(&mut self.child, time)
    }

    /// Waits for the process to end.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_for(PATIENCE).expect("the broker ends")
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    /// CPU time used so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("log of the broker:\n{}", self.log.text());
        }
    }
}

/// What a broker that ends by itself leaves behind.
pub struct Finished {
    /// The exit status.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs the broker with these flags, which must make it end by itself.
pub fn run(flags: &[&str]) -> Finished {
    run_with(flags, |_| ())
}

/// The same, with a changed environment or the like.
pub fn run_with(flags: &[&str], adjust: impl FnOnce(&mut Command)) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq"));
    clean(command.args(flags));
    adjust(&mut command);
    let mut child = command.spawn().expect("the broker can be started");
    if wait_for(&mut child, PATIENCE).is_none() {
        let _ = child.kill();
        panic!("{flags:?}: still running");
    }
    let output = child.wait_with_output().expect("it has ended");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Waits for a process to end, for so long at the most.
fn wait_for(child: &mut Child, time: Duration) -> Option<ExitStatus> {
    let pid = Pid::from_raw(child.id() as i32).expect("a process id");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("a process of ours");
    let time = Timespec::try_from(time).expect("a time to wait");
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    retry_on_intr(|| poll(&mut fds, Some(&time))).expect("a process can be waited for");
    child.try_wait().expect("it is our child")
}

/// Pipes for its output, and nothing of this process's settings.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RINGMQ_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped())
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Log {
    fn fill(&self, source: impl BufRead) {
        for line in source.lines().map_while(Result::ok) {
            self.lines.lock().unwrap().0.push(line);
            self.changed.notify_all();
        }
        self.lines.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    fn wait_for(&self, text: &str) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.0.iter().find(|line| line.contains(text)) {
                return Some(line.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            if lines.1 {
                return None;
            }
            lines = self.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap().0.join("\n")
    }
}
