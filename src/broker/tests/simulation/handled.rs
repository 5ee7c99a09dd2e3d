//! What the model makes of a packet when a shard has handled it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::world::C,
    client::What,
    history::{FORBIDDEN, Shows},
    model::{Copy, EVER, Session, Will},
    run::{MAX_EXPIRY, Retaining, Simulation},
};
use crate::codec::{ReasonCode, Version};

impl Simulation {
    /// A shard has used up bytes of a connection's, or thrown them away if it `is_over`.
    pub fn handled(&mut self, c: C, bytes: usize, is_over: bool) {
        self.links[c].consumed += bytes;
        while let Some((length, what)) = self.links[c].sent.front().copied() {
            if self.links[c].consumed < length {
                break;
            }
            self.links[c].consumed -= length;
            self.links[c].sent.pop_front();
            self.next();
            if is_over || self.links[c].refused.is_some() {
                continue;
            }
            if let What::Connect(will) = what
                && self.is_decided_later(c, will)
            {
                self.links[c].undecided = Some(will);
                continue;
            }
            self.links[c].heard = self.w.now_on(self.w.peers[c].shard).monotonic;
            if let What::Connect(will) = what {
                self.let_in(c, will);
            } else if let Some(session) = self.links[c].session {
                self.handle(c, session, what);
            }
        }
    }

    fn handle(&mut self, c: C, session: usize, what: What) {
        let at = self.at;
        let known = &mut self.sessions[session];
        match what {
            What::Publish { number, id, qos } => {
                if qos == 2 && !known.unreleased.insert(id) {
                    return; // [MQTT-4.3.3-10]
                }
                if self.messages[number].topic == FORBIDDEN {
                    if qos == 2 {
                        known.unreleased.remove(&id);
                    }
                    self.forbidden += 1;
                    return;
                }
                let shard = known.shard;
                self.take_in(number, shard);
            }
            What::Subscribe(asked) => known.subscribe(asked, at),
            What::Unsubscribe(filter) => {
                known.unsubscribe(filter, at);
            }
            What::Pubrel(id) => {
                known.unreleased.remove(&id);
            }
            What::Disconnect { with_will, expiry } => {
                if let Some(expiry) = expiry {
                    known.expiry = expiry.min(MAX_EXPIRY);
                }
                if !with_will {
                    known.will = None;
                }
                self.lost(c);
            }
            What::Connect(_) | What::Ping | What::Answer => {}
        }
    }

    /// A shard takes a message in.
    fn take_in(&mut self, number: usize, shard: usize) {
        let now = self.w.now_on(shard).monotonic;
        let message = &mut self.messages[number];
        let expires_at = message.expiry.map(|ms| now + ms);
        message.copies.push(Copy { at: self.at, shard, expires_at, sent: None });
        self.unsent[shard].push((number, message.copies.len() - 1));
        if !message.retain {
            return;
        }
        let owner = self.owner(self.messages[number].topic);
        if owner == shard {
            self.just_retained.push(number);
            return self.set_retained(number, self.at);
        }
        self.retaining.push(Retaining { number, from: shard, owner, bound: None });
    }

    fn has_forbidden(&self, will: Option<usize>) -> bool {
        will.is_some_and(|number| self.messages[number].topic == FORBIDDEN)
    }

    fn is_decided_later(&self, c: C, will: Option<usize>) -> bool {
        let hello = self.links[c].hello;
        hello.later && hello.shows != Shows::Nothing && !self.has_forbidden(will)
    }

    /// It is known who a client is.
    pub fn let_in(&mut self, c: C, will: Option<usize>) {
        let forbidden = self.has_forbidden(will);
        let shows = self.links[c].hello.shows;
        self.links[c].refused = match shows {
            _ if forbidden => Some(ReasonCode::NotAuthorized),
            Shows::Nothing => Some(ReasonCode::NotAuthorized),
            Shows::WrongPassword => Some(ReasonCode::BadUserNameOrPassword),
            Shows::Password => None,
        };
        match self.links[c].refused {
            None => self.accept(c, will),
            Some(_) if forbidden => self.forbidden += 1,
            Some(_) => self.refused += 1,
        }
    }

