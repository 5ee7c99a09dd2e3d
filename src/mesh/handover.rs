//! Descriptors on their way from one thread to another whose descriptor tables have parted.
//!
//! A descriptor travels through a Unix socket pair and what belongs to it through a mailbox; a
//! token ties the two together. The descriptor is sent first, so that whoever finds a token in its
//! mailbox also finds the descriptor.

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    sockopt,
};
use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The send buffer to ask for, in bytes; without CAP_NET_ADMIN the kernel gives at most
/// `net.core.wmem_max`. It doubles what it gives, and a descriptor in flight takes 768 bytes of it.
const SEND_BUFFER: usize = 4 << 20;

/// Space for the control message of one descriptor.
const CONTROL_SPACE: usize = rustix::cmsg_space!(ScmRights(1));

/// Makes the two ends of a way for descriptors to one receiving thread.
///
/// `max_parked` bounds how many descriptors the receiver keeps that arrived before their turn.
///
/// Call it before the descriptor tables part. The ends have the same numbers in every table that is
/// copied later, and are closed in each separately.
///
/// # Errors
///
/// When the socket pair cannot be made, for want of descriptors or memory.
pub fn handover(max_parked: usize) -> io::Result<(HandoverSender, HandoverReceiver)> {
    let (sender, receiver) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    if sockopt::set_socket_send_buffer_size_force(&sender, SEND_BUFFER).is_err() {
        sockopt::set_socket_send_buffer_size(&sender, SEND_BUFFER)?;
    }
    let receiver =
        HandoverReceiver { socket: receiver, parked: HashMap::new(), max_parked, lost: 0 };
    Ok((HandoverSender { socket: Arc::new(sender) }, receiver))
}

/// The end that descriptors are sent from. Clone it for every sending thread.
#[derive(Clone, Debug)]
pub struct HandoverSender {
    socket: Arc<OwnedFd>,
}

impl HandoverSender {
    /// Sends a copy of `fd` to the receiver under `token`; the caller may close its own afterwards.
    /// Never blocks.
    ///
    /// A token must not be used again before it was taken, by any sender.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when too many descriptors are on their way, [`SendError::Io`] for
    /// anything else. Nothing was sent then.
    pub fn send(&self, token: u64, fd: BorrowedFd<'_>) -> Result<(), SendError> {
        let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        let fits = control.push(SendAncillaryMessage::ScmRights(&fds));
        debug_assert!(fits, "CONTROL_SPACE is for one descriptor");
        let token = token.to_ne_bytes();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(&*self.socket, &[IoSlice::new(&token)], &mut control, flags) {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::TOOMANYREFS) => Err(SendError::Full),
            Err(error) => Err(SendError::Io(error.into())),
        }
    }
}

/// Why a descriptor was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The socket's buffer is full, or the kernel holds as many descriptors in flight for this user
    /// as RLIMIT_NOFILE allows. Try again once the receiver has taken some.
    #[error("too many descriptors are on their way to that shard")]
    Full,
    /// Sending failed.
    #[error("cannot send a descriptor: {0}")]
    Io(#[from] io::Error),
}

/// The end that descriptors are taken from.
#[derive(Debug)]
pub struct HandoverReceiver {
    socket: OwnedFd,
    /// By token; `None` when the descriptor table had no room for it.
    parked: HashMap<u64, Option<OwnedFd>>,
    max_parked: usize,
    lost: u64,
}

impl HandoverReceiver {
    /// Takes the descriptor that was sent under `token`. Never blocks.
    ///
    /// Descriptors that are before it in line are parked until they are asked for.
    ///
    /// # Errors
    ///
    /// - `NotFound`: nothing was sent under this token, or it was taken or lost;
    /// - EMFILE: this thread's descriptor table was full when it arrived; it is closed;
    /// - whatever reading the socket may give.
    pub fn take(&mut self, token: u64) -> io::Result<OwnedFd> {
        if let Some(fd) = self.parked.remove(&token) {
            return fd.ok_or_else(|| Errno::MFILE.into());
        }
        while let Some((found, fd)) = self.next()? {
            if found == token {
                return fd.ok_or_else(|| Errno::MFILE.into());
            }
            self.park(found, fd);
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "no descriptor has this token"))
    }

    /// How many descriptors arrived before their turn and wait to be taken.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// How many descriptors were closed because too many were parked already, since the start.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn park(&mut self, token: u64, fd: Option<OwnedFd>) {
        if self.parked.len() < self.max_parked {
            self.parked.insert(token, fd);
        } else {
            self.lost += 1;
        }
    }

    /// The next token in line and its descriptor; `None` when none is in line.
    fn next(&mut self) -> io::Result<Option<(u64, Option<OwnedFd>)>> {
        let mut token = [0; 8];
        let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let read = loop {
            let mut iov = [IoSliceMut::new(&mut token)];
            match recvmsg(&self.socket, &mut iov, &mut control, flags) {
                Err(Errno::INTR) => {}
                read => break read,
            }
        };
        match read {
            Ok(message) if message.bytes == token.len() => {}
            // All senders are gone.
            Ok(_) | Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Ok(Some((u64::from_ne_bytes(token), fd)))
    }
}

#[cfg(test)]
mod tests;
