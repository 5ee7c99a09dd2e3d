//! SIGTERM.

mod support;

use std::time::{Duration, Instant};

use support::{QoS, ReasonCode, Server, VERSIONS, Version};

const V5: Version = Version::V5;

fn start(shards: usize, flags: &[&str]) -> Server {
    let shards = format!("--shards={shards}");
    let mut all = vec![&*shards];
    all.extend_from_slice(flags);
    Server::start(&all)
}

#[test]
fn clients_are_told_and_the_exit_status_is_0() {
    for shards in support::SHARDS {
        let mut server = start(shards, &[]);
        let mut clients: Vec<_> =
            (0..9).map(|n| server.connect(VERSIONS[n % 3], &format!("client-{n}"))).collect();
        let mut silent = server.open(V5);
        server.terminate();
        for client in &mut clients {
            client.expect_disconnect(ReasonCode::ServerShuttingDown);
        }
        silent.expect_closed();
        drop(clients);
        drop(silent);
        assert_eq!(server.wait().code(), Some(0));
        assert!(server.log().contains("\"stopped\""), "{}", server.log());
    }
}

#[test]
fn what_is_queued_goes_out_first() {
    for shards in support::SHARDS {
        let mut server = start(shards, &["--max-inflight=1000"]);
        let mut subscribers: Vec<_> = (0..4)
            .map(|n| {
                let mut subscriber = server.connect(V5, &format!("subscriber-{n}"));
                subscriber.subscribe("t", QoS::AtLeastOnce);
                subscriber
            })
            .collect();
        let mut publisher = server.connect(V5, "publisher");
        for n in 0..200 {
            publisher.publish("t", format!("{n:01000}"), QoS::AtLeastOnce);
        }
        server.terminate();
        for subscriber in &mut subscribers {
            for n in 0..200 {
                subscriber.expect_message("t", &format!("{n:01000}"));
            }
            subscriber.expect_disconnect(ReasonCode::ServerShuttingDown);
        }
        drop((subscribers, publisher));
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn a_slow_reader_still_gets_all_of_its_outbox() {
    let mut server = start(2, &["--send-buffer=8KiB", "--linger=500ms"]);
    let mut subscriber = server.connect(V5, "subscriber");
    socket2::SockRef::from(subscriber.stream()).set_recv_buffer_size(64 * 1024).unwrap();
    subscriber.subscribe("t", QoS::AtMostOnce);
    let mut publisher = server.connect(V5, "publisher");
    for n in 0..60 {
        publisher.publish("t", format!("{n:010000}"), QoS::AtLeastOnce);
    }
    server.terminate();
    publisher.expect_disconnect(ReasonCode::ServerShuttingDown);
    drop(publisher);
    // It reads on and on, but takes longer over it than the broker lingers on a client that is
    // done.
    for n in 0..60 {
        std::thread::sleep(Duration::from_millis(20));
        subscriber.expect_message("t", &format!("{n:010000}"));
    }
    subscriber.expect_disconnect(ReasonCode::ServerShuttingDown);
    drop(subscriber);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn clients_that_do_not_read_or_go_cannot_hold_it_up() {
    for shards in support::SHARDS {
        let mut server = start(shards, &["--shutdown-timeout=1s"]);
        let mut clients: Vec<_> = (0..4)
            .map(|n| {
                let mut client = server.connect(V5, &format!("client-{n}"));
                client.subscribe("t", QoS::AtMostOnce);
                client
            })
            .collect();
        let mut publisher = server.connect(V5, "publisher");
        for _ in 0..100 {
            publisher.publish("t", vec![b'x'; 100_000], QoS::AtLeastOnce);
        }
        let start = Instant::now();
        server.terminate();
        assert_eq!(server.wait().code(), Some(0));
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        clients.clear();
    }
}

#[test]
fn nobody_is_let_in_any_more_and_wills_stay_unsaid() {
    let mut server = start(2, &[]);
    let mut watcher = server.connect(V5, "watcher");
    watcher.subscribe("will", QoS::AtMostOnce);
    let client = server.connect_with(V5, "client", |connect| {
        connect.will = Some(support::Will {
            topic: "will",
            payload: b"",
            qos: QoS::AtMostOnce,
            retain: false,
            properties: Default::default(),
        });
    });
    let mut open = server.open(V5);
    server.terminate();
    watcher.expect_disconnect(ReasonCode::ServerShuttingDown);
    open.expect_closed();
    drop((watcher, client, open));
    assert_eq!(server.wait().code(), Some(0));
    assert!(std::net::TcpStream::connect(server.address()).is_err());
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut server = start(1, &["--linger=20s", "--shutdown-timeout=20s"]);
    let client = server.connect(V5, "client");
    server.terminate();
    server.wait_for_log("\"stopping\"");
    let start = Instant::now();
    // The first one may still be at work when the second one comes; then they are one.
    let status = loop {
        assert!(start.elapsed() < Duration::from_secs(15), "it goes on waiting");
        if let Some(status) = server.wait_for(Duration::from_millis(20)) {
            break status;
        }
        server.terminate();
    };
    assert_eq!(status.code(), Some(1));
    drop(client);
}
