//! When to recheck rules after another program has changed the packet filter: soon, but not as often as it changes.
//!
//! Our own changes are announced too, and cost one recheck that finds nothing to do. Two programs that undo each
//! other's changes would go round for ever; [`BURST`] and [`REFILL`] bound what that costs.

use std::time::{Duration, Instant};

/// How long after a notification the rules are checked, so that a program that changes many is done.
pub const DEBOUNCE: Duration = Duration::from_millis(50);

/// How many rechecks may follow one another that closely.
pub const BURST: u32 = 5;

/// How long it takes to earn one more recheck after that.
pub const REFILL: Duration = Duration::from_secs(5);

/// A token bucket; the caller passes the time in.
#[derive(Debug, Clone)]
pub struct Recheck {
    tokens: u32,
    /// Up to when time has been exchanged for tokens.
    counted: Instant,
    due: Option<Instant>,
}

impl Recheck {
    /// Nothing is due.
    pub fn new(now: Instant) -> Self {
        Self { tokens: BURST, counted: now, due: None }
    }

    /// The packet filter has changed.
    pub fn changed(&mut self, now: Instant) {
        self.refill(now);
        if self.due.is_none() {
            let earned = if self.tokens == 0 { self.counted + REFILL } else { now };
            self.due = Some(earned.max(now + DEBOUNCE));
        }
    }

    /// When to check, if a change has been seen.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The rules are about to be checked, because it was due or for another reason; changes up to now are covered.
    pub fn checking(&mut self, now: Instant) {
        self.refill(now);
        if self.due.take().is_some() {
            self.tokens = self.tokens.saturating_sub(1);
        }
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < BURST && now >= self.counted + REFILL {
            self.tokens += 1;
            self.counted += REFILL;
        }
        if self.tokens == BURST {
            self.counted = self.counted.max(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    /// How many checks a source of notifications, one a step, causes in this time.
    fn checks(time: Duration) -> u32 {
        let mut now = Instant::now();
        let (end, mut recheck, mut checks) = (now + time, Recheck::new(now), 0);
        while now < end {
            recheck.changed(now);
            now += STEP;
            if recheck.due().is_some_and(|due| due <= now) {
                recheck.checking(now);
                checks += 1;
            }
        }
        checks
    }

    #[test]
    fn one_change_is_checked_soon_and_once() {
        let now = Instant::now();
        let mut recheck = Recheck::new(now);
        assert_eq!(recheck.due(), None);
        recheck.changed(now);
        recheck.changed(now + STEP);
        assert_eq!(recheck.due(), Some(now + DEBOUNCE));
        recheck.checking(now + DEBOUNCE);
        assert_eq!(recheck.due(), None);
    }

    #[test]
    fn a_stream_of_changes_has_a_bounded_rate() {
        assert_eq!(checks(Duration::from_secs(1)), BURST);
        let minute = checks(Duration::from_secs(60));
        assert!((BURST + 10..=BURST + 12).contains(&minute), "{minute}");
    }

    #[test]
    fn after_a_quiet_time_it_is_quick_again() {
        let start = Instant::now();
        let mut recheck = Recheck::new(start);
        for _ in 0..BURST {
            recheck.changed(start);
            recheck.checking(start);
        }
        recheck.changed(start + STEP);
        assert_eq!(recheck.due(), Some(start + REFILL));
        recheck.checking(start + REFILL);
        let later = start + REFILL * (BURST + 1);
        recheck.changed(later);
        assert_eq!(recheck.due(), Some(later + DEBOUNCE));
    }
}
