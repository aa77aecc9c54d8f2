//! The ways packets get to other hosts.
//!
//! A backend is a file of its own and a line in [`BACKENDS`]. It is set up in two steps around the lease, because some
//! need the lease for their device and others their device for the lease: [`Configured::prepare`] creates what the
//! lease's attributes need, [`Backend::attach`] the rest, and returns the [`Attached`] backend: a pure function from a
//! remote lease to entries. A lost device is re-created by attaching again.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use flannel_core::backend_config::{self, BadBackend, Fields};
use flannel_core::config::NetworkConfig;
use flannel_core::entry::Entry;
use flannel_core::family::Families;
use flannel_core::ipnet::IpNet;
use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, Lease, LeaseAttrs};
use futures_util::future::LocalBoxFuture;

use crate::data_plane::DataPlane;
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

/// The backends of this build.
const BACKENDS: &[Kind] =
    &[vxlan::KIND, host_gw::KIND, udp::KIND, alloc::KIND, extension::KIND, ipip::KIND, wireguard::KIND];

/// A backend's line in the table.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its name in the config and in leases.
    pub name: &'static str,
    /// The devices it creates, so that those of an earlier run are recognised.
    pub devices: &'static [DevicePattern],
    /// Reads its options from the config and returns what sets it up.
    pub read: fn(&mut Fields<'_>) -> Prepare,
}

/// Devices of the kernel that a backend creates.
#[derive(Debug, Clone, Copy)]
pub struct DevicePattern {
    /// The kind as `ip -d link` shows it.
    pub kind: &'static str,
    /// The name, or the part of it before a number.
    pub prefix: &'static str,
}

/// What a backend is built on.
pub struct Context {
    /// The kernel.
    pub kernel: Netlink,
    /// The network's config.
    pub config: NetworkConfig,
    /// The interface that carries the traffic between hosts.
    pub uplink: ExternalInterface,
    /// Directory for state that survives a reboot.
    pub state_dir: PathBuf,
    /// Whether checksum offload of devices is switched, and to what.
    pub tx_checksum: Option<bool>,
    /// Descriptors that survive the daemon.
    pub descriptors: DescriptorStore,
}

/// Sets up a backend with the options it has read.
pub type Prepare = Box<dyn for<'a> FnOnce(&'a Context) -> LocalBoxFuture<'a, Result<Box<dyn Backend>, Error>>>;

/// A backend with the options of a config.
pub struct Configured {
    /// The backend's name.
    pub name: &'static str,
    prepare: Prepare,
}

impl Configured {
    /// Reads the `Backend` object of the config.
    pub fn parse(text: &str) -> Result<Self, BadBackend> {
        let kinds: Vec<_> =
            BACKENDS.iter().map(|kind| backend_config::Kind { name: kind.name, read: kind.read }).collect();
        let (name, prepare) = backend_config::parse(text, &kinds)?;
        Ok(Self { name, prepare })
    }

    /// First step: what must exist before a lease can be acquired.
    pub async fn prepare(self, context: &Context) -> Result<Box<dyn Backend>, Error> {
        (self.prepare)(context).await
    }
}

/// Whether a device is of a kind and a name that one of the backends creates.
pub fn creates_device(kind: &str, name: &str) -> bool {
    let fits = |pattern: &DevicePattern| {
        let rest = name.strip_prefix(pattern.prefix).filter(|_| pattern.kind == kind);
        rest.is_some_and(|rest| rest.is_empty() || pattern.prefix.ends_with('.'))
    };
    BACKENDS.iter().flat_map(|kind| kind.devices).any(fits)
}

/// A backend that has what its lease's attributes need.
pub trait Backend {
    /// What this host publishes in its lease, given the part that is the same for all backends.
    fn attrs(&self, plain: LeaseAttrs) -> LeaseAttrs;

    /// Second step: everything else. May be repeated, and leaves alone what is right.
    fn attach<'a>(
        &'a mut self,
        context: &'a Context,
        lease: SubnetKey,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Attached>, Error>>;

    /// Whether its devices are as [`Backend::attach`] left them.
    fn is_intact<'a>(&'a self, kernel: &'a Netlink) -> LocalBoxFuture<'a, Result<bool, KernelError>> {
        let _ = kernel;
        Box::pin(async { Ok(true) })
    }

    /// Whether devices of an earlier run with another backend are to be removed.
    fn replaces_devices(&self) -> bool {
        true
    }

    /// Last step, at shutdown: removes what shall not outlive the daemon.
    fn detach<'a>(&'a self, kernel: &'a Netlink) -> LocalBoxFuture<'a, ()> {
        let _ = kernel;
        Box::pin(async {})
    }
}

/// A backend with its lease.
pub trait Attached {
    /// The MTU of containers' interfaces, in bytes.
    fn mtu(&self) -> u32;

    /// Where its entries are in the kernel.
    fn scope(&self) -> Scope;

    /// Where its entries go: the kernel, unless it says otherwise.
    fn data_plane(&self, kernel: &Netlink) -> DataPlane {
        DataPlane::new(kernel.clone())
    }

    /// Entries that are installed whatever leases there are.
    fn static_entries(&self) -> Vec<Entry> {
        Vec::new()
    }

    /// Whether [`Attached::entries`] depends on which hosts are on the same link.
    fn needs_reach(&self) -> bool {
        false
    }

    /// The entries a remote lease needs; none for a lease of another backend. `on_link` has the families by which its
    /// host is reached without a gateway; none unless [`Attached::needs_reach`].
    fn entries(&self, remote: &Lease, on_link: Families) -> Result<Vec<Entry>, BadLease>;

    /// Called after each change with all remote leases that are to be connected, for a backend whose connections are not
    /// entries. Returns at once.
    fn on_leases(&self, remote: &mut dyn Iterator<Item = &Lease>) {
        let _ = remote;
    }
}

/// The part of the lease's attributes that is the same for all backends.
pub fn plain_attrs(uplink: &ExternalInterface) -> LeaseAttrs {
    LeaseAttrs {
        public_ipv6: uplink.v6.map(|a| a.public),
        ..LeaseAttrs::new(uplink.v4.map_or(Ipv4Addr::UNSPECIFIED, |a| a.public))
    }
}

fn setup(backend: &'static str) -> impl Fn(KernelError) -> Error {
    move |error| Error::Setup { backend, reason: error.to_string() }
}

/// The first address of a subnet, alone: what the flannel device of a host is called by.
fn base(subnet: IpNet) -> IpNet {
    IpNet::from(subnet.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_earlier_runs_are_recognised() {
        for (kind, name, ours) in [
            ("vxlan", "flannel.1", true),
            ("vxlan", "flannel-v6.7", true),
            ("vxlan", "vxlan0", false),
            ("bridge", "flannel.1", false),
            ("ipip", "flannel.ipip", true),
            ("ipip", "flannel.ipip2", false),
            ("wireguard", "flannel-wg", true),
            ("wireguard", "flannel-wg-v6", true),
            ("wireguard", "flannel-wg2", false),
        ] {
            assert_eq!(creates_device(kind, name), ours, "{kind} {name}");
        }
    }
}
