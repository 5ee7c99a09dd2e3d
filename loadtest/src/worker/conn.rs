//! What a thread keeps of each connection, sender, stream and receiver.

use std::{collections::VecDeque, os::fd::OwnedFd};

use ringmq::codec::QoS;

use crate::{ledger::Track, plan::Expects};

/// No sender, or no receiver.
pub(super) const NONE: u32 = u32::MAX;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not open; to be opened, or given up.
    Closed,
    /// Opened; CONNACK has not come.
    Connecting,
    /// SUBACK has not come.
    Subscribing,
    /// In use.
    Ready,
}

/// A client. There may be a million of them, so what is not needed by an idle one is elsewhere.
pub(super) struct Conn {
    pub socket: Option<OwnedFd>,
    pub state: State,
    /// Something was written since the last visit of the keep-alive.
    pub wrote: bool,
    /// Visits of the keep-alive since then.
    pub idle_visits: u8,
    /// A PINGREQ is not answered yet.
    pub pinged: bool,
    /// Some of its bytes wait for the end of the turn.
    pub collected: bool,
    /// Epoll also tells when there is room to write.
    pub watches_writing: bool,
    /// It has been connected before: its streams have a gap of their own.
    pub returned: bool,
    pub tries: u8,
    pub group: u8,
    /// Its index in the thread's senders, or [`NONE`].
    pub sender: u32,
    /// Its index in the thread's receivers, or [`NONE`].
    pub receiver: u32,
    /// When its connection was due, or its subscription sent.
    pub since: u64,
    /// The beginning of a packet whose end has not come.
    #[allow(clippy::box_collection)] // A third of the size, for what is rarely there.
    pub unread: Option<Box<Vec<u8>>>,
    /// Bytes that the socket did not take.
    #[allow(clippy::box_collection)]
    pub unwritten: Option<Box<Vec<u8>>>,
}

impl Conn {
    pub fn new(group: u8) -> Self {
        Self {
            socket: None,
            state: State::Closed,
            wrote: false,
            idle_visits: 0,
            pinged: false,
            collected: false,
            watches_writing: false,
            returned: false,
            tries: 0,
            group,
            sender: NONE,
            receiver: NONE,
            since: 0,
            unread: None,
            unwritten: None,
        }
    }
}

/// A client that publishes.
pub(super) struct Sender {
    pub conn: u32,
    /// QoS 1 and 2 messages that may be under way; the broker may lower it.
    pub window: u32,
    /// The number of the next QoS 1 or 2 message on this connection; its packet id follows from it.
    pub next: u32,
    /// The messages under way, the oldest first; those acknowledged out of turn are `None`.
    pub inflight: VecDeque<Option<Inflight>>,
    /// Sources that wait for room.
    pub waiting: VecDeque<u32>,
}

/// A message that is not acknowledged yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inflight {
    /// When it was due.
    pub due: u64,
    /// Its stream's index in the thread's sources.
    pub source: u32,
}

impl Sender {
    pub fn room(&self) -> u32 {
        self.window.saturating_sub(self.inflight.len() as u32)
    }

    /// The packet id of the message with this number: 1 to 65,535 around.
    pub fn packet_id(number: u32) -> u16 {
        (number % 65_535) as u16 + 1
    }

    /// Takes a message off that has been acknowledged.
    pub fn acknowledge(&mut self, packet_id: u16) -> Option<Inflight> {
        let base = self.next.wrapping_sub(self.inflight.len() as u32);
        let first = u32::from(Self::packet_id(base));
        let at = (u32::from(packet_id) + 65_535 - first) % 65_535;
        let message = self.inflight.get_mut(at as usize)?.take();
        while let Some(None) = self.inflight.front() {
            self.inflight.pop_front();
        }
        message
    }
}

/// A stream of messages that this thread publishes.
pub(super) struct Source {
    /// Its number among all streams of the run.
    pub stream: u32,
    /// Its flow's index in the thread's flows.
    pub flow: u32,
    pub sender: u32,
    pub sequence: u32,
    /// Messages that are due and not sent yet.
    pub owed: u32,
    /// Deliveries that have not come back.
    pub under_way: u32,
    pub acknowledged: u32,
    /// It stands in a queue of sources to be served.
    pub queued: bool,
    /// The sequence number when it was last looked at, and since when it has been that.
    pub checked: (u32, u64),
    pub qos: QoS,
    /// Where the packet id is.
    pub id_at: u16,
    /// Where the payload is.
    pub payload_at: u32,
    /// The whole packet; made at the first message.
    pub packet: Box<[u8]>,
}

/// A client that receives.
pub(super) struct Receiver {
    pub expects: Expects,
    /// The number of its first stream among all streams of the run.
    pub first_stream: u32,
    /// Where its tracks begin.
    pub tracks: u32,
    /// Messages received.
    pub received: u64,
    /// It was not connected all the time.
    pub interrupted: bool,
    /// Packet ids of QoS 2 messages that are not released yet.
    pub unreleased: VecDeque<u16>,
}

/// The tracks of one receiver, for the ledger.
pub struct Received {
    /// What it was to receive.
    pub expects: Expects,
    /// The tracks of its streams, in order.
    pub tracks: Vec<Track>,
    /// It was not connected all the time: what it lacks is no broken promise.
    pub interrupted: bool,
    /// Messages received.
    pub received: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Conn>() <= 48, "{}", size_of::<Conn>());
    }

    #[test]
    fn acknowledgements_find_their_message_in_any_order() {
        let mut sender = Sender {
            conn: 0,
            window: 100,
            next: 65_530,
            inflight: VecDeque::new(),
            waiting: VecDeque::new(),
        };
        let mut ids = Vec::new();
        for due in 0..20 {
            ids.push(Sender::packet_id(sender.next));
            sender.inflight.push_back(Some(Inflight { due, source: 0 }));
            sender.next += 1;
        }
        assert_eq!(ids.get(3..8).unwrap(), [65_534, 65_535, 1, 2, 3]);
        assert_eq!(sender.acknowledge(2).unwrap().due, 6);
        assert!(sender.acknowledge(2).is_none());
        assert_eq!(sender.room(), 80);
        for (due, id) in ids.iter().enumerate().filter(|(_, id)| **id != 2) {
            assert_eq!(sender.acknowledge(*id).unwrap().due, due as u64);
        }
        assert!(sender.inflight.is_empty() && sender.acknowledge(7).is_none());
    }
}
