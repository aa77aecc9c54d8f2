//! Pools and addresses: the role of Docker's `--ipam-driver`.
//!
//! Asked for a pool of our choice, we give the lease. Docker then compares the answer with the host's routes and name
//! servers, and on overlap asks again, without end; all the answers are released afterwards. So:
//! - a lease that overlaps something of the host is given as `0.0.0.0/0`, which Docker compares with nothing, and
//!   its range is told by the gateway;
//! - where a device of the host sits inside the lease, the largest part beside it is given;
//! - a request that comes again before the first answer was used is taken as Docker's refusal of that answer;
//! - PoolIDs are never used twice, so that late releases hit nobody.

use std::collections::BTreeMap;
use std::net::IpAddr;

use flannel_core::net::{free_part, overlap};
use ipnet::{IpNet, Ipv4Net};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::options::NETWORK;
use super::{Birth, Driver};
use crate::api::Empty;
use crate::api::ipam::{
    AddressGiven, AddressSpaces, GATEWAY, PoolGiven, ReleaseAddress, ReleasePool, RequestAddress, RequestPool,
};
use crate::error::{Error, short};
use crate::links::{HostRoute, Links};
use crate::store::State;
use crate::store::lease::{FlannelName, Side};
use crate::store::pool::Pool;

/// Where Docker reads name servers; the second is systemd-resolved's.
const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// How many containers the line about a full pool names.
const NAMED: usize = 8;

/// A range somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) subnet: IpNet,
    /// Nothing while Docker is still creating it.
    pub(super) network: Option<String>,
}

/// All ranges of networks and pools.
pub(super) fn claims(state: &State) -> Vec<Claim> {
    let pools = state.pools.values().map(|p| Claim { subnet: p.subnet, network: p.network.clone() });
    let networks = state
        .networks
        .iter()
        .flat_map(|(id, n)| n.subnets.iter().map(|s| Claim { subnet: s.pool, network: Some(id.clone()) }));
    networks.chain(pools).collect()
}

/// What we give for a request without a pool of its own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    subnet: IpNet,
    /// Docker must not compare it with the host's routes.
    unchecked: bool,
}

impl<L: Links> Driver<L> {
    /// The names under which Docker keeps our pools apart from others'.
    pub fn address_spaces(&self) -> AddressSpaces {
        AddressSpaces {
            local_default_address_space: self.address_space(),
            global_default_address_space: format!("{}-global", self.name),
        }
    }

    /// Gives the lease, or the part of it that was asked for.
    pub async fn request_pool(&self, request: RequestPool) -> Result<PoolGiven, Error> {
        let asked = read_net("pool", &request.pool)?;
        let range = read_net("range", &request.sub_pool)?;
        let named = request.options.get(NETWORK).map(|name| name.parse()).transpose()?;
        let flannel: Option<FlannelName> = named.or_else(|| asked.and_then(|pool| self.find_flannel(&pool)));
        let flannel = flannel.as_ref();
        let lease = self.subnet_file.of(flannel).read()?;
        let v6 = asked.map_or(request.v6, |pool| matches!(pool, IpNet::V6(_)));
        let side = lease.side(v6).ok_or_else(|| Error::NoFamily {
            lease: lease.to_string(),
            family: if v6 { "IPv6" } else { "IPv4" },
            option: if v6 { "--ipv6" } else { "IPv4" },
        })?;
        self.make_room(asked.unwrap_or(side.subnet)).await;
        {
            // A leftover bridge would stand in the way of its own lease.
            let _held = self.bridges.lock().await;
            self.sweep().await;
        }
        let routes = self.links.routes().await?;
        if let Some(pool) = asked.filter(|p| !side.subnet.contains(p)) {
            return Err(self.foreign(pool, side, flannel, &lease, &routes));
        }
        let now = Instant::now();
        let add = |s: &mut State| {
            let refused = if asked.is_none() { self.refused(s, side.subnet) } else { Vec::new() };
            let abandoned: Vec<_> = self.abandoned(s, now).into_iter().chain(refused.iter().cloned()).collect();
            let mut claims = claims(s);
            claims.retain(|c| c.network.is_some() || !abandoned.iter().any(|id| s.pools[id].subnet == c.subnet));
            let mut choice = match asked {
                Some(pool) => self.check_asked(s, pool, side, flannel, &claims, &routes)?,
                None => self.choose(s, side, flannel, &claims, &routes)?,
            };
            choice.unchecked |= !refused.is_empty() && !v6;
            let range = range.unwrap_or(choice.subnet);
            if !choice.subnet.contains(&range) {
                return Err(Error::RangeOutside { range, pool: choice.subnet });
            }
            let mut pool = Pool::new(choice.subnet, range)?;
            pool.flannel = flannel.cloned();
            let mut data = BTreeMap::new();
            let mut shown = choice.subnet;
            if choice.unchecked {
                let gateway = pool.first();
                pool.claim(gateway)?;
                data.insert(GATEWAY, format!("{gateway}/{}", choice.subnet.prefix_len()));
                shown = IpNet::V4(Ipv4Net::default());
            }
            for id in &abandoned {
                s.pools.remove(id);
            }
            let pool_id = s.new_pool_id(choice.subnet);
            s.pools.insert(pool_id.clone(), pool);
            Ok(PoolGiven { pool_id, pool: shown.to_string(), data })
        };
        let given = self.store.change(add, |s, given| drop(s.pools.remove(&given.pool_id))).await?;
        self.born().insert(given.pool_id.clone(), Birth { at: now, our_choice: asked.is_none() });
        info!("{}: {} of lease {}", given.pool_id, given.data.get(GATEWAY).unwrap_or(&given.pool), side.subnet);
        Ok(given)
    }

