//! The external interface: which of the host's interfaces carries the traffic between hosts, and the address the
//! other hosts are told. docs/upstream.md, section 4.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flannel_core::entry::LinkIndex;
use flannel_core::family::{Families, Family};
use flannel_core::name::IfName;
use regex_lite::Regex;

use crate::error::Error;
use crate::kernel::host::Interface;
use crate::kernel::netlink::Netlink;
use crate::opts::IfaceOptions;

/// The interface chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalInterface {
    /// Its number.
    pub index: LinkIndex,
    /// Its name.
    pub name: IfName,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// How it is reached by IPv4, where that is on.
    pub v4: Option<Addresses<Ipv4Addr>>,
    /// How it is reached by IPv6, where that is on.
    pub v6: Option<Addresses<Ipv6Addr>>,
}

impl ExternalInterface {
    /// The public addresses, for messages and comparisons.
    pub fn publics(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.map(|a| IpAddr::V4(a.public));
        v4.into_iter().chain(self.v6.map(|a| IpAddr::V6(a.public)))
    }
}

/// The addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses<A> {
    /// The interface's own.
    pub own: A,
    /// The one the other hosts use.
    pub public: A,
}

/// One way to choose, in the order they are tried.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way<'a> {
    /// By the flag named, whose value is an address or a name.
    Given(&'static str, &'a str),
    Regex(&'a str),
    CanReach(&'a str),
    DefaultRoute,
}

impl fmt::Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(flag, value) => write!(f, "flag -{flag}={value}"),
            Self::Regex(pattern) => write!(f, "flag -iface-regex={pattern}"),
            Self::CanReach(target) => write!(f, "flag -iface-can-reach={target}"),
            Self::DefaultRoute => f.write_str("default route"),
        }
    }
}

/// Chooses by the flags; the first way that succeeds.
pub async fn choose(kernel: &Netlink, options: &IfaceOptions, families: Families) -> Result<ExternalInterface, Error> {
    let interfaces = kernel.interfaces().await.map_err(|e| Error::Uplink(e.to_string()))?;
    let mut reasons = Vec::new();
    for way in ways(options, families) {
        let choice = match way {
            Way::Given(_, value) => by_value(&interfaces, value, families),
            Way::Regex(pattern) => by_regex(&interfaces, pattern, families),
            Way::CanReach(target) => by_route(kernel, &interfaces, target, families).await,
            Way::DefaultRoute => by_default_route(kernel, &interfaces, families).await,
        };
        match choice.and_then(|choice| choice.complete(options, families)) {
            Ok(uplink) => return Ok(uplink),
            Err(reason) => reasons.push(format!("{way}: {reason}")),
        }
    }
    Err(Error::Uplink(format!("no interface to reach the other hosts by: {}", reasons.join("; "))))
}

fn ways(options: &IfaceOptions, families: Families) -> Vec<Way<'_>> {
    let IfaceOptions { names, regexes, can_reach, public_ip, public_ipv6 } = options;
    if names.is_empty() && regexes.is_empty() && can_reach.is_empty() {
        // parity: upstream looks for the interface that owns the public address when nothing else is said.
        return vec![match (public_ip.as_str(), public_ipv6.as_str()) {
            (ip, _) if families.has(Family::V4) && !ip.is_empty() => Way::Given("public-ip", ip),
            (_, ip) if families.has(Family::V6) && !ip.is_empty() => Way::Given("public-ipv6", ip),
            _ => Way::DefaultRoute,
        }];
    }
    let names = names.iter().map(|name| if name.is_empty() { Way::DefaultRoute } else { Way::Given("iface", name) });
    let regexes = regexes.iter().map(|pattern| Way::Regex(pattern));
    let can_reach = (!can_reach.is_empty()).then_some(Way::CanReach(can_reach));
    names.chain(regexes).chain(can_reach).collect()
}

/// An interface, and those of its addresses that the way of choosing fixed.
#[derive(Debug)]
struct Choice<'a> {
    interface: &'a Interface,
    fixed: Vec<IpAddr>,
}

impl<'a> Choice<'a> {
    fn of(interface: &'a Interface) -> Self {
        Self { interface, fixed: Vec::new() }
    }

    fn with(interface: &'a Interface, ip: IpAddr) -> Self {
        Self { interface, fixed: vec![ip] }
    }

    /// The address of each family that is on: the fixed one, else the interface's best.
    fn complete(&self, options: &IfaceOptions, families: Families) -> Result<ExternalInterface, String> {
        let Interface { name, mtu, index, .. } = self.interface;
        let own = |family: Family| {
            let fixed = self.fixed.iter().find(|ip| Family::of(**ip) == family).copied();
            let best = || usable(self.interface, family).first().copied();
            fixed.or_else(best).ok_or_else(|| format!("interface {name} has no usable {family} address"))
        };
        let mut uplink = ExternalInterface {
            index: *index,
            name: IfName::new(name.as_str()).map_err(|e| e.to_string())?,
            mtu: *mtu,
            v4: None,
            v6: None,
        };
        if families.has(Family::V4)
            && let IpAddr::V4(own) = own(Family::V4)?
        {
            uplink.v4 = Some(Addresses { own, public: public("public-ip", &options.public_ip, own)? });
        }
        if families.has(Family::V6)
            && let IpAddr::V6(own) = own(Family::V6)?
        {
            uplink.v6 = Some(Addresses { own, public: public("public-ipv6", &options.public_ipv6, own)? });
        }
        if *mtu == 0 {
            return Err(format!("interface {name} has no MTU"));
        }
        Ok(uplink)
    }
}

