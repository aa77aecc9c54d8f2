//! Keeping the lease: renewal before its end, and putting it right when etcd shows it gone or changed.
//!
//! Time is that of the boot clock, which goes on while the host sleeps and does not follow the wall clock's jumps: a
//! host that wakes knows at once how much of its lease is left.

use std::path::PathBuf;
use std::time::Duration;

use flannel_core::key::SubnetKey;
use flannel_core::renewal::Renewal;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use crate::error::Error;
use crate::metrics::METRICS;
use crate::subnet::store::{Life, SubnetStore};
use crate::subnet::{Held, Kept, SubnetManager, TTL};
use flannel_host::backoff::Backoff;

/// The first and the longest pause between two doubts about the lease.
const CALM: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often the boot clock is read; the runtime's own timers stand still while the host sleeps.
const GLANCE: Duration = Duration::from_secs(60);

/// Keeps one lease.
pub struct Keeper<'a, S> {
    manager: SubnetManager<'a, S>,
    key: SubnetKey,
    renewal: Renewal,
    subnet_file: PathBuf,
}

impl<'a, S: SubnetStore> Keeper<'a, S> {
    /// A keeper of a lease just taken, renewing it `margin` before its end.
    pub fn new(manager: SubnetManager<'a, S>, held: Held, margin: Duration, subnet_file: PathBuf) -> Self {
        let renewal = Renewal::new(now(), until_next(held.life), margin, fastrand::f64());
        Self { manager, key: held.key, renewal, subnet_file }
    }

    /// Runs until the lease is lost for good. `doubt` wakes it when the lease may not stand any more. Two hosts with
    /// one public address would put each other's lease right for ever, so doubts that follow each other closely wait
    /// longer and longer.
    pub async fn run(mut self, doubt: &Notify) -> Error {
        let mut calm = Backoff::new(CALM.0, CALM.1);
        let mut last_doubt: Option<Duration> = None;
        loop {
            let left = self.renewal.due().saturating_sub(now());
            tokio::select! {
                () = tokio::time::sleep_until(tokio::time::Instant::now() + left.min(GLANCE)) => {
                    if now() < self.renewal.due() {
                        continue;
                    }
                }
                () = doubt.notified() => {
                    if last_doubt.is_some_and(|last| now().saturating_sub(last) < CALM.1) {
                        calm.pause().await;
                    } else {
                        calm.reset();
                    }
                    last_doubt = Some(now());
                }
            }
            let now = now();
            match self.manager.keep(self.key).await {
                Ok(Kept::Ours(life)) => {
                    tracing::info!(lease = %self.key, "lease {} is ours {life}", self.key);
                    METRICS.renewals.inc();
                    self.renewal.renewed(now, until_next(life));
                }
                Ok(Kept::Foreign(holder)) => {
                    return Error::Conflict { key: self.key, holder, subnet_file: self.subnet_file };
                }
                Err(error) => {
                    let left = self.renewal.expires().saturating_sub(now).as_secs();
                    tracing::warn!(
                        "lease {} can't be renewed, it ends in {left} s: {error}; trying again in a minute",
                        self.key
                    );
                    METRICS.renewal_failures.inc();
                    self.renewal.failed(now);
                }
            }
        }
    }
}

/// The time since the host was started, sleep included.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A reservation never ends, but is looked at as often as a lease, since somebody may have made a lease of it.
fn until_next(life: Life) -> Duration {
    match life {
        Life::For(ttl) => ttl,
        Life::Reserved => TTL,
    }
}
