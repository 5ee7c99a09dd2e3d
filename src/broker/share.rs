//! Shared subscriptions: each message of a group goes to one of its members, wherever that lives.
//! MQTT 5.0 section 4.8.2.

use std::{num::NonZeroU32, sync::Arc};

use super::{
    Broker, SessionKey,
    client::Membership,
    deliver::{Encoding, Matched},
    journal::{Deferred, Once},
    mail::ShardMessage,
    publish::{Origin, Routed, options_of},
};
use crate::{
    session::Delivery,
    stats::DropReason,
    topics::{GroupRoute, Pick, ShardId, ShardSet, Subscriber},
};

/// Where a message for a group has been in vain.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    /// The shards that had no member for it when it came to them.
    shards: ShardSet,
    /// Whether members that are offline will do, for nobody was found online.
    anyone: bool,
}

impl Broker {
    /// Gives a message to one member of each group that wants it.
    pub(super) fn deal_out(
        &mut self,
        origin: Option<Origin>,
        encoding: &mut Encoding<'_>,
        routed: &mut Routed,
    ) {
        let mut groups = std::mem::take(&mut self.group_routes);
        self.shared.groups.matching(encoding.publication.topic, &mut groups);
        let hash = origin.map_or(0, |origin| origin.hash);
        for group in groups.drain(..) {
            routed.matched = true;
            self.deal_to(&group, hash, Tried::default(), encoding, routed);
        }
        self.group_routes = groups;
    }

    /// Gives a message to one member of `group` that is not on one of the shards in `tried`. When all
    /// that may have had one online have none any more, one that is offline will do.
    fn deal_to(
        &mut self,
        group: &Arc<GroupRoute>,
        publisher_hash: u64,
        mut tried: Tried,
        encoding: &mut Encoding<'_>,
        routed: &mut Routed,
    ) {
        let topic_hash = self.shared.seed.hash(encoding.publication.topic);
        let strategy = self.config.strategy;
        loop {
            let rng = &mut self.rng;
            let pick = group.pick(strategy, rng, self.id, publisher_hash, topic_hash, tried.shards);
            let Some(Pick { shard, index, online }) = pick else {
                if tried.anyone || tried.shards.is_empty() {
                    self.stats.publish_dropped.add(DropReason::NoMember, 1);
                    return;
                }
                tried = Tried { shards: ShardSet::EMPTY, anyone: true };
                continue;
            };
            let online = online && !tried.anyone;
            if shard == self.id {
                if self.deliver_to_member(group, index, online, encoding) {
                    return;
                }
                tried.shards.insert(shard);
                continue;
            }
            if !self.may_send(shard, encoding.publication.qos, routed) {
                return;
            }
            let message = encoding.message().for_another_shard();
            self.ask_to_keep(shard, encoding.publication.qos);
            let is_own = self.clients.journal.once() == Some(Once::Here);
            let once = is_own.then_some(self.id);
            let (group, from) = (Arc::clone(group), self.id);
            let shared = ShardMessage::Shared { from, group, message, index, online, tried, once };
            self.mail.push(shard, shared);
            self.stats.cross_shard_sent.add(1);
            return;
        }
    }

    /// A message for a member on this shard came from another one. If the last member has left in
    /// the meantime, or gone offline although one was online, it goes back, for another shard to get
    /// it: who sent it waits until it is kept, and were it passed on, shards could wait for each
    /// other.
    pub(super) fn on_shared(
        &mut self,
        from: ShardId,
        group: &Arc<GroupRoute>,
        (index, online): (u32, bool),
        mut tried: Tried,
        encoding: &mut Encoding<'_>,
    ) {
        if !self.deliver_to_member(group, index, online, encoding) {
            tried.shards.insert(self.id);
            let (group, message) = (Arc::clone(group), encoding.message().for_another_shard());
            let once = self.clients.journal.once().is_some();
            let returned = ShardMessage::Returned { from: self.id, group, message, tried, once };
            self.mail.push(from, returned);
        }
    }

