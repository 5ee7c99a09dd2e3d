//! Very many that do the same thing at once: leave, die, subscribe, break off.

use std::{collections::BTreeSet, thread};

use ringmq::codec::{AckKind, Subscribe, Unsubscribe, UserProperties, Will};

use crate::{
    connect_packet,
    neighbours::Neighbours,
    raise_descriptor_limit, reset,
    support::{
        Client, Packet, PacketId, Publish, QoS, ReasonCode, Server, SubscriptionOptions, Version,
    },
    wait_for_connections,
};

const V5: Version = Version::V5;

/// A client whose will is `will/NAME`.
fn mortal(server: &Server, name: &str, keep_alive: u16) -> Client {
    let will = Will {
        topic: &format!("will/{name}"),
        payload: b"",
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: Default::default(),
    };
    server.connect_with(V5, name, |connect| {
        connect.will = Some(will);
        connect.keep_alive = keep_alive;
    })
}

/// Takes the wills of so many clients, each of them once.
fn take_wills(heir: &mut Client, count: usize) {
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        let will = heir.expect_publish();
        heir.acknowledge(&will);
        assert!(seen.insert(will.topic.clone()), "{} comes twice", will.topic);
    }
    heir.expect_nothing();
}

#[test]
fn thousands_that_are_cut_at_once_leave_their_wills_and_nothing_else() {
    const CLIENTS: usize = 1_500;
    raise_descriptor_limit();
    // A queue for all the wills: they come at once.
    let server =
        Server::start(&["--shards=2", "--sys-interval=100ms", "--max-queued-messages=2000"]);
    let neighbours = Neighbours::start(&server);
    let mut heir = server.connect(V5, "heir");
    heir.subscribe("will/#", QoS::AtLeastOnce);
    let mut settled = 0;
    for round in 0..4 {
        let clients: Vec<Client> = (0..CLIENTS)
            .map(|n| {
                let mut client = mortal(&server, &format!("{round}-{n}"), 0);
                client.subscribe(&format!("to/{round}/{n}"), QoS::AtLeastOnce);
                client
            })
            .collect();
        clients.into_iter().for_each(reset);
        take_wills(&mut heir, CLIENTS);
        neighbours.go_on();
        // Neighbours, heir, and who asks.
        wait_for_connections(&server, 14);
        // What the first rounds took is used again.
        let now = server.resident_kib();
        match round {
            0 | 1 => settled = now,
            _ => assert!(now < settled + 2 * 1024, "{settled} KiB, then {now} KiB"),
        }
    }
    neighbours.finish();
}

#[test]
fn peers_that_fall_silent_without_a_word_are_found_out_by_their_keep_alive() {
    const CLIENTS: usize = 300;
    let server = Server::start(&["--shards=2"]);
    let neighbours = Neighbours::start(&server);
    let mut heir = server.connect(V5, "heir");
    heir.subscribe("will/#", QoS::AtLeastOnce);
    // Their kernel is there and nothing ends the connection, as when their program stands still.
    let mut silent: Vec<Client> =
        (0..CLIENTS).map(|n| mortal(&server, &format!("silent-{n}"), 1)).collect();
    take_wills(&mut heir, CLIENTS);
    for client in &mut silent {
        client.expect_disconnect(ReasonCode::KeepAliveTimeout);
    }
    neighbours.finish();
}

/// The bytes of a SUBSCRIBE to one filter.
fn subscribe_packet(client: &mut Client, filter: &str) -> Vec<u8> {
    let filters = [(filter, SubscriptionOptions::new(QoS::ExactlyOnce))];
    let packet_id = client.next_id();
    client.encode(&Packet::Subscribe(Subscribe {
        packet_id,
        subscription_id: None,
        user_properties: UserProperties::default(),
        filters: (&filters[..]).into(),
    }))
}

/// The bytes of an UNSUBSCRIBE from one filter.
fn unsubscribe_packet(client: &mut Client, filter: &str) -> Vec<u8> {
    let packet_id = client.next_id();
    client.encode(&Packet::Unsubscribe(Unsubscribe {
        packet_id,
        user_properties: UserProperties::default(),
        filters: (&[filter][..]).into(),
    }))
}

/// All packets of a client's life in a row.
fn whole_life(client: &mut Client) -> Vec<u8> {
    let mut bytes = connect_packet("brief");
    bytes.extend(subscribe_packet(client, "t/#"));
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let packet_id = (qos != QoS::AtMostOnce).then(|| client.next_id());
        let publish =
            Publish { topic: "t/1", payload: b"hello", qos, packet_id, ..Publish::default() };
        bytes.extend(client.encode(&Packet::Publish(publish)));
    }
    bytes
}

