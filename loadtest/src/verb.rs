//! From the command line to a plan.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use ringmq::codec::{QoS, Version};

use crate::{
    cli::{Common, Traffic, Verb},
    header,
    plan::{Expects, Flow, Group, Pace, Plan, Subscription, Text},
};

/// The descriptors that a thread needs beside its connections.
const SPARE_DESCRIPTORS: u64 = 64;
/// Clients for each source address that is chosen by the tool.
const CLIENTS_PER_ADDRESS: u32 = 10_000;
/// Marks this tool's messages, in the high byte of a run's number.
const RUN_MARK: u16 = 0x5200;

/// What is wrong with a command line.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A flag has a value that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// TLS or WebSocket.
    #[error("{0} is not there yet: the tool speaks MQTT over TCP only")]
    NotYet(&'static str),
}

fn usage<T>(text: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError::Usage(text.into()))
}

/// What to do with a plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Course {
    /// Connect, and hold the connections.
    Hold,
    /// Connect, then let messages flow.
    Traffic,
    /// Connect; cut all, so many times.
    Storm(u32),
    /// Connect, and have some come back all the time.
    Churn,
}

/// A run as the command line asks for it.
pub struct Job {
    /// What it is called in reports.
    pub title: String,
    /// Who does what.
    pub plan: Plan,
    /// In which order.
    pub course: Course,
    /// Seconds to measure; `None` until interrupted.
    pub duration: Option<f64>,
    /// Seconds before that.
    pub warmup: f64,
    /// Subscriptions are to be made.
    pub subscribes: bool,
}

impl Job {
    /// Makes the job of a verb; `suite` is made of others.
    ///
    /// # Errors
    /// When the flags make no sense, or a host is not known.
    pub fn new(verb: &Verb) -> Result<Self, PlanError> {
        match verb {
            Verb::Conn(args) => {
                let mut base = Base::new(&args.common)?;
                let group = base.clients("client", args.count, args.topic.as_deref(), args.qos)?;
                base.plan.groups.push(group);
                let duration = args.common.duration.unwrap_or(0.0);
                base.job(format!("conn: {} clients", args.count), Course::Hold, duration)
            }
            Verb::Sub(args) => sub(args),
            Verb::Pub(args) => publish(args),
            Verb::Pair(args) => pair(args.count, &args.traffic, &args.common),
            Verb::FanIn(args) => fan_in(args.count, args.receivers, &args.traffic, &args.common),
            Verb::FanOut(args) => fan_out(args.count, args.publishers, &args.traffic, &args.common),
            Verb::Shared(args) => shared(args),
            Verb::Storm(args) => {
                let mut base = Base::new(&args.common)?;
                let group = base.clients("client", args.count, args.topic.as_deref(), args.qos)?;
                base.plan.groups.push(group);
                base.plan.retries = u32::MAX;
                let duration = args.common.duration.unwrap_or(1.0);
                let title = format!("storm: {} clients, {} times", args.count, args.rounds);
                base.job(title, Course::Storm(args.rounds), duration)
            }
            Verb::Churn(args) => {
                let mut base = Base::new(&args.common)?;
                let group = base.clients("client", args.count, args.topic.as_deref(), args.qos)?;
                base.plan.groups.push(group);
                if args.churn <= 0.0 {
                    return usage("--churn: a share above 0 %");
                }
                base.plan.churn_rate = f64::from(args.count) * args.churn / 100.0;
                base.plan.graceful = !args.abrupt;
                let title = format!("churn: {} clients, {} % in a second", args.count, args.churn);
                let duration = args.common.duration.unwrap_or(10.0);
                base.job(title, Course::Churn, duration)
            }
            Verb::Mixed(args) => mixed(args),
            Verb::Suite(_) => usage("a suite has several jobs"),
        }
    }
}

/// What is common to the jobs of all verbs.
struct Base {
    plan: Plan,
    prefix: String,
    first: u32,
    user: Option<String>,
    clean: bool,
    common: Common,
}

