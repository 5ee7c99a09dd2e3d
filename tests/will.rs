//! Will messages: when they are published, and when not.

mod support;

use std::time::{Duration, Instant};

use support::{
    Client, Disconnect, Message, QoS, ReasonCode, Server, VERSIONS, Version, Will, over_shards,
};

const V5: Version = Version::V5;

fn will(qos: QoS, delay: u32) -> Will<'static> {
    let mut will =
        Will { topic: "will", payload: b"gone", qos, retain: false, properties: <_>::default() };
    will.properties.delay_interval = delay;
    will
}

fn watcher(server: &Server) -> Client {
    let mut watcher = server.connect(V5, "watcher");
    watcher.subscribe("will", QoS::ExactlyOnce);
    watcher
}

fn with_will(server: &Server, version: Version, delay: u32, expiry: u32) -> Client {
    server.connect_with(version, "client", |connect| {
        connect.clean_start = false;
        connect.will = Some(will(QoS::AtLeastOnce, delay));
        connect.properties.session_expiry_interval = Some(expiry);
    })
}

#[test]
fn a_lost_connection_publishes_the_will() {
    over_shards(&[], |server| {
        let mut watcher = watcher(server);
        for version in VERSIONS {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let client = server
                    .connect_with(version, "client", |connect| connect.will = Some(will(qos, 0)));
                client.cut();
                let message = watcher.take_message("will", "gone");
                assert_eq!((message.qos, message.retain), (qos, false));
            }
        }
    });
}

#[test]
fn a_normal_disconnect_does_not() {
    over_shards(&[], |server| {
        let mut watcher = watcher(server);
        for version in VERSIONS {
            with_will(server, version, 0, 0).disconnect();
            watcher.expect_nothing();
            server.connect(version, "client").disconnect();
        }
    });
}

#[test]
fn disconnect_with_will_message_does() {
    over_shards(&[], |server| {
        let mut watcher = watcher(server);
        for reason in [ReasonCode::DisconnectWithWillMessage, ReasonCode::UnspecifiedError] {
            with_will(server, V5, 0, 0).disconnect_with(Disconnect::new(reason));
            watcher.take_message("will", "gone");
        }
    });
}

#[test]
fn a_violation_of_the_protocol_publishes_the_will() {
    over_shards(&[], |server| {
        let mut watcher = watcher(server);
        for version in VERSIONS {
            let mut client = with_will(server, version, 0, 0);
            client.send_raw(b"\x00\x00");
            client.expect_disconnect(ReasonCode::MalformedPacket);
            watcher.take_message("will", "gone");
            server.connect(version, "client").disconnect();
        }
    });
}

#[test]
fn a_will_carries_its_properties() {
    over_shards(&[], |server| {
        let mut watcher = watcher(server);
        let client = server.connect_with(V5, "client", |connect| {
            let mut will = will(QoS::AtLeastOnce, 0);
            will.properties.publish.content_type = Some("text/plain");
            will.properties.publish.response_topic = Some("answer");
            will.properties.publish.correlation_data = Some(b"\0\x01");
            will.properties.publish.payload_format_indicator = Some(true);
            will.properties.publish.message_expiry_interval = Some(60);
            will.properties.publish.user_properties = (&[("a", "1"), ("a", "2")][..]).into();
            connect.will = Some(will);
        });
        client.cut();
        let message = watcher.take_message("will", "gone");
        let expected = Message {
            topic: "will".into(),
            payload: b"gone".into(),
            qos: QoS::AtLeastOnce,
            packet_id: 1,
            payload_format_indicator: Some(true),
            expiry: Some(60),
            response_topic: Some("answer".into()),
            correlation_data: Some(vec![0, 1]),
            content_type: Some("text/plain".into()),
            user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            ..Message::default()
        };
        assert_eq!(message, expected);
    });
}

