//! A message from publisher to subscriber: what reaches it, and what is refused.

mod support;

use ringmq::codec::UserProperties;
use support::{QoS, ReasonCode, Server, VERSIONS, Version, over_shards};

const V5: Version = Version::V5;
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[test]
fn a_message_crosses_versions_and_takes_the_lower_qos() {
    over_shards(&[], |server| {
        for (n, to) in VERSIONS.into_iter().enumerate() {
            for from in VERSIONS {
                for published in QOS {
                    let mut publisher = server.connect(from, &format!("publisher-{n}-{published}"));
                    for granted in QOS {
                        let mut subscriber = server.connect(to, &format!("subscriber-{granted}"));
                        assert_eq!(subscriber.subscribe("a/+", granted) as u8, granted.value());
                        publisher.publish("a/b", "hello", published);
                        let message = subscriber.take_message("a/b", "hello");
                        assert_eq!(message.qos, published.min(granted));
                        assert!(!message.retain && !message.dup);
                        subscriber.expect_nothing();
                        subscriber.disconnect();
                    }
                }
            }
        }
    });
}

#[test]
fn properties_arrive_as_they_were_sent_and_in_order() {
    over_shards(&[], |server| {
        let mut subscribers: Vec<_> = (0..6)
            .map(|n| {
                let mut subscriber = server.connect(V5, &format!("subscriber-{n}"));
                subscriber.subscribe("t", QoS::AtLeastOnce);
                subscriber
            })
            .collect();
        let mut old = server.connect(Version::V3_1_1, "old");
        old.subscribe("t", QoS::AtLeastOnce);
        let user = [("b", "1"), ("a", "2"), ("b", "3"), ("", "")];
        let mut publisher = server.connect(V5, "publisher");
        for qos in QOS {
            publisher.publish_with("t", b"\xc3\xa9", qos, |publish| {
                publish.properties.payload_format_indicator = Some(true);
                publish.properties.content_type = Some("text/plain");
                publish.properties.response_topic = Some("answers/here");
                publish.properties.correlation_data = Some(&[0, 1, 255]);
                publish.properties.user_properties = UserProperties::from(&user[..]);
                publish.properties.message_expiry_interval = Some(600);
            });
            for subscriber in &mut subscribers {
                let message = subscriber.take_message("t", "é");
                assert_eq!(message.payload_format_indicator, Some(true));
                assert_eq!(message.content_type.as_deref(), Some("text/plain"));
                assert_eq!(message.response_topic.as_deref(), Some("answers/here"));
                assert_eq!(message.correlation_data.as_deref(), Some(&[0, 1, 255][..]));
                let expected = user.map(|(name, value)| (name.to_owned(), value.to_owned()));
                assert_eq!(message.user_properties, expected);
                assert!(message.expiry.is_some_and(|left| (590..=600).contains(&left)));
                assert_eq!(message.alias, None);
            }
            old.take_message("t", "é");
        }
    });
}

#[test]
fn messages_of_one_publisher_stay_in_order() {
    over_shards(&[], |server| {
        let mut subscribers: Vec<_> = (0..7)
            .map(|n| {
                let mut subscriber = server.connect(V5, &format!("subscriber-{n}"));
                subscriber.subscribe("#", QoS::ExactlyOnce);
                subscriber
            })
            .collect();
        let mut publisher = server.connect(V5, "publisher");
        for qos in QOS {
            for n in 0..50 {
                publisher.publish("t", n.to_string(), qos);
            }
            publisher.drain();
            for subscriber in &mut subscribers {
                for n in 0..50 {
                    subscriber.take_message("t", &n.to_string());
                }
            }
        }
    });
}

#[test]
fn payloads_from_nothing_to_the_largest_packet_arrive_whole() {
    over_shards(&[], |server| {
        let mut subscribers: Vec<_> = VERSIONS
            .into_iter()
            .map(|version| {
                let mut subscriber = server.connect(version, &format!("subscriber-{version}"));
                subscriber.subscribe("t", QoS::AtLeastOnce);
                subscriber
            })
            .collect();
        let mut publisher = server.connect(Version::V3_1_1, "publisher");
        for size in [0, 1, 511, 512, 513, 65_535, 300_000, (1 << 20) - 9] {
            let payload: Vec<u8> = (0..size).map(|at| (at * 7 + at / 251) as u8).collect();
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
                publisher.publish("t", &payload, qos);
                for subscriber in &mut subscribers {
                    let message = subscriber.expect_publish();
                    assert_eq!(message.payload.len(), size);
                    assert!(message.payload == payload, "{size} bytes came changed");
                    subscriber.acknowledge(&message);
                }
            }
        }
    });
}

