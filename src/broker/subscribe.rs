//! SUBSCRIBE and UNSUBSCRIBE. MQTT 5.0 sections 3.8 to 3.11.

use super::{
    Broker, ConnectionKey, SessionKey, client::Membership, explain::explanation,
    retained::RetainedRequest,
};
use crate::{
    codec::{
        Packet, PacketType, ReasonCode, ReasonCodes, RetainHandling, Suback, Subscribe,
        SubscriptionOptions, Unsuback, Unsubscribe, Version,
    },
    limits,
    record::{Change, SessionNumber, SubscriptionRecord},
    topics::{self, Place, Shape, Subscriber, TopicError},
};

/// From how many subscriptions on the bytes of a session's filters are remembered, not added up
/// anew. Most sessions have fewer, and no room for one more number.
const BYTES_COUNTED_FROM: usize = 16;

const _: () = assert!(limits::MAX_WILDCARD_LEVELS == topics::MAX_SHAPE_LEVELS);

/// The subscriptions of a session that are passed over in the time of a unit of work.
const POSITIONS_PER_WORK: usize = 256;

impl Broker {
    /// Subscribes, answers, and only then sends what is retained.
    pub(super) fn on_subscribe(
        &mut self,
        key: ConnectionKey,
        subscribe: &Subscribe<'_>,
    ) -> Result<(), ReasonCode> {
        let Some(connection) = self.clients.connections.get(key.index()) else { return Ok(()) };
        let (session, version) = (connection.session, connection.version);
        let id = subscribe.subscription_id.map_or(0, |id| id.get());
        let mark = self.clients.journal.mark();
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        for (at, (filter, options)) in subscribe.filters.iter().enumerate() {
            if at >= limits::FILTERS_PER_SUBSCRIBE {
                reasons.push(ReasonCode::QuotaExceeded);
                continue;
            }
            self.clients.work += limits::WORK_OF_A_LOOK;
            let reason = self.subscribe(session, filter, options, id, version);
            if reason == ReasonCode::ProtocolError {
                return Err(reason);
            }
            reasons.push(reason);
        }
        if version == Version::V3_1 {
            // It has no code for a failure: a server acknowledges all the same (MQTT 3.1, 3.8), and
            // QoS 0 is the least that it can say.
            for reason in reasons.iter_mut().filter(|reason| reason.is_error()) {
                *reason = ReasonCode::GRANTED_QOS_0;
            }
        }
        if self.clients.journal.has_staged_since(mark) {
            self.clients.hold(key);
        }
        // [MQTT-3.8.4-1], [MQTT-3.8.4-6]
        self.clients.answer(key, refusal(PacketType::Suback, &reasons), |reason_string| {
            Packet::Suback(Suback {
                packet_id: subscribe.packet_id,
                reasons: ReasonCodes::from(&reasons[..]),
                reason_string,
                user_properties: <_>::default(),
            })
        });
        self.fetch_retained(session);
        Ok(())
    }

