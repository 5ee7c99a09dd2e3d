//! Retained messages.

mod support;

use support::{
    Client, Packet, QoS, ReasonCode, RetainHandling, Server, SubscriptionOptions, VERSIONS,
    Version, over_shards,
};

const V5: Version = Version::V5;

fn options(adjust: impl FnOnce(&mut SubscriptionOptions)) -> SubscriptionOptions {
    let mut options = SubscriptionOptions::new(QoS::AtLeastOnce);
    adjust(&mut options);
    options
}

/// What a new subscriber gets, sorted by topic.
fn retained(server: &Server, filter: &str) -> Vec<(String, String)> {
    let mut client = server.connect(V5, "reader");
    client.subscribe(filter, QoS::AtMostOnce);
    let mut found: Vec<_> = settle(server, &mut client);
    found.sort();
    client.disconnect();
    found
}

/// Every retained message that is still to come for earlier subscriptions.
fn settle(server: &Server, client: &mut Client) -> Vec<(String, String)> {
    let messages = server.with_what_is_retained(client).into_iter().map(|message| {
        assert!(message.retain);
        (message.topic.clone(), message.text().into())
    });
    messages.collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(topic, payload)| ((*topic).into(), (*payload).into())).collect()
}

#[test]
fn a_retained_message_is_set_replaced_and_cleared() {
    over_shards(&[], |server| {
        for version in VERSIONS {
            let mut publisher = server.connect(version, "publisher");
            for topic in ["a", "b/c", "/", "b/d"] {
                publisher.retain(topic, "1");
            }
            publisher.retain("b/c", "2");
            publisher.publish("b/c", "not retained", QoS::AtLeastOnce);
            let all = [("/", "1"), ("a", "1"), ("b/c", "2"), ("b/d", "1")];
            assert_eq!(retained(server, "#"), pairs(&all));
            assert_eq!(retained(server, "b/+"), pairs(&all[2..]));
            assert_eq!(retained(server, "+/+"), pairs(&[all[0], all[2], all[3]]));
            assert_eq!(retained(server, "b/c"), pairs(&all[2..3]));
            assert_eq!(retained(server, "b/c/#"), pairs(&all[2..3]));
            assert_eq!(retained(server, "b"), []);
            for topic in ["a", "b/c", "/", "b/d", "never set"] {
                publisher.retain(topic, "");
            }
            assert_eq!(retained(server, "#"), []);
        }
    });
}

#[test]
fn subscribers_that_are_there_get_messages_without_the_flag() {
    over_shards(&[], |server| {
        let mut plain = server.connect(V5, "plain");
        plain.subscribe("t", QoS::AtLeastOnce);
        let mut kept = server.connect(V5, "kept");
        kept.subscribe_with("t", options(|o| o.retain_as_published = true), 0);
        let mut old = server.connect(Version::V3_1_1, "old");
        old.subscribe("t", QoS::AtLeastOnce);
        let mut publisher = server.connect(V5, "publisher");
        for payload in ["set", ""] {
            publisher.retain("t", payload);
            assert!(!plain.take_message("t", payload).retain);
            assert!(kept.take_message("t", payload).retain);
            assert!(!old.take_message("t", payload).retain);
        }
        publisher.publish("t", "plain", QoS::AtLeastOnce);
        assert!(!kept.take_message("t", "plain").retain);
    });
}

#[test]
fn the_retained_message_comes_behind_suback_with_the_subscription_id() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        publisher.publish_with("t", b"x", QoS::ExactlyOnce, |publish| {
            publish.retain = true;
            publish.properties.content_type = Some("text/plain");
            publish.properties.user_properties = (&[("k", "v")][..]).into();
        });
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut client = server.connect(V5, "client");
            client.subscribe_with("t", SubscriptionOptions::new(qos), 268_435_455);
            let message = client.take_message("t", "x");
            assert_eq!((message.retain, message.qos), (true, qos));
            assert_eq!(message.subscription_ids, [268_435_455]);
            assert_eq!(message.content_type.as_deref(), Some("text/plain"));
            assert_eq!(message.user_properties, [("k".to_owned(), "v".to_owned())]);
        }
    });
}

