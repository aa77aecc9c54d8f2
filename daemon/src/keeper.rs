//! Keeping the lease: renewal before its end, and putting it right when etcd shows it gone or changed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use flannel_core::key::SubnetKey;
use flannel_core::renewal::Renewal;
use tokio::sync::Notify;

use crate::error::Error;
use crate::subnet::store::SubnetStore;
use crate::subnet::{Held, Kept, SubnetManager};

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

    /// Runs until the lease is lost for good. `doubt` wakes it when the lease may not stand any more.
    pub async fn run(mut self, doubt: &Notify) -> Error {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(self.renewal.due().into()) => {}
                () = doubt.notified() => {}
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
