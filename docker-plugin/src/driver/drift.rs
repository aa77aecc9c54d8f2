//! Where the four who know of our networks differ: Docker, our state, the kernel, flanneld's lease.
//!
//! [`compare`] is pure; the driver repairs what it can, in the background ([`crate::driver::Driver::watch`]) and for
//! `flannel-docker doctor -fix`.
//!
//! All four change while they are read one after the other. So a difference that may come from that counts only when
//! it is seen twice ([`Difference::needs_recheck`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::docker::engine::DockerNetwork;
use crate::error::short;
use crate::links::Owned;
use crate::naming;
use crate::store::lease::Leases;
use crate::store::{Network, State};

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The address space of the pools we hand out.
    pub address_space: &'a str,
    /// What is recorded.
    pub state: &'a State,
    /// Docker's networks; `None` when it cannot be asked.
    pub docker: Option<&'a [DockerNetwork]>,
    /// Our devices.
    pub devices: &'a [Owned],
    /// The host's leases, by flannel network (`flannel.network`), as far as there are any.
    pub leases: &'a Leases,
}

/// Something that is not as it should be. IDs are complete.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Docker has a network of ours that is not recorded.
    NetworkUnknown {
        /// Its ID.
        network: String,
        /// What users call it.
        name: String,
    },
    /// A recorded network that Docker does not have.
    NetworkGone {
        /// Its ID.
        network: String,
    },
    /// A container is attached to a network, and its endpoint is not recorded.
    EndpointUnknown {
        /// The network.
        network: String,
        /// The EndpointID.
        endpoint: String,
        /// The container.
        container: String,
    },
    /// A recorded endpoint that Docker does not have.
    EndpointGone {
        /// The network.
        network: String,
        /// The EndpointID.
        endpoint: String,
    },
    /// An address is allocated, and no container has it.
    AddressLeaked {
        /// The network.
        network: String,
        /// The address.
        address: IpAddr,
    },
    /// A container has an address that is not allocated.
    AddressUntaken {
        /// The network.
        network: String,
        /// The address.
        address: IpAddr,
    },
    /// The network's range is no longer in this host's lease.
    LeaseChanged {
        /// The network.
        network: String,
        /// Its range.
        pool: IpNet,
        /// The lease now.
        lease: String,
    },
    /// The network has no bridge.
    BridgeMissing {
        /// The network.
        network: String,
        /// The bridge's name.
        bridge: String,
    },
    /// The bridge's configuration is not that of the network.
    BridgeWrong {
        /// The network.
        network: String,
        /// The bridge's name.
        bridge: String,
        /// What it has, and what it should have.
        what: String,
    },
    /// A container has no veth pair.
    VethMissing {
        /// The network.
        network: String,
        /// The EndpointID.
        endpoint: String,
        /// The container.
        container: String,
    },
    /// A container's veth is not attached to its network's bridge.
    VethDetached {
        /// The network.
        network: String,
        /// The EndpointID.
        endpoint: String,
        /// The host's end of the pair.
        veth: String,
    },
    /// A device of ours belongs to no network and no endpoint.
    DeviceOrphaned {
        /// Its name.
        device: String,
    },
}

/// Who repairs a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// The plugin repairs it.
    Automatic,
    /// The user has to do this.
    Manual(String),
}

impl Difference {
    /// Whether it may come from a call in progress.
    pub fn needs_recheck(&self) -> bool {
        match self {
            Self::NetworkUnknown { .. } | Self::EndpointUnknown { .. } | Self::EndpointGone { .. } => true,
            Self::AddressLeaked { .. } | Self::AddressUntaken { .. } | Self::VethMissing { .. } => true,
            Self::NetworkGone { .. } | Self::LeaseChanged { .. } => false,
            // The kernel is read again, with no call in progress, before anything is changed.
            Self::BridgeMissing { .. } | Self::BridgeWrong { .. } | Self::VethDetached { .. } => false,
            Self::DeviceOrphaned { .. } => true,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::LeaseChanged { network, .. } => Remedy::Manual(format!(
                "remove its containers and the network (\"docker network rm {}\"), and create it again",
                short(network)
            )),
            Self::VethMissing { container, .. } => {
                Remedy::Manual(format!("restart the container: \"docker restart {container}\""))
            }
            _ => Remedy::Automatic,
        }
    }

