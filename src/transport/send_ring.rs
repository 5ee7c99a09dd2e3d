//! Writes to many sockets in one system call.

use std::{
    io::{self, IoSlice},
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    ptr,
};

use io_uring::{IoUring, opcode, squeue, types};

/// The writes of one system call at the most.
const ENTRIES: usize = 256;
const FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// A ring of its own for writes that end before the call does: nothing is ever under way on it.
///
/// A shard writes to many sockets at the end of a turn, and for a small write entering the kernel
/// is a good part of the cost. As no write waits (`MSG_DONTWAIT`), all are complete when the call
/// returns, and the buffers are needed no longer than that.
pub struct SendRing {
    /// None once the kernel has refused to take operations from it.
    ring: Option<IoUring>,
    writes: Vec<Write>,
    slices: Vec<libc::iovec>,
    headers: Vec<libc::msghdr>,
    entries: Vec<squeue::Entry>,
    results: Vec<i32>,
}

/// One write: a descriptor, and its part of the batch's slices.
#[derive(Debug, Clone, Copy)]
struct Write {
    descriptor: RawFd,
    first: usize,
    count: usize,
}

/// Writes that are to be made together. Dropped, it makes none of them.
pub struct SendBatch<'ring, 'bytes> {
    ring: &'ring mut SendRing,
    bytes: PhantomData<(BorrowedFd<'bytes>, &'bytes [u8])>,
}

impl SendRing {
    /// The writes that a batch has room for.
    pub const CAPACITY: usize = ENTRIES;

    /// A ring for the present thread, which is the only one that may use it.
    ///
    /// # Errors
    /// When the kernel refuses a ring with deferred task work, which Linux 6.1 has.
    pub fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun();
        Ok(Self {
            ring: Some(builder.build(ENTRIES as u32)?),
            writes: Vec::new(),
            slices: Vec::new(),
            headers: Vec::new(),
            entries: Vec::new(),
            results: Vec::new(),
        })
    }

    /// Whether it can be used. If a submission failed, it cannot any more.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.ring.is_some()
    }

    /// Lets go of the memory of batches; the next one takes some again.
    pub fn shrink(&mut self) {
        self.writes = Vec::new();
        self.slices = Vec::new();
        self.headers = Vec::new();
        self.entries = Vec::new();
        self.results = Vec::new();
    }

    /// An empty batch.
    pub fn batch<'bytes>(&mut self) -> SendBatch<'_, 'bytes> {
        self.writes.clear();
        self.slices.clear();
        SendBatch { ring: self, bytes: PhantomData }
    }

    /// Submits all entries and waits for them. Those that the kernel did not take keep their
    /// result, and the ring is closed.
    fn run(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        // SAFETY: what the entries point to, the headers, the slices and the bytes behind them, is
        // neither changed nor freed before all have completed, for which this function waits, or
        // the ring is closed, which forgets those not taken.
        let pushed = unsafe { ring.submission().push_multiple(&self.entries) };
        let mut left = if pushed.is_ok() { self.entries.len() } else { 0 };
        while left > 0 {
            match ring.submit_and_wait(left) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::error!(%error, "the ring for writes failed; going on without it");
                    self.ring = None;
                    return;
                }
            }
            for completion in ring.completion() {
                left -= 1;
                if let Some(result) = self.results.get_mut(completion.user_data() as usize) {
                    *result = completion.result();
                }
            }
        }
    }
}

impl<'ring, 'bytes> SendBatch<'ring, 'bytes> {
    /// Adds a write of these slices, one behind the other. What is beyond
    /// [`SendRing::CAPACITY`] fails.
    pub fn push(&mut self, descriptor: BorrowedFd<'bytes>, slices: &[IoSlice<'bytes>]) {
        let SendRing { writes, slices: all, .. } = &mut *self.ring;
        let descriptor = descriptor.as_raw_fd();
        writes.push(Write { descriptor, first: all.len(), count: slices.len() });
        all.extend(slices.iter().map(|slice| libc::iovec {
            iov_base: slice.as_ptr().cast_mut().cast(),
            iov_len: slice.len(),
        }));
    }

    /// Makes the writes, each as far as its socket takes it at once. Gives what became of each, in
    /// the order in which they were added: the bytes written, or the error as `send` gives it.
    /// `ECANCELED` is the error of those of which it is not known, when the ring failed.
    pub fn submit(self) -> impl ExactSizeIterator<Item = io::Result<usize>> + use<'ring> {
        let ring = self.ring;
        ring.headers.clear();
        ring.headers.extend(ring.writes.iter().map(|write| header(*write, &ring.slices)));
        ring.entries.clear();
        let of_each = ring.writes.iter().zip(&ring.headers).zip(0..);
        let entries = of_each.map(|((write, header), at)| entry(*write, &ring.slices, header, at));
        ring.entries.extend(entries);
        ring.results.clear();
        ring.results.resize(ring.writes.len(), -libc::ECANCELED);
        ring.run();
        ring.results.iter().map(|&result| match usize::try_from(result) {
            Ok(written) => Ok(written),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        })
    }
}

