//! Arithmetic on addresses and ranges, the same for both families.

use std::net::IpAddr;

use ipnet::IpNet;

/// The address as a number; `from_number` with the same family turns it back.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

/// The address with this number, in the family of `like`; a number too large for the family is cut.
pub fn from_number(number: u128, like: &IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => IpAddr::V4(((number & u128::from(u32::MAX)) as u32).into()),
        IpNet::V6(_) => IpAddr::V6(number.into()),
    }
}

/// The first and last address a host may have: not the network's own, and in IPv4 not the broadcast address.
/// Nothing where that leaves less than two, one for the gateway and one for a container.
pub fn hosts(net: &IpNet) -> Option<(u128, u128)> {
    let first = number(net.network()) + 1;
    let last = match net {
        IpNet::V4(_) => number(net.broadcast()).checked_sub(1)?,
        IpNet::V6(_) => number(net.broadcast()),
    };
    (first < last).then_some((first, last))
}

/// Whether the two have an address in common.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
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

/// What is left of `whole` without `hole`, as few ranges as can be.
pub fn without(whole: &IpNet, hole: &IpNet) -> Vec<IpNet> {
    let mut left = Vec::new();
    let mut around = *whole;
    while around.contains(hole) && around != *hole {
        let Ok(halves) = around.subnets(around.prefix_len() + 1) else { break };
        for half in halves {
            if half.contains(hole) {
                around = half;
            } else {
                left.push(half);
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_leave_out_network_and_broadcast() {
        let range =
            |text: &str| hosts(&net(text)).map(|(a, b)| (from_number(a, &net(text)), from_number(b, &net(text))));
        assert_eq!(range("10.5.72.0/24"), Some(("10.5.72.1".parse().unwrap(), "10.5.72.254".parse().unwrap())));
        assert_eq!(range("10.5.72.4/30"), Some(("10.5.72.5".parse().unwrap(), "10.5.72.6".parse().unwrap())));
        assert_eq!(range("10.5.72.4/31"), None);
        assert_eq!(range("0.0.0.0/32"), None);
        assert_eq!(
            range("fd00::/64"),
            Some(("fd00::1".parse().unwrap(), "fd00::ffff:ffff:ffff:ffff".parse().unwrap()))
        );
    }

    #[test]
    fn a_range_without_another_is_all_the_rest() {
        let left = |whole: &str, hole: &str| {
            without(&net(whole), &net(hole)).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(left("10.4.0.0/14", "10.5.0.0/16"), "10.6.0.0/15 10.4.0.0/16");
        assert_eq!(left("10.5.0.0/16", "10.5.0.0/16"), "");
        let (whole, hole) = (net("10.5.0.0/16"), net("10.5.72.0/24"));
        let rest = without(&whole, &hole);
        let size = |n: &IpNet| number(n.broadcast()) - number(n.network()) + 1;
        assert_eq!(rest.iter().map(size).sum::<u128>() + size(&hole), size(&whole));
        assert!(rest.iter().all(|r| !overlap(r, &hole) && whole.contains(r)));
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
