//! Every cap of the broker and its default, each with its unit and its reason.
//!
//! Nothing in the broker grows without bound, and nothing is dropped without being counted: what a
//! client, a burst or a fault could make grow has its line here. A constant whose text names a flag
//! is that flag's default (`docs/configuration.md`); the others are fixed. The assertions at the
//! end keep the defaults consistent with each other, and `cli` checks the same relations between
//! the values that a user chose.

use std::time::Duration;

/// One kibibyte in bytes.
const KIB: u64 = 1024;
/// One mebibyte in bytes.
const MIB: u64 = 1024 * KIB;
/// One gibibyte in bytes.
const GIB: u64 = 1024 * MIB;

// ---- Listeners -------------------------------------------------------------------------------

/// TCP port of plain MQTT, as registered with IANA (`--listen`).
pub const PORT: u16 = 1883;

/// Connections that the kernel holds until they are accepted (`--backlog`). As many as fit: a SYN
/// that finds the queue full comes back only after 1, 3 and 7 seconds, so the backlog decides how
/// fast a fleet returns. The kernel caps it at the sysctl `net.core.somaxconn`.
pub const BACKLOG: u32 = 65_535;

/// Connections accepted in one go, so that a storm of newcomers leaves time for those that are
/// connected: about 1 ms.
pub const ACCEPTS_AT_ONCE: usize = 64;

/// Connections of those accepted, or handed over by other shards, that a shard takes in in one turn:
/// about 2 ms. The others wait, in the order in which they came, with their connect timeout not
/// running yet. All of a fleet's CONNECTs at once would keep those that are connected waiting.
pub const NEWCOMERS_PER_TURN: usize = 64;

/// Connections of one shard that wait together, because messages flow on them all the time, instead of
/// each for itself. The shard keeps 32 bytes for each, and for those that may become one.
pub const MAX_REGULARS: usize = 65_536;

/// For how long a connection has been open, in seconds, when it can become one of them. Whoever comes
/// back with a whole fleet and takes what has waited for it is not one yet.
pub const REGULAR_AFTER: u64 = 2;

/// How long one of them stays one after its client has published or acknowledged something. The first
/// such packet makes none of it, only another one within this time.
pub const REGULAR_FOR: Duration = Duration::from_secs(10);

/// Of those, how many are read in one go, if so many have something to say.
pub const REGULARS_OF_A_LOOK: usize = 128;

/// Others read in one turn from which on those are heard before it ends: the ring names some 20
/// connections at a time, and it is likely that it has more.
pub const STRANGERS_OF_A_BUSY_TURN: usize = 16;

/// Reads after which a busy shard looks at its listeners again. While it deals with what thousands
/// of connections have sent, a backlog of 4,096 would overflow.
pub const READS_PER_ACCEPT: u32 = 32;

// ---- Connections -----------------------------------------------------------------------------

/// Connections at a time over all shards (`--max-connections`). 0: as many as the descriptor limit
/// allows.
pub const MAX_CONNECTIONS: u32 = 0;

/// Connections at a time from one source address (`--max-connections-per-address`). 0: no limit,
/// since whole fleets sit behind one carrier-grade NAT.
pub const MAX_CONNECTIONS_PER_ADDRESS: u32 = 0;

/// New connections per second and shard (`--connect-rate`). 0: no limit, for the cap per turn
/// already protects the connected clients.
pub const CONNECT_RATE: u32 = 0;

/// Time from accept to a complete CONNECT packet (`--connect-timeout`). Long enough for a device
/// on a bad radio link (a few retransmissions), short enough that silent sockets do not pile up.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may wait to write without any progress before it is closed
/// (`--send-timeout`). A peer that reads nothing for a minute is gone or stuck.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the broker reads on, and throws away, after it has sent the last packet and closed its
/// half (`--linger`). Closing with unread data would make the kernel send a reset, which can
/// destroy the DISCONNECT on its way.
pub const LINGER: Duration = Duration::from_secs(2);

/// Bytes waiting to be written to one connection (`--max-outbox-bytes`). Beyond it QoS 0 messages
/// are dropped and others wait in the session's queue. A client that takes nothing at all for
/// `--send-timeout` is disconnected (0x97 Quota exceeded); one that takes a little is not. At least
/// one packet of the largest size has to fit.
pub const MAX_OUTBOX_BYTES: u64 = MIB;

