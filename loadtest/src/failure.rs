//! What can go wrong with a client, counted by kind, with what to do about it.

use std::{collections::BTreeMap, fmt, io};

use ringmq::codec::ReasonCode;
use rustix::io::Errno;

/// Why a client did not get, or lost, what it wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody listens at the address.
    Refused,
    /// No local port is left.
    NoPorts,
    /// No descriptor is left.
    NoDescriptors,
    /// The local address is not one of this machine.
    NoSuchAddress,
    /// The connection was not ready in time.
    TimedOut,
    /// The broker closed the connection before it was ready.
    ClosedEarly,
    /// CONNACK refused the connection.
    Connack(ReasonCode),
    /// SUBACK refused a subscription.
    Suback(ReasonCode),
    /// The broker closed a connection that was in use.
    Lost,
    /// The broker closed a connection and said why.
    Disconnected(ReasonCode),
    /// A message was refused.
    Publish(ReasonCode),
    /// A PINGREQ was not answered.
    NoPingresp,
    /// Bytes that are not MQTT, or a packet that should not come.
    Malformed,
    /// Something else that the operating system reports.
    System(i32),
}

impl Failure {
    /// What an error in connecting, reading or writing means.
    pub fn from_errno(errno: Errno) -> Self {
        match errno {
            Errno::CONNREFUSED => Self::Refused,
            Errno::ADDRNOTAVAIL => Self::NoPorts,
            Errno::MFILE | Errno::NFILE => Self::NoDescriptors,
            Errno::TIMEDOUT => Self::TimedOut,
            other => Self::System(other.raw_os_error()),
        }
    }

    /// Whether there is no use in going on.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::NoPorts | Self::NoDescriptors | Self::NoSuchAddress)
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Refused => "is the broker running, and is the port right (-h, -p)?",
            Self::NoPorts => {
                "each source address has about 28,000 ports: give more by --ifaddr \
                 127.0.0.2-127.0.0.20, or widen net.ipv4.ip_local_port_range"
            }
            Self::NoDescriptors => "raise the limit (ulimit -n), or give more --workers",
            Self::NoSuchAddress => "--ifaddr takes addresses of this machine: see `ip address`",
            Self::TimedOut => {
                "the broker or its listen backlog is overloaded: lower -R, or raise \
                 --connect-timeout"
            }
            Self::ClosedEarly | Self::Lost => {
                "look at the broker's log: a connection limit, a crash, or a client id in use twice?"
            }
            Self::Connack(ReasonCode::BadUserNameOrPassword | ReasonCode::NotAuthorized) => {
                "give -u and -P, or let the broker allow anonymous clients"
            }
            Self::Connack(ReasonCode::UnsupportedProtocolVersion) => "try another version with -V",
            Self::Connack(ReasonCode::ServerUnavailable | ReasonCode::ServerBusy) => {
                "the broker is at a limit of connections or of its connect rate"
            }
            Self::Connack(ReasonCode::QuotaExceeded | ReasonCode::ConnectionRateExceeded) => {
                "the broker is at a limit of connections or of its connect rate"
            }
            Self::Suback(_) | Self::Publish(ReasonCode::NotAuthorized) => {
                "does the broker's access control allow the topics (-t, --topic-prefix)?"
            }
            Self::Publish(_) => "the broker is at one of its limits: lower the rate or -F",
            Self::Disconnected(ReasonCode::SessionTakenOver) => {
                "a client id is in use twice: choose another --prefix or -n"
            }
            Self::NoPingresp => "the broker does not keep up, or has forgotten the connection",
            Self::Malformed => "is it an MQTT broker, and does it speak this version (-V)?",
            Self::Connack(_) | Self::Disconnected(_) | Self::System(_) => {
                "see the broker's log for more"
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::NoPorts => f.write_str("no local port left"),
            Self::NoDescriptors => f.write_str("no descriptor left"),
            Self::NoSuchAddress => f.write_str("not an address of this machine"),
            Self::TimedOut => f.write_str("not connected in time"),
            Self::ClosedEarly => f.write_str("closed by the broker before it was ready"),
            Self::Connack(reason) => write!(f, "CONNACK: {reason}"),
            Self::Suback(reason) => write!(f, "SUBACK: {reason}"),
            Self::Lost => f.write_str("connection lost"),
            Self::Disconnected(reason) => write!(f, "DISCONNECT from the broker: {reason}"),
            Self::Publish(reason) => write!(f, "message refused: {reason}"),
            Self::NoPingresp => f.write_str("PINGREQ not answered"),
            Self::Malformed => f.write_str("malformed or unexpected packet"),
            Self::System(errno) => write!(f, "{}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

/// Failures by kind.
pub type Failures = BTreeMap<Failure, u64>;
