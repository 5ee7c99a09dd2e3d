#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{
    GroupRoute, GroupTable, HashSeed, MAX_GROUPS_PER_FILTER, Pick, Shape, ShardId, ShardSet,
    Strategy, TopicError,
};
use crate::topics::testing::{any_filter, any_topic, naive_matches, seed};

const HERE: ShardId = ShardId(0);
const STRATEGIES: [Strategy; 6] = [
    Strategy::RoundRobin,
    Strategy::Random,
    Strategy::Sticky,
    Strategy::HashClientId,
    Strategy::HashTopic,
    Strategy::Local,
];

fn nothing_left(table: &GroupTable) -> bool {
    let mut filters = 0;
    table.shared.by_filter.for_each(|groups| filters += groups.0.len());
    table.is_empty() && filters == 0
}

/// A group with so many members, of them so many online, on each shard.
fn group(by_shard: &[(u32, u32)]) -> GroupRoute {
    let group = GroupRoute::new("g", "f", Shape::EXACT, by_shard.len());
    for (shard, &(members, online)) in (0..).zip(by_shard) {
        assert!(group.change(ShardId(shard), members as i32, online as i32));
    }
    group
}

fn pick(group: &GroupRoute, strategy: Strategy, tried: ShardSet) -> Option<Pick> {
    group.pick(strategy, &mut fastrand::Rng::with_seed(1), HERE, 11, 12, tried)
}

fn tally(group: &GroupRoute, strategy: Strategy, picks: usize) -> BTreeMap<(u16, u32), usize> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut tally = BTreeMap::new();
    for _ in 0..picks {
        let pick = group.pick(strategy, &mut rng, HERE, 11, 12, ShardSet::EMPTY).unwrap();
        *tally.entry((pick.shard.0, pick.index)).or_default() += 1;
    }
    tally
}

#[test]
fn round_robin_is_fair_to_every_member_on_every_shard() {
    let tally = tally(&group(&[(3, 2), (0, 0), (5, 5), (1, 0)]), Strategy::RoundRobin, 700);
    let expected = [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4)];
    assert_eq!(tally, expected.map(|member| (member, 100)).into());
}

#[test]
fn random_reaches_every_member_that_is_online() {
    let tally = tally(&group(&[(3, 2), (4, 4)]), Strategy::Random, 6_000);
    assert_eq!(tally.len(), 6);
    assert!(tally.values().all(|count| (800..1_200).contains(count)), "{tally:?}");
}

#[test]
fn local_stays_on_the_publishers_shard_while_someone_is_online_there() {
    let both = group(&[(2, 2), (3, 3)]);
    assert_eq!(tally(&both, Strategy::Local, 100), [((0, 0), 50), ((0, 1), 50)].into());
    let elsewhere = tally(&group(&[(2, 0), (3, 3)]), Strategy::Local, 99);
    assert_eq!(elsewhere, [((1, 0), 33), ((1, 1), 33), ((1, 2), 33)].into());
}

#[test]
fn sticky_stays_until_nobody_is_online_there() {
    let group = group(&[(2, 2), (3, 3)]);
    assert_eq!(tally(&group, Strategy::Sticky, 50).len(), 1);
    let stuck = pick(&group, Strategy::Sticky, ShardSet::EMPTY).unwrap();
    let online = if stuck.shard == ShardId(0) { 2 } else { 3 };
    group.change(stuck.shard, 0, -online);
    let next = pick(&group, Strategy::Sticky, ShardSet::EMPTY).unwrap();
    assert_ne!(next.shard, stuck.shard);
    group.change(stuck.shard, 0, online);
    assert_eq!(pick(&group, Strategy::Sticky, ShardSet::EMPTY), Some(next));
}

