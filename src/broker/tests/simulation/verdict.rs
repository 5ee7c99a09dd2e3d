//! The oracle: what may be received at all, and at the end, whether all that was owed has been.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{peer::Msg, world::C},
    history::{FORBIDDEN, TOPICS},
    model::{Copy, EVER, Message, Moment, Session},
    run::Simulation,
};
use crate::{codec::Version, stats::DropReason};

/// A PUBLISH that a client has received.
#[derive(Debug, Clone)]
pub struct Reception {
    pub session: usize,
    pub number: usize,
    pub qos: u8,
    pub retain: bool,
    /// Whether it is no repetition, as far as the client can tell.
    pub fresh: bool,
}

/// Why messages of QoS 1 and 2 may be missing that cannot have expired.
const LOSSES: [DropReason; 3] =
    [DropReason::QueueFull, DropReason::QueuesFull, DropReason::TooLarge];
/// And of QoS 0.
const LOSSES_OF_QOS_0: [DropReason; 5] = [
    DropReason::QueueFull,
    DropReason::QueuesFull,
    DropReason::TooLarge,
    DropReason::OutboxFull,
    DropReason::Offline,
];

impl Simulation {
    /// How many messages may be on their way to a client.
    pub fn window(&self, c: C) -> u16 {
        let link = &self.links[c];
        let is_v5 = self.actors[link.client].version == Version::V5;
        let receive = Some(link.hello.receive).filter(|n| *n > 0 && is_v5);
        self.setup.inflight.min(receive.unwrap_or(u16::MAX))
    }

    /// A client has received a PUBLISH.
    pub fn receive(&mut self, c: C, got: &Msg) {
        let at = self.next();
        let Some(session) = self.links[c].last_session else {
            return self.wrong.fail(|| "a message before CONNACK".into());
        };
        let hello = self.links[c].hello;
        if self.actors[self.links[c].client].version == Version::V5 {
            let fits = hello.packet == 0 || got.size <= hello.packet as usize;
            self.wrong.check(fits, || format!("size: {} bytes of {}", got.size, hello.packet));
            let known = got.alias.is_none_or(|alias| alias <= hello.aliases);
            self.wrong.check(known, || format!("alias: {:?} of {}", got.alias, hello.aliases));
        }
        let forbidden = got.topic == TOPICS[FORBIDDEN];
        self.wrong.check(!forbidden, || format!("forbidden: {:?} came", got.payload));
        let number = got.text().split_once(':').and_then(|(number, _)| number.parse().ok());
        let number: Option<usize> = number.filter(|n| *n < self.messages.len());
        if got.qos > 0 {
            self.check_packet_id(c, session, got, number);
        }
        let Some(number) = number else {
            return self
                .wrong
                .check(got.payload.is_empty(), || format!("content: {:?}", got.payload));
        };
        let message = &self.messages[number];
        let same = message.payload == got.text() && TOPICS[message.topic] == got.topic;
        self.wrong.check(same, || format!("content: {number} is not what was sent"));
        self.check_expiry(c, got, number);
        self.check_dup(c, got, number);
        let qos = self.messages[number].qos;
        self.wrong.check(got.qos <= qos, || format!("QoS: {} of {qos}", got.qos));
        let fresh = if got.qos == 2 { !got.again } else { !got.dup };
        let (qos, retain) = (got.qos, got.retain);
        self.check_reign(session, number, retain, at);
        self.receptions.push(Reception { session, number, qos, retain, fresh });
    }

    fn check_packet_id(&mut self, c: C, session: usize, got: &Msg, number: Option<usize>) {
        let number = number.unwrap_or(usize::MAX);
        let used = self.links[c].live.insert(got.id, number);
        self.wrong.check(used.is_none(), || format!("packet id: {} came twice", got.id));
        let (window, live) = (usize::from(self.window(c)), self.links[c].live.len());
        self.wrong.check(live <= window, || format!("window: {live} of {window}"));
        let held = self.sessions[session].held.insert(got.id, number);
        let same = held.is_none_or(|held| held == number && got.dup);
        self.wrong.check(same, || {
            format!("packet id: {} is {number} and {held:?}, DUP {}", got.id, got.dup)
        });
    }

