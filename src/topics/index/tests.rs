#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::topics::testing::{any_filter, any_topic, naive_matches, seed};

#[derive(Debug, Clone)]
enum Step {
    Subscribe(String, Subscriber),
    Unsubscribe(String, SessionKey),
    Match(String),
}

fn any_step(sessions: u32) -> impl proptest::strategy::Strategy<Value = Step> {
    let subscriber = (0..sessions, 0..4u8, 0..3u32).prop_map(|(session, options, id)| Subscriber {
        session: SessionKey(session),
        options,
        id,
    });
    prop_oneof![
        3 => (any_filter(), subscriber).prop_map(|(filter, who)| Step::Subscribe(filter, who)),
        3 => (any_filter(), 0..sessions)
            .prop_map(|(filter, session)| Step::Unsubscribe(filter, SessionKey(session))),
        1 => any_topic().prop_map(Step::Match),
    ]
}

/// An index, and beside it what it should hold.
struct Checked {
    seed: HashSeed,
    index: FilterIndex,
    model: BTreeMap<String, BTreeMap<SessionKey, Subscriber>>,
    /// The keys that the route table was told of; without a shape, how often.
    routed: BTreeMap<(Option<u64>, u64), usize>,
}

impl Checked {
    fn new(seed: HashSeed, max_shapes: usize) -> Self {
        let index = FilterIndex::new(seed.clone(), max_shapes);
        Self { seed, index, model: BTreeMap::new(), routed: BTreeMap::new() }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Subscribe(filter, subscriber) => {
                let done = self.index.subscribe(&filter, subscriber);
                assert_eq!(self.index.filter(done.filter), filter);
                let subscribers = self.model.entry(filter).or_default();
                let old = subscribers.insert(subscriber.session, subscriber);
                assert_eq!(done.existed, old.is_some());
                if let Some(key) = done.first {
                    *self.routed.entry(by(&key)).or_default() += 1;
                }
            }
            Step::Unsubscribe(filter, session) => self.unsubscribe(&filter, session),
            Step::Match(topic) => self.check_match(&topic),
        }
        self.check_counts();
    }

    fn unsubscribe(&mut self, filter: &str, session: SessionKey) {
        let id = self.index.find(filter);
        assert_eq!(id.is_some(), self.model.contains_key(filter));
        let Some(id) = id else { return };
        let done = self.index.unsubscribe(id, session);
        let subscribers = self.model.get_mut(filter).unwrap();
        assert_eq!(done.removed, subscribers.remove(&session).is_some());
        if subscribers.is_empty() {
            self.model.remove(filter);
        }
        if let Some(key) = done.last {
            let count = self.routed.get_mut(&by(&key)).expect("the last of none");
            *count -= 1;
            self.routed.retain(|_, count| *count > 0);
        }
    }

    fn check_match(&mut self, topic: &str) {
        let mut out = Vec::new();
        self.index.matching(topic, &mut out);
        let found: BTreeSet<&str> = out.iter().map(|&id| self.index.filter(id)).collect();
        assert_eq!(found.len(), out.len(), "a filter was found twice");
        let filters = self.model.keys().map(String::as_str);
        let expected: BTreeSet<&str> =
            filters.filter(|filter| naive_matches(filter, topic)).collect();
        assert_eq!(found, expected, "{topic}");
        for (filter, subscribers) in &self.model {
            let found = self.index.subscribers(self.index.find(filter).unwrap());
            let mut found: Vec<Subscriber> = found.to_vec();
            found.sort_by_key(|subscriber| subscriber.session);
            assert_eq!(found, subscribers.values().copied().collect::<Vec<_>>());
        }
    }

    fn check_counts(&self) {
        assert_eq!(self.index.len(), self.model.len());
        let subscriptions: usize = self.model.values().map(BTreeMap::len).sum();
        assert_eq!(self.index.subscriptions(), subscriptions);
        assert!(self.index.shapes.len() <= self.index.max_shapes);
        let mut needed = BTreeMap::new();
        for filter in self.model.keys() {
            let key = FilterKey::of(&self.seed, filter);
            let count = needed.entry(by(&key)).or_insert(0);
            *count = if key.shape.is_some() { 1 } else { *count + 1 };
        }
        assert_eq!(self.routed, needed);
    }
}

fn by(key: &FilterKey) -> (Option<u64>, u64) {
    (key.shape.map(Shape::bits), key.fingerprint)
}

fn subscriber(session: u32) -> Subscriber {
    Subscriber { session: SessionKey(session), options: 1, id: 0 }
}

#[test]
fn a_filter_of_a_device_stays_inside_its_entry() {
    let filter = FilterText::new(b"dev/0123456789abcdef01234567/cmd");
    assert!(matches!(filter, FilterText::Inline { len: 32, .. }));
    assert!(matches!(FilterText::new(&[b'x'; 38]), FilterText::Inline { .. }));
    assert!(matches!(FilterText::new(&[b'x'; 39]), FilterText::Heap(_)));
    assert!(matches!(FilterText::new(&[b'x'; 65_535]), FilterText::Heap(_)));
}

#[test]
fn filters_of_every_length_are_found_again() {
    let mut index = FilterIndex::new(seed(), 4);
    let filters: Vec<String> = (1..100).map(|length| "x".repeat(length)).collect();
    for filter in &filters {
        index.subscribe(filter, subscriber(1));
    }
    for filter in &filters {
        let mut out = Vec::new();
        index.matching(filter, &mut out);
        let [id] = out[..] else { panic!("{filter}: {out:?}") };
        assert_eq!(index.filter(id), filter);
        assert!(index.unsubscribe(id, SessionKey(1)).removed);
    }
    assert!(index.is_empty());
}

