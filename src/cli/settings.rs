//! The validated settings of a broker, as the rest of the crate reads them.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;

use crate::limits;

/// Everything that a user can set, checked and in the units that the fields name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Where the broker listens and whom it lets in.
    pub listeners: ListenerSettings,
    /// Options of the sockets.
    pub tcp: TcpSettings,
    /// Connections: how many, how fast, how long they may take.
    pub connections: ConnectionSettings,
    /// What MQTT clients may do.
    pub protocol: ProtocolSettings,
    /// What sessions keep while a client is away or slow.
    pub sessions: SessionSettings,
    /// What outlives the process.
    pub durability: DurabilitySettings,
    /// Retained messages.
    pub retained: RetainedSettings,
    /// Event loops and what they owe each other.
    pub shards: ShardSettings,
    /// `$SYS` topics.
    pub monitoring: MonitoringSettings,
    /// The log.
    pub log: LogSettings,
}

/// Where the broker listens and whom it lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// `--listen`: addresses, at least one, none twice. A port of 0 takes a free one.
    pub addresses: Vec<SocketAddr>,
    /// `--allow-anonymous`: clients without user name and password may connect. True by default
    /// when every address is loopback, and always true when one is not.
    pub allow_anonymous: bool,
}

/// Options of the sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpSettings {
    /// `--tcp-nodelay`: `TCP_NODELAY`.
    pub nodelay: bool,
    /// `--backlog`: connections that wait to be accepted, from 1 to 65,535. The kernel caps it at
    /// `net.core.somaxconn`.
    pub backlog: u32,
    /// `--recv-buffer`: `SO_RCVBUF` in bytes, at most 1 GiB; `None` leaves it to the kernel.
    pub recv_buffer: Option<NonZeroU32>,
    /// `--send-buffer`: `SO_SNDBUF` in bytes, at most 1 GiB; `None` leaves it to the kernel.
    pub send_buffer: Option<NonZeroU32>,
    /// `--tcp-keepalive-*`: `None` is off.
    pub keep_alive: Option<TcpKeepAlive>,
    /// `--tcp-user-timeout`: `TCP_USER_TIMEOUT`, whole milliseconds; `None` leaves it to the
    /// kernel.
    pub user_timeout: Option<Duration>,
}

/// TCP keep-alive, which is not MQTT's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpKeepAlive {
    /// `--tcp-keepalive-idle`: silence before the first probe, from 1 to 32,767 s.
    pub idle: Duration,
    /// `--tcp-keepalive-interval`: time between probes, from 1 to 32,767 s; `None` is the kernel's.
    pub interval: Option<Duration>,
    /// `--tcp-keepalive-probes`: unanswered probes before the end, from 1 to 127; `None` is the
    /// kernel's.
    pub probes: Option<u32>,
}

/// Connections: how many, how fast, how long they may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// `--max-connections`: at a time, over all shards; `None` is what the descriptor limit allows.
    pub max: Option<NonZeroU32>,
    /// `--max-connections-per-address`: at a time from one source address; `None` is no limit.
    pub max_per_address: Option<NonZeroU32>,
    /// `--connect-rate`: new connections per second and shard; `None` is no limit.
    pub connect_rate: Option<NonZeroU32>,
    /// `--connect-timeout`: from accept to a complete CONNECT.
    pub connect_timeout: Duration,
    /// `--send-timeout`: without any progress while data waits to be written.
    pub send_timeout: Duration,
    /// `--linger`: reading on after the last packet was sent; zero closes at once.
    pub linger: Duration,
    /// `--max-outbox-bytes`: waiting to be written to one connection. At least
    /// [`ProtocolSettings::max_packet_size`].
    pub max_outbox_bytes: u64,
    /// `--max-unread-bytes`: arrived and not handled, per shard. At least
    /// [`ProtocolSettings::max_packet_size`].
    pub max_unread_bytes: u64,
}

/// What MQTT clients may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolSettings {
    /// `--max-packet-size`: bytes of the largest packet accepted, fixed header included; at most
    /// [`limits::PACKET_SIZE_CEILING`].
    pub max_packet_size: u32,
    /// `--receive-maximum`: announced to MQTT 5 clients, from 1.
    pub receive_maximum: u16,
    /// `--max-awaiting-rel`: QoS 2 messages of a 3.x client that await PUBREL, from 1.
    pub max_awaiting_rel: u16,
    /// `--max-inflight`: messages of QoS 1 and 2 sent to a client and not acknowledged, from 1.
    pub max_inflight: u16,
    /// `--topic-alias-maximum`: announced to MQTT 5 clients; 0 is none.
    pub topic_alias_maximum: u16,
    /// `--outbound-topic-alias-maximum`: used towards MQTT 5 clients, further bounded by what each
    /// allows; 0 is none.
    pub outbound_topic_alias_maximum: u16,
    /// `--max-qos`: highest QoS of a PUBLISH from a client; 0, 1 or 2.
    pub max_qos: u8,
    /// `--max-subscriptions`: of one session, from 1.
    pub max_subscriptions: usize,
    /// `--max-subscription-bytes`: of the topic filters of one session, from 65,536.
    pub max_subscription_bytes: u64,
    /// `--max-topic-levels`: of a topic name or filter, from 1 to 65,536.
    pub max_topic_levels: usize,
    /// `--server-keep-alive`: seconds; `None` leaves MQTT 5 clients their own.
    pub server_keep_alive: Option<NonZeroU16>,
    /// `--allow-empty-client-id`: the server assigns a client id to those that send none.
    pub allow_empty_client_id: bool,
    /// `--allow-long-client-ids`: more than 23 characters from MQTT 3.1 clients.
    pub allow_long_client_ids: bool,
    /// `--shared-subscription-strategy`.
    pub shared_strategy: SharedStrategy,
    /// `--response-information`: a valid topic name, without `/` at its end. Clients that ask are
    /// told `PREFIX/CLIENT-ID`; `None` gives none.
    pub response_information: Option<String>,
    /// `--validate-payload-format`: check payloads whose format indicator says UTF-8.
    pub validate_payload_format: bool,
}

