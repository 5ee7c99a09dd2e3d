//! The clients: what they send, and what they make of what they get.

use std::collections::{BTreeMap, VecDeque};

use super::{
    super::{
        peer::Got,
        world::{C, hello as plain_hello},
    },
    doorkeeper::{LATER, PASSWORD, WRONG_PASSWORD},
    history::{Asked, FILTERS, FORBIDDEN, Hello, Sent, Shows, TOPICS},
    model::Message,
    run::{MAX_PENDING, Simulation},
};
use crate::codec::*;

/// A packet that a client has sent.
#[derive(Debug, Clone, Copy)]
pub enum What {
    /// With the number of the will's message.
    Connect(Option<usize>),
    Publish {
        number: usize,
        id: u16,
        qos: u8,
    },
    Subscribe(Asked),
    Unsubscribe(usize),
    Pubrel(u16),
    Disconnect {
        with_will: bool,
        expiry: Option<u32>,
    },
    Ping,
    Answer,
}

/// A QoS 1 or 2 message of a client's own that is under way.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    pub number: usize,
    pub id: u16,
    pub sent: Sent,
    /// The connection that it was sent on last.
    pub on: C,
    /// PUBREC has come.
    pub received: bool,
}

/// A client over all its connections.
#[derive(Debug)]
pub struct Actor {
    pub name: String,
    pub version: Version,
    pub connection: Option<C>,
    pub pending: Vec<Pending>,
    pub last_id: u16,
}

impl Actor {
    pub fn new(number: usize, version: Version) -> Self {
        Self {
            name: format!("c{number}"),
            version,
            connection: None,
            pending: Vec::new(),
            last_id: 0,
        }
    }
}

/// A connection, as its client sees it.
#[derive(Debug)]
pub struct Link {
    pub client: usize,
    pub hello: Hello,
    /// The client may send.
    pub open: bool,
    /// CONNACK has come.
    pub answered: bool,
    /// The broker has refused it, and an MQTT 5 client is told why.
    pub refused: Option<ReasonCode>,
    /// It is not decided who the client is; with the number of the will's message.
    pub undecided: Option<Option<usize>>,
    /// The broker has ended it.
    pub over: bool,
    pub prompt: bool,
    /// The session that is attached.
    pub session: Option<usize>,
    /// The session that was attached.
    pub last_session: Option<usize>,
    /// When it was accepted, and whether with a session.
    pub accepted: Option<(u64, bool)>,
    /// When its shard got it, and then, when that handled its last packet, in milliseconds of the
    /// clock.
    pub heard: u64,
    /// It has not been read from at some time since its shard's last tick, or at that.
    pub paused: bool,
    /// The last tick for which that was so, in milliseconds of the clock: the broker does not blame
    /// its client for the time until it reads again.
    pub unheard: u64,
    /// Packets that no shard has handled: bytes, and what they are.
    pub sent: VecDeque<(usize, What)>,
    /// The bytes of the first of them that are used up.
    pub consumed: usize,
    /// SUBSCRIBE and UNSUBSCRIBE packets without an answer.
    pub asked: Vec<u16>,
    /// PINGREQ packets without an answer.
    pub pings: usize,
    /// Answers that the client owes.
    pub owes: VecDeque<(AckKind, u16)>,
    /// Packet ids of messages that came on this connection and are not answered to the end.
    pub live: BTreeMap<u16, usize>,
    /// Topics by alias, as the client has set them.
    pub aliases: BTreeMap<u16, usize>,
    /// The socket did not always take everything.
    pub slow: bool,
}

impl Link {
    fn new(client: usize, hello: Hello, now: u64) -> Self {
        Self {
            client,
            hello,
            open: hello.eager,
            answered: false,
            refused: None,
            undecided: None,
            over: false,
            prompt: hello.prompt,
            session: None,
            last_session: None,
            accepted: None,
            heard: now,
            paused: false,
            unheard: 0,
            sent: VecDeque::new(),
            consumed: 0,
            asked: Vec::new(),
            pings: 0,
            owes: VecDeque::new(),
            live: BTreeMap::new(),
            aliases: BTreeMap::new(),
            slow: false,
        }
    }
}

