//! What clients do in a [`World`], and what they have received.

use super::{C, Q0, World};
use crate::{
    broker::tests::peer::{Got, Msg, Peer, hello},
    codec::*,
    stats::CloseReason,
};

impl World {
    /// A connection without a CONNECT.
    pub fn open(&mut self, version: Version) -> C {
        let shard = self.accepts_on;
        let peer = format!("10.0.0.1:{}", 10_000 + self.peers.len()).parse().unwrap();
        let now = self.now_on(shard);
        let key = self.brokers[shard].on_accepted(now, peer);
        let mut peer = Peer::new(version, shard, key);
        peer.acknowledges = self.acknowledges;
        self.peers.push(peer);
        self.peers.len() - 1
    }

    /// Connects; the CONNACK is still to be read.
    pub fn connect_with(&mut self, connect: &Connect<'_>) -> C {
        let c = self.open(connect.version);
        self.send(c, &Packet::Connect(*connect));
        c
    }

    /// Connects with a clean start, and checks that it is accepted.
    pub fn connect(&mut self, version: Version, id: &str) -> C {
        self.connected(&hello(version, id))
    }

    /// Connects and checks that it is accepted, with or without a session.
    pub fn connected(&mut self, connect: &Connect<'_>) -> C {
        self.resumed(connect).0
    }

    /// Connects and says whether there was a session.
    pub fn resumed(&mut self, connect: &Connect<'_>) -> (C, bool) {
        let c = self.connect_with(connect);
        let Got::Connack { present, reason, .. } = self.peers[c].inbox.remove(0) else {
            panic!("no CONNACK first")
        };
        assert_eq!(reason, ReasonCode::Success);
        (c, present)
    }

    pub fn send(&mut self, c: C, packet: &Packet<'_>) {
        self.peers[c].send(packet);
        self.settle();
    }

    pub fn send_bytes(&mut self, c: C, bytes: &[u8]) {
        self.peers[c].unread.extend_from_slice(bytes);
        self.settle();
    }

    pub fn ack(&mut self, c: C, kind: AckKind, id: u16) {
        self.peers[c].ack(kind, id);
        self.settle();
    }

    pub fn id(&mut self) -> PacketId {
        self.next_id = self.next_id % u16::MAX + 1;
        PacketId::new(self.next_id).unwrap()
    }

    /// Publishes without properties.
    pub fn publish(&mut self, c: C, topic: &str, payload: &[u8], qos: QoS) {
        self.publish_with(c, topic, payload, qos, false, PublishProperties::default());
    }

    pub fn retain(&mut self, c: C, topic: &str, payload: &[u8], qos: QoS) {
        self.publish_with(c, topic, payload, qos, true, PublishProperties::default());
    }

    /// The shard handles a PUBLISH to be retained, and does not end its turn.
    pub fn handle_retain(&mut self, c: C, topic: &str, payload: &[u8]) {
        let publish = Publish { topic, payload, retain: true, ..Publish::default() };
        let mut bytes = Vec::new();
        Packet::Publish(publish).encode(Version::V5, &mut bytes).unwrap();
        let (shard, key) = (self.peers[c].shard, self.peers[c].key.unwrap());
        self.brokers[shard].on_bytes(self.now, key, &bytes);
    }

    pub fn publish_with(
        &mut self,
        c: C,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        retain: bool,
        properties: PublishProperties<'_>,
    ) {
        let packet_id = (qos > Q0).then(|| self.id());
        let publish = Publish { dup: false, qos, retain, topic, packet_id, properties, payload };
        self.send(c, &Packet::Publish(publish));
    }

    /// Subscribes and checks that it is granted.
    pub fn subscribe(&mut self, c: C, filter: &str, qos: QoS) {
        self.subscribe_with(c, filter, SubscriptionOptions::new(qos), 0);
    }

    pub fn subscribe_with(&mut self, c: C, filter: &str, options: SubscriptionOptions, id: u32) {
        let packet_id = self.ask(c, &[(filter, options)], id);
        let at = self.peers[c].inbox.iter().position(|got| matches!(got, Got::Suback(..)));
        let suback = self.peers[c].inbox.remove(at.expect("a SUBACK"));
        assert_eq!(suback, Got::Suback(packet_id, vec![ReasonCode::granted(options.qos)]));
    }

    /// Sends a SUBSCRIBE.
    pub fn ask(&mut self, c: C, filters: &[(&str, SubscriptionOptions)], id: u32) -> u16 {
        let packet_id = self.id();
        let subscription_id = std::num::NonZeroU32::new(id);
        let subscribe = Subscribe {
            packet_id,
            subscription_id,
            user_properties: <_>::default(),
            filters: filters.into(),
        };
        self.send(c, &Packet::Subscribe(subscribe));
        packet_id.get()
    }

    pub fn unsubscribe(&mut self, c: C, filter: &str) {
        let packet_id = self.id();
        let filters = [filter];
        let unsubscribe = Unsubscribe {
            packet_id,
            user_properties: <_>::default(),
            filters: UnsubscribeFilters::from(&filters[..]),
        };
        self.send(c, &Packet::Unsubscribe(unsubscribe));
    }

    /// The client sends DISCONNECT.
    pub fn disconnect(&mut self, c: C) {
        self.send(c, &Packet::Disconnect(Disconnect::default()));
    }

    /// The connection breaks.
    pub fn cut(&mut self, c: C) {
        self.close(c, CloseReason::PeerClosed);
        self.settle();
    }

    /// The socket takes `room` bytes more, and if it was full, is written to.
    pub fn make_room(&mut self, c: C, room: usize) {
        self.peers[c].room = room;
        if std::mem::take(&mut self.peers[c].blocked)
            && let Some(key) = self.peers[c].key
        {
            self.write(self.peers[c].shard, key);
        }
        self.settle();
    }

    /// What the client received since the last call.
    pub fn got(&mut self, c: C) -> Vec<Got> {
        std::mem::take(&mut self.peers[c].inbox)
    }

    /// The messages among it.
    pub fn messages(&mut self, c: C) -> Vec<Msg> {
        let got = self.got(c).into_iter();
        got.filter_map(|got| if let Got::Publish(m) = got { Some(m) } else { None }).collect()
    }

    /// The payloads of the messages.
    pub fn texts(&mut self, c: C) -> Vec<String> {
        self.messages(c).iter().map(|m| m.text().to_owned()).collect()
    }

    /// Whether the connection is over for the broker.
    pub fn is_closed(&self, c: C) -> bool {
        self.peers[c].key.is_none()
    }
}
