//! The ways packets get to other hosts.
//!
//! A backend is set up in two steps around the lease, because some need the lease for their device and others their
//! device for the lease: [`prepare`] makes what the lease's attributes need, [`Prepared::attach`] the rest, and gives
//! the [`Backend`]: a pure function from a remote lease to entries. Attaching again is how a lost device comes back.

use std::net::Ipv4Addr;

use flannel_core::backend_config::BackendConfig;
use flannel_core::config::NetworkConfig;
use flannel_core::entry::Entry;
use flannel_core::family::{Families, Family};
use flannel_core::ipnet::IpNet;
use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, ExtensionData, Lease, LeaseAttrs, VxlanData};

use crate::error::Error;
use crate::kernel::netlink::Netlink;
use crate::kernel::{KernelError, Scope};
use crate::service_manager::DescriptorStore;
use crate::uplink::ExternalInterface;

pub mod alloc;
pub mod extension;
pub mod host_gw;
pub mod ipip;
pub mod udp;
pub mod vxlan;
pub mod wireguard;

/// A backend at work.
pub trait Backend {
    /// The MTU of containers' interfaces, in bytes.
    fn mtu(&self) -> u32;

    /// Where its entries are in the kernel.
    fn scope(&self) -> Scope;

    /// Entries that stand whatever leases there are.
    fn standing(&self) -> Vec<Entry> {
        Vec::new()
    }

    /// Whether [`Backend::entries`] depends on which hosts are on the same link.
    fn wants_reach(&self) -> bool {
        false
    }

    /// The entries a remote lease needs; none for a lease of another backend. `on_link` has the families by which its
    /// host is reached without a gateway; none unless [`Backend::wants_reach`].
    fn entries(&self, remote: &Lease, on_link: Families) -> Result<Vec<Entry>, BadLease>;

    /// Whether [`Backend::follow`] is to be told.
    fn follows(&self) -> bool {
        false
    }

    /// Told, after each change, all remote leases that are to be connected: for a backend whose connections are no
    /// entries. Returns at once.
    fn follow(&self, remote: Vec<Lease>) {
        drop(remote);
    }

    /// The proxy's table, for a backend whose tunnels are not the kernel's.
    fn tunnels(&self) -> Option<&udp::Tunnels> {
        None
    }
}

/// A backend that has what its lease's attributes need.
pub enum Prepared {
    /// With its VTEP.
    Vxlan(vxlan::Prepared),
    /// Needs nothing.
    HostGw(host_gw::HostGw),
    /// Needs nothing yet.
    Udp(udp::Prepared),
    /// Needs nothing.
    Alloc(alloc::Alloc),
    /// With what its pre-startup command said.
    Extension(extension::Prepared),
    /// With its device.
    Ipip(ipip::Prepared),
    /// With its devices and its key.
    Wireguard(wireguard::Prepared),
}

/// First step: what must be there before a lease can be taken.
pub async fn prepare(
    kernel: &Netlink,
    config: &NetworkConfig,
    backend: &BackendConfig,
    uplink: &ExternalInterface,
    vteps: vxlan::VtepOptions,
    store: &DescriptorStore,
) -> Result<Prepared, Error> {
    Ok(match backend {
        BackendConfig::Vxlan(options) => {
            Prepared::Vxlan(vxlan::Prepared::new(kernel, options, uplink, vteps).await.map_err(setup("vxlan"))?)
        }
        BackendConfig::HostGw => Prepared::HostGw(host_gw::HostGw::new(config, uplink)?),
        BackendConfig::Udp(options) => Prepared::Udp(udp::Prepared::new(options, uplink, store.clone())?),
        BackendConfig::Alloc => Prepared::Alloc(alloc::Alloc::new(uplink)),
        BackendConfig::Extension(options) => Prepared::Extension(extension::Prepared::new(options, uplink).await?),
        BackendConfig::Ipip(options) => Prepared::Ipip(ipip::Prepared::new(kernel, options, uplink).await?),
        BackendConfig::Wireguard(options) => {
            Prepared::Wireguard(wireguard::Prepared::new(kernel, options, uplink).await?)
        }
    })
}

impl Prepared {
    /// What this host tells the others.
    pub fn attrs(&self, uplink: &ExternalInterface) -> LeaseAttrs {
        let plain = LeaseAttrs {
            public_ipv6: uplink.v6.map(|a| a.public),
            ..LeaseAttrs::new(uplink.v4.map_or(Ipv4Addr::UNSPECIFIED, |a| a.public))
        };
        match self {
            Self::Vxlan(vxlan) => LeaseAttrs {
                backend_type: "vxlan".into(),
                backend_data: vxlan.data(Family::V4).map(VxlanData::to_json),
                backend_v6_data: vxlan.data(Family::V6).map(VxlanData::to_json),
                ..plain
            },
            Self::Wireguard(wireguard) => LeaseAttrs {
                backend_type: "wireguard".into(),
                backend_data: uplink.v4.map(|_| wireguard.data(Family::V4).to_json()),
                backend_v6_data: uplink.v6.map(|_| wireguard.data(Family::V6).to_json()),
                ..plain
            },
            Self::Ipip(_) => LeaseAttrs { backend_type: "ipip".into(), ..plain },
            Self::HostGw(_) => LeaseAttrs { backend_type: "host-gw".into(), ..plain },
            Self::Extension(extension) => LeaseAttrs {
                backend_type: "extension".into(),
                backend_data: extension.data().map(ExtensionData::to_json),
                ..plain
            },
            // parity: upstream leaves BackendType out for these two.
            Self::Udp(_) | Self::Alloc(_) => plain,
        }
    }

    /// Whether its devices are as they were made.
    pub async fn stands(&self, kernel: &Netlink) -> Result<bool, KernelError> {
        match self {
            Self::Vxlan(vxlan) => vxlan.stands(kernel).await,
            Self::Udp(udp) => udp.stands(kernel).await,
            Self::Ipip(ipip) => ipip.stands(kernel).await,
            Self::Wireguard(wireguard) => wireguard.stands(kernel).await,
            Self::HostGw(_) | Self::Alloc(_) | Self::Extension(_) => Ok(true),
        }
    }

    /// Second step: everything else. May be repeated, and leaves alone what is right.
    pub async fn attach(
        &mut self,
        kernel: &Netlink,
        config: &NetworkConfig,
        lease: SubnetKey,
    ) -> Result<Box<dyn Backend>, Error> {
        Ok(match self {
            Self::Vxlan(vxlan) => Box::new(vxlan.attach(kernel, config, lease).await.map_err(setup("vxlan"))?),
            Self::HostGw(host_gw) => Box::new(host_gw.clone()),
            Self::Udp(udp) => Box::new(udp.attach(kernel, config, lease).await?),
            Self::Alloc(alloc) => Box::new(*alloc),
            Self::Extension(extension) => Box::new(extension.attach(config, lease).await?),
            Self::Ipip(ipip) => Box::new(ipip.attach(kernel, config, lease).await?),
            Self::Wireguard(wireguard) => Box::new(wireguard.attach(kernel, config, lease).await?),
        })
    }

    /// Last step, when the daemon is told to end: what shall not outlive it.
    pub async fn detach(&self, kernel: &Netlink) {
        if let Self::Wireguard(wireguard) = self {
            wireguard.detach(kernel).await;
        }
    }
}

fn setup(backend: &'static str) -> impl Fn(KernelError) -> Error {
    move |error| Error::Setup { backend, reason: error.to_string() }
}

/// The first address of a subnet, alone: what the flannel device of a host is called by.
fn base(subnet: IpNet) -> IpNet {
    IpNet::from(subnet.network())
}
