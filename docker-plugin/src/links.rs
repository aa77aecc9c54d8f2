//! What the driver needs of the kernel's interfaces: bridges, cables (veth pairs), the host's routes.

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
    /// The gateways' addresses; other global addresses on it are removed.
    pub addresses: Vec<IpNet>,
    /// What its ports may send at most.
    pub mtu: u32,
    /// Fixed, since a bridge without one takes the lowest of its ports' and so changes as containers come and go.
    pub mac: Mac,
}

/// An endpoint's cable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CableSpec {
    /// The end on the bridge.
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

/// A device of ours that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owned {
    /// Its name.
    pub name: String,
    /// Bridge, or the end of a cable.
    pub is_bridge: bool,
    /// What it may send at most.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// The bridge it is plugged into.
    pub bridge: Option<String>,
    /// A bridge's global addresses.
    pub addresses: Vec<IpNet>,
}

/// The kernel's interfaces, as far as we need them. Every call may be made again with the same result.
pub trait Links: Send + Sync + 'static {
    /// Makes the bridge, or makes the one that is there fit. Tells whether it was made.
    fn ensure_bridge(&self, spec: &BridgeSpec) -> impl Future<Output = Result<bool, LinkError>> + Send;

    /// Makes the cable and plugs it in; one that is left over from before is replaced.
    fn make_cable(&self, spec: &CableSpec) -> impl Future<Output = Result<(), LinkError>> + Send;

    /// Plugs an existing cable in again, after its bridge was made anew. One that is not there is no mistake.
    fn replug(&self, host: &IfName, bridge: &IfName) -> impl Future<Output = Result<(), LinkError>> + Send;

    /// Removes a device; one that is not there is no mistake.
    fn remove(&self, name: &IfName) -> impl Future<Output = Result<(), LinkError>> + Send;

    /// Our bridges and cables.
    fn owned(&self) -> impl Future<Output = Result<Vec<Owned>, LinkError>> + Send;

    /// The IPv4 routes of the main table, which is what Docker compares a pool with.
    fn routes(&self) -> impl Future<Output = Result<Vec<HostRoute>, LinkError>> + Send;
}

/// A request the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Another device has the name.
    #[error("interface {name} is there and is not ours: remove it with \"ip link del {name}\"")]
    NotOurs {
        /// The name.
        name: String,
    },
    /// We are not root, or lack the capability.
    #[error("{action}: not permitted; run flannel-docker as root or with CAP_NET_ADMIN")]
    Denied {
        /// What was tried, on what.
        action: String,
    },
    /// Another host interface has this address or route already.
    #[error("{action}: {reason}")]
    Failed {
        /// What was tried, on what.
        action: String,
        /// The kernel's answer.
        reason: String,
    },
}

/// Whether an address is one the kernel makes by itself.
pub fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}