#[test]
fn retain_handling() {
    over_shards(&[], |server| {
        server.connect(V5, "publisher").retain("t", "x");
        for filter in ["t", "+"] {
            let mut client = server.connect(V5, "client");
            let mut subscribe = |handling| {
                let options = options(|o| o.retain_handling = handling);
                assert!(!client.subscribe_with(filter, options, 0).is_error());
                settle(server, &mut client).len()
            };
            assert_eq!(subscribe(RetainHandling::DoNotSend), 0);
            assert_eq!(subscribe(RetainHandling::SendAtNewSubscribe), 0, "it is not new");
            assert_eq!(subscribe(RetainHandling::SendAtSubscribe), 1);
            assert_eq!(subscribe(RetainHandling::SendAtSubscribe), 1);
            client.unsubscribe(&[filter]);
            let mut subscribe = |handling| {
                let options = options(|o| o.retain_handling = handling);
                client.subscribe_with(filter, options, 0);
                settle(server, &mut client).len()
            };
            assert_eq!(subscribe(RetainHandling::SendAtNewSubscribe), 1);
            assert_eq!(subscribe(RetainHandling::SendAtNewSubscribe), 0);
        }
    });
}

#[test]
fn a_resumed_session_does_not_get_retained_messages_again() {
    over_shards(&[], |server| {
        server.connect(V5, "publisher").retain("t", "x");
        let mut client = server.connect_persistent(V5, "client");
        client.subscribe("#", QoS::AtLeastOnce);
        client.take_message("t", "x");
        client.disconnect();
        let mut client = server.connect_persistent(V5, "client");
        assert_eq!(settle(server, &mut client), []);
    });
}

#[test]
fn shared_subscriptions_get_none() {
    over_shards(&[], |server| {
        server.connect(V5, "publisher").retain("t", "x");
        for version in VERSIONS {
            let mut client = server.connect(version, "client");
            client.subscribe("$share/group/t", QoS::AtLeastOnce);
            client.subscribe("$share/group/#", QoS::AtLeastOnce);
            assert_eq!(settle(server, &mut client), []);
        }
    });
}

#[test]
fn a_retained_message_counts_down_and_expires() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for (topic, expiry) in [("long", 100), ("short", 1)] {
            publisher.publish_with(topic, b"x", QoS::AtLeastOnce, |publish| {
                publish.retain = true;
                publish.properties.message_expiry_interval = Some(expiry);
            });
        }
        let deadline = std::time::Instant::now() + support::PATIENCE;
        while !retained(server, "short").is_empty() {
            assert!(std::time::Instant::now() < deadline, "it does not expire");
        }
        let mut client = server.connect(V5, "client");
        client.subscribe("#", QoS::AtMostOnce);
        let message = client.expect_message("long", "x");
        assert!(message.expiry.is_some_and(|left| (50..100).contains(&left)), "{message:?}");
        assert_eq!(settle(server, &mut client), []);
    });
}

#[test]
fn dollar_topics_are_retained_and_kept_out_of_wildcards() {
    over_shards(&["--sys-interval=0"], |server| {
        let mut publisher = server.connect(V5, "publisher");
        publisher.retain("$fleet/a", "1");
        publisher.retain("fleet/a", "2");
        assert_eq!(retained(server, "#"), pairs(&[("fleet/a", "2")]));
        assert_eq!(retained(server, "+/a"), pairs(&[("fleet/a", "2")]));
        assert_eq!(retained(server, "$fleet/#"), pairs(&[("$fleet/a", "1")]));
        assert_eq!(retained(server, "$fleet/+"), pairs(&[("$fleet/a", "1")]));
        assert_eq!(retained(server, "$fleet/a"), pairs(&[("$fleet/a", "1")]));
    });
}

