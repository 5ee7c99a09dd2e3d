//! 3.8 and 3.9: SUBSCRIBE and SUBACK.

use super::{EVERY_QOS, V5, accepted, leaves_out_the_reason_string, packet, refused};
use crate::support::{
    Packet, QoS, ReasonCode, RetainHandling, Server, SubscriptionOptions, over_shards,
};

const MALFORMED: ReasonCode = ReasonCode::MalformedPacket;

/// A SUBSCRIBE without properties.
fn subscribe(payload: &[u8]) -> Vec<u8> {
    packet(0x82, &[b"\0\x01\0", payload])
}

#[test]
fn mqtt5_3_8_1_1_other_flags_of_subscribe_are_malformed() {
    let server = Server::start(&[]);
    for flags in (0..16).filter(|flags| *flags != 2) {
        let mut other = subscribe(b"\0\x01t\0");
        other[0] = 0x80 | flags;
        refused(&server, &other, MALFORMED);
    }
    accepted(&server, &subscribe(b"\0\x01t\0"));
}

#[test]
fn mqtt5_3_8_3_1_topic_filters_are_text() {
    let server = Server::start(&[]);
    for filter in [&b"\0\x01\xff\0"[..], b"\0\x01\0\0", b"\0\x03\xed\xa0\x80\0", b"\0\x05t\0"] {
        refused(&server, &subscribe(filter), MALFORMED);
    }
    // One that is text before it does not help.
    refused(&server, &subscribe(b"\0\x01t\0\0\x01\xff\0"), MALFORMED);
    accepted(&server, &subscribe("\0\x02ü\0".as_bytes()));
}

#[test]
fn mqtt5_3_8_3_2_a_subscribe_without_a_filter_is_a_protocol_error() {
    let server = Server::start(&[]);
    refused(&server, &subscribe(b""), ReasonCode::ProtocolError);
    // A filter without its options.
    refused(&server, &subscribe(b"\0\x01t"), MALFORMED);
}

#[test]
fn mqtt5_3_8_3_3_no_local_keeps_a_clients_own_messages_from_it() {
    over_shards(&[], |server| {
        let options =
            SubscriptionOptions { no_local: true, ..SubscriptionOptions::new(QoS::AtLeastOnce) };
        let mut client = server.connect_persistent(V5, "device");
        client.subscribe_with("t", options, 0);
        let mut other = server.connect(V5, "other");
        for qos in EVERY_QOS {
            client.publish("t", "own", qos);
        }
        for qos in EVERY_QOS {
            other.publish("t", "of another", qos);
        }
        other.expect_nothing();
        for _ in EVERY_QOS {
            client.take_message("t", "of another");
        }
        client.expect_nothing();
        // Of several subscriptions that match, those without the option bring it.
        client.subscribe_with("+", options, 7);
        client.publish("t", "own", QoS::AtLeastOnce);
        client.expect_nothing();
        client.subscribe_with("#", SubscriptionOptions::new(QoS::AtMostOnce), 8);
        client.publish("t", "own", QoS::AtMostOnce);
        assert_eq!(client.expect_message("t", "own").subscription_ids, [8]);
        client.unsubscribe(&["+", "#"]);
        // It is the client identifier that counts, also on the next connection.
        client.disconnect();
        let mut client = server.connect_persistent(V5, "device");
        client.publish("t", "own", QoS::AtLeastOnce);
        client.expect_nothing();
        // Without the option it gets its own.
        client.subscribe("t", QoS::AtMostOnce);
        client.publish("t", "own", QoS::AtMostOnce);
        client.expect_message("t", "own");
    });
}

/// The specification can be read both ways; this is what RingMQ does.
#[test]
fn no_local_does_not_hold_back_what_is_retained() {
    over_shards(&[], |server| {
        let mut client = server.connect(V5, "client");
        client.retain("t", "own");
        let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
        client.subscribe_with("t", options, 0);
        assert!(client.expect_message("t", "own").retain);
        client.retain("t", "newer");
        client.expect_nothing();
    });
}

#[test]
fn mqtt5_3_8_3_4_no_local_on_a_shared_subscription_is_a_protocol_error() {
    let server = Server::start(&[]);
    refused(&server, &subscribe(b"\0\x0a$share/g/t\x04"), ReasonCode::ProtocolError);
    accepted(&server, &subscribe(b"\0\x0a$share/g/t\x00"));
}

