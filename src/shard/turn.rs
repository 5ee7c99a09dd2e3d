//! The end of a turn: mail out, mail in, effects, and then all outboxes.

use std::{
    future::poll_fn,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use super::{Envelope, Shard, renewal::Task, trim};
use crate::{
    broker::{Broker, ConnectionKey, Effect},
    limits,
    topics::ShardId,
    transport::Socket,
};

/// Time goes by in steps no longer than this.
const LONGEST_SLEEP: Duration = Duration::from_millis(250);
/// And no shorter.
const TICK: Duration = Duration::from_millis(10);
/// A shard that comes to look at its clock this much too late, in milliseconds, has stood still:
/// the process was stopped or frozen, or the machine had no processor for it.
const STALL: u64 = 500;
/// How long it reads then, at the most, before it lets the time pass, in milliseconds.
const CATCH_UP: u64 = 1_000;

/// Why a shard's event loop ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The broker stops.
    Drained,
    /// The shard goes on with a new one.
    Renewed,
}

impl Shard {
    /// The root future: ends each turn, and is ready when the shard has drained, or goes on with a
    /// new event loop.
    pub(super) async fn run(self: Rc<Self>) -> Ending {
        self.spawn_tasks();
        poll_fn(|cx| {
            if self.root.borrow().is_none() {
                *self.root.borrow_mut() = Some(cx.waker().clone());
            }
            if self.asleep.replace(false) {
                self.endpoint.awake();
            }
            self.now.set(self.clock.now());
            self.hear_regulars();
            let more_comes = self.gathering.borrow_mut().goes_on(Instant::now);
            if more_comes && self.newcomers.borrow().is_empty() {
                self.go_on();
                return Poll::Pending;
            }
            self.end_turn();
            self.return_credit();
            if self.has_drained() {
                self.renewal.end_tasks(Ending::Drained);
            }
            if let Some(ending) = self.renewal.ending() {
                self.stats.event_loops_renewed.add((ending == Ending::Renewed).into());
                return Poll::Ready(ending);
            }
            let more = self.take_in()
                || self.broker.borrow().has_work()
                || self.regulars.borrow().goes_on()
                || !self.next_turn.borrow().is_empty()
                || self.handover.as_ref().is_some_and(|h| !h.waiting.borrow().is_empty());
            let lingers = !more && self.gathering.borrow_mut().lingers();
            if lingers {
                rustix::thread::sched_yield();
            }
            if more || lingers || !self.endpoint.prepare_sleep() {
                self.go_on();
            } else {
                self.asleep.set(true);
            }
            Poll::Pending
        })
        .await
    }

    /// Begins on a new event loop, with the tasks that are no connection's.
    fn spawn_tasks(self: &Rc<Self>) {
        // Whatever was to be woken was on the old one.
        *self.root.borrow_mut() = None;
        self.asleep.set(false);
        if self.renewal.is_wanted() {
            // What the old one has freed.
            trim::ready_to_give_back();
        }
        self.renewal.begin();
        for listener in self.listeners.borrow().iter() {
            monoio::spawn(Rc::clone(self).accept_from(Rc::clone(listener)));
        }
        monoio::spawn(Rc::clone(self).watch_mailbox());
        monoio::spawn(Rc::clone(self).watch_clock());
        monoio::spawn(Rc::clone(self).watch_regulars());
    }

    /// Begins another turn, through the event loop: were a task woken from here, the loop would run
    /// it without looking at the ring, and as long as there is always such a task no socket and no
    /// timer would get its turn.
    fn go_on(&self) {
        // It fails only if the counter is at its maximum, and then the loop wakes up anyway.
        let _ = rustix::io::write(self.endpoint.wake_fd(), &1_u64.to_ne_bytes());
    }

    /// Begins a turn when another shard, or this one, has asked for it.
    async fn watch_mailbox(self: Rc<Self>) {
        let task = Task::new(&self);
        while let Some(Ok(())) = task.or_end(self.wake.readable()).await {
            self.endpoint.clear_wake();
            self.touch();
            for waker in self.next_turn.take() {
                waker.wake();
            }
        }
    }

