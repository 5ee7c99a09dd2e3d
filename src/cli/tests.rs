#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::settings::DurabilitySettings;
use super::sources::{NOT_IN_FILE, flag_names, variable};
use super::value::{Size, Span};
use super::*;

/// Settings from words, environment and a file `ringmq.toml`.
fn parse(args: &[&str], env: &[(&str, &str)], file: &str) -> Result<Invocation, CliError> {
    let env =
        |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let read_file = |path: &Path| match path.to_str() {
        Some("ringmq.toml") => Ok(file.to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let sources = Sources { env: &env, read_file: &read_file, hostname: "localhost", cores: 1 };
    Settings::from_parts(args.iter().map(|arg| (*arg).to_owned()), &sources)
}

fn settings(args: &[&str]) -> Settings {
    run(parse(args, &[], ""))
}

fn settings_of_file(file: &str) -> Settings {
    run(parse(&["--config", "ringmq.toml"], &[], file))
}

fn run(invocation: Result<Invocation, CliError>) -> Settings {
    match invocation {
        Ok(Invocation::Run(settings)) => *settings,
        Ok(Invocation::Print(text)) => panic!("printed {text}"),
        Err(error) => panic!("{error}"),
    }
}

fn text(invocation: Result<Invocation, CliError>) -> String {
    match invocation {
        Ok(Invocation::Print(text)) => text,
        Ok(Invocation::Run(settings)) => panic!("runs with {settings:?}"),
        Err(error) => panic!("{error}"),
    }
}

/// The error of `args`, which has to contain all of `parts`.
#[track_caller]
fn refused(args: &[&str], parts: &[&str]) {
    contains(&parse(args, &[], "").unwrap_err().to_string(), parts);
}

#[track_caller]
fn refused_in_file(file: &str, parts: &[&str]) {
    let error = parse(&["--config", "ringmq.toml"], &[], file).unwrap_err();
    contains(&error.to_string(), parts);
}

#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

// ---- Defaults and precedence ----

#[test]
fn without_arguments_all_defaults_hold() {
    assert_eq!(settings(&[]), Settings::default());
}

#[test]
fn the_command_is_well_formed() {
    flags::command().debug_assert();
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let file = "max-inflight = 1\nmax-qos = 0\nreceive-maximum = 5";
    let env = [("RINGMQ_MAX_INFLIGHT", "2"), ("RINGMQ_MAX_QOS", "1")];
    let args = ["--config", "ringmq.toml", "--max-inflight", "3"];
    let protocol = run(parse(&args, &env, file)).protocol;
    assert_eq!((protocol.max_inflight, protocol.max_qos, protocol.receive_maximum), (3, 1, 5));
    assert_eq!(protocol.max_awaiting_rel, crate::limits::MAX_AWAITING_REL);
}

#[test]
fn a_list_of_a_better_source_replaces_the_others() {
    let file = "listen = ['127.0.0.1:1', '127.0.0.1:2']";
    let env = [("RINGMQ_LISTEN", "127.0.0.1:3,[::1]:4")];
    let ports = |args: &[&str], env: &[(&str, &str)]| -> Vec<u16> {
        let settings = run(parse(args, env, file));
        settings.listeners.addresses.iter().map(|address| address.port()).collect()
    };
    let config = ["--config", "ringmq.toml"];
    assert_eq!(ports(&config, &[]), [1, 2]);
    assert_eq!(ports(&config, &env), [3, 4]);
    let args = [&config[..], &["--listen", "127.0.0.1:5", "--listen", "127.0.0.1:6"]].concat();
    assert_eq!(ports(&args, &env), [5, 6]);
}

#[test]
fn the_file_can_be_named_by_the_environment() {
    let settings = run(parse(&[], &[("RINGMQ_CONFIG", "ringmq.toml")], "shards = 7"));
    assert_eq!(settings.shards.count, 7);
}

#[test]
fn an_empty_variable_is_as_good_as_none() {
    assert_eq!(run(parse(&[], &[("RINGMQ_SHARDS", "")], "")).shards.count, 1);
}

#[test]
fn every_flag_is_a_variable_and_a_key() {
    let asked = RefCell::new(Vec::new());
    let env = |name: &str| {
        asked.borrow_mut().push(name.to_owned());
        None
    };
    let read_file = |_: &Path| Ok(String::new());
    let sources = Sources { env: &env, read_file: &read_file, hostname: "h", cores: 1 };
    Settings::from_parts([], &sources).unwrap();
    for flag in flag_names(&flags::command()) {
        assert!(asked.borrow().contains(&variable(&flag)), "{flag}");
        let wrong = format!("{flag} = {{}}");
        let error = parse(&["--config", "ringmq.toml"], &[], &wrong).unwrap_err();
        if NOT_IN_FILE.contains(&flag.as_str()) {
            assert!(matches!(error, CliError::UnknownKey { .. }), "{error}");
        } else {
            contains(&error.to_string(), &[&flag, "a table is no value for it"]);
        }
    }
}

#[test]
fn the_machine_gives_shards_and_node_name() {
    let read_file = |_: &Path| Ok(String::new());
    let of = |hostname: &str, cores| {
        let sources = Sources { env: &|_| None, read_file: &read_file, hostname, cores };
        let settings = run(Settings::from_parts([], &sources));
        (settings.monitoring.node_name, settings.shards.count)
    };
    assert_eq!(of("edge-1.example", 6), ("ringmq@edge-1.example".to_owned(), 6));
    assert_eq!(of("a/b+c #ü", 0), ("ringmq@a-b-c---".to_owned(), 1));
    assert_eq!(of("", 1_000), ("ringmq@localhost".to_owned(), 256));
}

// ---- Values ----

#[test]
fn values_reach_their_fields() {
    let all = settings_of_file(
        r#"
        listen = "0.0.0.0:1883"
        allow-anonymous = true
        tcp-nodelay = false
        backlog = 128
        recv-buffer = "64KiB"
        send-buffer = 32768
        tcp-keepalive-idle = "2min"
        tcp-keepalive-interval = 15
        tcp-keepalive-probes = 4
        tcp-user-timeout = "1500ms"
        max-connections = 9
        max-connections-per-address = 8
        connect-rate = 7
        connect-timeout = "3s"
        send-timeout = "4s"
        linger = "500ms"
        max-outbox-bytes = "2MiB"
        max-unread-bytes = "3MiB"
        max-packet-size = 65536
        receive-maximum = 11
        max-awaiting-rel = 12
        max-inflight = 13
        topic-alias-maximum = 14
        outbound-topic-alias-maximum = 15
        max-qos = 1
        max-subscriptions = 16
        max-subscription-bytes = "66KiB"
        max-topic-levels = 17
        server-keep-alive = "1min"
        allow-empty-client-id = false
        allow-long-client-ids = true
        shared-subscription-strategy = "hash_clientid"
        response-information = "replies"
        validate-payload-format = true
        data-dir = "kept"
        durability = "interval:250"
        salvage = true
        max-store-backlog-bytes = "1MiB"
        max-queued-in-memory = 27
        max-stored-queue-bytes = "5MiB"
        max-sessions = 26
        max-session-expiry = "1d"
        max-queued-messages = 18
        max-queued-bytes = "3MiB"
        max-queued-total-bytes = "4MiB"
        queue-overflow = "drop-newest"
        queue-qos0 = true
        retain-available = false
        max-retained-messages = 19
        max-retained-bytes = "4MiB"
        shards = 20
        pin = false
        driver = "io_uring"
        separate-descriptor-tables = false
        packets-per-turn = 21
        mesh-credit = 2200
        max-filter-shapes = 23
        max-unshaped-filters = 25
        shutdown-timeout = "24s"
        node-name = "n1@host:1883"
        sys-interval = 0
        presence-events = false
        log-level = "debug"
        log-format = "json"
        "#,
    );
    let expected = Settings {
        listeners: ListenerSettings {
            addresses: vec!["0.0.0.0:1883".parse().unwrap()],
            allow_anonymous: true,
        },
        tcp: TcpSettings {
            nodelay: false,
            backlog: 128,
            recv_buffer: std::num::NonZeroU32::new(65_536),
            send_buffer: std::num::NonZeroU32::new(32_768),
            keep_alive: Some(TcpKeepAlive {
                idle: Duration::from_secs(120),
                interval: Some(Duration::from_secs(15)),
                probes: Some(4),
            }),
            user_timeout: Some(Duration::from_millis(1_500)),
        },
        connections: ConnectionSettings {
            max: std::num::NonZeroU32::new(9),
            max_per_address: std::num::NonZeroU32::new(8),
            connect_rate: std::num::NonZeroU32::new(7),
            connect_timeout: Duration::from_secs(3),
            send_timeout: Duration::from_secs(4),
            linger: Duration::from_millis(500),
            max_outbox_bytes: 2 << 20,
            max_unread_bytes: 3 << 20,
        },
        protocol: ProtocolSettings {
            max_packet_size: 65_536,
            receive_maximum: 11,
            max_awaiting_rel: 12,
            max_inflight: 13,
            topic_alias_maximum: 14,
            outbound_topic_alias_maximum: 15,
            max_qos: 1,
            max_subscriptions: 16,
            max_subscription_bytes: 66 << 10,
            max_topic_levels: 17,
            server_keep_alive: std::num::NonZeroU16::new(60),
            allow_empty_client_id: false,
            allow_long_client_ids: true,
            shared_strategy: SharedStrategy::HashClientId,
            response_information: Some("replies".to_owned()),
            validate_payload_format: true,
        },
        sessions: SessionSettings {
            max: 26,
            max_expiry: 86_400,
            max_queued_messages: 18,
            max_queued_bytes: 3 << 20,
            max_queued_total_bytes: 4 << 20,
            overflow: QueueOverflow::DropNewest,
            queue_qos0: true,
        },
        durability: DurabilitySettings {
            data_dir: Some("kept".into()),
            durability: Durability::Interval(Duration::from_millis(250)),
            salvage: true,
            max_backlog_bytes: 1 << 20,
            max_queued_in_memory: 27,
            max_queue_bytes: 5 << 20,
        },
        retained: RetainedSettings { available: false, max_messages: 19, max_bytes: 4 << 20 },
        shards: ShardSettings {
            count: 20,
            pin: false,
            driver: Driver::IoUring,
            separate_descriptor_tables: false,
            packets_per_turn: 21,
            mesh_credit: 2_200,
            max_filter_shapes: 23,
            max_unshaped_filters: 25,
            shutdown_timeout: Duration::from_secs(24),
        },
        monitoring: MonitoringSettings {
            node_name: "n1@host:1883".to_owned(),
            sys_interval: None,
            presence_events: false,
        },
        log: LogSettings { level: LogLevel::Debug, format: LogFormat::Json },
    };
    assert_eq!(all, expected);
}

#[test]
fn truth_values_stand_alone_or_with_a_word() {
    assert!(settings(&["--queue-qos0"]).sessions.queue_qos0);
    assert!(settings(&["--queue-qos0", "--shards", "1"]).sessions.queue_qos0);
    assert!(settings(&["--queue-qos0=yes"]).sessions.queue_qos0);
    assert!(!settings(&["--pin", "false"]).shards.pin);
    assert!(!settings(&["--pin=off"]).shards.pin);
    assert!(!run(parse(&[], &[("RINGMQ_PIN", "0")], "")).shards.pin);
    refused(&["--pin", "maybe"], &["--pin", "maybe", "expected true or false"]);
}

#[test]
fn listeners_are_addresses_or_localhost() {
    let of = |text: &str| value::listen_address(text).map(|address| address.to_string());
    assert_eq!(of("127.0.0.1:1883").unwrap(), "127.0.0.1:1883");
    assert_eq!(of("[::1]:0").unwrap(), "[::1]:0");
    assert_eq!(of("LocalHost:99").unwrap(), "127.0.0.1:99");
    contains(&of("127.0.0.1").unwrap_err(), &["the port is missing"]);
    contains(&of("::1").unwrap_err(), &["brackets"]);
    contains(&of("fe80:0:0:0:0:0:0:1:1883").unwrap_err(), &["brackets"]);
    contains(&of("example.com:1883").unwrap_err(), &["`example.com` is no IP address"]);
    contains(&of("127.0.0.1:65536").unwrap_err(), &["`65536` is no port"]);
    contains(&of("").unwrap_err(), &["expected ADDR:PORT"]);
    contains(&of("1883").unwrap_err(), &["expected ADDR:PORT"]);
}

#[test]
fn sizes_have_units() {
    let of = |text: &str| text.parse::<Size>().map(|size| size.0);
    assert_eq!(of("4096"), Ok(4096));
    assert_eq!(of("64KiB"), Ok(65_536));
    assert_eq!(of("64k"), Ok(65_536));
    assert_eq!(of(" 1 MiB "), Ok(1 << 20));
    assert_eq!(of("2GB"), Ok(2_000_000_000));
    assert_eq!(of("3B"), Ok(3));
    contains(&of("1.5MiB").unwrap_err(), &["no unit", "expected bytes as"]);
    contains(&of("MiB").unwrap_err(), &["expected bytes as"]);
    contains(&of("-1").unwrap_err(), &["expected bytes as"]);
    contains(&of("").unwrap_err(), &["expected bytes as"]);
    contains(&of("99999999999TiB").unwrap_err(), &["too large"]);
}

#[test]
fn times_have_units() {
    let of = |text: &str| text.parse::<Span>().map(|span| span.0);
    assert_eq!(of("10"), Ok(Duration::from_secs(10)));
    assert_eq!(of("10s"), Ok(Duration::from_secs(10)));
    assert_eq!(of("5 min"), Ok(Duration::from_secs(300)));
    assert_eq!(of("2h"), Ok(Duration::from_secs(7_200)));
    assert_eq!(of("7d"), Ok(Duration::from_secs(604_800)));
    assert_eq!(of("250ms"), Ok(Duration::from_millis(250)));
    contains(&of("5m").unwrap_err(), &["`m` is no unit of time", "5min"]);
    contains(&of("soon").unwrap_err(), &["no unit of time"]);
    contains(&of("").unwrap_err(), &["expected a time as"]);
    contains(&of("99999999999999999999s").unwrap_err(), &["expected a time as"]);
    contains(&of("999999999999999d").unwrap_err(), &["too large"]);
}

proptest! {
    #[test]
    fn sizes_and_times_are_read_back_as_written(number: u64, shift in 0..40u32) {
        let size = Size(number >> shift << (shift / 2));
        prop_assert_eq!(size.to_string().parse::<Size>(), Ok(size));
        let span = Span(Duration::from_millis(number >> shift));
        prop_assert_eq!(span.to_string().parse::<Span>(), Ok(span));
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "[0-9a-zA-Z:\\[\\].ü -]{0,12}") {
        let _ = text.parse::<Size>();
        let _ = text.parse::<Span>();
        let _ = value::listen_address(&text);
    }
}

// ---- Errors ----

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    refused(&["--max-qos", "3"], &["--max-qos", "3", "0..=2"]);
    refused(&["--max-inflight", "0"], &["--max-inflight", "1..=65535"]);
    refused(&["--max-inflight", "65536"], &["--max-inflight", "1..=65535"]);
    refused(&["--receive-maximum", "0"], &["--receive-maximum", "1..=65535"]);
    refused(&["--shards", "257"], &["--shards", "0..=256"]);
    refused(&["--max-packet-size", "257MiB"], &["from 64 to 268435460"]);
    refused(&["--max-packet-size", "63"], &["from 64 to 268435460"]);
    refused(&["--connect-timeout", "0"], &["from 100ms to 1h"]);
    refused(&["--sys-interval", "1ms"], &["from 100ms to 1d, or 0"]);
    refused(&["--recv-buffer", "1"], &["from 2304 to 1GiB, or 0"]);
    refused(&["--server-keep-alive", "65536"], &["from 0 to 65535s"]);
    refused(&["--server-keep-alive", "1500ms"], &["whole seconds"]);
    refused(&["--max-session-expiry", "4294967295"], &["from 0 to 4294967294s"]);
    refused(&["--driver", "kqueue"], &["--driver", "kqueue", "auto, io_uring, epoll"]);
    refused(&["--log-level", "loud"], &["--log-level", "loud", "trace"]);
}

#[test]
fn unknown_flags_and_words_are_refused() {
    refused(&["--max-inflght", "3"], &["--max-inflght", "--max-inflight"]);
    refused(&["start"], &["start"]);
    refused(&["--shards", "1", "--shards", "2"], &["--shards", "multiple times"]);
    for later in ["--tls-listen", "--ws-listen", "--password-file", "--acl-file", "--admin-listen"]
    {
        refused(&[later, "x"], &[later]);
    }
}

#[test]
fn a_bad_variable_is_named() {
    let error = parse(&[], &[("RINGMQ_MAX_QOS", "7")], "").unwrap_err();
    contains(&error.to_string(), &["environment variable RINGMQ_MAX_QOS", "'7'", "0..=2"]);
    let error = parse(&["--max-qos", "1"], &[("RINGMQ_MAX_QOS", "7")], "").unwrap_err();
    assert!(matches!(error, CliError::Value { .. }), "a flag does not hide it: {error}");
}

#[test]
fn a_bad_file_is_explained() {
    refused_in_file("max-qos = 7", &["key `max-qos` in ringmq.toml", "'7'", "0..=2"]);
    refused_in_file("max-qos = 1.5", &["max-qos", "a number with a fraction is no value"]);
    refused_in_file("max-qos = [1]", &["max-qos", "a list is no value"]);
    refused_in_file("max-qos = 1979-05-27", &["max-qos", "a date is no value"]);
    refused_in_file("listen = []", &["listen", "an empty list is no value"]);
    refused_in_file("listen = [['x']]", &["listen", "a list is no value"]);
    refused_in_file("max_qos = 1", &["unknown key `max_qos`", "did you mean `max-qos`?"]);
    refused_in_file("max-qoss = 1", &["unknown key `max-qoss`", "did you mean `max-qos`?"]);
    refused_in_file("zzz = 1", &["unknown key `zzz`", "--help"]);
    refused_in_file("[limits]\nmax-qos = 1", &["unknown key `limits`", "no table"]);
    refused_in_file("config = 'x'", &["unknown key `config`", "command line only"]);
    refused_in_file("max-qos = 1\nmax-qos = 2", &["ringmq.toml is no valid TOML", "line 2"]);
    refused_in_file("max-qos =", &["ringmq.toml is no valid TOML", "line 1"]);
    refused(&["--config", "other.toml"], &["cannot read", "--config", "other.toml"]);
}

#[test]
fn an_open_listener_needs_a_word_for_anonymous_clients() {
    for address in ["0.0.0.0:1883", "[::]:1883", "192.0.2.1:1883", "[::ffff:192.0.2.1]:1883"] {
        refused(&["--listen", address], &["--listen", "password", "--allow-anonymous"]);
        refused(&["--listen", address, "--allow-anonymous=false"], &["--allow-anonymous"]);
        let open = settings(&["--listen", address, "--allow-anonymous"]);
        assert!(open.listeners.allow_anonymous);
    }
    refused(&["--listen", "127.0.0.1:1", "--listen", "0.0.0.0:2"], &["0.0.0.0:2"]);
    for address in ["127.0.0.1:1883", "127.8.9.10:1883", "[::1]:1883", "[::ffff:127.0.0.1]:1"] {
        assert!(settings(&["--listen", address]).listeners.allow_anonymous);
    }
    assert!(!settings(&["--allow-anonymous", "false"]).listeners.allow_anonymous);
}

#[test]
fn a_listener_is_not_given_twice() {
    let twice = ["--listen", "127.0.0.1:1", "--listen", "localhost:1"];
    refused(&twice, &["--listen 127.0.0.1:1", "twice"]);
    let free = settings(&["--listen", "127.0.0.1:0,127.0.0.1:0"]);
    assert_eq!(free.listeners.addresses.len(), 2);
}

#[test]
fn durability_is_on_unless_everything_is_in_memory() {
    let folder = |args: &[&str]| settings(args).durability.data_dir;
    assert_eq!(folder(&[]), Some("ringmq-data".into()));
    assert_eq!(folder(&["--data-dir", "/srv/mqtt"]), Some("/srv/mqtt".into()));
    assert_eq!(folder(&["--in-memory"]), None);
    assert_eq!(folder(&["--in-memory", "--data-dir", "/srv/mqtt"]), None);
    refused(&["--data-dir", ""], &["--data-dir"]);
}

#[test]
fn durability_is_always_now_and_then_or_never_brought_to_the_disk() {
    let of = |value: &str| settings(&["--durability", value]).durability.durability;
    assert_eq!(of("always"), Durability::Always);
    assert_eq!(of("os"), Durability::Os);
    assert_eq!(of("interval:20"), Durability::Interval(Duration::from_millis(20)));
    assert_eq!(of("interval:2s"), Durability::Interval(Duration::from_secs(2)));
    for value in ["sometimes", "interval", "interval:", "interval:0", "interval:2h", "always:1"] {
        refused(&["--durability", value], &["--durability"]);
    }
}

#[test]
fn the_largest_packet_fits_every_queue() {
    refused(
        &["--max-packet-size", "2MiB"],
        &["--max-outbox-bytes 1MiB", "--max-packet-size 2MiB", "raise it to 2MiB"],
    );
    refused(&["--max-queued-bytes", "1023KiB"], &["--max-queued-bytes 1023KiB"]);
    refused(&["--max-retained-bytes", "1KiB"], &["--max-retained-bytes 1KiB"]);
    settings(&["--max-packet-size", "2MiB", "--max-outbox-bytes", "2MiB"]);
}

#[test]
fn tcp_keep_alive_needs_its_idle_time() {
    refused(&["--tcp-keepalive-interval", "5"], &["interval 5s", "--tcp-keepalive-idle"]);
    refused(&["--tcp-keepalive-probes", "5"], &["probes 5", "--tcp-keepalive-idle"]);
    let keep_alive = settings(&["--tcp-keepalive-idle", "60"]).tcp.keep_alive.unwrap();
    assert_eq!((keep_alive.interval, keep_alive.probes), (None, None));
}

#[test]
fn names_are_parts_of_topics() {
    for name in ["", "a/b", "a+b", "#", "a b", "ü", &"x".repeat(129)] {
        refused(&["--node-name", name], &["--node-name", "one level of a topic"]);
    }
    for prefix in ["a/+", "#", "a\0b"] {
        refused(&["--response-information", prefix], &["--response-information", "topic name"]);
    }
    refused(&["--response-information", "a/"], &["--response-information a/", "slash"]);
    refused(&["--response-information", &"x".repeat(1_025)], &["longer than 1024 bytes"]);
    let given = settings(&["--response-information", "fleet/replies"]);
    assert_eq!(given.protocol.response_information.as_deref(), Some("fleet/replies"));
}

// ---- What is printed ----

#[test]
fn help_and_version_are_texts() {
    let help = text(parse(&["--help"], &[], ""));
    contains(
        &help,
        &["Listeners and access:", "Shards:", "[default: 1MiB]", "RINGMQ_MAX_INFLIGHT"],
    );
    assert!(!help.contains("tls-listen"));
    let version = text(parse(&["--version"], &[], ""));
    assert_eq!(version.trim(), format!("ringmq {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_checked_configuration_is_one_that_gives_the_same_settings() {
    let args = [
        "--listen=127.0.0.1:0,[::1]:7",
        "--queue-qos0",
        "--node-name=a:b",
        "--allow-anonymous=no",
        "--tcp-keepalive-idle=1min",
        "--response-information=a\"\\ü",
        "--shards=3",
        "--max-queued-bytes=17MB",
    ];
    let printed = text(parse(&[&args[..], &["--check-config"]].concat(), &[], ""));
    contains(&printed, &["shards = 3\n", "queue-qos0 = true\n", "listen = [\"127.0.0.1:0\", "]);
    assert_eq!(settings_of_file(&printed), settings(&args));
    let printed = text(parse(&["--check-config"], &[], ""));
    assert_eq!(settings_of_file(&printed), Settings::default());
}

#[test]
fn a_checked_configuration_can_be_wrong() {
    refused(&["--check-config", "--listen", "0.0.0.0:1883"], &["--allow-anonymous"]);
}

/// `UPDATE_DOCS=1 cargo test --lib page` writes it.
#[test]
fn the_configuration_page_is_that_of_the_flags() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let written = std::fs::read_to_string(&path).unwrap();
    let renewed = page::renewed(&written).expect("both marks of page.rs are in the page");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &renewed).unwrap();
        return;
    }
    assert!(
        written == renewed,
        "docs/configuration.md is not what the flags say. UPDATE_DOCS=1 cargo test --lib page \
         makes it:\n\n{renewed}"
    );
}
