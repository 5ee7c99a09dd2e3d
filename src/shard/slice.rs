//! Short turns on the processor, for shards that share one.

use std::{io, time::Duration};

/// How long a shard computes at a time while others wait for its core. By itself the kernel takes 1.4 ms
/// with two cores (`sched_getattr`), and a message that crosses shards waits for several such turns. A
/// thread with shorter ones also comes before those with longer ones when it wakes up.
const SLICE: Duration = Duration::from_micros(500);
const THIS_THREAD: libc::pid_t = 0;

/// Asks the scheduler to take turns often with the present thread. With as many shards as cores this
/// costs some percent and gains nothing; where a descriptor limit asks for many more, neighbours of a
/// reconnect storm wait a fifth less.
///
/// Linux 6.12 and later heed it, for threads of the usual policy; earlier ones take no notice.
///
/// # Errors
/// When the kernel refuses, as in a container that blocks the call.
pub(super) fn shorten() -> io::Result<()> {
    let mut attributes = attributes()?;
    if attributes.sched_policy != libc::SCHED_OTHER as u32 {
        // Whoever has chosen another one knows why.
        return Ok(());
    }
    attributes.sched_runtime = SLICE.as_nanos() as u64;
    // SAFETY: the kernel reads as many bytes as the attributes say that they have.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How the present thread is scheduled.
fn attributes() -> io::Result<libc::sched_attr> {
    let size = size_of::<libc::sched_attr>() as u32;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let to = &raw mut attributes;
    // SAFETY: the kernel writes `size` bytes at the most.
    match unsafe { libc::syscall(libc::SYS_sched_getattr, THIS_THREAD, to, size, 0) } {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_thread_with_short_turns_keeps_everything_else() {
        let thread = std::thread::spawn(|| {
            // SAFETY: it takes numbers.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 3) };
            let Ok(before) = attributes() else { return None };
            shorten().ok()?;
            let after = attributes().unwrap();
            assert_eq!(after.sched_policy, before.sched_policy);
            assert_eq!((after.sched_nice, before.sched_nice), (3, 3));
            Some((before.sched_runtime, after.sched_runtime))
        });
        match thread.join().unwrap() {
            None => eprintln!("not tested: the kernel refuses it"),
            Some((0, 0)) => eprintln!("not tested: the kernel is older than 6.12"),
            Some((_, after)) => assert_eq!(after, 500_000),
        }
    }
}
