//! Shared subscriptions: each message of a group goes to one of its members, on whichever shard.

mod support;

use std::collections::BTreeMap;

use ringmq::codec::AckKind;
use support::{Client, Packet, QoS, ReasonCode, VERSIONS, Version, over_shards};

const V5: Version = Version::V5;
const STRATEGIES: [&str; 6] =
    ["round_robin", "random", "sticky", "hash_clientid", "hash_topic", "local"];

fn strategy(name: &str) -> String {
    format!("--shared-subscription-strategy={name}")
}

/// What each member has got: payloads, in order.
fn received(members: &mut [Client]) -> Vec<Vec<String>> {
    let of_one = |member: &mut Client| {
        let messages = member.drain();
        messages.iter().for_each(|message| member.acknowledge(message));
        messages.into_iter().map(|message| message.text().to_owned()).collect()
    };
    members.iter_mut().map(of_one).collect()
}

#[test]
fn every_message_goes_to_one_member_of_each_group_whatever_the_strategy() {
    for name in STRATEGIES {
        over_shards(&[&strategy(name), "--max-inflight=1000"], |server| {
            let member = |group: &str, n: usize| {
                let mut member = server.connect(VERSIONS[n % 3], &format!("{group}-{n}"));
                let reason = member.subscribe(&format!("$share/{group}/t/+"), QoS::AtLeastOnce);
                assert_eq!(reason, ReasonCode::GrantedQoS1);
                member
            };
            let mut first: Vec<_> = (0..5).map(|n| member("first", n)).collect();
            let mut second: Vec<_> = (0..2).map(|n| member("second", n)).collect();
            let mut plain = server.connect(V5, "plain");
            plain.subscribe("t/#", QoS::AtLeastOnce);
            let mut publishers: Vec<_> =
                (0..4).map(|n| server.connect(V5, &format!("publisher-{n}"))).collect();
            for n in 0..100 {
                let topic = format!("t/{}", n % 10);
                publishers[n % 4].publish(&topic, n.to_string(), QoS::AtLeastOnce);
            }
            for group in [&mut first[..], &mut second, std::slice::from_mut(&mut plain)] {
                let mut all: Vec<usize> =
                    received(group).concat().iter().map(|n| n.parse().unwrap()).collect();
                all.sort();
                assert_eq!(all, (0..100).collect::<Vec<_>>(), "{name}");
            }
        });
    }
}

#[test]
fn round_robin_gives_each_member_its_share() {
    over_shards(&[&strategy("round_robin")], |server| {
        let mut members: Vec<_> = (0..5)
            .map(|n| {
                let mut member = server.connect(V5, &format!("member-{n}"));
                member.subscribe("$share/g/t", QoS::AtMostOnce);
                member
            })
            .collect();
        let mut publisher = server.connect(V5, "publisher");
        for n in 0..50 {
            publisher.publish("t", n.to_string(), QoS::AtLeastOnce);
        }
        for payloads in received(&mut members) {
            assert!((9..=11).contains(&payloads.len()), "{payloads:?}");
        }
    });
}

#[test]
fn sticky_keeps_one_member_until_it_leaves() {
    over_shards(&[&strategy("sticky")], |server| {
        let mut members: BTreeMap<usize, Client> = (0..4)
            .map(|n| {
                let mut member = server.connect(V5, &format!("member-{n}"));
                member.subscribe("$share/g/t", QoS::AtMostOnce);
                (n, member)
            })
            .collect();
        let mut publisher = server.connect(V5, "publisher");
        while !members.is_empty() {
            for n in 0..10 {
                assert_eq!(
                    publisher.publish("t", n.to_string(), QoS::AtLeastOnce),
                    ReasonCode::Success
                );
            }
            let counts: Vec<_> =
                members.iter_mut().map(|(n, member)| (member.drain().len(), *n)).collect();
            let (most, chosen) = *counts.iter().max().unwrap();
            assert_eq!(most, 10, "{counts:?}");
            members.remove(&chosen).unwrap().disconnect();
        }
        let reason = publisher.publish("t", "", QoS::AtLeastOnce);
        assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
    });
}

#[test]
fn hash_strategies_send_the_same_to_the_same() {
    for name in ["hash_clientid", "hash_topic"] {
        over_shards(&[&strategy(name)], |server| {
            let mut members: Vec<_> = (0..5)
                .map(|n| {
                    let mut member = server.connect(V5, &format!("member-{n}"));
                    member.subscribe("$share/g/t/+", QoS::AtMostOnce);
                    member
                })
                .collect();
            let mut publishers: Vec<_> =
                (0..6).map(|n| server.connect(V5, &format!("publisher-{n}"))).collect();
            for _ in 0..5 {
                for (n, publisher) in publishers.iter_mut().enumerate() {
                    for topic in 0..6 {
                        let key = if name == "hash_topic" { topic } else { n };
                        let topic = format!("t/{topic}");
                        publisher.publish(&topic, key.to_string(), QoS::AtLeastOnce);
                    }
                }
            }
            let mut owners = BTreeMap::new();
            for (n, payloads) in received(&mut members).into_iter().enumerate() {
                for key in payloads {
                    assert_eq!(*owners.entry(key).or_insert(n), n, "{name}");
                }
            }
            assert_eq!(owners.len(), 6);
        });
    }
}

