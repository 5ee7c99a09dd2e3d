//! What is written and what is not, when it counts as durable, and what happens when an engine fails.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;

use super::disk::Disk;
use crate::record::{
    Batch, Change, DeliveryRecord, DeliveryState, Load, Loaded, MessageRecord, NEVER, Outcome,
    Restored, SessionRecord, StoredSession,
};
use crate::store::engine::Write;
use crate::store::thread::Worker;
use crate::store::{Durability, Store, keys};

pub(super) fn session(session: u64, client_id: &str) -> Change {
    let record = SessionRecord {
        client_id: client_id.into(),
        user_name: None,
        expiry_interval: 7,
        offline_since: None,
        will: None,
        is_ended: false,
    };
    Change::PutSession { session, record }
}

pub(super) fn message(message: u64, len: usize) -> Change {
    let body = MessageRecord {
        data: Bytes::from(vec![b'x'; len]),
        properties_at: 1,
        payload_at: 1,
        qos: 1,
        retain: false,
        expires_at: NEVER,
    };
    Change::PutMessage { message, body }
}

pub(super) fn delivery(session: u64, position: u64, message: u64) -> Change {
    let record = DeliveryRecord {
        qos: 1,
        retain: false,
        shared: 0,
        subscription_ids: vec![],
        state: DeliveryState::Queued,
    };
    Change::PutDelivery { session, position, message, record }
}

fn sent(session: u64, position: u64) -> Change {
    Change::SetState { session, position, state: DeliveryState::Sent(9) }
}

fn drop_delivery(session: u64, position: u64) -> Change {
    Change::DropDelivery { session, position }
}

/// Commits the batches of shard 0 in one go and ends the store; what it told, a word for each.
fn run(store: Store, batches: Vec<Vec<Change>>) -> Vec<String> {
    run_with(store, batches, Vec::new(), &|| ()).0
}

fn run_with(
    store: Store,
    batches: Vec<Vec<Change>>,
    loads: Vec<Load>,
    on_durable: &dyn Fn(),
) -> (Vec<String>, Vec<Loaded>) {
    let told = RefCell::new((Vec::new(), Vec::new()));
    let (handle, mut worker) = store.prepare(2, |shard, outcome| {
        let (words, loaded) = &mut *told.borrow_mut();
        match outcome {
            Outcome::Durable(epoch) => {
                on_durable();
                words.push(format!("{shard}: durable {epoch}"));
            }
            Outcome::Failed(reason) => words.push(format!("{shard}: {reason}")),
            Outcome::Loaded(answer) => loaded.push(answer),
        }
    });
    let count = batches.len();
    for (nth, changes) in batches.into_iter().enumerate() {
        let loads = if nth + 1 == count { loads.clone() } else { Vec::new() };
        handle.submit(0, Batch { epoch: nth as u64 + 1, changes, loads });
    }
    handle.shut_down();
    worker.upkeep_interval = Duration::ZERO;
    worker.run();
    told.into_inner()
}

fn sessions(store: &Store) -> Vec<StoredSession> {
    let mut found = Vec::new();
    let each = &mut |part| {
        if let Restored::Session(session) = part {
            found.push(*session);
        }
    };
    store.restore(each).unwrap();
    found
}

fn kinds(disk: &Disk) -> String {
    disk.keys().iter().map(|key| char::from(key[0])).filter(|&kind| kind != 'm').collect()
}

#[test]
fn a_message_that_is_acknowledged_before_the_commit_is_not_written() {
    let disk = Disk::new();
    run(disk.open(Durability::Always), vec![vec![session(1, "a"), message(2, 9)]]);
    let writes = disk.state().written.len();
    let told = run(
        disk.open(Durability::Always),
        vec![
            vec![message(3, 10), delivery(1, 10, 3), delivery(1, 11, 3), sent(1, 10)],
            vec![drop_delivery(1, 10), sent(1, 11), Change::DropOldest { session: 1, from: 0 }],
        ],
    );
    assert_eq!(told, ["0: durable 2"]);
    assert_eq!(disk.state().written.len(), writes, "{:?}", disk.state().written);
    assert_eq!(kinds(&disk), "s");
}

