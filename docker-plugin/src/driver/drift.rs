//! Where the four who know of our networks differ: Docker, our state, the kernel, flanneld's lease.
//!
//! [`compare`] only looks; what is ours to put right is put right by the driver, in the background
//! ([`crate::driver::Driver::watch`]) and at `flannel-docker doctor --fix`.
//!
//! All four change while they are read one after the other. So a difference that may come from that is taken for one
//! only when it is seen twice ([`Difference::needs_second_look`]).

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

/// What everybody says.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The address space of the pools we hand out.
    pub address_space: &'a str,
    /// What we remember.
    pub state: &'a State,
    /// Docker's word; nothing when it can't be asked.
    pub docker: Option<&'a [DockerNetwork]>,
    /// Our devices.
    pub devices: &'a [Owned],
    /// The host's leases, by flannel network (`flannel.network`), as far as there are any.
    pub leases: &'a Leases,
}

/// Something that is not as it should be. IDs are whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Docker has a network of ours that we do not know.
    NetworkUnknown {
        /// Its ID.
        network: String,
        /// What users call it.
        name: String,
    },
    /// We know a network that Docker has not.
    NetworkGone {
        /// Its ID.
        network: String,
    },
    /// A container of Docker's is in a network, and we do not know of it.
    EndpointUnknown {
        /// The network.
        network: String,
        /// The EndpointID.
        endpoint: String,
        /// The container.
        container: String,
    },
    /// We know of a container in a network, and Docker does not.
    EndpointGone {
        /// The network.
        network: String,
        /// The EndpointID.
        endpoint: String,
    },
    /// An address is taken, and nobody has it.
    AddressLeaked {
        /// The network.
        network: String,
        /// The address.
        address: IpAddr,
    },
    /// A container has an address that we would give to the next.
    AddressUntaken {
        /// The network.
        network: String,
        /// The address.
        address: IpAddr,
    },
    /// The network's range is not this host's any more.
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
    /// The bridge is not as the network wants it.
    BridgeWrong {
        /// The network.
        network: String,
        /// The bridge's name.
        bridge: String,
        /// What it has, and what it should have.
        what: String,
    },
    /// A container's cable is not there.
    CableMissing {
        /// The network.
        network: String,
        /// The EndpointID.
        endpoint: String,
        /// The container.
        container: String,
    },
    /// A container's cable is not plugged into its network's bridge.
    CableUnplugged {
        /// The network.
        network: String,
        /// The EndpointID.
        endpoint: String,
        /// The cable's end.
        cable: String,
    },
    /// A device of ours belongs to nothing.
    DeviceLeft {
        /// Its name.
        device: String,
    },
}

/// Who can put it right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// The plugin, by itself.
    Ours,
    /// The user, by typing this.
    Yours(String),
}

impl Difference {
    /// Whether it may be no more than a call of Docker's half way.
    pub fn needs_second_look(&self) -> bool {
        match self {
            Self::NetworkUnknown { .. } | Self::EndpointUnknown { .. } | Self::EndpointGone { .. } => true,
            Self::AddressLeaked { .. } | Self::AddressUntaken { .. } | Self::CableMissing { .. } => true,
            Self::NetworkGone { .. } | Self::LeaseChanged { .. } => false,
            // What is in the kernel is looked at again, with no call half way, before anything is done about it.
            Self::BridgeMissing { .. } | Self::BridgeWrong { .. } | Self::CableUnplugged { .. } => false,
            Self::DeviceLeft { .. } => true,
        }
    }

