//! When the host's devices and entries are checked against what they should be. No I/O: time is passed in, as the time
//! since some fixed moment.
//!
//! A check of the devices is cheap and periodic. A comparison of all entries with the kernel costs what there is, so its
//! interval grows with its cost; a kernel event asks for one soon, but no sooner than its share of processor time allows.

use std::time::Duration;

/// How often devices are checked and failed entries retried, and at most how often everything is compared without a
/// reason (upstream's host-gw does so as often).
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The longest time between two comparisons.
pub const MAX_INTERVAL: Duration = Duration::from_secs(600);
/// How long a comparison waits for more events of the same kind.
const SETTLE: Duration = Duration::from_millis(100);
/// How long other hosts have to restore their leases in an etcd that has lost its data: longer than any of them needs to
/// notice, and than etcd needs to deliver each of them to all hosts.
const GRACE: Duration = Duration::from_secs(60);
const GRACE_PER_LEASE: Duration = Duration::from_millis(50);
/// Comparisons take at most one part in this many of processor time when nothing happens.
const IDLE_CPU_SHARE: u32 = 4000;
/// The same while kernel events follow each other.
const BUSY_CPU_SHARE: u32 = 10;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Check the devices and retry what failed.
    Check,
    /// Check, and compare all entries with the kernel.
    Compare,
    /// Drop the leases that nobody has restored.
    EndGrace,
}

/// The times at which something is due.
#[derive(Debug, Clone)]
pub struct Schedule {
    next_check: Duration,
    next_comparison: Duration,
    /// When the last comparison ended, and its processor time.
    last: Option<(Duration, Duration)>,
    /// When leases lost by etcd are dropped.
    grace: Option<Duration>,
}

impl Schedule {
    /// Everything is due at once.
    pub fn new(now: Duration) -> Self {
        Self { next_check: now, next_comparison: now, last: None, grace: None }
    }

    /// When to ask what is [`due`](Self::due).
    pub fn next_deadline(&self) -> Duration {
        self.grace.map_or(self.next_check, |end| self.next_check.min(end))
    }

    /// What is due, if anything; several things come one call at a time.
    pub fn due(&mut self, now: Duration) -> Option<Due> {
        if self.grace.is_some_and(|end| now >= end) {
            self.grace = None;
            return Some(Due::EndGrace);
        }
        if now < self.next_check {
            return None;
        }
        self.next_check = now + CHECK_INTERVAL;
        Some(if now >= self.next_comparison { Due::Compare } else { Due::Check })
    }

    /// Something may have been removed or replaced: compare soon.
    pub fn loss(&mut self, now: Duration) {
        let rested = self.last.map_or(now, |(ended, cost)| ended + cost * BUSY_CPU_SHARE);
        self.next_comparison = self.next_comparison.min(rested.max(now + SETTLE));
        self.next_check = self.next_check.min(self.next_comparison);
    }

    /// A comparison has read the kernel; the repair that follows may report another loss.
    pub fn comparing(&mut self) {
        self.next_comparison = self.next_check + MAX_INTERVAL;
    }

    /// A comparison could not read the kernel: repeat it with the next check.
    pub fn comparison_failed(&mut self) {
        self.next_comparison = self.next_check;
    }

    /// A comparison that began at `started` is done and took this much processor time.
    pub fn compared(&mut self, started: Duration, now: Duration, cost: Duration) {
        self.last = Some((now, cost));
        let interval = (cost * IDLE_CPU_SHARE).clamp(CHECK_INTERVAL, MAX_INTERVAL);
        self.next_comparison = self.next_comparison.min(started + interval);
    }

    /// etcd has lost its data, and with it this many leases that were known; returns how long they stay in effect.
    pub fn data_lost(&mut self, now: Duration, missing: usize) -> Duration {
        let grace = GRACE + GRACE_PER_LEASE * u32::try_from(missing).unwrap_or(u32::MAX);
        self.grace.get_or_insert(now + grace).saturating_sub(now)
    }

    /// Whether leases lost by etcd are still in effect.
    pub fn in_grace(&self) -> bool {
        self.grace.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// A schedule after its first comparison, which took this much processor time.
    fn after_first(cost: Duration) -> Schedule {
        let mut schedule = Schedule::new(s(0));
        assert_eq!(schedule.due(s(0)), Some(Due::Compare));
        schedule.comparing();
        schedule.compared(s(0), cost, cost);
        schedule
    }

    #[test]
    fn the_interval_grows_with_the_cost() {
        for (cost, next) in [(ms(0), s(10)), (ms(2), s(10)), (ms(5), s(20)), (ms(50), s(200)), (s(1), s(600))] {
            let mut schedule = after_first(cost);
            let mut now = s(10);
            while schedule.due(now) == Some(Due::Check) {
                now += CHECK_INTERVAL;
            }
            assert_eq!(now, next, "{cost:?}");
        }
    }

    #[test]
    fn a_loss_is_compared_after_it_settled_and_not_too_often() {
        for (cost, loss, due) in [
            (ms(0), ms(3000), ms(3100)),
            (ms(100), ms(3000), ms(3100)),
            // 2 s of processor time allow the next one 20 s after they were spent.
            (ms(2000), ms(3000), ms(22_000)),
        ] {
            let mut schedule = after_first(cost);
            schedule.loss(loss);
            schedule.loss(loss + ms(50));
            let mut now = schedule.next_deadline();
            while schedule.due(now) == Some(Due::Check) {
                now = schedule.next_deadline();
                if now > due {
                    now = now.min(due);
                }
            }
            assert_eq!(now, due, "{cost:?}");
        }
    }

    #[test]
    fn a_failed_comparison_is_repeated_with_the_next_check() {
        let mut schedule = after_first(s(1));
        schedule.loss(s(20));
        assert_eq!(schedule.due(s(20)), Some(Due::Check));
        assert_eq!(schedule.due(s(30)), Some(Due::Compare));
        schedule.comparison_failed();
        assert_eq!(schedule.next_deadline(), s(40));
        assert_eq!(schedule.due(s(40)), Some(Due::Compare));
    }

    #[test]
    fn grace_grows_with_the_missing_leases_and_ends_once() {
        let mut schedule = after_first(ms(0));
        assert_eq!(schedule.data_lost(s(5), 100), s(65));
        assert_eq!(schedule.data_lost(s(10), 5000), s(60), "the first end holds");
        assert!(schedule.in_grace());
        assert_eq!(schedule.due(s(10)), Some(Due::Compare));
        schedule.comparing();
        schedule.compared(s(10), s(10), s(1));
        assert_eq!(schedule.due(s(65)), Some(Due::Check));
        assert_eq!(schedule.next_deadline(), s(70));
        assert_eq!(schedule.due(s(70)), Some(Due::EndGrace));
        assert!(!schedule.in_grace());
        assert_eq!(schedule.next_deadline(), s(75));
    }
}
