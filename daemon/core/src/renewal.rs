//! When a lease is to be renewed.

use std::time::{Duration, Instant};

/// How long after a failed renewal the next is tried (contract, section 2.5: upstream's minute).
const RETRY: Duration = Duration::from_secs(60);

/// The clock of one lease; time is passed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    expires: Instant,
    margin: Duration,
    due: Instant,
}

impl Renewal {
    /// A lease taken at `now` that lives for `ttl`, to be renewed `margin` before its end.
    pub fn new(now: Instant, ttl: Duration, margin: Duration) -> Self {
        let expires = now + ttl;
        Self { expires, margin, due: expires.checked_sub(margin).unwrap_or(now).max(now) }
    }

    /// When to renew.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// When the lease ends unless renewed.
    pub fn expires(&self) -> Instant {
        self.expires
    }

    /// The lease was renewed for `ttl`.
    pub fn renewed(&mut self, now: Instant, ttl: Duration) {
        *self = Self::new(now, ttl, self.margin);
    }

    /// The renewal failed and is tried again in a minute.
    pub fn failed(&mut self, now: Instant) {
        self.due = now + RETRY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn renews_a_margin_before_the_end_and_every_minute_after_a_failure() {
        let now = Instant::now();
        let mut renewal = Renewal::new(now, 24 * HOUR, HOUR);
        assert_eq!(renewal.due(), now + 23 * HOUR);
        renewal.failed(now + 23 * HOUR);
        assert_eq!(renewal.due(), now + 23 * HOUR + Duration::from_secs(60));
        renewal.renewed(now + 23 * HOUR, 24 * HOUR);
        assert_eq!(renewal.due(), now + 46 * HOUR);
        assert_eq!(renewal.expires(), now + 47 * HOUR);
    }

    #[test]
    fn a_lease_shorter_than_the_margin_is_due_at_once() {
        let now = Instant::now();
        assert_eq!(Renewal::new(now, HOUR / 2, HOUR).due(), now);
    }
}
