//! A made-up client: it writes packets, and takes apart what the broker sends.

use std::collections::HashMap;

use crate::{
    broker::ConnectionKey,
    codec::{self, *},
};

/// What a client received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    Connack { present: bool, reason: ReasonCode, raw: Vec<u8> },
    Publish(Msg),
    Ack(AckKind, u16, ReasonCode),
    Suback(u16, Vec<ReasonCode>),
    Unsuback(u16, Vec<ReasonCode>),
    Pingresp,
    Disconnect(ReasonCode),
    Auth(ReasonCode, Option<String>, Option<Vec<u8>>),
}

/// Content type, response topic, correlation data, user properties.
type Forwarded = (Option<String>, Option<String>, Option<Vec<u8>>, Vec<(String, String)>);

/// A PUBLISH as a client received it, its topic alias resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Msg {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    /// A QoS 2 message whose packet id the client has not released: not a new one.
    pub again: bool,
    pub id: u16,
    pub alias: Option<u16>,
    /// Whether the topic came in full.
    pub full_topic: bool,
    pub ids: Vec<u32>,
    pub expiry: Option<u32>,
    pub forwarded: Forwarded,
    pub size: usize,
}

impl Msg {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

/// A client and its socket, as far as the harness has one.
#[derive(Debug)]
pub struct Peer {
    pub version: Version,
    pub shard: usize,
    /// The connection; `None` once the broker knows that it is closed.
    pub key: Option<ConnectionKey>,
    /// Sent by the client and not yet consumed by the broker.
    pub unread: Vec<u8>,
    /// How many of these bytes the reactor has read and holds.
    pub held: usize,
    /// The client is gone: behind `unread` nothing comes, and nothing can be written.
    pub cut: bool,
    /// The reactor waits for `Effect::Resume`.
    pub paused: bool,
    /// The bytes that the socket still takes; `usize::MAX` for a client that keeps up.
    pub room: usize,
    /// The reactor waits for the socket to become writable.
    pub blocked: bool,
    /// The broker has ended the stream.
    pub finished: bool,
    /// The broker has closed the connection at once.
    pub aborted: bool,
    /// Whether the client leaves the connection open when the broker has ended its half.
    pub lingers: bool,
    /// Whether the client answers QoS 1 and 2 by itself.
    pub acknowledges: bool,
    /// Written by the broker and on its way to the client, if that takes time.
    pub wire: Option<Vec<u8>>,
    /// QoS 2 packet ids that the client has seen and not released.
    pub unreleased: Vec<u16>,
    /// The Reason Strings that came.
    pub reason_strings: Vec<String>,
    /// The bytes of the largest packet that came.
    pub largest: usize,
    received: Vec<u8>,
    aliases: HashMap<u16, String>,
    /// Taken apart, and not looked at by the test.
    pub inbox: Vec<Got>,
}

impl Peer {
    pub fn new(version: Version, shard: usize, key: ConnectionKey) -> Self {
        Self {
            version,
            shard,
            key: Some(key),
            unread: Vec::new(),
            held: 0,
            cut: false,
            paused: false,
            room: usize::MAX,
            blocked: false,
            finished: false,
            aborted: false,
            lingers: false,
            acknowledges: true,
            wire: None,
            unreleased: Vec::new(),
            reason_strings: Vec::new(),
            largest: 0,
            received: Vec::new(),
            aliases: HashMap::new(),
            inbox: Vec::new(),
        }
    }

    pub fn send(&mut self, packet: &Packet<'_>) {
        packet.encode(self.version, &mut self.unread).unwrap();
    }

    /// The socket takes bytes for the client.
    pub fn receive(&mut self, bytes: &[u8]) {
        match &mut self.wire {
            Some(wire) => wire.extend_from_slice(bytes),
            None => self.take_in(bytes),
        }
    }

    /// So many of the bytes that are on their way arrive. Says whether there were any.
    pub fn arrive(&mut self, bytes: usize) -> bool {
        let Some(wire) = &mut self.wire else { return false };
        let arrived: Vec<u8> = wire.drain(..bytes.min(wire.len())).collect();
        self.take_in(&arrived);
        !arrived.is_empty()
    }

    fn take_in(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        loop {
            let received = std::mem::take(&mut self.received);
            let frame = match codec::frame(&received, u32::MAX).expect("the broker sends frames") {
                FrameStatus::Complete(frame) => frame,
                FrameStatus::Incomplete { .. } => {
                    self.received = received;
                    return;
                }
            };
            let raw = &received[..frame.len];
            let packet = Packet::decode(&frame, self.version).expect("the broker sends packets");
            let text = match packet {
                Packet::Connack(p) => p.properties.reason_string,
                Packet::Puback(p) | Packet::Pubrec(p) => p.reason_string,
                Packet::Suback(p) => p.reason_string,
                Packet::Unsuback(p) => p.reason_string,
                Packet::Disconnect(p) => p.reason_string,
                _ => None,
            };
            self.reason_strings.extend(text.map(String::from));
            self.largest = self.largest.max(raw.len());
            let got = self.understand(&packet, raw);
            self.answer(&got);
            self.inbox.push(got);
            self.received = received[frame.len..].to_vec();
        }
    }

