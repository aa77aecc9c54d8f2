//! What should stand, and for whose sake: each lease claims the entries it needs, so that a lease that comes, changes
//! or goes costs what it has, however many others there are.
//!
//! Two leases may claim one slot (two hosts with one VTEP MAC, a copied disk): the claimant that comes last in order
//! has it, and when it goes, the one before it, whatever the order in which they came.

use std::collections::{BTreeMap, BTreeSet};

use crate::entry::{Entry, Slot, Table};
use crate::key::SubnetKey;

/// Who claims: a lease, or nobody in particular for what stands whatever leases there are.
pub type Claimant = Option<SubnetKey>;

/// Entries by claimant.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    claims: BTreeMap<Claimant, Box<[Entry]>>,
    table: Table,
    /// The slots that more than one claims.
    contested: BTreeMap<Slot, BTreeSet<Claimant>>,
}

impl Desired {
    /// All entries.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The leases that claim something.
    pub fn leases(&self) -> impl Iterator<Item = SubnetKey> {
        self.claims.keys().copied().flatten()
    }

    /// Takes these entries in place of all that `claimant` claimed before; none is for a lease that went. Returns the
    /// slots in which something may be different now.
    pub fn claim(&mut self, claimant: Claimant, entries: Vec<Entry>) -> Vec<Slot> {
        // In order, and of each slot once.
        let entries: Box<[Entry]> = Table::from_iter(entries).iter().cloned().collect();
        if self.claims.get(&claimant).is_none_or(|old| old.is_empty()) && entries.is_empty() {
            return Vec::new();
        }
        if self.claims.get(&claimant) == Some(&entries) {
            return Vec::new();
        }
        let old = self.claims.remove(&claimant).unwrap_or_default();
        let mut touched: Vec<Slot> = old.iter().map(Entry::slot).collect();
        for slot in &touched {
            self.withdraw(claimant, slot);
        }
        for entry in &entries {
            let slot = entry.slot();
            self.add(claimant, slot, entry);
            touched.push(slot);
        }
        if !entries.is_empty() {
            self.claims.insert(claimant, entries);
        }
        touched
    }

    fn add(&mut self, claimant: Claimant, slot: Slot, entry: &Entry) {
        if self.table.get(&slot).is_none() {
            return self.table.put(entry.clone());
        }
        let claims = &self.claims;
        let claimants = self.contested.entry(slot).or_insert_with(|| {
            // The one that had it alone is not written down anywhere: this is rare.
            claims
                .iter()
                .filter(|(_, entries)| in_slot(entries, &slot).is_some())
                .map(|(claimant, _)| *claimant)
                .collect()
        });
        claimants.insert(claimant);
        if claimants.last() == Some(&claimant) {
            self.table.put(entry.clone());
        }
    }

    fn withdraw(&mut self, claimant: Claimant, slot: &Slot) {
        let Some(claimants) = self.contested.get_mut(slot) else { return self.table.clear(slot) };
        claimants.remove(&claimant);
        let heir = claimants.last().and_then(|heir| in_slot(self.claims.get(heir)?, slot));
        if let Some(entry) = heir {
            self.table.put(entry.clone());
        }
        if claimants.len() < 2 {
            self.contested.remove(slot);
        }
    }
}

fn in_slot<'a>(entries: &'a [Entry], slot: &Slot) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.slot() == *slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::LinkIndex;
    use crate::name::Mac;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn fdb(mac: u8, dst: u8) -> Entry {
        Entry::Fdb { link: LinkIndex(1), mac: Mac([2, 0, 0, 0, 0, mac]), dst: Ipv4Addr::new(192, 0, 2, dst).into() }
    }

    fn claimant(net: u8) -> Claimant {
        (net > 0).then(|| format!("10.5.{net}.0-24").parse().unwrap())
    }

    #[test]
    fn the_last_claimant_has_the_slot_until_it_goes() {
        let mut desired = Desired::default();
        assert_eq!(desired.claim(claimant(2), vec![fdb(1, 2)]), [fdb(1, 0).slot()]);
        desired.claim(claimant(1), vec![fdb(1, 1)]);
        assert!(desired.table().has(&fdb(1, 2)), "the order of arrival does not matter");
        desired.claim(claimant(3), vec![fdb(1, 3)]);
        assert!(desired.table().has(&fdb(1, 3)));
        desired.claim(claimant(3), vec![]);
        assert!(desired.table().has(&fdb(1, 2)));
        desired.claim(claimant(2), vec![fdb(2, 2)]);
        assert!(desired.table().has(&fdb(1, 1)) && desired.table().has(&fdb(2, 2)));
        assert_eq!(desired.claim(claimant(1), vec![fdb(1, 1)]), []);
        desired.claim(claimant(1), vec![]);
        assert_eq!(desired.table(), &Table::from_iter([fdb(2, 2)]));
        assert_eq!(desired.leases().collect::<Vec<_>>(), [claimant(2).unwrap()]);
    }

    proptest! {
        /// Against the plain way: put all claims into one table in the order of the claimants. What differs between two
        /// steps is among the slots the second returned.
        #[test]
        fn agrees_with_the_plain_way(
            steps in prop::collection::vec((0u8..6, prop::collection::vec((0u8..4, 0u8..4), 0..3)), 0..40)
        ) {
            let mut desired = Desired::default();
            let mut model: BTreeMap<Claimant, Vec<Entry>> = BTreeMap::new();
            for (net, entries) in steps {
                let entries: Vec<Entry> = entries.into_iter().map(|(mac, dst)| fdb(mac, dst)).collect();
                let before = desired.table().clone();
                let touched: BTreeSet<Slot> = desired.claim(claimant(net), entries.clone()).into_iter().collect();
                model.insert(claimant(net), entries);
                prop_assert_eq!(desired.table(), &Table::from_iter(model.values().flatten().cloned()));
                prop_assert!(before.differences(desired.table()).is_subset(&touched));
            }
        }
    }
}