    /// `[MQTT-3.3.2-5]`, `[MQTT-3.3.2-6]`
    fn check_expiry(&mut self, c: C, got: &Msg, number: usize) {
        let message = &self.messages[number];
        let Some(interval) = message.expiry else {
            let is_right = got.expiry.is_none() || message.publisher.is_none();
            return self.wrong.check(is_right, || format!("expiry: {number} has one"));
        };
        let began = self.began;
        let fresh = message.copies.iter().any(|copy| copy.expires_at.is_none_or(|at| at > began));
        let late = !fresh && !got.dup && !self.links[c].slow;
        self.wrong.check(!late, || format!("expiry: {number} has expired"));
        let longer = got.expiry.is_some_and(|seconds| u64::from(seconds) * 1_000 > interval);
        self.wrong.check(!longer, || format!("expiry: {:?} of {interval} ms", got.expiry));
    }

    /// What was published after the connection was made is sent for the first time.
    fn check_dup(&mut self, c: C, got: &Msg, number: usize) {
        let accepted = self.links[c].accepted.map_or(0, |(at, _)| at);
        let first = self.messages[number].copies.iter().map(|copy| copy.at).min();
        let new = first.is_none_or(|first| first > accepted);
        self.wrong.check(!(got.dup && new), || format!("DUP: {number} has never been sent"));
    }

    /// A retained message is one that its topic has had since somebody asked for it.
    fn check_reign(&mut self, session: usize, number: usize, retain: bool, at: Moment) {
        let (message, session) = (&self.messages[number], &self.sessions[session]);
        if message.copies.is_empty() {
            return self.wrong.fail(|| format!("content: {number} was never published"));
        }
        let live =
            session.subscriptions.iter().any(|s| s.asked.as_published && s.matches(message.topic));
        if !retain || live {
            return;
        }
        let asked = session.subscriptions.iter().filter(|s| s.fetches && s.matches(message.topic));
        let since = asked.map(|s| s.from).min();
        let reigns = self.retained.reigns.get(&message.topic);
        let current = since.is_some_and(|since| {
            reigns
                .into_iter()
                .flatten()
                .any(|(n, from, to)| *n == number && *from <= at && *to >= since)
        });
        self.wrong
            .check(current, || format!("retained: {number} is out of date, or was not asked for"));
    }

    /// When everything has gone where it goes.
    pub fn judge(&mut self) {
        let mut by_message: BTreeMap<usize, Vec<Reception>> = BTreeMap::new();
        for reception in &self.receptions {
            by_message.entry(reception.number).or_default().push(reception.clone());
        }
        let mut missing = vec![Vec::new(); self.setup.shards];
        let mut missing_qos0 = vec![Vec::new(); self.setup.shards];
        for number in 0..self.messages.len() {
            let got = by_message.remove(&number).unwrap_or_default();
            for session in 0..self.sessions.len() {
                let mine: Vec<_> = got.iter().filter(|r| r.session == session).collect();
                self.judge_surplus(number, session, &mine);
                if self.is_owed(number, session) && mine.is_empty() {
                    missing[self.sessions[session].shard].push((number, session));
                }
                if self.is_owed_qos0(number, session) && mine.is_empty() {
                    missing_qos0[self.sessions[session].shard].push((number, session));
                }
                self.judge_attributes(number, session, &mine);
            }
            self.judge_groups(number, &got);
            self.judge_last_retained(number, &got);
        }
        self.judge_missing(&missing, &missing_qos0);
        self.judge_order();
    }

    fn judge_missing(
        &mut self,
        missing: &[Vec<(usize, usize)>],
        missing_qos0: &[Vec<(usize, usize)>],
    ) {
        let no_credit = self.w.dropped(DropReason::NoCredit) as usize;
        for shard in 0..self.setup.shards {
            let stats = &self.w.shared.stats[shard];
            let dropped = |reasons: &[DropReason]| -> usize {
                reasons.iter().map(|r| stats.publish_dropped.get(*r) as usize).sum()
            };
            let (losses, losses_qos0) = (dropped(&LOSSES), dropped(&LOSSES_OF_QOS_0));
            let (lost, lost_qos0) = (&missing[shard], &missing_qos0[shard]);
            self.wrong.check(lost.len() <= losses, || {
                format!("missing: {lost:?} on shard {shard}, {losses} dropped")
            });
            self.judge_overflow(shard, lost);
            let allowed = losses_qos0 + no_credit * super::history::VERSIONS.len();
            self.wrong.check(lost_qos0.len() + lost.len() <= allowed.max(losses), || {
                format!("missing: {lost_qos0:?} with QoS 0 on shard {shard}, {allowed} dropped")
            });
        }
    }

