//! The command line. Verbs and letters are those of emqtt-bench where it has them.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

/// Measures an MQTT broker: connections, rates, latencies, and whether every message arrives as
/// its QoS promises.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "ringmq-load",
    version,
    disable_help_flag = true,
    after_help = "The exit status is 0 if all went well, 1 if a QoS promise was broken or clients \
                  could not do what they were to do, 2 if the command line is wrong.\n\n\
                  -h is the host, as in emqtt-bench; help is --help."
)]
pub struct Cli {
    /// Print help.
    #[arg(long, action = ArgAction::Help, global = true)]
    help: Option<bool>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Connect clients and hold the connections.
    Conn(With<ConnArgs>),
    /// Subscribe, and count what comes.
    Sub(With<SubArgs>),
    /// Publish to topics, whoever listens.
    Pub(With<PubArgs>),
    /// Pairs: each publisher has a subscriber of its own.
    Pair(With<PairArgs>),
    /// Many publishers, few subscribers that get everything.
    FanIn(With<FanInArgs>),
    /// Few publishers, many subscribers that each get everything.
    FanOut(With<FanOutArgs>),
    /// Many publishers, and a group of subscribers that share the messages.
    Shared(With<SharedArgs>),
    /// Connect everyone, cut everyone, and time how long it takes until everyone is back.
    Storm(With<StormArgs>),
    /// A share of the connections is closed and opened again each second.
    Churn(With<ChurnArgs>),
    /// A fleet: mostly idle devices with telemetry, and commands to single devices.
    Mixed(With<MixedArgs>),
    /// Named scenarios in the notation of the Open MQTT Benchmark Suite.
    Suite(With<SuiteArgs>),
}

impl Verb {
    /// The flags that every verb has.
    pub fn common(&self) -> &Common {
        match self {
            Self::Conn(With { common, .. })
            | Self::Sub(With { common, .. })
            | Self::Pub(With { common, .. })
            | Self::Pair(With { common, .. })
            | Self::FanIn(With { common, .. })
            | Self::FanOut(With { common, .. })
            | Self::Shared(With { common, .. })
            | Self::Storm(With { common, .. })
            | Self::Churn(With { common, .. })
            | Self::Mixed(With { common, .. })
            | Self::Suite(With { common, .. }) => common,
        }
    }
}

/// A verb's own flags, and those of every verb.
#[derive(Debug, Clone, Args)]
pub struct With<A: Args> {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub own: A,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub common: Common,
}

/// Flags of every verb.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Broker: a host or host:port; several, by comma, are used in turn.
    #[arg(short = 'h', long, default_value = "127.0.0.1", value_delimiter = ',')]
    pub host: Vec<String>,
    /// Port of hosts that have none.
    #[arg(short, long, default_value_t = 1883)]
    pub port: u16,
    /// MQTT version: 3 (3.1), 4 (3.1.1) or 5.
    #[arg(short = 'V', long = "version", value_name = "VERSION", default_value = "4")]
    pub mqtt_version: String,
    /// Connections to open in a second; 0 for as fast as possible.
    #[arg(short = 'R', long, default_value_t = 0.0, value_name = "PER_SECOND")]
    pub connrate: f64,
    /// Milliseconds between two connections; another way to give -R.
    #[arg(short, long, default_value_t = 0.0, value_name = "MS")]
    pub interval: f64,
    /// Number of the first client, in client ids and topics.
    #[arg(short = 'n', long, default_value_t = 0)]
    pub startnumber: u32,
    /// User name; %i is the client's number.
    #[arg(short, long)]
    pub username: Option<String>,
    /// Password.
    #[arg(short = 'P', long)]
    pub password: Option<String>,
    /// Keep Alive in seconds; 0 for none.
    #[arg(short, long, default_value_t = 300)]
    pub keepalive: u16,
    /// Clean Session or Clean Start.
    #[arg(short = 'C', long, default_value_t = true, action = ArgAction::Set)]
    pub clean: bool,
    /// Session Expiry Interval in seconds of clients that are not clean; MQTT 5.
    #[arg(short = 'x', long, default_value_t = 7200)]
    pub session_expiry: u32,
    /// Front of the client ids; chosen for each run if not given.
    #[arg(long)]
    pub prefix: Option<String>,
    /// Source addresses: a list, in which a-b is a range (127.0.0.2-127.0.0.120). On loopback, as
    /// many as needed if not given.
    #[arg(long, value_delimiter = ',')]
    pub ifaddr: Vec<String>,
    /// TLS: not yet.
    #[arg(short = 'S', long)]
    pub ssl: bool,
    /// WebSocket: not yet.
    #[arg(long)]
    pub ws: bool,
    /// Threads; as many as processors, or as the descriptor limit asks for.
    #[arg(long)]
    pub workers: Option<u32>,
    /// How threads wait: auto, io_uring or epoll.
    #[arg(long, default_value = "auto")]
    pub driver: String,
    /// Connections that each thread opens at a time; a storm opens all at once.
    #[arg(long, default_value_t = 256)]
    pub connecting: u32,
    /// Seconds until a connection must be ready.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub connect_timeout: f64,
    /// Attempts after a failed one. A storm tries until --connect-timeout.
    #[arg(long, default_value_t = 0)]
    pub retries: u32,
    /// Clients that lose their connection come back.
    #[arg(long)]
    pub reconnect: bool,
    /// Seconds of the measurement; 0 until interrupted. `conn`, `sub` and `pub` go on until
    /// interrupted if it is not given, others for 10 s.
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<f64>,
    /// Seconds before it that do not count; 1 if messages flow for a given time.
    #[arg(long, value_name = "SECONDS")]
    pub warmup: Option<f64>,
    /// Seconds of quiet after which messages that are still missing are given up.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub drain: f64,
    /// Seconds to wait before memory is read, and before messages flow.
    #[arg(long, default_value_t = 0.5, value_name = "SECONDS")]
    pub settle: f64,
    /// Process id of the broker: samples its memory, processor time and descriptors.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Write the result as JSON; - for standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the end-to-end latencies in HdrHistogram's text format.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Write a report with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// No progress, no table.
    #[arg(long)]
    pub quiet: bool,
}

