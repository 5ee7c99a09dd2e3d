//! What clients know: the lives of their sessions, what they have sent, and whether what comes may
//! come.

use super::{
    super::{
        peer::Msg,
        simulation::model::{matches, split},
    },
    history::{FILTERS, PLAIN_FILTERS, TOPICS},
    run::{Simulation, TOLERANCE},
};

/// A moment: every event has its own, in their order.
pub type Moment = u64;

/// A message, by number.
#[derive(Debug)]
pub struct Message {
    pub topic: usize,
    pub qos: u8,
    pub retain: bool,
    /// Empty, or the number and a colon.
    pub payload: String,
    /// Message Expiry Interval in seconds; 0 for none.
    pub expiry: u32,
    /// Who published it.
    pub client: usize,
    pub first: Moment,
    /// When it was sent last, as a Unix time.
    pub sent_at: u64,
    /// PUBACK or PUBREC came.
    pub acked: Option<Moment>,
    /// And as a Unix time.
    pub acked_at: Option<u64>,
    pub is_will: bool,
    /// Its QoS 2 exchange was open when its publisher came back, perhaps to another session.
    pub was_open: bool,
}

/// A will that a client has left.
#[derive(Debug)]
pub struct Will {
    pub number: usize,
    pub client: usize,
    /// The session, once the connection is accepted.
    pub life: Option<usize>,
    /// Will Delay Interval in seconds.
    delay: u32,
    /// When the connection was lost, at the earliest.
    pub lost: Option<(u64, Moment)>,
    /// It need not be published.
    pub cancelled: bool,
    /// It must be published by then.
    pub owed: Option<Moment>,
}

impl Will {
    pub fn new(number: usize, client: usize, delay: u32) -> Self {
        let (life, lost, owed) = (None, None, None);
        Self { number, client, life, delay, lost, cancelled: false, owed }
    }
}

/// A subscription that was asked for.
#[derive(Debug, Clone)]
pub struct Sub {
    pub filter: usize,
    pub qos: u8,
    /// SUBACK came.
    pub granted: Option<Moment>,
    /// It was asked to end, or to be another one.
    pub leaves: Option<Moment>,
    /// That was acknowledged.
    pub left: Option<Moment>,
}

impl Sub {
    pub fn is_shared(&self) -> bool {
        self.filter >= PLAIN_FILTERS
    }

    pub fn matches(&self, topic: usize) -> bool {
        matches(split(FILTERS[self.filter]).1, TOPICS[topic])
    }

    /// Whether it may be in force for something that was first sent at this moment.
    pub fn may_get(&self, message: &Message) -> bool {
        self.matches(message.topic) && self.left.is_none_or(|left| left > message.first)
    }

    /// Whether a message must come through it.
    pub fn must_get(&self, first: Moment, acked: Moment) -> bool {
        self.granted.is_some_and(|granted| granted < first)
            && self.leaves.is_none_or(|leaves| leaves > acked)
    }
}

/// A session, as its client knows it.
#[derive(Debug)]
pub struct Life {
    pub client: usize,
    pub subs: Vec<Sub>,
    /// The least and the most Session Expiry Interval that it may have now, in seconds.
    pub expiry: (u32, u32),
    /// The least that it ever had.
    lowest: u32,
    /// A clean start was asked for and not acknowledged.
    pub doubtful: bool,
    pub ended: bool,
    /// Since when it may have no connection, as a Unix time.
    pub lost_at: Option<u64>,
    /// Since when it has none for sure.
    pub gone_at: Option<u64>,
    /// That is kept.
    pub offline_is_kept: bool,
    /// It had a connection when the broker died: each start counts its expiry anew.
    pub died_online: bool,
    /// Since when it has had no connection, for sure: if it ends without another one, nothing that came
    /// since was sent.
    pub quiet: Option<Moment>,
    /// When CONNACK came last.
    pub resumed: Moment,
    /// When CONNECT was sent for that, as a Unix time.
    pub resumed_at: u64,
}

