//! The network's config, the JSON under `<prefix>/config` in etcd.
//!
//! Rules and defaults: docs/upstream.md, section 2.3. Unlike upstream, every mistake is reported at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::family::{Dual, Family};
use crate::json::Object;
use crate::net::{from_bits, to_bits};

/// The config, checked and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The network of each family: IPv4 unless `"EnableIPv4": false`, IPv6 only with `"EnableIPv6": true`.
    pub ranges: Dual<Range>,
    /// `EnableNFTables`: rules by nftables instead of iptables.
    pub nftables: bool,
    /// The `Backend` object as JSON text; `{"Type":"udp"}` where it is left out, as upstream has it.
    pub backend: String,
}

/// The subnets hosts may take of one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The whole network.
    pub network: IpNet,
    /// Prefix length of a host's subnet.
    pub subnet_len: u8,
    /// The base of the first subnet that may be taken.
    pub min: IpAddr,
    /// The base of the last subnet that may be taken.
    pub max: IpAddr,
}

impl Range {
    /// Whether a subnet is one that this range gives out.
    pub fn fits(&self, subnet: &IpNet) -> bool {
        subnet.prefix_len() == self.subnet_len && (self.min..=self.max).contains(&subnet.network())
    }
}

/// What is wrong with a config: one sentence part for each mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .mistakes.join("; "))]
pub struct BadConfig {
    /// The mistakes, each naming its key.
    pub mistakes: Vec<String>,
    /// Whether waiting for a better config is pointless by upstream's rules (both address families are off): the
    /// daemon exits instead of reading again.
    pub fatal: bool,
}

/// The keys and limits of one family; everything else is the same for both.
struct Keys {
    family: Family,
    network: &'static str,
    len: &'static str,
    min: &'static str,
    max: &'static str,
    /// A network at most this long gives subnets of `usual`; a longer one, of its own length + 2.
    roomy: u8,
    usual: u8,
    example: &'static str,
}

const V4: Keys = Keys {
    family: Family::V4,
    network: "Network",
    len: "SubnetLen",
    min: "SubnetMin",
    max: "SubnetMax",
    roomy: 22,
    usual: 24,
    example: "10.5.0.0/16",
};

const V6: Keys = Keys {
    family: Family::V6,
    network: "IPv6Network",
    len: "IPv6SubnetLen",
    min: "IPv6SubnetMin",
    max: "IPv6SubnetMax",
    roomy: 62,
    usual: 64,
    example: "fd00:5::/48",
};

impl NetworkConfig {
    /// Reads and checks the config.
    pub fn parse(text: &str) -> Result<Self, BadConfig> {
        let object = Object::parse(text).map_err(|e| BadConfig { mistakes: vec![e], fatal: false })?;
        let mut mistakes = Vec::new();
        let mut flag = |name: &str, default: bool| {
            object.get(name, "true or false").unwrap_or_else(|e| noted(&mut mistakes, e)).unwrap_or(default)
        };
        let (v4_on, v6_on) = (flag("EnableIPv4", true), flag("EnableIPv6", false));
        let nftables = flag("EnableNFTables", false);
        let fatal = mistakes.is_empty() && !v4_on && !v6_on;
        if fatal {
            mistakes.push("EnableIPv4 and EnableIPv6 are both false: switch one on".into());
        }
        let v4 = if v4_on { V4.range(&object, &mut mistakes) } else { None };
        let v6 = if v6_on { V6.range(&object, &mut mistakes) } else { None };
        let backend = object.raw("Backend").unwrap_or(r#"{"Type":"udp"}"#);
        if let Err(e) = Object::parse(backend) {
            mistakes.push(format!("Backend is {e}; write it like {{\"Type\":\"vxlan\"}}"));
        }
        if mistakes.is_empty() {
            Ok(Self { ranges: Dual { v4, v6 }, nftables, backend: backend.to_owned() })
        } else {
            Err(BadConfig { mistakes, fatal })
        }
    }
}

fn noted<T>(mistakes: &mut Vec<String>, mistake: String) -> Option<T> {
    mistakes.push(mistake);
    None
}

impl Keys {
    fn range(&self, object: &Object<'_>, mistakes: &mut Vec<String>) -> Option<Range> {
        let network = self.network(object).unwrap_or_else(|e| noted(mistakes, e));
        let len = object
            .get::<u8>(self.len, "a prefix length in bits")
            .unwrap_or_else(|e| noted(mistakes, e))
            .filter(|len| *len > 0);
        let min = self.address(object, self.min).unwrap_or_else(|e| noted(mistakes, e));
        let max = self.address(object, self.max).unwrap_or_else(|e| noted(mistakes, e));
        let network = network?;
        let subnet_len = self.subnet_len(network, len).unwrap_or_else(|e| noted(mistakes, e))?;
        let one = 1u128 << (self.family.bits() - subnet_len);
        let mut bound = |name: &str, given: Option<IpAddr>, default: u128| -> IpAddr {
            let Some(ip) = given else { return from_bits(default, self.family) };
            if !network.contains(&ip) {
                mistakes.push(format!("{name} {ip} lies outside {} {network}", self.network));
            } else if !to_bits(ip).is_multiple_of(one) {
                mistakes.push(format!("{name} {ip} is not the base of a /{subnet_len} subnet ({})", self.len));
            }
            ip
        };
        let min = bound(self.min, min, to_bits(network.network()) + one);
        let max = bound(self.max, max, to_bits(network.broadcast()) - (one - 1));
        Some(Range { network, subnet_len, min, max })
    }

