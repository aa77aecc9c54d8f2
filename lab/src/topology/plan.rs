//! What follows from a topology: addresses, and the ways between underlays.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{HostSpec, Network, Topology, Underlay};

const FIRST_ETCD: u8 = 100;
const FIRST_ROUTER: u8 = 254;

/// One hop of the way to another underlay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way<'a> {
    /// The underlay it leads to.
    pub to: &'a Underlay,
    /// The router's address on the host's own underlay.
    pub via: Ipv4Addr,
    /// The same by IPv6.
    pub via6: Option<Ipv6Addr>,
}

impl Underlay {
    /// Its address that ends in `last`.
    #[must_use]
    pub fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.network()) | u32::from(last))
    }

    /// Its IPv6 address that ends in `last`.
    #[must_use]
    pub fn address6(&self, last: u8) -> Option<Ipv6Addr> {
        Some(Ipv6Addr::from(u128::from(self.ipv6?.network()) | u128::from(last)))
    }
}

impl Topology {
    /// The underlay of this name; a checked topology has it.
    #[must_use]
    pub fn underlay_of(&self, name: &str) -> &Underlay {
        self.underlay.iter().find(|underlay| underlay.name == name).unwrap_or(&self.underlay[0])
    }

    /// The last number of a host's addresses: its place in the file, from 1.
    #[must_use]
    pub fn number_of(&self, host: &str) -> u8 {
        let place = self.host.iter().position(|other| other.name == host).unwrap_or(0);
        u8::try_from(place + 1).unwrap_or(u8::MAX)
    }

    /// A host's address on its underlay.
    #[must_use]
    pub fn address_of(&self, host: &HostSpec) -> Ipv4Addr {
        self.underlay_of(&host.underlay).address(self.number_of(&host.name))
    }

    /// All addresses of a host on its underlay.
    #[must_use]
    pub fn addresses_of(&self, host: &HostSpec) -> Vec<IpAddr> {
        let (underlay, number) = (self.underlay_of(&host.underlay), self.number_of(&host.name));
        [Some(underlay.address(number).into()), underlay.address6(number).map(IpAddr::V6)]
            .into_iter()
            .flatten()
            .collect()
    }

    /// The addresses of etcd's members.
    pub fn etcd_addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        (0..self.etcd.members).map(|member| self.underlay[0].address(FIRST_ETCD + member))
    }

    /// A router's last number on every underlay it joins.
    #[must_use]
    pub fn router_number(&self, router: &str) -> u8 {
        let place = self.router.iter().position(|other| other.name == router).unwrap_or(0);
        FIRST_ROUTER - u8::try_from(place).unwrap_or(0)
    }

    /// The networks a host is on.
    pub fn networks_of<'a>(&'a self, host: &'a HostSpec) -> impl Iterator<Item = &'a Network> {
        let all = host.networks.is_empty();
        self.network.iter().filter(move |network| all || host.networks.contains(&network.name))
    }

    /// A network's prefix in etcd.
    #[must_use]
    pub fn prefix_of(&self, network: &Network) -> String {
        if self.network.first() == Some(network) {
            return "/coreos.com/network".to_owned();
        }
        format!("/coreos.com/{}", network.name)
    }

    /// Whether these two hosts' containers must not reach each other.
    #[must_use]
    pub fn are_apart(&self, one: &str, other: &str) -> bool {
        self.apart.iter().any(|[a, b]| (a == one && b == other) || (a == other && b == one))
    }

    /// Whether packets can come from one underlay to another.
    #[must_use]
    pub fn connected(&self, one: &str, other: &str) -> bool {
        one == other || self.first_routers(one).contains_key(other)
    }

    /// The ways from an underlay to all others that can be reached.
    #[must_use]
    pub fn ways(&self, from: &str) -> Vec<Way<'_>> {
        let here = self.underlay_of(from);
        let way = |(to, router): (&str, &str)| {
            let last = self.router_number(router);
            Way { to: self.underlay_of(to), via: here.address(last), via6: here.address6(last) }
        };
        self.first_routers(from).into_iter().map(way).collect()
    }

    /// The ways of a router to the underlays it does not join itself: through a neighbour on one that it does.
    #[must_use]
    pub fn ways_of_router(&self, router: &str) -> Vec<Way<'_>> {
        let Some(router) = self.router.iter().find(|other| other.name == router) else { return Vec::new() };
        let mut ways: BTreeMap<&str, Way<'_>> = BTreeMap::new();
        for here in &router.joins {
            // Its own address as next hop would lead nowhere.
            let own = self.underlay_of(here).address(self.router_number(&router.name));
            for way in self.ways(here) {
                if way.via != own && !router.joins.contains(&way.to.name) {
                    ways.entry(&way.to.name).or_insert(way);
                }
            }
        }
        ways.into_values().collect()
    }

    /// By breadth first: for each underlay that can be reached, the router to hand packets to.
    fn first_routers(&self, from: &str) -> BTreeMap<&str, &str> {
        let mut found: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue: VecDeque<(&str, Option<&str>)> = VecDeque::from([(self.underlay_of(from).name.as_str(), None)]);
        while let Some((here, first)) = queue.pop_front() {
            for router in self.router.iter().filter(|router| router.joins.iter().any(|name| name == here)) {
                for next in &router.joins {
                    if next == from || found.contains_key(next.as_str()) {
                        continue;
                    }
                    let first = first.unwrap_or(&router.name);
                    found.insert(next, first);
                    queue.push_back((next, Some(first)));
                }
            }
        }
        found
    }
}