    /// Takes the pool back.
    pub async fn release_pool(&self, request: ReleasePool) -> Result<Empty, Error> {
        self.born().remove(&request.pool_id);
        self.store.forget(|s| drop(s.pools.remove(&request.pool_id))).await;
        Ok(Empty {})
    }

    /// Gives an address: the one wanted, the gateway's, or the next.
    pub async fn request_address(&self, request: RequestAddress) -> Result<AddressGiven, Error> {
        let id = &request.pool_id;
        let wanted: Option<IpAddr> = match request.address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| Error::Request {
                what: format!("address {text:?}"),
                reason: "is no IP address".to_owned(),
            })?),
        };
        let give_back = |s: &mut State, (address, _)| {
            if let Some(pool) = s.pools.get_mut(id) {
                pool.release(address);
            }
        };
        let mut given = self.store.change(|s| take(s, &request, wanted), give_back).await;
        if let Err(Error::PoolExhausted { .. }) = given {
            // Addresses may have leaked while we were away; and the look tells us who has the others.
            self.want_look().await;
            given = self.store.change(|s| take(s, &request, wanted), give_back).await;
        }
        let (address, length) = given.map_err(|e| self.with_users(e))?;
        Ok(AddressGiven { address: format!("{address}/{length}"), data: BTreeMap::new() })
    }

    /// Takes an address back.
    pub async fn release_address(&self, request: ReleaseAddress) -> Result<Empty, Error> {
        let Ok(address) = request.address.parse() else {
            debug!("{}: {:?} is no address, so nobody has it", request.pool_id, request.address);
            return Ok(Empty {});
        };
        self.store
            .forget(|s| {
                if let Some(pool) = s.pool_mut(&request.pool_id) {
                    pool.release(address);
                }
            })
            .await;
        Ok(Empty {})
    }

    /// Adds to a pool's exhaustion who has its addresses: container names, or endpoints nobody has named yet.
    pub(super) fn with_users(&self, error: Error) -> Error {
        let Error::PoolExhausted { pool, used, network, .. } = error else { return error };
        let names = self.store.read(|s| {
            let endpoints = network.as_ref().and_then(|id| s.networks.get(id)).into_iter().flat_map(|n| &n.endpoints);
            endpoints.map(|(id, _)| self.looks.name_of(id).unwrap_or_else(|| short(id).to_owned())).collect()
        });
        Error::PoolExhausted { pool, used, network, users: some_of(names) }
    }

    /// Pools that no network came for.
    fn abandoned(&self, state: &State, now: Instant) -> Vec<String> {
        let left = state.pools.iter().filter(|(id, pool)| pool.network.is_none() && !self.is_young(id, now));
        left.map(|(id, _)| id.clone()).collect()
    }

    /// Pools of the lease that were ours to choose and from which nothing was taken: that Docker asks again means
    /// that it did not like them.
    fn refused(&self, state: &State, lease: IpNet) -> Vec<String> {
        let born = self.born();
        let chosen = |id: &String| born.get(id).is_some_and(|birth| birth.our_choice);
        let left = state.pools.iter().filter(|(id, pool)| {
            pool.network.is_none() && pool.is_unused() && chosen(id) && overlap(&pool.subnet, &lease)
        });
        left.map(|(id, _)| id.clone()).collect()
    }

    fn check_asked(
        &self,
        state: &State,
        pool: IpNet,
        side: Side,
        flannel: Option<&FlannelName>,
        claims: &[Claim],
        routes: &[HostRoute],
    ) -> Result<Choice, Error> {
        if let Some(claim) = claims.iter().find(|c| overlap(&c.subnet, &pool)) {
            return Err(self.taken(state, pool, side, flannel, claim, routes));
        }
        let obstacle = obstacles(side, claims, routes).into_iter().find(|(net, _)| overlap(net, &pool));
        match obstacle {
            Some((net, device)) => Err(self.occupied(state, pool, side, flannel, routes, (net, device))),
            None => Ok(Choice { subnet: pool, unchecked: false }),
        }
    }

    pub(super) fn choose(
        &self,
        state: &State,
        side: Side,
        flannel: Option<&FlannelName>,
        claims: &[Claim],
        routes: &[HostRoute],
    ) -> Result<Choice, Error> {
        if let Some(claim) = claims.iter().find(|c| overlap(&c.subnet, &side.subnet)) {
            return Err(self.taken(state, side.subnet, side, flannel, claim, routes));
        }
        let obstacles = obstacles(side, claims, routes);
        let taken: Vec<_> = obstacles.iter().map(|(net, _)| *net).collect();
        let Some(subnet) = free_part(&side.subnet, &taken) else {
            // Without an obstacle the lease itself would have been free.
            let (net, device) = obstacles.into_iter().next().unwrap_or((side.subnet, "this host".to_owned()));
            return Err(self.occupied(state, side.subnet, side, flannel, routes, (net, device)));
        };
        if let Some((net, device)) = obstacles.first() {
            warn!("{net} of lease {} is on {device}: the network gets {subnet}", side.subnet);
        }
        let covered = routes.iter().any(|r| overlap(&r.destination, &subnet));
        let unchecked = covered || name_servers().iter().any(|a| subnet.contains(a));
        Ok(Choice { subnet, unchecked })
    }

    /// The refusal for a range that another network has.
    pub(super) fn taken(
        &self,
        state: &State,
        wanted: IpNet,
        side: Side,
        flannel: Option<&FlannelName>,
        claim: &Claim,
        routes: &[HostRoute],
    ) -> Error {
        let owner = match &claim.network {
            Some(id) => format!("network {}", short(id)),
            None => "a network that is being created".to_owned(),
        };
        let remedy = match (still_free(state, side, routes), &claim.network) {
            (Some(free), _) => {
                format!("a part is free: type \"{}\"", self.create_command(flannel, &format!("--subnet {free} ")))
            }
            (None, Some(id)) => format!(
                "to have several networks, type \"docker network rm {}\" and create each on a part of the lease, as \
                 with \"{}\"",
                short(id),
                self.create_command(flannel, &half_option(side.subnet))
            ),
            (None, None) => "try again when that is done".to_owned(),
        };
        Error::Taken { wanted, lease: side.subnet, pool: claim.subnet, owner, remedy }
    }

    /// The refusal for a range that a device of the host has.
    fn occupied(
        &self,
        state: &State,
        wanted: IpNet,
        side: Side,
        flannel: Option<&FlannelName>,
        routes: &[HostRoute],
        (net, device): (IpNet, String),
    ) -> Error {
        let remedy = match still_free(state, side, routes) {
            Some(free) => {
                format!("a part is free: type \"{}\"", self.create_command(flannel, &format!("--subnet {free} ")))
            }
            None => format!("remove that route (\"ip route show {net}\"), the lease belongs to Docker's networks"),
        };
        Error::Taken { wanted, lease: side.subnet, pool: net, owner: format!("{device} of this host"), remedy }
    }
}

