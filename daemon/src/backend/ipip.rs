//! ipip: IPv4 packets in IPv4 packets by the kernel. docs/upstream.md, section 5.5.
//!
//! One device without a remote end; a remote lease is a route through its host's public address, "on link" on the
//! device, which takes that gateway for the end of the tunnel. With DirectRouting, hosts of the same link get a plain
//! route on the external interface instead.

use std::net::{IpAddr, Ipv4Addr};

use flannel_core::backend_config::Ipip as Options;
use flannel_core::config::Range;
use flannel_core::entry::{Entry, LinkIndex, Route};
use flannel_core::family::Families;
use flannel_core::ipnet::IpNet;
use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, Lease, LeaseAttrs};
use flannel_core::name::IfName;
use futures_util::future::LocalBoxFuture;

use super::{Attached, Backend, Context, DevicePattern, Kind, base, host_gw, setup};
use crate::error::Error;
use crate::kernel::ipip::IpipSpec;
use crate::kernel::netlink::Netlink;
use crate::kernel::{KernelError, Scope};

const NAME: &str = "flannel.ipip";
/// The outer IPv4 header, in bytes.
const OVERHEAD: u32 = 20;

/// The backend's line in the table.
pub const KIND: Kind = Kind {
    name: "ipip",
    devices: &[DevicePattern { kind: "ipip", prefix: NAME }],
    read: |fields| {
        let options = Options::read(fields);
        Box::new(move |context| {
            Box::pin(async move { Ok(Box::new(Prepared::new(context, &options).await?) as Box<dyn Backend>) })
        })
    },
};

/// The device as it must be.
pub struct Prepared {
    spec: IpipSpec,
    uplink: LinkIndex,
    direct_routing: bool,
    /// The device of the last attaching, with its address.
    made: Option<(LinkIndex, IpNet)>,
}

impl Prepared {
    /// Makes or adopts the device, before the lease: a kernel without ipip is no reason to leave a lease behind.
    pub async fn new(Context { kernel, uplink, .. }: &Context, options: &Options) -> Result<Self, Error> {
        let fail = |reason: String| Error::Setup { backend: "ipip", reason };
        let v4 = uplink
            .v4
            .ok_or_else(|| fail("it carries IPv4 only: switch EnableIPv4 on or choose vxlan or wireguard".into()))?;
        if uplink.v6.is_some() {
            tracing::warn!("backend ipip carries IPv4 only: the IPv6 subnets of this network stay unconnected");
        }
        let name = IfName::new(NAME).map_err(|e| fail(e.to_string()))?;
        let spec = IpipSpec { name, local: v4.own, mtu: uplink.mtu.saturating_sub(OVERHEAD) };
        kernel.ensure_ipip(&spec).await.map_err(setup("ipip"))?;
        Ok(Self { spec, uplink: uplink.index, direct_routing: options.direct_routing, made: None })
    }

    /// Gives the device its address; makes it again if it was lost.
    async fn attach(&mut self, Context { kernel, config, .. }: &Context, lease: SubnetKey) -> Result<Ipip, Error> {
        let (Some(range), Some(subnet)) = (config.ranges.v4, lease.v4()) else {
            return Err(Error::Setup { backend: "ipip", reason: "the lease has no IPv4 subnet".into() });
        };
        let address = base(subnet.into());
        let link = kernel.ensure_ipip(&self.spec).await.map_err(setup("ipip"))?;
        kernel.ensure_address(link, address, range.network).await.map_err(setup("ipip"))?;
        self.made = Some((link, address));
        Ok(Ipip { link, uplink: self.uplink, mtu: self.spec.mtu, range, direct: self.direct_routing })
    }

    /// Whether the device is still that of the last attaching.
    async fn is_intact(&self, kernel: &Netlink) -> Result<bool, KernelError> {
        let Some((link, address)) = self.made else { return Ok(false) };
        Ok(kernel.device_is_intact(&self.spec.name, link).await? && kernel.has_address(link, address).await?)
    }
}

impl Backend for Prepared {
    fn attrs(&self, plain: LeaseAttrs) -> LeaseAttrs {
        LeaseAttrs { backend_type: "ipip".into(), ..plain }
    }