/// An address with its prefix length, as `ip addr add` takes it.
pub(crate) fn with_length(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{v4}/24"),
        IpAddr::V6(v6) => format!("{v6}/64"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a --r1-- b --r2-- c
    fn chain() -> Topology {
        let underlay =
            |name: &str, third: u8| format!("[[underlay]]\nname = \"{name}\"\nsubnet = \"172.31.{third}.0/24\"\n");
        let text = format!(
            "{}{}{}
[[router]]\nname = \"r1\"\njoins = [\"a\", \"b\"]
[[router]]\nname = \"r2\"\njoins = [\"b\", \"c\"]
[[network]]\nname = \"net\"\nconfig = {{ Network = \"10.5.0.0/16\" }}
[[host]]\nname = \"h1\"\nunderlay = \"a\"
[[host]]\nname = \"h2\"\nunderlay = \"c\"",
            underlay("a", 1),
            underlay("b", 2),
            underlay("c", 3)
        );
        Topology::parse("chain", &text).unwrap()
    }

    fn shown(ways: Vec<Way<'_>>) -> Vec<String> {
        ways.into_iter().map(|way| format!("{} via {}", way.to.name, way.via)).collect()
    }

    #[test]
    fn ways_lead_through_the_first_router() {
        let chain = chain();
        assert_eq!(shown(chain.ways("a")), ["b via 172.31.1.254", "c via 172.31.1.254"]);
        assert_eq!(shown(chain.ways("b")), ["a via 172.31.2.254", "c via 172.31.2.253"]);
        assert_eq!(shown(chain.ways_of_router("r1")), ["c via 172.31.2.253"]);
        assert_eq!(shown(chain.ways_of_router("r2")), ["a via 172.31.2.254"]);
        assert!(chain.connected("a", "c"));
    }

    #[test]
    fn addresses_follow_the_files_order() {
        let chain = chain();
        assert_eq!(chain.address_of(&chain.host[1]).to_string(), "172.31.3.2");
        assert_eq!(chain.etcd_addresses().map(|a| a.to_string()).collect::<Vec<_>>(), ["172.31.1.100"]);
        assert_eq!(chain.prefix_of(&chain.network[0]), "/coreos.com/network");
    }

    #[test]
    fn another_backend_drops_the_old_ones_options() {
        let one = Topology::load("several-networks").unwrap().with_backend(Some("udp"));
        assert_eq!(one.backend(), "udp");
        assert_eq!(one.network[1].config["Backend"], serde_json::json!({ "Type": "udp", "Port": 8286 }));
    }
}
