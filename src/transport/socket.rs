//! A stream socket that waits on the ring and holds nothing while it waits.

use std::{
    io::{self, IoSlice},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
        unix,
    },
};

use monoio::net::UnixStream;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

/// A descriptor that can be waited for: a TCP connection, a listener, or an eventfd.
///
/// It waits with a poll operation on the ring (256 bytes of kernel memory, where a pending receive
/// takes 868), and needs no buffer until there is something to read. Reading and writing are
/// direct system calls that never block: they are made only when the ring, or the end of a turn,
/// says that it is time.
pub struct Socket {
    /// Of monoio's types the one that is a descriptor and nothing else; its TCP stream keeps 72
    /// bytes of addresses for each connection. Only `readable` and `writable` are used of it,
    /// which know nothing of the socket's kind.
    stream: UnixStream,
}

impl Socket {
    /// Takes a descriptor, which must be non-blocking, into the present thread's event loop.
    ///
    /// # Errors
    /// When the epoll driver cannot watch it.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let stream = unix::net::UnixStream::from(descriptor);
        Ok(Self { stream: UnixStream::from_std(stream)? })
    }

    /// Waits until there is something to read, or the other side has gone.
    ///
    /// # Errors
    /// When the ring refuses to wait.
    pub fn readable(&self) -> impl Future<Output = io::Result<()>> + '_ {
        self.stream.readable(false)
    }

    /// Waits until something can be written, or the connection is shut down.
    ///
    /// # Errors
    /// When the ring refuses to wait.
    pub fn writable(&self) -> impl Future<Output = io::Result<()>> + '_ {
        self.stream.writable(false)
    }

    /// Reads what is there; 0 at the end of the stream.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is nothing, and what the connection died of.
    pub fn receive(descriptor: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        let (received, _) = rustix::net::recv(descriptor, buffer, RecvFlags::DONTWAIT)?;
        Ok(received)
    }

    /// Writes as much of the slices as the socket takes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it takes nothing now, and what the connection died of.
    pub fn send(descriptor: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match slices {
            [one] => rustix::net::send(descriptor, one, flags)?,
            several => {
                let mut nothing = SendAncillaryBuffer::default();
                rustix::net::sendmsg(descriptor, several, &mut nothing, flags)?
            }
        };
        Ok(sent)
    }

    /// Ends the stream towards the client.
    pub fn shut_down_writing(descriptor: BorrowedFd<'_>) {
        // Fails only if the connection is gone, which is what is wanted.
        let _ = rustix::net::shutdown(descriptor, Shutdown::Write);
    }

    /// Ends the connection in both directions; whoever waits for it is woken.
    pub fn shut_down(descriptor: BorrowedFd<'_>) {
        let _ = rustix::net::shutdown(descriptor, Shutdown::Both);
    }

    /// Closes the descriptor at once. Nothing may be waiting for the socket.
    ///
    /// Dropped, it would be closed by an operation of the ring, and monoio asks the ring to cancel
    /// an operation whose result nobody waits for. To find that one, the kernel walks one of the 256
    /// lists of waiting operations that a ring has at the most: a connection in 256.
    pub fn close(self) {
        // SAFETY: the stream has given the descriptor away, and nobody else has it.
        drop(unsafe { OwnedFd::from_raw_fd(self.stream.into_raw_fd()) });
    }

    /// A second descriptor for the same socket, for another task to wait on.
    ///
    /// # Errors
    /// When the descriptor table is full.
    pub fn duplicate(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        Self::new(rustix::io::fcntl_dupfd_cloexec(descriptor, 0)?)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and is borrowed for as long as the result lives;
        // monoio closes it only when the stream is dropped.
        unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }
    }
}
