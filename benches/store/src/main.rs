//! Storage engines on a broker's access pattern, one after the other, each in a folder of its own.
//!
//!     store-engines FOLDER ENGINE [--deliveries N]
//!
//! prints a line for each phase: deliveries that are put in one commit and removed in the next, every
//! commit synced (clients that are connected and acknowledge); filling a backlog; the first again,
//! with the backlog there; closing, opening and reading all of it; draining it session by session;
//! giving the space back. With `sync` as the engine
//! it measures the disk alone: an append and fdatasync of a commit's size, again and again.

mod engines;
mod rocks;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use engines::{Engine, Op};

/// Sessions that get messages.
const SESSIONS: u64 = 20_000;
/// Bytes of a delivery: record, topic, properties and payload.
const VALUE: usize = 150;
/// Deliveries of a commit while clients acknowledge.
const ONLINE_COMMIT: u64 = 1_000;
const ONLINE_COMMITS: u64 = 300;
/// Deliveries of a commit that fills or drains the backlog.
const BULK_COMMIT: u64 = 5_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, engine, rest @ ..] = &arguments[..] else {
        panic!("usage: store-engines FOLDER ENGINE [--deliveries N]");
    };
    let deliveries = match rest {
        [flag, number] if flag == "--deliveries" => number.parse().expect("a number"),
        _ => 1_000_000,
    };
    let folder = Path::new(folder).join(engine);
    _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    if engine == "sync" {
        sync_rate(&folder);
    } else {
        let open: fn(&Path) -> Box<dyn Engine> = match &engine[..] {
            "fjall" => |path| Box::new(engines::Fjall::open(path)),
            "redb" => |path| Box::new(engines::Redb::open(path)),
            #[cfg(feature = "rocksdb")]
            "rocksdb" => |path| Box::new(rocks::Rocks::open(path)),
            other => panic!("no such engine: {other}"),
        };
        compare(engine, &folder, open, deliveries);
    }
    fs::remove_dir_all(&folder).unwrap();
}

fn sync_rate(folder: &Path) {
    for bytes in [512, 16 << 10, 200 << 10] {
        let mut file = File::create(folder.join("file")).unwrap();
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            let before = Instant::now();
            file.write_all(&vec![7; bytes]).unwrap();
            file.sync_data().unwrap();
            times.push(before.elapsed());
        }
        let rate = times.len() as f64 / start.elapsed().as_secs_f64();
        println!("sync     append of {bytes:>6} bytes: {rate:>6.0}/s, {}", percentiles(times));
    }
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 1_000].as_secs_f64() * 1e3;
    format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(500), at(990), at(1_000))
}

/// A delivery's key: session and position, both big-endian.
fn key(session: u64, position: u64) -> Vec<u8> {
    let mut key = vec![b'd'];
    key.extend_from_slice(&session.to_be_bytes());
    key.extend_from_slice(&position.to_be_bytes());
    key
}

/// A body that does not compress to nothing.
fn value(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut value = b"\x01\x01\x00\x00\x00\x00devices/0123456789/telemetry".to_vec();
    value.resize_with(VALUE, || rng.u8(b'0'..=b'z'));
    value
}

fn compare(name: &str, folder: &Path, open: fn(&Path) -> Box<dyn Engine>, deliveries: u64) {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut engine = open(folder);
    online(name, "online", folder, &mut *engine, &mut rng);

    let (start, before) = (Instant::now(), Usage::now());
    for first in (0..deliveries).step_by(BULK_COMMIT as usize) {
        let puts = (first..(first + BULK_COMMIT).min(deliveries))
            .map(|n| Op::Put(key(rng.u64(0..SESSIONS), n), value(&mut rng)));
        engine.commit(puts.collect());
    }
    report(name, "fill", deliveries, start, before, folder);
    online(name, "online+", folder, &mut *engine, &mut rng);

    let (start, before) = (Instant::now(), Usage::now());
    drop(engine);
    let closed = start.elapsed();
    let (start, mut engine) = (Instant::now(), open(folder));
    let (opened, mut found) = (start.elapsed(), 0);
    engine.scan(&[b'd'], usize::MAX, &mut |_| found += 1);
    assert_eq!(found, deliveries);
    report(name, "restart", deliveries, start, before, folder);
    println!(
        "{name:<8} closed in {:.2} s, opened in {:.2} s",
        closed.as_secs_f64(),
        opened.as_secs_f64()
    );

    let (start, before) = (Instant::now(), Usage::now());
    let mut ops = Vec::new();
    for session in 0..SESSIONS {
        engine
            .scan(&key(session, 0)[..9], usize::MAX, &mut |key| ops.push(Op::Remove(key.to_vec())));
        if ops.len() as u64 >= BULK_COMMIT {
            engine.commit(std::mem::take(&mut ops));
        }
    }
    engine.commit(ops);
    report(name, "drain", deliveries, start, before, folder);
    let (start, before) = (Instant::now(), Usage::now());
    engine.compact();
    report(name, "compact", 0, start, before, folder);
}

fn online(
    name: &str,
    phase: &str,
    folder: &Path,
    engine: &mut dyn Engine,
    rng: &mut fastrand::Rng,
) {
    let (start, before) = (Instant::now(), Usage::now());
    let (mut last, mut times) = (Vec::new(), Vec::new());
    for commit in 0..ONLINE_COMMITS {
        let mut ops: Vec<Op> = last.drain(..).map(Op::Remove).collect();
        for n in 0..ONLINE_COMMIT {
            let key = key(rng.u64(0..SESSIONS), (1 << 40) + commit * ONLINE_COMMIT + n);
            ops.push(Op::Put(key.clone(), value(rng)));
            last.push(key);
        }
        let before = Instant::now();
        engine.commit(ops);
        times.push(before.elapsed());
    }
    engine.commit(last.into_iter().map(Op::Remove).collect());
    report(name, phase, ONLINE_COMMITS * ONLINE_COMMIT, start, before, folder);
    println!("{name:<8} {phase:<8} commits: {}", percentiles(times));
}

/// What the process has used so far.
struct Usage {
    written: u64,
    cpu: Duration,
}

impl Usage {
    fn now() -> Self {
        let io = fs::read_to_string("/proc/self/io").unwrap();
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Self { written: written.parse().unwrap(), cpu: Duration::from_millis(ticks * 10) }
    }
}

fn report(name: &str, phase: &str, deliveries: u64, start: Instant, before: Usage, folder: &Path) {
    let (seconds, after) = (start.elapsed().as_secs_f64(), Usage::now());
    println!(
        "{name:<8} {phase:<8} {seconds:>7.2} s {:>9.0} deliveries/s  {:>6.2} s CPU  {:>7.1} MB written  {:>7.1} MB on disk",
        deliveries as f64 / seconds,
        (after.cpu - before.cpu).as_secs_f64(),
        (after.written - before.written) as f64 / 1e6,
        on_disk(folder) as f64 / 1e6,
    );
}

/// Blocks that the files of a folder take up, in bytes.
fn on_disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { on_disk(&entry.path()) } else { metadata.blocks() * 512 };
    }
    bytes
}
