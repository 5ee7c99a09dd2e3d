//! Clients that acknowledge too little, too much, or the wrong thing.

use std::{io::Write, thread};

use ringmq::codec::{AckKind, PacketId, encode_ack};

use crate::{
    neighbours::Neighbours,
    support::{Client, Packet, QoS, ReasonCode, Server, Version},
};

const V5: Version = Version::V5;

#[test]
fn acknowledgements_of_what_was_never_sent_are_answered_or_ignored() {
    const IDS: u16 = 20_000;
    let server = Server::start(&["--shards=2"]);
    let neighbours = Neighbours::start(&server);
    for version in [Version::V3_1_1, V5] {
        let mut client = server.connect(version, "client");
        let mut burst = Vec::new();
        for id in (1..=IDS).map(|id| PacketId::new(id).unwrap()) {
            for kind in [AckKind::Puback, AckKind::Pubrec, AckKind::Pubrel, AckKind::Pubcomp] {
                encode_ack(kind, id, ReasonCode::Success, version, &mut burst);
            }
        }
        let mut stream = client.stream().try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || stream.write_all(&burst).unwrap());
            // PUBREC and PUBREL have an answer, which before MQTT 5 cannot say more.
            let unknown = match version {
                V5 => ReasonCode::PacketIdentifierNotFound,
                _ => ReasonCode::Success,
            };
            for id in 1..=IDS {
                assert_eq!(client.expect_ack(AckKind::Pubrel, id), unknown);
                assert_eq!(client.expect_ack(AckKind::Pubcomp, id), unknown);
            }
        });
        client.expect_nothing();
        neighbours.go_on();
    }
    neighbours.finish();
}

#[test]
fn the_wrong_kind_of_acknowledgement_ends_the_connection_and_keeps_the_message() {
    let server = Server::start(&["--shards=2"]);
    let neighbours = Neighbours::start(&server);
    let mut publisher = server.connect(V5, "publisher");
    for (qos, wrong) in [
        (QoS::AtLeastOnce, AckKind::Pubrec),
        (QoS::AtLeastOnce, AckKind::Pubcomp),
        (QoS::ExactlyOnce, AckKind::Puback),
        (QoS::ExactlyOnce, AckKind::Pubcomp),
    ] {
        let mut client = server.connect_persistent(V5, "client");
        client.subscribe("t", qos);
        publisher.publish("t", "x", qos);
        let message = client.expect_message("t", "x");
        client.ack(wrong, message.packet_id);
        client.expect_disconnect(ReasonCode::ProtocolError);
        let mut client = server.connect_persistent(V5, "client");
        assert!(client.take_message("t", "x").dup);
        client.expect_nothing();
        client.disconnect();
        // The next round begins without a session.
        server.connect(V5, "client").disconnect();
    }
    neighbours.finish();
}

#[test]
fn messages_of_qos_2_that_are_never_released_are_bounded_and_delivered_once() {
    const CLIENTS: usize = 20;
    const MAXIMUM: u16 = 100;
    let server = Server::start(&["--shards=2"]);
    let neighbours = Neighbours::start(&server);
    let mut subscriber = server.connect(V5, "subscriber");
    subscriber.subscribe("t/#", QoS::AtMostOnce);
    for n in 0..CLIENTS {
        let version = [Version::V3_1_1, V5][n % 2];
        let name = format!("client-{n}");
        let topic = format!("t/{n}");
        let mut client = server.connect_persistent(version, &name);
        let ids: Vec<u16> =
            (0..MAXIMUM).map(|_| client.send_publish(&topic, "x", QoS::ExactlyOnce)).collect();
        for id in &ids {
            client.expect_ack(AckKind::Pubrec, *id);
        }
        // The same ones over and over are no new messages.
        for _ in 0..5 {
            for id in &ids {
                let packet_id = PacketId::new(*id);
                client.send_publish_with(&topic, b"x", QoS::ExactlyOnce, |publish| {
                    (publish.packet_id, publish.dup) = (packet_id, true);
                });
                client.expect_ack(AckKind::Pubrec, *id);
            }
        }
        // One too many.
        client.send_publish(&topic, "x", QoS::ExactlyOnce);
        client.expect_disconnect(ReasonCode::ReceiveMaximumExceeded);
        for _ in 0..MAXIMUM {
            subscriber.expect_message(&topic, "x");
        }
        subscriber.expect_nothing();
        let mut client = server.connect_persistent(version, &name);
        for id in ids {
            client.ack(AckKind::Pubrel, id);
            assert_eq!(client.expect_ack(AckKind::Pubcomp, id), ReasonCode::Success);
        }
        client.expect_nothing();
    }
    neighbours.finish();
}

/// Reads until the connection ends, and acknowledges nothing.
fn read_on(mut client: Client) -> usize {
    let mut messages = 0;
    while let Some(reply) = client.receive_or_disconnect() {
        messages += usize::from(matches!(reply.packet(), Packet::Publish(_)));
    }
    messages
}

#[test]
fn readers_that_never_acknowledge_get_their_window_and_no_more() {
    const INFLIGHT: usize = 8;
    let server = Server::start(&[
        "--shards=2",
        &format!("--max-inflight={INFLIGHT}"),
        "--max-queued-messages=20",
    ]);
    let neighbours = Neighbours::start(&server);
    let before = server.resident_kib();
    let connect = |n: usize| {
        let mut client = server.connect(V5, &format!("reader-{n}"));
        client.subscribe("t", [QoS::AtLeastOnce, QoS::ExactlyOnce][n % 2]);
        client
    };
    let readers: Vec<_> = (0..20).map(connect).collect();
    let ends: Vec<_> = readers.iter().map(|r| r.stream().try_clone().unwrap()).collect();
    let mut publisher = server.connect(V5, "publisher");
    thread::scope(|scope| {
        let threads: Vec<_> =
            readers.into_iter().map(|reader| scope.spawn(|| read_on(reader))).collect();
        for _ in 0..500 {
            publisher.publish("t", [b'x'; 10_000], QoS::ExactlyOnce);
        }
        neighbours.go_on();
        // 28 messages of 10 KB for each of 20, were they not shared.
        let grown = server.resident_kib().saturating_sub(before);
        assert!(grown < 16 * 1024, "{grown} KiB");
        for end in ends {
            end.shutdown(std::net::Shutdown::Write).unwrap();
        }
        for thread in threads {
            assert_eq!(thread.join().unwrap(), INFLIGHT);
        }
    });
    neighbours.finish();
}