fn header(write: Write, slices: &[libc::iovec]) -> libc::msghdr {
    let first = slices.get(write.first..).map_or(ptr::null(), <[_]>::as_ptr);
    libc::msghdr {
        msg_name: ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: first.cast_mut(),
        msg_iovlen: write.count,
        msg_control: ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

fn entry(
    write: Write,
    slices: &[libc::iovec],
    header: &libc::msghdr,
    user_data: u64,
) -> squeue::Entry {
    let descriptor = types::Fd(write.descriptor);
    let entry = match slices.get(write.first) {
        // Cheaper than a header for the kernel to read.
        Some(only) if write.count == 1 && u32::try_from(only.iov_len).is_ok() => {
            let send = opcode::Send::new(descriptor, only.iov_base.cast(), only.iov_len as u32);
            send.flags(FLAGS).build()
        }
        _ => opcode::SendMsg::new(descriptor, header).flags(FLAGS as u32).build(),
    };
    entry.user_data(user_data)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::{
        io::Read,
        net::{Shutdown, TcpListener, TcpStream},
        os::fd::AsFd,
    };

    use super::*;

    /// None where io_uring is blocked, or has no deferred task work: then there is nothing to test.
    fn ring() -> Option<SendRing> {
        SendRing::new().inspect_err(|error| eprintln!("not tested: {error}")).ok()
    }

    fn pairs(count: usize) -> Vec<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pair = |_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap().0);
        (0..count).map(pair).collect()
    }

    #[test]
    fn each_socket_gets_its_own_slices_in_order() {
        let Some(mut ring) = ring() else { return };
        let pairs = pairs(SendRing::CAPACITY);
        for round in 0..3_u8 {
            let texts: Vec<[u8; 3]> =
                (0..pairs.len()).map(|n| [round, n as u8, (n >> 8) as u8]).collect();
            let mut batch = ring.batch();
            for ((sender, _), text) in pairs.iter().zip(&texts) {
                let halves = [IoSlice::new(&text[..1]), IoSlice::new(&text[1..])];
                let whole = [IoSlice::new(text)];
                let slices = if text[1] % 2 == 0 { &whole[..] } else { &halves[..] };
                batch.push(sender.as_fd(), slices);
            }
            let results: Vec<usize> = batch.submit().map(Result::unwrap).collect();
            assert_eq!(results, vec![3; pairs.len()]);
            // The second round goes without what the first has made, the third with it.
            if round == 0 {
                ring.shrink();
                assert_eq!((ring.writes.capacity(), ring.entries.capacity()), (0, 0));
            }
            for ((_, receiver), text) in pairs.iter().zip(&texts) {
                let mut got = [0; 3];
                (&mut &*receiver).read_exact(&mut got).unwrap();
                assert_eq!(got, *text);
            }
        }
    }

    #[test]
    fn a_full_socket_and_a_dead_one_hold_nobody_up() {
        let Some(mut ring) = ring() else { return };
        let pairs = pairs(3);
        let much = vec![7; 1 << 20];
        let dead = &pairs[1].0;
        dead.shutdown(Shutdown::Write).unwrap();
        let mut written = 0;
        loop {
            let mut batch = ring.batch();
            batch.push(pairs[0].0.as_fd(), &[IoSlice::new(&much)]);
            batch.push(dead.as_fd(), &[IoSlice::new(b"x")]);
            batch.push(pairs[2].0.as_fd(), &[IoSlice::new(b"y")]);
            let results: Vec<_> = batch.submit().collect();
            assert_eq!(results[1].as_ref().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            assert_eq!(*results[2].as_ref().unwrap(), 1);
            match &results[0] {
                Ok(some) => written += some,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        assert!(written > 0);
        let mut got = vec![0; written];
        (&mut &pairs[0].1).read_exact(&mut got).unwrap();
        assert!(got.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn more_than_fits_fails_and_is_not_written() {
        let Some(mut ring) = ring() else { return };
        let pairs = pairs(1);
        let mut batch = ring.batch();
        for _ in 0..=SendRing::CAPACITY {
            batch.push(pairs[0].0.as_fd(), &[IoSlice::new(b"z")]);
        }
        assert!(batch.submit().all(|result| result.is_err()));
        let mut batch = ring.batch();
        batch.push(pairs[0].0.as_fd(), &[IoSlice::new(b"a")]);
        assert_eq!(batch.submit().map(Result::unwrap).collect::<Vec<_>>(), [1]);
        let mut got = [0; 1];
        (&mut &pairs[0].1).read_exact(&mut got).unwrap();
        assert_eq!(got, *b"a");
    }
}