fn qos(value: u8) -> QoS {
    [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(value)]
}

impl Simulation {
    fn send(&mut self, c: C, what: What, packet: &Packet<'_>) {
        let before = self.w.peers[c].unread.len();
        self.w.peers[c].send(packet);
        let bytes = self.w.peers[c].unread.len() - before;
        self.links[c].sent.push_back((bytes, what));
    }

    fn send_ack(&mut self, c: C, what: What, kind: AckKind, id: u16) {
        let before = self.w.peers[c].unread.len();
        self.w.peers[c].ack(kind, id);
        let bytes = self.w.peers[c].unread.len() - before;
        self.links[c].sent.push_back((bytes, what));
    }

    /// The client's connection, if it may send on it.
    fn open(&self, client: usize) -> Option<C> {
        self.actors.get(client)?.connection.filter(|c| self.links[*c].open)
    }

    pub fn message(&mut self, message: Message) -> usize {
        self.messages.push(message);
        self.messages.len() - 1
    }

    pub fn connect(&mut self, client: usize, mut hello: Hello) {
        // What a resumed session still has to send goes first: its client waits for CONNACK.
        hello.eager &= hello.clean || self.actors[client].pending.is_empty();
        if hello.eager {
            self.actors[client].pending.clear();
        }
        if let Some(old) = self.actors[client].connection {
            // It lies there, and takes nothing more.
            self.w.peers[old].room = 0;
            self.links[old].slow = true;
        }
        let (name, version) = (self.actors[client].name.clone(), self.actors[client].version);
        let number = hello.will.map(|will| {
            let number = self.messages.len();
            self.message(Message {
                topic: will.topic,
                qos: will.qos,
                retain: will.retain,
                payload: format!("{number}:will"),
                expiry: None,
                client,
                publisher: None,
                copies: Vec::new(),
            })
        });
        let mut connect = plain_hello(version, &name);
        if hello.shows != Shows::Nothing {
            connect.user_name = Some(if hello.later { LATER } else { "now" });
            connect.password = Some(match hello.shows {
                Shows::WrongPassword => WRONG_PASSWORD,
                _ => PASSWORD,
            });
        }
        connect.clean_start = hello.clean;
        connect.keep_alive = hello.keep_alive;
        connect.properties.session_expiry_interval = Some(hello.expiry);
        connect.properties.receive_maximum = Some(hello.receive).filter(|n| *n > 0);
        connect.properties.maximum_packet_size = Some(hello.packet).filter(|n| *n > 0);
        connect.properties.topic_alias_maximum = hello.aliases;
        let payload = number.map(|n| self.messages[n].payload.clone()).unwrap_or_default();
        connect.will = hello.will.map(|will| Will {
            topic: TOPICS[will.topic],
            payload: payload.as_bytes(),
            qos: qos(will.qos),
            retain: will.retain,
            properties: WillProperties { delay_interval: will.delay, ..<_>::default() },
        });
        self.w.accepts_on = hello.on % self.setup.shards;
        self.go_on(self.w.accepts_on);
        self.wake(self.w.accepts_on);
        let c = self.w.open(version);
        self.w.peers[c].acknowledges = false;
        let now = self.w.now_on(self.w.accepts_on).monotonic;
        self.links.push(Link::new(client, hello, now));
        self.actors[client].connection = Some(c);
        self.send(c, What::Connect(number), &Packet::Connect(connect));
    }

    /// Connects without any limit.
    pub fn come_back(&mut self, client: usize) {
        let hello = Hello {
            on: 0,
            clean: false,
            keep_alive: 0,
            eager: false,
            expiry: 3_600,
            receive: 0,
            packet: 0,
            aliases: 0,
            prompt: true,
            will: None,
            shows: Shows::Password,
            later: false,
        };
        self.connect(client, hello);
    }

