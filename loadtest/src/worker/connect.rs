//! Opening, keeping and closing connections.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
};

use ringmq::codec::{
    Connect, ConnectProperties, Packet, PacketId, Subscribe, SubscribeFilters, SubscriptionOptions,
    UserProperties,
};
use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt},
};

use super::{State, Worker, write};
use crate::{
    clock::{self, SECOND},
    failure::Failure,
    plan::Plan,
    shared::Phase,
};

/// How long a client waits before it tries again.
const RETRY_AFTER: u64 = SECOND / 10;
/// Connections opened in one turn at the most.
const OPENED_PER_TURN: usize = 64;
/// A silent connection is visited by the keep-alive this often in its Keep Alive time.
const VISITS: u64 = 4;
/// Connections that are said goodbye to at a time.
const GOODBYES: usize = 64;

/// Which connections are to be opened, and when.
pub(super) struct Connecting {
    /// The next one that was never opened.
    next: usize,
    /// How many of the above there are.
    count: usize,
    /// Those to be opened again, and when.
    again: VecDeque<(u64, u32)>,
    /// Those under way, and when they should be ready.
    deadlines: VecDeque<(u64, u32)>,
    under_way: u32,
    /// How many may be.
    most: u32,
    /// Nanoseconds between two; 0 for as fast as possible.
    interval: f64,
    opened: u64,
    /// When this was made.
    made: u64,
    start: u64,
    /// Storms followed so far.
    pub storms: u32,
    hopeless: bool,
    /// The first local port, and how many there are.
    port_range: (u16, u16),
    /// The next port of each source address, counted from the first.
    ports: Vec<u16>,
}

impl Connecting {
    pub fn new(plan: &Plan, worker: u32, now: u64) -> Self {
        let interval =
            plan.connect_rate.map_or(0.0, |rate| 1e9 * f64::from(plan.workers) / rate.max(1e-9));
        let port_range = crate::verb::local_ports();
        let start = now + (interval * f64::from(worker) / f64::from(plan.workers)) as u64;
        Self {
            next: 0,
            count: 0,
            again: VecDeque::new(),
            deadlines: VecDeque::new(),
            under_way: 0,
            most: plan.max_connecting,
            interval,
            opened: 0,
            made: now,
            start,
            storms: 0,
            hopeless: false,
            port_range,
            // Each thread begins elsewhere, so that they rarely meet.
            ports: vec![
                (u64::from(port_range.1) * u64::from(worker) / u64::from(plan.workers))
                    as u16;
                plan.sources.len()
            ],
        }
    }

    /// The first connection is due now.
    pub fn begin(&mut self, now: u64) {
        self.start += now - self.made;
    }

    /// So many connections are to be opened.
    pub fn expect(&mut self, count: usize) {
        self.count = count;
    }

    /// When the next first connection is due.
    fn due(&self) -> u64 {
        self.start + (self.opened as f64 * self.interval) as u64
    }
}

impl Worker {
    /// When this thread has to open something, or give up on something; for the timer.
    pub(super) fn next_connection(&self) -> u64 {
        let connecting = &self.connecting;
        let full = connecting.under_way >= connecting.most || self.phase == Phase::Prepare;
        let mut next = u64::MAX;
        if let (Some((due, _)), false) = (connecting.again.front(), full) {
            next = *due;
        }
        if connecting.next < connecting.count && !full {
            next = next.min(connecting.due());
        }
        if let Some((deadline, _)) = connecting.deadlines.front() {
            next = next.min(*deadline);
        }
        next.min(self.next_churn())
    }

