//! The reactor's part in a [`World`]: turns, mail, the store, and sockets that take what they take.

use std::io::IoSlice;

use super::{C, World};
use crate::{
    broker::{ConnectionKey, Effect, NextStep, mail::Rest},
    record::Outcome,
    stats::CloseReason,
    topics::ShardId,
};

impl World {
    /// Runs turns until nothing happens any more.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            for shard in 0..self.brokers.len() {
                busy |= self.turn(shard);
            }
            if self.delivers_mail {
                busy |= self.deliver_all_mail();
            }
            if self.store.as_ref().is_some_and(|store| !store.is_slow) {
                busy |= self.commit();
            }
            if !busy {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// One turn of a shard; says whether anything happened.
    pub fn turn(&mut self, shard: usize) -> bool {
        let mut busy = self.brokers[shard].has_work();
        let now = self.now_on(shard);
        self.brokers[shard].on_turn(now);
        for c in 0..self.peers.len() {
            busy |= self.peers[c].shard == shard && self.read(c);
        }
        busy |= self.end_turn(shard);
        busy
    }

    /// Gives the broker what the client has sent, once.
    fn read(&mut self, c: C) -> bool {
        self.read_some(c, usize::MAX).1
    }

    /// Gives the broker what it has left over and at most so many bytes more. Says how many it has
    /// used up, and whether there is more to do.
    pub(in crate::broker::tests) fn read_some(&mut self, c: C, bytes: usize) -> (usize, bool) {
        let now = self.now_on(self.peers[c].shard);
        let peer = &mut self.peers[c];
        let Some(key) = peer.key else { return (0, false) };
        if peer.paused || peer.unread.is_empty() {
            return (0, false);
        }
        let shard = peer.shard;
        let end = peer.held.saturating_add(bytes).min(peer.unread.len());
        let progress = self.brokers[shard].on_bytes(now, key, &peer.unread[..end]);
        peer.unread.drain(..progress.consumed);
        peer.held = end - progress.consumed;
        let busy = match progress.next {
            NextStep::Read => progress.consumed > 0,
            NextStep::Yield => true,
            NextStep::Pause => {
                peer.paused = true;
                true
            }
            NextStep::HandOver(to) => {
                assert_eq!(progress.consumed, 0);
                let address = self.brokers[shard].peer(key).unwrap();
                self.brokers[shard].on_handed_over(key);
                let to = usize::from(to.0);
                // It comes with the mail.
                self.looked[to] = self.looked[to].map(|_| self.now);
                peer.key = Some(self.brokers[to].on_accepted(self.now, address));
                peer.shard = to;
                true
            }
        };
        (progress.consumed, busy)
    }

    fn end_turn(&mut self, shard: usize) -> bool {
        let mut busy = false;
        loop {
            let mut more = self.apply_effects(shard);
            more |= self.send_mail(shard);
            while let Some(key) = self.brokers[shard].next_to_write() {
                self.write(shard, key);
                more = true;
            }
            self.brokers[shard].end_turn();
            if !more {
                return busy;
            }
            busy = true;
        }
    }

    pub(in crate::broker::tests) fn apply_effects(&mut self, shard: usize) -> bool {
        let effects = self.brokers[shard].take_effects();
        let busy = !effects.is_empty();
        let mut finished = Vec::new();
        for effect in effects {
            let (Effect::Finish(key) | Effect::Abort(key) | Effect::Resume(key)) = effect;
            let Some(c) = self.find(shard, key) else { continue };
            match effect {
                Effect::Finish(_) if self.brokers[shard].has_queued(key) => {}
                Effect::Finish(_) => finished.push(c),
                Effect::Abort(_) => {
                    self.peers[c].aborted = true;
                    self.close(c, CloseReason::PeerClosed);
                }
                Effect::Resume(_) => self.peers[c].paused = false,
            }
        }
        // A client closes only when the broker has done all that it wanted.
        finished.into_iter().for_each(|c| self.finish(c));
        busy
    }

    /// Tells the broker that a connection is closed.
    pub fn close(&mut self, c: C, reason: CloseReason) {
        let Some(key) = self.peers[c].key.take() else { return };
        let shard = self.peers[c].shard;
        let now = self.now_on(shard);
        self.brokers[shard].on_closed(now, key, reason);
    }

    /// The broker ends its half of the stream, and the client its own.
    fn finish(&mut self, c: C) {
        self.peers[c].finished = true;
        if !self.peers[c].lingers {
            self.close(c, CloseReason::PeerClosed);
        }
    }

    pub(in crate::broker::tests) fn send_mail(&mut self, shard: usize) -> bool {
        let before = self.batches;
        let rest = self.send_first_mail(shard);
        self.send_last_mail(shard, rest);
        self.batches > before
    }

    /// Sends mail, and stops before the shard looks once more who wants what is to be retained.
    pub(in crate::broker::tests) fn send_first_mail(&mut self, shard: usize) -> Option<Rest> {
        let (mail, batches) = (&mut self.mail[shard], &mut self.batches);
        self.brokers[shard].take_first_mail(|to, items, cost| {
            assert_ne!(usize::from(to.0), shard, "no mail to oneself");
            *batches += 1;
            mail[usize::from(to.0)].push_back((*batches, items, cost));
        })
    }

    /// Goes on with that, and ends the epoch.
    pub(in crate::broker::tests) fn send_last_mail(&mut self, shard: usize, rest: Option<Rest>) {
        let (mail, batches) = (&mut self.mail[shard], &mut self.batches);
        if let Some(rest) = rest {
            self.brokers[shard].take_last_mail(rest, |to, items, cost| {
                *batches += 1;
                mail[usize::from(to.0)].push_back((*batches, items, cost));
            });
        }
        if let Some(batch) = self.brokers[shard].take_batch() {
            let store = self.store.as_mut().expect("without a store there is nothing to keep");
            store.waiting.push_back((shard, batch));
        }
        self.renew_credit();
    }

    /// The store keeps the oldest batch that it was given, and says so.
    pub fn commit(&mut self) -> bool {
        let Some(store) = &mut self.store else { return false };
        let Some((shard, batch)) = store.waiting.pop_front() else { return false };
        store.kept.apply(&batch.changes);
        let loaded: Vec<_> = batch.loads.iter().map(|load| store.kept.load(load)).collect();
        let broker = &mut self.brokers[shard];
        broker.on_outcome(self.now, Outcome::Durable(batch.epoch));
        for loaded in loaded {
            broker.on_outcome(self.now, Outcome::Loaded(loaded));
        }
        true
    }

    /// The store fails, and with it all that it has not kept.
    pub fn fail_store(&mut self) {
        let Some(store) = &mut self.store else { return };
        store.waiting.clear();
        for broker in &mut self.brokers {
            broker.on_outcome(self.now, Outcome::Failed("no space left on device".into()));
        }
        self.settle();
    }

    fn left(&self, from: usize, to: usize) -> u32 {
        let used = self.mail[from][to].iter().map(|(_, _, cost)| cost).sum();
        self.credit.saturating_sub(used)
    }

    pub(in crate::broker::tests) fn renew_credit(&mut self) {
        for from in 0..self.brokers.len() {
            let mut enough = true;
            for to in (0..self.brokers.len()).filter(|to| *to != from) {
                let left = self.left(from, to);
                let reserve = self.credit / 4;
                enough &= left > reserve;
                self.brokers[from].mail().set_credit(ShardId(to as u16), left, reserve);
            }
            if enough && self.brokers[from].is_starved() {
                self.brokers[from].on_credit();
            }
        }
    }

    /// The pairs of shards that have mail on its way.
    pub fn routes_with_mail(&self) -> Vec<(usize, usize)> {
        let n = self.brokers.len();
        let pairs = (0..n).flat_map(|from| (0..n).map(move |to| (from, to)));
        pairs.filter(|(from, to)| !self.mail[*from][*to].is_empty()).collect()
    }

    /// Delivers the oldest batch on one way.
    pub fn deliver_batch(&mut self, from: usize, to: usize) -> bool {
        let Some((_, items, _)) = self.mail[from][to].pop_front() else { return false };
        let now = self.now_on(to);
        for item in items {
            self.brokers[to].on_mail(now, item);
        }
        self.renew_credit();
        true
    }

    fn deliver_all_mail(&mut self) -> bool {
        let routes = self.routes_with_mail();
        for (from, to) in &routes {
            self.deliver_batch(*from, *to);
        }
        !routes.is_empty()
    }

    fn find(&self, shard: usize, key: ConnectionKey) -> Option<C> {
        self.peers.iter().position(|peer| peer.shard == shard && peer.key == Some(key))
    }

    /// Writes an outbox as far as the socket takes it, as the reactor does.
    pub(in crate::broker::tests) fn write(&mut self, shard: usize, key: ConnectionKey) {
        let Some(c) = self.find(shard, key) else {
            self.brokers[shard].on_write_failed(key);
            return;
        };
        if self.peers[c].blocked {
            return;
        }
        loop {
            let mut slices = [IoSlice::new(&[]); 4];
            let filled = self.brokers[shard].output(key, &mut slices);
            if filled == 0 {
                break;
            }
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|s| s.to_vec()).collect();
            let sent = bytes.len().min(self.peers[c].room);
            if self.peers[c].cut {
                return self.brokers[shard].on_write_failed(key);
            }
            if sent == 0 && !bytes.is_empty() {
                self.peers[c].blocked = true;
                return self.brokers[shard].on_blocked(key);
            }
            if self.peers[c].room != usize::MAX {
                self.peers[c].room -= sent;
            }
            self.peers[c].receive(&bytes[..sent]);
            if self.brokers[shard].on_written(key, sent) {
                break;
            }
            if sent < bytes.len() {
                self.peers[c].blocked = true;
                return self.brokers[shard].on_blocked(key);
            }
        }
        if self.brokers[shard].is_finishing(key) && !self.brokers[shard].has_queued(key) {
            self.finish(c);
        }
    }
}
