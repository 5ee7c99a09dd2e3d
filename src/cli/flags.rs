//! The flags as they are typed. Their texts are what `--help` and `docs/configuration.md` say;
//! their long names are also the keys of the file and, with `RINGMQ_`, the environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Command, CommandFactory, Parser, value_parser};

use super::settings::{Driver, Durability, LogFormat, LogLevel, QueueOverflow, SharedStrategy};
use super::value::{self, Size, Span};
use crate::limits;

/// Marks the flags that [`command`] lets stand alone for "true".
const BOOL: &str = "true|false";

const LISTENERS: &str = "Listeners and access";
const TCP: &str = "TCP";
const CONNECTIONS: &str = "Connections";
const PROTOCOL: &str = "Protocol";
const SESSIONS: &str = "Sessions and queues";
const DURABILITY: &str = "Durability";
const RETAINED: &str = "Retained messages";
const SHARDS: &str = "Shards";
const MONITORING: &str = "Monitoring and log";
const CONFIGURATION: &str = "Configuration";

/// An hour, the longest time that makes sense for a connection's timeouts.
const HOUR: Duration = Duration::from_secs(3_600);
const MS: Duration = Duration::from_millis(1);
/// The largest buffer or queue that may be asked for, in bytes; the point is only to catch slips.
const TIB: u64 = 1 << 40;
/// The largest socket buffer, in bytes: half of what the kernel's `int` can hold, for it doubles
/// the value.
const SOCKET_BUFFER: u64 = 1 << 30;

/// The command line: all of [`Flags`], with a true one also written without its value.
pub(super) fn command() -> Command {
    Flags::command().mut_args(|arg| {
        let is_bool = arg.get_value_names().is_some_and(|names| names.iter().eq([BOOL]));
        if !is_bool {
            return arg;
        }
        arg.num_args(0..=1).default_missing_value("true").value_parser(value::truth)
    })
}