    fn attach<'a>(
        &'a mut self,
        context: &'a Context,
        lease: SubnetKey,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Attached>, Error>> {
        Box::pin(async move { Ok(Box::new(self.attach(context, lease).await?) as Box<dyn Attached>) })
    }

    fn is_intact<'a>(&'a self, kernel: &'a Netlink) -> LocalBoxFuture<'a, Result<bool, KernelError>> {
        Box::pin(self.is_intact(kernel))
    }
}

/// The backend with its lease.
#[derive(Debug, Clone)]
pub struct Ipip {
    link: LinkIndex,
    uplink: LinkIndex,
    mtu: u32,
    range: Range,
    /// DirectRouting.
    direct: bool,
}

impl Attached for Ipip {
    fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Routes on the external interface are those of DirectRouting, or of an earlier run with host-gw.
    fn scope(&self) -> Scope {
        Scope { owned: vec![self.link], shared: Some((self.uplink, vec![self.range])) }
    }

    fn needs_reach(&self) -> bool {
        self.direct
    }

    fn entries(&self, remote: &Lease, on_link: Families) -> Result<Vec<Entry>, BadLease> {
        let Some(subnet) = remote.key.v4().filter(|_| remote.attrs.backend_type == "ipip") else {
            return Ok(Vec::new());
        };
        let dst = IpNet::V4(subnet);
        if self.direct && on_link.has(dst) {
            return Ok(vec![host_gw::direct_route(remote, dst, self.uplink)?]);
        }
        let via = remote.attrs.public_ip;
        if via == Ipv4Addr::UNSPECIFIED {
            return Err(BadLease("PublicIP is missing".into()));
        }
        Ok(vec![Entry::Route(Route { dst, via: Some(IpAddr::V4(via)), link: self.link, onlink: true })])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flannel_core::config::NetworkConfig;

    fn backend(direct: bool) -> Ipip {
        let range = NetworkConfig::parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap().ranges.v4.unwrap();
        Ipip { link: LinkIndex(4), uplink: LinkIndex(2), mtu: 1480, range, direct }
    }

    fn lease(value: &str) -> Lease {
        Lease { key: "10.5.86.0-24".parse().unwrap(), attrs: LeaseAttrs::from_json(value).unwrap() }
    }

    const REMOTE: &str = r#"{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"ipip"}"#;

    fn route(link: u32, onlink: bool) -> Entry {
        let via = Some("192.0.2.2".parse().unwrap());
        Entry::Route(Route { dst: "10.5.86.0/24".parse().unwrap(), via, link: LinkIndex(link), onlink })
    }

    #[test]
    fn a_lease_is_a_route_into_the_tunnel() {
        let on_link = Families::V4;
        let entries = backend(false).entries(&lease(REMOTE), on_link).unwrap();
        assert_eq!(entries, [route(4, true)]);
        assert_eq!(backend(false).scope().owned, [LinkIndex(4)]);
    }

    #[test]
    fn direct_routing_takes_a_plain_route_on_the_same_link() {
        let direct = backend(true);
        assert!(direct.needs_reach());
        let on_link = Families::V4;
        assert_eq!(direct.entries(&lease(REMOTE), on_link).unwrap(), [route(2, false)]);
        assert_eq!(direct.entries(&lease(REMOTE), Families::EMPTY).unwrap(), [route(4, true)]);
        assert!(direct.scope().shared.is_some_and(|(link, _)| link == LinkIndex(2)));
    }

    #[test]
    fn bad_leases_say_why_and_other_backends_are_passed_over() {
        let nowhere = lease(r#"{"PublicIPv6":null,"BackendType":"ipip"}"#);
        assert_eq!(backend(false).entries(&nowhere, Families::EMPTY), Err(BadLease("PublicIP is missing".into())));
        let other = lease(r#"{"PublicIP":"192.0.2.2","BackendType":"host-gw"}"#);
        assert_eq!(backend(false).entries(&other, Families::EMPTY), Ok(Vec::new()));
    }
}
