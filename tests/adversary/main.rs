//! Everything that a malicious or broken client can do on a real socket, while well-behaved
//! neighbours are watched: each of their messages arrives, none later than [`neighbours::BOUND`].
//!
//! What is attacked, what the broker does and which test shows it, those of other files included,
//! is listed in `docs/robustness.md`. These are the small versions, of seconds; the large ones run
//! by `scripts/adversaries.sh`, which also says how long the neighbours' messages took.

mod neighbours;
#[path = "../support/mod.rs"]
mod support;

mod acknowledgements;
mod before_connect;
mod floods;
mod stalls;
mod storms;

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use support::{Client, PATIENCE, QoS, Server, Version};

/// The bytes of a CONNECT of MQTT 5 with a clean start and no keep-alive.
fn connect_packet(client_id: &str) -> Vec<u8> {
    let length = u8::try_from(client_id.len()).expect("a short client id");
    let mut packet = vec![0x10, 13 + length];
    packet.extend_from_slice(b"\0\x04MQTT\x05\x02\0\0\0\0");
    packet.push(length);
    packet.extend_from_slice(client_id.as_bytes());
    packet
}

/// Raises this process's own descriptor limit, for tests with very many connections.
fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the hard limit");
}

/// Ends the connection with a reset: nothing that is on its way arrives, in either direction.
fn reset(client: Client) {
    SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
}

/// Waits until the broker reports this number of open connections, the one that asks included.
/// The broker has to run with `--sys-interval=100ms`.
fn wait_for_connections(server: &Server, count: usize) {
    let mut watcher = server.connect(Version::V5, "watcher of connections");
    watcher.subscribe("$SYS/broker/connections/open", QoS::AtMostOnce);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let open = watcher.expect_publish();
        if open.text() == count.to_string() {
            return watcher.disconnect();
        }
        assert!(Instant::now() < deadline, "{} connections are open, not {count}", open.text());
    }
}

/// Waits until `done`.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