/// An MQTT broker for huge device fleets: MQTT 3.1, 3.1.1 and 5.0 on one io_uring event loop per
/// core.
///
/// Without any flag it listens on 127.0.0.1:1883 and lets anyone on this machine connect.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "ringmq",
    version,
    max_term_width = 100,
    after_help = "Sizes are bytes, or have a unit: 64KiB, 1MiB, 2GiB. Times are seconds, or have a \
                  unit: 500ms, 10s, 5min, 2h, 7d.\n\nEvery flag is also an environment variable \
                  (--max-inflight: RINGMQ_MAX_INFLIGHT, several values separated by commas) and a \
                  key of the TOML file given with --config (max-inflight = 32). A flag goes before \
                  the environment, the environment before the file, the file before the default."
)]
pub(super) struct Flags {
    /// Address and port to listen on: an IP address (version 6 in brackets) or `localhost`. Port 0
    /// takes a free one. May be given several times
    #[arg(long, value_name = "ADDR:PORT", help_heading = LISTENERS, value_delimiter = ',',
        default_value = "127.0.0.1:1883", value_parser = value::listen_address)]
    pub listen: Vec<SocketAddr>,

    /// Let clients connect without user name and password. A listener that other machines can
    /// reach needs this set to true; with loopback listeners only, true is the default
    #[arg(long, value_name = BOOL, help_heading = LISTENERS, action = ArgAction::Set)]
    pub allow_anonymous: Option<bool>,

    /// Send packets at once instead of waiting to fill a segment (TCP_NODELAY)
    #[arg(long, value_name = BOOL, help_heading = TCP, action = ArgAction::Set, default_value = "true")]
    pub tcp_nodelay: bool,

    /// Connections that wait in the kernel to be accepted; the sysctl net.core.somaxconn caps it
    #[arg(long, value_name = "CONNECTIONS", help_heading = TCP,
        default_value_t = limits::BACKLOG, value_parser = value_parser!(u32).range(1..=65_535))]
    pub backlog: u32,

    /// Receive buffer of each socket (SO_RCVBUF); 0 lets the kernel tune it
    #[arg(long, value_name = "SIZE", help_heading = TCP,
        default_value = "0", value_parser = value::size_or_off(2_304, SOCKET_BUFFER))]
    pub recv_buffer: Size,

    /// Send buffer of each socket (SO_SNDBUF); 0 lets the kernel tune it
    #[arg(long, value_name = "SIZE", help_heading = TCP,
        default_value = "0", value_parser = value::size_or_off(4_608, SOCKET_BUFFER))]
    pub send_buffer: Size,

    /// TCP keep-alive: silence before the first probe; 0 is off. MQTT's keep-alive serves better:
    /// it also notices a client that hangs, and it is the client that chooses the interval its
    /// battery and its network can bear
    #[arg(long, value_name = "TIME", help_heading = TCP,
        default_value = "0", value_parser = value::seconds(32_767))]
    pub tcp_keepalive_idle: Span,

    /// TCP keep-alive: time between probes; 0 takes the kernel's (net.ipv4.tcp_keepalive_intvl)
    #[arg(long, value_name = "TIME", help_heading = TCP,
        default_value = "0", value_parser = value::seconds(32_767))]
    pub tcp_keepalive_interval: Span,

    /// TCP keep-alive: unanswered probes after which the connection is closed; 0 takes the
    /// kernel's (net.ipv4.tcp_keepalive_probes)
    #[arg(long, value_name = "PROBES", help_heading = TCP,
        default_value_t = 0, value_parser = value_parser!(u8).range(0..=127))]
    pub tcp_keepalive_probes: u8,

    /// Close a connection whose sent data stays unacknowledged for this long (TCP_USER_TIMEOUT); 0
    /// leaves it to the kernel (about 15 minutes). MQTT's keep-alive and --send-timeout serve
    /// better
    #[arg(long, value_name = "TIME", help_heading = TCP,
        default_value = "0", value_parser = value::span_or_off(MS, 24 * HOUR))]
    pub tcp_user_timeout: Span,

    /// Connections at a time; 0 is as many as the descriptor limit (ulimit -n) allows. At that
    /// limit the broker pauses accepting, beyond a number given here it refuses clients (MQTT 5:
    /// 0x97 Quota exceeded)
    #[arg(long, value_name = "CONNECTIONS", help_heading = CONNECTIONS,
        default_value_t = limits::MAX_CONNECTIONS)]
    pub max_connections: u32,

    /// Connections at a time from one source address; 0 is no limit
    #[arg(long, value_name = "CONNECTIONS", help_heading = CONNECTIONS,
        default_value_t = limits::MAX_CONNECTIONS_PER_ADDRESS)]
    pub max_connections_per_address: u32,

    /// New connections per second and shard; 0 is no limit
    #[arg(long, value_name = "PER SECOND", help_heading = CONNECTIONS,
        default_value_t = limits::CONNECT_RATE)]
    pub connect_rate: u32,

    /// Time from the connection to a complete CONNECT packet
    #[arg(long, value_name = "TIME", help_heading = CONNECTIONS,
        default_value_t = Span(limits::CONNECT_TIMEOUT),
        value_parser = value::span(100 * MS, HOUR))]
    pub connect_timeout: Span,

    /// Close a connection that has data waiting and takes none of it for this long
    #[arg(long, value_name = "TIME", help_heading = CONNECTIONS,
        default_value_t = Span(limits::SEND_TIMEOUT), value_parser = value::span(100 * MS, HOUR))]
    pub send_timeout: Span,

    /// Read on for this long after the last packet to a client, so that a TCP reset does not
    /// destroy it on its way; 0 closes at once
    #[arg(long, value_name = "TIME", help_heading = CONNECTIONS,
        default_value_t = Span(limits::LINGER), value_parser = value::span_or_off(MS, HOUR))]
    pub linger: Span,

    /// Bytes waiting to be sent to one client. Beyond it QoS 0 messages are dropped, and others wait
    /// in the session's queue; a client that takes nothing at all for --send-timeout is disconnected
    /// (MQTT 5: 0x97 Quota exceeded)
    #[arg(long, value_name = "SIZE", help_heading = CONNECTIONS,
        default_value_t = Size(limits::MAX_OUTBOX_BYTES), value_parser = value::size(1024, TIB))]
    pub max_outbox_bytes: Size,

    /// Bytes that have arrived and are not handled, over all connections of one shard: of packets
    /// that are not complete, and of clients that are made to wait. From half of it on, little is read
    /// at once; beyond it the client that holds the most is disconnected (MQTT 5: 0x97 Quota exceeded)
    #[arg(long, value_name = "SIZE", help_heading = CONNECTIONS,
        default_value_t = Size(limits::MAX_UNREAD_BYTES), value_parser = value::size(65_536, TIB))]
    pub max_unread_bytes: Size,

    /// Largest packet that a client may send, all of its bytes counted; announced to MQTT 5
    /// clients. The protocol's own limit is 268435460
    #[arg(long, value_name = "SIZE", help_heading = PROTOCOL,
        default_value_t = Size(u64::from(limits::MAX_PACKET_SIZE)),
        value_parser = value::size(64, u64::from(limits::PACKET_SIZE_CEILING)))]
    pub max_packet_size: Size,

    /// QoS 1 and 2 messages that an MQTT 5 client may have unacknowledged; announced as Receive
    /// Maximum. More of QoS 2 end the connection (0x93 Receive Maximum exceeded); who sends more of
    /// QoS 1 is not read from once the PUBACKs that wait for the store fill --max-outbox-bytes
    #[arg(long, value_name = "MESSAGES", help_heading = PROTOCOL,
        default_value_t = limits::RECEIVE_MAXIMUM, value_parser = value_parser!(u16).range(1..))]
    pub receive_maximum: u16,

    /// QoS 2 messages of a client before MQTT 5 that may await its PUBREL
    #[arg(long, value_name = "MESSAGES", help_heading = PROTOCOL,
        default_value_t = limits::MAX_AWAITING_REL, value_parser = value_parser!(u16).range(1..))]
    pub max_awaiting_rel: u16,

    /// QoS 1 and 2 messages sent to one client and not yet acknowledged; an MQTT 5 client's
    /// Receive Maximum may lower it
    #[arg(long, value_name = "MESSAGES", help_heading = PROTOCOL,
        default_value_t = limits::MAX_INFLIGHT, value_parser = value_parser!(u16).range(1..))]
    pub max_inflight: u16,

    /// Topic aliases that an MQTT 5 client may use; announced. 0 is none
    #[arg(long, value_name = "ALIASES", help_heading = PROTOCOL,
        default_value_t = limits::TOPIC_ALIAS_MAXIMUM)]
    pub topic_alias_maximum: u16,

    /// Topic aliases that the broker uses towards an MQTT 5 client that allows them. 0 is none
    #[arg(long, value_name = "ALIASES", help_heading = PROTOCOL,
        default_value_t = limits::OUTBOUND_TOPIC_ALIAS_MAXIMUM)]
    pub outbound_topic_alias_maximum: u16,

    /// Highest QoS that clients may publish with: 0, 1 or 2; announced to MQTT 5 clients
    #[arg(long, value_name = "QOS", help_heading = PROTOCOL,
        default_value_t = limits::MAX_QOS, value_parser = value_parser!(u8).range(0..=2))]
    pub max_qos: u8,

    /// Subscriptions of one session
    #[arg(long, value_name = "SUBSCRIPTIONS", help_heading = PROTOCOL,
        default_value_t = limits::MAX_SUBSCRIPTIONS as u32,
        value_parser = value_parser!(u32).range(1..))]
    pub max_subscriptions: u32,

    /// Bytes of the topic filters of one session
    #[arg(long, value_name = "SIZE", help_heading = PROTOCOL,
        default_value_t = Size(limits::MAX_SUBSCRIPTION_BYTES),
        value_parser = value::size(65_536, TIB))]
    pub max_subscription_bytes: Size,

    /// Levels of a topic name or topic filter. A filter with a wildcard may have 32 at most,
    /// whatever this says
    #[arg(long, value_name = "LEVELS", help_heading = PROTOCOL,
        default_value_t = limits::MAX_TOPIC_LEVELS as u32,
        value_parser = value_parser!(u32).range(1..=65_536))]
    pub max_topic_levels: u32,

    /// Keep-alive that MQTT 5 clients are told to use instead of their own, at most 65535 seconds;
    /// 0 leaves them theirs
    #[arg(long, value_name = "TIME", help_heading = PROTOCOL,
        default_value = "0", value_parser = value::seconds(65_535))]
    pub server_keep_alive: Span,

    /// Give a client that sends no client id one of the broker's making. False refuses it
    #[arg(long, value_name = BOOL, help_heading = PROTOCOL, action = ArgAction::Set, default_value = "true")]
    pub allow_empty_client_id: bool,

    /// Let MQTT 3.1 clients have client ids of more than 23 characters, which that version forbids
    /// and many brokers allow
    #[arg(long, value_name = BOOL, help_heading = PROTOCOL, action = ArgAction::Set, default_value = "false")]
    pub allow_long_client_ids: bool,

    /// Which member of a shared subscription ($share/GROUP/FILTER) gets a message
    #[arg(long, value_name = "STRATEGY", help_heading = PROTOCOL,
        default_value = "round_robin", value_enum)]
    pub shared_subscription_strategy: SharedStrategy,

    /// Start of the response topics given to MQTT 5 clients that ask for Response Information:
    /// they are told PREFIX/CLIENT-ID. Empty gives none
    #[arg(long, value_name = "PREFIX", help_heading = PROTOCOL, default_value = "")]
    pub response_information: String,

    /// Refuse MQTT 5 messages whose payload is said to be UTF-8 and is not (0x99)
    #[arg(long, value_name = BOOL, help_heading = PROTOCOL, action = ArgAction::Set, default_value = "false")]
    pub validate_payload_format: bool,

    /// Sessions in the whole broker, connected or not; 0 is no limit. An idle one with a
    /// subscription takes about 400 bytes, so 4000000 take 1.6 GB; one that uses up
    /// --max-subscriptions and --max-subscription-bytes takes 2.6 MB. A CONNECT that would make one
    /// more is refused (MQTT 5: 0x97 Quota exceeded)
    #[arg(long, value_name = "SESSIONS", help_heading = SESSIONS,
        default_value_t = limits::MAX_SESSIONS)]
    pub max_sessions: u64,

    /// How long a session may outlive its connection. Lowers what MQTT 5 clients ask for; clients
    /// before MQTT 5 that connect with CleanSession 0 get this
    #[arg(long, value_name = "TIME", help_heading = SESSIONS,
        default_value_t = Span(Duration::from_secs(limits::MAX_SESSION_EXPIRY as u64)),
        value_parser = value::seconds(u32::MAX - 1))]
    pub max_session_expiry: Span,

    /// Messages waiting in one session, for its client to return or to acknowledge others
    #[arg(long, value_name = "MESSAGES", help_heading = SESSIONS,
        default_value_t = limits::MAX_QUEUED_MESSAGES as u32,
        value_parser = value_parser!(u32).range(1..))]
    pub max_queued_messages: u32,

    /// Bytes (topics, properties, payloads) of the messages waiting in one session
    #[arg(long, value_name = "SIZE", help_heading = SESSIONS,
        default_value_t = Size(limits::MAX_QUEUED_BYTES), value_parser = value::size(1024, TIB))]
    pub max_queued_bytes: Size,

    /// Bytes (topics, properties, payloads) of the messages waiting in memory in all sessions of the
    /// broker, shared out equally over the shards; a message counts once for every session that it
    /// waits in. Beyond it messages are kept in the store alone; without one they are dropped as
    /// --queue-overflow says
    #[arg(long, value_name = "SIZE", help_heading = SESSIONS,
        default_value_t = Size(limits::MAX_QUEUED_TOTAL_BYTES),
        value_parser = value::size(1024, TIB))]
    pub max_queued_total_bytes: Size,

    /// Which message goes when a session's queue is full
    #[arg(long, value_name = "WHICH", help_heading = SESSIONS,
        default_value = "drop-oldest", value_enum)]
    pub queue_overflow: QueueOverflow,

    /// Also queue QoS 0 messages while the client of a session is away
    #[arg(long, value_name = BOOL, help_heading = SESSIONS, action = ArgAction::Set, default_value = "false")]
    pub queue_qos0: bool,

    /// Folder for what outlives the process: sessions that outlive their connection, with their
    /// messages, and retained messages. It is made if it does not exist; one broker at a time
    #[arg(long, value_name = "FOLDER", help_heading = DURABILITY, default_value = "ringmq-data")]
    pub data_dir: PathBuf,

    /// Keep everything in memory: sessions and retained messages end with the process
    #[arg(long, value_name = BOOL, help_heading = DURABILITY, action = ArgAction::Set, default_value = "false")]
    pub in_memory: bool,

    /// When an acknowledgement leaves that promises to keep something. always: when it is on the
    /// disk (fsync), many at a time. interval:TIME (in milliseconds, or with a unit): when the
    /// operating system has it, which brings it to the disk that often; a power cut loses what
    /// came since. os: the same, whenever the operating system pleases
    #[arg(long, value_name = "WHEN", help_heading = DURABILITY, default_value = "always",
        value_parser = value::durability)]
    pub durability: Durability,

    /// Start with a store whose journal is damaged, without what cannot be read of it. Else the broker
    /// does not start with it, for it would forget what it has acknowledged
    #[arg(long, value_name = BOOL, help_heading = DURABILITY, action = ArgAction::Set, default_value = "false")]
    pub salvage: bool,

    /// Bytes that shards have given to the store and that are not kept yet. Beyond it, publishers
    /// of messages that must be kept are not read from until it has caught up
    #[arg(long, value_name = "SIZE", help_heading = DURABILITY,
        default_value_t = Size(limits::MAX_STORE_BACKLOG_BYTES),
        value_parser = value::size(65_536, TIB))]
    pub max_store_backlog_bytes: Size,

    /// With a store: messages of one session's queue that are in memory, too, while its client is
    /// connected. All others are read from the store when their turn comes
    #[arg(long, value_name = "MESSAGES", help_heading = DURABILITY,
        default_value_t = limits::QUEUED_IN_MEMORY as u32,
        value_parser = value_parser!(u32).range(1..=65_536))]
    pub max_queued_in_memory: u32,

    /// With a store: bytes (topics, properties, payloads) of the messages waiting in all sessions
    /// of the broker, on the disk and in memory, shared out equally over the shards. Beyond it
    /// messages are dropped as --queue-overflow says
    #[arg(long, value_name = "SIZE", help_heading = DURABILITY,
        default_value_t = Size(limits::MAX_STORED_QUEUE_BYTES),
        value_parser = value::size(1024, 1024 * TIB))]
    pub max_stored_queue_bytes: Size,

    /// Accept retained messages; announced to MQTT 5 clients
    #[arg(long, value_name = BOOL, help_heading = RETAINED, action = ArgAction::Set, default_value = "true")]
    pub retain_available: bool,

    /// Retained messages in the whole broker
    #[arg(long, value_name = "MESSAGES", help_heading = RETAINED,
        default_value_t = limits::MAX_RETAINED_MESSAGES,
        value_parser = value_parser!(u64).range(1..))]
    pub max_retained_messages: u64,

    /// Bytes (topics, properties, payloads) of the retained messages in the whole broker
    #[arg(long, value_name = "SIZE", help_heading = RETAINED,
        default_value_t = Size(limits::MAX_RETAINED_BYTES), value_parser = value::size(1024, TIB))]
    pub max_retained_bytes: Size,

    /// Event loops, each a thread with sessions of its own; 0 is one per available core
    #[arg(long, value_name = "SHARDS", help_heading = SHARDS,
        default_value_t = 0, value_parser = value_parser!(u16).range(0..=limits::MAX_SHARDS as i64))]
    pub shards: u16,

    /// Bind each shard to a core of its own
    #[arg(long, value_name = BOOL, help_heading = SHARDS, action = ArgAction::Set, default_value = "true")]
    pub pin: bool,

    /// How shards talk to the kernel. auto is io_uring, or epoll where io_uring is blocked (some
    /// containers) or missing
    #[arg(long, value_name = "DRIVER", help_heading = SHARDS, default_value = "auto", value_enum)]
    pub driver: Driver,

    /// Give each shard a descriptor table of its own: accepting scales with the cores, and the
    /// descriptor limit counts per shard
    #[arg(long, value_name = BOOL, help_heading = SHARDS, action = ArgAction::Set, default_value = "true")]
    pub separate_descriptor_tables: bool,

    /// Packets handled for one connection before the others have their turn
    #[arg(long, value_name = "PACKETS", help_heading = SHARDS,
        default_value_t = limits::PACKETS_PER_TURN,
        value_parser = value_parser!(u32).range(1..=65_536))]
    pub packets_per_turn: u32,

    /// Messages on their way from one shard to another. From three quarters of it on, publishers
    /// wait after a message, and when it is used up before the next one is taken. Wills and the
    /// broker's own messages cannot wait: beyond it those of QoS 0 are dropped
    #[arg(long, value_name = "MESSAGES", help_heading = SHARDS,
        default_value_t = limits::MESH_CREDIT,
        value_parser = value_parser!(u32).range(64..=1_048_576))]
    pub mesh_credit: u32,

    /// Wildcard shapes (which levels of a filter are wildcards) routed precisely; a shard with
    /// filters of more shapes gets every message
    #[arg(long, value_name = "SHAPES", help_heading = SHARDS,
        default_value_t = limits::MAX_FILTER_SHAPES as u32,
        value_parser = value_parser!(u32).range(1..=1_024))]
    pub max_filter_shapes: u32,

    /// Filters of one shard that came when all shapes were taken, at most 64 of one session. They
    /// are matched level by level, which costs every message time; more are refused (MQTT 5: 0x97
    /// Quota exceeded)
    #[arg(long, value_name = "FILTERS", help_heading = SHARDS,
        default_value_t = limits::MAX_UNSHAPED_FILTERS as u32,
        value_parser = value_parser!(u32).range(0..=1_048_576))]
    pub max_unshaped_filters: u32,

    /// Time after SIGTERM to tell the clients, flush and exit
    #[arg(long, value_name = "TIME", help_heading = SHARDS,
        default_value_t = Span(limits::SHUTDOWN_TIMEOUT),
        value_parser = value::span_or_off(MS, HOUR))]
    pub shutdown_timeout: Span,

    /// Name of this broker in the presence topics $SYS/brokers/NAME/...; by default
    /// ringmq@HOSTNAME
    #[arg(long, value_name = "NAME", help_heading = MONITORING)]
    pub node_name: Option<String>,

    /// Time between two rounds of $SYS/broker messages; 0 is none
    #[arg(long, value_name = "TIME", help_heading = MONITORING,
        default_value_t = Span(limits::SYS_INTERVAL),
        value_parser = value::span_or_off(100 * MS, 24 * HOUR))]
    pub sys_interval: Span,

    /// Publish $SYS/brokers/NAME/clients/CLIENT-ID/connected and /disconnected
    #[arg(long, value_name = BOOL, help_heading = MONITORING, action = ArgAction::Set, default_value = "true")]
    pub presence_events: bool,

    /// What is logged: this level and those above it
    #[arg(long, value_name = "LEVEL", help_heading = MONITORING,
        default_value = "info", value_enum)]
    pub log_level: LogLevel,

    /// Form of the log lines, which go to standard error
    #[arg(long, value_name = "FORMAT", help_heading = MONITORING,
        default_value = "text", value_enum)]
    pub log_format: LogFormat,

    /// TOML file with settings; its keys are the names of these flags without the dashes in front
    #[arg(long, value_name = "FILE", help_heading = CONFIGURATION)]
    pub config: Option<PathBuf>,

    /// Print the settings in effect as TOML and exit: 0 when they are valid, 2 when not
    #[arg(long, value_name = BOOL, help_heading = CONFIGURATION, action = ArgAction::Set, default_value = "false")]
    pub check_config: bool,
}
