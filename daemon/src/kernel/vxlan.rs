//! The VTEP device `flannel.<VNI>`: adopted when it is as it should be, else re-created, with a line that says why.

use std::net::IpAddr;

use flannel_core::entry::LinkIndex;
use flannel_core::name::{IfName, Mac};
use flannel_host::netlink::{attributes, refused};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::netlink::Netlink;
use super::{Fault, KernelError};

/// The UDP port the kernel takes when none is given (`vxlan.udp_port`; the IANA port 4789 came later).
const KERNEL_PORT: u16 = 8472;

/// How the device should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanSpec {
    /// Its name.
    pub name: IfName,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port; 0 leaves it to the kernel.
    pub port: u16,
    /// Source address of the outer packets.
    pub local: IpAddr,
    /// The device the outer packets leave by.
    pub uplink: LinkIndex,
    /// Bytes of inner packet.
    pub mtu: u32,
    /// Learn addresses from received frames.
    pub learning: bool,
    /// Group-based policy extension.
    pub gbp: bool,
    /// The MAC address of a new device.
    pub mac: Mac,
}

/// The device as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan {
    /// Its number.
    pub index: LinkIndex,
    /// Its MAC address.
    pub mac: Mac,
}

/// Which MAC address an existing device may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacPolicy {
    /// Any: nobody was told one yet.
    Adopt,
    /// Only the one of the spec, which the other hosts were told.
    Insist,
}

impl Netlink {
    /// Adopts the device if it is as it should be, else changes it, or re-creates it.
    pub async fn ensure_vxlan(&self, spec: &VxlanSpec, policy: MacPolicy) -> Result<Vxlan, KernelError> {
        let mut mac = spec.mac;
        if let Some(link) = self.link(&spec.name).await? {
            let there = read(&link);
            let differences =
                there.as_ref().map_or_else(|| vec!["is not a vxlan device".to_owned()], |t| t.differ(spec));
            if let (Some(there), true) = (&there, differences.is_empty()) {
                tracing::debug!("device {} is there and as it should be", spec.name);
                if attributes::mtu(&link) != Some(spec.mtu) {
                    self.set_mtu(there.vxlan.index, spec.mtu).await?;
                }
                if there.vxlan.mac != spec.mac && policy == MacPolicy::Insist {
                    return self.give_back_mac(spec, there.vxlan).await;
                }
                return Ok(there.vxlan);
            }
            tracing::warn!("device {} {}: re-creating it", spec.name, differences.join(", "));
            // The other hosts know this address.
            mac = there.filter(|_| policy == MacPolicy::Adopt).map_or(mac, |there| there.vxlan.mac);
            self.delete_link(LinkIndex(link.header.index), &spec.name).await?;
        }
        self.create(spec, mac).await?;
        tracing::info!("made device {} with MAC {mac}", spec.name);
        let what = || format!("read back device {}", spec.name);
        let made = self.link(&spec.name).await?.as_ref().and_then(read).ok_or_else(|| KernelError {
            what: what(),
            reason: "it is not there".into(),
            fault: Fault::NotFound,
        })?;
        Ok(made.vxlan)
    }

    /// Whether the device is still the one that was made, with the MAC address the other hosts know and its MTU, and up.
    pub async fn vxlan_stands(&self, spec: &VxlanSpec, made: LinkIndex) -> Result<bool, KernelError> {
        let Some(link) = self.link(&spec.name).await? else { return Ok(false) };
        let up = link.header.flags.contains(LinkFlags::Up);
        let same_mtu = attributes::mtu(&link) == Some(spec.mtu);
        Ok(up && same_mtu && read(&link).is_some_and(|there| there.vxlan == Vxlan { index: made, mac: spec.mac }))
    }

    async fn give_back_mac(&self, spec: &VxlanSpec, there: Vxlan) -> Result<Vxlan, KernelError> {
        tracing::warn!(
            "another program gave device {} the MAC {}: setting it back to {}, which the other hosts know; keep \
             systemd-networkd and udev off it (MACAddressPolicy=none)",
            spec.name,
            there.mac,
            spec.mac
        );
        let change = LinkUnspec::new_with_index(there.index.0).address(spec.mac.0.to_vec()).build();
        let what = || format!("set the MAC of device {} to {}", spec.name, spec.mac);
        self.handle().link().set(change).execute().await.map_err(refused(what))?;
        Ok(Vxlan { mac: spec.mac, ..there })
    }

    async fn create(&self, spec: &VxlanSpec, mac: Mac) -> Result<(), KernelError> {
        let result = self.handle().link().add(message(spec, mac)).execute().await;
        result.map_err(refused(|| format!("create vxlan device {}", spec.name))).map_err(|mut error| {
            match error.fault {
                // The name is free, so it is the number.
                Fault::Exists => {
                    error.reason = format!(
                        "another vxlan device has VNI {} and the same port; delete it (`ip -d link show type vxlan` \
                         lists them) or choose another VNI",
                        spec.vni
                    );
                }
                Fault::Unsupported => error.reason.push_str(" (vxlan); choose another backend"),
                _ => {}
            }
            error
        })
    }
}

