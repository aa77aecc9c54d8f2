//! [`Links`] over [`flannel_host::netlink`].

use std::collections::HashMap;

use flannel_core::entry::LinkIndex;
use flannel_core::name::IfName;
use flannel_host::netlink::attributes::{
    address, alias, controller, destination, kind, mac, metric, mtu, name, output,
};
use flannel_host::netlink::{Fault, KernelError, Netlink as Host, refused};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkFlags, LinkMessage};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth};
use tracing::warn;

use super::{BridgeSpec, HostRoute, LinkError, Links, Owned, VethSpec, is_link_local};
use crate::naming;

/// The interfaces of this network namespace.
#[derive(Debug)]
pub struct Netlink {
    host: Host,
    /// The alias of our bridges and veths (`ip link` shows it), which tells them from those of another plugin.
    mark: String,
}

impl Netlink {
    /// Opens sockets in the calling thread's network namespace. Devices are marked as belonging to `owner`.
    pub fn open(owner: &str) -> Result<Self, LinkError> {
        Ok(Self { host: Host::open()?, mark: format!("flannel-docker {owner}") })
    }

    /// How many netlink requests were made so far.
    pub fn round_trips(&self) -> u64 {
        self.host.round_trips()
    }

    async fn index(&self, name: &IfName) -> Result<LinkIndex, LinkError> {
        let missing = || LinkError::Failed {
            action: format!("look up interface {name}"),
            reason: "it no longer exists".to_owned(),
        };
        self.host.index_of(name).await?.ok_or_else(missing)
    }

    /// The addresses of a device, without those the kernel creates.
    async fn addresses(&self, index: LinkIndex) -> Result<Vec<(IpNet, AddressMessage)>, LinkError> {
        let messages = self.host.addresses(Some(index)).await?;
        let read = messages.into_iter().filter_map(|message| Some((address(&message)?, message)));
        Ok(read.filter(|(address, _)| !is_link_local(address.addr())).collect())
    }

    /// Gives the bridge the addresses of `spec` and no others.
    async fn ensure_addresses(&self, index: LinkIndex, spec: &BridgeSpec) -> Result<(), LinkError> {
        let mut present = Vec::new();
        for (address, message) in self.addresses(index).await? {
            if spec.addresses.contains(&address) {
                present.push(address);
            } else {
                let what = || format!("remove address {address} from bridge {}", spec.name);
                self.host.handle().address().del(message).execute().await.map_err(refused(what))?;
            }
        }
        for address in spec.addresses.iter().filter(|a| !present.contains(a)) {
            let mut request = self.host.handle().address().add(index.0, address.addr(), address.prefix_len());
            if matches!(address, IpNet::V6(_)) {
                // Nobody else can have it, and a tentative gateway answers nobody for a second.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            let what = || format!("add address {address} to bridge {}", spec.name);
            ignore(Fault::Exists, request.execute().await.map_err(refused(what)))?;
        }
        Ok(())
    }

    async fn create_bridge(&self, spec: &BridgeSpec) -> Result<LinkIndex, LinkError> {
        let message = LinkBridge::new(spec.name.as_str()).address(spec.mac.0.to_vec()).build();
        let what = || format!("create bridge {}", spec.name);
        self.host.handle().link().add(message).execute().await.map_err(refused(what))?;
        self.index(&spec.name).await
    }

    fn is_set_up(&self, bridge: &LinkMessage, spec: &BridgeSpec) -> bool {
        mtu(bridge) == Some(spec.mtu)
            && mac(bridge) == Some(spec.mac)
            && alias(bridge) == Some(&self.mark)
            && bridge.header.flags.contains(LinkFlags::Up)
    }

    async fn set_up(&self, index: LinkIndex, spec: &BridgeSpec) -> Result<(), LinkError> {
        // A bridge whose MTU was set keeps it; otherwise it follows the smallest of its ports'.
        let message = LinkUnspec::new_with_index(index.0)
            .mtu(spec.mtu)
            .address(spec.mac.0.to_vec())
            .alias(self.mark.clone())
            .up()
            .build();
        let what = || format!("set up bridge {}", spec.name);
        Ok(self.host.handle().link().set(message).execute().await.map_err(refused(what))?)
    }

    /// The kernel takes neither an alias nor a bridge port's options for a device that is being created. By the alias
    /// a veth that lost its bridge is still ours.
    async fn mark_veth(&self, spec: &VethSpec) -> Result<(), LinkError> {
        // Found by its name: the index is 0.
        let mut message = LinkUnspec::new_with_name(spec.host.as_str()).alias(self.mark.clone()).build();
        if spec.hairpin {
            message.attributes.extend(LinkBridgePort::new(0).hairpin(true).build().attributes);
        }
        let what = || format!("mark veth {}", spec.host);
        Ok(self.host.handle().link().set_port(message).execute().await.map_err(refused(what))?)
    }
}

impl Links for Netlink {
    async fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<bool, LinkError> {
        let existing = self.host.link(&spec.name).await?;
        if existing.as_ref().is_some_and(|link| kind(link) != Some(&InfoKind::Bridge)) {
            return Err(LinkError::NotOurs { name: spec.name.to_string() });
        }
        let index = match &existing {
            Some(link) => LinkIndex(link.header.index),
            None => self.create_bridge(spec).await?,
        };
        if spec.addresses.iter().any(|a| matches!(a, IpNet::V6(_))) {
            enable_ipv6(&spec.name);
        }
        if !existing.as_ref().is_some_and(|link| self.is_set_up(link, spec)) {
            self.set_up(index, spec).await?;
        }
        self.ensure_addresses(index, spec).await?;
        Ok(existing.is_none())
    }

