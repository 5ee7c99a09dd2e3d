//! What the broker itself publishes: presence and figures.

use super::world::*;
use crate::codec::*;

#[test]
fn owners_learn_who_comes_and_goes_and_why() {
    let mut w = World::new(3);
    let owner = w.connect(Version::V5, &w.id_on(0, "owner"));
    w.subscribe(owner, "$SYS/brokers/node/clients/+/+", Q1);
    let id = w.id_on(2, "a/device+");
    let mut connect = staying(Version::V3_1_1, &id);
    (connect.user_name, connect.keep_alive) = (Some("ada"), 10);
    let c = w.connected(&connect);
    let event = w.messages(owner).pop().unwrap();
    let level = id.replace('/', "%2F").replace('+', "%2B");
    assert_eq!(event.topic, format!("$SYS/brokers/node/clients/{level}/connected"));
    assert_eq!((event.qos, event.retain), (1, false));
    let json: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!(json["client_id"], *id);
    assert_eq!((&json["user_name"], &json["protocol"]), (&"ada".into(), &"MQTT 3.1.1".into()));
    assert_eq!((&json["keep_alive"], &json["time"]), (&10.into(), &w.now.unix.into()));
    assert!(json["address"].as_str().unwrap().starts_with("10.0.0.1:"));

    w.advance(15_300);
    assert!(w.is_closed(c));
    let event = w.messages(owner).pop().unwrap();
    assert_eq!(event.topic, format!("$SYS/brokers/node/clients/{level}/disconnected"));
    let json: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!(json["reason"], "keep_alive_timeout");
    assert_eq!(json["connected_at"], 1_700_000_000);
    w.end();
}

#[test]
fn each_way_to_leave_has_its_reason() {
    let mut w = World::new(1);
    let owner = w.connect(Version::V5, "owner");
    w.subscribe(owner, "$SYS/brokers/node/clients/c/disconnected", Q1);
    let leave: [fn(&mut World, C); 4] = [
        |w, c| w.disconnect(c),
        |w, c| w.cut(c),
        |w, c| w.send_bytes(c, &[0xFF, 0xFF]),
        |w, _| {
            w.connect(Version::V5, "c");
        },
    ];
    for leave in leave {
        let c = w.connect(Version::V5, "c");
        leave(&mut w, c);
    }
    let reasons = w.messages(owner).into_iter().map(|m| {
        let json: serde_json::Value = serde_json::from_slice(&m.payload).unwrap();
        json["reason"].as_str().unwrap().to_owned()
    });
    let reasons: Vec<_> = reasons.collect();
    assert_eq!(reasons, ["disconnect", "peer_closed", "malformed_packet", "taken_over"]);
    w.end();
}

#[test]
fn a_client_id_too_long_for_a_topic_is_not_announced() {
    for shard in 0..2 {
        let mut w = World::new(2);
        let owner = w.connected(&staying(Version::V5, &w.id_on(shard, "owner")));
        w.subscribe(owner, "$SYS/brokers/#", Q1);
        let c = w.connect(Version::V5, &w.id_on(0, &"/".repeat(30_000)));
        w.cut(c);
        assert!(w.messages(owner).is_empty());
        // Nor is anything left that could not be sent.
        w.cut(owner);
        let owner = w.connected(&staying(Version::V5, &w.id_on(shard, "owner")));
        let of_itself = w.messages(owner);
        assert!(of_itself.iter().all(|m| m.topic.contains("/owner")));
        w.end();
    }
}

#[test]
fn figures_are_published_and_retained() {
    let mut w = World::with(2, |c| c.sys_interval = 10_000);
    let c = w.connect(Version::V5, &w.id_on(1, "c"));
    w.subscribe(c, "a", Q0);
    w.publish(c, "a", b"12345", Q0);
    w.publish(c, "$SYS/mine", b"", Q0);
    w.advance(20_100);
    w.subscribe(c, "$SYS/#", Q0);
    let messages = w.messages(c);
    let figure = |name: &str| {
        let topic = format!("$SYS/broker/{name}");
        let found = messages.iter().find(|m| m.topic == topic && m.retain);
        found.unwrap_or_else(|| panic!("no {name}")).text().to_owned()
    };
    assert!(figure("version").starts_with("ringmq "));
    assert_eq!(figure("uptime"), "20 seconds");
    assert_eq!(figure("clients/connected"), "1");
    assert_eq!(figure("clients/total"), "1");
    assert_eq!(figure("clients/maximum"), "1");
    assert_eq!(figure("subscriptions/count"), "1");
    assert_eq!(figure("publish/messages/received"), "2");
    assert_eq!(figure("publish/messages/sent"), "1");
    assert_eq!(figure("publish/messages/dropped"), "1");
    assert_eq!(figure("publish/messages/dropped/not_authorized"), "1");
    assert_eq!(messages.iter().filter(|m| m.topic.contains("messages/dropped/")).count(), 1);
    assert_eq!(figure("publish/bytes/received"), "5");
    assert_eq!(figure("publish/bytes/sent"), "5");
    assert!(figure("load/bytes/received/1min").parse::<f64>().unwrap() > 0.0);
    w.end();
}
