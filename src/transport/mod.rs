//! Sockets: what lies between a connection's bytes and the kernel.

mod listener;
mod send_ring;
mod socket;

pub use listener::{Accepted, Listener, ListenerOptions, TcpKeepAlive};
pub use send_ring::{SendBatch, SendRing};
pub use socket::Socket;