/// The attributes of docs/upstream.md, section 5.1.
fn message(spec: &VxlanSpec, mac: Mac) -> LinkMessage {
    let mut builder: LinkMessageBuilder<LinkVxlan> = LinkVxlan::new(spec.name.as_str(), spec.vni)
        .address(mac.0.to_vec())
        .mtu(spec.mtu)
        .txqueuelen(0)
        .dev(spec.uplink.0);
    builder = match spec.local {
        IpAddr::V4(ip) => builder.append_info_data(InfoVxlan::Local(ip)),
        IpAddr::V6(ip) => builder.append_info_data(InfoVxlan::Local6(ip)),
    };
    for info in [
        InfoVxlan::Ttl(0),
        InfoVxlan::Tos(0),
        InfoVxlan::Learning(spec.learning),
        InfoVxlan::Proxy(false),
        InfoVxlan::Rsc(false),
        InfoVxlan::L2Miss(false),
        InfoVxlan::L3Miss(false),
        InfoVxlan::UDPZeroCsumTX(false),
        InfoVxlan::UDPZeroCsumRX(false),
    ] {
        builder = builder.append_info_data(info);
    }
    if spec.gbp {
        builder = builder.append_info_data(InfoVxlan::Gbp);
    }
    if spec.port != 0 {
        builder = builder.port(spec.port);
    }
    builder.build()
}

struct There {
    vxlan: Vxlan,
    infos: Vec<InfoVxlan>,
}

fn read(link: &LinkMessage) -> Option<There> {
    let mut mac = None;
    let mut infos = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = Mac::from_slice(bytes),
            LinkAttribute::LinkInfo(parts) => {
                let vxlan = parts.iter().any(|p| matches!(p, LinkInfo::Kind(InfoKind::Vxlan)));
                infos = parts.iter().find_map(|p| match p {
                    LinkInfo::Data(InfoData::Vxlan(infos)) if vxlan => Some(infos.clone()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(There { vxlan: Vxlan { index: LinkIndex(link.header.index), mac: mac? }, infos: infos? })
}

impl There {
    /// In which attributes the device is not as it should be, in words.
    fn differ(&self, spec: &VxlanSpec) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, there: Option<String>, wanted: String| {
            let there = there.unwrap_or_else(|| "none".into());
            if there != wanted {
                differences.push(format!("has {what} {there} instead of {wanted}"));
            }
        };
        let find = |pick: &dyn Fn(&InfoVxlan) -> Option<String>| self.infos.iter().find_map(pick);
        let on = |yes: bool| if yes { "on" } else { "off" }.to_owned();
        compare(
            "VNI",
            find(&|i| if let InfoVxlan::Id(v) = i { Some(v.to_string()) } else { None }),
            spec.vni.to_string(),
        );
        let port = if spec.port == 0 { KERNEL_PORT } else { spec.port };
        compare(
            "port",
            find(&|i| if let InfoVxlan::Port(v) = i { Some(v.to_string()) } else { None }),
            port.to_string(),
        );
        let local = find(&|i| match i {
            InfoVxlan::Local(ip) => Some(ip.to_string()),
            InfoVxlan::Local6(ip) => Some(ip.to_string()),
            _ => None,
        });
        compare("local address", local, spec.local.to_string());
        let link = find(&|i| if let InfoVxlan::Link(v) = i { Some(v.to_string()) } else { None });
        compare("outgoing interface number", link, spec.uplink.0.to_string());
        let learning = find(&|i| if let InfoVxlan::Learning(v) = i { Some(on(*v)) } else { None });
        compare("learning", learning, on(spec.learning));
        compare("GBP", Some(on(self.infos.iter().any(|i| matches!(i, InfoVxlan::Gbp)))), on(spec.gbp));
        let external = self.infos.iter().any(|i| matches!(i, InfoVxlan::CollectMetadata(true)));
        compare("external mode", Some(on(external)), on(false));
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> VxlanSpec {
        VxlanSpec {
            name: IfName::new("flannel.1").unwrap(),
            vni: 1,
            port: 0,
            local: "192.0.2.1".parse().unwrap(),
            uplink: LinkIndex(2),
            mtu: 1450,
            learning: false,
            gbp: false,
            mac: Mac([2, 0, 0, 0, 0, 1]),
        }
    }

    fn there(spec: &VxlanSpec) -> There {
        let mut there = read(&message(spec, spec.mac)).unwrap();
        if spec.port == 0 {
            there.infos.push(InfoVxlan::Port(KERNEL_PORT));
        }
        there
    }

    #[test]
    fn a_device_made_so_is_adopted() {
        assert_eq!(there(&spec()).differ(&spec()), Vec::<String>::new());
        let special = VxlanSpec { port: 4789, gbp: true, learning: true, vni: 7, ..spec() };
        assert_eq!(there(&special).differ(&special), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_named() {
        let other = VxlanSpec {
            vni: 2,
            port: 4789,
            local: "192.0.2.2".parse().unwrap(),
            uplink: LinkIndex(3),
            learning: true,
            gbp: true,
            ..spec()
        };
        assert_eq!(
            there(&other).differ(&spec()),
            [
                "has VNI 2 instead of 1",
                "has port 4789 instead of 8472",
                "has local address 192.0.2.2 instead of 192.0.2.1",
                "has outgoing interface number 3 instead of 2",
                "has learning on instead of off",
                "has GBP on instead of off",
            ]
        );
    }
}
