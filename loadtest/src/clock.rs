//! The clock that everything is measured with.

use rustix::time::{ClockId, clock_gettime};

/// A millisecond in nanoseconds.
pub const MILLISECOND: u64 = 1_000_000;
/// A second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// Nanoseconds of the machine's monotonic clock, the same for all processes.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * SECOND + now.tv_nsec as u64
}

/// The processor time of the calling thread, in nanoseconds.
pub fn thread_cpu() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}