impl Base {
    fn new(common: &Common) -> Result<Self, PlanError> {
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
        let run = RUN_MARK | u16::from(fastrand::u8(..));
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
        let user = common.username.clone();
        let user_name = user.clone().map(|user| -> Text {
            Arc::new(move |number| user.replace("%i", &(first + number).to_string()))
        });
        Ok(Self {
            plan: Plan {
                run,
                targets: targets(common)?,
                sources: source_addresses(&common.ifaddr)?,
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
            first,
            user,
            clean: common.clean,
            common: common.clone(),
        })
    }

    fn client_id(&self, kind: &'static str) -> Text {
        let (prefix, first) = (self.prefix.clone(), self.first);
        Arc::new(move |member| format!("{prefix}-{kind}-{:08}", first + member))
    }

    fn group(&self, name: &'static str, count: u32) -> Group {
        let clean = self.clean;
        Group {
            name,
            count,
            client_id: self.client_id(name),
            subscription: None,
            clean: Arc::new(move |_| clean),
        }
    }

    /// Clients that may have a subscription.
    fn clients(
        &self,
        name: &'static str,
        count: u32,
        topic: Option<&str>,
        qos: u8,
    ) -> Result<Group, PlanError> {
        let mut group = self.group(name, count);
        if let Some(topic) = topic {
            let filter = self.pattern(topic, &group)?;
            group.subscription = Some(Subscription {
                filters: Arc::new(move |member| vec![filter(member)]),
                qos: parse_qos(qos)?,
                expects: Arc::new(|_| Expects::Anything),
            });
        }
        Ok(group)
    }

    /// Fills in %c, %i and %u.
    fn pattern(&self, pattern: &str, group: &Group) -> Result<Text, PlanError> {
        if pattern.is_empty() {
            return usage("-t: a topic has at least one character");
        }
        if pattern.contains("%u") && self.user.is_none() {
            return usage("-t with %u needs a user name (-u)");
        }
        let (client_id, pattern, first) =
            (Arc::clone(&group.client_id), pattern.to_owned(), self.first);
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
    fn topics(&self, traffic: Option<&Traffic>) -> String {
        match traffic.and_then(|traffic| traffic.topic_prefix.clone()) {
            Some(prefix) => prefix,
            None => format!("load/{}", self.prefix),
        }
    }

    /// A flow as the flags ask for it.
    fn flow(&mut self, group: usize, streams: u32, traffic: &Traffic) -> Result<Flow, PlanError> {
        let qos = parse_qos(traffic.qos)?;
        let delivery = parse_qos(traffic.subqos.unwrap_or(traffic.qos))?;
        if traffic.size < header::LEN {
            return usage(format!("-s: at least {} bytes, which say what it is", header::LEN));
        }
        if traffic.size > 200_000_000 {
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

    fn job(mut self, title: String, course: Course, duration: f64) -> Result<Job, PlanError> {
        if self.plan.clients() == 0 {
            return usage("-c: at least one client");
        }
        if self.plan.sources.is_empty() {
            self.plan.sources = loopback_sources(&self.plan);
        }
        self.plan.workers = workers(&self.plan, self.common.workers)?;
        let subscribes = self.plan.groups.iter().any(|group| group.subscription.is_some());
        if self.plan.grain == 0 {
            let two = 2e9 * f64::from(self.plan.workers) / self.plan.rate().max(1.0);
            self.plan.grain = two.clamp(50e3, 1e6) as u64;
        }
        let measures = course == Course::Traffic && duration > 0.0 && self.plan.limit == 0;
        let default_warmup = if measures { 1.0 } else { 0.0 };
        Ok(Job {
            title,
            plan: self.plan,
            course,
            duration: (duration > 0.0).then_some(duration),
            warmup: self.common.warmup.unwrap_or(default_warmup).max(0.0),
            subscribes,
        })
    }
}

fn parse_qos(qos: u8) -> Result<QoS, PlanError> {
    QoS::from_u8(qos).map_or_else(|| usage(format!("-q {qos}: 0, 1 or 2")), Ok)
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

fn source_addresses(list: &[String]) -> Result<Vec<IpAddr>, PlanError> {
    let mut addresses = Vec::new();
    for item in list {
        let wrong = || PlanError::Usage(format!("--ifaddr {item}: an address, or a-b"));
        if let Some((from, to)) = item.split_once('-') {
            let from: Ipv4Addr = from.trim().parse().map_err(|_| wrong())?;
            let to: Ipv4Addr = to.trim().parse().map_err(|_| wrong())?;
            if to < from || to.to_bits() - from.to_bits() >= 65_536 {
                return Err(wrong());
            }
            let range = from.to_bits()..=to.to_bits();
            addresses.extend(range.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))));
        } else {
            addresses.push(item.trim().parse().map_err(|_| wrong())?);
        }
    }
    Ok(addresses)
}

/// As many threads as there are processors, or more if one descriptor table each does not do.
fn workers(plan: &Plan, wanted: Option<u32>) -> Result<u32, PlanError> {
    let clients = u64::from(plan.clients());
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    // What is not raised stays as it was.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let each = limit.current.unwrap_or(u64::MAX).saturating_sub(SPARE_DESCRIPTORS).max(1);
    // Blocks may differ by one member for each group.
    let needed = clients.div_ceil(each.saturating_sub(plan.groups.len() as u64).max(1)).max(1);
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let workers = match wanted {
        Some(workers) if u64::from(workers) < needed => {
            return usage(format!(
                "--workers {workers}: {clients} connections need {needed} threads, for each \
                 thread has a table of {each} descriptors; raise the limit (ulimit -n) or give \
                 more"
            ));
        }
        Some(workers) => u64::from(workers),
        None => needed.max(processors.min(clients)),
    };
    let ports = u64::from(local_ports().1);
    let addresses = plan.sources.len().max(1) as u64 * plan.targets.len() as u64;
    if clients > ports * addresses {
        return usage(format!(
            "{clients} connections need more than {} source address(es) with {ports} ports each: \
             give {} addresses of this machine by --ifaddr, or widen net.ipv4.ip_local_port_range",
            plan.sources.len().max(1),
            clients.div_ceil(ports) + 1
        ));
    }
    Ok(workers as u32)
}

/// The first local port, and how many there are.
pub(crate) fn local_ports() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let text = text.unwrap_or_default();
    let mut bounds = text.split_whitespace().filter_map(|bound| bound.parse::<u16>().ok());
    match (bounds.next(), bounds.next()) {
        (Some(low), Some(high)) if high >= low => (low, (high - low).saturating_add(1)),
        _ => (32_768, 28_232),
    }
}

/// On loopback every address is this machine's: enough of them that ports are no limit.
fn loopback_sources(plan: &Plan) -> Vec<IpAddr> {
    let loopback = plan.targets.iter().all(|target| target.is_ipv4() && target.ip().is_loopback());
    if !loopback || plan.clients() <= CLIENTS_PER_ADDRESS {
        return Vec::new();
    }
    let addresses = plan.clients().div_ceil(CLIENTS_PER_ADDRESS);
    let first = Ipv4Addr::LOCALHOST.to_bits();
    (first..first + addresses).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))).collect()
}

