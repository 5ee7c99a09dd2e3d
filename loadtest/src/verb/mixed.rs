//! `mixed`: a fleet of devices with telemetry, and commands to single devices.

use std::sync::Arc;

use ringmq::codec::QoS;

use super::{
    Course, Job, PlanError,
    base::{Base, no_traffic},
    usage,
};
use crate::{
    cli::{Common, MixedArgs},
    plan::{Expects, Subscription},
};

/// Seconds to measure.
const DURATION: f64 = 10.0;
/// The flow of commands, behind the telemetry of each QoS.
const COMMANDS: u32 = 3;

/// Devices that publish with the same QoS: a group that publishes and hears commands, a flow of
/// telemetry, and a group that consumes it.
struct Kind {
    qos: QoS,
    device: &'static str,
    telemetry: &'static str,
    consumer: &'static str,
    devices: u32,
    /// Devices of the kinds before it.
    before: u32,
}

/// Makes the job.
pub(super) fn job(args: &MixedArgs, common: &Common) -> Result<Job, PlanError> {
    if args.telemetry <= 0.0 || args.commands <= 0.0 || args.commanders == 0 {
        return usage("--telemetry, --commands and --commanders: more than 0");
    }
    let mut base = Base::new(common)?;
    let front = base.topics(None);
    let kinds = kinds(args);
    for (at, kind) in kinds.iter().enumerate() {
        add_devices(&mut base, at, kind, args, &front)?;
    }
    add_commands(&mut base, args, &front)?;
    for (at, kind) in kinds.iter().enumerate() {
        add_consumers(&mut base, at, kind, args.consumers.max(1), &front);
    }
    let title = format!(
        "mixed: {} devices, telemetry every {} s, {} commands/s",
        args.count, args.telemetry, args.commands
    );
    base.job(title, Course::Traffic, DURATION)
}

fn kinds(args: &MixedArgs) -> [Kind; 3] {
    let share = |percent: f64| (f64::from(args.count) * percent.clamp(0.0, 100.0) / 100.0) as u32;
    let (second, first) = (share(args.qos2), share(args.qos1));
    let zero = args.count.saturating_sub(first + second);
    [
        Kind {
            qos: QoS::AtMostOnce,
            device: "dev0",
            telemetry: "telemetry, QoS 0",
            consumer: "consumer0",
            devices: zero,
            before: 0,
        },
        Kind {
            qos: QoS::AtLeastOnce,
            device: "dev1",
            telemetry: "telemetry, QoS 1",
            consumer: "consumer1",
            devices: first,
            before: zero,
        },
        Kind {
            qos: QoS::ExactlyOnce,
            device: "dev2",
            telemetry: "telemetry, QoS 2",
            consumer: "consumer2",
            devices: second,
            before: zero + first,
        },
    ]
}

fn add_devices(
    base: &mut Base,
    at: usize,
    kind: &Kind,
    args: &MixedArgs,
    front: &str,
) -> Result<(), PlanError> {
    let (qos, before, consumers) = (kind.qos.value(), kind.before, args.consumers.max(1));
    let mut traffic = no_traffic(args.size);
    traffic.qos = qos;
    traffic.interval_of_msg = args.telemetry * 1000.0;
    let mut flow = base.flow(at, kind.devices, &traffic)?;
    flow.name = kind.telemetry;
    let topics = front.to_owned();
    flow.topic =
        Arc::new(move |stream| format!("{topics}/telemetry/{qos}/{}/{stream}", stream % consumers));
    let mut group = base.group(kind.device, kind.devices);
    let persistent = args.persistent;
    group.clean = Arc::new(move |member| {
        // Spread evenly, whatever the share is.
        let upto = |member: u32| (f64::from(member) * persistent / 100.0) as u32;
        upto(member + 1) == upto(member)
    });
    let topics = front.to_owned();
    group.subscription = Some(Subscription {
        filters: Arc::new(move |member| vec![format!("{topics}/command/{}", before + member)]),
        qos: QoS::AtLeastOnce,
        expects: Arc::new(move |member| Expects::Streams {
            flow: COMMANDS,
            first: before + member,
            stride: 1,
            count: 1,
        }),
    });
    base.plan.groups.push(group);
    base.plan.flows.push(flow);
    Ok(())
}

fn add_commands(base: &mut Base, args: &MixedArgs, front: &str) -> Result<(), PlanError> {
    base.plan.groups.push(base.group("commander", args.commanders));
    let mut traffic = no_traffic(args.size);
    traffic.qos = 1;
    traffic.rate = Some(args.commands);
    let mut commands = base.flow(base.plan.groups.len() - 1, args.count, &traffic)?;
    commands.name = "commands, QoS 1";
    let topics = front.to_owned();
    commands.topic = Arc::new(move |stream| format!("{topics}/command/{stream}"));
    base.plan.flows.push(commands);
    Ok(())
}

/// Subscribers to the telemetry of one kind, who divide the devices among them.
fn add_consumers(base: &mut Base, at: usize, kind: &Kind, consumers: u32, front: &str) {
    let (qos, devices) = (kind.qos.value(), kind.devices);
    let mut group = base.group(kind.consumer, consumers.min(devices));
    let topics = front.to_owned();
    group.subscription = Some(Subscription {
        filters: Arc::new(move |member| vec![format!("{topics}/telemetry/{qos}/{member}/+")]),
        qos: kind.qos,
        expects: Arc::new(move |member| Expects::Streams {
            flow: at as u32,
            first: member,
            stride: consumers,
            count: devices.saturating_sub(member).div_ceil(consumers),
        }),
    });
    base.plan.groups.push(group);
}
