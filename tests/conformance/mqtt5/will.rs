//! 3.1.2.5 to 3.1.3.2, the will.

use super::{
    EVERY_QOS, V5, connect_accepted, connect_packet, connect_refused, subscriber, will_to,
};
use crate::support::{Disconnect, QoS, ReasonCode, Server, Will, over_shards};

const MALFORMED: ReasonCode = ReasonCode::MalformedPacket;
/// Will properties, topic `w`, payload `gone`.
const WILL: &[u8] = b"\0\0\x01w\0\x04gone";

/// Shows: MQTT5-3.1.2-7
#[test]
fn mqtt5_3_1_2_8_the_will_is_published_when_the_connection_is_lost() {
    over_shards(&[], |server| {
        let mut watcher = subscriber(server, "w");
        let client = server.connect_with(V5, "client", |connect| connect.will = Some(will_to("w")));
        watcher.expect_nothing();
        client.cut();
        watcher.take_message("w", "gone");
        // And when the client says that it is to be.
        let client = server.connect_with(V5, "client", |connect| connect.will = Some(will_to("w")));
        client.disconnect_with(Disconnect::new(ReasonCode::DisconnectWithWillMessage));
        watcher.take_message("w", "gone");
        // And when it violates the protocol.
        let mut client =
            server.connect_with(V5, "client", |connect| connect.will = Some(will_to("w")));
        client.send_raw(b"\0\0");
        client.expect_disconnect(ReasonCode::MalformedPacket);
        watcher.take_message("w", "gone");
    });
}

#[test]
fn mqtt5_3_1_2_9_a_will_has_all_its_fields_and_its_flags_count() {
    let server = Server::start(&[]);
    let mut watcher = subscriber(&server, "w");
    for qos in EVERY_QOS {
        for retain in [0, 0x20] {
            let flags = 2 | 4 | qos.value() << 3 | retain;
            let without: [&[u8]; 4] = [b"", b"\0", b"\0\0\x01w", b"\0\0\x01w\0\x01"];
            for fields in without {
                connect_refused(&server, &connect_packet(flags, &[b"\0\x01a", fields]), MALFORMED);
            }
            connect_accepted(&server, &connect_packet(flags, &[b"\0\x01a", WILL])).cut();
            let message = watcher.take_message("w", "gone");
            // RETAIN is not kept for this subscription, but the message is.
            assert_eq!((message.qos, message.retain), (qos, false));
            server.connect(V5, "a").disconnect();
            let mut late = server.connect(V5, "late");
            late.subscribe("w", QoS::ExactlyOnce);
            let kept = server.with_what_is_retained(&mut late);
            assert_eq!(kept.len(), usize::from(retain != 0));
            assert!(kept.iter().all(|message| message.retain && message.qos == qos));
            server.connect(V5, "cleaner").retain("w", "");
            watcher.take_message("w", "");
        }
    }
}

/// Shows: MQTT5-3.14.4-3
#[test]
fn mqtt5_3_1_2_10_the_will_is_gone_once_published_or_after_a_normal_disconnect() {
    over_shards(&[], |server| {
        let mut watcher = subscriber(server, "w");
        let with_will = || {
            server.connect_with(V5, "client", |connect| {
                connect.clean_start = false;
                connect.will = Some(will_to("w"));
                connect.properties.session_expiry_interval = Some(3_600);
            })
        };
        with_will().cut();
        watcher.take_message("w", "gone");
        // The session is still there, its will is not.
        let client = server.connect_persistent(V5, "client");
        assert!(client.connack.session_present);
        client.cut();
        server.connect(V5, "client").disconnect();
        watcher.expect_nothing();
        with_will().disconnect();
        watcher.expect_nothing();
        let client = server.connect_persistent(V5, "client");
        assert!(client.connack.session_present);
        client.cut();
        server.connect(V5, "client").disconnect();
        watcher.expect_nothing();
    });
}

#[test]
fn mqtt5_3_1_2_11_without_a_will_there_is_no_will_qos() {
    let server = Server::start(&[]);
    for qos in 1..=3 {
        connect_refused(&server, &connect_packet(2 | qos << 3, &[b"\0\x01a"]), MALFORMED);
    }
    connect_accepted(&server, &connect_packet(2, &[b"\0\x01a"]));
}

#[test]
fn mqtt5_3_1_2_12_a_will_qos_of_3_does_not_exist() {
    let server = Server::start(&[]);
    connect_refused(&server, &connect_packet(0x1e, &[b"\0\x01a", WILL]), MALFORMED);
    for qos in EVERY_QOS {
        let flags = 6 | qos.value() << 3;
        connect_accepted(&server, &connect_packet(flags, &[b"\0\x01a", WILL]));
    }
}

#[test]
fn mqtt5_3_1_2_13_without_a_will_there_is_no_will_retain() {
    let server = Server::start(&[]);
    connect_refused(&server, &connect_packet(0x22, &[b"\0\x01a"]), MALFORMED);
    connect_accepted(&server, &connect_packet(0x26, &[b"\0\x01a", WILL]));
}

/// Shows: MQTT5-3.1.2-14
#[test]
fn mqtt5_3_1_2_15_a_will_is_retained_if_it_says_so() {
    over_shards(&[], |server| {
        let mut watcher = subscriber(server, "w");
        for retain in [false, true] {
            let client = server.connect_with(V5, "client", |connect| {
                connect.will = Some(Will { retain, ..will_to("w") });
            });
            client.cut();
            watcher.take_message("w", "gone");
            // Its shard has done with the will once it answers the next connection.
            server.connect(V5, "client").disconnect();
            let mut late = server.connect(V5, "late");
            late.subscribe("w", QoS::AtLeastOnce);
            let kept = server.with_what_is_retained(&mut late);
            assert_eq!(kept.len(), usize::from(retain));
            assert!(kept.iter().all(|message| message.retain && message.text() == "gone"));
        }
    });
}

#[test]
fn mqtt5_3_1_3_10_the_user_properties_of_a_will_keep_their_order() {
    over_shards(&[], |server| {
        let mut watcher = subscriber(server, "w");
        let pairs = [("b", "2"), ("a", "1"), ("b", "2"), ("", ""), ("a", "0")];
        let client = server.connect_with(V5, "client", |connect| {
            let mut will = will_to("w");
            will.properties.publish.user_properties = (&pairs[..]).into();
            connect.will = Some(will);
        });
        client.cut();
        let message = watcher.take_message("w", "gone");
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        assert_eq!(message.user_properties, pairs);
    });
}

/// No number: 3.1.3.2. The same rules as for PUBLISH.
#[test]
fn the_properties_of_a_will_are_checked() {
    let server = Server::start(&[]);
    let connect = |properties: &[u8]| {
        let length = [properties.len() as u8];
        connect_packet(6, &[b"\0\x01a", &length, properties, b"\0\x01w\0\0"])
    };
    let error = ReasonCode::ProtocolError;
    connect_refused(&server, &connect(b"\x18\0\0\0\x01\x18\0\0\0\x01"), error);
    connect_refused(&server, &connect(b"\x01\0\x01\0"), error);
    connect_refused(&server, &connect(b"\x01\x02"), error);
    connect_refused(&server, &connect(b"\x08\0\x01#"), error);
    connect_refused(&server, &connect(b"\x23\0\x01"), MALFORMED);
    connect_refused(&server, &connect(b"\x0b\x01"), MALFORMED);
    connect_accepted(&server, &connect(b"\x18\0\0\0\x01\x01\x01\x02\0\0\0\x09\x08\0\x01r\x09\0\0"));
}
