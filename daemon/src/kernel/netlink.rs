//! Routes, neighbours and forwarding records through rtnetlink.
//!
//! Message details: contract, section 5.1. Error numbers are decoded here and nowhere else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use flannel_core::config::Range;
use flannel_core::entry::{Entry, LinkIndex, Route, Table};
use flannel_core::ipnet::IpNet;
use flannel_core::name::Mac;
use futures_util::{Stream, TryStreamExt};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rustix::io::Errno as E;
use tokio::sync::OnceCell;

use super::{Fault, Kernel, KernelError, Scope};

/// The netlink socket.
#[derive(Clone)]
pub struct Netlink {
    pub(super) handle: rtnetlink::Handle,
    /// Opened when a wireguard device is first spoken to.
    pub(super) wireguard: Arc<OnceCell<super::wireguard::Socket>>,
}

impl Netlink {
    /// Opens a socket in the current network namespace; its work is done by a task of the current runtime.
    pub fn open() -> Result<Self, KernelError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| KernelError {
            what: "open a netlink socket".into(),
            reason: e.to_string(),
            fault: Fault::Other,
        })?;
        tokio::spawn(connection);
        Ok(Self { handle, wireguard: Arc::default() })
    }

    /// Whether a host is reached without a gateway, by the kernel's own choice of route.
    pub async fn is_on_link(&self, ip: IpAddr) -> Result<bool, KernelError> {
        let route = self.route_to(ip).await?;
        Ok(gateway(&route).is_none())
    }

    /// The route the kernel would take to an address.
    pub(super) async fn route_to(&self, ip: IpAddr) -> Result<RouteMessage, KernelError> {
        let what = || format!("look up the route to {ip}");
        let request = match ip {
            IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32).build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128).build(),
        };
        let routes = collect(self.handle.route().get(request).execute(), what).await?;
        routes.into_iter().next().ok_or_else(|| KernelError {
            what: what(),
            reason: "the kernel gave no answer".into(),
            fault: Fault::NotFound,
        })
    }

    /// Routes of the main table of one family.
    pub(super) async fn main_routes(&self, family: AddressFamily) -> Result<Vec<RouteMessage>, KernelError> {
        let request = match family {
            AddressFamily::Inet6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
            _ => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        };
        let mut routes = collect(self.handle.route().get(request).execute(), || "list routes".into()).await?;
        routes.retain(|route| table(route) == u32::from(RouteHeader::RT_TABLE_MAIN));
        Ok(routes)
    }

    async fn neighbours(&self, family: AddressFamily) -> Result<Vec<NeighbourMessage>, KernelError> {
        let request = self.handle.neighbours().get().set_address_family(family);
        collect(request.execute(), || "list neighbours".into()).await
    }
}

/// Behind every other route: a bridge or device that has the subnet wins, also one that comes later.
const BLACKHOLE_METRIC: u32 = 1 << 30;

impl Netlink {
    /// Makes packets to a subnet end here where no other route has them.
    pub async fn ensure_blackhole(&self, subnet: IpNet) -> Result<(), KernelError> {
        let mut message = match subnet {
            IpNet::V4(net) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(net.addr(), net.prefix_len()).build()
            }
            IpNet::V6(net) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(net.addr(), net.prefix_len()).build()
            }
        };
        message.header.protocol = RouteProtocol::Boot;
        message.header.kind = RouteType::BlackHole;
        message.attributes.push(RouteAttribute::Priority(BLACKHOLE_METRIC));
        let put = self.handle.route().add(message).execute().await;
        match put.map_err(refused(|| format!("put a blackhole route for {subnet}"))) {
            Err(error) if error.fault == Fault::Exists => Ok(()),
            other => other,
        }
    }
}