#[test]
fn thousands_come_once_each_and_no_faster_than_the_client_takes_them() {
    over_shards(&["--max-queued-messages=50"], |server| {
        const COUNT: usize = 3_000;
        let mut publisher = server.connect(V5, "publisher");
        for n in 0..COUNT {
            publisher.send_publish_with(
                &format!("t/{}/{n}", n % 7),
                n.to_string().as_bytes(),
                QoS::AtMostOnce,
                |publish| publish.retain = true,
            );
        }
        publisher.drain();
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let mut client = server.connect(V5, "client");
            client.subscribe("t/#", qos);
            let mut seen = vec![false; COUNT];
            for _ in 0..COUNT {
                let message = client.expect_publish();
                client.acknowledge(&message);
                let n: usize = message.text().parse().unwrap();
                assert!(!std::mem::replace(&mut seen[n], true), "{n} came twice");
            }
            assert_eq!(settle(server, &mut client), []);
        }
    });
}

#[test]
fn large_ones_fill_the_outbox_and_all_come() {
    over_shards(&[], |server| {
        const COUNT: usize = 60;
        let mut publisher = server.connect(V5, "publisher");
        for n in 0..COUNT {
            publisher.retain(&format!("t/{n}"), vec![b'x'; 100_000]);
        }
        for filter in ["t/+", "#"] {
            let mut client = server.connect(V5, "client");
            client.subscribe(filter, QoS::AtMostOnce);
            for _ in 0..COUNT {
                assert_eq!(client.expect_publish().payload.len(), 100_000);
            }
            assert_eq!(settle(server, &mut client), []);
        }
    });
}

#[test]
fn a_subscriber_never_sees_an_older_value_after_a_newer_one() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        publisher.retain("counter", "0");
        for round in 0..30 {
            let mut client = server.connect(V5, &format!("client-{round}"));
            let subscribe = client.send_subscribe(&[("counter", options(|_| ()))], 0);
            for n in 0..=10 {
                publisher.send_publish_with(
                    "counter",
                    format!("{}", round * 12 + n).as_bytes(),
                    QoS::AtMostOnce,
                    |publish| publish.retain = true,
                );
            }
            publisher.drain();
            client.expect_suback(subscribe);
            // Whoever has a SUBACK sees this one.
            let full = round * 12 + 11;
            publisher.retain("counter", full.to_string());
            let mut last = -1;
            while last < full {
                let message = client.expect_publish();
                client.acknowledge(&message);
                let value: i32 = message.text().parse().unwrap();
                assert!(value >= last, "{value} after {last}");
                last = value;
            }
            assert_eq!(settle(server, &mut client), []);
        }
    });
}

#[test]
fn nothing_new_comes_after_an_unsubscribe() {
    over_shards(&["--max-queued-messages=10", "--max-inflight=2"], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for n in 0..200 {
            publisher.retain(&format!("t/{n}"), "x");
        }
        let mut client = server.connect(V5, "client");
        client.subscribe("t/#", QoS::AtLeastOnce);
        let first = client.expect_publish();
        let id = client.send_unsubscribe(&["t/#"]);
        let mut before = 1;
        loop {
            let reply = client.receive();
            match reply.packet() {
                Packet::Publish(_) => before += 1,
                Packet::Unsuback(ack) if ack.packet_id.get() == id => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(before <= 2);
        client.acknowledge(&first);
        // What was in line already may come, the rest of the retained messages not.
        let mut after = 0;
        loop {
            let more = client.drain();
            if more.is_empty() {
                break;
            }
            after += more.len();
            more.iter().for_each(|message| client.acknowledge(message));
        }
        assert!(after <= 64, "{after} messages after UNSUBACK");
        assert_eq!(client.unsubscribe(&["t/#"]), [ReasonCode::NoSubscriptionExisted]);
    });
}
