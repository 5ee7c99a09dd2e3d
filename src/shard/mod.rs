//! The reactor: one thread with its own event loop, descriptor table, listeners and broker core.
//!
//! A turn of the loop runs the tasks whose sockets are ready, and each hands the bytes it read to
//! the broker core at once. The loop's root future runs last: it passes mail on to other shards,
//! takes theirs in, and writes every outbox that has something, in this order. A client can act on
//! an acknowledgement only after the message that it is for is in line on every other shard.

mod accept;
pub mod capacity;
mod connection;
mod departure;
mod driver;
mod durable;
mod flush;
mod gathering;
mod regulars;
mod renewal;
mod server;
mod settings;
mod slice;
mod stalls;
mod trim;
mod turn;

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::Waker,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub use driver::DriverKind;
pub use server::{Server, StartError};
pub use stalls::{Stalled, Stalls};
pub use trim::{Shrink, Trim};

use departure::Handover;
use flush::Writer;
use gathering::Gathering;
use regulars::Regulars;
use renewal::Renewal;

use crate::{
    broker::{Broker, ConnectionKey, Now, ShardMessage},
    cli::Settings,
    limits,
    mesh::Endpoint,
    record::Outcome,
    stats::ShardStats,
    store::StoreHandle,
    transport::{Listener, Socket},
};

/// The bytes read from a connection in one go.
const READ_BUFFER: usize = 64 * 1024;

/// What shards and the control plane send to a shard.
pub enum Envelope {
    /// Mail from one broker core to another.
    Mail(ShardMessage),
    /// A connection whose home this shard is.
    Connection(Box<Arrival>),
    /// The store has done something.
    Store(Outcome),
    /// Stop: say goodbye, and end when everybody is gone, or this long from now.
    Drain(Duration),
    /// Most connections of the broker have gone for good: do this for their memory.
    Shrink(Shrink),
}

// Mail becomes envelopes where it lies.
const _: () = assert!(size_of::<Envelope>() == size_of::<ShardMessage>());

/// A connection on the way to its home shard.
pub struct Arrival {
    peer: SocketAddr,
    descriptor: Descriptor,
    /// The CONNECT packet, and what came behind it.
    bytes: Vec<u8>,
}

/// A descriptor on its way to another shard.
enum Descriptor {
    /// The shards share one descriptor table.
    Here(OwnedFd),
    /// It travels by [`HandoverSender`], under this token.
    Sent(u64),
}

/// A connection that waits to be taken in, and what has been read of it.
struct Newcomer {
    socket: Socket,
    peer: SocketAddr,
    bytes: Vec<u8>,
}

/// One shard: what its tasks share.
pub(crate) struct Shard {
    settings: Arc<Settings>,
    broker: RefCell<Broker>,
    endpoint: Endpoint<Envelope>,
    /// Readable when the endpoint's mailbox has something for a shard that sleeps.
    wake: Socket,
    /// The store, if there is one.
    store: OnceCell<StoreHandle>,
    handover: Option<Handover>,
    stats: Arc<ShardStats>,
    all_stats: Vec<Arc<ShardStats>>,
    addresses: Option<Arc<AddressCounts>>,
    listeners: RefCell<Vec<Rc<Listener>>>,
    reads_since_accept: Cell<u32>,
    newcomers: RefCell<VecDeque<Newcomer>>,
    /// Connections that wait together, and are heard first while there is much to read.
    regulars: RefCell<Regulars>,
    gathering: RefCell<Gathering>,
    renewal: Renewal,
    /// The connections that this shard's descriptor table holds at the most.
    max_open: u64,
    sockets: RefCell<Vec<Slot>>,
    /// How often a descriptor was noted.
    uses: Cell<u32>,
    /// What is read is put here. Empty until something is.
    buffer: RefCell<Box<[u8]>>,
    /// None where there is no io_uring with deferred task work, or the kernel refuses this one.
    writer: RefCell<Option<Writer>>,
    /// The bytes of packets not handled yet, by connection, and how many they are.
    unread: RefCell<HashMap<u32, Vec<u8>>>,
    unread_total: Cell<usize>,
    /// The second in which a warning was logged last, and how many were.
    warnings: Cell<(u64, u32)>,
    /// Tasks of connections that are not read from.
    paused: RefCell<HashMap<u32, Waker>>,
    /// Tasks that go on in the next turn.
    next_turn: RefCell<Vec<Waker>>,
    /// Connections whose writer task could not be made for want of a descriptor.
    unwritten: RefCell<Vec<ConnectionKey>>,
    outgoing: RefCell<Vec<Vec<Envelope>>>,
    /// The credit of other shards that is used up by what came from them in this turn.
    owed: RefCell<Vec<u32>>,
    root: RefCell<Option<Waker>>,
    asleep: Cell<bool>,
    now: Cell<Now>,
    /// When time is let pass next.
    next_tick: Cell<u64>,
    /// Whether the shard has stood still and reads what has come since.
    catching_up: Cell<bool>,
    clock: Clock,
    draining: Cell<bool>,
    drain_until: Cell<Option<Instant>>,
}

/// The descriptor of a connection, and the number of this use of the slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slot {
    descriptor: Option<RawDescriptor>,
    use_number: u32,
}

/// A descriptor number that is not -1, so that `Option` costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RawDescriptor(std::num::NonZeroI32);

impl RawDescriptor {
    fn new(descriptor: RawFd) -> Option<Self> {
        std::num::NonZeroI32::new(descriptor.wrapping_add(1)).map(Self)
    }

