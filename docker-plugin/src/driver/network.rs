//! CreateNetwork and DeleteNetwork.

use flannel_core::family::Family;
use flannel_core::net::overlap;
use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::allocation::{Claim, Supply, claims};
use super::options::NetworkOptions;
use super::{Creation, Driver, bridge_spec};
use crate::api::Empty;
use crate::api::network::{CreateNetwork, DeleteNetwork, IpamData};
use crate::error::{Error, short};
use crate::links::Links;
use crate::naming;
use crate::nat::nft;
use crate::publish::localnet;
use crate::store::lease::FlannelName;
use crate::store::pool::Pool;
use crate::store::{Network, State, Subnet, WITHOUT_IPAM};

/// What to leave out where the lease has no IPv4.
const FAMILY: &str = "the IPv4 pool";

impl<L: Links> Driver<L> {
    /// Creates the bridge and records the network. Docker sends no DeleteNetwork after a refusal, so that leaves
    /// nothing behind.
    pub async fn create_network(&self, request: CreateNetwork) -> Result<Empty, Error> {
        let id = &request.network_id;
        let bridge = naming::bridge(id)?;
        let options = NetworkOptions::read(&request.options)?;
        if options.gateway {
            nft::check().await.map_err(bad_gateway_mode)?;
        }
        let flannel = options.flannel.clone().or_else(|| self.flannel_of(&request));
        let lease = self.subnet_file.of(flannel.as_ref()).read()?;
        // Of the host's routes only for what we choose, and for the commands in refusals.
        let routes = self.links.routes().await?;
        let supply = self.supply(flannel.as_ref(), &lease, &routes);
        if is_without_ipam(&request) {
            for side in &lease.sides {
                self.make_room(side.subnet).await;
            }
        }
        let network = self.read_network(&request, options, supply)?;
        for subnet in &network.subnets {
            self.make_room(subnet.pool).await;
        }
        {
            let _bridges = self.bridges.lock().await;
            // A call may be repeated; Docker never gives an ID to another network.
            if self.store.read(|s| s.networks.contains_key(id)) {
                return Ok(Empty {});
            }
            self.store.read(|s| self.check_free(s, id, &network, supply))?;
            if let Err(e) = self.add_network(id, &network, supply).await {
                if let Err(left) = self.links.remove(&bridge).await {
                    warn!("{left}");
                }
                return Err(e);
            }
        }
        info!("network {}: {} on {bridge}, MTU {}", short(id), describe(&network), network.mtu());
        self.update_rules().await;
        if network.gateway {
            localnet::allow_localnet(&bridge);
            if let Err(reason) = self.try_update_nat().await {
                self.remove_network(id).await;
                return Err(bad_gateway_mode(reason));
            }
        }
        warn_without_forwarding(&network);
        Ok(Empty {})
    }

    /// Makes the bridge and records the network. The lock on bridges must be held.
    async fn add_network(&self, id: &str, network: &Network, supply: Supply<'_>) -> Result<(), Error> {
        self.links.ensure_bridge(&bridge_spec(id, network)?).await?;
        self.created().insert(id.to_owned(), Creation { at: Instant::now(), our_choice: false });
        let add = |s: &mut State| {
            // Docker may have asked for a pool meanwhile.
            self.check_free(s, id, network, supply)?;
            if network.is_without_ipam() {
                make_pools(s, id, network)?;
            }
            s.networks.insert(id.to_owned(), network.clone());
            if network.address_space == self.address_space() {
                attach_pools(s, id, network);
            }
            Ok(())
        };
        self.store.change(add).await
    }

    /// Forgets the network and removes its bridge. Docker has forgotten it already, whatever we answer.
    pub async fn delete_network(&self, request: DeleteNetwork) -> Result<Empty, Error> {
        self.history.record_removal(&request.network_id);
        self.remove_network(&request.network_id).await;
        Ok(Empty {})
    }

    pub(super) async fn remove_network(&self, id: &str) {
        let bridges = self.bridges.lock().await;
        self.created().remove(id);
        let known = self
            .store
            .forget(|s| {
                s.pools.retain(|_, pool| pool.network.as_deref() != Some(id));
                s.networks.remove(id)
            })
            .await;
        let Some(network) = known else { return };
        if network.gateway {
            for endpoint in network.endpoints.keys() {
                self.release_ports(endpoint);
            }
            self.update_nat().await;
        }
        let cables = network.endpoints.keys().filter_map(|e| naming::host_end(e).ok());
        for device in cables.chain(naming::bridge(id)) {
            if let Err(e) = self.links.remove(&device).await {
                warn!("{e}");
            }
        }
        drop(bridges);
        info!("network {}: removed", short(id));
        self.update_rules().await;
    }