#[test]
fn mqtt5_3_8_3_5_reserved_bits_of_the_options_are_malformed() {
    let server = Server::start(&[]);
    for options in [0x40, 0x80, 0xc0, 0x41] {
        refused(&server, &subscribe(&[0, 1, b't', options]), MALFORMED);
    }
    // No numbers: QoS 3, Retain Handling 3.
    for options in [0x03, 0x30] {
        refused(&server, &subscribe(&[0, 1, b't', options]), ReasonCode::ProtocolError);
    }
    for options in [0x00, 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x2e] {
        accepted(&server, &subscribe(&[0, 1, b't', options]));
    }
}

/// No number: 3.8.2.1.2.
#[test]
fn a_subscription_identifier_is_not_zero_and_there_is_one() {
    let server = Server::start(&[]);
    let with = |properties: &[u8]| {
        packet(0x82, &[b"\0\x01", &[properties.len() as u8], properties, b"\0\x01t\0"])
    };
    refused(&server, &with(b"\x0b\0"), ReasonCode::ProtocolError);
    refused(&server, &with(b"\x0b\x01\x0b\x02"), ReasonCode::ProtocolError);
    let mut client = server.connect(V5, "client");
    client.send_raw(&with(b"\x0b\xff\xff\xff\x7f"));
    client.expect_suback(1);
    client.publish("t", "x", QoS::AtMostOnce);
    assert_eq!(client.expect_message("t", "x").subscription_ids, [268_435_455]);
}

#[test]
fn mqtt5_3_8_4_1_every_subscribe_is_answered_and_its_retained_messages_come_later() {
    over_shards(&[], |server| {
        let mut client = server.connect(V5, "client");
        client.retain("t", "x");
        for _ in 0..2 {
            // `subscribe` takes nothing but the SUBACK for the next packet.
            assert_eq!(client.subscribe("t", QoS::AtMostOnce), ReasonCode::GRANTED_QOS_0);
            client.expect_message("t", "x");
        }
    });
}

#[test]
fn mqtt5_3_8_4_3_the_same_filter_replaces_the_subscription() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        let mut client = server.connect(V5, "client");
        client.subscribe_with("t", SubscriptionOptions::new(QoS::AtMostOnce), 1);
        let replaced = SubscriptionOptions {
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
            ..SubscriptionOptions::new(QoS::ExactlyOnce)
        };
        client.subscribe_with("t", replaced, 2);
        publisher.publish_with("t", b"x", QoS::ExactlyOnce, |publish| publish.retain = true);
        let message = client.take_message("t", "x");
        assert_eq!((message.qos, message.retain), (QoS::ExactlyOnce, true));
        assert_eq!(message.subscription_ids, [2]);
        // And an identifier can go away again.
        client.subscribe_with(
            "t",
            SubscriptionOptions { retain_as_published: false, ..replaced },
            0,
        );
        publisher.publish("t", "x", QoS::AtLeastOnce);
        assert!(client.take_message("t", "x").subscription_ids.is_empty());
        client.expect_nothing();
        // There is one subscription, so there is one to delete.
        assert_eq!(client.unsubscribe(&["t", "t"]).len(), 2);
        publisher.publish("t", "x", QoS::AtLeastOnce);
        client.expect_nothing();
    });
}

/// Nothing is lost while a subscription is replaced again and again.
#[test]
fn mqtt5_3_8_4_4_no_message_is_lost_by_a_replacement() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        let mut client = server.connect(V5, "client");
        client.subscribe("t", QoS::AtLeastOnce);
        // As many as are in flight at once.
        for n in 0..32 {
            publisher.send_publish("t", n.to_string(), QoS::AtLeastOnce);
            client.send_subscribe(&[("t", SubscriptionOptions::new(QoS::AtLeastOnce))], 0);
        }
        publisher.send(&Packet::Pingreq);
        while publisher.receive().packet() != Packet::Pingresp {}
        let received: Vec<_> = client.drain().iter().map(|m| m.text().to_owned()).collect();
        assert_eq!(received, (0..32).map(|n| n.to_string()).collect::<Vec<_>>());
    });
}

