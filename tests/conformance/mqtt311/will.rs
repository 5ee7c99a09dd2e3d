//! 3.1.2.5 to 3.1.2.7: the will.

use super::*;

const WILL: [&[u8]; 3] = [b"client", b"will", b"gone"];

fn watcher(server: &Server) -> Client {
    let mut watcher = server.connect(V3, "watcher");
    watcher.subscribe("will", Q2);
    watcher
}

#[test]
fn mqtt311_3_1_2_8_the_will_is_published_however_the_connection_ends() {
    let server = Server::start(&[]);
    let mut watcher = watcher(&server);
    for clean in [0x00, 0x02] {
        let with_will = |server: &Server| {
            let mut client = server.open(V3);
            client.send_raw(&connect(0x04 | clean, &WILL));
            assert!(!client.expect_connack().reason.is_error());
            client
        };
        with_will(&server).cut();
        watcher.take_message("will", "gone");
        // A violation of the protocol.
        let mut client = with_will(&server);
        client.send_raw(b"\0\0");
        client.expect_closed();
        watcher.take_message("will", "gone");
        // A take-over.
        let mut client = with_will(&server);
        watcher.expect_nothing();
        server.connect(V3, "client").disconnect();
        client.expect_closed();
        watcher.take_message("will", "gone");
        watcher.expect_nothing();
    }
    // Not if the CONNECT was refused.
    answered(&server, &connect(0x04, &[b"", b"will", b"gone"]), b"\x20\x02\0\x02").expect_closed();
    watcher.expect_nothing();
}

/// Shows: MQTT311-3.14.4-3, MQTT311-3.1.2-12
#[test]
fn mqtt311_3_1_2_10_a_will_is_published_once_and_not_after_disconnect() {
    let server = Server::start(&[]);
    let mut watcher = watcher(&server);
    for clean in [0x00, 0x02] {
        let mut client = server.open(V3);
        client.send_raw(&connect(0x04 | clean, &WILL));
        client.expect_connack();
        client.disconnect();
        watcher.expect_nothing();
        let mut client = server.open(V3);
        client.send_raw(&connect(0x04 | clean, &WILL));
        client.expect_connack();
        client.cut();
        watcher.take_message("will", "gone");
        // What is left of the session ends here, and would publish what is left of the will.
        let client = server.connect(V3, "client");
        watcher.expect_nothing();
        // Nor does a connection without a will; the one behind it shows that it has ended.
        client.cut();
        server.connect(V3, "client").disconnect();
        watcher.expect_nothing();
    }
}

#[test]
fn mqtt311_3_1_2_16_a_will_is_not_retained_unless_it_asks_for_it() {
    let server = Server::start(&[]);
    let mut watcher = watcher(&server);
    watcher.retain(LAST, "x");
    for flags in [0x06, 0x0e, 0x16] {
        answered(&server, &connect(flags, &WILL), ACCEPTED).cut();
        assert!(!watcher.take_message("will", "gone").retain);
        assert_eq!(retained(&server, "will"), []);
    }
}

#[test]
fn mqtt311_3_1_2_17_a_will_is_retained_if_it_asks_for_it() {
    let server = Server::start(&[]);
    let mut watcher = watcher(&server);
    watcher.retain(LAST, "x");
    for (flags, qos) in [(0x26, Q0), (0x2e, Q1), (0x36, Q2)] {
        answered(&server, &connect(flags, &WILL), ACCEPTED).cut();
        assert!(!watcher.take_message("will", "gone").retain);
        assert_eq!(retained(&server, "will"), [("will".into(), "gone".into(), qos, true)]);
    }
}
