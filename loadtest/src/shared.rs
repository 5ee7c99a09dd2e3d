//! What the threads share: the phase of the run, counters, and wake-ups.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
};

use crossbeam_utils::CachePadded;
use rustix::event::{EventfdFlags, eventfd};

use crate::latency::Live;

/// A count that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it; for the one writer only.
    pub fn add(&self, amount: u64) {
        self.0.store(self.get().wrapping_add(amount), Ordering::Relaxed);
    }

    /// Takes from it; for the one writer only.
    pub fn sub(&self, amount: u64) {
        self.0.store(self.get().wrapping_sub(amount), Ordering::Relaxed);
    }

    /// Sets it; for the one writer only.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one thread.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: Counter,)* }

        /// A reading of the counters, over all threads.
        #[derive(Debug, Clone, Copy, Default)]
        pub struct Counts { $($(#[$doc])* pub $name: u64,)* }

        impl Counts {
            /// Adds a thread's counters.
            pub fn add(&mut self, counters: &Counters) {
                $(self.$name += counters.$name.get();)*
            }

            /// What has been counted since an earlier reading.
            #[must_use]
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.wrapping_sub(earlier.$name),)* }
            }
        }
    };
}

counters! {
    /// 1 as soon as the thread is there.
    prepared,
    /// Connections that are connected and have all that they wanted.
    ready,
    /// Connections that were acknowledged by CONNACK.
    connected_ever,
    /// Clients that gave up.
    gave_up,
    /// Connections that were lost against our will.
    lost,
    /// Connections that were closed on purpose, in churn or storm.
    cut,
    /// Attempts that failed.
    failed_attempts,
    /// Messages sent.
    sent,
    /// Messages sent with QoS 1 or 2.
    sent_acknowledged,
    /// Messages acknowledged: PUBACK or PUBCOMP.
    acknowledged,
    /// Messages received.
    received,
    /// Messages received that are not of this run.
    foreign,
    /// Messages sent more than a millisecond after they were due.
    overruns,
    /// Messages that are due and could not be sent yet.
    owed,
    /// Times that a sender in saturation had to forget messages that never came.
    stalls,
    /// Ping requests sent.
    pings,
    /// Ping requests answered.
    pongs,
    /// Bytes of packets read.
    bytes_received,
    /// Bytes of packets written.
    bytes_sent,
    /// Nanoseconds of processor time.
    cpu,
}

/// The phases of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// The threads get ready.
    Prepare = 0,
    /// Clients connect and subscribe.
    Connect = 1,
    /// Messages are published, from the time in [`Shared::start`] on.
    Run = 2,
    /// Nothing new is published; what is under way may arrive.
    Drain = 3,
    /// Clients say goodbye, and the threads end.
    Close = 4,
}

impl Phase {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Prepare,
            1 => Self::Connect,
            2 => Self::Run,
            3 => Self::Drain,
            _ => Self::Close,
        }
    }
}

/// What all threads share.
pub struct Shared {
    phase: AtomicU8,
    /// When the first message may be due.
    pub start: AtomicU64,
    /// Latencies count of messages due from this time on.
    pub measure_from: AtomicU64,
    /// Latencies count of messages due before this time.
    pub measure_to: AtomicU64,
    /// Counts the times that all connections were cut.
    pub storms: AtomicU32,
    /// One for each thread.
    pub workers: Vec<CachePadded<PerWorker>>,
}

/// What one thread shows the others.
pub struct PerWorker {
    /// Its counters.
    pub counters: Counters,
    /// Its end-to-end latencies.
    pub live: Live,
    /// Deliveries of its messages that other threads have received: source and count.
    mailbox: Mutex<Vec<(u32, u32)>>,
    has_mail: AtomicBool,
    asleep: AtomicBool,
    /// Wakes it.
    pub wake: OwnedFd,
}

impl Shared {
    /// For so many threads.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new(workers: u32) -> io::Result<Self> {
        let mut all = Vec::new();
        for _ in 0..workers {
            all.push(CachePadded::new(PerWorker {
                counters: Counters::default(),
                live: Live::default(),
                mailbox: Mutex::default(),
                has_mail: AtomicBool::new(false),
                asleep: AtomicBool::new(false),
                wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            }));
        }
        Ok(Self {
            phase: AtomicU8::new(Phase::Prepare as u8),
            start: AtomicU64::new(u64::MAX),
            measure_from: AtomicU64::new(u64::MAX),
            measure_to: AtomicU64::new(u64::MAX),
            storms: AtomicU32::new(0),
            workers: all,
        })
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Ordering::Acquire))
    }

    /// Goes on to a phase, and wakes everyone.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
        self.wake_all();
    }

    /// Wakes everyone.
    pub fn wake_all(&self) {
        for worker in &self.workers {
            worker.wake_up();
        }
    }

    /// The sum of all counters.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for worker in &self.workers {
            counts.add(&worker.counters);
        }
        counts
    }

    /// The sum of all live histograms.
    pub fn live(&self) -> Vec<u32> {
        let mut sums = Vec::new();
        for worker in &self.workers {
            worker.live.add_to(&mut sums);
        }
        sums
    }
}

impl PerWorker {
    fn wake_up(&self) {
        // Fails only if it has been woken 2^64 times already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Tells the thread of deliveries of its messages.
    pub fn tell(&self, deliveries: &mut Vec<(u32, u32)>) {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner).append(deliveries);
        self.has_mail.store(true, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.wake_up();
        }
    }

    /// Takes what others have told.
    pub fn take_mail(&self, into: &mut Vec<(u32, u32)>) {
        if self.has_mail.swap(false, Ordering::SeqCst) {
            into.append(&mut self.mailbox.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Says that the thread is about to sleep; false if there is mail, and it must not.
    pub fn prepare_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        let quiet = !self.has_mail.load(Ordering::SeqCst);
        if !quiet {
            self.awake();
        }
        quiet
    }

    /// Says that the thread is awake.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }
}