    pub fn disconnect(&mut self, client: usize, with_will: bool, expiry: Option<u32>) {
        let Some(c) = self.open(client) else { return };
        let is_v5 = self.actors[client].version == Version::V5;
        let with_will = with_will && is_v5;
        let expiry = expiry.filter(|_| is_v5 && self.links[c].hello.expiry > 0);
        let reason = match with_will {
            true => ReasonCode::DisconnectWithWillMessage,
            false => ReasonCode::Success,
        };
        let packet = Disconnect { reason, session_expiry_interval: expiry, ..<_>::default() };
        self.send(c, What::Disconnect { with_will, expiry }, &Packet::Disconnect(packet));
        // Nothing may come behind it.
        self.links[c].open = false;
        self.actors[client].connection = None;
    }

    pub fn ping(&mut self, client: usize) {
        let Some(c) = self.open(client) else { return };
        self.links[c].pings += 1;
        self.send(c, What::Ping, &Packet::Pingreq);
    }

    /// The client's connections break.
    pub fn cut(&mut self, client: usize, bytes: usize) {
        let Some(actor) = self.actors.get_mut(client) else { return };
        actor.connection = None;
        for c in 0..self.links.len() {
            if self.links[c].client != client || self.w.peers[c].cut {
                continue;
            }
            self.go_on(self.w.peers[c].shard);
            self.links[c].open = false;
            let peer = &mut self.w.peers[c];
            peer.unread.truncate(peer.held.saturating_add(bytes));
            (peer.cut, peer.room) = (true, 0);
            let (shard, key) = (peer.shard, peer.key);
            if std::mem::take(&mut peer.blocked)
                && let Some(key) = key
            {
                self.w.write(shard, key);
            }
            self.wake(shard);
        }
    }

    pub fn publish(&mut self, client: usize, sent: Sent) {
        let Some(c) = self.open(client) else { return };
        if self.actors[client].pending.len() >= MAX_PENDING {
            return;
        }
        let number = self.messages.len();
        let mut payload = format!("{number}:");
        match sent.size {
            0 => payload.clear(),
            size => payload.extend(std::iter::repeat_n('x', size.saturating_sub(payload.len()))),
        }
        let is_v5 = self.actors[client].version == Version::V5;
        let expiry = Some(u64::from(sent.expiry) * 1_000).filter(|ms| *ms > 0 && is_v5);
        self.message(Message {
            topic: sent.topic,
            qos: sent.qos,
            retain: sent.retain,
            payload,
            expiry,
            client,
            publisher: Some(client),
            copies: Vec::new(),
        });
        let actor = &mut self.actors[client];
        if sent.qos > 0 {
            actor.last_id = actor.last_id % u16::MAX + 1;
        }
        let id = actor.last_id;
        let pending = Pending { number, id, sent, on: c, received: false };
        if sent.qos > 0 {
            actor.pending.push(pending);
        }
        self.send_publish(c, pending, false);
    }

    fn send_publish(&mut self, c: C, pending: Pending, dup: bool) {
        let Pending { number, id, sent, received, .. } = pending;
        if received {
            return self.send_ack(c, What::Pubrel(id), AckKind::Pubrel, id);
        }
        let is_v5 = self.actors[self.links[c].client].version == Version::V5;
        let mut topic = TOPICS[sent.topic];
        let alias = Some(sent.alias).filter(|alias| *alias > 0 && is_v5);
        if let Some(alias) = alias
            && self.links[c].aliases.insert(alias, sent.topic) == Some(sent.topic)
        {
            topic = "";
        }
        let payload = self.messages[number].payload.clone();
        let properties = PublishProperties {
            topic_alias: alias,
            message_expiry_interval: Some(sent.expiry).filter(|s| *s > 0),
            ..<_>::default()
        };
        let publish = Publish {
            dup,
            qos: qos(sent.qos),
            retain: sent.retain,
            topic,
            packet_id: PacketId::new(id).filter(|_| sent.qos > 0),
            properties,
            payload: payload.as_bytes(),
        };
        self.send(c, What::Publish { number, id, qos: sent.qos }, &Packet::Publish(publish));
    }