/// Bytes that have arrived and are not handled, over all connections of a shard
/// (`--max-unread-bytes`). Without it, connections that each send most of a large packet could
/// fill the memory. Those count, too, that a client has sent before it was made to wait, for another
/// shard, the store, or its own taking of what it is sent.
pub const MAX_UNREAD_BYTES: u64 = 256 * MIB;

/// The bytes read from a connection in one go once half of `--max-unread-bytes` is held, instead of
/// 64 KiB, so that it takes very many that are made to wait until one of them is disconnected for it:
/// 34,816 on one shard.
pub const READ_BYTES_WHEN_SHORT: usize = 4 << 10;

// ---- Shards ----------------------------------------------------------------------------------

/// Shards (`--shards`). The default is one per available core; more than this cannot be named by
/// a set of shards, four machine words.
pub const MAX_SHARDS: usize = 256;

/// Packets handled for one connection before the others have their turn (`--packets-per-turn`).
/// About 100 µs of work at 5 million packets per second.
pub const PACKETS_PER_TURN: u32 = 512;

/// Units of work that one connection may cause before it yields to the others: about 2 ms. A
/// delivery (message times receiver) is one; a single message to more receivers than this is still
/// delivered in one go. Large, for the messages of a turn go to each receiver in one write: with a
/// thousand receivers, an eighth of it made a delivery four times as dear.
pub const WORK_PER_TURN: usize = 65_536;

/// The units of what takes longer than a delivery: a step of matching without a shape, a filter of
/// a SUBSCRIBE, a retained topic looked at.
pub const WORK_OF_A_LOOK: usize = 8;

/// Connections on which messages came in one look at the ring from which on the turn looks again before
/// it answers: the ring names some 20 at a time, and it is likely that it has more.
pub const TALKS_OF_A_BUSY_LOOK: u32 = 16;

/// How long a turn goes on looking; whoever came first waits this long for its answer.
pub const GATHER_FOR: Duration = Duration::from_micros(500);

/// Bytes that a turn encodes before it is ended early, so that they stay in the processor's caches
/// and outboxes do not fill up while their sockets are empty.
pub const ENCODED_PER_TURN: usize = 256 << 10;

/// Messages on their way from one shard to another (`--mesh-credit`, per ordered pair of shards).
/// Publishers that feed the pair are not read from after a message once three quarters are used up,
/// and when all are, before one is taken. What nobody can be made to wait with is then dropped and
/// counted, if it has QoS 0.
pub const MESH_CREDIT: u32 = 8_192;

/// Wildcard shapes (which levels of a filter are wildcards) that are routed precisely
/// (`--max-filter-shapes`). Every shape in use costs one hash and one look-up per publish; a shard
/// with filters beyond the cap gets every message.
pub const MAX_FILTER_SHAPES: usize = 64;

/// Levels, `#` not counted, that a filter with a wildcard may have. A filter beyond it could not be
/// found by hash; it is refused (0x8F Topic Filter invalid, before MQTT 5 0x80).
pub const MAX_WILDCARD_LEVELS: usize = 32;

/// Filters of one shard that came when all shapes were taken (`--max-unshaped-filters`). They are
/// matched level by level: each level of each of them may be a step of every publish, about 25 ns,
/// so this many cost up to 3 ms. What comes beyond it is refused (0x97 Quota exceeded).
pub const MAX_UNSHAPED_FILTERS: usize = 4_096;

/// Those of one session, so that one client cannot take all of them.
pub const MAX_UNSHAPED_FILTERS_PER_SESSION: u16 = 64;

/// Time to tell the clients and flush after SIGTERM (`--shutdown-timeout`). Service managers kill
/// after 30 to 90 s, container runtimes after 10.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

// ---- Protocol --------------------------------------------------------------------------------

/// The largest packet of the protocol, in bytes: a fixed header of one byte, a length of four, and
/// 268,435,455 bytes behind it.
pub const PACKET_SIZE_CEILING: u32 = 268_435_455 + 5;

/// Size of the largest packet that a client may send, in bytes, all of it counted
/// (`--max-packet-size`). Announced to MQTT 5 clients.
pub const MAX_PACKET_SIZE: u32 = MIB as u32;

/// QoS 1 and 2 messages that an MQTT 5 client may have unacknowledged (`--receive-maximum`,
/// announced as Receive Maximum). More of QoS 2 end the connection. A message of QoS 1 is over when
/// its PUBACK is in the outbox, so that [`MAX_OUTBOX_BYTES`] bounds those that wait there for the store.
pub const RECEIVE_MAXIMUM: u16 = 100;