#[test]
fn a_state_that_a_drop_overtakes_is_not_written() {
    let disk = Disk::new();
    let puts = vec![session(1, "a"), message(2, 9), delivery(1, 10, 2)];
    run(disk.open(Durability::Always), vec![puts]);
    assert_eq!(kinds(&disk), "ds");
    run(disk.open(Durability::Always), vec![vec![sent(1, 10)], vec![drop_delivery(1, 10)]]);
    let last = disk.state().written.last().cloned().unwrap();
    assert_eq!(last, [Write::RemoveOnce(keys::of_delivery(keys::DELIVERY, 1, 10))]);
    assert_eq!(kinds(&disk), "s");
}

#[test]
fn a_body_with_several_deliveries_is_kept_once_and_goes_with_the_last() {
    let disk = Disk::new();
    let open = || disk.open(Durability::Always);
    let puts = vec![session(1, "a"), session(2, "b"), message(3, 1_000), message(4, 9)];
    let deliveries = vec![delivery(1, 10, 3), delivery(2, 11, 3), delivery(1, 12, 4)];
    run(open(), vec![[puts, deliveries].concat()]);
    assert_eq!(kinds(&disk), "bcdddss");
    let size = |write: &Write| if let Write::Put(_, value) = write { value.len() } else { 0 };
    let written: usize = disk.state().written[0].iter().map(size).sum();
    assert!(written < 1_200, "{written}");
    // The same body in a later commit, from another shard.
    run(open(), vec![vec![message(3, 1_000), delivery(2, 13, 3), delivery(2, 14, 3)]]);
    assert_eq!(kinds(&disk), "bcdddddss");
    run(open(), vec![vec![drop_delivery(1, 10), drop_delivery(2, 13), drop_delivery(2, 14)]]);
    assert_eq!(kinds(&disk), "bcddss");
    run(open(), vec![vec![Change::EndSession { session: 2 }]]);
    assert_eq!(kinds(&disk), "ds");
}

#[test]
fn durable_comes_after_the_sync() {
    let disk = Disk::new();
    let syncs = || assert_eq!(disk.state().syncs, 1);
    let batches = vec![vec![session(1, "a")], vec![session(2, "b")]];
    let (told, _) = run_with(disk.open(Durability::Always), batches, vec![], &syncs);
    assert_eq!(told, ["0: durable 2"]);
    disk.lose_power();
    assert_eq!(kinds(&disk), "ss");
    assert_eq!(disk.state().syncs, 1, "there was nothing more to sync");
}

#[test]
fn without_durability_always_durable_does_not_wait_for_the_disk() {
    for durability in [Durability::Os, Durability::Interval(Duration::from_secs(3_600))] {
        let disk = Disk::new();
        let syncs = || assert_eq!(disk.state().syncs, 0);
        let batches = vec![vec![session(1, "a")]];
        let (told, _) = run_with(disk.open(durability), batches, vec![], &syncs);
        assert_eq!(told, ["0: durable 1"]);
        disk.lose_power();
        assert_eq!(kinds(&disk), "s", "the end of the store syncs all the same");
    }
}

#[test]
fn an_interval_ends_with_a_sync_though_nothing_more_comes() {
    let disk = Disk::new();
    let (handle, thread) =
        disk.open(Durability::Interval(Duration::from_millis(1))).run(1, |_, _| ()).unwrap();
    handle.submit(0, Batch { epoch: 1, changes: vec![session(1, "a")], loads: vec![] });
    while disk.state().syncs == 0 {
        std::thread::yield_now();
    }
    handle.shut_down();
    thread.join().unwrap();
    assert_eq!(disk.state().syncs, 1);
}

