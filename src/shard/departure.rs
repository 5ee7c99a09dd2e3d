//! Connections on their way from the shard that accepted them to their home shard.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    os::fd::AsFd,
};

use super::Arrival;
use crate::{
    mesh::{HandoverReceiver, HandoverSender, SendError},
    topics::{ShardId, ShardSet},
    transport::Socket,
};

/// A connection on the way out.
pub(super) struct Departure {
    pub to: usize,
    pub token: u64,
    pub socket: Socket,
    pub arrival: Box<Arrival>,
}

/// How descriptors get from shard to shard, if their tables are separate.
pub(crate) struct Handover {
    pub(super) senders: Vec<HandoverSender>,
    pub(super) receiver: RefCell<HandoverReceiver>,
    pub(super) next_token: Cell<u64>,
    /// Those that did not fit; tried again each turn.
    pub(super) waiting: RefCell<VecDeque<Departure>>,
}

impl Handover {
    /// Sends the descriptors of those that wait. Tells of each that is sent, or is lost; what a shard
    /// has no room for goes on waiting, and so does everything for that shard behind it.
    pub fn send_waiting(&self, mut sent: impl FnMut(usize, Box<Arrival>, io::Result<()>)) {
        let mut full = ShardSet::default();
        for departure in self.waiting.take() {
            let home = ShardId(departure.to as u16);
            let result = match self.senders.get(departure.to) {
                Some(_) if full.contains(home) => Err(SendError::Full),
                Some(sender) => sender.send(departure.token, departure.socket.as_fd()),
                None => Err(SendError::Io(io::ErrorKind::NotFound.into())),
            };
            let result = match result {
                Ok(()) => Ok(()),
                Err(SendError::Full) => {
                    full.insert(home);
                    self.waiting.borrow_mut().push_back(departure);
                    continue;
                }
                Err(SendError::Io(error)) => Err(error),
            };
            let Departure { to, socket, arrival, .. } = departure;
            sent(to, arrival, result);
            socket.close();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{ops::ControlFlow, os::unix::net::UnixStream};

    use super::*;
    use crate::{
        mesh,
        shard::{Descriptor, DriverKind},
    };

    /// The arrivals that are told of, by shard and by the number in their bytes.
    fn sent(handover: &Handover) -> Vec<(usize, u8)> {
        let mut told = Vec::new();
        handover.send_waiting(|to, arrival, result| {
            result.unwrap();
            told.push((to, *arrival.bytes.first().unwrap()));
        });
        told
    }

    #[test]
    fn what_a_shard_has_no_room_for_waits_in_line_and_holds_up_no_other() {
        let mut life = async || {
            let (full, mut receiver) = mesh::handover(1 << 20).unwrap();
            let (other, _receiver) = mesh::handover(8).unwrap();
            let (_here, there) = UnixStream::pair().unwrap();
            let in_the_way =
                (0..1 << 20).take_while(|token| full.send(*token, there.as_fd()).is_ok());
            let in_the_way = in_the_way.count() as u64;
            let handover = Handover {
                senders: vec![full, other],
                receiver: RefCell::new(mesh::handover(8).unwrap().1),
                next_token: Cell::new(0),
                waiting: RefCell::default(),
            };
            for (number, to) in [(1, 0), (2, 1), (3, 0), (4, 1)] {
                let token = (1 << 48) + u64::from(number);
                let socket = Socket::new(UnixStream::pair().unwrap().0.into()).unwrap();
                let peer = "127.0.0.1:1".parse().unwrap();
                let descriptor = Descriptor::Sent(token);
                let arrival = Box::new(Arrival { peer, descriptor, bytes: vec![number] });
                let departure = Departure { to, token, socket, arrival };
                handover.waiting.borrow_mut().push_back(departure);
            }
            assert_eq!(sent(&handover), [(1, 2), (1, 4)]);
            assert_eq!(sent(&handover), []);
            (0..in_the_way).for_each(|token| drop(receiver.take(token).unwrap()));
            assert_eq!(sent(&handover), [(0, 1), (0, 3)]);
            assert!(handover.waiting.borrow().is_empty());
            for number in [1, 3] {
                receiver.take((1 << 48) + number).unwrap();
            }
            ControlFlow::Break(())
        };
        DriverKind::Epoll.run(&mut life).unwrap();
    }
}
