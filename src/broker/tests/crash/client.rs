//! The clients: they outlive crashes, follow the protocol to the letter, and remember what they were
//! promised.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU32,
};

use super::{
    super::{
        peer::{Got, Msg},
        world::{C, hello as plain_hello},
    },
    history::{FILTERS, Hello, Sent, TOPICS, VERSIONS, WILL_TOPIC},
    run::{MAX_EXPIRY, Simulation, TOLERANCE},
    verdict::{Life, Message, Moment, Sub, Will},
};
use crate::codec::*;

/// The unacknowledged QoS 1 and 2 messages of one client: packet ids are soon used again.
const MAX_PENDING: usize = 3;
/// Packet ids of SUBSCRIBE and UNSUBSCRIBE begin here.
const FIRST_QUESTION: u16 = 1_000;

/// A QoS 1 or 2 message of a client's own that is under way.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    pub number: usize,
    pub id: u16,
    pub sent: Sent,
    /// PUBREC has come.
    pub received: bool,
}

/// A client over all its connections, with its part of the session state.
#[derive(Debug)]
pub struct Actor {
    pub name: String,
    pub version: Version,
    pub connection: Option<C>,
    /// Its session, as far as it knows.
    pub life: Option<usize>,
    /// A CONNECT with a clean start was not answered: whoever does not insist may be taken for
    /// somebody else.
    pub must_clean: bool,
    /// A CONNECT is not answered, and may have found its session expired: what there is may be another
    /// one.
    pub is_in_doubt: bool,
    /// A CONNECT was not answered: there may be a session.
    pub maybe: bool,
    pub pending: Vec<Pending>,
    /// QoS 2 messages that are received and not released, by packet id.
    pub holds: BTreeMap<u16, usize>,
    /// QoS 1 and 2 messages that came on this connection and are not answered.
    pub live: BTreeMap<u16, usize>,
    /// SUBSCRIBE and UNSUBSCRIBE packets without an answer: filter, and whether to leave it.
    pub asked: BTreeMap<u16, (usize, bool)>,
    /// Answers that it owes.
    pub owes: VecDeque<(AckKind, u16)>,
    last_question: u16,
}

impl Actor {
    pub fn new(number: usize) -> Self {
        Self {
            name: format!("c{number}"),
            version: VERSIONS[number],
            connection: None,
            life: None,
            must_clean: false,
            is_in_doubt: false,
            maybe: false,
            pending: Vec::new(),
            holds: BTreeMap::new(),
            live: BTreeMap::new(),
            asked: BTreeMap::new(),
            owes: VecDeque::new(),
            last_question: FIRST_QUESTION,
        }
    }

    fn forget_session(&mut self) {
        self.pending.clear();
        self.holds.clear();
    }

    fn question(&mut self) -> PacketId {
        self.last_question += 1;
        PacketId::new(self.last_question).unwrap()
    }
}

/// A connection, as its client sees it.
#[derive(Debug)]
pub struct Link {
    pub client: usize,
    pub clean: bool,
    /// When CONNECT was sent, as a Unix time.
    pub sent_at: u64,
    /// Session Expiry Interval in seconds.
    pub expiry: u32,
    /// CONNACK has come, and the client may send.
    pub open: bool,
    /// CONNACK has come.
    pub answered: bool,
    pub prompt: bool,
    /// There must not be a session.
    pub absent: bool,
    pub will: Option<usize>,
}

impl Simulation {
    fn send(&mut self, c: C, packet: &Packet<'_>) {
        self.w.peers[c].send(packet);
    }

    /// The client's connection, if it may send on it.
    fn open(&self, client: usize) -> Option<C> {
        self.actors.get(client)?.connection.filter(|c| self.links[*c].open)
    }