#[test]
fn hashes_decide_alone() {
    let group = group(&[(4, 4), (4, 4)]);
    let by = |strategy, publisher, topic| {
        group.pick(strategy, &mut fastrand::Rng::new(), HERE, publisher, topic, ShardSet::EMPTY)
    };
    for hash in 0..100 {
        let expected = Some(Pick {
            shard: ShardId((hash % 8 / 4) as u16),
            index: (hash % 4) as u32,
            online: true,
        });
        assert_eq!(by(Strategy::HashClientId, hash, hash + 1), expected);
        assert_eq!(by(Strategy::HashTopic, hash + 1, hash), expected);
    }
}

proptest! {
    #[test]
    fn a_pick_is_a_member_and_online_if_any_is(
        by_shard in vec((0..4u32, 0..4u32), 1..6), tried in vec(0..6u16, 0..4),
        strategy in prop::sample::select(STRATEGIES.to_vec()), hashes in any::<(u64, u64, u64)>(),
    ) {
        let by_shard: Vec<(u32, u32)> =
            by_shard.iter().map(|&(members, online)| (members, online.min(members))).collect();
        let group = group(&by_shard);
        let tried: ShardSet = tried.into_iter().map(ShardId).collect();
        let mut rng = fastrand::Rng::with_seed(hashes.2);
        let open = || (0..).zip(&by_shard).filter(|&(at, _)| !tried.contains(ShardId(at)));
        let any_member = open().any(|(_, &(members, _))| members > 0);
        let any_online = open().any(|(_, &(_, online))| online > 0);
        for _ in 0..8 {
            let pick = group.pick(strategy, &mut rng, HERE, hashes.0, hashes.1, tried);
            prop_assert_eq!(pick.is_some(), any_member);
            let Some(pick) = pick else { continue };
            let (members, online) = by_shard[pick.shard.index()];
            prop_assert_eq!(pick.online, any_online);
            prop_assert!(!tried.contains(pick.shard));
            let weight = if any_online { online } else { members };
            prop_assert!(pick.index < weight);
        }
    }

    #[test]
    fn the_table_follows_a_model(
        steps in vec((0..3u16, 0..3u8, any_filter(), any::<bool>(), any_topic()), 1..120),
        bits in prop::sample::select(vec![0, 3, 63]),
    ) {
        let table = GroupTable::new(HashSeed::narrow(bits), 3, 1_000);
        let mut model: BTreeMap<(String, String), [(u32, u32); 3]> = BTreeMap::new();
        for (shard, share, filter, first_choice, topic) in steps {
            let (key, name) = (table.key(&filter), format!("g{share}"));
            let (at, id) = (usize::from(shard), ShardId(shard));
            let counts = model.entry((name.clone(), filter.clone())).or_default();
            match (first_choice, counts[at]) {
                (true, (_, online)) | (false, (0, online)) => {
                    prop_assert_eq!(table.join(id, &name, &filter, &key, online == 0), Ok(()));
                    counts[at] = (counts[at].0 + 1, online + u32::from(online == 0));
                }
                (false, (members, 0)) => {
                    table.leave(id, &name, &filter, &key, false);
                    counts[at] = (members - 1, 0);
                }
                (false, (members, online)) => {
                    table.set_online(id, &name, &filter, &key, false);
                    counts[at] = (members, online - 1);
                }
            }
            model.retain(|_, counts| counts.iter().any(|&(members, _)| members > 0));
            check_groups(&table, &model, &topic);
        }
    }
}

fn check_groups(
    table: &GroupTable,
    model: &BTreeMap<(String, String), [(u32, u32); 3]>,
    topic: &str,
) {
    assert_eq!((table.len(), table.is_empty()), (model.len(), model.is_empty()));
    let mut out = Vec::new();
    table.matching(topic, &mut out);
    let found: BTreeMap<_, _> = out
        .iter()
        .map(|group| {
            let counts: Vec<_> = group.counts().map(|(_, it)| (it.members, it.online)).collect();
            ((group.share().to_owned(), group.filter().to_owned()), counts)
        })
        .collect();
    assert_eq!(found.len(), out.len(), "a group was found twice");
    let expected: BTreeMap<_, _> = model
        .iter()
        .filter(|((_, filter), _)| naive_matches(filter, topic))
        .map(|(name, counts)| (name.clone(), counts.to_vec()))
        .collect();
    assert_eq!(found, expected);
    for group in out {
        assert_eq!(group.members(), group.counts().map(|(_, it)| it.members).sum::<u32>());
    }
}

