//! Subscriptions, group memberships and retained values come and go on several shards; all that
//! answers the question who wants a topic must agree with a list that is searched from end to end.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Result, Unstructured};
use ringmq::topics::*;

/// Sessions of each shard.
const SESSIONS: u32 = 3;
const MAX_LEVELS: usize = 40;
const SHARES: [&str; 3] = ["g", "h", "Ä"];
/// `a!` and `a0` stand on both sides of `a/` in byte order.
const LEVELS: [&str; 12] = [
    "a",
    "b",
    "+",
    "#",
    "",
    "$x",
    "a!",
    "a0",
    "é",
    "+",
    "long-level-of-a-filter-with-45-bytes-of-text-ok",
    "a#",
];

/// Checks what the steps that `data` tells of lead to.
pub fn check(data: &[u8]) {
    let mut u = Unstructured::new(data);
    if let Ok(mut walk) = Walk::new(&mut u) {
        while !u.is_empty() && walk.step(&mut u).is_ok() {}
        walk.end();
    }
}

/// Section 4.7 of the specification, without any thought of speed.
pub(crate) fn naive_matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => levels(filter, topic),
            ([a, filter @ ..], [b, topic @ ..]) => a == b && levels(filter, topic),
            _ => false,
        }
    }
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    levels(&filter, &topic)
}

struct Shard {
    id: ShardId,
    index: FilterIndex,
    routes: RouteTable,
    groups: GroupTable,
    members: SharedGroups,
    /// Filter and session: options and subscription identifier.
    subscriptions: BTreeMap<(String, u32), (u8, u32)>,
    /// Share name, filter and session: whether it is online.
    memberships: BTreeMap<(String, String, u32), bool>,
}

struct Walk {
    shards: Vec<Shard>,
    retained: Retained<u32>,
    retained_model: BTreeMap<String, u32>,
}

