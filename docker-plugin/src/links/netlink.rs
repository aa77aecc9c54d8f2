//! [`Links`] over rtnetlink.

use std::collections::HashMap;
use std::net::IpAddr;

use flannel_core::name::IfName;
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::io::Errno;
use tokio::task::JoinHandle;
use tracing::warn;
use whole::whole;

use super::{BridgeSpec, CableSpec, HostRoute, LinkError, Links, Owned, is_link_local};
use crate::naming;

mod whole;

/// A connection to the kernel of this network namespace.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    /// Marks our bridges (`ip link` shows it as alias), so that those of a lost or other state are told apart.
    mark: String,
    connection: JoinHandle<()>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace. Bridges are marked as belonging to `owner`.
    pub fn open(owner: &str) -> std::io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, mark: format!("flannel-docker {owner}"), connection: tokio::spawn(connection) })
    }

    async fn link(&self, name: &str) -> Result<Option<LinkMessage>, LinkError> {
        let answer = self.handle.link().get().match_name(name).execute().try_next().await;
        match answer.map_err(|e| Refusal::of(&e)) {
            Ok(link) => Ok(link),
            Err(Refusal::NoDevice) => Ok(None),
            Err(other) => Err(other.error(format!("looking for interface {name}"))),
        }
    }

    async fn index(&self, name: &str) -> Result<u32, LinkError> {
        let missing = || LinkError::Failed {
            action: format!("looking for interface {name}"),
            reason: "it is not there any more".to_owned(),
        };
        Ok(self.link(name).await?.ok_or_else(missing)?.header.index)
    }

    /// The addresses of a device, without those the kernel makes.
    async fn addresses(&self, index: u32, name: &str) -> Result<Vec<(IpNet, AddressMessage)>, LinkError> {
        let answer = whole(|| self.handle.address().get().set_link_index_filter(index).execute()).await;
        let messages = match answer.map_err(|e| Refusal::of(&e)) {
            Ok(messages) => messages,
            // Gone since it was listed.
            Err(Refusal::NoDevice) => Vec::new(),
            Err(other) => return Err(other.error(format!("addresses of {name}"))),
        };
        let read = messages.into_iter().filter_map(|message| Some((address_of(&message)?, message)));
        Ok(read.filter(|(address, _)| !is_link_local(address.addr())).collect())
    }

    /// Brings the bridge's addresses to what `spec` says.
    async fn ensure_addresses(&self, index: u32, spec: &BridgeSpec) -> Result<(), LinkError> {
        let action = |what: &str, address: &dyn std::fmt::Display| format!("{what} {address} on bridge {}", spec.name);
        let mut there = Vec::new();
        for (address, message) in self.addresses(index, spec.name.as_str()).await? {
            if spec.addresses.contains(&address) {
                there.push(address);
            } else {
                let removed = self.handle.address().del(message).execute().await;
                removed.map_err(|e| Refusal::of(&e).error(action("removing address", &address)))?;
            }
        }
        for address in spec.addresses.iter().filter(|a| !there.contains(a)) {
            let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
            if matches!(address, IpNet::V6(_)) {
                // Nobody else can have it, and a gateway that is tentative for a second answers nobody.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            match request.execute().await.map_err(|e| Refusal::of(&e)) {
                Ok(()) | Err(Refusal::Exists) => {}
                Err(other) => return Err(other.error(action("adding address", address))),
            }
        }
        Ok(())
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Links for Netlink {
    async fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<bool, LinkError> {
        let name = spec.name.as_str();
        let action = |what: &str| format!("{what} bridge {name}");
        let there = self.link(name).await?;
        let is_new = there.is_none();
        match there {
            Some(link) if kind(&link) == Some(&InfoKind::Bridge) => {}
            Some(_) => return Err(LinkError::NotOurs { name: name.to_owned() }),
            None => {
                let message = LinkBridge::new(name).address(spec.mac.0.to_vec()).build();
                let made = self.handle.link().add(message).execute().await;
                made.map_err(|e| Refusal::of(&e).error(action("making")))?;
            }
        }
        let index = self.index(name).await?;
        if spec.addresses.iter().any(|a| matches!(a, IpNet::V6(_))) {
            enable_ipv6(name);
        }
        // A bridge that was told its MTU keeps it; otherwise it follows the smallest of its ports'.
        let message = LinkUnspec::new_with_index(index)
            .mtu(spec.mtu)
            .address(spec.mac.0.to_vec())
            .alias(self.mark.clone())
            .up()
            .build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(|e| Refusal::of(&e).error(action("setting up")))?;
        self.ensure_addresses(index, spec).await?;
        Ok(is_new)
    }

    async fn make_cable(&self, spec: &CableSpec) -> Result<(), LinkError> {
        let bridge = self.index(spec.bridge.as_str()).await?;
        let peer = LinkMessageBuilder::<LinkUnspec>::default()
            .name(spec.container.as_str())
            .mtu(spec.mtu)
            .address(spec.mac.0.to_vec())
            .build();
        let cable = || {
            LinkVeth::new(spec.host.as_str(), spec.container.as_str())
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.clone())))
                .mtu(spec.mtu)
                .controller(bridge)
                .up()
                .build()
        };
        let action = || format!("making cable {} to {}", spec.host, spec.container);
        match self.handle.link().add(cable()).execute().await.map_err(|e| Refusal::of(&e)) {
            Ok(()) => {}
            Err(Refusal::Exists) => {
                // Left over from a call whose answer Docker never got.
                self.remove(&spec.host).await?;
                self.remove(&spec.container).await?;
                self.handle.link().add(cable()).execute().await.map_err(|e| Refusal::of(&e).error(action()))?;
            }
            Err(other) => return Err(other.error(action())),
        }
        if spec.hairpin {
            let port = LinkBridgePort::new(self.index(spec.host.as_str()).await?).hairpin(true).build();
            let set = self.handle.link().set_port(port).execute().await;
            set.map_err(|e| Refusal::of(&e).error(format!("letting {} answer itself", spec.host)))?;
        }
        self.mark_cable(&spec.host).await
    }

    async fn replug(&self, host: &IfName, bridge: &IfName) -> Result<(), LinkError> {
        let Some(link) = self.link(host.as_str()).await? else { return Ok(()) };
        let bridge_index = self.index(bridge.as_str()).await?;
        if controller(&link) == Some(bridge_index) {
            return Ok(());
        }
        let message = LinkUnspec::new_with_index(link.header.index).controller(bridge_index).up().build();
        match self.handle.link().set(message).execute().await.map_err(|e| Refusal::of(&e)) {
            Ok(()) | Err(Refusal::NoDevice) => Ok(()),
            Err(other) => Err(other.error(format!("plugging {host} into bridge {bridge}"))),
        }
    }

    async fn remove(&self, name: &IfName) -> Result<(), LinkError> {
        let Some(link) = self.link(name.as_str()).await? else { return Ok(()) };
        match self.handle.link().del(link.header.index).execute().await.map_err(|e| Refusal::of(&e)) {
            Ok(()) | Err(Refusal::NoDevice) => Ok(()),
            Err(other) => Err(other.error(format!("removing interface {name}"))),
        }
    }

    async fn owned(&self) -> Result<Vec<Owned>, LinkError> {
        let links = whole(|| self.handle.link().get().execute()).await;
        let links = links.map_err(|e| Refusal::of(&e).error("listing interfaces".to_owned()))?;
        let marked = |l: &&LinkMessage| alias(l) == Some(&self.mark);
        let bridges: HashMap<u32, &String> = links
            .iter()
            .filter(|l| marked(l) && kind(l) == Some(&InfoKind::Bridge))
            .filter_map(|l| Some((l.header.index, name(l)?)))
            .collect();
        let mut owned = Vec::new();
        for link in &links {
            let Some(name) = name(link) else { continue };
            let is_bridge = bridges.contains_key(&link.header.index);
            let plugged = controller(link).and_then(|c| bridges.get(&c));
            // A cable got its mark after it was plugged in.
            if !is_bridge && !(naming::is_veth(name) && (plugged.is_some() || marked(&link))) {
                continue;
            }
            let addresses = if is_bridge { self.addresses(link.header.index, name).await? } else { Vec::new() };
            owned.push(Owned {
                name: name.clone(),
                is_bridge,
                mtu: mtu(link).unwrap_or(0),
                up: link.header.flags.contains(LinkFlags::Up),
                bridge: plugged.map(|b| String::clone(b)),
                addresses: addresses.into_iter().map(|(address, _)| address).collect(),
            });
        }
        Ok(owned)
    }

    async fn routes(&self) -> Result<Vec<HostRoute>, LinkError> {
        let query = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let failed = |e: rtnetlink::Error| Refusal::of(&e).error("listing the host's routes".to_owned());
        let routes = whole(|| self.handle.route().get(query.clone()).execute()).await.map_err(failed)?;
        let mut found = Vec::new();
        // A host of many peers has thousands of routes on a handful of devices.
        let mut names = HashMap::new();
        for route in routes.iter().filter(|r| r.header.table == RouteHeader::RT_TABLE_MAIN) {
            let Some(destination) = destination(route) else { continue };
            let oif = route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            let device = match oif {
                Some(index) => match names.get(&index) {
                    Some(name) => Some(String::clone(name)),
                    None => {
                        let name = self.name_of(index).await?.unwrap_or_else(|| format!("interface {index}"));
                        names.insert(index, name.clone());
                        Some(name)
                    }
                },
                None => None,
            };
            let metric = route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Priority(metric) => Some(*metric),
                _ => None,
            });
            found.push(HostRoute { destination, device, metric: metric.unwrap_or(0) });
        }
        Ok(found)
    }
}

