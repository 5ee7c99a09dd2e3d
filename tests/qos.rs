//! QoS 1 and 2: packet ids, acknowledgements, windows and what is sent again on resume.

mod support;

use ringmq::codec::AckKind;
use support::{
    Client, Message, Packet, PacketId, QoS, ReasonCode, Server, VERSIONS, Version, over_shards,
};

const V5: Version = Version::V5;

fn ids(messages: &[Message]) -> Vec<u16> {
    messages.iter().map(|message| message.packet_id).collect()
}

fn texts(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(Message::text).collect()
}

#[test]
fn packet_ids_count_up_from_one_in_each_session() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for version in VERSIONS {
            let mut client = server.connect_persistent(version, &format!("client-{version}"));
            client.subscribe("t", QoS::ExactlyOnce);
            for n in 1..=5 {
                let qos = if n % 2 == 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
                publisher.publish("t", "", qos);
                assert_eq!(client.take_message("t", "").packet_id, n);
            }
            client.expect_nothing();
            client.disconnect();
            // The session goes on, and so do its ids.
            let mut client = server.connect_persistent(version, &format!("client-{version}"));
            publisher.publish("t", "", QoS::AtLeastOnce);
            assert_eq!(client.take_message("t", "").packet_id, 6);
            client.unsubscribe(&["t"]);
            client.disconnect();
        }
    });
}

#[test]
fn packet_ids_that_are_in_use_are_passed_over_when_they_come_round() {
    const BATCH: u16 = 1_285;
    const _: () = assert!(u16::MAX % BATCH == 0);
    let server = Server::start(&["--max-inflight=2000"]);
    let mut client = server.connect(V5, "client");
    client.subscribe("t", QoS::AtLeastOnce);
    let mut publisher = server.connect(V5, "publisher");
    for batch in 0..u16::MAX / BATCH {
        for _ in 0..BATCH {
            publisher.send_publish("t", "", QoS::AtLeastOnce);
        }
        publisher.drain();
        let got = ids(&client.drain());
        assert_eq!(got, (1..=BATCH).map(|n| batch * BATCH + n).collect::<Vec<_>>());
        // 1 is never acknowledged.
        for id in got.into_iter().filter(|id| *id != 1) {
            client.ack(AckKind::Puback, id);
        }
    }
    publisher.publish("t", "", QoS::AtLeastOnce);
    assert_eq!(client.expect_publish().packet_id, 2);
}

#[test]
fn what_was_not_acknowledged_comes_again_in_order_and_marked() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for version in VERSIONS {
            let mut client = server.connect_persistent(version, "client");
            client.subscribe("t", QoS::ExactlyOnce);
            let qos = [QoS::AtLeastOnce, QoS::ExactlyOnce];
            for n in 0..8 {
                publisher.publish("t", n.to_string(), qos[n % 2]);
            }
            let first = client.drain();
            assert_eq!(texts(&first), ["0", "1", "2", "3", "4", "5", "6", "7"]);
            assert!(first.iter().all(|message| !message.dup));
            // One of each kind is finished, and one is half done.
            client.ack(AckKind::Puback, first[2].packet_id);
            client.acknowledge(&first[1]);
            client.ack(AckKind::Pubrec, first[5].packet_id);
            client.expect_ack(AckKind::Pubrel, first[5].packet_id);
            client.cut();
            publisher.publish("t", "new", QoS::AtLeastOnce);

            let mut client = server.connect_persistent(version, "client");
            assert_eq!(client.connack.session_present, version > Version::V3_1);
            for n in [0, 3, 4] {
                let message = client.expect_message("t", &n.to_string());
                assert!(message.dup, "{message:?}");
                assert_eq!((message.packet_id, message.qos), (first[n].packet_id, qos[n % 2]));
            }
            client.expect_ack(AckKind::Pubrel, first[5].packet_id);
            for n in [6, 7] {
                assert!(client.expect_message("t", &n.to_string()).dup);
            }
            let new = client.expect_message("t", "new");
            assert!(!new.dup);
            client.ack(AckKind::Pubcomp, first[5].packet_id);
            for n in [0, 4, 6] {
                client.ack(AckKind::Puback, first[n].packet_id);
            }
            client.ack(AckKind::Puback, new.packet_id);
            client.acknowledge(&first[3]);
            client.acknowledge(&first[7]);
            client.expect_nothing();
            client.disconnect();

            let mut client = server.connect_persistent(version, "client");
            client.expect_nothing();
            client.unsubscribe(&["t"]);
            client.disconnect();
        }
    });
}

