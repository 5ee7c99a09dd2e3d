//! The reactor's part: reading, turns in the order of `shard/turn.rs`, mail, time, sleep.

use super::{
    super::world::C,
    history::{ROOMY, TOPICS},
    model::{EVER, Moment},
    run::{HeldUp, Simulation},
};
use crate::{
    broker::{ConnectionKey, ShardMessage, mail::Rest},
    stats::{CloseReason, DropReason},
    topics::ShardId,
};

/// How much earlier and later than due something may happen, in milliseconds: the broker counts in
/// tenths of a second, and its timer wheel in 64 ms.
const EARLY: u64 = 100;
const LATE: u64 = 300;

impl Simulation {
    /// A shard has something to do: it will end its turn. Until then it goes by what its clock
    /// shows now.
    pub fn wake(&mut self, shard: usize) {
        if self.awake[shard].is_none() {
            self.awake[shard] = Some(self.w.now.monotonic);
            self.look_at_clock(shard);
        }
    }

    /// Time passes, and no shard has seen it yet.
    pub fn pass(&mut self, milliseconds: u64) {
        self.w.now.monotonic += milliseconds;
        self.w.now.unix += milliseconds;
    }

    fn look_at_clock(&mut self, shard: usize) {
        self.w.looked[shard] = Some(self.w.now);
    }

    /// What a shard was held up in goes on, before anything else happens there.
    pub fn go_on(&mut self, shard: usize) -> bool {
        match self.held_up[shard].take() {
            None => return false,
            Some(HeldUp::Read(c, bytes)) => self.handle_bytes(c, bytes),
            Some(HeldUp::Turn { began, rest, .. }) => self.finish_turn(shard, began, rest),
        };
        true
    }

    /// A connection's task runs, and finds so many bytes more in its socket.
    pub fn read(&mut self, c: C, bytes: usize) -> bool {
        if self.w.peers[c].key.is_none() {
            return false;
        }
        let shard = self.w.peers[c].shard;
        self.go_on(shard);
        if !self.setup.dawdles {
            self.take_mail_in(shard);
        }
        self.handle_bytes(c, bytes)
    }

    /// A connection's task runs, and its shard is held up when it has looked into its mailbox.
    pub fn hold_read(&mut self, c: C) {
        let shard = self.w.peers[c].shard;
        self.go_on(shard);
        if self.w.peers[c].key.is_none() || self.w.peers[c].paused {
            return;
        }
        if !self.setup.dawdles {
            self.take_mail_in(shard);
        }
        self.wake(shard);
        let peer = &self.w.peers[c];
        self.held_up[shard] = Some(HeldUp::Read(c, peer.unread.len() - peer.held));
    }

    fn handle_bytes(&mut self, c: C, bytes: usize) -> bool {
        let shard = self.w.peers[c].shard;
        let Some(key) = self.w.peers[c].key else { return false };
        if self.w.peers[c].paused {
            return false;
        }
        self.wake(shard);
        let is_over = self.w.brokers[shard].is_finishing(key);
        let (consumed, more) = self.w.read_some(c, bytes);
        self.handled(c, consumed, is_over);
        if self.w.peers[c].shard != shard {
            self.go_on(self.w.peers[c].shard);
            self.links[c].heard = self.w.now.monotonic;
        }
        let peer = &self.w.peers[c];
        let at_end = peer.held == peer.unread.len() && !peer.paused && !more;
        let closes = peer.cut && at_end && peer.key.is_some();
        if closes {
            self.w.close(c, crate::stats::CloseReason::PeerClosed);
            self.lost(c);
        }
        self.wake(self.w.peers[c].shard);
        self.observe(shard);
        more || closes
    }

    pub fn read_all(&mut self, shard: usize) -> bool {
        let mut busy = self.go_on(shard);
        for c in 0..self.links.len() {
            busy |= self.w.peers[c].shard == shard && self.read(c, usize::MAX);
        }
        busy
    }

