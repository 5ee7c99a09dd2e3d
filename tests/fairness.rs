//! Busy clients and their neighbours: everybody gets a turn, and time goes on.

mod support;

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use ringmq::codec::Packet;
use support::{Client, Publish, QoS, SHARDS, Server, Version};

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
                            client.expect_ack(ringmq::codec::AckKind::Puback, id);
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
