//! Clients that mean harm, or are badly broken. Each costs its own connection and nothing else:
//! a neighbour goes on, and the broker's memory stays bounded.

mod support;

use std::{io::Write, net::Shutdown};

use ringmq::codec::Unsubscribe;
use support::{Client, Packet, QoS, ReasonCode, Server, SubscriptionOptions, Version, over_shards};

const V5: Version = Version::V5;

/// A pair of clients that talk to each other, whatever else goes on.
struct Neighbours {
    publisher: Client,
    subscriber: Client,
    count: u32,
}

impl Neighbours {
    fn new(server: &Server) -> Neighbours {
        let mut subscriber = server.connect(V5, "neighbour-1");
        subscriber.subscribe("neighbours", QoS::AtLeastOnce);
        Neighbours { publisher: server.connect(V5, "neighbour-2"), subscriber, count: 0 }
    }

    fn talk(&mut self) {
        self.count += 1;
        let payload = self.count.to_string();
        assert_eq!(
            self.publisher.publish("neighbours", &payload, QoS::AtLeastOnce),
            ReasonCode::Success
        );
        self.subscriber.take_message("neighbours", &payload);
    }
}

#[test]
fn one_byte_at_a_time() {
    over_shards(&[], |server| {
        let mut neighbours = Neighbours::new(server);
        let mut client = server.open(V5);
        let mut bytes = b"\x10\x13\0\x04MQTT\x05\x02\0\0\0\0\x06client".to_vec();
        bytes.extend_from_slice(b"\x82\x07\0\x01\0\0\x01t\x01\x32\x08\0\x01t\0\x09\0hi\xc0\0");
        for byte in bytes {
            client.send_raw(&[byte]);
        }
        client.expect_connack();
        client.expect_suback(1);
        client.expect_message("t", "hi");
        client.expect_ack(ringmq::codec::AckKind::Puback, 9);
        assert_eq!(client.receive().packet(), Packet::Pingresp);
        neighbours.talk();
    });
}

#[test]
fn a_claim_of_the_largest_packet_allocates_nothing() {
    let server = Server::start(&[
        "--shards=2",
        "--max-packet-size=268435460",
        "--max-unread-bytes=512MiB",
        "--max-outbox-bytes=300MiB",
        "--max-queued-bytes=300MiB",
    ]);
    let mut neighbours = Neighbours::new(&server);
    neighbours.talk();
    let before = server.resident_kib();
    let mut claimers: Vec<_> = (0..20)
        .map(|n| {
            let mut client = server.connect(V5, &format!("client-{n}"));
            client.send_raw(b"\x30\xff\xff\xff\x7f\0\x01t\0");
            client.send_raw(&[0; 1000]);
            client
        })
        .collect();
    // Before CONNECT too.
    claimers.extend((0..20).map(|_| {
        let mut client = server.open(V5);
        client.send_raw(b"\x10\xff\xff\xff\x7f\0\x04MQTT\x05");
        client
    }));
    neighbours.talk();
    let grown = server.resident_kib() - before;
    assert!(grown < 8 * 1024, "{grown} KiB");
}

#[test]
fn a_claim_beyond_the_limit_is_refused_at_once() {
    over_shards(&[], |server| {
        let mut neighbours = Neighbours::new(server);
        let mut client = server.connect(V5, "client");
        client.send_raw(b"\x30\xff\xff\xff\x7f");
        client.expect_disconnect(ReasonCode::PacketTooLarge);
        let mut client = server.open(V5);
        client.send_raw(b"\x10\xff\xff\xff\x7f");
        client.expect_closed();
        let mut client = server.connect(V5, "client");
        client.send_raw(b"\x30\xff\xff\xff\xff");
        client.expect_disconnect(ReasonCode::MalformedPacket);
        neighbours.talk();
    });
}

