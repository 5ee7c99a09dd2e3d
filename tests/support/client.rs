//! A small blocking client: what it is told to send goes out as it is, and what comes is looked at
//! one packet at a time.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    num::NonZeroU32,
    time::Duration,
};

use ringmq::codec::{
    self, Ack, AckKind, Connect, ConnectProperties, Disconnect, FrameStatus, Packet, PacketId,
    Publish, PublishProperties, QoS, ReasonCode, Subscribe, SubscriptionOptions, Unsubscribe,
    UserProperties, Version, encode_ack,
};

use super::PATIENCE;

/// One connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    version: Version,
    next_id: PacketId,
    /// What came while something else was waited for.
    put_aside: VecDeque<Reply>,
    /// What the broker answered to CONNECT.
    pub connack: Connacked,
}

/// What a CONNACK said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Connacked {
    pub session_present: bool,
    pub reason: ReasonCode,
    pub session_expiry_interval: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub maximum_qos: QoS,
    pub retain_available: bool,
    pub maximum_packet_size: Option<u32>,
    pub assigned_client_identifier: Option<String>,
    pub topic_alias_maximum: u16,
    pub server_keep_alive: Option<u16>,
    pub response_information: Option<String>,
}

/// A PUBLISH from the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: QoS,
    pub retain: bool,
    pub dup: bool,
    /// 0 for QoS 0.
    pub packet_id: u16,
    pub payload_format_indicator: Option<bool>,
    pub expiry: Option<u32>,
    pub alias: Option<u16>,
    pub response_topic: Option<String>,
    pub correlation_data: Option<Vec<u8>>,
    pub subscription_ids: Vec<u32>,
    pub content_type: Option<String>,
    pub user_properties: Vec<(String, String)>,
}

impl Message {
    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("a payload of text")
    }
}

/// A packet from the broker.
pub struct Reply {
    bytes: Vec<u8>,
    version: Version,
}