impl Kernel for Netlink {
    async fn put(&self, entry: &Entry) -> Result<(), KernelError> {
        let what = || format!("put {entry}");
        match entry {
            Entry::Neigh { link, ip, mac } => {
                let request = self.handle.neighbours().add(link.0, *ip).kind(RouteType::Unicast);
                request.link_layer_address(&mac.0).replace().execute().await.map_err(refused(what))
            }
            Entry::Fdb { link, mac, dst } => {
                let request = self.handle.neighbours().add_bridge(link.0, &mac.0).destination(*dst);
                request.flags(NeighbourFlags::Own).replace().execute().await.map_err(refused(what))
            }
            Entry::Route(route) => {
                self.handle.route().add(route_message(route)).replace().execute().await.map_err(refused(what))
            }
            Entry::Peer(peer) => self.put_peer(peer).await,
            Entry::Tunnel { .. } => Err(not_ours(entry)),
        }
    }

    async fn remove(&self, entry: &Entry) -> Result<(), KernelError> {
        let result = match entry {
            Entry::Neigh { link, ip, .. } => {
                let mut message = NeighbourMessage::default();
                message.header.family = family_of(*ip);
                message.header.ifindex = link.0;
                message.attributes.push(NeighbourAttribute::Destination(neighbour_address(*ip)));
                self.handle.neighbours().del(message).execute().await
            }
            Entry::Fdb { link, mac, dst } => {
                let mut message = NeighbourMessage::default();
                message.header.family = AddressFamily::Bridge;
                message.header.ifindex = link.0;
                message.header.flags = NeighbourFlags::Own;
                message.header.state = NeighbourState::Permanent;
                message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
                message.attributes.push(NeighbourAttribute::Destination(neighbour_address(*dst)));
                self.handle.neighbours().del(message).execute().await
            }
            Entry::Route(route) => self.handle.route().del(route_message(route)).execute().await,
            Entry::Peer(peer) => {
                return match self.remove_peer(peer).await {
                    Err(e) if matches!(e.fault, Fault::NotFound | Fault::NoDevice) => Ok(()),
                    other => other,
                };
            }
            Entry::Tunnel { .. } => return Err(not_ours(entry)),
        };
        match result.map_err(refused(|| format!("remove {entry}"))) {
            Err(e) if matches!(e.fault, Fault::NotFound | Fault::NoDevice) => Ok(()),
            other => other,
        }
    }

    async fn list(&self, scope: &Scope) -> Result<Table, KernelError> {
        let mut entries = Table::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let routes = self.main_routes(family).await?;
            routes.iter().filter_map(|route| route_entry(route, scope)).for_each(|e| entries.put(e));
        }
        if scope.owned.is_empty() {
            return Ok(entries);
        }
        if scope.peers {
            for link in &scope.owned {
                self.peers(*link).await?.into_iter().for_each(|peer| entries.put(Entry::Peer(peer)));
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
            let neighbours = self.neighbours(family).await?;
            neighbours.iter().filter_map(|message| neighbour_entry(message, scope)).for_each(|e| entries.put(e));
        }
        Ok(entries)
    }
}

fn not_ours(entry: &Entry) -> KernelError {
    KernelError {
        what: format!("put {entry}"),
        reason: "tunnels are the udp proxy's".into(),
        fault: Fault::Unsupported,
    }
}

fn family_of(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn neighbour_address(ip: IpAddr) -> NeighbourAddress {
    match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }
}

/// The mark of our routes, `proto 70` in `ip route`: none of those that iproute2's rt_protos gives to anybody. Upstream
/// writes protocol boot, as a person's `ip route add` does, and so can't tell its routes from theirs.
const OURS: RouteProtocol = RouteProtocol::Other(70);

/// Main table, our protocol, scope universe (link without a gateway would be `scope link`, which Docker takes for an
/// overlap; upstream has universe too).
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

