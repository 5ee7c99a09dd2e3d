//! Looking at the ring again before a turn ends, and before the shard sleeps.
//!
//! The ring hands out some 20 events at a time. When messages came on that many connections, it is likely
//! that there are more; and the more a turn answers at once, the less often the threads of other shards and
//! of clients on this machine are woken, and the more of the kernel's work is done in one go.
//!
//! After a turn in which much came, more is likely to come soon. Were the shard to sleep at once, it would
//! be woken for the first message of it, before those who send could send the rest. So it lets other threads
//! of its processor run, if there are any, and looks once more.

use std::time::Instant;

use crate::limits;

/// Whether a turn goes on gathering.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// The connections on which messages have come since the last look.
    talked: u32,
    /// When the turn began to gather.
    since: Option<Instant>,
    /// Much has come since the shard last let others run.
    lingers: bool,
}

impl Gathering {
    /// Messages have come on a connection.
    pub fn count(&mut self) {
        self.talked += 1;
    }

    /// Whether to look again, asked after each look. `now` is asked for only when it matters.
    pub fn goes_on(&mut self, now: impl FnOnce() -> Instant) -> bool {
        let busy = std::mem::take(&mut self.talked) >= limits::TALKS_OF_A_BUSY_LOOK;
        self.lingers |= busy;
        self.since = busy.then(now).and_then(|now| match self.since {
            Some(since) if now.saturating_duration_since(since) >= limits::GATHER_FOR => None,
            since => since.or(Some(now)),
        });
        self.since.is_some()
    }

    /// Whether a shard that has nothing left to do is to let others run and look once more before it
    /// sleeps: once after each turn in which much came.
    pub fn lingers(&mut self) -> bool {
        std::mem::take(&mut self.lingers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(gathering: &mut Gathering, talked: u32, now: Instant) -> bool {
        (0..talked).for_each(|_| gathering.count());
        gathering.goes_on(|| now)
    }

    #[test]
    fn a_turn_gathers_while_much_comes_and_not_for_long() {
        let mut gathering = Gathering::default();
        let busy = limits::TALKS_OF_A_BUSY_LOOK;
        let start = Instant::now();
        assert!(!look(&mut gathering, busy - 1, start));
        assert!(!look(&mut gathering, 1, start), "each look counts for itself");
        for round in 0..2 {
            let start = start + round * limits::GATHER_FOR;
            assert!(look(&mut gathering, busy, start));
            assert!(look(&mut gathering, busy, start + limits::GATHER_FOR / 2));
            assert!(!look(&mut gathering, busy, start + limits::GATHER_FOR), "it is time");
        }
        assert!(look(&mut gathering, busy, start));
        assert!(!look(&mut gathering, 0, start), "nothing more has come");
        assert!(look(&mut gathering, busy, start + limits::GATHER_FOR), "that is another turn");
    }

    #[test]
    fn a_shard_lingers_once_when_much_has_come() {
        let mut gathering = Gathering::default();
        let busy = limits::TALKS_OF_A_BUSY_LOOK;
        let start = Instant::now();
        look(&mut gathering, busy - 1, start);
        assert!(!gathering.lingers());
        look(&mut gathering, busy, start);
        look(&mut gathering, 0, start);
        assert!(gathering.lingers(), "however little came at the end");
        assert!(!gathering.lingers(), "nothing has come since");
    }
}