/// Parts of the lease that lead elsewhere than to our own bridges, and where.
fn obstacles(side: Side, claims: &[Claim], routes: &[HostRoute]) -> Vec<(IpNet, String)> {
    let inside = routes.iter().filter_map(|r| match &r.device {
        Some(device) => Some((r.destination, device.clone())),
        // It was there before the bridge's own route, and so would win.
        None if r.metric == 0 => Some((r.destination, "a blackhole route".to_owned())),
        None => None,
    });
    let foreign = inside.filter(|(net, _)| side.subnet.contains(net) && !claims.iter().any(|c| c.subnet == *net));
    foreign.collect()
}

/// The largest part of the lease that neither a network nor a device of the host has.
pub(super) fn still_free(state: &State, side: Side, routes: &[HostRoute]) -> Option<IpNet> {
    let claims = claims(state);
    let obstacles = obstacles(side, &claims, routes);
    let taken: Vec<_> = claims.iter().map(|c| c.subnet).chain(obstacles.into_iter().map(|(net, _)| net)).collect();
    free_part(&side.subnet, &taken)
}

/// The address wanted, the gateway's or the next, with the pool's prefix length.
fn take(state: &mut State, request: &RequestAddress, wanted: Option<IpAddr>) -> Result<(IpAddr, u8), Error> {
    let id = &request.pool_id;
    let pool = state.pool_mut(id).ok_or_else(|| Error::UnknownPool { id: id.clone() })?;
    let address = match wanted {
        Some(address) => pool.claim(address).map(|()| address),
        None if request.is_for_gateway() => pool.claim(pool.first()).map(|()| pool.first()),
        None => pool.allocate(request.who()),
    }?;
    Ok((address, pool.subnet.prefix_len()))
}

