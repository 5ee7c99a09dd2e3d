//! One network connection as the broker core sees it: bytes in, an outbox, and deadlines.

use std::net::{IpAddr, SocketAddr};

use super::{SessionKey, outbox::Outbox};
use crate::{
    auth::Ticket,
    codec::Version,
    session::{InboundAliases, OutboundAliases},
    stats::CloseReason,
};

/// Where in its life a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The CONNECT packet is still to come.
    AwaitConnect,
    /// An authentication module has the CONNECT packet, or waits for the client's AUTH packet.
    Authenticating,
    /// A session is attached.
    Connected,
    /// It gets nothing any more but what is in its outbox; what it sends is thrown away.
    Closing,
}

/// A connection's state. There are millions of these: what few of them need is in [`Extra`].
#[derive(Debug)]
pub struct Connection {
    /// The bytes queued; `None` when there are none, which is nearly always.
    pub outbox: Option<Box<Outbox>>,
    /// What an idle connection with default settings does not have.
    pub extra: Option<Box<Extra>>,
    peer: Peer,
    /// The session; [`SessionKey::NONE`] before CONNECT is accepted and when closing.
    pub session: SessionKey,
    /// When the last packet came, in tenths of a second of the broker's clock; when closing, when
    /// the client last took anything.
    pub last_packet: u32,
    /// When the timer that counts is due, in tenths of a second; 0 when none is set. Timers that
    /// fire earlier than this are left over from an earlier use of the slot.
    pub timer_at: u32,
    /// When it was accepted, in seconds of Unix time.
    pub connected_at: u32,
    /// The keep-alive in force, in seconds; 0 for none.
    pub keep_alive: u16,
    /// Where in its life it is.
    pub state: State,
    /// The protocol version; meaningless before CONNECT.
    pub version: Version,
    /// Whether reason strings and user properties may be sent on any packet. `[MQTT-3.1.2-29]`
    pub problem_information: bool,
    /// Whether the shard has stopped reading from it until something is drained.
    pub paused: bool,
    /// Whether another shard has to catch up before it is read from again.
    pub starved: bool,
    /// Whether the outbox is to be followed by the end of the stream.
    pub finishing: bool,
    /// Whether CONNECT asked for a session that outlives the connection, whatever was granted.
    pub asked_to_stay: bool,
}

/// The parts of a connection that most do not need.
#[derive(Debug)]
pub struct Extra {
    /// The largest packet that the client takes, in bytes. `[MQTT-3.1.2-24]`
    pub maximum_packet_size: u32,
    /// How many QoS 1 and 2 messages the client takes at once. `[MQTT-3.3.4-9]`
    pub receive_maximum: u16,
    /// The aliases that the client has set.
    pub inbound_aliases: InboundAliases,
    /// The aliases that the broker sets, if the client allows any.
    pub outbound_aliases: Option<OutboundAliases>,
    /// The authentication method of the CONNECT packet. `[MQTT-4.12.0-5]`
    pub authentication_method: Option<Box<str>>,
    /// The exchange with an authentication module that is under way.
    pub exchange: Option<Exchange>,
    /// Why it is being closed, for the log and the presence event.
    pub cause: Option<CloseReason>,
}

/// An authentication that is not decided.
#[derive(Debug)]
pub struct Exchange {
    /// What the module knows it by.
    pub ticket: Ticket,
    /// The module has been asked and has not answered: the client has nothing to send.
    pub asked: bool,
    /// The CONNECT packet, and the client identifier assigned to who sent none; none for a client
    /// that authenticates again.
    pub connect: Option<(Vec<u8>, Option<Box<str>>)>,
}

impl Default for Extra {
    fn default() -> Self {
        Self {
            maximum_packet_size: u32::MAX,
            receive_maximum: u16::MAX,
            inbound_aliases: InboundAliases::default(),
            outbound_aliases: None,
            authentication_method: None,
            exchange: None,
            cause: None,
        }
    }
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(peer: SocketAddr, connected_at: u32) -> Self {
        Self {
            outbox: None,
            extra: None,
            peer: Peer::from(peer),
            session: SessionKey::NONE,
            last_packet: 0,
            timer_at: 0,
            connected_at,
            keep_alive: 0,
            state: State::AwaitConnect,
            version: Version::V3_1_1,
            problem_information: true,
            paused: false,
            starved: false,
            finishing: false,
            asked_to_stay: false,
        }
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer.into()
    }

    /// The rare parts, made if they do not exist.
    pub fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// The exchange with an authentication module that is under way.
    pub fn exchange(&mut self) -> Option<&mut Exchange> {
        self.extra.as_mut().and_then(|extra| extra.exchange.as_mut())
    }

    /// The largest packet that the client takes, in bytes.
    pub fn maximum_packet_size(&self) -> usize {
        self.extra.as_ref().map_or(usize::MAX, |extra| extra.maximum_packet_size as usize)
    }

    /// How many QoS 1 and 2 messages may be in flight to the client at once, at most `window`.
    pub fn window(&self, window: u16) -> u16 {
        self.extra.as_ref().map_or(window, |extra| extra.receive_maximum.min(window))
    }

    /// The bytes that wait in the outbox.
    pub fn queued(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.queued())
    }
}

/// A socket address in 20 bytes.
#[derive(Debug, Clone, Copy)]
struct Peer {
    address: [u8; 16],
    port: u16,
    is_ipv4: bool,
}

impl From<SocketAddr> for Peer {
    fn from(peer: SocketAddr) -> Self {
        let address = match peer.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        Self { address, port: peer.port(), is_ipv4: peer.is_ipv4() }
    }
}

impl From<Peer> for SocketAddr {
    fn from(peer: Peer) -> Self {
        let ip = std::net::Ipv6Addr::from(peer.address);
        match ip.to_ipv4_mapped().filter(|_| peer.is_ipv4) {
            Some(ip) => SocketAddr::new(ip.into(), peer.port),
            None => SocketAddr::new(ip.into(), peer.port),
        }
    }
}

// The budget of an idle connection (docs/ARCHITECTURE.md) counts on these sizes.
const _: () = assert!(size_of::<Connection>() <= 64);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_peer_address_comes_back_as_it_was() {
        for address in ["127.0.0.1:1883", "[::1]:9", "[::ffff:1.2.3.4]:80", "255.255.255.255:65535"]
        {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(Connection::new(address, 0).peer(), address);
        }
    }
}
