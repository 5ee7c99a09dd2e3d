//! 4.2 to 4.6: transport, the flows of QoS 1 and 2, what is sent again, and order.

use ringmq::codec::AckKind;

use super::{EVERY_QOS, V5, connect_packet, subscriber};
use crate::support::{Client, Message, Packet, QoS, ReasonCode, Server, over_shards};

#[test]
fn mqtt5_4_2_0_1_tcp_carries_packets_however_its_bytes_are_cut() {
    let server = Server::start(&[]);
    let packets = [
        &connect_packet(2, &[b"\0\x01a"])[..],
        b"\x82\x07\0\x01\0\0\x01t\0",
        b"\x30\x06\0\x01t\0hi\xc0\0",
    ]
    .concat();
    for size in [1, 2, 3, 5, packets.len()] {
        let mut client = server.open(V5);
        packets.chunks(size).for_each(|chunk| client.send_raw(chunk));
        client.expect_connack();
        client.expect_suback(1);
        client.expect_message("t", "hi");
        assert_eq!(client.receive().packet(), Packet::Pingresp);
    }
    // In the other direction: more than fits into the buffers on the way.
    let mut client = subscriber(&server, "t");
    let payload: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    for _ in 0..4 {
        server.connect(V5, "publisher").publish("t", &payload, QoS::AtLeastOnce);
    }
    for _ in 0..4 {
        assert!(client.expect_publish().payload == payload);
    }
}

/// A client with a session that stays, subscribed to `t`, that has got but not acknowledged one
/// message of this QoS.
fn with_one_in_flight(server: &Server, qos: QoS) -> (Client, Message) {
    let mut client = server.connect_persistent(V5, "device");
    client.subscribe("t", QoS::ExactlyOnce);
    server.connect(V5, "publisher").publish("t", "x", qos);
    let message = client.expect_message("t", "x");
    assert!(!message.dup && message.packet_id != 0);
    (client, message)
}

/// The next connection to the session.
fn again(server: &Server, client: Client) -> Client {
    client.cut();
    let client = server.connect_persistent(V5, "device");
    assert!(client.connack.session_present);
    client
}

/// Shows: MQTT5-4.3.2-2
#[test]
fn mqtt5_4_3_2_3_qos_1_is_owed_until_puback() {
    over_shards(&[], |server| {
        let (mut client, message) = with_one_in_flight(server, QoS::AtLeastOnce);
        for _ in 0..3 {
            client = again(server, client);
            let repeated = client.expect_message("t", "x");
            assert_eq!(repeated, Message { dup: true, ..message.clone() });
            client.expect_nothing();
        }
        client.ack(AckKind::Puback, message.packet_id);
        client.expect_nothing();
        again(server, client).expect_nothing();
    });
}

/// Shows: MQTT5-4.3.3-2
#[test]
fn mqtt5_4_3_3_3_qos_2_is_owed_until_pubrec() {
    over_shards(&[], |server| {
        let (mut client, message) = with_one_in_flight(server, QoS::ExactlyOnce);
        for _ in 0..3 {
            client = again(server, client);
            let repeated = client.expect_message("t", "x");
            assert_eq!(repeated, Message { dup: true, ..message.clone() });
            client.expect_nothing();
        }
        client.acknowledge(&message);
        client.expect_nothing();
        again(server, client).expect_nothing();
    });
}

/// Shows: MQTT5-4.3.3-4, MQTT5-4.3.3-6
#[test]
fn mqtt5_4_3_3_5_pubrel_is_owed_until_pubcomp_and_the_message_no_more() {
    over_shards(&[], |server| {
        let (mut client, message) = with_one_in_flight(server, QoS::ExactlyOnce);
        client.ack(AckKind::Pubrec, message.packet_id);
        client.expect_ack(AckKind::Pubrel, message.packet_id);
        for _ in 0..3 {
            client = again(server, client);
            client.expect_ack(AckKind::Pubrel, message.packet_id);
            client.expect_nothing();
        }
        client.ack(AckKind::Pubcomp, message.packet_id);
        client.expect_nothing();
        again(server, client).expect_nothing();
    });
}

#[test]
fn mqtt5_4_3_2_5_after_puback_the_identifier_is_that_of_a_new_message() {
    let server = Server::start(&[]);
    let mut watcher = subscriber(&server, "t");
    let mut client = server.connect(V5, "client");
    // Without and with DUP.
    for header in [0x32, 0x3a, 0x32] {
        client.send_raw(&[header, 7, 0, 1, b't', 0, 5, 0, b'x']);
        client.expect_ack(AckKind::Puback, 5);
        watcher.take_message("t", "x");
    }
}

