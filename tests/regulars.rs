//! Clients with which messages are exchanged all the time: the broker waits for them together, and none of
//! them may notice.

mod support;

use std::{
    net::Shutdown,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use ringmq::codec::{AckKind, Will, WillProperties};
use rustix::process::Signal;
use support::{Client, PATIENCE, QoS, Server, Version};

const FLAGS: [&str; 4] = [
    "--packets-per-turn=3",
    "--mesh-credit=64",
    "--sys-interval=100ms",
    // What is sent while the broker stands still is to have room.
    "--recv-buffer=200KiB",
];
/// Who is silent for 10 s is waited for by itself again, which would hide what was overlooked until then.
const LESS_THAN_SILENT: Duration = Duration::from_secs(9);
const NUMBER: &str = "$SYS/broker/connections/regular";

/// Runs a test with brokers over both drivers, and shards that have to wait for each other. Side by side,
/// for a client becomes a regular only after a while.
fn with_each_server(test: impl Fn(Server) + Sync) {
    thread::scope(|scope| {
        for (shards, driver) in [("1", "io_uring"), ("2", "io_uring"), ("2", "epoll")] {
            let flags = [&FLAGS[..], &["--shards", shards, "--driver", driver]].concat();
            let test = &test;
            scope.spawn(move || test(Server::start(&flags)));
        }
    });
}

/// A client that learns how many regulars there are.
fn watcher(server: &Server) -> Client {
    let mut watcher = server.connect(Version::V3_1_1, "watcher");
    watcher.subscribe(NUMBER, QoS::AtMostOnce);
    watcher
}

/// Waits until there are so many.
fn until_there_are(watcher: &mut Client, number: &str) {
    let deadline = Instant::now() + PATIENCE;
    while watcher.expect_publish().text() != number {
        assert!(Instant::now() < deadline, "there never are {number} regulars");
    }
}

/// Publishes on these connections until all are regulars.
fn make_regular(server: &Server, clients: &mut [&mut Client]) {
    let is_done = AtomicBool::new(false);
    let number = clients.len().to_string();
    thread::scope(|scope| {
        scope.spawn(|| {
            until_there_are(&mut watcher(server), &number);
            is_done.store(true, Ordering::Relaxed);
        });
        let deadline = Instant::now() + PATIENCE;
        while !is_done.load(Ordering::Relaxed) && Instant::now() < deadline {
            for client in &mut *clients {
                client.publish("nobody", "x", QoS::AtLeastOnce);
            }
        }
    });
}

/// A publisher that is a regular, with a will, and a subscriber to `t` and to its will.
fn pair(server: &Server) -> (Client, Client) {
    let mut to = server.connect(Version::V3_1_1, "to");
    to.subscribe("t", QoS::AtMostOnce);
    to.subscribe("gone", QoS::AtMostOnce);
    let mut from = server.connect_with(Version::V3_1_1, "from", |connect| {
        connect.will = Some(Will {
            topic: "gone",
            payload: b"from",
            qos: QoS::AtMostOnce,
            retain: false,
            properties: WillProperties::default(),
        });
    });
    make_regular(server, &mut [&mut from]);
    for client in [&from, &to] {
        client.stream().set_read_timeout(Some(LESS_THAN_SILENT)).unwrap();
    }
    (from, to)
}

/// Has the broker stand still while something is sent, so that it finds all of it at once.
fn all_at_once<T>(server: &Server, send: impl FnOnce() -> T) {
    server.signal(Signal::STOP);
    send();
    server.signal(Signal::CONT);
}

#[test]
fn all_that_comes_in_one_piece_is_handled_in_order_in_many_turns() {
    with_each_server(|server| {
        let (mut from, mut to) = pair(&server);
        for round in 0..3 {
            let texts: Vec<String> = (0..20_000).map(|n| format!("{round} {n}")).collect();
            let (bytes, ids) = from.encode_publishes("t", &texts);
            all_at_once(&server, || from.send_raw(&bytes));
            for (id, text) in ids.into_iter().zip(&texts) {
                from.expect_ack(AckKind::Puback, id);
                to.expect_message("t", text);
            }
        }
    });
}

#[test]
fn a_message_larger_than_what_is_read_at_once_arrives() {
    with_each_server(|server| {
        let (mut from, mut to) = pair(&server);
        for size in [65_000, 65_536, 200_000, 1_000_000] {
            let message = vec![b'x'; size];
            all_at_once(&server, || from.send_publish("t", message, QoS::AtMostOnce));
            assert_eq!(to.expect_publish().payload.len(), size);
        }
        from.expect_nothing();
    });
}

#[test]
fn a_stream_that_ends_is_noticed_after_what_came_before() {
    with_each_server(|server| {
        let (mut from, mut to) = pair(&server);
        all_at_once(&server, || {
            from.send_publish("t", "last", QoS::AtMostOnce);
            from.stream().shutdown(Shutdown::Write).unwrap();
        });
        to.expect_message("t", "last");
        to.expect_message("gone", "from");
        from.expect_closed();
        until_there_are(&mut watcher(&server), "0");
        // In the same place there may be another client now.
        let (mut from, mut to) = pair(&server);
        from.publish("t", "again", QoS::AtLeastOnce);
        to.expect_message("t", "again");
    });
}

#[test]
fn a_client_that_is_taken_over_or_breaks_the_protocol_is_ended() {
    with_each_server(|server| {
        let (mut from, mut to) = pair(&server);
        let mut next = server.connect(Version::V3_1_1, "from");
        to.expect_message("gone", "from");
        from.expect_closed();
        make_regular(&server, &mut [&mut next]);
        next.send_raw(&[0xf0, 0]);
        next.expect_closed();
        until_there_are(&mut watcher(&server), "0");
    });
}

#[test]
fn who_falls_silent_can_be_heard_again() {
    with_each_server(|server| {
        let (mut from, mut to) = pair(&server);
        until_there_are(&mut watcher(&server), "0");
        from.publish("t", "still here", QoS::AtLeastOnce);
        to.expect_message("t", "still here");
        make_regular(&server, &mut [&mut from, &mut to]);
        to.send_publish("t", "myself", QoS::AtMostOnce);
        to.expect_message("t", "myself");
    });
}

#[test]
fn a_broker_stops_while_there_are_regulars() {
    with_each_server(|mut server| {
        let (mut from, _to) = pair(&server);
        server.terminate();
        from.expect_closed();
        assert!(server.wait().success());
    });
}
