//! The lease protocol: acquire a subnet and renew it.
//!
//! Every write is a compare-and-swap: a host that slept, or lost a race, never overwrites another's lease. docs/upstream.md,
//! sections 2.4 to 2.7.

use std::time::Duration;

use flannel_core::allocate;
use flannel_core::config::NetworkConfig;
use flannel_core::ipnet::IpNet;
use flannel_core::key::SubnetKey;
use flannel_core::lease::{LeaseAttrs, TTL_SECONDS};
use flannel_core::subnet_env::PreviousSubnets;

use flannel_host::backoff::Backoff;
use flannel_store::leases::{Expect, Listed, StoreError, Stored, SubnetStore, Ttl, Written};

use crate::error::Error;

/// The time to live of a lease, the same for every flannel daemon.
pub const TTL: Duration = Duration::from_secs(TTL_SECONDS.unsigned_abs());
/// How many subnets are tried per list of the leases: when many hosts start at once a list costs etcd more than anything
/// else, and a lost race already shows which subnet was taken.
const PICKS_PER_LIST: u32 = 5;
/// After how many lost races the daemon gives up. Each attempt draws among up to a hundred free subnets, so this many
/// losses mean that something else is wrong.
const MAX_ATTEMPTS: u32 = 100;

/// A lease this host holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnLease {
    /// The subnets.
    pub key: SubnetKey,
    /// Its time to live from now on.
    pub ttl: Ttl,
}

/// Acquires and renews this host's lease.
pub struct SubnetManager<'a, S> {
    store: &'a S,
    attrs: LeaseAttrs,
    ttl: Duration,
    rng: fastrand::Rng,
    listed: Option<Listed>,
}

/// The outcome of renewing a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewed {
    /// It is ours.
    Ours(Ttl),
    /// The host of this public address holds it.
    Foreign(String),
}

impl<'a, S: SubnetStore> SubnetManager<'a, S> {
    /// A manager that publishes these attributes.
    pub fn new(store: &'a S, attrs: LeaseAttrs, ttl: Duration, rng: fastrand::Rng) -> Self {
        Self { store, attrs, ttl, rng, listed: None }
    }

