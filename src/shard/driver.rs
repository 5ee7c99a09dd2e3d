//! The event loop's driver: io_uring, or epoll where that is blocked.

use std::{fmt, io, ops::ControlFlow};

use io_uring::IoUring;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use crate::cli::Driver;

/// The entries of the submission queue: what a turn can ask of the kernel in one system call.
const SUBMISSION_ENTRIES: u32 = 256;
/// The entries of the completion queue. More completions than this wait in the kernel.
const COMPLETION_ENTRIES: u32 = 16_384;

/// The driver that the shards run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    /// io_uring; with completions run by the shard's own thread when it asks for them
    /// (`IORING_SETUP_SINGLE_ISSUER` and `IORING_SETUP_DEFER_TASKRUN`, since Linux 6.1), which
    /// takes a third off the cost of a message.
    IoUring {
        /// Whether the kernel has those flags.
        deferred: bool,
    },
    /// epoll.
    Epoll,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring { deferred: true } => "io_uring (single issuer, deferred task work)",
            Self::IoUring { deferred: false } => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

impl DriverKind {
    /// The best driver that works here, or the one asked for.
    ///
    /// # Errors
    /// When io_uring is asked for and the kernel refuses it.
    pub fn choose(wanted: Driver) -> io::Result<Self> {
        if wanted == Driver::Epoll {
            return Ok(Self::Epoll);
        }
        let error = match builder(true).build(8) {
            Ok(_) => return Ok(Self::IoUring { deferred: true }),
            Err(error) => error,
        };
        match builder(false).build(8) {
            Ok(_) => {
                tracing::warn!(
                    "this kernel's io_uring has no deferred task work (Linux 6.1 and later have \
                     it): messages cost about half as much again"
                );
                Ok(Self::IoUring { deferred: false })
            }
            Err(_) if wanted == Driver::Auto => {
                tracing::warn!(
                    "io_uring is not to be had here ({error}): running on epoll. Containers often \
                     block it by their seccomp profile; the sysctl kernel.io_uring_disabled does too"
                );
                Ok(Self::Epoll)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether what comes after one event loop can go on with what was made for it: epoll has a list
    /// of its own of all sockets.
    pub fn is_renewable(self) -> bool {
        self != Self::Epoll
    }

    /// Runs `life` on an event loop of this kind, in the present thread. If it goes on, and the kind
    /// [allows it](Self::is_renewable), then on a new one; the old one is closed when that is there.
    ///
    /// # Errors
    /// When the first event loop cannot be made.
    pub fn run<T>(self, mut life: impl AsyncFnMut() -> ControlFlow<T>) -> io::Result<T> {
        match self {
            Self::IoUring { deferred } => {
                let build = || {
                    RuntimeBuilder::<IoUringDriver>::new()
                        .uring_builder(builder(deferred))
                        .with_entries(SUBMISSION_ENTRIES)
                        .enable_timer()
                        .build()
                };
                let mut runtime = build()?;
                loop {
                    if let ControlFlow::Break(value) = runtime.block_on(life()) {
                        return Ok(value);
                    }
                    match build() {
                        Ok(new) => runtime = new,
                        Err(error) => tracing::warn!(
                            "the event loop could not be made anew ({error}): going on with the \
                             old one, which keeps its memory"
                        ),
                    }
                }
            }
            Self::Epoll => {
                let mut runtime = RuntimeBuilder::<LegacyDriver>::new()
                    .with_entries(SUBMISSION_ENTRIES)
                    .enable_timer()
                    .build()?;
                loop {
                    if let ControlFlow::Break(value) = runtime.block_on(life()) {
                        return Ok(value);
                    }
                }
            }
        }
    }
}

fn builder(deferred: bool) -> io_uring::Builder {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(COMPLETION_ENTRIES);
    if deferred {
        builder.setup_single_issuer().setup_defer_taskrun();
    }
    builder
}
