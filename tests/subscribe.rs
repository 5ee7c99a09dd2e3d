//! SUBSCRIBE and UNSUBSCRIBE: which messages a filter brings, and how often.

mod support;

use support::{QoS, ReasonCode, Server, SubscriptionOptions, VERSIONS, Version, over_shards};

const V5: Version = Version::V5;

fn options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions::new(qos)
}

#[test]
fn filters_match_what_the_specification_says() {
    let topics = ["a", "a/b", "a/b/c", "/a", "a/", "/", "$x/a", "b", "ä/b"];
    let cases: &[(&str, &[&str])] = &[
        ("a", &["a"]),
        ("a/#", &["a", "a/b", "a/b/c", "a/"]),
        ("#", &["a", "a/b", "a/b/c", "/a", "a/", "/", "b", "ä/b"]),
        ("+", &["a", "b"]),
        ("+/+", &["a/b", "/a", "a/", "/", "ä/b"]),
        ("+/b", &["a/b", "ä/b"]),
        ("a/+", &["a/b", "a/"]),
        ("/+", &["/a", "/"]),
        ("/#", &["/a", "/"]),
        ("+/+/#", &["a/b", "a/b/c", "/a", "a/", "/", "ä/b"]),
        ("$x/+", &["$x/a"]),
        ("$x/#", &["$x/a"]),
        ("ä/+", &["ä/b"]),
        ("A", &[]),
    ];
    over_shards(&[], |server| {
        for version in VERSIONS {
            let mut publisher = server.connect(version, "publisher");
            for (filter, expected) in cases {
                let mut client = server.connect(version, &format!("client {filter}"));
                assert!(!client.subscribe(filter, QoS::AtMostOnce).is_error());
                for topic in topics {
                    publisher.publish(topic, "", QoS::AtMostOnce);
                }
                publisher.publish("b", "", QoS::AtLeastOnce);
                let mut found: Vec<_> = client.drain().into_iter().map(|m| m.topic).collect();
                if expected.contains(&"b") {
                    assert_eq!(found.pop().as_deref(), Some("b"));
                }
                assert_eq!(&found, expected, "{filter}");
                client.disconnect();
            }
        }
    });
}

#[test]
fn overlapping_subscriptions_bring_one_copy_at_the_highest_qos_with_all_ids() {
    over_shards(&[], |server| {
        let mut client = server.connect(V5, "client");
        client.subscribe_with("a/b", options(QoS::AtMostOnce), 1);
        client.subscribe_with("a/+", options(QoS::ExactlyOnce), 2);
        client.subscribe_with("#", options(QoS::AtLeastOnce), 3);
        client.subscribe_with("+/b", options(QoS::AtLeastOnce), 0);
        client.subscribe_with("c", options(QoS::AtLeastOnce), 4);
        let mut old = server.connect(Version::V3_1_1, "old");
        for filter in ["a/b", "a/+", "#"] {
            old.subscribe(filter, QoS::AtLeastOnce);
        }
        let mut publisher = server.connect(V5, "publisher");
        for (qos, received) in [
            (QoS::AtMostOnce, QoS::AtMostOnce),
            (QoS::AtLeastOnce, QoS::AtLeastOnce),
            (QoS::ExactlyOnce, QoS::ExactlyOnce),
        ] {
            publisher.publish("a/b", "", qos);
            let mut message = client.take_message("a/b", "");
            message.subscription_ids.sort();
            assert_eq!((message.qos, &message.subscription_ids[..]), (received, &[1, 2, 3][..]));
            client.expect_nothing();
            old.take_message("a/b", "");
            old.expect_nothing();
        }
    });
}

#[test]
fn a_second_subscribe_replaces_options_and_id() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for filter in ["t", "+", "#"] {
            let mut client = server.connect(V5, "client");
            client.subscribe_with(filter, options(QoS::AtMostOnce), 1);
            client.subscribe_with(filter, options(QoS::AtLeastOnce), 2);
            publisher.publish("t", "", QoS::AtLeastOnce);
            let message = client.take_message("t", "");
            assert_eq!((message.qos, &message.subscription_ids[..]), (QoS::AtLeastOnce, &[2][..]));
            client.subscribe_with(filter, options(QoS::AtMostOnce), 0);
            publisher.publish("t", "", QoS::AtLeastOnce);
            let message = client.take_message("t", "");
            assert_eq!((message.qos, &message.subscription_ids[..]), (QoS::AtMostOnce, &[][..]));
            client.expect_nothing();
            assert_eq!(client.unsubscribe(&[filter]), [ReasonCode::Success]);
            publisher.publish("t", "", QoS::AtLeastOnce);
            client.expect_nothing();
        }
    });
}

