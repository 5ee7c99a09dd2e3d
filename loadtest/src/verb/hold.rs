//! Verbs whose clients hold their connections: `conn`, `storm`, `churn`.

use std::sync::Arc;

use super::{
    Course, Job, PlanError,
    base::{Base, parse_qos},
    usage,
};
use crate::{
    cli::{ChurnArgs, Common, ConnArgs, StormArgs, SubscriptionArgs},
    plan::{Expects, Subscription},
};

/// Connects, and holds the connections.
pub(super) fn conn(args: &ConnArgs, common: &Common) -> Result<Job, PlanError> {
    let base = clients(args.count, &args.subscription, common)?;
    base.job(format!("conn: {} clients", args.count), Course::Hold, 0.0)
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
            expects: Arc::new(|_| Expects::Anything),
        });
    }
    base.plan.groups.push(group);
    Ok(base)
}
