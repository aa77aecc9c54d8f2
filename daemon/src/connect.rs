//! The entries of remote leases, or the reason why one is not connected.

use std::collections::HashMap;
use std::net::IpAddr;

use flannel_core::entry::Entry;
use flannel_core::family::{Families, Family};
use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, Lease, LeaseAttrs};

use crate::backend::Attached;
use crate::kernel::KernelError;
use crate::kernel::netlink::Netlink;
use flannel_host::say_once::SayOnce;

/// What is known about remote leases beyond what they say.
pub struct Connections {
    own: LeaseAttrs,
    /// Which hosts are on our link, as far as asked since the last comparison.
    on_link: HashMap<IpAddr, bool>,
    /// The leases that are not connected, and why.
    unusable: SayOnce<SubnetKey>,
}

impl Connections {
    /// Of the host whose lease says this.
    pub fn new(own: LeaseAttrs) -> Self {
        Self { own, on_link: HashMap::new(), unusable: SayOnce::default() }
    }

    /// The routes to other hosts may have changed.
    pub fn forget_reach(&mut self) {
        self.on_link.clear();
    }

    /// Asks the kernel how the hosts of these leases are reached, all at once; required before a backend that
    /// needs the reach is asked for their entries.
    pub async fn learn_reach<'a>(
        &mut self,
        kernel: &Netlink,
        leases: impl Iterator<Item = &'a Lease>,
    ) -> Result<(), KernelError> {
        let of = |lease: &'a Lease| {
            let v4 = Some(lease.attrs.public_ip).filter(|ip| !ip.is_unspecified());
            v4.map(IpAddr::V4).into_iter().chain(lease.attrs.public_ipv6.map(IpAddr::V6))
        };
        let mut unknown: Vec<IpAddr> = leases.flat_map(of).filter(|ip| !self.on_link.contains_key(ip)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        self.on_link.extend(kernel.are_on_link(unknown).await?);
        Ok(())
    }

    /// The entries of a lease; none for one that cannot be used, which is logged once.
    pub fn entries(&mut self, backend: &dyn Attached, lease: &Lease) -> Option<Vec<Entry>> {
        let entries = if let Some(ip) = self.captured_address(lease) {
            Err(BadLease(format!("its subnet covers {ip}, by which hosts reach each other; delete the lease")))
        } else if self.claims_to_be_us(lease) {
            Err(BadLease(
                "its public address is this host's own; give each host its own -public-ip, or delete the lease".into(),
            ))
        } else {
            backend.entries(lease, self.on_link(lease))
        };
        match entries {
            Ok(entries) => {
                self.forget(&lease.key);
                Some(entries)
            }
            Err(bad) => {
                if self.unusable.is_news(lease.key, &bad.0) {
                    tracing::warn!(lease = %lease.key, "lease {lease} is not connected: {}", bad.0);
                }
                None
            }
        }
    }

    /// A lease is gone.
    pub fn forget(&mut self, key: &SubnetKey) {
        self.unusable.clear(key);
    }

    /// Whether a lease is among those not connected.
    pub fn is_unusable(&self, key: &SubnetKey) -> bool {
        self.unusable.get(key).is_some()
    }

    /// How many leases are not connected.
    pub fn unusable(&self) -> usize {
        self.unusable.len()
    }

    /// Forgets the leases that are gone.
    pub fn retain(&mut self, is_there: impl Fn(&SubnetKey) -> bool) {
        self.unusable.retain(is_there);
    }

    /// The public address, ours or its own, that a route to this lease's subnet would capture.
    fn captured_address(&self, lease: &Lease) -> Option<IpAddr> {
        let both = |net| [self.own.public(net), lease.attrs.public(net)].map(|ip| (net, ip));
        lease.key.nets().flat_map(both).find_map(|(net, ip)| ip.filter(|ip| net.contains(ip)))
    }

    fn claims_to_be_us(&self, lease: &Lease) -> bool {
        let (own, theirs) = (&self.own, &lease.attrs);
        (own.public_ip == theirs.public_ip && !own.public_ip.is_unspecified())
            || (own.public_ipv6 == theirs.public_ipv6 && own.public_ipv6.is_some())
    }

    /// A host without any route is reached through the tunnel.
    fn on_link(&self, lease: &Lease) -> Families {
        let is_on_link = |ip: IpAddr| self.on_link.get(&ip).copied().unwrap_or(false);
        let of_family = |family: &Family| lease.attrs.public(*family).is_some_and(is_on_link);
        Family::ALL.into_iter().filter(of_family).map(|family| (family, ())).collect()
    }
}