fn sub(args: &crate::cli::SubArgs) -> Result<Job, PlanError> {
    let mut base = Base::new(&args.common)?;
    let mut group = base.group("sub", args.count);
    let mut filters = Vec::new();
    for topic in &args.topic {
        filters.push(base.pattern(topic, &group)?);
    }
    group.subscription = Some(Subscription {
        filters: Arc::new(move |member| filters.iter().map(|filter| filter(member)).collect()),
        qos: parse_qos(args.qos)?,
        expects: Arc::new(|_| Expects::Anything),
    });
    base.plan.groups.push(group);
    // Nothing is sent, but what comes is measured.
    let traffic = no_traffic(16);
    let mut flow = base.flow(0, 0, &traffic)?;
    flow.fanout = 0;
    base.plan.flows.push(flow);
    let duration = args.common.duration.unwrap_or(0.0);
    base.job(format!("sub: {} clients", args.count), Course::Traffic, duration)
}

fn publish(args: &crate::cli::PubArgs) -> Result<Job, PlanError> {
    let mut base = Base::new(&args.common)?;
    let group = base.group("pub", args.count);
    let mut flow = base.flow(0, args.count, &args.traffic)?;
    if args.topic.contains(['+', '#']) {
        return usage("-t: a topic that is published to has no wildcards");
    }
    let topic = base.pattern(&args.topic, &group)?;
    if args.topic.contains("%s") {
        let topic = Arc::clone(&topic);
        flow.topic_of_message = Some(Arc::new(move |stream, sequence| {
            topic(stream).replace("%s", &sequence.to_string())
        }));
    }
    if args.traffic.saturate && flow.qos == QoS::AtMostOnce {
        return usage("pub --saturate needs -q 1 or 2: nobody says when QoS 0 has arrived");
    }
    if args.traffic.saturate {
        flow.pace = Pace::Saturate { credit: u32::MAX };
    }
    flow.topic = topic;
    flow.fanout = 0;
    base.plan.groups.push(group);
    base.plan.flows.push(flow);
    let duration = args.common.duration.unwrap_or(0.0);
    let title = format!("pub: {} clients, {}", args.count, describe(&args.traffic, args.count));
    base.job(title, Course::Traffic, duration)
}

