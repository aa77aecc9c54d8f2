//! The remote leases as etcd has them: a snapshot, then changes.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::SubnetKey;
use crate::lease::Lease;

/// A change of one lease in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The lease is new, renewed or has other attributes.
    Put(Lease),
    /// The lease was removed or ran out.
    Delete(SubnetKey),
}

/// All leases but the host's own, which never enters.
#[derive(Debug, Clone)]
pub struct LeaseView {
    own: SubnetKey,
    leases: BTreeMap<SubnetKey, Lease>,
    /// Leases that an etcd without its data no longer has, while their hosts have time to put them back.
    missing: BTreeSet<SubnetKey>,
}

impl LeaseView {
    /// A view without leases, of the host with this one.
    pub fn new(own: SubnetKey) -> Self {
        Self { own, leases: BTreeMap::new(), missing: BTreeSet::new() }
    }

    /// Takes a whole list in place of all that was known.
    pub fn replace(&mut self, leases: impl IntoIterator<Item = Lease>) {
        self.leases = leases.into_iter().filter(|l| l.key != self.own).map(|l| (l.key, l)).collect();
        self.missing.clear();
    }

    /// Takes a whole list of an etcd that has lost data: what it lacks stays, and is missing from now on. Says how many
    /// are.
    pub fn restore(&mut self, leases: impl IntoIterator<Item = Lease>) -> usize {
        let mut before = std::mem::take(&mut self.leases);
        self.replace(leases);
        before.retain(|key, _| !self.leases.contains_key(key));
        self.missing = before.keys().copied().collect();
        self.leases.append(&mut before);
        self.missing.len()
    }

    /// Drops what is still missing: whose leases that were.
    pub fn drop_missing(&mut self) -> BTreeSet<SubnetKey> {
        let missing = std::mem::take(&mut self.missing);
        self.leases.retain(|key, _| !missing.contains(key));
        missing
    }

    /// Takes one change; says whether the view is another one now (a mere renewal changes nothing).
    pub fn apply(&mut self, change: Change) -> bool {
        let (Change::Put(Lease { key, .. }) | Change::Delete(key)) = &change;
        self.missing.remove(key);
        match change {
            Change::Put(lease) if lease.key == self.own => false,
            Change::Put(lease) if self.leases.get(&lease.key) == Some(&lease) => false,
            Change::Put(lease) => {
                self.leases.insert(lease.key, lease);
                true
            }
            Change::Delete(key) => self.leases.remove(&key).is_some(),
        }
    }

    /// The lease of these subnets, if it is a remote one.
    pub fn get(&self, key: &SubnetKey) -> Option<&Lease> {
        self.leases.get(key)
    }

    /// How many remote leases there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// The remote leases.
    pub fn remote(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::LeaseAttrs;
    use proptest::prelude::*;

    fn lease(net: u8, ip: u8) -> Lease {
        let key = format!("10.5.{net}.0-24").parse().unwrap();
        Lease { key, attrs: LeaseAttrs::new([192, 0, 2, ip].into()) }
    }

    #[test]
    fn the_own_lease_never_enters_and_renewals_change_nothing() {
        let mut view = LeaseView::new(lease(1, 1).key);
        view.replace([lease(1, 1), lease(2, 2)]);
        assert!(!view.apply(Change::Put(lease(1, 9))));
        assert!(!view.apply(Change::Delete(lease(1, 1).key)));
        assert!(!view.apply(Change::Put(lease(2, 2))));
        assert!(view.apply(Change::Put(lease(2, 3))));
        assert_eq!(view.remote().collect::<Vec<_>>(), [&lease(2, 3)]);
        assert!(view.apply(Change::Delete(lease(2, 3).key)));
        assert!(!view.apply(Change::Delete(lease(2, 3).key)));
    }

    #[test]
    fn what_a_store_without_its_data_lacks_stays_until_it_is_dropped() {
        let mut view = LeaseView::new(lease(1, 1).key);
        view.replace([lease(2, 2), lease(3, 3), lease(4, 4), lease(5, 5)]);
        assert_eq!(view.restore([lease(2, 9), lease(1, 1)]), 3);
        assert_eq!(view.remote().collect::<Vec<_>>(), [&lease(2, 9), &lease(3, 3), &lease(4, 4), &lease(5, 5)]);
        // One is put back as it was, one is deleted, the third never comes.
        assert!(!view.apply(Change::Put(lease(3, 3))));
        assert!(view.apply(Change::Delete(lease(4, 4).key)));
        assert_eq!(view.drop_missing(), BTreeSet::from([lease(5, 5).key]));
        assert_eq!(view.remote().collect::<Vec<_>>(), [&lease(2, 9), &lease(3, 3)]);
        assert!(view.drop_missing().is_empty());
    }

    #[test]
    fn a_second_loss_keeps_what_the_first_one_kept() {
        let mut view = LeaseView::new(lease(1, 1).key);
        view.replace([lease(2, 2), lease(3, 3)]);
        assert_eq!((view.restore([]), view.restore([lease(3, 3)])), (2, 1));
        assert_eq!(view.drop_missing(), BTreeSet::from([lease(2, 2).key]));
    }

    proptest! {
        /// Any stream of changes gives the view that a snapshot of its end gives.
        #[test]
        fn changes_and_their_snapshot_agree(changes in prop::collection::vec((0u8..5, 0u8..3, any::<bool>()), 0..40)) {
            let own = lease(0, 0).key;
            let mut view = LeaseView::new(own);
            let mut store = BTreeMap::new();
            for (net, ip, put) in changes {
                let lease = lease(net, ip);
                if put {
                    store.insert(lease.key, lease.clone());
                    view.apply(Change::Put(lease));
                } else {
                    store.remove(&lease.key);
                    view.apply(Change::Delete(lease.key));
                }
            }
            let mut fresh = LeaseView::new(own);
            fresh.replace(store.into_values());
            prop_assert_eq!(view.leases, fresh.leases);
        }
    }
}
