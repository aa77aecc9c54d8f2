//! host-gw: a plain route to each subnet through its host, which must be on the same link. Contract, section 5.3.

use std::net::IpAddr;

use flannel_core::config::{NetworkConfig, Range};
use flannel_core::entry::{Entry, LinkIndex, Route};
use flannel_core::lease::{BadLease, Lease};

use super::{Backend, Reach};
use crate::error::Error;
use crate::kernel::Scope;
use crate::uplink::ExternalInterface;

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
        if uplink.public_ip != uplink.ip {
            return Err(Error::Setup {
                backend: "host-gw",
                reason: format!(
                    "flag -public-ip: {} is not the address of {} ({}), and hosts can route only through an address \
                     on their link; leave -public-ip out or choose vxlan or udp",
                    uplink.public_ip, uplink.name, uplink.ip
                ),
            });
        }
        Ok(Self { link: uplink.index, mtu: uplink.mtu, ranges: config.ranges().copied().collect() })
    }
}

impl Backend for HostGw {
    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn scope(&self) -> Scope {
        Scope { owned: Vec::new(), shared: Some((self.link, self.ranges.clone())) }
    }

    fn entries(&self, remote: &Lease, _: Reach) -> Result<Vec<Entry>, BadLease> {
        if remote.attrs.backend_type != "host-gw" {
            return Ok(Vec::new());
        }
        direct_routes(remote, self.link)
    }
}

/// A route to each subnet of a lease straight through its host.
pub(super) fn direct_routes(remote: &Lease, link: LinkIndex) -> Result<Vec<Entry>, BadLease> {
    let route = |dst| {
        let via: Option<IpAddr> = remote.attrs.public_ip_like(&dst);
        let via = via.ok_or_else(|| BadLease(format!("it has no public address to reach {dst} by")))?;
        Ok(Entry::Route(Route { dst, via: Some(via), link, onlink: false }))
    };
    remote.key.nets().map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flannel_core::lease::LeaseAttrs;
    use flannel_core::name::IfName;

    fn uplink(public: &str) -> ExternalInterface {
        ExternalInterface {
            index: LinkIndex(2),
            name: IfName::new("eth0").unwrap(),
            mtu: 1500,
            ip: "192.0.2.1".parse().unwrap(),
            public_ip: public.parse().unwrap(),
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
        let entries = backend.entries(&lease, Reach::Routed).unwrap();
        let route = Route {
            dst: "10.5.86.0/24".parse().unwrap(),
            via: Some("192.0.2.2".parse().unwrap()),
            link: LinkIndex(2),
            onlink: false,
        };
        assert_eq!(entries, [Entry::Route(route)]);
        lease.attrs.public_ip = std::net::Ipv4Addr::UNSPECIFIED;
        assert!(backend.entries(&lease, Reach::Routed).is_err());
        lease.attrs.backend_type = "vxlan".into();
        assert_eq!(backend.entries(&lease, Reach::Routed), Ok(Vec::new()));
    }
}
