//! Writing: at the end of a turn every outbox that has something goes to its socket.

use std::{
    io::{self, IoSlice},
    os::fd::BorrowedFd,
    rc::Rc,
};

use super::{Shard, renewal::Task};
use crate::{
    broker::{Broker, ConnectionKey},
    transport::{SendRing, Socket},
};

/// The slices of one vectored write.
const SLICES: usize = 64;
/// So many writes and more are made through the ring. Fewer cost as much, or more, than one system
/// call each.
const WORTH_A_BATCH: usize = 3;

/// What became of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// All of it is written, or its connection is gone.
    All,
    /// The socket takes no more for now.
    Blocked,
    /// There is more of it than fits in one write.
    Some,
}

/// The ring for writes, and the connections of the batch under way.
pub(super) struct Writer {
    ring: SendRing,
    batch: Vec<ConnectionKey>,
    /// The bytes that each is to be written.
    wanted: Vec<usize>,
}

impl Writer {
    /// For the present thread.
    ///
    /// # Errors
    /// When the kernel refuses the ring.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { ring: SendRing::new()?, batch: Vec::new(), wanted: Vec::new() })
    }

    /// Lets go of the memory of batches.
    pub(super) fn shrink(&mut self) {
        self.ring.shrink();
        self.batch = Vec::new();
        self.wanted = Vec::new();
    }

    /// What was made for a shard, or none: each outbox is written with a call of its own then.
    pub(super) fn or_none(made: io::Result<Self>, shard: usize) -> Option<Self> {
        made.inspect_err(|error| {
            tracing::warn!(
                shard, %error,
                "there is no second io_uring for writes: each is a system call of its own, which \
                 costs more processor time"
            );
        })
        .ok()
    }
}

impl Shard {
    /// Writes every outbox that has something, in the order in which they got it.
    pub(super) fn flush(self: &Rc<Self>) {
        let mut broker = self.broker.borrow_mut();
        let mut writer = self.writer.borrow_mut();
        while let Some(key) = broker.next_to_write() {
            match &mut *writer {
                Some(writer) if writer.ring.is_usable() => {
                    writer.batch.push(key);
                    while writer.batch.len() < SendRing::CAPACITY
                        && let Some(key) = broker.next_to_write()
                    {
                        writer.batch.push(key);
                    }
                    self.write_batch(&mut broker, writer);
                }
                _ => self.write_or_wait(&mut broker, key),
            }
        }
        broker.end_turn();
    }

    /// Writes the outboxes of a batch, in one system call if they are enough for that.
    fn write_batch(self: &Rc<Self>, broker: &mut Broker, writer: &mut Writer) {
        let Writer { ring, batch: keys, wanted } = writer;
        if keys.len() < WORTH_A_BATCH {
            keys.drain(..).for_each(|key| self.write_or_wait(broker, key));
            return;
        }
        wanted.clear();
        let mut batch = ring.batch();
        let mut gone = Vec::new();
        keys.retain(|key| {
            let Some((descriptor, _)) = self.descriptor(*key) else {
                gone.push(*key);
                return false;
            };
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = broker.output(*key, &mut slices);
            let slices = slices.get(..filled).unwrap_or_default();
            wanted.push(slices.iter().map(|slice| slice.len()).sum());
            batch.push(descriptor, slices);
            true
        });
        let results = batch.submit();
        for ((key, wanted), result) in keys.drain(..).zip(&*wanted).zip(results) {
            let Some((descriptor, _)) = self.descriptor(key) else { continue };
            match self.wrote(broker, key, descriptor, *wanted, result) {
                Written::All => {}
                Written::Blocked => self.spawn_writer(key),
                Written::Some => self.write_or_wait(broker, key),
            }
        }
        gone.into_iter().for_each(|key| broker.on_write_failed(key));
    }

    /// Writes an outbox, and leaves what the socket does not take to a task that waits for it.
    pub(super) fn write_or_wait(self: &Rc<Self>, broker: &mut Broker, key: ConnectionKey) {
        if self.write(broker, key) == Written::Blocked {
            self.spawn_writer(key);
        }
    }

    /// Writes an outbox as far as the socket takes it.
    fn write(&self, broker: &mut Broker, key: ConnectionKey) -> Written {
        let Some((descriptor, _)) = self.descriptor(key) else {
            broker.on_write_failed(key);
            return Written::All;
        };
        loop {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let filled = broker.output(key, &mut slices);
            let slices = slices.get(..filled).unwrap_or_default();
            let wanted = slices.iter().map(|slice| slice.len()).sum();
            let sent = if slices.is_empty() { Ok(0) } else { Socket::send(descriptor, slices) };
            match self.wrote(broker, key, descriptor, wanted, sent) {
                Written::Some => {}
                written => return written,
            }
        }
    }

    /// Tells the broker what became of a write of `wanted` bytes.
    fn wrote(
        &self,
        broker: &mut Broker,
        key: ConnectionKey,
        descriptor: BorrowedFd<'_>,
        wanted: usize,
        sent: io::Result<usize>,
    ) -> Written {
        match sent {
            Ok(sent) if broker.on_written(key, sent) => {
                // Something may wait for what is not durable yet.
                if broker.is_finishing(key) && !broker.has_queued(key) {
                    Socket::shut_down_writing(descriptor);
                }
                Written::All
            }
            Ok(sent) if sent < wanted => {
                broker.on_blocked(key);
                Written::Blocked
            }
            Ok(_) => Written::Some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Written::Some,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                broker.on_blocked(key);
                Written::Blocked
            }
            // The connection's task finds out why.
            Err(_) => {
                broker.on_write_failed(key);
                Socket::shut_down(descriptor);
                Written::All
            }
        }
    }

    /// Writes on when the socket takes more. Only a connection whose client reads too slowly has
    /// such a task.
    fn spawn_writer(self: &Rc<Self>, key: ConnectionKey) {
        let Some((descriptor, use_number)) = self.descriptor(key) else { return };
        let Ok(socket) = Socket::duplicate(descriptor) else {
            self.unwritten.borrow_mut().push(key);
            return;
        };
        let shard = Rc::clone(self);
        let task = Task::new(self);
        monoio::spawn(async move {
            while let Some(Ok(())) = task.or_end(socket.writable()).await {
                shard.touch();
                match shard.descriptor(key) {
                    Some((_, number)) if number == use_number => {}
                    _ => return,
                }
                let written = shard.write(&mut shard.broker.borrow_mut(), key);
                if written == Written::All {
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_whose_ring_for_writes_is_refused_starts_without_it() {
        for refused in [io::ErrorKind::OutOfMemory, io::ErrorKind::PermissionDenied] {
            assert!(Writer::or_none(Err(refused.into()), 3).is_none());
        }
        // Where there is none to be had at all, as in some containers, it comes to the same.
        let has_ring = SendRing::new().is_ok();
        assert_eq!(Writer::or_none(Writer::new(), 3).is_some(), has_ring);
    }
}
