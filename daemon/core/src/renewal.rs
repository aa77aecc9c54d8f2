//! When a lease is to be renewed.

use std::time::Duration;

/// How long after a failed renewal the next is tried (docs/upstream.md, section 2.5: upstream's minute), unless the lease is
/// so short that this would be most of it.
const RETRY: Duration = Duration::from_secs(60);

/// The clock of one lease. Time is passed in, as what has gone by since some fixed moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Renewal {
    ttl: Duration,
    expires: Duration,
    margin: Duration,
    early: f64,
    due: Duration,
}

impl Renewal {
    /// A lease taken at `now` that lives for `ttl`, to be renewed `margin` before its end, or half-way if that comes
    /// later. `early`, from 0 to 1, is the host's own: up to half a margin earlier, so that hosts which started together
    /// do not renew together ever after.
    pub fn new(now: Duration, ttl: Duration, margin: Duration, early: f64) -> Self {
        let expires = now + ttl;
        let margin_of_this = margin.min(ttl / 2);
        let earlier = margin_of_this.min(ttl - margin_of_this).mul_f64(early.clamp(0.0, 1.0) / 2.0);
        Self { ttl, expires, margin, early, due: expires - margin_of_this - earlier }
    }

    /// When to renew.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// When the lease ends unless renewed.
    pub fn expires(&self) -> Duration {
        self.expires
    }

    /// The lease was renewed for `ttl`.
    pub fn renewed(&mut self, now: Duration, ttl: Duration) {
        *self = Self::new(now, ttl, self.margin, self.early);
    }

    /// The renewal failed and is tried again.
    pub fn failed(&mut self, now: Duration) {
        self.due = now + RETRY.min(self.ttl / 5);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn renews_a_margin_before_the_end_and_every_minute_after_a_failure() {
        let now = 100 * HOUR;
        let mut renewal = Renewal::new(now, 24 * HOUR, HOUR, 0.0);
        assert_eq!(renewal.due(), now + 23 * HOUR);
        renewal.failed(now + 23 * HOUR);
        assert_eq!(renewal.due(), now + 23 * HOUR + Duration::from_secs(60));
        renewal.renewed(now + 23 * HOUR, 24 * HOUR);
        assert_eq!(renewal.due(), now + 46 * HOUR);
        assert_eq!(renewal.expires(), now + 47 * HOUR);
    }

    #[test]
    fn a_lease_shorter_than_the_margin_is_due_half_way() {
        let now = 100 * HOUR;
        let mut renewal = Renewal::new(now, HOUR / 60, HOUR, 0.0);
        assert_eq!(renewal.due(), now + HOUR / 120);
        renewal.failed(now);
        assert_eq!(renewal.due(), now + HOUR / 300);
    }

    #[test]
    fn hosts_of_one_start_renew_apart() {
        let due = |early| Renewal::new(Duration::ZERO, 24 * HOUR, HOUR, early).due();
        assert_eq!((due(0.0), due(0.5), due(1.0)), (23 * HOUR, 23 * HOUR - HOUR / 4, 23 * HOUR - HOUR / 2));
        let short = |early| Renewal::new(Duration::ZERO, HOUR / 60, HOUR, early).due();
        assert_eq!((short(0.0), short(1.0)), (HOUR / 120, HOUR / 240));
    }
}
