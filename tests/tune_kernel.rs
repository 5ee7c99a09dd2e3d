//! `scripts/tune-kernel.sh`, on settings that are files in a folder of the test's own.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// Settings of a machine that nobody has touched.
const SETTINGS: &[(&str, &str)] = &[
    ("fs/nr_open", "1048576"),
    ("fs/file-max", "100000"),
    ("net/core/somaxconn", "4096"),
    ("net/core/netdev_max_backlog", "1000"),
    ("net/ipv4/tcp_mem", "100\t200\t300"),
    ("net/ipv4/tcp_syncookies", "1"),
    ("net/ipv4/tcp_max_syn_backlog", "128"),
    ("net/ipv4/ip_local_port_range", "32768\t60999"),
    ("net/netfilter/nf_conntrack_max", "1000"),
    ("net/netfilter/nf_conntrack_count", "0"),
];

fn machine(changes: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in SETTINGS.iter().chain(changes) {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{value}\n")).unwrap();
    }
    folder
}

fn tune(machine: &TempDir, words: &str) -> (Option<i32>, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/tune-kernel.sh");
    // Its parent is a shell that ends with it: a descriptor limit that is set is no other's.
    let Output { status, stdout, stderr } = Command::new("bash")
        .args(["-c", "ulimit -n 1000; \"$0\" \"$@\"; exit $?"])
        .arg(script)
        .args(words.split_whitespace())
        .env("SYSCTL_ROOT", machine.path())
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

/// The words of a setting's row.
fn row<'a>(output: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let row = output.lines().find(|line| line.starts_with(name))?;
    Some(row.split_whitespace().collect())
}

fn setting(machine: &TempDir, name: &str) -> String {
    fs::read_to_string(machine.path().join(name)).unwrap().trim().to_owned()
}

#[test]
fn it_asks_for_nothing_that_is_there() {
    let machine = machine(&[]);
    let (code, output) = tune(&machine, "500 --shards 1");
    assert_eq!(code, Some(0), "{output}");
    assert_eq!(row(&output, "fs.file-max").unwrap()[1..4], ["100,000", "10,500", "ok"]);
    assert_eq!(row(&output, "net.core.somaxconn").unwrap()[1..4], ["4,096", "500", "ok"]);
    // The kernel's SYN cookies are on, nobody tracks connections, the clients are elsewhere.
    for not_needed in ["tcp_max_syn_backlog", "nf_conntrack", "port_range", "netdev", "nr_open"] {
        assert!(!output.contains(not_needed), "{not_needed}: {output}");
    }
}

#[test]
fn it_asks_for_what_is_too_low_and_sets_nothing_unasked() {
    let machine = machine(&[("net/netfilter/nf_conntrack_count", "7")]);
    let (code, output) = tune(&machine, "200000 --shards 2 --load 4");
    assert_eq!(code, Some(1), "{output}");
    for (name, words) in [
        ("fs.file-max", ["100,000", "410,000", "too"]),
        ("net.core.somaxconn", ["4,096", "65,535", "too"]),
        ("net.core.netdev_max_backlog", ["1,000", "10,000", "too"]),
        ("net.netfilter.nf_conntrack_max", ["1,000", "220,000", "too"]),
    ] {
        assert_eq!(row(&output, name).unwrap()[1..4], words, "{output}");
    }
    assert!(output.contains("LimitNOFILE="), "{output}");
    for (name, value) in SETTINGS {
        let value = if *name == "net/netfilter/nf_conntrack_count" { "7" } else { value };
        assert_eq!(setting(&machine, name), value, "{name}");
    }
}

#[test]
fn it_sets_what_is_too_low() {
    let machine = machine(&[("net/netfilter/nf_conntrack_count", "7")]);
    let (_, output) = tune(&machine, "200000 --shards 200 --load 4 --apply");
    assert_eq!(setting(&machine, "fs/file-max"), "410000", "{output}");
    assert_eq!(setting(&machine, "net/core/somaxconn"), "65535");
    assert_eq!(setting(&machine, "net/ipv4/tcp_mem"), "25000 33333 50000");
    assert_eq!(setting(&machine, "net/ipv4/ip_local_port_range"), "10536 65535");
    assert_eq!(setting(&machine, "net/netfilter/nf_conntrack_max"), "220000");
    // Not too low, and not asked for.
    assert_eq!(setting(&machine, "fs/nr_open"), "1048576");
    assert_eq!(setting(&machine, "net/ipv4/tcp_max_syn_backlog"), "128");
}

#[test]
fn it_says_how_many_shards_do_under_the_limit() {
    let machine = machine(&[]);
    let (_, output) = tune(&machine, "5000 --shards 1");
    let limit = row(&output, "descriptor limit").unwrap();
    assert_eq!(limit[4..6], ["1,000", "5,101"], "{output}");
    assert!(output.contains("or --shards 7 under the present limit"), "{output}");
    assert_eq!(row(&output, "fs.nr_open").unwrap()[3], "ok");
}

#[test]
fn what_it_cannot_read_it_refuses() {
    let machine = machine(&[]);
    for words in ["", "many", "0", "100 200", "100 --shards", "100 --shards 0", "100 --no"] {
        let (code, output) = tune(&machine, words);
        assert_eq!(code, Some(2), "{words}: {output}");
        assert!(output.contains("scripts/tune-kernel.sh 1000000"), "{words}: {output}");
    }
}
