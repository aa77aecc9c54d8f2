//! CreateNetwork and DeleteNetwork.

use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::ipam::{claims, still_free};
use super::{Birth, Driver, bridge_spec};
use crate::address::overlap;
use crate::api::network::{CreateNetwork, DeleteNetwork, IpamData};
use crate::api::{Empty, Options};
use crate::error::{Error, short};
use crate::lease::{Lease, Side};
use crate::links::{HostRoute, Links};
use crate::names;
use crate::state::{Network, State, Subnet};

/// `-o` options come under this key.
const GENERIC: &str = "com.docker.network.generic";
const INTERNAL: &str = "com.docker.network.internal";
const MTU: &str = "com.docker.network.driver.mtu";

/// The least an interface may send: 68 by RFC 791, 1280 by RFC 8200.
const LEAST_MTU: u32 = 68;
const LEAST_MTU_V6: u32 = 1280;
const GREATEST_MTU: u32 = 65_535;

impl<L: Links> Driver<L> {
    /// Makes the bridge and remembers the network. Docker sends no DeleteNetwork after a refusal, so that leaves
    /// nothing behind.
    pub async fn create_network(&self, request: CreateNetwork) -> Result<Empty, Error> {
        let id = &request.network_id;
        let lease = self.subnet_file.read()?;
        // Only for the commands in refusals.
        let routes = self.links.routes().await?;
        let network = self.read_network(&request, &lease, &routes)?;
        let bridge = names::bridge(id)?;
        for subnet in &network.subnets {
            self.make_room(subnet.pool).await;
        }

        let held = self.bridges.lock().await;
        if self.store.read(|s| s.networks.contains_key(id)) {
            // Said twice. Docker never gives an ID to another network.
            return Ok(Empty {});
        }
        self.store.read(|s| self.check_free(s, id, &network, &lease, &routes))?;
        let made = self.links.ensure_bridge(&bridge_spec(id, &network)?).await;
        let mut done = made.map(drop).map_err(Error::from);
        if done.is_ok() {
            let add = |s: &mut State| {
                s.networks.insert(id.clone(), network.clone());
                Ok(attach_pools(s, id, &network, &self.address_space()))
            };
            let undo = |s: &mut State, attached: Vec<String>| {
                s.networks.remove(id);
                for (_, pool) in s.pools.iter_mut().filter(|(id, _)| attached.contains(id)) {
                    pool.network = None;
                }
            };
            self.born().insert(id.clone(), Birth { at: Instant::now(), our_choice: false });
            done = self.store.change(add, undo).await.map(|_| ());
        }
        if let Err(e) = done {
            if let Err(left) = self.links.remove(&bridge).await {
                warn!("{left}");
            }
            return Err(e);
        }
        drop(held);
        let pools: Vec<_> = network.subnets.iter().map(|s| s.pool.to_string()).collect();
        let internal = if network.internal { ", internal" } else { "" };
        info!("network {}: {} on {bridge}, MTU {}{internal}", short(id), pools.join(" and "), network.mtu());
        self.order_rules().await;
        warn_without_forwarding(&network);
        Ok(Empty {})
    }

    /// Forgets the network and removes its bridge. Docker has forgotten it already, whatever we answer.
    pub async fn delete_network(&self, request: DeleteNetwork) -> Result<Empty, Error> {
        self.looks.removed(&request.network_id);
        self.remove_network(&request.network_id).await;
        Ok(Empty {})
    }

    pub(super) async fn remove_network(&self, id: &str) {
        let held = self.bridges.lock().await;
        self.born().remove(id);
        let known = self
            .store
            .forget(|s| {
                s.pools.retain(|_, pool| pool.network.as_deref() != Some(id));
                s.networks.remove(id)
            })
            .await;
        let Some(network) = known else { return };
        let cables = network.endpoints.keys().filter_map(|e| names::host_end(e).ok());
        for device in cables.chain(names::bridge(id)) {
            if let Err(e) = self.links.remove(&device).await {
                warn!("{e}");
            }
        }
        drop(held);
        info!("network {}: removed", short(id));
        self.order_rules().await;
    }

    /// Where a network has a part of `wanted`, Docker is asked in the background whether it still has that network.
    pub(super) async fn make_room(&self, wanted: IpNet) {
        let claims = self.store.read(claims).into_iter().filter(|c| overlap(&c.subnet, &wanted));
        let now = Instant::now();
        if claims.filter_map(|c| c.network).any(|id| !self.is_young(&id, now)) {
            self.want_look().await;
        }
    }

