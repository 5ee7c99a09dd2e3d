//! Caps: what is too much, and what happens then.

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use support::{QoS, ReasonCode, Server, SubscriptionOptions, VERSIONS, Version, over_shards};

const V5: Version = Version::V5;

#[test]
fn a_packet_that_is_too_large_ends_the_connection() {
    over_shards(&["--max-packet-size=1000"], |server| {
        for version in VERSIONS {
            let overhead = if version == V5 { 6 } else { 5 } + 1;
            let mut client = server.connect(version, "client");
            client.send_publish("t", vec![0; 1000 - overhead], QoS::AtMostOnce);
            client.expect_nothing();
            client.send_publish("t", vec![0; 1001 - overhead], QoS::AtMostOnce);
            client.expect_disconnect(ReasonCode::PacketTooLarge);
        }
        // A CONNECT too.
        let mut client = server.open(V5);
        client.send_raw(b"\x10\xe8\x07\0\x04MQTT\x05");
        client.expect_closed();
    });
}

#[test]
fn a_client_gets_no_packet_larger_than_it_takes() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        let mut all = server.connect(V5, "all");
        all.subscribe("t", QoS::AtLeastOnce);
        let mut client = server.connect_with(V5, "client", |connect| {
            connect.clean_start = false;
            connect.properties.maximum_packet_size = Some(100);
            connect.properties.session_expiry_interval = Some(100);
        });
        client.subscribe("t", QoS::AtLeastOnce);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            // Type, length, topic, packet id, property length.
            let room = 100 - 2 - 3 - 1 - if qos == QoS::AtMostOnce { 0 } else { 2 };
            for size in [room, room + 1, 5_000, 1] {
                publisher.publish("t", vec![b'x'; size], qos);
                let message = all.expect_publish();
                all.acknowledge(&message);
            }
            for size in [room, 1] {
                let reply = client.receive();
                assert!(reply.len() <= 100);
                let support::Packet::Publish(publish) = reply.packet() else { panic!() };
                assert_eq!(publish.payload.len(), size);
                if let Some(id) = publish.packet_id {
                    client.ack(ringmq::codec::AckKind::Puback, id.get());
                }
            }
            client.expect_nothing();
        }
        // What was queued too, and the window is not used up by it.
        client.disconnect();
        for n in 0..100 {
            publisher.publish("t", vec![b'x'; 200 + n], QoS::AtLeastOnce);
            let message = all.expect_publish();
            all.acknowledge(&message);
        }
        publisher.publish("t", "small", QoS::AtLeastOnce);
        let mut client = server.connect_with(V5, "client", |connect| {
            connect.clean_start = false;
            connect.properties.maximum_packet_size = Some(100);
        });
        client.take_message("t", "small");
        client.expect_nothing();
    });
}

#[test]
fn answers_respect_the_clients_packet_size_too() {
    // [MQTT-3.1.2-24] holds for every packet. What cannot be said ends the connection.
    let server = Server::start(&[]);
    let mut client = server.connect_with(V5, "client", |connect| {
        connect.properties.maximum_packet_size = Some(30);
    });
    let filters: Vec<String> = (0..40).map(|n| format!("t/{n}")).collect();
    let filters: Vec<_> =
        filters.iter().map(|f| (&**f, SubscriptionOptions::new(QoS::AtMostOnce))).collect();
    client.send_subscribe(&filters, 0);
    client.expect_disconnect(ReasonCode::PacketTooLarge);
    let mut client = server.open(V5);
    client.send_connect("", |connect| connect.properties.maximum_packet_size = Some(20));
    client.expect_closed();
}

#[test]
fn subscriptions_of_one_session_are_capped() {
    over_shards(&["--max-subscriptions=3"], |server| {
        for version in VERSIONS {
            let mut client = server.connect(version, "client");
            let full = match version {
                V5 => ReasonCode::QuotaExceeded,
                Version::V3_1_1 => ReasonCode::UnspecifiedError,
                Version::V3_1 => ReasonCode::GRANTED_QOS_0,
            };
            client.subscribe("a", QoS::AtMostOnce);
            client.subscribe("$share/g/a", QoS::AtMostOnce);
            client.subscribe("c", QoS::AtMostOnce);
            assert_eq!(client.subscribe("d", QoS::AtMostOnce), full);
            assert_eq!(client.subscribe("$share/g/d", QoS::AtMostOnce), full);
            // Those that there are can be changed.
            assert_eq!(client.subscribe("a", QoS::AtLeastOnce), ReasonCode::GrantedQoS1);
            let reason = client.subscribe("$share/g/a", QoS::AtLeastOnce);
            assert_eq!(reason, ReasonCode::GrantedQoS1);
            client.unsubscribe(&["a"]);
            assert_eq!(client.subscribe("d", QoS::AtLeastOnce), ReasonCode::GrantedQoS1);
            client.disconnect();
        }
    });
}

#[test]
fn topic_levels_are_capped() {
    let server = Server::start(&["--max-topic-levels=3"]);
    let mut client = server.connect(V5, "client");
    assert_eq!(client.subscribe("a/b/c", QoS::AtMostOnce), ReasonCode::Success);
    let reason = client.subscribe("a/b/c/d", QoS::AtMostOnce);
    assert_eq!(reason, ReasonCode::TopicFilterInvalid);
    let reason = client.subscribe("$share/g/a/b/c", QoS::AtMostOnce);
    assert!(!reason.is_error(), "the group is no part of the filter: {reason}");
    client.publish("a/b/c", "", QoS::AtMostOnce);
    assert_eq!(client.drain().len(), 2);
    client.send_publish("a/b/c/d", "", QoS::AtMostOnce);
    client.expect_disconnect(ReasonCode::TopicNameInvalid);
}

