//! A descriptor table of one's own for a thread.

use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::io;

/// Gives the calling thread a copy of the process's descriptor table, which it then has to itself.
///
/// Every descriptor that is open now keeps its number in the copy, and is closed in each table
/// separately. Descriptors opened from now on exist for this thread alone: accept and close contend
/// with no other thread, and RLIMIT_NOFILE counts for this thread by itself. Threads that this
/// thread spawns share its table.
///
/// Call it at the start of a shard's thread, before it opens anything. From then on nothing that
/// owns or borrows a descriptor opened later may cross to a thread with another table, for there
/// the number means nothing or some other file. To pass a descriptor on, use
/// [`handover()`](super::handover()).
///
/// # Errors
///
/// When the kernel is out of memory.
pub fn unshare_descriptor_table() -> io::Result<()> {
    // SAFETY: Every descriptor open at this moment has the same number and meaning in the copy, so
    // what the threads own or borrow already stays valid. Later ones stay with their table, as the
    // documentation above asks of the caller: a shard's sockets never leave its thread but through
    // `handover`, which makes a new descriptor in the receiver's table.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }.map_err(io::Error::from)
}
