//! vxlan: the kernel's tunnels, every destination programmed beforehand. docs/upstream.md, section 5.1.
//!
//! History of the design, as upstream tells it. First the device asked user space for unknown addresses (l2miss,
//! l3miss), which lost first packets and died with the daemon. Now each remote lease is three permanent entries, made
//! when the lease is seen: a route to its subnet through the subnet's base address, "on link" on the device; a
//! neighbour that gives this address the MAC of the remote VTEP; a forwarding record that gives this MAC the public
//! address of the remote host. So nothing is learned, nothing is flooded, and traffic goes on without the daemon.

use std::net::IpAddr;

use flannel_core::backend_config::Vxlan as Options;
use flannel_core::config::Range;
use flannel_core::entry::{Entry, LinkIndex, Route};
use flannel_core::family::{Dual, Families, Family};
use flannel_core::ipnet::IpNet;
use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, Lease, LeaseAttrs, VxlanData};
use flannel_core::name::{IfName, Mac};
use futures_util::future::LocalBoxFuture;

use super::{Attached, Backend, Context, DevicePattern, Kind, base, host_gw, setup};
use crate::error::Error;
use crate::kernel::netlink::Netlink;
use crate::kernel::vxlan::{MacPolicy, VxlanSpec};
use crate::kernel::{Fault, KernelError, Scope, offload};
use crate::uplink::ExternalInterface;
use macs::MacFiles;

mod macs;

/// Outer Ethernet (14), IP (20 or 40), UDP (8) and VXLAN (8) headers, in bytes.
fn overhead(family: Family) -> u32 {
    match family {
        Family::V4 => 50,
        Family::V6 => 70,
    }
}

/// Each family has a device of its own.
fn device_name(family: Family, vni: u32) -> String {
    match family {
        Family::V4 => format!("flannel.{vni}"),
        Family::V6 => format!("flannel-v6.{vni}"),
    }
}

/// The backend's line in the table.
pub const KIND: Kind = Kind {
    name: "vxlan",
    devices: &[
        DevicePattern { kind: "vxlan", prefix: "flannel." },
        DevicePattern { kind: "vxlan", prefix: "flannel-v6." },
    ],
    read: |fields| {
        let options = Options::read(fields);
        Box::new(move |context| {
            Box::pin(async move {
                Ok(Box::new(Prepared::new(context, &options).await.map_err(setup("vxlan"))?) as Box<dyn Backend>)
            })
        })
    },
};

/// The VTEPs as they must be, with the MAC addresses the other hosts are told.
pub struct Prepared {
    vteps: Dual<VxlanSpec>,
    uplink: LinkIndex,
    direct_routing: bool,
    tx_checksum: Option<bool>,
    made: Vec<Made>,
}

/// A device that was attached.
struct Made {
    link: LinkIndex,
    address: Option<IpNet>,
}

impl Prepared {
    /// Makes or adopts the devices, because the lease needs their MAC addresses.
    /// A device that is not there gets the MAC address of an earlier run, which [`MacFiles`] remember across reboots, so
    /// that the other hosts need not learn a new one.
    pub async fn new(context: &Context, options: &Options) -> Result<Self, KernelError> {
        let Context { kernel, uplink, .. } = context;
        let macs = MacFiles(context.state_dir.clone());
        let v4 = uplink.v4.map(|a| (Family::V4, IpAddr::V4(a.public)));
        let v6 = uplink.v6.map(|a| (Family::V6, IpAddr::V6(a.public)));
        let mut vteps = Dual::EMPTY;
        for (family, local) in v4.into_iter().chain(v6) {
            let mut spec = spec(family, options, uplink, local)?;
            let remembered = macs.read(&spec.name, local);
            spec.mac = remembered.unwrap_or(spec.mac);
            let there = kernel.ensure_vxlan(&spec, MacPolicy::Adopt).await?.mac;
            if there != spec.mac {
                tracing::info!("device {} of an earlier run keeps its MAC {there}", spec.name);
                spec.mac = there;
            }
            if remembered != Some(there) {
                macs.write(&spec.name, local, there);
            }
            vteps.set(family, spec);
        }
        Ok(Self {
            vteps,
            uplink: uplink.index,
            direct_routing: options.direct_routing,
            tx_checksum: context.tx_checksum,
            made: Vec::new(),
        })
    }

    /// What the lease says about the VTEP of a family.
    fn data(&self, family: Family) -> Option<VxlanData> {
        let spec = self.vteps.get(family)?;
        Some(VxlanData { vni: spec.vni, vtep_mac: spec.mac })
    }