#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    over_shards(&[], |server| {
        let mut client = server.connect(V5, "client");
        let mut no_local = options(QoS::AtLeastOnce);
        no_local.no_local = true;
        client.subscribe_with("#", no_local, 1);
        let mut other = server.connect(V5, "other");
        other.subscribe("#", QoS::AtLeastOnce);
        client.publish("t", "mine", QoS::AtLeastOnce);
        other.take_message("t", "mine");
        client.expect_nothing();
        other.unsubscribe(&["#"]);
        other.publish("t", "theirs", QoS::AtLeastOnce);
        assert_eq!(client.take_message("t", "theirs").subscription_ids, [1]);
        // A subscription without it still brings them, with its own id alone.
        client.subscribe_with("t", options(QoS::AtMostOnce), 2);
        client.send_publish("t", "mine", QoS::AtMostOnce);
        let message = client.take_message("t", "mine");
        assert_eq!((message.qos, message.subscription_ids), (QoS::AtMostOnce, vec![2]));
    });
}

#[test]
fn suback_has_a_code_for_each_filter_in_order() {
    over_shards(&[], |server| {
        for version in VERSIONS {
            let mut client = server.connect(version, "client");
            let bad = match version {
                V5 => ReasonCode::TopicFilterInvalid,
                Version::V3_1_1 => ReasonCode::UnspecifiedError,
                Version::V3_1 => ReasonCode::GRANTED_QOS_0,
            };
            let mut filters = vec![
                ("a", options(QoS::AtMostOnce), ReasonCode::GRANTED_QOS_0),
                ("b", options(QoS::AtLeastOnce), ReasonCode::GrantedQoS1),
                ("$share/g", options(QoS::AtMostOnce), bad),
                ("c", options(QoS::ExactlyOnce), ReasonCode::GrantedQoS2),
                ("$share//t", options(QoS::AtMostOnce), bad),
                ("$share/+/t", options(QoS::AtMostOnce), bad),
                ("$share/g/t", options(QoS::AtLeastOnce), ReasonCode::GrantedQoS1),
            ];
            // Before MQTT 5 these end the connection.
            if version == V5 {
                filters.insert(1, ("a/#/b", options(QoS::AtMostOnce), bad));
                filters.insert(3, ("b+", options(QoS::AtLeastOnce), bad));
            }
            let expected: Vec<_> = filters.iter().map(|(_, _, reason)| *reason).collect();
            let filters: Vec<_> = filters.iter().map(|(f, options, _)| (*f, *options)).collect();
            let id = client.send_subscribe(&filters, 0);
            assert_eq!(client.expect_suback(id), expected);
            let (filters, expected): (Vec<_>, Vec<_>) = [
                ("a", ReasonCode::Success),
                ("nowhere", ReasonCode::NoSubscriptionExisted),
                ("c", ReasonCode::Success),
                ("c", ReasonCode::NoSubscriptionExisted),
                ("a/#/b", ReasonCode::TopicFilterInvalid),
                ("$share/g/t", ReasonCode::Success),
            ]
            .into_iter()
            .filter(|(filter, _)| version == V5 || *filter != "a/#/b")
            .unzip();
            let reasons = client.unsubscribe(&filters);
            assert_eq!(reasons, if version == V5 { &expected[..] } else { &[] });
        }
    });
}

