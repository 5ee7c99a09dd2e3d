//! 4.1 and 4.5: what a session holds.

use super::*;
use ringmq::codec::AckKind;

#[test]
fn mqtt311_4_1_0_1_a_session_keeps_all_of_its_state() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    let mut client = resume(&server, "client");
    let filters = [("t", SubscriptionOptions::new(Q2)), ("u/+", SubscriptionOptions::new(Q1))];
    let id = client.send_subscribe(&filters, 0);
    client.expect_suback(id);
    // To the client: unacknowledged, received but not completed, and not sent at all.
    publisher.publish("t", "unacknowledged", Q1);
    publisher.publish("t", "received", Q2);
    let unacknowledged = client.expect_message("t", "unacknowledged").packet_id;
    let received = client.expect_message("t", "received").packet_id;
    client.ack(AckKind::Pubrec, received);
    client.expect_ack(AckKind::Pubrel, received);
    // From the client: received, but not released.
    let own = client.send_publish("x", "own", Q2);
    client.expect_ack(AckKind::Pubrec, own);
    client.cut();
    let mut watcher = server.connect(V3, "watcher");
    watcher.subscribe("x", Q0);
    publisher.publish("u/1", "waiting", Q1);

    let mut client = resume(&server, "client");
    assert_eq!(client.expect_message("t", "unacknowledged").packet_id, unacknowledged);
    client.expect_ack(AckKind::Pubrel, received);
    client.take_message("u/1", "waiting");
    let again = [&packet(0x3c, &[b"\0\x01x", &own.to_be_bytes(), b"own"])[..], b"\xc0\0"].concat();
    client.send_raw(&again);
    client.expect_ack(AckKind::Pubrec, own);
    client.receive();
    watcher.expect_nothing();
    publisher.publish("t", "subscribed", Q1);
    client.take_message("t", "subscribed");
}

#[test]
fn mqtt311_4_5_0_1_a_message_is_added_to_every_session_that_matches() {
    let server = Server::start(&[]);
    let filters = ["a/b/c", "a/+/c", "a/#", "+/b/+", "#", "a/b/c/#"];
    let mut clients: Vec<_> = filters
        .iter()
        .enumerate()
        .map(|(n, filter)| {
            let mut client = resume(&server, &format!("client{n}"));
            client.subscribe(filter, Q1);
            client
        })
        .collect();
    let mut other = server.connect(V3, "other");
    other.subscribe("a/b", Q1);
    // Half of them are away.
    for client in clients.drain(3..) {
        client.disconnect();
    }
    server.connect(V3, "publisher").publish("a/b/c", "x", Q1);
    for client in &mut clients {
        client.take_message("a/b/c", "x");
    }
    for n in 3..filters.len() {
        resume(&server, &format!("client{n}")).take_message("a/b/c", "x");
    }
    other.expect_nothing();
}
