//! What must stand in the kernel (or in the udp proxy) for remote leases to be reached, and the plan that gets it
//! there from what stands there now.
//!
//! A [`Slot`] is an entry's identity as the kernel has it: a route by destination, a neighbour by address, a
//! forwarding record by MAC. So a changed value is one replace, never a removal with a gap behind it. The order of the
//! slots is the order of programming: a route is put only after the neighbour and the forwarding record it needs, and
//! removed before them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

use crate::key::SubnetKey;
use crate::name::Mac;
use crate::wireguard::{PrivateKey, PublicKey};

/// The kernel's number of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkIndex(pub u32);

/// One thing to programme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A permanent neighbour: this address of the link has this MAC.
    Neigh {
        /// The device.
        link: LinkIndex,
        /// The neighbour's address.
        ip: IpAddr,
        /// The neighbour's MAC address.
        mac: Mac,
    },
    /// A permanent record of a vxlan device's forwarding database: frames to this MAC go to this host.
    Fdb {
        /// The device.
        link: LinkIndex,
        /// The MAC address of the host's VTEP.
        mac: Mac,
        /// The host's public address.
        dst: IpAddr,
    },
    /// A route of the main table.
    Route(Route),
    /// A destination of the udp proxy: packets to this subnet go to this host.
    Tunnel {
        /// The remote lease's subnet.
        subnet: Ipv4Net,
        /// The host's public address.
        to: Ipv4Addr,
    },
    /// A peer of a wireguard device, boxed because it is three times as large as the others, of which there may be tens
    /// of thousands.
    Peer(Box<Peer>),
}

/// A peer of a wireguard device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The device.
    pub link: LinkIndex,
    /// The host's key.
    pub key: PublicKey,
    /// Where it is reached. The kernel follows a host that moves, so this is where it was said to be.
    pub endpoint: SocketAddr,
    /// The subnets behind it; nothing where the kernel has what no lease says.
    pub allowed: Option<SubnetKey>,
    /// The key all hosts share.
    pub psk: Option<PrivateKey>,
    /// How often a silent tunnel sends something, in seconds; 0 for never.
    pub keepalive: u16,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// Through which gateway; straight onto the link without.
    pub via: Option<IpAddr>,
    /// The outgoing device.
    pub link: LinkIndex,
    /// Take the gateway to be on the link though no address of ours says so.
    pub onlink: bool,
}

/// An entry's identity; of two entries with the same slot only one can stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Of [`Entry::Neigh`].
    Neigh(LinkIndex, IpAddr),
    /// Of [`Entry::Fdb`].
    Fdb(LinkIndex, Mac),
    /// Of [`Entry::Route`].
    Route(IpNet),
    /// Of [`Entry::Tunnel`].
    Tunnel(Ipv4Net),
    /// Of [`Entry::Peer`].
    Peer(LinkIndex, PublicKey),
}

impl Entry {
    /// The entry's identity.
    pub fn slot(&self) -> Slot {
        match self {
            Self::Neigh { link, ip, .. } => Slot::Neigh(*link, *ip),
            Self::Fdb { link, mac, .. } => Slot::Fdb(*link, *mac),
            Self::Route(route) => Slot::Route(route.dst),
            Self::Tunnel { subnet, .. } => Slot::Tunnel(*subnet),
            Self::Peer(peer) => Slot::Peer(peer.link, peer.key),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Neigh { ip, mac, .. } => write!(f, "neighbour {ip} at {mac}"),
            Self::Fdb { mac, dst, .. } => write!(f, "FDB record {mac} to {dst}"),
            Self::Route(route) => write!(f, "{route}"),
            Self::Tunnel { subnet, to } => write!(f, "tunnel {subnet} to {to}"),
            Self::Peer(peer) => write!(f, "peer {} at {}", peer.key, peer.endpoint),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.dst)?;
        self.via.map_or(Ok(()), |via| write!(f, " via {via}"))
    }
}

/// Entries by identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table(BTreeMap<Slot, Entry>);

impl Table {
    /// Puts an entry in its slot.
    pub fn put(&mut self, entry: Entry) {
        self.0.insert(entry.slot(), entry);
    }

    /// Empties an entry's slot.
    pub fn remove(&mut self, entry: &Entry) {
        self.0.remove(&entry.slot());
    }

    /// Empties a slot.
    pub fn clear(&mut self, slot: &Slot) {
        self.0.remove(slot);
    }

    /// What stands in a slot.
    pub fn get(&self, slot: &Slot) -> Option<&Entry> {
        self.0.get(slot)
    }

    /// Whether exactly this entry stands in its slot.
    pub fn has(&self, entry: &Entry) -> bool {
        self.0.get(&entry.slot()) == Some(entry)
    }

