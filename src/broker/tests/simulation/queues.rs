//! Full queues, message by message: a session whose queue cannot have been full when a message came has
//! not lost it for that.

use super::{
    model::{Copy, EVER, Message, Session},
    run::Simulation,
};
use crate::stats::DropReason;

/// The bytes that a message counts for in a queue, besides its payload, at the most.
const OVERHEAD: usize = 200;

impl Simulation {
    /// Nothing goes on: notes the sessions for which nothing waits, in the queue or to be fetched.
    pub fn note_empty_queues(&mut self) {
        let at = self.next();
        for session in self.sessions.iter_mut().filter(|session| session.is_alive()) {
            let name = &self.actors[session.client].name;
            let clients = &self.w.brokers[session.shard].clients.sessions;
            let Some((_, client)) = clients.iter().find(|(_, client)| *client.id == **name) else {
                continue;
            };
            let queued = client.outgoing.as_ref().map_or(0, |outgoing| outgoing.queued());
            let fetches = client.rare.as_ref().map_or(0, |rare| rare.retained.waiting().0);
            if queued == 0 && fetches == 0 {
                session.empty_at.push(at);
            }
        }
    }

    /// Of messages that are missing on a shard there are no more than were dropped, those apart that
    /// may have found a queue full.
    pub fn judge_overflow(&mut self, shard: usize, missing: &[(usize, usize)]) {
        let cannot = |of: &&(usize, usize)| {
            let (message, session) = (&self.messages[of.0], &self.sessions[of.1]);
            let owed = |copy: &&Copy| self.is_copy_owed(message, session, copy);
            message.copies.iter().filter(owed).any(|copy| !self.may_overflow(session, copy))
        };
        let lost: Vec<_> = missing.iter().filter(cannot).copied().collect();
        let stats = &self.w.shared.stats[shard].publish_dropped;
        let others = [DropReason::QueuesFull, DropReason::TooLarge];
        let losses = others.iter().map(|reason| stats.get(*reason) as usize).sum::<usize>();
        self.wrong.check(lost.len() <= losses, || {
            format!("missing: {lost:?} on shard {shard}, whose queues had room, {losses} dropped")
        });
    }

    /// Whether all that came between two moments, at which nothing waited for the session, can have
    /// filled its queue.
    fn may_overflow(&self, session: &Session, copy: &Copy) -> bool {
        let arrival = self.arrival(copy, session.shard);
        let empty = |at: &&u64| **at < copy.at;
        let from = session.empty_at.iter().rfind(empty).copied().unwrap_or(0);
        let to = session.empty_at.iter().find(|at| **at > arrival).copied().unwrap_or(EVER);
        // What a group's member leaves behind comes from earlier, and is not known to come.
        if session.subscriptions.iter().any(|s| s.is_shared() && s.from <= to && s.to >= from) {
            return true;
        }
        let (mut count, mut bytes) = (0, 0);
        let mut came = |message: &Message, times: usize| {
            count += times;
            bytes += times * (message.payload.len() + OVERHEAD);
        };
        for message in &self.messages {
            let copies = message.copies.iter().filter(|copy| {
                let until = self.arrival(copy, session.shard);
                let in_time = copy.at <= to && until >= from;
                in_time && session.plain_in(message, copy.at, until).next().is_some()
            });
            came(message, copies.count());
            if message.retain {
                let fetches = session.subscriptions.iter().filter(|s| {
                    s.fetches && s.matches(message.topic) && s.from >= from && s.from <= to
                });
                came(message, fetches.count());
            }
        }
        count > self.setup.queue || bytes > self.setup.queue_bytes
    }
}
