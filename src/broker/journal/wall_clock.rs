//! By which wall clock the expiry times of deliveries in the store were told: the store keeps Unix
//! times, and the wall clock may have been set since. See [`journal`](super).

use std::collections::VecDeque;

use super::Now;
use crate::record::{NEVER, Position};

/// A difference of so many milliseconds is a step, and not the two clocks' different pace.
const STEP: u64 = 1_000;
/// The steps that are remembered. Of what was staged before the first of these, expiry times may be
/// wrong by those that are forgotten.
const MAX_STEPS: usize = 64;

/// How far the wall clock has been ahead of the monotonic one.
#[derive(Debug, Default)]
pub(super) struct WallClock {
    /// From which position on, and by how much; oldest first.
    spans: VecDeque<(Position, i64)>,
}

impl WallClock {
    /// What has a position from `next` on is staged by these clocks.
    pub fn observe(&mut self, now: Now, next: Position) {
        let offset = offset(now);
        match self.spans.back() {
            Some((_, known)) if known.abs_diff(offset) < STEP => return,
            Some(_) => self.spans.push_back((next, offset)),
            // What a start finds is told by its own clocks.
            None => self.spans.push_back((0, offset)),
        }
        if self.spans.len() > MAX_STEPS {
            self.spans.pop_front();
        }
    }

    /// The Unix time at which the delivery at `position` expires, on the broker's clock; what is past
    /// is now.
    pub fn expiry(&self, now: Now, position: Position, at: u64) -> u64 {
        if at == NEVER {
            return u64::MAX;
        }
        let then = self.spans.iter().rfind(|(from, _)| *from <= position).or(self.spans.front());
        let offset = then.map_or(offset(now), |(_, offset)| *offset);
        now.monotonic.max(at.saturating_add_signed(offset.saturating_neg()))
    }
}

fn offset(now: Now) -> i64 {
    now.unix.cast_signed().wrapping_sub(now.monotonic.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_expires_by_the_clock_that_it_was_staged_by() {
        let mut clock = WallClock::default();
        let now = Now { monotonic: 100, unix: 50_100 };
        assert_eq!(clock.expiry(now, 7, 60_000), 10_000, "before anything is known");
        clock.observe(now, 10);
        clock.observe(Now { monotonic: 200, unix: 50_900 }, 20);
        let now = Now { monotonic: 300, unix: 0 };
        clock.observe(now, 30);
        for (position, at, expected) in [
            (7, 60_000, 10_000),
            (29, 60_000, 10_000),
            (30, 60_000, 60_300),
            (29, 50_000, 300),
            (29, NEVER, u64::MAX),
        ] {
            assert_eq!(clock.expiry(now, position, at), expected, "{at} at {position}");
        }
    }

    #[test]
    fn the_steps_remembered_are_bounded() {
        let mut clock = WallClock::default();
        for n in 1..1_000 {
            clock.observe(Now { monotonic: 0, unix: n * 5_000 }, n);
        }
        assert_eq!(clock.spans.len(), MAX_STEPS);
        let now = Now { monotonic: 0, unix: 0 };
        assert_eq!(clock.expiry(now, 999, 999 * 5_000 + 9), 9);
        assert_eq!(clock.expiry(now, 1, 936 * 5_000 + 9), 9, "the oldest one known");
    }
}