    fn subscribe(
        &mut self,
        session: SessionKey,
        filter: &str,
        mut options: SubscriptionOptions,
        id: u32,
        version: Version,
    ) -> ReasonCode {
        // The ShareName is no part of the Topic Filter: MQTT 5.0 section 4.8.2.
        let share_levels = if filter.starts_with("$share/") { 2 } else { 0 };
        let max_levels = self.config.max_topic_levels.saturating_add(share_levels);
        if let Err(error) = topics::validate_topic_filter(filter, max_levels) {
            return invalid_filter(error, version);
        }
        let Some(client) = self.clients.sessions.get(session.index()) else {
            return ReasonCode::UnspecifiedError;
        };
        let has_room = client.subscription_count() < self.config.max_subscriptions
            && self.filter_bytes(session) + filter.len() <= self.config.max_subscription_bytes;
        options.qos = options.qos.min(self.config.max_qos);
        let granted = ReasonCode::granted(options.qos);
        let subscriber = Subscriber { session, options: options.to_u8(), id };
        let asked = filter;
        match topics::parse_shared(filter) {
            Err(_) => ReasonCode::TopicFilterInvalid, // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
            // [MQTT-3.8.3-4]; before MQTT 5 there is no such option to set.
            Ok(Some(_)) if options.no_local && version == Version::V5 => ReasonCode::ProtocolError,
            // Only what can be found by hash, for it is looked for with every message.
            Ok(shared) if Shape::of(shared.map_or(filter, |(_, filter)| filter)).is_none() => {
                ReasonCode::TopicFilterInvalid
            }
            Ok(Some((share, filter))) => {
                if !has_room && !self.is_member(session, share, filter) {
                    return ReasonCode::QuotaExceeded;
                }
                match self.join_group(share, filter, subscriber, true) {
                    Ok(()) => {
                        self.keep_subscription(asked, subscriber);
                        granted
                    }
                    Err(_) => ReasonCode::QuotaExceeded,
                }
            }
            Ok(None) => {
                let has_room = has_room && self.has_place(session, filter);
                if !has_room && !self.is_subscribed(session, filter) {
                    return ReasonCode::QuotaExceeded;
                }
                let existed = self.subscribe_plain(filter, subscriber);
                self.keep_subscription(asked, subscriber);
                let wants_retained = match options.retain_handling {
                    RetainHandling::SendAtSubscribe => true, // [MQTT-3.3.1-9]
                    RetainHandling::SendAtNewSubscribe => !existed, // [MQTT-3.3.1-10]
                    RetainHandling::DoNotSend => false,      // [MQTT-3.3.1-11]
                };
                let request = || RetainedRequest::new(filter, options, id);
                if wants_retained && self.may_be_retained(filter) {
                    self.want_retained(session, request(), existed);
                } else if existed {
                    self.replace_wanted(session, &request());
                }
                granted
            }
        }
    }

    /// Keeps a subscription as it was asked for, if its session is kept.
    fn keep_subscription(&mut self, filter: &str, subscriber: Subscriber) {
        let session = self.stored_number(subscriber.session);
        if session != 0 {
            let record = SubscriptionRecord { options: subscriber.options, id: subscriber.id };
            let filter = filter.into();
            self.clients.journal.push(Change::PutSubscription { session, filter, record });
        }
    }

    /// What the store knows a session by; 0 if it does not.
    fn stored_number(&self, session: SessionKey) -> SessionNumber {
        self.clients.sessions.get(session.index()).map_or(0, |client| client.number)
    }

    /// A session has so many subscriptions more, or fewer.
    fn count_subscription(&self, session: SessionKey, is_new: bool) {
        let gauges = [&self.stats.subscriptions, &self.stats.stored_subscriptions];
        let is_stored = self.stored_number(session) != 0;
        for gauge in gauges.into_iter().take(1 + usize::from(is_stored)) {
            match is_new {
                true => gauge.add(1),
                false => gauge.sub(1),
            }
        }
    }

    /// The bytes of all filters of a session.
    fn filter_bytes(&mut self, session: SessionKey) -> usize {
        let Some(client) = self.clients.sessions.get_mut(session.index()) else { return 0 };
        if let Some(bytes) = client.rare.as_ref().and_then(|rare| rare.filter_bytes) {
            return bytes;
        }
        let plain = client.subscriptions.iter().map(|filter| self.index.filter_len(*filter));
        let bytes = plain.chain(client.groups().map(Membership::len)).sum();
        if client.subscription_count() >= BYTES_COUNTED_FROM {
            client.rare().filter_bytes = Some(bytes);
        }
        bytes
    }

    /// A session has more bytes of filters, or fewer.
    fn count_filter_bytes(&mut self, session: SessionKey, change: isize) {
        let client = self.clients.sessions.get_mut(session.index());
        let rare = client.and_then(|client| client.rare.as_mut());
        if let Some(bytes) = rare.and_then(|rare| rare.filter_bytes.as_mut()) {
            *bytes = bytes.saturating_add_signed(change);
        }
    }

    /// Whether one more session may subscribe to the filter, as far as it is one of those that are
    /// matched level by level.
    fn has_place(&self, session: SessionKey, filter: &str) -> bool {
        let place = self.index.place(filter);
        let rare = self.clients.sessions.get(session.index()).and_then(|c| c.rare.as_ref());
        let unshaped = rare.map_or(0, |rare| rare.unshaped);
        match place {
            Place::Shape => true,
            Place::NewFallback if self.index.fallback_len() >= self.config.max_unshaped_filters => {
                false
            }
            Place::NewFallback | Place::Fallback => {
                unshaped < limits::MAX_UNSHAPED_FILTERS_PER_SESSION
            }
        }
    }