    /// Another shard had no member for a message: the next one gets it. With `once`, what is owed of
    /// it is kept together with its reception: that waits for the other shard's `Kept`, which comes
    /// behind this, and then for what is staged here.
    pub(super) fn on_returned(
        &mut self,
        from: ShardId,
        group: &Arc<GroupRoute>,
        tried: Tried,
        once: bool,
        encoding: &mut Encoding<'_>,
    ) {
        let topic_hash = self.shared.seed.hash(encoding.publication.topic);
        let (mark, refused) = (self.clients.journal.mark(), self.clients.journal.refusals());
        self.clients.journal.deliver_once(once.then_some(Once::Here));
        self.deal_to(group, topic_hash, tried, encoding, &mut Routed::default());
        self.clients.journal.deliver_once(None);
        let changes = self.clients.journal.take_once();
        if self.clients.journal.has_staged_since(mark) {
            if once {
                self.clients.journal.defer(Deferred::Once(changes));
            }
            self.clients.journal.has_redealt(from);
        }
        if self.clients.journal.refusals() != refused {
            // Its publisher must not be told that all is well.
            self.drop_holding();
        }
    }

    /// Delivers to the member that `index` hints at, or another one here; false if there is none,
    /// or none online when that is asked for.
    fn deliver_to_member(
        &mut self,
        group: &GroupRoute,
        index: u32,
        online: bool,
        encoding: &mut Encoding<'_>,
    ) -> bool {
        let sessions = &self.clients.sessions;
        let is_online =
            |key: SessionKey| sessions.get(key.index()).is_some_and(|client| client.is_online());
        let (share, filter) = (group.share(), group.filter());
        let strategy = self.config.strategy;
        let Some(member) = self.groups.pick(share, filter, strategy, index, is_online) else {
            return false;
        };
        let tag = tag_of(self.group_hash(share, filter));
        let Subscriber { session, options, id } = member;
        if online && !is_online(session) {
            return false;
        }
        let id = [id];
        let matched = Matched {
            options: options_of(options),
            ids: if id == [0] { &[] } else { &id },
            shared: Some(tag),
            retained: false,
        };
        self.clients.deliver(session, matched, encoding);
        true
    }

    /// A session ended with a message not delivered that may be of a shared subscription: another
    /// member gets it. Without one it is counted; the error says why nobody was looked for: it has
    /// expired `[MQTT-3.3.2-5]`, nobody is left in its group, or it is not of any of the session's
    /// `groups`, which are given by their hashes.
    pub(super) fn redispatch(
        &mut self,
        delivery: &Delivery,
        groups: &[u64],
    ) -> Result<(), DropReason> {
        let mut encoding = Encoding::of(&delivery.message);
        if encoding.publication.is_expired(self.now.monotonic) {
            return Err(DropReason::Expired);
        }
        let is_its = |hash: u64| delivery.shared == Some(tag_of(hash)) && groups.contains(&hash);
        let topic = encoding.publication.topic;
        let mut matching = Vec::new();
        self.shared.groups.matching(topic, &mut matching);
        let hash_of = |group: &GroupRoute| self.group_hash(group.share(), group.filter());
        let Some(group) = matching.iter().find(|group| is_its(hash_of(group))) else {
            return Err(match groups.iter().any(|hash| is_its(*hash)) {
                true => DropReason::NoMember,
                false => DropReason::SessionEnded,
            });
        };
        let hash = self.shared.seed.hash(topic);
        self.deal_to(group, hash, Tried::default(), &mut encoding, &mut Routed::default());
        Ok(())
    }

    /// The hash by which a session finds its membership.
    pub(super) fn group_hash(&self, share: &str, filter: &str) -> u64 {
        let seed = &self.shared.seed;
        seed.hash(share).rotate_left(32) ^ seed.hash(filter)
    }

    /// Tells the groups of a session that it came or went.
    pub(super) fn announce_groups(&mut self, session: SessionKey, online: bool) {
        let Some(client) = self.clients.sessions.get(session.index()) else { return };
        for Membership { share, filter, .. } in client.groups() {
            if self.groups.set_online(share, filter, session, online) {
                let table = &self.shared.groups;
                table.set_online(self.id, share, filter, &table.key(filter), online);
            }
        }
    }
}

/// Tells the groups of one session apart, nearly always, by a part of their hashes.
fn tag_of(group_hash: u64) -> NonZeroU32 {
    NonZeroU32::MIN | group_hash as u32
}