    /// The kind, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NetworkUnknown { .. } => "network-unknown",
            Self::NetworkGone { .. } => "network-gone",
            Self::EndpointUnknown { .. } => "endpoint-unknown",
            Self::EndpointGone { .. } => "endpoint-gone",
            Self::AddressLeaked { .. } => "address-leaked",
            Self::AddressUntaken { .. } => "address-untaken",
            Self::LeaseChanged { .. } => "lease-changed",
            Self::BridgeMissing { .. } => "bridge-missing",
            Self::BridgeWrong { .. } => "bridge-wrong",
            Self::VethMissing { .. } => "veth-missing",
            Self::VethDetached { .. } => "veth-detached",
            Self::DeviceOrphaned { .. } => "device-orphaned",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkUnknown { network, name } => {
                write!(f, "network {name} ({}): exists in Docker, but not in the plugin's state", short(network))
            }
            Self::NetworkGone { network } => {
                write!(f, "network {}: exists in the plugin's state, but not in Docker", short(network))
            }
            Self::EndpointUnknown { network, endpoint, container } => write!(
                f,
                "network {}: container {container} (endpoint {}) is attached, but not in the plugin's state",
                short(network),
                short(endpoint)
            ),
            Self::EndpointGone { network, endpoint } => write!(
                f,
                "network {}: endpoint {} is in the plugin's state, but not in Docker",
                short(network),
                short(endpoint)
            ),
            Self::AddressLeaked { network, address } => {
                write!(f, "network {}: address {address} is allocated, but no container has it", short(network))
            }
            Self::AddressUntaken { network, address } => {
                write!(f, "network {}: a container has address {address}, which is not allocated", short(network))
            }
            Self::LeaseChanged { network, pool, lease } => {
                write!(
                    f,
                    "network {}: its pool {pool} is not in the host's lease, which is now {lease}",
                    short(network)
                )
            }
            Self::BridgeMissing { network, bridge } => {
                write!(f, "network {}: bridge {bridge} is missing", short(network))
            }
            Self::BridgeWrong { network, bridge, what } => {
                write!(f, "network {}: bridge {bridge} {what}", short(network))
            }
            Self::VethMissing { network, endpoint, container } => write!(
                f,
                "network {}: container {container} (endpoint {}) has no veth",
                short(network),
                short(endpoint)
            ),
            Self::VethDetached { network, veth, .. } => {
                write!(f, "network {}: veth {veth} is not attached to its bridge", short(network))
            }
            Self::DeviceOrphaned { device } => write!(f, "interface {device} belongs to no network or endpoint"),
        }
    }
}

/// All that differs.
pub fn compare(view: &View<'_>) -> BTreeSet<Difference> {
    let mut found = BTreeSet::new();
    if let Some(docker) = view.docker {
        let docker: BTreeMap<_, _> = docker.iter().map(|n| (n.id.as_str(), n)).collect();
        for (id, there) in &docker {
            match view.state.networks.get(*id) {
                None => {
                    found.insert(Difference::NetworkUnknown { network: (*id).to_owned(), name: there.name.clone() });
                }
                Some(network) => compare_network(view, id, network, there, &mut found),
            }
        }
        let gone = view.state.networks.keys().filter(|id| !docker.contains_key(id.as_str()));
        found.extend(gone.map(|id| Difference::NetworkGone { network: id.clone() }));
    }
    compare_kernel(view, &mut found);
    found
}

fn compare_network(
    view: &View<'_>,
    id: &str,
    network: &Network,
    docker: &DockerNetwork,
    found: &mut BTreeSet<Difference>,
) {
    for (endpoint, there) in &docker.endpoints {
        if !network.endpoints.contains_key(endpoint) {
            found.insert(Difference::EndpointUnknown {
                network: id.to_owned(),
                endpoint: endpoint.clone(),
                container: there.container.clone(),
            });
        } else if !has_veth(view.devices, endpoint) {
            found.insert(Difference::VethMissing {
                network: id.to_owned(),
                endpoint: endpoint.clone(),
                container: there.container.clone(),
            });
        }
    }
    let gone = network.endpoints.keys().filter(|e| !docker.endpoints.contains_key(*e));
    found.extend(gone.map(|e| Difference::EndpointGone { network: id.to_owned(), endpoint: e.clone() }));
    if network.address_space == view.address_space || network.is_without_ipam() {
        compare_addresses(view.state, id, network, docker, found);
    }
}