impl Walk {
    fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        let shards = u.int_in_range(1..=3_usize)?;
        let max_shapes = u.int_in_range(0..=6_usize)?;
        let seed = HashSeed::new([1, 2, 3, 4]);
        let routes = RouteTable::new(seed.clone(), max_shapes);
        let groups = GroupTable::new(seed.clone(), shards, max_shapes);
        let shard = |id| Shard {
            id: ShardId(id),
            index: FilterIndex::new(seed.clone(), max_shapes),
            routes: routes.clone(),
            groups: groups.clone(),
            members: SharedGroups::new(seed.clone()),
            subscriptions: BTreeMap::new(),
            memberships: BTreeMap::new(),
        };
        Ok(Self {
            shards: (0..shards as u16).map(shard).collect(),
            retained: Retained::new(1_000, 1 << 20),
            retained_model: BTreeMap::new(),
        })
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let kind: u8 = u.arbitrary()?;
        let shard = usize::from(kind >> 4) % self.shards.len();
        let session = u32::from(kind >> 6) % SESSIONS;
        match kind % 8 {
            0 | 1 => {
                let (filter, options, id) = (filter(u)?, u.arbitrary()?, u.arbitrary()?);
                self.shards[shard].subscribe(&filter, session, options, id);
            }
            2 => {
                let nth = u.arbitrary()?;
                self.shards[shard].unsubscribe(nth);
            }
            3 => {
                let topic = topic(u)?;
                self.publish(&topic);
            }
            4 => {
                let (share, filter) = (*u.choose(&SHARES)?, filter(u)?);
                let online = u.arbitrary()?;
                self.shards[shard].join(share, &filter, session, online);
            }
            5 => {
                let (nth, leaves) = (u.arbitrary()?, u.arbitrary()?);
                self.shards[shard].change_membership(nth, leaves);
            }
            6 => {
                let (topic, value) = (topic(u)?, u.arbitrary()?);
                self.retain(topic, value);
            }
            _ => {
                let (filter, limits) = (filter(u)?, u.arbitrary::<[u8; 2]>()?);
                self.scan(&filter, limits);
                let any: &str = u.arbitrary()?;
                checked(any);
            }
        }
        Ok(())
    }

    fn publish(&mut self, topic: &str) {
        let routes = self.shards[0].routes.shards_for(topic);
        for shard in &mut self.shards {
            let wants = shard.matching(topic);
            assert!(!wants || routes.contains(shard.id), "{:?} is left out for {topic}", shard.id);
        }
        let mut found = Vec::new();
        self.shards[0].groups.matching(topic, &mut found);
        let found_names: Vec<_> =
            found.iter().map(|group| (group.share(), group.filter())).collect();
        let names: BTreeSet<_> = found_names.iter().copied().collect();
        assert_eq!(names.len(), found_names.len(), "a group is found twice for {topic}");
        let members = self.shards.iter().flat_map(|shard| shard.memberships.keys());
        let expected: BTreeSet<_> = members
            .map(|(share, filter, _)| (share.as_str(), filter.as_str()))
            .filter(|(_, filter)| naive_matches(filter, topic))
            .collect();
        assert_eq!(names, expected, "{topic}");
        for group in &found {
            self.pick(group);
        }
    }

    fn pick(&self, group: &GroupRoute) {
        let of_group = |shard: &Shard| {
            let all = shard.memberships.iter();
            all.filter(|((share, filter, _), _)| share == group.share() && filter == group.filter())
                .map(|(_, online)| *online)
                .collect::<Vec<bool>>()
        };
        let all: Vec<Vec<bool>> = self.shards.iter().map(of_group).collect();
        let members: usize = all.iter().map(Vec::len).sum();
        let online = all.iter().flatten().filter(|online| **online).count();
        assert_eq!((group.members() as usize, group.online() as usize), (members, online));
        let mut rng = fastrand::Rng::with_seed(7);
        let mut tried = ShardSet::EMPTY;
        while let Some(pick) = group.pick(Strategy::RoundRobin, &mut rng, ShardId(0), 1, 2, tried) {
            let of_shard = &all[pick.shard.index()];
            assert!(!of_shard.is_empty() && !tried.contains(pick.shard));
            assert!(!pick.online || of_shard.contains(&true));
            assert!((pick.index as usize) < of_shard.len());
            tried.insert(pick.shard);
        }
        assert_eq!(tried.len(), all.iter().filter(|members| !members.is_empty()).count());
    }

    fn retain(&mut self, topic: String, value: u32) {
        if value.is_multiple_of(4) {
            assert_eq!(self.retained.remove(&topic), self.retained_model.remove(&topic));
        } else {
            let old = self.retained_model.insert(topic.clone(), value);
            assert_eq!(self.retained.set(&topic, value, 10), Ok(old));
        }
        assert_eq!(self.retained.len(), self.retained_model.len());
        assert_eq!(self.retained.bytes(), 10 * self.retained_model.len() as u64);
    }

    fn scan(&self, filter: &str, [max_results, max_visited]: [u8; 2]) {
        let (max_results, max_visited) = (usize::from(max_results), usize::from(max_visited));
        let (mut all, mut cursor) = (Vec::new(), None);
        for calls in 0.. {
            assert!(calls <= 2 * self.retained_model.len() + 1, "{filter} has no end");
            let before = all.len();
            let (visited, next) =
                self.retained.scan(filter, cursor.as_deref(), max_results, max_visited, &mut all);
            assert!(all.len() - before <= max_results.max(1));
            assert!(visited <= max_visited.max(1));
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        let found: Vec<_> = all.into_iter().map(|(topic, value)| (topic, *value)).collect();
        let model = self.retained_model.iter().map(|(topic, value)| (topic.as_str(), *value));
        let expected: Vec<_> = model.filter(|(topic, _)| naive_matches(filter, topic)).collect();
        assert_eq!(found, expected, "{filter}");
    }

    /// Everybody leaves, and nothing is left.
    fn end(mut self) {
        for shard in &mut self.shards {
            while !shard.subscriptions.is_empty() {
                shard.unsubscribe(0);
            }
            while !shard.memberships.is_empty() {
                shard.change_membership(0, true);
            }
            assert!(shard.index.is_empty() && shard.index.subscriptions() == 0);
            assert_eq!(shard.index.fallback_len(), 0);
            assert!(shard.members.is_empty() && shard.members.members() == 0);
        }
        let first = &self.shards[0];
        assert!(first.routes.is_empty(), "{:?}", first.routes);
        assert!(first.groups.is_empty());
    }
}

