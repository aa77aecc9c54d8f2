//! Repairing one difference between Docker, the state and the kernel.

use std::net::IpAddr;

use tokio::time::Instant;

use super::Driver;
use super::adopt::read_endpoint;
use super::drift::Difference;
use crate::api::network::EndpointCall;
use crate::docker::engine::DockerNetwork;
use crate::error::Error;
use crate::links::{Links, Owned};
use crate::store::State;

impl<L: Links> Driver<L> {
    /// Repairs a difference. Returns whether there was anything to do: it may have changed since it was seen.
    pub(super) async fn repair(
        &self,
        difference: &Difference,
        docker: &[DockerNetwork],
        devices: &[Owned],
    ) -> Result<bool, Error> {
        let in_docker = |id: &String| docker.iter().find(|n| n.id == *id);
        match difference {
            Difference::NetworkUnknown { network, .. } => match in_docker(network) {
                Some(network) => self.adopt_network(network, devices).await,
                None => Ok(false),
            },
            Difference::NetworkGone { network } => {
                // While Docker is still creating a network, it does not list it.
                if self.is_young(network, Instant::now()) {
                    return Ok(false);
                }
                self.remove_network(network).await;
                Ok(true)
            }
            Difference::EndpointUnknown { network, endpoint, .. } => match in_docker(network) {
                Some(network) => self.adopt_endpoint(network, endpoint).await,
                None => Ok(false),
            },
            Difference::EndpointGone { network, endpoint } => self.remove_endpoint(network, endpoint).await,
            Difference::AddressLeaked { network, address } => {
                self.release(network, *address).await;
                Ok(true)
            }
            Difference::AddressUntaken { network, address } => self.claim(network, *address).await,
            Difference::BridgeMissing { network, .. }
            | Difference::BridgeWrong { network, .. }
            | Difference::VethDetached { network, .. } => self.repair_bridge(network).await,
            Difference::DeviceOrphaned { device } => {
                let _bridges = self.bridges.lock().await;
                Ok(self.remove_unknown(device).await)
            }
            Difference::LeaseChanged { .. } | Difference::VethMissing { .. } => Ok(false),
        }
    }

    async fn adopt_endpoint(&self, network: &DockerNetwork, endpoint: &str) -> Result<bool, Error> {
        let there = network.endpoints.get(endpoint);
        let Some(read) = there.and_then(|e| read_endpoint(&e.addresses, &e.mac)) else { return Ok(false) };
        let add = |s: &mut State| {
            let known = s.networks.get_mut(&network.id);
            Ok(known.is_some_and(|n| n.endpoints.insert(endpoint.to_owned(), read).is_none()))
        };
        self.store.change(add).await
    }

    async fn remove_endpoint(&self, network: &str, endpoint: &str) -> Result<bool, Error> {
        let known = self.store.read(|s| s.networks.get(network)?.endpoints.get(endpoint).cloned());
        let Some(known) = known else { return Ok(false) };
        let call = EndpointCall { network_id: network.to_owned(), endpoint_id: endpoint.to_owned() };
        self.delete_endpoint(call).await?;
        for address in known.addresses {
            self.release(network, address.addr()).await;
        }
        Ok(true)
    }

    async fn repair_bridge(&self, id: &str) -> Result<bool, Error> {
        let _bridges = self.bridges.lock().await;
        let Some(network) = self.store.read(|s| s.networks.get(id).cloned()) else { return Ok(false) };
        self.ensure_network(id, &network).await?;
        self.attach_veths(id).await?;
        Ok(true)
    }

    async fn claim(&self, network: &str, address: IpAddr) -> Result<bool, Error> {
        let claim = |s: &mut State| {
            let mut pools = s.pools.values_mut().filter(|p| p.network.as_deref() == Some(network));
            pools.find(|p| p.subnet.contains(&address)).map_or(Ok(()), |p| p.claim(address))
        };
        self.store.change(claim).await.map(|()| true)
    }

    async fn release(&self, network: &str, address: IpAddr) {
        // One that a container has got since is in use.
        self.store
            .forget(|s| {
                let used = s.networks.get(network).map(|n| n.endpoints.values().flat_map(|e| &e.addresses));
                if used.is_some_and(|mut a| a.any(|a| a.addr() == address)) {
                    return;
                }
                let pools = s.pools.values_mut().filter(|p| p.network.as_deref() == Some(network));
                pools.filter(|p| p.subnet.contains(&address)).for_each(|p| p.release(address));
            })
            .await;
    }
}
