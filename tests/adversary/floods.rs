//! Too much of everything towards clients that take too little of it.

use std::{
    io::{Read, Write},
    net::Shutdown,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use ringmq::codec::{AckKind, PublishProperties};
use socket2::SockRef;

use crate::{
    neighbours::Neighbours,
    support::{Client, Packet, Publish, QoS, Server, Version},
};

const V5: Version = Version::V5;

/// A subscriber whose kernel has hardly any room for what it does not read.
fn narrow(server: &Server, name: &str, qos: QoS) -> Client {
    let mut client = server.connect(V5, name);
    SockRef::from(client.stream()).set_recv_buffer_size(2_048).unwrap();
    client.subscribe("flood", qos);
    client
}

#[test]
fn windows_that_close_and_windows_that_open_by_a_byte_cost_one_outbox_each() {
    let server = Server::start(&[
        "--shards=2",
        "--max-packet-size=64KiB",
        "--max-outbox-bytes=64KiB",
        "--max-queued-bytes=64KiB",
        "--max-queued-messages=50",
        "--send-buffer=16KiB",
        "--log-level=debug",
    ]);
    let neighbours = Neighbours::start(&server);
    let before = server.resident_kib();
    let all = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    let closed: Vec<Client> =
        (0..60).map(|n| narrow(&server, &format!("closed-{n}"), all[n % 3])).collect();
    let dribbling: Vec<Client> =
        (0..60).map(|n| narrow(&server, &format!("dribbling-{n}"), all[n % 3])).collect();
    let mut publisher = server.connect(V5, "publisher");
    for n in 0..300 {
        publisher.publish("flood", vec![b'x'; 20_000], all[1 + n % 2]);
        publisher.send_publish("flood", vec![b'y'; 20_000], QoS::AtMostOnce);
        for mut stream in dribbling.iter().map(Client::stream) {
            stream.read_exact(&mut [0]).unwrap();
        }
        if n % 20 == 0 {
            neighbours.go_on();
        }
    }
    // An outbox, and a queue whose messages are shared with all the others.
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 40 * 1024, "{grown} KiB");
    drop((closed, dribbling));
    neighbours.finish();
}

#[test]
fn publishers_at_full_speed_to_readers_that_stand_still_leave_room_for_neighbours() {
    let server = Server::start(&["--shards=2", "--max-outbox-bytes=1MiB"]);
    let neighbours = Neighbours::start(&server);
    let stop = AtomicBool::new(false);
    let stuck: Vec<Client> = (0..6)
        .map(|n| {
            let mut client = server.connect(V5, &format!("stuck-{n}"));
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][n % 3];
            client.subscribe(["flood", "#"][n % 2], qos);
            client
        })
        .collect();
    let publishers: Vec<Client> =
        (0..4).map(|n| server.connect(Version::V3_1_1, &format!("publisher-{n}"))).collect();
    thread::scope(|scope| {
        for publisher in &publishers {
            let publish = Publish { topic: "flood", payload: &[b'x'; 500], ..Publish::default() };
            let bytes = publisher.encode(&Packet::Publish(publish)).repeat(200);
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    publisher.stream().write_all(&bytes).unwrap();
                }
            });
        }
        let stop = StopOnDrop(&stop);
        for _ in 0..10 {
            neighbours.go_on();
        }
        drop(stop);
    });
    drop(stuck);
    neighbours.finish();
}

/// Stops the flood, also when an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn topic_aliases_that_change_all_the_time_hold_one_topic_each() {
    const ROUNDS: usize = 300;
    let server = Server::start(&["--shards=2"]);
    let neighbours = Neighbours::start(&server);
    let before = server.resident_kib();
    let mut clients: Vec<Client> =
        (0..10).map(|n| server.connect(V5, &format!("client-{n}"))).collect();
    for round in 0..ROUNDS {
        let topic = format!("{round}/{}", "x".repeat(2_000));
        for client in &mut clients {
            let mut bytes = Vec::new();
            for alias in 1..=32 {
                let properties =
                    PublishProperties { topic_alias: Some(alias), ..PublishProperties::default() };
                let publish = Publish { topic: &topic, properties, ..Publish::default() };
                bytes.extend(client.encode(&Packet::Publish(publish)));
            }
            client.send_raw(&bytes);
        }
    }
    clients.iter_mut().for_each(Client::expect_nothing);
    // 32 topics of 2 KB for each of ten.
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
    neighbours.finish();
}