    /// Gives the devices their addresses; makes them again, with the same MAC, if they were lost.
    async fn attach(&mut self, context: &Context, lease: SubnetKey) -> Result<Vxlan, KernelError> {
        let Context { kernel, config, .. } = context;
        let mut links = Dual::EMPTY;
        self.made.clear();
        for (family, spec) in self.vteps.iter() {
            let device = kernel.ensure_vxlan(spec, MacPolicy::Insist).await?;
            accept_no_router_advertisements(&spec.name);
            if let Some(on) = self.tx_checksum {
                offload::set_tx_checksum(&spec.name, on).await?;
            }
            let mut made = Made { link: device.index, address: None };
            if let Some(range) = config.ranges.get(family)
                && let Some(subnet) = lease.net(family)
            {
                kernel.ensure_address(device.index, base(subnet), range.network).await?;
                made.address = Some(base(subnet));
            }
            links.set(family, device.index);
            self.made.push(made);
        }
        Ok(Vxlan {
            links,
            uplink: self.uplink,
            // Containers have one MTU for both families, so the smaller device decides.
            mtu: self.vteps.values().map(|spec| spec.mtu).min().unwrap_or_default(),
            ranges: config.ranges.values().copied().collect(),
            direct: self.direct_routing,
        })
    }
}

impl Prepared {
    /// Whether the devices are still those of the last attaching, with the MAC addresses the other hosts know and with
    /// their own addresses.
    async fn is_intact(&self, kernel: &Netlink) -> Result<bool, KernelError> {
        for (spec, made) in self.vteps.values().zip(&self.made) {
            if !kernel.vxlan_stands(spec, made.link).await? {
                return Ok(false);
            }
            if let Some(address) = made.address
                && !kernel.has_address(made.link, address).await?
            {
                return Ok(false);
            }
        }
        // An attaching that failed half-way is to be repeated.
        Ok(self.made.len() == self.vteps.values().count())
    }
}

fn spec(
    family: Family,
    options: &Options,
    uplink: &ExternalInterface,
    local: IpAddr,
) -> Result<VxlanSpec, KernelError> {
    let name = device_name(family, options.vni);
    let (outer, overhead) = (options.mtu.unwrap_or(uplink.mtu), overhead(family));
    let mtu = outer.checked_sub(overhead).filter(|mtu| *mtu >= 68).ok_or_else(|| KernelError {
        what: format!("choose an MTU for {name}"),
        reason: format!("{outer} bytes leave no room behind {overhead} bytes of headers; set Backend.MTU"),
        fault: Fault::Other,
    })?;
    Ok(VxlanSpec {
        name: IfName::new(name).map_err(|e| KernelError {
            what: "name the vxlan device".into(),
            reason: format!("{e}; choose a shorter Backend.VNI"),
            fault: Fault::Other,
        })?,
        vni: options.vni,
        port: options.port,
        local,
        uplink: uplink.index,
        mtu,
        learning: options.learning,
        gbp: options.gbp,
        mac: Mac::random(&mut fastrand::Rng::new()),
    })
}

/// As upstream: nothing on the overlay may configure the host. In a container /proc/sys is often read-only, and then
/// the host's own setting stays in force.
fn accept_no_router_advertisements(name: &IfName) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
    if let Err(error) = std::fs::write(&path, "0") {
        tracing::debug!("can't write 0 to {path}: {error}");
    }
}

impl Backend for Prepared {
    fn attrs(&self, plain: LeaseAttrs) -> LeaseAttrs {
        LeaseAttrs {
            backend_type: "vxlan".into(),
            backend_data: self.data(Family::V4).map(VxlanData::to_json),
            backend_v6_data: self.data(Family::V6).map(VxlanData::to_json),
            ..plain
        }
    }

    fn attach<'a>(
        &'a mut self,
        context: &'a Context,
        lease: SubnetKey,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Attached>, Error>> {
        Box::pin(async move {
            Ok(Box::new(self.attach(context, lease).await.map_err(setup("vxlan"))?) as Box<dyn Attached>)
        })
    }

    fn is_intact<'a>(&'a self, kernel: &'a Netlink) -> LocalBoxFuture<'a, Result<bool, KernelError>> {
        Box::pin(self.is_intact(kernel))
    }
}

/// The backend with its lease.
#[derive(Debug, Clone)]
pub struct Vxlan {
    links: Dual<LinkIndex>,
    uplink: LinkIndex,
    mtu: u32,
    /// The ranges whose subnets have routes on the external interface with DirectRouting, or may have them still from
    /// an earlier run with host-gw.
    ranges: Vec<Range>,
    direct: bool,
}

impl Vxlan {
    fn entries_of(&self, remote: &Lease, subnet: IpNet, link: LinkIndex) -> Result<Vec<Entry>, BadLease> {
        let data = remote.attrs.required_data(subnet)?;
        let VxlanData { vtep_mac: mac, .. } = VxlanData::from_json(data)?;
        let dst = remote.attrs.public(&subnet);
        let dst = dst.ok_or_else(|| BadLease(format!("it has no public address to reach {subnet} by")))?;
        let gateway = subnet.network();
        Ok(vec![
            Entry::Neigh { link, ip: gateway, mac },
            Entry::Fdb { link, mac, dst },
            Entry::Route(Route { dst: subnet, via: Some(gateway), link, onlink: true }),
        ])
    }
}

