//! 3.1.2: the connect flags, and the fields that they announce.

use super::*;

#[test]
fn mqtt311_3_1_2_3_the_reserved_flag_closes_the_connection() {
    let server = Server::start(&[]);
    refused(&server, &connect(0x03, &[b"client"]));
    refused(&server, &connect(0x01, &[b"client"]));
    answered(&server, &connect(0x02, &[b"client"]), ACCEPTED);
}

/// Shows: MQTT311-3.1.2-11
#[test]
fn mqtt311_3_1_2_9_will_topic_and_message_are_there_if_the_flag_is_set() {
    let server = Server::start(&[]);
    refused(&server, &connect(0x06, &[b"client"]));
    refused(&server, &connect(0x06, &[b"client", b"will"]));
    refused(&server, &connect(0x02, &[b"client", b"will", b"gone"]));
    let mut watcher = server.connect(V3, "watcher");
    watcher.subscribe("will", Q2);
    for (flags, qos) in [(0x06, Q0), (0x0e, Q1), (0x16, Q2)] {
        let bytes = connect(flags, &[b"client", b"will", b""]);
        answered(&server, &bytes, ACCEPTED).cut();
        assert_eq!(watcher.take_message("will", "").qos, qos);
    }
}

/// Shows: MQTT311-3.1.2-11, MQTT311-3.1.2-15
#[test]
fn mqtt311_3_1_2_13_will_flags_without_a_will_close_the_connection() {
    let server = Server::start(&[]);
    for flags in [0x0a, 0x12, 0x1a, 0x22, 0x2a, 0x3a] {
        refused(&server, &connect(flags, &[b"client"]));
        refused(&server, &connect(flags, &[b"client", b"will", b"gone"]));
    }
}

#[test]
fn mqtt311_3_1_2_14_will_qos_3_closes_the_connection() {
    let server = Server::start(&[]);
    for flags in [0x1e, 0x3e] {
        refused(&server, &connect(flags, &[b"client", b"will", b"gone"]));
    }
    for flags in [0x06, 0x0e, 0x16, 0x26, 0x2e, 0x36] {
        answered(&server, &connect(flags, &[b"client", b"will", b"gone"]), ACCEPTED).disconnect();
    }
}

/// Shows: MQTT311-3.1.2-19, MQTT311-3.1.2-20, MQTT311-3.1.2-21
#[test]
fn mqtt311_3_1_2_18_user_name_and_password_are_there_as_their_flags_say() {
    let server = Server::start(&[]);
    refused(&server, &connect(0x02, &[b"client", b"name"]));
    refused(&server, &connect(0x82, &[b"client"]));
    refused(&server, &connect(0x82, &[b"client", b"name", b"word"]));
    refused(&server, &connect(0xc2, &[b"client", b"name"]));
    for (flags, fields) in [
        (0x02, &[&b"client"[..]][..]),
        (0x82, &[b"client", b"name"]),
        (0x82, &[b"client", b""]),
        (0xc2, &[b"client", b"name", b"word"]),
        (0xc2, &[b"client", b"name", b""]),
    ] {
        answered(&server, &connect(flags, fields), ACCEPTED);
    }
}

#[test]
fn mqtt311_3_1_2_22_a_password_without_a_user_name_closes_the_connection() {
    let server = Server::start(&[]);
    refused(&server, &connect(0x42, &[b"client", b"word"]));
    refused(&server, &connect(0x42, &[b"client"]));
}
