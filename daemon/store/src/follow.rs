//! Following the leases of all hosts: list, watch from that revision on, resume after a broken watch without missing
//! anything; list again when the history was compacted.

use std::time::Duration;

use flannel_core::key::SubnetKey;
use flannel_core::lease::Lease;
use flannel_core::view::Change;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::leases::{Listed, Revision, StoreError, Stored, SubnetStore, WatchEvent};
use crate::metrics::METRICS;
use flannel_host::backoff::Backoff;

/// How often all leases are listed again as a precaution: between half of this and all of it, so that hosts that started
/// together do not list together.
const RELIST_INTERVAL: Duration = Duration::from_secs(600);

/// What the follower delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// All leases, replacing everything delivered before.
    Snapshot(Vec<Lease>),
    /// All leases of a store that has lost data: its revision is lower than one seen before.
    SnapshotAfterDataLoss(Vec<Lease>),
    /// One lease changed.
    Change(Change),
}

/// Up to how many leases this interval holds. A list costs etcd as much as there are leases, and as many hosts ask for it:
/// with more leases the interval grows in proportion, so that the total cost grows linearly.
const RELIST_BASE: f64 = 500.0;

/// Follows until the receiver is dropped, starting from `listed` or from a list of its own. Never gives up: an outage is
/// logged once, and its end.
pub async fn follow<S: SubnetStore>(store: &S, updates: &mpsc::Sender<Update>, listed: Option<Listed>) {
    let mut follower = Follower { store, updates, listed, count: 0, revision: None, known: None, outage: None };
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match follower.once(&mut backoff).await {
            Ok(Next::ReceiverGone) => return,
            Ok(Next::Relist) => {
                follower.revision = None;
                continue;
            }
            Ok(Next::Compacted) => {
                tracing::info!("etcd no longer has all changes since the last one seen: listing all leases again");
                follower.revision = None;
            }
            Err(error) => {
                METRICS.watch_restarts.inc();
                follower.log_outage(error);
            }
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
    /// A list not yet delivered.
    listed: Option<Listed>,
    /// How many leases the last list had.
    count: u32,
    /// Everything up to here was delivered.
    revision: Option<Revision>,
    /// The latest revision of the store that was seen.
    known: Option<Revision>,
    /// The error last logged, while etcd cannot be followed.
    outage: Option<StoreError>,
}

enum Next {
    /// etcd no longer has the events since.
    Compacted,
    /// The list is due again.
    Relist,
    ReceiverGone,
}

impl<S: SubnetStore> Follower<'_, S> {
    /// Lists if need be, then watches until something breaks.
    async fn once(&mut self, backoff: &mut Backoff) -> Result<Next, StoreError> {
        let revision = match self.revision {
            Some(revision) => revision,
            None => {
                let (leases, revision) = match self.listed.take() {
                    Some(Listed { leases, revision }) => (leases, revision),
                    None => self.store.list().await?,
                };
                self.count = u32::try_from(leases.len()).unwrap_or(u32::MAX);
                let leases = leases.into_iter().filter_map(readable).collect();
                let younger = self.known.replace(revision).is_some_and(|known| revision < known);
                let update = if younger { Update::SnapshotAfterDataLoss(leases) } else { Update::Snapshot(leases) };
                if self.updates.send(update).await.is_err() {
                    return Ok(Next::ReceiverGone);
                }
                *self.revision.insert(revision)
            }
        };
        let mut events = self.store.watch(revision).await?;
        let relist = Instant::now() + relist_after(self.count);
        loop {
            let item = tokio::select! {
                item = events.next() => item,
                () = tokio::time::sleep_until(relist) => return Ok(Next::Relist),
                () = self.updates.closed() => return Ok(Next::ReceiverGone),
            };
            let item = item.unwrap_or_else(|| Err(StoreError::Unreachable("etcd closed the watch".into())))?;
            backoff.reset();
            if self.outage.take().is_some() {
                tracing::info!("etcd answers again: following the leases from revision {}", revision.0);
            }
            let change = match item {
                WatchEvent::Put(stored) => match (stored.key, readable(stored)) {
                    (_, Some(lease)) => Change::Put(lease),
                    // The old value no longer holds, and the new one cannot be used.
                    (key, None) => Change::Delete(key),
                },
                WatchEvent::Delete(key) => Change::Delete(key),
                WatchEvent::Progress(revision) => {
                    self.revision = self.revision.max(Some(revision));
                    self.known = self.revision;
                    continue;
                }
                WatchEvent::Compacted => return Ok(Next::Compacted),
            };
            if self.updates.send(Update::Change(change)).await.is_err() {
                return Ok(Next::ReceiverGone);
            }
        }
    }

    fn log_outage(&mut self, error: StoreError) {
        if self.outage.as_ref() != Some(&error) {
            tracing::warn!("lost the lease watch; known leases stay in effect: {error}");
            self.outage = Some(error);
        }
    }
}