    fn understand(&mut self, packet: &Packet<'_>, raw: &[u8]) -> Got {
        match *packet {
            Packet::Connack(c) => {
                Got::Connack { present: c.session_present, reason: c.reason, raw: raw.to_vec() }
            }
            Packet::Publish(p) => Got::Publish(self.message(&p, raw.len())),
            Packet::Puback(a) => Got::Ack(AckKind::Puback, a.packet_id.get(), a.reason),
            Packet::Pubrec(a) => Got::Ack(AckKind::Pubrec, a.packet_id.get(), a.reason),
            Packet::Pubrel(a) => {
                self.unreleased.retain(|id| *id != a.packet_id.get());
                Got::Ack(AckKind::Pubrel, a.packet_id.get(), a.reason)
            }
            Packet::Pubcomp(a) => Got::Ack(AckKind::Pubcomp, a.packet_id.get(), a.reason),
            Packet::Suback(s) => Got::Suback(s.packet_id.get(), s.reasons.iter().collect()),
            Packet::Unsuback(u) => Got::Unsuback(u.packet_id.get(), u.reasons.iter().collect()),
            Packet::Pingresp => Got::Pingresp,
            Packet::Disconnect(d) => Got::Disconnect(d.reason),
            Packet::Auth(a) => Got::Auth(
                a.reason,
                a.authentication_method.map(Into::into),
                a.authentication_data.map(Into::into),
            ),
            _ => panic!("a server sent {packet:?}"),
        }
    }

    fn message(&mut self, p: &Publish<'_>, size: usize) -> Msg {
        let alias = p.properties.topic_alias;
        let topic = match (p.topic, alias) {
            ("", Some(alias)) => self.aliases[&alias].clone(),
            (topic, Some(alias)) => {
                self.aliases.insert(alias, topic.into());
                topic.into()
            }
            (topic, None) => topic.into(),
        };
        let props = &p.properties;
        let id = p.packet_id.map_or(0, PacketId::get);
        let again = p.qos == QoS::ExactlyOnce && self.unreleased.contains(&id);
        if p.qos == QoS::ExactlyOnce && !again {
            self.unreleased.push(id);
        }
        let user = props.user_properties.iter().map(|(a, b)| (a.into(), b.into())).collect();
        Msg {
            topic,
            payload: p.payload.to_vec(),
            qos: p.qos.value(),
            retain: p.retain,
            dup: p.dup,
            again,
            id,
            alias,
            full_topic: !p.topic.is_empty(),
            ids: props.subscription_identifiers.iter().map(|id| id.get()).collect(),
            expiry: props.message_expiry_interval,
            forwarded: (
                props.content_type.map(Into::into),
                props.response_topic.map(Into::into),
                props.correlation_data.map(Into::into),
                user,
            ),
            size,
        }
    }

    fn answer(&mut self, got: &Got) {
        if !self.acknowledges {
            return;
        }
        match got {
            Got::Publish(m) if m.qos == 1 => self.ack(AckKind::Puback, m.id),
            Got::Publish(m) if m.qos == 2 => self.ack(AckKind::Pubrec, m.id),
            Got::Ack(AckKind::Pubrel, id, _) => self.ack(AckKind::Pubcomp, *id),
            Got::Ack(AckKind::Pubrec, id, reason) if !reason.is_error() => {
                self.ack(AckKind::Pubrel, *id);
            }
            _ => {}
        }
    }

    pub fn ack(&mut self, kind: AckKind, id: u16) {
        self.ack_with(kind, id, ReasonCode::Success);
    }

    pub fn ack_with(&mut self, kind: AckKind, id: u16, reason: ReasonCode) {
        let id = PacketId::new(id).unwrap();
        encode_ack(kind, id, reason, self.version, &mut self.unread);
    }
}

/// A CONNECT with a clean start and nothing special.
pub fn hello(version: Version, client_id: &str) -> Connect<'_> {
    Connect {
        version,
        clean_start: true,
        keep_alive: 0,
        client_id,
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// A CONNECT for a session that stays for an hour, or as long as 3.x sessions do.
pub fn staying(version: Version, client_id: &str) -> Connect<'_> {
    let mut connect = hello(version, client_id);
    connect.clean_start = false;
    connect.properties.session_expiry_interval = Some(3_600);
    connect
}

/// The properties of a CONNACK that was received.
pub fn connack<R>(got: &Got, f: impl FnOnce(&ConnackProperties<'_>) -> R) -> R {
    let Got::Connack { raw, .. } = got else { panic!("not a CONNACK: {got:?}") };
    let FrameStatus::Complete(frame) = frame(raw, u32::MAX).unwrap() else { panic!() };
    let Packet::Connack(c) = Packet::decode(&frame, Version::V5).unwrap() else { panic!() };
    f(&c.properties)
}
