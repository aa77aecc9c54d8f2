//! Keeping the lease: renewing it before it expires, and restoring it when the watch shows it gone or changed.
//!
//! Time is that of the boot clock, which goes on while the host sleeps and does not follow the wall clock's jumps: a
//! host that wakes up knows at once how much of its lease is left.

use std::path::PathBuf;
use std::time::Duration;

use flannel_core::key::SubnetKey;
use flannel_core::renewal::Renewal;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use crate::error::Error;
use crate::metrics::METRICS;
use crate::subnet::{OwnLease, Renewed, SubnetManager, TTL};
use flannel_host::backoff::Backoff;
use flannel_store::leases::{SubnetStore, Ttl};

/// The first and the longest pause before a recheck that follows another one closely.
const RECHECK_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often the boot clock is read; the runtime's own timers stand still while the host sleeps.
const CLOCK_POLL: Duration = Duration::from_secs(60);

/// Keeps one lease.
pub struct Keeper<'a, S> {
    manager: SubnetManager<'a, S>,
    key: SubnetKey,
    renewal: Renewal,
    subnet_file: PathBuf,
}

impl<'a, S: SubnetStore> Keeper<'a, S> {
    /// A keeper of a lease just acquired, renewing it `margin` before it expires.
    pub fn new(manager: SubnetManager<'a, S>, lease: OwnLease, margin: Duration, subnet_file: PathBuf) -> Self {
        let renewal = Renewal::new(now(), until_next(lease.ttl), margin, fastrand::f64());
        Self { manager, key: lease.key, renewal, subnet_file }
    }

    /// Runs until the lease is lost for good. `recheck` wakes it when the lease may be gone or changed. Two hosts with one
    /// public address would overwrite each other's lease for ever, so rechecks that follow each other closely back off.
    pub async fn run(mut self, recheck: &Notify) -> Error {
        let mut pause = Backoff::new(RECHECK_PAUSE.0, RECHECK_PAUSE.1);
        let mut last_recheck: Option<Duration> = None;
        loop {
            let left = self.renewal.due().saturating_sub(now());
            tokio::select! {
                () = tokio::time::sleep_until(tokio::time::Instant::now() + left.min(CLOCK_POLL)) => {
                    if now() < self.renewal.due() {
                        continue;
                    }
                }
                () = recheck.notified() => {
                    if last_recheck.is_some_and(|last| now().saturating_sub(last) < RECHECK_PAUSE.1) {
                        pause.pause().await;
                    } else {
                        pause.reset();
                    }
                    last_recheck = Some(now());
                }
            }
            let now = now();
            match self.manager.renew(self.key).await {
                Ok(Renewed::Ours(ttl)) => {
                    tracing::info!(lease = %self.key, "lease {} renewed {ttl}", self.key);
                    METRICS.renewals.inc();
                    self.renewal.renewed(now, until_next(ttl));
                }
                Ok(Renewed::Foreign(holder)) => {
                    return Error::Conflict { key: self.key, holder, subnet_file: self.subnet_file };
                }
                Err(error) => {
                    let left = self.renewal.expires().saturating_sub(now).as_secs();
                    tracing::warn!(
                        "cannot renew lease {}, it expires in {left} s: {error}; trying again in a minute",
                        self.key
                    );
                    METRICS.renewal_failures.inc();
                    self.renewal.failed(now);
                }
            }
        }
    }
}

/// The time since boot, suspend included.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A reservation never expires, but is checked as often as a lease, since somebody may have made a lease of it.
fn until_next(ttl: Ttl) -> Duration {
    match ttl {
        Ttl::Expires(ttl) => ttl,
        Ttl::Never => TTL,
    }
}
