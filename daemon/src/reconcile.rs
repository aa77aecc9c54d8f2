//! Making what stands what is desired.
//!
//! The reconciler remembers what it installed. An entry that failed is simply not remembered, so the next round plans
//! it again; its reason is told once, not every round.

use std::collections::BTreeMap;

use flannel_core::entry::{Entry, Plan, Slot, Table};

use crate::backend::udp::Tunnels;
use crate::kernel::{Kernel, KernelError, Scope};
use crate::metrics::METRICS;

#[derive(Debug, Clone, Copy)]
enum Verb {
    Put,
    Remove,
}

/// The entries of one backend.
pub struct Reconciler<K> {
    kernel: K,
    tunnels: Option<Tunnels>,
    installed: Table,
    /// What was last said about a slot that fails.
    complaints: BTreeMap<Slot, String>,
}

impl<K: Kernel> Reconciler<K> {
    /// Nothing is taken to be installed; entries of an earlier run are found by [`Reconciler::look`].
    pub fn new(kernel: K, tunnels: Option<Tunnels>) -> Self {
        Self { kernel, tunnels, installed: Table::default(), complaints: BTreeMap::new() }
    }

    /// Looks at what really stands in the kernel. Tunnels are not the kernel's and stay as they are.
    pub async fn look(&mut self, scope: &Scope) -> Result<(), KernelError> {
        let mut stands = self.kernel.list(scope).await?;
        self.installed.iter().filter(|e| matches!(e, Entry::Tunnel { .. })).for_each(|e| stands.put(*e));
        stands.take_endpoints(&self.installed);
        self.installed = stands;
        Ok(())
    }

    /// Whether this entry, which stands now, is in the place of another one of ours.
    pub fn is_contradicted_by(&self, entry: &Entry) -> bool {
        self.installed.holds_another(entry)
    }

    /// Carries out the difference; says how many entries could not be put or removed.
    pub async fn run(&mut self, desired: &Table) -> usize {
        let plan = Plan::between(&self.installed, desired);
        if plan.is_empty() {
            self.complaints.clear();
            METRICS.entries_failed.set(0);
            return 0;
        }
        let (put, not_put) = self.carry_out(&plan.put, Verb::Put).await;
        let (removed, not_removed) = self.carry_out(&plan.remove, Verb::Remove).await;
        let failed = not_put + not_removed;
        if plan.put.iter().chain(&plan.remove).any(|entry| matches!(entry, Entry::Tunnel { .. })) {
            self.tell_proxy();
        }
        METRICS.entries.set(self.installed.len());
        METRICS.entries_failed.set(failed);
        METRICS.entries_put.add(put);
        METRICS.entries_removed.add(removed);
        if put + removed > 0 {
            tracing::info!(put, removed, failed, in_force = self.installed.len(), "programmed");
        }
        failed
    }

    /// Does one thing with each entry in turn; how many went well, and how many did not.
    async fn carry_out(&mut self, entries: &[Entry], verb: Verb) -> (u64, usize) {
        let (mut done, mut failed) = (0, 0);
        for entry in entries {
            let result = match (entry, verb) {
                (Entry::Tunnel { .. }, _) if self.tunnels.is_some() => Ok(()),
                (entry, Verb::Put) => self.kernel.put(entry).await,
                (entry, Verb::Remove) => self.kernel.remove(entry).await,
            };
            if !self.done(entry, result) {
                failed += 1;
                continue;
            }
            tracing::debug!("{verb:?} {entry}");
            match verb {
                Verb::Put => self.installed.put(*entry),
                Verb::Remove => self.installed.remove(entry),
            }
            done += 1;
        }
        (done, failed)
    }

    /// The proxy gets all its tunnels at once.
    fn tell_proxy(&self) {
        let Some(tunnels) = &self.tunnels else { return };
        tunnels.replace(self.installed.iter().filter_map(|entry| match entry {
            Entry::Tunnel { subnet, to } => Some((*subnet, *to)),
            _ => None,
        }));
    }