    /// What `Shard::end_turn` does. Says whether tasks go on because of it.
    pub fn end_turn(&mut self, shard: usize) -> bool {
        self.begin_end_of_turn(shard);
        match self.held_up[shard].take() {
            Some(HeldUp::Turn { began, resumed, rest }) => {
                self.finish_turn(shard, began, rest) | resumed
            }
            _ => false,
        }
    }

    /// The same, up to where others may have a say in what it sends.
    pub fn begin_end_of_turn(&mut self, shard: usize) {
        self.go_on(shard);
        let began = self.awake[shard].take().unwrap_or(self.w.now.monotonic);
        self.look_at_clock(shard);
        self.tick(shard);
        self.w.brokers[shard].on_turn(self.w.now);
        self.pass(self.setup.turn);
        if !self.setup.dawdles {
            self.take_mail_in(shard);
        }
        self.awake[shard] = None;
        let resumed = self.w.apply_effects(shard);
        self.observe(shard);
        let rest = self.w.send_first_mail(shard);
        self.held_up[shard] = Some(HeldUp::Turn { began, resumed, rest });
    }

    fn finish_turn(&mut self, shard: usize, began: u64, rest: Option<Rest>) -> bool {
        self.send_rest(shard, rest);
        self.flush(shard);
        let mut resumed = false;
        for _ in 0..4 {
            let broker = &mut self.w.brokers[shard];
            let more = broker.has_output() || broker.mail().has_items();
            resumed |= self.w.apply_effects(shard);
            if !more {
                break;
            }
            self.send_mail(shard);
            self.flush(shard);
        }
        let broker = &mut self.w.brokers[shard];
        if broker.has_output() || broker.mail().has_items() || broker.has_work() {
            self.wake(shard);
        }
        self.observe(shard);
        let now = std::mem::replace(&mut self.began, began);
        self.collect_all();
        self.began = now;
        resumed
    }

    fn flush(&mut self, shard: usize) {
        while let Some(key) = self.w.brokers[shard].next_to_write() {
            self.w.write(shard, key);
        }
        self.w.brokers[shard].end_turn();
    }

    fn collect_all(&mut self) {
        for c in 0..self.links.len() {
            if !self.w.peers[c].inbox.is_empty() {
                self.collect(c);
            }
        }
    }

    /// The client's socket has room; a writer that waits for that goes on.
    pub fn room(&mut self, c: C, bytes: usize) {
        self.go_on(self.w.peers[c].shard);
        self.w.peers[c].room = bytes;
        self.links[c].slow |= bytes != usize::MAX;
        let peer = &mut self.w.peers[c];
        let (shard, key) = (peer.shard, peer.key);
        if bytes == 0 || !std::mem::take(&mut peer.blocked) {
            return;
        }
        let Some(key) = key else { return };
        self.wake(shard);
        self.w.write(shard, key);
        self.observe(shard);
        self.collect_all();
    }

    fn send_mail(&mut self, shard: usize) {
        let rest = self.w.send_first_mail(shard);
        self.send_rest(shard, rest);
    }

    fn send_rest(&mut self, shard: usize, rest: Option<Rest>) {
        self.w.send_last_mail(shard, rest);
        let at = self.next();
        let last = |from: &Self, to: usize| from.w.mail[shard][to].back().map_or(0, |b| b.0);
        let bounds: Vec<u64> = (0..self.setup.shards).map(|to| last(self, to)).collect();
        for retaining in self.retaining.iter_mut().filter(|r| r.from == shard) {
            retaining.bound.get_or_insert(bounds[retaining.owner]);
        }
        for (message, copy) in std::mem::take(&mut self.unsent[shard]) {
            self.messages[message].copies[copy].sent = Some((at, bounds.clone()));
        }
        for to in 0..self.setup.shards {
            let mut sent = self.w.mail[shard][to].iter();
            let is_data = |item: &&ShardMessage| {
                use ShardMessage as M;
                matches!(item, M::Publish { .. } | M::Shared { .. } | M::Retain { .. })
            };
            let wrong = sent.any(|batch| batch.1.iter().filter(is_data).count() as u32 != batch.2);
            self.wrong.check(!wrong, || format!("credit: a batch to {to} costs something else"));
        }
    }

