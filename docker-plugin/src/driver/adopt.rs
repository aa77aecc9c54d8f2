//! What Docker tells of a network that we have lost, read as our own words.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::engine::DockerNetwork;
use crate::error::Error;
use crate::names;
use crate::pool::Pool;
use crate::state::{Endpoint, Network, State};

/// The pools of a network whose PoolIDs only Docker knows. It will name them in its next call about one of them
/// ([`State::pool_mut`]).
pub(super) fn lost_pools(id: &str, network: &Network, docker: &DockerNetwork) -> Result<Vec<(String, Pool)>, Error> {
    let mut pools = Vec::new();
    for subnet in &network.subnets {
        let told = docker.pools.iter().find(|p| p.subnet == subnet.pool);
        let mut pool = Pool::new(subnet.pool, told.and_then(|t| t.range).unwrap_or(subnet.pool))?;
        pool.network = Some(id.to_owned());
        pool.flannel.clone_from(&network.flannel);
        let containers = network.endpoints.values().flat_map(|e| &e.addresses).map(|a| a.addr());
        let auxiliary = docker.pools.iter().flat_map(|p| p.auxiliary.iter().copied());
        let taken: BTreeSet<_> = containers.chain(auxiliary).chain([subnet.gateway.addr()]).collect();
        for address in taken.into_iter().filter(|a| subnet.pool.contains(a)) {
            pool.claim(address)?;
        }
        pools.push((State::lost_pool_id(id, subnet.pool), pool));
    }
    Ok(pools)
}

/// A container's place; nothing without an address.
pub(super) fn read_endpoint(addresses: &[IpNet], mac: &str) -> Option<Endpoint> {
    let chosen = names::mac_for_all(addresses)?;
    Some(Endpoint {
        addresses: addresses.to_vec(),
        mac: mac.parse().unwrap_or(chosen),
        sandbox: None,
        ports: Vec::new(),
    })
}
