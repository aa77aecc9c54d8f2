//! Entries as messages of rtnetlink and back. Details: docs/upstream.md, section 5.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flannel_core::config::Range;
use flannel_core::entry::{Entry, LinkIndex, Route, Slot};
use flannel_core::ipnet::IpNet;
use flannel_core::name::Mac;
use flannel_host::netlink::attributes::{destination, gateway, metric, output, table};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Scope, Verb};

/// The request that does this; none for entries that are not rtnetlink's.
pub(super) fn request(verb: Verb, entry: &Entry) -> Option<RouteNetlinkMessage> {
    let neighbour = |message| match verb {
        Verb::Put => RouteNetlinkMessage::NewNeighbour(message),
        Verb::Remove => RouteNetlinkMessage::DelNeighbour(message),
    };
    Some(match entry {
        Entry::Neigh { link, ip, mac } => neighbour(neigh_message(*link, *ip, *mac)),
        Entry::Fdb { link, mac, dst } => neighbour(fdb_message(*link, *mac, *dst)),
        Entry::Route(route) => match verb {
            Verb::Put => RouteNetlinkMessage::NewRoute(route_message(route)),
            Verb::Remove => RouteNetlinkMessage::DelRoute(route_message(route)),
        },
        Entry::Tunnel { .. } | Entry::Peer(_) => return None,
    })
}

/// The dumps of the tables that may hold entries of a scope.
pub(super) fn dumps(scope: &Scope) -> Vec<RouteNetlinkMessage> {
    let route = |family| {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        RouteNetlinkMessage::GetRoute(message)
    };
    let neighbour = |family| {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        RouteNetlinkMessage::GetNeighbour(message)
    };
    let mut requests = vec![route(AddressFamily::Inet), route(AddressFamily::Inet6)];
    if !scope.owned.is_empty() {
        let families = [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge];
        requests.extend(families.map(neighbour));
    }
    requests
}

/// The entry of a message of a dump, if it is ours by the scope.
pub(super) fn ours(message: &RouteNetlinkMessage, scope: &Scope) -> Option<Entry> {
    match message {
        RouteNetlinkMessage::NewRoute(route) => route_entry(route, scope),
        RouteNetlinkMessage::NewNeighbour(neighbour) => neighbour_entry(neighbour, scope),
        _ => None,
    }
}

fn neigh_message(link: LinkIndex, ip: IpAddr, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = link.0;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::Destination(neighbour_address(ip)));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

fn fdb_message(link: LinkIndex, mac: Mac, dst: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = link.0;
    message.header.flags = NeighbourFlags::Own;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(neighbour_address(dst)));
    message
}

fn neighbour_address(ip: IpAddr) -> NeighbourAddress {
    match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }
}

/// The protocol number of our routes, `proto 70` in `ip route`; iproute2's rt_protos assigns it to nobody. Upstream
/// writes protocol boot, as an operator's `ip route add` does, and so cannot tell its routes from theirs.
const OURS: RouteProtocol = RouteProtocol::Other(70);

/// Main table, our protocol, scope universe (link without a gateway would be `scope link`, which Docker takes for an
/// overlap; upstream writes universe too).
fn route_message(route: &Route) -> RouteMessage {
    let mut message = match route.dst {
        IpNet::V4(dst) => {
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(dst.addr(), dst.prefix_len()).build()
        }
        IpNet::V6(dst) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(dst.addr(), dst.prefix_len()).build()
        }
    };
    message.header.protocol = OURS;
    message.attributes.push(RouteAttribute::Oif(route.link.0));
    match route.via {
        Some(IpAddr::V4(via)) => message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(via))),
        Some(IpAddr::V6(via)) => message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet6(via))),
        None => {}
    }
    if route.onlink {
        message.header.flags.insert(RouteFlags::Onlink);
    }
    message
}

/// A route of the main table, whoever owns it; its device is 0 where it has none, as a blackhole.
pub(super) fn read_route(message: &RouteMessage) -> Option<Route> {
    let route = Route {
        dst: destination(message)?,
        via: gateway(message),
        link: LinkIndex(output(message).unwrap_or(0)),
        onlink: message.header.flags.contains(RouteFlags::Onlink),
    };
    (table(message) == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(route)
}

/// A route that is ours by the scope; on a shared device only one with our protocol to a lease's subnet.
fn route_entry(message: &RouteMessage, scope: &Scope) -> Option<Entry> {
    let route = read_route(message)?;
    let link = route.link;
    let usual = message.header.kind == RouteType::Unicast && message.header.protocol != RouteProtocol::Kernel;
    let ours = scope.owned.contains(&link)
        || scope.shared.as_ref().is_some_and(|(shared, ranges)| {
            let subnet = |r: &Range| r.network.contains(&route.dst) && r.subnet_len == route.dst.prefix_len();
            *shared == link
                && route.via.is_some()
                && message.header.protocol == OURS
                && metric(message) == usual_metric(&route.dst)
                && ranges.iter().any(subnet)
        });
    (usual && ours).then_some(Entry::Route(route))
}

fn neighbour_entry(message: &NeighbourMessage, scope: &Scope) -> Option<Entry> {
    let ours = scope.owned.contains(&LinkIndex(message.header.ifindex));
    let permanent = matches!(message.header.state, NeighbourState::Permanent);
    read_neighbour(message).filter(|_| ours && permanent)
}

/// A neighbour or FDB entry, whoever owns it.
pub(super) fn read_neighbour(message: &NeighbourMessage) -> Option<Entry> {
    let link = LinkIndex(message.header.ifindex);
    let mac = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(bytes) => Mac::from_slice(bytes),
        _ => None,
    })?;
    let ip = neighbour_ip(message)?;
    Some(match message.header.family {
        AddressFamily::Bridge => Entry::Fdb { link, mac, dst: ip },
        _ => Entry::Neigh { link, ip, mac },
    })
}

/// The slot of a removed neighbour or FDB entry, by the kernel's notification, which may lack the MAC.
pub(super) fn neighbour_slot(message: &NeighbourMessage) -> Option<Slot> {
    match read_neighbour(message) {
        Some(entry) => Some(entry.slot()),
        None if message.header.family == AddressFamily::Bridge => None,
        None => neighbour_ip(message).map(|ip| Slot::Neigh(LinkIndex(message.header.ifindex), ip)),
    }
}

fn neighbour_ip(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        // The family of a FDB entry is the bridge's: the length tells what the bytes are.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => address(bytes),
        _ => None,
    })
}

/// An IPv4 or IPv6 address by its length.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || bytes.try_into().ok().map(|b: [u8; 4]| IpAddr::from(b));
    let v6 = || bytes.try_into().ok().map(|b: [u8; 16]| IpAddr::from(b));
    v4().or_else(v6)
}

/// The metric the kernel gives a route that asks for none.
fn usual_metric(dst: &IpNet) -> u32 {
    match dst {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => 1024,
    }
}

#[cfg(test)]
mod tests;
