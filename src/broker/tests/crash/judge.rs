//! The oracle: whether all that was promised has come, in order, and no more than once; and whether
//! anything is left asleep, or in the store.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::world::Q0,
    history::{FILTERS, PLAIN_FILTERS, TOPICS},
    run::Simulation,
    verdict::{Life, Message, Moment, Reception, Sub},
};
use crate::{codec::Version, record::Restored};

impl Simulation {
    /// When nothing goes on, nobody waits for anything.
    pub fn look_for_sleepers(&mut self) {
        for shard in 0..self.w.brokers.len() {
            let clients = &self.w.brokers[shard].clients;
            let (held, rests) = (clients.holding.len(), clients.journal.is_at_rest());
            self.wrong
                .check(held == 0, || format!("asleep: {held} answers are held on shard {shard}"));
            self.wrong
                .check(rests, || format!("asleep: shard {shard} waits for something to be kept"));
        }
        for client in 0..self.actors.len() {
            let actor = &self.actors[client];
            let Some(c) = actor.connection else { continue };
            if self.w.peers[c].room != usize::MAX {
                continue;
            }
            let waits = actor.pending.len() + actor.asked.len();
            let open = self.links[c].open;
            self.wrong.check(open && waits == 0, || {
                format!("asleep: client {client} waits for {waits} answers, connected: {open}")
            });
        }
    }

    /// Everybody is there and answers at once: nothing is queued or in flight.
    pub fn look_for_undelivered(&mut self) {
        for shard in 0..self.w.brokers.len() {
            let sessions = &self.w.brokers[shard].clients.sessions;
            let left = sessions.iter().find_map(|(_, client)| {
                let outgoing = client.outgoing.as_ref()?;
                Some(format!("{}: {outgoing:?}", client.id))
            });
            self.wrong.check(left.is_none(), || format!("asleep: undelivered to {left:?}"));
        }
    }

    /// Nothing is left in the store that is over.
    pub fn look_at_store(&mut self) {
        let Some(store) = &mut self.w.store else { return };
        let mut kept = store.kept.clone();
        for part in kept.restore() {
            let Restored::Session(session) = part else { continue };
            let is_ended = session.record.is_ended;
            self.wrong.check(!is_ended, || format!("leak: ended: {}", session.record.client_id));
            let (inflight, queue) = (&session.inflight, session.queue.messages);
            let left = inflight.len() + queue + session.received.len();
            let id = session.record.client_id.clone();
            self.wrong.check(left == 0, || {
                format!("leak: of {id} are kept {inflight:?}, {queue}, {:?}", session.received)
            });
        }
    }

    pub fn judge(&mut self) {
        let mut missing = Vec::new();
        for number in 0..self.messages.len() {
            for life in 0..self.lives.len() {
                self.judge_duplicates(number, life);
                if self.is_owed(number, life) && !self.has_come(number, life) {
                    missing.push((number, life));
                }
            }
            self.judge_groups(number, &mut missing);
        }
        let losses = self.losses as usize;
        self.wrong.check(missing.len() <= losses, || {
            format!("missing: {missing:?} (message, session), {losses} were dropped")
        });
        self.judge_order();
    }

    fn has_come(&self, number: usize, life: usize) -> bool {
        self.receptions.iter().any(|r| (r.number, r.life) == (number, life))
    }

    /// From when to when a message had to find its subscribers.
    fn promised(&self, number: usize) -> Option<(Moment, Moment)> {
        let message = &self.messages[number];
        if message.qos == 0 || message.payload.is_empty() || message.expiry > 0 {
            return None;
        }
        match message.is_will {
            false => message.acked.map(|acked| (message.first, acked)),
            true => {
                let will = self.wills.iter().find(|will| will.number == number)?;
                Some((will.lost?.1, will.owed?))
            }
        }
    }