#[test]
fn a_will_can_be_retained() {
    over_shards(&[], |server| {
        let client = server.connect_with(Version::V3_1_1, "client", |connect| {
            let will = will(QoS::AtLeastOnce, 0);
            connect.will = Some(Will { retain: true, ..will });
        });
        let mut watcher = watcher(server);
        client.cut();
        assert!(!watcher.take_message("will", "gone").retain);
        // Its shard has done with the will once it answers the next connection.
        server.connect(Version::V3_1_1, "client").disconnect();
        let mut late = server.connect(V5, "late");
        late.subscribe("will", QoS::AtLeastOnce);
        assert!(late.take_message("will", "gone").retain);
    });
}

/// Shows: MQTT5-3.1.2-8
#[test]
fn a_delayed_will_waits() {
    over_shards(&[], |server| {
        let mut watcher = watcher(server);
        let start = Instant::now();
        with_will(server, V5, 1, 100).cut();
        watcher.take_message("will", "gone");
        assert!(start.elapsed() >= Duration::from_millis(990), "{:?}", start.elapsed());
        watcher.expect_nothing();
        server.connect(V5, "client").disconnect();
        watcher.expect_nothing();
    });
}

/// Shows: MQTT5-3.1.3-9
#[test]
fn a_client_that_is_back_in_time_cancels_its_delayed_will() {
    over_shards(&[], |server| {
        let mut watcher = watcher(server);
        with_will(server, V5, 1, 100).cut();
        // It comes back without a will; its session lives on for a moment more.
        let client = server.connect_persistent(V5, "client");
        assert!(client.connack.session_present);
        // Another will of the same delay says when the first would have come.
        let other = server.connect_with(V5, "other", |connect| {
            let will = will(QoS::AtLeastOnce, 2);
            connect.will = Some(Will { payload: b"other", ..will });
            connect.properties.session_expiry_interval = Some(100);
        });
        other.cut();
        watcher.take_message("will", "other");
        watcher.expect_nothing();
        client.disconnect();
        server.connect(V5, "client").disconnect();
    });
}

/// Shows: MQTT5-3.1.2-8
#[test]
fn the_end_of_the_session_publishes_a_delayed_will() {
    over_shards(&[], |server| {
        let mut watcher = watcher(server);
        // At once, when the session ends with the connection.
        with_will(server, V5, 3_600, 0).cut();
        watcher.take_message("will", "gone");
        // When it expires.
        with_will(server, V5, 3_600, 1).cut();
        watcher.take_message("will", "gone");
        // When a clean start ends it.
        with_will(server, V5, 3_600, 3_600).cut();
        server.connect(V5, "client").disconnect();
        watcher.take_message("will", "gone");
        // When DISCONNECT ends it.
        with_will(server, V5, 3_600, 3_600).disconnect_with(Disconnect {
            session_expiry_interval: Some(0),
            ..Disconnect::new(ReasonCode::DisconnectWithWillMessage)
        });
        watcher.take_message("will", "gone");
        watcher.expect_nothing();
    });
}

#[test]
fn a_take_over_publishes_the_will_unless_it_is_delayed() {
    over_shards(&[], |server| {
        let mut watcher = watcher(server);
        for version in VERSIONS {
            let mut old = with_will(server, version, 0, 100);
            let new = server.connect_persistent(version, "client");
            old.expect_disconnect(ReasonCode::SessionTakenOver);
            watcher.take_message("will", "gone");
            new.disconnect();
            server.connect(version, "client").disconnect();
        }
        let mut old = with_will(server, V5, 10, 100);
        let new = server.connect_persistent(V5, "client");
        old.expect_disconnect(ReasonCode::SessionTakenOver);
        new.disconnect();
        server.connect(V5, "client").disconnect();
        watcher.expect_nothing();
    });
}

#[test]
fn a_keep_alive_that_ran_out_publishes_the_will() {
    let server = Server::start(&[]);
    let mut watcher = watcher(&server);
    let mut client = server.connect_with(V5, "client", |connect| {
        connect.keep_alive = 1;
        connect.will = Some(will(QoS::AtLeastOnce, 0));
    });
    watcher.take_message("will", "gone");
    client.expect_disconnect(ReasonCode::KeepAliveTimeout);
}
