//! What a session owes, by itself and against a model that forgets nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::session::{NEVER, Publication};

const CAPS: QueueCaps = QueueCaps { messages: 10, bytes: 1 << 20, drop_oldest: true };

fn delivery(number: u32, qos: QoS) -> Delivery {
    expiring(number, qos, NEVER)
}

fn expiring(number: u32, qos: QoS, expires_at: u64) -> Delivery {
    let payload = &number.to_be_bytes();
    let message = Message::new(&Publication {
        topic: "t",
        payload,
        forwarded: &[],
        qos,
        retain: false,
        expires_at,
    });
    Delivery {
        message: Arc::new(message),
        qos,
        retain: false,
        shared: number.is_multiple_of(2).then_some(NonZeroU32::MIN),
        subscription_ids: ThinVec::new(),
        position: UNSTORED,
    }
}

fn dropped(oldest: usize) -> Enqueued {
    Enqueued::Waits { dropped: vec![UNSTORED; oldest], dropped_stored: 0 }
}

fn number(delivery: &Delivery) -> u32 {
    u32::from_be_bytes(delivery.message.view().payload.try_into().unwrap())
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

/// Shows: MQTT5-2.2.1-4, MQTT5-4.3.2-1, MQTT5-4.3.3-1
#[test]
fn packet_ids_count_up_wrap_and_pass_over_those_in_use() {
    let mut outgoing = Outgoing::default();
    let mut last = 65_533;
    let ids: Vec<_> = (0..4)
        .map(|n| outgoing.send(delivery(n, QoS::AtLeastOnce), &mut last).unwrap().get())
        .collect();
    assert_eq!(ids, [65_534, 65_535, 1, 2]);
    last = 65_533;
    assert_eq!(outgoing.send(delivery(9, QoS::AtLeastOnce), &mut last), Some(id(3)));
    assert_eq!(last, 3);
}

#[test]
fn packet_ids_that_stay_in_use_are_passed_over_in_every_round() {
    let mut outgoing = Outgoing::default();
    let mut last = 0;
    let mut send =
        |outgoing: &mut Outgoing| outgoing.send(delivery(0, QoS::AtLeastOnce), &mut last).unwrap();
    let kept: Vec<PacketId> = (0..5).map(|_| send(&mut outgoing)).collect();
    assert_eq!(outgoing.puback(kept[1]), Acknowledged::Done(UNSTORED));
    assert_eq!(outgoing.puback(kept[2]), Acknowledged::Done(UNSTORED));
    for _ in 0..2 {
        let mut round = Vec::new();
        while round.last() != Some(&65_535) {
            let packet_id = send(&mut outgoing);
            round.push(packet_id.get());
            assert_eq!(outgoing.puback(packet_id), Acknowledged::Done(UNSTORED));
        }
        let free = [2, 3].into_iter().chain(6..=65_535);
        let skip = if round[0] == 6 { 2 } else { 0 };
        assert!(round.iter().copied().eq(free.skip(skip)));
    }
    assert_eq!(outgoing.inflight(), 3);
}

#[test]
fn with_all_packet_ids_in_use_messages_wait() {
    let mut outgoing = Outgoing::default();
    let mut last = 0;
    for n in 0..u16::MAX {
        // In order, so that each search ends at once.
        let phase = Phase::Puback;
        let delivery = Some(delivery(n.into(), QoS::AtLeastOnce));
        let (packet_id, position) = (id(n + 1), UNSTORED);
        let entry = Inflight { packet_id, phase, counted: true, dup: false, delivery, position };
        outgoing.inflight.push_back(entry);
    }
    (outgoing.sent, outgoing.window_used) = (65_535, 65_535);
    assert_eq!(outgoing.send(delivery(0, QoS::AtLeastOnce), &mut last), None);
    outgoing.enqueue(delivery(1, QoS::AtLeastOnce), CAPS);
    assert!(outgoing.next(u16::MAX, 0, &mut last, &mut Vec::new()).is_none());
    assert_eq!(outgoing.puback(id(500)), Acknowledged::Done(UNSTORED));
    let Some(Next::Publish { packet_id, .. }) =
        outgoing.next(u16::MAX, 0, &mut last, &mut Vec::new())
    else {
        panic!()
    };
    assert_eq!(packet_id, Some(id(500)));
}

#[test]
fn a_message_that_can_never_fit_takes_no_other_ones_place() {
    let mut outgoing = Outgoing::default();
    let size = delivery(0, QoS::AtLeastOnce).message.size();
    let caps = QueueCaps { messages: 10, bytes: size * 2 - 1, drop_oldest: true };
    assert_eq!(outgoing.enqueue(delivery(1, QoS::AtLeastOnce), caps), Enqueued::WAITS);
    assert_eq!(outgoing.enqueue(delivery(2, QoS::AtLeastOnce), caps), dropped(1));
    let caps = QueueCaps { bytes: size - 1, ..caps };
    assert_eq!(outgoing.enqueue(delivery(3, QoS::AtLeastOnce), caps), Enqueued::Dropped);
    let caps = QueueCaps { messages: 0, ..CAPS };
    assert_eq!(outgoing.enqueue(delivery(4, QoS::AtLeastOnce), caps), Enqueued::Dropped);
    assert_eq!(outgoing.queued(), 1);
}

#[test]
fn a_message_that_was_never_sent_is_not_a_duplicate() {
    let mut outgoing = Outgoing::default();
    let mut last = 0;
    for n in 0..3 {
        outgoing.send(delivery(n, QoS::AtLeastOnce), &mut last);
    }
    outgoing.connection_lost();
    // The next connection is gone before all is sent again.
    assert!(matches!(
        outgoing.next(1, 0, &mut last, &mut Vec::new()),
        Some(Next::Publish { dup: true, .. })
    ));
    assert!(outgoing.next(1, 0, &mut last, &mut Vec::new()).is_none());
    outgoing.connection_lost();
    for _ in 0..3 {
        let next = outgoing.next(9, 0, &mut last, &mut Vec::new());
        assert!(matches!(next, Some(Next::Publish { dup: true, .. })), "all were sent once");
    }
}

#[test]
fn an_acknowledgement_counts_only_for_what_was_sent_on_this_connection() {
    let mut outgoing = Outgoing::default();
    let mut last = 0;
    outgoing.send(delivery(0, QoS::AtLeastOnce), &mut last);
    outgoing.connection_lost();
    assert_eq!(outgoing.puback(id(1)), Acknowledged::UnknownPacketId);
    assert!(outgoing.next(1, 0, &mut last, &mut Vec::new()).is_some());
    assert_eq!(outgoing.puback(id(1)), Acknowledged::Done(UNSTORED));
    assert!(outgoing.is_empty());
}

#[test]
fn what_another_member_gets_was_shared_and_not_taken_over() {
    let mut outgoing = Outgoing::default();
    let mut last = 0;
    for (n, qos) in [(2, QoS::AtLeastOnce), (3, QoS::AtLeastOnce), (4, QoS::ExactlyOnce)] {
        outgoing.send(delivery(n, qos), &mut last);
    }
    outgoing.enqueue(delivery(6, QoS::ExactlyOnce), CAPS);
    outgoing.enqueue(delivery(7, QoS::ExactlyOnce), CAPS);
    assert_eq!(outgoing.in_memory().count(), 5);
    assert_eq!(outgoing.into_shared().map(|d| number(&d)).collect::<Vec<_>>(), [2, 6]);
}

fn stored(position: u64) -> Delivery {
    Delivery { position, ..delivery(position as u32, QoS::AtLeastOnce) }
}

#[test]
fn what_the_store_alone_keeps_comes_behind_what_is_in_memory_and_before_what_is_new() {
    let (mut outgoing, mut last) = (Outgoing::default(), 0);
    outgoing.enqueue(stored(1), CAPS);
    for position in 2..=4 {
        assert_eq!(outgoing.enqueue_stored(position, QoS::AtLeastOnce, 100, CAPS), Enqueued::WAITS);
    }
    assert_eq!((outgoing.queued(), outgoing.queued_in_memory()), (4, 1));
    assert!(!outgoing.has_room(9), "it would overtake them");
    assert_eq!(outgoing.wants_load(9), None, "one in memory comes first");
    assert!(outgoing.next(9, 0, &mut last, &mut Vec::new()).is_some());
    assert!(outgoing.next(9, 0, &mut last, &mut Vec::new()).is_none());
    assert_eq!(outgoing.wants_load(1), None, "the window is full");
    assert_eq!(outgoing.wants_load(9), Some(2));
    assert_eq!(outgoing.wants_load(9), None, "they are on their way");
    outgoing.enqueue_stored(5, QoS::AtLeastOnce, 100, CAPS);
    outgoing.loaded(vec![stored(2), stored(3)], 0, false);
    assert_eq!((outgoing.queued(), outgoing.queued_in_memory()), (4, 2));
    while outgoing.next(9, 0, &mut last, &mut Vec::new()).is_some() {}
    assert_eq!(outgoing.wants_load(9), Some(4));
    outgoing.loaded(vec![stored(4), stored(5)], 0, true);
    assert_eq!((outgoing.stored().messages, outgoing.stored().bytes), (0, 0));
    assert_eq!(outgoing.queued_in_memory(), 2);
}

#[test]
fn messages_that_the_store_has_lost_are_not_waited_for() {
    let mut outgoing = Outgoing::default();
    outgoing.restore_stored(StoredQueue { from: 7, messages: 5, bytes: 500, last_qos0: 0 });
    assert_eq!(outgoing.wants_load(9), Some(7));
    outgoing.enqueue_stored(20, QoS::AtLeastOnce, 100, CAPS);
    outgoing.loaded(vec![stored(8)], 1, true);
    assert_eq!(outgoing.stored().messages, 1, "the one that came since");
    assert_eq!(outgoing.stored().from, 9);
    outgoing.next(9, 0, &mut 0, &mut Vec::new());
    assert_eq!(outgoing.wants_load(9), Some(9));
    outgoing.loaded(Vec::new(), 0, true);
    assert_eq!(outgoing.queued(), 0);
}

#[test]
fn a_full_queue_drops_its_oldest_messages_wherever_they_are() {
    let mut outgoing = Outgoing::default();
    let caps = QueueCaps { messages: 3, ..CAPS };
    outgoing.enqueue(stored(1), caps);
    outgoing.enqueue_stored(2, QoS::AtLeastOnce, 100, caps);
    outgoing.enqueue_stored(3, QoS::AtLeastOnce, 100, caps);
    let from_memory = Enqueued::Waits { dropped: vec![1], dropped_stored: 0 };
    assert_eq!(outgoing.enqueue_stored(4, QoS::AtLeastOnce, 100, caps), from_memory);
    let from_store = Enqueued::Waits { dropped: Vec::new(), dropped_stored: 1 };
    assert_eq!(outgoing.enqueue_stored(5, QoS::AtLeastOnce, 100, caps), from_store);
    assert_eq!(outgoing.queued(), 3);
    let caps = QueueCaps { drop_oldest: false, ..caps };
    assert_eq!(outgoing.enqueue_stored(6, QoS::AtLeastOnce, 100, caps), Enqueued::Dropped);
}

#[test]
fn what_was_in_flight_before_a_restart_is_sent_again_under_its_packet_id() {
    let (mut outgoing, mut last) = (Outgoing::default(), 0);
    let second = Delivery { qos: QoS::ExactlyOnce, ..stored(2) };
    outgoing.restore_inflight(id(7), 1, Some(stored(1)));
    outgoing.restore_inflight(id(8), 2, Some(second));
    outgoing.restore_inflight(id(9), 3, None);
    for expected in [7, 8] {
        match outgoing.next(9, 0, &mut last, &mut Vec::new()) {
            Some(Next::Publish { packet_id, dup: true, .. }) => {
                assert_eq!(packet_id, Some(id(expected)));
            }
            other => panic!("{other:?}"),
        }
    }
    let Some(Next::Pubrel(released)) = outgoing.next(9, 0, &mut last, &mut Vec::new()) else {
        panic!()
    };
    assert_eq!(released, id(9));
    assert_eq!(outgoing.puback(id(7)), Acknowledged::Done(1));
    assert_eq!(outgoing.pubrec(id(8), false), Acknowledged::Release(2));
    assert_eq!(outgoing.pubcomp(id(9)), Acknowledged::Done(3));
}

/// The same by plain lists.
#[derive(Default)]
struct Model {
    inflight: Vec<Entry>,
    queue: VecDeque<(u32, QoS, u64)>,
    last: u16,
}

#[derive(Clone)]
struct Entry {
    number: u32,
    qos: QoS,
    id: u16,
    received: bool,
    /// On the present connection.
    sent: bool,
    counted: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Out {
    Publish(u32, u8, u16, bool),
    Pubrel(u16),
}

impl Model {
    fn used(&self) -> usize {
        self.inflight.iter().filter(|e| e.counted).count()
    }

    fn send(&mut self, number: u32, qos: QoS) -> u16 {
        let in_use = |id: &u16| self.inflight.iter().any(|e| e.id == *id);
        let mut id = self.last % u16::MAX + 1;
        while in_use(&id) {
            id = id % u16::MAX + 1;
        }
        self.last = id;
        let (received, sent, counted) = (false, true, true);
        self.inflight.push(Entry { number, qos, id, received, sent, counted });
        id
    }

    fn next(&mut self, window: usize, now: u64) -> Option<Out> {
        let room = self.used() < window;
        if let Some(entry) = self.inflight.iter_mut().find(|e| !e.sent) {
            if entry.received {
                entry.sent = true;
                return Some(Out::Pubrel(entry.id));
            }
            if !room {
                return None;
            }
            (entry.sent, entry.counted) = (true, true);
            return Some(Out::Publish(entry.number, entry.qos.value(), entry.id, true));
        }
        while self.queue.front().is_some_and(|(.., at)| *at <= now) {
            self.queue.pop_front();
        }
        let (number, qos, _) = *self.queue.front()?;
        if qos == QoS::AtMostOnce {
            self.queue.pop_front();
            return Some(Out::Publish(number, 0, 0, false));
        }
        if !room {
            return None;
        }
        self.queue.pop_front();
        let id = self.send(number, qos);
        Some(Out::Publish(number, qos.value(), id, false))
    }

    fn ack(&mut self, id: u16, kind: u8) -> Acknowledged {
        let at = self.inflight.iter().position(|e| e.id == id && e.sent);
        let Some(at) = at else { return Acknowledged::UnknownPacketId };
        let entry = &mut self.inflight[at];
        match (kind, entry.qos, entry.received) {
            (0, QoS::AtLeastOnce, _) | (2, QoS::ExactlyOnce, true) | (3, QoS::ExactlyOnce, _) => {
                self.inflight.remove(at);
                Acknowledged::Done(UNSTORED)
            }
            (1, QoS::ExactlyOnce, _) => {
                entry.received = true;
                Acknowledged::Release(UNSTORED)
            }
            _ => Acknowledged::WrongState,
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Deliver(u8, u64),
    Next,
    Ack(u16, u8),
    Lost,
    Time,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3u8, 1..50u64).prop_map(|(qos, expiry)| Step::Deliver(qos, expiry)),
        4 => Just(Step::Next),
        4 => (1..12u16, 0..4u8).prop_map(|(id, kind)| Step::Ack(id, kind)),
        1 => Just(Step::Lost),
        1 => Just(Step::Time),
    ];
    proptest::collection::vec(step, 0..200)
}

fn out(next: Next<'_>) -> Out {
    match next {
        Next::Publish { delivery, packet_id, dup } => {
            Out::Publish(number(delivery), delivery.qos.value(), packet_id.unwrap().get(), dup)
        }
        Next::Unacknowledged(delivery) => Out::Publish(number(&delivery), 0, 0, false),
        Next::Pubrel(id) => Out::Pubrel(id.get()),
    }
}

proptest! {
    #[test]
    fn agrees_with_a_model(steps in steps(), window in 1..5u16, first in 0..=u16::MAX) {
        let mut outgoing = Outgoing::default();
        let mut model = Model { last: first, ..Model::default() };
        let (mut last, mut now) = (first, 0);
        for (n, step) in steps.into_iter().enumerate() {
            let n = n as u32;
            match step {
                Step::Deliver(qos, expiry) => {
                    let qos = QoS::from_u8(qos).unwrap();
                    let may_send = model.queue.is_empty()
                        && model.inflight.iter().all(|e| e.sent)
                        && model.used() < usize::from(window);
                    prop_assert_eq!(outgoing.has_room(window), may_send);
                    if may_send && qos > QoS::AtMostOnce {
                        let id = outgoing.send(expiring(n, qos, now + expiry), &mut last);
                        prop_assert_eq!(id.unwrap().get(), model.send(n, qos));
                    } else {
                        let enqueued = outgoing.enqueue(expiring(n, qos, now + expiry), CAPS);
                        let full = model.queue.len() == CAPS.messages;
                        prop_assert_eq!(enqueued, dropped(full.into()));
                        if full {
                            model.queue.pop_front();
                        }
                        model.queue.push_back((n, qos, now + expiry));
                    }
                }
                Step::Next => {
                    let next = outgoing.next(window, now, &mut last, &mut Vec::new()).map(out);
                    prop_assert_eq!(next, model.next(window.into(), now));
                }
                Step::Ack(offset, kind) => {
                    // Near those that are in use.
                    let id = first.wrapping_add(offset).max(1);
                    let packet_id = PacketId::new(id).unwrap();
                    let acknowledged = match kind {
                        0 => outgoing.puback(packet_id),
                        1 => outgoing.pubrec(packet_id, false),
                        2 => outgoing.pubcomp(packet_id),
                        _ => outgoing.pubrec(packet_id, true),
                    };
                    prop_assert_eq!(acknowledged, model.ack(id, kind));
                }
                Step::Lost => {
                    outgoing.connection_lost();
                    for entry in &mut model.inflight {
                        (entry.sent, entry.counted) = (false, false);
                    }
                }
                Step::Time => now += 20,
            }
            prop_assert_eq!(outgoing.inflight(), model.inflight.len());
            prop_assert_eq!(outgoing.window_used, model.used());
            prop_assert_eq!(last, model.last);
            let bytes: usize = outgoing.queue.iter().map(|d| d.message.size()).sum();
            prop_assert_eq!(outgoing.queued_bytes(), bytes);
            let empty = model.inflight.is_empty() && model.queue.is_empty();
            prop_assert_eq!(outgoing.is_empty() , empty);
        }
    }
}

#[test]
fn what_has_expired_leaves_a_full_queue_and_is_not_looked_for_all_the_time() {
    let mut outgoing = Outgoing::default();
    let caps = QueueCaps { messages: 1_000, ..CAPS };
    for n in 0..1_000 {
        let expires_at = if n % 2 == 0 { NEVER } else { 100 + n };
        let qos = if n % 4 == 3 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        let delivery = Delivery { position: n, ..expiring(n as u32, qos, expires_at) };
        assert!(outgoing.drop_expired(100, caps, n).is_empty(), "there is room");
        outgoing.enqueue(delivery, caps);
    }
    assert_eq!(outgoing.drop_expired(100, caps, 105), [1, 3, 5]);
    assert_eq!((outgoing.queued(), outgoing.queued_qos0), (997, 249));
    let bytes: usize = outgoing.queue.iter().map(|delivery| delivery.message.size()).sum();
    assert_eq!(outgoing.queued_bytes(), bytes);
    let caps = QueueCaps { messages: 997, ..caps };
    assert!(outgoing.drop_expired(100, caps, 119).is_empty(), "it is too soon");
    assert_eq!(outgoing.drop_expired(100, caps, 120), [7, 9, 11, 13, 15, 17, 19]);
}
