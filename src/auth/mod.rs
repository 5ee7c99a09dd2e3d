//! Who may connect: the questions that the broker core asks, and the answers it acts on.
//!
//! An [`Authenticator`] decides about CONNECT and drives the AUTH exchange of MQTT 5 (section
//! 4.12). It may answer at once, or with [`Decision::Pending`] and later through
//! [`Broker::on_authenticated`](crate::broker::Broker::on_authenticated): nothing on a shard ever
//! waits for it.

use std::net::SocketAddr;

use crate::codec::ReasonCode;

/// One exchange with one client, from CONNECT, or from the AUTH packet that asks for
/// re-authentication, to the decision. No two have the same ticket, whatever connection they are
/// on, so that an answer that comes too late is nobody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What a client shows of itself.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// The client identifier; the one that the broker has assigned if the client sent none.
    pub client_id: &'a str,
    /// The User Name field.
    pub user_name: Option<&'a str>,
    /// The Password field.
    pub password: Option<&'a [u8]>,
    /// Where the connection comes from.
    pub peer: SocketAddr,
    /// The Authentication Method, which asks for an exchange of AUTH packets.
    pub method: Option<&'a str>,
    /// The Authentication Data of the CONNECT packet.
    pub data: Option<&'a [u8]>,
}

/// A question to an [`Authenticator`].
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// A CONNECT packet.
    Connect(Credentials<'a>),
    /// An AUTH packet with reason Continue Authentication, in an exchange that is under way.
    Continue {
        /// The method that CONNECT named.
        method: &'a str,
        /// The client's Authentication Data.
        data: Option<&'a [u8]>,
    },
    /// An AUTH packet with reason Re-authenticate, on a connection that was accepted with `method`.
    Reauthenticate {
        /// The method that CONNECT named.
        method: &'a str,
        /// The client's Authentication Data.
        data: Option<&'a [u8]>,
    },
}

/// The answer of an [`Authenticator`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The client is who it says, with the Authentication Data to tell it, if any.
    Accept {
        /// Sent in CONNACK, or in the AUTH packet that ends a re-authentication.
        data: Option<Vec<u8>>,
    },
    /// Send this to the client in an AUTH packet and wait for its answer. `[MQTT-4.12.0-2]`
    Continue {
        /// The server's Authentication Data.
        data: Vec<u8>,
    },
    /// The client is refused.
    Refuse {
        /// A reason that CONNACK allows, such as [`ReasonCode::NotAuthorized`].
        reason: ReasonCode,
    },
    /// The answer comes later, through `Broker::on_authenticated`.
    Pending,
}

/// Decides who may connect. One per shard.
pub trait Authenticator {
    /// Answers `request`, which belongs to the exchange with this `ticket`. There is no other
    /// request of that exchange before this one is answered.
    fn authenticate(&mut self, ticket: Ticket, request: Request<'_>) -> Decision;

    /// The connection has gone before its exchange was over.
    fn abandoned(&mut self, ticket: Ticket) {
        let _ = ticket;
    }
}

/// Knows nobody, and no authentication method: lets everyone in, or no one.
#[derive(Debug, Clone, Copy)]
pub struct Anonymous {
    /// Whether clients may connect that nobody knows.
    pub allowed: bool,
}

impl Authenticator for Anonymous {
    fn authenticate(&mut self, _ticket: Ticket, request: Request<'_>) -> Decision {
        match request {
            Request::Connect(Credentials { method: None, .. }) if self.allowed => {
                Decision::Accept { data: None }
            }
            Request::Connect(Credentials { method: None, .. }) => {
                Decision::Refuse { reason: ReasonCode::NotAuthorized }
            }
            // [MQTT-4.12.0-1]
            _ => Decision::Refuse { reason: ReasonCode::BadAuthenticationMethod },
        }
    }
}
