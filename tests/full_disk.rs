//! The real broker on a file system that runs full: nothing acknowledged is lost, who can be served
//! is served, and with more room it goes on where it was.

mod support;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use support::{Client, Packet, QoS, ReasonCode, Server, Version};
use tempfile::TempDir;

const V5: Version = Version::V5;
const PAYLOAD: usize = 32 * 1024;

/// A file system of its own, in memory, that only programs see which are started in it. It needs no
/// rights but that to make a user namespace.
struct Disk {
    holder: Child,
    folder: TempDir,
}

impl Disk {
    /// Of so many MiB. `None` where the system refuses such namespaces.
    fn new(mebibytes: u32) -> Option<Disk> {
        let folder = TempDir::new().unwrap();
        let mount = format!("mount -t tmpfs -o size={mebibytes}m none \"$0\" && echo there && cat");
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &mount])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line != "there\n" {
            holder.wait().unwrap();
            return None;
        }
        Some(Disk { holder, folder })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A program that sees it.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--user", "--mount", "--preserve-credentials", "--target"]);
        command.arg(self.holder.id().to_string()).arg("--").arg(program.as_ref());
        command
    }

    fn resize(&self, mebibytes: u32) {
        let size = format!("remount,size={mebibytes}m");
        let mut mount = self.command("mount");
        assert!(mount.args(["-o", &size]).arg(self.folder.path()).status().unwrap().success());
    }

    fn start(&self) -> Server {
        let mut command = self.command(env!("CARGO_BIN_EXE_ringmq"));
        command.arg(format!("--data-dir={}", self.path().display()));
        command.args(["--max-queued-messages=1000000", "--max-queued-bytes=1GiB"]);
        Server::start_by(command)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        _ = self.holder.kill();
        _ = self.holder.wait();
    }
}

/// Publishes to `kept`: whether that is acknowledged. If not, the answer says so or, where the session
/// is on another shard than the publisher, the connection ends without one.
fn is_acknowledged(publisher: &mut Client, payload: &[u8]) -> bool {
    let id = publisher.send_publish("kept", payload, QoS::AtLeastOnce);
    let Some(reply) = publisher.receive_or_disconnect() else { return false };
    match reply.packet() {
        Packet::Puback(ack) => {
            assert_eq!(ack.packet_id.get(), id);
            assert!(matches!(
                ack.reason,
                ReasonCode::Success | ReasonCode::ImplementationSpecificError
            ));
            ack.reason == ReasonCode::Success
        }
        Packet::Disconnect(disconnect) => {
            assert_eq!(disconnect.reason, ReasonCode::ImplementationSpecificError);
            false
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_loses_nothing_acknowledged_and_stops_only_what_must_be_kept() {
    let Some(disk) = Disk::new(160) else {
        println!("skipped: this system lets nobody make a user and mount namespace");
        return;
    };
    let server = disk.start();
    let mut away = server.connect_persistent(V5, "away");
    away.subscribe("kept", QoS::AtLeastOnce);
    away.disconnect();

    let mut acknowledged = 0_u64;
    let mut publisher = server.connect(V5, "publisher");
    let mut payload = vec![0; PAYLOAD];
    while is_acknowledged(&mut publisher, &payload) {
        acknowledged += 1;
        payload[..8].copy_from_slice(&acknowledged.to_be_bytes());
        assert!(acknowledged * PAYLOAD as u64 <= 200 << 20, "it never got full");
    }
    server.wait_for_log("the store has failed");
    // Its own error, or that of a thread in the background which came first.
    server.wait_for_log("No space left on device");

    // What needs no store goes on; what needs it is told so.
    let mut clean = server.connect(V5, "clean");
    clean.subscribe("news", QoS::AtLeastOnce);
    let mut other = server.connect(V5, "other");
    other.publish("news", "1", QoS::AtMostOnce);
    clean.expect_message("news", "1");
    assert_eq!(other.publish("news", "2", QoS::AtLeastOnce), ReasonCode::Success);
    clean.take_message("news", "2");
    let back = server.try_connect(V5, "away", |connect| {
        connect.clean_start = false;
        connect.properties.session_expiry_interval = Some(3_600);
    });
    assert_eq!(back.connack.reason, ReasonCode::ServerUnavailable);
    assert!(!is_acknowledged(&mut other, b"3"));
    drop(server);

    disk.resize(1_024);
    let server = disk.start();
    let mut away = server.connect_persistent(V5, "away");
    assert!(away.connack.session_present);
    for number in 0..acknowledged {
        let message = away.expect_publish();
        assert_eq!(message.payload[..8], number.to_be_bytes(), "of {acknowledged}");
        away.acknowledge(&message);
    }
    other = server.connect(V5, "other");
    assert_eq!(other.publish("kept", "4", QoS::AtLeastOnce), ReasonCode::Success);
    // One that was not acknowledged may have been kept all the same.
    while away.expect_publish().payload != b"4" {}
}