fn describe(traffic: &Traffic, publishers: u32) -> String {
    let rate = match (traffic.saturate, traffic.rate) {
        (true, _) => "saturated".to_owned(),
        (false, Some(rate)) => format!("{rate} msg/s"),
        (false, None) => {
            format!("{:.0} msg/s", f64::from(publishers) * 1000.0 / traffic.interval_of_msg)
        }
    };
    format!("QoS {}, {} B, {rate}", traffic.qos, traffic.size)
}

/// Messages that may be under way of each publisher so that no receiver has more than 1,000, which
/// brokers hold for a client by default.
fn credit(traffic: &Traffic, senders_per_receiver: u32, most: u32) -> u32 {
    let wanted = (1000 / senders_per_receiver.max(1)).clamp(1, most);
    traffic.credit.unwrap_or(wanted).max(1)
}

fn set_credit(flow: &mut Flow, credit: u32) {
    if let Pace::Saturate { credit: it } = &mut flow.pace {
        *it = credit;
    }
}

/// Messages under way between one publisher and one receiver in saturation.
fn pair_credit(flow: &Flow) -> u32 {
    if flow.qos == QoS::AtMostOnce { 4 } else { 10 }
}

fn pair(count: u32, traffic: &Traffic, common: &Common) -> Result<Job, PlanError> {
    let mut base = Base::new(common)?;
    let front = base.topics(Some(traffic));
    let mut flow = base.flow(0, count, traffic)?;
    let most = pair_credit(&flow);
    set_credit(&mut flow, credit(traffic, 1, most));
    let topic: Text = Arc::new(move |stream| format!("{front}/pair/{stream}"));
    flow.topic = Arc::clone(&topic);
    let mut receivers = base.group("sub", count);
    receivers.subscription = Some(Subscription {
        filters: Arc::new(move |member| vec![topic(member)]),
        qos: parse_qos(traffic.subqos.unwrap_or(traffic.qos))?,
        expects: Arc::new(|member| Expects::Streams {
            flow: 0,
            first: member,
            stride: 1,
            count: 1,
        }),
    });
    base.plan.groups.push(base.group("pub", count));
    base.plan.groups.push(receivers);
    base.plan.flows.push(flow);
    let title = format!("pair: {count} pairs, {}", describe(traffic, count));
    base.job(title, Course::Traffic, common.duration.unwrap_or(10.0))
}