/// What sessions keep while a client is away or slow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    /// `--max-sessions`: in the whole broker, connected or not; 0 is no cap.
    pub max: u64,
    /// `--max-session-expiry`: seconds, below `u32::MAX` (which would be "never"); what 3.x
    /// sessions with CleanSession 0 get.
    pub max_expiry: u32,
    /// `--max-queued-messages`: waiting in one session, from 1.
    pub max_queued_messages: usize,
    /// `--max-queued-bytes`: of the messages waiting in one session. At least
    /// [`ProtocolSettings::max_packet_size`].
    pub max_queued_bytes: u64,
    /// `--max-queued-total-bytes`: of the messages waiting in all sessions. At least
    /// [`ProtocolSettings::max_packet_size`] for every shard.
    pub max_queued_total_bytes: u64,
    /// `--queue-overflow`.
    pub overflow: QueueOverflow,
    /// `--queue-qos0`: QoS 0 messages are queued for absent clients too.
    pub queue_qos0: bool,
}

/// What outlives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurabilitySettings {
    /// `--data-dir`: where; `None` with `--in-memory`, and then nothing does.
    pub data_dir: Option<PathBuf>,
    /// `--durability`.
    pub durability: Durability,
    /// `--salvage`: start with a damaged store, without what cannot be read of it.
    pub salvage: bool,
    /// `--max-store-backlog-bytes`: given to the store and not kept yet.
    pub max_backlog_bytes: u64,
    /// `--max-queued-in-memory`: of one session's queue, from 1 to 65,536.
    pub max_queued_in_memory: usize,
    /// `--max-stored-queue-bytes`: of the messages waiting in all sessions.
    pub max_queue_bytes: u64,
}

/// When an acknowledgement leaves that promises to keep something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When it is on the disk.
    Always,
    /// When the operating system has it, and that brings it to the disk so often.
    Interval(Duration),
    /// When the operating system has it.
    Os,
}

/// Retained messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedSettings {
    /// `--retain-available`: clients may set them.
    pub available: bool,
    /// `--max-retained-messages`: in the whole broker, from 1.
    pub max_messages: u64,
    /// `--max-retained-bytes`: in the whole broker. At least
    /// [`ProtocolSettings::max_packet_size`].
    pub max_bytes: u64,
}

/// Event loops and what they owe each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSettings {
    /// `--shards`: from 1 to [`limits::MAX_SHARDS`].
    pub count: usize,
    /// `--pin`: each shard on a core of its own.
    pub pin: bool,
    /// `--driver`.
    pub driver: Driver,
    /// `--separate-descriptor-tables`: one per shard.
    pub separate_descriptor_tables: bool,
    /// `--packets-per-turn`: of one connection, from 1 to 65,536.
    pub packets_per_turn: u32,
    /// `--mesh-credit`: messages under way from one shard to another, from 64 to 1,048,576.
    pub mesh_credit: u32,
    /// `--max-filter-shapes`: from 1 to 1,024.
    pub max_filter_shapes: usize,
    /// `--max-unshaped-filters`: of one shard; 0 is none.
    pub max_unshaped_filters: usize,
    /// `--shutdown-timeout`: from SIGTERM to the exit at the latest; zero does not wait.
    pub shutdown_timeout: Duration,
}

/// `$SYS` topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitoringSettings {
    /// `--node-name`: one topic level of ASCII letters, digits and `._@:-`, at most
    /// [`limits::MAX_NODE_NAME_BYTES`].
    pub node_name: String,
    /// `--sys-interval`: between two rounds of `$SYS/broker` messages; `None` is off.
    pub sys_interval: Option<Duration>,
    /// `--presence-events`: publish who comes and goes.
    pub presence_events: bool,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// `--log-level`.
    pub level: LogLevel,
    /// `--log-format`.
    pub format: LogFormat,
}

/// How shards talk to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Driver {
    /// io_uring, or epoll where io_uring is blocked or missing.
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// epoll.
    Epoll,
}

