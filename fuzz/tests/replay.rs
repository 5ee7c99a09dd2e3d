//! Gives the targets what is kept: the corpus, and every input that has failed once. Needs no
//! fuzzer.

use std::{fs, path::Path};

/// Every input in `fuzz/KIND/TARGET`, in the order of their names.
fn inputs(kind: &str, target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(target);
    let Ok(files) = fs::read_dir(&folder) else { return Vec::new() };
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

/// Checks the kept inputs of a target, and some that are made up.
fn replay(target: &str, check: fn(&[u8])) {
    let corpus = inputs("corpus", target);
    assert!(corpus.len() >= 20, "the corpus of {target} is gone");
    for (path, bytes) in corpus.iter().chain(&inputs("regressions", target)) {
        println!("{path}");
        check(bytes);
    }
    let mut rng = fastrand::Rng::with_seed(1);
    for length in 0..300 {
        let bytes: Vec<u8> = (0..length).map(|_| rng.u8(..)).collect();
        println!("{length} bytes made up: {bytes:?}");
        check(&bytes);
    }
}

#[test]
fn codec() {
    replay("codec", ringmq_fuzz::codec::check);
}

#[test]
fn packet() {
    replay("packet", ringmq_fuzz::packet::check);
}

#[test]
fn broker() {
    replay("broker", ringmq_fuzz::broker::check);
}

#[test]
fn topics() {
    replay("topics", ringmq_fuzz::topics::check);
}

#[test]
fn config() {
    replay("config", ringmq_fuzz::config::check);
}
