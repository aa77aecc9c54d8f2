//! Which part of the lease a network gets: decided from what was read before, without asking anybody.

use flannel_core::family::Family;
use flannel_core::net::{free_part, overlap};
use ipnet::IpNet;
use tracing::warn;

use super::options::NETWORK;
use crate::error::{Error, short};
use crate::links::HostRoute;
use crate::store::State;
use crate::store::lease::{FlannelName, Lease, Side};

/// A range that a network or a pool has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) subnet: IpNet,
    /// `None` while Docker is still creating it.
    pub(super) network: Option<String>,
}

/// The ranges of all networks and pools.
pub(super) fn claims(state: &State) -> Vec<Claim> {
    let pools = state.pools.values().map(|p| Claim { subnet: p.subnet, network: p.network.clone() });
    let networks = state
        .networks
        .iter()
        .flat_map(|(id, n)| n.subnets.iter().map(|s| Claim { subnet: s.pool, network: Some(id.clone()) }));
    networks.chain(pools).collect()
}

/// What is answered to a request for a pool.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) subnet: IpNet,
    /// A route of the host covers it, so Docker must not compare it with the routes.
    pub(super) covered: bool,
}

/// What this host has to allocate from, and what else uses addresses on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Supply<'a> {
    /// The driver's name, for the commands in refusals.
    pub(super) driver: &'a str,
    /// The flannel network; `None` for the one without a name.
    pub(super) flannel: Option<&'a FlannelName>,
    pub(super) lease: &'a Lease,
    pub(super) routes: &'a [HostRoute],
}

impl<'a> Supply<'a> {
    /// An allocation from one family of the lease, of which others have claims.
    pub(super) fn side(self, side: Side, claims: Vec<Claim>) -> Allocation<'a> {
        Allocation { supply: self, side, claims }
    }

    /// An allocation from one family of the lease; `option` is what the user typed for IPv4.
    pub(super) fn family(
        self,
        family: Family,
        option: &'static str,
        claims: Vec<Claim>,
    ) -> Result<Allocation<'a>, Error> {
        let missing = || Error::NoFamily {
            lease: self.lease.to_string(),
            family,
            option: if family == Family::V6 { "--ipv6" } else { option },
        };
        Ok(self.side(self.lease.side(family).ok_or_else(missing)?, claims))
    }

    /// The command that creates a network and leaves its pools to us.
    fn command(&self, options: &str) -> String {
        create_command(self.driver, self.flannel, options)
    }
}

/// The command that creates a network with our own pools.
pub(super) fn create_command(driver: &str, flannel: Option<&FlannelName>, options: &str) -> String {
    let flannel = flannel.map(|name| format!("--ipam-opt {NETWORK}={name} ")).unwrap_or_default();
    format!("docker network create -d {driver} --ipam-driver {driver} {flannel}{options}NAME")
}

/// A part of the lease whose packets go elsewhere than to one of our bridges.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Obstacle {
    subnet: IpNet,
    /// The device, or the kind of route.
    device: String,
}

/// The allocation of a subnet from one family of a lease.
#[derive(Debug)]
pub(super) struct Allocation<'a> {
    supply: Supply<'a>,
    pub(super) side: Side,
    claims: Vec<Claim>,
}

