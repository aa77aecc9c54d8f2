//! Arithmetic on addresses and networks, the same for both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::family::Family;

/// An address as a number.
pub fn to_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The address with this number; in IPv4 only its low 32 bits count.
pub fn from_bits(bits: u128, family: Family) -> IpAddr {
    match family {
        #[expect(clippy::cast_possible_truncation, reason = "IPv4 addresses have 32 bits")]
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

/// Whether two networks have an address in common.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The fewest networks that cover `whole` but not `hole`, largest first: the sibling of each prefix on the way from
/// the one to the other. A hole that lies outside leaves the whole.
pub fn without(whole: &IpNet, hole: &IpNet) -> Vec<IpNet> {
    if !whole.contains(hole) {
        return if hole.contains(whole) { Vec::new() } else { vec![*whole] };
    }
    let family = Family::of(hole);
    let sibling = |len: u8| {
        let flipped = to_bits(hole.network()) ^ 1 << (family.bits() - len);
        IpNet::new(from_bits(flipped, family), len).ok().map(|net| net.trunc())
    };
    (whole.prefix_len() + 1..=hole.prefix_len()).filter_map(sibling).collect()
}

/// The first and last address a host may have: not the network's own, and in IPv4 not the broadcast address.
/// None where fewer than two are left, one for
/// the gateway and one for a container.
pub fn hosts(net: &IpNet) -> Option<(u128, u128)> {
    let first = to_bits(net.network()) + 1;
    let last = match net {
        IpNet::V4(_) => to_bits(net.broadcast()).checked_sub(1)?,
        IpNet::V6(_) => to_bits(net.broadcast()),
    };
    (first < last).then_some((first, last))
}

/// The largest part of `whole` that overlaps none of `taken`, the lowest of that size.
pub fn free_part(whole: &IpNet, taken: &[IpNet]) -> Option<IpNet> {
    let mut parts = vec![*whole];
    while !parts.is_empty() {
        if let Some(free) = parts.iter().find(|p| !taken.iter().any(|t| overlap(p, t))) {
            return Some(*free).filter(|f| hosts(f).is_some());
        }
        // A part inside a taken range has nothing to give; the others are halved.
        parts = parts
            .iter()
            .filter(|p| !taken.iter().any(|t| t.contains(*p)))
            .filter_map(|p| p.subnets(p.prefix_len().checked_add(1)?).ok())
            .flatten()
            .collect();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_and_addresses_convert_both_ways() {
        for ip in ["10.5.72.1", "255.255.255.255", "fd00::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(from_bits(to_bits(ip), Family::of(ip)), ip);
        }
        assert_eq!(from_bits(1 << 32 | 7, Family::V4), IpAddr::from([0, 0, 0, 7]));
    }

    #[test]
    fn only_the_hole_is_left_out() {
        let (whole, hole) = (net("10.5.0.0/16"), net("10.5.56.0/24"));
        let rest = without(&whole, &hole);
        assert_eq!(rest.len(), 8);
        assert!(rest.iter().all(|r| !overlap(r, &hole) && whole.contains(r)));
        let addresses: u32 = rest.iter().map(|r| 1 << (32 - r.prefix_len())).sum();
        assert_eq!(addresses, (1 << 16) - (1 << 8));
        for other in ["10.5.0.1/32", "10.5.55.255/32", "10.5.57.0/32", "10.5.255.255/32"] {
            assert_eq!(rest.iter().filter(|r| r.contains(&net(other))).count(), 1, "{other}");
        }
        let left = |whole: &str, hole: &str| {
            without(&net(whole), &net(hole)).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(left("10.5.0.0/16", "10.5.0.0/18"), "10.5.128.0/17 10.5.64.0/18");
        assert_eq!(left("fd00::/62", "fd00:0:0:1::/64"), "fd00:0:0:2::/63 fd00::/64");
        assert_eq!(left("10.4.0.0/14", "10.5.0.0/16"), "10.6.0.0/15 10.4.0.0/16");
        assert_eq!(left("10.5.0.0/16", "10.5.0.0/16"), "");
        assert_eq!(left("10.5.0.0/16", "10.4.0.0/14"), "");
        assert_eq!(left("10.5.0.0/16", "10.6.0.0/24"), "10.5.0.0/16");
        assert_eq!(left("0.0.0.0/0", "0.0.0.0/1"), "128.0.0.0/1");
    }

    #[test]
    fn hosts_leave_out_network_and_broadcast() {
        let range = |text: &str| {
            hosts(&net(text))
                .map(|(first, last)| [first, last].map(|n| from_bits(n, Family::of(net(text))).to_string()))
        };
        let ends = |first: &str, last: &str| Some([first.to_owned(), last.to_owned()]);
        assert_eq!(range("10.5.72.0/24"), ends("10.5.72.1", "10.5.72.254"));
        assert_eq!(range("10.5.72.4/30"), ends("10.5.72.5", "10.5.72.6"));
        assert_eq!(range("10.5.72.4/31"), None);
        assert_eq!(range("0.0.0.0/32"), None);
        assert_eq!(range("fd00::/64"), ends("fd00::1", "fd00::ffff:ffff:ffff:ffff"));
    }

    #[test]
    fn free_part_is_the_largest_that_is_left() {
        let free = |taken: &[&str]| {
            free_part(&net("10.5.72.0/24"), &taken.iter().map(|t| net(t)).collect::<Vec<_>>()).map(|n| n.to_string())
        };
        assert_eq!(free(&[]).as_deref(), Some("10.5.72.0/24"));
        assert_eq!(free(&["10.5.73.0/24"]).as_deref(), Some("10.5.72.0/24"));
        assert_eq!(free(&["10.5.72.0/26"]).as_deref(), Some("10.5.72.128/25"));
        assert_eq!(free(&["10.5.72.0/26", "10.5.72.128/25"]).as_deref(), Some("10.5.72.64/26"));
        assert_eq!(free(&["10.5.72.7/32"]).as_deref(), Some("10.5.72.128/25"));
        assert_eq!(free(&["10.5.0.0/16"]), None);
        assert_eq!(free(&["10.5.72.0/25", "10.5.72.128/25"]), None);
    }
}