fn subscribe_many(client: &mut Client, count: usize) -> (usize, usize) {
    let (mut granted, mut refused) = (0, 0);
    let filters: Vec<String> = (0..count).map(|n| format!("many/{n}")).collect();
    for chunk in filters.chunks(1_000) {
        let chunk: Vec<_> =
            chunk.iter().map(|f| (&**f, SubscriptionOptions::new(QoS::AtMostOnce))).collect();
        let id = client.send_subscribe(&chunk, 7);
        for reason in client.expect_suback(id) {
            match reason {
                ReasonCode::Success => granted += 1,
                reason => {
                    assert_eq!(reason, ReasonCode::QuotaExceeded);
                    refused += 1;
                }
            }
        }
    }
    (granted, refused)
}

#[test]
fn a_hundred_thousand_subscriptions_by_one_client() {
    let server = Server::start(&["--shards=2"]);
    let mut neighbours = Neighbours::new(&server);
    let before = server.resident_kib();
    let mut client = server.connect(V5, "client");
    assert_eq!(subscribe_many(&mut client, 100_000), (10_000, 90_000));
    neighbours.talk();
    let grown = server.resident_kib() - before;
    assert!(grown < 16 * 1024, "{grown} KiB");
    client.cut();
    neighbours.talk();

    let server = Server::start(&["--shards=2", "--max-subscriptions=200000"]);
    let mut neighbours = Neighbours::new(&server);
    let mut client = server.connect(V5, "client");
    assert_eq!(subscribe_many(&mut client, 100_000), (100_000, 0));
    neighbours.talk();
    neighbours.publisher.publish("many/99999", "x", QoS::AtLeastOnce);
    assert_eq!(client.expect_message("many/99999", "x").subscription_ids, [7]);
    // And back, in the order that is worst for a list.
    let filters: Vec<String> = (0..100_000).rev().map(|n| format!("many/{n}")).collect();
    for chunk in filters.chunks(1_000) {
        let chunk: Vec<_> = chunk.iter().map(|filter| &**filter).collect();
        assert!(client.unsubscribe(&chunk).iter().all(|reason| *reason == ReasonCode::Success));
    }
    neighbours.talk();
    client.cut();
    neighbours.talk();
}

#[test]
fn a_hundred_thousand_wildcards_of_many_shapes() {
    let server = Server::start(&["--shards=2", "--max-subscriptions=200000"]);
    let mut neighbours = Neighbours::new(&server);
    let mut client = server.connect(V5, "client");
    let filters: Vec<String> = (0..100_000u32)
        .map(|n| {
            let level = |bit: u32| if n >> bit & 1 == 1 { "+".into() } else { format!("l{bit}") };
            (0..17).map(level).collect::<Vec<_>>().join("/")
        })
        .collect();
    let mut granted = 0;
    for chunk in filters.chunks(1_000) {
        let chunk: Vec<_> =
            chunk.iter().map(|f| (&**f, SubscriptionOptions::new(QoS::AtMostOnce))).collect();
        let id = client.send_subscribe(&chunk, 0);
        for reason in client.expect_suback(id) {
            assert!(matches!(reason, ReasonCode::Success | ReasonCode::QuotaExceeded));
            granted += usize::from(!reason.is_error());
        }
        neighbours.talk();
    }
    // One without a wildcard, 64 shapes, and 64 filters beyond them.
    assert_eq!(granted, 129);
    client.cut();
    neighbours.talk();
}

