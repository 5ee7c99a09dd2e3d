//! Starting and stopping all shards.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    ops::ControlFlow,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    AddressCounts, Clock, DriverKind, Envelope, Shard, Shrink,
    capacity::Capacity,
    departure::Handover,
    durable::{OpenedStore, Recovery, Restorer, RunningStore},
    flush::Writer,
    regulars::Regulars,
    renewal::Renewal,
    settings::{broker_config, listener_options},
    slice,
    turn::Ending,
};
use crate::{
    auth::Anonymous,
    broker::{Broker, Config, Shared},
    cli::Settings,
    mesh::{self, Endpoint, HandoverReceiver, HandoverSender, Sender},
    stats::ShardStats,
    store::OpenError,
    topics::{HashSeed, ShardId},
    transport::{Listener, Socket},
};

/// The descriptors that a shard keeps back from connections, for writer tasks and the like.
const RESERVED_DESCRIPTORS: u64 = 64;
/// How many connections may arrive at a shard ahead of their turn.
const MAX_PARKED: usize = 65_536;
/// How long to wait for a shard beyond the time that it was given to drain.
const GRACE: Duration = Duration::from_secs(1);

type ShardThread = JoinHandle<io::Result<()>>;

/// A running broker. Dropping it leaves the shards running; see [`Server::shut_down`].
pub struct Server {
    addresses: Vec<SocketAddr>,
    driver: DriverKind,
    sender: Sender<Envelope>,
    shards: Vec<ShardThread>,
    store: Option<RunningStore>,
    stats: Vec<Arc<ShardStats>>,
    shutdown_timeout: Duration,
    _reserved: Vec<OwnedFd>,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}; {}", remedy(.error))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// io_uring was asked for and is not to be had.
    #[error(
        "--driver io_uring: the kernel refuses it ({0}). Allow io_uring_setup in the container's \
         seccomp profile and set the sysctl kernel.io_uring_disabled to 0, or use --driver epoll"
    )]
    Driver(io::Error),
    /// The store cannot be opened or read.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The operating system refuses something that shards need.
    #[error("cannot start the shards: {0}; see the descriptor and thread limits (ulimit -n, -u)")]
    System(#[from] io::Error),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program, perhaps another broker, uses that port: stop it or choose another \
             port with --listen"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: see `ip address`",
        _ => "choose another address with --listen",
    }
}

/// What all shards are made from.
struct Plan {
    settings: Arc<Settings>,
    config: Arc<Config>,
    addresses: Vec<SocketAddr>,
    address_counts: Option<Arc<AddressCounts>>,
    driver: DriverKind,
    clock: Clock,
    max_open: u64,
}

impl Server {
    /// Starts the shards; returns when all of them listen.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left running then, but threads that end by themselves.
    pub fn start(settings: Settings, capacity: &Capacity) -> Result<Self, StartError> {
        let settings = Arc::new(settings);
        let driver = DriverKind::choose(settings.shards.driver).map_err(StartError::Driver)?;
        let count = settings.shards.count;
        let mut reserved = Vec::new();
        let mut addresses = Vec::new();
        for &address in &settings.listeners.addresses {
            check_free(address)?;
            let (socket, address) = Listener::reserve(address)
                .map_err(|error| StartError::Listen { address, error })?;
            reserved.push(socket);
            addresses.push(address);
        }
        let mut seeds = [0; 5];
        for seed in &mut seeds {
            *seed = getrandom::u64().map_err(io::Error::other)?;
        }
        let [a, b, c, d, random] = seeds;
        let endpoints = mesh::mesh(count, settings.shards.mesh_credit)?;
        let separate = settings.shards.separate_descriptor_tables && count > 1;
        let store = OpenedStore::open(&settings.durability, separate)?;
        let max_shapes = settings.shards.max_filter_shapes;
        // What is kept has tags that depend on the seed.
        let seed = store.as_ref().map_or([a, b, c, d], |store| store.seed);
        let mut shared = Shared::new(count, max_shapes, HashSeed::new(seed));
        if let Some(store) = &store {
            shared = shared.with_store(store.first_number);
        }
        let plan = Arc::new(Plan {
            config: Arc::new(broker_config(&settings)),
            addresses: addresses.clone(),
            address_counts: settings
                .connections
                .max_per_address
                .map(|max| Arc::new(AddressCounts::new(max.get()))),
            driver,
            clock: Clock::new(),
            max_open: max_open(&settings, capacity),
            settings: Arc::clone(&settings),
        });
        let Some(sender) = endpoints.first().map(Endpoint::sender) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        };
        let (shards, store) = spawn(&plan, &shared, endpoints, random, store)?;
        Ok(Self {
            addresses,
            driver,
            sender,
            shards,
            store,
            stats: shared.stats,
            shutdown_timeout: settings.shards.shutdown_timeout,
            _reserved: reserved,
        })
    }

    /// Where the broker listens, with the ports that 0 came to mean.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The driver that the shards run on.
    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    /// The counters of every shard.
    pub fn stats(&self) -> &[Arc<ShardStats>] {
        &self.stats
    }

    /// Stops: no connection is accepted any more, clients are told, what is queued for them is
    /// written, and the shards end; after the shutdown timeout at the latest. True if everybody
    /// was gone by then.
    pub fn shut_down(self) -> bool {
        let deadline = Instant::now() + self.shutdown_timeout + GRACE;
        for shard in 0..self.shards.len() {
            self.sender.send(shard, vec![Envelope::Drain(self.shutdown_timeout)]);
        }
        for shard in self.shards {
            while !shard.is_finished() {
                if Instant::now() > deadline {
                    return false;
                }
                thread::sleep(Duration::from_millis(5));
            }
            if !matches!(shard.join(), Ok(Ok(()))) {
                return false;
            }
        }
        if let Some(store) = self.store {
            store.shut_down();
        }
        self.stats.iter().map(|stats| stats.connections_open.get()).sum::<u64>() == 0
    }

    /// Asks this of every shard, after a fleet has gone.
    pub fn shrink(&self, shrink: Shrink) {
        let ask = |shard| self.sender.send(shard, vec![Envelope::Shrink(shrink)]);
        (0..self.shards.len()).for_each(ask);
    }

    /// Whether a shard has ended, which none does by itself unless something is badly wrong.
    pub fn has_failed(&self) -> bool {
        self.shards.iter().any(JoinHandle::is_finished)
            || self.store.as_ref().is_some_and(RunningStore::has_ended)
    }
}