fn fan_in(
    count: u32,
    receivers: u32,
    traffic: &Traffic,
    common: &Common,
) -> Result<Job, PlanError> {
    if receivers == 0 || receivers > count {
        return usage("--receivers: from 1 to as many as there are publishers");
    }
    let mut base = Base::new(common)?;
    let front = base.topics(Some(traffic));
    let mut flow = base.flow(0, count, traffic)?;
    let most = pair_credit(&flow);
    set_credit(&mut flow, credit(traffic, count / receivers, most));
    let topics = front.clone();
    flow.topic = Arc::new(move |stream| format!("{topics}/in/{}/{stream}", stream % receivers));
    let mut group = base.group("sub", receivers);
    group.subscription = Some(Subscription {
        filters: Arc::new(move |member| vec![format!("{front}/in/{member}/+")]),
        qos: parse_qos(traffic.subqos.unwrap_or(traffic.qos))?,
        expects: Arc::new(move |member| Expects::Streams {
            flow: 0,
            first: member,
            stride: receivers,
            count: (count - member).div_ceil(receivers),
        }),
    });
    base.plan.groups.push(base.group("pub", count));
    base.plan.groups.push(group);
    base.plan.flows.push(flow);
    let title = format!("fan-in: {count} to {receivers}, {}", describe(traffic, count));
    base.job(title, Course::Traffic, common.duration.unwrap_or(10.0))
}

fn fan_out(
    count: u32,
    publishers: u32,
    traffic: &Traffic,
    common: &Common,
) -> Result<Job, PlanError> {
    if publishers == 0 {
        return usage("--publishers: at least 1");
    }
    let mut base = Base::new(common)?;
    let front = base.topics(Some(traffic));
    let mut flow = base.flow(0, publishers, traffic)?;
    flow.fanout = count;
    set_credit(&mut flow, credit(traffic, publishers, 100));
    let topic: Text = Arc::new(move |stream| format!("{front}/out/{stream}"));
    flow.topic = Arc::clone(&topic);
    let mut group = base.group("sub", count);
    group.subscription = Some(Subscription {
        filters: Arc::new(move |_| (0..publishers).map(|publisher| topic(publisher)).collect()),
        qos: parse_qos(traffic.subqos.unwrap_or(traffic.qos))?,
        expects: Arc::new(move |_| Expects::Streams {
            flow: 0,
            first: 0,
            stride: 1,
            count: publishers,
        }),
    });
    base.plan.groups.push(base.group("pub", publishers));
    base.plan.groups.push(group);
    base.plan.flows.push(flow);
    let title = format!("fan-out: {publishers} to {count}, {}", describe(traffic, publishers));
    base.job(title, Course::Traffic, common.duration.unwrap_or(10.0))
}

fn shared(args: &crate::cli::SharedArgs) -> Result<Job, PlanError> {
    if args.receivers == 0 {
        return usage("--receivers: at least 1");
    }
    if args.share.is_empty() || args.share.contains(['/', '+', '#']) {
        return usage("--share: a name without /, + and #");
    }
    let (traffic, common) = (&args.traffic, &args.common);
    let mut base = Base::new(common)?;
    let front = base.topics(Some(traffic));
    let mut flow = base.flow(0, args.count, traffic)?;
    let most = pair_credit(&flow);
    set_credit(&mut flow, credit(traffic, args.count / args.receivers, most));
    let (topics, share) = (front.clone(), args.share.clone());
    flow.topic = Arc::new(move |stream| format!("{topics}/share/{stream}"));
    let mut group = base.group("sub", args.receivers);
    group.subscription = Some(Subscription {
        filters: Arc::new(move |_| vec![format!("$share/{share}/{front}/share/#")]),
        qos: parse_qos(traffic.subqos.unwrap_or(traffic.qos))?,
        expects: Arc::new(|_| Expects::Share { flow: 0 }),
    });
    base.plan.groups.push(base.group("pub", args.count));
    base.plan.groups.push(group);
    base.plan.flows.push(flow);
    let title = format!(
        "shared: {} to a group of {}, {}",
        args.count,
        args.receivers,
        describe(traffic, args.count)
    );
    base.job(title, Course::Traffic, common.duration.unwrap_or(10.0))
}