impl Life {
    pub fn new(client: usize) -> Self {
        Self {
            client,
            subs: Vec::new(),
            expiry: (0, 0),
            lowest: u32::MAX,
            doubtful: false,
            ended: false,
            lost_at: None,
            gone_at: None,
            offline_is_kept: false,
            died_online: false,
            quiet: None,
            resumed: 0,
            resumed_at: 0,
        }
    }

    /// It has a connection, with that expiry.
    pub fn resume(&mut self, expiry: u32, at: Moment, now: u64) {
        self.expiry = (expiry, expiry);
        self.lowest = self.lowest.min(expiry);
        (self.lost_at, self.gone_at, self.quiet) = (None, None, None);
        (self.offline_is_kept, self.died_online) = (false, false);
        (self.resumed, self.resumed_at) = (at, now);
    }

    /// It has this expiry now, or has not.
    pub fn may_expire_after(&mut self, expiry: u32) {
        self.expiry = (self.expiry.0.min(expiry), self.expiry.1.max(expiry));
        self.lowest = self.lowest.min(expiry);
    }

    /// Whether it was always to outlive its connections.
    pub fn is_kept(&self) -> bool {
        self.lowest > 0
    }

    /// Whether the session is there for sure.
    pub fn is_alive(&self) -> bool {
        !self.ended && !self.doubtful && self.lost_at.is_none()
    }
}

/// A PUBLISH that a client has received.
#[derive(Debug, Clone, Copy)]
pub struct Reception {
    pub life: usize,
    pub number: usize,
    pub qos: u8,
    /// Whether it is no repetition, as far as the client can tell.
    pub fresh: bool,
}

impl Simulation {
    /// A PUBLISH has come to a client.
    pub fn receive(&mut self, client: usize, got: &Msg, number: Option<usize>, fresh: bool) {
        let Some(life) = self.actors[client].life else {
            return self.wrong.fail(|| "early: PUBLISH before CONNACK".into());
        };
        // An empty payload has no number.
        let Some(number) = number else { return };
        let message = &self.messages[number];
        let right = TOPICS[message.topic] == got.topic && got.qos <= message.qos;
        self.wrong.check(right, || format!("content: {number}: {got:?}"));
        let message = &self.messages[number];
        // What was on its way may come late, but nothing is sent to who comes late.
        let ms = u64::from(message.expiry) * 1_000;
        let is_over = message.acked_at.is_some_and(|acked_at| {
            acked_at.max(message.sent_at) + ms + TOLERANCE < self.lives[life].resumed_at
        });
        let is_right = message.expiry == 0 || got.dup || !is_over;
        self.wrong.check(is_right, || format!("expired: {number}"));
        let message = &self.messages[number];
        let may = self.lives[life].subs.iter().any(|sub| sub.may_get(message));
        self.wrong
            .check(may || message.retain, || format!("unsubscribed: {number} to session {life}"));
        if self.messages[number].is_will {
            self.look_at_will(number);
        }
        self.receptions.push(Reception { life, number, qos: got.qos, fresh });
    }

    fn look_at_will(&mut self, number: usize) {
        let Some(will) = self.wills.iter().find(|will| will.number == number) else { return };
        let Some(life) = will.life.map(|life| &self.lives[life]) else { return };
        let early = match will.lost {
            None => true,
            Some((at, _)) => {
                let delay = u64::from(will.delay.min(life.lowest)) * 1_000;
                at + delay > self.w.now.unix + TOLERANCE
            }
        };
        // A store that has failed ends connections, and their clients may not have heard of it.
        let ends = life.ended || life.doubtful || self.failed;
        self.wrong.check(ends || !early, || format!("early: will {number}"));
    }

    /// Wills that are due by now must have been published.
    pub fn note_due_wills(&mut self) {
        let at = self.next();
        let now = self.w.now.unix;
        for will in self.wills.iter_mut().filter(|will| !will.cancelled) {
            let Some(life) = will.life.map(|life| &self.lives[life]) else { continue };
            let Some(gone) = life.gone_at.filter(|_| will.lost.is_some()) else { continue };
            let due = gone + u64::from(will.delay) * 1_000 + TOLERANCE;
            if due < now && life.lowest > 0 && !life.doubtful {
                will.owed.get_or_insert(at);
            }
        }
    }
}