/// Some names, and how many more.
fn some_of(mut names: Vec<String>) -> String {
    names.sort_unstable();
    let more = names.split_off(names.len().min(NAMED)).len();
    match (names.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!(", by {}", names.join(", ")),
        (false, more) => format!(", by {} and {more} more", names.join(", ")),
    }
}

/// The option for the first half of a lease.
fn half_option(lease: IpNet) -> String {
    let half = lease.subnets(lease.prefix_len().saturating_add(1)).ok().and_then(|mut s| s.next());
    half.map(|h| format!("--subnet {h} ")).unwrap_or_default()
}

/// The name servers Docker compares a pool with.
fn name_servers() -> Vec<IpAddr> {
    let texts = RESOLV_CONF.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    texts.flat_map(|text| parse_name_servers(&text)).collect()
}

fn parse_name_servers(resolv_conf: &str) -> Vec<IpAddr> {
    let lines = resolv_conf.lines().filter_map(|l| l.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
}

fn read_net(what: &str, text: &str) -> Result<Option<IpNet>, Error> {
    let bad =
        || Error::Request { what: format!("{what} {text:?}"), reason: "is no range, as 10.5.72.0/25 is".to_owned() };
    match text {
        "" => Ok(None),
        text => {
            let net: IpNet = text.parse().map_err(|_| bad())?;
            // Newer Docker writes "a range of this length, anywhere" as 0.0.0.0/24.
            Ok(Some(net.trunc()).filter(|n| !n.network().is_unspecified()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_name_servers() {
        let text = "# by hand\nnameserver 10.5.72.53\n nameserver  fd00::53 # second\nnameserver\nsearch a.b\n";
        let expected: Vec<IpAddr> = vec!["10.5.72.53".parse().unwrap(), "fd00::53".parse().unwrap()];
        assert_eq!(parse_name_servers(text), expected);
    }

    #[test]
    fn a_request_for_anywhere_is_one_without_a_pool() {
        for anywhere in ["", "0.0.0.0/24", "::/64"] {
            assert_eq!(read_net("pool", anywhere), Ok(None));
        }
        assert_eq!(read_net("pool", "10.5.72.9/25"), Ok(Some("10.5.72.0/25".parse().unwrap())));
        assert!(read_net("pool", "10.5.72.0").unwrap_err().to_string().contains("no range"));
    }
}