impl Shard {
    fn subscribe(&mut self, filter: &str, session: u32, options: u8, id: u32) {
        let subscriber = Subscriber { session: SessionKey(session), options, id };
        let place = self.index.place(filter);
        let fallbacks = self.index.fallback_len();
        let subscribed = self.index.subscribe(filter, subscriber);
        if let Some(key) = &subscribed.first {
            self.routes.add(self.id, key);
        }
        let one_more = usize::from(place == Place::NewFallback);
        assert_eq!(self.index.fallback_len(), fallbacks + one_more, "{filter} at {place:?}");
        let old = self.subscriptions.insert((filter.to_owned(), session), (options, id));
        assert_eq!(subscribed.existed, old.is_some());
        assert_eq!(self.index.filter(subscribed.filter), filter);
        assert_eq!(self.index.find(filter), Some(subscribed.filter));
        self.same_size();
    }

    /// The `nth` subscription ends.
    fn unsubscribe(&mut self, nth: u8) {
        let Some((filter, session)) = nth_key(&self.subscriptions, nth) else { return };
        let id = self.index.find(&filter).expect("it has a subscriber");
        let unsubscribed = self.index.unsubscribe(id, SessionKey(session));
        if let Some(key) = &unsubscribed.last {
            self.routes.remove(self.id, key);
        }
        assert!(unsubscribed.removed);
        self.subscriptions.remove(&(filter.clone(), session));
        let others = self.subscriptions.keys().any(|(other, _)| *other == filter);
        assert_eq!(self.index.find(&filter).is_some(), others);
        assert!(!self.index.unsubscribe(id, SessionKey(session)).removed || !others);
        self.same_size();
    }

    fn same_size(&self) {
        let filters: BTreeSet<_> = self.subscriptions.keys().map(|(filter, _)| filter).collect();
        assert_eq!(self.index.len(), filters.len());
        assert_eq!(self.index.subscriptions(), self.subscriptions.len());
    }

    /// Whether any filter of this shard matches, after a check of which ones do.
    fn matching(&mut self, topic: &str) -> bool {
        let mut found = Vec::new();
        self.index.matching(topic, &mut found);
        let mut subscribers = BTreeMap::new();
        for id in found {
            for subscriber in self.index.subscribers(id) {
                let key = (self.index.filter(id).to_owned(), subscriber.session.0);
                let old = subscribers.insert(key, (subscriber.options, subscriber.id));
                assert_eq!(old, None, "found twice for {topic}");
            }
        }
        let all = self.subscriptions.iter();
        let expected: BTreeMap<_, _> = all
            .filter(|((filter, _), _)| naive_matches(filter, topic))
            .map(|(key, options)| (key.clone(), *options))
            .collect();
        assert_eq!(subscribers, expected, "{topic}");
        for (filter, _) in self.subscriptions.keys() {
            assert_eq!(matches(filter, topic), naive_matches(filter, topic), "{filter} {topic}");
        }
        !expected.is_empty()
    }

    fn join(&mut self, share: &str, filter: &str, session: u32, online: bool) {
        let membership = (share.to_owned(), filter.to_owned(), session);
        let subscriber = Subscriber { session: SessionKey(session), options: 0, id: 0 };
        if let Some(was) = self.memberships.get_mut(&membership) {
            let was = std::mem::replace(was, online);
            assert!(self.members.join(share, filter, subscriber, online));
            if was != online {
                let key = self.groups.key(filter);
                self.groups.set_online(self.id, share, filter, &key, online);
            }
            return;
        }
        let key = self.groups.key(filter);
        if self.groups.join(self.id, share, filter, &key, online).is_ok() {
            assert!(!self.members.join(share, filter, subscriber, online));
            self.memberships.insert(membership, online);
        }
    }

