//! What the jobs of all verbs are made with.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use ringmq::codec::{QoS, Version};

use super::{Course, Job, PlanError, machine, usage};
use crate::{
    cli::{Common, Traffic},
    header,
    plan::{Flow, Group, Pace, Plan, Text},
};

/// Marks this tool's messages, in the high byte of a run's number.
const RUN_MARK: u16 = 0x5200;
/// Bytes of payload that fit into a packet with any topic: MQTT packets have at most 256 MiB.
const LARGEST_PAYLOAD: usize = 200_000_000;

/// A plan that is still to get its groups and flows, and the flags of every verb.
pub(super) struct Base {
    pub plan: Plan,
    prefix: String,
    common: Common,
}

impl Base {
    pub fn new(common: &Common) -> Result<Self, PlanError> {
        if common.ssl {
            return Err(PlanError::NotYet("TLS (--ssl)"));
        }
        if common.ws {
            return Err(PlanError::NotYet("WebSocket (--ws)"));
        }
        let version = match common.mqtt_version.as_str() {
            "3" | "3.1" => Version::V3_1,
            "4" | "3.1.1" | "311" => Version::V3_1_1,
            "5" | "5.0" => Version::V5,
            other => return usage(format!("-V {other}: 3 (for 3.1), 4 (for 3.1.1) or 5")),
        };
        let connect_rate = match (common.connrate, common.interval) {
            (rate, _) if rate > 0.0 => Some(rate),
            (_, interval) if interval > 0.0 => Some(1000.0 / interval),
            _ => None,
        };
        let prefix = match &common.prefix {
            Some(prefix) => prefix.clone(),
            None => format!("rl{:06x}", fastrand::u32(..1 << 24)),
        };
        if common.password.is_some() && common.username.is_none() && version < Version::V5 {
            return usage("-P needs -u before MQTT 5");
        }
        let first = common.startnumber;
        let user_name = common.username.clone().map(|user| -> Text {
            Arc::new(move |number| user.replace("%i", &(first + number).to_string()))
        });
        Ok(Self {
            plan: Plan {
                run: RUN_MARK | u16::from(fastrand::u8(..)),
                targets: targets(common)?,
                sources: machine::source_addresses(&common.ifaddr)?,
                version,
                keep_alive: common.keepalive,
                session_expiry: common.session_expiry,
                user_name,
                password: common.password.clone(),
                groups: Vec::new(),
                flows: Vec::new(),
                workers: 1,
                connect_rate,
                max_connecting: common.connecting.max(1),
                connect_timeout: (common.connect_timeout.max(0.001) * 1e9) as u64,
                retries: common.retries,
                reconnect: common.reconnect,
                window: 1000,
                grain: 0,
                limit: 0,
                churn_rate: 0.0,
                graceful: true,
            },
            prefix,
            common: common.clone(),
        })
    }

    pub fn group(&self, name: &'static str, count: u32) -> Group {
        let (prefix, first, clean) =
            (self.prefix.clone(), self.common.startnumber, self.common.clean);
        let version = self.plan.version;
        Group {
            name,
            count,
            client_id: Arc::new(move |member| match version {
                // It has client ids of at most 23 characters: 8 of a prefix, 9 of the longest name.
                Version::V3_1 => format!("{prefix}{name}{:06}", first + member),
                _ => format!("{prefix}-{name}-{:08}", first + member),
            }),
            subscription: None,
            clean: Arc::new(move |_| clean),
        }
    }

    /// Fills in %c, %i and %u.
    pub fn pattern(&self, pattern: &str, group: &Group) -> Result<Text, PlanError> {
        if pattern.is_empty() {
            return usage("-t: a topic has at least one character");
        }
        if pattern.contains("%u") && self.common.username.is_none() {
            return usage("-t with %u needs a user name (-u)");
        }
        let client_id = Arc::clone(&group.client_id);
        let (pattern, first) = (pattern.to_owned(), self.common.startnumber);
        let user = self.plan.user_name.clone();
        Ok(Arc::new(move |member| {
            let mut text = pattern.replace("%i", &(first + member).to_string());
            if text.contains("%c") {
                text = text.replace("%c", &client_id(member));
            }
            match &user {
                Some(user) => text.replace("%u", &user(member)),
                None => text,
            }
        }))
    }

    /// The front of this run's topics.
    pub fn topics(&self, chosen: Option<&String>) -> String {
        chosen.cloned().unwrap_or_else(|| format!("load/{}", self.prefix))
    }