#[test]
fn mqtt5_4_3_3_9_after_a_pubrec_that_refuses_the_identifier_is_that_of_a_new_message() {
    let server = Server::start(&[]);
    let mut watcher = subscriber(&server, "t");
    let mut client = server.connect(V5, "client");
    let id = client.send_publish("$SYS/x", "x", QoS::ExactlyOnce);
    assert_eq!(client.expect_ack(AckKind::Pubrec, id), ReasonCode::NotAuthorized);
    client.send_publish_with("t", b"x", QoS::ExactlyOnce, |publish| {
        publish.packet_id = ringmq::codec::PacketId::new(id);
    });
    assert_eq!(client.expect_ack(AckKind::Pubrec, id), ReasonCode::Success);
    watcher.take_message("t", "x");
    // The exchange that was refused is over: there is nothing to release but the second.
    client.ack(AckKind::Pubrel, id);
    assert_eq!(client.expect_ack(AckKind::Pubcomp, id), ReasonCode::Success);
}

/// Shows: MQTT5-4.3.3-8, MQTT5-4.3.3-12
#[test]
fn mqtt5_4_3_3_10_until_pubrel_a_repeated_publish_is_acknowledged_and_not_delivered() {
    over_shards(&[], |server| {
        let mut watcher = subscriber(server, "t");
        let mut client = server.connect_persistent(V5, "device");
        let send = |client: &mut Client, header| {
            client.send_raw(&[header, 7, 0, 1, b't', 0, 5, 0, b'x']);
            assert_eq!(client.expect_ack(AckKind::Pubrec, 5), ReasonCode::Success);
        };
        send(&mut client, 0x34);
        watcher.take_message("t", "x");
        send(&mut client, 0x3c);
        // It is the identifier that counts, not DUP; and another connection changes nothing.
        send(&mut client, 0x34);
        client = again(server, client);
        send(&mut client, 0x3c);
        watcher.expect_nothing();
        client.ack(AckKind::Pubrel, 5);
        assert_eq!(client.expect_ack(AckKind::Pubcomp, 5), ReasonCode::Success);
        send(&mut client, 0x34);
        watcher.take_message("t", "x");
        watcher.expect_nothing();
    });
}

#[test]
fn mqtt5_4_4_0_2_a_refusal_acknowledges() {
    over_shards(&[], |server| {
        for (qos, kind) in
            [(QoS::AtLeastOnce, AckKind::Puback), (QoS::ExactlyOnce, AckKind::Pubrec)]
        {
            let (mut client, message) = with_one_in_flight(server, qos);
            client.ack_with(kind, message.packet_id, ReasonCode::UnspecifiedError);
            // No PUBREL follows, and nothing is sent again.
            client.expect_nothing();
            again(server, client).expect_nothing();
        }
    });
}

/// An acknowledgement of another flow than the message's is none (4.3).
#[test]
fn an_acknowledgement_of_the_wrong_kind_is_a_protocol_error() {
    let server = Server::start(&[]);
    for (qos, wrong) in [
        (QoS::AtLeastOnce, AckKind::Pubrec),
        (QoS::AtLeastOnce, AckKind::Pubcomp),
        (QoS::ExactlyOnce, AckKind::Puback),
        (QoS::ExactlyOnce, AckKind::Pubcomp),
    ] {
        let (mut client, message) = with_one_in_flight(&server, qos);
        client.ack(wrong, message.packet_id);
        client.expect_disconnect(ReasonCode::ProtocolError);
        server.connect(V5, "device").disconnect();
    }
}

/// Shows: MQTT5-4.6.0-6
#[test]
fn mqtt5_4_6_0_5_messages_of_one_publisher_keep_their_order() {
    over_shards(&[], |server| {
        let mut clients: Vec<_> =
            ["a", "b", "c"].iter().map(|id| (server.connect(V5, id), Vec::new())).collect();
        for (client, _) in &mut clients {
            client.subscribe("t/#", QoS::ExactlyOnce);
        }
        let mut publishers = [server.connect(V5, "p"), server.connect(V5, "q")];
        for n in 0..8 {
            for (p, publisher) in publishers.iter_mut().enumerate() {
                for qos in EVERY_QOS {
                    // Of two topics, in turns.
                    let (topic, text) = (format!("t/{}", n % 2), format!("{p} {n:02}"));
                    publisher.send_publish(&topic, text, qos);
                }
            }
        }
        for publisher in &mut publishers {
            publisher.send(&Packet::Pingreq);
            while publisher.receive().packet() != Packet::Pingresp {}
        }
        for (client, messages) in &mut clients {
            // More than are in flight at once: take them one by one.
            for _ in 0..2 * 8 * 3 {
                let message = client.expect_publish();
                client.acknowledge(&message);
                messages.push(message);
            }
            client.expect_nothing();
            for (p, topic) in [("0", "t/0"), ("0", "t/1"), ("1", "t/0"), ("1", "t/1")] {
                for qos in EVERY_QOS {
                    let is_one =
                        |m: &&Message| m.qos == qos && m.topic == topic && m.text().starts_with(p);
                    let texts: Vec<_> = messages.iter().filter(is_one).map(Message::text).collect();
                    assert_eq!(texts.len(), 4);
                    assert!(texts.is_sorted(), "{texts:?}");
                }
            }
        }
    });
}