/// Which message goes when a session's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QueueOverflow {
    /// The one that waited longest.
    DropOldest,
    /// The one that has just come.
    DropNewest,
}

/// Which member of a shared subscription gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum SharedStrategy {
    /// Each in turn.
    RoundRobin,
    /// Any.
    Random,
    /// The same one until it leaves.
    Sticky,
    /// By the hash of the publisher's client id.
    #[value(name = "hash_clientid")]
    HashClientId,
    /// By the hash of the topic name.
    HashTopic,
    /// One on the publisher's own shard where there is any.
    Local,
}

/// What is logged: this level and those above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What keeps the broker from doing its work.
    Error,
    /// What an operator should look at.
    Warn,
    /// Start, stop, and changes of state.
    Info,
    /// Each connection.
    Debug,
    /// Each packet.
    Trace,
}

impl LogLevel {
    /// The same level in the words of `tracing`.
    pub fn filter(self) -> LevelFilter {
        match self {
            LogLevel::Off => LevelFilter::OFF,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

// The defaults below are those of the flags (a test compares them), with one shard and the node
// name `ringmq@localhost`, which depend on the machine otherwise.

impl Default for ListenerSettings {
    fn default() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, limits::PORT));
        Self { addresses: vec![address], allow_anonymous: true }
    }
}

impl Default for TcpSettings {
    fn default() -> Self {
        Self {
            nodelay: true,
            backlog: limits::BACKLOG,
            recv_buffer: None,
            send_buffer: None,
            keep_alive: None,
            user_timeout: None,
        }
    }
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            max: NonZeroU32::new(limits::MAX_CONNECTIONS),
            max_per_address: NonZeroU32::new(limits::MAX_CONNECTIONS_PER_ADDRESS),
            connect_rate: NonZeroU32::new(limits::CONNECT_RATE),
            connect_timeout: limits::CONNECT_TIMEOUT,
            send_timeout: limits::SEND_TIMEOUT,
            linger: limits::LINGER,
            max_outbox_bytes: limits::MAX_OUTBOX_BYTES,
            max_unread_bytes: limits::MAX_UNREAD_BYTES,
        }
    }
}

impl Default for ProtocolSettings {
    fn default() -> Self {
        Self {
            max_packet_size: limits::MAX_PACKET_SIZE,
            receive_maximum: limits::RECEIVE_MAXIMUM,
            max_awaiting_rel: limits::MAX_AWAITING_REL,
            max_inflight: limits::MAX_INFLIGHT,
            topic_alias_maximum: limits::TOPIC_ALIAS_MAXIMUM,
            outbound_topic_alias_maximum: limits::OUTBOUND_TOPIC_ALIAS_MAXIMUM,
            max_qos: limits::MAX_QOS,
            max_subscriptions: limits::MAX_SUBSCRIPTIONS,
            max_subscription_bytes: limits::MAX_SUBSCRIPTION_BYTES,
            max_topic_levels: limits::MAX_TOPIC_LEVELS,
            server_keep_alive: None,
            allow_empty_client_id: true,
            allow_long_client_ids: false,
            shared_strategy: SharedStrategy::RoundRobin,
            response_information: None,
            validate_payload_format: false,
        }
    }
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            max: limits::MAX_SESSIONS,
            max_expiry: limits::MAX_SESSION_EXPIRY,
            max_queued_messages: limits::MAX_QUEUED_MESSAGES,
            max_queued_bytes: limits::MAX_QUEUED_BYTES,
            max_queued_total_bytes: limits::MAX_QUEUED_TOTAL_BYTES,
            overflow: QueueOverflow::DropOldest,
            queue_qos0: false,
        }
    }
}

impl Default for DurabilitySettings {
    fn default() -> Self {
        Self {
            data_dir: Some("ringmq-data".into()),
            durability: Durability::Always,
            salvage: false,
            max_backlog_bytes: limits::MAX_STORE_BACKLOG_BYTES,
            max_queued_in_memory: limits::QUEUED_IN_MEMORY,
            max_queue_bytes: limits::MAX_STORED_QUEUE_BYTES,
        }
    }
}

impl Default for RetainedSettings {
    fn default() -> Self {
        Self {
            available: true,
            max_messages: limits::MAX_RETAINED_MESSAGES,
            max_bytes: limits::MAX_RETAINED_BYTES,
        }
    }
}

impl Default for ShardSettings {
    fn default() -> Self {
        Self {
            count: 1,
            pin: true,
            driver: Driver::Auto,
            separate_descriptor_tables: true,
            packets_per_turn: limits::PACKETS_PER_TURN,
            mesh_credit: limits::MESH_CREDIT,
            max_filter_shapes: limits::MAX_FILTER_SHAPES,
            max_unshaped_filters: limits::MAX_UNSHAPED_FILTERS,
            shutdown_timeout: limits::SHUTDOWN_TIMEOUT,
        }
    }
}

impl Default for MonitoringSettings {
    fn default() -> Self {
        Self {
            node_name: "ringmq@localhost".to_owned(),
            sys_interval: Some(limits::SYS_INTERVAL),
            presence_events: true,
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text }
    }
}