    pub fn subscribe(&mut self, client: usize, mut asked: Asked) {
        let Some(c) = self.open(client) else { return };
        if self.actors[client].version != Version::V5 {
            (asked.no_local, asked.as_published, asked.handling, asked.id) = (false, false, 0, 0);
        }
        asked.no_local &= !FILTERS[asked.filter].starts_with("$share/");
        let retain_handling = match asked.handling {
            0 => RetainHandling::SendAtSubscribe,
            1 => RetainHandling::SendAtNewSubscribe,
            _ => RetainHandling::DoNotSend,
        };
        let options = SubscriptionOptions {
            qos: qos(asked.qos),
            no_local: asked.no_local,
            retain_as_published: asked.as_published,
            retain_handling,
        };
        let packet_id = self.w.id();
        self.links[c].asked.push(packet_id.get());
        let filters = [(FILTERS[asked.filter], options)];
        let subscribe = Subscribe {
            packet_id,
            subscription_id: std::num::NonZeroU32::new(asked.id),
            user_properties: <_>::default(),
            filters: SubscribeFilters::from(&filters[..]),
        };
        self.send(c, What::Subscribe(asked), &Packet::Subscribe(subscribe));
    }

    pub fn unsubscribe(&mut self, client: usize, filter: usize) {
        let Some(c) = self.open(client) else { return };
        let packet_id = self.w.id();
        self.links[c].asked.push(packet_id.get());
        let filters = [FILTERS[filter]];
        let unsubscribe = Unsubscribe {
            packet_id,
            user_properties: <_>::default(),
            filters: UnsubscribeFilters::from(&filters[..]),
        };
        self.send(c, What::Unsubscribe(filter), &Packet::Unsubscribe(unsubscribe));
    }

    /// The client sends answers that it owes.
    pub fn answer(&mut self, c: C, count: usize) {
        for _ in 0..count {
            let Some((kind, id)) = self.links[c].owes.pop_front() else { return };
            self.send_ack(c, What::Answer, kind, id);
            if kind != AckKind::Pubrec {
                self.links[c].live.remove(&id);
                if let Some(session) = self.links[c].last_session {
                    self.sessions[session].held.remove(&id);
                }
            }
        }
    }

    /// Looks at what has come on a connection.
    pub fn collect(&mut self, c: C) {
        let got = self.w.got(c);
        let client = self.links[c].client;
        if self.actors[client].connection != Some(c) {
            return;
        }
        for got in got {
            self.understand(c, client, got);
        }
        if self.links[c].prompt {
            self.answer(c, usize::MAX);
        }
    }