#[test]
fn a_topic_of_65_535_bytes_and_32_767_levels() {
    let topic = format!("{}a", "a/".repeat(32_767));
    assert_eq!((topic.len(), topic.split('/').count()), (65_535, 32_768));
    over_shards(&[], |server| {
        let mut neighbours = Neighbours::new(server);
        let mut client = server.connect(V5, "client");
        let reason = client.subscribe(&topic, QoS::AtMostOnce);
        assert_eq!(reason, ReasonCode::TopicFilterInvalid);
        client.send_publish(&topic, "", QoS::AtMostOnce);
        client.expect_disconnect(ReasonCode::TopicNameInvalid);
        neighbours.talk();
    });
    over_shards(&["--max-topic-levels=65536"], |server| {
        let mut neighbours = Neighbours::new(server);
        let mut client = server.connect(V5, "client");
        let plus = "+/".repeat(32_767) + "+";
        let hash = "+/".repeat(32_000) + "#";
        for filter in [&*topic, "#", "a/+/#"] {
            assert_eq!(client.subscribe(filter, QoS::AtMostOnce), ReasonCode::Success);
        }
        for filter in [&*plus, &hash] {
            let reason = client.subscribe(filter, QoS::AtMostOnce);
            assert_eq!(reason, ReasonCode::TopicFilterInvalid, "too deep for a wildcard");
        }
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            client.send_publish_with(&topic, b"x", qos, |publish| publish.retain = true);
            let message = client.expect_publish();
            assert!(message.topic == topic);
        }
        let mut late = server.connect(V5, "late");
        late.subscribe("a/+/#", QoS::AtMostOnce);
        assert!(late.expect_publish().topic == topic);
        neighbours.talk();
    });
}

#[test]
fn a_reader_that_does_not_read_costs_its_neighbours_nothing() {
    over_shards(&["--max-outbox-bytes=1MiB", "--send-timeout=2s", "--log-level=debug"], |server| {
        let mut neighbours = Neighbours::new(server);
        neighbours.talk();
        let mut stuck: Vec<_> = (0..4)
            .map(|n| {
                let mut client = server.connect(V5, &format!("stuck-{n}"));
                client.subscribe("flood", [QoS::AtMostOnce, QoS::AtLeastOnce][n % 2]);
                client
            })
            .collect();
        let before = server.resident_kib();
        let mut flood = server.connect(V5, "flood");
        let payload = vec![b'x'; 50_000];
        for n in 0..1_000 {
            flood.send_publish("flood", &payload, QoS::AtMostOnce);
            if n % 50 == 0 {
                flood.expect_nothing();
                neighbours.talk();
            }
        }
        for _ in 0..100 {
            flood.publish("flood", &payload, QoS::AtLeastOnce);
        }
        neighbours.talk();
        // 50 MB to each of four; each may hold one outbox, and a queue of 16 MiB for QoS 1.
        let grown = server.resident_kib().saturating_sub(before);
        assert!(grown < 60 * 1024, "{grown} KiB");
        // In the end they are cut off.
        for n in 0..stuck.len() {
            let end = format!("\"client_id\":\"stuck-{n}\",\"reason\":\"slow_consumer\"");
            server.wait_for_log(&end);
        }
        neighbours.talk();
        stuck.clear();
    });
}

#[test]
fn a_sender_that_does_not_read_the_answers_is_not_read_from() {
    let server = Server::start(&[
        "--shards=1",
        "--send-buffer=64KiB",
        "--send-timeout=2s",
        "--log-level=debug",
    ]);
    let mut neighbours = Neighbours::new(&server);
    let client = server.connect(V5, "client");
    let before = server.resident_kib();
    let stream = client.stream().try_clone().unwrap();
    stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let mut burst = Vec::new();
    while burst.len() < 1 << 20 {
        burst.extend_from_slice(b"\xc0\0");
    }
    let mut sent = 0;
    while sent < 64 << 20 {
        match (&stream).write(&burst) {
            Ok(0) | Err(_) => break,
            Ok(some) => sent += some,
        }
    }
    assert!(sent < 64 << 20, "it takes everything");
    neighbours.talk();
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    server.wait_for_log("\"client_id\":\"client\",\"reason\":\"slow_consumer\"");
    neighbours.talk();
}

