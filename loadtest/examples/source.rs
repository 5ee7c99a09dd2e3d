//! Not a load generator: sends the messages of one with as little else as possible, to see what of a
//! load generator's processor time is the kernel's work for its sockets.
//!
//! One thread writes what is due, for all publishers in one system call, waits with epoll and reads. It takes no
//! time of any message, checks no content, and keeps no ledger; it counts bytes, and answers QoS 1. Its
//! packets are made beforehand.
//!
//! ```sh
//! scripts/load-floor.sh
//! ```

use std::{
    error::Error,
    io::{ErrorKind, IoSlice, Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use ringmq::transport::SendRing;
use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    time::{ClockId, clock_gettime},
};

const PUBLISHERS: usize = 1_000;
const PAYLOAD: usize = 64;
/// Messages that are due at a time: as `ringmq-load` with two threads, eight in each.
const AT_A_TIME: u64 = 16;
const WARM_UP: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 256 << 10;
/// What the last messages have to arrive in.
const DRAIN: Duration = Duration::from_secs(2);
const USAGE: &str = "usage: source PORT fan-in|pairs QOS RATE SECONDS";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, flow, qos, rate, seconds] = &arguments[..] else { return Err(USAGE.into()) };
    let mut source = Source::connect(port.parse()?, flow == "pairs", qos == "1")?;
    let rate: u64 = rate.parse()?;
    source.run(rate, WARM_UP)?;
    println!("warm");
    let (before, start) = (source.received(), Instant::now());
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    source.run(rate, Duration::from_secs(seconds.parse()?))?;
    let cpu = nanoseconds(clock_gettime(ClockId::ProcessCPUTime)) - nanoseconds(cpu);
    let (messages, took) = (source.received() - before, start.elapsed().as_secs_f64());
    println!("{messages} {:.4} {:.0}", cpu / 1e3 / messages as f64, messages as f64 / took);
    source.drain()
}