    fn understand(&mut self, c: C, client: usize, got: Got) {
        let is_connack = matches!(got, Got::Connack { .. });
        self.wrong
            .check(is_connack != self.links[c].answered, || format!("CONNACK: not first: {got:?}"));
        match got {
            Got::Connack { present, reason, .. } => self.on_connack(c, client, present, reason),
            Got::Publish(message) => {
                match message.qos {
                    0 => {}
                    1 => self.links[c].owes.push_back((AckKind::Puback, message.id)),
                    _ => self.links[c].owes.push_back((AckKind::Pubrec, message.id)),
                }
                self.receive(c, &message);
            }
            Got::Ack(kind, id, reason) => {
                if self.is_refused(client, kind, id) {
                    let told = reason == ReasonCode::NotAuthorized;
                    self.wrong.check(told, || format!("allowed: {kind:?} {id} {reason:?}"));
                    return self.actors[client].pending.retain(|p| p.id != id);
                }
                let known = reason == ReasonCode::PacketIdentifierNotFound || !reason.is_error();
                self.wrong.check(known, || format!("refused: {kind:?} {id} {reason:?}"));
                self.on_ack(c, client, kind, id);
            }
            Got::Suback(id, reasons) => {
                let granted = !reasons.iter().any(|reason| reason.is_error());
                self.wrong.check(granted, || format!("refused: SUBACK {reasons:?}"));
                let known = self.links[c].asked.first() == Some(&id);
                self.wrong.check(known, || format!("order: SUBACK {id} out of turn"));
                self.links[c].asked.retain(|asked| *asked != id);
            }
            Got::Unsuback(id, _) => {
                let known = self.links[c].asked.first() == Some(&id);
                self.wrong.check(known, || format!("order: UNSUBACK {id} out of turn"));
                self.links[c].asked.retain(|asked| *asked != id);
            }
            Got::Disconnect(reason) => {
                use ReasonCode as R;
                let known = [R::SessionTakenOver, R::QuotaExceeded, R::KeepAliveTimeout];
                self.wrong.check(known.contains(&reason), || format!("disconnected: {reason:?}"));
            }
            Got::Pingresp => match self.links[c].pings.checked_sub(1) {
                Some(left) => self.links[c].pings = left,
                None => self.wrong.fail(|| "unasked: PINGRESP".into()),
            },
            Got::Auth(..) => self.wrong.fail(|| "unasked: AUTH".into()),
        }
    }

    /// Whether an acknowledgement has to say that its message is not taken: before MQTT 5 none can.
    fn is_refused(&self, client: usize, kind: AckKind, id: u16) -> bool {
        let actor = &self.actors[client];
        let first = matches!(kind, AckKind::Puback | AckKind::Pubrec);
        let is_it = |p: &Pending| p.id == id && p.sent.topic == FORBIDDEN;
        actor.version == Version::V5 && first && actor.pending.iter().any(is_it)
    }

    fn on_connack(&mut self, c: C, client: usize, present: bool, reason: ReasonCode) {
        let version = self.actors[client].version;
        self.links[c].answered = true;
        if let Some(refused) = self.links[c].refused {
            let told = match (version, refused) {
                (Version::V3_1 | Version::V3_1_1, ReasonCode::QuotaExceeded) => {
                    ReasonCode::ServerUnavailable
                }
                _ => refused,
            };
            self.wrong.check(reason == told && !present, || format!("refused: CONNACK {reason:?}"));
            self.links[c].open = false;
            self.actors[client].connection = None;
            return;
        }
        let expected = self.links[c].accepted.map(|(_, present)| present);
        let told = version == Version::V3_1 || Some(present) == expected;
        self.wrong.check(reason == ReasonCode::Success && told, || {
            format!("session present: {present}, expected {expected:?}, {reason:?}")
        });
        self.links[c].open = true;
        let pending = &mut self.actors[client].pending;
        if expected != Some(true) {
            pending.retain(|p| p.on == c);
        }
        let again: Vec<_> = pending.iter().filter(|p| p.on != c).copied().collect();
        pending.iter_mut().for_each(|p| p.on = c);
        for pending in again {
            self.send_publish(c, pending, true);
        }
    }

    fn on_ack(&mut self, c: C, client: usize, kind: AckKind, id: u16) {
        let pending = &mut self.actors[client].pending;
        match kind {
            AckKind::Puback => pending.retain(|p| p.id != id || p.sent.qos != 1),
            AckKind::Pubcomp => pending.retain(|p| p.id != id || p.sent.qos != 2),
            AckKind::Pubrec => {
                if let Some(pending) = pending.iter_mut().find(|p| p.id == id) {
                    pending.received = true;
                }
                self.send_ack(c, What::Pubrel(id), AckKind::Pubrel, id);
            }
            AckKind::Pubrel => self.links[c].owes.push_back((AckKind::Pubcomp, id)),
        }
    }
}
