//! Time passing, and mail from other shards.

use std::{num::NonZeroU64, sync::Arc};

use super::{
    Broker, ConnectionKey, Effect, Now, SessionKey, Timer,
    connection::State,
    deliver::{Clients, Encoding},
    journal::Once,
    mail::ShardMessage,
    receive::tenths,
    retained::Superseding,
};
use crate::{
    codec::ReasonCode,
    session::Message,
    stats::{CloseReason, DropReason},
    topics::ShardId,
};

impl Broker {
    /// Time has passed: keep-alives, expiries, wills, reports. To be called at least when
    /// [`Broker::next_deadline`] has come.
    pub fn on_tick(&mut self, now: Now) {
        self.set_now(now);
        let mut fired = std::mem::take(&mut self.fired);
        self.timers.advance(now.monotonic, |timer| fired.push(timer));
        for timer in fired.drain(..) {
            match timer {
                Timer::Connection(key) => self.on_connection_timer(key),
                Timer::Session(key) => self.on_session_timer(key),
            }
        }
        self.fired = fired;
        self.fetch_on();
        self.sweep_retained();
        self.shared.routes.refresh();
        self.clients.shrink();
        self.report();
    }

    /// Lets go of what connections that have gone have left, timers that are not due before their time
    /// among it, and of what is kept for reuse.
    pub fn shrink(&mut self) {
        let Clients { connections, sessions, .. } = &self.clients;
        self.timers.retain(|timer| match timer {
            Timer::Connection(key) => connections.get(key.index()).is_some(),
            Timer::Session(key) => sessions.get(key.index()).is_some(),
        });
        self.clients.let_go();
        self.shared.routes.shrink();
        self.asked.shrink_to_fit();
        self.effects.shrink_to_fit();
        self.fetching.shrink_to_fit();
        self.queries.shrink_to_fit();
        self.starved.shrink_to_fit();
        self.matching = Vec::new();
        self.targets = Vec::new();
        self.group_routes = Vec::new();
        self.forwarded = Vec::new();
        self.fired = Vec::new();
    }

