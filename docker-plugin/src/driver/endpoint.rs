//! CreateEndpoint, Join, Leave, DeleteEndpoint.

use flannel_core::family::Family;
use flannel_core::name::Mac;
use flannel_core::net::without;
use ipnet::IpNet;
use tracing::{debug, warn};

use super::Driver;
use crate::api::Empty;
use crate::api::network::{
    ChosenInterface, CreateEndpoint, CreatedEndpoint, EndpointCall, Interface, InterfaceName, Join, Joined, StaticRoute,
};
use crate::error::{Error, short};
use crate::links::{Links, VethSpec};
use crate::naming;
use crate::store::{Endpoint, Network, State};

impl<L: Links> Driver<L> {
    /// Records the endpoint and chooses its MAC, unless Docker did. Join creates the veth pair.
    pub async fn create_endpoint(&self, request: CreateEndpoint) -> Result<CreatedEndpoint, Error> {
        let CreateEndpoint { network_id, endpoint_id, interface } = request;
        let network = self.network(&network_id)?;
        naming::host_end(&endpoint_id)?;
        let lease = self.lease_of(&network)?;
        self.check_lease(&network_id, &network, &lease)?;

        let given = Given::read(&interface, &endpoint_id, &network)?;
        let add = |s: &mut State| {
            let chosen = insert_endpoint(s, &network_id, &endpoint_id, &given)?;
            if let Some(network) = s.networks.get_mut(&network_id) {
                network.lease_mtu = lease.mtu;
            }
            Ok(chosen)
        };
        let (chosen, mac) = self.store.change(add).await.map_err(|e| self.with_users(e))?;
        // An answer that repeats what Docker has decided fails the container, even if it is the same.
        let of_family = |family| chosen.iter().find(|a| Family::of(*a) == family).map(ToString::to_string);
        let interface = ChosenInterface {
            address: of_family(Family::V4),
            address_ipv6: of_family(Family::V6),
            mac_address: given.mac.is_none().then(|| mac.to_string()),
        };
        Ok(CreatedEndpoint { interface: Some(interface).filter(|i| *i != ChosenInterface::default()) })
    }

    /// Creates the veth that Docker moves into the container, and returns its routes to the other hosts.
    pub async fn join(&self, request: Join) -> Result<Joined, Error> {
        let Join { network_id, endpoint_id, sandbox_key } = request;
        let network = self.network(&network_id)?;
        let endpoint = self.endpoint(&network_id, &endpoint_id)?;
        let veth = VethSpec {
            host: naming::host_end(&endpoint_id)?,
            container: naming::container_end(&endpoint_id)?,
            bridge: naming::bridge(&network_id)?,
            mtu: network.mtu(),
            mac: endpoint.mac,
            hairpin: network.gateway,
        };
        {
            // After a reboot, or because somebody removed it, the bridge may be missing.
            let _bridges = self.bridges.lock().await;
            self.ensure_network(&network_id, &network).await?;
        }
        let static_routes = self.routes_in(&sandbox_key, &network_id, &network, &endpoint_id).await?;
        self.links.create_veth(&veth).await?;
        debug!("endpoint {}: {} in network {}", short(&endpoint_id), veth.host, short(&network_id));
        let gateway = |family| {
            let ours = network.subnets.iter().filter(|_| network.gateway).map(|s| s.gateway.addr());
            ours.into_iter().find(|a| Family::of(*a) == family).map(|a| a.to_string())
        };
        Ok(Joined {
            interface_name: InterfaceName { src_name: veth.container.to_string(), dst_prefix: "eth" },
            gateway: gateway(Family::V4),
            gateway_ipv6: gateway(Family::V6),
            static_routes,
        })
    }

    /// Removes the veth pair, also the end in the container.
    pub async fn leave(&self, request: EndpointCall) -> Result<Empty, Error> {
        self.unpublish(&request.network_id, &request.endpoint_id).await;
        self.remove_veth(&request.endpoint_id).await;
        Ok(Empty {})
    }

    /// Forgets the endpoint, and removes its veth pair if there was no Leave.
    pub async fn delete_endpoint(&self, request: EndpointCall) -> Result<Empty, Error> {
        let EndpointCall { network_id, endpoint_id } = request;
        self.unpublish(&network_id, &endpoint_id).await;
        self.store
            .forget(|s| {
                let Some(network) = s.networks.get_mut(&network_id) else { return };
                let Some(endpoint) = network.endpoints.remove(&endpoint_id) else { return };
                if network.is_without_ipam() {
                    s.give_back(&network_id, &endpoint.addresses);
                }
            })
            .await;
        self.remove_veth(&endpoint_id).await;
        Ok(Empty {})
    }

    /// The routes for a container, without those it has by another network on a part of the same lease: Docker fails
    /// the container when a route is there already.
    async fn routes_in(
        &self,
        sandbox: &str,
        network_id: &str,
        network: &Network,
        endpoint_id: &str,
    ) -> Result<Vec<StaticRoute>, Error> {
        let mut routes = static_routes(network);
        if !is_part(network) {
            return Ok(routes);
        }
        let enter = |s: &mut State| {
            let endpoint = s.networks.get_mut(network_id).and_then(|n| n.endpoints.get_mut(endpoint_id));
            let missing = || Error::UnknownEndpoint { id: short(endpoint_id).to_owned() };
            endpoint.ok_or_else(missing)?.sandbox = Some(sandbox.to_owned());
            let others = s.networks.iter().filter(|(id, _)| *id != network_id);
            let here = others.filter(|(_, n)| n.endpoints.values().any(|e| e.sandbox.as_deref() == Some(sandbox)));
            Ok(here.flat_map(|(_, n)| static_routes(n)).map(|r| r.destination).collect::<Vec<_>>())
        };
        let there = self.store.change(enter).await?;
        routes.retain(|r| !there.contains(&r.destination));
        Ok(routes)
    }

