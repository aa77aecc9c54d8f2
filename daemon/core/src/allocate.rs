//! Picking a free subnet for a new lease.

use ipnet::IpNet;

use crate::config::Range;
use crate::family::Family;
use crate::net::{from_bits, to_bits};

/// Among how many free subnets one is drawn, as upstream does (docs/upstream.md, section 2.4): few enough that the range
/// fills from its start, many enough that hosts starting at once seldom draw the same.
const DRAW_FROM: usize = 100;

/// Draws a subnet of `range` that overlaps none of `taken`, uniformly among the first hundred free ones.
/// Nothing when all are taken.
///
/// Cost: one sort of `taken`, then a sweep.
pub fn pick(range: &Range, taken: impl IntoIterator<Item = IpNet>, rng: &mut fastrand::Rng) -> Option<IpNet> {
    let family = Family::of(range.network);
    let same_family = |net: &IpNet| Family::of(net) == family;
    let mut taken: Vec<(u128, u128)> =
        taken.into_iter().filter(same_family).map(|net| (to_bits(net.network()), to_bits(net.broadcast()))).collect();
    taken.sort_unstable();
    let one = 1u128 << (range.network.max_prefix_len() - range.subnet_len);
    let (mut base, last) = (to_bits(range.min), to_bits(range.max));
    let mut taken = taken.into_iter().peekable();
    let mut free = Vec::new();
    while base <= last && free.len() < DRAW_FROM {
        match taken.peek() {
            Some((_, end)) if *end < base => {
                taken.next();
                continue;
            }
            // On to the first boundary behind what is in the way; past the end of the address space there is none.
            Some((start, end)) if *start <= base + (one - 1) => {
                let Some(behind) = (end / one + 1).checked_mul(one) else { break };
                base = behind;
                continue;
            }
            _ => free.push(base),
        }
        let Some(next) = base.checked_add(one) else { break };
        base = next;
    }
    let base = *free.get(rng.usize(0..free.len().max(1)))?;
    IpNet::new(from_bits(base, family), range.subnet_len).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NetworkConfig;
    use proptest::prelude::*;

    fn range(text: &str) -> Range {
        NetworkConfig::parse(text).unwrap().ranges.v4.unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn finds_the_last_free_subnet() {
        let range = range(r#"{"Network":"10.5.0.0/28"}"#);
        let rng = &mut fastrand::Rng::with_seed(7);
        assert_eq!(pick(&range, nets(&["10.5.0.4/30", "10.5.0.12/30"]), rng), Some("10.5.0.8/30".parse().unwrap()));
        assert_eq!(pick(&range, nets(&["10.5.0.4/30", "10.5.0.8/29"]), rng), None);
        assert_eq!(pick(&range, nets(&["10.0.0.0/8"]), rng), None);
    }

    #[test]
    fn min_above_max_is_out_of_subnets() {
        let range = range(r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.3.0"}"#);
        assert_eq!(pick(&range, [], &mut fastrand::Rng::with_seed(7)), None);
    }

    #[test]
    fn the_end_of_the_address_space_is_no_trap() {
        let high = range(r#"{"Network":"255.255.255.0/24","SubnetLen":30}"#);
        let rng = &mut fastrand::Rng::with_seed(7);
        assert_eq!(pick(&high, nets(&["255.255.255.0/24"]), rng), None);
        let v6 = range(r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"ffff:ffff:ffff:ffff::/64"}"#);
        assert_eq!(pick(&v6, nets(&["ffff::/16"]), rng), None);
        assert!(pick(&v6, [], rng).is_some());
    }

    #[test]
    fn draws_among_the_first_hundred() {
        let range = range(r#"{"Network":"10.0.0.0/8"}"#);
        let mut rng = fastrand::Rng::with_seed(7);
        let drawn: std::collections::BTreeSet<_> = (0..5000).filter_map(|_| pick(&range, [], &mut rng)).collect();
        assert_eq!(drawn.len(), 100);
        assert_eq!(drawn.last(), Some(&"10.0.100.0/24".parse().unwrap()));
    }

    proptest! {
        /// Against the plain way: walk all candidates, compare each with all leases.
        #[test]
        fn agrees_with_the_plain_way(taken in prop::collection::vec((0u32..1024, 22u8..=30), 0..40), seed: u64) {
            let range = range(r#"{"Network":"10.5.0.0/22","SubnetLen":26}"#);
            let taken: Vec<IpNet> = taken
                .into_iter()
                .map(|(offset, len)| IpNet::new(from_bits(0x0a05_0000 + u128::from(offset), Family::V4), len).unwrap().trunc())
                .collect();
            let free: Vec<IpNet> = range
                .network
                .subnets(26)
                .unwrap()
                .skip(1)
                .filter(|c| !taken.iter().any(|t| t.contains(c) || c.contains(t)))
                .collect();
            match pick(&range, taken, &mut fastrand::Rng::with_seed(seed)) {
                Some(picked) => prop_assert!(free.contains(&picked)),
                None => prop_assert!(free.is_empty()),
            }
        }
    }
}
