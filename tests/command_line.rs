//! Flags, environment and file as the process sees them, and what it says when they are wrong.

mod support;

use std::{fs, net::TcpListener};

use support::{Server, Version, run, run_with};

#[test]
fn what_cannot_be_used_is_explained_and_the_exit_status_is_2() {
    for (flags, words) in [
        (&["--no-such-flag"][..], &["--no-such-flag"][..]),
        (&["--shards=many"], &["--shards", "many"]),
        (&["--shards=1000"], &["--shards", "1000"]),
        (&["--max-qos=3"], &["--max-qos", "3"]),
        (&["--listen=nonsense"], &["--listen", "nonsense"]),
        (&["--receive-maximum=0"], &["--receive-maximum"]),
        (&["--driver=kqueue"], &["--driver", "io_uring", "epoll"]),
        (&["--config=/no/such/file"], &["/no/such/file"]),
        (&["--durability=sometimes"], &["--durability", "always"]),
        (&["--max-outbox-bytes=1KiB"], &["--max-outbox-bytes", "--max-packet-size"]),
        (&["--node-name=a/b"], &["--node-name"]),
    ] {
        let finished = run(flags);
        assert_eq!(finished.code, Some(2), "{flags:?}: {}", finished.stderr);
        assert_eq!(finished.stdout, "");
        for word in words {
            assert!(finished.stderr.contains(word), "{flags:?}: {}", finished.stderr);
        }
    }
}

#[test]
fn the_network_needs_a_word_about_anonymous_clients() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:1883"] {
        let finished = run(&["--listen", address]);
        assert_eq!(finished.code, Some(2));
        assert!(finished.stderr.contains("--allow-anonymous"), "{}", finished.stderr);
    }
    let server = Server::start(&["--allow-anonymous", "--listen=0.0.0.0:0"]);
    server.connect(Version::V5, "client").expect_nothing();
}

#[test]
fn check_config_prints_what_comes_out_and_reads_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ringmq.toml");
    fs::write(&file, "max-inflight = 5\nmax-qos = 1\nnode-name = \"from-the-file\"\n").unwrap();
    let config = format!("--config={}", file.display());
    let finished = run_with(&["--check-config", &config, "--max-inflight=7"], |command| {
        command.env("RINGMQ_MAX_INFLIGHT", "6").env("RINGMQ_MAX_QOS", "0");
    });
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for line in ["max-inflight = 7", "max-qos = 0", "node-name = \"from-the-file\""] {
        assert!(finished.stdout.lines().any(|l| l == line), "{line} in {}", finished.stdout);
    }
    let printed = folder.path().join("printed.toml");
    fs::write(&printed, &finished.stdout).unwrap();
    let again = run(&["--check-config", &format!("--config={}", printed.display())]);
    assert_eq!((again.code, again.stdout), (Some(0), finished.stdout));
    let wrong = run(&["--check-config", "--max-outbox-bytes=1"]);
    assert_eq!(wrong.code, Some(2));
}

#[test]
fn a_key_that_is_no_setting_is_an_error_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ringmq.toml");
    fs::write(&file, "max-inflihgt = 5\n").unwrap();
    let finished = run(&[&format!("--config={}", file.display())]);
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("max-inflihgt"), "{}", finished.stderr);
    assert!(finished.stderr.contains("max-inflight"), "{}", finished.stderr);
}

#[test]
fn help_and_version() {
    let help = run(&["--help"]);
    assert_eq!(help.code, Some(0));
    for word in ["--listen", "--shards", "--max-packet-size", "Listeners and access:", "[default: "]
    {
        assert!(help.stdout.contains(word), "{word}");
    }
    let version = run(&["--version"]);
    assert_eq!(version.code, Some(0));
    assert_eq!(version.stdout.trim(), concat!("ringmq ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_port_in_use_is_said_so() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let finished = run(&["--listen", &address]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains(&address), "{}", finished.stderr);
    assert!(finished.stderr.contains("another program"), "{}", finished.stderr);
    // Another RingMQ is another program too, although both could listen on one port.
    let server = Server::start(&["--shards=2"]);
    let address = server.address().to_string();
    let finished = run(&["--listen", &address]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    server.connect(Version::V5, "client").expect_nothing();
}

#[test]
fn the_start_says_what_it_runs_with() {
    let server = Server::start(&["--shards=2", "--listen=127.0.0.1:0"]);
    let log = server.log();
    assert!(log.contains("\"shards\":2"), "{log}");
    assert!(log.contains("\"driver\":"), "{log}");
    assert!(log.contains("room for "), "{log}");
    assert!(log.contains("ulimit -n") || log.contains("sysctl") || log.contains("memory"), "{log}");
}

#[test]
fn several_listeners_of_both_families() {
    let server = Server::start(&["--shards=2", "--listen=[::1]:0,127.0.0.1:0"]);
    let mut addresses = std::collections::BTreeSet::new();
    while addresses.len() < 2 {
        for line in server.log().lines().filter(|line| line.contains("\"listening\"")) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            addresses.insert(line["address"].as_str().unwrap().to_owned());
        }
    }
    for address in addresses {
        std::net::TcpStream::connect(&address).unwrap();
    }
}
