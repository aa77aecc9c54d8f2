//! Following the leases of all hosts: list, watch from that revision on, come back after any break without missing
//! anything; when the history is gone, list again.

use std::time::Duration;

use flannel_core::key::SubnetKey;
use flannel_core::lease::Lease;
use flannel_core::view::Change;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::store::{News, Revision, StoreError, Stored, SubnetStore};
use crate::backoff::Backoff;

/// What the follower tells the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// All leases, in place of everything told before.
    Snapshot(Vec<Lease>),
    /// One lease changed.
    Change(Change),
}

/// Follows until nobody listens any more. Never gives up: a break is told once, and its end.
pub async fn follow<S: SubnetStore>(store: &S, updates: &mpsc::Sender<Update>) {
    let mut follower = Follower { store, updates, revision: None, complaint: None };
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match follower.once(&mut backoff).await {
            Ok(Next::NobodyListens) => return,
            Ok(Next::ListAgain) => {
                tracing::info!(
                    "etcd no longer has the changes since {:?}: listing all leases again",
                    follower.revision
                );
                follower.revision = None;
            }
            Err(error) => follower.complain(error),
        }
        tokio::select! {
            () = backoff.pause() => {}
            () = updates.closed() => return,
        }
    }
}

struct Follower<'a, S> {
    store: &'a S,
    updates: &'a mpsc::Sender<Update>,
    /// Everything up to here was told.
    revision: Option<Revision>,
    complaint: Option<StoreError>,
}

enum Next {
    ListAgain,
    NobodyListens,
}

impl<S: SubnetStore> Follower<'_, S> {
    /// List if need be, then watch until something breaks.
    async fn once(&mut self, backoff: &mut Backoff) -> Result<Next, StoreError> {
        let revision = match self.revision {
            Some(revision) => revision,
            None => {
                let (leases, revision) = self.store.list().await?;
                let snapshot = leases.into_iter().filter_map(readable).collect();
                if self.updates.send(Update::Snapshot(snapshot)).await.is_err() {
                    return Ok(Next::NobodyListens);
                }
                *self.revision.insert(revision)
            }
        };
        let mut news = self.store.watch(revision).await?;
        loop {
            let item = tokio::select! {
                item = news.next() => item,
                () = self.updates.closed() => return Ok(Next::NobodyListens),
            };
            let item = item.unwrap_or_else(|| Err(StoreError::Unreachable("etcd closed the watch".into())))?;
            backoff.reset();
            if self.complaint.take().is_some() {
                tracing::info!("etcd answers again: following the leases from revision {}", revision.0);
            }
            let change = match item {
                News::Put(stored) => match (stored.key, readable(stored)) {
                    (_, Some(lease)) => Change::Put(lease),
                    // What it said before no longer holds, and what it says now can't be used.
                    (key, None) => Change::Delete(key),
                },
                News::Delete(key) => Change::Delete(key),
                News::Progress(revision) => {
                    self.revision = self.revision.max(Some(revision));
                    continue;
                }
                News::Compacted => return Ok(Next::ListAgain),
            };
            if self.updates.send(Update::Change(change)).await.is_err() {
                return Ok(Next::NobodyListens);
            }
        }
    }

    fn complain(&mut self, error: StoreError) {
        if self.complaint.as_ref() != Some(&error) {
            tracing::warn!("leases of other hosts can't be followed, those known stay in force: {error}");
            self.complaint = Some(error);
        }
    }
}

/// The lease, if its value can be read; else a line that says which and why.
fn readable(stored: Stored) -> Option<Lease> {
    let Stored { key, attrs, .. } = stored;
    match attrs {
        Ok(attrs) => Some(Lease { key, attrs }),
        Err(bad) => {
            warn_unreadable(key, &bad.0);
            None
        }
    }
}

fn warn_unreadable(key: SubnetKey, why: &str) {
    tracing::warn!("lease {key} is skipped: its value is not usable: {why}");
}