#[test]
fn shapes_beyond_the_cap_are_refused() {
    let table = GroupTable::new(seed(), 2, 1);
    let join = |shard: u16, filter: &str| {
        table.join(ShardId(shard), "g", filter, &table.key(filter), true)
    };
    let leave = |shard: u16, filter: &str| {
        table.leave(ShardId(shard), "g", filter, &table.key(filter), true);
    };
    assert_eq!(join(0, "a/+"), Ok(()));
    assert_eq!(join(1, "b/+"), Ok(()));
    assert_eq!(join(0, "a/#"), Err(TopicError::TooManyShapes));
    assert_eq!(join(0, "a/b"), Ok(()));
    assert_eq!(join(0, &format!("{}+", "a/".repeat(40))), Err(TopicError::TooManyShapes));
    leave(0, "a/+");
    assert_eq!(join(0, "a/#"), Err(TopicError::TooManyShapes));
    leave(1, "b/+");
    assert_eq!(join(0, "a/#"), Ok(()));
    assert_eq!(table.len(), 2);
}

#[test]
fn share_names_of_one_filter_are_capped() {
    let table = GroupTable::new(seed(), 1, 1);
    let key = table.key("a/+");
    for share in 0..MAX_GROUPS_PER_FILTER {
        assert_eq!(table.join(HERE, &share.to_string(), "a/+", &key, true), Ok(()));
    }
    assert_eq!(table.join(HERE, "one more", "a/+", &key, true), Err(TopicError::TooManyGroups));
    assert_eq!(table.join(HERE, "7", "a/+", &key, true), Ok(()));
    for share in 0..MAX_GROUPS_PER_FILTER {
        table.leave(HERE, &share.to_string(), "a/+", &key, true);
    }
    assert_eq!(table.len(), 1);
    table.leave(HERE, "7", "a/+", &key, true);
    table.leave(HERE, "7", "a/+", &key, true);
    assert!(nothing_left(&table));
    assert_eq!(table.shared.shapes.iter().count(), 0);
}

/// Shards join and leave the same few groups; a shard must find every group that it is in, with
/// itself counted there, and nothing may be left in the end.
#[test]
fn shards_that_race_lose_no_member() {
    const RACERS: u16 = 4;
    const ROUNDS: usize = 3_000;
    let names = [("g", "a/b"), ("h", "a/b"), ("g", "a/+"), ("g", "#")];
    let table = GroupTable::new(seed(), usize::from(RACERS), 64);
    let start = Barrier::new(usize::from(RACERS));
    thread::scope(|scope| {
        for shard in (0..RACERS).map(ShardId) {
            let (table, start) = (table.clone(), &start);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(u64::from(shard.0));
                let mut mine = BTreeSet::new();
                let mut groups = Vec::new();
                start.wait();
                for _ in 0..ROUNDS {
                    let (share, filter) = names[rng.usize(..names.len())];
                    let key = table.key(filter);
                    if mine.remove(&(share, filter)) {
                        table.leave(shard, share, filter, &key, true);
                    } else {
                        table.join(shard, share, filter, &key, true).unwrap();
                        mine.insert((share, filter));
                    }
                    groups.clear();
                    table.matching("a/b", &mut groups);
                    let with_me: BTreeSet<(&str, &str)> = groups
                        .iter()
                        .filter(|group| group.counts().nth(shard.index()).unwrap().1.online == 1)
                        .map(|group| (group.share(), group.filter()))
                        .collect();
                    assert_eq!(with_me, mine);
                }
                for (share, filter) in mine {
                    table.leave(shard, share, filter, &table.key(filter), true);
                }
            });
        }
    });
    assert!(nothing_left(&table));
    assert_eq!(table.shared.shapes.iter().count(), 0);
}
