//! vxlan: the kernel's tunnels, every destination programmed beforehand. Contract, section 5.1.
//!
//! History of the design, as upstream tells it. First the device asked user space for unknown addresses (l2miss,
//! l3miss), which lost first packets and died with the daemon. Now each remote lease is three permanent entries, made
//! when the lease is seen: a route to its subnet through the subnet's base address, "on link" on the device; a
//! neighbour that gives this address the MAC of the remote VTEP; a forwarding record that gives this MAC the public
//! address of the remote host. So nothing is learned, nothing is flooded, and traffic goes on without the daemon.

use flannel_core::backend_config::Vxlan as Options;
use flannel_core::config::{NetworkConfig, Range};
use flannel_core::entry::{Entry, LinkIndex, Route};
use flannel_core::ipnet::IpNet;
use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, Lease, VxlanData};
use flannel_core::name::{IfName, Mac};

use super::{Backend, Reach, base, host_gw};
use crate::kernel::netlink::Netlink;
use crate::kernel::vxlan::VxlanSpec;
use crate::kernel::{Fault, KernelError, Scope};
use crate::uplink::ExternalInterface;

/// Outer Ethernet (14), IPv4 (20), UDP (8) and VXLAN (8) headers, in bytes.
const OVERHEAD: u32 = 50;

/// The VTEP as it must be, with the MAC address the other hosts are told.
pub struct Prepared {
    spec: VxlanSpec,
    direct_routing: bool,
}

impl Prepared {
    /// Makes or adopts the device, because the lease needs its MAC address.
    pub async fn new(kernel: &Netlink, options: &Options, uplink: &ExternalInterface) -> Result<Self, KernelError> {
        let name = format!("flannel.{}", options.vni);
        let outer = options.mtu.unwrap_or(uplink.mtu);
        let mtu = outer.checked_sub(OVERHEAD).filter(|mtu| *mtu >= 68).ok_or_else(|| KernelError {
            what: format!("choose an MTU for {name}"),
            reason: format!("{outer} bytes leave no room behind {OVERHEAD} bytes of headers; set Backend.MTU"),
            fault: Fault::Other,
        })?;
        let mut spec = VxlanSpec {
            // "flannel." and at most 8 digits: 16777215 is the largest VNI, 16 bytes would be too long.
            name: IfName::new(name).map_err(|e| KernelError {
                what: "name the vxlan device".into(),
                reason: format!("{e}; choose a Backend.VNI of at most 7 digits"),
                fault: Fault::Other,
            })?,
            vni: options.vni,
            port: options.port,
            local: uplink.public_ip.into(),
            uplink: uplink.index,
            mtu,
            learning: options.learning,
            gbp: options.gbp,
            mac: Mac::random(&mut fastrand::Rng::new()),
        };
        let there = kernel.ensure_vxlan(&spec).await?.mac;
        if there != spec.mac {
            tracing::info!("device {} of an earlier run keeps its MAC {there}", spec.name);
            spec.mac = there;
        }
        Ok(Self { spec, direct_routing: options.direct_routing })
    }

    /// What the lease says about this VTEP.
    pub fn data(&self) -> VxlanData {
        VxlanData { vni: self.spec.vni, vtep_mac: self.spec.mac }
    }

    /// Gives the device its address; makes it again, with the same MAC, if it was lost.
    pub async fn attach(
        &self,
        kernel: &Netlink,
        config: &NetworkConfig,
        lease: SubnetKey,
    ) -> Result<Vxlan, KernelError> {
        let device = kernel.ensure_vxlan(&self.spec).await?;
        accept_no_router_advertisements(&self.spec.name);
        for range in config.ranges() {
            let subnet = lease.net_like(&range.network);
            if let Some(subnet) = subnet {
                kernel.ensure_address(device.index, base(subnet), range.network).await?;
            }
        }
        Ok(Vxlan {
            link: device.index,
            uplink: self.spec.uplink,
            mtu: self.spec.mtu,
            direct: self.direct_routing.then(|| config.ranges().copied().collect()),
        })
    }
}