    /// Where a network has a part of `wanted`, a check asks Docker whether that network still exists.
    pub(super) async fn make_room(&self, wanted: IpNet) {
        let claims = self.store.read(claims).into_iter().filter(|c| overlap(&c.subnet, &wanted));
        let now = Instant::now();
        if claims.filter_map(|c| c.network).any(|id| !self.is_young(&id, now)) {
            self.check_now().await;
        }
    }

    /// Checks the request by itself and against the lease.
    pub(super) fn read_network(
        &self,
        request: &CreateNetwork,
        options: NetworkOptions,
        supply: Supply<'_>,
    ) -> Result<Network, Error> {
        let lease = supply.lease;
        let v4 = request.ipv4_data.iter().map(|data| (Family::V4, data));
        let v6 = request.ipv6_data.iter().map(|data| (Family::V6, data));
        let mut subnets = Vec::new();
        for (family, data) in v4.chain(v6) {
            subnets.push(if data.address_space == WITHOUT_IPAM {
                self.choose_subnet(family, supply)?
            } else {
                self.read_subnet(data, family, supply)?
            });
        }
        let Some(first) = request.ipv4_data.first().or(request.ipv6_data.first()) else {
            return Err(Error::Request {
                what: format!("network {}", short(&request.network_id)),
                reason: format!("has no pool: type \"{}\"", self.create_command(supply.flannel, "")),
            });
        };
        let families =
            lease.sides.iter().filter(|s| subnets.iter().any(|n| Family::of(n.pool) == Family::of(s.network)));
        let sides = families.copied().collect();
        if subnets.iter().any(|s| Family::of(s.pool) == Family::V6) {
            options.check_mtu_for_v6()?;
        }
        let NetworkOptions { mtu: mtu_option, internal, gateway, isolated, flannel: _ } = options;
        if let Some(mtu) = mtu_option.filter(|m| *m > lease.mtu) {
            let id = short(&request.network_id);
            warn!("network {id}: MTU {mtu} is more than flannel carries between hosts ({})", lease.mtu);
        }
        Ok(Network {
            subnets,
            address_space: first.address_space.clone(),
            mtu_option,
            internal,
            gateway,
            isolated,
            flannel: supply.flannel.cloned(),
            lease_mtu: lease.mtu,
            lease: sides,
            endpoints: std::collections::BTreeMap::new(),
        })
    }

    /// The flannel network of a request that names none: that of the pool we gave for it, or the one that has its range.
    fn flannel_of(&self, request: &CreateNetwork) -> Option<FlannelName> {
        let data = request.ipv4_data.iter().chain(&request.ipv6_data);
        let pools: Vec<_> = data.filter_map(|d| self.pool_of(d).ok().map(|pool| (pool, &d.address_space))).collect();
        let pending = self.store.read(|s| {
            let ours = pools.iter().filter(|(_, space)| **space == self.address_space());
            let mut found = ours.filter_map(|(pool, _)| {
                s.pools.values().find(|p| p.network.is_none() && p.subnet == *pool).map(|p| p.flannel.clone())
            });
            found.next()
        });
        pending.unwrap_or_else(|| pools.first().and_then(|(pool, _)| self.find_flannel(pool)))
    }

    /// The range that Docker tells us of.
    fn pool_of(&self, data: &IpamData) -> Result<IpNet, Error> {
        let pool: IpNet = data.pool.parse().map_err(|_| bad("pool", &data.pool))?;
        // Where a route of the host covers the lease, our own IPAM answers "everywhere" and tells the range by the
        // gateway (see `ipam`).
        match data.gateway.parse::<IpNet>() {
            Ok(gateway) if pool.prefix_len() == 0 && data.address_space == self.address_space() => Ok(gateway.trunc()),
            _ => Ok(pool),
        }
    }

    /// The range of a network whose addresses Docker leaves to us: the largest part of the lease that is free.
    fn choose_subnet(&self, family: Family, supply: Supply<'_>) -> Result<Subnet, Error> {
        let allocation = supply.family(family, FAMILY, self.store.read(claims))?;
        let full = || Error::PoolTooSmall { pool: allocation.side.subnet };
        // Something is in the way, or part of the lease would have been free.
        let pool = allocation.free().ok_or_else(|| allocation.choose().err().unwrap_or_else(full))?;
        let gateway = Pool::new(pool, pool)?.first();
        Ok(Subnet { pool, gateway: IpNet::new(gateway, pool.prefix_len()).map_err(|_| full())? })
    }

