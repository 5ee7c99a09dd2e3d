//! The task of one connection: waits until there is something to read, reads it, and gives it to
//! the broker core. There is one for every client, so what it holds while it waits is what a
//! client costs.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    rc::Rc,
    task::Poll,
};

use super::{Arrival, Descriptor, Envelope, Newcomer, READ_BUFFER, Shard, departure::Departure};
use crate::{
    broker::{ConnectionKey, NextStep},
    limits,
    stats::CloseReason,
    topics::ShardId,
    transport::Socket,
};

/// What the task does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Wait for bytes and read them.
    Read,
    /// The same; there may be some already.
    ReadOn,
    /// Handle the bytes at hand.
    Handle,
    /// Go on with the bytes at hand in the next turn.
    Yield,
    /// Go on with the bytes at hand when the broker says so.
    Pause,
    /// Pass the connection on.
    HandOver(ShardId),
    /// It is over.
    Close(CloseReason),
    /// It is over, and that is told already.
    Gone,
}

impl Step {
    /// Reads on at once, if it is to read and there may be more.
    pub(super) fn and_read_on(self, is_more: bool) -> Self {
        match self {
            Self::Read if is_more => Self::ReadOn,
            step => step,
        }
    }
}

impl Shard {
    /// Takes a connection in and spawns its task; `bytes` have been read from it already.
    pub(super) fn open(self: &Rc<Self>, socket: Socket, peer: SocketAddr, bytes: Vec<u8>) {
        let key = self.broker.borrow_mut().on_accepted(self.now(), peer);
        self.register(key, socket.as_fd());
        let mut step = if bytes.is_empty() { Step::Read } else { Step::Handle };
        self.keep_unread(key, bytes);
        let shard = Rc::clone(self);
        // An `async` block holds each of these once; the parameters of an `async fn` are held
        // twice.
        monoio::spawn(async move {
            loop {
                step = match step {
                    Step::Read | Step::ReadOn if shard.regulars.borrow_mut().has_candidate(key) => {
                        shard.wait_in_set(key, socket.as_fd()).await
                    }
                    Step::Read | Step::ReadOn => match socket.readable().await {
                        Ok(()) => shard.read(key, socket.as_fd()),
                        Err(_) => Step::Close(CloseReason::IoError),
                    },
                    Step::Handle => shard.handle_kept(key, shard.take_unread(key)),
                    Step::Yield => {
                        shard.wait_for_turn().await;
                        Step::Handle
                    }
                    Step::Pause => {
                        shard.wait_for_resume(key).await;
                        Step::Handle
                    }
                    // There was no room for its CONNECT.
                    Step::HandOver(_) if shard.broker.borrow().is_finishing(key) => Step::Read,
                    Step::HandOver(to) => {
                        shard.hand_over(key, socket, to);
                        return;
                    }
                    Step::Close(reason) => {
                        shard.closed(key, reason);
                        Step::Gone
                    }
                    Step::Gone => {
                        socket.close();
                        return;
                    }
                }
            }
        });
    }

