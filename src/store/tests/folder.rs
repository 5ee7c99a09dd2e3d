//! The store on a real folder: who may open it, what is refused, and what a crash or a bad disk does.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::faults::{delivery, message, session};
use crate::record::{Batch, Change, Outcome, Restored};
use crate::store::fjall::Fjall;
use crate::store::journal::Damage;
use crate::store::{Durability, OpenError, Store, StoreSettings};

fn settings(path: &Path) -> StoreSettings {
    StoreSettings {
        path: path.to_owned(),
        durability: Durability::Always,
        max_backlog_bytes: usize::MAX,
        salvage: false,
    }
}

pub(super) fn open(path: &Path) -> Store {
    Store::open(settings(path)).unwrap()
}

fn error(path: &Path) -> OpenError {
    Store::open(settings(path)).err().unwrap()
}

/// Commits each of `batches` by itself, waiting for it to be durable.
pub(super) fn commit(path: &Path, batches: Vec<Vec<Change>>) {
    let (tell, told) = mpsc::channel();
    let (handle, thread) =
        open(path).run(1, move |_, outcome| tell.send(outcome).unwrap()).unwrap();
    for (nth, changes) in batches.into_iter().enumerate() {
        handle.submit(0, Batch { epoch: nth as u64, changes, loads: vec![] });
        let outcome = told.recv().unwrap();
        assert!(matches!(outcome, Outcome::Durable(_)), "{outcome:?}");
    }
    handle.shut_down();
    thread.join().unwrap();
}

fn found(store: &Store) -> Vec<u64> {
    let mut found = Vec::new();
    let each = &mut |part| {
        if let Restored::Session(session) = part {
            found.push(session.session);
        }
    };
    store.restore(each).unwrap();
    found
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn a_second_broker_is_refused_and_told_who_has_the_folder() {
    let folder = TempDir::new().unwrap();
    let first = open(folder.path());
    let refused = error(folder.path());
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains(folder.path().to_str().unwrap()), "{text}");
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    drop(first);
    open(folder.path());
}

#[test]
fn the_folder_is_free_when_the_thread_has_ended() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("made/on/the/way");
    commit(&path, vec![vec![session(1, "a")]]);
    commit(&path, vec![vec![session(2, "b")]]);
    assert_eq!(found(&open(&path)), [1, 2]);
}

#[test]
fn the_seed_is_made_once() {
    let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let seed = open(one.path()).seed();
    assert_eq!(open(one.path()).seed(), seed);
    assert_ne!(open(other.path()).seed(), seed);
}

#[test]
fn no_number_is_given_twice() {
    let folder = TempDir::new().unwrap();
    assert_eq!(open(folder.path()).next_number(), 1);
    for number in [5_000, 1 << 40] {
        let all = vec![session(number, "a"), Change::EndSession { session: number }];
        commit(folder.path(), vec![all]);
        assert!(open(folder.path()).next_number() > number);
    }
    let next = open(folder.path()).next_number();
    let puts = [message(next + 7, 1), delivery(1, next + 9, next + 7)];
    commit(folder.path(), vec![puts.to_vec()]);
    assert!(open(folder.path()).next_number() > next + 9);
}

#[test]
fn a_folder_with_something_else_in_it_is_left_alone() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("photo.jpg"), "x").unwrap();
    let refused = error(folder.path());
    assert!(matches!(&refused, OpenError::NotEmpty { found, .. } if found == "photo.jpg"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_newer_format_is_refused() {
    let folder = TempDir::new().unwrap();
    drop(open(folder.path()));
    fs::rename(folder.path().join("store-1"), folder.path().join("store-2")).unwrap();
    let refused = error(folder.path());
    assert!(matches!(refused, OpenError::Format { found: 2, .. }), "{refused}");
    assert!(!folder.path().join("store-1").exists());
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    File::create(&file).unwrap();
    // Nobody may make files there, not even root.
    for path in [file.as_path(), &file.join("below"), Path::new("/sys/kernel")] {
        let refused = error(path);
        let is_refused = matches!(refused, OpenError::Folder { .. } | OpenError::NotEmpty { .. });
        assert!(is_refused, "{refused}");
        assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
    }
}

#[test]
fn a_store_that_was_not_made_to_the_end_is_made_again() {
    let folder = TempDir::new().unwrap();
    let (path, saved) = (folder.path().join("data"), folder.path().join("saved"));
    let seed = open(&path).seed();
    fs::rename(path.join("store-1"), path.join("store-1.new")).unwrap();
    fs::remove_file(files(&path, "jnl").first().unwrap()).unwrap();
    assert_ne!(open(&path).seed(), seed);
    assert!(!saved.exists() && !path.join("store-1.new").exists());
}

/// The journal as a power cut may leave it: cut off at any place behind what was durable.
#[test]
fn a_torn_journal_loses_only_what_was_not_durable() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    commit(&path, vec![vec![session(1, "a")], vec![session(2, "b")]]);
    let journal = files(&path, "jnl").pop().unwrap();
    let durable = journal.metadata().unwrap().len();
    commit(&path, vec![vec![session(3, "c"), session(4, "d"), session(5, "e")]]);
    let whole = journal.metadata().unwrap().len();
    assert!(whole > durable);
    let torn = folder.path().join("torn");
    for len in durable..=whole {
        copy(&path, &torn);
        let journal = torn.join(journal.strip_prefix(&path).unwrap());
        File::options().write(true).open(&journal).unwrap().set_len(len).unwrap();
        let expected: &[u64] = if len < whole { &[1, 2] } else { &[1, 2, 3, 4, 5] };
        assert_eq!(found(&open(&torn)), expected, "{len}");
        commit(&torn, vec![vec![session(6, "f")]]);
        assert_eq!(found(&open(&torn)), [expected, &[6]].concat(), "{len}");
        fs::remove_dir_all(&torn).unwrap();
    }
}

/// Bytes of all files in a folder.
fn size(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        bytes += if entry.path().is_dir() {
            size(&entry.path())
        } else {
            // It may be gone by now.
            entry.metadata().map_or(0, |metadata| metadata.len())
        };
    }
    bytes
}