#[test]
fn a_qos_2_message_that_comes_twice_is_delivered_once() {
    over_shards(&[], |server| {
        for version in VERSIONS {
            let mut subscriber = server.connect(V5, "subscriber");
            subscriber.subscribe("t", QoS::ExactlyOnce);
            let client_id = format!("client-{version}");
            let mut client = server.connect_persistent(version, &client_id);
            let id = client.send_publish("t", "once", QoS::ExactlyOnce);
            client.expect_ack(AckKind::Pubrec, id);
            let again = |client: &mut Client| {
                client.send_publish_with("t", b"once", QoS::ExactlyOnce, |publish| {
                    publish.dup = true;
                    publish.packet_id = PacketId::new(id);
                });
                assert_eq!(client.expect_ack(AckKind::Pubrec, id), ReasonCode::Success);
            };
            again(&mut client);
            client.cut();
            let mut client = server.connect_persistent(version, &client_id);
            again(&mut client);
            client.ack(AckKind::Pubrel, id);
            assert_eq!(client.expect_ack(AckKind::Pubcomp, id), ReasonCode::Success);
            // A PUBREL that comes again is answered too.
            client.ack(AckKind::Pubrel, id);
            let reason = client.expect_ack(AckKind::Pubcomp, id);
            if version == V5 {
                assert_eq!(reason, ReasonCode::PacketIdentifierNotFound);
            }
            // Now the id is free: this is another message.
            client.send_publish_with("t", b"another", QoS::ExactlyOnce, |publish| {
                publish.packet_id = PacketId::new(id);
            });
            client.expect_ack(AckKind::Pubrec, id);
            subscriber.take_message("t", "once");
            subscriber.take_message("t", "another");
            subscriber.expect_nothing();
            client.disconnect();
        }
    });
}

#[test]
fn a_clean_start_forgets_received_packet_ids() {
    let server = Server::start(&[]);
    let mut subscriber = server.connect(V5, "subscriber");
    subscriber.subscribe("t", QoS::AtMostOnce);
    for n in ["1", "2"] {
        let mut client = server.connect(V5, "client");
        let id = client.send_publish("t", n, QoS::ExactlyOnce);
        client.expect_ack(AckKind::Pubrec, id);
        client.cut();
        subscriber.expect_message("t", n);
    }
}

#[test]
fn the_window_towards_a_client_is_never_exceeded() {
    over_shards(&["--max-inflight=4"], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for (version, maximum, window) in [
            (Version::V3_1, None, 4),
            (Version::V3_1_1, None, 4),
            (V5, None, 4),
            (V5, Some(2), 2),
            (V5, Some(1), 1),
            (V5, Some(100), 4),
        ] {
            let mut client = server.connect_with(version, "client", |connect| {
                connect.properties.receive_maximum = maximum;
            });
            client.subscribe("t", QoS::ExactlyOnce);
            for n in 0..10 {
                let qos = if n % 3 == 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
                publisher.publish("t", n.to_string(), qos);
            }
            // QoS 0 does not wait for the window.
            publisher.publish("t", "zero", QoS::AtMostOnce);
            publisher.drain();
            let mut pending = client.drain();
            assert_eq!(pending.pop().map(|message| message.qos), Some(QoS::AtMostOnce));
            let mut seen = 0;
            while seen < 10 {
                assert_eq!(pending.len(), window.min(10 - seen), "{version} {maximum:?}");
                let first = pending.remove(0);
                assert_eq!(first.text(), seen.to_string());
                if first.qos == QoS::ExactlyOnce {
                    client.ack(AckKind::Pubrec, first.packet_id);
                    client.expect_ack(AckKind::Pubrel, first.packet_id);
                    // The window counts until PUBCOMP. MQTT 5.0 section 4.9.
                    client.expect_nothing();
                    client.ack(AckKind::Pubcomp, first.packet_id);
                } else {
                    client.ack(AckKind::Puback, first.packet_id);
                }
                seen += 1;
                pending.extend(client.drain());
            }
            client.disconnect();
        }
    });
}