    /// Subscribes and returns whether that subscription existed. `[MQTT-3.8.4-3]`
    pub(super) fn subscribe_plain(&mut self, filter: &str, subscriber: Subscriber) -> bool {
        let unshaped = self.index.place(filter) != Place::Shape;
        let subscribed = self.index.subscribe(filter, subscriber);
        if let Some(key) = &subscribed.first {
            // Before SUBACK: whoever publishes once the client has that, sees the route.
            self.shared.routes.add(self.id, key);
        }
        if !subscribed.existed {
            self.count_subscription(subscriber.session, true);
            self.count_filter_bytes(subscriber.session, filter.len() as isize);
            if let Some(client) = self.clients.sessions.get_mut(subscriber.session.index()) {
                client.subscriptions.push(subscribed.filter);
                if unshaped {
                    client.rare().unshaped += 1;
                }
            }
        }
        subscribed.existed
    }

    fn is_subscribed(&self, session: SessionKey, filter: &str) -> bool {
        let id = self.index.find(filter);
        id.is_some_and(|id| self.index.is_subscriber(id, session))
    }

    fn is_member(&self, session: SessionKey, share: &str, filter: &str) -> bool {
        let client = self.clients.sessions.get(session.index());
        let hash = self.group_hash(share, filter);
        client.is_some_and(|client| client.is_member(hash, share, filter))
    }

    pub(super) fn join_group(
        &mut self,
        share: &str,
        filter: &str,
        subscriber: Subscriber,
        online: bool,
    ) -> Result<(), TopicError> {
        let session = subscriber.session;
        let hash = self.group_hash(share, filter);
        let is_member = self.is_member(session, share, filter);
        let Some(client) = self.clients.sessions.get_mut(session.index()) else { return Ok(()) };
        if !is_member {
            let table = &self.shared.groups;
            table.join(self.id, share, filter, &table.key(filter), online)?;
            let membership = Membership { hash, share: share.into(), filter: filter.into() };
            let bytes = membership.len();
            client.rare().groups.insert(membership);
            self.count_filter_bytes(session, bytes as isize);
            self.count_subscription(session, true);
            self.stats.shared_subscriptions.add(1);
        }
        self.groups.join(share, filter, subscriber, online);
        Ok(())
    }

    /// Unsubscribes, and answers. `[MQTT-3.10.4-4]`, `[MQTT-3.10.4-5]`
    pub(super) fn on_unsubscribe(
        &mut self,
        key: ConnectionKey,
        unsubscribe: &Unsubscribe<'_>,
    ) -> Result<(), ReasonCode> {
        let Some(connection) = self.clients.connections.get(key.index()) else { return Ok(()) };
        let (session, version) = (connection.session, connection.version);
        let number = self.stored_number(session);
        let unsubscribed = unsubscribe.filters.iter().map(|filter| {
            let reason = self.unsubscribe(session, filter, version);
            if number != 0 && reason == ReasonCode::Success {
                let filter = filter.into();
                self.clients.journal.push(Change::DropSubscription { session: number, filter });
            }
            reason
        });
        let reasons: Vec<_> = unsubscribed.collect();
        if reasons.contains(&ReasonCode::ProtocolError) {
            return Err(ReasonCode::ProtocolError);
        }
        if number != 0 {
            // Also what was unsubscribed a moment ago may come back, as long as it is not durable.
            self.clients.hold(key);
        }
        self.clients.answer(key, refusal(PacketType::Unsuback, &reasons), |reason_string| {
            Packet::Unsuback(Unsuback {
                packet_id: unsubscribe.packet_id,
                reasons: ReasonCodes::from(&reasons[..]),
                reason_string,
                user_properties: <_>::default(),
            })
        });
        Ok(())
    }

