//! Rebuilding lost state: a network and its containers, recorded from what Docker lists.

use std::collections::BTreeSet;

use flannel_core::family::Family;
use serde_json::json;
use tracing::info;

use super::Driver;
use super::options::{self, NetworkOptions};
use crate::api::network::{CreateNetwork, IpamData};
use crate::docker::engine::{DockerNetwork, DockerPool};
use crate::error::{Error, short};
use crate::links::{Links, Owned};
use crate::naming;
use crate::store::pool::Pool;
use crate::store::{Endpoint, Network, State, WITHOUT_IPAM};

impl<L: Links> Driver<L> {
    /// Records a network that Docker has and that is missing from the state.
    pub(super) async fn adopt_network(&self, docker: &DockerNetwork, devices: &[Owned]) -> Result<bool, Error> {
        let id = &docker.id;
        let bridge = naming::bridge(id)?;
        let here = devices.iter().find(|d| d.name == bridge.as_str());
        let named = docker.options.get(options::NETWORK).map(|name| name.parse()).transpose()?;
        let known = docker.pools.iter().map(|p| p.subnet).chain(here.iter().flat_map(|b| b.addresses.iter().copied()));
        let flannel =
            named.or_else(|| known.filter(|n| n.prefix_len() > 0).find_map(|n| self.find_flannel(&n.trunc())));
        let lease = self.subnet_file.of(flannel.as_ref()).read()?;
        let routes = self.links.routes().await?;
        let space = if docker.ipam_driver == "default" { "LocalDefault".to_owned() } else { self.address_space() };
        let request = creation(docker, &space, here, &lease)?;
        let options = NetworkOptions::read(&request.options)?;
        let supply = self.supply(flannel.as_ref(), &lease, &routes);
        let mut network = self.read_network(&request, options, supply)?;
        if docker.ipam_driver == WITHOUT_IPAM {
            WITHOUT_IPAM.clone_into(&mut network.address_space);
        }
        let known =
            docker.endpoints.iter().filter_map(|(e, d)| Some((e.clone(), read_endpoint(&d.addresses, &d.mac)?)));
        network.endpoints = known.collect();
        let bridges = self.bridges.lock().await;
        if self.history.was_removed(id) {
            return Ok(false);
        }
        let add = |s: &mut State| {
            if s.networks.contains_key(id) {
                return Ok(false);
            }
            self.check_free(s, id, &network, supply)?;
            if space == self.address_space() {
                for (pool_id, pool) in lost_pools(id, &network, docker)? {
                    s.pools.insert(pool_id, pool);
                }
            }
            s.networks.insert(id.clone(), network.clone());
            Ok(true)
        };
        let added = self.store.change(add).await?;
        if added {
            self.ensure_network(id, &network).await?;
            self.attach_veths(id).await?;
            info!("network {} ({}): recorded again from Docker's list", docker.name, short(id));
        }
        drop(bridges);
        Ok(added)
    }
}

/// A call as Docker made it when the network was created.
fn creation(
    docker: &DockerNetwork,
    space: &str,
    bridge: Option<&Owned>,
    lease: &crate::store::lease::Lease,
) -> Result<CreateNetwork, Error> {
    let data = |pool: &DockerPool| {
        let family = Family::of(pool.subnet);
        let there = bridge.and_then(|b| b.addresses.iter().find(|a| Family::of(*a) == family));
        // The range of a network that Docker shows as "everywhere" is on its bridge, or else it was the lease.
        let subnet = match pool.subnet.prefix_len() {
            0 => there.map(ipnet::IpNet::trunc).or(lease.side(family).map(|s| s.subnet)).unwrap_or(pool.subnet),
            _ => pool.subnet,
        };
        let gateway = pool.gateway.or(there.map(ipnet::IpNet::addr));
        let gateway = gateway.map_or_else(|| Pool::new(subnet, subnet).map(|p| p.first()), Ok)?;
        Ok::<_, Error>(IpamData {
            address_space: space.to_owned(),
            pool: subnet.to_string(),
            gateway: format!("{gateway}/{}", subnet.prefix_len()),
        })
    };
    let of_family = |family| docker.pools.iter().filter(move |p| Family::of(p.subnet) == family).map(data);
    let options = [
        ("com.docker.network.generic", json!(docker.options)),
        ("com.docker.network.internal", json!(docker.internal)),
        ("com.docker.network.enable_ipv6", json!(docker.ipv6)),
    ];
    Ok(CreateNetwork {
        network_id: docker.id.clone(),
        options: options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        ipv4_data: of_family(Family::V4).collect::<Result<_, _>>()?,
        ipv6_data: of_family(Family::V6).collect::<Result<_, _>>()?,
    })
}

/// The pools of a network whose PoolIDs only Docker knows. It will name them in its next call about one of them
/// ([`State::pool_mut`]).
fn lost_pools(id: &str, network: &Network, docker: &DockerNetwork) -> Result<Vec<(String, Pool)>, Error> {
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

pub(super) fn read_endpoint(addresses: &[ipnet::IpNet], mac: &str) -> Option<Endpoint> {
    let chosen = naming::mac_for_all(addresses)?;
    Some(Endpoint {
        addresses: addresses.to_vec(),
        mac: mac.parse().unwrap_or(chosen),
        sandbox: None,
        ports: Vec::new(),
    })
}
