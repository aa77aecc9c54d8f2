//! Keeping the lease: renewal before its end, and putting it right when etcd shows it gone or changed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use flannel_core::key::SubnetKey;
use flannel_core::renewal::Renewal;
use tokio::sync::Notify;

use crate::backoff::Backoff;
use crate::error::Error;
use crate::subnet::store::SubnetStore;
use crate::subnet::{Held, Kept, SubnetManager};

/// The first and the longest pause between two doubts about the lease.
const CALM: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

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
        Self { manager, key: held.key, renewal: Renewal::new(Instant::now(), held.ttl, margin), subnet_file }
    }

    /// Runs until the lease is lost for good. `doubt` wakes it when the lease may not stand any more. Two hosts with
    /// one public address would put each other's lease right for ever, so doubts that follow each other closely wait
    /// longer and longer.
    pub async fn run(mut self, doubt: &Notify) -> Error {
        let mut calm = Backoff::new(CALM.0, CALM.1);
        let mut last_doubt: Option<Instant> = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(self.renewal.due().into()) => {}
                () = doubt.notified() => {
                    if last_doubt.is_some_and(|last| last.elapsed() < CALM.1) {
                        calm.pause().await;
                    } else {
                        calm.reset();
                    }
                    last_doubt = Some(Instant::now());
                }
            }
            let now = Instant::now();
            match self.manager.keep(self.key).await {
                Ok(Kept::Ours(ttl)) => {
                    tracing::info!("lease {} is ours for another {} s", self.key, ttl.as_secs());
                    self.renewal.renewed(now, ttl);
                }
                Ok(Kept::Foreign(holder)) => {
                    return Error::Conflict { key: self.key, holder, subnet_file: self.subnet_file };
                }
                Err(error) => {
                    let left = self.renewal.expires().saturating_duration_since(now).as_secs();
                    tracing::warn!(
                        "lease {} can't be renewed, it ends in {left} s: {error}; trying again in a minute",
                        self.key
                    );
                    self.renewal.failed(now);
                }
            }
        }
    }
}
