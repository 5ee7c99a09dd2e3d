//! What a sleeping shard waits for: an eventfd, or under loom a model of one.

use std::io;

/// Something that one thread waits for and any other thread raises.
///
/// A raise is remembered until it is cleared; raising twice is the same as raising once.
pub(super) trait Signal: Sized {
    /// Makes a signal that is not raised.
    fn new() -> io::Result<Self>;
    /// Wakes whoever waits, now or later. Never blocks.
    fn raise(&self);
    /// Forgets what was raised. Never blocks.
    fn clear(&self);
}

#[cfg(not(loom))]
pub(super) use real::EventFd as Wake;

#[cfg(loom)]
pub(super) use model::Condition as Wake;

#[cfg(not(loom))]
mod real {
    use super::Signal;
    use rustix::event::{EventfdFlags, eventfd};
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    /// A non-blocking eventfd, closed on exec.
    pub(in crate::mesh) struct EventFd(OwnedFd);

    impl Signal for EventFd {
        fn new() -> io::Result<Self> {
            Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
        }

        fn raise(&self) {
            // The only error that a live eventfd can give is a full counter, and then it is raised.
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }

        fn clear(&self) {
            // An error means that nothing was raised.
            let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
        }
    }

    impl AsFd for EventFd {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(loom)]
mod model {
    use super::Signal;
    use loom::sync::{Condvar, Mutex};
    use std::io;

    /// The model of an eventfd: a flag that can be waited for, so that a lost wake-up is a deadlock.
    pub(in crate::mesh) struct Condition {
        raised: Mutex<bool>,
        changed: Condvar,
    }

    impl Signal for Condition {
        fn new() -> io::Result<Self> {
            Ok(Self { raised: Mutex::new(false), changed: Condvar::new() })
        }

        fn raise(&self) {
            if let Ok(mut raised) = self.raised.lock() {
                *raised = true;
                self.changed.notify_one();
            }
        }

        fn clear(&self) {
            if let Ok(mut raised) = self.raised.lock() {
                *raised = false;
            }
        }
    }

    impl Condition {
        /// Blocks until the signal is raised, as a wait for a readable eventfd does.
        pub(in crate::mesh) fn wait(&self) {
            let Ok(mut raised) = self.raised.lock() else { return };
            while !*raised {
                raised = match self.changed.wait(raised) {
                    Ok(raised) => raised,
                    Err(_) => return,
                };
            }
        }
    }
}