    fn read_subnet(&self, data: &IpamData, family: Family, supply: Supply<'_>) -> Result<Subnet, Error> {
        let pool = self.pool_of(data)?;
        let gateway: Option<IpNet> = match data.gateway.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| bad("gateway", text))?),
        };
        let allocation = supply.family(family, FAMILY, self.store.read(claims))?;
        if !allocation.side.subnet.contains(&pool) {
            return Err(allocation.foreign(pool));
        }
        let missing = || Error::Request {
            what: format!("pool {pool}"),
            reason: "comes without a gateway, which the bridge needs as its address: leave the choice to Docker"
                .to_owned(),
        };
        let gateway = gateway.ok_or_else(missing)?;
        if !pool.contains(&gateway.addr()) {
            let what = format!("gateway {}", gateway.addr());
            return Err(Error::Request { what, reason: format!("is not inside pool {pool}: choose --gateway there") });
        }
        let gateway = IpNet::new(gateway.addr(), pool.prefix_len()).map_err(|_| bad("gateway", &data.gateway))?;
        Ok(Subnet { pool, gateway })
    }

    /// Whether nobody else has the network's pools.
    pub(super) fn check_free(
        &self,
        state: &State,
        id: &str,
        network: &Network,
        supply: Supply<'_>,
    ) -> Result<(), Error> {
        for subnet in &network.subnets {
            let own = |c: &Claim| {
                // The pool Docker asked us for on behalf of this very network.
                c.network.is_none() && c.subnet == subnet.pool && network.address_space == self.address_space()
            };
            let other = claims(state)
                .into_iter()
                .find(|c| c.network.as_deref() != Some(id) && overlap(&c.subnet, &subnet.pool) && !own(c));
            if let (Some(claim), Some(side)) = (other, supply.lease.side(subnet.pool)) {
                return Err(supply.side(side, claims(state)).taken(subnet.pool, &claim));
            }
        }
        Ok(())
    }
}

/// Whether Docker leaves all addresses to us.
fn is_without_ipam(request: &CreateNetwork) -> bool {
    request.ipv4_data.iter().chain(&request.ipv6_data).any(|d| d.address_space == WITHOUT_IPAM)
}

/// The pools of a network whose addresses Docker leaves to us.
fn make_pools(state: &mut State, id: &str, network: &Network) -> Result<(), Error> {
    let mut pools = Vec::new();
    for subnet in &network.subnets {
        let mut pool = Pool::new(subnet.pool, subnet.pool)?;
        pool.claim(subnet.gateway.addr())?;
        pool.network = Some(id.to_owned());
        pool.flannel.clone_from(&network.flannel);
        pools.push(pool);
    }
    for pool in pools {
        let pool_id = state.new_pool_id(pool.subnet);
        state.pools.insert(pool_id, pool);
    }
    Ok(())
}

fn bad(field: &str, value: &str) -> Error {
    Error::Request {
        what: format!("{field} {value:?}"),
        reason: "is no address with a prefix length, as 10.5.72.1/24 is".to_owned(),
    }
}

/// Records whose the pools are that Docker asked for before it created the network.
fn attach_pools(state: &mut State, id: &str, network: &Network) {
    for subnet in &network.subnets {
        let mut pools = state.pools.values_mut();
        if let Some(pool) = pools.find(|p| p.network.is_none() && p.subnet == subnet.pool) {
            pool.network = Some(id.to_owned());
        }
    }
}

/// Its ranges and its kind, for the log.
fn describe(network: &Network) -> String {
    let pools: Vec<_> = network.subnets.iter().map(|s| s.pool.to_string()).collect();
    let kind = match (network.internal, network.gateway) {
        (true, _) => ", internal",
        (_, true) => ", gateway mode",
        _ => "",
    };
    format!("{}{kind}", pools.join(" and "))
}

fn bad_gateway_mode(reason: String) -> Error {
    Error::Request { what: "option flannel.gateway=true".to_owned(), reason }
}

/// Docker switches forwarding on for itself unless it was told not to; then nothing leaves the host.
fn warn_without_forwarding(network: &Network) {
    for subnet in &network.subnets {
        let key = match subnet.pool {
            IpNet::V4(_) => "net.ipv4.ip_forward",
            IpNet::V6(_) => "net.ipv6.conf.all.forwarding",
        };
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        if std::fs::read_to_string(path).is_ok_and(|v| v.trim() == "0") {
            warn!("{key} is 0, so containers cannot reach other hosts: type \"sysctl -w {key}=1\"");
        }
    }
}
