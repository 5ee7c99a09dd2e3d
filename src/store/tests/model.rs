//! The store against the model: random changes in random batches and commits, with starts between.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::disk::Disk;
use super::script::{Broker, SHARDS, Step, step};
use crate::record::model::Model;
use crate::record::{Batch, Change, Load, Loaded, Outcome, Restored};
use crate::store::{Durability, Store, StoreSettings};

/// Batches that are committed together, and what is asked for afterwards.
#[derive(Debug, Clone)]
struct Round {
    /// The steps of each batch.
    batches: Vec<Vec<Step>>,
    load_nth: usize,
    load_limit: usize,
    load_bytes: usize,
}

fn round() -> impl Strategy<Value = Round> {
    (vec(vec(step(), 0..12), 1..4), 0..4_usize, 1..5_usize, 0..900_usize).prop_map(
        |(batches, load_nth, load_limit, load_bytes)| Round {
            batches,
            load_nth,
            load_limit,
            load_bytes,
        },
    )
}

fn restored(store: &Store) -> Vec<Restored> {
    let mut found = Vec::new();
    let summary = store.restore(&mut |part| found.push(part)).unwrap();
    assert_eq!(summary.lost, 0);
    let is_there = |part: &&Restored| match part {
        Restored::Session(session) => !session.record.is_ended,
        Restored::Retained { .. } => true,
    };
    let there = found.iter().filter(is_there).count();
    assert_eq!(summary.sessions + summary.retained, there);
    sorted(found)
}

/// Retained messages with long topics come in no order that can be told.
fn sorted(mut restored: Vec<Restored>) -> Vec<Restored> {
    restored.sort_by_key(|part| match part {
        Restored::Session(session) => (session.session, None),
        Restored::Retained { topic, .. } => (u64::MAX, Some(topic.clone())),
    });
    restored
}

/// Submits everything, so that it is committed at once, and ends the store.
fn run(store: Store, batches: Vec<(usize, Batch)>) -> Vec<(usize, Outcome)> {
    let told = RefCell::new(Vec::new());
    let (handle, mut worker) =
        store.prepare(SHARDS, |shard, outcome| told.borrow_mut().push((shard, outcome)));
    for (shard, batch) in batches {
        handle.submit(shard, batch);
    }
    handle.shut_down();
    worker.upkeep_interval = Duration::ZERO;
    worker.run();
    assert_eq!(handle.backlog_bytes(), 0);
    told.into_inner()
}

/// One round, on a store and on the model.
fn play(round: &Round, store: Store, broker: &mut Broker, model: &mut Model) {
    assert_eq!(restored(&store), sorted(model.restore()));
    assert!(store.next_number() >= model.next_number());
    let mut batches = Vec::new();
    for steps in &round.batches {
        batches.extend(broker.batches(steps));
    }
    let mut epochs = BTreeMap::new();
    for (shard, batch) in &batches {
        model.apply(&batch.changes);
        epochs.insert(*shard, batch.epoch);
    }
    let loads = broker.loads(round.load_nth, round.load_limit, round.load_bytes);
    batches[0].1.loads = loads.clone();
    let told = run(store, batches);
    let expected: Vec<Loaded> = loads.iter().map(|load| model.load(load)).collect();
    let mut loaded = Vec::new();
    for (shard, outcome) in told {
        match outcome {
            Outcome::Durable(epoch) => assert_eq!(epochs.remove(&shard), Some(epoch)),
            Outcome::Loaded(answer) => {
                assert!(epochs.is_empty(), "a load was answered before the batches were durable");
                loaded.push(answer);
            }
            Outcome::Failed(reason) => panic!("{reason}"),
        }
    }
    assert_eq!(loaded, expected);
}

proptest! {
    #[test]
    fn a_store_in_memory_does_what_the_model_does(rounds in vec(round(), 1..6)) {
        let disk = Disk::new();
        let (mut broker, mut model) = (Broker::default(), Model::default());
        for round in &rounds {
            play(round, disk.open(Durability::Always), &mut broker, &mut model);
            disk.lose_power();
            let sessions: Vec<_> = model.restore().into_iter().filter_map(number).collect();
            broker.keep(|session| sessions.contains(&session));
        }
        prop_assert_eq!(restored(&disk.open(Durability::Always)), sorted(model.restore()));
        prop_assert_eq!(left_behind(&disk, &sessions_of(&mut model)), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_store_in_a_folder_does_what_the_model_does(rounds in vec(round(), 1..6)) {
        let folder = tempfile::tempdir().unwrap();
        let settings = StoreSettings {
            path: folder.path().join("data"),
            durability: Durability::Os,
            max_backlog_bytes: usize::MAX,
            salvage: false,
        };
        let (mut broker, mut model) = (Broker::default(), Model::default());
        for round in &rounds {
            play(round, Store::open(settings.clone()).unwrap(), &mut broker, &mut model);
            let sessions = sessions_of(&mut model);
            broker.keep(|session| sessions.contains(&session));
        }
        prop_assert_eq!(restored(&Store::open(settings).unwrap()), sorted(model.restore()));
    }
}

fn number(part: Restored) -> Option<u64> {
    match part {
        Restored::Session(session) => Some(session.session),
        Restored::Retained { .. } => None,
    }
}

fn sessions_of(model: &mut Model) -> Vec<u64> {
    model.restore().into_iter().filter_map(number).collect()
}

/// The entries that are left when all sessions end and all retained messages go.
fn left_behind(disk: &Disk, sessions: &[u64]) -> usize {
    let store = disk.open(Durability::Always);
    let mut changes: Vec<Change> =
        sessions.iter().map(|&session| Change::EndSession { session }).collect();
    store
        .restore(&mut |part| {
            if let Restored::Retained { topic, .. } = part {
                changes.push(Change::DropRetained { topic });
            }
        })
        .unwrap();
    run(store, vec![(0, Batch { epoch: 1, changes, loads: Vec::<Load>::new() })]);
    disk.keys().iter().filter(|key| key[0] != b'm').count()
}