/// `SO_REUSEPORT` lets a second broker of the same user listen beside the first one, and take half
/// of its clients: so a port that somebody listens on is looked for without it.
fn check_free(address: SocketAddr) -> Result<(), StartError> {
    if address.port() == 0 {
        return Ok(());
    }
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) => Err(StartError::Listen { address, error }),
    }
}

/// The connections that one shard's descriptor table holds at the most.
fn max_open(settings: &Settings, capacity: &Capacity) -> u64 {
    let per_table = capacity.per_table.saturating_sub(RESERVED_DESCRIPTORS).max(1);
    match settings.shards.separate_descriptor_tables {
        true => per_table,
        false => (per_table / settings.shards.count as u64).max(1),
    }
}

fn spawn(
    plan: &Arc<Plan>,
    shared: &Shared,
    endpoints: Vec<Endpoint<Envelope>>,
    random: u64,
    store: Option<OpenedStore>,
) -> Result<(Vec<ShardThread>, Option<RunningStore>), StartError> {
    let separate = plan.settings.shards.separate_descriptor_tables && endpoints.len() > 1;
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for _ in 0..if separate { endpoints.len() } else { 0 } {
        let (sender, receiver) = mesh::handover(MAX_PARKED)?;
        senders.push(sender);
        receivers.push(Some(receiver));
    }
    let sender = endpoints.first().map(Endpoint::sender);
    let (restorer, recoveries) = Restorer::new(if store.is_some() { endpoints.len() } else { 0 });
    let mut recoveries = recoveries.into_iter();
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let share_cores = endpoints.len() > cores.len();
    let (report, reports) = mpsc::channel();
    let mut threads = Vec::new();
    for (id, endpoint) in endpoints.into_iter().enumerate() {
        let plan = Arc::clone(plan);
        let handover = receivers
            .get_mut(id)
            .and_then(Option::take)
            .map(|receiver| (senders.clone(), receiver));
        let core = cores.get(id % cores.len().max(1)).copied();
        let core = core.filter(|_| plan.settings.shards.pin);
        let report = report.clone();
        let shared = shared.clone();
        let recovery = recoveries.next();
        let thread = thread::Builder::new().name(format!("shard-{id}")).spawn(move || {
            if let Some(core) = core {
                core_affinity::set_for_current(core);
            }
            if share_cores && let Err(error) = slice::shorten() {
                tracing::debug!(%error, shard = id, "the kernel takes its own time for turns");
            }
            let random = random.wrapping_add(id as u64);
            let parts = Parts { shared, endpoint, handover, random, recovery };
            let result = run_shard(&plan, parts, &report);
            if let Err(error) = &result {
                // While the others start; after that, `Server::has_failed` tells.
                let _ = report.send(Err(io::Error::new(error.kind(), error.to_string()).into()));
            }
            result
        })?;
        threads.push(thread);
    }
    drop(report);
    let running = match (store, sender) {
        (Some(store), Some(sender)) => match store.restore(restorer, shared.clone(), sender) {
            Ok(running) => Some(running),
            // A shard that could not start knows better why.
            Err(error) => return Err(reports.try_iter().find_map(Result::err).unwrap_or(error)),
        },
        _ => None,
    };
    for _ in &threads {
        match reports.recv() {
            Ok(result) => result?,
            Err(_) => return Err(io::Error::other("a shard ended before it had started").into()),
        }
    }
    Ok((threads, running))
}

