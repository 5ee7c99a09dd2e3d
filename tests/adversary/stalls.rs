//! A broker that does not run for a while: stopped by a debugger, a frozen container, a host that
//! has no processor to spare. What has arrived meanwhile has arrived in time.

use std::{
    thread,
    time::{Duration, Instant},
};

use ringmq::codec::{Disconnect, Packet, Will};

use crate::{
    connect_packet,
    support::{Client, QoS, ReasonCode, Server, Signal, Version},
};

const V5: Version = Version::V5;
/// How long the broker stands still: longer than anything that is due in the meantime.
const STALL: Duration = Duration::from_millis(3_500);
/// More than an event loop is told of at once.
const CLIENTS: usize = 200;

/// Stops the broker for at least [`STALL`] while clients go on by `body`.
fn stalled(server: &Server, body: impl FnOnce()) {
    let start = Instant::now();
    server.signal(Signal::STOP);
    body();
    // This is about time: the broker is to find that much of it gone.
    thread::sleep(STALL.saturating_sub(start.elapsed()));
    server.signal(Signal::CONT);
}

/// At the same time, for most of it is waiting.
fn on_both_drivers(flags: &[&str], body: impl Fn(&Server) + Sync) {
    thread::scope(|scope| {
        for driver in ["--driver=io_uring", "--driver=epoll"] {
            let body = &body;
            scope.spawn(move || {
                let mut all = vec!["--shards=2", driver];
                all.extend_from_slice(flags);
                body(&Server::start(&all));
            });
        }
    });
}

#[test]
fn whoever_sent_its_pingreq_meanwhile_is_alive() {
    on_both_drivers(&[], |server| {
        let connect = |n| {
            // Three seconds until it counts as dead.
            server.connect_with(V5, &format!("c-{n}"), |connect| connect.keep_alive = 2)
        };
        let mut clients: Vec<Client> = (0..CLIENTS).map(connect).collect();
        clients.iter_mut().for_each(Client::expect_nothing);
        stalled(server, || {
            clients.iter_mut().for_each(|client| client.send(&Packet::Pingreq));
        });
        for client in &mut clients {
            assert_eq!(client.receive().packet(), Packet::Pingresp);
        }
        server.wait_for_log("shards have stood still");
        // Whoever is silent from now on is found out all the same.
        for client in &mut clients {
            client.expect_disconnect(ReasonCode::KeepAliveTimeout);
        }
    });
}

#[test]
fn whoever_sent_its_connect_meanwhile_is_let_in() {
    on_both_drivers(&["--connect-timeout=3s"], |server| {
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.open(V5)).collect();
        clients.iter_mut().for_each(|client| client.send_raw(b"\x10"));
        server.connect(V5, "later").expect_nothing();
        stalled(server, || {
            for (n, client) in clients.iter_mut().enumerate() {
                client.send_raw(&connect_packet(&format!("c-{n}"))[1..]);
            }
        });
        for client in &mut clients {
            assert_eq!(client.expect_connack().reason, ReasonCode::Success);
        }
    });
}

#[test]
fn whoever_came_back_meanwhile_finds_its_session_and_leaves_no_will() {
    on_both_drivers(&[], |server| {
        let mut heir = server.connect(V5, "heir");
        heir.subscribe("will/#", QoS::AtLeastOnce);
        let open = |n: usize| {
            let mut client = server.open(V5);
            let mut will = Will {
                topic: &format!("will/{n}"),
                payload: b"",
                qos: QoS::AtLeastOnce,
                retain: false,
                properties: Default::default(),
            };
            will.properties.delay_interval = 2;
            client.send_connect(&format!("c-{n}"), |connect| {
                connect.clean_start = false;
                connect.properties.session_expiry_interval = Some(3);
                connect.will = Some(will);
            });
            client
        };
        let mut clients: Vec<Client> = (0..CLIENTS / 4).map(open).collect();
        for client in &mut clients {
            assert!(!client.expect_connack().session_present);
        }
        for client in clients.drain(..) {
            let reason = ReasonCode::DisconnectWithWillMessage;
            client.disconnect_with(Disconnect { reason, ..Default::default() });
        }
        stalled(server, || clients.extend((0..CLIENTS / 4).map(open)));
        for client in &mut clients {
            assert!(client.expect_connack().session_present);
        }
        heir.expect_nothing();
    });
}
