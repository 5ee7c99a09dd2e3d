//! Busy clients and their neighbours: everybody gets a turn, and time goes on.

mod support;

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use ringmq::codec::{AckKind, Packet};
use support::{Client, PATIENCE, Publish, QoS, SHARDS, Server, Version};

/// Floods the broker from four connections while `body` runs.
fn flooded(server: &Server, body: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let flooders: Vec<Client> =
        (0..4).map(|i| server.connect(Version::V3_1_1, &format!("flooder-{i}"))).collect();
    let publish = Publish { topic: "x", ..Publish::default() };
    let bytes = flooders[0].encode(&Packet::Publish(publish)).repeat(10_000);
    thread::scope(|scope| {
        for flooder in &flooders {
            scope.spawn(|| {
                let mut stream = flooder.stream();
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(&bytes).unwrap();
                }
            });
        }
        let _stop = Stop(&stop);
        body();
    });
}

/// Stops the flood, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Both drivers, for each has its own way of starving those who wait.
fn on_both_drivers(body: impl Fn(&Server)) {
    for driver in ["io_uring", "epoll"] {
        body(&Server::start(&["--shards", "1", "--driver", driver]));
    }
}

#[test]
fn a_neighbour_of_flooders_is_answered() {
    on_both_drivers(|server| {
        let mut neighbour = server.connect(Version::V3_1_1, "neighbour");
        flooded(server, || {
            for _ in 0..20 {
                neighbour.expect_nothing();
            }
            server.connect(Version::V5, "newcomer").disconnect();
        });
    });
}

#[test]
fn keep_alives_are_watched_while_clients_flood() {
    on_both_drivers(|server| {
        let mut silent = server.connect_with(Version::V5, "silent", |connect| {
            connect.keep_alive = 1;
        });
        flooded(server, || {
            silent.expect_disconnect(support::ReasonCode::KeepAliveTimeout);
        });
    });
}

/// Publishers of QoS 1 are held up while another shard is behind, and go on when it is not.
#[test]
fn publishers_held_up_by_another_shard_go_on() {
    for shards in SHARDS {
        let server = Server::start(&["--shards", &shards.to_string(), "--mesh-credit", "64"]);
        let subscribers: Vec<Client> = (0..4)
            .map(|i| {
                let mut client = server.connect(Version::V3_1_1, &format!("subscriber-{i}"));
                client.subscribe(&format!("to/{i}"), QoS::AtMostOnce);
                client
            })
            .collect();
        thread::scope(|scope| {
            for i in 0..4 {
                let mut client = server.connect(Version::V3_1_1, &format!("publisher-{i}"));
                scope.spawn(move || {
                    let topic = format!("to/{i}");
                    for _ in 0..40 {
                        let ids: Vec<u16> = (0..50)
                            .map(|_| client.send_publish(&topic, [7; 600], QoS::AtLeastOnce))
                            .collect();
                        for id in ids {
                            client.expect_ack(AckKind::Puback, id);
                        }
                    }
                });
            }
            for mut subscriber in subscribers {
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        subscriber.expect_publish();
                    }
                });
            }
        });
    }
}

/// A crowd that only pings until `is_over`.
fn crowd(server: &Server, name: &str, is_over: &AtomicBool) {
    let mut strangers: Vec<Client> =
        (0..200).map(|i| server.connect(Version::V3_1_1, &format!("{name}-{i}"))).collect();
    while !is_over.load(Ordering::Relaxed) {
        strangers.iter_mut().for_each(|stranger| stranger.send(&Packet::Pingreq));
        for stranger in &mut strangers {
            assert_eq!(stranger.receive().packet(), Packet::Pingresp);
        }
    }
}

/// Those on whose connections messages flow are heard before a crowd of others. What they have sent
/// is handled all the same, in order, in more than one turn, and after they were held up.
#[test]
fn in_a_crowd_those_with_messages_are_heard_first() {
    let flags = ["--packets-per-turn=3", "--mesh-credit=64", "--sys-interval=200ms"];
    for (shards, driver) in [("1", "io_uring"), ("2", "io_uring"), ("1", "epoll")] {
        let server =
            Server::start(&[&flags[..], &["--shards", shards, "--driver", driver]].concat());
        let (mut from, mut to, mut watcher) = (
            server.connect(Version::V3_1_1, "from"),
            server.connect(Version::V3_1_1, "to"),
            server.connect(Version::V3_1_1, "watcher"),
        );
        to.subscribe("t", QoS::AtMostOnce);
        watcher.subscribe("$SYS/broker/reads/ahead", QoS::AtMostOnce);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| crowd(&server, "a", &is_over));
            scope.spawn(|| crowd(&server, "b", &is_over));
            scope.spawn(|| {
                while watcher.expect_publish().text() == "0" {}
                is_over.store(true, Ordering::Relaxed);
            });
            let _stop = Stop(&is_over);
            let deadline = Instant::now() + PATIENCE;
            let mut round = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                assert!(Instant::now() < deadline, "nobody was heard before the crowd");
                let texts: Vec<String> = (0..100).map(|n| format!("{round} {n}")).collect();
                // In one piece, so that nothing comes later that would have the rest handled.
                let (bytes, ids) = from.encode_publishes("t", &texts);
                from.send_raw(&bytes);
                for (id, text) in ids.into_iter().zip(&texts) {
                    from.expect_ack(AckKind::Puback, id);
                    assert_eq!(to.expect_publish().text(), text);
                }
                round += 1;
            }
        });
    }
}