fn compare_addresses(
    state: &State,
    id: &str,
    network: &Network,
    docker: &DockerNetwork,
    found: &mut BTreeSet<Difference>,
) {
    let addresses = |endpoints: Vec<&IpNet>| endpoints.into_iter().map(IpNet::addr).collect::<BTreeSet<IpAddr>>();
    let ours = addresses(network.endpoints.values().flat_map(|e| &e.addresses).collect());
    let theirs = addresses(docker.endpoints.values().flat_map(|e| &e.addresses).collect());
    let gateways = network.subnets.iter().map(|s| s.gateway.addr());
    let auxiliary = docker.pools.iter().flat_map(|p| p.auxiliary.iter().copied().chain(p.gateway));
    let kept: BTreeSet<IpAddr> = gateways.chain(auxiliary).chain(ours).chain(theirs.iter().copied()).collect();
    for pool in state.pools.values().filter(|p| p.network.as_deref() == Some(id)) {
        let taken: BTreeSet<IpAddr> = pool.taken().collect();
        let leaked = taken.difference(&kept).copied();
        found.extend(leaked.map(|address| Difference::AddressLeaked { network: id.to_owned(), address }));
        let untaken = theirs.difference(&taken).copied().filter(|a| pool.subnet.contains(a));
        found.extend(untaken.map(|address| Difference::AddressUntaken { network: id.to_owned(), address }));
    }
}

fn compare_kernel(view: &View<'_>, found: &mut BTreeSet<Difference>) {
    let mut known = BTreeSet::new();
    for (id, network) in &view.state.networks {
        let network_id = || id.clone();
        let veths = network.endpoints.keys().flat_map(|e| [naming::host_end(e), naming::container_end(e)]).flatten();
        known.extend(veths.map(|v| v.to_string()));
        let Ok(name) = naming::bridge(id) else { continue };
        let name = name.to_string();
        known.insert(name.clone());
        if let Some(lease) = view.leases.get(&network.flannel)
            && let Some(subnet) = network.subnets.iter().find(|s| !lease.holds(&s.pool))
        {
            // Its bridge is left as it is: another host has the range, or will have it.
            let (pool, lease) = (subnet.pool, lease.to_string());
            found.insert(Difference::LeaseChanged { network: network_id(), pool, lease });
            continue;
        }
        match view.devices.iter().find(|d| d.is_bridge && d.name == name) {
            None => _ = found.insert(Difference::BridgeMissing { network: network_id(), bridge: name.clone() }),
            Some(bridge) => {
                if let Some(what) = wrong(bridge, network) {
                    found.insert(Difference::BridgeWrong { network: network_id(), bridge: name.clone(), what });
                }
            }
        }
        for endpoint in network.endpoints.keys() {
            let Ok(veth) = naming::host_end(endpoint) else { continue };
            let there = view.devices.iter().find(|d| d.name == veth.as_str());
            if there.is_some_and(|d| d.bridge.as_deref() != Some(&name)) {
                let (endpoint, veth) = (endpoint.clone(), veth.to_string());
                found.insert(Difference::VethDetached { network: network_id(), endpoint, veth });
            }
        }
    }
    // A container that only Docker knows still has its veth, so without Docker's list nothing counts as orphaned.
    let Some(docker) = view.docker else { return };
    let bridges = docker.iter().filter_map(|n| naming::bridge(&n.id).ok());
    let endpoints = docker.iter().flat_map(|n| n.endpoints.keys());
    let veths = endpoints.flat_map(|e| [naming::host_end(e), naming::container_end(e)]).flatten();
    known.extend(bridges.chain(veths).map(|name| name.to_string()));
    let left = view.devices.iter().filter(|d| !known.contains(&d.name));
    found.extend(left.map(|d| Difference::DeviceOrphaned { device: d.name.clone() }));
}

fn has_veth(devices: &[Owned], endpoint: &str) -> bool {
    naming::host_end(endpoint).is_ok_and(|name| devices.iter().any(|d| d.name == name.as_str()))
}

/// What is wrong with a bridge.
fn wrong(bridge: &Owned, network: &Network) -> Option<String> {
    let wanted: BTreeSet<IpNet> = network.subnets.iter().map(|s| s.gateway).collect();
    let there: BTreeSet<IpNet> = bridge.addresses.iter().copied().collect();
    if wanted != there {
        return Some(format!("has {} instead of {}", list(&there), list(&wanted)));
    }
    if !bridge.up {
        return Some("is down".to_owned());
    }
    let mtu = network.mtu();
    (bridge.mtu != mtu).then(|| format!("has MTU {} instead of {mtu}", bridge.mtu))
}

fn list(addresses: &BTreeSet<IpNet>) -> String {
    match addresses.len() {
        0 => "no address".to_owned(),
        _ => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
    }
}

#[cfg(test)]
mod tests;
