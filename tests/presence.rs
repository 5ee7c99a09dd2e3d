//! Who comes and who goes, as owners of devices see it.

mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::{Client, Disconnect, QoS, ReasonCode, Server, Version, over_shards};

const V5: Version = Version::V5;

fn watcher(server: &Server) -> Client {
    let mut watcher = server.connect(V5, "watcher");
    watcher.subscribe("$SYS/brokers/node-1/clients/+/+", QoS::AtLeastOnce);
    // The first that it sees may be itself, on other shards' time; it is of no interest.
    watcher
}

/// The next event: client id as in the topic, event, payload.
fn event(watcher: &mut Client) -> (String, String, Value) {
    let message = watcher.expect_publish();
    watcher.acknowledge(&message);
    assert_eq!((message.qos, message.retain), (QoS::AtLeastOnce, false));
    let levels: Vec<_> = message.topic.split('/').collect();
    assert_eq!(levels[..4], ["$SYS", "brokers", "node-1", "clients"]);
    let payload = serde_json::from_slice(&message.payload).unwrap();
    (levels[4].into(), levels[5].into(), payload)
}

#[test]
fn clients_that_come_and_go_are_announced() {
    over_shards(&["--node-name=node-1"], |server| {
        let mut watcher = watcher(server);
        for (version, protocol) in
            [(Version::V3_1, "MQTT 3.1"), (Version::V3_1_1, "MQTT 3.1.1"), (V5, "MQTT 5.0")]
        {
            let client = server.connect_with(version, "device", |connect| {
                connect.user_name = Some("someone");
                connect.keep_alive = 77;
            });
            let address = client.stream().local_addr().unwrap().to_string();
            let (id, kind, payload) = event(&mut watcher);
            assert_eq!((&*id, &*kind), ("device", "connected"));
            assert_eq!(payload["client_id"], "device");
            assert_eq!(payload["user_name"], "someone");
            assert_eq!(payload["address"], address);
            assert_eq!(payload["protocol"], protocol);
            assert_eq!(payload["keep_alive"], 77);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
            let time = u128::from(payload["time"].as_u64().unwrap());
            assert!(now.abs_diff(time) < 60_000, "{payload}");
            client.disconnect();
            let (id, kind, payload) = event(&mut watcher);
            assert_eq!((&*id, &*kind), ("device", "disconnected"));
            assert_eq!(payload["address"], address);
            assert_eq!(payload["protocol"], protocol);
            assert_eq!(payload["user_name"], "someone");
            assert!(payload["time"].as_u64().is_some());
        }
    });
}

#[test]
fn the_reason_is_told() {
    over_shards(&["--node-name=node-1"], |server| {
        let mut watcher = watcher(server);
        let mut reasons = Vec::new();
        let mut reason_of = |end: &dyn Fn(Client)| {
            let client = server.connect_with(V5, "device", |connect| connect.keep_alive = 1);
            assert_eq!(event(&mut watcher).1, "connected");
            end(client);
            let (_, kind, payload) = event(&mut watcher);
            assert_eq!(kind, "disconnected");
            assert_eq!(payload["user_name"], Value::Null);
            reasons.push(payload["reason"].as_str().unwrap().to_owned());
        };
        reason_of(&|client| client.disconnect());
        reason_of(&|client| client.disconnect_with(Disconnect::new(ReasonCode::UnspecifiedError)));
        reason_of(&|client| client.cut());
        reason_of(&|mut client| client.expect_disconnect(ReasonCode::KeepAliveTimeout));
        reason_of(&|mut client| {
            client.send_raw(b"\0\0");
            client.expect_disconnect(ReasonCode::MalformedPacket);
        });
        let expected =
            ["disconnect", "disconnect", "peer_closed", "keep_alive_timeout", "malformed_packet"];
        assert_eq!(reasons, expected);
    });
}

#[test]
fn a_take_over_is_a_going_and_a_coming() {
    over_shards(&["--node-name=node-1"], |server| {
        let mut watcher = watcher(server);
        let mut first = server.connect(V5, "device");
        let second = server.connect(V5, "device");
        first.expect_disconnect(ReasonCode::SessionTakenOver);
        let kinds: Vec<_> = (0..3).map(|_| event(&mut watcher)).collect();
        assert_eq!(kinds[0].1, "connected");
        assert_eq!(
            (&*kinds[1].1, &kinds[1].2["reason"]),
            ("disconnected", &Value::from("taken_over"))
        );
        assert_eq!(kinds[2].1, "connected");
        second.disconnect();
        assert_eq!(event(&mut watcher).1, "disconnected");
        watcher.expect_nothing();
    });
}

#[test]
fn a_client_id_is_one_level() {
    let server = Server::start(&["--node-name=node-1"]);
    let mut watcher = watcher(&server);
    server.connect(V5, "a/b+c#\"d\"").disconnect();
    let (id, kind, payload) = event(&mut watcher);
    assert_eq!((&*id, &*kind), ("a%2Fb%2Bc%23\"d\"", "connected"));
    assert_eq!(payload["client_id"], "a/b+c#\"d\"");
    assert_eq!(event(&mut watcher).1, "disconnected");
}

#[test]
fn groups_can_share_the_events_and_a_flag_stops_them() {
    let server = Server::start(&["--node-name=node-1"]);
    let mut member = server.connect(V5, "member");
    member.subscribe("$share/g/$SYS/brokers/+/clients/+/connected", QoS::AtLeastOnce);
    let device = server.connect(V5, "device");
    assert_eq!(event(&mut member).0, "device");
    device.disconnect();
    member.expect_nothing();

    let server = Server::start(&["--node-name=node-1", "--presence-events=false"]);
    let mut watcher = watcher(&server);
    server.connect(V5, "device").disconnect();
    watcher.expect_nothing();
}