#[test]
fn connections_that_break_off_at_any_byte_leave_nothing_behind() {
    let server = Server::start(&["--shards=2", "--sys-interval=100ms"]);
    let neighbours = Neighbours::start(&server);
    let bytes = whole_life(&mut server.open(V5));
    for end in 0..=bytes.len() {
        for breaks in [reset as fn(Client), Client::cut, drop] {
            let mut client = server.open(V5);
            client.send_raw(&bytes[..end]);
            breaks(client);
        }
    }
    // Neighbours, and who asks.
    wait_for_connections(&server, 13);
    neighbours.finish();
}

/// Sends so many pairs of SUBSCRIBE and UNSUBSCRIBE at once, and waits until all are answered.
fn churn(client: &mut Client, filters: &[&str], pairs: usize) {
    let mut bytes = Vec::new();
    for n in 0..pairs {
        let filter = filters[n % filters.len()];
        bytes.extend(subscribe_packet(client, filter));
        bytes.extend(unsubscribe_packet(client, filter));
    }
    client.send_raw(&bytes);
    let mut answers = 0;
    while answers < 2 * pairs {
        let reply = client.receive();
        match reply.packet() {
            Packet::Suback(_) | Packet::Unsuback(_) => answers += 1,
            Packet::Publish(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn subscribing_and_unsubscribing_to_the_neighbours_talk_disturbs_nobody() {
    let server = Server::start(&["--shards=2"]);
    let neighbours = Neighbours::start(&server);
    let filters = [
        "neighbours/#",
        "#",
        "+/+",
        "+/1",
        "neighbours/+",
        "$share/g/neighbours/#",
        "neighbours/0",
    ];
    let mut settled = 0;
    for round in 0..3 {
        thread::scope(|scope| {
            for n in 0..4 {
                let server = &server;
                scope.spawn(move || {
                    let mut client = server.connect(V5, &format!("churner-{n}"));
                    for _ in 0..10 {
                        churn(&mut client, &filters, 100);
                    }
                    client.cut();
                });
            }
        });
        neighbours.go_on();
        let now = server.resident_kib();
        match round {
            0 => settled = now,
            _ => assert!(now < settled + 2 * 1024, "{settled} KiB, then {now} KiB"),
        }
    }
    neighbours.finish();
}

#[test]
fn very_many_retained_messages_go_to_those_who_read_and_not_to_those_who_do_not() {
    const TOPICS: usize = 20_000;
    let server = Server::start(&["--shards=2", "--max-outbox-bytes=1MiB"]);
    let neighbours = Neighbours::start(&server);
    let mut publisher = server.connect(V5, "publisher");
    for chunk in 0..TOPICS / 500 {
        for n in 0..500 {
            let topic = format!("big/{}", chunk * 500 + n);
            publisher.send_publish_with(&topic, &[b'x'; 200], QoS::AtMostOnce, |publish| {
                publish.retain = true;
            });
        }
        publisher.expect_nothing();
    }
    let before = server.resident_kib();
    let stuck: Vec<Client> = (0..8)
        .map(|n| {
            let mut client = server.connect(V5, &format!("stuck-{n}"));
            let options = SubscriptionOptions::new([QoS::AtMostOnce, QoS::AtLeastOnce][n % 2]);
            client.send_subscribe(&[("#", options), ("big/#", options)], 0);
            client
        })
        .collect();
    thread::scope(|scope| {
        for n in 0..4 {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.connect(V5, &format!("reader-{n}"));
                client.subscribe("big/#", QoS::AtMostOnce);
                let mut seen = BTreeSet::new();
                while seen.len() < TOPICS {
                    let message = client.expect_publish();
                    assert!(message.retain);
                    assert!(seen.insert(message.topic));
                }
                client.expect_nothing();
            });
        }
        neighbours.go_on();
    });
    // Each of the stuck ones holds an outbox at the most, and a queue.
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 48 * 1024, "{grown} KiB");
    drop(stuck);
    neighbours.finish();
}

#[test]
fn clients_that_release_nothing_and_break_off_again_and_again_deliver_once() {
    let server = Server::start(&["--shards=2"]);
    let neighbours = Neighbours::start(&server);
    let mut subscriber = server.connect(V5, "subscriber");
    subscriber.subscribe("once", QoS::ExactlyOnce);
    let mut id = 0;
    for attempt in 0..20 {
        let mut client = server.connect_persistent(V5, "unsteady");
        assert_eq!(client.connack.session_present, attempt > 0);
        if attempt == 0 {
            id = client.send_publish("once", "x", QoS::ExactlyOnce);
        } else {
            client.send_publish_with("once", b"x", QoS::ExactlyOnce, |publish| {
                publish.packet_id = PacketId::new(id);
                publish.dup = true;
            });
        }
        client.expect_ack(AckKind::Pubrec, id);
        reset(client);
    }
    subscriber.take_message("once", "x");
    subscriber.expect_nothing();
    neighbours.finish();
}