    /// The oldest batch from one shard arrives at another.
    pub fn arrive(&mut self, from: usize, to: usize) -> bool {
        self.go_on(to);
        let Some((number, items, _)) = self.w.mail[from][to].front() else { return false };
        let number = *number;
        let kept: Vec<(String, Vec<u8>)> = items
            .iter()
            .filter_map(|item| match item {
                ShardMessage::Retain { message, .. } => {
                    let view = message.view();
                    Some((view.topic.to_owned(), view.payload.to_vec()))
                }
                _ => None,
            })
            .collect();
        self.wake(to);
        // No earlier than the sender's.
        self.look_at_clock(to);
        self.w.deliver_batch(from, to);
        let at = self.next();
        self.arrivals.insert(number, at);
        for (topic, payload) in kept {
            self.on_retain(from, &topic, &payload, at);
        }
        let late = |r: &&super::run::Retaining| {
            r.from == from && r.owner == to && r.bound.is_some_and(|bound| bound <= number)
        };
        let late = self.retaining.iter().find(late).map(|r| r.number);
        self.wrong
            .check(late.is_none(), || format!("retained: {late:?} was not sent to its owner"));
        // Credit is back.
        for shard in 0..self.setup.shards {
            self.wake(shard);
        }
        self.observe(to);
        true
    }

    fn on_retain(&mut self, from: usize, topic: &str, payload: &[u8], at: Moment) {
        let messages = &self.messages;
        let is_it = |r: &super::run::Retaining| {
            let message = &messages[r.number];
            let same = TOPICS[message.topic] == topic;
            r.from == from && same && message.payload.as_bytes() == payload
        };
        let Some(place) = self.retaining.iter().position(is_it) else {
            return self.wrong.fail(|| format!("retained: something for {topic} that nobody sent"));
        };
        let retaining = self.retaining.remove(place);
        self.set_retained(retaining.number, at);
    }

    /// What is one too many for its shard is not retained.
    pub fn set_retained(&mut self, number: usize, at: Moment) {
        let message = &self.messages[number];
        let topic = message.topic;
        let mut value = (!message.payload.is_empty()).then_some(number);
        let owner = self.owner(topic);
        let others =
            (0..TOPICS.len()).filter(|other| *other != topic && self.owner(*other) == owner);
        let kept = others.filter(|other| self.retained.now(*other).is_some()).count() as u64;
        if value.is_some() && kept >= self.setup.retained.div_ceil(self.setup.shards as u64) {
            self.not_retained += 1;
            value = None;
        }
        self.retained.set(topic, value, at);
    }

    /// Everything in a shard's mailbox, in the order in which it came.
    fn take_mail_in(&mut self, shard: usize) -> bool {
        let mut busy = false;
        loop {
            let first = |from: &usize| self.w.mail[*from][shard].front().map(|batch| batch.0);
            let waiting = (0..self.setup.shards).filter(|from| first(from).is_some());
            let Some(from) = waiting.min_by_key(first) else { return busy };
            busy |= self.arrive(from, shard);
        }
    }