#[test]
fn members_that_are_away_get_messages_only_when_nobody_is_there() {
    over_shards(&[], |server| {
        let mut away = server.connect_persistent(V5, "away");
        away.subscribe("$share/g/t", QoS::AtLeastOnce);
        away.disconnect();
        let mut there = server.connect_persistent(V5, "there");
        there.subscribe("$share/g/t", QoS::AtLeastOnce);
        let mut publisher = server.connect(V5, "publisher");
        for n in 0..10 {
            publisher.publish("t", n.to_string(), QoS::AtLeastOnce);
            there.take_message("t", &n.to_string());
        }
        there.disconnect();
        publisher.publish("t", "waits", QoS::AtLeastOnce);
        let mut both =
            [server.connect_persistent(V5, "away"), server.connect_persistent(V5, "there")];
        assert_eq!(received(&mut both).concat(), ["waits"]);
    });
}

#[test]
fn what_a_member_did_not_take_goes_to_another_when_its_session_ends() {
    over_shards(&["--max-inflight=2"], |server| {
        let mut first = server.connect(V5, "first");
        first.subscribe("$share/g/t", QoS::AtLeastOnce);
        let mut publisher = server.connect(V5, "publisher");
        for n in 0..6 {
            publisher.publish("t", n.to_string(), QoS::AtLeastOnce);
        }
        // Two are in flight, one of them acknowledged, which lets a third one through.
        let taken = first.expect_message("t", "0");
        first.ack(AckKind::Puback, taken.packet_id);
        first.expect_message("t", "1");
        first.expect_message("t", "2");
        let mut second = server.connect(V5, "second");
        second.subscribe("$share/g/t", QoS::AtLeastOnce);
        first.cut();
        let mut all = Vec::new();
        while all.len() < 5 {
            let message = second.expect_publish();
            second.acknowledge(&message);
            all.push(message.text().to_owned());
        }
        assert_eq!(all, ["1", "2", "3", "4", "5"]);
        second.expect_nothing();
    });
}

#[test]
fn groups_and_plain_subscriptions_of_one_client_are_apart() {
    over_shards(&[], |server| {
        let mut client = server.connect(V5, "client");
        let options = support::SubscriptionOptions::new(QoS::AtMostOnce);
        client.subscribe_with("t", options, 1);
        client.subscribe_with("$share/a/t", options, 2);
        client.subscribe_with("$share/b/t", options, 3);
        client.subscribe_with("$share/b/+", options, 4);
        let mut publisher = server.connect(V5, "publisher");
        publisher.publish("t", "", QoS::AtLeastOnce);
        let mut ids: Vec<_> = client.drain().into_iter().map(|m| m.subscription_ids).collect();
        ids.sort();
        assert_eq!(ids, [[1], [2], [3], [4]]);
        assert_eq!(
            client.unsubscribe(&["$share/a/t", "$share/b/t", "$share/c/t", "$share/b/+", "t"]),
            [
                ReasonCode::Success,
                ReasonCode::Success,
                ReasonCode::NoSubscriptionExisted,
                ReasonCode::Success,
                ReasonCode::Success,
            ]
        );
        let reason = publisher.publish("t", "", QoS::AtLeastOnce);
        assert_eq!(reason, ReasonCode::NoMatchingSubscribers);
        client.expect_nothing();
    });
}

#[test]
fn members_that_come_and_go_lose_nothing() {
    over_shards(&["--max-inflight=1000", "--max-queued-messages=100000"], |server| {
        let mut stays = server.connect(V5, "stays");
        stays.subscribe("$share/g/t", QoS::AtLeastOnce);
        let mut publisher = server.connect(V5, "publisher");
        let mut taken = Vec::new();
        for round in 0..20 {
            let mut member = server.connect(V5, &format!("member-{round}"));
            member.subscribe("$share/g/t", QoS::AtLeastOnce);
            for n in 0..20 {
                publisher.send_publish("t", (round * 20 + n).to_string(), QoS::AtLeastOnce);
            }
            // It leaves while messages are on their way to it; what it acknowledged is its own.
            let message = member.expect_publish();
            taken.push(message.text().to_owned());
            member.acknowledge(&message);
            member.send(&Packet::Disconnect(Default::default()));
            while member.receive_or_disconnect().is_some() {}
            publisher.drain();
        }
        while taken.len() < 400 {
            let message = stays.expect_publish();
            stays.acknowledge(&message);
            taken.push(message.text().to_owned());
        }
        let mut taken: Vec<usize> = taken.iter().map(|n| n.parse().unwrap()).collect();
        taken.sort();
        assert_eq!(taken, (0..400).collect::<Vec<_>>());
        stays.send(&Packet::Pingreq);
        assert_eq!(stays.receive().packet(), Packet::Pingresp);
    });
}