    /// Ends sleeps in which time is to pass.
    async fn watch_clock(self: Rc<Self>) {
        let task = Task::new(&self);
        while !self.renewal.is_wanted() {
            let deadline = self.broker.borrow().next_deadline();
            let sleep = deadline.map_or(LONGEST_SLEEP, |at| {
                Duration::from_millis(at.saturating_sub(self.clock.now().monotonic))
            });
            task.or_end(monoio::time::sleep(sleep.clamp(TICK, LONGEST_SLEEP))).await;
            self.touch();
        }
    }

    /// Lets time pass, at the end of each turn if it is time for that: a busy loop may not come to
    /// its timers.
    fn tick(self: &Rc<Self>) {
        let now = self.now();
        if now.monotonic < self.next_tick.get() {
            return;
        }
        let late = now.monotonic - self.next_tick.get();
        if late >= STALL && !self.catching_up.replace(true) {
            // What arrived meanwhile arrived in time, and the event loop tells of a few sockets
            // only at once: it is read before anything is found to be overdue.
            self.next_tick.set(now.monotonic + late.min(CATCH_UP));
            self.stats.stalls.add(1);
            self.stats.stalled_milliseconds.add(late);
            return;
        }
        self.catching_up.set(false);
        self.next_tick.set(now.monotonic + TICK.as_millis() as u64);
        self.broker.borrow_mut().on_tick(now);
        self.dismiss_silent_regulars();
        for key in self.unwritten.take() {
            self.write_or_wait(&mut self.broker.borrow_mut(), key);
        }
    }

    /// Passes on what the turn has produced.
    pub(super) fn end_turn(self: &Rc<Self>) {
        self.tick();
        self.broker.borrow_mut().on_turn(self.now());
        self.receive_mail();
        self.apply_effects();
        self.send_handovers();
        self.send_mail();
        self.flush();
        // Writing may have made room for more, which may have made room for more.
        for _ in 0..4 {
            let mut broker = self.broker.borrow_mut();
            let more = broker.has_output() || broker.mail().has_items();
            drop(broker);
            self.apply_effects();
            if !more {
                return;
            }
            self.send_mail();
            self.flush();
        }
        self.touch();
    }

    /// Takes in what other shards have sent.
    pub(super) fn receive_mail(self: &Rc<Self>) {
        // All that is there, for it happened before what this shard does next. Senders that go on
        // sending meanwhile get no further than their credit.
        let credit = self.settings.shards.mesh_credit as usize;
        let mut left = credit.saturating_mul(self.endpoint.shards());
        while left > 0 {
            let Some(batch) = self.endpoint.receive() else { break };
            left = left.saturating_sub(batch.items.len());
            // No earlier than the sender's: a message would have longer to live than it was sent
            // with. [MQTT-3.3.2-6]
            self.now.set(self.clock.now());
            for envelope in batch.items {
                match envelope {
                    Envelope::Mail(mail) => self.broker.borrow_mut().on_mail(self.now(), mail),
                    Envelope::Connection(arrival) => self.on_arrival(*arrival),
                    Envelope::Store(outcome) => {
                        self.broker.borrow_mut().on_outcome(self.now(), outcome);
                    }
                    Envelope::Drain(timeout) => self.drain(timeout),
                    Envelope::Shrink(shrink) => self.shrink(shrink),
                }
            }
            if let Some(owed) = self.owed.borrow_mut().get_mut(batch.from) {
                *owed += batch.cost;
            }
            // Whoever reads fast is not to lose messages because many came at once.
            if self.broker.borrow().encoded_bytes() > limits::ENCODED_PER_TURN {
                self.send_mail();
                self.flush();
            }
        }
        if self.endpoint.take_credit_returned() {
            let mut broker = self.broker.borrow_mut();
            self.renew_credit(&mut broker);
            if !self.is_store_full() {
                broker.on_credit();
            }
        }
    }