#[test]
fn a_publisher_learns_whether_anyone_subscribes() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(publisher.publish("t", "", qos), ReasonCode::NoMatchingSubscribers);
        }
        for n in 0..5 {
            let mut subscriber = server.connect(V5, &format!("subscriber-{n}"));
            subscriber.subscribe("t", QoS::AtMostOnce);
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                assert_eq!(publisher.publish("t", "", qos), ReasonCode::Success);
            }
            subscriber.drain();
            subscriber.unsubscribe(&["t"]);
            let reason = publisher.publish("t", "", QoS::AtLeastOnce);
            assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
        }
    });
}

#[test]
fn a_bad_topic_name_ends_the_connection() {
    let server = Server::start(&[]);
    for version in VERSIONS {
        for topic in ["a/+", "#", "a/#/b", "+"] {
            let mut client = server.connect(version, "client");
            client.send_publish(topic, "", QoS::AtMostOnce);
            client.expect_disconnect(ReasonCode::TopicNameInvalid);
        }
    }
    let mut client = server.connect(V5, "client");
    client.send_raw(b"\x30\x03\0\0\0"); // neither topic nor alias
    client.expect_disconnect(ReasonCode::ProtocolError);
    let mut client = server.connect(V5, "client");
    client.send_raw(b"\x30\x05\0\x02a\0\0"); // U+0000 [MQTT-1.5.4-2]
    client.expect_disconnect(ReasonCode::MalformedPacket);
    let mut client = server.connect(V5, "client");
    client.send_raw(b"\x30\x06\0\x03\xed\xa0\x80\0"); // a surrogate [MQTT-1.5.4-1]
    client.expect_disconnect(ReasonCode::MalformedPacket);
}

#[test]
fn clients_cannot_speak_for_the_broker() {
    over_shards(&[], |server| {
        let mut listener = server.connect(V5, "listener");
        listener.subscribe("$SYS/mine/#", QoS::AtMostOnce);
        let mut client = server.connect(V5, "client");
        client.publish("$SYS/mine/lie", "", QoS::AtMostOnce);
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(client.publish("$SYS/mine/lie", "", qos), ReasonCode::NotAuthorized);
        }
        // Before MQTT 5 there is no way to say so.
        let mut old = server.connect(Version::V3_1_1, "old");
        assert_eq!(old.publish("$SYS/mine/lie", "", QoS::AtLeastOnce), ReasonCode::Success);
        listener.expect_nothing();
    });
}

#[test]
fn a_payload_that_is_said_to_be_text_is_checked_where_a_flag_asks_for_it() {
    for check in [false, true] {
        let flag = format!("--validate-payload-format={check}");
        let server = Server::start(&[&flag]);
        let mut subscriber = server.connect(V5, "subscriber");
        subscriber.subscribe("t", QoS::AtMostOnce);
        let mut publisher = server.connect(V5, "publisher");
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let reason = publisher.publish_with("t", b"\xff", qos, |publish| {
                publish.properties.payload_format_indicator = Some(true);
            });
            match check {
                true => assert_eq!(reason, ReasonCode::PayloadFormatInvalid),
                false => {
                    assert_eq!(reason, ReasonCode::Success);
                    assert_eq!(subscriber.expect_publish().payload, b"\xff");
                }
            }
        }
        publisher.publish("t", b"\xff", QoS::AtLeastOnce);
        assert_eq!(subscriber.expect_publish().payload, b"\xff");
        subscriber.expect_nothing();
    }
}

#[test]
fn what_only_a_server_may_send_is_a_protocol_error() {
    let server = Server::start(&[]);
    let mut client = server.connect(V5, "client");
    client.send_raw(b"\x30\x06\0\x01t\x02\x0b\x01"); // a Subscription Identifier [MQTT-3.3.4-6]
    client.expect_disconnect(ReasonCode::ProtocolError);
    for packet in [&b"\x20\x03\0\0\0"[..], b"\x90\x04\0\x01\0\0", b"\xb0\x04\0\x01\0\0", b"\xd0\0"]
    {
        let mut client = server.connect(V5, "client");
        client.send_raw(packet);
        client.expect_disconnect(ReasonCode::ProtocolError);
    }
}

#[test]
fn more_than_the_largest_qos_or_retain_where_there_is_none_is_not_supported() {
    let server = Server::start(&["--max-qos=1", "--retain-available=false"]);
    let mut client = server.connect(V5, "client");
    assert_eq!(client.subscribe("t", QoS::ExactlyOnce), ReasonCode::GrantedQoS1);
    client.send_publish("t", "", QoS::ExactlyOnce);
    client.expect_disconnect(ReasonCode::QoSNotSupported);
    let mut client = server.connect(V5, "client");
    client.send_publish_with("t", b"", QoS::AtMostOnce, |publish| publish.retain = true);
    client.expect_disconnect(ReasonCode::RetainNotSupported);
}