impl Reply {
    /// The packet.
    pub fn packet(&self) -> Packet<'_> {
        match codec::frame(&self.bytes, u32::MAX) {
            Ok(FrameStatus::Complete(frame)) => {
                Packet::decode(&frame, self.version).expect("the broker sends valid packets")
            }
            other => panic!("not a packet: {other:?}"),
        }
    }

    /// The message that it carries, if it is a PUBLISH.
    pub fn message(&self) -> Option<Message> {
        message(&self.packet())
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Sending.
impl Client {
    pub(super) fn new(stream: TcpStream, version: Version) -> Client {
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a TCP socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a TCP socket");
        let connack = Connacked::default();
        let (buffer, next_id, put_aside) = (Vec::new(), PacketId::FIRST, VecDeque::new());
        Client { stream, buffer, version, next_id, put_aside, connack }
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the broker takes bytes");
    }

    /// A client of whatever listens there, if anything does.
    pub fn to(address: SocketAddr, version: Version) -> io::Result<Client> {
        TcpStream::connect(address).map(|stream| Client::new(stream, version))
    }

    /// Sends a packet to a broker that may be gone. False if it is, as far as is known.
    pub fn try_send(&mut self, packet: &Packet<'_>) -> bool {
        let bytes = self.encode(packet);
        self.stream.write_all(&bytes).is_ok()
    }

    /// Sends a packet.
    pub fn send(&mut self, packet: &Packet<'_>) {
        let bytes = self.encode(packet);
        self.send_raw(&bytes);
    }

    /// A packet in bytes.
    pub fn encode(&self, packet: &Packet<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes).expect("a packet that can be sent");
        bytes
    }

    /// A PUBLISH of QoS 1 for each of these texts, all in one piece, and their packet identifiers.
    pub fn encode_publishes(&mut self, topic: &str, texts: &[String]) -> (Vec<u8>, Vec<u16>) {
        let mut bytes = Vec::new();
        let mut encode = |text: &String| {
            let packet_id = self.next_id();
            let publish = Publish {
                topic,
                payload: text.as_bytes(),
                qos: QoS::AtLeastOnce,
                packet_id: Some(packet_id),
                ..Publish::default()
            };
            bytes.extend(self.encode(&Packet::Publish(publish)));
            packet_id.get()
        };
        let ids = texts.iter().map(&mut encode).collect();
        (bytes, ids)
    }

    /// Sends a CONNECT with a clean start and no keep-alive, unless `adjust` changes it.
    pub fn send_connect<'a>(&mut self, client_id: &'a str, adjust: impl FnOnce(&mut Connect<'a>)) {
        let mut connect = Connect {
            version: self.version,
            clean_start: true,
            keep_alive: 0,
            client_id,
            will: None,
            user_name: None,
            password: None,
            properties: ConnectProperties::default(),
        };
        adjust(&mut connect);
        self.send(&Packet::Connect(connect));
    }

    /// The next packet id of this client's.
    pub fn next_id(&mut self) -> PacketId {
        let id = self.next_id;
        self.next_id = id.next();
        id
    }

    /// Sends a PUBLISH and returns its packet id, 0 with QoS 0.
    pub fn send_publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: QoS) -> u16 {
        self.send_publish_with(topic, payload.as_ref(), qos, |_| ())
    }

    /// The same, changed by `adjust`.
    pub fn send_publish_with<'a>(
        &mut self,
        topic: &'a str,
        payload: &'a [u8],
        qos: QoS,
        adjust: impl FnOnce(&mut Publish<'a>),
    ) -> u16 {
        let packet_id = (qos != QoS::AtMostOnce).then(|| self.next_id());
        let mut publish = Publish { topic, payload, qos, packet_id, ..Publish::default() };
        adjust(&mut publish);
        let id = publish.packet_id.map_or(0, PacketId::get);
        self.send(&Packet::Publish(publish));
        id
    }

    /// Publishes and sees the acknowledgement through; returns its reason.
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: QoS) -> ReasonCode {
        self.publish_with(topic, payload.as_ref(), qos, |_| ())
    }

    /// The same, changed by `adjust`.
    pub fn publish_with<'a>(
        &mut self,
        topic: &'a str,
        payload: &'a [u8],
        qos: QoS,
        adjust: impl FnOnce(&mut Publish<'a>),
    ) -> ReasonCode {
        let id = self.send_publish_with(topic, payload, qos, adjust);
        match qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => self.expect_ack(AckKind::Puback, id),
            QoS::ExactlyOnce => {
                let reason = self.expect_ack(AckKind::Pubrec, id);
                if !reason.is_error() {
                    self.ack(AckKind::Pubrel, id);
                    assert_eq!(self.expect_ack(AckKind::Pubcomp, id), ReasonCode::Success);
                }
                reason
            }
        }
    }

    /// Makes a message the retained one of its topic.
    pub fn retain(&mut self, topic: &str, payload: impl AsRef<[u8]>) {
        self.publish_with(topic, payload.as_ref(), QoS::AtLeastOnce, |p| p.retain = true);
    }

    /// Sends a bare acknowledgement.
    pub fn ack(&mut self, kind: AckKind, id: u16) {
        self.ack_with(kind, id, ReasonCode::Success);
    }

    /// Sends an acknowledgement with a reason.
    pub fn ack_with(&mut self, kind: AckKind, id: u16, reason: ReasonCode) {
        let mut bytes = Vec::new();
        let id = PacketId::new(id).expect("a packet id");
        encode_ack(kind, id, reason, self.version, &mut bytes);
        self.send_raw(&bytes);
    }

    /// Sends a SUBSCRIBE and returns its packet id.
    pub fn send_subscribe(
        &mut self,
        filters: &[(&str, SubscriptionOptions)],
        subscription_id: u32,
    ) -> u16 {
        let packet_id = self.next_id();
        self.send(&Packet::Subscribe(Subscribe {
            packet_id,
            subscription_id: NonZeroU32::new(subscription_id),
            user_properties: UserProperties::default(),
            filters: filters.into(),
        }));
        packet_id.get()
    }

    /// Subscribes to one filter and returns the reason in the SUBACK.
    pub fn subscribe(&mut self, filter: &str, qos: QoS) -> ReasonCode {
        self.subscribe_with(filter, SubscriptionOptions::new(qos), 0)
    }

    /// The same with all options, and a subscription id unless it is 0.
    pub fn subscribe_with(
        &mut self,
        filter: &str,
        options: SubscriptionOptions,
        subscription_id: u32,
    ) -> ReasonCode {
        let id = self.send_subscribe(&[(filter, options)], subscription_id);
        let reasons = self.expect_suback(id);
        assert_eq!(reasons.len(), 1);
        reasons[0]
    }

    /// Sends an UNSUBSCRIBE and returns its packet id.
    pub fn send_unsubscribe(&mut self, filters: &[&str]) -> u16 {
        let packet_id = self.next_id();
        let user_properties = UserProperties::default();
        let filters = filters.into();
        self.send(&Packet::Unsubscribe(Unsubscribe { packet_id, user_properties, filters }));
        packet_id.get()
    }

    /// Unsubscribes and returns the reasons, none before MQTT 5.
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<ReasonCode> {
        let id = self.send_unsubscribe(filters);
        let reply = self.receive();
        match reply.packet() {
            Packet::Unsuback(ack) if ack.packet_id.get() == id => ack.reasons.iter().collect(),
            other => panic!("UNSUBACK {id} expected, not {other:?}"),
        }
    }

    /// Says goodbye and waits until the broker has closed.
    pub fn disconnect(self) {
        self.disconnect_with(Disconnect::default());
    }

    /// The same with a reason or properties.
    pub fn disconnect_with(mut self, disconnect: Disconnect<'_>) {
        self.send(&Packet::Disconnect(disconnect));
        self.expect_closed();
    }

    /// Cuts the connection, without a word.
    pub fn cut(self) {
        self.stream.shutdown(Shutdown::Both).expect("a connected socket");
    }
}