impl Netlink {
    /// The kernel takes no alias for a device in the making. With one, a cable that lost its bridge is still ours.
    async fn mark_cable(&self, host: &IfName) -> Result<(), LinkError> {
        let index = self.index(host.as_str()).await?;
        let message = LinkUnspec::new_with_index(index).alias(self.mark.clone()).build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(|e| Refusal::of(&e).error(format!("marking cable {host}")))
    }

    async fn name_of(&self, index: u32) -> Result<Option<String>, LinkError> {
        match self.handle.link().get().match_index(index).execute().try_next().await.map_err(|e| Refusal::of(&e)) {
            Ok(link) => Ok(link.and_then(|l| {
                l.attributes.into_iter().find_map(|a| match a {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                })
            })),
            Err(Refusal::NoDevice) => Ok(None),
            Err(other) => Err(other.error(format!("looking for interface {index}"))),
        }
    }
}

/// The kernel's refusal, decoded once.
enum Refusal {
    Exists,
    NoDevice,
    Denied,
    Other(String),
}

impl Refusal {
    fn of(error: &rtnetlink::Error) -> Self {
        let rtnetlink::Error::NetlinkError(message) = error else { return Self::Other(error.to_string()) };
        match Errno::from_raw_os_error(message.raw_code().unsigned_abs().try_into().unwrap_or(i32::MAX)) {
            Errno::EXIST => Self::Exists,
            Errno::NODEV | Errno::NXIO => Self::NoDevice,
            Errno::PERM | Errno::ACCESS => Self::Denied,
            other => Self::Other(std::io::Error::from(other).to_string()),
        }
    }