#[test]
fn whoever_ends_its_half_still_gets_what_is_due_and_holds_nothing_up() {
    let server = Server::start(&["--shards=2", "--linger=500ms"]);
    let neighbours = Neighbours::start(&server);
    let mut halves: Vec<Client> = (0..200)
        .map(|n| {
            let mut client = server.connect(V5, &format!("half-{n}"));
            client.send(&Packet::Pingreq);
            client.stream().shutdown(Shutdown::Write).unwrap();
            client
        })
        .collect();
    for client in &mut halves {
        assert_eq!(client.receive().packet(), Packet::Pingresp);
        client.expect_closed();
    }
    // And the other half: these take nothing any more, and go on sending.
    let mut deaf: Vec<Client> = (0..50)
        .map(|n| {
            let mut client = server.connect(V5, &format!("deaf-{n}"));
            client.subscribe("flood", QoS::AtLeastOnce);
            client.stream().shutdown(Shutdown::Read).unwrap();
            client
        })
        .collect();
    let mut publisher = server.connect(V5, "publisher");
    for _ in 0..100 {
        publisher.publish("flood", [b'x'; 10_000], QoS::AtLeastOnce);
        for client in &mut deaf {
            let _ = client.stream().write_all(b"\xc0\0");
        }
    }
    neighbours.go_on();
    drop(deaf);
    neighbours.finish();
}

#[test]
fn a_sender_of_one_byte_at_a_time_holds_no_turn() {
    let server = Server::start(&["--shards=1"]);
    let neighbours = Neighbours::start(&server);
    let bytes = {
        let client = server.open(V5);
        let publish = Publish { topic: "t", payload: &[b'x'; 60], ..Publish::default() };
        client.encode(&Packet::Publish(publish))
    };
    thread::scope(|scope| {
        for n in 0..4 {
            let (server, bytes) = (&server, &bytes);
            scope.spawn(move || {
                let mut client = server.connect(V5, &format!("drip-{n}"));
                for byte in bytes.iter().cycle().take(bytes.len() * 50) {
                    client.send_raw(&[*byte]);
                }
                client.expect_nothing();
            });
        }
        neighbours.go_on();
    });
    neighbours.finish();
}

#[test]
fn what_is_left_of_a_large_packet_holds_no_more_memory_than_it_has_bytes() {
    let server = Server::start(&["--shards=2", "--max-unread-bytes=2MiB"]);
    let mut clients: Vec<_> =
        (0..400).map(|n| server.connect(Version::V3_1_1, &format!("large-{n}"))).collect();
    let before = server.resident_kib();
    for client in &mut clients {
        // A PINGREQ, and half of another one, which is kept when the first is answered.
        client.send_raw(b"\xc0\0\xc0");
        assert!(matches!(client.receive().packet(), Packet::Pingresp));
        // The other half, a large packet, and half a PINGREQ again.
        let id = client.next_id();
        let publish = Packet::Publish(Publish {
            topic: "nobody",
            payload: &[7; 60 << 10],
            qos: QoS::AtLeastOnce,
            packet_id: Some(id),
            ..Publish::default()
        });
        let bytes = [b"\0", &client.encode(&publish)[..], b"\xc0"].concat();
        client.send_raw(&bytes);
        assert!(matches!(client.receive().packet(), Packet::Pingresp));
        client.expect_ack(AckKind::Puback, id.get());
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
    for client in &mut clients {
        client.send_raw(b"\0");
        assert!(matches!(client.receive().packet(), Packet::Pingresp));
    }
}
