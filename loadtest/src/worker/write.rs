//! Writing: what a turn has for its connections is collected, and written in few system calls.

use std::{
    io::{self, IoSlice},
    ops::Range,
    os::fd::AsFd,
};

use ringmq::transport::{SendRing, Socket};
use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{SendFlags, Shutdown},
};

use super::{Conn, State, Worker};
use crate::failure::Failure;

/// Bytes that are collected at the most, unless a single write has more.
const MOST_BYTES: usize = 256 * 1024;
/// So many writes and more are made through the ring; for fewer it is no gain.
const WORTH_A_BATCH: usize = 3;
/// A write ends at once, and a dead socket is an error, no signal.
pub(super) const FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// Writes that wait for the end of the turn, at most one for each connection.
pub(super) struct Writes {
    /// None where the kernel refuses it: each write is a call of its own then.
    ring: Option<SendRing>,
    /// The bytes of all of them.
    bytes: Vec<u8>,
    collected: Vec<Collected>,
    results: Vec<io::Result<usize>>,
}

/// One write, by the connection's index.
struct Collected {
    conn: u32,
    bytes: Range<usize>,
}

impl Writes {
    /// For the present thread.
    pub fn new() -> Self {
        Self {
            ring: SendRing::new().ok(),
            bytes: Vec::new(),
            collected: Vec::new(),
            results: Vec::new(),
        }
    }

    /// Whether a write of so many bytes has to wait until the others are made.
    fn is_full(&self, more: usize) -> bool {
        self.collected.len() >= SendRing::CAPACITY
            || (!self.collected.is_empty() && self.bytes.len() + more > MOST_BYTES)
    }

    /// Adds a write, or bytes to the last one if that is of the same connection.
    fn add(&mut self, at: usize, bytes: &[u8]) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let end = self.bytes.len();
        match self.collected.last_mut() {
            Some(last) if last.conn as usize == at => last.bytes.end = end,
            _ => self.collected.push(Collected { conn: at as u32, bytes: begin..end }),
        }
    }

    /// Makes all writes as far as the sockets take them; what became of each is in `results`.
    fn make(&mut self, conns: &[Conn]) {
        let Self { ring, bytes, collected, results } = self;
        collected.retain(|write| {
            conns.get(write.conn as usize).is_some_and(|conn| conn.socket.is_some())
        });
        let writes = collected.iter().filter_map(|write| {
            let socket = conns.get(write.conn as usize)?.socket.as_ref()?;
            Some((socket, bytes.get(write.bytes.clone())?))
        });
        match ring {
            Some(ring) if ring.is_usable() && collected.len() >= WORTH_A_BATCH => {
                let mut batch = ring.batch();
                writes
                    .for_each(|(socket, bytes)| batch.push(socket.as_fd(), &[IoSlice::new(bytes)]));
                results.extend(batch.submit());
            }
            _ => results
                .extend(writes.map(|(socket, bytes)| Ok(rustix::net::send(socket, bytes, FLAGS)?))),
        }
    }
}

impl Worker {
    /// Has `self.out` written to a connection by the end of the turn, behind what it has not taken
    /// yet.
    pub(super) fn write(&mut self, at: usize) {
        let Some(conn) = self.conns.get(at) else { return };
        if self.out.is_empty() || conn.socket.is_none() {
            return;
        }
        let joins = self.writes.collected.last().is_some_and(|last| last.conn as usize == at);
        if (conn.collected && !joins) || self.writes.is_full(self.out.len()) {
            self.flush();
        }
        let Some(conn) = self.conns.get_mut(at) else { return };
        conn.wrote = true;
        match &mut conn.unwritten {
            Some(unwritten) => unwritten.extend_from_slice(&self.out),
            None => {
                conn.collected = true;
                self.writes.add(at, &self.out);
            }
        }
    }

