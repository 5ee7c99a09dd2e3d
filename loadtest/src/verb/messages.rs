//! Verbs with one kind of message: `sub`, `pub`, `pair`, `fan-in`, `fan-out`, `shared`.

use std::sync::Arc;

use ringmq::codec::QoS;

use super::{
    Course, Job, PlanError,
    base::{Base, no_traffic, parse_qos},
    usage,
};
use crate::{
    cli::{Common, FanInArgs, FanOutArgs, PairArgs, PubArgs, SharedArgs, SubArgs, Traffic},
    header,
    plan::{Expects, Pace, Subscription, Text},
};

/// Seconds that verbs measure which both send and receive.
const DURATION: f64 = 10.0;

/// Subscribes, and counts what comes.
pub(super) fn sub(args: &SubArgs, common: &Common) -> Result<Job, PlanError> {
    let mut base = Base::new(common)?;
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
    let mut flow = base.flow(0, 0, &no_traffic(header::LEN))?;
    flow.fanout = 0;
    base.plan.flows.push(flow);
    base.job(format!("sub: {} clients", args.count), Course::Traffic, 0.0)
}

/// Publishes, whoever listens.
pub(super) fn publish(args: &PubArgs, common: &Common) -> Result<Job, PlanError> {
    let mut base = Base::new(common)?;
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
    let title = format!("pub: {} clients, {}", args.count, describe(&args.traffic, args.count));
    base.job(title, Course::Traffic, 0.0)
}

/// Each publisher has a subscriber of its own.
pub(super) fn pair(args: &PairArgs, common: &Common) -> Result<Job, PlanError> {
    let base = Base::new(common)?;
    let front = base.topics(args.traffic.topic_prefix.as_ref());
    let topic: Text = Arc::new(move |stream| format!("{front}/pair/{stream}"));
    let exchange = Exchange {
        publishers: args.count,
        subscribers: args.count,
        publishers_per_subscriber: 1,
        most_under_way: one_to_one(&args.traffic),
        fanout: 1,
        topic: Arc::clone(&topic),
        filters: Arc::new(move |member| vec![topic(member)]),
        expects: Arc::new(|member| streams(member, 1, 1)),
    };
    exchange.job(base, &args.traffic, format!("pair: {} pairs", args.count))
}

/// Many publishers, few subscribers among which they are divided.
pub(super) fn fan_in(args: &FanInArgs, common: &Common) -> Result<Job, PlanError> {
    let (count, receivers) = (args.count, args.receivers);
    if receivers == 0 || receivers > count {
        return usage("--receivers: from 1 to as many as there are publishers");
    }
    let base = Base::new(common)?;
    let front = base.topics(args.traffic.topic_prefix.as_ref());
    let topics = front.clone();
    let exchange = Exchange {
        publishers: count,
        subscribers: receivers,
        publishers_per_subscriber: count / receivers,
        most_under_way: one_to_one(&args.traffic),
        fanout: 1,
        topic: Arc::new(move |stream| format!("{topics}/in/{}/{stream}", stream % receivers)),
        filters: Arc::new(move |member| vec![format!("{front}/in/{member}/+")]),
        expects: Arc::new(move |member| {
            streams(member, receivers, (count - member).div_ceil(receivers))
        }),
    };
    exchange.job(base, &args.traffic, format!("fan-in: {count} to {receivers}"))
}

/// Few publishers, many subscribers that each get everything.
pub(super) fn fan_out(args: &FanOutArgs, common: &Common) -> Result<Job, PlanError> {
    let (count, publishers) = (args.count, args.publishers);
    if publishers == 0 {
        return usage("--publishers: at least 1");
    }
    let base = Base::new(common)?;
    let front = base.topics(args.traffic.topic_prefix.as_ref());
    let topic: Text = Arc::new(move |stream| format!("{front}/out/{stream}"));
    let exchange = Exchange {
        publishers,
        subscribers: count,
        publishers_per_subscriber: publishers,
        most_under_way: 100,
        fanout: count,
        topic: Arc::clone(&topic),
        filters: Arc::new(move |_| (0..publishers).map(|publisher| topic(publisher)).collect()),
        expects: Arc::new(move |_| streams(0, 1, publishers)),
    };
    exchange.job(base, &args.traffic, format!("fan-out: {publishers} to {count}"))
}

/// Many publishers, and a group of subscribers that share the messages.
pub(super) fn shared(args: &SharedArgs, common: &Common) -> Result<Job, PlanError> {
    if args.receivers == 0 {
        return usage("--receivers: at least 1");
    }
    if args.share.is_empty() || args.share.contains(['/', '+', '#']) {
        return usage("--share: a name without /, + and #");
    }
    let base = Base::new(common)?;
    let front = base.topics(args.traffic.topic_prefix.as_ref());
    let (topics, share) = (front.clone(), args.share.clone());
    let exchange = Exchange {
        publishers: args.count,
        subscribers: args.receivers,
        publishers_per_subscriber: args.count / args.receivers,
        most_under_way: one_to_one(&args.traffic),
        fanout: 1,
        topic: Arc::new(move |stream| format!("{topics}/share/{stream}")),
        filters: Arc::new(move |_| vec![format!("$share/{share}/{front}/share/#")]),
        expects: Arc::new(|_| Expects::Share { flow: 0 }),
    };
    let title = format!("shared: {} to a group of {}", args.count, args.receivers);
    exchange.job(base, &args.traffic, title)
}

/// Publishers with a topic each, and subscribers whose messages are accounted for.
struct Exchange {
    publishers: u32,
    subscribers: u32,
    /// How many publishers a subscriber hears, and how many messages of each may be under way at
    /// the most; for the credit in saturation.
    publishers_per_subscriber: u32,
    most_under_way: u32,
    /// How many subscribers a message has.
    fanout: u32,
    topic: Text,
    filters: Arc<dyn Fn(u32) -> Vec<String> + Send + Sync>,
    expects: Arc<dyn Fn(u32) -> Expects + Send + Sync>,
}

impl Exchange {
    fn job(self, mut base: Base, traffic: &Traffic, who: String) -> Result<Job, PlanError> {
        let mut flow = base.flow(0, self.publishers, traffic)?;
        flow.topic = self.topic;
        flow.fanout = self.fanout;
        if let Pace::Saturate { credit } = &mut flow.pace {
            // Brokers hold 1,000 messages for a client by default.
            let fitting = 1000 / self.publishers_per_subscriber.max(1);
            let fitting = fitting.clamp(1, self.most_under_way);
            *credit = traffic.credit.unwrap_or(fitting).max(1);
        }
        let mut receivers = base.group("sub", self.subscribers);
        receivers.subscription = Some(Subscription {
            filters: self.filters,
            qos: parse_qos(traffic.subqos.unwrap_or(traffic.qos))?,
            expects: self.expects,
        });
        base.plan.groups.push(base.group("pub", self.publishers));
        base.plan.groups.push(receivers);
        base.plan.flows.push(flow);
        let title = format!("{who}, {}", describe(traffic, self.publishers));
        base.job(title, Course::Traffic, DURATION)
    }
}

/// Streams of the only flow.
fn streams(first: u32, stride: u32, count: u32) -> Expects {
    Expects::Streams { flow: 0, first, stride, count }
}

/// Messages under way between one publisher and one receiver in saturation.
fn one_to_one(traffic: &Traffic) -> u32 {
    if traffic.qos == 0 { 4 } else { 10 }
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