type Report = mpsc::Sender<Result<(), StartError>>;

/// What one shard is made from, beside the [`Plan`] that all have.
struct Parts {
    shared: Shared,
    endpoint: Endpoint<Envelope>,
    /// If descriptor tables are separate.
    handover: Option<(Vec<HandoverSender>, HandoverReceiver)>,
    random: u64,
    /// If there is a store.
    recovery: Option<Recovery>,
}

/// The life of one shard's thread.
fn run_shard(plan: &Plan, parts: Parts, report: &Report) -> io::Result<()> {
    // Everything that the shards share is open by now; from here on each has its own table.
    if parts.handover.is_some() {
        mesh::unshare_descriptor_table()?;
    }
    let mut parts = Some(parts);
    let mut life = None;
    plan.driver.run(async || {
        if let Some(parts) = parts.take() {
            match open_shard(plan, parts) {
                Ok(shard) => life = shard,
                Err(error) => drop(report.send(Err(error))),
            }
            if life.is_some() {
                let _ = report.send(Ok(()));
            }
        }
        // Dropped in the event loop, which closes its sockets.
        let Some(shard) = life.take() else { return ControlFlow::Break(()) };
        match Rc::clone(&shard).run().await {
            Ending::Drained => ControlFlow::Break(()),
            Ending::Renewed => {
                life = Some(shard);
                ControlFlow::Continue(())
            }
        }
    })
}

/// Makes a shard, has it take in what the store has of it, and listens. `None` if the start was given
/// up elsewhere.
fn open_shard(plan: &Plan, mut parts: Parts) -> Result<Option<Rc<Shard>>, StartError> {
    let recovery = parts.recovery.take();
    let shard = make_shard(plan, parts)?;
    if let Some(recovery) = recovery {
        let clock = plan.clock;
        let take = |part| shard.broker.borrow_mut().on_restored(clock.now(), part);
        // Nobody says go if the start was given up, and that was said where it was.
        let Some(store) = recovery.run(take) else { return Ok(None) };
        let _ = shard.store.set(store);
    }
    let options = listener_options(&plan.settings);
    for &address in &plan.addresses {
        let listener = Listener::open(address, &options)
            .map_err(|error| StartError::Listen { address, error })?;
        shard.listeners.borrow_mut().push(Rc::new(listener));
    }
    Ok(Some(shard))
}

fn make_shard(plan: &Plan, parts: Parts) -> io::Result<Rc<Shard>> {
    let Parts { shared, endpoint, handover, random, .. } = parts;
    let id = endpoint.id();
    let now = plan.clock.now();
    let authenticator = Anonymous { allowed: plan.settings.listeners.allow_anonymous };
    let config = Arc::clone(&plan.config);
    let stats = shared.stats.get(id).cloned().unwrap_or_default();
    let all_stats = shared.stats.clone();
    let shard_id = ShardId(id as u16);
    let broker = Broker::new(shard_id, config, shared, Box::new(authenticator), now, random);
    let wake = Socket::duplicate(endpoint.wake_fd())?;
    let shards = endpoint.shards();
    let writer = match plan.driver {
        DriverKind::IoUring { deferred: true } => Writer::or_none(Writer::new(), id),
        _ => None,
    };
    Ok(Rc::new(Shard {
        settings: Arc::clone(&plan.settings),
        broker: RefCell::new(broker),
        handover: handover.map(|(senders, receiver)| Handover {
            senders,
            receiver: RefCell::new(receiver),
            // Tokens of different senders never meet.
            next_token: Cell::new((id as u64) << 48),
            waiting: RefCell::new(VecDeque::new()),
        }),
        stats: Arc::clone(&stats),
        all_stats,
        store: OnceCell::new(),
        addresses: plan.address_counts.clone(),
        listeners: RefCell::default(),
        reads_since_accept: Cell::new(0),
        newcomers: RefCell::default(),
        regulars: RefCell::new(Regulars::new(stats)?),
        gathering: RefCell::default(),
        renewal: Renewal::new(plan.driver.is_renewable()),
        wake,
        uses: Cell::new(0),
        max_open: plan.max_open,
        sockets: RefCell::default(),
        unread: RefCell::default(),
        unread_total: Cell::new(0),
        warnings: Cell::new((0, 0)),
        buffer: RefCell::default(),
        writer: RefCell::new(writer),
        paused: RefCell::new(HashMap::new()),
        next_turn: RefCell::default(),
        unwritten: RefCell::default(),
        outgoing: RefCell::new((0..shards).map(|_| Vec::new()).collect()),
        owed: RefCell::new(vec![0; shards]),
        root: RefCell::default(),
        asleep: Cell::new(false),
        now: Cell::new(now),
        next_tick: Cell::new(now.monotonic),
        catching_up: Cell::new(false),
        clock: plan.clock,
        draining: Cell::new(false),
        drain_until: Cell::new(None),
        endpoint,
    }))
}