    async fn remove_veth(&self, endpoint_id: &str) {
        for name in [naming::host_end(endpoint_id), naming::container_end(endpoint_id)].into_iter().flatten() {
            if let Err(e) = self.links.remove(&name).await {
                warn!("{e}");
            }
        }
    }

    /// A network without its endpoints: many calls at once would have as many copies of hundreds.
    pub(super) fn network(&self, id: &str) -> Result<Network, Error> {
        let network = self.store.read(|s| s.networks.get(id).map(Network::without_endpoints));
        network.ok_or_else(|| Error::UnknownNetwork { id: short(id).to_owned() })
    }

    pub(super) fn endpoint(&self, network: &str, id: &str) -> Result<Endpoint, Error> {
        let endpoint = self.store.read(|s| s.networks.get(network)?.endpoints.get(id).cloned());
        endpoint.ok_or_else(|| Error::UnknownEndpoint { id: short(id).to_owned() })
    }
}

/// What Docker has decided about an interface.
struct Given {
    addresses: Vec<IpNet>,
    mac: Option<Mac>,
}

impl Given {
    fn read(interface: &Interface, endpoint_id: &str, network: &Network) -> Result<Self, Error> {
        let mut addresses = Vec::new();
        for text in [&interface.address, &interface.address_ipv6].into_iter().filter(|a| !a.is_empty()) {
            addresses.push(read_address(text, network)?);
        }
        let mac = match interface.mac_address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|e| Error::Request {
                what: format!("endpoint {}", short(endpoint_id)),
                reason: format!("{e}"),
            })?),
        };
        Ok(Self { addresses, mac })
    }
}

/// Records an endpoint. Returns the addresses that we chose for it, and its MAC.
fn insert_endpoint(
    state: &mut State,
    network_id: &str,
    endpoint_id: &str,
    given: &Given,
) -> Result<(Vec<IpNet>, Mac), Error> {
    let missing = || Error::UnknownNetwork { id: short(network_id).to_owned() };
    let network = state.networks.get(network_id).ok_or_else(missing)?;
    let chosen = match network.endpoints.get(endpoint_id) {
        _ if !network.is_without_ipam() => Vec::new(),
        // A repeated call gets the same answer.
        Some(endpoint) => endpoint.addresses.clone(),
        None => own_addresses(state, network_id, given.mac)?,
    };
    let addresses: Vec<_> = given.addresses.iter().chain(&chosen).copied().collect();
    let Some(mac) = given.mac.or_else(|| naming::mac_for_all(&addresses)) else {
        return Err(Error::Request {
            what: format!("endpoint {}", short(endpoint_id)),
            reason: format!("has no address: recreate network {} with an IPAM driver", short(network_id)),
        });
    };
    let endpoint = Endpoint { addresses, mac, sandbox: None, ports: Vec::new() };
    let network = state.networks.get_mut(network_id).ok_or_else(missing)?;
    network.endpoints.insert(endpoint_id.to_owned(), endpoint);
    Ok((chosen, mac))
}

/// An address of each of the network's pools, for a container that Docker gives none. The user's MAC
/// identifies it.
fn own_addresses(state: &mut State, network_id: &str, mac: Option<Mac>) -> Result<Vec<IpNet>, Error> {
    let who = mac.map(|m| m.to_string());
    let mut chosen = Vec::new();
    let ids: Vec<_> = state.pools_of(network_id).map(|(id, _)| id.clone()).collect();
    for id in ids {
        let Some(pool) = state.pools.get_mut(&id) else { continue };
        let length = pool.subnet.prefix_len();
        chosen.extend(IpNet::new(pool.allocate(who.as_deref())?, length));
    }
    chosen.sort_by_key(|a| a.addr().is_ipv6());
    Ok(chosen)
}

fn read_address(text: &str, network: &Network) -> Result<IpNet, Error> {
    let bad = |reason: String| Error::Request { what: format!("address {text:?}"), reason };
    let address: IpNet =
        text.parse().map_err(|_| bad("is not an address with a prefix length, as 10.5.72.2/24 is".to_owned()))?;
    if network.subnets.iter().any(|s| s.pool.contains(&address.addr())) {
        return Ok(address);
    }
    let pools: Vec<_> = network.subnets.iter().map(|s| s.pool.to_string()).collect();
    Err(bad(format!("is not inside the network's pool {}: choose one there", pools.join(" or "))))
}

/// Whether the network has only a part of the lease, so that there may be others beside it.
fn is_part(network: &Network) -> bool {
    network.subnets.iter().any(|s| !network.lease.iter().any(|side| side.subnet == s.pool))
}

/// The flannel network by way of the bridge. A network on a part of the lease leaves the lease out: Docker fails a
/// container that joins a second network whose addresses a route of the first one covers.
fn static_routes(network: &Network) -> Vec<StaticRoute> {
    let mut routes = Vec::new();
    for side in &network.lease {
        let Some(way) = network.subnets.iter().find(|s| side.network.contains(&s.pool)) else { continue };
        let destinations = match way.pool {
            // A flannel network of a single lease is connected as it is.
            pool if pool == side.network => Vec::new(),
            pool if pool == side.subnet => vec![side.network],
            _ => without(&side.network, &side.subnet),
        };
        routes.extend(destinations.iter().map(|destination| StaticRoute {
            destination: destination.to_string(),
            route_type: 0,
            next_hop: way.gateway.addr().to_string(),
        }));
    }
    routes
}