    fn network(&self, object: &Object<'_>) -> Result<Option<IpNet>, String> {
        let missing = || format!("{} is missing: set it, for example to {:?}", self.network, self.example);
        let text: Option<String> = object.get(self.network, "a network in CIDR form")?;
        let text = text.filter(|t| !t.is_empty()).ok_or_else(missing)?;
        let network = match self.family {
            Family::V4 => text.parse().map(|n: Ipv4Net| IpNet::V4(n.trunc())).ok(),
            Family::V6 => text.parse().map(|n: Ipv6Net| IpNet::V6(n.trunc())).ok(),
        };
        let name = self.network;
        let network =
            network.ok_or_else(|| format!("{name} {text:?} is not a network in CIDR form like {}", self.example))?;
        if network.prefix_len() == 0 { Err(missing()) } else { Ok(Some(network)) }
    }

    fn address(&self, object: &Object<'_>, name: &str) -> Result<Option<IpAddr>, String> {
        let Some(raw) = object.raw(name) else { return Ok(None) };
        let not =
            || format!("{name} is {raw}, which is not an {} address: leave {name} out for its default", self.family);
        let text: Option<String> = object.get(name, "an address").map_err(|_| not())?;
        let text = text.ok_or_else(not)?;
        let ip = match self.family {
            Family::V4 => text.parse::<Ipv4Addr>().map(IpAddr::V4),
            Family::V6 => text.parse::<Ipv6Addr>().map(IpAddr::V6),
        };
        ip.map(|ip| Some(ip).filter(|ip| !ip.is_unspecified())).map_err(|_| not())
    }

    fn subnet_len(&self, network: IpNet, given: Option<u8>) -> Result<Option<u8>, String> {
        let (prefix, longest) = (network.prefix_len(), self.family.bits() - 2);
        let name = self.len;
        match given {
            Some(len) if len > longest => {
                Err(format!("{name} {len} is too long: /{longest} is the longest useful subnet"))
            }
            Some(len) if len < prefix + 2 => Err(format!(
                "{name} {len} leaves {} {network} fewer than four subnets: make it {} or more",
                self.network,
                prefix + 2
            )),
            Some(len) => Ok(Some(len)),
            None if prefix > longest - 2 => {
                Err(format!("{} {network} is too small: /{} is the smallest useful network", self.network, longest - 2))
            }
            None if prefix <= self.roomy => Ok(Some(self.usual)),
            None => Ok(Some(prefix + 2)),
        }
    }
}

#[cfg(test)]
mod tests;