    /// Whether it went well; if not, says why unless that was said before.
    fn done(&mut self, entry: &Entry, result: Result<(), KernelError>) -> bool {
        let slot = entry.slot();
        let Err(error) = result else {
            self.complaints.remove(&slot);
            return true;
        };
        let text = error.to_string();
        if self.complaints.get(&slot) != Some(&text) {
            tracing::warn!(entry = %entry, "{text}; it is tried again");
            self.complaints.insert(slot, text);
        }
        false
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

    #[tokio::test]
    async fn what_failed_is_tried_again_until_it_stands() {
        let mut reconciler = Reconciler::new(FakeKernel::default(), None);
        let desired = Table::from_iter([route(1, 1), route(2, 2), route(3, 3)]);
        reconciler.kernel.failing.set(2);
        assert_eq!(reconciler.run(&desired).await, 2);
        assert_eq!(reconciler.run(&desired).await, 0);
        assert_eq!(*reconciler.kernel.table.borrow(), desired);
        let calls = reconciler.kernel.log.borrow().len();
        assert_eq!(reconciler.run(&desired).await, 0);
        assert_eq!(reconciler.kernel.log.borrow().len(), calls, "nothing to do is nothing done");
    }

    #[tokio::test]
    async fn a_look_finds_what_others_did() {
        let mut reconciler = Reconciler::new(FakeKernel::default(), None);
        let desired = Table::from_iter([route(1, 1)]);
        assert_eq!(reconciler.run(&desired).await, 0);
        *reconciler.kernel.table.borrow_mut() = Table::from_iter([route(1, 9), route(7, 7)]);
        reconciler.look(&Scope::default()).await.unwrap();
        assert_eq!(reconciler.run(&desired).await, 0);
        assert_eq!(*reconciler.kernel.table.borrow(), desired);
    }

    /// The kernel follows a host whose address changes; only what the lease says is ever programmed.
    #[tokio::test]
    async fn a_peer_that_moved_is_left_where_it_is() {
        let peer = |endpoint: &str| {
            let key = flannel_core::wireguard::PublicKey([7; 32]);
            let allowed = Some("10.5.1.0-24".parse().unwrap());
            let endpoint = endpoint.parse().unwrap();
            Entry::Peer(Peer { link: LinkIndex(3), key, endpoint, allowed, psk: None, keepalive: 0 })
        };
        let mut reconciler = Reconciler::new(FakeKernel::default(), None);
        let desired = Table::from_iter([peer("192.0.2.1:51820")]);
        assert_eq!(reconciler.run(&desired).await, 0);
        *reconciler.kernel.table.borrow_mut() = Table::from_iter([peer("203.0.113.9:4242")]);
        reconciler.look(&Scope::default()).await.unwrap();
        reconciler.run(&desired).await;
        assert!(reconciler.kernel.table.borrow().has(&peer("203.0.113.9:4242")));
        let moved = Table::from_iter([peer("192.0.2.5:51820")]);
        reconciler.run(&moved).await;
        assert_eq!(*reconciler.kernel.table.borrow(), moved);
    }

    #[tokio::test]
    async fn tunnels_go_to_the_proxy_and_survive_a_look() {
        let tunnels = Tunnels::default();
        let mut reconciler = Reconciler::new(FakeKernel::default(), Some(tunnels.clone()));
        let tunnel = Entry::Tunnel { subnet: "10.5.1.0/24".parse().unwrap(), to: Ipv4Addr::new(192, 0, 2, 1) };
        assert_eq!(reconciler.run(&Table::from_iter([tunnel, route(1, 1)])).await, 0);
        reconciler.look(&Scope::default()).await.unwrap();
        assert_eq!(reconciler.run(&Table::from_iter([tunnel])).await, 0);
        assert_eq!(tunnels.host_of(Ipv4Addr::new(10, 5, 1, 9)), Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(reconciler.run(&Table::default()).await, 0);
        assert_eq!(tunnels.host_of(Ipv4Addr::new(10, 5, 1, 9)), None);
    }
}