    fn unsubscribe(&mut self, session: SessionKey, filter: &str, version: Version) -> ReasonCode {
        if let Err(error) = topics::validate_topic_filter(filter, usize::MAX) {
            return invalid_filter(error, version);
        }
        let hash = match topics::parse_shared(filter) {
            Ok(Some((share, filter))) => self.group_hash(share, filter),
            _ => 0,
        };
        let Some(client) = self.clients.sessions.get_mut(session.index()) else {
            return ReasonCode::UnspecifiedError;
        };
        self.clients.work += limits::WORK_OF_A_LOOK;
        let existed = match topics::parse_shared(filter) {
            Err(_) => return ReasonCode::TopicFilterInvalid,
            Ok(Some((share, filter))) => {
                let groups = client.rare.as_mut().map(|rare| &mut rare.groups);
                match groups.and_then(|groups| groups.remove(hash, share, filter)) {
                    Some(membership) => {
                        self.leave_group(session, &membership);
                        true
                    }
                    None => false,
                }
            }
            Ok(None) => match self.index.find(filter) {
                Some(id) => {
                    if let Some(at) = client.subscriptions.iter().position(|f| *f == id) {
                        client.subscriptions.swap_remove(at);
                        // It takes about as long to get there.
                        self.clients.work += at / POSITIONS_PER_WORK * limits::WORK_OF_A_LOOK;
                    }
                    if let Some(rare) = &mut client.rare {
                        rare.retained.cancel(filter);
                    }
                    self.unsubscribe_plain(session, id)
                }
                None => false,
            },
        };
        if existed { ReasonCode::Success } else { ReasonCode::NoSubscriptionExisted }
    }

    fn unsubscribe_plain(&mut self, session: SessionKey, filter: topics::FilterId) -> bool {
        let bytes = self.index.filter_len(filter);
        let unsubscribed = self.index.unsubscribe(filter, session);
        if unsubscribed.removed {
            self.count_filter_bytes(session, -(bytes as isize));
        }
        if let Some(key) = &unsubscribed.last {
            self.shared.routes.remove(self.id, key);
        }
        if unsubscribed.removed {
            self.count_subscription(session, false);
        }
        if unsubscribed.fallback
            && let Some(client) = self.clients.sessions.get_mut(session.index())
        {
            let rare = client.rare();
            rare.unshaped = rare.unshaped.saturating_sub(1);
        }
        unsubscribed.removed
    }

    fn leave_group(&mut self, session: SessionKey, membership: &Membership) {
        let Membership { share, filter, .. } = membership;
        if let Some(was_online) = self.groups.leave(share, filter, session) {
            let table = &self.shared.groups;
            table.leave(self.id, share, filter, &table.key(filter), was_online);
            self.count_filter_bytes(session, -(membership.len() as isize));
            self.count_subscription(session, false);
            self.stats.shared_subscriptions.sub(1);
        }
    }

    /// Takes all subscriptions of a session that ends. The list of its shared ones stays.
    pub(super) fn unsubscribe_all(&mut self, session: SessionKey) {
        let Some(client) = self.clients.sessions.get_mut(session.index()) else { return };
        let subscriptions = std::mem::take(&mut client.subscriptions);
        let groups: Vec<_> = client.groups().cloned().collect();
        for filter in subscriptions {
            self.unsubscribe_plain(session, filter);
        }
        for membership in &groups {
            self.leave_group(session, membership);
        }
    }
}

/// What becomes of a topic filter that is not valid.
fn invalid_filter(error: TopicError, version: Version) -> ReasonCode {
    match error {
        // This server's own limit.
        TopicError::TooManyLevels { .. } => ReasonCode::TopicFilterInvalid,
        // [MQTT311-4.7.1-2], [MQTT311-4.7.1-3]: a violation of the protocol, and nothing else is
        // said of it [MQTT311-4.8.0-1].
        _ if version < Version::V5 => ReasonCode::ProtocolError,
        _ => ReasonCode::TopicFilterInvalid, // [MQTT-4.7.3-1]
    }
}

/// What to say about the first filter that is refused.
fn refusal(packet: PacketType, reasons: &[ReasonCode]) -> Option<&'static str> {
    reasons.iter().find(|reason| reason.is_error()).and_then(|r| explanation(packet, *r))
}