#[test]
fn garbage_ends_its_own_connection() {
    over_shards(&[], |server| {
        let mut neighbours = Neighbours::new(server);
        let mut random = fastrand::Rng::with_seed(7);
        for n in 0..300 {
            let mut client = server.open(V5);
            if n % 3 > 0 {
                client.send_connect("garbage", |_| ());
                client.expect_connack();
            }
            let mut bytes: Vec<u8> = (0..random.usize(1..300)).map(|_| random.u8(..)).collect();
            if n % 3 == 2 {
                // A header that is right, so that the body is looked at.
                let length = random.u8(0..100);
                let header = *random.choice(&[0x30, 0x32, 0x34, 0x82, 0xa2, 0xe0, 0xf0]).unwrap();
                bytes.splice(..0, [header, length]);
            }
            let _ = client.stream().write_all(&bytes);
            // Either it was refused by now, or it is still waiting for the rest.
            let _ = client.stream().shutdown(Shutdown::Write);
            while client.receive_or_disconnect().is_some() {}
        }
        neighbours.talk();
    });
}

#[test]
fn the_first_packet_must_be_connect_and_the_only_one() {
    over_shards(&[], |server| {
        let mut neighbours = Neighbours::new(server);
        for packet in [
            &b"\xc0\0"[..],
            b"\x30\x04\0\x01t\0",
            b"\x82\x07\0\x01\0\0\x01t\0",
            b"\xe0\0",
            b"\x20\x03\0\0\0",
            b"\xf0\0",
        ] {
            let mut client = server.open(V5);
            client.send_raw(packet);
            client.expect_closed();
        }
        for version in support::VERSIONS {
            let mut client = server.connect(version, "client");
            client.send_connect("client", |_| ());
            client.expect_disconnect(ReasonCode::ProtocolError);
            let mut client = server.connect(version, "client");
            client.send_raw(b"\xf0\0"); // AUTH without a method; before MQTT 5 there is no such
            let reason =
                if version == V5 { ReasonCode::ProtocolError } else { ReasonCode::MalformedPacket };
            client.expect_disconnect(reason);
        }
        neighbours.talk();
    });
}

#[test]
fn nothing_behind_a_disconnect_counts() {
    over_shards(&[], |server| {
        let mut neighbours = Neighbours::new(server);
        let mut client = server.connect(V5, "client");
        let mut bytes = client.encode(&Packet::Disconnect(support::Disconnect::default()));
        bytes.extend_from_slice(b"\x30\x0d\0\x0aneighbours\0");
        client.send_raw(&bytes);
        client.expect_closed();
        neighbours.talk();
        neighbours.subscriber.expect_nothing();
    });
}

#[test]
fn a_client_that_ends_its_stream_at_once_still_gets_its_answers_or_none() {
    over_shards(&[], |server| {
        let mut neighbours = Neighbours::new(server);
        for n in 0..50 {
            let mut client = server.open(V5);
            client.send_connect(&format!("brief-{n}"), |_| ());
            client.send(&Packet::Publish(support::Publish {
                topic: "neighbours",
                payload: b"from the brief one",
                ..Default::default()
            }));
            client.stream().shutdown(Shutdown::Write).unwrap();
            while client.receive_or_disconnect().is_some() {}
            // What came before the end of the stream counts.
            neighbours.subscriber.expect_message("neighbours", "from the brief one");
        }
        neighbours.talk();
    });
}

#[test]
fn an_unsubscribe_from_very_many_filters_at_once() {
    let server = Server::start(&["--shards=2"]);
    let mut neighbours = Neighbours::new(&server);
    let mut client = server.connect(V5, "client");
    let filters = vec!["a"; 300_000];
    let packet_id = client.next_id();
    client.send(&Packet::Unsubscribe(Unsubscribe {
        packet_id,
        user_properties: Default::default(),
        filters: (&filters[..]).into(),
    }));
    let reply = client.receive();
    let Packet::Unsuback(unsuback) = reply.packet() else { panic!("{:?}", reply.packet()) };
    assert_eq!(unsuback.reasons.len(), 300_000);
    neighbours.talk();
}
