//! A pool of addresses: who has which, and which is next.
//!
//! Addresses are handed out in turn, so that one just given back is the last to be used again: what others remember
//! of its last owner (neighbour entries, connections, DNS answers) has time to fade.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use flannel_core::family::Family;
use flannel_core::net::{from_bits, hosts, to_bits};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::store::lease::FlannelName;

/// A part of the lease whose addresses we hand out for Docker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The pool itself; its prefix length is that of each address.
    pub subnet: IpNet,
    /// Where addresses for containers come from: the pool, or the part given by `--ip-range`.
    pub range: IpNet,
    /// The network it was made for, once Docker has created that.
    pub network: Option<String>,
    /// `-o` or `--ipam-opt flannel.network`: another daemon's flannel network.
    #[serde(default)]
    pub flannel: Option<FlannelName>,
    used: BTreeSet<IpAddr>,
    last: Option<IpAddr>,
    /// Who had which address last, so that a container that starts again gets its own.
    #[serde(default, rename = "regulars")]
    sticky: BTreeMap<String, IpAddr>,
}

/// How many of them are remembered.
const MAX_STICKY: usize = 1024;

impl Pool {
    /// A pool with every address free. Ranges too small for a gateway and a container are refused.
    pub fn new(subnet: IpNet, range: IpNet) -> Result<Self, Error> {
        if hosts(&subnet).is_none() {
            return Err(Error::PoolTooSmall { pool: subnet });
        }
        Ok(Self {
            subnet,
            range,
            network: None,
            flannel: None,
            used: BTreeSet::new(),
            last: None,
            sticky: BTreeMap::new(),
        })
    }

    /// The first address, the gateway's unless the user chooses another.
    pub fn first(&self) -> IpAddr {
        from_bits(to_bits(self.subnet.network()) + 1, Family::of(self.subnet))
    }

    /// Whether nobody has an address of it.
    pub fn is_unused(&self) -> bool {
        self.used.is_empty()
    }

    /// Addresses in use, the gateway's among them.
    pub fn taken(&self) -> impl Iterator<Item = IpAddr> {
        self.used.iter().copied()
    }

    /// How many addresses are in use.
    pub fn used(&self) -> usize {
        self.used.len()
    }

    /// Takes this very address.
    pub fn claim(&mut self, address: IpAddr) -> Result<(), Error> {
        let usable = hosts(&self.subnet).is_some_and(|(first, last)| (first..=last).contains(&to_bits(address)));
        if !self.subnet.contains(&address) || !usable {
            return Err(Error::AddressOutside { address, pool: self.subnet });
        }
        if !self.used.insert(address) {
            return Err(Error::AddressInUse { address, pool: self.subnet });
        }
        Ok(())
    }

    /// Takes a free address of the range: the one that `who` had before, else the next that nobody is known to come
    /// back for, else the next.
    pub fn allocate(&mut self, who: Option<&str>) -> Result<IpAddr, Error> {
        let exhausted = |used: usize| Error::PoolExhausted {
            pool: self.range,
            used,
            network: self.network.clone(),
            users: String::new(),
        };
        let (first, last) = self.span().ok_or_else(|| exhausted(self.used.len()))?;
        let own = who.and_then(|who| self.sticky.get(who)).copied();
        let own = own.filter(|a| !self.used.contains(a) && (first..=last).contains(&to_bits(*a)));
        let kept: BTreeSet<_> = self.sticky.values().copied().collect();
        let next =
            own.or_else(|| self.next(first, last, |a| !kept.contains(&a)).or_else(|| self.next(first, last, |_| true)));
        let Some(address) = next else {
            let range = from_bits(first, Family::of(self.subnet))..=from_bits(last, Family::of(self.subnet));
            return Err(exhausted(self.used.range(range).count()));
        };
        self.used.insert(address);
        if own.is_none() {
            self.last = Some(address);
            self.sticky.retain(|_, a| *a != address);
        }
        if let Some(who) = who {
            if self.sticky.len() >= MAX_STICKY && !self.sticky.contains_key(who) {
                self.sticky.retain(|_, a| self.used.contains(a));
            }
            self.sticky.insert(who.to_owned(), address);
        }
        Ok(address)
    }

    /// The next free address after the last one given that will do.
    fn next(&self, first: u128, last: u128, will_do: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let start = match self.last.map(to_bits) {
            Some(n) if (first..last).contains(&n) => n + 1,
            _ => first,
        };
        // Among so many addresses one is neither used nor kept, unless the range is shorter than that.
        let tries = (self.used.len() + self.sticky.len()) as u128 + 1;
        let tries = tries.min(last - first + 1);
        let mut candidate = start;
        for _ in 0..tries {
            let address = from_bits(candidate, Family::of(self.subnet));
            if !self.used.contains(&address) && will_do(address) {
                return Some(address);
            }
            candidate = if candidate == last { first } else { candidate + 1 };
        }
        None
    }

    /// Gives an address back; one that nobody has is no mistake.
    pub fn release(&mut self, address: IpAddr) {
        self.used.remove(&address);
    }

