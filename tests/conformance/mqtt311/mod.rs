//! MQTT 3.1.1, one file per chapter or packet, and where MQTT 3.1 differs from it.
//!
//! Most packets are bytes here, so that what is shown does not depend on the broker's own codec.

mod clean_session;
mod client_id;
mod connack;
mod connect;
mod connect_flags;
mod data;
mod disconnect;
mod errors;
mod header;
mod mqtt31;
mod operation;
mod order;
mod publish;
mod qos;
mod retain;
mod suback;
mod subscribe;
mod topics;
mod transport;
mod unsubscribe;
mod will;

use std::io::Read;

use crate::support::{Client, QoS, Server, SubscriptionOptions, Version};

const V3: Version = Version::V3_1_1;
const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

/// A packet in bytes.
fn packet(header: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut bytes = vec![header];
    let mut length = body.len();
    while length > 0x7f {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(&body);
    bytes
}

/// A field with its length before it.
fn field(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// A CONNECT without keep alive, with these connect flags and these fields in its payload.
fn connect(flags: u8, fields: &[&[u8]]) -> Vec<u8> {
    let payload: Vec<u8> = fields.iter().flat_map(|bytes| field(bytes)).collect();
    packet(0x10, &[b"\0\x04MQTT\x04", &[flags], b"\0\0", &payload])
}

/// Sends `request`, and the next bytes that come are `answer`.
fn exchange(client: &mut Client, request: &[u8], answer: &[u8]) {
    client.send_raw(request);
    let mut got = vec![0; answer.len()];
    let mut stream = client.stream();
    stream.read_exact(&mut got).expect("an answer");
    assert_eq!(got, answer, "the answer to {request:02x?}");
}

/// A new connection that is answered `answer` to `request`.
fn answered(server: &Server, request: &[u8], answer: &[u8]) -> Client {
    let mut client = server.open(V3);
    exchange(&mut client, request, answer);
    client
}

/// The broker closes a new connection for these bytes, without a word.
fn refused(server: &Server, bytes: &[u8]) {
    let mut client = server.open(V3);
    client.send_raw(bytes);
    assert!(client.receive_or_closed().is_none(), "{bytes:02x?}");
}

/// The broker closes the connection of a client for these bytes, without a word.
fn closed(server: &Server, bytes: &[u8]) {
    let mut client = server.connect(V3, "client");
    client.send_raw(bytes);
    assert!(client.receive_or_closed().is_none(), "{bytes:02x?}");
}

/// A client whose session is kept when it goes.
fn resume(server: &Server, id: &str) -> Client {
    server.connect_with(V3, id, |connect| connect.clean_start = false)
}

const ACCEPTED: &[u8] = b"\x20\x02\0\0";

/// A topic whose retained message shows that all others have come; no wildcard matches it.
const LAST: &str = "$last";

/// What is retained for a new subscriber with QoS 2: topic, payload, QoS and RETAIN of each message.
/// Something is to be retained for [`LAST`].
fn retained(server: &Server, filter: &str) -> Vec<(String, String, QoS, bool)> {
    let mut client = server.connect(V3, "late");
    // Other shards answer in their own time, but one filter after the other.
    let filters = [filter, LAST].map(|filter| (filter, SubscriptionOptions::new(Q2)));
    let id = client.send_subscribe(&filters, 0);
    client.expect_suback(id);
    let mut found = Vec::new();
    loop {
        let message = client.expect_publish();
        client.acknowledge(&message);
        if message.topic == LAST {
            found.sort();
            return found;
        }
        found.push((message.topic.clone(), message.text().into(), message.qos, message.retain));
    }
}
