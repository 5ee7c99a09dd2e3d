//! Listening TCP sockets. What accepted sockets inherit is set here, once.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::SocketFlags,
};
use socket2::{Domain, Protocol, SockRef, Type};

use super::Socket;

/// TCP keep-alive probes.
#[derive(Debug, Clone, Copy)]
pub struct TcpKeepAlive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes; the kernel's choice if `None`.
    pub interval: Option<Duration>,
    /// Probes without an answer before the connection counts as dead; the kernel's choice if
    /// `None`.
    pub probes: Option<u32>,
}

/// The options of a listener and of the sockets that it accepts, which inherit them.
#[derive(Debug, Clone, Default)]
pub struct ListenerOptions {
    /// The connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
    pub backlog: i32,
    /// `TCP_NODELAY`.
    pub no_delay: bool,
    /// `SO_RCVBUF`, in bytes.
    pub receive_buffer: Option<usize>,
    /// `SO_SNDBUF`, in bytes.
    pub send_buffer: Option<usize>,
    /// TCP keep-alive; off if `None`.
    pub keep_alive: Option<TcpKeepAlive>,
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout: Option<Duration>,
}

/// A listening socket of one shard.
pub struct Listener {
    socket: Socket,
}

/// What came of an attempt to accept.
pub enum Accepted {
    /// A connection, and where it comes from.
    Connection(OwnedFd, SocketAddr),
    /// None is waiting.
    Nothing,
    /// No descriptor or no memory is left for one; those that wait go on waiting.
    Exhausted(io::Error),
    /// The listener was shut down.
    Closed,
}

impl Listener {
    /// Binds `address` without listening, which reserves the port for the shards' listeners and
    /// settles which one port 0 means.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn reserve(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
        let socket = bind(address)?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok((socket.into(), bound))
    }

    /// Listens, beside the listeners of other shards: the kernel deals connections out by the hash
    /// of their addresses.
    ///
    /// # Errors
    /// When the address cannot be bound or an option cannot be set.
    pub fn open(address: SocketAddr, options: &ListenerOptions) -> io::Result<Self> {
        let socket = bind(address)?;
        socket.set_tcp_nodelay(options.no_delay)?;
        if let Some(bytes) = options.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = options.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(probing) = options.keep_alive {
            let mut keep_alive = socket2::TcpKeepalive::new().with_time(probing.idle);
            if let Some(interval) = probing.interval {
                keep_alive = keep_alive.with_interval(interval);
            }
            if let Some(probes) = probing.probes {
                keep_alive = keep_alive.with_retries(probes);
            }
            socket.set_tcp_keepalive(&keep_alive)?;
        }
        if options.user_timeout.is_some() {
            socket.set_tcp_user_timeout(options.user_timeout)?;
        }
        socket.listen(options.backlog)?;
        Ok(Self { socket: Socket::new(socket.into())? })
    }

    /// Waits until a connection is waiting.
    ///
    /// # Errors
    /// When the ring refuses to wait.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Whether a connection is waiting, as far as is known. To ask costs a fraction of what it costs to
    /// find out by [`accept`](Self::accept), for which the kernel makes a socket first.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut polled, Some(&at_once)) != Ok(0)
    }

    /// Accepts one connection, if one is waiting.
    pub fn accept(&self) -> Accepted {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::acceptfrom_with(&self.socket, flags) {
            Ok((socket, peer)) => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                match peer.or_else(|| SockRef::from(&socket).peer_addr().ok()?.as_socket()) {
                    Some(peer) => Accepted::Connection(socket, peer),
                    None => Accepted::Nothing,
                }
            }
            Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                Accepted::Exhausted(error.into())
            }
            Err(Errno::INVAL | Errno::BADF) => Accepted::Closed,
            // The client gave up while it waited, or the like: accept(2).
            Err(_) => Accepted::Nothing,
        }
    }

    /// Stops listening; whoever waits for a connection is woken.
    pub fn shut_down(&self) {
        Socket::shut_down(self.socket.as_fd());
    }
}

fn bind(address: SocketAddr) -> io::Result<socket2::Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = socket2::Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