    /// First and last address for containers.
    fn span(&self) -> Option<(u128, u128)> {
        let (first, last) = hosts(&self.subnet)?;
        let first = first.max(to_bits(self.range.network()));
        let last = last.min(to_bits(self.range.broadcast()));
        (first <= last).then_some((first, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(subnet: &str, range: &str) -> Pool {
        Pool::new(subnet.parse().unwrap(), range.parse().unwrap()).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_freed_address_is_the_last_to_come_again() {
        let mut pool = pool("10.5.72.0/29", "10.5.72.0/29");
        pool.claim(pool.first()).unwrap();
        assert_eq!(pool.allocate(None).unwrap(), ip("10.5.72.2"));
        assert_eq!(pool.allocate(None).unwrap(), ip("10.5.72.3"));
        pool.release(ip("10.5.72.2"));
        for expected in ["10.5.72.4", "10.5.72.5", "10.5.72.6", "10.5.72.2"] {
            assert_eq!(pool.allocate(None).unwrap(), ip(expected));
        }
        let full = pool.allocate(None).unwrap_err().to_string();
        assert!(full.contains("10.5.72.0/29") && full.contains("6 in use"), "{full}");
    }

    #[test]
    fn containers_keep_to_the_range_and_the_gateway_does_not() {
        let mut pool = pool("10.5.72.0/24", "10.5.72.252/30");
        pool.claim(ip("10.5.72.1")).unwrap();
        pool.claim(ip("10.5.72.253")).unwrap();
        assert_eq!(pool.allocate(None).unwrap(), ip("10.5.72.252"));
        assert_eq!(pool.allocate(None).unwrap(), ip("10.5.72.254"));
        assert!(pool.allocate(None).unwrap_err().to_string().contains("3 in use"));
    }

    #[test]
    fn takes_an_address_once_and_only_a_hosts() {
        let mut pool = pool("10.5.72.0/24", "10.5.72.0/24");
        pool.claim(ip("10.5.72.50")).unwrap();
        assert!(matches!(pool.claim(ip("10.5.72.50")), Err(Error::AddressInUse { .. })));
        for outside in ["10.5.73.1", "10.5.72.0", "10.5.72.255", "fd00::1"] {
            assert!(matches!(pool.claim(ip(outside)), Err(Error::AddressOutside { .. })), "{outside}");
        }
        pool.release(ip("10.5.72.50"));
        pool.release(ip("10.5.72.50"));
        pool.claim(ip("10.5.72.50")).unwrap();
    }

    #[test]
    fn works_in_ipv6_without_counting_to_its_end() {
        let mut pool = pool("fd00:5::/64", "fd00:5::/64");
        pool.claim(pool.first()).unwrap();
        assert_eq!(pool.allocate(None).unwrap(), ip("fd00:5::2"));
        pool.claim(ip("fd00:5::ffff:ffff:ffff:ffff")).unwrap();
        pool.last = Some(ip("fd00:5::ffff:ffff:ffff:fffe"));
        assert_eq!(pool.allocate(None).unwrap(), ip("fd00:5::3"));
    }

    #[test]
    fn who_comes_back_gets_the_same_address() {
        let mut pool = pool("10.5.72.0/29", "10.5.72.0/29");
        pool.claim(pool.first()).unwrap();
        let web = pool.allocate(Some("web")).unwrap();
        pool.release(web);
        // Others take it last.
        for expected in ["10.5.72.3", "10.5.72.4", "10.5.72.5"] {
            assert_eq!(pool.allocate(None).unwrap(), ip(expected));
        }
        pool.release(ip("10.5.72.3"));
        assert_eq!(pool.allocate(Some("web")).unwrap(), web);
        // A second one of that name meanwhile has another.
        assert_eq!(pool.allocate(Some("web")).unwrap(), ip("10.5.72.6"));
        pool.release(web);
        assert_eq!(pool.allocate(None).unwrap(), web, "nobody is known to come back for it any more");
        assert_eq!(pool.allocate(None).unwrap(), ip("10.5.72.3"));
        assert!(pool.allocate(Some("web")).is_err());
    }

    #[test]
    fn not_more_than_so_many_are_remembered() {
        let mut pool = pool("10.5.0.0/16", "10.5.0.0/16");
        for n in 0..2 * MAX_STICKY {
            let address = pool.allocate(Some(&n.to_string())).unwrap();
            pool.release(address);
        }
        assert!(pool.sticky.len() <= MAX_STICKY, "{}", pool.sticky.len());
    }

    // Every address handed out is unique, in the range, and none is lost: compared with a plain set.
    #[test]
    fn random_takes_and_returns_keep_the_books() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut pool = pool("10.5.72.0/26", "10.5.72.32/27");
        let mut held = BTreeSet::new();
        for _ in 0..5_000 {
            if rng.bool() {
                match pool.allocate(None) {
                    Ok(a) => assert!(held.insert(a) && (ip("10.5.72.32")..=ip("10.5.72.62")).contains(&a), "{a}"),
                    Err(_) => assert_eq!(held.len(), 31),
                }
            } else if let Some(a) = rng.choice(held.iter().copied().collect::<Vec<_>>()) {
                held.remove(&a);
                pool.release(a);
            }
            assert_eq!(pool.used(), held.len());
        }
    }
}