/// As upstream: nothing on the overlay may configure the host. In a container /proc/sys is often read-only, and then
/// the host's own setting stays in force.
fn accept_no_router_advertisements(name: &IfName) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
    if let Err(error) = std::fs::write(&path, "0") {
        tracing::debug!("can't write 0 to {path}: {error}");
    }
}

/// The backend at work.
#[derive(Debug, Clone)]
pub struct Vxlan {
    link: LinkIndex,
    uplink: LinkIndex,
    mtu: u32,
    /// With DirectRouting, the ranges whose subnets may be routed on the external interface.
    direct: Option<Vec<Range>>,
}

impl Backend for Vxlan {
    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn scope(&self) -> Scope {
        Scope { owned: vec![self.link], shared: self.direct.clone().map(|ranges| (self.uplink, ranges)) }
    }

    fn wants_reach(&self) -> bool {
        self.direct.is_some()
    }

    fn entries(&self, remote: &Lease, reach: Reach) -> Result<Vec<Entry>, BadLease> {
        let attrs = &remote.attrs;
        if attrs.backend_type != "vxlan" {
            return Ok(Vec::new());
        }
        if self.direct.is_some() && reach == Reach::OnLink {
            return host_gw::direct_routes(remote, self.uplink);
        }
        // The IPv6 side has a device and data of its own.
        let Some(subnet) = remote.key.v4().map(IpNet::V4) else { return Ok(Vec::new()) };
        let data = attrs.backend_data.as_deref().ok_or_else(|| BadLease("BackendData is missing".into()))?;
        let VxlanData { vtep_mac: mac, .. } = VxlanData::from_json(data)?;
        let dst = attrs.public_ip_like(&subnet).ok_or_else(|| BadLease("PublicIP is missing".into()))?;
        let (link, gateway) = (self.link, subnet.network());
        Ok(vec![
            Entry::Neigh { link, ip: gateway, mac },
            Entry::Fdb { link, mac, dst },
            Entry::Route(Route { dst: subnet, via: Some(gateway), link, onlink: true }),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flannel_core::lease::LeaseAttrs;

    fn backend(direct: bool) -> Vxlan {
        Vxlan { link: LinkIndex(9), uplink: LinkIndex(2), mtu: 1450, direct: direct.then(Vec::new) }
    }

    fn lease() -> Lease {
        let attrs = LeaseAttrs::from_json(
            r#"{"PublicIP":"172.31.77.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"ee:a3:03:81:c8:12"}}"#,
        );
        Lease { key: "10.5.89.0-24".parse().unwrap(), attrs: attrs.unwrap() }
    }

    fn texts(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(ToString::to_string).collect()
    }

    // parity: goldens/vxlan/n1/{ip-neigh,bridge-fdb,ip-route}.txt
    #[test]
    fn a_lease_is_a_neighbour_a_forwarding_record_and_a_route() {
        let entries = backend(false).entries(&lease(), Reach::OnLink).unwrap();
        assert_eq!(
            texts(&entries),
            [
                "neighbour 10.5.89.0 at ee:a3:03:81:c8:12",
                "FDB record ee:a3:03:81:c8:12 to 172.31.77.2",
                "route 10.5.89.0/24 via 10.5.89.0"
            ]
        );
        assert!(matches!(entries[2], Entry::Route(Route { onlink: true, link: LinkIndex(9), .. })));
    }

    #[test]
    fn direct_routing_takes_plain_routes_on_the_same_link() {
        let entries = backend(true).entries(&lease(), Reach::OnLink).unwrap();
        assert_eq!(texts(&entries), ["route 10.5.89.0/24 via 172.31.77.2"]);
        assert_eq!(backend(true).entries(&lease(), Reach::Routed).unwrap().len(), 3);
    }

    #[test]
    fn bad_leases_say_why_and_other_backends_are_passed_over() {
        let mut lease = lease();
        lease.attrs.backend_data = None;
        assert_eq!(backend(false).entries(&lease, Reach::Routed).unwrap_err().0, "BackendData is missing");
        lease.attrs.backend_type = "host-gw".into();
        assert_eq!(backend(false).entries(&lease, Reach::Routed), Ok(Vec::new()));
    }
}