    /// When something is due next, in milliseconds of the broker's clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next_deadline().into_iter().chain(self.next_report()).min()
    }

    /// Goes on with work that did not fit into the last turn; see [`Broker::has_work`].
    pub fn on_turn(&mut self, now: Now) {
        self.set_now(now);
        self.clients.work = 0;
        self.fetch_on();
    }

    /// Mail from another shard, in the order in which it was sent.
    pub fn on_mail(&mut self, now: Now, message: ShardMessage) {
        self.set_now(now);
        self.clients.relieve();
        match message {
            ShardMessage::Publish { from, message, retain } => {
                self.on_published(from, &message, retain);
            }
            ShardMessage::PublishOnce { from, message, retain } => {
                self.clients.journal.deliver_once(Some(Once::From(from)));
                self.on_published(from, &message, retain);
                self.clients.journal.deliver_once(None);
            }
            ShardMessage::Shared { from, group, message, index, online, tried, once } => {
                self.clients.journal.deliver_once(once.map(Once::From));
                self.stats.cross_shard_received.add(1);
                let mut encoding = Encoding::of(&message);
                if !self.has_expired(&encoding) {
                    self.on_shared(from, &group, (index, online), tried, &mut encoding);
                }
                self.clients.journal.deliver_once(None);
            }
            ShardMessage::Returned { from, group, message, tried, once } => {
                let mut encoding = Encoding::of(&message);
                if !self.has_expired(&encoding) {
                    self.on_returned(from, &group, tried, once, &mut encoding);
                }
            }
            ShardMessage::Retain { from, message, missed } => {
                self.on_retain_from(from, message, missed);
            }
            ShardMessage::RetainedQuery(query) => self.on_retained_query(query),
            ShardMessage::RetainedAnswer(answer) => self.on_retained_answer(*answer),
            ShardMessage::Keep { from, epoch } => {
                self.clients.journal.on_keep(from, epoch);
                self.answer_promises();
            }
            ShardMessage::Kept { from, epoch, refused, changes } => {
                self.on_kept(from, epoch, refused, changes);
            }
            ShardMessage::Once { from, epoch } => self.on_once(from, epoch),
        }
    }

    /// A message that another shard has sent to all of this one's subscribers.
    fn on_published(&mut self, from: ShardId, message: &Arc<Message>, retain: Option<NonZeroU64>) {
        self.stats.cross_shard_received.add(1);
        let mut encoding = Encoding::of(message);
        encoding.supersedes = retain.map(|number| Superseding { from, number });
        if !self.has_expired(&encoding) {
            self.deliver_here(None, &mut encoding);
        }
    }

    /// Whether a message has expired on its way from another shard, which is counted.
    /// `[MQTT-3.3.2-5]`
    pub(super) fn has_expired(&self, encoding: &Encoding<'_>) -> bool {
        let expired = encoding.publication.is_too_late(self.now.monotonic);
        self.stats.publish_dropped.add(DropReason::Expired, expired.into());
        expired
    }

    /// Other shards have taken in what was sent to them: publishers may go on.
    pub fn on_credit(&mut self) {
        for key in std::mem::take(&mut self.starved) {
            let Some(connection) = self.clients.connections.get_mut(key.index()) else { continue };
            // Otherwise it is another one, which has the number now.
            if std::mem::take(&mut connection.starved) {
                self.resume(key);
            }
        }
    }

    /// Whether publishers wait for other shards.
    pub fn is_starved(&self) -> bool {
        !self.starved.is_empty()
    }

    fn on_connection_timer(&mut self, key: ConnectionKey) {
        let now = tenths(self.now.monotonic);
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        if connection.timer_at == 0 || connection.timer_at > now {
            return;
        }
        connection.timer_at = 0;
        match connection.state {
            State::AwaitConnect | State::Authenticating => {
                self.abort(key, CloseReason::ConnectTimeout);
            }
            State::Closing => {
                // As long as it takes what is in its outbox, it gets that.
                let linger = self.config.linger;
                let mut until = u64::from(connection.last_packet) * 100 + linger;
                if let Some(end) = self.drain_until.filter(|_| connection.outbox.is_some()) {
                    until = until.max(end);
                }
                if tenths(until) > now {
                    // Its outbox may be written sooner.
                    let look_again = self.now.monotonic + linger.max(100);
                    self.arm_connection(key, until.min(look_again));
                } else {
                    self.effects.push(Effect::Abort(key));
                }
            }
            State::Connected => self.check_connected(key, now),
        }
    }

    /// Keep-alive, and progress of a slow client. Sets the timer for when to look again.
    fn check_connected(&mut self, key: ConnectionKey, now: u32) {
        let Some(connection) = self.clients.connections.get(key.index()) else { return };
        let alive_until = match connection.keep_alive {
            0 => u32::MAX,
            // What it has sent is not read: only when it is, the time runs again.
            seconds if connection.paused => now + u32::from(seconds) * 15,
            // [MQTT-3.1.2-22]
            seconds => connection.last_packet + u32::from(seconds) * 15,
        };
        let blocked = connection.outbox.as_ref().filter(|outbox| outbox.is_blocked());
        let moves_until = blocked.map_or(u32::MAX, |outbox| {
            tenths((outbox.progress_at() + self.config.send_timeout).next_multiple_of(100))
        });
        if alive_until <= now {
            self.close(key, CloseReason::KeepAliveTimeout, Some(ReasonCode::KeepAliveTimeout));
        } else if moves_until <= now {
            self.close(key, CloseReason::SlowConsumer, Some(ReasonCode::QuotaExceeded));
        } else if alive_until.min(moves_until) < u32::MAX {
            self.arm_connection(key, u64::from(alive_until.min(moves_until)) * 100);
        }
    }

    fn on_session_timer(&mut self, key: SessionKey) {
        let now = tenths(self.now.monotonic);
        let Some(client) = self.clients.sessions.get_mut(key.index()) else { return };
        if client.timer_at == 0 || client.timer_at > now {
            return;
        }
        client.timer_at = 0;
        self.on_session_deadline(key);
    }
}