/// Flags of verbs that publish.
#[derive(Debug, Clone, Args)]
pub struct Traffic {
    /// Milliseconds between two messages of a publisher.
    #[arg(short = 'I', long, default_value_t = 1000.0, value_name = "MS")]
    pub interval_of_msg: f64,
    /// Messages published in a second, by all publishers together; instead of -I.
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// As fast as the messages are received, instead of a rate.
    #[arg(long)]
    pub saturate: bool,
    /// Messages of a publisher that may be under way to their receivers with --saturate.
    #[arg(long)]
    pub credit: Option<u32>,
    /// Bytes of payload, of which the first 16 say what the message is.
    #[arg(short, long, default_value_t = 256)]
    pub size: usize,
    /// QoS of publishing and subscribing.
    #[arg(short, long, default_value_t = 0)]
    pub qos: u8,
    /// QoS of subscribing, if another.
    #[arg(long)]
    pub subqos: Option<u8>,
    /// RETAIN.
    #[arg(short, long)]
    pub retain: bool,
    /// End after so many messages; 0 for no end.
    #[arg(short = 'L', long, default_value_t = 0)]
    pub limit: u64,
    /// QoS 1 and 2 messages that a publisher may have unacknowledged; 0 for 65,535. 10 with
    /// --saturate and 1,000 with a rate if not given. A broker's Receive Maximum lowers it.
    #[arg(short = 'F', long)]
    pub inflight: Option<u32>,
    /// Microseconds: messages are due at multiples of it, so that the tool need not wake for each.
    /// If not given, so that eight are due at a time in each thread, but from 50 to 1,000.
    #[arg(long, value_name = "US")]
    pub grain: Option<u64>,
    /// Front of all topics; chosen for each run if not given.
    #[arg(long)]
    pub topic_prefix: Option<String>,
}

/// What clients subscribe to that otherwise only hold their connections.
#[derive(Debug, Clone, Args)]
pub struct SubscriptionArgs {
    /// Each client subscribes to this; %c client id, %i number, %u user name.
    #[arg(short, long)]
    pub topic: Option<String>,
    /// QoS of the subscription.
    #[arg(short, long, default_value_t = 0)]
    pub qos: u8,
}

/// `conn`.
#[derive(Debug, Clone, Args)]
pub struct ConnArgs {
    /// Clients.
    #[arg(short, long, default_value_t = 200)]
    pub count: u32,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub subscription: SubscriptionArgs,
    /// Percent of the clients that publish while all are held: each to the next one's -t, with its
    /// QoS, so that each also receives. Needs a topic of its own for each client (%c or %i).
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    pub sample: f64,
    /// Seconds between two messages of a client of the sample.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub sample_interval: f64,
    /// Bytes of payload of the sample's messages.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    pub sample_size: usize,
}

/// `sub`.
#[derive(Debug, Clone, Args)]
pub struct SubArgs {
    /// Clients.
    #[arg(short, long, default_value_t = 200)]
    pub count: u32,
    /// Topic filter; %c client id, %i number, %u user name. May be repeated.
    #[arg(short, long, required = true)]
    pub topic: Vec<String>,
    /// QoS of the subscription.
    #[arg(short, long, default_value_t = 0)]
    pub qos: u8,
}

/// `pub`.
#[derive(Debug, Clone, Args)]
pub struct PubArgs {
    /// Clients.
    #[arg(short, long, default_value_t = 200)]
    pub count: u32,
    /// Topic; %c client id, %i number, %u user name, %s the message's sequence number.
    #[arg(short, long)]
    pub topic: String,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub traffic: Traffic,
}

/// `pair`.
#[derive(Debug, Clone, Args)]
pub struct PairArgs {
    /// Pairs.
    #[arg(short, long, default_value_t = 200)]
    pub count: u32,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub traffic: Traffic,
}