    /// Each copy that a session had a subscription for when it came or went.
    fn may_get<'a>(
        &'a self,
        message: &'a Message,
        session: &'a Session,
    ) -> impl Iterator<Item = &'a Copy> {
        message.copies.iter().filter(move |copy| {
            let until = self.arrival(copy, session.shard);
            session.plain_in(message, copy.at, until).next().is_some()
        })
    }

    fn is_covered(&self, message: &Message, session: &Session, copy: &Copy) -> bool {
        let until = self.arrival(copy, session.shard);
        session.is_covered(message, copy.at, until)
    }

    /// Whether every subscription that can have mattered asks for that QoS at least.
    fn wants_qos(&self, message: &Message, session: &Session, copy: &Copy) -> bool {
        let until = self.arrival(copy, session.shard);
        session.plain_in(message, copy.at, until).all(|s| s.asked.qos > 0)
    }

    /// A QoS 1 or 2 message of which at least one copy must have come.
    fn is_owed(&self, number: usize, session: usize) -> bool {
        let (message, session) = (&self.messages[number], &self.sessions[session]);
        session.is_alive()
            && message.qos > 0
            && !message.payload.is_empty()
            && !self.may_expire(message)
            && message.copies.iter().any(|copy| self.is_copy_owed(message, session, copy))
    }

    /// A copy for which the session had a subscription of QoS 1 or 2 all the time.
    pub fn is_copy_owed(&self, message: &Message, session: &Session, copy: &Copy) -> bool {
        self.is_covered(message, session, copy) && self.wants_qos(message, session, copy)
    }

    /// One count may stand for all receivers on a shard.
    fn may_expire(&self, message: &Message) -> bool {
        let dropped = |reason| self.w.dropped(reason) > 0;
        // What has expired when the session of a group's member ends counts as lost with it.
        let may_be_lost = dropped(DropReason::Expired) || dropped(DropReason::SessionEnded);
        message.expiry.is_some() && may_be_lost
    }

    /// A QoS 0 message that came while the session's connection was, and still is, open.
    fn is_owed_qos0(&self, number: usize, session: usize) -> bool {
        let (message, session) = (&self.messages[number], &self.sessions[session]);
        let Some((c, since, EVER)) = session.connections.last().copied() else { return false };
        session.is_alive()
            && !self.w.peers[c].cut
            && !message.payload.is_empty()
            && !self.may_expire(message)
            && message.copies.iter().any(|copy| {
                copy.at > since
                    && self.is_covered(message, session, copy)
                    && !(message.qos > 0 && self.wants_qos(message, session, copy))
            })
    }

    /// Nothing came too often, or unasked.
    fn judge_surplus(&mut self, number: usize, session: usize, got: &[&Reception]) {
        let (message, known) = (&self.messages[number], &self.sessions[session]);
        let fresh = got.iter().filter(|r| r.fresh).count();
        let plain = self.may_get(message, known).count();
        let shares: BTreeSet<_> = known
            .subscriptions
            .iter()
            .filter(|s| s.is_shared() && s.matches(message.topic))
            .map(|s| s.asked.filter)
            .collect();
        let fetches = known.subscriptions.iter().filter(|s| s.fetches && s.matches(message.topic));
        let fetches = if message.retain { fetches.count() } else { 0 };
        let allowed = plain + shares.len() * message.copies.len() + fetches;
        let some = allowed > 0 || got.is_empty();
        self.wrong.check(fresh <= allowed && some, || {
            format!("too often: {number} came {fresh} times to session {session}, {allowed} owed")
        });
    }

    /// Where it is certain how a message is to be delivered, it is delivered like that.
    fn judge_attributes(&mut self, number: usize, session: usize, got: &[&Reception]) {
        let (message, known) = (&self.messages[number], &self.sessions[session]);
        let [copy] = &message.copies[..] else { return };
        let until = self.arrival(copy, known.shard);
        let plain: Vec<_> = known.plain_in(message, copy.at, until).collect();
        let others = known
            .subscriptions
            .iter()
            .filter(|s| s.matches(message.topic) && (s.is_shared() || message.retain && s.fetches));
        let stable = plain.iter().all(|s| s.from < copy.at && s.to > until);
        if plain.is_empty() || !stable || others.count() > 0 {
            return;
        }
        let qos = plain.iter().map(|s| s.asked.qos).max().unwrap_or(0).min(message.qos);
        let retain = message.retain && plain.iter().any(|s| s.asked.as_published);
        let wrong = got.iter().find(|r| r.qos != qos || r.retain != retain);
        self.wrong.check(wrong.is_none(), || {
            format!("attributes: {number}, QoS {qos}, RETAIN {retain}: {wrong:?}")
        });
    }

    /// Of each group somebody gets it, and nobody twice.
    fn judge_groups(&mut self, number: usize, got: &[Reception]) {
        let message = &self.messages[number];
        let Some(first) = message.copies.iter().map(|copy| copy.at).min() else { return };
        let (mut owed, mut may) = (0, 0);
        for filter in super::history::PLAIN_FILTERS..super::history::FILTERS.len() {
            let of_group = |s: &&super::model::Subscription| {
                s.asked.filter == filter && s.matches(message.topic) && s.to > first
            };
            let all =
                self.sessions.iter().flat_map(|s| s.subscriptions.iter().map(move |x| (s, x)));
            let members: Vec<_> = all.filter(|(_, s)| of_group(s)).collect();
            may += usize::from(!members.is_empty());
            let stays = members.iter().any(|(s, x)| {
                let mine = s.subscriptions.iter().filter(|y| y.asked.filter == filter);
                let since = mine.map(|y| y.from).min().unwrap_or(EVER);
                s.is_alive() && x.to == EVER && since < first && s.is_continuous(filter, first)
            });
            let excused = members.iter().any(|(s, x)| {
                let left_early = !s.is_alive() && x.to != s.ended;
                let in_flight = !s.is_alive() && x.asked.qos == 2 && message.qos == 2;
                x.asked.qos == 0 || left_early || in_flight
            });
            owed += usize::from(stays && !excused && message.qos > 0 && !self.may_expire(message));
        }
        if may == 0 || message.payload.is_empty() {
            return;
        }
        let shared: usize = (0..self.sessions.len())
            .map(|session| {
                let mine = got.iter().filter(|r| r.session == session && r.qos > 0).count();
                mine.saturating_sub(usize::from(self.is_owed(number, session)))
            })
            .sum();
        let losses = LOSSES.iter().map(|r| self.w.dropped(*r) as usize).sum::<usize>();
        self.wrong.check(shared + losses >= owed, || {
            format!("missing: {number} for {owed} groups, {shared} came")
        });
        let message = &self.messages[number];
        let most: usize = self.sessions.iter().map(|s| self.may_get(message, s).count()).sum();
        let fetches = self.sessions.iter().flat_map(|s| &s.subscriptions);
        let fetches = fetches.filter(|s| message.retain && s.fetches && s.matches(message.topic));
        let most = most + may * message.copies.len() + fetches.count();
        let fresh = got.iter().filter(|r| r.fresh && r.qos == 2).count();
        self.wrong.check(fresh <= most, || {
            format!("too often: {number} came {fresh} times, {most} owed")
        });
    }

    /// Whoever wants to know what is retained knows the last value.
    fn judge_last_retained(&mut self, number: usize, got: &[Reception]) {
        let message = &self.messages[number];
        let Some((last, since)) = self.retained.now(message.topic) else { return };
        let expires = message.expiry.is_some();
        if last != number || message.qos == 0 || expires {
            return;
        }
        for session in 0..self.sessions.len() {
            let (message, known) = (&self.messages[number], &self.sessions[session]);
            let published = message.copies.iter().map(|copy| copy.at).max().unwrap_or(EVER);
            let asked = known.subscriptions.iter().find(|s| {
                let after = s.fetches && (s.from > since || !self.setup.dawdles);
                let own = s.asked.no_local && message.client == known.client;
                let before = s.from < published;
                s.to == EVER
                    && !s.is_shared()
                    && s.matches(message.topic)
                    && s.asked.qos > 0
                    && !own
                    && (after || before && !s.is_shared())
                    && (s.fetches || before)
            });
            let low =
                known.subscriptions.iter().any(|s| s.asked.qos == 0 && s.matches(message.topic));
            let Some(asked) = asked.filter(|_| known.is_alive() && !low) else { continue };
            let came = got.iter().any(|r| r.session == session);
            let losses = LOSSES.iter().map(|r| self.w.dropped(*r)).sum::<u64>();
            let filter = asked.asked.filter;
            self.wrong.check(came || losses > 0, || {
                format!("missing: retained {number} for session {session}, filter {filter}")
            });
        }
    }

    /// [MQTT-4.6.0-6]: of each publisher, topic and QoS in the order in which they were received. That is
    /// not always the one in which they were sent: a client may publish on a second connection while it
    /// is not decided who it is on the first.
    fn judge_order(&mut self) {
        let mut last: BTreeMap<(usize, usize, usize, u8, u8), usize> = BTreeMap::new();
        let mut known = BTreeSet::new();
        for n in 0..self.receptions.len() {
            let Reception { session, number, qos, .. } = self.receptions[n];
            let message = &self.messages[number];
            let Some(publisher) = message.publisher else { continue };
            let others = self.sessions[session].subscriptions.iter().any(|s| {
                s.matches(message.topic) && (s.is_shared() || message.retain && s.fetches)
            });
            // What its publisher has sent again may come once more.
            if !known.insert((session, number)) || others || message.copies.len() > 1 {
                continue;
            }
            let key = (session, publisher, message.topic, message.qos, qos);
            let Some(was) = last.insert(key, number) else { continue };
            let received =
                |number: usize| self.messages[number].copies.first().map_or(0, |copy| copy.at);
            let in_order = received(was) <= received(number);
            self.wrong
                .check(in_order, || format!("order: {number} behind {was} in session {session}"));
        }
    }

    /// A newcomer sees exactly what a naive server would have retained.
    pub fn look_at_retained(&mut self) {
        let now = self.w.now.monotonic;
        let expected: BTreeMap<String, String> = (0..TOPICS.len())
            .filter_map(|topic| {
                let message = &self.messages[self.retained.now(topic)?.0];
                let fresh =
                    message.copies.last().is_some_and(|c| c.expires_at.is_none_or(|at| at > now));
                fresh.then(|| (TOPICS[topic].to_owned(), message.payload.clone()))
            })
            .collect();
        let name = self.name_with_room();
        self.doorkeeper.open();
        self.w.delivers_mail = true;
        self.w.looked.fill(None);
        let c = self.w.connect(Version::V5, &name);
        for filter in ["#", "$d/#", "$SYS/x"] {
            self.w.subscribe(c, filter, super::super::world::Q0);
        }
        let mut kept = BTreeMap::new();
        for message in self.w.messages(c) {
            self.wrong.check(message.retain, || "retained: without RETAIN".into());
            let text = message.text().to_owned();
            let twice = kept.insert(message.topic, text).is_some();
            self.wrong.check(!twice, || "retained: twice".into());
        }
        self.wrong.check(kept == expected, || format!("retained: {kept:?}, expected {expected:?}"));
        self.w.disconnect(c);
    }

    /// A client identifier that is not refused a session: where there may be but a few, that of a
    /// client that leaves.
    fn name_with_room(&mut self) -> String {
        let alive = self.sessions.iter().find(|session| session.is_alive());
        let Some(client) = alive.map(|s| s.client).filter(|_| self.setup.sessions > 0) else {
            return "observer".into();
        };
        self.disconnect(client, false, None);
        self.settle();
        self.actors[client].name.clone()
    }
}

impl Session {
    /// Whether the session was in a group without a break since `from`.
    fn is_continuous(&self, filter: usize, from: Moment) -> bool {
        let mut at = from;
        loop {
            let mine = self.subscriptions.iter().filter(|s| s.asked.filter == filter);
            let best = mine.filter(|s| s.from <= at && s.to > at).map(|s| s.to).max();
            match best {
                None => return false,
                Some(EVER) => return true,
                Some(to) => at = to,
            }
        }
    }
}
