//! From the flags as typed to settings that hold together.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::error::CliError;
use super::flags::Flags;
use super::settings::{
    ConnectionSettings, DurabilitySettings, ListenerSettings, LogSettings, MonitoringSettings,
    ProtocolSettings, RetainedSettings, SessionSettings, Settings, ShardSettings, TcpKeepAlive,
    TcpSettings,
};
use super::sources::Sources;
use super::value::{Size, Span};
use crate::limits;

/// The settings of `flags`, where the machine's own figures stand for what was not given.
pub(super) fn settings(flags: &Flags, sources: &Sources<'_>) -> Result<Settings, CliError> {
    packets_fit(flags)?;
    let shards = match usize::from(flags.shards) {
        0 => sources.cores.clamp(1, limits::MAX_SHARDS),
        count => count,
    };
    queues_fit(flags, shards)?;
    Ok(Settings {
        listeners: listeners(flags)?,
        tcp: tcp(flags)?,
        connections: ConnectionSettings {
            max: NonZeroU32::new(flags.max_connections),
            max_per_address: NonZeroU32::new(flags.max_connections_per_address),
            connect_rate: NonZeroU32::new(flags.connect_rate),
            connect_timeout: flags.connect_timeout.0,
            send_timeout: flags.send_timeout.0,
            linger: flags.linger.0,
            max_outbox_bytes: flags.max_outbox_bytes.0,
            max_unread_bytes: flags.max_unread_bytes.0,
        },
        protocol: protocol(flags)?,
        sessions: SessionSettings {
            max: flags.max_sessions,
            max_expiry: whole_seconds(flags.max_session_expiry),
            max_queued_messages: flags.max_queued_messages as usize,
            max_queued_bytes: flags.max_queued_bytes.0,
            max_queued_total_bytes: flags.max_queued_total_bytes.0,
            overflow: flags.queue_overflow,
            queue_qos0: flags.queue_qos0,
        },
        durability: durability(flags),
        retained: RetainedSettings {
            available: flags.retain_available,
            max_messages: flags.max_retained_messages,
            max_bytes: flags.max_retained_bytes.0,
        },
        shards: ShardSettings {
            count: shards,
            pin: flags.pin,
            driver: flags.driver,
            separate_descriptor_tables: flags.separate_descriptor_tables,
            packets_per_turn: flags.packets_per_turn,
            mesh_credit: flags.mesh_credit,
            max_filter_shapes: flags.max_filter_shapes as usize,
            max_unshaped_filters: flags.max_unshaped_filters as usize,
            shutdown_timeout: flags.shutdown_timeout.0,
        },
        monitoring: MonitoringSettings {
            node_name: node_name(flags, sources.hostname)?,
            sys_interval: Some(flags.sys_interval.0).filter(|interval| !interval.is_zero()),
            presence_events: flags.presence_events,
        },
        log: LogSettings { level: flags.log_level, format: flags.log_format },
    })
}

/// What outlives the process, and where.
fn durability(flags: &Flags) -> DurabilitySettings {
    DurabilitySettings {
        data_dir: (!flags.in_memory).then(|| flags.data_dir.clone()),
        durability: flags.durability,
        salvage: flags.salvage,
        max_backlog_bytes: flags.max_store_backlog_bytes.0,
        max_queued_in_memory: flags.max_queued_in_memory as usize,
        max_queue_bytes: flags.max_stored_queue_bytes.0,
    }
}

/// The largest packet that is accepted can also be delivered, queued and retained.
fn packets_fit(flags: &Flags) -> Result<(), CliError> {
    let packet = flags.max_packet_size;
    let holders = [
        ("--max-outbox-bytes", flags.max_outbox_bytes),
        ("--max-unread-bytes", flags.max_unread_bytes),
        ("--max-queued-bytes", flags.max_queued_bytes),
        ("--max-retained-bytes", flags.max_retained_bytes),
    ];
    for (flag, size) in holders {
        if size < packet {
            let problem = format!("smaller than a packet that --max-packet-size {packet} accepts");
            let remedy = format!("raise it to {packet} or lower --max-packet-size to {size}");
            return Err(refused(flag, size, &problem, &remedy));
        }
    }
    Ok(())
}

/// The largest packet fits into the share of every shard of what all queues may hold.
fn queues_fit(flags: &Flags, shards: usize) -> Result<(), CliError> {
    let total = flags.max_queued_total_bytes;
    let least = Size(flags.max_packet_size.0.saturating_mul(shards as u64));
    if total < least {
        let packet = flags.max_packet_size;
        let problem = format!("shared by {shards} shards, smaller than --max-packet-size {packet}");
        let remedy = format!("raise it to {least} or lower --max-packet-size");
        return Err(refused("--max-queued-total-bytes", total, &problem, &remedy));
    }
    Ok(())
}

fn listeners(flags: &Flags) -> Result<ListenerSettings, CliError> {
    let mut addresses: Vec<SocketAddr> = Vec::with_capacity(flags.listen.len());
    for address in &flags.listen {
        if address.port() != 0 && addresses.contains(address) {
            return Err(refused("--listen", address, "given twice", "leave one of them out"));
        }
        addresses.push(*address);
    }
    let open = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
    if let Some(address) = open
        && flags.allow_anonymous != Some(true)
    {
        return Err(refused(
            "--listen",
            address,
            "other machines can reach this address, and anyone could connect without a password",
            "add --allow-anonymous if that is intended, or listen on 127.0.0.1 or [::1]",
        ));
    }
    Ok(ListenerSettings { addresses, allow_anonymous: flags.allow_anonymous.unwrap_or(true) })
}