    fn is_owed(&self, number: usize, life: usize) -> bool {
        let Some((first, acked)) = self.promised(number) else { return false };
        let (message, life) = (&self.messages[number], &self.lives[life]);
        let gets = |sub: &Sub| {
            sub.qos > 0
                && !sub.is_shared()
                && sub.matches(message.topic)
                && sub.must_get(first, acked)
        };
        // It may have come with the QoS of another one.
        let low = |sub: &Sub| sub.qos == 0 && sub.may_get(message);
        life.is_alive()
            && life.subs.iter().any(gets)
            && (life.is_kept() || life.resumed < first)
            && !life.subs.iter().any(low)
    }

    /// [MQTT-4.3.1-1], [MQTT-4.3.3-2], [MQTT-4.3.3-13]: once for each way on which it comes, unless its
    /// publisher sent it again in another session.
    fn judge_duplicates(&mut self, number: usize, life: usize) {
        let message = &self.messages[number];
        let may_be_lowered = message.was_open || self.was_lowered(message);
        if message.is_will || message.qos == 1 || message.qos == 2 && may_be_lowered {
            return;
        }
        let mine = |r: &&Reception| (r.number, r.life) == (number, life);
        let same = |r: &&Reception| r.fresh && r.qos == message.qos;
        let fresh = self.receptions.iter().filter(mine).filter(same).count();
        let subs = self.lives[life].subs.iter().filter(|sub| sub.matches(message.topic));
        let subs: Vec<_> = subs.collect();
        let plain = subs.iter().any(|sub| !sub.is_shared());
        let shared: BTreeSet<_> =
            subs.iter().filter(|sub| sub.is_shared()).map(|sub| sub.filter).collect();
        let fetched = subs.iter().filter(|sub| !sub.is_shared() && message.retain).count();
        let most = usize::from(plain) + shared.len() + fetched;
        self.wrong.check(fresh <= most, || {
            format!("too often: {number} came {fresh} times to session {life}, {most} owed")
        });
    }

    /// Whether a session of a group may have left a message that it was owed with QoS 1: that one may
    /// be another one's when its publisher sends it again.
    fn was_lowered(&self, message: &Message) -> bool {
        let mut ended = self.lives.iter().filter(|life| !life.is_alive()).flat_map(|l| &l.subs);
        ended.any(|sub| sub.is_shared() && sub.qos == 1 && sub.matches(message.topic))
    }

    /// Of each group somebody gets it, whoever comes and goes; and nobody twice.
    fn judge_groups(&mut self, number: usize, missing: &mut Vec<(usize, usize)>) {
        let message = &self.messages[number];
        let (mut owed, mut groups) = (0, 0);
        for filter in PLAIN_FILTERS..FILTERS.len() {
            let members: Vec<(&Life, &Sub)> = self
                .lives
                .iter()
                .flat_map(|life| life.subs.iter().map(move |sub| (life, sub)))
                .filter(|(_, sub)| sub.filter == filter && sub.may_get(message))
                .collect();
            groups += usize::from(!members.is_empty());
            let Some((first, acked)) = self.promised(number) else { continue };
            let stays = members.iter().any(|(life, sub)| {
                life.is_alive() && sub.must_get(first, acked) && sub.leaves.is_none() && sub.qos > 0
            });
            let excused = members.iter().any(|(life, sub)| {
                let leaves = life.subs.iter().any(|s| s.filter == filter && s.leaves.is_some());
                // What was sent with QoS 2 is nobody else's.
                let is_quiet = life.quiet.is_some_and(|since| since < message.first);
                let in_flight = !life.is_alive() && sub.qos.min(message.qos) == 2 && !is_quiet;
                sub.qos == 0 || !life.is_kept() || leaves || in_flight
            });
            owed += usize::from(stays && !excused && sub_is_matched(filter, message));
        }
        if groups == 0 {
            return;
        }
        let got = self.receptions.iter().filter(|r| r.number == number);
        let plain = |life: usize| {
            self.lives[life].subs.iter().any(|sub| !sub.is_shared() && sub.may_get(message))
        };
        let mut by_life: BTreeMap<usize, usize> = BTreeMap::new();
        for reception in got.clone() {
            *by_life.entry(reception.life).or_default() += 1;
        }
        // Whoever has a subscription of its own may have got it through that.
        let shared: usize = by_life
            .iter()
            .map(|(life, n)| n.saturating_sub(usize::from(self.is_owed(number, *life))))
            .sum();
        if shared < owed {
            missing.push((number, usize::MAX));
        }
        let plain_lives = (0..self.lives.len()).filter(|life| plain(*life)).count();
        let fresh = got.filter(|r| r.fresh && r.qos == 2).count();
        let is_exact = message.qos == 2 && !message.was_open && !self.was_lowered(message);
        let exact = is_exact && !message.retain && !message.is_will;
        self.wrong.check(!exact || fresh <= plain_lives + groups, || {
            format!("too often: {number} came {fresh} times, for {groups} groups")
        });
    }