/// The processor time, in nanoseconds.
fn nanoseconds(time: Timespec) -> f64 {
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

struct Connection {
    stream: TcpStream,
    /// What it publishes.
    packet: Vec<u8>,
    /// Bytes that came: messages on a receiver, acknowledgements on a publisher.
    came: u64,
    /// The bytes of a message that is not complete.
    unread: Vec<u8>,
}

struct Source {
    publishers: Vec<Connection>,
    receivers: Vec<Connection>,
    /// The bytes of a message, as it is sent and as it is received.
    length: usize,
    is_acknowledged: bool,
    sent: u64,
    poll: rustix::fd::OwnedFd,
    ring: SendRing,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
}

impl Source {
    fn connect(port: u16, pairs: bool, is_acknowledged: bool) -> Result<Self, Box<dyn Error>> {
        let topic = |n: usize| format!("load/{:06}", if pairs { n } else { 0 });
        let qos = u8::from(is_acknowledged);
        let poll = epoll::create(CreateFlags::CLOEXEC)?;
        let connect = |id: String| -> Result<TcpStream, Box<dyn Error>> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_nodelay(true)?;
            let body = [b"\0\x04MQTT\x04\x02\0\0\0".as_slice(), &[id.len() as u8], id.as_bytes()];
            ask(&mut stream, 0x10, &body.concat(), 4)?;
            Ok(stream)
        };
        let watch = |stream: &TcpStream, number: usize| -> Result<(), Box<dyn Error>> {
            stream.set_nonblocking(true)?;
            epoll::add(&poll, stream, EventData::new_u64(number as u64), EventFlags::IN)?;
            Ok(())
        };
        let (mut publishers, mut receivers) = (Vec::new(), Vec::new());
        for n in 0..if pairs { PUBLISHERS } else { 1 } {
            let mut stream = connect(format!("receiver-{n}"))?;
            let topic = topic(n);
            let body = [&[0, 1, 0, topic.len() as u8], topic.as_bytes(), &[qos]].concat();
            ask(&mut stream, 0x82, &body, 5)?;
            watch(&stream, PUBLISHERS + n)?;
            receivers.push(Connection { stream, packet: vec![], came: 0, unread: vec![] });
        }
        for n in 0..PUBLISHERS {
            let stream = connect(format!("publisher-{n}"))?;
            watch(&stream, n)?;
            let topic = topic(n);
            let mut body = [&[0, topic.len() as u8], topic.as_bytes()].concat();
            body.extend_from_slice(if is_acknowledged { &[0, 1] } else { &[] });
            body.resize(body.len() + PAYLOAD, b'x');
            let packet = [&[0x30 | qos << 1, body.len() as u8], &body[..]].concat();
            publishers.push(Connection { stream, packet, came: 0, unread: vec![] });
        }
        Ok(Self {
            length: publishers[0].packet.len(),
            publishers,
            receivers,
            is_acknowledged,
            sent: 0,
            poll,
            ring: SendRing::new()?,
            events: Vec::with_capacity(1_024),
            buffer: vec![0; READ_BYTES],
        })
    }

    /// Messages that have come.
    fn received(&self) -> u64 {
        self.receivers.iter().map(|receiver| receiver.came).sum::<u64>() / self.length as u64
    }

    /// Sends at this rate, for so long.
    fn run(&mut self, rate: u64, duration: Duration) -> Result<(), Box<dyn Error>> {
        let (start, before) = (Instant::now(), self.sent);
        let grain = Duration::from_nanos(AT_A_TIME * 1_000_000_000 / rate);
        let mut turns = 0;
        loop {
            let elapsed = start.elapsed();
            if elapsed >= duration {
                return Ok(());
            }
            let due = (elapsed.as_nanos() / grain.as_nanos() + 1) as u64;
            if due > turns {
                turns = due;
                self.publish(before + turns * AT_A_TIME - self.sent)?;
            }
            let next = (grain * turns as u32).saturating_sub(start.elapsed());
            self.wait(next)?;
        }
    }

    /// Lets the next publishers send a message each.
    fn publish(&mut self, mut count: u64) -> Result<(), Box<dyn Error>> {
        while count > 0 {
            let now = count.min(SendRing::CAPACITY.min(PUBLISHERS) as u64);
            let next = (0..now).map(|n| ((self.sent + n) % PUBLISHERS as u64) as usize);
            let mut batch = self.ring.batch();
            for at in next {
                let publisher = &self.publishers[at];
                batch.push(publisher.stream.as_fd(), &[IoSlice::new(&publisher.packet)]);
            }
            for written in batch.submit() {
                if written? != self.length {
                    return Err("the broker does not keep up: a write was cut short".into());
                }
            }
            self.sent += now;
            count -= now;
        }
        Ok(())
    }

    /// Reads what comes in this time, until something has come, and acknowledges it.
    fn wait(&mut self, time: Duration) -> Result<(), Box<dyn Error>> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut events = std::mem::take(&mut self.events);
        epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))?;
        let mut answers = Vec::new();
        for event in events.drain(..) {
            let number = event.data.u64() as usize;
            if number < PUBLISHERS {
                let publisher = &mut self.publishers[number];
                publisher.came += read(&mut publisher.stream, &mut self.buffer)? as u64;
            } else if let Some(answer) = self.receive(number - PUBLISHERS)? {
                answers.push((number - PUBLISHERS, answer));
            }
        }
        self.events = events;
        for answers in answers.chunks(SendRing::CAPACITY) {
            let mut batch = self.ring.batch();
            for (at, answer) in answers {
                batch.push(self.receivers[*at].stream.as_fd(), &[IoSlice::new(answer)]);
            }
            for written in batch.submit() {
                written?;
            }
        }
        Ok(())
    }

    /// Reads messages; gives the acknowledgements that they want.
    fn receive(&mut self, at: usize) -> Result<Option<Vec<u8>>, Box<dyn Error>> {
        let receiver = &mut self.receivers[at];
        let read = read(&mut receiver.stream, &mut self.buffer)?;
        receiver.came += read as u64;
        if !self.is_acknowledged {
            return Ok(None);
        }
        let mut all = std::mem::take(&mut receiver.unread);
        all.extend_from_slice(&self.buffer[..read]);
        let messages = all.chunks_exact(self.length);
        receiver.unread = messages.remainder().to_vec();
        // The packet identifier is in front of the payload.
        let id = self.length - PAYLOAD - 2;
        Ok(Some(messages.flat_map(|message| [0x40, 2, message[id], message[id + 1]]).collect()))
    }

    /// Waits for what is on its way still.
    fn drain(&mut self) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + DRAIN;
        // A PUBACK has four bytes.
        let acknowledged = |it: &Self| it.publishers.iter().map(|p| p.came / 4).sum::<u64>();
        let wanted = if self.is_acknowledged { self.sent } else { 0 };
        while (self.received() < self.sent || acknowledged(self) < wanted)
            && Instant::now() < deadline
        {
            self.wait(Duration::from_millis(10))?;
        }
        let (sent, received, acknowledged) = (self.sent, self.received(), acknowledged(self));
        let good = match self.is_acknowledged {
            true => received == sent && acknowledged == sent,
            // A broker may drop QoS 0 for a receiver that is late, but a few only.
            false => received * 100 >= sent * 97,
        };
        if !good {
            return Err(format!("{sent} sent, {acknowledged} acknowledged, {received} came").into());
        }
        Ok(())
    }
}

/// Sends a packet with less than 128 bytes behind its fixed header, and waits for an answer of so many.
fn ask(
    stream: &mut TcpStream,
    first: u8,
    body: &[u8],
    answer: usize,
) -> Result<(), Box<dyn Error>> {
    stream.write_all(&[&[first, body.len() as u8], body].concat())?;
    let mut bytes = vec![0; answer];
    stream.read_exact(&mut bytes)?;
    // CONNACK and SUBACK end with a reason: accepted, or the QoS.
    match bytes[answer - 1] {
        0..=2 => Ok(()),
        reason => Err(format!("the broker has refused it: {reason:#x}").into()),
    }
}

/// What there is to read.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<usize, Box<dyn Error>> {
    match stream.read(buffer) {
        Ok(0) => Err("the broker has closed a connection".into()),
        Ok(read) => Ok(read),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}
