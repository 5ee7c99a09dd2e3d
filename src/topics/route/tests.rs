#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::topics::testing::{any_filter, any_topic, naive_matches, seed};
use crate::topics::{FilterIndex, SessionKey, Subscriber};

const SESSION: SessionKey = SessionKey(1);
const SUBSCRIBER: Subscriber = Subscriber { session: SESSION, options: 0, id: 0 };

/// Some shards that tell one table of their filters.
struct Shards {
    table: RouteTable,
    indexes: Vec<FilterIndex>,
    filters: Vec<Vec<String>>,
}

impl Shards {
    fn new(seed: &HashSeed, shards: usize, local_shapes: usize, max_shapes: usize) -> Self {
        Self {
            table: RouteTable::new(seed.clone(), max_shapes),
            indexes: (0..shards).map(|_| FilterIndex::new(seed.clone(), local_shapes)).collect(),
            filters: vec![Vec::new(); shards],
        }
    }

    /// Subscribes, or unsubscribes when there is a subscription.
    fn toggle(&mut self, shard: usize, filter: &str) {
        let (index, filters) = (&mut self.indexes[shard], &mut self.filters[shard]);
        if let Some(at) = filters.iter().position(|it| it == filter) {
            filters.swap_remove(at);
            unsubscribe(&self.table, shard, index, filter);
        } else {
            filters.push(filter.to_owned());
            subscribe(&self.table, shard, index, filter);
        }
    }

    fn wanted(&self, topic: &str) -> ShardSet {
        let wants = |filters: &Vec<String>| filters.iter().any(|it| naive_matches(it, topic));
        let shards = (0..).zip(&self.filters).filter(|(_, filters)| wants(filters));
        shards.map(|(shard, _)| ShardId(shard)).collect()
    }

    fn unsubscribe_all(&mut self) {
        for shard in 0..self.filters.len() {
            while let Some(filter) = self.filters[shard].first().cloned() {
                self.toggle(shard, &filter);
            }
        }
    }
}

fn subscribe(table: &RouteTable, shard: usize, index: &mut FilterIndex, filter: &str) {
    if let Some(key) = index.subscribe(filter, SUBSCRIBER).first {
        table.add(ShardId(shard as u16), &key);
    }
}

fn unsubscribe(table: &RouteTable, shard: usize, index: &mut FilterIndex, filter: &str) {
    let id = index.find(filter).expect("subscribed");
    if let Some(key) = index.unsubscribe(id, SESSION).last {
        table.remove(ShardId(shard as u16), &key);
    }
}

#[test]
fn a_shard_beyond_the_shapes_gets_everything() {
    let mut shards = Shards::new(&seed(), 2, 64, 1);
    shards.toggle(0, "a/+");
    shards.toggle(1, "a/#");
    assert_eq!(shards.table.everything(), ShardSet::only(ShardId(1)));
    assert_eq!(shards.table.shards_for("x"), ShardSet::only(ShardId(1)));
    shards.toggle(1, "b/+");
    shards.toggle(1, "a/#");
    assert_eq!(shards.table.shards_for("x"), ShardSet::EMPTY);
    assert_eq!(shards.table.shards_for("b/x"), ShardSet::only(ShardId(1)));
    shards.unsubscribe_all();
    assert!(shards.table.is_empty());
    shards.toggle(1, "a/#");
    assert!(shards.table.everything().is_empty(), "the slot is free again");
}

#[test]
fn a_filter_without_a_shape_makes_its_shard_get_everything() {
    let mut shards = Shards::new(&seed(), 2, 64, 64);
    let deep = format!("{}+", "a/".repeat(40));
    shards.toggle(0, &deep);
    shards.toggle(0, &format!("{deep}/#"));
    shards.toggle(0, &deep);
    assert_eq!(shards.table.shards_for("x"), ShardSet::only(ShardId(0)));
    shards.unsubscribe_all();
    assert_eq!(shards.table.shards_for("x"), ShardSet::EMPTY);
}

