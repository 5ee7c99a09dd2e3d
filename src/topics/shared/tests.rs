#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::{SessionKey, SharedGroups, Strategy, Subscriber};
use crate::topics::testing::seed;

fn subscriber(session: u32, id: u32) -> Subscriber {
    Subscriber { session: SessionKey(session), options: 1, id }
}

fn group(members: &[(u32, bool)]) -> SharedGroups {
    let mut groups = SharedGroups::new(seed());
    for &(session, online) in members {
        assert!(!groups.join("g", "f", subscriber(session, 0), online));
    }
    groups
}

fn pick(groups: &mut SharedGroups, strategy: Strategy, index: u32) -> Option<u32> {
    groups.pick("g", "f", strategy, index, |_| true).map(|member| member.session.0)
}

#[test]
fn indices_reach_every_member_that_is_online_equally() {
    let mut groups = group(&[(1, true), (2, false), (3, true), (4, false), (5, true)]);
    let picked: BTreeSet<Option<u32>> =
        (0..3).map(|index| pick(&mut groups, Strategy::RoundRobin, index)).collect();
    assert_eq!(picked, [Some(1), Some(3), Some(5)].into());
    for index in 0..3 {
        let again = pick(&mut groups, Strategy::RoundRobin, index + 3);
        assert_eq!(pick(&mut groups, Strategy::RoundRobin, index), again);
    }
}

#[test]
fn offline_members_are_picked_only_when_nobody_is_online() {
    let mut groups = group(&[(1, false), (2, true), (3, false)]);
    assert_eq!(pick(&mut groups, Strategy::Random, 2), Some(2));
    assert!(groups.set_online("g", "f", SessionKey(2), false));
    assert!(!groups.set_online("g", "f", SessionKey(2), false));
    let picked: BTreeSet<Option<u32>> =
        (0..3).map(|index| pick(&mut groups, Strategy::Random, index)).collect();
    assert_eq!(picked, [Some(1), Some(2), Some(3)].into());
}

#[test]
fn a_member_that_is_passed_over_leaves_its_turn_to_another() {
    let mut groups = group(&[(1, true), (2, true), (3, false)]);
    for index in 0..4 {
        let picked = groups.pick("g", "f", Strategy::RoundRobin, index, |it| it.0 != 1).unwrap();
        assert_eq!(picked.session, SessionKey(2));
    }
}

#[test]
fn sticky_stays_with_a_member_until_it_goes_offline() {
    let mut groups = group(&[(1, true), (2, true), (3, true)]);
    let first = pick(&mut groups, Strategy::Sticky, 1).unwrap();
    assert!((0..9).all(|index| pick(&mut groups, Strategy::Sticky, index) == Some(first)));
    groups.set_online("g", "f", SessionKey(first), false);
    let second = pick(&mut groups, Strategy::Sticky, 1).unwrap();
    assert_ne!(second, first);
    groups.set_online("g", "f", SessionKey(first), true);
    assert!((0..9).all(|index| pick(&mut groups, Strategy::Sticky, index) == Some(second)));
    groups.leave("g", "f", SessionKey(second));
    assert!(pick(&mut groups, Strategy::Sticky, 0).is_some_and(|it| it != second));
}

#[test]
fn a_second_join_replaces_the_options() {
    let mut groups = group(&[(1, true)]);
    assert!(groups.join("g", "f", subscriber(1, 77), true));
    let picked = groups.pick("g", "f", Strategy::Random, 0, |_| true);
    assert_eq!(picked, Some(subscriber(1, 77)));
    assert_eq!((groups.len(), groups.members()), (1, 1));
}

proptest! {
    #[test]
    fn groups_follow_a_model(
        steps in vec((0..4u8, 0..2u8, 0..40u32, any::<bool>(), 0..50u32), 1..400),
    ) {
        let mut groups = SharedGroups::new(seed());
        let mut model: BTreeMap<(String, u32), bool> = BTreeMap::new();
        for (step, share, session, online, index) in steps {
            let share = format!("g{share}");
            let (entry, key) = ((share.clone(), session), SessionKey(session));
            match step {
                0 | 1 => {
                    let existed = groups.join(&share, "f", subscriber(session, index), online);
                    prop_assert_eq!(existed, model.insert(entry, online).is_some());
                }
                2 => prop_assert_eq!(groups.leave(&share, "f", key), model.remove(&entry)),
                _ => {
                    let changed = groups.set_online(&share, "f", key, online);
                    let was = model.get_mut(&entry);
                    prop_assert_eq!(changed, was.as_ref().is_some_and(|was| **was != online));
                    if let Some(was) = was {
                        *was = online;
                    }
                }
            }
            prop_assert_eq!(groups.members(), model.len());
            let shares: BTreeSet<&String> = model.keys().map(|(share, _)| share).collect();
            prop_assert_eq!(groups.len(), shares.len());
            let members = || model.iter().filter(|((name, _), _)| *name == share);
            let picked = groups.pick(&share, "f", Strategy::RoundRobin, index, |_| true);
            prop_assert_eq!(picked.is_some(), members().count() > 0);
            if let Some(picked) = picked {
                let any_online = members().any(|(_, &online)| online);
                prop_assert_eq!(model[&(share.clone(), picked.session.0)], any_online);
            }
        }
    }
}