impl Attached for Vxlan {
    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn scope(&self) -> Scope {
        let owned = self.links.values().copied().collect();
        Scope { owned, shared: Some((self.uplink, self.ranges.clone())) }
    }

    fn needs_reach(&self) -> bool {
        self.direct
    }

    /// A lease may have fewer families than we, or more: what both have is connected.
    fn entries(&self, remote: &Lease, on_link: Families) -> Result<Vec<Entry>, BadLease> {
        if remote.attrs.backend_type != "vxlan" {
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        for subnet in remote.key.nets() {
            let Some(link) = self.links.get(subnet) else { continue };
            if self.direct && on_link.has(subnet) {
                entries.push(host_gw::direct_route(remote, subnet, self.uplink)?);
            } else {
                entries.extend(self.entries_of(remote, subnet, *link)?);
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4_ONLY: &str = "10.5.89.0-24";
    const DUAL: &str = "10.5.51.0-24&fd00:5:0:2::-64";

    fn backend(families: Families, direct: bool) -> Vxlan {
        let links = families.map(|family, ()| LinkIndex(if family == Family::V4 { 4 } else { 6 }));
        Vxlan { links, uplink: LinkIndex(2), mtu: 1450, ranges: Vec::new(), direct }
    }

    /// parity: daemon/tests/vectors/recorded/dualstack-vxlan/etcd-get-prefix.txt
    fn lease(key: &str) -> Lease {
        let attrs = LeaseAttrs::from_json(
            r#"{"PublicIP":"172.31.77.2","PublicIPv6":"fd77::2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"ee:a3:03:81:c8:12"},"BackendV6Data":{"VNI":1,"VtepMAC":"f6:af:d1:cb:60:a3"}}"#,
        );
        Lease { key: key.parse().unwrap(), attrs: attrs.unwrap() }
    }

    fn texts(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(ToString::to_string).collect()
    }

    // parity: daemon/tests/vectors/recorded/vxlan/n1/{ip-neigh,bridge-fdb,ip-route}.txt
    #[test]
    fn a_lease_is_a_neighbour_a_forwarding_record_and_a_route() {
        let on_link = Families::BOTH;
        let entries = backend(Families::V4, false).entries(&lease(V4_ONLY), on_link).unwrap();
        assert_eq!(
            texts(&entries),
            [
                "neighbour 10.5.89.0 at ee:a3:03:81:c8:12",
                "FDB record ee:a3:03:81:c8:12 to 172.31.77.2",
                "route 10.5.89.0/24 via 10.5.89.0"
            ]
        );
        assert!(matches!(entries[2], Entry::Route(Route { onlink: true, link: LinkIndex(4), .. })));
    }

    // parity: daemon/tests/vectors/recorded/dualstack-vxlan/n1/{ip-6-neigh,bridge-fdb,ip-6-route}.txt
    #[test]
    fn both_families_are_connected_where_both_hosts_have_them() {
        let entries = backend(Families::BOTH, false).entries(&lease(DUAL), Families::EMPTY).unwrap();
        assert_eq!(
            texts(&entries)[3..],
            [
                "neighbour fd00:5:0:2:: at f6:af:d1:cb:60:a3",
                "FDB record f6:af:d1:cb:60:a3 to fd77::2",
                "route fd00:5:0:2::/64 via fd00:5:0:2::"
            ]
        );
        assert!(matches!(entries[5], Entry::Route(Route { onlink: true, link: LinkIndex(6), .. })));
        assert_eq!(backend(Families::BOTH, false).entries(&lease(V4_ONLY), Families::EMPTY).unwrap().len(), 3);
        assert_eq!(backend(Families::V4, false).entries(&lease(DUAL), Families::EMPTY).unwrap().len(), 3);
    }

    #[test]
    fn direct_routing_takes_plain_routes_on_the_same_link() {
        let direct = backend(Families::BOTH, true);
        let v4_only = Families::V4;
        let entries = direct.entries(&lease(DUAL), v4_only).unwrap();
        assert_eq!(texts(&entries)[0], "route 10.5.51.0/24 via 172.31.77.2");
        assert_eq!(entries.len(), 4);
        assert_eq!(direct.entries(&lease(V4_ONLY), Families::EMPTY).unwrap().len(), 3);
    }

    #[test]
    fn bad_leases_say_why_and_other_backends_are_passed_over() {
        let mut lease = lease(V4_ONLY);
        lease.attrs.backend_data = None;
        let backend = backend(Families::V4, false);
        assert_eq!(backend.entries(&lease, Families::EMPTY).unwrap_err().0, "BackendData is missing");
        lease.attrs.backend_type = "host-gw".into();
        assert_eq!(backend.entries(&lease, Families::EMPTY), Ok(Vec::new()));
    }
}
