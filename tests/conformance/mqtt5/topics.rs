//! 4.7, topic names and topic filters; 4.8, shared subscriptions.

use ringmq::codec::AckKind;

use super::{EVERY_QOS, V5, packet, refused};
use crate::support::{Client, QoS, ReasonCode, Server, over_shards};

fn refuses_filter(client: &mut Client, filter: &str) {
    let reason = client.subscribe(filter, QoS::AtMostOnce);
    assert_eq!(reason, ReasonCode::TopicFilterInvalid, "{filter}");
}

/// Which of the topics a subscription to `filter` gets.
fn matching<'a>(server: &Server, filter: &str, topics: &[&'a str]) -> Vec<&'a str> {
    let mut client = server.connect(V5, "client");
    assert_eq!(client.subscribe(filter, QoS::AtMostOnce), ReasonCode::GRANTED_QOS_0, "{filter}");
    let mut publisher = server.connect(V5, "publisher");
    topics.iter().for_each(|topic| _ = publisher.publish(topic, "x", QoS::AtMostOnce));
    publisher.expect_nothing();
    let received = client.drain();
    topics.iter().copied().filter(|t| received.iter().any(|m| m.topic == *t)).collect()
}

#[test]
fn mqtt5_4_7_1_1_the_multi_level_wildcard_is_a_last_level_of_its_own() {
    over_shards(&[], |server| {
        let mut client = server.connect(V5, "client");
        for filter in ["a/#/b", "#/a", "a#", "#a", "a/b#", "a/#b", "##", "a/##", "#/", "#/#"] {
            refuses_filter(&mut client, filter);
        }
        let topics = ["a", "a/", "a/b", "a/b/c", "/", "/a", "b", "ab"];
        assert_eq!(matching(server, "#", &topics), topics);
        assert_eq!(matching(server, "a/#", &topics), ["a", "a/", "a/b", "a/b/c"]);
        assert_eq!(matching(server, "a/b/#", &topics), ["a/b", "a/b/c"]);
        assert_eq!(matching(server, "/#", &topics), ["/", "/a"]);
    });
}

#[test]
fn mqtt5_4_7_1_2_the_single_level_wildcard_is_a_level_of_its_own() {
    over_shards(&[], |server| {
        let mut client = server.connect(V5, "client");
        for filter in ["a+", "+a", "a/b+", "a/+b/c", "++", "a/++", "+#", "#+", "a/+#"] {
            refuses_filter(&mut client, filter);
        }
        let topics = ["a", "a/", "a/b", "a/b/c", "/", "/a", "b", "b/b", "//"];
        assert_eq!(matching(server, "+", &topics), ["a", "b"]);
        assert_eq!(matching(server, "a/+", &topics), ["a/", "a/b"]);
        assert_eq!(matching(server, "+/b", &topics), ["a/b", "b/b"]);
        assert_eq!(matching(server, "+/+", &topics), ["a/", "a/b", "/", "/a", "b/b"]);
        assert_eq!(matching(server, "/+", &topics), ["/", "/a"]);
        assert_eq!(matching(server, "+/b/#", &topics), ["a/b", "a/b/c", "b/b"]);
    });
}

#[test]
fn mqtt5_4_7_2_1_a_wildcard_in_front_does_not_match_dollar() {
    over_shards(&[], |server| {
        let topics = ["$a", "$a/b", "$", "a/$b", "x"];
        assert_eq!(matching(server, "#", &topics), ["a/$b", "x"]);
        assert_eq!(matching(server, "+", &topics), ["x"]);
        assert_eq!(matching(server, "+/b", &topics), [""; 0]);
        assert_eq!(matching(server, "+/#", &topics), ["a/$b", "x"]);
        assert_eq!(matching(server, "$a/#", &topics), ["$a", "$a/b"]);
        assert_eq!(matching(server, "$a/+", &topics), ["$a/b"]);
        assert_eq!(matching(server, "a/+", &topics), ["a/$b"]);
    });
}

#[test]
fn mqtt5_4_7_3_1_names_and_filters_have_a_character() {
    let server = Server::start(&[]);
    let error = ReasonCode::ProtocolError;
    refused(&server, b"\x30\x03\0\0\0", error);
    refused(&server, b"\x82\x06\0\x01\0\0\0\0", error);
    refused(&server, b"\xa2\x05\0\x01\0\0\0", error);
    assert_eq!(matching(&server, "/", &["/", "a"]), ["/"]);
    assert_eq!(matching(&server, " ", &["/", " "]), [" "]);
}

#[test]
fn mqtt5_4_7_3_2_names_and_filters_have_no_null_character() {
    let server = Server::start(&[]);
    let malformed = ReasonCode::MalformedPacket;
    refused(&server, &packet(0x30, &[b"\0\x03a\0b\0"]), malformed);
    refused(&server, &packet(0x82, &[b"\0\x01\0\0\x03a\0b\0"]), malformed);
    refused(&server, &packet(0xa2, &[b"\0\x01\0\0\x03a\0b"]), malformed);
}

#[test]
fn mqtt5_4_7_3_3_names_and_filters_of_65535_bytes_are_allowed() {
    let server = Server::start(&[]);
    let (longest, other) = ("x".repeat(65_535), "x".repeat(65_534));
    let found = matching(&server, &longest, &[&longest, &other]);
    assert_eq!(found, [&*longest]);
    let filter = format!("{}/+", &longest[..65_533]);
    let topic = format!("{}/y", &longest[..65_533]);
    assert_eq!(matching(&server, &filter, &[&topic]), [&*topic]);
}