    pub fn connect(&mut self, client: usize, hello: Hello) {
        let Some(actor) = self.actors.get(client) else { return };
        let (name, version) = (actor.name.clone(), actor.version);
        self.lose(client);
        // What was not answered is given up, and does not come in behind this.
        self.break_off(client, 0, |link| !link.answered);
        let is_v5 = version == Version::V5;
        let clean = hello.clean || self.actors[client].must_clean;
        let expiry = match is_v5 {
            true => hello.expiry.min(MAX_EXPIRY),
            false => MAX_EXPIRY * u32::from(!clean),
        };
        let mut connect = plain_hello(version, &name);
        connect.clean_start = clean;
        connect.properties.session_expiry_interval = Some(expiry);
        let delay = hello.will.filter(|_| is_v5).map_or(0, |will| will.delay);
        let will = hello.will.map(|will| {
            let number = self.message(client, WILL_TOPIC, will.qos, will.retain, false, 0);
            self.wills.push(Will::new(number, client, delay));
            self.wills.len() - 1
        });
        let payload = will.map(|will| self.messages[self.wills[will].number].payload.clone());
        let payload = payload.unwrap_or_default();
        connect.will = hello.will.map(|will| crate::codec::Will {
            topic: TOPICS[WILL_TOPIC],
            payload: payload.as_bytes(),
            qos: QoS::from_u8(will.qos).unwrap(),
            retain: will.retain,
            properties: WillProperties { delay_interval: delay, ..<_>::default() },
        });
        let absent = self.must_be_absent(client);
        self.expect_session(client, clean, expiry);
        let shard = hello.on % self.w.brokers.len();
        self.begin(shard);
        self.w.accepts_on = shard;
        let c = self.w.open(version);
        self.w.peers[c].wire = self.setup.wires.then(Vec::new);
        let prompt = hello.prompt;
        let (open, answered, sent_at) = (false, false, self.w.now.unix);
        self.links.push(Link {
            client,
            clean,
            sent_at,
            expiry,
            open,
            answered,
            prompt,
            absent,
            will,
        });
        self.actors[client].connection = Some(c);
        self.send(c, &Packet::Connect(connect));
    }

    /// The client is about to ask for its session, and until there is an answer to that does not know
    /// what has become of it.
    fn expect_session(&mut self, client: usize, clean: bool, expiry: u32) {
        let may_be_absent = !self.must_be_present(client);
        let actor = &mut self.actors[client];
        // What it sends again may be new to the broker, which has passed it on before.
        for pending in actor.pending.iter().filter(|pending| may_be_absent && !pending.received) {
            self.messages[pending.number].was_open = true;
        }
        if clean {
            actor.must_clean = true;
            actor.forget_session();
        }
        match actor.life {
            Some(life) => {
                let life = &mut self.lives[life];
                life.doubtful |= clean || actor.is_in_doubt && may_be_absent;
                // The CONNECT that was not answered may have resumed it.
                life.quiet = life.quiet.filter(|_| !actor.is_in_doubt);
                actor.is_in_doubt = true;
                life.may_expire_after(expiry);
            }
            None => actor.maybe = true,
        }
        for will in self.wills.iter_mut().filter(|will| will.client == client) {
            will.cancelled |= will.owed.is_none() && will.life.is_some();
        }
    }

    /// The client's connection is over, as far as it is concerned.
    pub fn lose(&mut self, client: usize) {
        let now = self.w.now.unix;
        let at = self.next();
        let actor = &mut self.actors[client];
        let Some(c) = actor.connection.take() else { return };
        actor.owes.clear();
        actor.asked.clear();
        actor.live.clear();
        let link = &mut self.links[c];
        if std::mem::take(&mut link.open)
            && let Some(life) = actor.life
        {
            self.lives[life].lost_at = Some(now);
            if let Some(will) = link.will {
                self.wills[will].lost.get_or_insert((now, at));
            }
        }
    }

    /// The broker may have ended connections of clients that do not know that yet.
    pub fn note_lost_wills(&mut self) {
        let (now, at) = (self.w.now.unix, self.next());
        for (link, peer) in self.links.iter().zip(&self.w.peers) {
            if let Some(will) = link.will.filter(|_| peer.key.is_none()) {
                self.wills[will].lost.get_or_insert((now, at));
            }
        }
    }

    pub fn disconnect(&mut self, client: usize, with_will: bool, expiry: Option<u32>) {
        let Some(c) = self.open(client) else { return };
        let is_v5 = self.actors[client].version == Version::V5;
        let with_will = with_will && is_v5;
        let expiry = expiry.filter(|_| is_v5 && self.links[c].expiry > 0);
        let reason = match with_will {
            true => ReasonCode::DisconnectWithWillMessage,
            false => ReasonCode::Success,
        };
        let packet = Disconnect { reason, session_expiry_interval: expiry, ..<_>::default() };
        self.send(c, &Packet::Disconnect(packet));
        if let Some(will) = self.links[c].will.filter(|_| !with_will) {
            self.wills[will].cancelled = true;
        }
        if let Some((life, expiry)) = self.actors[client].life.zip(expiry) {
            self.lives[life].may_expire_after(expiry);
        }
        self.lose(client);
    }

