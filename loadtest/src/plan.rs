//! What a run does: groups of clients, and flows of messages between them.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
};

use ringmq::codec::{QoS, Version};

/// A text for each member of a group or stream of a flow, by its index.
pub type Text = Arc<dyn Fn(u32) -> String + Send + Sync>;

/// Clients that do the same.
#[derive(Clone)]
pub struct Group {
    /// What they are called in reports.
    pub name: &'static str,
    /// How many they are.
    pub count: u32,
    /// The Client Identifier of each.
    pub client_id: Text,
    /// The topic filters of each, and what comes of them.
    pub subscription: Option<Subscription>,
    /// Clean Session, or Clean Start.
    pub clean: Arc<dyn Fn(u32) -> bool + Send + Sync>,
}

/// What the members of a group subscribe to.
#[derive(Clone)]
pub struct Subscription {
    /// The topic filters of each member.
    pub filters: Arc<dyn Fn(u32) -> Vec<String> + Send + Sync>,
    /// The QoS that is asked for.
    pub qos: QoS,
    /// The streams that each member is to receive.
    pub expects: Arc<dyn Fn(u32) -> Expects + Send + Sync>,
}

/// What a receiver is to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expects {
    /// Nothing: what comes all the same is counted as foreign. Such a client costs the tool no more
    /// than one without a subscription.
    Nothing,
    /// Nothing, or anything: whatever comes is counted.
    Anything,
    /// `count` streams of a flow: `first`, `first + stride`, and so on, all of their messages.
    Streams {
        /// The flow, by its index in [`Plan::flows`].
        flow: u32,
        /// The first stream's index within the flow.
        first: u32,
        /// The distance between the indices.
        stride: u32,
        /// How many they are.
        count: u32,
    },
    /// Each message of a flow once in the whole group.
    Share {
        /// The flow, by its index in [`Plan::flows`].
        flow: u32,
    },
}

/// Streams of messages of one kind.
#[derive(Clone)]
pub struct Flow {
    /// What it is called in reports.
    pub name: &'static str,
    /// The group that publishes.
    pub group: usize,
    /// How many streams there are: as many as the group has members, or more, in which case each
    /// member has some that follow one another.
    pub streams: u32,
    /// The Topic Name of each stream, if it does not change.
    pub topic: Text,
    /// Makes the Topic Name of a single message, where it has the sequence number in it.
    pub topic_of_message: Option<Arc<dyn Fn(u32, u32) -> String + Send + Sync>>,
    /// The QoS of publishing.
    pub qos: QoS,
    /// The QoS of delivery at the most, which is what the subscribers have asked for.
    pub delivery_qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// Bytes of payload.
    pub payload: usize,
    /// When messages are sent.
    pub pace: Pace,
    /// How many receivers each message has; 0 if nobody in this process counts them.
    pub fanout: u32,
}

/// When the messages of a flow are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// On a schedule, whatever the broker does: one message of each stream in this many
    /// nanoseconds, the streams evenly spread over that time.
    Every(u64),
    /// As fast as they are received: this many messages of each stream may be under way.
    Saturate {
        /// Messages sent that not all receivers have got.
        credit: u32,
    },
}

/// A run.
#[derive(Clone)]
pub struct Plan {
    /// Tells the messages of this run from others.
    pub run: u16,
    /// Where the clients connect to, in turn.
    pub targets: Vec<SocketAddr>,
    /// Where they connect from, in turn; the kernel's choice if empty.
    pub sources: Vec<IpAddr>,
    /// The version that they speak.
    pub version: Version,
    /// Keep Alive in seconds, 0 for none.
    pub keep_alive: u16,
    /// Session Expiry Interval in seconds, for clients that are not clean; MQTT 5.
    pub session_expiry: u32,
    /// The User Name of each client by its number.
    pub user_name: Option<Text>,
    /// The Password.
    pub password: Option<String>,
    /// The groups.
    pub groups: Vec<Group>,
    /// The flows.
    pub flows: Vec<Flow>,
    /// How many threads there are.
    pub workers: u32,
    /// Connections to open in a second, over all threads; as fast as possible if `None`.
    pub connect_rate: Option<f64>,
    /// How many connections each thread opens at a time.
    pub max_connecting: u32,
    /// How long a connection may take until it is ready, in nanoseconds.
    pub connect_timeout: u64,
    /// How often a client tries again that did not get a connection.
    pub retries: u32,
    /// Whether a client that has lost its connection comes back.
    pub reconnect: bool,
    /// QoS 1 and 2 messages that a client may have under way.
    pub window: u32,
    /// Messages are due at multiples of this many nanoseconds.
    pub grain: u64,
    /// The last message has been published when so many have, over all threads; 0 for no end.
    pub limit: u64,
    /// Connections to close and open again in a second, over all threads.
    pub churn_rate: f64,
    /// Whether connections that are closed on purpose say goodbye.
    pub graceful: bool,
}

impl Plan {
    /// The number of clients.
    pub fn clients(&self) -> u32 {
        self.groups.iter().map(|group| group.count).sum()
    }

