//! Sessions: how they start, resume, queue, are taken over, and end.

mod support;

use ringmq::codec::WillProperties;
use support::{
    Client, Connect, Disconnect, QoS, ReasonCode, Server, VERSIONS, Version, Will, over_shards,
};

const V5: Version = Version::V5;

fn resume(server: &Server, expiry: Option<u32>) -> Client {
    server.connect_with(V5, "client", |connect| {
        connect.clean_start = false;
        connect.properties.session_expiry_interval = expiry;
    })
}

/// A client whose session ends so many seconds after it has gone, and then has its id published as its
/// will to `end`.
fn resume_until_end<'a>(server: &Server, client_id: &'a str, expiry: u32) -> Client {
    server.connect_with(V5, client_id, |connect: &mut Connect<'a>| {
        connect.clean_start = false;
        connect.properties.session_expiry_interval = Some(expiry);
        connect.will = Some(Will {
            topic: "end",
            payload: client_id.as_bytes(),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: WillProperties { delay_interval: u32::MAX, ..WillProperties::default() },
        });
    })
}

/// Whether the session is there; it is as before afterwards.
fn session_exists(server: &Server) -> bool {
    let client = resume(server, Some(3_600));
    let present = client.connack.session_present;
    client.disconnect();
    present
}

#[test]
fn a_session_without_expiry_ends_with_its_connection() {
    over_shards(&[], |server| {
        for how in 0..2 {
            let mut client = resume(server, None);
            assert!(!client.connack.session_present);
            client.subscribe("t", QoS::AtLeastOnce);
            if how == 0 { client.disconnect() } else { client.cut() }
        }
        // Of a 3.x client: Clean Session 1 keeps nothing.
        for version in [Version::V3_1, Version::V3_1_1] {
            let mut client = server.connect(version, "old");
            client.subscribe("t", QoS::AtLeastOnce);
            client.disconnect();
            let client = server.connect_persistent(version, "old");
            assert!(!client.connack.session_present);
            let mut publisher = server.connect(V5, "publisher");
            let reason = publisher.publish("t", "", QoS::AtLeastOnce);
            assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
            client.disconnect();
            server.connect(version, "old").disconnect();
        }
    });
}

#[test]
fn a_persistent_session_comes_back_and_a_clean_start_ends_it() {
    over_shards(&[], |server| {
        for version in VERSIONS {
            let mut client = server.connect_persistent(version, "client");
            assert!(!client.connack.session_present);
            client.subscribe("t", QoS::AtLeastOnce);
            client.disconnect();
            let mut client = server.connect_persistent(version, "client");
            assert_eq!(client.connack.session_present, version > Version::V3_1);
            let mut publisher = server.connect(V5, "publisher");
            publisher.publish("t", "1", QoS::AtLeastOnce);
            client.take_message("t", "1");
            client.disconnect();

            let mut client = server.connect(version, "client");
            assert!(!client.connack.session_present);
            publisher.publish("t", "2", QoS::AtLeastOnce);
            client.expect_nothing();
            client.disconnect();
        }
    });
}

#[test]
fn a_session_expires() {
    over_shards(&["--log-level=debug"], |server| {
        let mut watcher = server.connect(V5, "watcher");
        watcher.subscribe("end", QoS::AtMostOnce);
        let mut client = resume_until_end(server, "client", 1);
        client.subscribe("t", QoS::AtLeastOnce);
        client.cut();
        watcher.expect_message("end", "client");
        let reason = watcher.publish("t", "", QoS::AtLeastOnce);
        assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
        assert!(!session_exists(server));
    });
}

#[test]
fn disconnect_changes_the_expiry() {
    let server = Server::start(&[]);
    let change = |client: Client, expiry| {
        client.disconnect_with(Disconnect {
            session_expiry_interval: Some(expiry),
            ..Disconnect::default()
        });
    };
    // To nothing: it ends at once.
    change(resume(&server, Some(100)), 0);
    assert!(!session_exists(&server));
    // Without a word it stays as it was.
    assert!(session_exists(&server));
    // From nothing to something is a protocol error, and the session ends. MQTT 5.0, 3.14.2.2.2.
    let mut client = resume(&server, None);
    client.send(&support::Packet::Disconnect(Disconnect {
        session_expiry_interval: Some(10),
        ..Disconnect::default()
    }));
    client.expect_disconnect(ReasonCode::ProtocolError);
    assert!(!session_exists(&server));
}

#[test]
fn a_resume_sets_the_expiry_anew() {
    let server = Server::start(&[]);
    resume(&server, Some(3_600)).disconnect();
    let client = resume(&server, None);
    assert!(client.connack.session_present);
    client.disconnect();
    assert!(!session_exists(&server));
}

#[test]
fn the_session_expiry_is_capped() {
    let server = Server::start(&["--max-session-expiry=0"]);
    let client = resume(&server, Some(u32::MAX));
    assert_eq!(client.connack.session_expiry_interval, Some(0));
    client.disconnect();
    let client = resume(&server, None);
    assert!(!client.connack.session_present);
    client.disconnect();
    for _ in 0..2 {
        let client = server.connect_persistent(Version::V3_1_1, "old");
        assert!(!client.connack.session_present);
        client.disconnect();
    }
}

