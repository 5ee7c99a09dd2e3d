//! Counters of one shard, without locks, shared cache lines or read-modify-write operations.
//!
//! Every [`ShardStats`] has one writer, its shard; anybody may read, at any time and without a
//! consistent cut. What needs a figure for the whole broker sums them up with [`sum`]. Each value
//! has a name and a text, so that a list of all of them ([`Totals::each`]) is also the list of
//! metrics.

use std::array;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, written by one thread. Wraps at 2^64.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. For the one writer only: two would lose each other's additions.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks, written by one thread.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds `n`. For the one writer only.
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Takes `n` away. For the one writer only.
    pub fn sub(&self, n: u64) {
        self.set(self.get().wrapping_sub(n));
    }

    /// Replaces the value. For the one writer only.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why something was counted: one of a fixed set, each with a name and a text.
pub trait Reason: Copy + 'static {
    /// All of them, in the order of [`index`](Self::index).
    const ALL: &'static [Self];

    /// The place in [`ALL`](Self::ALL).
    fn index(self) -> usize;

    /// A name for metrics and logs: lower case with underscores.
    fn name(self) -> &'static str;

    /// What it means, in one sentence.
    fn text(self) -> &'static str;
}

/// A counter for each of the `N` reasons of `R`, written by one thread.
#[derive(Debug)]
pub struct Counters<R, const N: usize> {
    counters: [Counter; N],
    reason: PhantomData<fn(R)>,
}

impl<R: Reason, const N: usize> Counters<R, N> {
    /// Adds `n` to the counter of `reason`. For the one writer only.
    pub fn add(&self, reason: R, n: u64) {
        if let Some(counter) = self.counters.get(reason.index()) {
            counter.add(n);
        }
    }

    /// The present value of the counter of `reason`.
    pub fn get(&self, reason: R) -> u64 {
        self.counters.get(reason.index()).map_or(0, Counter::get)
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.counters.iter().map(Counter::get).fold(0, u64::wrapping_add)
    }
}

impl<R, const N: usize> Default for Counters<R, N> {
    fn default() -> Self {
        Self { counters: array::from_fn(|_| Counter::default()), reason: PhantomData }
    }
}

/// What [`Counters`] held when they were read.
#[derive(Clone, Copy, Debug)]
pub struct Counts<R, const N: usize> {
    counts: [u64; N],
    reason: PhantomData<fn(R)>,
}

impl<R: Reason, const N: usize> Counts<R, N> {
    /// The count of `reason`.
    pub fn get(&self, reason: R) -> u64 {
        self.counts.get(reason.index()).copied().unwrap_or(0)
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.counts.iter().copied().fold(0, u64::wrapping_add)
    }
}

impl<R, const N: usize> Default for Counts<R, N> {
    fn default() -> Self {
        Self { counts: [0; N], reason: PhantomData }
    }
}

/// Whether a metric only grows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It grows and shrinks.
    Gauge,
}

/// One value of [`Totals::each`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Metric {
    /// The field's name.
    pub name: &'static str,
    /// What is counted, in one sentence.
    pub text: &'static str,
    /// Whether it only grows.
    pub kind: MetricKind,
    /// The reason's name, when there is one value for each reason.
    pub reason: Option<&'static str>,
    /// The value.
    pub value: u64,
}

/// Adds the values of all shards up. A gauge that one shard raised and another lowered comes out
/// right, for the sum wraps as they do.
pub fn sum(shards: &[&ShardStats]) -> Totals {
    let mut totals = Totals::default();
    for shard in shards {
        totals.add(shard);
    }
    totals
}

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $(#[doc = $text:literal] $variant:ident = $label:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum $name {
            $(#[doc = $text] $variant,)*
        }

        impl $name {
            /// How many there are.
            pub const COUNT: usize = [$($label),*].len();
        }

        impl Reason for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn index(self) -> usize {
                self as usize
            }

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }

            fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text.trim_ascii(),)*
                }
            }
        }
    };
}

