//! The core of it on every driver, with and without descriptor tables of their own.

mod support;

use support::{Packet, QoS, ReasonCode, Server, VERSIONS, Version};

const V5: Version = Version::V5;

fn servers() -> Vec<(Server, String)> {
    let mut servers = Vec::new();
    for driver in ["io_uring", "epoll"] {
        for separate in ["true", "false"] {
            for shards in ["1", "2", "7"] {
                let flags = [
                    format!("--driver={driver}"),
                    format!("--separate-descriptor-tables={separate}"),
                    format!("--shards={shards}"),
                ];
                let server = Server::start(&flags.each_ref().map(|flag| &**flag));
                assert!(server.log().contains(driver), "{}", server.log());
                servers.push((server, flags.join(" ")));
            }
        }
    }
    servers
}

#[test]
fn connect_publish_subscribe_take_over_and_stop() {
    for (mut server, flags) in servers() {
        eprintln!("{flags}");
        let mut clients: Vec<_> = (0..12)
            .map(|n| {
                let mut client = server.connect(VERSIONS[n % 3], &format!("client-{n}"));
                client.subscribe("all", QoS::ExactlyOnce);
                client.subscribe(&format!("own/{n}"), QoS::AtLeastOnce);
                client
            })
            .collect();
        let mut publisher = server.connect(V5, "publisher");
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            publisher.publish("all", "everyone", qos);
            for client in &mut clients {
                assert_eq!(client.take_message("all", "everyone").qos, qos);
            }
        }
        for (n, client) in clients.iter_mut().enumerate() {
            publisher.publish(&format!("own/{n}"), n.to_string(), QoS::AtLeastOnce);
            client.take_message(&format!("own/{n}"), &n.to_string());
            client.expect_nothing();
        }
        publisher.retain("all", "kept");
        for (n, old) in clients.iter_mut().enumerate() {
            old.take_message("all", "kept");
            let mut client = server.connect(VERSIONS[n % 3], &format!("client-{n}"));
            old.expect_disconnect(ReasonCode::SessionTakenOver);
            client.subscribe("+", QoS::AtMostOnce);
            client.take_message("all", "kept");
            *old = client;
        }
        server.terminate();
        for client in &mut clients {
            client.expect_disconnect(ReasonCode::ServerShuttingDown);
        }
        publisher.expect_disconnect(ReasonCode::ServerShuttingDown);
        drop((clients, publisher));
        assert_eq!(server.wait().code(), Some(0), "{flags}");
    }
}

#[test]
fn a_reader_that_pauses_gets_everything_in_order() {
    for (server, flags) in servers() {
        let mut reader = server.connect(V5, "reader");
        reader.subscribe("t", QoS::AtLeastOnce);
        let mut publisher = server.connect(V5, "publisher");
        for n in 0..600 {
            publisher.send_publish("t", format!("{n:020000}"), QoS::AtLeastOnce);
        }
        publisher.drain();
        for n in 0..600 {
            reader.take_message("t", &format!("{n:020000}"));
        }
        reader.send(&Packet::Pingreq);
        assert_eq!(reader.receive().packet(), Packet::Pingresp, "{flags}");
    }
}

#[test]
fn publishers_that_outrun_other_shards_wait_and_lose_nothing() {
    // Many small messages, and such that a single one ends the turn.
    for (driver, shards, count, size) in [
        ("io_uring", 2, 500, 2_000),
        ("io_uring", 7, 500, 2_000),
        ("epoll", 2, 500, 2_000),
        ("io_uring", 2, 60, 40_000),
        ("epoll", 2, 60, 40_000),
    ] {
        let (driver, shards) = (format!("--driver={driver}"), format!("--shards={shards}"));
        let server = Server::start(&[
            &driver,
            &shards,
            "--mesh-credit=64",
            "--max-inflight=65535",
            "--max-queued-messages=100000",
            "--max-outbox-bytes=64MiB",
        ]);
        let mut readers: Vec<_> = (0..16)
            .map(|n| {
                let mut reader = server.connect(V5, &format!("reader-{n}"));
                reader.subscribe("t", QoS::AtLeastOnce);
                reader
            })
            .collect();
        let mut publishers: Vec<_> =
            (0..4).map(|n| server.connect(V5, &format!("publisher-{n}"))).collect();
        for n in 0..count {
            for publisher in &mut publishers {
                publisher.send_publish("t", format!("{n:0size$}"), QoS::AtLeastOnce);
            }
        }
        for publisher in &mut publishers {
            publisher.drain();
        }
        for reader in &mut readers {
            for _ in 0..count * publishers.len() {
                reader.expect_publish();
            }
            reader.expect_nothing();
        }
    }
}