    /// Gives back the credit for what came in this turn. Not before its end: mail is taken in
    /// before each read, and a shard that always got more of it would do nothing else.
    fn return_credit(&self) {
        for (from, owed) in self.owed.borrow_mut().iter_mut().enumerate() {
            self.endpoint.returned(from, std::mem::take(owed));
        }
    }

    /// Sends what is staged for other shards: one push, and at most one wake-up, for each.
    fn send_mail(&self) {
        let mut broker = self.broker.borrow_mut();
        let mut outgoing = self.outgoing.borrow_mut();
        broker.take_mail(|to, mail, cost| {
            let Some(staged) = outgoing.get_mut(usize::from(to.0)) else { return };
            // Made of the mail in place, if there is nothing to go before it.
            let mail = mail.into_iter().map(Envelope::Mail);
            let envelopes = match std::mem::take(staged) {
                staged if staged.is_empty() => mail.collect(),
                mut staged => {
                    staged.extend(mail);
                    staged
                }
            };
            self.endpoint.send(usize::from(to.0), envelopes, cost);
        });
        for (to, staged) in outgoing.iter_mut().enumerate() {
            if !staged.is_empty() {
                self.endpoint.send(to, std::mem::take(staged), 0);
            }
        }
        self.renew_credit(&mut broker);
        drop(broker);
        self.submit();
        let mut broker = self.broker.borrow_mut();
        if broker.is_starved() {
            let has_credit = (0..self.endpoint.shards())
                .filter(|to| *to != self.endpoint.id())
                .all(|to| self.endpoint.has_ample_credit(to) || self.endpoint.await_credit(to));
            // Once it has kept something, the store tells of it, and there is another turn.
            if has_credit && !self.is_store_full() {
                broker.on_credit();
            }
        }
    }

    fn renew_credit(&self, broker: &mut Broker) {
        for to in 0..self.endpoint.shards() {
            let (credit, reserve) = (self.endpoint.credit(to), self.endpoint.reserve());
            broker.mail().set_credit(ShardId(to as u16), credit, reserve);
        }
    }

    /// Stages an envelope for another shard.
    pub(super) fn stage(&self, to: usize, envelope: Envelope) {
        if let Some(staged) = self.outgoing.borrow_mut().get_mut(to) {
            staged.push(envelope);
        }
    }

    /// Sends descriptors to their home shards, and stages what belongs to them.
    fn send_handovers(&self) {
        let Some(handover) = &self.handover else { return };
        handover.send_waiting(|to, arrival, result| match result {
            Ok(()) => self.stage(to, Envelope::Connection(arrival)),
            Err(error) => self.lost(arrival.peer, &error),
        });
    }

    fn apply_effects(&self) {
        let effects = self.broker.borrow_mut().take_effects();
        for effect in effects {
            match effect {
                // If there is something to write, the stream ends behind that.
                Effect::Finish(key) if self.broker.borrow().has_queued(key) => {}
                Effect::Finish(key) => {
                    if let Some((descriptor, _)) = self.descriptor(key) {
                        Socket::shut_down_writing(descriptor);
                    }
                }
                Effect::Abort(key) => {
                    if let Some((descriptor, _)) = self.descriptor(key) {
                        Socket::shut_down(descriptor);
                    }
                    self.resume(key);
                }
                Effect::Resume(key) => self.resume(key),
            }
        }
    }

    fn resume(&self, key: ConnectionKey) {
        let waker = self.paused.borrow_mut().remove(&key.0);
        if let Some(waker) = waker {
            waker.wake();
        }
        self.regulars.borrow_mut().resume(key);
    }

    fn drain(&self, timeout: Duration) {
        self.draining.set(true);
        self.drain_until.set(Instant::now().checked_add(timeout));
        for listener in self.listeners.borrow_mut().drain(..) {
            listener.shut_down();
        }
        self.turn_away();
        self.broker.borrow_mut().on_drain(self.now());
    }

    fn has_drained(&self) -> bool {
        self.draining.get()
            && (self.broker.borrow().connections() == 0
                || self.drain_until.get().is_none_or(|until| Instant::now() >= until))
    }
}
