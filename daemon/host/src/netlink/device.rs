//! Devices of any kind: look up, bring up, set MTU and addresses.

use flannel_core::entry::LinkIndex;
use flannel_core::ipnet::IpNet;
use flannel_core::name::IfName;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use rtnetlink::{LinkGetRequest, LinkUnspec};

use super::attributes::{address, kind, name};
use super::{Fault, KernelError, Netlink, refused};

impl Netlink {
    /// The device of this name, if there is one.
    pub async fn link(&self, name: &IfName) -> Result<Option<LinkMessage>, KernelError> {
        let request = self.handle().link().get().match_name(name.as_str());
        self.one_link(request, || format!("look up device {name}")).await
    }

    /// The device of this index, if there is one.
    pub async fn link_by_index(&self, index: LinkIndex) -> Result<Option<LinkMessage>, KernelError> {
        let request = self.handle().link().get().match_index(index.0);
        self.one_link(request, || format!("look up device {}", index.0)).await
    }

    async fn one_link(
        &self,
        request: LinkGetRequest,
        what: impl Fn() -> String,
    ) -> Result<Option<LinkMessage>, KernelError> {
        match request.execute().try_next().await.map_err(refused(what)) {
            Err(error) if matches!(error.fault, Fault::NoDevice | Fault::NotFound) => Ok(None),
            other => other,
        }
    }

    /// The index of the device of this name, if there is one.
    pub async fn index_of(&self, name: &IfName) -> Result<Option<LinkIndex>, KernelError> {
        Ok(self.link(name).await?.map(|link| LinkIndex(link.header.index)))
    }

    /// The index of a device just created.
    pub async fn index_of_created(&self, name: &IfName) -> Result<LinkIndex, KernelError> {
        self.index_of(name).await?.ok_or_else(|| KernelError {
            what: format!("read back device {name}"),
            reason: "it does not exist".into(),
            fault: Fault::NotFound,
        })
    }

    /// Makes this the only address of a device inside `network` (addresses outside are left alone), and brings it up.
    pub async fn ensure_address(&self, link: LinkIndex, own: IpNet, network: IpNet) -> Result<(), KernelError> {
        let what = || format!("give device {} the address {own}", link.0);
        let mut found = false;
        for message in self.addresses(Some(link)).await? {
            let Some(address) = address(&message).filter(|a| network.contains(&a.addr())) else { continue };
            if address == own {
                found = true;
            } else {
                self.handle().address().del(message).execute().await.map_err(refused(what))?;
            }
        }
        if !found {
            self.handle().address().add(link.0, own.addr(), own.prefix_len()).execute().await.map_err(refused(what))?;
        }
        self.set_up(link).await
    }

    /// Whether a device has an address of one of these networks.
    pub async fn has_address_in(&self, link: LinkIndex, networks: &[IpNet]) -> Result<bool, KernelError> {
        let messages = self.addresses(Some(link)).await?;
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
        let links = self.links().await?;
        for link in &links {
            let index = LinkIndex(link.header.index);
            let (Some(kind), Some(name)) = (kind(link), name(link).and_then(|name| IfName::new(name).ok())) else {
                continue;
            };
            let ours = is_ours(&kind.to_string(), name.as_str()) && !keep.contains(&index);
            if ours && self.has_address_in(index, networks).await? {
                tracing::info!("removing device {name} of an earlier run with another backend or VNI");
                self.delete_link(index, &name).await?;
            }
        }
        Ok(())
    }

    /// Whether a device of this name is still the one created, and up.
    pub async fn device_is_intact(&self, name: &IfName, made: LinkIndex) -> Result<bool, KernelError> {
        let link = self.link(name).await?;
        Ok(link.is_some_and(|l| l.header.index == made.0 && l.header.flags.contains(LinkFlags::Up)))
    }

    /// Whether a device has this address.
    pub async fn has_address(&self, link: LinkIndex, own: IpNet) -> Result<bool, KernelError> {
        let messages = self.addresses(Some(link)).await?;
        Ok(messages.iter().any(|message| address(message) == Some(own)))
    }

    /// Brings a device up.
    pub async fn set_up(&self, link: LinkIndex) -> Result<(), KernelError> {
        let up = LinkUnspec::new_with_index(link.0).up().build();
        self.handle().link().set(up).execute().await.map_err(refused(|| format!("bring up device {}", link.0)))
    }

    /// Sets a device's MTU.
    pub async fn set_mtu(&self, link: LinkIndex, mtu: u32) -> Result<(), KernelError> {
        let change = LinkUnspec::new_with_index(link.0).mtu(mtu).build();
        let what = || format!("set the MTU of device {} to {mtu}", link.0);
        self.handle().link().set(change).execute().await.map_err(refused(what))
    }

    /// Deletes a device.
    pub async fn delete_link(&self, link: LinkIndex, name: &IfName) -> Result<(), KernelError> {
        self.handle().link().del(link.0).execute().await.map_err(refused(|| format!("delete device {name}")))
    }
}