proptest! {
    #[test]
    fn exactly_the_shards_with_a_matching_filter_are_named(
        steps in vec((0..4usize, any_filter(), any_topic(), any::<bool>()), 1..150),
        local_shapes in 0..20usize,
    ) {
        let mut shards = Shards::new(&seed(), 4, local_shapes, 1_000);
        for (shard, filter, topic, shrinks) in steps {
            shards.toggle(shard, &filter);
            if shrinks {
                shards.table.shrink();
            }
            prop_assert_eq!(shards.table.shards_for(&topic), shards.wanted(&topic));
        }
        shards.unsubscribe_all();
        prop_assert!(shards.table.is_empty());
        prop_assert_eq!(shards.table.shared.shapes.iter().count(), 0);
    }

    #[test]
    fn no_shard_is_left_out_when_shapes_are_few_and_fingerprints_collide(
        steps in vec((0..3usize, any_filter(), any_topic()), 1..150),
        local_shapes in 0..8usize, max_shapes in 0..8usize, bits in 0..8u32,
    ) {
        let mut shards = Shards::new(&HashSeed::narrow(bits), 3, local_shapes, max_shapes);
        for (shard, filter, topic) in steps {
            shards.toggle(shard, &filter);
            let (found, wanted) = (shards.table.shards_for(&topic), shards.wanted(&topic));
            prop_assert!(wanted.difference(found).is_empty(), "{:?} {:?}", found, wanted);
        }
        shards.unsubscribe_all();
        prop_assert!(shards.table.is_empty());
    }
}

/// Every shard toggles filters that the others toggle too, and after each change asks for topics
/// that it, or a shard with a lasting filter, must be named for.
#[test]
fn shards_that_race_lose_no_mark() {
    const RACERS: usize = 4;
    const ROUNDS: usize = 2_000;
    let filters = ["a/b", "a/+", "+/b", "a/#", "#", "+/+", "a/b/#", "x/+/+", "y/#", "dev/1/cmd"];
    let topics = ["a/b", "a/c", "x/y/z", "y", "dev/1/cmd"];
    for max_shapes in [2, 64] {
        let table = RouteTable::new(seed(), max_shapes);
        let start = Barrier::new(RACERS);
        thread::scope(|scope| {
            for shard in 0..RACERS {
                let (table, start) = (table.clone(), &start);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(shard as u64);
                    let mut index = FilterIndex::new(seed(), 64);
                    let mut mine: Vec<&str> = Vec::new();
                    start.wait();
                    for _ in 0..ROUNDS {
                        let filter = filters[rng.usize(..filters.len())];
                        if let Some(at) = mine.iter().position(|&it| it == filter) {
                            mine.swap_remove(at);
                            unsubscribe(&table, shard, &mut index, filter);
                        } else {
                            mine.push(filter);
                            subscribe(&table, shard, &mut index, filter);
                        }
                        if rng.u8(..8) == 0 {
                            table.shrink();
                        }
                        for topic in topics {
                            let named = table.shards_for(topic).contains(ShardId(shard as u16));
                            let wanted = mine.iter().any(|it| naive_matches(it, topic));
                            assert!(named || !wanted, "{topic} {mine:?}");
                            assert!(wanted || !named || max_shapes < 64, "{topic} {mine:?}");
                        }
                    }
                    for filter in mine {
                        unsubscribe(&table, shard, &mut index, filter);
                    }
                });
            }
        });
        assert!(table.is_empty());
        assert_eq!(table.shared.shapes.iter().count(), 0);
        assert!(topics.iter().all(|topic| table.shards_for(topic).is_empty()));
    }
}

#[test]
fn a_lasting_filter_is_named_while_others_come_and_go() {
    let table = RouteTable::new(seed(), 64);
    let mut lasting = FilterIndex::new(seed(), 64);
    for filter in ["a/b", "c/+"] {
        subscribe(&table, 0, &mut lasting, filter);
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let churn = |shard: usize| {
            let (table, done) = (table.clone(), &done);
            move || {
                let mut index = FilterIndex::new(seed(), 64);
                for round in 0..3_000 {
                    let noise = format!("noise/{round}");
                    for filter in ["a/b", "c/+", "+/b", &noise] {
                        subscribe(&table, shard, &mut index, filter);
                    }
                    for filter in ["c/+", "a/b", "+/b", &noise] {
                        unsubscribe(&table, shard, &mut index, filter);
                    }
                }
                done.store(true, Ordering::Release);
            }
        };
        scope.spawn(churn(1));
        scope.spawn(churn(127));
        while !done.load(Ordering::Acquire) {
            assert!(table.shards_for("a/b").contains(ShardId(0)));
            assert!(table.shards_for("c/d").contains(ShardId(0)));
        }
    });
    assert_eq!(table.shards_for("a/b"), ShardSet::only(ShardId(0)));
    assert_eq!(table.len(), 2);
}