    /// A CONNECT is accepted. `[MQTT-3.1.4-3]`, `[MQTT-3.2.2-2]`
    fn accept(&mut self, c: C, will: Option<usize>) {
        let (client, hello) = (self.links[c].client, self.links[c].hello);
        let alive = |s: &Session| s.client == client && s.is_alive();
        let sessions = self.sessions.iter().filter(|s| s.is_alive()).count() as u64;
        let maximum = self.setup.sessions;
        if maximum > 0 && sessions >= maximum && !self.sessions.iter().any(alive) {
            self.links[c].refused = Some(ReasonCode::QuotaExceeded);
            return;
        }
        if let Some(session) = self.sessions.iter().position(alive)
            && let Some(old) = self.sessions[session].connection
        {
            self.lost(old);
        }
        let mut found = self.sessions.iter().position(alive);
        if let Some(session) = found.filter(|_| hello.clean) {
            self.end_session(session);
            found = None;
        }
        let present = found.is_some();
        let at = self.next();
        let session = found.unwrap_or_else(|| {
            self.sessions.push(Session {
                client,
                shard: self.w.peers[c].shard,
                ended: EVER,
                connection: None,
                expiry: 0,
                expires: None,
                will: None,
                unreleased: BTreeSet::new(),
                held: BTreeMap::new(),
                subscriptions: Vec::new(),
                empty_at: vec![at],
                connections: Vec::new(),
            });
            self.sessions.len() - 1
        });
        let is_v5 = self.actors[client].version == Version::V5;
        let known = &mut self.sessions[session];
        known.expiry = match is_v5 {
            true => hello.expiry.min(MAX_EXPIRY),
            false => MAX_EXPIRY * u32::from(!hello.clean),
        };
        known.expires = None;
        let delay = hello.will.filter(|_| is_v5).map_or(0, |will| will.delay);
        known.will = will.map(|number| Will { number, delay, due: None });
        known.connection = Some(c);
        // The client goes on from what it knew on its last connection.
        let before = known.connections.last().map(|(before, ..)| *before);
        known.connections.push((c, at, EVER));
        let unreleased = before.map(|before| self.w.peers[before].unreleased.clone());
        self.w.peers[c].unreleased = unreleased.unwrap_or_default();
        let link = &mut self.links[c];
        (link.session, link.last_session) = (Some(session), Some(session));
        link.accepted = Some((at, present));
    }

    /// A connection has lost its session, or the other way round.
    pub fn lost(&mut self, c: C) {
        let Some(session) = self.links[c].session.take() else { return };
        let at = self.next();
        self.links[c].open = false;
        let client = self.links[c].client;
        if self.actors[client].connection == Some(c) {
            self.collect(c);
            self.links[c].open = false;
            self.actors[client].connection = None;
        }
        let known = &mut self.sessions[session];
        let now = self.w.now_on(known.shard).monotonic;
        known.connection = None;
        if let Some(last) = known.connections.last_mut() {
            last.2 = at;
        }
        let seconds = u64::from(known.expiry);
        known.expires = Some(now + seconds * 1_000);
        if seconds == 0 {
            return self.end_session(session);
        }
        let Some(will) = &mut known.will else { return };
        will.due = Some(now + seconds.min(will.delay.into()) * 1_000);
        if will.delay == 0 {
            self.publish_will(session);
        }
    }

    pub fn end_session(&mut self, session: usize) {
        let at = self.next();
        self.sessions[session].end(at);
        self.publish_will(session);
    }

    pub fn publish_will(&mut self, session: usize) {
        let Some(will) = self.sessions[session].will.take() else { return };
        self.next();
        let shard = self.sessions[session].shard;
        self.wills[shard] += 1;
        self.take_in(will.number, shard);
    }
}