    async fn create_veth(&self, spec: &VethSpec) -> Result<(), LinkError> {
        let bridge = self.index(&spec.bridge).await?;
        let peer = LinkMessageBuilder::<LinkUnspec>::default()
            .name(spec.container.as_str())
            .mtu(spec.mtu)
            .address(spec.mac.0.to_vec())
            .build();
        let create = async || {
            let message = LinkVeth::new(spec.host.as_str(), spec.container.as_str())
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.clone())))
                .mtu(spec.mtu)
                .controller(bridge.0)
                .up()
                .build();
            let what = || format!("create veth pair {} and {}", spec.host, spec.container);
            self.host.handle().link().add(message).execute().await.map_err(refused(what))
        };
        match create().await {
            Err(error) if error.fault == Fault::Exists => {
                // Left over from a call whose answer Docker never got.
                self.remove(&spec.host).await?;
                self.remove(&spec.container).await?;
                create().await?;
            }
            other => other?,
        }
        self.mark_veth(spec).await
    }

    async fn attach_veth(&self, host: &IfName, bridge: &IfName) -> Result<(), LinkError> {
        let Some(link) = self.host.link(host).await? else { return Ok(()) };
        let bridge_index = self.index(bridge).await?;
        if controller(&link) == Some(bridge_index.0) {
            return Ok(());
        }
        let message = LinkUnspec::new_with_index(link.header.index).controller(bridge_index.0).up().build();
        let what = || format!("attach {host} to bridge {bridge}");
        Ok(ignore(Fault::NoDevice, self.host.handle().link().set(message).execute().await.map_err(refused(what)))?)
    }

    async fn remove(&self, name: &IfName) -> Result<(), LinkError> {
        let Some(index) = self.host.index_of(name).await? else { return Ok(()) };
        Ok(ignore(Fault::NoDevice, self.host.delete_link(index, name).await)?)
    }

    async fn owned(&self) -> Result<Vec<Owned>, LinkError> {
        let links = self.host.links().await?;
        let marked = |l: &LinkMessage| alias(l) == Some(&self.mark);
        let bridges: HashMap<u32, &str> = links
            .iter()
            .filter(|l| marked(l) && kind(l) == Some(&InfoKind::Bridge))
            .filter_map(|l| Some((l.header.index, name(l)?)))
            .collect();
        let mut owned = Vec::new();
        for link in &links {
            let Some(name) = name(link) else { continue };
            let is_bridge = bridges.contains_key(&link.header.index);
            let attached = controller(link).and_then(|c| bridges.get(&c));
            // A veth is attached before it is marked.
            if !is_bridge && !(naming::is_veth(name) && (attached.is_some() || marked(link))) {
                continue;
            }
            let index = LinkIndex(link.header.index);
            let addresses = if is_bridge { self.addresses(index).await? } else { Vec::new() };
            owned.push(Owned {
                name: name.to_owned(),
                is_bridge,
                mtu: mtu(link).unwrap_or(0),
                up: link.header.flags.contains(LinkFlags::Up),
                bridge: attached.map(|bridge| (*bridge).to_owned()),
                addresses: addresses.into_iter().map(|(address, _)| address).collect(),
            });
        }
        Ok(owned)
    }

    async fn routes(&self) -> Result<Vec<HostRoute>, LinkError> {
        let routes = self.host.main_routes(AddressFamily::Inet).await?;
        let mut found = Vec::new();
        // A host with many peers has thousands of routes on a handful of devices.
        let mut names = HashMap::new();
        for route in &routes {
            let Some(destination) = destination(route).filter(|d| d.prefix_len() > 0) else { continue };
            let device = match output(route) {
                Some(index) => match names.get(&index) {
                    Some(name) => Some(String::clone(name)),
                    None => {
                        let link = self.host.link_by_index(LinkIndex(index)).await?;
                        let known = link.as_ref().and_then(name).map(str::to_owned);
                        let name = known.unwrap_or_else(|| format!("interface {index}"));
                        names.insert(index, name.clone());
                        Some(name)
                    }
                },
                None => None,
            };
            found.push(HostRoute { destination, device, metric: metric(route) });
        }
        Ok(found)
    }
}

/// A change that finds its work done has succeeded.
fn ignore(fault: Fault, result: Result<(), KernelError>) -> Result<(), KernelError> {
    match result {
        Err(error) if error.fault == fault => Ok(()),
        other => other,
    }
}

impl From<KernelError> for LinkError {
    fn from(error: KernelError) -> Self {
        match error.fault {
            Fault::Denied => Self::Denied { action: error.what },
            _ => Self::Failed { action: error.what, reason: error.reason },
        }
    }
}

/// Docker disables IPv6 for new interfaces on some hosts. Where the file cannot be written, adding the address fails
/// with the kernel's reason.
fn enable_ipv6(bridge: &IfName) {
    let path = format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6");
    if std::fs::read_to_string(&path).is_ok_and(|v| v.trim() == "0") {
        return;
    }
    if let Err(e) = std::fs::write(&path, "0") {
        warn!("cannot set {path} to 0: {e}");
    }
}
