//! Not a broker: moves the bytes of MQTT 3.1.1 from socket to socket with as little else as possible.
//!
//! One thread waits with epoll, reads, and writes once per turn to whoever has something to get. It has
//! no sessions, no limits and no checks, and looks topics up as they are, or but for a last level `+`.
//! So it shows what this machine's kernel takes for such a load, in the rows of `scripts/compare.sh`:
//!
//! ```sh
//! scripts/compare.sh --broker 'sink=target/release/examples/sink {port}'
//! ```

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    mem,
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// What the listener is called among the connections.
const LISTENER: u64 = u64::MAX;
/// Connections that epoll tells of at a time.
const EVENTS: usize = 1_024;
const READ_BYTES: usize = 256 << 10;
/// What says that a connection ends: behind the bytes that came with it there is no further event.
const ENDS: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = std::env::args().nth(1).ok_or("usage: sink PORT, or sink --version")?;
    if argument == "--version" {
        println!("sink {}", env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, argument.parse()?))?;
    rustix::net::listen(&listener, 4_096)?;
    serve(&listener)
}

fn serve(listener: &TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    listener.set_nonblocking(true)?;
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut sink = Sink::default();
    let mut events = Vec::with_capacity(EVENTS);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            match event.data.u64() {
                LISTENER => {
                    while let Ok((stream, _)) = listener.accept() {
                        stream.set_nonblocking(true)?;
                        stream.set_nodelay(true)?;
                        let flags =
                            EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                        let number = EventData::new_u64(sink.connections.len() as u64);
                        epoll::add(&poll, &stream, number, flags)?;
                        sink.connections.push(Some(Connection::new(stream)));
                    }
                }
                number => {
                    // By value, for the struct is packed.
                    let flags = event.flags;
                    sink.on_ready(number as usize, flags.intersects(ENDS), &mut buffer);
                }
            }
        }
        sink.write();
    }
}

/// A connection, with what came of an incomplete packet and what is to be written.
struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    out: Vec<u8>,
    /// The last packet id that it was sent.
    packet_id: u16,
    is_dirty: bool,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, unread: Vec::new(), out: Vec::new(), packet_id: 0, is_dirty: false }
    }

    /// It is to be written to at the end of the turn, once.
    fn mark(&mut self, number: usize, dirty: &mut Vec<usize>) {
        if !mem::replace(&mut self.is_dirty, true) {
            dirty.push(number);
        }
    }
}

#[derive(Default)]
struct Sink {
    /// By number, which is not given out again.
    connections: Vec<Option<Connection>>,
    /// The subscribers of a topic, or of all one level below what ends with a slash.
    subscribers: HashMap<Vec<u8>, Vec<usize>>,
    /// Those to write to.
    dirty: Vec<usize>,
}

impl Sink {
    /// Reads until there is nothing more: a short read says so, unless the connection `ends`.
    fn on_ready(&mut self, number: usize, ends: bool, buffer: &mut [u8]) {
        loop {
            let Some(connection) = &mut self.connections[number] else { return };
            if !connection.out.is_empty() {
                connection.mark(number, &mut self.dirty);
            }
            let read = match connection.stream.read(buffer) {
                Ok(read) if read > 0 => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                _ => return self.connections[number] = None,
            };
            let mut unread = mem::take(&mut connection.unread);
            let came = if unread.is_empty() {
                &buffer[..read]
            } else {
                unread.extend_from_slice(&buffer[..read]);
                &unread[..]
            };
            let used = self.on_bytes(number, came);
            let left = came[used..].to_vec();
            if let Some(connection) = &mut self.connections[number] {
                connection.unread = left;
            }
            if read < buffer.len() && !ends {
                return;
            }
        }
    }

    /// Handles the complete packets; returns their bytes.
    fn on_bytes(&mut self, from: usize, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some((head, length)) = packet(&bytes[used..]) {
            let packet = &bytes[used..used + length];
            used += length;
            let body = &packet[head..];
            match packet[0] >> 4 {
                1 => self.send(from, &[0x20, 2, 0, 0]),
                3 => self.on_publish(from, packet, body),
                8 => self.on_subscribe(from, body),
                12 => self.send(from, &[0xD0, 0]),
                14 => self.connections[from] = None,
                _ => {}
            }
        }
        used
    }

    fn on_subscribe(&mut self, from: usize, body: &[u8]) {
        let mut answer = vec![0x90, 2, body[0], body[1]];
        let mut rest = &body[2..];
        while !rest.is_empty() {
            let (filter, behind) = rest[2..].split_at(length_of(rest));
            self.subscribers
                .entry(filter.strip_suffix(b"+").unwrap_or(filter).to_vec())
                .or_default()
                .push(from);
            answer.push(behind[0]);
            answer[1] += 1;
            rest = &behind[1..];
        }
        self.send(from, &answer);
    }

    fn on_publish(&mut self, from: usize, packet: &[u8], body: &[u8]) {
        let topic = &body[2..2 + length_of(body)];
        let has_id = packet[0] & 6 != 0;
        let id_at = packet.len() - body.len() + 2 + topic.len();
        if has_id {
            self.send(from, &[0x40, 2, packet[id_at], packet[id_at + 1]]);
        }
        let parent =
            topic.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |at| &topic[..=at]);
        for key in [topic, parent] {
            let Some(subscribers) = self.subscribers.get(key) else { continue };
            for &to in subscribers {
                let Some(connection) = &mut self.connections[to] else { continue };
                let start = connection.out.len();
                connection.out.extend_from_slice(packet);
                if has_id {
                    connection.packet_id = connection.packet_id.wrapping_add(1).max(1);
                    connection.out[start + id_at..start + id_at + 2]
                        .copy_from_slice(&connection.packet_id.to_be_bytes());
                }
                connection.mark(to, &mut self.dirty);
            }
        }
    }

    fn send(&mut self, to: usize, bytes: &[u8]) {
        let Some(connection) = &mut self.connections[to] else { return };
        connection.out.extend_from_slice(bytes);
        connection.mark(to, &mut self.dirty);
    }

    /// Writes what there is to write; what a socket does not take waits until it is ready.
    fn write(&mut self) {
        for number in self.dirty.drain(..) {
            let Some(connection) = &mut self.connections[number] else { continue };
            connection.is_dirty = false;
            match connection.stream.write(&connection.out) {
                Ok(written) => drop(connection.out.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.connections[number] = None,
            }
        }
    }
}

/// The lengths of the fixed header and of the whole packet, if it is complete.
fn packet(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for at in 1..5 {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7F) << (7 * (at - 1));
        if byte < 0x80 {
            let end = at + 1 + length;
            return (bytes.len() >= end).then_some((at + 1, end));
        }
    }
    None
}

/// What the two bytes of a length say.
fn length_of(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::Shutdown, thread, time::Duration};

    /// The client's end has arrived before the sink comes to read, together with the data.
    #[test]
    fn an_end_that_comes_together_with_data_closes_the_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"\xc0\0").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        thread::spawn(move || serve(&listener).unwrap());
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.read_to_end(&mut Vec::new()).expect("the end of the stream");
    }
}
