//! What the driver needs of the kernel's interfaces: bridges, veth pairs, the host's routes.

use std::future::Future;
use std::net::IpAddr;

use flannel_core::name::{IfName, Mac};
use ipnet::IpNet;

#[cfg(test)]
pub mod fake;
pub mod netlink;

/// A network's bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Its name.
    pub name: IfName,
    /// The gateways' addresses; other global addresses are removed.
    pub addresses: Vec<IpNet>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Fixed: a bridge without one takes the lowest of its ports' and changes it as containers come and go.
    pub mac: Mac,
}

/// An endpoint's veth pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethSpec {
    /// The end attached to the bridge.
    pub host: IfName,
    /// The end for the container.
    pub container: IfName,
    /// The bridge.
    pub bridge: IfName,
    /// For both ends: Docker sets none.
    pub mtu: u32,
    /// Of the container's end.
    pub mac: Mac,
    /// Whether the bridge may send a packet back to the container it came from: one that reaches itself by a published
    /// port does, where the port is translated on the bridge (`br_netfilter`).
    pub hairpin: bool,
}

/// A route of the host that is not the default route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    /// Where it leads.
    pub destination: IpNet,
    /// The device, where there is one: not with `blackhole` and its like.
    pub device: Option<String>,
    /// The kernel prefers the lowest among routes to one destination; that of a bridge's own range is 0.
    pub metric: u32,
}

/// An existing device of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owned {
    /// Its name.
    pub name: String,
    /// A bridge, or the host end of a veth pair.
    pub is_bridge: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// The bridge it is attached to.
    pub bridge: Option<String>,
    /// A bridge's global addresses.
    pub addresses: Vec<IpNet>,
}

/// The kernel's interfaces, as far as we need them. Every call is idempotent.
pub trait Links: Send + Sync + 'static {
    /// Creates the bridge, or sets up the existing one. Returns whether it was created.
    fn ensure_bridge(&self, spec: &BridgeSpec) -> impl Future<Output = Result<bool, LinkError>> + Send;

    /// Creates the veth pair and attaches it; one left over from an earlier call is replaced.
    fn create_veth(&self, spec: &VethSpec) -> impl Future<Output = Result<(), LinkError>> + Send;

    /// Attaches an existing veth again, after its bridge was re-created. One that does not exist is not an error.
    fn attach_veth(&self, host: &IfName, bridge: &IfName) -> impl Future<Output = Result<(), LinkError>> + Send;

    /// Removes a device; one that does not exist is not an error.
    fn remove(&self, name: &IfName) -> impl Future<Output = Result<(), LinkError>> + Send;

    /// Our bridges and veths.
    fn owned(&self) -> impl Future<Output = Result<Vec<Owned>, LinkError>> + Send;

    /// The IPv4 routes of the main table, which is what Docker compares a pool with.
    fn routes(&self) -> impl Future<Output = Result<Vec<HostRoute>, LinkError>> + Send;
}

/// A request the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Another device has the name.
    #[error("interface {name} exists and is not ours: remove it with \"ip link del {name}\"")]
    NotOurs {
        /// The name.
        name: String,
    },
    /// We are not root, or lack the capability.
    #[error("cannot {action}: not permitted; run flannel-docker as root or with CAP_NET_ADMIN")]
    Denied {
        /// What was tried, on what.
        action: String,
    },
    /// Anything else.
    #[error("cannot {action}: {reason}")]
    Failed {
        /// What was tried, on what.
        action: String,
        /// The kernel's answer.
        reason: String,
    },
}

/// Whether an address is one the kernel assigns by itself.
pub fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}
