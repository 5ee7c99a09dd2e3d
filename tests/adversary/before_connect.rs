//! Before CONNECT: connections that never become clients, and clients that fight for one name.

use std::{fs, io::Write, thread};

use crate::{
    connect_packet,
    neighbours::Neighbours,
    raise_descriptor_limit,
    support::{Client, Packet, QoS, ReasonCode, Server, Signal, Version},
    wait_until,
};

const V5: Version = Version::V5;

#[test]
fn thousands_that_never_finish_their_connect_cost_a_bounded_memory_and_their_own_time() {
    raise_descriptor_limit();
    let server = Server::start(&["--shards=2", "--connect-timeout=4s", "--max-unread-bytes=2MiB"]);
    let neighbours = Neighbours::start(&server);
    let before = server.resident_kib();
    let mut slow = Vec::new();
    let mut others = Vec::new();
    // A CONNECT of a megabyte, of which 64 KiB come: 26 MiB in all.
    let mut large = b"\x10\xc0\x84\x3d\0\x04MQTT\x05".to_vec();
    large.resize(64 << 10, 0);
    for n in 0..1_600 {
        let mut client = server.open(V5);
        match n % 4 {
            0 => slow.push(client),
            1 => others.push(client),
            2 => {
                client.send_raw(b"\x10\x13\0\x04MQTT\x05\x02\0\0");
                others.push(client);
            }
            _ => {
                // It may have been ended by now, for the others hold too much.
                let _ = client.stream().write_all(&large);
                others.push(client);
            }
        }
    }
    let packet = connect_packet("slow");
    for byte in &packet[..packet.len() - 1] {
        for client in &slow {
            // The first ones may have run out of time.
            let _ = client.stream().write_all(&[*byte]);
        }
        neighbours.go_on();
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 12 * 1024, "{grown} KiB");
    for client in slow.iter_mut().chain(&mut others) {
        client.expect_closed();
    }
    neighbours.finish();
}

#[test]
fn other_protocols_get_no_answer() {
    let server = Server::start(&["--shards=2", "--connect-timeout=1s"]);
    let neighbours = Neighbours::start(&server);
    let hello = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03".iter().chain(&[0xa5; 194]);
    let protocols: [&[u8]; 12] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /mqtt HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &hello.copied().collect::<Vec<_>>(),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"EHLO localhost\r\n",
        b"AMQP\0\0\x09\x01",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
        b"*1\r\n$4\r\nPING\r\n",
        b"\0\0\0\x2f\xffSMBr",
        b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0",
    ];
    let mut clients: Vec<Client> = (0..240)
        .map(|n| {
            let client = server.open(V5);
            let _ = client.stream().write_all(protocols[n % protocols.len()]);
            client
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..200 {
        let mut bytes = vec![0; random.usize(1..4_000)];
        random.fill(&mut bytes);
        let client = server.open(V5);
        let _ = client.stream().write_all(&bytes);
        clients.push(client);
    }
    neighbours.go_on();
    for client in &mut clients {
        client.expect_closed();
    }
    neighbours.finish();
}

#[test]
fn a_take_over_storm_leaves_one_and_loses_nothing() {
    const THREADS: usize = 8;
    const EACH: usize = 30;
    let server = Server::start(&["--shards=2"]);
    let neighbours = Neighbours::start(&server);
    let mut first = server.connect_persistent(V5, "victim");
    first.subscribe("mail", QoS::AtLeastOnce);
    let mut publisher = server.connect(V5, "publisher");
    let mut losers: Vec<Client> = thread::scope(|scope| {
        let storm =
            || -> Vec<_> { (0..EACH).map(|_| server.connect_persistent(V5, "victim")).collect() };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(storm)).collect();
        for n in 0..100 {
            publisher.publish("mail", n.to_string(), QoS::AtLeastOnce);
        }
        neighbours.go_on();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut last = server.connect_persistent(V5, "victim");
    assert!(last.connack.session_present);
    // Nobody has acknowledged anything.
    for n in 0..100 {
        last.take_message("mail", &n.to_string());
    }
    last.expect_nothing();
    losers.push(first);
    for client in &mut losers {
        loop {
            let reply = client.receive();
            match reply.packet() {
                Packet::Publish(_) => {}
                Packet::Disconnect(disconnect) => {
                    assert_eq!(disconnect.reason, ReasonCode::SessionTakenOver);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        client.expect_closed();
    }
    assert_eq!(losers.len(), THREADS * EACH + 1);
    neighbours.finish();
}

#[test]
fn a_flood_from_one_address_leaves_room_for_others() {
    const CAP: usize = 50;
    let server = Server::start(&["--shards=2", &format!("--max-connections-per-address={CAP}")]);
    let neighbours = Neighbours::start(&server);
    let flood = |from: usize| {
        (from..from + 200).filter_map(|n| {
            let mut client = server.open_from([127, 0, 0, 2], V5);
            // Refused ones may be closed by now.
            let _ = client.stream().write_all(&connect_packet(&format!("flood-{n}")));
            let answered = client.receive_or_disconnect().is_some();
            answered.then_some(client)
        })
    };
    let admitted: Vec<Client> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|n| scope.spawn(move || flood(n * 1_000).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(admitted.len(), CAP);
    server.connect(V5, "somebody else").expect_nothing();
    neighbours.go_on();
    // When they are gone, there is room again.
    drop(admitted);
    wait_until("room for that address", || flood(5_000).next().is_some());
    neighbours.finish();
}

/// How often the kernel found an accept queue full, in this network namespace.
fn overflows() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let names = lines.next().unwrap().split_whitespace();
    let values = lines.next().unwrap().split_whitespace();
    let (_, value) = names.zip(values).find(|(name, _)| *name == "ListenOverflows").unwrap();
    value.parse().unwrap()
}

#[test]
fn whoever_finds_the_accept_queue_full_gets_in_later() {
    let server = Server::start(&["--shards=2", "--backlog=4"]);
    let neighbours = Neighbours::start(&server);
    let before = overflows();
    server.signal(Signal::STOP);
    thread::scope(|scope| {
        for n in 0..64 {
            let server = &server;
            scope.spawn(move || server.connect(V5, &format!("c-{n}")).expect_nothing());
        }
        wait_until("a queue overflows", || overflows() > before);
        server.signal(Signal::CONT);
    });
    neighbours.finish();
}