    /// Opens the connections that are due.
    pub(super) fn open_connections(&mut self) {
        if !matches!(self.phase, Phase::Connect | Phase::Run) {
            return;
        }
        self.churn();
        for _ in 0..OPENED_PER_TURN {
            if self.connecting.under_way >= self.connecting.most {
                break;
            }
            let again = self.connecting.again.front().filter(|(due, _)| *due <= self.now).copied();
            if let Some((due, conn)) = again {
                self.connecting.again.pop_front();
                self.open(conn as usize, due);
                continue;
            }
            let due = self.connecting.due();
            if self.connecting.next >= self.connecting.count || due > self.now {
                break;
            }
            let conn = self.connecting.next;
            self.connecting.next += 1;
            self.connecting.opened += 1;
            // Without a rate, a connection is due when its turn comes.
            let due = if self.connecting.interval > 0.0 { due } else { clock::now() };
            self.open(conn, due);
        }
        while let Some((deadline, conn)) = self.connecting.deadlines.front().copied() {
            let at = conn as usize;
            let pending = self
                .conns
                .get(at)
                .filter(|conn| matches!(conn.state, State::Connecting | State::Subscribing))
                .map(|conn| conn.since + self.plan.connect_timeout);
            if pending.is_some() && deadline > self.now {
                break;
            }
            self.connecting.deadlines.pop_front();
            match pending {
                Some(pending) if pending <= self.now => self.attempt_failed(at, Failure::TimedOut),
                // It was slow, but has subscribed since, or is another attempt.
                Some(pending) => self.connecting.deadlines.push_back((pending, conn)),
                None => {}
            }
        }
    }

    /// The number of a client: its place over all groups and threads.
    fn number(&self, at: usize) -> (usize, u32, u32) {
        let group = self.conns.get(at).map_or(0, |conn| usize::from(conn.group));
        let (first_conn, first_member) = self.groups.get(group).copied().unwrap_or((0, 0));
        let member = at as u32 - first_conn + first_member;
        let before: u32 = self.plan.groups.iter().take(group).map(|group| group.count).sum();
        (group, member, before + member)
    }

    fn open(&mut self, at: usize, due: u64) {
        let (_, _, number) = self.number(at);
        if self.connecting.hopeless {
            self.mine(|mine| mine.counters.gave_up.add(1));
            return;
        }
        match self.connect(number) {
            Ok(socket) => {
                let Some(conn) = self.conns.get_mut(at) else { return };
                conn.socket = Some(socket);
                conn.state = State::Connecting;
                conn.since = due;
                conn.unread = None;
                conn.unwritten = None;
                conn.pinged = false;
                conn.wrote = true;
                conn.watches_writing = false;
                self.connecting.under_way += 1;
                let deadline = due.max(self.now) + self.plan.connect_timeout;
                self.connecting.deadlines.push_back((deadline, at as u32));
                self.send_connect(at);
            }
            Err(failure) => {
                self.connecting.under_way += 1;
                self.attempt_failed(at, failure);
            }
        }
    }

