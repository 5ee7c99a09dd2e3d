//! MQTT 5.0, one file per chapter or packet.

mod acknowledgements;
mod connack;
mod connect;
mod connect_payload;
mod data;
mod delivery;
mod disconnect;
mod errors;
mod packet;
mod publish;
mod publish_properties;
mod subscribe;
mod topics;
mod unsubscribe;
mod will;

use ringmq::codec::{Packet, QoS, ReasonCode, Version, Will};

use crate::support::{Client, Server};

const V5: Version = Version::V5;
const EVERY_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// A packet with this first byte; the rest is at most 127 bytes.
fn packet(header: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    assert!(body.len() < 128);
    [&[header, body.len() as u8], &*body].concat()
}

/// A CONNECT with these Connect Flags, without properties, and with this payload.
fn connect_packet(flags: u8, payload: &[&[u8]]) -> Vec<u8> {
    packet(0x10, &[b"\0\x04MQTT\x05", &[flags], b"\0\0\0", &payload.concat()])
}

/// A connected client sends these bytes and is disconnected for this reason.
fn refused(server: &Server, bytes: &[u8], reason: ReasonCode) {
    let mut client = server.connect(V5, "client");
    client.send_raw(bytes);
    client.expect_disconnect(reason);
}

/// A connected client sends these bytes, and its connection goes on.
fn accepted(server: &Server, bytes: &[u8]) {
    let mut client = server.connect(V5, "client");
    client.send_raw(bytes);
    client.send(&Packet::Pingreq);
    loop {
        let reply = client.receive();
        match reply.packet() {
            Packet::Pingresp => return,
            Packet::Disconnect(disconnect) => panic!("{bytes:x?}: {disconnect:?}"),
            _ => {}
        }
    }
}

/// These bytes are answered with a CONNACK of this reason, and the connection is closed.
fn connect_refused(server: &Server, bytes: &[u8], reason: ReasonCode) {
    let mut client = server.open(V5);
    client.send_raw(bytes);
    assert_eq!(client.expect_connack().reason, reason, "{bytes:x?}");
    assert!(!client.connack.session_present);
    client.expect_closed();
}

/// These bytes connect a client.
fn connect_accepted(server: &Server, bytes: &[u8]) -> Client {
    let mut client = server.open(V5);
    client.send_raw(bytes);
    assert_eq!(client.expect_connack().reason, ReasonCode::Success, "{bytes:x?}");
    client.expect_nothing();
    client
}

/// A client with this subscription, of QoS 2.
fn subscriber(server: &Server, filter: &str) -> Client {
    let mut client = server.connect(V5, "subscriber");
    assert_eq!(client.subscribe(filter, QoS::ExactlyOnce), ReasonCode::GrantedQoS2);
    client
}

/// A will with this topic, of QoS 1.
fn will_to(topic: &str) -> Will<'_> {
    let (qos, retain) = (QoS::AtLeastOnce, false);
    Will { topic, payload: b"gone", qos, retain, properties: <_>::default() }
}

/// Has the broker send a packet with a Reason String to a client that has room for it, and to one
/// whose Maximum Packet Size is a byte less. `ask` provokes the packet.
fn leaves_out_the_reason_string(ask: impl Fn(&mut Client)) {
    let server = Server::start(&[]);
    let answer = |maximum: Option<usize>| {
        let mut client = server.connect_with(V5, "client", |connect| {
            connect.properties.maximum_packet_size = maximum.map(|maximum| maximum as u32);
        });
        ask(&mut client);
        let reply = client.receive();
        let text = match reply.packet() {
            Packet::Puback(ack) | Packet::Pubrec(ack) => ack.reason_string,
            Packet::Suback(ack) => ack.reason_string,
            Packet::Unsuback(ack) => ack.reason_string,
            Packet::Disconnect(disconnect) => disconnect.reason_string,
            other => panic!("no packet with a Reason String: {other:?}"),
        };
        (reply.len(), text.map(str::len))
    };
    let (whole, text) = answer(None);
    assert!(text.is_some_and(|length| length > 0));
    assert_eq!(answer(Some(whole)), (whole, text));
    let (short, text) = answer(Some(whole - 1));
    assert!(short < whole && text.is_none(), "{short} of {whole}");
}