    /// Takes the endpoints of wireguard peers from another table, where it has the same peers: the kernel's own follow
    /// the hosts' moves, which is no difference to be put right.
    pub fn take_endpoints(&mut self, from: &Self) {
        for (slot, entry) in &mut self.0 {
            if let (Entry::Peer(peer), Some(Entry::Peer(known))) = (entry, from.0.get(slot)) {
                peer.endpoint = known.endpoint;
            }
        }
    }

    /// Whether another entry stands in this one's slot.
    pub fn holds_another(&self, entry: &Entry) -> bool {
        self.0.get(&entry.slot()).is_some_and(|stands| stands != entry)
    }

    /// The slots in which another table differs.
    pub fn differences(&self, other: &Self) -> BTreeSet<Slot> {
        let ours = self.0.iter().filter(|(_, entry)| !other.has(entry)).map(|(slot, _)| *slot);
        let theirs = other.0.keys().filter(|slot| !self.0.contains_key(slot)).copied();
        ours.chain(theirs).collect()
    }

    /// The entries in the order of programming.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.0.values()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Entry> for Table {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        Self(entries.into_iter().map(|e| (e.slot(), e)).collect())
    }
}

/// What to do so that what is desired is what stands: first every `put` in its order (each a create-or-replace), then
/// every `remove` in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Entries to create or replace.
    pub put: Vec<Entry>,
    /// Entries to take away.
    pub remove: Vec<Entry>,
}

impl Plan {
    /// What is to be done in these slots.
    pub fn of(slots: &BTreeSet<Slot>, installed: &Table, desired: &Table) -> Self {
        let put = slots.iter().filter_map(|slot| desired.get(slot)).filter(|entry| !installed.has(entry));
        let surplus = slots.iter().rev().filter(|slot| desired.get(slot).is_none());
        Self { put: put.cloned().collect(), remove: surplus.filter_map(|slot| installed.get(slot)).cloned().collect() }
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.remove.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn neigh(ip: u8, mac: u8) -> Entry {
        Entry::Neigh { link: LinkIndex(1), ip: Ipv4Addr::new(10, 5, ip, 0).into(), mac: Mac([2, 0, 0, 0, 0, mac]) }
    }

    fn fdb(mac: u8, dst: u8) -> Entry {
        Entry::Fdb { link: LinkIndex(1), mac: Mac([2, 0, 0, 0, 0, mac]), dst: Ipv4Addr::new(192, 0, 2, dst).into() }
    }

    fn route(net: u8, via: u8) -> Entry {
        let dst = IpNet::new(Ipv4Addr::new(10, 5, net, 0).into(), 24).unwrap();
        Entry::Route(Route { dst, via: Some(Ipv4Addr::new(10, 5, via, 0).into()), link: LinkIndex(1), onlink: true })
    }

    fn plan(installed: &Table, desired: &Table) -> Plan {
        Plan::of(&installed.differences(desired), installed, desired)
    }

    #[test]
    fn a_new_mac_is_a_replace_and_a_late_removal() {
        let installed = Table::from_iter([route(1, 1), fdb(1, 1), neigh(1, 1)]);
        let desired = Table::from_iter([route(1, 1), fdb(2, 1), neigh(1, 2)]);
        let plan = plan(&installed, &desired);
        assert_eq!(plan, Plan { put: vec![neigh(1, 2), fdb(2, 1)], remove: vec![fdb(1, 1)] });
    }

    #[test]
    fn routes_come_last_and_go_first() {
        let all = Table::from_iter([route(1, 1), fdb(1, 1), neigh(1, 1)]);
        let none = Table::default();
        assert_eq!(plan(&none, &all).put, [neigh(1, 1), fdb(1, 1), route(1, 1)]);
        assert_eq!(plan(&all, &none).remove, [route(1, 1), fdb(1, 1), neigh(1, 1)]);
        assert!(plan(&all, &all).is_empty());
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let one = (0u8..3, 0u8..6, 0u8..6).prop_map(|(kind, a, b)| match kind {
            0 => neigh(a, b),
            1 => fdb(a, b),
            _ => route(a, b),
        });
        prop::collection::vec(one, 0..20)
    }

    proptest! {
        /// Whatever stands, carrying the plan out leaves what is desired; what fails stays to be planned again.
        #[test]
        fn carried_out_it_converges(installed in entries(), desired in entries(), fails in prop::collection::vec(any::<bool>(), 60)) {
            let mut installed = Table::from_iter(installed);
            let desired = Table::from_iter(desired);
            let mut fails = fails.into_iter();
            for _ in 0..2 {
                let plan = plan(&installed, &desired);
                for entry in plan.put {
                    if !fails.next().unwrap_or(false) { installed.put(entry); }
                }
                for entry in plan.remove {
                    if !fails.next().unwrap_or(false) { installed.remove(&entry); }
                }
                fails = Vec::new().into_iter();
            }
            prop_assert_eq!(installed, desired);
        }
    }
}
