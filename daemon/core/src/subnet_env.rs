//! `subnet.env`: what the daemon tells the host, and what it remembers of its last lease.
//!
//! Format (docs/upstream.md, section 3): shell assignments in a fixed order, one a line, each ended by a newline. The daemon
//! writes it last of all at start-up; Docker start scripts source it, the Docker plugin parses it, and the next start
//! of the daemon asks for the same subnet.

use std::fmt::Write as _;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::{NetworkConfig, Range};
use crate::family::{Dual, Family};
use crate::key::SubnetKey;
use crate::net::{from_bits, to_bits};

/// Where upstream and this project put the file.
pub const DEFAULT_PATH: &str = "/run/flannel/subnet.env";

/// The content of a complete `subnet.env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    /// What the file says about each family of the lease.
    pub subnets: Dual<HostSubnet>,
    /// What a container's interface may send at most, in bytes of IP packet.
    pub mtu: u32,
    /// Whether the daemon masquerades traffic that leaves the flannel network (`-ip-masq`).
    pub ip_masq: bool,
}

/// One address family of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSubnet {
    /// The whole flannel network, as in etcd's config.
    pub network: IpNet,
    /// The host's subnet with its **first address** (base + 1), as the file has it: `10.5.7.1/24`.
    pub gateway: IpNet,
}

/// Why a text is no complete `subnet.env`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSubnetEnv {
    /// A variable that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A variable's value can't be read.
    #[error("{name}={value:?} is not {expected}")]
    Value {
        /// The variable.
        name: &'static str,
        /// What the file has.
        value: String,
        /// What it should be, in words.
        expected: &'static str,
    },
    /// A subnet and a network were given, but not of the same family or not one inside the other.
    #[error("FLANNEL_SUBNET {subnet} does not lie inside FLANNEL_NETWORK {network}")]
    Outside {
        /// The host's subnet.
        subnet: String,
        /// The flannel network.
        network: String,
    },
}

impl SubnetEnv {
    /// The file of a host with this lease of the network.
    pub fn of(config: &NetworkConfig, lease: SubnetKey, mtu: u32, ip_masq: bool) -> Self {
        let of_family = |(family, range): (Family, &Range)| {
            let subnet = lease.net(family)?;
            let first = from_bits(to_bits(subnet.network()) + 1, family);
            let gateway = IpNet::new(first, subnet.prefix_len()).ok()?;
            Some((family, HostSubnet { network: range.network, gateway }))
        };
        Self { subnets: config.ranges.iter().filter_map(of_family).collect(), mtu, ip_masq }
    }

    /// The file's text, byte for byte as upstream writes it.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            // Writing into a String can't fail.
            writeln!(text, "{name}={value}").expect("a String takes every write");
        };
        for (family, subnet) in self.subnets.iter() {
            let (network, gateway) = variables(family);
            line(network, &subnet.network);
            line(gateway, &subnet.gateway);
        }
        line("FLANNEL_MTU", &self.mtu);
        line("FLANNEL_IPMASQ", &self.ip_masq);
        text
    }

    /// Reads a complete file; at least one family must be there.
    pub fn parse(text: &str) -> Result<Self, BadSubnetEnv> {
        let vars = Vars::parse(text);
        let v4 = vars.subnet::<Ipv4Net>(Family::V4, "an IPv4 address with its prefix length")?;
        let v6 = vars.subnet::<Ipv6Net>(Family::V6, "an IPv6 address with its prefix length")?;
        let subnets = Dual { v4, v6 };
        for HostSubnet { network, gateway } in subnets.values() {
            if !network.contains(gateway) {
                return Err(BadSubnetEnv::Outside { subnet: gateway.to_string(), network: network.to_string() });
            }
        }
        if subnets.is_empty() {
            return Err(BadSubnetEnv::Missing("FLANNEL_SUBNET"));
        }
        let mtu = vars.parsed("FLANNEL_MTU", "a number of bytes")?.ok_or(BadSubnetEnv::Missing("FLANNEL_MTU"))?;
        let ip_masq = vars.parsed("FLANNEL_IPMASQ", "true or false")?.unwrap_or(false);
        Ok(Self { subnets, mtu, ip_masq })
    }
}

/// The subnets of an earlier run, as the daemon remembers them: whatever of the file can be read, nothing more.
/// A value of several subnets (a comma list) or one that can't be read counts as absent (docs/upstream.md, section 3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreviousSubnets {
    /// `FLANNEL_SUBNET`, host bits cleared.
    pub v4: Option<Ipv4Net>,
    /// `FLANNEL_IPV6_SUBNET`, host bits cleared.
    pub v6: Option<Ipv6Net>,
}

impl PreviousSubnets {
    /// Reads what can be read.
    pub fn parse(text: &str) -> Self {
        let vars = Vars::parse(text);
        Self {
            v4: vars.get("FLANNEL_SUBNET").and_then(|v| v.parse::<Ipv4Net>().ok()).map(|n| n.trunc()),
            v6: vars.get("FLANNEL_IPV6_SUBNET").and_then(|v| v.parse::<Ipv6Net>().ok()).map(|n| n.trunc()),
        }
    }
}

