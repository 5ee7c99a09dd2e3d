//! Verbs whose clients hold their connections: `conn`, `storm`, `churn`.

use std::sync::Arc;

use super::{
    Course, Job, PlanError,
    base::{Base, no_traffic, parse_qos},
    usage,
};
use crate::{
    cli::{ChurnArgs, Common, ConnArgs, StormArgs, SubscriptionArgs},
    plan::{Expects, Group, Subscription},
};

/// Connects, and holds the connections; a sample of the clients publishes meanwhile.
pub(super) fn conn(args: &ConnArgs, common: &Common) -> Result<Job, PlanError> {
    let mut base = clients(args.count, &args.subscription, common)?;
    let title = format!("conn: {} clients", args.count);
    if args.sample <= 0.0 {
        return base.job(title, Course::Hold, 0.0);
    }
    let sample = (f64::from(args.count) * args.sample.min(100.0) / 100.0).ceil() as u32;
    divide(&mut base, sample, args)?;
    base.job(format!("{title}, {sample} of which talk"), Course::Traffic, 0.0)
}

/// Makes a group of its own of the first clients, and a flow among them.
fn divide(base: &mut Base, sample: u32, args: &ConnArgs) -> Result<(), PlanError> {
    let Some(topic) = &args.subscription.topic else {
        return usage("--sample needs -t, which is what the sample publishes to");
    };
    if topic.contains(['+', '#']) || !(topic.contains("%c") || topic.contains("%i")) {
        return usage("--sample needs a -t of its own for each client: %c or %i, no wildcards");
    }
    if args.sample_interval <= 0.0 {
        return usage("--sample-interval: more than 0 s");
    }
    let Some(idle) = base.plan.groups.pop() else { return usage("-c: at least one client") };
    let topic = base.pattern(topic, &idle)?;
    let mut talking = idle.clone();
    talking.count = sample;
    if let Some(subscription) = &mut talking.subscription {
        subscription.expects = Arc::new(move |member| Expects::Streams {
            flow: 0,
            first: (member + sample - 1) % sample,
            stride: 1,
            count: 1,
        });
    }
    let mut traffic = no_traffic(args.sample_size);
    traffic.qos = args.subscription.qos;
    traffic.interval_of_msg = args.sample_interval * 1000.0;
    let mut flow = base.flow(0, sample, &traffic)?;
    flow.topic = Arc::new(move |stream| topic((stream + 1) % sample));
    base.plan.groups.push(talking);
    base.plan.groups.push(beginning_at(idle, sample));
    base.plan.flows.push(flow);
    Ok(())
}

/// The members of a group from the `first` on.
fn beginning_at(mut group: Group, first: u32) -> Group {
    let (client_id, clean) = (group.client_id, group.clean);
    group.count -= first;
    group.client_id = Arc::new(move |member| client_id(first + member));
    group.clean = Arc::new(move |member| clean(first + member));
    if let Some(subscription) = &mut group.subscription {
        let filters = Arc::clone(&subscription.filters);
        subscription.filters = Arc::new(move |member| filters(first + member));
    }
    group
}

/// Connects all, cuts all, has all come back.
pub(super) fn storm(args: &StormArgs, common: &Common) -> Result<Job, PlanError> {
    let mut base = clients(args.count, &args.subscription, common)?;
    base.plan.retries = u32::MAX;
    let title = format!("storm: {} clients, {} times", args.count, args.rounds);
    base.job(title, Course::Storm(args.rounds), 1.0)
}

/// Has a share of the clients reconnect each second.
pub(super) fn churn(args: &ChurnArgs, common: &Common) -> Result<Job, PlanError> {
    let mut base = clients(args.count, &args.subscription, common)?;
    if args.churn <= 0.0 {
        return usage("--churn: a share above 0 %");
    }
    base.plan.churn_rate = f64::from(args.count) * args.churn / 100.0;
    base.plan.graceful = !args.abrupt;
    let title = format!("churn: {} clients, {} % in a second", args.count, args.churn);
    base.job(title, Course::Churn, 10.0)
}

/// One group of clients that may have a subscription.
fn clients(count: u32, args: &SubscriptionArgs, common: &Common) -> Result<Base, PlanError> {
    let mut base = Base::new(common)?;
    let mut group = base.group("client", count);
    if let Some(topic) = &args.topic {
        let filter = base.pattern(topic, &group)?;
        group.subscription = Some(Subscription {
            filters: Arc::new(move |member| vec![filter(member)]),
            qos: parse_qos(args.qos)?,
            expects: Arc::new(|_| Expects::Nothing),
        });
    }
    base.plan.groups.push(group);
    Ok(base)
}
