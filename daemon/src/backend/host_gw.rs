//! host-gw: a plain route to each subnet through its host, which must be on the same link. docs/upstream.md, section 5.3.

use std::net::IpAddr;

use flannel_core::config::{NetworkConfig, Range};
use flannel_core::entry::{Entry, LinkIndex, Route};
use flannel_core::family::Families;
use flannel_core::ipnet::IpNet;
use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, Lease, LeaseAttrs};
use futures_util::future::LocalBoxFuture;

use super::{Attached, Backend, Context, Kind};
use crate::error::Error;
use crate::kernel::Scope;
use crate::uplink::ExternalInterface;

/// The backend's line in the table.
pub const KIND: Kind = Kind {
    name: "host-gw",
    devices: &[],
    read: |_| {
        Box::new(|context| {
            Box::pin(async { Ok(Box::new(HostGw::new(&context.config, &context.uplink)?) as Box<dyn Backend>) })
        })
    },
};

/// Routes on the external interface.
#[derive(Debug, Clone)]
pub struct HostGw {
    link: LinkIndex,
    mtu: u32,
    ranges: Vec<Range>,
}

impl HostGw {
    /// Refuses a public address that is not the interface's own: no host could route through it.
    pub fn new(config: &NetworkConfig, uplink: &ExternalInterface) -> Result<Self, Error> {
        let v4 =
            uplink.v4.filter(|a| a.own != a.public).map(|a| ("public-ip", IpAddr::V4(a.public), IpAddr::V4(a.own)));
        let v6 =
            uplink.v6.filter(|a| a.own != a.public).map(|a| ("public-ipv6", IpAddr::V6(a.public), IpAddr::V6(a.own)));
        if let Some((flag, public, own)) = v4.or(v6) {
            return Err(Error::Setup {
                backend: "host-gw",
                reason: format!(
                    "flag -{flag}: {public} is not the address of {} ({own}), and hosts can route only through an \
                     address on their link; leave -{flag} out or choose vxlan or udp",
                    uplink.name
                ),
            });
        }
        Ok(Self { link: uplink.index, mtu: uplink.mtu, ranges: config.ranges.values().copied().collect() })
    }
}

impl Backend for HostGw {
    fn attrs(&self, plain: LeaseAttrs) -> LeaseAttrs {
        LeaseAttrs { backend_type: "host-gw".into(), ..plain }
    }

    fn attach<'a>(&'a mut self, _: &'a Context, _: SubnetKey) -> LocalBoxFuture<'a, Result<Box<dyn Attached>, Error>> {
        Box::pin(async { Ok(Box::new(self.clone()) as Box<dyn Attached>) })
    }
}

impl Attached for HostGw {
    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn scope(&self) -> Scope {
        Scope { owned: Vec::new(), shared: Some((self.link, self.ranges.clone())) }
    }

    fn entries(&self, remote: &Lease, _: Families) -> Result<Vec<Entry>, BadLease> {
        if remote.attrs.backend_type != "host-gw" {
            return Ok(Vec::new());
        }
        let subnets = self.ranges.iter().filter_map(|range| remote.key.net(&range.network));
        subnets.map(|subnet| direct_route(remote, subnet, self.link)).collect()
    }
}

/// A route to a subnet of a lease straight through its host.
pub(super) fn direct_route(remote: &Lease, dst: IpNet, link: LinkIndex) -> Result<Entry, BadLease> {
    let via: Option<IpAddr> = remote.attrs.public(&dst);
    let via = via.ok_or_else(|| BadLease(format!("it has no public address to reach {dst} by")))?;
    Ok(Entry::Route(Route { dst, via: Some(via), link, onlink: false }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::Addresses;
    use flannel_core::name::IfName;

    fn uplink(public: &str) -> ExternalInterface {
        ExternalInterface {
            index: LinkIndex(2),
            name: IfName::new("eth0").unwrap(),
            mtu: 1500,
            v4: Some(Addresses { own: "192.0.2.1".parse().unwrap(), public: public.parse().unwrap() }),
            v6: None,
        }
    }

    fn config() -> NetworkConfig {
        NetworkConfig::parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap()
    }

    #[test]
    fn a_foreign_public_address_is_refused() {
        let error = HostGw::new(&config(), &uplink("203.0.113.7")).unwrap_err().to_string();
        assert!(
            error.starts_with("backend host-gw: flag -public-ip: 203.0.113.7 is not the address of eth0"),
            "{error}"
        );
    }

    #[test]
    fn a_lease_is_one_route_and_other_backends_none() {
        let backend = HostGw::new(&config(), &uplink("192.0.2.1")).unwrap();
        let attrs = LeaseAttrs { backend_type: "host-gw".into(), ..LeaseAttrs::new("192.0.2.2".parse().unwrap()) };
        let mut lease = Lease { key: "10.5.86.0-24".parse().unwrap(), attrs };
        let entries = backend.entries(&lease, Families::EMPTY).unwrap();
        let route = Route {
            dst: "10.5.86.0/24".parse().unwrap(),
            via: Some("192.0.2.2".parse().unwrap()),
            link: LinkIndex(2),
            onlink: false,
        };
        assert_eq!(entries, [Entry::Route(route)]);
        lease.attrs.public_ip = std::net::Ipv4Addr::UNSPECIFIED;
        assert!(backend.entries(&lease, Families::EMPTY).is_err());
        lease.attrs.backend_type = "vxlan".into();
        assert_eq!(backend.entries(&lease, Families::EMPTY), Ok(Vec::new()));
    }
}
