//! Which host a packet goes to: the longest prefix of its destination, read on the packet path without a lock.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use flannel_core::ipnet::Ipv4Net;

/// The tunnels in force; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Tunnels(Arc<ArcSwap<Prefixes>>);

/// Hosts by masked destination, one map for each prefix length, the longest first.
#[derive(Debug, Default)]
struct Prefixes(Vec<(u32, BTreeMap<u32, Ipv4Addr>)>);

impl Tunnels {
    /// Puts these tunnels in the place of all earlier ones.
    pub fn replace(&self, tunnels: impl IntoIterator<Item = (Ipv4Net, Ipv4Addr)>) {
        let mut by_length: BTreeMap<u8, BTreeMap<u32, Ipv4Addr>> = BTreeMap::new();
        for (subnet, host) in tunnels {
            by_length.entry(subnet.prefix_len()).or_default().insert(subnet.network().to_bits(), host);
        }
        let mask = |len: u8| u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
        self.0.store(Arc::new(Prefixes(by_length.into_iter().rev().map(|(len, hosts)| (mask(len), hosts)).collect())));
    }

    /// The host that has the subnet of this address.
    pub fn host_of(&self, destination: Ipv4Addr) -> Option<Ipv4Addr> {
        let destination = destination.to_bits();
        self.0.load().0.iter().find_map(|(mask, hosts)| hosts.get(&(destination & mask)).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_replacing_forgets() {
        let tunnels = Tunnels::default();
        assert_eq!(tunnels.host_of(Ipv4Addr::new(10, 5, 1, 1)), None);
        let host = |n| Ipv4Addr::new(192, 0, 2, n);
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        tunnels.replace([(net("10.5.0.0/16"), host(1)), (net("10.5.1.0/24"), host(2)), (net("0.0.0.0/0"), host(3))]);
        assert_eq!(tunnels.host_of(Ipv4Addr::new(10, 5, 1, 255)), Some(host(2)));
        assert_eq!(tunnels.host_of(Ipv4Addr::new(10, 5, 2, 0)), Some(host(1)));
        assert_eq!(tunnels.host_of(Ipv4Addr::new(10, 6, 0, 0)), Some(host(3)));
        tunnels.replace([(net("10.5.3.0/24"), host(4))]);
        assert_eq!(tunnels.host_of(Ipv4Addr::new(10, 5, 1, 1)), None);
        assert_eq!(tunnels.host_of(Ipv4Addr::new(10, 5, 3, 1)), Some(host(4)));
    }
}
