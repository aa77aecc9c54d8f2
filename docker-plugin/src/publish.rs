//! Networks whose containers have one interface: the lease's bridge is their gateway, and we do what Docker does for
//! its own bridges (`-o flannel.gateway=true`).
//!
//! What is to be translated follows from the state alone; see [`crate::nat`] for how.

use std::net::IpAddr;

use flannel_core::name::IfName;

use crate::naming;
use crate::nat::{Egress, Forward, Nat};
use crate::store::{Network, State};

pub mod localnet;
pub mod ports;
pub mod reserve;

/// Everything that is to be translated; `localnet` tells of each bridge whether it takes packets from 127.0.0.1.
pub fn nat(state: &State, localnet: impl Fn(&IfName) -> bool) -> Nat {
    let mut nat = Nat::default();
    for (id, network) in state.networks.iter().filter(|(_, n)| n.gateway) {
        let Ok(bridge) = naming::bridge(id) else { continue };
        let localnet = localnet(&bridge);
        for endpoint in network.endpoints.values() {
            for to in endpoint.addresses.iter().map(ipnet::IpNet::addr) {
                nat.ports.extend(endpoint.ports.iter().map(|port| Forward { port: *port, to, localnet }));
            }
        }
        nat.bridges.push(Egress { ranges: ranges(network), bridge });
    }
    nat
}

fn ranges(network: &Network) -> Vec<(ipnet::IpNet, ipnet::IpNet)> {
    let pairs = network.subnets.iter().filter_map(|subnet| {
        let side = network.lease.iter().find(|side| side.network.contains(&subnet.pool))?;
        Some((subnet.pool, side.network))
    });
    pairs.collect()
}

/// The container's address that the host's own connections are carried to.
pub fn target(addresses: &[ipnet::IpNet]) -> Option<IpAddr> {
    addresses.first().map(ipnet::IpNet::addr)
}