    /// Checks the request by itself and against the lease.
    pub(super) fn read_network(
        &self,
        request: &CreateNetwork,
        lease: &Lease,
        routes: &[HostRoute],
    ) -> Result<Network, Error> {
        let v4 = request.ipv4_data.iter().map(|d| (d, false));
        let v6 = request.ipv6_data.iter().map(|d| (d, true));
        let mut subnets = Vec::new();
        for (data, is_v6) in v4.chain(v6) {
            subnets.push(self.read_subnet(data, is_v6, lease, routes)?);
        }
        let Some(first) = request.ipv4_data.first().or(request.ipv6_data.first()) else {
            return Err(Error::Request {
                what: format!("network {}", short(&request.network_id)),
                reason: format!("has no pool: type \"{}\"", self.create_command("")),
            });
        };
        let families = lease.sides.iter().filter(|s| subnets.iter().any(|n| same_family(&n.pool, &s.network)));
        let sides = families.copied().collect();
        let has_v6 = subnets.iter().any(|s| matches!(s.pool, IpNet::V6(_)));
        let mtu_option = read_mtu(&request.options, has_v6)?;
        if let Some(mtu) = mtu_option.filter(|m| *m > lease.mtu) {
            let id = short(&request.network_id);
            warn!("network {id}: MTU {mtu} is more than flannel carries between hosts ({})", lease.mtu);
        }
        Ok(Network {
            subnets,
            address_space: first.address_space.clone(),
            mtu_option,
            internal: request.options.get(INTERNAL).and_then(serde_json::Value::as_bool).unwrap_or(false),
            lease_mtu: lease.mtu,
            lease: sides,
            endpoints: std::collections::BTreeMap::new(),
        })
    }

    fn read_subnet(&self, data: &IpamData, v6: bool, lease: &Lease, routes: &[HostRoute]) -> Result<Subnet, Error> {
        let bad = |field: &str, value: &str| Error::Request {
            what: format!("{field} {value:?}"),
            reason: "is no address with a prefix length, as 10.5.72.1/24 is".to_owned(),
        };
        let mut pool: IpNet = data.pool.parse().map_err(|_| bad("pool", &data.pool))?;
        let gateway: Option<IpNet> = match data.gateway.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| bad("gateway", text))?),
        };
        let side = lease.side(v6).ok_or_else(|| Error::NoFamily {
            lease: lease.to_string(),
            family: if v6 { "IPv6" } else { "IPv4" },
            option: if v6 { "--ipv6" } else { "the IPv4 pool" },
        })?;
        // Where a route of the host covers the lease, our own IPAM answers "everywhere" and tells the range by the
        // gateway (see `ipam`).
        if pool.prefix_len() == 0
            && data.address_space == self.address_space()
            && let Some(gateway) = gateway
        {
            pool = gateway.trunc();
        }
        if !side.subnet.contains(&pool) {
            return Err(self.foreign(pool, side, lease, routes));
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

    /// Says what to type instead of a pool that is not ours.
    pub(super) fn foreign(&self, pool: IpNet, side: Side, lease: &Lease, routes: &[HostRoute]) -> Error {
        let free = |side: Side| self.store.read(|s| still_free(s, side, routes)).unwrap_or(side.subnet);
        let part = free(side);
        let mut options = String::new();
        if matches!(side.subnet, IpNet::V6(_)) {
            options.push_str("--ipv6 ");
            if let Some(v4) = lease.side(false) {
                options.push_str(&format!("--subnet {} ", free(v4)));
            }
        }
        let plain = format!("docker network create -d {} {options}--subnet {part} NAME", self.name);
        let whole = options.is_empty() && part == side.subnet;
        let ipam =
            if whole { self.create_command("") } else { self.create_command(&format!("{options}--subnet {part} ")) };
        Error::ForeignPool { pool, lease: side.subnet, ipam, plain }
    }

    /// Whether nobody else has the network's pools.
    pub(super) fn check_free(
        &self,
        state: &State,
        id: &str,
        network: &Network,
        lease: &Lease,
        routes: &[HostRoute],
    ) -> Result<(), Error> {
        for subnet in &network.subnets {
            let own = |c: &super::ipam::Claim| {
                // The pool Docker asked us for on behalf of this very network.
                c.network.is_none() && c.subnet == subnet.pool && network.address_space == self.address_space()
            };
            let other = claims(state)
                .into_iter()
                .find(|c| c.network.as_deref() != Some(id) && overlap(&c.subnet, &subnet.pool) && !own(c));
            if let (Some(claim), Some(side)) = (other, lease.side_of(&subnet.pool)) {
                return Err(self.taken(state, subnet.pool, side, &claim, routes));
            }
        }
        Ok(())
    }
}

/// Marks the pools Docker asked for before it created the network as that network's.
fn attach_pools(state: &mut State, id: &str, network: &Network, ours: &str) -> Vec<String> {
    let mut attached = Vec::new();
    if network.address_space != ours {
        return attached;
    }
    for subnet in &network.subnets {
        let pending = state.pools.iter_mut().find(|(_, p)| p.network.is_none() && p.subnet == subnet.pool);
        if let Some((pool_id, pool)) = pending {
            pool.network = Some(id.to_owned());
            attached.push(pool_id.clone());
        }
    }
    attached
}

fn read_mtu(options: &Options, v6: bool) -> Result<Option<u32>, Error> {
    let Some(value) = options.get(GENERIC).and_then(|g| g.get(MTU)) else { return Ok(None) };
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let least = if v6 { LEAST_MTU_V6 } else { LEAST_MTU };
    match text.parse() {
        Ok(mtu) if (least..=GREATEST_MTU).contains(&mtu) => Ok(Some(mtu)),
        _ => Err(Error::Request {
            what: format!("option {MTU}={text}"),
            reason: format!("must be a number of bytes from {least} to {GREATEST_MTU}; leave it out for flannel's own"),
        }),
    }
}

fn same_family(a: &IpNet, b: &IpNet) -> bool {
    matches!(a, IpNet::V6(_)) == matches!(b, IpNet::V6(_))
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
            warn!("{key} is 0, so containers can't reach other hosts: type \"sysctl -w {key}=1\"");
        }
    }
}
