//! What the broker core is told to allow, do and announce.

use crate::{codec::QoS, session::QueueCaps, topics::Strategy};

/// The settings of the broker core. The command line documents each; times are in milliseconds
/// unless their name says otherwise.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name in presence topics.
    pub node_name: Box<str>,
    /// The most connected clients, over all shards; 0 for no cap but the descriptors.
    pub max_connections: u64,
    /// From accept to a complete CONNECT.
    pub connect_timeout: u64,
    /// Without progress while bytes wait to be written.
    pub send_timeout: u64,
    /// From [`Broker::on_drain`](super::Broker::on_drain) to the end of the shard, at the latest.
    pub shutdown_timeout: u64,
    /// Reading on after the stream was ended.
    pub linger: u64,
    /// The bytes that may wait to be written to one connection.
    pub max_outbox_bytes: usize,
    /// The largest packet accepted, in bytes.
    pub max_packet_size: u32,
    /// Announced to MQTT 5 clients.
    pub receive_maximum: u16,
    /// The same for 3.x clients, which are not told.
    pub max_awaiting_rel: u16,
    /// The window towards clients.
    pub max_inflight: u16,
    /// The aliases that a client may set.
    pub topic_alias_maximum: u16,
    /// The aliases that the broker sets towards a client.
    pub outbound_topic_alias_maximum: u16,
    /// The highest QoS accepted in PUBLISH.
    pub max_qos: QoS,
    /// Whether retained messages are supported.
    pub retain_available: bool,
    /// The retained messages, over all shards.
    pub max_retained_messages: u64,
    /// Their bytes, over all shards.
    pub max_retained_bytes: u64,
    /// The subscriptions of one session.
    pub max_subscriptions: usize,
    /// The bytes of their filters.
    pub max_subscription_bytes: usize,
    /// The levels of a topic name or filter.
    pub max_topic_levels: usize,
    /// The distinct shapes of wildcard filters that are indexed.
    pub max_filter_shapes: usize,
    /// The filters of a shard that came when all shapes were taken.
    pub max_unshaped_filters: usize,
    /// Replaces the keep-alive of MQTT 5 clients, in seconds.
    pub server_keep_alive: Option<u16>,
    /// The sessions, connected or not, over all shards; 0 for no cap.
    pub max_sessions: u64,
    /// The longest session expiry, in seconds.
    pub max_session_expiry: u32,
    /// Whether the broker assigns identifiers to clients that come without.
    pub allow_empty_client_id: bool,
    /// Whether identifiers of MQTT 3.1 clients may be longer than that version allows.
    pub allow_long_client_ids: bool,
    /// Which member of a shared subscription gets a message.
    pub strategy: Strategy,
    /// The prefix of response topics that clients are told on request.
    pub response_information: Option<Box<str>>,
    /// Whether payloads that claim to be UTF-8 are checked.
    pub validate_payload_format: bool,
    /// The caps on the queue of one session.
    pub queue: QueueCaps,
    /// The bytes in all queues, over all shards; with a store, of what is in memory.
    pub max_queued_total_bytes: u64,
    /// With a store: the bytes in all queues, over all shards.
    pub max_stored_queue_bytes: u64,
    /// With a store: the messages in the queue of one session that are in memory, too, while its
    /// client is connected.
    pub queued_in_memory: usize,
    /// Whether QoS 0 messages are queued for absent clients.
    pub queue_qos0: bool,
    /// Whether presence events are published.
    pub presence_events: bool,
    /// The time between `$SYS` reports; 0 for none.
    pub sys_interval: u64,
    /// The packets of one connection that are handled before others get their turn.
    pub packets_per_turn: u32,
}

impl Default for Config {
    /// Small and permissive, for tests: the defaults that users get are the command line's.
    fn default() -> Self {
        Self {
            node_name: "node".into(),
            max_connections: 0,
            connect_timeout: 10_000,
            send_timeout: 60_000,
            shutdown_timeout: 10_000,
            linger: 2_000,
            max_outbox_bytes: 1 << 20,
            max_packet_size: 1 << 20,
            receive_maximum: 100,
            max_awaiting_rel: 100,
            max_inflight: 32,
            topic_alias_maximum: 32,
            outbound_topic_alias_maximum: 32,
            max_qos: QoS::ExactlyOnce,
            retain_available: true,
            max_retained_messages: 1_000_000,
            max_retained_bytes: 1 << 30,
            max_subscriptions: 10_000,
            max_subscription_bytes: 1 << 20,
            max_topic_levels: 128,
            max_filter_shapes: 64,
            max_unshaped_filters: 4_096,
            server_keep_alive: None,
            max_sessions: 0,
            max_session_expiry: 7_200,
            allow_empty_client_id: true,
            allow_long_client_ids: false,
            strategy: Strategy::RoundRobin,
            response_information: None,
            validate_payload_format: false,
            queue: QueueCaps { messages: 1_000, bytes: 16 << 20, drop_oldest: true },
            max_queued_total_bytes: 1 << 30,
            max_stored_queue_bytes: 1 << 36,
            queued_in_memory: 64,
            queue_qos0: false,
            presence_events: true,
            sys_interval: 0,
            packets_per_turn: 512,
        }
    }
}
