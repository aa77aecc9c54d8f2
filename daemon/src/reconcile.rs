//! Making what stands what is desired.
//!
//! The reconciler remembers what it installed and which slots may differ from what is desired, so a change costs what
//! changed. An entry that failed is simply not remembered and its slot stays in doubt, so the next round plans it again;
//! its reason is told once, not every round.

use std::collections::{BTreeMap, BTreeSet};

use flannel_core::desired::{Claimant, Desired};
use flannel_core::entry::{Entry, Plan, Slot, Table};
use flannel_core::key::SubnetKey;

use crate::backend::udp::Tunnels;
use crate::kernel::{Kernel, KernelError, Scope, Verb};
use crate::metrics::METRICS;

/// The entries of one backend.
pub struct Reconciler<K> {
    kernel: K,
    tunnels: Option<Tunnels>,
    installed: Table,
    desired: Desired,
    /// Where what stands may not be what is desired.
    dirty: BTreeSet<Slot>,
    /// What was last said about a slot that fails.
    complaints: BTreeMap<Slot, String>,
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
    /// It is not known what came of some: look.
    pub unknown: bool,
}

impl<K: Kernel> Reconciler<K> {
    /// Nothing is taken to be installed; entries of an earlier run are found by [`Reconciler::look`].
    pub fn new(kernel: K, tunnels: Option<Tunnels>) -> Self {
        Self {
            kernel,
            tunnels,
            installed: Table::default(),
            desired: Desired::default(),
            dirty: BTreeSet::new(),
            complaints: BTreeMap::new(),
        }
    }

    /// From the next round on these are the entries that stand for this claimant's sake.
    pub fn claim(&mut self, claimant: Claimant, entries: Vec<Entry>) {
        self.dirty.extend(self.desired.claim(claimant, entries));
    }

    /// The leases that claim entries.
    pub fn leases(&self) -> impl Iterator<Item = SubnetKey> {
        self.desired.leases()
    }

    /// How many entries stand, as far as known.
    pub fn in_force(&self) -> usize {
        self.installed.len()
    }

