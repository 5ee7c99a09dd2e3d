//! Topic aliases, from clients and towards them.

mod support;

use support::{Client, QoS, ReasonCode, Server, Version, over_shards};

const V5: Version = Version::V5;

fn send(client: &mut Client, topic: &str, alias: u16, payload: &str, qos: QoS) {
    client.send_publish_with(topic, payload.as_bytes(), qos, |publish| {
        publish.properties.topic_alias = Some(alias);
    });
}

#[test]
fn a_client_sets_uses_and_changes_aliases() {
    over_shards(&["--topic-alias-maximum=3"], |server| {
        let mut subscriber = server.connect(V5, "subscriber");
        subscriber.subscribe("#", QoS::AtMostOnce);
        let mut publisher = server.connect(V5, "publisher");
        assert_eq!(publisher.connack.topic_alias_maximum, 3);
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
        let steps =
            [("a", 3), ("", 3), ("b", 1), ("", 3), ("", 1), ("c", 3), ("", 3), ("a", 3), ("", 3)];
        for (n, (topic, alias)) in steps.into_iter().enumerate() {
            send(&mut publisher, topic, alias, &n.to_string(), qos[n % 3]);
        }
        let mut topics = Vec::new();
        for n in 0..steps.len() {
            let message = subscriber.expect_publish();
            assert_eq!(message.text(), n.to_string());
            assert_eq!(message.alias, None, "this client allows none");
            topics.push(message.topic);
        }
        assert_eq!(topics, ["a", "a", "b", "a", "b", "c", "c", "a", "a"]);
    });
}

#[test]
fn bad_aliases_end_the_connection() {
    let server = Server::start(&["--topic-alias-maximum=3"]);
    for (topic, alias, reason) in [
        ("a", 4, ReasonCode::TopicAliasInvalid),
        ("", 4, ReasonCode::TopicAliasInvalid),
        ("", 1, ReasonCode::ProtocolError),
    ] {
        let mut client = server.connect(V5, "client");
        send(&mut client, topic, alias, "", QoS::AtLeastOnce);
        client.expect_disconnect(reason);
    }
    let mut client = server.connect(V5, "client");
    client.send_raw(b"\x30\x07\0\x01t\x03\x23\0\0"); // alias 0 [MQTT-3.3.2-8]
    client.expect_disconnect(ReasonCode::TopicAliasInvalid);
    // One that was set on another connection is not set on this one. [MQTT-3.3.2-7]
    let mut client = server.connect_persistent(V5, "client");
    send(&mut client, "a", 1, "", QoS::AtMostOnce);
    client.disconnect();
    let mut client = server.connect_persistent(V5, "client");
    send(&mut client, "", 1, "", QoS::AtMostOnce);
    client.expect_disconnect(ReasonCode::ProtocolError);
    // Where there are none at all.
    let server = Server::start(&["--topic-alias-maximum=0"]);
    let mut client = server.connect(V5, "client");
    assert_eq!(client.connack.topic_alias_maximum, 0);
    send(&mut client, "a", 1, "", QoS::AtMostOnce);
    client.expect_disconnect(ReasonCode::TopicAliasInvalid);
}

#[test]
fn the_broker_uses_as_many_aliases_as_the_client_allows() {
    over_shards(&["--outbound-topic-alias-maximum=3"], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for (allowed, used) in [(2, 2), (3, 3), (1_000, 3)] {
            let mut client = server.connect_with(V5, "client", |connect| {
                connect.clean_start = false;
                connect.properties.topic_alias_maximum = allowed;
                connect.properties.session_expiry_interval = Some(100);
            });
            client.subscribe("t/+", QoS::AtLeastOnce);
            for round in 0..3 {
                for n in 1..=4 {
                    let qos = if round == 1 { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                    publisher.publish(&format!("t/{n}"), n.to_string(), qos);
                    publisher.drain();
                    let message = client.expect_publish();
                    client.acknowledge(&message);
                    assert_eq!(message.text(), n.to_string());
                    let expected = match (n <= used, round) {
                        (false, _) => (format!("t/{n}"), None),
                        (true, 0) => (format!("t/{n}"), Some(n)),
                        (true, _) => (String::new(), Some(n)),
                    };
                    assert_eq!((message.topic, message.alias), expected, "{allowed} {round}");
                }
            }
            // Aliases end with the connection.
            client.disconnect();
        }
    });
}

#[test]
fn aliases_and_messages_that_come_again() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V5, "publisher");
    let connect = || {
        server.connect_with(V5, "client", |connect| {
            connect.clean_start = false;
            connect.properties.topic_alias_maximum = 5;
            connect.properties.session_expiry_interval = Some(100);
        })
    };
    let mut client = connect();
    client.subscribe("t", QoS::AtLeastOnce);
    for n in ["1", "2"] {
        publisher.publish("t", n, QoS::AtLeastOnce);
    }
    assert_eq!(client.expect_message("t", "1").alias, Some(1));
    assert_eq!(client.expect_message("", "2").alias, Some(1));
    client.cut();
    let mut client = connect();
    let first = client.expect_message("t", "1");
    assert_eq!((first.alias, first.dup), (Some(1), true));
    let second = client.expect_message("", "2");
    assert_eq!((second.alias, second.dup), (Some(1), true));
}