#[test]
fn a_failed_write_is_told_to_all_and_nothing_is_taken_any_more() {
    for durability in [Durability::Always, Durability::Os] {
        let disk = Disk::new();
        disk.state().fail_write_after = Some(0);
        let told = run(disk.open(durability), vec![vec![session(1, "a")]]);
        assert_eq!(told, ["0: no storage space", "1: no storage space"]);
        assert_eq!(kinds(&disk), "");
    }
}

#[test]
fn what_a_failed_sync_was_to_make_durable_is_not_called_so() {
    let disk = Disk::new();
    disk.state().fail_sync_after = Some(0);
    let told = run(disk.open(Durability::Always), vec![vec![session(1, "a")]]);
    assert_eq!(told, ["0: no storage space", "1: no storage space"]);
}

#[test]
fn batches_after_a_failure_are_answered() {
    let disk = Disk::new();
    disk.state().fail_write_after = Some(1);
    let (tell, told) = std::sync::mpsc::channel();
    let store = disk.open(Durability::Always);
    let (handle, thread) =
        store.run(2, move |shard, outcome| tell.send((shard, outcome)).unwrap()).unwrap();
    let submit = |epoch: u64| {
        handle.submit(1, Batch { epoch, changes: vec![session(epoch, "a")], loads: vec![] });
    };
    submit(1);
    assert!(matches!(told.recv().unwrap(), (1, Outcome::Durable(1))));
    submit(2);
    assert!(matches!(told.recv().unwrap(), (0, Outcome::Failed(_))));
    assert!(matches!(told.recv().unwrap(), (1, Outcome::Failed(_))));
    submit(3);
    assert!(matches!(told.recv().unwrap(), (1, Outcome::Failed(_))));
    handle.shut_down();
    thread.join().unwrap();
    assert!(told.recv().is_err());
    assert_eq!(handle.backlog_bytes(), 0);
}

#[test]
fn a_thread_that_dies_of_a_bug_says_so() {
    let disk = Disk::new();
    disk.state().panics = true;
    let (tell, told) = std::sync::mpsc::channel();
    let store = disk.open(Durability::Always);
    let (handle, thread) = store.run(1, move |_, outcome| tell.send(outcome).unwrap()).unwrap();
    handle.submit(0, Batch { epoch: 1, changes: vec![session(1, "a")], loads: vec![] });
    assert!(matches!(told.recv().unwrap(), Outcome::Failed(_)));
    assert!(thread.join().is_err());
}

#[test]
fn a_delivery_that_cannot_be_read_is_counted_as_lost_and_removed() {
    let disk = Disk::new();
    let open = || disk.open(Durability::Always);
    let puts = vec![session(1, "a"), message(2, 9), message(3, 9), delivery(1, 10, 2)];
    run(open(), vec![[puts, vec![delivery(1, 11, 3)]].concat()]);
    disk.spoil(&keys::of_delivery(keys::DELIVERY, 1, 10), b"\x01\xFF");
    let load = || vec![Load { session: 1, tag: 5, from: 0, limit: 9, max_bytes: 99 }];
    let (_, loaded) = run_with(open(), vec![vec![]], load(), &|| ());
    assert_eq!((loaded[0].lost, loaded[0].deliveries.len()), (1, 1));
    let (_, loaded) = run_with(open(), vec![vec![]], load(), &|| ());
    assert_eq!((loaded[0].lost, loaded[0].deliveries.len()), (0, 1));
    assert_eq!(kinds(&disk), "ds");
}

