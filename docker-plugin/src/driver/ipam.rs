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

use flannel_core::family::Family;
use flannel_core::net::overlap;
use ipnet::{IpNet, Ipv4Net};
use tokio::time::Instant;
use tracing::{debug, info};

use super::allocation::{Choice, Supply, claims};
use super::options::NETWORK;
use super::{Creation, Driver};
use crate::api::Empty;
use crate::api::ipam::{
    AddressGiven, AddressSpaces, GATEWAY, PoolGiven, ReleaseAddress, ReleasePool, RequestAddress, RequestPool,
};
use crate::error::{Error, short};
use crate::links::Links;
use crate::store::State;
use crate::store::lease::{FlannelName, Side};
use crate::store::pool::Pool;

/// Where Docker reads name servers; the second is systemd-resolved's.
const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// How many containers the line about a full pool names.
const MAX_NAMED: usize = 8;

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
        let lease = self.subnet_file.of(flannel.as_ref()).read()?;
        let family = asked.map_or(if request.v6 { Family::V6 } else { Family::V4 }, Family::of);
        let side = self.supply(flannel.as_ref(), &lease, &[]).family(family, "IPv4", Vec::new())?.side;
        self.make_room(asked.unwrap_or(side.subnet)).await;
        {
            // A leftover bridge would keep its route, and with it the lease.
            let _bridges = self.bridges.lock().await;
            self.sweep().await;
        }
        let routes = self.links.routes().await?;
        let supply = self.supply(flannel.as_ref(), &lease, &routes);
        let given = self.store.change(|s| self.add_pool(s, asked, range, supply, side)).await?;
        let created = Creation { at: Instant::now(), our_choice: asked.is_none() };
        self.created().insert(given.pool_id.clone(), created);
        info!("{}: {} of lease {}", given.pool_id, given.data.get(GATEWAY).unwrap_or(&given.pool), side.subnet);
        Ok(given)
    }

    /// Chooses a pool, or checks the one asked for, and records it.
    fn add_pool(
        &self,
        state: &mut State,
        asked: Option<IpNet>,
        range: Option<IpNet>,
        supply: Supply<'_>,
        side: Side,
    ) -> Result<PoolGiven, Error> {
        let refused = if asked.is_none() { self.refused(state, side.subnet) } else { Vec::new() };
        let abandoned: Vec<_> = self.abandoned(state, Instant::now()).into_iter().chain(refused.clone()).collect();
        for id in &abandoned {
            state.pools.remove(id);
        }
        let allocation = supply.side(side, claims(state));
        let (subnet, is_hidden) = match asked {
            Some(pool) => (allocation.check(pool)?.subnet, false),
            None => {
                let Choice { subnet, covered } = allocation.choose()?;
                let is_refused = !refused.is_empty() && matches!(side.subnet, IpNet::V4(_));
                (subnet, covered || is_refused || name_servers().iter().any(|a| subnet.contains(a)))
            }
        };
        let range = range.unwrap_or(subnet);
        if !subnet.contains(&range) {
            return Err(Error::RangeOutside { range, pool: subnet });
        }
        let mut pool = Pool::new(subnet, range)?;
        pool.flannel = supply.flannel.cloned();
        let mut data = BTreeMap::new();
        let mut shown = subnet;
        if is_hidden {
            let gateway = pool.first();
            pool.claim(gateway)?;
            data.insert(GATEWAY, format!("{gateway}/{}", subnet.prefix_len()));
            shown = IpNet::V4(Ipv4Net::default());
        }
        let pool_id = state.new_pool_id(subnet);
        state.pools.insert(pool_id.clone(), pool);
        Ok(PoolGiven { pool_id, pool: shown.to_string(), data })
    }

    /// Takes the pool back.
    pub async fn release_pool(&self, request: ReleasePool) -> Result<Empty, Error> {
        self.created().remove(&request.pool_id);
        self.store.forget(|s| drop(s.pools.remove(&request.pool_id))).await;
        Ok(Empty {})
    }

    /// Gives an address: the one wanted, the gateway's, or the next.
    pub async fn request_address(&self, request: RequestAddress) -> Result<AddressGiven, Error> {
        let wanted: Option<IpAddr> = match request.address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| Error::Request {
                what: format!("address {text:?}"),
                reason: "is no IP address".to_owned(),
            })?),
        };
        let mut given = self.store.change(|s| take(s, &request, wanted)).await;
        if let Err(Error::PoolExhausted { .. }) = given {
            // Addresses may have leaked while we were away; and the look tells us who has the others.
            self.check_now().await;
            given = self.store.change(|s| take(s, &request, wanted)).await;
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
            endpoints.map(|(id, _)| self.history.container(id).unwrap_or_else(|| short(id).to_owned())).collect()
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
        let created = self.created();
        let chosen = |id: &String| created.get(id).is_some_and(|c| c.our_choice);
        let left = state.pools.iter().filter(|(id, pool)| {
            pool.network.is_none() && pool.is_unused() && chosen(id) && overlap(&pool.subnet, &lease)
        });
        left.map(|(id, _)| id.clone()).collect()
    }
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
    let more = names.split_off(names.len().min(MAX_NAMED)).len();
    match (names.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!(", by {}", names.join(", ")),
        (false, more) => format!(", by {} and {more} more", names.join(", ")),
    }
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