    fn tick(&mut self, shard: usize) {
        let now = self.w.now.monotonic;
        if now < self.next_tick[shard] {
            return;
        }
        self.next_tick[shard] = now + 10;
        self.next();
        self.just_retained.clear();
        let before: Vec<_> =
            (0..TOPICS.len()).map(|topic| self.retained.now(topic).map(|r| r.0)).collect();
        for c in 0..self.links.len() {
            let peer = &self.w.peers[c];
            let paused = peer.key.is_some_and(|key| self.w.brokers[shard].is_paused(key));
            if peer.shard == shard && std::mem::replace(&mut self.links[c].paused, paused) | paused
            {
                self.links[c].unheard = now;
            }
        }
        self.w.brokers[shard].on_tick(self.w.now);
        self.closed_by_shard(shard);
        self.look_for_overdue(shard, now);
        for session in 0..self.sessions.len() {
            let known = &self.sessions[session];
            if known.shard != shard || !known.is_alive() || known.connection.is_some() {
                continue;
            }
            self.after_tick(session, now);
        }
        self.any_order(shard, &before);
        self.observe(shard);
    }

    /// What is due in the same tick comes in any order: of several wills to be retained, the broker
    /// says which one was the last, or the first if there is no room for all.
    fn any_order(&mut self, shard: usize, before: &[Option<usize>]) {
        let wills = std::mem::take(&mut self.just_retained);
        if wills.len() < 2 {
            return;
        }
        let tight = self.setup.retained < ROOMY;
        for topic in wills.iter().map(|will| self.messages[*will].topic).collect::<Vec<_>>() {
            let kept = self.w.brokers[shard].retained.get(TOPICS[topic]);
            let text = kept.map(|kept| String::from_utf8_lossy(kept.view().payload).into_owned());
            let kept = text.and_then(|text| text.split_once(':')?.0.parse().ok());
            let is_one = kept.is_some_and(|kept| wills.contains(&kept));
            self.wrong.check(is_one || tight && kept == before[topic], || {
                format!("retained: {kept:?} after one of the wills {wills:?}")
            });
            if kept != self.retained.now(topic).map(|r| r.0) {
                self.retained.set(topic, kept, self.at);
            }
        }
        if tight {
            self.not_retained = self.w.dropped(DropReason::RetainedFull);
        }
    }

    /// What became of a session without a connection.
    fn after_tick(&mut self, session: usize, now: u64) {
        let Some((connected, has_will)) = self.in_broker(session) else {
            let expires = self.sessions[session].expires;
            let due = expires.is_some_and(|at| now + EARLY >= at);
            self.wrong.check(due, || format!("session {session} expired too early: {expires:?}"));
            return self.end_session(session);
        };
        self.wrong.check(!connected, || format!("session {session} is connected"));
        let known = &self.sessions[session];
        let (expires, will) = (known.expires, known.will.clone());
        self.wrong.check(expires.is_none_or(|at| at + LATE > now), || {
            format!("session {session} has not expired: {expires:?}")
        });
        let Some(due) = will.and_then(|will| will.due) else { return };
        if has_will {
            self.wrong.check(due + LATE > now, || format!("will of {session} is late: {due}"));
        } else {
            self.wrong.check(now + EARLY >= due, || format!("will of {session} is early: {due}"));
            self.publish_will(session);
        }
    }

    /// Whether a session exists in its shard: connected or not, with a will or not.
    fn in_broker(&self, session: usize) -> Option<(bool, bool)> {
        let session = &self.sessions[session];
        let name = &self.actors[session.client].name;
        let clients = &self.w.brokers[session.shard].clients.sessions;
        let (_, found) = clients.iter().find(|(_, client)| *client.id == **name)?;
        Some((found.connection != ConnectionKey::NONE, found.will.is_some()))
    }

    /// Whatever a call into a shard has done: connections that it has closed, wills.
    pub fn observe(&mut self, shard: usize) {
        self.closed_by_shard(shard);
        let published = self.w.shared.stats[shard].wills_published.get();
        let expected = self.wills[shard];
        self.wrong.check(published == expected, || {
            format!("wills: shard {shard} has published {published}, expected {expected}")
        });
    }

