//! From the settings that users make to those of the broker core and the sockets.

use std::time::Duration;

use crate::{
    broker::Config,
    cli::{QueueOverflow, Settings, SharedStrategy},
    codec::QoS,
    session::QueueCaps,
    topics::Strategy,
    transport::{ListenerOptions, TcpKeepAlive},
};

/// The broker core's part.
pub(super) fn broker_config(settings: &Settings) -> Config {
    let Settings { connections, protocol, sessions, retained, shards, monitoring, .. } = settings;
    Config {
        node_name: monitoring.node_name.as_str().into(),
        max_connections: connections.max.map_or(0, |max| max.get().into()),
        connect_timeout: milliseconds(connections.connect_timeout),
        send_timeout: milliseconds(connections.send_timeout),
        shutdown_timeout: milliseconds(shards.shutdown_timeout),
        linger: milliseconds(connections.linger),
        max_outbox_bytes: bytes(connections.max_outbox_bytes),
        max_packet_size: protocol.max_packet_size,
        receive_maximum: protocol.receive_maximum,
        max_awaiting_rel: protocol.max_awaiting_rel,
        max_inflight: protocol.max_inflight,
        topic_alias_maximum: protocol.topic_alias_maximum,
        outbound_topic_alias_maximum: protocol.outbound_topic_alias_maximum,
        max_qos: QoS::from_u8(protocol.max_qos).unwrap_or(QoS::ExactlyOnce),
        retain_available: retained.available,
        max_retained_messages: retained.max_messages,
        max_retained_bytes: retained.max_bytes,
        max_subscriptions: protocol.max_subscriptions,
        max_subscription_bytes: bytes(protocol.max_subscription_bytes),
        max_topic_levels: protocol.max_topic_levels,
        max_filter_shapes: shards.max_filter_shapes,
        max_unshaped_filters: shards.max_unshaped_filters,
        server_keep_alive: protocol.server_keep_alive.map(Into::into),
        max_sessions: sessions.max,
        max_session_expiry: sessions.max_expiry,
        allow_empty_client_id: protocol.allow_empty_client_id,
        allow_long_client_ids: protocol.allow_long_client_ids,
        strategy: strategy(protocol.shared_strategy),
        response_information: protocol.response_information.as_deref().map(Into::into),
        validate_payload_format: protocol.validate_payload_format,
        queue: QueueCaps {
            messages: sessions.max_queued_messages,
            bytes: bytes(sessions.max_queued_bytes),
            drop_oldest: sessions.overflow == QueueOverflow::DropOldest,
        },
        max_queued_total_bytes: sessions.max_queued_total_bytes,
        max_stored_queue_bytes: settings.durability.max_queue_bytes,
        queued_in_memory: settings.durability.max_queued_in_memory,
        queue_qos0: sessions.queue_qos0,
        presence_events: monitoring.presence_events,
        sys_interval: monitoring.sys_interval.map_or(0, milliseconds),
        packets_per_turn: shards.packets_per_turn,
    }
}

/// The sockets' part.
pub(super) fn listener_options(settings: &Settings) -> ListenerOptions {
    let tcp = &settings.tcp;
    ListenerOptions {
        backlog: i32::try_from(tcp.backlog).unwrap_or(i32::MAX),
        no_delay: tcp.nodelay,
        receive_buffer: tcp.recv_buffer.map(|size| size.get() as usize),
        send_buffer: tcp.send_buffer.map(|size| size.get() as usize),
        keep_alive: tcp.keep_alive.map(|keep_alive| TcpKeepAlive {
            idle: keep_alive.idle,
            interval: keep_alive.interval,
            probes: keep_alive.probes,
        }),
        user_timeout: tcp.user_timeout,
    }
}

fn strategy(strategy: SharedStrategy) -> Strategy {
    match strategy {
        SharedStrategy::RoundRobin => Strategy::RoundRobin,
        SharedStrategy::Random => Strategy::Random,
        SharedStrategy::Sticky => Strategy::Sticky,
        SharedStrategy::HashClientId => Strategy::HashClientId,
        SharedStrategy::HashTopic => Strategy::HashTopic,
        SharedStrategy::Local => Strategy::Local,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