#[test]
fn the_window_holds_for_what_is_sent_again() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V5, "publisher");
    let mut client = server.connect_persistent(V5, "client");
    client.subscribe("t", QoS::AtLeastOnce);
    for n in 0..6 {
        publisher.publish("t", n.to_string(), QoS::AtLeastOnce);
    }
    assert_eq!(ids(&client.drain()), [1, 2, 3, 4, 5, 6]);
    client.cut();
    let mut client = server.connect_with(V5, "client", |connect| {
        connect.clean_start = false;
        connect.properties.receive_maximum = Some(2);
    });
    publisher.publish("t", "6", QoS::AtLeastOnce);
    let mut pending = client.drain();
    for n in 0..7 {
        assert_eq!(pending.len(), if n == 6 { 1 } else { 2 });
        let message = pending.remove(0);
        assert_eq!(message.text(), n.to_string());
        assert_eq!(message.dup, n < 6);
        client.ack(AckKind::Puback, message.packet_id);
        pending.extend(client.drain());
    }
}

#[test]
fn a_refused_message_makes_room() {
    let server = Server::start(&["--max-inflight=1"]);
    let mut publisher = server.connect(V5, "publisher");
    let mut client = server.connect(V5, "client");
    client.subscribe("t", QoS::ExactlyOnce);
    for (n, qos) in [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtLeastOnce].into_iter().enumerate() {
        publisher.publish("t", n.to_string(), qos);
    }
    let message = client.expect_message("t", "0");
    client.ack_with(AckKind::Pubrec, message.packet_id, ReasonCode::QuotaExceeded);
    let message = client.expect_message("t", "1");
    client.ack_with(AckKind::Puback, message.packet_id, ReasonCode::UnspecifiedError);
    client.expect_message("t", "2");
}

#[test]
fn more_qos_2_messages_than_were_allowed_end_the_connection() {
    over_shards(&["--receive-maximum=5", "--max-awaiting-rel=3"], |server| {
        for (version, allowed) in [(Version::V3_1_1, 3), (V5, 5)] {
            let mut client = server.connect(version, "client");
            for _ in 0..allowed {
                let id = client.send_publish("t", "", QoS::ExactlyOnce);
                client.expect_ack(AckKind::Pubrec, id);
            }
            // QoS 1 is acknowledged at once, and takes no room.
            let id = client.send_publish("t", "", QoS::AtLeastOnce);
            client.expect_ack(AckKind::Puback, id);
            client.send_publish("t", "", QoS::ExactlyOnce);
            client.expect_disconnect(ReasonCode::ReceiveMaximumExceeded);
        }
    });
}

#[test]
fn acknowledgements_out_of_place() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V5, "publisher");
    let mut client = server.connect(V5, "client");
    client.subscribe("t", QoS::ExactlyOnce);
    // Of messages that there are not: harmless.
    client.ack(AckKind::Puback, 77);
    client.ack(AckKind::Pubcomp, 77);
    client.ack_with(AckKind::Pubrec, 77, ReasonCode::UnspecifiedError);
    client.expect_nothing();
    client.ack(AckKind::Pubrec, 77);
    let reason = client.expect_ack(AckKind::Pubrel, 77);
    assert_eq!(reason, ReasonCode::PacketIdentifierNotFound);
    // Of the wrong kind for a message that there is.
    for (qos, wrong) in [
        (QoS::AtLeastOnce, AckKind::Pubrec),
        (QoS::AtLeastOnce, AckKind::Pubcomp),
        (QoS::ExactlyOnce, AckKind::Puback),
        (QoS::ExactlyOnce, AckKind::Pubcomp),
    ] {
        let mut client = server.connect(V5, "client");
        client.subscribe("t", QoS::ExactlyOnce);
        publisher.publish("t", "", qos);
        let id = client.expect_publish().packet_id;
        client.ack(wrong, id);
        client.expect_disconnect(ReasonCode::ProtocolError);
    }
    // Of packet id 0. [MQTT-2.2.1-3]
    let mut client = server.connect(V5, "client");
    client.send_raw(b"\x40\x02\0\0");
    client.expect_disconnect(ReasonCode::ProtocolError);
}

#[test]
fn a_pubrec_that_comes_again_is_answered_again() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V5, "publisher");
    let mut client = server.connect(V5, "client");
    client.subscribe("t", QoS::ExactlyOnce);
    publisher.publish("t", "", QoS::ExactlyOnce);
    let id = client.expect_publish().packet_id;
    for _ in 0..3 {
        client.ack(AckKind::Pubrec, id);
        assert_eq!(client.expect_ack(AckKind::Pubrel, id), ReasonCode::Success);
    }
    client.ack(AckKind::Pubcomp, id);
    client.ack(AckKind::Pubcomp, id);
    client.send(&Packet::Pingreq);
    assert_eq!(client.receive().packet(), Packet::Pingresp);
}