impl Allocation<'_> {
    /// The lease, or the largest part of it that no route of the host leads away from.
    pub(super) fn choose(&self) -> Result<Choice, Error> {
        let lease = self.side.subnet;
        if let Some(claim) = self.claims.iter().find(|c| overlap(&c.subnet, &lease)) {
            return Err(self.taken(lease, claim));
        }
        let obstacles = self.obstacles();
        let used: Vec<_> = obstacles.iter().map(|o| o.subnet).collect();
        let Some(subnet) = free_part(&lease, &used) else {
            // Without an obstacle the lease itself would have been free.
            let unknown = || Obstacle { subnet: lease, device: "this host".to_owned() };
            return Err(self.occupied(lease, &obstacles.into_iter().next().unwrap_or_else(unknown)));
        };
        if let Some(Obstacle { subnet: used, device }) = obstacles.first() {
            warn!("{used} of lease {lease} is routed to {device}: the network gets {subnet}");
        }
        Ok(Choice { subnet, covered: self.supply.routes.iter().any(|r| overlap(&r.destination, &subnet)) })
    }

    /// Whether a part of the lease that the user asked for is free.
    pub(super) fn check(&self, pool: IpNet) -> Result<Choice, Error> {
        if !self.side.subnet.contains(&pool) {
            return Err(self.foreign(pool));
        }
        if let Some(claim) = self.claims.iter().find(|c| overlap(&c.subnet, &pool)) {
            return Err(self.taken(pool, claim));
        }
        match self.obstacles().iter().find(|o| overlap(&o.subnet, &pool)) {
            Some(obstacle) => Err(self.occupied(pool, obstacle)),
            None => Ok(Choice { subnet: pool, covered: false }),
        }
    }

    /// The largest part of the lease that neither a network nor a route of the host has.
    pub(super) fn free(&self) -> Option<IpNet> {
        let obstacles = self.obstacles().into_iter().map(|o| o.subnet);
        let used: Vec<_> = self.claims.iter().map(|c| c.subnet).chain(obstacles).collect();
        free_part(&self.side.subnet, &used)
    }

    /// The refusal of a range that another network has.
    pub(super) fn taken(&self, wanted: IpNet, claim: &Claim) -> Error {
        let owner = match &claim.network {
            Some(id) => format!("network {}", short(id)),
            None => "a network that is being created".to_owned(),
        };
        let remedy = match (self.free_part_command(), &claim.network) {
            (Some(remedy), _) => remedy,
            (None, Some(id)) => format!(
                "to have several networks, type \"docker network rm {}\" and create each on a part of the lease, as \
                 with \"{}\"",
                short(id),
                self.supply.command(&half_option(self.side.subnet))
            ),
            (None, None) => "try again when that is done".to_owned(),
        };
        Error::Taken { wanted, lease: self.side.subnet, pool: claim.subnet, owner, remedy }
    }

    /// The refusal of a range that a route of the host leads away from.
    fn occupied(&self, wanted: IpNet, obstacle: &Obstacle) -> Error {
        let Obstacle { subnet, device } = obstacle;
        let remedy = self.free_part_command().unwrap_or_else(|| {
            format!("remove that route (\"ip route show {subnet}\"), the lease belongs to Docker's networks")
        });
        Error::Taken { wanted, lease: self.side.subnet, pool: *subnet, owner: format!("{device} of this host"), remedy }
    }

    /// The refusal of a range outside the lease, with what to type instead.
    pub(super) fn foreign(&self, pool: IpNet) -> Error {
        let Supply { driver, flannel, lease, .. } = self.supply;
        let part = self.free().unwrap_or(self.side.subnet);
        let mut families = String::new();
        if Family::of(self.side.subnet) == Family::V6 {
            families.push_str("--ipv6 ");
            if let Some(v4) = lease.side(Family::V4) {
                let free = self.supply.side(v4, self.claims.clone()).free().unwrap_or(v4.subnet);
                families.push_str(&format!("--subnet {free} "));
            }
        }
        let named = flannel.map(|name| format!("-o {NETWORK}={name} ")).unwrap_or_default();
        let plain = format!("docker network create -d {driver} {named}{families}--subnet {part} NAME");
        let is_whole = families.is_empty() && part == self.side.subnet;
        let options = if is_whole { String::new() } else { format!("{families}--subnet {part} ") };
        Error::ForeignPool { pool, lease: self.side.subnet, ipam: self.supply.command(&options), plain }
    }

    fn free_part_command(&self) -> Option<String> {
        let free = self.free()?;
        Some(format!("a part is free: type \"{}\"", self.supply.command(&format!("--subnet {free} "))))
    }

    fn obstacles(&self) -> Vec<Obstacle> {
        let inside = self.supply.routes.iter().filter(|r| {
            let subnet = r.destination;
            self.side.subnet.contains(&subnet) && !self.claims.iter().any(|c| c.subnet == subnet)
        });
        let obstacles = inside.filter_map(|route| {
            let device = match &route.device {
                Some(device) => device.clone(),
                // It was there before the bridge's own route, and so would win.
                None if route.metric == 0 => "a blackhole route".to_owned(),
                None => return None,
            };
            Some(Obstacle { subnet: route.destination, device })
        });
        obstacles.collect()
    }
}

/// The option for the first half of a lease.
fn half_option(lease: IpNet) -> String {
    let half = lease.subnets(lease.prefix_len().saturating_add(1)).ok().and_then(|mut s| s.next());
    half.map(|h| format!("--subnet {h} ")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