#[test]
fn messages_wait_for_an_absent_client() {
    // A window of one message makes the order of what comes simple to say.
    over_shards(&["--max-inflight=1"], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for version in VERSIONS {
            let mut client = server.connect_persistent(version, "client");
            client.subscribe("a/#", QoS::ExactlyOnce);
            client.disconnect();
            for n in 0..40 {
                publisher.publish("a/0", n.to_string(), QoS::AtMostOnce);
                publisher.publish("a/1", n.to_string(), QoS::AtLeastOnce);
                publisher.publish("a/2", n.to_string(), QoS::ExactlyOnce);
            }
            let mut client = server.connect_persistent(version, "client");
            for n in 0..40 {
                let first = client.take_message("a/1", &n.to_string());
                assert_eq!((first.qos, first.dup), (QoS::AtLeastOnce, false));
                let second = client.take_message("a/2", &n.to_string());
                assert_eq!((second.qos, second.dup), (QoS::ExactlyOnce, false));
            }
            client.expect_nothing();
            client.disconnect();
            server.connect(version, "client").disconnect();
        }
    });
}

#[test]
fn the_offline_queue_is_capped_in_messages_and_bytes() {
    for (flags, kept) in [
        (&["--max-queued-messages=5"][..], 5..10),
        (&["--max-queued-messages=5", "--queue-overflow=drop-newest"][..], 0..5),
        // Room for three payloads of 1,000 bytes and what belongs to them.
        (
            &["--max-queued-bytes=3500", "--max-packet-size=3500", "--max-outbox-bytes=3500"][..],
            7..10,
        ),
    ] {
        let server = Server::start(flags);
        let mut client = server.connect_persistent(V5, "client");
        client.subscribe("t", QoS::AtLeastOnce);
        client.disconnect();
        let mut publisher = server.connect(V5, "publisher");
        for n in 0..10 {
            publisher.publish("t", format!("{n:01000}"), QoS::AtLeastOnce);
        }
        let mut client = server.connect_persistent(V5, "client");
        for n in kept {
            client.take_message("t", &format!("{n:01000}"));
        }
        client.expect_nothing();
    }
}

#[test]
fn qos_0_waits_only_where_a_flag_asks_for_it() {
    let server = Server::start(&["--queue-qos0"]);
    let mut client = server.connect_persistent(V5, "client");
    client.subscribe("t", QoS::AtLeastOnce);
    client.disconnect();
    let mut publisher = server.connect(V5, "publisher");
    publisher.publish("t", "0", QoS::AtMostOnce);
    publisher.publish("t", "1", QoS::AtLeastOnce);
    let mut client = server.connect_persistent(V5, "client");
    assert_eq!(client.expect_message("t", "0").qos, QoS::AtMostOnce);
    client.take_message("t", "1");
    client.expect_nothing();
}

#[test]
fn a_queue_larger_than_the_outbox_arrives_whole() {
    over_shards(
        &["--queue-qos0", "--max-outbox-bytes=64KiB", "--max-packet-size=64KiB"],
        |server| {
            let mut client = server.connect_persistent(V5, "client");
            client.subscribe("t", QoS::AtLeastOnce);
            client.disconnect();
            let mut publisher = server.connect(V5, "publisher");
            for n in 0..50 {
                publisher.publish("t", format!("{n:010000}"), QoS::AtMostOnce);
            }
            publisher.drain();
            let mut client = server.connect_persistent(V5, "client");
            for n in 0..50 {
                client.expect_message("t", &format!("{n:010000}"));
            }
        },
    );
}

#[test]
fn a_queued_message_expires() {
    over_shards(&[], |server| {
        let mut client = server.connect_persistent(V5, "client");
        client.subscribe("t", QoS::AtLeastOnce);
        client.disconnect();
        let mut publisher = server.connect(V5, "publisher");
        for (payload, expiry) in [("short", 1), ("long", 600)] {
            publisher.publish_with("t", payload.as_bytes(), QoS::AtLeastOnce, |publish| {
                publish.properties.message_expiry_interval = Some(expiry);
            });
        }
        // Another client's session of the same length says when the time is over.
        publisher.subscribe("end", QoS::AtMostOnce);
        resume_until_end(server, "watcher", 2).cut();
        publisher.expect_message("end", "watcher");
        let mut client = server.connect_persistent(V5, "client");
        let message = client.take_message("t", "long");
        assert!(message.expiry.is_some_and(|left| (500..600).contains(&left)), "{message:?}");
        client.expect_nothing();
    });
}

#[test]
fn a_second_connection_takes_the_session_over() {
    over_shards(&[], |server| {
        for (first, second) in [(V5, V5), (V5, Version::V3_1_1), (Version::V3_1_1, V5)] {
            let mut old = server.connect_persistent(first, "client");
            old.subscribe("t", QoS::AtLeastOnce);
            let mut publisher = server.connect(V5, "publisher");
            publisher.publish("t", "1", QoS::AtLeastOnce);
            old.expect_message("t", "1");
            let mut new = server.connect_persistent(second, "client");
            old.expect_disconnect(ReasonCode::SessionTakenOver);
            assert!(new.connack.session_present);
            assert!(new.take_message("t", "1").dup);
            publisher.publish("t", "2", QoS::AtLeastOnce);
            new.take_message("t", "2");
            new.expect_nothing();
            new.disconnect();
            server.connect(V5, "client").disconnect();
        }
    });
}

#[test]
fn many_take_overs_at_once_leave_one_client() {
    over_shards(&[], |server| {
        let mut clients: Vec<_> = (0..50)
            .map(|_| {
                let mut client = server.open(V5);
                client.send_connect("client", |connect| connect.clean_start = false);
                client
            })
            .collect();
        let mut survivors = 0;
        for client in &mut clients {
            assert_eq!(client.expect_connack().reason, ReasonCode::Success);
        }
        for mut client in clients {
            client.send(&support::Packet::Pingreq);
            let reply = client.receive();
            match reply.packet() {
                support::Packet::Pingresp => survivors += 1,
                support::Packet::Disconnect(disconnect) => {
                    assert_eq!(disconnect.reason, ReasonCode::SessionTakenOver);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(survivors, 1);
    });
}
