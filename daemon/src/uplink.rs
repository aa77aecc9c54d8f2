//! The external interface: which of the host's interfaces carries the traffic between hosts, and the address the
//! other hosts are told. Contract, section 4.

use std::net::{IpAddr, Ipv4Addr};

use flannel_core::entry::LinkIndex;
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
    /// Its own address.
    pub ip: Ipv4Addr,
    /// The address the other hosts reach this one by.
    pub public_ip: Ipv4Addr,
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

/// Chooses by the flags; the first way that succeeds.
pub async fn choose(kernel: &Netlink, options: &IfaceOptions) -> Result<ExternalInterface, Error> {
    let interfaces = kernel.interfaces().await.map_err(|e| Error::Uplink(e.to_string()))?;
    let mut reasons = Vec::new();
    for way in ways(options) {
        let choice = match way {
            Way::Given(flag, value) => by_value(&interfaces, value).map_err(|e| format!("flag -{flag}={value}: {e}")),
            Way::Regex(pattern) => {
                by_regex(&interfaces, pattern).map_err(|e| format!("flag -iface-regex={pattern}: {e}"))
            }
            Way::CanReach(target) => {
                by_route(kernel, &interfaces, target).await.map_err(|e| format!("flag -iface-can-reach={target}: {e}"))
            }
            Way::DefaultRoute => by_default_route(kernel, &interfaces).await,
        };
        match choice.and_then(|(interface, ip)| complete(interface, ip, &options.public_ip)) {
            Ok(uplink) => return Ok(uplink),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(Error::Uplink(format!("no interface to reach the other hosts by: {}", reasons.join("; "))))
}

fn ways(options: &IfaceOptions) -> Vec<Way<'_>> {
    let IfaceOptions { names, regexes, can_reach, public_ip, .. } = options;
    if names.is_empty() && regexes.is_empty() && can_reach.is_empty() {
        // parity: upstream looks for the interface that owns the public address when nothing else is said.
        return vec![if public_ip.is_empty() { Way::DefaultRoute } else { Way::Given("public-ip", public_ip) }];
    }
    let names = names.iter().map(|name| if name.is_empty() { Way::DefaultRoute } else { Way::Given("iface", name) });
    let regexes = regexes.iter().map(|pattern| Way::Regex(pattern));
    let can_reach = (!can_reach.is_empty()).then_some(Way::CanReach(can_reach));
    names.chain(regexes).chain(can_reach).collect()
}

type Choice<'a> = Result<(&'a Interface, Ipv4Addr), String>;

/// An address: the interface that has exactly it. Anything else: a name.
fn by_value<'a>(interfaces: &'a [Interface], value: &str) -> Choice<'a> {
    if let Ok(ip) = value.parse::<Ipv4Addr>() {
        let owner = interfaces.iter().find(|i| i.addresses.iter().any(|a| a.ip == IpAddr::V4(ip)));
        return owner
            .map(|i| (i, ip))
            .ok_or_else(|| format!("no interface has this address; there are {}", list(interfaces)));
    }
    let named = interfaces.iter().find(|i| i.name == value);
    with_address(named.ok_or_else(|| format!("there is no such interface; there are {}", list(interfaces)))?)
}

/// First any usable address that matches, then any name.
fn by_regex<'a>(interfaces: &'a [Interface], pattern: &str) -> Choice<'a> {
    let regex = Regex::new(pattern).map_err(|e| format!("it is no regular expression: {e}"))?;
    for interface in interfaces {
        let matching = usable(interface).into_iter().find(|ip| regex.is_match(&ip.to_string()));
        if let Some(ip) = matching {
            return Ok((interface, ip));
        }
    }
    let named = interfaces.iter().find(|i| regex.is_match(&i.name));
    with_address(named.ok_or_else(|| format!("it matches no address and no name; there are {}", list(interfaces)))?)
}

async fn by_route<'a>(kernel: &Netlink, interfaces: &'a [Interface], target: &str) -> Choice<'a> {
    let ip: Ipv4Addr = target.parse().map_err(|_| "it is no IPv4 address".to_owned())?;
    let (index, source) = kernel.interface_to(ip.into()).await.map_err(|e| e.to_string())?;
    let interface = interfaces.iter().find(|i| Some(i.index) == index);
    let interface = interface.ok_or_else(|| "its route leaves by no single interface".to_owned())?;
    match source {
        Some(IpAddr::V4(source)) => Ok((interface, source)),
        _ => with_address(interface),
    }
}

async fn by_default_route<'a>(kernel: &Netlink, interfaces: &'a [Interface]) -> Choice<'a> {
    let index = kernel.default_interface(true).await.map_err(|e| e.to_string())?;
    let interface = interfaces.iter().find(|i| Some(i.index) == index);
    with_address(interface.ok_or_else(|| {
        format!("no default route leaves by a single interface: name one with -iface; there are {}", list(interfaces))
    })?)
}

fn with_address(interface: &Interface) -> Choice<'_> {
    let first = usable(interface).into_iter().next();
    first.map(|ip| (interface, ip)).ok_or_else(|| format!("interface {} has no usable IPv4 address", interface.name))
}

/// Usable addresses, the best first: global before link-local, permanent before dynamic, primary before secondary;
/// otherwise in the kernel's order.
fn usable(interface: &Interface) -> Vec<Ipv4Addr> {
    let mut addresses: Vec<_> = interface.addresses.iter().filter(|a| a.ip.is_ipv4() && a.usable()).collect();
    addresses.sort_by_key(|a| (a.link_local(), !a.permanent, a.secondary));
    addresses.into_iter().filter_map(|a| if let IpAddr::V4(ip) = a.ip { Some(ip) } else { None }).collect()
}

fn complete(interface: &Interface, ip: Ipv4Addr, public: &str) -> Result<ExternalInterface, String> {
    let public_ip = match public {
        "" => ip,
        public => public.parse().map_err(|_| format!("flag -public-ip: {public:?} is no IPv4 address"))?,
    };
    if interface.mtu == 0 {
        return Err(format!("interface {} has no MTU", interface.name));
    }
    let name = IfName::new(interface.name.as_str()).map_err(|e| e.to_string())?;
    Ok(ExternalInterface { index: interface.index, name, mtu: interface.mtu, ip, public_ip })
}

fn list(interfaces: &[Interface]) -> String {
    let one = |i: &Interface| match usable(i).as_slice() {
        [] => i.name.clone(),
        ips => format!("{} ({})", i.name, ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    interfaces.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