    /// Whether something is left to be tried again.
    pub fn is_behind(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Looks at what really stands in the kernel. Tunnels are not the kernel's and stay as they are.
    pub async fn look(&mut self, scope: &Scope) -> Result<(), KernelError> {
        let mut stands = self.kernel.list(scope).await?;
        self.installed.iter().filter(|e| matches!(e, Entry::Tunnel { .. })).for_each(|e| stands.put(e.clone()));
        stands.take_endpoints(&self.installed);
        self.dirty = stands.differences(self.desired.table());
        self.installed = stands;
        Ok(())
    }

    /// Whether this entry, which stands now, is in the place of another one of ours.
    pub fn is_contradicted_by(&self, entry: &Entry) -> bool {
        self.installed.holds_another(entry)
    }

    /// Whether something stands there, as far as known.
    pub fn has(&self, slot: &Slot) -> bool {
        self.installed.get(slot).is_some()
    }

    /// Carries out the difference.
    pub async fn run(&mut self) -> Round {
        let mut round = Round::default();
        let plan = Plan::of(&self.dirty, &self.installed, self.desired.table());
        if plan.is_empty() {
            self.dirty.clear();
            self.complaints.clear();
            METRICS.entries.set(self.installed.len());
            METRICS.entries_failed.set(0);
            return round;
        }
        let mut behind = BTreeSet::new();
        for (verb, entries) in [(Verb::Put, plan.put), (Verb::Remove, plan.remove)] {
            match self.carry_out(verb, entries, &mut behind).await {
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

    /// Does one thing with each entry in turn; how many went well. The slots of the others are `behind`.
    async fn carry_out(
        &mut self,
        verb: Verb,
        entries: Vec<Entry>,
        behind: &mut BTreeSet<Slot>,
    ) -> Result<usize, KernelError> {
        let (tunnels, entries): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| matches!(entry, Entry::Tunnel { .. }) && self.tunnels.is_some());
        let (mut done, told) = (0, !tunnels.is_empty());
        for tunnel in tunnels {
            self.note(verb, tunnel);
            done += 1;
        }
        if told {
            self.tell_proxy();
        }
        if entries.is_empty() {
            return Ok(done);
        }
        let mut failures = self.kernel.carry_out(verb, &entries).await?.into_iter().peekable();
        for (place, entry) in entries.into_iter().enumerate() {
            let slot = entry.slot();
            if let Some(failure) = failures.next_if(|failure| failure.place == place) {
                self.complain(slot, &entry, &failure.error);
                behind.insert(slot);
                continue;
            }
            if !self.complaints.is_empty() {
                self.complaints.remove(&slot);
            }
            self.note(verb, entry);
            done += 1;
        }
        Ok(done)
    }

    fn note(&mut self, verb: Verb, entry: Entry) {
        tracing::debug!("{verb} {entry}");
        match verb {
            Verb::Put => self.installed.put(entry),
            Verb::Remove => self.installed.remove(&entry),
        }
    }

    /// The proxy gets all its tunnels at once.
    fn tell_proxy(&self) {
        let Some(tunnels) = &self.tunnels else { return };
        tunnels.replace(self.installed.iter().filter_map(|entry| match entry {
            Entry::Tunnel { subnet, to } => Some((*subnet, *to)),
            _ => None,
        }));
    }

    /// Says why an entry failed, unless that was said before.
    fn complain(&mut self, slot: Slot, entry: &Entry, error: &KernelError) {
        let text = error.to_string();
        if self.complaints.get(&slot) != Some(&text) {
            tracing::warn!(entry = %entry, "{text}; it is tried again");
            self.complaints.insert(slot, text);
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
        reconciler.run().await.failed
    }

    #[tokio::test]
    async fn what_failed_is_tried_again_until_it_stands() {
        let mut reconciler = Reconciler::new(FakeKernel::default(), None);
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
    async fn a_look_finds_what_others_did() {
        let mut reconciler = Reconciler::new(FakeKernel::default(), None);
        let desired = Table::from_iter([route(1, 1)]);
        assert_eq!(run(&mut reconciler, &desired).await, 0);
        *reconciler.kernel.table.borrow_mut() = Table::from_iter([route(1, 9), route(7, 7)]);
        reconciler.look(&Scope::default()).await.unwrap();
        assert_eq!(run(&mut reconciler, &desired).await, 0);
        assert_eq!(*reconciler.kernel.table.borrow(), desired);
    }

    /// The kernel follows a host whose address changes; only what the lease says is ever programmed.
    #[tokio::test]
    async fn a_peer_that_moved_is_left_where_it_is() {
        let peer = |endpoint: &str| {
            let key = flannel_core::wireguard::PublicKey([7; 32]);
            let allowed = Some("10.5.1.0-24".parse().unwrap());
            let endpoint = endpoint.parse().unwrap();
            Entry::Peer(Box::new(Peer { link: LinkIndex(3), key, endpoint, allowed, psk: None, keepalive: 0 }))
        };
        let mut reconciler = Reconciler::new(FakeKernel::default(), None);
        let desired = Table::from_iter([peer("192.0.2.1:51820")]);
        assert_eq!(run(&mut reconciler, &desired).await, 0);
        *reconciler.kernel.table.borrow_mut() = Table::from_iter([peer("203.0.113.9:4242")]);
        reconciler.look(&Scope::default()).await.unwrap();
        run(&mut reconciler, &desired).await;
        assert!(reconciler.kernel.table.borrow().has(&peer("203.0.113.9:4242")));
        let moved = Table::from_iter([peer("192.0.2.5:51820")]);
        run(&mut reconciler, &moved).await;
        assert_eq!(*reconciler.kernel.table.borrow(), moved);
    }

    #[tokio::test]
    async fn tunnels_go_to_the_proxy_and_survive_a_look() {
        let tunnels = Tunnels::default();
        let mut reconciler = Reconciler::new(FakeKernel::default(), Some(tunnels.clone()));
        let tunnel = Entry::Tunnel { subnet: "10.5.1.0/24".parse().unwrap(), to: Ipv4Addr::new(192, 0, 2, 1) };
        assert_eq!(run(&mut reconciler, &Table::from_iter([tunnel.clone(), route(1, 1)])).await, 0);
        reconciler.look(&Scope::default()).await.unwrap();
        assert_eq!(run(&mut reconciler, &Table::from_iter([tunnel])).await, 0);
        assert_eq!(tunnels.now().host_of(Ipv4Addr::new(10, 5, 1, 9)), Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(run(&mut reconciler, &Table::default()).await, 0);
        assert_eq!(tunnels.now().host_of(Ipv4Addr::new(10, 5, 1, 9)), None);
    }

    #[tokio::test]
    async fn an_overrun_leaves_everything_to_the_next_look() {
        let mut reconciler = Reconciler::new(FakeKernel::default(), None);
        let desired = Table::from_iter([route(1, 1), route(2, 2)]);
        reconciler.kernel.overrun.set(true);
        reconciler.claim(None, desired.iter().cloned().collect());
        assert!(reconciler.run().await.unknown);
        assert!(reconciler.is_behind());
        // Some of it went through all the same.
        reconciler.kernel.table.borrow_mut().put(route(2, 2));
        reconciler.look(&Scope::default()).await.unwrap();
        let round = reconciler.run().await;
        assert_eq!(round, Round { put: 1, ..Round::default() });
        assert_eq!(*reconciler.kernel.table.borrow(), desired);
        assert!(!reconciler.is_behind());
    }

    #[tokio::test]
    async fn a_lease_that_changes_costs_its_own_entries() {
        let mut reconciler = Reconciler::new(FakeKernel::default(), None);
        let lease = |net: u8| Some(format!("10.5.{net}.0-24").parse().unwrap());
        for net in 0..200 {
            reconciler.claim(lease(net), vec![route(net, 1)]);
        }
        assert_eq!(reconciler.run().await.put, 200);
        let calls = reconciler.kernel.log.borrow().len();
        reconciler.claim(lease(7), vec![route(7, 9)]);
        reconciler.claim(lease(8), Vec::new());
        assert_eq!(reconciler.dirty.len(), 2);
        assert_eq!(reconciler.run().await, Round { put: 1, removed: 1, ..Round::default() });
        assert_eq!(reconciler.kernel.log.borrow().len(), calls + 2);
    }
}
