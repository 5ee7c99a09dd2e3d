//! 4.6: order.

use super::*;
use crate::support::Packet;
use ringmq::codec::AckKind;

#[test]
fn mqtt311_4_6_0_1_what_is_sent_again_comes_in_the_order_of_the_first_time() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    let mut client = resume(&server, "client");
    client.subscribe("t/#", Q2);
    for n in 0..10u32 {
        publisher.publish(&format!("t/{}", n % 3), n.to_string(), if n % 2 == 0 { Q1 } else { Q2 });
    }
    let sent = client.drain();
    // Acknowledged out of order, which leaves gaps.
    for n in [7, 2] {
        let kind = if sent[n].qos == Q1 { AckKind::Puback } else { AckKind::Pubrec };
        client.ack(kind, sent[n].packet_id);
    }
    client.expect_ack(AckKind::Pubrel, sent[7].packet_id);
    client.expect_nothing();
    client.cut();
    let mut client = resume(&server, "client");
    let again = client.drain();
    let found: Vec<_> = again.iter().map(|message| (message.packet_id, message.text())).collect();
    let left = [0, 1, 3, 4, 5, 6, 8, 9];
    let expected: Vec<_> = left.iter().map(|n| (sent[*n].packet_id, sent[*n].text())).collect();
    assert_eq!(found, expected);
}

/// As whoever receives, a server acknowledges in order too.
///
/// Shows: MQTT311-4.6.0-3
#[test]
fn mqtt311_4_6_0_2_acknowledgements_come_in_the_order_of_the_messages() {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    let ids = [9u16, 3, 7, 1, 5, 8, 2];
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    for (n, id) in ids.iter().enumerate() {
        let (header, answer) = if n % 3 == 0 { (0x34, 0x50) } else { (0x32, 0x40) };
        // Topics of any shard, with and without RETAIN.
        let topic = field(format!("t/{id}").as_bytes());
        let retain = u8::from(n % 2 == 0);
        requests.extend(packet(header | retain, &[&topic, &id.to_be_bytes(), b"x"]));
        answers.extend(packet(answer, &[&id.to_be_bytes()]));
    }
    exchange(&mut client, &requests, &answers);
}

#[test]
fn mqtt311_4_6_0_4_pubrels_come_in_the_order_of_the_pubrecs() {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    client.subscribe("t", Q2);
    let mut publisher = server.connect(V3, "publisher");
    for _ in 0..5 {
        publisher.publish("t", "x", Q2);
    }
    let mut ids: Vec<_> = client.drain().iter().map(|message| message.packet_id).collect();
    assert_eq!(ids.len(), 5);
    ids.swap(1, 4);
    let requests: Vec<u8> = ids.iter().flat_map(|id| packet(0x50, &[&id.to_be_bytes()])).collect();
    client.send_raw(&requests);
    for id in ids {
        client.expect_ack(AckKind::Pubrel, id);
    }
}

/// Shows: MQTT311-4.6.0-5
#[test]
fn mqtt311_4_6_0_6_messages_of_one_publisher_stay_in_order() {
    const COUNT: usize = 300;
    let server = Server::start(&["--shards=3"]);
    let filters = ["t/0", "t/+", "#"];
    let mut clients: Vec<_> = (0..6)
        .map(|n| {
            let mut client = server.connect(V3, &format!("client{n}"));
            client.subscribe(filters[n % 3], [Q0, Q1, Q2][n / 2]);
            client
        })
        .collect();
    for qos in [Q0, Q1, Q2] {
        let mut publisher = server.connect(V3, "publisher");
        for n in 0..COUNT {
            publisher.send_publish(&format!("t/{}", n % 2), n.to_string(), qos);
            // As many as may be unreleased.
            if n % 50 == 49 {
                release(&mut publisher);
            }
        }
        publisher.expect_nothing();
        for (at, client) in clients.iter_mut().enumerate() {
            for n in (0..COUNT).filter(|n| at % 3 != 0 || n % 2 == 0) {
                client.take_message(&format!("t/{}", n % 2), &n.to_string());
            }
        }
    }
}

/// Answers every PUBREC that has come.
fn release(publisher: &mut Client) {
    publisher.send(&Packet::Pingreq);
    loop {
        let reply = publisher.receive();
        match reply.packet() {
            Packet::Pubrec(ack) => publisher.ack(AckKind::Pubrel, ack.packet_id.get()),
            Packet::Puback(_) | Packet::Pubcomp(_) => {}
            Packet::Pingresp => break,
            other => panic!("{other:?}"),
        }
    }
    publisher.send(&Packet::Pingreq);
    while publisher.receive().packet() != Packet::Pingresp {}
}
