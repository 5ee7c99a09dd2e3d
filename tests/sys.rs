//! `$SYS/broker/...`.

mod support;

use std::collections::BTreeMap;

use support::{Client, QoS, ReasonCode, Server, Version, over_shards};

const V5: Version = Version::V5;

/// Reads figures until `done` is content with them.
fn figures(client: &mut Client, done: impl Fn(&BTreeMap<String, String>) -> bool) {
    let mut seen = BTreeMap::new();
    let deadline = std::time::Instant::now() + support::PATIENCE;
    while !done(&seen) {
        assert!(std::time::Instant::now() < deadline, "{seen:#?}");
        let message = client.expect_publish();
        let name = message.topic.strip_prefix("$SYS/broker/").expect("a figure").to_owned();
        seen.insert(name, message.text().to_owned());
    }
}

#[test]
fn the_figures_follow_what_happens() {
    over_shards(&["--sys-interval=200ms"], |server| {
        let mut watcher = server.connect(V5, "watcher");
        let mut away = server.connect_persistent(V5, "away");
        away.subscribe("t", QoS::AtLeastOnce);
        away.subscribe("$share/g/t", QoS::AtLeastOnce);
        away.disconnect();
        let mut expired = server.connect_with(V5, "expired", |connect| {
            connect.properties.session_expiry_interval = Some(1);
        });
        expired.expect_nothing();
        expired.disconnect();
        let mut publisher = server.connect(V5, "publisher");
        publisher.retain("r", "12345");
        for _ in 0..5 {
            publisher.publish("nobody", "1234567890", QoS::AtMostOnce);
        }
        watcher.subscribe("$SYS/broker/#", QoS::AtMostOnce);
        let number = |seen: &BTreeMap<String, String>, name: &str| -> Option<u64> {
            seen.get(name).map(|value| value.parse().unwrap())
        };
        figures(&mut watcher, |seen| {
            number(seen, "clients/connected") == Some(2)
                && number(seen, "clients/disconnected") == Some(1)
                && number(seen, "clients/total") == Some(3)
                && number(seen, "clients/expired") == Some(1)
                && number(seen, "clients/maximum").is_some_and(|n| n >= 2)
                && number(seen, "connections/accepted") == Some(4)
                && number(seen, "subscriptions/count") == Some(3)
                && number(seen, "shared_subscriptions/count") == Some(1)
                && number(seen, "publish/messages/received") == Some(6)
                && number(seen, "publish/bytes/received") == Some(55)
                && number(seen, "messages/received").is_some_and(|n| n > 10)
                && number(seen, "messages/sent").is_some_and(|n| n > 10)
                && number(seen, "bytes/received").is_some_and(|n| n > 100)
                && number(seen, "bytes/sent").is_some_and(|n| n > 100)
                && number(seen, "retained messages/count").is_some_and(|n| n > 40)
                && seen.get("version").is_some_and(|v| v.starts_with("ringmq "))
                && seen.get("uptime").is_some_and(|uptime| uptime.ends_with(" seconds"))
                && ["1min", "5min", "15min"].iter().all(|over| {
                    let load = seen.get(&format!("load/bytes/received/{over}"));
                    load.is_some_and(|load| load.parse::<f64>().unwrap() > 0.0)
                })
        });
        publisher.disconnect();
        figures(&mut watcher, |seen| number(seen, "clients/connected") == Some(1));
    });
}

#[test]
fn the_store_has_figures() {
    let folder = tempfile::TempDir::new().unwrap();
    let data = format!("--data-dir={}", folder.path().join("data").display());
    let server = Server::start(&[&data, "--sys-interval=200ms"]);
    let mut away = server.connect_persistent(V5, "away");
    away.subscribe("t", QoS::AtLeastOnce);
    away.disconnect();
    server.connect(V5, "publisher").publish("t", "x", QoS::AtLeastOnce);
    let mut watcher = server.connect(V5, "watcher");
    watcher.subscribe("$SYS/broker/store/#", QoS::AtMostOnce);
    figures(&mut watcher, |seen| {
        let number = |name: &str| seen.get(&format!("store/{name}")).map(|n| n.parse().unwrap());
        // The session, its subscription, the message and its delivery.
        number("commits").is_some_and(|n: u64| n >= 3)
            && number("entries/written").is_some_and(|n| n >= 4)
            && number("syncs").is_some_and(|n| n >= 3)
            && number("syncs/microseconds").is_some_and(|n| n > 0)
            && number("backlog/bytes") == Some(0)
            && number("failed") == Some(0)
    });
}

#[test]
fn the_figures_are_retained_and_out_of_the_reach_of_wildcards() {
    over_shards(&["--sys-interval=1h"], |server| {
        let mut client = server.connect(V5, "client");
        client.subscribe("$SYS/broker/version", QoS::AtMostOnce);
        let message = client.expect_publish();
        assert_eq!(message.topic, "$SYS/broker/version");
        client.subscribe("#", QoS::AtMostOnce);
        client.subscribe("+/broker/version", QoS::AtMostOnce);
        client.subscribe("$SYS/broker/version", QoS::AtMostOnce);
        assert_eq!(client.expect_publish().topic, "$SYS/broker/version");
        client.expect_nothing();
    });
}

#[test]
fn there_are_none_where_the_interval_is_0() {
    over_shards(&["--sys-interval=0"], |server| {
        let mut publisher = server.connect(V5, "publisher");
        publisher.retain("$last", "x");
        let mut client = server.connect(V5, "client");
        client.subscribe("$SYS/#", QoS::AtMostOnce);
        assert_eq!(client.subscribe("$last", QoS::AtMostOnce), ReasonCode::Success);
        client.expect_message("$last", "x");
    });
}