    /// A flow as the flags ask for it.
    pub fn flow(
        &mut self,
        group: usize,
        streams: u32,
        traffic: &Traffic,
    ) -> Result<Flow, PlanError> {
        let qos = parse_qos(traffic.qos)?;
        let delivery = parse_qos(traffic.subqos.unwrap_or(traffic.qos))?;
        if traffic.size < header::LEN {
            return usage(format!("-s: at least {} bytes, which say what it is", header::LEN));
        }
        if traffic.size > LARGEST_PAYLOAD {
            return usage("-s: MQTT packets have at most 256 MiB");
        }
        self.plan.grain = traffic.grain.map_or(0, |grain| grain.max(1) * 1000);
        self.plan.limit = traffic.limit;
        self.plan.window = match traffic.inflight {
            Some(0) => 65_535,
            Some(window) => window.min(65_535),
            None if traffic.saturate => 10,
            None => 1000,
        };
        let interval = match traffic.rate {
            Some(rate) if rate > 0.0 => f64::from(streams) * 1e9 / rate,
            Some(_) => return usage("--rate: more than 0"),
            None if traffic.interval_of_msg > 0.0 => traffic.interval_of_msg * 1e6,
            None => return usage("-I: more than 0; --saturate sends as fast as possible"),
        };
        let pace = match traffic.saturate {
            true => Pace::Saturate { credit: traffic.credit.unwrap_or(1).max(1) },
            false => Pace::Every(interval.max(1.0) as u64),
        };
        Ok(Flow {
            name: "messages",
            group,
            streams,
            topic: Arc::new(|stream| stream.to_string()),
            topic_of_message: None,
            qos,
            delivery_qos: qos.min(delivery),
            retain: traffic.retain,
            payload: traffic.size,
            pace,
            fanout: 1,
        })
    }

    /// The job, which measures for so many seconds if the command line does not say; 0 until
    /// interrupted.
    pub fn job(
        mut self,
        title: String,
        course: Course,
        default_duration: f64,
    ) -> Result<Job, PlanError> {
        if self.plan.clients() == 0 {
            return usage("-c: at least one client");
        }
        if self.plan.sources.is_empty() {
            self.plan.sources = machine::loopback_sources(&self.plan);
        }
        self.plan.workers = machine::workers(&self.plan, self.common.workers)?;
        machine::check_ports(&self.plan)?;
        if self.plan.grain == 0 {
            let eight = 8e9 * f64::from(self.plan.workers) / self.plan.rate().max(1.0);
            self.plan.grain = eight.clamp(50e3, 1e6) as u64;
        }
        let duration = self.common.duration.unwrap_or(default_duration);
        let measures = course == Course::Traffic && duration > 0.0 && self.plan.limit == 0;
        let default_warmup = if measures { 1.0 } else { 0.0 };
        Ok(Job {
            title,
            subscribes: self.plan.groups.iter().any(|group| group.subscription.is_some()),
            plan: self.plan,
            course,
            duration: (duration > 0.0).then_some(duration),
            warmup: self.common.warmup.unwrap_or(default_warmup).max(0.0),
        })
    }
}

pub(super) fn parse_qos(qos: u8) -> Result<QoS, PlanError> {
    QoS::from_u8(qos).map_or_else(|| usage(format!("-q {qos}: 0, 1 or 2")), Ok)
}

/// Flags of nothing in particular.
pub(super) fn no_traffic(size: usize) -> Traffic {
    Traffic {
        interval_of_msg: 1000.0,
        rate: None,
        saturate: false,
        credit: None,
        size,
        qos: 0,
        subqos: None,
        retain: false,
        limit: 0,
        inflight: None,
        grain: None,
        topic_prefix: None,
    }
}

fn targets(common: &Common) -> Result<Vec<SocketAddr>, PlanError> {
    let mut targets = Vec::new();
    for host in &common.host {
        let resolved = match host.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
                let Ok(port) = port.parse::<u16>() else {
                    return usage(format!("-h {host}: a host or host:port"));
                };
                (name.trim_matches(['[', ']']), port).to_socket_addrs()
            }
            _ => (host.trim_matches(['[', ']']), common.port).to_socket_addrs(),
        };
        match resolved.map(|mut addresses| addresses.next()) {
            Ok(Some(address)) => targets.push(address),
            Ok(None) => return usage(format!("-h {host}: no address")),
            Err(error) => return usage(format!("-h {host}: {error}")),
        }
    }
    Ok(targets)
}