/// How long after a list the next one is due.
fn relist_after(count: u32) -> Duration {
    RELIST_INTERVAL.mul_f64((0.5 + fastrand::f64() / 2.0) * (f64::from(count) / RELIST_BASE).max(1.0))
}

/// The lease, if its value can be read; else a line that says which and why.
fn readable(stored: Stored) -> Option<Lease> {
    let Stored { key, attrs, .. } = stored;
    match attrs {
        Ok(attrs) => Some(Lease { key, attrs }),
        Err(bad) => {
            METRICS.undecodable.inc();
            warn_unreadable(key, &bad.0);
            None
        }
    }
}

fn warn_unreadable(key: SubnetKey, why: &str) {
    tracing::warn!(lease = %key, "lease {key} is skipped: its value is not usable: {why}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;

    const LEASE: &str = r#"{"PublicIP":"192.0.2.1"}"#;

    fn key(net: u8) -> SubnetKey {
        format!("10.5.{net}.0-24").parse().unwrap()
    }

    /// Runs the follower beside a script that receives its updates.
    async fn with_follower<F: Future<Output = ()>>(
        store: &MemoryStore,
        script: impl FnOnce(mpsc::Receiver<Update>) -> F,
    ) {
        let (sender, receiver) = mpsc::channel(16);
        tokio::select! {
            () = follow(store, &sender, None) => panic!("it stopped following"),
            () = script(receiver) => {}
        }
    }

    async fn snapshot(updates: &mut mpsc::Receiver<Update>) -> Vec<SubnetKey> {
        match updates.recv().await.unwrap() {
            Update::Snapshot(leases) => leases.into_iter().map(|l| l.key).collect(),
            other => panic!("no snapshot: {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_then_every_change() {
        let store = MemoryStore::default();
        store.write(key(1), LEASE);
        with_follower(&store, async |mut updates| {
            assert_eq!(snapshot(&mut updates).await, [key(1)]);
            store.write(key(2), LEASE);
            assert!(matches!(updates.recv().await, Some(Update::Change(Change::Put(l))) if l.key == key(2)));
            store.remove(key(1));
            assert_eq!(updates.recv().await, Some(Update::Change(Change::Delete(key(1)))));
            // An unreadable value is not a lease any more.
            store.write(key(2), "nonsense");
            assert_eq!(updates.recv().await, Some(Update::Change(Change::Delete(key(2)))));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_listed_again_periodically() {
        let store = MemoryStore::default();
        store.write(key(1), LEASE);
        with_follower(&store, async |mut updates| {
            for _ in 0..3 {
                assert_eq!(snapshot(&mut updates).await, [key(1)]);
            }
        })
        .await;
    }

    /// Also when the list fails at first, and only once: the next list is of the store as it is now.
    #[tokio::test(start_paused = true)]
    async fn a_store_that_has_lost_its_data_is_reported_as_such() {
        let store = MemoryStore::default();
        store.write(key(1), LEASE);
        store.write(key(2), LEASE);
        with_follower(&store, async |mut updates| {
            assert_eq!(snapshot(&mut updates).await, [key(1), key(2)]);
            store.wipe();
            store.write(key(2), LEASE);
            store.unreachable.set(3);
            let Some(Update::SnapshotAfterDataLoss(leases)) = updates.recv().await else {
                panic!("data loss not reported")
            };
            assert_eq!(leases.into_iter().map(|l| l.key).collect::<Vec<_>>(), [key(2)]);
            store.write(key(1), LEASE);
            assert!(matches!(updates.recv().await, Some(Update::Change(Change::Put(l))) if l.key == key(1)));
            assert_eq!(snapshot(&mut updates).await, [key(1), key(2)]);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreachable_store_is_retried() {
        let store = MemoryStore::default();
        store.unreachable.set(5);
        store.write(key(1), LEASE);
        with_follower(&store, async |mut updates| assert_eq!(snapshot(&mut updates).await, [key(1)])).await;
    }

    /// The list made when the lease was acquired is delivered, and the watch goes on from there.
    #[tokio::test(start_paused = true)]
    async fn an_existing_list_is_not_requested_again() {
        let store = MemoryStore::default();
        store.write(key(1), LEASE);
        let (leases, revision) = store.list().await.unwrap();
        store.write(key(2), LEASE);
        let (sender, mut updates) = mpsc::channel(16);
        let script = async {
            assert_eq!(snapshot(&mut updates).await, [key(1)]);
            assert!(matches!(updates.recv().await, Some(Update::Change(Change::Put(l))) if l.key == key(2)));
        };
        tokio::select! {
            () = follow(&store, &sender, Some(Listed { leases, revision })) => panic!("it stopped following"),
            () = script => {}
        }
    }

    #[test]
    fn the_interval_grows_with_the_number_of_leases() {
        for (count, longest) in [(0, RELIST_INTERVAL), (500, RELIST_INTERVAL), (5000, 10 * RELIST_INTERVAL)] {
            let after = relist_after(count);
            assert!(after >= longest / 2 && after <= longest, "{after:?} for {count}");
        }
    }
}
