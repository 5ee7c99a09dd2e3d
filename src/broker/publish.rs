//! A message from its publisher to everyone who wants it, on this shard and on others.
//! MQTT 5.0 sections 3.3 and 4.3.

use super::{
    Broker, ConnectionKey, SessionKey,
    connection::Extra,
    deliver::{Encoding, Matched},
    journal::{Deferred, Once},
    mail::{Credit, ShardMessage},
};
use crate::{
    codec::{AckKind, Publish, QoS, ReasonCode, SubscriptionOptions, Version},
    limits,
    session::{Publication, Received, expiry, forwarded},
    stats::DropReason,
    topics::{self, ShardId, ShardSet},
};

/// A subscription that matches, while several are merged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    session: SessionKey,
    options: SubscriptionOptions,
    id: u32,
}

/// Who published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    /// Its session on this shard: No Local needs it.
    pub session: SessionKey,
    /// Its client identifier's hash: shared subscriptions may be dealt out by it.
    pub hash: u64,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Routed {
    /// Somebody subscribes to it, as far as this shard knows.
    pub matched: bool,
    /// A shard that wants it is behind: its publisher is to slow down.
    pub congested: bool,
    /// Its publisher has waited until there was credit for it: it is sent, also where it is the second
    /// one of its copies that finds none left.
    admitted: bool,
}

/// The options of a subscription as the indexes keep them.
pub(super) fn options_of(packed: u8) -> SubscriptionOptions {
    SubscriptionOptions::from_u8(packed).unwrap_or(SubscriptionOptions::new(QoS::AtMostOnce))
}

impl Broker {
    /// Whether a PUBLISH is to be left where it is for now, since a shard that is to have it takes no
    /// more: its publisher is not read from until that has caught up. So it does not matter how many
    /// publish at once.
    pub(super) fn has_to_wait(&mut self, key: ConnectionKey, publish: &Publish<'_>) -> bool {
        let mut spent = self.mail.spent();
        // This one needs no credit, and so has none.
        spent.remove(self.id);
        if spent.is_empty() || !self.is_wanted_by(spent, key, publish) {
            return false;
        }
        self.starve(key);
        true
    }

    /// Whether any of these shards is to have a message, as far as is known here.
    fn is_wanted_by(
        &mut self,
        shards: ShardSet,
        key: ConnectionKey,
        publish: &Publish<'_>,
    ) -> bool {
        let connection = self.clients.connections.get(key.index());
        let aliases = connection.and_then(|c| c.extra.as_ref()).map(|extra| &extra.inbound_aliases);
        let topic = match (publish.topic, publish.properties.topic_alias) {
            ("", Some(alias)) => aliases.and_then(|aliases| aliases.known(alias)).unwrap_or(""),
            (topic, _) => topic,
        };
        if topics::validate_topic_name(topic, self.config.max_topic_levels).is_err() {
            return false;
        }
        let owner = self.shared.retained_owner(topic);
        if publish.retain && self.config.retain_available && shards.contains(owner)
            || !self.shared.routes.shards_for(topic).intersection(shards).is_empty()
        {
            return true;
        }
        if self.shared.groups.is_empty() {
            return false;
        }
        let mut groups = std::mem::take(&mut self.group_routes);
        self.shared.groups.matching(topic, &mut groups);
        let is_wanted = groups.drain(..).any(|group| group.has_members_on(shards));
        self.group_routes = groups;
        is_wanted
    }