/// What the store keeps however little there is in it: fjall's current journal, and what is not worth
/// while to merge.
const REST_BYTES: u64 = 120_000_000;
/// After this long what was to be freed never will be.
const HANG: Duration = Duration::from_secs(120);

#[test]
fn the_space_of_a_large_backlog_is_freed_when_it_was_drained() {
    let folder = TempDir::new().unwrap();
    let settings = StoreSettings { durability: Durability::Os, ..settings(folder.path()) };
    let store = Store::open(settings).unwrap();
    store.restore(&mut |_| ()).unwrap();
    let (tell, told) = mpsc::channel();
    let (handle, thread) = store.run(1, move |_, outcome| tell.send(outcome).unwrap()).unwrap();
    let commit = |changes| {
        handle.submit(0, Batch { epoch: 1, changes, loads: vec![] });
        assert!(matches!(told.recv().unwrap(), Outcome::Durable(1)));
    };
    commit((1..=100).map(|number| session(number, &number.to_string())).collect());
    let positions = |round: u64| (round * 1_000..(round + 1) * 1_000).map(|n| (n % 100 + 1, n));
    for round in 1..=200 {
        let puts = positions(round).flat_map(|(session, position)| {
            [message(position, 1_000), delivery(session, position, position)]
        });
        commit(puts.collect());
    }
    assert!(size(folder.path()) > 200_000_000);
    for round in 1..=200 {
        let drops =
            positions(round).map(|(session, position)| Change::DropDelivery { session, position });
        commit(drops.collect());
    }
    let since = Instant::now();
    loop {
        let left = size(folder.path());
        if left <= REST_BYTES {
            break;
        }
        let journals = files(folder.path(), "jnl");
        assert!(since.elapsed() < HANG, "{left} bytes stay, journals {journals:?}");
        thread::sleep(Duration::from_millis(10));
    }
    handle.shut_down();
    thread.join().unwrap();
    assert_eq!(found(&open(folder.path())).len(), 100);
}

/// Flips bits all over what is on disk. A start may refuse or find less, but what it finds is what
/// was written.
fn spoil(path: &Path, files: &[PathBuf], mut check: impl FnMut(&Path, Result<Store, OpenError>)) {
    let spoilt = path.with_extension("spoilt");
    for file in files {
        let whole = fs::read(file).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 97 + 1) {
            copy(path, &spoilt);
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(spoilt.join(file.strip_prefix(path).unwrap()), bytes).unwrap();
            check(&spoilt, Store::open(settings(&spoilt)));
            fs::remove_dir_all(&spoilt).unwrap();
        }
    }
}

#[test]
fn a_spoilt_journal_is_refused_and_gives_all_but_one_batch_when_it_is_salvaged() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    commit(&path, (1..=20).map(|number| vec![session(number, &number.to_string())]).collect());
    let (mut refused, mut at_the_end) = (0, 0);
    let all: Vec<u64> = (1..=20).collect();
    spoil(&path, &files(&path, "jnl"), |spoilt, store| match store.map(|store| found(&store)) {
        // Nothing tells the last batch from one that was not written to the end, and one that seems
        // newer than it was is still the newest.
        Ok(found) => {
            assert!(found == all || found == all[..19], "{found:?}");
            at_the_end += 1;
        }
        Err(error) => {
            assert!(matches!(error, OpenError::Engine { .. }), "{error}");
            assert!(error.to_string().contains(".jnl is not readable from byte"), "{error}");
            refused += 1;
            // The first batches make the store itself.
            if let Ok(store) = Store::open(StoreSettings { salvage: true, ..settings(spoilt) }) {
                assert!(found(&store).len() >= 19);
            }
        }
    });
    assert!(refused > 80 && at_the_end < 10, "{refused} refused, {at_the_end} at the end");
}

#[test]
fn a_spoilt_table_is_refused_or_read_right() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    let puts = (1..=2_000).map(|number| session(number, &number.to_string()));
    commit(&path, vec![puts.collect()]);
    write_tables(&path);
    let tables = fs::read_dir(path.join("store-1/keyspaces/1/tables")).unwrap();
    let tables: Vec<PathBuf> = tables.map(|entry| entry.unwrap().path()).collect();
    let (mut refused, mut damaged, mut unharmed) = (0, 0, 0);
    spoil(&path, &tables, |_, store| {
        let Ok(store) = store else { return refused += 1 };
        let mut found = 0;
        let each = &mut |part| {
            let Restored::Session(session) = part else { panic!("{part:?}") };
            assert_eq!(*session.record.client_id, *session.session.to_string());
            found += 1;
        };
        match store.restore(each) {
            Ok(_) => {
                assert_eq!(found, 2_000);
                unharmed += 1;
            }
            Err(_) => damaged += 1,
        }
    });
    println!("{refused} refused at the start, {damaged} when read, {unharmed} unharmed");
    assert!(refused + damaged > unharmed);
}

/// Has the engine write all that it has in memory to tables.
pub(super) fn write_tables(path: &Path) {
    let engine = Fjall::open(&path.join("store-1"), Damage::Refuse).unwrap();
    engine.merge_all().unwrap();
}