#[test]
fn mqtt5_4_7_3_4_nothing_is_normalized() {
    over_shards(&[], |server| {
        // Letters and accents composed and apart, case, spaces, slashes, dots, percent signs,
        // ligatures, invisible characters, the last code point.
        let topics = [
            "\u{e9}",
            "e\u{301}",
            "E\u{301}",
            "a",
            "A",
            " a",
            "a ",
            "a/",
            "/a",
            "a//b",
            "a/b",
            "a/./b",
            "a/%2f",
            "\u{fb01}",
            "fi",
            "\u{200d}a",
            "\u{feff}a",
            "\u{10ffff}",
            "\u{1}",
        ];
        for topic in topics {
            assert_eq!(matching(server, topic, &topics), [topic]);
        }
    });
}

#[test]
fn mqtt5_4_8_2_1_a_shared_subscription_has_a_share_name() {
    let server = Server::start(&[]);
    let mut client = server.connect(V5, "client");
    for filter in ["$share//t", "$share/", "$share//", "$share///"] {
        refuses_filter(&mut client, filter);
    }
    // What only begins alike is a filter like any other.
    assert_eq!(matching(&server, "$shared/g/t", &["t", "$shared/g/t"]), ["$shared/g/t"]);
    assert_eq!(matching(&server, "$Share/g/t", &["t", "$Share/g/t"]), ["$Share/g/t"]);
    assert_eq!(matching(&server, "$share", &["t", "$share"]), ["$share"]);
    assert_eq!(matching(&server, "$share/g/t", &["t", "g/t", "$share/g/t"]), ["t"]);
}

#[test]
fn mqtt5_4_8_2_2_a_share_name_has_no_wildcard_and_a_filter_follows() {
    let server = Server::start(&[]);
    let mut client = server.connect(V5, "client");
    for filter in [
        "$share/g",
        "$share/g/",
        "$share/+/t",
        "$share/#/t",
        "$share/g+/t",
        "$share/#",
        "$share/g/t+",
    ] {
        refuses_filter(&mut client, filter);
    }
    assert_eq!(matching(&server, "$share/g/+/#", &["t", "t/u", "$t"]), ["t", "t/u"]);
    assert_eq!(matching(&server, "$share/g//t", &["t", "/t"]), ["/t"]);
}

#[test]
fn mqtt5_4_8_2_3_each_member_gets_messages_at_its_own_qos() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        let mut members: Vec<_> = ["a", "b", "c"]
            .iter()
            .zip(EVERY_QOS)
            .map(|(id, qos)| {
                let mut client = server.connect(V5, id);
                client.subscribe("$share/g/t", qos);
                (client, qos, 0)
            })
            .collect();
        // Until each has had some; they are dealt out by chance.
        while members.iter().any(|(_, _, count)| *count < 3) {
            for published in EVERY_QOS {
                publisher.publish("t", "x", published);
                publisher.expect_nothing();
                let mut copies = 0;
                for (client, granted, count) in &mut members {
                    for message in client.drain() {
                        assert_eq!(message.qos, published.min(*granted));
                        client.acknowledge(&message);
                        copies += 1;
                        *count += 1;
                    }
                }
                assert_eq!(copies, 1);
            }
        }
    });
}

/// Two members of a group; the first has got a message and has not acknowledged it.
fn members(server: &Server, qos: QoS) -> (Client, Client, u16) {
    let mut first = server.connect_persistent(V5, "first");
    first.subscribe("$share/g/t", QoS::ExactlyOnce);
    server.connect(V5, "publisher").publish("t", "x", qos);
    let id = first.expect_message("t", "x").packet_id;
    let mut second = server.connect(V5, "second");
    second.subscribe("$share/g/t", QoS::ExactlyOnce);
    (first, second, id)
}

#[test]
fn mqtt5_4_8_2_4_qos_2_in_flight_is_completed_with_the_same_client() {
    over_shards(&[], |server| {
        for received in [false, true] {
            let (mut first, mut second, id) = members(server, QoS::ExactlyOnce);
            if received {
                first.ack(AckKind::Pubrec, id);
                first.expect_ack(AckKind::Pubrel, id);
            }
            first.cut();
            second.expect_nothing();
            let mut first = server.connect_persistent(V5, "first");
            match received {
                true => {
                    first.expect_ack(AckKind::Pubrel, id);
                    first.ack(AckKind::Pubcomp, id);
                }
                false => assert!(first.take_message("t", "x").dup),
            }
            first.expect_nothing();
            second.expect_nothing();
            server.connect(V5, "first").disconnect();
            second.disconnect();
        }
    });
}

#[test]
fn mqtt5_4_8_2_5_qos_2_in_flight_goes_to_nobody_else_when_the_session_ends() {
    over_shards(&[], |server| {
        let (first, mut second, _) = members(server, QoS::ExactlyOnce);
        first.cut();
        // A clean start ends the session.
        server.connect(V5, "first").disconnect();
        second.expect_nothing();
    });
}

#[test]
fn mqtt5_4_8_2_6_a_message_that_a_member_refuses_goes_to_nobody_else() {
    over_shards(&[], |server| {
        for (qos, kind) in
            [(QoS::AtLeastOnce, AckKind::Puback), (QoS::ExactlyOnce, AckKind::Pubrec)]
        {
            let (mut first, mut second, id) = members(server, qos);
            first.ack_with(kind, id, ReasonCode::UnspecifiedError);
            first.expect_nothing();
            second.expect_nothing();
            // Nor when its session ends.
            first.cut();
            server.connect(V5, "first").disconnect();
            second.expect_nothing();
            second.disconnect();
        }
    });
}