    /// Reads once, and handles what came.
    pub(super) fn read(self: &Rc<Self>, key: ConnectionKey, descriptor: BorrowedFd<'_>) -> Step {
        self.touch();
        self.regulars.borrow_mut().count_read();
        self.accept_between_reads();
        let mut buffer = self.buffer.borrow_mut();
        if buffer.is_empty() {
            *buffer = vec![0; READ_BUFFER].into();
        }
        let room = buffer.get_mut(..self.bytes_to_read()).unwrap_or_default();
        let received = match Socket::receive(descriptor, room) {
            Ok(0) => return Step::Close(CloseReason::PeerClosed),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Step::ReadOn,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Step::Close(CloseReason::PeerClosed);
            }
            Err(_) => return Step::Close(CloseReason::IoError),
        };
        let is_more = received == room.len();
        let bytes = buffer.get(..received).unwrap_or_default();
        let mut unread = self.take_unread(key);
        if !unread.is_empty() {
            unread.extend_from_slice(bytes);
            drop(buffer);
            return self.handle_kept(key, unread).and_read_on(is_more);
        }
        let (consumed, step) = self.handle(key, bytes);
        let rest = bytes.get(consumed..).unwrap_or_default();
        if !rest.is_empty() {
            let rest = rest.to_vec();
            drop(buffer);
            self.keep_unread(key, rest);
        }
        step.and_read_on(is_more)
    }

    /// How many bytes to read at once. A client that is made to wait with what it has sent holds no
    /// more than that and the packet before it.
    fn bytes_to_read(&self) -> usize {
        let is_short =
            self.unread_total.get() as u64 > self.settings.connections.max_unread_bytes / 2;
        if is_short { limits::READ_BYTES_WHEN_SHORT } else { READ_BUFFER }
    }

    pub(super) fn handle_kept(self: &Rc<Self>, key: ConnectionKey, bytes: Vec<u8>) -> Step {
        self.touch();
        let (consumed, step) = self.handle(key, &bytes);
        // What is left counts with its length, and is not to hold the memory of what was before it:
        // shrunk in place it would leave a hole that is too small for the next large packet.
        let rest = match consumed {
            0 => bytes,
            _ => bytes.get(consumed..).unwrap_or_default().to_vec(),
        };
        self.keep_unread(key, rest);
        step
    }

    /// Keeps the bytes of packets that are not handled. If all connections together hold too many,
    /// the one that holds the most is ended, and what it has sent thrown away here and now: it may
    /// take its time to leave.
    fn keep_unread(&self, key: ConnectionKey, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let mut unread = self.unread.borrow_mut();
        let mut total = self.unread_total.get() + bytes.len();
        unread.insert(key.0, bytes);
        if total as u64 > self.settings.connections.max_unread_bytes
            && let Some(most) = unread.iter().max_by_key(|(_, held)| held.len()).map(|(k, _)| *k)
        {
            total -= unread.remove(&most).map_or(0, |held| held.len());
            self.broker.borrow_mut().on_too_much_unread(self.now(), ConnectionKey(most));
        }
        self.unread_total.set(total);
    }

    /// The bytes that are kept of a connection, no longer kept.
    pub(super) fn take_unread(&self, key: ConnectionKey) -> Vec<u8> {
        if self.unread_total.get() == 0 {
            return Vec::new();
        }
        let bytes = self.unread.borrow_mut().remove(&key.0).unwrap_or_default();
        self.unread_total.set(self.unread_total.get() - bytes.len());
        bytes
    }

    fn handle(self: &Rc<Self>, key: ConnectionKey, bytes: &[u8]) -> (usize, Step) {
        // What other shards have sent before these bytes were sent, happened before: a retained
        // message may be in the mailbox whose acknowledgement this client has heard of.
        if !self.endpoint.is_empty() {
            self.receive_mail();
        }
        let mut broker = self.broker.borrow_mut();
        let progress = broker.on_bytes(self.now(), key, bytes);
        if progress.talks {
            self.gathering.borrow_mut().count();
            let now = self.now();
            self.regulars.borrow_mut().meet(key, now.monotonic, || broker.age(now, key));
        }
        let full = broker.encoded_bytes() > limits::ENCODED_PER_TURN;
        drop(broker);
        if full {
            self.end_turn();
        }
        let step = match progress.next {
            NextStep::Read => Step::Read,
            NextStep::Yield => Step::Yield,
            NextStep::Pause => Step::Pause,
            NextStep::HandOver(to) => Step::HandOver(to),
        };
        (progress.consumed, step)
    }

    /// The connection's task is over.
    pub(super) fn closed(&self, key: ConnectionKey, reason: CloseReason) {
        self.touch();
        drop(self.take_unread(key));
        let mut broker = self.broker.borrow_mut();
        if broker.has_queued(key)
            && let Some((descriptor, _)) = self.descriptor(key)
        {
            // A writer task may be waiting on a duplicate, and would keep the connection open.
            Socket::shut_down(descriptor);
        }
        self.unregister(key);
        self.paused.borrow_mut().remove(&key.0);
        if let (Some(addresses), Some(peer)) = (&self.addresses, broker.peer(key)) {
            addresses.release(peer.ip());
        }
        broker.on_closed(self.now(), key, reason);
    }

    /// Sends a connection to its home shard, with the bytes read so far.
    fn hand_over(&self, key: ConnectionKey, socket: Socket, to: ShardId) {
        self.touch();
        let bytes = self.take_unread(key);
        self.unregister(key);
        let mut broker = self.broker.borrow_mut();
        let Some(peer) = broker.peer(key) else { return };
        broker.on_handed_over(key);
        drop(broker);
        self.stats.handovers_sent.add(1);
        let to = usize::from(to.0);
        let Some(handover) = &self.handover else {
            match rustix::io::fcntl_dupfd_cloexec(&socket, 0) {
                Ok(descriptor) => {
                    let descriptor = Descriptor::Here(descriptor);
                    let arrival = Arrival { peer, descriptor, bytes };
                    self.stage(to, Envelope::Connection(Box::new(arrival)));
                }
                Err(error) => self.lost(peer, &error.into()),
            }
            socket.close();
            return;
        };
        let token = handover.next_token.get();
        handover.next_token.set(token + 1);
        let arrival = Box::new(Arrival { peer, descriptor: Descriptor::Sent(token), bytes });
        handover.waiting.borrow_mut().push_back(Departure { to, token, socket, arrival });
    }

    /// Takes in a connection that another shard has accepted.
    pub(super) fn on_arrival(self: &Rc<Self>, arrival: Arrival) {
        let descriptor = match (arrival.descriptor, &self.handover) {
            (Descriptor::Here(descriptor), _) => Ok(descriptor),
            (Descriptor::Sent(token), Some(handover)) => handover.receiver.borrow_mut().take(token),
            (Descriptor::Sent(_), None) => Err(io::ErrorKind::NotFound.into()),
        };
        match descriptor.and_then(Socket::new) {
            Ok(socket) => {
                self.stats.handovers_received.add(1);
                self.welcome(Newcomer { socket, peer: arrival.peer, bytes: arrival.bytes });
            }
            Err(error) => self.lost(arrival.peer, &error),
        }
    }

    /// A connection could not be taken in by the shard that it belongs to.
    pub(super) fn lost(&self, peer: SocketAddr, error: &io::Error) {
        self.stats.handovers_failed.add(1);
        if let Some(addresses) = &self.addresses {
            addresses.release(peer.ip());
        }
        if self.may_warn() {
            tracing::warn!(%peer, %error, "a connection could not be taken in by its shard; the \
                client has to connect again");
        }
    }

    async fn wait_for_turn(&self) {
        let mut waited = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            self.next_turn.borrow_mut().push(cx.waker().clone());
            self.touch();
            Poll::Pending
        })
        .await;
    }

    async fn wait_for_resume(&self, key: ConnectionKey) {
        poll_fn(|cx| {
            // It may have been resumed before this task came to wait: a turn that produces much
            // ends before its reader is told to pause.
            if !self.broker.borrow().is_paused(key) {
                return Poll::Ready(());
            }
            self.paused.borrow_mut().insert(key.0, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