    fn error(self, action: String) -> LinkError {
        let reason = match self {
            Self::Denied => return LinkError::Denied { action },
            Self::Exists => "it exists already".to_owned(),
            Self::NoDevice => "no such interface".to_owned(),
            Self::Other(reason) => reason,
        };
        LinkError::Failed { action, reason }
    }
}

/// Docker switches IPv6 off for new interfaces on some hosts. Where the file can't be written, adding the address
/// fails with the kernel's reason.
fn enable_ipv6(bridge: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6");
    if std::fs::read_to_string(&path).is_ok_and(|v| v.trim() == "0") {
        return;
    }
    if let Err(e) = std::fs::write(&path, "0") {
        warn!("{path} can't be set to 0: {e}");
    }
}

fn attribute<'a, T>(link: &'a LinkMessage, pick: impl Fn(&'a LinkAttribute) -> Option<T>) -> Option<T> {
    link.attributes.iter().find_map(pick)
}

fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    let infos = attribute(link, |a| match a {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    infos.iter().find_map(|i| match i {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

fn name(link: &LinkMessage) -> Option<&String> {
    attribute(link, |a| match a {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })
}

fn mtu(link: &LinkMessage) -> Option<u32> {
    attribute(link, |a| match a {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn controller(link: &LinkMessage) -> Option<u32> {
    attribute(link, |a| match a {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

fn alias(link: &LinkMessage) -> Option<&String> {
    attribute(link, |a| match a {
        LinkAttribute::IfAlias(alias) => Some(alias),
        _ => None,
    })
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let address = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    })?;
    IpNet::new(address, message.header.prefix_len).ok()
}

/// Where a route leads; nothing for the default route.
fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}
