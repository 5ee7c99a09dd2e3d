//! What happens at the descriptor limit.

mod support;

use std::{process::Command, thread, time::Duration};

use support::{Client, QoS, ReasonCode, Server, Version};

const V5: Version = Version::V5;

fn start(limit: u32, flags: &[&str]) -> Server {
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_ringmq"), "--in-memory"]).args(flags);
    Server::start_by(command)
}

/// Connects clients until one is left waiting; returns those that got in, and that one.
fn fill(server: &Server) -> (Vec<Client>, Client) {
    let mut clients = Vec::new();
    loop {
        let mut client = server.open(V5);
        client.send_connect(&format!("client-{}", clients.len()), |_| ());
        let stream = client.stream().try_clone().unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        let waits = stream.peek(&mut [0]).is_err();
        stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
        if waits {
            return (clients, client);
        }
        assert_eq!(client.expect_connack().reason, ReasonCode::Success);
        clients.push(client);
        assert!(clients.len() < 1_000, "there is no limit");
    }
}

#[test]
fn accepting_pauses_and_goes_on_without_spinning() {
    for flags in [
        &["--shards=1"][..],
        &["--shards=1", "--driver=epoll"],
        &["--shards=2", "--separate-descriptor-tables=false"],
    ] {
        let server = start(200, flags);
        let (mut clients, mut waiting) = fill(&server);
        assert!(clients.len() > 20, "only {} clients", clients.len());
        server.wait_for_log("accepting is paused");
        // This is about time: what it takes while it waits.
        let before = server.cpu_time();
        thread::sleep(Duration::from_secs(1));
        let used = server.cpu_time() - before;
        assert!(used < Duration::from_millis(200), "{used:?} of CPU in one second of waiting");
        for client in &mut clients {
            client.expect_nothing();
        }
        for client in clients.drain(..10) {
            client.disconnect();
        }
        if flags[0] == "--shards=1" {
            assert_eq!(waiting.expect_connack().reason, ReasonCode::Success);
        } else {
            // Which shard has room now, and which one the client waits for, is not the same.
            drop(clients);
            assert_eq!(waiting.expect_connack().reason, ReasonCode::Success);
        }
    }
}

#[test]
fn with_hardly_any_descriptors_it_still_serves_or_says_why_not() {
    let server = start(110, &["--shards=1"]);
    let (mut clients, _waiting) = fill(&server);
    assert!(!clients.is_empty());
    clients[0].expect_nothing();
}

#[test]
fn clients_that_end_their_half_and_read_nothing_leave_no_descriptors_behind() {
    for driver in ["--driver=io_uring", "--driver=epoll"] {
        let server = Server::start(&["--shards=1", driver, "--log-level=debug"]);
        let descriptors =
            || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
        let mut publisher = server.connect(V5, "publisher");
        let before = descriptors();
        let mut stuck: Vec<_> = (0..5)
            .map(|n| {
                let mut client = server.connect(V5, &format!("stuck-{n}"));
                client.subscribe("flood", QoS::AtMostOnce);
                client
            })
            .collect();
        for _ in 0..200 {
            publisher.publish("flood", vec![b'x'; 100_000], QoS::AtLeastOnce);
        }
        for (n, client) in stuck.iter_mut().enumerate() {
            client.stream().shutdown(std::net::Shutdown::Write).unwrap();
            server.wait_for_log(&format!("\"client_id\":\"stuck-{n}\""));
        }
        let deadline = std::time::Instant::now() + support::PATIENCE;
        while descriptors() > before {
            assert!(std::time::Instant::now() < deadline, "{} > {before}", descriptors());
            publisher.expect_nothing();
            thread::sleep(Duration::from_millis(10));
        }
        drop(stuck);
    }
}

#[test]
fn clients_that_read_nothing_for_a_while_get_the_rest_without_a_descriptor_to_spare() {
    for driver in ["--driver=io_uring", "--driver=epoll"] {
        let server = start(200, &["--shards=1", driver]);
        let (mut clients, _waiting) = fill(&server);
        let mut publisher = clients.pop().unwrap();
        for client in &mut clients {
            client.subscribe("flood", QoS::AtMostOnce);
        }
        // Waiting for a socket to take more takes a descriptor each, and there are few.
        for _ in 0..60 {
            publisher.publish("flood", vec![b'x'; 100_000], QoS::AtLeastOnce);
        }
        for client in &mut clients {
            let flood = client.drain();
            assert!(
                !flood.is_empty() && flood.iter().all(|message| message.payload.len() == 100_000)
            );
        }
        publisher.publish("flood", "all are there", QoS::AtLeastOnce);
        for client in &mut clients {
            client.expect_message("flood", "all are there");
        }
    }
}
