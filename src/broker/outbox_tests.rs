//! Outboxes, by themselves and against a model of what each connection is owed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
use super::*;

const KEY: ConnectionKey = ConnectionKey(3);

fn bytes(out: &Outboxes, slot: &Option<Box<Outbox>>) -> Vec<Vec<u8>> {
    let mut slices = [IoSlice::new(&[]); 8];
    let Some(outbox) = slot else { return Vec::new() };
    let n = out.slices(outbox, &mut slices);
    slices[..n].iter().map(|s| s.to_vec()).collect()
}

fn data(out: &mut Outboxes, slot: &mut Option<Box<Outbox>>, bytes: &[u8]) -> Range {
    let range = out.encode(|arena| arena.extend_from_slice(bytes));
    out.push(KEY, slot, range);
    range
}

#[test]
fn consecutive_messages_are_one_slice_for_each_receiver() {
    let (mut out, mut a, mut b) = (Outboxes::default(), None, None);
    for message in [b"one", b"two"] {
        let range = data(&mut out, &mut a, message);
        out.push(ConnectionKey(4), &mut b, range);
        out.control(ConnectionKey(5), &mut None, |arena| arena.push(0));
    }
    assert_eq!(bytes(&out, &a), [b"onetwo"]);
    assert_eq!(bytes(&out, &b), [b"onetwo"]);
    assert_eq!(a.as_ref().unwrap().queued(), 6);
}

#[test]
fn order_is_kept_between_messages_and_control_packets() {
    let (mut out, mut slot) = (Outboxes::default(), None);
    data(&mut out, &mut slot, b"m1");
    out.control(KEY, &mut slot, |arena| arena.extend_from_slice(b"c1"));
    out.control(KEY, &mut slot, |arena| arena.extend_from_slice(b"c2"));
    data(&mut out, &mut slot, b"m2");
    assert_eq!(bytes(&out, &slot), [&b"m1"[..], b"c1c2", b"m2"]);
}

#[test]
fn a_short_write_goes_on_where_it_stopped() {
    let (mut out, mut slot) = (Outboxes::default(), None);
    data(&mut out, &mut slot, b"hello");
    out.control(KEY, &mut slot, |arena| arena.extend_from_slice(b"ack"));
    assert!(!out.written(&mut slot, 2, 0));
    assert_eq!(bytes(&out, &slot), [&b"llo"[..], b"ack"]);
    assert!(!out.written(&mut slot, 4, 0));
    assert_eq!(bytes(&out, &slot), [b"ck"]);
    assert!(out.written(&mut slot, 2, 0));
    assert!(slot.is_none());
}

#[test]
fn what_the_socket_does_not_take_survives_the_turn() {
    let (mut out, mut slot) = (Outboxes::default(), None);
    data(&mut out, &mut slot, b"hello");
    assert!(!out.written(&mut slot, 1, 0));
    out.block(&mut slot, 7);
    out.end_turn();
    data(&mut out, &mut slot, b" world");
    assert!(slot.as_ref().unwrap().is_blocked());
    assert_eq!(bytes(&out, &slot), [b"ello world"]);
    assert!(!out.written(&mut slot, 3, 8));
    out.block(&mut slot, 9);
    assert_eq!(bytes(&out, &slot), [b"o world"]);
    assert_eq!(slot.as_ref().unwrap().progress_at(), 8);
    assert!(out.written(&mut slot, 7, 9));
}

#[test]
fn what_is_queued_stays_when_what_is_spare_goes() {
    let (mut out, mut slot, mut other) = (Outboxes::default(), None, None);
    data(&mut out, &mut other, b"written");
    assert!(out.written(&mut other, 7, 0));
    out.end_turn();
    data(&mut out, &mut slot, b"hello");
    out.control(KEY, &mut slot, |arena| arena.extend_from_slice(b"ack"));
    data(&mut out, &mut other, b"gone");
    out.recycle(&mut other);
    assert_eq!(out.spare.len(), 1);
    out.shrink();
    assert_eq!((out.spare.capacity(), out.data.capacity()), (0, out.data.len()));
    assert_eq!(bytes(&out, &slot), [&b"hello"[..], b"ack"]);
    assert_eq!(out.next_dirty(), Some(KEY));
}

#[test]
fn a_connection_is_dirty_once() {
    let (mut out, mut slot) = (Outboxes::default(), None);
    data(&mut out, &mut slot, b"x");
    data(&mut out, &mut slot, b"y");
    assert_eq!(out.next_dirty(), Some(KEY));
    assert_eq!(out.next_dirty(), None);
}

#[test]
fn what_promises_something_waits_until_that_is_durable_and_holds_up_what_is_behind_it() {
    let (mut out, mut slot) = (Outboxes::default(), None);
    data(&mut out, &mut slot, b"m1");
    assert!(!out.hold(&mut slot, 5));
    out.control(KEY, &mut slot, |arena| arena.extend_from_slice(b"a5"));
    assert!(out.hold(&mut slot, 5));
    data(&mut out, &mut slot, b"m2");
    assert!(!out.hold(&mut slot, 6));
    out.control(KEY, &mut slot, |arena| arena.extend_from_slice(b"a6"));
    assert_eq!(out.next_dirty(), Some(KEY));
    assert!(slot.as_mut().unwrap().unlist());
    assert_eq!(bytes(&out, &slot), [b"m1"]);
    assert!(out.written(&mut slot, 2, 0), "nothing is left that may be written");
    out.end_turn();
    assert_eq!((slot.as_ref().unwrap().queued(), out.next_dirty()), (6, None));

    out.release(KEY, &mut slot, 4);
    assert_eq!(out.next_dirty(), None);
    out.release(KEY, &mut slot, 5);
    assert_eq!(out.next_dirty(), Some(KEY));
    assert_eq!(bytes(&out, &slot), [b"a5m2"]);
    out.release(KEY, &mut slot, 6);
    assert_eq!(bytes(&out, &slot), [b"a5m2a6"]);
    data(&mut out, &mut slot, b"m3");
    assert!(!slot.as_ref().unwrap().is_holding());
    assert!(out.written(&mut slot, 8, 0));
    assert!(slot.is_none());
}