    /// What is to be done.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::LeaseChanged { network, .. } => Remedy::Yours(format!(
                "remove its containers and the network (\"docker network rm {}\"), and create it again",
                short(network)
            )),
            Self::CableMissing { container, .. } => {
                Remedy::Yours(format!("give the container a new one: \"docker restart {container}\""))
            }
            _ => Remedy::Ours,
        }
    }

    /// A word for programs.
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
            Self::CableMissing { .. } => "cable-missing",
            Self::CableUnplugged { .. } => "cable-unplugged",
            Self::DeviceLeft { .. } => "device-left",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkUnknown { network, name } => {
                write!(f, "network {name} ({}): Docker has it, and the plugin does not know it", short(network))
            }
            Self::NetworkGone { network } => {
                write!(f, "network {}: the plugin knows it, and Docker has removed it", short(network))
            }
            Self::EndpointUnknown { network, endpoint, container } => write!(
                f,
                "network {}: container {container} (endpoint {}) is in it, and the plugin does not know",
                short(network),
                short(endpoint)
            ),
            Self::EndpointGone { network, endpoint } => write!(
                f,
                "network {}: the plugin knows endpoint {}, and Docker has it no more",
                short(network),
                short(endpoint)
            ),
            Self::AddressLeaked { network, address } => {
                write!(f, "network {}: address {address} is taken, and no container has it", short(network))
            }
            Self::AddressUntaken { network, address } => {
                write!(f, "network {}: a container has address {address}, which counts as free", short(network))
            }
            Self::LeaseChanged { network, pool, lease } => {
                write!(f, "network {}: it has pool {pool}, and the host's lease is {lease} now", short(network))
            }
            Self::BridgeMissing { network, bridge } => {
                write!(f, "network {}: its bridge {bridge} is not there", short(network))
            }
            Self::BridgeWrong { network, bridge, what } => {
                write!(f, "network {}: its bridge {bridge} {what}", short(network))
            }
            Self::CableMissing { network, endpoint, container } => write!(
                f,
                "network {}: container {container} (endpoint {}) has no cable to the bridge",
                short(network),
                short(endpoint)
            ),
            Self::CableUnplugged { network, cable, .. } => {
                write!(f, "network {}: cable {cable} is not plugged into its bridge", short(network))
            }
            Self::DeviceLeft { device } => write!(f, "interface {device} belongs to nothing"),
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
        } else if !has_cable(view.devices, endpoint) {
            found.insert(Difference::CableMissing {
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
        let cables = network.endpoints.keys().flat_map(|e| [naming::host_end(e), naming::container_end(e)]).flatten();
        known.extend(cables.map(|c| c.to_string()));
        let Ok(name) = naming::bridge(id) else { continue };
        let name = name.to_string();
        known.insert(name.clone());
        if let Some(lease) = view.leases.get(&network.flannel)
            && let Some(subnet) = network.subnets.iter().find(|s| !lease.holds(&s.pool))
        {
            // Its bridge is left alone: another host has the range now, or will have it.
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
            let Ok(cable) = naming::host_end(endpoint) else { continue };
            let there = view.devices.iter().find(|d| d.name == cable.as_str());
            if there.is_some_and(|d| d.bridge.as_deref() != Some(&name)) {
                let (endpoint, cable) = (endpoint.clone(), cable.to_string());
                found.insert(Difference::CableUnplugged { network: network_id(), endpoint, cable });
            }
        }
    }
    // A container that only Docker knows has its cable still; without Docker's word nothing is left over.
    let Some(docker) = view.docker else { return };
    let bridges = docker.iter().filter_map(|n| naming::bridge(&n.id).ok());
    let endpoints = docker.iter().flat_map(|n| n.endpoints.keys());
    let cables = endpoints.flat_map(|e| [naming::host_end(e), naming::container_end(e)]).flatten();
    known.extend(bridges.chain(cables).map(|name| name.to_string()));
    let left = view.devices.iter().filter(|d| !known.contains(&d.name));
    found.extend(left.map(|d| Difference::DeviceLeft { device: d.name.clone() }));
}

fn has_cable(devices: &[Owned], endpoint: &str) -> bool {
    naming::host_end(endpoint).is_ok_and(|name| devices.iter().any(|d| d.name == name.as_str()))
}

/// What keeps a bridge from doing its work.
fn wrong(bridge: &Owned, network: &Network) -> Option<String> {
    let wanted: BTreeSet<IpNet> = network.subnets.iter().map(|s| s.gateway).collect();
    let there: BTreeSet<IpNet> = bridge.addresses.iter().copied().collect();
    if wanted != there {
        return Some(format!("has {}, and should have {}", list(&there), list(&wanted)));
    }
    if !bridge.up {
        return Some("is down".to_owned());
    }
    let mtu = network.mtu();
    (bridge.mtu != mtu).then(|| format!("has MTU {}, and should have {mtu}", bridge.mtu))
}

fn list(addresses: &BTreeSet<IpNet>) -> String {
    match addresses.len() {
        0 => "no address".to_owned(),
        _ => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "),
    }
}

#[cfg(test)]
mod tests;
