//! A new event loop in the place of one that holds what a fleet has left.
//!
//! An io_uring keeps the memory of every poll that was ever armed on it at a time, 259 bytes each, and
//! monoio 40 bytes for each operation, until the ring is closed. When a shard's connections have all
//! gone for good, it ends the few tasks that it has besides, and goes on with a new ring. Before the shard
//! itself ends, they end too.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
};

use slab::Slab;

use super::{Shard, turn::Ending};

/// Whether a new event loop is wanted, and the tasks that are to end before.
#[derive(Debug)]
pub(super) struct Renewal {
    /// Not with every driver.
    is_possible: bool,
    wanted: Cell<Option<Ending>>,
    tasks: RefCell<Slab<Option<Waker>>>,
}

impl Renewal {
    /// None is wanted.
    pub fn new(is_possible: bool) -> Self {
        Self { is_possible, wanted: Cell::new(None), tasks: RefCell::default() }
    }

    /// Whether the event loop is about to end.
    pub fn is_wanted(&self) -> bool {
        self.wanted.get().is_some()
    }

    /// Why the event loop ends, once nothing runs on it any more.
    pub fn ending(&self) -> Option<Ending> {
        self.wanted.get().filter(|_| self.tasks.borrow().is_empty())
    }

    /// Has all tasks end that wait with [`Task::or_end`].
    pub fn want(&self) {
        if self.is_possible {
            self.end_tasks(Ending::Renewed);
        }
    }

    /// The same, whatever comes after.
    pub fn end_tasks(&self, why: Ending) {
        self.wanted.set(Some(why));
        for (_, waker) in &mut *self.tasks.borrow_mut() {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }

    /// A new event loop begins.
    pub fn begin(&self) {
        self.wanted.set(None);
    }
}

/// A task that is no connection's, for as long as it runs.
pub(super) struct Task {
    shard: Rc<Shard>,
    key: usize,
}

impl Task {
    /// For the task that calls it.
    pub fn new(shard: &Rc<Shard>) -> Self {
        let key = shard.renewal.tasks.borrow_mut().insert(None);
        Self { shard: Rc::clone(shard), key }
    }

    /// What the future gives, or `None` when the task is to end.
    pub async fn or_end<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let renewal = &self.shard.renewal;
            if renewal.is_wanted() {
                return Poll::Ready(None);
            }
            let polled = future.as_mut().poll(cx);
            if polled.is_pending()
                && let Some(waker) = renewal.tasks.borrow_mut().get_mut(self.key)
                && !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
            {
                *waker = Some(cx.waker().clone());
            }
            polled.map(Some)
        })
        .await
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.shard.renewal.tasks.borrow_mut().try_remove(self.key);
        // The turn's end looks whether it was the last.
        self.shard.touch();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpStream},
        sync::Arc,
        time::{Duration, Instant},
    };

    use crate::{
        cli::{Invocation, Settings, Sources},
        shard::{
            DriverKind, Server, Shrink,
            capacity::{Capacity, Demand, Reading},
        },
        stats::ShardStats,
    };

    const SHARDS: usize = 3;

    fn server(driver: &str) -> Server {
        let args = [
            "--listen=127.0.0.1:0",
            &format!("--shards={SHARDS}"),
            "--in-memory",
            &format!("--driver={driver}"),
        ];
        let sources = Sources {
            env: &|_| None,
            read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
            hostname: "localhost",
            cores: 1,
        };
        let settings = Settings::from_parts(args.map(str::to_owned), &sources);
        let Ok(Invocation::Run(settings)) = settings else { panic!("{settings:?}") };
        let demand = Demand {
            shards: SHARDS,
            separate_tables: settings.shards.separate_descriptor_tables,
            listeners: 1,
            max_connections: None,
            backlog: settings.tcp.backlog,
        };
        Server::start(*settings, &Capacity::new(&Reading::take(), &demand)).unwrap()
    }

    /// Connects, by MQTT 3.1.1, and subscribes to `t`.
    fn connect(address: SocketAddr, id: u8) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01").unwrap();
        stream.write_all(&[id, 0x82, 6, 0, 1, 0, 1, b't', 0]).unwrap();
        expect(&mut stream, b"\x20\x02\0\0\x90\x03\0\x01\0");
        stream
    }

    fn expect(stream: &mut TcpStream, bytes: &[u8]) {
        let mut got = vec![0; bytes.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, bytes);
    }

    /// Waits until the sum of a counter of all shards is this.
    fn until(server: &Server, sum: u64, of: impl Fn(&ShardStats) -> u64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.stats().iter().map(|stats| of(stats)).sum::<u64>() != sum {
            assert!(Instant::now() < deadline, "never {sum}");
            std::thread::yield_now();
        }
    }

    /// How often each shard has.
    fn renewed(server: &Server) -> Vec<u64> {
        server.stats().iter().map(|stats| stats.event_loops_renewed.get()).collect()
    }

    /// Connects some clients, each of which gets what each publishes.
    fn talk(server: &Server) -> Vec<TcpStream> {
        let address = *server.addresses().first().unwrap();
        let mut clients: Vec<_> = (b'a'..b'm').map(|id| connect(address, id)).collect();
        let publish = b"\x30\x04\0\x01tx";
        for at in 0..clients.len() {
            clients.get_mut(at).unwrap().write_all(publish).unwrap();
            clients.iter_mut().for_each(|client| expect(client, publish));
        }
        clients
    }

    #[test]
    fn shards_go_on_with_a_new_event_loop_when_all_have_gone_and_only_then() {
        let server = server("auto");
        if server.driver() == DriverKind::Epoll {
            eprintln!("not tested: there is no io_uring");
            return;
        }
        for _ in 0..3 {
            let clients = talk(&server);
            let is_busy = |stats: &Arc<ShardStats>| stats.connections_open.get() > 0;
            let busy: Vec<bool> = server.stats().iter().map(is_busy).collect();
            let before = renewed(&server);
            server.shrink(Shrink::Renew);
            // Each has handled it when it has handled what came later.
            drop(talk(&server));
            for ((busy, before), after) in busy.iter().zip(before).zip(renewed(&server)) {
                assert!(!busy || before == after, "a loop was renewed under a connection");
            }
            drop(clients);
            until(&server, 0, |stats| stats.connections_open.get());
            let before = renewed(&server);
            server.shrink(Shrink::Renew);
            let all = before.iter().sum::<u64>() + SHARDS as u64;
            until(&server, all, |stats| stats.event_loops_renewed.get());
        }
        drop(talk(&server));
        assert!(server.shut_down());
    }

    #[test]
    fn epoll_stays_as_it_is() {
        let server = server("epoll");
        drop(talk(&server));
        until(&server, 0, |stats| stats.connections_open.get());
        server.shrink(Shrink::Renew);
        drop(talk(&server));
        until(&server, 0, |stats| stats.event_loops_renewed.get());
        assert!(server.shut_down());
    }
}