/// A route of the main table, whosever it is; of no device (0) where it has none, as a blackhole.
pub(super) fn read_route(message: &RouteMessage) -> Option<Route> {
    let route = Route {
        dst: destination(message)?,
        via: gateway(message),
        link: LinkIndex(output(message).unwrap_or(0)),
        onlink: message.header.flags.contains(RouteFlags::Onlink),
    };
    (table(message) == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(route)
}

/// A route that is ours by the scope; on a shared device only what bears our mark and is a lease's.
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

/// A neighbour or forwarding record, whosever it is.
pub(super) fn read_neighbour(message: &NeighbourMessage) -> Option<Entry> {
    let link = LinkIndex(message.header.ifindex);
    let mac = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(bytes) => Mac::from_slice(bytes),
        _ => None,
    })?;
    let ip = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        // The family of a forwarding record is the bridge's: the length tells what the bytes are.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => address(bytes),
        _ => None,
    })?;
    Some(match message.header.family {
        AddressFamily::Bridge => Entry::Fdb { link, mac, dst: ip },
        _ => Entry::Neigh { link, ip, mac },
    })
}

/// An IPv4 or IPv6 address by its length.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || bytes.try_into().ok().map(|b: [u8; 4]| IpAddr::from(b));
    let v6 = || bytes.try_into().ok().map(|b: [u8; 16]| IpAddr::from(b));
    v4().or_else(v6)
}

pub(super) fn destination(message: &RouteMessage) -> Option<IpNet> {
    let ip = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let any = || match message.header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    IpNet::new(ip.unwrap_or_else(any), message.header.destination_prefix_length).ok()
}

pub(super) fn output(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None })
}

pub(super) fn preferred_source(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|a| if let RouteAttribute::PrefSource(s) = a { ip(s) } else { None })
}

pub(super) fn gateway(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|a| if let RouteAttribute::Gateway(g) = a { ip(g) } else { None })
}

fn metric(message: &RouteMessage) -> u32 {
    let metric =
        message.attributes.iter().find_map(|a| if let RouteAttribute::Priority(m) = a { Some(*m) } else { None });
    metric.unwrap_or(0)
}

/// The metric the kernel gives a route that asks for none.
fn usual_metric(dst: &IpNet) -> u32 {
    match dst {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => 1024,
    }
}

fn table(message: &RouteMessage) -> u32 {
    let table = message.attributes.iter().find_map(|a| if let RouteAttribute::Table(t) = a { Some(*t) } else { None });
    table.unwrap_or_else(|| message.header.table.into())
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// All messages of a dump.
pub(super) async fn collect<T>(
    dump: impl Stream<Item = Result<T, rtnetlink::Error>>,
    what: impl Fn() -> String,
) -> Result<Vec<T>, KernelError> {
    dump.try_collect().await.map_err(refused(what))
}

/// Decodes what the kernel answered.
pub(super) fn refused(what: impl Fn() -> String) -> impl FnOnce(rtnetlink::Error) -> KernelError {
    move |error| {
        let rtnetlink::Error::NetlinkError(message) = &error else {
            return KernelError { what: what(), reason: error.to_string(), fault: Fault::Other };
        };
        let errno = E::from_raw_os_error(message.raw_code().wrapping_neg());
        let (fault, remedy) = match errno {
            E::EXIST => (Fault::Exists, ""),
            E::NOENT | E::SRCH => (Fault::NotFound, ""),
            E::NODEV => (Fault::NoDevice, ""),
            E::PERM | E::ACCESS => (Fault::Denied, "; run as root or with CAP_NET_ADMIN"),
            E::OPNOTSUPP | E::AFNOSUPPORT => (Fault::Unsupported, "; this kernel lacks it"),
            E::ADDRINUSE => (Fault::Other, "; another program or device has the port"),
            E::NETUNREACH => (Fault::Other, "; the gateway is not on the interface's link"),
            _ => (Fault::Other, ""),
        };
        let reason = std::io::Error::from_raw_os_error(errno.raw_os_error());
        KernelError { what: what(), reason: format!("{reason}{remedy}"), fault }
    }
}

#[cfg(test)]
mod tests;