/// Receiving.
impl Client {
    /// The next packet.
    pub fn receive(&mut self) -> Reply {
        self.receive_or_closed().expect("a packet, not the end of the connection")
    }

    /// The next packet, or `None` when the broker has closed the connection.
    pub fn receive_or_closed(&mut self) -> Option<Reply> {
        self.put_aside.pop_front().or_else(|| self.read())
    }

    fn read(&mut self) -> Option<Reply> {
        let reply = self.read_any();
        assert!(reply.is_some() || self.buffer.is_empty(), "the connection ended within a packet");
        reply
    }

    fn read_any(&mut self) -> Option<Reply> {
        loop {
            match codec::frame(&self.buffer, u32::MAX).expect("the broker sends packets") {
                FrameStatus::Complete(frame) => {
                    let rest = self.buffer.split_off(frame.len);
                    let bytes = std::mem::replace(&mut self.buffer, rest);
                    return Some(Reply { bytes, version: self.version });
                }
                FrameStatus::Incomplete { .. } => {}
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                // Such as by SIGCONT, when these tests themselves were stopped for a while.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    /// The next packet, or `None` when the connection has ended in whatever way, also within a
    /// packet.
    pub fn receive_or_disconnect(&mut self) -> Option<Reply> {
        let reply = self.put_aside.pop_front().or_else(|| self.read_any());
        if reply.is_none() {
            self.buffer.clear();
        }
        reply
    }

    /// Whether bytes, or the end of the connection, come within this time; or have come already.
    pub fn wait_for_bytes(&mut self, time: Duration) -> bool {
        if !self.put_aside.is_empty() || !self.buffer.is_empty() {
            return true;
        }
        self.stream.set_read_timeout(Some(time)).expect("a TCP socket");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a TCP socket");
        match peeked {
            Ok(_) => true,
            Err(error) => {
                !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
            }
        }
    }

    /// The broker closes the connection without another packet.
    pub fn expect_closed(&mut self) {
        if let Some(reply) = self.receive_or_closed() {
            panic!("the end of the connection expected, not {:?}", reply.packet());
        }
    }

    /// The broker sends a DISCONNECT with this reason, or nothing before MQTT 5, and closes.
    pub fn expect_disconnect(&mut self, reason: ReasonCode) {
        if self.version == Version::V5 {
            let reply = self.receive();
            match reply.packet() {
                Packet::Disconnect(disconnect) => assert_eq!(disconnect.reason, reason),
                other => panic!("DISCONNECT {reason} expected, not {other:?}"),
            }
        }
        self.expect_closed();
    }

    /// The next packet is a CONNACK.
    pub fn expect_connack(&mut self) -> &Connacked {
        let reply = self.receive();
        let Packet::Connack(connack) = reply.packet() else {
            panic!("CONNACK expected, not {:?}", reply.packet());
        };
        let properties = connack.properties;
        self.connack = Connacked {
            session_present: connack.session_present,
            reason: connack.reason,
            session_expiry_interval: properties.session_expiry_interval,
            receive_maximum: properties.receive_maximum,
            maximum_qos: properties.maximum_qos,
            retain_available: properties.retain_available,
            maximum_packet_size: properties.maximum_packet_size,
            assigned_client_identifier: properties.assigned_client_identifier.map(str::to_owned),
            topic_alias_maximum: properties.topic_alias_maximum,
            server_keep_alive: properties.server_keep_alive,
            response_information: properties.response_information.map(str::to_owned),
        };
        &self.connack
    }

    /// The next packet is a PUBLISH. It is not acknowledged.
    pub fn expect_publish(&mut self) -> Message {
        let reply = self.receive();
        let packet = reply.packet();
        message(&packet).unwrap_or_else(|| panic!("PUBLISH expected, not {packet:?}"))
    }

    /// The next packet is a PUBLISH with this topic and payload.
    pub fn expect_message(&mut self, topic: &str, payload: &str) -> Message {
        let message = self.expect_publish();
        assert_eq!((&*message.topic, message.text()), (topic, payload));
        message
    }

    /// The same, and its acknowledgement is sent, or all of them.
    pub fn take_message(&mut self, topic: &str, payload: &str) -> Message {
        let message = self.expect_message(topic, payload);
        self.acknowledge(&message);
        message
    }

    /// Acknowledges a message to the end, whatever its QoS.
    pub fn acknowledge(&mut self, message: &Message) {
        match message.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.ack(AckKind::Puback, message.packet_id),
            QoS::ExactlyOnce => {
                self.ack(AckKind::Pubrec, message.packet_id);
                // Messages may come in between.
                loop {
                    let reply = self.read().expect("a PUBREL, not the end of the connection");
                    match reply.packet() {
                        Packet::Publish(_) => self.put_aside.push_back(reply),
                        Packet::Pubrel(ack) => {
                            assert_eq!(ack.packet_id.get(), message.packet_id);
                            break;
                        }
                        other => panic!("PUBREL expected, not {other:?}"),
                    }
                }
                self.ack(AckKind::Pubcomp, message.packet_id);
            }
        }
    }

    /// The next packet is this acknowledgement; returns its reason.
    pub fn expect_ack(&mut self, kind: AckKind, id: u16) -> ReasonCode {
        let reply = self.receive();
        let ack: Ack<'_> = match (kind, reply.packet()) {
            (AckKind::Puback, Packet::Puback(ack))
            | (AckKind::Pubrec, Packet::Pubrec(ack))
            | (AckKind::Pubrel, Packet::Pubrel(ack))
            | (AckKind::Pubcomp, Packet::Pubcomp(ack)) => ack,
            (_, other) => panic!("{kind:?} {id} expected, not {other:?}"),
        };
        assert_eq!(ack.packet_id.get(), id);
        ack.reason
    }

    /// The next packet is the SUBACK to that SUBSCRIBE.
    pub fn expect_suback(&mut self, id: u16) -> Vec<ReasonCode> {
        let reply = self.receive();
        match reply.packet() {
            Packet::Suback(ack) if ack.packet_id.get() == id => ack.reasons.iter().collect(),
            other => panic!("SUBACK {id} expected, not {other:?}"),
        }
    }

    /// Nothing has been sent to this client that it has not seen: what other clients have had
    /// acknowledged would come before the answer to this PINGREQ, from whichever shard.
    pub fn expect_nothing(&mut self) {
        self.send(&Packet::Pingreq);
        let reply = self.receive();
        assert_eq!(reply.packet(), Packet::Pingresp);
    }

    /// Every message that was sent to this client up to now, in order; none is acknowledged.
    pub fn drain(&mut self) -> Vec<Message> {
        self.send(&Packet::Pingreq);
        let mut messages = Vec::new();
        loop {
            let reply = self.receive();
            match reply.packet() {
                Packet::Pingresp => return messages,
                packet => messages.extend(message(&packet)),
            }
        }
    }
}

fn message(packet: &Packet<'_>) -> Option<Message> {
    let Packet::Publish(publish) = packet else { return None };
    let PublishProperties { user_properties, .. } = &publish.properties;
    Some(Message {
        topic: publish.topic.into(),
        payload: publish.payload.into(),
        qos: publish.qos,
        retain: publish.retain,
        dup: publish.dup,
        packet_id: publish.packet_id.map_or(0, PacketId::get),
        payload_format_indicator: publish.properties.payload_format_indicator,
        expiry: publish.properties.message_expiry_interval,
        alias: publish.properties.topic_alias,
        response_topic: publish.properties.response_topic.map(str::to_owned),
        correlation_data: publish.properties.correlation_data.map(<[u8]>::to_vec),
        subscription_ids: publish
            .properties
            .subscription_identifiers
            .iter()
            .map(Into::into)
            .collect(),
        content_type: publish.properties.content_type.map(str::to_owned),
        user_properties: user_properties.iter().map(|(n, v)| (n.into(), v.into())).collect(),
    })
}