/// The assignments of a dotenv text; a later one wins.
struct Vars<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Vars<'a> {
    fn parse(text: &'a str) -> Self {
        let assignments = text.lines().filter_map(|line| {
            let line = line.trim();
            let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
            if name.starts_with('#') {
                return None;
            }
            Some((name.trim(), unquote(value.trim())))
        });
        Self(assignments.collect())
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }

    fn parsed<T: std::str::FromStr>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, BadSubnetEnv> {
        self.get(name)
            .map(|v| v.parse().map_err(|_| BadSubnetEnv::Value { name, value: v.to_owned(), expected }))
            .transpose()
    }

    fn subnet<N: std::str::FromStr + Into<IpNet>>(
        &self,
        family: Family,
        expected: &'static str,
    ) -> Result<Option<HostSubnet>, BadSubnetEnv> {
        let (network, subnet) = variables(family);
        let parsed = |name| Ok(self.parsed::<N>(name, expected)?.map(Into::into));
        match (parsed(network)?, parsed(subnet)?) {
            (Some(network), Some(gateway)) => Ok(Some(HostSubnet { network, gateway })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(BadSubnetEnv::Missing(network)),
            (Some(_), None) => Err(BadSubnetEnv::Missing(subnet)),
        }
    }
}

/// The names of a family's network and subnet.
fn variables(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("FLANNEL_NETWORK", "FLANNEL_SUBNET"),
        Family::V6 => ("FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET"),
    }
}

fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote)) {
            return inner;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(network: &str, gateway: &str) -> HostSubnet {
        HostSubnet { network: network.parse().unwrap(), gateway: gateway.parse().unwrap() }
    }

    fn example() -> SubnetEnv {
        SubnetEnv { subnets: Dual::only(Family::V4, subnet("10.5.0.0/16", "10.5.57.1/24")), mtu: 1450, ip_masq: true }
    }

    // parity: daemon/tests/vectors/recorded/vxlan-ipmasq/n1/subnet.env
    #[test]
    fn renders_upstreams_bytes() {
        assert_eq!(
            example().render(),
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.57.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
    }

    // parity: daemon/tests/vectors/recorded/dualstack-vxlan/n1/subnet.env
    #[test]
    fn renders_both_families_in_upstreams_order() {
        let mut env = example();
        env.subnets.v6 = Some(subnet("fd00:5::/48", "fd00:5:0:2e::1/64"));
        assert_eq!(
            env.render(),
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.57.1/24\nFLANNEL_IPV6_NETWORK=fd00:5::/48\n\
             FLANNEL_IPV6_SUBNET=fd00:5:0:2e::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        let text = r#"{"Network":"10.5.0.0/16","IPv6Network":"fd00:5::/48","EnableIPv6":true}"#;
        let config = NetworkConfig::parse(text).unwrap();
        let lease = "10.5.57.0-24&fd00:5:0:2e::-64".parse().unwrap();
        assert_eq!(SubnetEnv::of(&config, lease, 1450, true), env);
        assert_eq!(SubnetEnv::parse(&env.render()), Ok(env));
    }

    #[test]
    fn reads_shell_variants() {
        let text = "# by hand\nexport FLANNEL_NETWORK=\"10.5.0.0/16\"\n\nFLANNEL_SUBNET='10.5.57.1/24'\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true";
        assert_eq!(SubnetEnv::parse(text), Ok(example()));
    }

    #[test]
    fn says_what_is_wrong() {
        let says = |text: &str| SubnetEnv::parse(text).unwrap_err().to_string();
        assert_eq!(says(""), "FLANNEL_SUBNET is missing");
        assert_eq!(says("FLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1"), "FLANNEL_NETWORK is missing");
        assert_eq!(says("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24"), "FLANNEL_MTU is missing");
        assert_eq!(
            says("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=ten\nFLANNEL_MTU=1"),
            "FLANNEL_SUBNET=\"ten\" is not an IPv4 address with its prefix length"
        );
        assert_eq!(
            says("FLANNEL_NETWORK=10.6.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1"),
            "FLANNEL_SUBNET 10.5.1.1/24 does not lie inside FLANNEL_NETWORK 10.6.0.0/16"
        );
    }

    #[test]
    fn remembers_what_can_be_read() {
        let read = PreviousSubnets::parse("FLANNEL_SUBNET=10.5.57.1/24\nFLANNEL_IPV6_SUBNET=nonsense\n");
        assert_eq!(read, PreviousSubnets { v4: Some("10.5.57.0/24".parse().unwrap()), v6: None });
        let list = PreviousSubnets::parse("FLANNEL_SUBNET=10.5.57.1/24,10.5.58.1/24\n");
        assert_eq!(list, PreviousSubnets::default());
    }
}
