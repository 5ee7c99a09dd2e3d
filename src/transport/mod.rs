//! Sockets: what lies between a connection's bytes and the kernel.

mod listener;
mod socket;

pub use listener::{Accepted, Listener, ListenerOptions, TcpKeepAlive};
pub use socket::Socket;