fn tcp(flags: &Flags) -> Result<TcpSettings, CliError> {
    let optional = |span: Span| Some(span.0).filter(|time| !time.is_zero());
    let interval = optional(flags.tcp_keepalive_interval);
    let probes = Some(u32::from(flags.tcp_keepalive_probes)).filter(|probes| *probes != 0);
    let keep_alive =
        optional(flags.tcp_keepalive_idle).map(|idle| TcpKeepAlive { idle, interval, probes });
    if keep_alive.is_none() {
        let problem = "TCP keep-alive is off";
        let remedy = "set --tcp-keepalive-idle too, or leave this flag out";
        if interval.is_some() {
            let value = flags.tcp_keepalive_interval;
            return Err(refused("--tcp-keepalive-interval", value, problem, remedy));
        }
        if let Some(probes) = probes {
            return Err(refused("--tcp-keepalive-probes", probes, problem, remedy));
        }
    }
    let buffer = |size: Size| u32::try_from(size.0).ok().and_then(NonZeroU32::new);
    Ok(TcpSettings {
        nodelay: flags.tcp_nodelay,
        backlog: flags.backlog,
        recv_buffer: buffer(flags.recv_buffer),
        send_buffer: buffer(flags.send_buffer),
        keep_alive,
        user_timeout: optional(flags.tcp_user_timeout),
    })
}

fn protocol(flags: &Flags) -> Result<ProtocolSettings, CliError> {
    let keep_alive = whole_seconds(flags.server_keep_alive);
    Ok(ProtocolSettings {
        max_packet_size: u32::try_from(flags.max_packet_size.0)
            .unwrap_or(limits::PACKET_SIZE_CEILING),
        receive_maximum: flags.receive_maximum,
        max_awaiting_rel: flags.max_awaiting_rel,
        max_inflight: flags.max_inflight,
        topic_alias_maximum: flags.topic_alias_maximum,
        outbound_topic_alias_maximum: flags.outbound_topic_alias_maximum,
        max_qos: flags.max_qos,
        max_subscriptions: flags.max_subscriptions as usize,
        max_subscription_bytes: flags.max_subscription_bytes.0,
        max_topic_levels: flags.max_topic_levels as usize,
        server_keep_alive: NonZeroU16::new(u16::try_from(keep_alive).unwrap_or(u16::MAX)),
        allow_empty_client_id: flags.allow_empty_client_id,
        allow_long_client_ids: flags.allow_long_client_ids,
        shared_strategy: flags.shared_subscription_strategy,
        response_information: response_information(&flags.response_information)?,
        validate_payload_format: flags.validate_payload_format,
    })
}

/// Clients put the value at the start of topic names, so it has to be one.
fn response_information(prefix: &str) -> Result<Option<String>, CliError> {
    /// Leaves room for the client id and the client's own levels in a topic name of 65,535 bytes.
    const MAX_BYTES: usize = 1_024;
    let flag = "--response-information";
    let remedy = "give the first levels of a topic name, as `replies` or `fleet/replies`";
    if prefix.contains(['+', '#']) || prefix.chars().any(char::is_control) {
        let problem = "`+`, `#` and control characters cannot stand in a topic name";
        return Err(refused(flag, prefix.escape_debug(), problem, remedy));
    }
    if prefix.ends_with('/') {
        let problem = "the slash before the client id is added";
        return Err(refused(flag, prefix, problem, "leave the last one out"));
    }
    if prefix.len() > MAX_BYTES {
        let problem = format!("longer than {MAX_BYTES} bytes");
        return Err(refused(flag, format!("({} bytes)", prefix.len()), &problem, remedy));
    }
    Ok(Some(prefix.to_owned()).filter(|prefix| !prefix.is_empty()))
}

/// The node name that was given, or one made of the machine's name.
fn node_name(flags: &Flags, hostname: &str) -> Result<String, CliError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._@:-".contains(c);
    let Some(name) = &flags.node_name else {
        let host: String = hostname.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
        let host = if host.is_empty() { "localhost" } else { &host };
        return Ok(format!("ringmq@{host}").chars().take(limits::MAX_NODE_NAME_BYTES).collect());
    };
    let max = limits::MAX_NODE_NAME_BYTES;
    if name.is_empty() || name.len() > max || !name.chars().all(allowed) {
        let problem = "it has to be one level of a topic";
        let remedy = format!("use 1 to {max} ASCII letters, digits and `.`, `_`, `@`, `:`, `-`");
        return Err(refused("--node-name", name.escape_debug(), problem, &remedy));
    }
    Ok(name.clone())
}

/// Seconds of a span whose flag bounds it to what the protocol can say.
fn whole_seconds(Span(time): Span) -> u32 {
    const MAX: Duration = Duration::from_secs(u32::MAX as u64);
    u32::try_from(time.min(MAX).as_secs()).unwrap_or(u32::MAX)
}

fn refused(flag: &'static str, value: impl ToString, problem: &str, remedy: &str) -> CliError {
    CliError::Refused {
        flag,
        value: value.to_string(),
        problem: problem.to_owned(),
        remedy: remedy.to_owned(),
    }
}
