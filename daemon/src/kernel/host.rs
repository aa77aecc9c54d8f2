//! The host's interfaces and their addresses, as the choice of the external interface needs them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flannel_core::entry::LinkIndex;
use flannel_core::family::Family;
use flannel_core::ipnet::IpNet;
use flannel_host::netlink::attributes::{self, destination, gateway, output, preferred_source};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressScope};

use super::KernelError;
use super::netlink::Netlink;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: LinkIndex,
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses in the kernel's order.
    pub addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "flags of the kernel")]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Valid for ever, not handed out for a while.
    pub permanent: bool,
    /// A secondary or temporary one.
    pub secondary: bool,
    /// No longer to be used for new connections.
    pub deprecated: bool,
    /// Of host scope, as loopback's.
    pub host: bool,
}

impl Netlink {
    /// All interfaces in the order of their numbers.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, KernelError> {
        let links = self.links().await?;
        let addresses = self.addresses(None).await?;
        let mut interfaces: Vec<Interface> = links
            .iter()
            .filter_map(|link| {
                let of_link = addresses.iter().filter(|a| a.header.index == link.header.index);
                Some(Interface {
                    index: LinkIndex(link.header.index),
                    name: attributes::name(link)?.to_owned(),
                    mtu: attributes::mtu(link).unwrap_or(0),
                    addresses: of_link.filter_map(read_address).collect(),
                })
            })
            .collect();
        interfaces.sort_by_key(|i| i.index);
        Ok(interfaces)
    }

    /// The interface of the first default route of a family.
    pub async fn default_interface(&self, family: Family) -> Result<Option<LinkIndex>, KernelError> {
        let routes = self.main_routes(address_family(family)).await?;
        let default = routes.iter().find(|r| destination(r).is_none_or(|d| d.prefix_len() == 0));
        Ok(default.and_then(output).map(LinkIndex))
    }

    /// The gateway of the main table's route to exactly this network, if there is a route to it through a gateway.
    pub async fn gateway_to(&self, network: &IpNet) -> Result<Option<IpAddr>, KernelError> {
        let routes = self.main_routes(address_family(Family::of(network))).await?;
        let mut exact = routes.iter().filter(|route| destination(route).as_ref() == Some(network));
        Ok(exact.find_map(gateway))
    }

    /// The interface and the source address the kernel would use to reach an address.
    pub async fn interface_to(&self, ip: IpAddr) -> Result<(Option<LinkIndex>, Option<IpAddr>), KernelError> {
        let route = self.route_to(ip).await?;
        Ok((output(&route).map(LinkIndex), preferred_source(&route)))
    }
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn read_address(message: &rtnetlink::packet_route::address::AddressMessage) -> Option<Address> {
    let flags =
        message.attributes.iter().find_map(|a| if let AddressAttribute::Flags(f) = a { Some(*f) } else { None });
    let flags = flags.unwrap_or(AddressFlags::empty());
    Some(Address {
        ip: attributes::address(message)?.addr(),
        permanent: flags.contains(AddressFlags::Permanent),
        secondary: flags.contains(AddressFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
        host: message.header.scope == AddressScope::Host,
    })
}

impl Address {
    /// Whether hosts may speak to each other by this address: global unicast (private included) or link-local, still
    /// in use.
    pub fn usable(&self) -> bool {
        let routable = match self.ip {
            IpAddr::V4(ip) => {
                !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified() && ip != Ipv4Addr::BROADCAST
            }
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_multicast() && ip != Ipv6Addr::UNSPECIFIED,
        };
        routable && !self.deprecated && !self.host
    }

    /// Link-local addresses are taken only when there is no other.
    pub fn link_local(&self) -> bool {
        match self.ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }
    }
}
