//! Making what is installed what is desired.
//!
//! The reconciler remembers what it installed and which slots may differ from what is desired, so a change costs what
//! changed. An entry that failed is not remembered and its slot stays dirty, so the next round plans it again; the reason
//! is logged once, not every round.

use std::collections::BTreeSet;

use flannel_core::desired::{Claimant, Desired};
use flannel_core::entry::{Entry, Plan, Slot, Table};
use flannel_core::key::SubnetKey;
use flannel_host::say_once::SayOnce;

use crate::kernel::{Kernel, KernelError, Scope, Verb};
use crate::metrics::METRICS;

/// The entries of one backend.
pub struct Reconciler<K> {
    kernel: K,
    installed: Table,
    desired: Desired,
    /// The slots in which what is installed may not be what is desired.
    dirty: BTreeSet<Slot>,
    /// Why slots fail.
    failures: SayOnce<Slot>,
}

/// What a round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    /// Entries put.
    pub put: usize,
    /// Entries removed.
    pub removed: usize,
    /// Entries that could not be put or removed.
    pub failed: usize,
    /// The result of some is not known: compare.
    pub unknown: bool,
}

impl<K: Kernel> Reconciler<K> {
    /// Nothing is taken to be installed; entries of an earlier run are found by [`Reconciler::compare`].
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            installed: Table::default(),
            desired: Desired::default(),
            dirty: BTreeSet::new(),
            failures: SayOnce::default(),
        }
    }

    /// From the next round on these are the entries this claimant needs.
    pub fn claim(&mut self, claimant: Claimant, entries: Vec<Entry>) {
        self.dirty.extend(self.desired.claim(claimant, entries));
    }

    /// The leases that claim entries.
    pub fn leases(&self) -> impl Iterator<Item = SubnetKey> {
        self.desired.leases()
    }

    /// Where entries are installed.
    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// How many entries are installed, as far as known.
    pub fn installed(&self) -> usize {
        self.installed.len()
    }

    /// Whether something is left to be retried.
    pub fn is_behind(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Reads what is really installed and marks what differs.
    pub async fn compare(&mut self, scope: &Scope) -> Result<(), KernelError> {
        let mut installed = self.kernel.list(scope).await?;
        installed.take_endpoints(&self.installed);
        self.dirty = installed.differences(self.desired.table());
        self.installed = installed;
        Ok(())
    }

    /// Whether this entry, now installed, took the place of another one of ours.
    pub fn is_contradicted_by(&self, entry: &Entry) -> bool {
        self.installed.holds_another(entry)
    }

    /// Whether something is installed there, as far as known.
    pub fn has(&self, slot: &Slot) -> bool {
        self.installed.get(slot).is_some()
    }

    /// Installs and removes what differs.
    pub async fn apply(&mut self) -> Round {
        let mut round = Round::default();
        let plan = Plan::of(&self.dirty, &self.installed, self.desired.table());
        if plan.is_empty() {
            self.dirty.clear();
            self.failures = SayOnce::default();
            METRICS.entries.set(self.installed.len());
            METRICS.entries_failed.set(0);
            return round;
        }
        let mut behind = BTreeSet::new();
        for (verb, entries) in [(Verb::Put, plan.put), (Verb::Remove, plan.remove)] {
            match self.apply_all(verb, entries, &mut behind).await {
                Ok(done) if verb == Verb::Put => round.put = done,
                Ok(done) => round.removed = done,
                Err(error) => {
                    tracing::warn!("{error}");
                    round.unknown = true;
                    METRICS.entries_unknown.inc();
                }
            }
        }
        if !round.unknown {
            round.failed = behind.len();
            self.dirty = behind;
        }
        METRICS.entries.set(self.installed.len());
        METRICS.entries_failed.set(round.failed);
        METRICS.entries_put.add(round.put as u64);
        METRICS.entries_removed.add(round.removed as u64);
        round
    }

    /// Puts or removes each entry in turn; returns how many succeeded. The slots of the others are `behind`.
    async fn apply_all(
        &mut self,
        verb: Verb,
        entries: Vec<Entry>,
        behind: &mut BTreeSet<Slot>,
    ) -> Result<usize, KernelError> {
        if entries.is_empty() {
            return Ok(0);
        }
        let mut done = 0;
        let mut failures = self.kernel.carry_out(verb, &entries).await?.into_iter().peekable();
        for (place, entry) in entries.into_iter().enumerate() {
            let slot = entry.slot();
            if let Some(failure) = failures.next_if(|failure| failure.place == place) {
                self.log_failure(slot, &entry, &failure.error);
                behind.insert(slot);
                continue;
            }
            self.failures.clear(&slot);
            self.record(verb, entry);
            done += 1;
        }
        Ok(done)
    }

    fn record(&mut self, verb: Verb, entry: Entry) {
        tracing::debug!("{verb} {entry}");
        match verb {
            Verb::Put => self.installed.put(entry),
            Verb::Remove => self.installed.remove(&entry),
        }
    }

    fn log_failure(&mut self, slot: Slot, entry: &Entry, error: &KernelError) {
        let text = error.to_string();
        if self.failures.is_news(slot, &text) {
            tracing::warn!(entry = %entry, "{text}; trying again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fake::FakeKernel;
    use flannel_core::entry::{LinkIndex, Peer, Route};
    use std::net::Ipv4Addr;

    fn route(net: u8, via: u8) -> Entry {
        Entry::Route(Route {
            dst: format!("10.5.{net}.0/24").parse().unwrap(),
            via: Some(Ipv4Addr::new(192, 0, 2, via).into()),
            link: LinkIndex(2),
            onlink: false,
        })
    }

    /// As if one lease wanted it all.
    async fn run(reconciler: &mut Reconciler<FakeKernel>, desired: &Table) -> usize {
        reconciler.claim(None, desired.iter().cloned().collect());
        reconciler.apply().await.failed
    }

    #[tokio::test]
    async fn what_failed_is_retried_until_it_is_installed() {
        let mut reconciler = Reconciler::new(FakeKernel::default());
        let desired = Table::from_iter([route(1, 1), route(2, 2), route(3, 3)]);
        reconciler.kernel.failing.set(2);
        assert_eq!(run(&mut reconciler, &desired).await, 2);
        assert_eq!(run(&mut reconciler, &desired).await, 0);
        assert_eq!(*reconciler.kernel.table.borrow(), desired);
        let calls = reconciler.kernel.log.borrow().len();
        assert_eq!(run(&mut reconciler, &desired).await, 0);
        assert_eq!(reconciler.kernel.log.borrow().len(), calls, "nothing to do is nothing done");
    }

    #[tokio::test]
    async fn a_comparison_finds_what_others_changed() {
        let mut reconciler = Reconciler::new(FakeKernel::default());
        let desired = Table::from_iter([route(1, 1)]);
        assert_eq!(run(&mut reconciler, &desired).await, 0);
        *reconciler.kernel.table.borrow_mut() = Table::from_iter([route(1, 9), route(7, 7)]);
        reconciler.compare(&Scope::default()).await.unwrap();
        assert_eq!(run(&mut reconciler, &desired).await, 0);
        assert_eq!(*reconciler.kernel.table.borrow(), desired);
    }

    /// The kernel follows a host whose address changes; only what the lease says is ever installed.
    #[tokio::test]
    async fn a_peer_that_moved_is_left_where_it_is() {
        let peer = |endpoint: &str| {
            let key = flannel_core::wireguard::PublicKey([7; 32]);
            let allowed = Some("10.5.1.0-24".parse().unwrap());
            let endpoint = endpoint.parse().unwrap();
            Entry::Peer(Box::new(Peer { link: LinkIndex(3), key, endpoint, allowed, psk: None, keepalive: 0 }))
        };
        let mut reconciler = Reconciler::new(FakeKernel::default());
        let desired = Table::from_iter([peer("192.0.2.1:51820")]);
        assert_eq!(run(&mut reconciler, &desired).await, 0);
        *reconciler.kernel.table.borrow_mut() = Table::from_iter([peer("203.0.113.9:4242")]);
        reconciler.compare(&Scope::default()).await.unwrap();
        run(&mut reconciler, &desired).await;
        assert!(reconciler.kernel.table.borrow().has(&peer("203.0.113.9:4242")));
        let moved = Table::from_iter([peer("192.0.2.5:51820")]);
        run(&mut reconciler, &moved).await;
        assert_eq!(*reconciler.kernel.table.borrow(), moved);
    }

    #[tokio::test]
    async fn an_overrun_leaves_everything_to_the_next_comparison() {
        let mut reconciler = Reconciler::new(FakeKernel::default());
        let desired = Table::from_iter([route(1, 1), route(2, 2)]);
        reconciler.kernel.overrun.set(true);
        reconciler.claim(None, desired.iter().cloned().collect());
        assert!(reconciler.apply().await.unknown);
        assert!(reconciler.is_behind());
        // Some of it went through all the same.
        reconciler.kernel.table.borrow_mut().put(route(2, 2));
        reconciler.compare(&Scope::default()).await.unwrap();
        let round = reconciler.apply().await;
        assert_eq!(round, Round { put: 1, ..Round::default() });
        assert_eq!(*reconciler.kernel.table.borrow(), desired);
        assert!(!reconciler.is_behind());
    }

    #[tokio::test]
    async fn a_lease_that_changes_costs_its_own_entries() {
        let mut reconciler = Reconciler::new(FakeKernel::default());
        let lease = |net: u8| Some(format!("10.5.{net}.0-24").parse().unwrap());
        for net in 0..200 {
            reconciler.claim(lease(net), vec![route(net, 1)]);
        }
        assert_eq!(reconciler.apply().await.put, 200);
        let calls = reconciler.kernel.log.borrow().len();
        reconciler.claim(lease(7), vec![route(7, 9)]);
        reconciler.claim(lease(8), Vec::new());
        assert_eq!(reconciler.dirty.len(), 2);
        assert_eq!(reconciler.apply().await, Round { put: 1, removed: 1, ..Round::default() });
        assert_eq!(reconciler.kernel.log.borrow().len(), calls + 2);
    }
}