/// `fan-in`.
#[derive(Debug, Clone, Args)]
pub struct FanInArgs {
    /// Publishers.
    #[arg(short, long, default_value_t = 200)]
    pub count: u32,
    /// Subscribers, among which the publishers are divided.
    #[arg(long, default_value_t = 1)]
    pub receivers: u32,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub traffic: Traffic,
}

/// `fan-out`.
#[derive(Debug, Clone, Args)]
pub struct FanOutArgs {
    /// Subscribers; each gets the messages of all publishers.
    #[arg(short, long, default_value_t = 200)]
    pub count: u32,
    /// Publishers, each with a topic of its own.
    #[arg(long, default_value_t = 1)]
    pub publishers: u32,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub traffic: Traffic,
}

/// `shared`.
#[derive(Debug, Clone, Args)]
pub struct SharedArgs {
    /// Publishers, each with a topic of its own.
    #[arg(short, long, default_value_t = 200)]
    pub count: u32,
    /// Members of the group.
    #[arg(long, default_value_t = 5)]
    pub receivers: u32,
    /// The group's share name.
    #[arg(long, default_value = "benchmark")]
    pub share: String,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub traffic: Traffic,
}

/// `storm`.
#[derive(Debug, Clone, Args)]
pub struct StormArgs {
    /// Clients.
    #[arg(short, long, default_value_t = 1000)]
    pub count: u32,
    /// Storms, one after another.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub subscription: SubscriptionArgs,
}

/// `churn`.
#[derive(Debug, Clone, Args)]
pub struct ChurnArgs {
    /// Clients.
    #[arg(short, long, default_value_t = 1000)]
    pub count: u32,
    /// Percent of the clients that reconnect each second.
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    pub churn: f64,
    /// They break the connection instead of saying goodbye.
    #[arg(long)]
    pub abrupt: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub subscription: SubscriptionArgs,
}

/// `mixed`.
#[derive(Debug, Clone, Args)]
pub struct MixedArgs {
    /// Devices.
    #[arg(short, long, default_value_t = 1000)]
    pub count: u32,
    /// Seconds between two telemetry messages of a device.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub telemetry: f64,
    /// Percent of the devices that publish with QoS 1.
    #[arg(long, default_value_t = 10.0, value_name = "PERCENT")]
    pub qos1: f64,
    /// Percent of the devices that publish with QoS 2.
    #[arg(long, default_value_t = 2.0, value_name = "PERCENT")]
    pub qos2: f64,
    /// Percent of the devices whose sessions outlive the connection.
    #[arg(long, default_value_t = 20.0, value_name = "PERCENT")]
    pub persistent: f64,
    /// Subscribers to all telemetry, who divide the devices among them.
    #[arg(long, default_value_t = 2)]
    pub consumers: u32,
    /// Commands in a second, each to one device, with QoS 1.
    #[arg(long, default_value_t = 100.0, value_name = "PER_SECOND")]
    pub commands: f64,
    /// Publishers of commands.
    #[arg(long, default_value_t = 2)]
    pub commanders: u32,
    /// Bytes of payload.
    #[arg(short, long, default_value_t = 128)]
    pub size: usize,
}

/// `suite`.
#[derive(Debug, Clone, Args)]
pub struct SuiteArgs {
    /// Scenarios, such as conn-tcp-1M-5K, p2p-50K-50K-50K-50K, fanout-5-1000-5-250K,
    /// sharedsub-50K-500-50K-50K; these four if none is given.
    pub scenarios: Vec<String>,
    /// Multiplies the numbers of clients and the rates of messages; the connect rate stays.
    #[arg(long, default_value_t = 1.0)]
    pub scale: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_mean_what_they_mean_in_emqtt_bench() {
        let words = "ringmq-load pub -h there -p 1 -V 5 -c 2 -n 3 -R 4 -i 5 -I 6 -t a/%i -s 16 -q 1 \
                     -r -k 7 -C false -u me -P secret -F 8 -L 9 --prefix it --ssl --ws";
        let Ok(Cli { verb: Verb::Pub(With { own, common }), .. }) =
            Cli::try_parse_from(words.split_whitespace())
        else {
            panic!("{words}");
        };
        assert_eq!((own.count, own.topic.as_str()), (2, "a/%i"));
        let traffic = own.traffic;
        assert_eq!((traffic.interval_of_msg, traffic.size, traffic.qos), (6.0, 16, 1));
        assert_eq!((traffic.retain, traffic.inflight, traffic.limit), (true, Some(8), 9));
        assert_eq!((common.host, common.port), (vec!["there".to_owned()], 1));
        assert_eq!((common.mqtt_version.as_str(), common.startnumber), ("5", 3));
        assert_eq!((common.connrate, common.interval, common.keepalive), (4.0, 5.0, 7));
        assert_eq!((common.clean, common.ssl, common.ws), (false, true, true));
        assert_eq!(common.username.as_deref(), Some("me"));
        assert_eq!(common.password.as_deref(), Some("secret"));
        assert_eq!(common.prefix.as_deref(), Some("it"));
    }
}