#[test]
fn what_a_start_cannot_read_is_counted_once() {
    let disk = Disk::new();
    let open = || disk.open(Durability::Always);
    let puts = vec![session(1, "a"), session(2, "b"), message(3, 9), delivery(1, 10, 3)];
    run(open(), vec![puts]);
    disk.spoil(&keys::of_delivery(keys::DELIVERY, 1, 10), b"\x01\xFF");
    disk.spoil(&keys::of_session(2), b"\x01\xFF");
    let store = open();
    let summary = store.restore(&mut |_| ()).unwrap();
    assert_eq!((summary.sessions, summary.lost, summary.ended), (1, 2, 1));
    run(store, vec![]);
    let summary = open().restore(&mut |_| ()).unwrap();
    assert_eq!((summary.sessions, summary.lost, summary.ended), (1, 0, 0));
    assert_eq!(kinds(&disk), "s");
}

#[test]
fn a_large_queue_of_an_ended_session_goes_in_pieces() {
    let disk = Disk::new();
    let open = || disk.open(Durability::Always);
    let many = 45_000;
    let mut changes = vec![session(1, "a"), session(2, "b"), message(3, 9)];
    changes.extend((0..many).map(|position| delivery(1, 10 + position, 3)));
    changes.push(delivery(2, 5, 3));
    run(open(), vec![changes]);
    run(open(), vec![vec![Change::EndSession { session: 1 }]]);
    assert!(kinds(&disk).len() > 10_000, "that was more than one piece");
    assert!(disk.state().written.last().unwrap().len() < 11_000);
    let store = open();
    assert_eq!(sessions(&store).len(), 1);
    let (handle, thread) = store.run(1, |_, _| ()).unwrap();
    while disk.keys().len() > 8 {
        std::thread::yield_now();
    }
    handle.shut_down();
    thread.join().unwrap();
    assert_eq!(kinds(&disk), "bcds");
}

#[test]
fn what_waits_is_counted() {
    let disk = Disk::new();
    let (handle, worker) = disk.open(Durability::Always).prepare(1, |_, _| ());
    let batch = |changes| Batch { epoch: 1, changes, loads: vec![] };
    handle.submit(0, batch(vec![message(2, 5_000)]));
    let before = handle.backlog_bytes();
    assert!((5_000..6_000).contains(&before), "{before}");
    handle.clone().submit(0, batch(vec![message(3, 5_000)]));
    assert_eq!(handle.backlog_bytes(), 2 * before);
    assert!(!handle.is_full());
    handle.shut_down();
    worker.run();
    assert_eq!(handle.backlog_bytes(), 0);
}

/// Its thread sleeps until an order comes, and the disk is left alone.
#[test]
fn an_idle_store_waits_for_nothing() {
    let disk = Disk::new();
    let store = disk.open(Durability::Interval(Duration::from_secs(3_600)));
    store.restore(&mut |_| ()).unwrap();
    let (handle, mut worker) = store.prepare(1, |_, _| ());
    worker.upkeep_interval = Duration::ZERO;
    assert_eq!(worker.patience(), None);
    handle.submit(0, Batch { epoch: 1, changes: vec![session(1, "a")], loads: vec![] });
    worker.turn();
    assert!(worker.patience().is_some(), "there is something to be synced");
    worker.durability = Durability::Os;
    assert_eq!(worker.patience(), None);
}

#[test]
fn only_after_a_commit_of_many_changes_orders_gather() {
    let disk = Disk::new();
    let (handle, mut worker) = disk.open(Durability::Always).prepare(1, |_, _| ());
    let commit = |worker: &mut Worker<_>, sessions: u64| {
        let changes = (1..=sessions).map(|number| session(number, &number.to_string())).collect();
        handle.submit(0, Batch { epoch: 1, changes, loads: vec![] });
        worker.commit_interval = Duration::ZERO;
        worker.turn();
        worker.commit_interval = Duration::from_secs(3_600);
    };
    assert_eq!(worker.gathering(), Duration::ZERO);
    commit(&mut worker, 7);
    assert_eq!(worker.gathering(), Duration::ZERO);
    commit(&mut worker, 8);
    assert!(worker.gathering() > Duration::from_secs(1_800));
    commit(&mut worker, 1);
    assert_eq!(worker.gathering(), Duration::ZERO);
}