/// Flags of nothing in particular.
pub(crate) fn no_traffic(size: usize) -> Traffic {
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

fn mixed(args: &crate::cli::MixedArgs) -> Result<Job, PlanError> {
    let (count, consumers) = (args.count, args.consumers.max(1));
    if args.telemetry <= 0.0 || args.commands <= 0.0 || args.commanders == 0 {
        return usage("--telemetry, --commands and --commanders: more than 0");
    }
    let mut base = Base::new(&args.common)?;
    let front = base.topics(None);
    let share = |percent: f64| (f64::from(count) * percent.clamp(0.0, 100.0) / 100.0) as u32;
    let (second, first) = (share(args.qos2), share(args.qos1));
    let zero = count.saturating_sub(first + second);
    // Devices of one QoS are one group and one flow.
    let kinds = [("dev0", zero, 0), ("dev1", first, 1), ("dev2", second, 2)];
    let persistent = args.persistent;
    let mut before = 0;
    for (at, (name, devices, qos)) in kinds.into_iter().enumerate() {
        let mut traffic = no_traffic(args.size);
        traffic.qos = qos;
        traffic.interval_of_msg = args.telemetry * 1000.0;
        let mut flow = base.flow(at, devices, &traffic)?;
        flow.name = match qos {
            0 => "telemetry, QoS 0",
            1 => "telemetry, QoS 1",
            _ => "telemetry, QoS 2",
        };
        let topics = front.clone();
        flow.topic = Arc::new(move |stream| {
            format!("{topics}/telemetry/{qos}/{}/{stream}", stream % consumers)
        });
        let mut group = base.group(name, devices);
        let topics = front.clone();
        group.clean = Arc::new(move |member| {
            // Spread evenly, whatever the share is.
            let upto = |member: u32| (f64::from(member) * persistent / 100.0) as u32;
            upto(member + 1) == upto(member)
        });
        group.subscription = Some(Subscription {
            filters: Arc::new(move |member| vec![format!("{topics}/command/{}", before + member)]),
            qos: QoS::AtLeastOnce,
            expects: Arc::new(move |member| Expects::Streams {
                flow: 3,
                first: before + member,
                stride: 1,
                count: 1,
            }),
        });
        base.plan.groups.push(group);
        base.plan.flows.push(flow);
        before += devices;
    }
    base.plan.groups.push(base.group("commander", args.commanders));
    let mut traffic = no_traffic(args.size);
    traffic.qos = 1;
    traffic.rate = Some(args.commands);
    let mut commands = base.flow(3, count, &traffic)?;
    commands.name = "commands, QoS 1";
    let topics = front.clone();
    commands.topic = Arc::new(move |stream| format!("{topics}/command/{stream}"));
    base.plan.flows.push(commands);
    for (qos, name) in ["consumer0", "consumer1", "consumer2"].into_iter().enumerate() {
        let devices = kinds.get(qos).map_or(0, |kind| kind.1);
        let mut group = base.group(name, if devices == 0 { 0 } else { consumers.min(devices) });
        let topics = front.clone();
        group.subscription = Some(Subscription {
            filters: Arc::new(move |member| vec![format!("{topics}/telemetry/{qos}/{member}/+")]),
            qos: QoS::from_u8(qos as u8).unwrap_or(QoS::AtMostOnce),
            expects: Arc::new(move |member| Expects::Streams {
                flow: qos as u32,
                first: member,
                stride: consumers,
                count: devices.saturating_sub(member).div_ceil(consumers),
            }),
        });
        base.plan.groups.push(group);
    }
    let title = format!(
        "mixed: {count} devices, telemetry every {} s, {} commands/s",
        args.telemetry, args.commands
    );
    base.job(title, Course::Traffic, args.common.duration.unwrap_or(10.0))
}