fn public<A: std::str::FromStr>(flag: &str, value: &str, own: A) -> Result<A, String> {
    if value.is_empty() {
        return Ok(own);
    }
    value.parse().map_err(|_| format!("flag -{flag}: {value:?} is no address of its family"))
}

/// An address: the interface that has exactly it. Anything else: a name.
fn by_value<'a>(interfaces: &'a [Interface], value: &str, families: Families) -> Result<Choice<'a>, String> {
    let there_are = || format!("there are {}", list(interfaces, families));
    if let Ok(ip) = value.parse::<IpAddr>() {
        let owner = interfaces.iter().find(|i| i.addresses.iter().any(|a| a.ip == ip));
        let owner = owner.ok_or_else(|| format!("no interface has this address; {}", there_are()))?;
        return Ok(if families.has(ip) { Choice::with(owner, ip) } else { Choice::of(owner) });
    }
    let named = interfaces.iter().find(|i| i.name == value);
    named.map(Choice::of).ok_or_else(|| format!("there is no such interface; {}", there_are()))
}

/// First usable addresses that match, one of each family that is on, of one interface; then any name.
fn by_regex<'a>(interfaces: &'a [Interface], pattern: &str, families: Families) -> Result<Choice<'a>, String> {
    let regex = Regex::new(pattern).map_err(|e| format!("it is no regular expression: {e}"))?;
    for interface in interfaces {
        let matching = |family| usable(interface, family).into_iter().find(|ip| regex.is_match(&ip.to_string()));
        let fixed: Option<Vec<IpAddr>> = families.each().map(matching).collect();
        if let Some(fixed) = fixed {
            return Ok(Choice { interface, fixed });
        }
    }
    let named = interfaces.iter().find(|i| regex.is_match(&i.name));
    named
        .map(Choice::of)
        .ok_or_else(|| format!("it matches no address and no name; there are {}", list(interfaces, families)))
}

async fn by_route<'a>(
    kernel: &Netlink,
    interfaces: &'a [Interface],
    target: &str,
    families: Families,
) -> Result<Choice<'a>, String> {
    let ip: IpAddr = target.parse().map_err(|_| "it is not an IP address".to_owned())?;
    let (index, source) = kernel.interface_to(ip).await.map_err(|e| e.to_string())?;
    let interface = interfaces.iter().find(|i| Some(i.index) == index);
    let interface = interface.ok_or_else(|| "its route leaves by no single interface".to_owned())?;
    Ok(match source.filter(|source| families.has(*source)) {
        Some(source) => Choice::with(interface, source),
        None => Choice::of(interface),
    })
}

/// The interface of the default route; of both, where both families are on.
async fn by_default_route<'a>(
    kernel: &Netlink,
    interfaces: &'a [Interface],
    families: Families,
) -> Result<Choice<'a>, String> {
    let mut found: Vec<LinkIndex> = Vec::new();
    for family in families.each() {
        let index = kernel.default_interface(family).await.map_err(|e| e.to_string())?;
        found.push(index.ok_or_else(|| {
            let there_are = list(interfaces, families);
            format!("no {family} route leaves by a single interface: name one with -iface; there are {there_are}")
        })?);
    }
    found.dedup();
    let [index] = found[..] else {
        return Err("the default routes of IPv4 and IPv6 leave by different interfaces: name one with -iface".into());
    };
    let interface = interfaces.iter().find(|i| i.index == index);
    interface.map(Choice::of).ok_or_else(|| "the default route's interface is gone".into())
}

/// Usable addresses of one family, the best first: global before link-local, permanent before dynamic, primary before
/// secondary or temporary; otherwise in the kernel's order.
fn usable(interface: &Interface, family: Family) -> Vec<IpAddr> {
    let mut addresses: Vec<_> =
        interface.addresses.iter().filter(|a| Family::of(a.ip) == family && a.usable()).collect();
    addresses.sort_by_key(|a| (a.link_local(), !a.permanent, a.secondary));
    addresses.into_iter().map(|a| a.ip).collect()
}

fn list(interfaces: &[Interface], families: Families) -> String {
    let one = |i: &Interface| {
        let ips: Vec<String> = families.each().flat_map(|family| usable(i, family)).map(|ip| ip.to_string()).collect();
        if ips.is_empty() { i.name.clone() } else { format!("{} ({})", i.name, ips.join(", ")) }
    };
    interfaces.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