    fn closed_by_shard(&mut self, shard: usize) {
        for c in 0..self.links.len() {
            let peer = &self.w.peers[c];
            if self.links[c].refused.is_some() && peer.key.is_none() && peer.inbox.is_empty() {
                let client = self.links[c].client;
                self.actors[client].connection.take_if(|current| *current == c);
            }
            if peer.shard != shard || self.links[c].over {
                continue;
            }
            let connections = &self.w.brokers[shard].clients.connections;
            let connection = peer.key.and_then(|key| connections.get(key.index()));
            self.links[c].paused |= connection.is_some_and(|connection| connection.paused);
            let over = connection.is_none_or(|connection| connection.finishing);
            if !over {
                continue;
            }
            self.links[c].over = true;
            let cause = connection.and_then(|c| c.extra.as_ref()).and_then(|extra| extra.cause);
            if self.links[c].session.is_some() || self.links[c].refused.is_none() && cause.is_some()
            {
                self.check_cause(c, cause);
            }
            if self.links[c].session.is_some() {
                self.lost(c);
            } else if self.links[c].accepted.is_none() && self.links[c].refused.is_none() {
                let client = self.links[c].client;
                self.actors[client].connection.take_if(|current| *current == c);
            }
        }
    }

    /// Whether the broker may have closed a connection.
    fn check_cause(&mut self, c: C, cause: Option<CloseReason>) {
        let link = &self.links[c];
        let now = self.w.now_on(self.w.peers[c].shard).monotonic;
        let due = |timeout: Option<u64>| timeout.is_some_and(|ms| now + EARLY >= link.heard + ms);
        let is_right = match cause {
            Some(CloseReason::SlowConsumer) => link.slow && self.setup.send_timeout < 1_000,
            Some(CloseReason::KeepAliveTimeout) => {
                link.session.is_some() && due(self.timeout(c)) && !link.paused
            }
            Some(CloseReason::ConnectTimeout) => link.session.is_none() && due(self.timeout(c)),
            // The model knows.
            Some(CloseReason::Disconnect | CloseReason::TakenOver) => link.session.is_none(),
            _ => false,
        };
        let heard = link.heard;
        self.wrong.check(is_right, || {
            format!(
                "connection {c} was closed without a cause: {cause:?}, heard {heard}, now {now}"
            )
        });
    }

    /// How long a client may be silent, in milliseconds. `[MQTT-3.1.2-22]`
    fn timeout(&self, c: C) -> Option<u64> {
        match self.links[c].accepted {
            None => Some(self.w.brokers[self.w.peers[c].shard].config.connect_timeout),
            Some(_) => Some(u64::from(self.links[c].hello.keep_alive) * 1_500).filter(|ms| *ms > 0),
        }
    }

    /// Whoever has been silent for too long is disconnected.
    fn look_for_overdue(&mut self, shard: usize, now: u64) {
        for c in 0..self.links.len() {
            let (peer, link) = (&self.w.peers[c], &self.links[c]);
            if peer.shard != shard || link.over {
                continue;
            }
            let since = link.heard.max(link.unheard);
            let late = self.timeout(c).is_some_and(|ms| since + ms + LATE <= now);
            self.wrong.check(!late, || format!("connection {c}: silent since {since}, and open"));
        }
    }