    /// The members of a group that a thread has.
    pub fn members(&self, group: usize, worker: u32) -> Range<u32> {
        let count = self.groups.get(group).map_or(0, |group| group.count);
        share(count, worker, self.workers)..share(count, worker + 1, self.workers)
    }

    /// The thread that a member of a group belongs to.
    pub fn worker_of(&self, group: usize, member: u32) -> u32 {
        let count = u64::from(self.groups.get(group).map_or(1, |group| group.count.max(1)));
        let worker = ((u64::from(member) + 1) * u64::from(self.workers)).div_ceil(count) - 1;
        worker as u32
    }

    /// The member of its group that publishes a stream.
    pub fn publisher_of(&self, flow: &Flow, stream: u32) -> u32 {
        let count = self.groups.get(flow.group).map_or(0, |group| group.count);
        (u64::from(stream) * u64::from(count) / u64::from(flow.streams.max(1))) as u32
    }

    /// The streams of a flow that a thread publishes.
    pub fn streams(&self, flow: &Flow, worker: u32) -> Range<u32> {
        let members = self.members(flow.group, worker);
        let count = u64::from(self.groups.get(flow.group).map_or(1, |group| group.count.max(1)));
        let first =
            |member: u32| (u64::from(member) * u64::from(flow.streams)).div_ceil(count) as u32;
        first(members.start)..first(members.end)
    }

    /// The number of a flow's first stream among all streams.
    pub fn first_stream(&self, flow: usize) -> u32 {
        self.flows.iter().take(flow).map(|flow| flow.streams).sum()
    }

    /// The number of streams of all flows.
    pub fn total_streams(&self) -> u32 {
        self.flows.iter().map(|flow| flow.streams).sum()
    }

    /// Whether any flow sends as fast as messages are received.
    pub fn saturates(&self) -> bool {
        self.flows.iter().any(|flow| matches!(flow.pace, Pace::Saturate { .. }))
    }

    /// Messages that are due in a second, over all flows that have a schedule.
    pub fn rate(&self) -> f64 {
        let rate = |flow: &Flow| match flow.pace {
            Pace::Every(interval) => f64::from(flow.streams) * 1e9 / interval.max(1) as f64,
            Pace::Saturate { .. } => 0.0,
        };
        self.flows.iter().map(rate).sum()
    }
}

/// Where the share of `worker` begins if `count` things are dealt out to `workers` in blocks.
fn share(count: u32, worker: u32, workers: u32) -> u32 {
    (u64::from(count) * u64::from(worker) / u64::from(workers.max(1))) as u32
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    /// A group that does nothing.
    pub(crate) fn group(name: &'static str, count: u32) -> Group {
        Group {
            name,
            count,
            client_id: Arc::new(move |member| format!("{name}-{member}")),
            subscription: None,
            clean: Arc::new(|_| true),
        }
    }

    /// A flow with a topic for each stream.
    pub(crate) fn flow(group: usize, streams: u32) -> Flow {
        Flow {
            name: "messages",
            group,
            streams,
            topic: Arc::new(|stream| format!("t/{stream}")),
            topic_of_message: None,
            qos: QoS::AtLeastOnce,
            delivery_qos: QoS::AtLeastOnce,
            retain: false,
            payload: 16,
            pace: Pace::Every(1_000_000_000),
            fanout: 1,
        }
    }

    /// A plan of nobody.
    pub(crate) fn plan(workers: u32) -> Plan {
        Plan {
            run: 1,
            targets: vec![SocketAddr::from(([127, 0, 0, 1], 1))],
            sources: Vec::new(),
            version: Version::V3_1_1,
            keep_alive: 0,
            session_expiry: 0,
            user_name: None,
            password: None,
            groups: Vec::new(),
            flows: Vec::new(),
            workers,
            connect_rate: None,
            max_connecting: 100,
            connect_timeout: 1,
            retries: 0,
            reconnect: false,
            window: 10,
            grain: 1,
            limit: 0,
            churn_rate: 0.0,
            graceful: true,
        }
    }

    #[test]
    fn every_member_has_one_worker() {
        for workers in 1..6 {
            for count in 1..20 {
                let mut plan = plan(workers);
                plan.groups.push(group("g", count));
                let mut seen = 0;
                for worker in 0..workers {
                    for member in plan.members(0, worker) {
                        assert_eq!(plan.worker_of(0, member), worker, "{member} {count} {workers}");
                        seen += 1;
                    }
                }
                assert_eq!(seen, count);
            }
        }
    }

    #[test]
    fn streams_are_where_their_publishers_are() {
        for workers in 1..4 {
            for (count, streams) in [(1, 7), (3, 3), (3, 10), (5, 23)] {
                let mut plan = plan(workers);
                plan.groups.push(group("g", count));
                plan.flows.push(flow(0, streams));
                let mut next = 0;
                for worker in 0..workers {
                    for stream in plan.streams(&plan.flows[0], worker) {
                        assert_eq!(stream, next);
                        let member = plan.publisher_of(&plan.flows[0], stream);
                        assert!(plan.members(0, worker).contains(&member));
                        next += 1;
                    }
                }
                assert_eq!(next, streams);
            }
        }
    }
}