    pub fn cut(&mut self, client: usize, bytes: usize) {
        if client >= self.actors.len() {
            return;
        }
        self.lose(client);
        self.break_off(client, bytes, |_| true);
    }

    /// Connections of the client break. Of what it has sent so many bytes still arrive.
    fn break_off(&mut self, client: usize, bytes: usize, which: impl Fn(&Link) -> bool) {
        let links = self.links.iter().enumerate();
        let mine = links.filter(|(_, link)| link.client == client && which(link));
        for c in mine.map(|(c, _)| c) {
            let peer = &mut self.w.peers[c];
            if !peer.cut || !self.links[c].answered {
                peer.unread.truncate(peer.held.saturating_add(bytes));
                (peer.cut, peer.room) = (true, 0);
                peer.wire = peer.wire.take().map(|_| Vec::new());
                peer.blocked = false;
            }
        }
    }

    /// A new message.
    fn message(
        &mut self,
        client: usize,
        topic: usize,
        qos: u8,
        retain: bool,
        empty: bool,
        expiry: u32,
    ) -> usize {
        let number = self.messages.len();
        let payload = if empty { String::new() } else { format!("{number}:") };
        let (first, sent_at) = (self.next(), self.w.now.unix);
        let acked = None;
        self.messages.push(Message {
            topic,
            qos,
            retain,
            payload,
            expiry,
            client,
            first,
            sent_at,
            acked,
            acked_at: None,
            is_will: topic == WILL_TOPIC,
            was_open: false,
        });
        number
    }

    pub fn publish(&mut self, client: usize, sent: Sent) {
        let Some(c) = self.open(client) else { return };
        // The topic of wills is theirs.
        if sent.topic == WILL_TOPIC || self.actors[client].pending.len() >= MAX_PENDING {
            return;
        }
        let is_v5 = self.actors[client].version == Version::V5;
        let expiry = if is_v5 { sent.expiry } else { 0 };
        let sent = Sent { expiry, ..sent };
        let number = self.message(client, sent.topic, sent.qos, sent.retain, sent.empty, expiry);
        let pending = &mut self.actors[client].pending;
        let id = (1..).find(|id| pending.iter().all(|p| p.id != *id)).unwrap();
        let new = Pending { number, id, sent, received: false };
        if sent.qos > 0 {
            pending.push(new);
        }
        self.send_publish(c, new, false);
    }

    fn send_publish(&mut self, c: C, pending: Pending, dup: bool) {
        let Pending { number, id, sent, received } = pending;
        if received {
            return self.w.peers[c].ack(AckKind::Pubrel, id);
        }
        self.messages[number].sent_at = self.w.now.unix;
        let payload = self.messages[number].payload.clone();
        let properties = PublishProperties {
            message_expiry_interval: Some(sent.expiry).filter(|s| *s > 0),
            ..<_>::default()
        };
        let publish = Publish {
            dup,
            qos: QoS::from_u8(sent.qos).unwrap(),
            retain: sent.retain,
            topic: TOPICS[sent.topic],
            packet_id: PacketId::new(id).filter(|_| sent.qos > 0),
            properties,
            payload: payload.as_bytes(),
        };
        self.send(c, &Packet::Publish(publish));
    }

    pub fn subscribe(&mut self, client: usize, filter: usize, qos: u8) {
        let Some(c) = self.open(client) else { return };
        let Some(life) = self.actors[client].life else { return };
        if self.setup.groups && !self.lives[life].subs.is_empty() {
            return;
        }
        let at = self.next();
        for sub in self.lives[life].subs.iter_mut().filter(|sub| sub.filter == filter) {
            sub.leaves.get_or_insert(at);
        }
        let granted = None;
        self.lives[life].subs.push(Sub { filter, qos, granted, leaves: None, left: None });
        let packet_id = self.actors[client].question();
        self.actors[client].asked.insert(packet_id.get(), (filter, false));
        let filters = [(FILTERS[filter], SubscriptionOptions::new(QoS::from_u8(qos).unwrap()))];
        let subscribe = Subscribe {
            packet_id,
            subscription_id: NonZeroU32::new(filter as u32 + 1)
                .filter(|_| self.actors[client].version == Version::V5),
            user_properties: <_>::default(),
            filters: SubscribeFilters::from(&filters[..]),
        };
        self.send(c, &Packet::Subscribe(subscribe));
    }