    /// Runs everything until nothing can go on, and sees that all that could have gone on has.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            for shard in 0..self.setup.shards {
                busy |= self.go_on(shard);
                busy |= self.take_mail_in(shard);
                for c in self.doorkeeper.waiting() {
                    busy |= self.decide(c);
                }
                busy |= self.read_all(shard);
                if self.awake[shard].is_some() {
                    busy |= self.end_turn(shard);
                    busy |= self.awake[shard].is_some();
                }
                busy |= self.w.peers.iter().any(|peer| {
                    let waits = peer.key.is_some() && !peer.paused && !peer.cut;
                    waits && peer.held < peer.unread.len()
                });
                if self.wrong.is_some() {
                    return;
                }
            }
            if !busy && self.w.routes_with_mail().is_empty() {
                return self.look_for_sleepers();
            }
        }
        self.wrong.fail(|| "the world does not come to rest".into());
    }

    /// Nothing goes on: then nothing must be left that could.
    fn look_for_sleepers(&mut self) {
        self.note_empty_queues();
        let in_transit = !self.w.routes_with_mail().is_empty();
        self.wrong.check(!in_transit, || "asleep: mail".into());
        for shard in 0..self.setup.shards {
            let broker = &mut self.w.brokers[shard];
            let (output, mail) = (broker.has_output(), broker.mail().has_items());
            let (work, starved) = (broker.has_work(), broker.is_starved());
            let effects = !broker.effects.is_empty();
            self.wrong.check(!output && !mail && !work && !starved && !effects, || {
                format!("asleep: shard {shard}: output {output}, mail {mail}, work {work}, starved {starved}, effects {effects}")
            });
        }
        for c in 0..self.links.len() {
            self.look_for_sleeper(c);
        }
        for session in 0..self.sessions.len() {
            let model = &self.sessions[session];
            let exists = self.in_broker(session).map(|(connected, _)| connected);
            let expected = model.is_alive().then_some(model.connection.is_some());
            let last = !self.sessions[session + 1..].iter().any(|s| s.client == model.client);
            self.wrong.check(!last || exists == expected, || {
                format!("session {session} is {exists:?}, expected {expected:?}")
            });
        }
    }

    fn look_for_sleeper(&mut self, c: C) {
        let peer = &self.w.peers[c];
        let Some(key) = peer.key else { return };
        let broker = &self.w.brokers[peer.shard];
        let Some(connection) = broker.clients.connections.get(key.index()) else {
            return self.wrong.fail(|| format!("connection {c} is unknown"));
        };
        // It is read from again when half of its outbox is written.
        let full = peer.blocked && connection.queued() > self.setup.outbox / 2;
        let paused = connection.paused || peer.paused;
        let unwritten = !peer.blocked && connection.queued() > 0;
        let session = connection.session;
        let client = broker.clients.sessions.get(session.index());
        let queued = client.and_then(|c| c.outgoing.as_ref()).map_or(0, |o| o.queued());
        let fetches = client.and_then(|c| c.rare.as_ref()).map_or(0, |r| r.retained.waiting().0);
        let link = &self.links[c];
        let current = self.actors[link.client].connection == Some(c) && link.open;
        let idle = current && !peer.blocked && link.live.len() < usize::from(self.window(c));
        // What is resent waits for PUBCOMPs that it counts itself.
        let waits = idle && link.owes.is_empty() && queued > 0;
        let state =
            if waits { format!("{:?}", client.map(|c| &c.outgoing)) } else { String::new() };
        let fetching = idle && queued == 0 && fetches > 0;
        self.wrong.check(full || !paused, || format!("asleep: connection {c} is not read from"));
        self.wrong.check(!unwritten, || format!("asleep: connection {c} is not written to"));
        self.wrong
            .check(!waits, || format!("asleep: connection {c} has room, {queued} wait {state}"));
        self.wrong
            .check(!fetching, || format!("asleep: connection {c} waits for {fetches} fetches"));
    }

    /// The shard that keeps a topic's retained message.
    pub fn owner(&self, topic: usize) -> usize {
        let ShardId(owner) = self.w.shared.retained_owner(TOPICS[topic]);
        usize::from(owner)
    }

    /// When a copy has been everywhere, on a shard.
    pub fn arrival(&self, copy: &super::model::Copy, shard: usize) -> Moment {
        if copy.shard == shard {
            return copy.at;
        }
        let Some((sent, bounds)) = &copy.sent else { return EVER };
        match bounds[shard] {
            0 => *sent,
            batch => self.arrivals.get(&batch).map_or(EVER, |at| *at.max(sent)),
        }
    }
}
