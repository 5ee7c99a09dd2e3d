//! Each verb, small, against the real broker.

mod common;

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use common::{Run, arguments, finished, load, start};

/// The broker's binary, which is another package's.
fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // target/PROFILE/deps/verbs-HASH
        let here = std::env::current_exe().unwrap();
        let profile = here.parent().and_then(|deps| deps.parent()).unwrap();
        let target = profile.parent().unwrap();
        let name = profile.file_name().unwrap().to_str().unwrap();
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "ringmq", "--bin", "ringmq", "--profile"])
            .arg(if name == "debug" { "dev" } else { name })
            .arg("--target-dir")
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(status.success(), "the broker does not build");
        profile.join("ringmq")
    })
}

/// A broker that ends with the test.
struct Broker {
    process: Child,
    port: u16,
}

impl Broker {
    fn start() -> Self {
        let mut process = Command::new(binary())
            .args(["--listen", "127.0.0.1:0", "--shards", "2", "--in-memory"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, port) = line.split_once("listening")?.1.rsplit_once(':')?;
                port.trim_matches(|it: char| !it.is_ascii_digit()).parse().ok()
            })
            .expect("the broker says where it listens");
        // What it says further is of no interest, but it must be able to say it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, port }
    }

    #[track_caller]
    fn good(&self, words: &str) -> Run {
        let run = load(words, self.port);
        assert_eq!(run.status, Some(0), "{words}: {:#} {}", run.json, run.stderr);
        run
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn conn_connects_and_samples() {
    let broker = Broker::start();
    let pid = broker.process.id();
    let words = format!("conn -c 60 -R 300 -t dev/%c/%i -q 1 -V 5 --duration 0.3 --pid {pid}");
    let run = broker.good(&words);
    assert_eq!(run.number("/connect/connected"), 60.0);
    assert_eq!(run.number("/latency_ms/connect/count"), 60.0);
    assert_eq!(run.number("/latency_ms/subscribe/count"), 60.0);
    // 60 at 300 in a second.
    assert!(run.number("/connect/seconds") > 0.18);
    assert!(run.number("/samples/connected/broker/rss_bytes") > 1e6);
    assert!(run.number("/samples/connected/broker/descriptors") >= 60.0);
    assert!(run.number("/samples/connected/machine/slab_bytes") > 0.0);
}

#[test]
fn conn_keeps_connections_alive() {
    let broker = Broker::start();
    let run = broker.good("conn -c 20 -k 1 --duration 3");
    assert!(run.number("/total/pings") >= 40.0);
    assert_eq!(run.number("/total/pings"), run.number("/total/pings_answered"));
    assert_eq!(run.number("/total/lost_connections"), 0.0);
}

#[test]
fn a_sample_of_conn_talks_while_all_are_held() {
    let broker = Broker::start();
    for topic in ["dev/%c/cmd", "dev/%i"] {
        let words = "conn -c 40 --sample 10 --sample-interval 0.05 -q 1 --duration 0.5 -t";
        let run = broker.good(&format!("{words} {topic}"));
        assert_eq!(run.number("/connect/connected"), 40.0);
        assert!(run.flow("sent") >= 40);
        assert_eq!(run.flow("sent"), run.flow("received"));
        assert_eq!(run.number("/total/foreign"), 0.0);
        assert!(run.number("/latency_ms/end_to_end/p99") > 0.0);
    }
}

#[test]
fn a_sample_needs_topics_of_its_own() {
    for words in ["conn --sample 1", "conn --sample 1 -t all", "conn --sample 1 -t dev/%c/#"] {
        let run = load(words, 1);
        assert_eq!(run.status, Some(2), "{words}");
        assert!(run.stderr.contains("--sample needs"), "{words}: {}", run.stderr);
    }
}

/// MQTT 3.1 has client ids of 23 characters at most, and the broker insists on it.
#[test]
fn clients_of_mqtt_3_1_have_short_ids() {
    let broker = Broker::start();
    let run = broker.good("conn -c 5 -V 3 --duration 0.1");
    assert_eq!(run.number("/connect/connected"), 5.0);
    let words = "mixed -c 20 --telemetry 0.2 --qos1 20 --qos2 10 --commands 100 --duration 0.5";
    let run = broker.good(&format!("{words} -V 3"));
    assert_eq!(run.number("/connect/failed_attempts"), 0.0);
}

#[test]
fn sub_hears_what_pub_says() {
    let broker = Broker::start();
    let words = "sub -c 3 -t news/# -t other/%i -q 1 --duration 2.5";
    let listener = start(words, broker.port).stdout(Stdio::piped()).spawn().unwrap();
    // Published again and again, so that nothing depends on when the listeners are there.
    let run = broker.good("pub -c 4 -t news/%c/%s -q 1 -I 10 --duration 2");
    assert!(run.flow("sent") >= 500 && run.flow("sent") == run.flow("acknowledged"));
    assert!(run.number("/latency_ms/publish_ack/p50") > 0.0);
    let heard = finished(listener.wait_with_output().unwrap());
    assert_eq!(heard.status, Some(0), "{}", heard.stderr);
    assert!(heard.number("/total/received") > 0.0);
    assert!(heard.number("/latency_ms/end_to_end/count") > 0.0);
}

#[test]
fn sub_counts_all_that_it_acknowledges() {
    let broker = Broker::start();
    let back = "sub -c 400 -C false --prefix back -t back/%i -q 1";
    broker.good(&format!("{back} --duration 0.1"));
    let sent = broker.good("pub -c 400 -t back/%i -q 1 -L 200000 --saturate").flow("acknowledged");
    assert_eq!(sent, 200_000);
    // Clients that leave in the middle of what they are sent: what they do not acknowledge comes
    // again, and what they do does not.
    let mut received = 0;
    while received < sent {
        let run = broker.good(&format!("{back} --warmup 0 --duration 0.001 --drain 0"));
        let more = run.number("/total/received") as u64;
        assert!(more > 0, "{received} of {sent}");
        received += more;
    }
}

#[test]
fn pub_ends_at_its_limit() {
    let broker = Broker::start();
    let run = broker.good("pub -c 3 -t a/%i -q 2 -I 5 -L 100 -r");
    assert_eq!((run.flow("sent"), run.flow("acknowledged")), (100, 100));
}

#[test]
fn pairs_at_a_rate_in_every_version_and_qos() {
    let broker = Broker::start();
    for version in [3, 4, 5] {
        for qos in [0, 1, 2] {
            let words = format!("pair -c 10 --rate 1000 -V {version} -q {qos} -L 300 -s 64");
            let run = broker.good(&words);
            assert_eq!((run.flow("sent"), run.flow("received")), (300, 300), "{words}");
            assert_eq!(run.flow("acknowledged"), if qos == 0 { 0 } else { 300 });
            assert_eq!(run.number("/latency_ms/end_to_end/count"), 300.0);
        }
    }
}

#[test]
fn pairs_saturated() {
    let broker = Broker::start();
    for qos in [0, 1, 2] {
        let words = format!("pair -c 7 --saturate -q {qos} -L 5000 -s 16 --duration 30");
        let run = broker.good(&words);
        assert_eq!((run.flow("sent"), run.flow("received")), (5000, 5000), "{words}");
    }
}

#[test]
fn pairs_with_large_payloads() {
    let broker = Broker::start();
    let run = broker.good("pair -c 2 --rate 50 -q 1 -s 300000 -L 20");
    assert_eq!(run.flow("received"), 20);
}

#[test]
fn fan_in_and_fan_out() {
    let broker = Broker::start();
    for pace in ["--rate 1000", "--saturate --duration 30"] {
        let run = broker.good(&format!("fan-in -c 11 --receivers 3 {pace} -q 1 -L 330"));
        assert_eq!((run.flow("expected"), run.flow("received")), (330, 330));
        let run = broker.good(&format!("fan-out -c 13 --publishers 2 {pace} -q 1 -L 100"));
        assert_eq!((run.flow("sent"), run.flow("received")), (100, 1300));
    }
}

#[test]
fn shared_gives_each_message_to_one() {
    let broker = Broker::start();
    for version in [4, 5] {
        let words = format!("shared -c 9 --receivers 4 --rate 1000 -q 1 -V {version} -L 400");
        let run = broker.good(&words);
        assert_eq!((run.flow("received"), run.flow("duplicates")), (400, 0));
    }
    let run = broker.good("shared -c 9 --receivers 4 --saturate -q 1 -L 2000 --duration 30");
    assert_eq!(run.flow("received"), 2000);
}

#[test]
fn storm_brings_everyone_back() {
    let broker = Broker::start();
    let run = broker.good("storm -c 200 --rounds 2 -t dev/%c --duration 0.1");
    assert_eq!(run.json["storms"].as_array().map(Vec::len), Some(2));
    assert_eq!(run.number("/total/cut"), 400.0);
    assert_eq!(run.number("/total/connected"), 600.0);
    assert!(run.number("/storms/0/seconds") > 0.0);
}

#[test]
fn churn_reconnects() {
    let broker = Broker::start();
    for how in ["", "--abrupt"] {
        let run = broker.good(&format!("churn -c 50 --churn 100 --duration 1 {how}"));
        let cut = run.number("/total/cut");
        assert!((25.0..=75.0).contains(&cut), "{cut}");
        assert_eq!(run.number("/total/lost_connections"), 0.0);
    }
}

#[test]
fn mixed_has_every_kind_of_message() {
    let broker = Broker::start();
    let words = "mixed -c 50 --telemetry 0.2 --qos1 20 --qos2 10 --commands 100 --duration 1";
    let run = broker.good(&format!("{words} -V 5 -x 1"));
    for flow in 0..4 {
        let number = |name: &str| run.number(&format!("/flows/{flow}/{name}"));
        assert!(number("sent") > 0.0 && number("sent") == number("received"), "{flow}");
    }
}

#[test]
fn suite_runs_scenarios_by_name() {
    let broker = Broker::start();
    let words = "suite conn-tcp-1K-1K p2p-50-50-50-500 fanout-2-20-2-1000 \
                 sharedsub-50-5-50-500 fanin-50-50-2-500";
    let run = broker.good(&format!("{words} --scale 0.5 --duration 0.5 --warmup 0"));
    let scenarios = run.json.as_array().map(Vec::len);
    assert_eq!(scenarios, Some(5), "{:#}", run.json);
}

#[test]
fn files_are_written() {
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let words = format!(
        "pair -c 2 --rate 200 --warmup 0 --duration 2.2 -q 1 --hgrm {} --html {} --pid {}",
        file("it.hgrm"),
        file("it.html"),
        broker.process.id()
    );
    let run = broker.good(&words);
    for whose in ["broker", "tool"] {
        assert!(run.number(&format!("/measured/{whose}_cpu_us_per_message")) > 0.0);
    }
    let hgrm = std::fs::read_to_string(file("it.hgrm")).unwrap();
    assert!(hgrm.contains("Percentile TotalCount") && hgrm.contains("Total count"));
    let html = std::fs::read_to_string(file("it.html")).unwrap();
    assert!(html.matches("<svg").count() >= 3 && html.contains("</html>"));
    assert!(html.contains("of processor time per message, broker / tool"));
    // Nothing from anywhere else.
    assert!(!html.contains("http") && !html.contains("<script") && !html.contains("src="));
}

/// A run that says how it goes.
fn talking(words: &str, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmq-load"));
    command.args(arguments(words, port)).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn progress_is_plain_lines_where_nobody_looks() {
    let broker = Broker::start();
    let words = "pair -c 4 --rate 200 --warmup 0 --duration 2.5";
    let run = finished(talking(words, broker.port).output().unwrap());
    assert_eq!(run.json["good"], true, "standard output is for the JSON alone");
    let progress = run.stderr;
    assert!(progress.lines().count() >= 2 && progress.ends_with('\n'), "{progress:?}");
    assert!(!progress.contains(['\r', '\x1b']), "{progress:?}");
    for part in ["verdict      good", "8/8 clients", "sent/s", "recv/s", "p99"] {
        assert!(progress.contains(part), "{part}: {progress:?}");
    }
}

#[test]
fn progress_is_one_live_line_on_a_terminal() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let broker = Broker::start();
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let screen = std::fs::File::options().read(true).write(true).open(name).unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_ringmq-load"))
        .args("pair -c 4 --rate 200 --warmup 0 --duration 2.5 -p".split(' '))
        .arg(broker.port.to_string())
        .stdout(Stdio::null())
        .stderr(screen)
        .spawn()
        .unwrap();
    // Read until the last writer is gone, which a terminal tells by an error.
    let (mut shown, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = rustix::io::read(&terminal, &mut buffer) {
        shown.extend_from_slice(&buffer[..count]);
    }
    assert!(run.wait().unwrap().success());
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.matches("\r\x1b[K").count() >= 3 && shown.contains("8/8 clients"), "{shown:?}");
    // Nothing stays behind, and nothing scrolls.
    assert!(shown.ends_with("\r\x1b[K") && !shown.contains('\n'), "{shown:?}");
}

#[test]
fn a_broker_that_is_killed_in_the_middle_is_reported() {
    let mut broker = Broker::start();
    let words = "pair -c 10 --rate 500 -q 1 --duration 60";
    let mut run = talking(words, broker.port).spawn().unwrap();
    let mut progress = BufReader::new(run.stderr.take().unwrap()).lines().map_while(Result::ok);
    progress.find(|line| line.contains("running")).expect("messages flow");
    broker.process.kill().unwrap();
    progress.for_each(drop);
    let run = finished(run.wait_with_output().unwrap());
    assert_eq!(run.status, Some(1), "{:#}", run.json);
    assert_eq!(run.json["broker_gone"], true);
    assert!(run.has_failure("connection lost") && !run.advice().is_empty(), "{:#}", run.json);
    // It reports what came till then.
    assert!(run.flow("received") > 0 && run.number("/latency_ms/end_to_end/count") > 0.0);
}

#[test]
fn clients_that_the_broker_throws_out_are_reported() {
    let broker = Broker::start();
    // Both use the same client ids.
    let words = "conn -c 5 --prefix same -V 5 --duration 3";
    let first = start(words, broker.port).stdout(Stdio::piped()).spawn().unwrap();
    let second = load("conn -c 5 --prefix same -V 5 --duration 3", broker.port);
    let first = finished(first.wait_with_output().unwrap());
    // Who comes later throws the other out; on a busy machine that is not the same one for each.
    let thrown = [&first, &second].iter().filter(|run| run.has_failure("taken over")).count();
    assert!(thrown >= 1, "{:#} {:#}", first.json, second.json);
}