    pub fn unsubscribe(&mut self, client: usize, filter: usize) {
        let Some(c) = self.open(client) else { return };
        let Some(life) = self.actors[client].life else { return };
        let at = self.next();
        for sub in self.lives[life].subs.iter_mut().filter(|sub| sub.filter == filter) {
            sub.leaves.get_or_insert(at);
        }
        let packet_id = self.actors[client].question();
        self.actors[client].asked.insert(packet_id.get(), (filter, true));
        let filters = [FILTERS[filter]];
        let unsubscribe = Unsubscribe {
            packet_id,
            user_properties: <_>::default(),
            filters: UnsubscribeFilters::from(&filters[..]),
        };
        self.send(c, &Packet::Unsubscribe(unsubscribe));
    }

    /// The client sends answers that it owes.
    pub fn answer(&mut self, client: usize, count: usize) {
        let Some(c) = self.open(client) else { return };
        for _ in 0..count {
            let Some((kind, id)) = self.actors[client].owes.pop_front() else { return };
            if kind != AckKind::Pubrec {
                self.actors[client].live.remove(&id);
            }
            self.w.peers[c].ack(kind, id);
        }
    }

    /// Looks at what has come to the clients.
    pub fn collect(&mut self) {
        for client in 0..self.actors.len() {
            let Some(c) = self.actors[client].connection else { continue };
            for got in self.w.got(c) {
                self.understand(c, client, got);
            }
            if self.links[c].prompt {
                self.answer(client, usize::MAX);
            }
        }
    }

    fn understand(&mut self, c: C, client: usize, got: Got) {
        match got {
            Got::Connack { present, reason: ReasonCode::Success, .. } => {
                self.on_connack(c, client, present);
            }
            Got::Connack { reason, .. } => {
                let told = reason == ReasonCode::ServerUnavailable && self.failed;
                self.wrong.check(told, || format!("refused: CONNACK {reason:?}"));
            }
            Got::Publish(message) => self.on_publish(client, &message),
            Got::Ack(kind, id, reason) => self.on_ack(c, client, kind, id, reason),
            Got::Suback(id, reasons) => {
                let wrong = reasons.iter().any(|reason| reason.is_error());
                self.wrong.check(!wrong || self.failed, || format!("refused: SUBACK {reasons:?}"));
                self.on_question(client, id, wrong);
            }
            Got::Unsuback(id, _) => self.on_question(client, id, false),
            Got::Disconnect(reason) => {
                use ReasonCode as R;
                let mut known = vec![R::SessionTakenOver];
                known.extend(self.failed.then_some(R::ImplementationSpecificError));
                self.wrong.check(known.contains(&reason), || format!("disconnected: {reason:?}"));
            }
            Got::Pingresp | Got::Auth(..) => self.wrong.fail(|| "unasked: PINGRESP or AUTH".into()),
        }
    }

    fn on_question(&mut self, client: usize, id: u16, refused: bool) {
        let Some((filter, leave)) = self.actors[client].asked.remove(&id) else {
            return self.wrong.fail(|| format!("unasked: answer {id}"));
        };
        let Some(life) = self.actors[client].life else { return };
        let at = self.next();
        let mut subs = self.lives[life].subs.iter_mut().rev().filter(|sub| sub.filter == filter);
        if refused {
            return;
        }
        if !leave && let Some(sub) = subs.next() {
            sub.granted.get_or_insert(at);
        }
        for sub in subs.filter(|sub| sub.leaves.is_some()) {
            sub.left.get_or_insert(at);
        }
    }

