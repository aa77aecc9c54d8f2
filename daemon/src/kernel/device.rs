//! Devices of any kind: find, bring up, give the one address of the flannel network.

use std::net::IpAddr;

use flannel_core::entry::LinkIndex;
use flannel_core::ipnet::IpNet;
use flannel_core::name::IfName;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::netlink::{Netlink, collect, refused};
use super::{Fault, KernelError};

impl Netlink {
    /// The device of this name, if there is one.
    pub(super) async fn link(&self, name: &IfName) -> Result<Option<LinkMessage>, KernelError> {
        let request = self.handle.link().get().match_name(name.as_str());
        match collect(request.execute(), || format!("look up device {name}")).await {
            Ok(links) => Ok(links.into_iter().next()),
            Err(error) if matches!(error.fault, Fault::NoDevice | Fault::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number of the device of this name, if there is one.
    pub async fn index_of(&self, name: &IfName) -> Result<Option<LinkIndex>, KernelError> {
        Ok(self.link(name).await?.map(|link| LinkIndex(link.header.index)))
    }

    /// The number of a device just made.
    pub(super) async fn index_of_made(&self, name: &IfName) -> Result<LinkIndex, KernelError> {
        self.index_of(name).await?.ok_or_else(|| KernelError {
            what: format!("read back device {name}"),
            reason: "it is not there".into(),
            fault: Fault::NotFound,
        })
    }

    /// Gives a device this address alone of all those inside the flannel network (addresses from elsewhere are left
    /// as they are), and brings it up.
    pub async fn ensure_address(&self, link: LinkIndex, own: IpNet, network: IpNet) -> Result<(), KernelError> {
        let what = || format!("give device {} the address {own}", link.0);
        let request = self.handle.address().get().set_link_index_filter(link.0);
        let mut found = false;
        for message in collect(request.execute(), what).await? {
            let Some(address) = address(&message).filter(|a| network.contains(&a.addr())) else { continue };
            if address == own {
                found = true;
            } else {
                self.handle.address().del(message).execute().await.map_err(refused(what))?;
            }
        }
        if !found {
            self.handle.address().add(link.0, own.addr(), own.prefix_len()).execute().await.map_err(refused(what))?;
        }
        self.set_up(link).await
    }

    /// Whether a device has an address of one of these networks.
    pub(super) async fn has_address_in(&self, link: LinkIndex, networks: &[IpNet]) -> Result<bool, KernelError> {
        let request = self.handle.address().get().set_link_index_filter(link.0);
        let messages = collect(request.execute(), || format!("list the addresses of device {}", link.0)).await?;
        Ok(messages.iter().filter_map(address).any(|own| networks.iter().any(|net| net.contains(&own.addr()))))
    }

    /// Removes devices of an earlier run with another backend or VNI: their routes would take precedence over ours. Such
    /// a device is one that `is_ours` recognises by kind and name and that has an address of this network, so another
    /// flannel network's is left alone.
    pub async fn remove_stale_devices(
        &self,
        is_ours: impl Fn(&str, &str) -> bool,
        keep: &[LinkIndex],
        networks: &[IpNet],
    ) -> Result<(), KernelError> {
        let links = collect(self.handle.link().get().execute(), || "list devices".into()).await?;
        for link in &links {
            let index = LinkIndex(link.header.index);
            let (Some(kind), Some(name)) = (kind(link), name(link).and_then(|name| IfName::new(name).ok())) else {
                continue;
            };
            let ours = is_ours(&kind, name.as_str()) && !keep.contains(&index);
            if ours && self.has_address_in(index, networks).await? {
                tracing::info!("removing device {name} of an earlier run with another backend or VNI");
                self.delete_link(index, &name).await?;
            }
        }
        Ok(())
    }

    /// Whether a device of this name is still the one that was made, and up.
    pub async fn device_stands(&self, name: &IfName, made: LinkIndex) -> Result<bool, KernelError> {
        let link = self.link(name).await?;
        Ok(link.is_some_and(|l| l.header.index == made.0 && l.header.flags.contains(LinkFlags::Up)))
    }

    /// Whether a device has this address.
    pub async fn has_address(&self, link: LinkIndex, own: IpNet) -> Result<bool, KernelError> {
        let request = self.handle.address().get().set_link_index_filter(link.0);
        let messages = collect(request.execute(), || format!("list the addresses of device {}", link.0)).await?;
        Ok(messages.iter().any(|message| address(message) == Some(own)))
    }

    async fn set_up(&self, link: LinkIndex) -> Result<(), KernelError> {
        let up = LinkUnspec::new_with_index(link.0).up().build();
        self.handle.link().set(up).execute().await.map_err(refused(|| format!("bring up device {}", link.0)))
    }

    /// Sets a device's MTU.
    pub async fn set_mtu(&self, link: LinkIndex, mtu: u32) -> Result<(), KernelError> {
        let change = LinkUnspec::new_with_index(link.0).mtu(mtu).build();
        let what = || format!("set the MTU of device {} to {mtu}", link.0);
        self.handle.link().set(change).execute().await.map_err(refused(what))
    }

    pub(super) async fn delete_link(&self, link: LinkIndex, name: &IfName) -> Result<(), KernelError> {
        self.handle.link().del(link.0).execute().await.map_err(refused(|| format!("delete device {name}")))
    }
}

/// The interface's own address (on a point-to-point link that is `Local`, not `Address`).
pub(super) fn address(message: &AddressMessage) -> Option<IpNet> {
    let pick = |want_local: bool| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(ip) if want_local => Some(*ip),
            AddressAttribute::Address(ip) if !want_local => Some(*ip),
            _ => None,
        })
    };
    let ip: IpAddr = pick(true).or_else(|| pick(false))?;
    IpNet::new(ip, message.header.prefix_len).ok()
}

pub(super) fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name.as_str()) } else { None })
}

/// The kind of a virtual device, as `ip -d link` shows it.
fn kind(link: &LinkMessage) -> Option<String> {
    let infos =
        link.attributes.iter().find_map(|a| if let LinkAttribute::LinkInfo(infos) = a { Some(infos) } else { None })?;
    infos.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind.to_string()) } else { None })
}

pub(super) fn mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None })
}