/// Shows: MQTT5-3.8.4-6, MQTT5-3.9.3-1
#[test]
fn mqtt5_3_8_4_5_many_filters_are_as_many_subscriptions_with_one_answer_in_order() {
    over_shards(&[], |server| {
        let mut client = server.connect(V5, "client");
        client.retain("b", "kept");
        let options = SubscriptionOptions::new;
        let filters = [
            ("a", options(QoS::ExactlyOnce)),
            ("b/#/c", options(QoS::AtMostOnce)),
            ("b", options(QoS::AtLeastOnce)),
            ("a", options(QoS::AtMostOnce)),
            ("c/+", options(QoS::ExactlyOnce)),
        ];
        let id = client.send_subscribe(&filters, 7);
        assert_eq!(
            client.expect_suback(id),
            [
                ReasonCode::GrantedQoS2,
                ReasonCode::TopicFilterInvalid,
                ReasonCode::GrantedQoS1,
                ReasonCode::GRANTED_QOS_0,
                ReasonCode::GrantedQoS2,
            ]
        );
        let kept = server.with_what_is_retained(&mut client);
        assert_eq!(kept.iter().map(|message| &*message.topic).collect::<Vec<_>>(), ["b"]);
        // The later of two of the same filter holds.
        for (topic, qos) in
            [("a", QoS::AtMostOnce), ("b", QoS::AtLeastOnce), ("c/x", QoS::ExactlyOnce)]
        {
            server.connect(V5, "publisher").publish(topic, "x", QoS::ExactlyOnce);
            let message = client.take_message(topic, "x");
            assert_eq!((message.qos, &*message.subscription_ids), (qos, &[7][..]));
        }
        client.expect_nothing();
    });
}

#[test]
fn mqtt5_3_8_4_7_a_reason_is_the_granted_qos_or_a_failure() {
    let server = Server::start(&["--max-qos=1"]);
    let mut client = server.connect(V5, "client");
    assert_eq!(client.subscribe("t", QoS::AtMostOnce), ReasonCode::GRANTED_QOS_0);
    assert_eq!(client.subscribe("t", QoS::AtLeastOnce), ReasonCode::GrantedQoS1);
    // What is granted is what is delivered; see 3.8.4-8.
    assert_eq!(client.subscribe("t", QoS::ExactlyOnce), ReasonCode::GrantedQoS1);
    assert_eq!(client.subscribe("t+", QoS::AtMostOnce), ReasonCode::TopicFilterInvalid);
    // The failure is no subscription.
    client.publish("t+".replace('+', "x").as_str(), "x", QoS::AtMostOnce);
    client.expect_nothing();
}

#[test]
fn mqtt5_3_8_4_8_messages_come_at_the_lower_of_both_qos() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for granted in EVERY_QOS {
            let mut client = server.connect(V5, "client");
            client.subscribe("t", granted);
            for published in EVERY_QOS {
                publisher.publish("t", "x", published);
                assert_eq!(client.take_message("t", "x").qos, published.min(granted));
                // The same with what is retained.
                let topic = format!("r/{}", published.value());
                publisher.publish_with(&topic, b"x", published, |publish| publish.retain = true);
            }
            publisher.expect_nothing();
            client.subscribe("r/+", granted);
            let kept = server.with_what_is_retained(&mut client);
            assert_eq!(kept.len(), 3);
            for message in kept {
                let published = message.topic.trim_start_matches("r/").parse().unwrap();
                assert_eq!(message.qos.value(), granted.value().min(published));
            }
        }
    });
}

#[test]
fn mqtt5_3_9_2_1_suback_leaves_out_a_reason_string_that_makes_it_too_large() {
    leaves_out_the_reason_string(|client| {
        client.send_subscribe(&[("a/#/b", SubscriptionOptions::default())], 0);
    });
}

#[test]
fn mqtt5_3_9_3_2_suback_has_reasons_of_its_table() {
    let server = Server::start(&["--max-subscriptions=2"]);
    let mut client = server.connect(V5, "client");
    let filters =
        ["a", "b", "c", "#a", "$share/g", "a"].map(|f| (f, SubscriptionOptions::default()));
    let id = client.send_subscribe(&filters, 0);
    let reasons = client.expect_suback(id);
    assert_eq!(reasons.iter().map(|r| r.value()).collect::<Vec<_>>(), [0, 0, 0x97, 0x8f, 0x8f, 0]);
    // Table 3-8 of the specification.
    let table = [0, 1, 2, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2];
    assert!(reasons.iter().all(|reason| table.contains(&reason.value())));
}