    fn connect(&mut self, number: u32) -> Result<OwnedFd, Failure> {
        let targets = &self.plan.targets;
        let target = targets.get(number as usize % targets.len().max(1)).copied();
        let target = target.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 1883)));
        let sources = &self.plan.sources;
        let at = number as usize % sources.len().max(1);
        let Some(source) = sources.get(at).copied() else {
            let socket = new_socket(target)?;
            return begin(&socket, target).map(|()| socket).map_err(Failure::from_errno);
        };
        // The kernel looks for a free port by trying one after another, which takes a millisecond
        // when half of them are in use. A counter finds one at once.
        let (low, ports) = self.connecting.port_range;
        for _ in 0..ports {
            let Some(next) = self.connecting.ports.get_mut(at) else { break };
            let port = low + *next;
            *next = (*next + 1) % ports;
            let socket = new_socket(target)?;
            sockopt::set_socket_reuseaddr(&socket, true).map_err(Failure::from_errno)?;
            match rustix::net::bind(&socket, &SocketAddr::new(source, port)) {
                Ok(()) => {}
                Err(Errno::ADDRINUSE) => continue,
                Err(Errno::ADDRNOTAVAIL) => return Err(Failure::NoSuchAddress),
                Err(error) => return Err(Failure::from_errno(error)),
            }
            match begin(&socket, target) {
                Ok(()) => return Ok(socket),
                Err(Errno::ADDRNOTAVAIL) => {}
                Err(error) => return Err(Failure::from_errno(error)),
            }
        }
        Err(Failure::NoPorts)
    }

    fn send_connect(&mut self, at: usize) {
        let (group, member, number) = self.number(at);
        let plan = std::sync::Arc::clone(&self.plan);
        let Some(group) = plan.groups.get(group) else { return };
        let clean = (group.clean)(member);
        let client_id = (group.client_id)(member);
        let user_name = plan.user_name.as_ref().map(|user| user(number));
        let packet = Packet::Connect(Connect {
            version: plan.version,
            clean_start: clean,
            keep_alive: plan.keep_alive,
            client_id: &client_id,
            will: None,
            user_name: user_name.as_deref(),
            password: plan.password.as_ref().map(String::as_bytes),
            properties: ConnectProperties {
                session_expiry_interval: (!clean).then_some(plan.session_expiry),
                ..ConnectProperties::default()
            },
        });
        self.out.clear();
        if packet.encode(plan.version, &mut self.out).is_err() {
            self.attempt_failed(at, Failure::Malformed);
            return;
        }
        // On loopback the connection is often there already.
        let Some(conn) = self.conns.get_mut(at) else { return };
        let Some(socket) = conn.socket.as_ref() else { return };
        let sent = rustix::net::send(socket, &self.out, write::FLAGS);
        let mut flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        match sent {
            Ok(sent) if sent == self.out.len() => {}
            Ok(_) | Err(Errno::AGAIN | Errno::NOTCONN) => {
                let sent = sent.unwrap_or_default();
                let rest = self.out.get(sent..).unwrap_or_default().to_vec();
                conn.unwritten = Some(Box::new(rest));
                conn.watches_writing = true;
                flags |= EventFlags::OUT;
            }
            Err(error) => {
                self.attempt_failed(at, Failure::from_errno(error));
                return;
            }
        }
        let bytes = self.out.len() as u64;
        let added = epoll::add(self.epoll.as_fd(), socket, EventData::new_u64(at as u64), flags);
        self.mine(|mine| mine.counters.bytes_sent.add(bytes));
        if let Err(error) = added {
            self.attempt_failed(at, Failure::from_errno(error));
        }
    }

    /// CONNACK has come, and was good.
    pub(super) fn on_connected(&mut self, at: usize) {
        let (group, member, _) = self.number(at);
        let plan = std::sync::Arc::clone(&self.plan);
        let now = self.now;
        let Some(conn) = self.conns.get_mut(at) else { return };
        self.outcome.connect.record(now.saturating_sub(conn.since));
        conn.tries = 0;
        self.mine(|mine| mine.counters.connected_ever.add(1));
        let subscription = plan.groups.get(group).and_then(|group| group.subscription.as_ref());
        let Some(subscription) = subscription else {
            self.on_ready(at);
            return;
        };
        let filters = (subscription.filters)(member);
        let options = SubscriptionOptions::new(subscription.qos);
        let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), options)).collect();
        let Some(packet_id) = PacketId::new(u16::MAX) else { return };
        let packet = Packet::Subscribe(Subscribe {
            packet_id,
            subscription_id: None,
            user_properties: UserProperties::default(),
            filters: SubscribeFilters::from(filters.as_slice()),
        });
        self.out.clear();
        if packet.encode(plan.version, &mut self.out).is_err() {
            self.attempt_failed(at, Failure::Malformed);
            return;
        }
        if let Some(conn) = self.conns.get_mut(at) {
            conn.state = State::Subscribing;
            conn.since = now;
        }
        self.write(at);
    }

    /// The connection has all that it wanted.
    pub(super) fn on_ready(&mut self, at: usize) {
        let Some(conn) = self.conns.get_mut(at) else { return };
        conn.state = State::Ready;
        // Those that fell silent at one time would all ping in the same quarter of the Keep Alive.
        conn.wrote = false;
        conn.idle_visits = (at as u64 % (VISITS - 1)) as u8;
        let sender = conn.sender;
        self.connecting.under_way = self.connecting.under_way.saturating_sub(1);
        self.outcome.last_ready = self.now;
        self.mine(|mine| mine.counters.ready.add(1));
        self.serve_waiting(sender);
    }

    /// An attempt to connect has failed; the client may try again.
    pub(super) fn attempt_failed(&mut self, at: usize, failure: Failure) {
        self.fail(failure);
        self.mine(|mine| mine.counters.failed_attempts.add(1));
        self.connecting.under_way = self.connecting.under_way.saturating_sub(1);
        self.connecting.hopeless |= failure.is_ours();
        let now = self.now;
        let retries = self.plan.retries;
        self.close(at);
        let Some(conn) = self.conns.get_mut(at) else { return };
        conn.tries = conn.tries.saturating_add(1);
        if u32::from(conn.tries) <= retries && !failure.is_ours() {
            self.connecting.again.push_back((now + RETRY_AFTER, at as u32));
        } else {
            self.mine(|mine| mine.counters.gave_up.add(1));
        }
    }

    /// A connection is gone that was in use, or nearly so.
    pub(super) fn on_gone(&mut self, at: usize, failure: Failure) {
        let Some(state) = self.conns.get(at).map(|conn| conn.state) else { return };
        match state {
            State::Closed => {}
            State::Connecting | State::Subscribing => {
                let failure = if failure == Failure::Lost { Failure::ClosedEarly } else { failure };
                self.attempt_failed(at, failure);
            }
            State::Ready => {
                self.fail(failure);
                self.mine(|mine| mine.counters.lost.add(1));
                self.take_down(at);
                if self.plan.reconnect && self.phase < Phase::Drain {
                    self.connecting.again.push_back((self.now + RETRY_AFTER, at as u32));
                }
            }
        }
    }

    /// Closes a connection that is in use, and notes what that means for its streams.
    fn take_down(&mut self, at: usize) {
        self.close(at);
        let Some(conn) = self.conns.get_mut(at) else { return };
        conn.pinged = false;
        conn.returned = true;
        let (sender, receiver) = (conn.sender, conn.receiver);
        self.mine(|mine| mine.counters.ready.sub(1));
        if let Some(receiver) = self.receivers.get_mut(receiver as usize) {
            receiver.interrupted = true;
            receiver.unreleased.clear();
        }
        if let Some(sender) = self.senders.get_mut(sender as usize) {
            sender.inflight.clear();
        }
    }

    /// Cuts every connection, without a word, and opens them all again at once.
    pub(super) fn cut_all(&mut self) {
        self.now = clock::now();
        self.connecting.again.clear();
        self.connecting.under_way = 0;
        // Everyone comes back at once.
        self.connecting.most = u32::MAX;
        for at in 0..self.conns.len() {
            let Some(conn) = self.conns.get_mut(at) else { continue };
            if let Some(socket) = &conn.socket {
                // A reset: the client does not have to wait for its port.
                let _ = sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO));
            }
            let was_ready = conn.state == State::Ready;
            conn.tries = 0;
            if was_ready {
                self.take_down(at);
                self.mine(|mine| mine.counters.cut.add(1));
            } else {
                self.close(at);
            }
        }
        self.connecting.deadlines.clear();
        self.connecting.next = self.connecting.count;
        self.outcome.connect = Default::default();
        self.outcome.subscribe = Default::default();
        let now = clock::now();
        self.connecting.again.extend((0..self.conns.len()).map(|at| (now, at as u32)));
    }

    fn churn_interval(&self) -> u64 {
        (1e9 * f64::from(self.plan.workers) / self.plan.churn_rate) as u64
    }

    fn next_churn(&self) -> u64 {
        if self.plan.churn_rate <= 0.0 || self.phase != Phase::Run {
            return u64::MAX;
        }
        self.churned.0
    }

    /// Closes connections and has them come back, one after another.
    fn churn(&mut self) {
        if self.plan.churn_rate <= 0.0 || self.phase != Phase::Run || self.conns.is_empty() {
            return;
        }
        if self.churned.1 == 0 {
            self.churned.0 = self.now;
        }
        for _ in 0..OPENED_PER_TURN {
            if self.churned.0 > self.now {
                return;
            }
            let at = self.churned.1 as usize % self.conns.len();
            let due = self.churned.0;
            self.churned = (due + self.churn_interval(), self.churned.1 + 1);
            if self.conns.get(at).is_none_or(|conn| conn.state != State::Ready) {
                continue;
            }
            if self.plan.graceful {
                self.send_disconnect(at);
            } else if let Some(socket) = self.conns.get(at).and_then(|conn| conn.socket.as_ref()) {
                let _ = sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO));
            }
            self.mine(|mine| mine.counters.cut.add(1));
            self.take_down(at);
            self.connecting.again.push_back((due, at as u32));
        }
    }

    fn visit_interval(&self) -> u64 {
        u64::from(self.plan.keep_alive) * SECOND / VISITS
    }

    /// When the keep-alive has to visit more connections.
    pub(super) fn next_visit(&self) -> u64 {
        if self.plan.keep_alive == 0 || self.conns.is_empty() {
            return u64::MAX;
        }
        // Every tenth of a second is enough.
        self.now + SECOND / 10
    }

    /// Visits each connection four times in its Keep Alive; the third visit in a row that finds it
    /// silent makes it send a PINGREQ. No connection has a timer for this.
    pub(super) fn keep_alive(&mut self) {
        // Those that are sent already are waited for at the end; new ones would have no end.
        if self.plan.keep_alive == 0 || self.conns.is_empty() || self.phase >= Phase::Drain {
            return;
        }
        let interval = self.visit_interval();
        let elapsed = self.now.saturating_sub(self.visit.1);
        let count = self.conns.len() as u64;
        let upto =
            (u128::from(elapsed) * u128::from(count) / u128::from(interval)).min(count.into());
        for at in self.visit.0..upto as usize {
            let Some(conn) = self.conns.get_mut(at) else { break };
            if conn.state != State::Ready {
                continue;
            }
            if conn.pinged {
                // The answer has had a quarter of the Keep Alive.
                self.on_gone(at, Failure::NoPingresp);
                continue;
            }
            if std::mem::take(&mut conn.wrote) {
                conn.idle_visits = 0;
                continue;
            }
            conn.idle_visits += 1;
            if conn.idle_visits >= (VISITS - 1) as u8 {
                conn.idle_visits = 0;
                conn.pinged = true;
                self.out.clear();
                self.out.extend_from_slice(&[0xC0, 0]);
                self.write(at);
                if let Some(conn) = self.conns.get_mut(at) {
                    conn.wrote = false;
                }
                self.mine(|mine| mine.counters.pings.add(1));
            }
        }
        self.visit.0 = self.visit.0.max(upto as usize);
        if elapsed >= interval {
            self.visit = (0, self.now);
        }
    }

    /// Says goodbye on every connection, and closes it. A few at a time: with two million, what the broker
    /// has not read yet of goodbyes and ends is a gigabyte or two of the kernel's memory.
    pub(super) fn say_goodbye(&mut self) {
        let all = self.conns.len();
        for first in (0..all).step_by(GOODBYES) {
            let some = first..all.min(first + GOODBYES);
            for at in some.clone() {
                if self.conns.get(at).is_some_and(|conn| conn.state == State::Ready) {
                    self.send_disconnect(at);
                }
            }
            some.for_each(|at| self.close(at));
        }
    }

    fn send_disconnect(&mut self, at: usize) {
        self.out.clear();
        self.out.extend_from_slice(&[0xE0, 0]);
        self.write(at);
    }
}

fn new_socket(target: SocketAddr) -> Result<OwnedFd, Failure> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))
        .map_err(Failure::from_errno)?;
    sockopt::set_tcp_nodelay(&socket, true).map_err(Failure::from_errno)?;
    Ok(socket)
}

fn begin(socket: &OwnedFd, target: SocketAddr) -> Result<(), Errno> {
    match rustix::net::connect(socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(()),
        Err(error) => Err(error),
    }
}