    /// [MQTT-4.6.0-6]: of each publisher, topic and QoS in the order in which they were published.
    fn judge_order(&mut self) {
        let mut last: BTreeMap<(usize, usize, usize, u8, u8), usize> = BTreeMap::new();
        let mut known = BTreeSet::new();
        for n in 0..self.receptions.len() {
            let Reception { life, number, qos, .. } = self.receptions[n];
            let message = &self.messages[number];
            let others = self.lives[life]
                .subs
                .iter()
                .any(|sub| sub.matches(message.topic) && (sub.is_shared() || message.retain));
            // What came too early for a subscription, or has expired or been dropped once, may come
            // when it is sent again.
            let subs = &self.lives[life].subs;
            let granted = |sub: &Sub| sub.granted.is_some_and(|granted| granted < message.first);
            let in_time = subs.iter().any(|sub| sub.matches(message.topic) && granted(sub));
            let apart = message.is_will || message.expiry > 0 || others || !in_time;
            let apart = apart || self.losses > 0;
            if apart || !known.insert((life, number)) {
                continue;
            }
            let key = (life, message.client, message.topic, message.qos, qos);
            let was = last.insert(key, number).unwrap_or(0);
            self.wrong
                .check(was <= number, || format!("order: {number} behind {was} in session {life}"));
        }
    }

    /// A newcomer sees of each topic the last value that was acknowledged, or a later one.
    pub fn look_at_retained(&mut self) {
        self.w.delivers_mail = true;
        let c = self.w.connect(Version::V5, "observer");
        self.w.subscribe(c, "#", Q0);
        let seen: BTreeMap<String, String> = self
            .w
            .messages(c)
            .into_iter()
            .map(|m| (m.topic.clone(), m.text().to_owned()))
            .collect();
        for (topic, name) in TOPICS.iter().enumerate() {
            let payload = seen.get(*name);
            let number = payload.map(|text| text.split_once(':').and_then(|p| p.0.parse().ok()));
            let fits = |m: &Message| m.topic == topic && m.retain;
            let of_topic = self.messages.iter().enumerate().filter(|(_, m)| fits(m));
            // What was over before another one began that is acknowledged is out of date.
            let is_stale = |over: Moment| {
                of_topic.clone().any(|(_, m)| m.acked.is_some() && m.qos > 0 && m.first > over)
            };
            let is_right = match number {
                Some(Some(number)) => self
                    .messages
                    .get::<usize>(number)
                    .is_some_and(|m| fits(m) && !m.acked.is_some_and(is_stale)),
                Some(None) => false,
                None => {
                    let clears = |(_, m): (usize, &Message)| {
                        m.payload.is_empty() && !m.acked.is_some_and(is_stale)
                    };
                    !is_stale(0) || of_topic.clone().any(clears)
                }
            };
            self.wrong.check(is_right, || format!("retained: {name} has {payload:?}"));
        }
        self.w.disconnect(c);
    }
}

fn sub_is_matched(filter: usize, message: &Message) -> bool {
    let sub = Sub { filter, qos: 0, granted: None, leaves: None, left: None };
    sub.matches(message.topic)
}
