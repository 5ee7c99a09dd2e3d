//! From the command line to a plan.

mod base;
mod hold;
mod machine;
mod messages;
mod mixed;

pub(crate) use machine::local_ports;

use crate::{
    cli::{Common, Verb},
    plan::Plan,
};

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
    /// Makes the job of a verb, with these instead of its own common flags; `suite` is made of
    /// others.
    ///
    /// # Errors
    /// When the flags make no sense, or a host is not known.
    pub fn new(verb: &Verb, common: &Common) -> Result<Self, PlanError> {
        match verb {
            Verb::Conn(args) => hold::conn(&args.own, common),
            Verb::Sub(args) => messages::sub(&args.own, common),
            Verb::Pub(args) => messages::publish(&args.own, common),
            Verb::Pair(args) => messages::pair(&args.own, common),
            Verb::FanIn(args) => messages::fan_in(&args.own, common),
            Verb::FanOut(args) => messages::fan_out(&args.own, common),
            Verb::Shared(args) => messages::shared(&args.own, common),
            Verb::Storm(args) => hold::storm(&args.own, common),
            Verb::Churn(args) => hold::churn(&args.own, common),
            Verb::Mixed(args) => mixed::job(&args.own, common),
            Verb::Suite(_) => usage("a suite has several jobs"),
        }
    }
}

fn usage<T>(text: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError::Usage(text.into()))
}