#[test]
fn bad_subscribes_end_the_connection() {
    let server = Server::start(&[]);
    let cases: [(&[u8], ReasonCode); 7] = [
        (b"\x82\x03\0\x01\0", ReasonCode::ProtocolError), // no filter [MQTT-3.8.3-2]
        (b"\x82\x07\0\0\0\0\x01t\0", ReasonCode::ProtocolError), // packet id 0
        (b"\x82\x07\0\x01\0\0\x01t\x03", ReasonCode::ProtocolError), // QoS 3
        (b"\x82\x07\0\x01\0\0\x01t\x30", ReasonCode::ProtocolError), // Retain Handling 3
        (b"\x82\x07\0\x01\0\0\x01t\x40", ReasonCode::MalformedPacket), // reserved bits
        (b"\x80\x07\0\x01\0\0\x01t\0", ReasonCode::MalformedPacket), // header flags
        (b"\x82\x09\0\x01\x02\x0b\0\0\x01t\0", ReasonCode::ProtocolError), // id 0
    ];
    for (packet, reason) in cases {
        let mut client = server.connect(V5, "client");
        client.send_raw(packet);
        client.expect_disconnect(reason);
    }
    // No Local on a shared subscription. [MQTT-3.8.3-4]
    let mut client = server.connect(V5, "client");
    client.send_raw(b"\x82\x10\0\x01\0\0\x0a$share/g/t\x04");
    client.expect_disconnect(ReasonCode::ProtocolError);
    let mut client = server.connect(Version::V3_1_1, "client");
    client.send_raw(b"\x82\x06\0\x01\0\x01t\x04"); // [MQTT311-3.8.3-4]
    client.expect_closed();
    let mut client = server.connect(V5, "client");
    client.send_raw(b"\xa2\x03\0\x01\0"); // UNSUBSCRIBE from nothing
    client.expect_disconnect(ReasonCode::ProtocolError);
}

#[test]
fn a_subscription_is_in_force_everywhere_when_its_suback_comes() {
    over_shards(&[], |server| {
        let mut publishers: Vec<_> =
            (0..10).map(|n| server.connect(V5, &format!("publisher-{n}"))).collect();
        for round in 0..20 {
            let mut client = server.connect(V5, &format!("client-{round}"));
            let filter = match round % 3 {
                0 => format!("{round}/t"),
                1 => format!("{round}/+"),
                _ => format!("{round}/#"),
            };
            client.subscribe(&filter, QoS::AtLeastOnce);
            for publisher in &mut publishers {
                publisher.send_publish(&format!("{round}/t"), "x", QoS::AtLeastOnce);
            }
            for _ in &publishers {
                client.take_message(&format!("{round}/t"), "x");
            }
            client.unsubscribe(&[&filter]);
            for publisher in &mut publishers {
                publisher.drain();
                let reason = publisher.publish(&format!("{round}/t"), "x", QoS::AtLeastOnce);
                assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
            }
            client.expect_nothing();
        }
    });
}

#[test]
fn more_wildcard_shapes_than_are_indexed_still_match() {
    over_shards(&["--max-filter-shapes=3"], |server| {
        let mut clients: Vec<_> =
            (0..4).map(|n| server.connect(V5, &format!("client-{n}"))).collect();
        let mut publisher = server.connect(V5, "publisher");
        // Every choice of wildcards among five levels is a shape of its own.
        let filters: Vec<String> = (0..32u32)
            .map(|shape| {
                let level = |n: u32| if shape >> n & 1 == 1 { "+" } else { "abcde" };
                (0..5).map(level).collect::<Vec<_>>().join("/")
            })
            .collect();
        for (n, filter) in filters.iter().enumerate() {
            let client = &mut clients[n % 4];
            assert!(
                !client.subscribe_with(filter, options(QoS::AtLeastOnce), 1 + n as u32).is_error()
            );
        }
        publisher.publish("abcde/abcde/x/abcde/abcde", "", QoS::AtLeastOnce);
        for (at, client) in clients.iter_mut().enumerate() {
            let mut message = client.take_message("abcde/abcde/x/abcde/abcde", "");
            message.subscription_ids.sort();
            let expected: Vec<u32> =
                (0..32).filter(|n| n % 4 == at as u32 && n >> 2 & 1 == 1).map(|n| n + 1).collect();
            assert_eq!(message.subscription_ids, expected);
            client.expect_nothing();
        }
        for (n, filter) in filters.iter().enumerate() {
            assert_eq!(clients[n % 4].unsubscribe(&[filter]), [ReasonCode::Success]);
        }
        let reason = publisher.publish("abcde/abcde/x/abcde/abcde", "", QoS::AtLeastOnce);
        assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
    });
}