/// Characters of the client id of an MQTT 3.1 client, by that specification
/// (`--allow-long-client-ids` lifts it).
pub const CLIENT_ID_3_1: usize = 23;

/// QoS 2 messages of a 3.x client that await its PUBREL (`--max-awaiting-rel`); those clients
/// cannot be told a Receive Maximum.
pub const MAX_AWAITING_REL: u16 = 100;

/// QoS 1 and 2 messages sent to one client and not acknowledged (`--max-inflight`). An MQTT 5
/// client's own Receive Maximum may lower it.
pub const MAX_INFLIGHT: u16 = 32;

/// Topic aliases that an MQTT 5 client may use (`--topic-alias-maximum`). Each holds one topic
/// name for the time of the connection.
pub const TOPIC_ALIAS_MAXIMUM: u16 = 32;

/// Topic aliases that the broker uses towards an MQTT 5 client, if that client allows as many
/// (`--outbound-topic-alias-maximum`).
pub const OUTBOUND_TOPIC_ALIAS_MAXIMUM: u16 = 32;

/// The highest QoS that clients may publish with (`--max-qos`).
pub const MAX_QOS: u8 = 2;

/// Levels of a topic name or filter (`--max-topic-levels`). 65,535 bytes could be 65,536 levels,
/// and the work of matching grows with them.
pub const MAX_TOPIC_LEVELS: usize = 128;

/// Topic filters of one SUBSCRIBE that are looked at; the others are refused (0x97 Quota exceeded).
/// A packet of 1 MiB has room for 200,000, which would be a fifth of a second of work at once.
pub const FILTERS_PER_SUBSCRIBE: usize = 1_024;

/// Subscriptions of one session (`--max-subscriptions`). Devices have a handful, back ends some
/// hundreds; this leaves room for a gateway that subscribes for thousands of devices. Each takes
/// about 160 bytes beside its text.
pub const MAX_SUBSCRIPTIONS: usize = 10_000;

/// Bytes of the topic filters that one session subscribes to (`--max-subscription-bytes`). With the
/// number of subscriptions this bounds what one client can take at 2.6 MB; 10,000 filters have
/// room for 100 bytes each. What comes beyond it is refused (0x97 Quota exceeded).
pub const MAX_SUBSCRIPTION_BYTES: u64 = MIB;

// ---- Sessions and queues ---------------------------------------------------------------------

/// How long a session may outlive its connection (`--max-session-expiry`), in seconds. Lowers what
/// MQTT 5 clients ask for; 3.x sessions with CleanSession 0 get exactly this.
pub const MAX_SESSION_EXPIRY: u32 = 2 * 60 * 60;

/// Sessions in the whole broker, connected or not (`--max-sessions`). Any client can leave sessions
/// behind under as many client identifiers as it makes up. One with a subscription of its own takes
/// about 400 bytes, so this many take 1.6 GB. A CONNECT that would make one more is refused (0x97
/// Quota exceeded, before MQTT 5 return code 3).
pub const MAX_SESSIONS: u64 = 4_000_000;

/// Messages that wait in one session for the client to return or for room in the in-flight window
/// (`--max-queued-messages`).
pub const MAX_QUEUED_MESSAGES: usize = 1_000;

/// Bytes (topics, properties and payloads) of the messages waiting in one session
/// (`--max-queued-bytes`). At least one packet of the largest size has to fit.
pub const MAX_QUEUED_BYTES: u64 = 16 * MIB;

/// Bytes of the messages waiting in all sessions of the broker (`--max-queued-total-bytes`); each
/// shard has its share. A message counts once for every session that it waits in, although these
/// share one copy. Without it, queues could grow with the number of sessions.
pub const MAX_QUEUED_TOTAL_BYTES: u64 = GIB;

// ---- Durability ------------------------------------------------------------------------------

/// Bytes that shards have given to the store and that are not kept yet
/// (`--max-store-backlog-bytes`): about a second of what a disk takes. Publishers of what must be
/// kept wait beyond it.
pub const MAX_STORE_BACKLOG_BYTES: u64 = 64 * MIB;

/// Messages of one session's queue that are in memory beside the store, while its client is
/// connected (`--max-queued-in-memory`), and those read from it at once: two windows of
/// [`MAX_INFLIGHT`].
pub const QUEUED_IN_MEMORY: usize = 64;

