//! Reading attributes of rtnetlink's messages, once for every user.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flannel_core::ipnet::IpNet;
use flannel_core::name::Mac;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

fn of_link<'a, T>(link: &'a LinkMessage, pick: impl Fn(&'a LinkAttribute) -> Option<T>) -> Option<T> {
    link.attributes.iter().find_map(pick)
}

fn of_route<'a, T>(route: &'a RouteMessage, pick: impl Fn(&'a RouteAttribute) -> Option<T>) -> Option<T> {
    route.attributes.iter().find_map(pick)
}

/// A device's name.
pub fn name(link: &LinkMessage) -> Option<&str> {
    of_link(link, |a| if let LinkAttribute::IfName(name) = a { Some(name.as_str()) } else { None })
}

/// A device's MTU in bytes.
pub fn mtu(link: &LinkMessage) -> Option<u32> {
    of_link(link, |a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None })
}

/// A device's MAC address.
pub fn mac(link: &LinkMessage) -> Option<Mac> {
    of_link(link, |a| if let LinkAttribute::Address(bytes) = a { Mac::from_slice(bytes) } else { None })
}

/// The index of the bridge (or bond) a device is attached to.
pub fn controller(link: &LinkMessage) -> Option<u32> {
    of_link(link, |a| if let LinkAttribute::Controller(index) = a { Some(*index) } else { None })
}

/// A device's alias (`ip link set ... alias`).
pub fn alias(link: &LinkMessage) -> Option<&str> {
    of_link(link, |a| if let LinkAttribute::IfAlias(alias) = a { Some(alias.as_str()) } else { None })
}

/// What kind of virtual device it is; none for hardware.
pub fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    let infos = of_link(link, |a| if let LinkAttribute::LinkInfo(infos) = a { Some(infos) } else { None })?;
    infos.iter().find_map(|i| if let LinkInfo::Kind(kind) = i { Some(kind) } else { None })
}

/// The interface's own address; on a point-to-point link that is `IFA_LOCAL`, and `IFA_ADDRESS` the other end's.
pub fn address(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = || {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    };
    IpNet::new(local.or_else(address)?, message.header.prefix_len).ok()
}

/// A route's destination; the default route's is the zero prefix.
pub fn destination(route: &RouteMessage) -> Option<IpNet> {
    let ip = of_route(route, |a| if let RouteAttribute::Destination(address) = a { ip(address) } else { None });
    let any = || match route.header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    IpNet::new(ip.unwrap_or_else(any), route.header.destination_prefix_length).ok()
}

/// The index of a route's device; none for a blackhole.
pub fn output(route: &RouteMessage) -> Option<u32> {
    of_route(route, |a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None })
}

/// The source address the kernel takes for packets of its own.
pub fn preferred_source(route: &RouteMessage) -> Option<IpAddr> {
    of_route(route, |a| if let RouteAttribute::PrefSource(source) = a { ip(source) } else { None })
}

/// A route's gateway.
pub fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    of_route(route, |a| if let RouteAttribute::Gateway(gateway) = a { ip(gateway) } else { None })
}

/// A route's metric.
pub fn metric(route: &RouteMessage) -> u32 {
    of_route(route, |a| if let RouteAttribute::Priority(metric) = a { Some(*metric) } else { None }).unwrap_or(0)
}

/// A route's table; numbers above 255 are in an attribute.
pub fn table(route: &RouteMessage) -> u32 {
    let table = of_route(route, |a| if let RouteAttribute::Table(table) = a { Some(*table) } else { None });
    table.unwrap_or_else(|| route.header.table.into())
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