    /// A PUBLISH from a client.
    pub(super) fn on_publish(
        &mut self,
        key: ConnectionKey,
        publish: &Publish<'_>,
    ) -> Result<(), ReasonCode> {
        self.stats.publish_received.add(1);
        self.stats.publish_bytes_received.add(publish.payload.len() as u64);
        self.check_publish(publish)?;
        let properties = &publish.properties;
        let Some(alias) = properties.topic_alias else {
            return self.on_publish_to(key, publish, publish.topic);
        };
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return Ok(()) };
        let Extra { inbound_aliases, .. } = connection.extra();
        let maximum = self.config.topic_alias_maximum;
        let topic = Box::<str>::from(inbound_aliases.resolve(publish.topic, alias, maximum)?);
        self.on_publish_to(key, publish, &topic)
    }

    /// What is wrong with the packet, whoever sent it.
    fn check_publish(&self, publish: &Publish<'_>) -> Result<(), ReasonCode> {
        if publish.qos > self.config.max_qos {
            return Err(ReasonCode::QoSNotSupported); // [MQTT-3.2.2-11]
        }
        if publish.retain && !self.config.retain_available {
            return Err(ReasonCode::RetainNotSupported); // [MQTT-3.2.2-14]
        }
        let properties = &publish.properties;
        if !properties.subscription_identifiers.is_empty() {
            return Err(ReasonCode::ProtocolError); // [MQTT-3.3.4-6]
        }
        if !publish.topic.is_empty() {
            // [MQTT-3.3.2-2]
            topics::validate_topic_name(publish.topic, self.config.max_topic_levels)
                .map_err(|_| ReasonCode::TopicNameInvalid)?;
        }
        match properties.response_topic {
            // [MQTT-3.3.2-14]
            Some(topic) => topics::validate_topic_name(topic, self.config.max_topic_levels)
                .map_err(|_| ReasonCode::TopicNameInvalid),
            None => Ok(()),
        }
    }

    fn on_publish_to(
        &mut self,
        key: ConnectionKey,
        publish: &Publish<'_>,
        topic: &str,
    ) -> Result<(), ReasonCode> {
        let Some(connection) = self.clients.connections.get(key.index()) else { return Ok(()) };
        let (session, version) = (connection.session, connection.version);
        let mark = self.clients.journal.mark();
        if let (QoS::ExactlyOnce, Some(packet_id)) = (publish.qos, publish.packet_id) {
            let maximum = match version {
                Version::V5 => self.config.receive_maximum,
                _ => self.config.max_awaiting_rel,
            };
            let Some(client) = self.clients.sessions.get_mut(session.index()) else {
                return Ok(());
            };
            let incoming = client.incoming.get_or_insert_default();
            match incoming.publish(packet_id, maximum.into()) {
                Received::New => {}
                Received::Duplicate
                    if version == Version::V5
                        && !incoming.came_again(packet_id, maximum.into()) =>
                {
                    return Err(ReasonCode::ReceiveMaximumExceeded);
                }
                Received::Duplicate => {
                    // What it was received as the first time may not be durable yet.
                    self.clients.hold(key);
                    self.acknowledge(key, AckKind::Pubrec, packet_id, ReasonCode::Success);
                    return Ok(());
                }
                Received::TooMany => return Err(ReasonCode::ReceiveMaximumExceeded),
            }
        }
        let refused = self.clients.journal.refusals();
        let client = self.clients.sessions.get(session.index());
        let is_kept = client.is_some_and(|client| client.number != 0);
        let is_once = publish.qos == QoS::ExactlyOnce && is_kept;
        self.clients.journal.deliver_once(is_once.then_some(Once::Here));
        let mut reason = self.take_in(key, session, publish, topic);
        self.clients.journal.deliver_once(None);
        if publish.qos > QoS::AtMostOnce && self.clients.journal.refusals() != refused {
            reason = ReasonCode::ImplementationSpecificError;
            if version < Version::V5 {
                // No acknowledgement says no.
                return Err(reason);
            }
        }
        if is_once {
            self.keep_received(session, publish, reason);
        }
        if self.clients.journal.has_staged_since(mark) {
            self.clients.hold(key);
            if self.clients.journal.congested && publish.qos > QoS::AtMostOnce {
                self.starve(key);
            }
        }
        self.acknowledge_publish(key, session, publish, reason);
        Ok(())
    }

    /// Keeps what is owed of a QoS 2 message of a client whose session is kept, together with its
    /// packet id; when other shards have a part in that, with what they give back.
    fn keep_received(&mut self, key: SessionKey, publish: &Publish<'_>, reason: ReasonCode) {
        let mut changes = vec![Deferred::Once(self.clients.journal.take_once())];
        let client = self.clients.sessions.get(key.index());
        if let (Some(client), Some(packet_id)) = (client, publish.packet_id)
            && !reason.is_error()
        {
            changes.push(Deferred::Received(key, client.serial, packet_id));
        }
        for change in changes {
            self.change_behind_sent(change);
        }
    }

    /// Routes a message that the broker accepts; otherwise says why it does not.
    fn take_in(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        publish: &Publish<'_>,
        topic: &str,
    ) -> ReasonCode {
        if topic.starts_with("$SYS/") {
            // The broker's own; what a client put there, others would take for the truth.
            self.stats.publish_dropped.add(DropReason::NotAuthorized, 1);
            self.stats.acl_refused.add(1);
            return ReasonCode::NotAuthorized;
        }
        let properties = &publish.properties;
        if self.config.validate_payload_format
            && properties.payload_format_indicator == Some(true)
            && std::str::from_utf8(publish.payload).is_err()
        {
            self.stats.publish_dropped.add(DropReason::PayloadFormat, 1);
            return ReasonCode::PayloadFormatInvalid;
        }
        let Some(client) = self.clients.sessions.get(session.index()) else {
            return ReasonCode::UnspecifiedError;
        };
        let hash = match self.shared.groups.is_empty() {
            true => 0,
            false => self.shared.seed.hash(&client.id),
        };
        let mut buffer = std::mem::take(&mut self.forwarded);
        let publication = Publication {
            topic,
            payload: publish.payload,
            forwarded: forwarded(properties, &mut buffer),
            qos: publish.qos,
            retain: publish.retain,
            expires_at: expiry(properties.message_expiry_interval, self.now.monotonic),
        };
        let origin = Some(Origin { session, hash });
        let admitted = Routed { admitted: true, ..Routed::default() };
        let routed = self.route(origin, &mut Encoding::new(publication), admitted);
        self.forwarded = buffer;
        if routed.congested {
            self.starve(key);
        }
        if routed.matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers }
    }

    /// Acknowledges a PUBLISH: `[MQTT-4.3.2-4]`, `[MQTT-4.3.3-8]`.
    fn acknowledge_publish(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        publish: &Publish<'_>,
        reason: ReasonCode,
    ) {
        let Some(packet_id) = publish.packet_id else { return };
        let kind = match publish.qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => AckKind::Puback,
            QoS::ExactlyOnce => AckKind::Pubrec,
        };
        self.acknowledge(key, kind, packet_id, reason);
        if kind == AckKind::Pubrec && reason.is_error() {
            // It is over with that: no PUBREL comes. MQTT 5.0 section 4.3.3.
            self.release_received(session, packet_id);
        }
    }

    /// Sends a message wherever it is wanted, and retains it if it asks for that.
    pub(super) fn route(
        &mut self,
        origin: Option<Origin>,
        encoding: &mut Encoding<'_>,
        mut routed: Routed,
    ) -> Routed {
        self.clients.relieve();
        if encoding.publication.retain && self.config.retain_available {
            self.retain(encoding, &mut routed);
        }
        routed.matched |= self.deliver_here(origin.map(|o| o.session), encoding);
        self.forward(encoding, &mut routed);
        if !self.shared.groups.is_empty() {
            self.deal_out(origin, encoding, &mut routed);
        }
        routed
    }

    /// Hands a message to the other shards that have a subscriber for it.
    fn forward(&mut self, encoding: &mut Encoding<'_>, routed: &mut Routed) {
        let topic = encoding.publication.topic;
        let mut shards = self.shared.routes.shards_for(topic);
        shards.remove(self.id);
        if encoding.publication.retain && self.config.retain_available {
            self.mail.was_routed(self.shared.retained_owner(topic), shards);
        }
        let is_alone = shards.len() == 1;
        for to in shards.iter() {
            routed.matched = true;
            if !self.may_send(to, encoding.publication.qos, routed) {
                continue;
            }
            let message = encoding.for_another_shard(is_alone);
            let (from, retain) = (self.id, encoding.supersedes.map(|retain| retain.number));
            self.mail.push(
                to,
                match self.clients.journal.once() {
                    Some(_) => ShardMessage::PublishOnce { from, message, retain },
                    None => ShardMessage::Publish { from, message, retain },
                },
            );
            self.ask_to_keep(to, encoding.publication.qos);
            self.stats.cross_shard_sent.add(1);
        }
    }

    /// Whether a message goes to another shard: one of QoS 0 that nobody was made to wait with does
    /// not without credit, which is counted. Notes whether its publisher is to wait.
    pub(super) fn may_send(&self, to: ShardId, qos: QoS, routed: &mut Routed) -> bool {
        let credit = self.mail.credit(to);
        routed.congested |= credit != Credit::Ample;
        let is_spent = credit == Credit::Spent && !routed.admitted;
        let is_dropped = is_spent && qos == QoS::AtMostOnce;
        self.stats.publish_dropped.add(DropReason::NoCredit, is_dropped.into());
        !is_dropped
    }

    /// Delivers to the subscribers on this shard, shared subscriptions apart. True if there are
    /// any.
    pub(super) fn deliver_here(
        &mut self,
        publisher: Option<SessionKey>,
        encoding: &mut Encoding<'_>,
    ) -> bool {
        let mut matching = std::mem::take(&mut self.matching);
        matching.clear();
        let steps = self.index.matching(encoding.publication.topic, &mut matching);
        self.clients.work += steps * limits::WORK_OF_A_LOOK;
        match matching.as_slice() {
            [] => {}
            [only] => {
                for subscriber in self.index.subscribers(*only) {
                    let options = options_of(subscriber.options);
                    // [MQTT-3.8.3-3]
                    if options.no_local && publisher == Some(subscriber.session) {
                        continue;
                    }
                    let id = [subscriber.id];
                    let ids = if subscriber.id == 0 { &[][..] } else { &id[..] };
                    let matched = Matched { options, ids, shared: None, retained: false };
                    self.clients.deliver(subscriber.session, matched, encoding);
                }
            }
            several => self.deliver_merged(several, publisher, encoding),
        }
        let found = !matching.is_empty();
        self.matching = matching;
        found
    }

    /// Delivers one copy to each session, whichever of its subscriptions match: at their highest
    /// QoS, with all their identifiers. `[MQTT-3.3.4-2]`, `[MQTT-3.3.4-3]`
    fn deliver_merged(
        &mut self,
        matching: &[topics::FilterId],
        publisher: Option<SessionKey>,
        encoding: &mut Encoding<'_>,
    ) {
        let mut targets = std::mem::take(&mut self.targets);
        for filter in matching {
            targets.extend(self.index.subscribers(*filter).iter().filter_map(|subscriber| {
                let options = options_of(subscriber.options);
                let own = options.no_local && publisher == Some(subscriber.session);
                let target = Target { session: subscriber.session, options, id: subscriber.id };
                (!own).then_some(target)
            }));
        }
        targets.sort_by_key(|target| target.session);
        let mut ids = Vec::new();
        for of_one in targets.chunk_by(|a, b| a.session == b.session) {
            let Some(first) = of_one.first() else { continue };
            let mut options = first.options;
            ids.clear();
            for target in of_one {
                options.qos = options.qos.max(target.options.qos);
                options.retain_as_published |= target.options.retain_as_published;
                ids.extend(Some(target.id).filter(|id| *id != 0));
            }
            let matched = Matched { options, ids: &ids, shared: None, retained: false };
            self.clients.deliver(first.session, matched, encoding);
        }
        targets.clear();
        self.targets = targets;
    }

    /// Stops reading from a publisher until other shards have caught up.
    pub(super) fn starve(&mut self, key: ConnectionKey) {
        let Some(connection) = self.clients.connections.get_mut(key.index()) else { return };
        if !std::mem::replace(&mut connection.paused, true) {
            self.stats.reads_paused.add(1);
        }
        if !std::mem::replace(&mut connection.starved, true) {
            self.starved.push(key);
        }
    }
}