/// Writes as much of `bytes` as the broker takes before it has not taken any for a while.
fn write_until_it_stalls(mut stream: &TcpStream, bytes: &[u8]) -> usize {
    stream.set_write_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    let mut written = 0;
    while written < bytes.len()
        && let Ok(more) = stream.write(&bytes[written..])
    {
        written += more;
    }
    written
}

/// Clients that take no answers are not read from. What has been read of them counts, and eight times
/// what is read at once would be twice as much as there may be.
#[test]
fn clients_that_are_made_to_wait_are_not_disconnected_for_what_was_read_of_them() {
    let server = Server::start(&[
        "--shards=1",
        "--max-unread-bytes=256KiB",
        "--max-packet-size=64KiB",
        "--max-outbox-bytes=64KiB",
        "--send-buffer=64KiB",
    ]);
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let client = server.connect(V5, &format!("client-{n}"));
            let socket = socket2::SockRef::from(client.stream());
            socket.set_recv_buffer_size(64 << 10).unwrap();
            socket.set_send_buffer_size(64 << 10).unwrap();
            client
        })
        .collect();
    let requests = b"\xc0\0".repeat(8 << 20);
    let written: Vec<usize> = std::thread::scope(|scope| {
        let write = |client: &support::Client| {
            let (stream, requests) = (client.stream().try_clone().unwrap(), &requests);
            scope.spawn(move || write_until_it_stalls(&stream, requests))
        };
        let writing: Vec<_> = clients.iter().map(write).collect();
        writing.into_iter().map(|writing| writing.join().unwrap()).collect()
    });
    for (client, written) in clients.iter().zip(written) {
        assert!(written < requests.len(), "it is not read from");
        let mut answers = vec![0; written / 2 * 2];
        client.stream().read_exact(&mut answers).expect("every request is answered");
        assert!(answers.chunks(2).all(|answer| answer == b"\xd0\0"));
    }
}

#[test]
fn connected_clients_are_capped() {
    over_shards(&["--max-connections=2"], |server| {
        let first = server.connect(V5, "first");
        let _second = server.connect(V5, "second");
        for version in VERSIONS {
            let mut third = server.try_connect(version, "third", |_| ());
            let full = match version {
                V5 => ReasonCode::QuotaExceeded,
                _ => ReasonCode::ServerUnavailable,
            };
            assert_eq!(third.connack.reason, full);
            third.expect_closed();
        }
        first.disconnect();
        server.connect(V5, "third").expect_nothing();
    });
}

#[test]
fn connections_of_one_address_are_capped() {
    over_shards(&["--max-connections-per-address=3"], |server| {
        let mut clients: Vec<_> =
            (0..3).map(|n| server.connect(V5, &format!("client-{n}"))).collect();
        server.open(V5).expect_closed();
        clients.pop().unwrap().disconnect();
        // The slot is free a moment after the broker has seen the end of the connection.
        let deadline = std::time::Instant::now() + support::PATIENCE;
        loop {
            assert!(std::time::Instant::now() < deadline, "the slot stays taken");
            let mut client = server.open(V5);
            // The broker may close before the CONNECT has arrived.
            let mut stream = client.stream();
            if stream.write(b"\x10\x0d\0\x04MQTT\x05\x02\0\0\0\0\0").is_ok()
                && client.receive_or_closed().is_some()
            {
                break;
            }
        }
        for client in &mut clients {
            client.expect_nothing();
        }
    });
}

#[test]
fn retained_messages_are_capped_in_number_and_bytes() {
    for flags in [
        &["--max-retained-messages=3"][..],
        &["--max-retained-bytes=8KiB", "--max-packet-size=4KiB"],
    ] {
        let mut all = vec!["--shards=1", "--sys-interval=0"];
        all.extend_from_slice(flags);
        let server = Server::start(&all);
        let mut publisher = server.connect(V5, "publisher");
        for n in 0..10 {
            publisher.retain(&format!("t/{n}"), vec![b'x'; 2_000]);
        }
        let mut reader = server.connect(V5, "reader");
        reader.subscribe("t/#", QoS::AtMostOnce);
        for n in 0..3 {
            assert_eq!(reader.expect_publish().topic, format!("t/{n}"));
        }
        reader.expect_nothing();
        // One that is cleared makes room.
        publisher.retain("t/1", "");
        publisher.retain("t/9", "y");
        reader.drain();
        reader.disconnect();
        let mut reader = server.connect(V5, "reader");
        reader.subscribe("t/9", QoS::AtMostOnce);
        reader.expect_message("t/9", "y");
    }
}

#[test]
fn a_connection_that_never_comes_to_the_point_is_cut_off() {
    let server = Server::start(&["--connect-timeout=300ms"]);
    let mut neighbour = server.connect(V5, "neighbour");
    for bytes in [&b""[..], b"\x10", b"\x10\x0d\0\x04MQTT\x05\x02\0\0\0\0"] {
        let mut client = server.open(V5);
        client.send_raw(bytes);
        client.expect_closed();
    }
    neighbour.expect_nothing();
}

#[test]
fn connections_come_no_faster_than_allowed() {
    let server = Server::start(&["--shards=1", "--connect-rate=20"]);
    let start = std::time::Instant::now();
    let streams: Vec<_> = (0..30)
        .map(|_| TcpStream::connect(server.address()).expect("the backlog has room"))
        .collect();
    let mut last = server.connect(V5, "last");
    // One second's worth at once, the others one by one.
    assert!(start.elapsed().as_millis() >= 500, "{:?}", start.elapsed());
    last.expect_nothing();
    drop(streams);
}