    /// The `nth` membership ends, or the member goes or comes.
    fn change_membership(&mut self, nth: u8, leaves: bool) {
        let Some(membership) = nth_key(&self.memberships, nth) else { return };
        let (share, filter, session) = &membership;
        let key = self.groups.key(filter);
        let online = self.memberships[&membership];
        if leaves {
            assert_eq!(self.members.leave(share, filter, SessionKey(*session)), Some(online));
            self.groups.leave(self.id, share, filter, &key, online);
            self.memberships.remove(&membership);
        } else {
            assert!(self.members.set_online(share, filter, SessionKey(*session), !online));
            self.groups.set_online(self.id, share, filter, &key, !online);
            self.memberships.insert(membership, !online);
        }
        assert_eq!(self.members.members(), self.memberships.len());
    }
}

fn nth_key<K: Clone, V>(map: &BTreeMap<K, V>, nth: u8) -> Option<K> {
    map.keys().nth(usize::from(nth) % map.len().max(1)).cloned()
}

/// A valid topic filter.
fn filter(u: &mut Unstructured<'_>) -> Result<String> {
    let text = levels(u)?;
    Ok(if checked(&text).0 { text } else { "a/#".into() })
}

/// A valid topic name.
fn topic(u: &mut Unstructured<'_>) -> Result<String> {
    let text = levels(u)?;
    Ok(if checked(&text).1 { text } else { text.replace(['+', '#'], "a") + "b" })
}

/// Mostly of a few levels, now and then of many.
fn levels(u: &mut Unstructured<'_>) -> Result<String> {
    let choice: u8 = u.arbitrary()?;
    if choice == 0xFF {
        return Ok(u.arbitrary::<&str>()?.to_owned());
    }
    let count =
        if choice >= 0xF8 { 29 + usize::from(choice & 7) } else { 1 + usize::from(choice % 6) };
    let mut levels = Vec::with_capacity(count);
    for _ in 0..count {
        let level: u8 = u.arbitrary()?;
        levels.push(LEVELS[usize::from(level) % LEVELS.len()]);
    }
    Ok(levels.join("/"))
}

/// Whether the text is a valid filter and a valid name, on which the rules as the specification
/// has them and the broker's must agree.
fn checked(text: &str) -> (bool, bool) {
    let sound = !text.is_empty() && text.len() <= MAX_TOPIC_BYTES && !text.contains('\0');
    let levels: Vec<&str> = text.split('/').collect();
    let sound = sound && levels.len() <= MAX_LEVELS;
    let name = sound && !text.contains(['+', '#']);
    let filter = sound
        && levels.iter().all(|level| *level == "+" || *level == "#" || !level.contains(['+', '#']))
        && levels.iter().rev().skip(1).all(|level| *level != "#");
    assert_eq!(validate_topic_name(text, MAX_LEVELS).is_ok(), name, "{text:?}");
    assert_eq!(validate_topic_filter(text, MAX_LEVELS).is_ok(), filter, "{text:?}");
    let parts: Vec<&str> = text.splitn(3, '/').collect();
    let shared = match parts[..] {
        ["$share"] => Ok(None),
        ["$share", share] if share.is_empty() || !share.contains(['+', '#']) => Err(()),
        ["$share", share, rest] if !share.is_empty() && !share.contains(['+', '#']) => {
            if rest.is_empty() { Err(()) } else { Ok(Some((share, rest))) }
        }
        ["$share", ..] => Err(()),
        _ => Ok(None),
    };
    assert_eq!(parse_shared(text).map_err(|_| ()), shared, "{text:?}");
    (filter, name)
}