reasons! {
    /// Why a message did not reach someone who should have had it.
    DropReason {
        /// The session's queue was full.
        QueueFull = "queue_full",
        /// The queues of all sessions of a shard together were full.
        QueuesFull = "queues_full",
        /// The client read too slowly: its outbox was full.
        OutboxFull = "outbox_full",
        /// The packet was larger than the client's Maximum Packet Size.
        TooLarge = "too_large",
        /// The Message Expiry Interval passed.
        Expired = "expired",
        /// The way to another shard had no credit left, and nobody could be made to wait.
        NoCredit = "no_credit",
        /// The session ended with the message still queued.
        SessionEnded = "session_ended",
        /// The store of retained messages was full.
        RetainedFull = "retained_full",
        /// The publisher was not authorised for the topic.
        NotAuthorized = "not_authorized",
        /// A QoS 0 message for a session whose client is away.
        Offline = "offline",
        /// The payload was not the UTF-8 that it was said to be.
        PayloadFormat = "payload_format",
        /// No member of the shared subscription could take it.
        NoMember = "no_member",
        /// The store has failed, or could not read what it had kept.
        StoreFailed = "store_failed",
    }
}

reasons! {
    /// Why a network connection closed.
    CloseReason {
        /// The client sent DISCONNECT.
        Disconnect = "disconnect",
        /// The client closed the connection without DISCONNECT.
        PeerClosed = "peer_closed",
        /// Reading or writing failed.
        IoError = "io_error",
        /// Nothing came for one and a half times the Keep Alive.
        KeepAliveTimeout = "keep_alive_timeout",
        /// No complete CONNECT came in time.
        ConnectTimeout = "connect_timeout",
        /// Another connection took the session over.
        TakenOver = "taken_over",
        /// A packet was malformed.
        MalformedPacket = "malformed_packet",
        /// A packet was not allowed where it came.
        ProtocolError = "protocol_error",
        /// A packet was larger than allowed.
        PacketTooLarge = "packet_too_large",
        /// The protocol version is not supported.
        UnsupportedVersion = "unsupported_version",
        /// The client identifier was not acceptable.
        ClientIdInvalid = "client_id_invalid",
        /// The client did not prove who it is, or may not do what it tried to do.
        NotAuthorized = "not_authorized",
        /// A topic name, topic filter or topic alias was not acceptable.
        TopicInvalid = "topic_invalid",
        /// The client asked for something that this server does not support.
        NotSupported = "not_supported",
        /// The client sent more than the announced Receive Maximum.
        ReceiveMaximumExceeded = "receive_maximum_exceeded",
        /// The client exceeded a quota or a rate.
        QuotaExceeded = "quota_exceeded",
        /// The client read too slowly.
        SlowConsumer = "slow_consumer",
        /// The server had no room for the connection or session.
        ServerBusy = "server_busy",
        /// An administrator closed it.
        Administrative = "administrative",
        /// The server is stopping.
        ServerShutdown = "server_shutdown",
        /// The server failed.
        ServerError = "server_error",
    }
}