    /// Whether the client's session has ended for sure, when it connects now.
    fn must_be_absent(&self, client: usize) -> bool {
        let actor = &self.actors[client];
        if actor.is_in_doubt {
            return false;
        }
        let Some(life) = actor.life else { return !actor.maybe };
        let life = &self.lives[life];
        let Some(gone) = life.gone_at else { return false };
        let until = gone + u64::from(life.expiry.1) * 1_000 + TOLERANCE;
        // What a client has left and was not to be kept is no longer there after a crash.
        until < self.w.now.unix || life.expiry.1 == 0 && gone < self.restarted_at
    }

    /// Whether it cannot have ended, when CONNACK comes now.
    fn must_be_present(&self, client: usize) -> bool {
        let Some(life) = self.actors[client].life else { return false };
        let life = &self.lives[life];
        let Some(lost) = life.lost_at else { return false };
        let until = lost + u64::from(life.expiry.0) * 1_000;
        !life.doubtful && life.expiry.0 > 0 && until > self.w.now.unix + TOLERANCE
    }

    fn on_connack(&mut self, c: C, client: usize, present: bool) {
        let link = &self.links[c];
        let (clean, expiry, absent) = (link.clean, link.expiry, link.absent);
        let must = self.must_be_present(client);
        self.wrong.check(!(present && (absent || clean)), || {
            format!("resurrected: the session of client {client}")
        });
        self.wrong
            .check(present || clean || !must, || format!("lost: the session of client {client}"));
        let at = self.next();
        let actor = &mut self.actors[client];
        (actor.must_clean, actor.maybe, actor.is_in_doubt) = (false, false, false);
        if !present {
            actor.forget_session();
            if let Some(life) = actor.life.take() {
                self.lives[life].ended = true;
            }
        }
        let life = *actor.life.get_or_insert_with(|| {
            self.lives.push(Life::new(client));
            self.lives.len() - 1
        });
        self.lives[life].resume(expiry, at, self.links[c].sent_at);
        (self.links[c].open, self.links[c].answered) = (true, true);
        if let Some(will) = self.links[c].will {
            self.wills[will].life = Some(life);
        }
        for pending in self.actors[client].pending.clone() {
            self.send_publish(c, pending, true);
        }
    }

    fn on_publish(&mut self, client: usize, message: &Msg) {
        let number = message.text().split_once(':').and_then(|(n, _)| n.parse().ok());
        let known = number.unwrap_or(usize::MAX);
        let actor = &mut self.actors[client];
        let mut fresh = true;
        if message.qos > 0 {
            let kind = if message.qos == 1 { AckKind::Puback } else { AckKind::Pubrec };
            actor.owes.push_back((kind, message.id));
            let old = actor.live.insert(message.id, known);
            self.wrong.check(old.is_none(), || format!("packet id: {} came twice", message.id));
        }
        let actor = &mut self.actors[client];
        if message.qos == 2 {
            let held = actor.holds.insert(message.id, known);
            fresh = held.is_none();
            self.wrong.check(held.is_none_or(|held| held == known), || {
                format!("packet id: {} is {known} now and was {held:?}", message.id)
            });
        }
        self.receive(client, message, number, fresh);
    }

    fn on_ack(&mut self, c: C, client: usize, kind: AckKind, id: u16, reason: ReasonCode) {
        let at: Moment = self.next();
        let actor = &mut self.actors[client];
        if kind == AckKind::Pubrel {
            actor.holds.remove(&id);
            // It is no new exchange if PUBREC was answered with it.
            actor.live.insert(id, usize::MAX);
            actor.owes.push_back((AckKind::Pubcomp, id));
            return;
        }
        let qos = if kind == AckKind::Puback { 1 } else { 2 };
        let Some(place) = actor.pending.iter().position(|p| p.id == id && p.sent.qos == qos) else {
            return self.wrong.fail(|| format!("unasked: {kind:?} {id} of client {client}"));
        };
        let number = actor.pending[place].number;
        if reason.is_error() && reason != ReasonCode::PacketIdentifierNotFound {
            actor.pending.remove(place);
            let failed = self.failed;
            return self.wrong.check(failed, || format!("refused: {kind:?} {id} {reason:?}"));
        }
        self.messages[number].acked.get_or_insert(at);
        self.messages[number].acked_at.get_or_insert(self.w.now.unix);
        match kind {
            AckKind::Pubrec => {
                actor.pending[place].received = true;
                self.w.peers[c].ack(AckKind::Pubrel, id);
            }
            _ => {
                actor.pending.remove(place);
            }
        }
    }
}