    /// Makes the writes that have been collected.
    pub(super) fn flush(&mut self) {
        if self.writes.collected.is_empty() {
            return;
        }
        self.writes.make(&self.conns);
        let Writes { bytes, collected, results, .. } = &mut self.writes;
        for (write, result) in collected.drain(..).zip(results.drain(..)) {
            let Some(conn) = self.conns.get_mut(write.conn as usize) else { continue };
            conn.collected = false;
            let bytes = bytes.get(write.bytes).unwrap_or_default();
            let sent = match result.map_err(|error| error.kind()) {
                Ok(sent) => sent,
                Err(io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
                // Reading will tell why.
                Err(_) => {
                    if let Some(socket) = &conn.socket {
                        let _ = rustix::net::shutdown(socket, Shutdown::Both);
                    }
                    bytes.len()
                }
            };
            let rest = bytes.get(sent..).unwrap_or_default();
            if !rest.is_empty() {
                write_later(&self.epoll, write.conn, conn, rest);
            }
        }
        let count = bytes.len() as u64;
        bytes.clear();
        self.mine(|mine| mine.counters.bytes_sent.add(count));
    }

    /// The socket takes more.
    pub(super) fn write_rest(&mut self, at: usize) {
        let Some(conn) = self.conns.get_mut(at) else { return };
        let (Some(socket), Some(unwritten)) = (&conn.socket, &mut conn.unwritten) else { return };
        while !unwritten.is_empty() {
            match rustix::net::send(socket, unwritten, FLAGS) {
                Ok(sent) => drop(unwritten.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOTCONN) => return,
                Err(error) => {
                    let failure = match error {
                        Errno::CONNRESET | Errno::PIPE => Failure::Lost,
                        other => Failure::from_errno(other),
                    };
                    self.on_gone(at, failure);
                    return;
                }
            }
        }
        conn.unwritten = None;
        let sender = conn.sender;
        self.serve_waiting(sender);
    }

    /// Closes a connection. What was collected for it is written before.
    pub(super) fn close(&mut self, at: usize) {
        if self.conns.get(at).is_some_and(|conn| conn.collected) {
            self.flush();
        }
        let Some(conn) = self.conns.get_mut(at) else { return };
        conn.socket = None;
        conn.state = State::Closed;
        conn.unread = None;
        conn.unwritten = None;
    }
}

/// Keeps what a socket has not taken until there is room for it.
fn write_later(epoll: &Socket, at: u32, conn: &mut Conn, rest: &[u8]) {
    conn.unwritten = Some(Box::new(rest.to_vec()));
    if let Some(socket) = &conn.socket
        && !std::mem::replace(&mut conn.watches_writing, true)
    {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let _ = epoll::modify(epoll.as_fd(), socket, EventData::new_u64(at.into()), flags);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::{
        io::Read,
        ops::ControlFlow,
        os::{fd::OwnedFd, unix::net::UnixStream},
        sync::Arc,
    };

    use ringmq::shard::DriverKind;

    use super::*;
    use crate::{
        plan::tests::{group, plan},
        shared::Shared,
    };

    /// A thread with so many connections, and their other ends; with and without a ring.
    fn with_worker(count: u32, test: impl Fn(&mut Worker, &mut [UnixStream])) {
        for ring in [true, false] {
            let test = &test;
            let run = async move || {
                let mut plan = plan(1);
                plan.groups.push(group("c", count));
                let shared = Arc::new(Shared::new(1).unwrap());
                let mut worker = Worker::new(0, Arc::new(plan), shared).unwrap();
                if !ring {
                    worker.writes.ring = None;
                }
                let mut peers = Vec::new();
                for (at, conn) in worker.conns.iter_mut().enumerate() {
                    let (socket, peer) = UnixStream::pair().unwrap();
                    socket.set_nonblocking(true).unwrap();
                    let socket = OwnedFd::from(socket);
                    let data = EventData::new_u64(at as u64);
                    epoll::add(worker.epoll.as_fd(), &socket, data, EventFlags::IN).unwrap();
                    conn.socket = Some(socket);
                    conn.state = State::Ready;
                    peers.push(peer);
                }
                test(&mut worker, &mut peers);
                ControlFlow::Break(())
            };
            DriverKind::Epoll.run(run).unwrap();
        }
    }

    fn write(worker: &mut Worker, at: usize, bytes: &[u8]) {
        worker.out.clear();
        worker.out.extend_from_slice(bytes);
        worker.write(at);
    }

    fn read(peer: &mut UnixStream, length: usize) -> Vec<u8> {
        let mut got = vec![0; length];
        peer.read_exact(&mut got).unwrap();
        got
    }

    fn waits(peer: &UnixStream) -> bool {
        let mut byte = [0];
        let peeked = rustix::net::recv(
            peer,
            &mut byte,
            rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT,
        );
        peeked.is_ok()
    }

    #[test]
    fn nothing_is_written_before_the_end_of_the_turn_and_then_all_of_it() {
        let count = SendRing::CAPACITY + 20;
        with_worker(count as u32, |worker, peers| {
            for at in 0..count {
                write(worker, at, &(at as u32).to_ne_bytes());
                write(worker, at, b"!");
            }
            // A batch has room for so many.
            assert!(waits(&peers[SendRing::CAPACITY - 1]) && !waits(&peers[SendRing::CAPACITY]));
            worker.flush();
            for (at, peer) in peers.iter_mut().enumerate() {
                assert_eq!(read(peer, 4), (at as u32).to_ne_bytes());
                assert_eq!(read(peer, 1), b"!");
                assert!(!waits(peer) && worker.conns[at].unwritten.is_none());
            }
            let sent = worker.shared.counts().bytes_sent;
            assert_eq!(sent, 5 * count as u64);
        });
    }

    #[test]
    fn what_a_socket_does_not_take_comes_before_what_follows() {
        with_worker(4, |worker, peers| {
            let much = vec![7; 4 * MOST_BYTES];
            write(worker, 0, &much);
            for at in 1..4 {
                write(worker, at, b"neighbour");
            }
            write(worker, 0, b"the rest");
            assert!(worker.conns[0].unwritten.is_some() && worker.conns[0].watches_writing);
            worker.flush();
            for peer in &mut peers[1..] {
                assert_eq!(read(peer, 9), b"neighbour");
            }
            let mut got = Vec::new();
            while got.len() < much.len() + 8 {
                let mut some = [0; 64 * 1024];
                let count = peers[0].read(&mut some).unwrap();
                got.extend_from_slice(&some[..count]);
                worker.write_rest(0);
            }
            assert!(got[..much.len()] == much && got[much.len()..] == *b"the rest");
            assert!(worker.conns[0].unwritten.is_none());
        });
    }

    #[test]
    fn a_connection_says_what_it_had_to_say_before_it_is_closed() {
        with_worker(5, |worker, peers| {
            for at in 0..4 {
                write(worker, at, b"goodbye");
            }
            worker.close(2);
            worker.close(4);
            assert_eq!(read(&mut peers[2], 7), b"goodbye");
            // The descriptor may be another's now.
            write(worker, 2, b"lost");
            worker.flush();
            for (at, peer) in peers.iter_mut().enumerate() {
                let mut rest = Vec::new();
                worker.close(at);
                peer.read_to_end(&mut rest).unwrap();
                let expected: &[u8] = if [2, 4].contains(&at) { b"" } else { b"goodbye" };
                assert_eq!(rest, expected, "{at}");
            }
        });
    }

    #[test]
    fn a_dead_socket_is_found_by_reading_and_holds_nobody_up() {
        with_worker(4, |worker, peers| {
            peers[1] = UnixStream::pair().unwrap().0;
            for at in 0..4 {
                write(worker, at, b"x");
            }
            worker.flush();
            for at in [0, 2, 3] {
                assert_eq!(read(&mut peers[at], 1), b"x");
            }
            assert!(worker.conns[1].unwritten.is_none());
            worker.on_socket(1, EventFlags::IN);
            assert_eq!(worker.conns[1].state, State::Closed);
        });
    }
}