/// Builds `ShardStats` and `Totals` from one list, so that no value is forgotten in the sum.
macro_rules! stats {
    ($(#[doc = $text:literal] $field:ident: $kind:ident $(by $reason:ident)?,)*) => {
        /// The counters of one shard, in cache lines of their own. Written by that shard's thread.
        #[derive(Debug, Default)]
        // Two lines of 64 bytes, which processors fetch in pairs.
        #[repr(align(128))]
        pub struct ShardStats {
            $(#[doc = $text] pub $field: stats!(@shard $kind $($reason)?),)*
        }

        /// The values of all shards added up, at about the same moment.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Totals {
            $(#[doc = $text] pub $field: stats!(@total $kind $($reason)?),)*
        }

        impl Totals {
            /// Calls `metric` for every value, those with reasons once for each reason.
            pub fn each(&self, mut metric: impl FnMut(Metric)) {
                $(self.$field.list(|reason, value| metric(Metric {
                    name: stringify!($field),
                    text: $text.trim_ascii(),
                    kind: MetricKind::$kind,
                    reason,
                    value,
                }));)*
            }

            fn add(&mut self, shard: &ShardStats) {
                $(self.$field.accumulate(&shard.$field);)*
            }
        }
    };
    (@shard Counter $reason:ident) => { Counters<$reason, { $reason::COUNT }> };
    (@shard $kind:ident) => { $kind };
    (@total Counter $reason:ident) => { Counts<$reason, { $reason::COUNT }> };
    (@total $kind:ident) => { u64 };
}

stats! {
    /// Connections accepted from listeners.
    connections_accepted: Counter,
    /// Connections open, whether their CONNECT has come or not.
    connections_open: Gauge,
    /// Connections closed, by reason.
    connections_closed: Counter by CloseReason,
    /// Times that accepting was paused for want of descriptors or at a cap.
    accept_paused: Counter,
    /// Connections refused at a cap on connections or on their rate.
    connections_refused: Counter,
    /// Connections handed over to their home shard.
    handovers_sent: Counter,
    /// Connections taken over from the shard that accepted them.
    handovers_received: Counter,
    /// Connections that their shard could not take in.
    handovers_failed: Counter,
    /// CONNECT packets refused because the client did not prove who it is.
    auth_refused: Counter,
    /// Operations refused because the client was not authorised.
    acl_refused: Counter,
    /// Clients connected.
    clients_connected: Gauge,
    /// Sessions, connected or not.
    sessions: Gauge,
    /// Sessions that a returning client found again.
    sessions_resumed: Counter,
    /// Sessions taken over by another connection of the same client.
    sessions_taken_over: Counter,
    /// Sessions whose Session Expiry Interval passed.
    sessions_expired: Counter,
    /// Subscriptions, shared ones included.
    subscriptions: Gauge,
    /// Shared subscriptions.
    shared_subscriptions: Gauge,
    /// Subscriptions of sessions that the store keeps.
    stored_subscriptions: Gauge,
    /// Bytes of queued messages that are kept in the store alone.
    stored_queued_bytes: Gauge,
    /// Retained messages.
    retained_messages: Gauge,
    /// Bytes of retained messages, topics included.
    retained_bytes: Gauge,
    /// Bytes read from clients.
    bytes_received: Counter,
    /// Bytes written to clients.
    bytes_sent: Counter,
    /// MQTT packets of all kinds received.
    packets_received: Counter,
    /// MQTT packets sent, PUBLISH not included.
    packets_sent: Counter,
    /// PUBLISH packets received.
    publish_received: Counter,
    /// Bytes of the payloads of PUBLISH packets received.
    publish_bytes_received: Counter,
    /// PUBLISH packets sent.
    publish_sent: Counter,
    /// Bytes of the payloads of PUBLISH packets sent.
    publish_bytes_sent: Counter,
    /// PUBLISH packets sent again to a client that came back.
    publish_resent: Counter,
    /// Messages dropped on their way to a receiver, by reason.
    publish_dropped: Counter by DropReason,
    /// Will messages published.
    wills_published: Counter,
    /// Messages queued for clients that are away or whose window is full.
    queued_messages: Gauge,
    /// Bytes of the messages queued.
    queued_bytes: Gauge,
    /// Messages sent to other shards.
    cross_shard_sent: Counter,
    /// Messages received from other shards.
    cross_shard_received: Counter,
    /// Times that reading from a client was paused: another shard was behind, or it did not read.
    reads_paused: Counter,
    /// Connections that wait together, because messages flow on them all the time.
    connections_regular: Gauge,
    /// Reads from clients that were heard before their turn, because many others came at once.
    reads_ahead: Counter,
    /// Times that a shard went on with a new event loop, because all its connections had gone.
    event_loops_renewed: Counter,
    /// Times that a shard came to look at its clock half a second late or more.
    stalls: Counter,
    /// How late it was then, added up.
    stalled_milliseconds: Counter,
    /// Warnings left out because there were too many.
    log_lines_suppressed: Counter,
}

/// The figures of the store, written by its thread.
#[derive(Debug, Default)]
pub struct StoreStats {
    /// Times that changes were written, each time all that waited.
    pub commits: Counter,
    /// Entries put or removed by them.
    pub entries_written: Counter,
    /// Times that the disk was made to have it all (fsync).
    pub syncs: Counter,
    /// Microseconds that this took.
    pub sync_microseconds: Counter,
    /// Bytes of changes that wait, as they were when the thread last looked.
    pub backlog_bytes: Gauge,
    /// 1 if the store has failed and takes nothing any more.
    pub failed: Gauge,
}

/// How one shard's value is added to the total.
trait Accumulate<Source> {
    fn accumulate(&mut self, source: &Source);
}

impl Accumulate<Counter> for u64 {
    fn accumulate(&mut self, source: &Counter) {
        *self = self.wrapping_add(source.get());
    }
}

impl Accumulate<Gauge> for u64 {
    fn accumulate(&mut self, source: &Gauge) {
        *self = self.wrapping_add(source.get());
    }
}

impl<R, const N: usize> Accumulate<Counters<R, N>> for Counts<R, N> {
    fn accumulate(&mut self, source: &Counters<R, N>) {
        for (count, counter) in self.counts.iter_mut().zip(&source.counters) {
            count.accumulate(counter);
        }
    }
}

/// How a total is listed: with one value, or with one for each reason.
trait List {
    fn list(&self, value: impl FnMut(Option<&'static str>, u64));
}

impl List for u64 {
    fn list(&self, mut value: impl FnMut(Option<&'static str>, u64)) {
        value(None, *self);
    }
}

impl<R: Reason, const N: usize> List for Counts<R, N> {
    fn list(&self, mut value: impl FnMut(Option<&'static str>, u64)) {
        for (reason, count) in R::ALL.iter().zip(self.counts) {
            value(Some(reason.name()), count);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;
    use std::collections::HashSet;

    #[test]
    fn sums_counters_gauges_and_reasons_over_shards() {
        let (one, two) = (ShardStats::default(), ShardStats::default());
        one.bytes_received.add(5);
        two.bytes_received.add(7);
        one.publish_dropped.add(DropReason::Expired, 2);
        two.publish_dropped.add(DropReason::Expired, 1);
        two.publish_dropped.add(DropReason::QueueFull, 4);
        one.retained_bytes.set(100);
        // Raised on one shard, lowered on the other.
        one.sessions.add(3);
        two.sessions.sub(1);

        let totals = sum(&[&one, &two]);
        assert_eq!(totals.bytes_received, 12);
        assert_eq!(totals.publish_dropped.get(DropReason::Expired), 3);
        assert_eq!(totals.publish_dropped.get(DropReason::QueueFull), 4);
        assert_eq!(totals.publish_dropped.get(DropReason::TooLarge), 0);
        assert_eq!(totals.publish_dropped.total(), 7);
        assert_eq!(one.publish_dropped.get(DropReason::Expired), 2);
        assert_eq!(two.publish_dropped.total(), 5);
        assert_eq!(totals.sessions, 2);
        assert_eq!(totals.retained_bytes, 100);
    }

    #[test]
    fn lists_every_value_once_with_a_text() {
        let stats = ShardStats::default();
        stats.connections_closed.add(CloseReason::KeepAliveTimeout, 9);
        stats.clients_connected.add(4);
        let mut metrics = Vec::new();
        sum(&[&stats]).each(|metric| metrics.push(metric));

        let names: HashSet<_> = metrics.iter().map(|m| (m.name, m.reason)).collect();
        assert_eq!(names.len(), metrics.len());
        assert!(metrics.iter().all(|m| m.text.ends_with('.') && !m.text.starts_with(' ')));
        let of = |name| metrics.iter().filter(move |m| m.name == name).copied().collect::<Vec<_>>();
        assert_eq!(of("connections_closed").len(), CloseReason::COUNT);
        assert_eq!(of("publish_dropped").len(), DropReason::COUNT);
        let timeout =
            metrics.iter().find(|m| m.reason == Some("keep_alive_timeout")).copied().unwrap();
        assert_eq!((timeout.name, timeout.value), ("connections_closed", 9));
        assert_eq!(
            of("clients_connected"),
            [Metric {
                name: "clients_connected",
                text: "Clients connected.",
                kind: MetricKind::Gauge,
                reason: None,
                value: 4
            }]
        );
    }

    fn check_reasons<R: Reason + std::fmt::Debug>() {
        for (index, reason) in R::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index, "{reason:?}");
            assert!(reason.name().bytes().all(|b| b == b'_' || b.is_ascii_lowercase()));
            assert!(reason.text().ends_with('.'));
        }
        let names: HashSet<_> = R::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), R::ALL.len());
    }

    #[test]
    fn reasons_have_an_index_and_a_name_each() {
        check_reasons::<DropReason>();
        check_reasons::<CloseReason>();
    }

    #[test]
    fn stats_of_two_shards_share_no_cache_line() {
        assert_eq!(align_of::<ShardStats>(), 128);
        assert_eq!(size_of::<ShardStats>() % 128, 0);
    }

    #[test]
    fn readers_see_a_counter_grow_only() {
        let stats = ShardStats::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    stats.packets_received.add(1);
                }
            });
            let mut last = 0;
            while last < 10_000 {
                let now = sum(&[&stats]).packets_received;
                assert!(now >= last);
                last = now;
            }
        });
        assert_eq!(stats.packets_received.get(), 10_000);
    }
}