    /// Acquires a lease: the one with our public address, else the subnet of an earlier run, else a free one.
    pub async fn acquire(&mut self, config: &NetworkConfig, previous: &PreviousSubnets) -> Result<OwnLease, Error> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        for _ in 0..MAX_ATTEMPTS {
            if let Some(held) = self.try_acquire(config, previous).await? {
                return Ok(held);
            }
            tracing::info!("another host took the subnet first: trying again");
            backoff.pause().await;
        }
        Err(Error::LostRaces(MAX_ATTEMPTS))
    }

    /// The list from which the lease was acquired, with the lease in it; once. Following the leases can start from it
    /// instead of listing them again.
    pub fn take_list(&mut self) -> Option<Listed> {
        self.listed.take()
    }

    /// One attempt; nothing when the race was lost.
    async fn try_acquire(
        &mut self,
        config: &NetworkConfig,
        previous: &PreviousSubnets,
    ) -> Result<Option<OwnLease>, Error> {
        let (leases, revision) = self.store.list().await?;
        if let Some(own) = leases.iter().find(|l| self.is_ours(l)) {
            if fits(config, &own.key) {
                tracing::info!("found lease {} of this host's public address: taking it over", own.key);
                let (key, ttl, expect) = (own.key, self.ttl_of(own), Expect::Revision(own.revision));
                return self.write(key, ttl, expect, &mut Listed { leases, revision }).await;
            }
            tracing::warn!("lease {} of this host's public address does not fit the config: removing it", own.key);
            self.store.delete(own.key, own.revision).await?;
            return Ok(None);
        }
        let mut listed = Listed { leases, revision };
        let mut raced = Vec::new();
        for _ in 0..PICKS_PER_LIST {
            let key = self.pick(config, previous, &listed.leases, &raced)?;
            if let Some(held) = self.write(key, Ttl::Expires(self.ttl), Expect::Absent, &mut listed).await? {
                let kept = !self.withdraw_if_shared(key).await?;
                return Ok(kept.then_some(held));
            }
            raced.push(key);
        }
        Ok(None)
    }

    /// The key of a host with two families names both subnets, so etcd lets two hosts that start together write keys that
    /// share one of them. The later writer sees both and withdraws its own; returns whether it did.
    async fn withdraw_if_shared(&self, key: SubnetKey) -> Result<bool, StoreError> {
        if key.nets().count() < 2 {
            return Ok(false);
        }
        let (leases, _) = self.store.list().await?;
        let Some(own) = leases.iter().find(|lease| lease.key == key) else { return Ok(false) };
        let shares =
            |other: &SubnetKey| key.nets().any(|net| other.nets().any(|o| o.contains(&net) || net.contains(&o)));
        let Some(other) = leases.iter().find(|l| l.key != key && l.revision < own.revision && shares(&l.key)) else {
            return Ok(false);
        };
        tracing::info!("lease {key} shares a subnet with {}, which was written first: withdrawing it", other.key);
        self.store.delete(key, own.revision).await?;
        Ok(true)
    }

    /// Free subnets: those of an earlier run, if they still are free. `raced` were taken since the list.
    fn pick(
        &mut self,
        config: &NetworkConfig,
        previous: &PreviousSubnets,
        leases: &[Stored],
        raced: &[SubnetKey],
    ) -> Result<SubnetKey, Error> {
        let taken = || leases.iter().map(|l| &l.key).chain(raced).flat_map(SubnetKey::nets);
        let is_free = |net: &IpNet| !taken().any(|other| other.contains(net) || net.contains(&other));
        let mut nets = Vec::new();
        for range in config.ranges.values() {
            let earlier = match range.network {
                IpNet::V4(_) => previous.v4.map(IpNet::V4),
                IpNet::V6(_) => previous.v6.map(IpNet::V6),
            };
            nets.push(match earlier.filter(|net| range.fits(net)) {
                Some(net) if is_free(&net) => {
                    tracing::info!("reusing subnet {net} of an earlier run");
                    net
                }
                earlier => {
                    if let Some(net) = earlier {
                        tracing::warn!("subnet {net} of an earlier run is taken by another host: picking a free one");
                    }
                    let picked = allocate::pick(range, taken(), &mut self.rng);
                    picked.ok_or_else(|| Error::out_of_subnets(config, leases.len()))?
                }
            });
        }
        let v4 = nets.iter().find_map(|n| if let IpNet::V4(n) = n { Some(*n) } else { None });
        let v6 = nets.iter().find_map(|n| if let IpNet::V6(n) = n { Some(*n) } else { None });
        // A checked config has at least one family.
        SubnetKey::new(v4, v6).ok_or_else(|| Error::out_of_subnets(config, leases.len()))
    }

    /// Writes the lease, and into the list too.
    async fn write(
        &mut self,
        key: SubnetKey,
        ttl: Ttl,
        expect: Expect,
        listed: &mut Listed,
    ) -> Result<Option<OwnLease>, Error> {
        let Written::Yes { ttl, revision } = self.store.put(key, &self.attrs, ttl, expect).await? else {
            return Ok(None);
        };
        let mut leases = std::mem::take(&mut listed.leases);
        leases.retain(|lease| lease.key != key);
        leases.push(Stored { key, attrs: Ok(self.attrs.clone()), revision, reserved: ttl == Ttl::Never });
        self.listed = Some(Listed { leases, revision: listed.revision });
        Ok(Some(OwnLease { key, ttl }))
    }

    /// Renews the lease for its full time to live; restores it when it was removed, expired or changed. A value nobody can
    /// read has no owner.
    pub async fn renew(&self, key: SubnetKey) -> Result<Renewed, StoreError> {
        loop {
            let (ttl, expect) = match self.store.get(key).await? {
                None => {
                    tracing::warn!("lease {key} was removed from etcd: restoring it");
                    (Ttl::Expires(self.ttl), Expect::Absent)
                }
                Some(lease) => {
                    match &lease.attrs {
                        Ok(attrs) if *attrs == self.attrs && lease.reserved => return Ok(Renewed::Ours(Ttl::Never)),
                        Ok(attrs) if *attrs == self.attrs => {}
                        Ok(_) if self.is_ours(&lease) => tracing::warn!(
                            "lease {key} was changed by someone else: restoring it; if another host has the public \
                             address {} too, give each its own by -public-ip",
                            self.attrs.public_ip
                        ),
                        Ok(attrs) => return Ok(Renewed::Foreign(attrs.public_ip.to_string())),
                        Err(bad) => tracing::warn!("lease {key} is no longer readable ({bad}): restoring it"),
                    }
                    (self.ttl_of(&lease), Expect::Revision(lease.revision))
                }
            };
            if let Written::Yes { ttl, .. } = self.store.put(key, &self.attrs, ttl, expect).await? {
                return Ok(Renewed::Ours(ttl));
            }
            // Written in between: read it again.
        }
    }

    /// A reservation stays one, whoever writes it.
    fn ttl_of(&self, lease: &Stored) -> Ttl {
        if lease.reserved { Ttl::Never } else { Ttl::Expires(self.ttl) }
    }

    /// A lease is this host's by its public address (docs/upstream.md, section 2.4): IPv4's, or IPv6's where there is no IPv4.
    fn is_ours(&self, lease: &Stored) -> bool {
        let Ok(attrs) = &lease.attrs else { return false };
        if self.attrs.public_ip.is_unspecified() {
            attrs.public_ipv6 == self.attrs.public_ipv6
        } else {
            attrs.public_ip == self.attrs.public_ip
        }
    }
}

/// Whether the config gives out these subnets: the same families, each within its range and of its length.
fn fits(config: &NetworkConfig, key: &SubnetKey) -> bool {
    let fits = |range: &Option<flannel_core::config::Range>, net: Option<IpNet>| match (range, net) {
        (Some(range), Some(net)) => range.fits(&net),
        (None, None) => true,
        _ => false,
    };
    fits(&config.ranges.v4, key.v4().map(IpNet::V4)) && fits(&config.ranges.v6, key.v6().map(IpNet::V6))
}

#[cfg(test)]
mod tests;