    /// # Safety
    /// The descriptor must be open for as long as the result is used.
    unsafe fn borrow<'a>(self) -> BorrowedFd<'a> {
        // SAFETY: as the caller promises.
        unsafe { BorrowedFd::borrow_raw(self.0.get() - 1) }
    }
}

/// The clocks of a shard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now, but not at 0, which stands for "never" in some places.
    pub fn new() -> Self {
        let now = Instant::now();
        Self { start: now.checked_sub(Duration::from_secs(1)).unwrap_or(now) }
    }

    /// The present.
    pub fn now(self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { monotonic: self.start.elapsed().as_millis() as u64, unix: unix.as_millis() as u64 }
    }
}

/// The open connections by source address, over all shards; only kept if they are capped.
#[derive(Debug)]
pub(crate) struct AddressCounts {
    counts: Mutex<HashMap<IpAddr, u32>>,
    max: u32,
}

impl AddressCounts {
    /// Allows `max` connections from each address.
    pub fn new(max: u32) -> Self {
        Self { counts: Mutex::default(), max }
    }

    /// Counts one more, unless that would be too many.
    fn admit(&self, address: IpAddr) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        let admitted = *count < self.max;
        *count += u32::from(admitted);
        admitted
    }

    /// Counts one less.
    fn release(&self, address: IpAddr) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

impl Shard {
    /// The present, as of the start of the turn.
    fn now(&self) -> Now {
        self.now.get()
    }

    /// Something is about to happen: the turn has begun, and is to be ended by the root future.
    fn touch(&self) {
        if self.asleep.replace(false) {
            self.endpoint.awake();
            self.now.set(self.clock.now());
        }
        if let Some(root) = &*self.root.borrow() {
            root.wake_by_ref();
        }
    }

    /// Whether a warning may be logged, for there are not too many of them; it is counted if not.
    fn may_warn(&self) -> bool {
        let second = self.now().monotonic / 1000;
        let (last, count) = self.warnings.get();
        let count = if last == second { count + 1 } else { 1 };
        self.warnings.set((second, count));
        let may = count <= limits::WARNINGS_PER_SECOND;
        self.stats.log_lines_suppressed.add((!may).into());
        may
    }

    /// Notes a connection's descriptor, for writing. Returns the number of this use.
    fn register(&self, key: ConnectionKey, descriptor: BorrowedFd<'_>) -> u32 {
        use std::os::fd::AsRawFd;
        let mut sockets = self.sockets.borrow_mut();
        let at = key.0 as usize;
        if sockets.len() <= at {
            sockets.resize(at + 1, Slot::default());
        }
        let Some(slot) = sockets.get_mut(at) else { return 0 };
        slot.descriptor = RawDescriptor::new(descriptor.as_raw_fd());
        self.uses.set(self.uses.get().wrapping_add(1));
        slot.use_number = self.uses.get();
        slot.use_number
    }

    /// Forgets a connection's descriptor, before it is closed.
    fn unregister(&self, key: ConnectionKey) {
        if let Some(slot) = self.sockets.borrow_mut().get_mut(key.0 as usize) {
            slot.descriptor = None;
        }
        self.regulars.borrow_mut().forget(key);
    }

    /// The descriptor of a connection that is open, and the number of this use of its slot.
    fn descriptor(&self, key: ConnectionKey) -> Option<(BorrowedFd<'_>, u32)> {
        let slot = *self.sockets.borrow().get(key.0 as usize)?;
        // SAFETY: a connection's task unregisters its descriptor before it closes it, on this
        // thread, and no caller keeps the result beyond its own turn.
        Some((unsafe { slot.descriptor?.borrow() }, slot.use_number))
    }

    /// Does what is asked of it when a fleet has gone.
    fn shrink(&self, shrink: Shrink) {
        match shrink {
            Shrink::LetGo => self.let_go(),
            Shrink::Renew => {
                let is_empty =
                    self.broker.borrow().connections() == 0 && self.newcomers.borrow().is_empty();
                if is_empty && !self.draining.get() {
                    self.renewal.want();
                }
            }
        }
    }

    /// Lets go of what connections that have gone have left.
    fn let_go(&self) {
        self.broker.borrow_mut().shrink();
        let mut sockets = self.sockets.borrow_mut();
        let last = sockets.iter().rposition(|slot| slot.descriptor.is_some());
        sockets.truncate(last.map_or(0, |last| last + 1));
        sockets.shrink_to_fit();
        self.unread.borrow_mut().shrink_to_fit();
        self.paused.borrow_mut().shrink_to_fit();
        self.regulars.borrow_mut().shrink();
        self.next_turn.borrow_mut().shrink_to_fit();
        self.unwritten.borrow_mut().shrink_to_fit();
        self.newcomers.borrow_mut().shrink_to_fit();
        if let Some(writer) = &mut *self.writer.borrow_mut() {
            writer.shrink();
        }
        // In use if another shard's mail has come just before bytes that were read.
        if let Ok(mut buffer) = self.buffer.try_borrow_mut() {
            *buffer = Box::default();
        }
        trim::ready_to_give_back();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn connections_of_one_address_are_capped_and_given_back() {
        let counts = AddressCounts::new(2);
        let (a, b) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        assert!(counts.admit(a) && counts.admit(a) && counts.admit(b));
        assert!(!counts.admit(a));
        counts.release(a);
        assert!(counts.admit(a));
        counts.release(b);
        assert_eq!(counts.counts.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_slot_takes_eight_bytes() {
        assert_eq!(size_of::<Slot>(), 8);
    }
}