#[test]
fn very_many_sessions_share_a_filter() {
    let mut index = FilterIndex::new(seed(), 4);
    let sessions = 20_000;
    for session in 0..sessions {
        let done = index.subscribe("all/+", subscriber(session));
        assert_eq!((done.existed, done.first.is_some()), (false, session == 0));
    }
    let id = index.find("all/+").unwrap();
    assert!(index.subscribe("all/+", subscriber(sessions / 2)).existed);
    for session in (0..sessions).filter(|session| session % 10 != 3) {
        assert_eq!(
            index.unsubscribe(id, SessionKey(session)),
            Unsubscribed { removed: true, fallback: false, last: None }
        );
        assert!(!index.unsubscribe(id, SessionKey(session)).removed);
    }
    let mut left: Vec<u32> = index.subscribers(id).iter().map(|it| it.session.0).collect();
    left.sort_unstable();
    assert_eq!(left, (0..sessions).filter(|session| session % 10 == 3).collect::<Vec<_>>());
    for session in left {
        index.unsubscribe(id, SessionKey(session));
    }
    assert!(index.is_empty());
    assert_eq!(index.subscriptions(), 0);
}

#[test]
fn levels_by_the_thousand_are_matched_without_recursion() {
    let mut index = FilterIndex::new(seed(), 4);
    let deep = "/".repeat(32_766);
    let filters = [format!("+{deep}"), format!("{deep}+"), format!("{deep}#"), deep.clone()];
    let mut ids: Vec<FilterId> =
        filters.iter().map(|filter| index.subscribe(filter, subscriber(1)).filter).collect();
    assert_eq!(index.fallback_len(), 3);
    let mut out = Vec::new();
    index.matching(&deep, &mut out);
    ids.sort_unstable();
    out.sort_unstable();
    assert_eq!(out, ids);
    for id in ids {
        assert!(index.unsubscribe(id, SessionKey(1)).last.is_some());
    }
    assert!(index.trie.is_empty() && index.is_empty());
}

#[test]
fn a_shape_is_free_again_when_its_last_filter_is_gone() {
    let mut index = FilterIndex::new(seed(), 1);
    let plus = index.subscribe("+", subscriber(1)).filter;
    let fallen_back = index.subscribe("a/+", subscriber(1)).filter;
    assert_eq!(index.fallback_len(), 1);
    index.unsubscribe(plus, SessionKey(1));
    let first = index.subscribe("b/+", subscriber(1)).first;
    assert_eq!((index.fallback_len(), first.is_some()), (1, true));
    assert!(!index.subscribe("a/+", subscriber(2)).existed);
    assert_eq!(index.find("a/+"), Some(fallen_back));
    let mut out = Vec::new();
    index.matching("a/x", &mut out);
    assert_eq!(out, [fallen_back]);
}

#[test]
fn a_filter_is_told_its_place_before_somebody_subscribes() {
    let mut index = FilterIndex::new(seed(), 1);
    assert_eq!([index.place("a"), index.place("+")], [Place::Shape; 2]);
    assert_eq!(index.place(&format!("+{}", "/a".repeat(32))), Place::NewFallback);
    index.subscribe("+", subscriber(1));
    assert_eq!([index.place("a"), index.place("+")], [Place::Shape; 2]);
    assert_eq!(index.place("a/+"), Place::NewFallback);
    let id = index.subscribe("a/+", subscriber(1)).filter;
    assert_eq!([index.place("a/+"), index.place("b/+")], [Place::Fallback, Place::NewFallback]);
    assert_eq!(index.matching("x", &mut Vec::new()), 1, "the root and no more");
    assert!(index.unsubscribe(id, SessionKey(1)).fallback);
    assert_eq!(index.matching("x", &mut Vec::new()), 0);
}

#[test]
fn unknown_filters_and_sessions_change_nothing() {
    let mut index = FilterIndex::new(seed(), 4);
    let nothing = Unsubscribed { removed: false, fallback: false, last: None };
    assert_eq!(index.unsubscribe(FilterId(7), SessionKey(1)), nothing);
    let id = index.subscribe("a", subscriber(1)).filter;
    assert_eq!(index.unsubscribe(id, SessionKey(2)), nothing);
    assert_eq!((index.filter(FilterId(7)), index.subscribers(FilterId(7))), ("", &[][..]));
    assert_eq!((index.len(), index.subscriptions()), (1, 1));
}

proptest! {
    #[test]
    fn the_index_follows_a_model(
        steps in vec(any_step(4), 1..150), max_shapes in 0..12usize,
    ) {
        let mut checked = Checked::new(seed(), max_shapes);
        for step in steps {
            checked.step(step);
        }
    }

    #[test]
    fn fingerprints_that_collide_are_told_apart(
        steps in vec(any_step(2), 1..150), max_shapes in 0..12usize, bits in 0..6u32,
    ) {
        let mut checked = Checked::new(HashSeed::narrow(bits), max_shapes);
        for step in steps {
            checked.step(step);
        }
    }

    #[test]
    fn nothing_is_left_when_all_have_unsubscribed(
        steps in vec(any_step(3), 1..100), max_shapes in 0..6usize,
    ) {
        let mut checked = Checked::new(seed(), max_shapes);
        for step in steps {
            checked.step(step);
        }
        for (filter, subscribers) in checked.model.clone() {
            for session in subscribers.into_keys() {
                checked.unsubscribe(&filter, session);
                checked.check_counts();
            }
        }
        prop_assert!(checked.index.is_empty() && checked.index.trie.is_empty());
        prop_assert!(checked.index.shapes.is_empty() && checked.index.exact.is_empty());
        prop_assert_eq!((checked.index.fallback_len(), checked.index.deepest), (0, 0));
    }
}