/// Bytes of the messages waiting in all sessions, kept in the store (`--max-stored-queue-bytes`).
/// Room for a million sessions with a hundred messages of some hundred bytes each.
pub const MAX_STORED_QUEUE_BYTES: u64 = 64 * GIB;

// ---- Retained messages -----------------------------------------------------------------------

/// Retained messages in the whole broker (`--max-retained-messages`).
pub const MAX_RETAINED_MESSAGES: u64 = 1_000_000;

/// Bytes (topics, properties and payloads) of the retained messages in the whole broker
/// (`--max-retained-bytes`).
pub const MAX_RETAINED_BYTES: u64 = GIB;

/// Retained messages in one answer to a SUBSCRIBE; the next batch follows when the subscriber's
/// outbox has drained.
pub const RETAINED_BATCH: usize = 64;

/// Retained topics looked at for expired messages whenever a shard looks at its clock, a few times
/// a second.
pub const RETAINED_SWEPT: usize = 256;

/// Retained topics looked at for one batch before the shard does something else; a filter such as
/// `+/+/x` can pass over many topics without a match.
pub const RETAINED_VISITS: usize = 1_024;

// ---- Monitoring and log ----------------------------------------------------------------------

/// Time between two rounds of `$SYS` messages (`--sys-interval`). 0 is off.
pub const SYS_INTERVAL: Duration = Duration::from_secs(10);

/// Warnings that a shard logs per second; others are counted (`log_lines_suppressed`). A million
/// clients that fail in the same way must not fill the disk.
pub const WARNINGS_PER_SECOND: u32 = 5;

/// Bytes of a node name (`--node-name`), which is one level of the presence topics.
pub const MAX_NODE_NAME_BYTES: usize = 128;

// ---- Sizing ----------------------------------------------------------------------------------

/// User memory of an idle connection with one subscription of its own, in bytes: task, op slot and
/// descriptor 450, connection and session 200, timer 16, subscription and route 160 (with 6 to
/// spare). The budget that the broker is held to.
pub const USER_BYTES_PER_CONNECTION: u64 = 832;

/// Kernel memory of an established idle connection, in bytes, measured on Linux 6.18: tcp_sock
/// 2,368, inode 832, file 192, dentry 192, security 56.
pub const KERNEL_BYTES_PER_SOCKET: u64 = 3_640;

/// Kernel memory of the armed poll that waits for a connection's data, in bytes, measured on
/// Linux 6.18.
pub const KERNEL_BYTES_PER_POLL: u64 = 256;

const _: () = {
    let largest_packet = MAX_PACKET_SIZE as u64;
    assert!(MAX_PACKET_SIZE <= PACKET_SIZE_CEILING);
    assert!(MAX_OUTBOX_BYTES >= largest_packet, "a packet that fits no outbox cannot be delivered");
    assert!(MAX_QUEUED_BYTES >= largest_packet, "a packet that fits no queue cannot be kept");
    assert!(MAX_QUEUED_TOTAL_BYTES >= MAX_QUEUED_BYTES, "one full queue fits");
    assert!(MAX_STORED_QUEUE_BYTES >= MAX_QUEUED_TOTAL_BYTES, "a store keeps more than memory");
    assert!(MAX_SUBSCRIPTION_BYTES >= 65_535, "the longest filter fits");
    assert!(MAX_RETAINED_BYTES >= largest_packet, "a packet that fits no store cannot be retained");
    assert!(RECEIVE_MAXIMUM > 0 && MAX_AWAITING_REL > 0 && MAX_INFLIGHT > 0);
    assert!(RECEIVE_MAXIMUM == MAX_AWAITING_REL, "both bound the same table");
    assert!(MAX_QUEUED_MESSAGES >= MAX_INFLIGHT as usize, "the queue refills the window");
    assert!(MAX_QOS <= 2);
    assert!(MAX_UNREAD_BYTES >= largest_packet, "a packet that is never read cannot be handled");
    assert!(WORK_PER_TURN >= PACKETS_PER_TURN as usize, "one receiver each is within budget");
    assert!(
        FILTERS_PER_SUBSCRIBE * WORK_OF_A_LOOK <= WORK_PER_TURN,
        "one SUBSCRIBE is no more than a turn's work"
    );
    assert!(RETAINED_VISITS >= RETAINED_BATCH);
    assert!(RETAINED_BATCH < MESH_CREDIT as usize, "one answer must not use up a pair's credit");
    assert!(CONNECT_TIMEOUT.as_secs() > LINGER.as_secs());
};