#[test]
fn a_hold_with_nothing_behind_it_leaves_nothing() {
    let (mut out, mut slot) = (Outboxes::default(), None);
    out.hold(&mut slot, 1);
    out.release(KEY, &mut slot, 1);
    assert!(slot.is_none());
}

#[derive(Debug, Clone)]
enum Step {
    /// A packet of its own for one connection.
    Own(usize, u8),
    /// A control packet.
    Control(usize, u8),
    /// One packet for all connections.
    All(u8),
    /// The socket takes so many bytes, and no more if that is less than all.
    Write(usize, usize),
    /// Every socket takes so many bytes, and the turn ends.
    EndTurn(usize),
    /// The connection is gone, and its slot used again.
    Close(usize),
    /// The arenas are full.
    Spill,
}

const CONNECTIONS: usize = 3;

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    use proptest::prelude::*;
    let c = 0..CONNECTIONS;
    let step = prop_oneof![
        4 => (c.clone(), 0..40u8).prop_map(|(c, n)| Step::Own(c, n)),
        4 => (c.clone(), 0..10u8).prop_map(|(c, n)| Step::Control(c, n)),
        4 => (0..40u8).prop_map(Step::All),
        3 => (c.clone(), 0..100usize).prop_map(|(c, n)| Step::Write(c, n)),
        2 => (0..200usize).prop_map(Step::EndTurn),
        1 => c.prop_map(Step::Close),
        1 => Just(Step::Spill),
    ];
    proptest::collection::vec(step, 0..150)
}

/// Outboxes, and the bytes that each connection is owed.
#[derive(Default)]
struct Model {
    out: Outboxes,
    slots: [Option<Box<Outbox>>; CONNECTIONS],
    owed: [Vec<u8>; CONNECTIONS],
    next: u8,
}

impl Model {
    fn bytes(&mut self, n: u8) -> Vec<u8> {
        let next = (0..n).map(|i| self.next.wrapping_add(i)).collect();
        self.next = self.next.wrapping_add(n);
        next
    }

    /// The socket takes at most `room` bytes; what it takes is what it is owed.
    fn write(&mut self, c: usize, mut room: usize) {
        while self.slots[c].is_some() {
            let mut slices = [IoSlice::new(&[]); 2];
            let n = self.out.slices(self.slots[c].as_ref().unwrap(), &mut slices);
            let all: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
            let sent = all.len().min(room);
            assert_eq!(all[..sent], self.owed[c][..sent]);
            self.owed[c].drain(..sent);
            room -= sent;
            if self.out.written(&mut self.slots[c], sent, 1) {
                break;
            }
            if sent < all.len() || sent == 0 {
                return self.out.block(&mut self.slots[c], 1);
            }
        }
        assert!(self.owed[c].is_empty());
    }

    fn step(&mut self, step: &Step) {
        let key = |c: usize| ConnectionKey(c as u32);
        match *step {
            Step::Own(c, n) => {
                let bytes = self.bytes(n);
                self.owed[c].extend_from_slice(&bytes);
                let range = self.out.encode(|arena| arena.extend_from_slice(&bytes));
                self.out.push(key(c), &mut self.slots[c], range);
            }
            Step::Control(c, n) => {
                let bytes = self.bytes(n);
                self.owed[c].extend_from_slice(&bytes);
                let f = |arena: &mut Vec<u8>| arena.extend_from_slice(&bytes);
                self.out.control(key(c), &mut self.slots[c], f);
            }
            Step::All(n) => {
                let bytes = self.bytes(n);
                let range = self.out.encode(|arena| arena.extend_from_slice(&bytes));
                for c in 0..CONNECTIONS {
                    self.owed[c].extend_from_slice(&bytes);
                    self.out.push(key(c), &mut self.slots[c], range);
                }
            }
            Step::Write(c, room) => self.write(c, room),
            Step::EndTurn(room) => {
                while let Some(key) = self.out.next_dirty() {
                    if !self.slots[key.index()].as_ref().is_some_and(|o| o.is_blocked()) {
                        self.write(key.index(), room);
                    }
                }
                self.out.end_turn();
                assert_eq!(self.out.encoded(), 0);
            }
            Step::Spill => {
                for slot in self.slots.iter_mut().flatten() {
                    self.out.spill(slot);
                }
                self.out.clear();
            }
            Step::Close(c) => {
                self.out.recycle(&mut self.slots[c]);
                self.owed[c].clear();
            }
        }
        for c in 0..CONNECTIONS {
            let queued = self.slots[c].as_ref().map_or(0, |outbox| outbox.queued());
            assert_eq!(queued, self.owed[c].len());
        }
    }
}

proptest::proptest! {
    #[test]
    fn every_connection_gets_its_bytes_in_order(steps in steps()) {
        let mut model = Model::default();
        for step in &steps {
            model.step(step);
        }
        for c in 0..CONNECTIONS {
            model.write(c, usize::MAX);
        }
    }
}
