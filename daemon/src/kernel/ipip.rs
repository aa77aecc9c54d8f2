//! The device of the ipip backend: a tunnel without a remote end, each route's gateway is where its packets go.

use std::net::{IpAddr, Ipv4Addr};

use flannel_core::entry::LinkIndex;
use flannel_core::name::IfName;
use flannel_host::netlink::{attributes, refused};
use rtnetlink::packet_route::IpProtocol;
use rtnetlink::packet_route::link::{InfoData, InfoIpTunnel, InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::{LinkIpIp, LinkMessageBuilder};

use super::netlink::Netlink;
use super::{Fault, KernelError};

/// How the device should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpipSpec {
    /// Its name.
    pub name: IfName,
    /// Source address of the outer packets.
    pub local: Ipv4Addr,
    /// Bytes of inner packet.
    pub mtu: u32,
}

impl Netlink {
    /// Adopts the device if it is as it should be, else makes it. A device of another kind is somebody else's and not
    /// touched.
    pub async fn ensure_ipip(&self, spec: &IpipSpec) -> Result<LinkIndex, KernelError> {
        let what = || format!("create ipip device {}", spec.name);
        if let Some(link) = self.link(&spec.name).await? {
            let index = LinkIndex(link.header.index);
            let Some(infos) = tunnel(&link) else {
                return Err(KernelError {
                    what: what(),
                    reason: format!(
                        "a device of this name is there and no ipip tunnel; remove it (`ip link del {}`) and start \
                         again",
                        spec.name
                    ),
                    fault: Fault::Exists,
                });
            };
            let differences = differ(infos, spec);
            if differences.is_empty() {
                tracing::debug!("device {} is there and as it should be", spec.name);
                if attributes::mtu(&link) != Some(spec.mtu) {
                    self.set_mtu(index, spec.mtu).await?;
                }
                return Ok(index);
            }
            tracing::warn!("device {} {}: re-creating it", spec.name, differences.join(", "));
            self.delete_link(index, &spec.name).await?;
        }
        let result = self.handle().link().add(message(spec)).execute().await;
        result.map_err(refused(what)).map_err(|mut error| {
            match error.fault {
                // The name is free, so it is the addresses.
                Fault::Exists => {
                    error.reason = format!(
                        "another ipip tunnel has the local address {} and no remote one; remove it (`ip -d link show \
                         type ipip` lists them) or choose another backend",
                        spec.local
                    );
                }
                Fault::Unsupported => error.reason.push_str(" (ipip); load the module ipip or choose another backend"),
                _ => {}
            }
            error
        })?;
        tracing::info!("made device {}", spec.name);
        self.index_of_created(&spec.name).await
    }
}

/// As upstream: no remote end, TTL and TOS of the inner packet, no path MTU discovery of its own.
fn message(spec: &IpipSpec) -> LinkMessage {
    let builder: LinkMessageBuilder<LinkIpIp> = LinkIpIp::new(spec.name.as_str());
    builder.mtu(spec.mtu).local(spec.local).ttl(0).tos(0).protocol(IpProtocol::Ipip).pmtudisc(false).build()
}

/// The attributes of an ipip tunnel; nothing for another kind of device.
pub(super) fn tunnel(link: &LinkMessage) -> Option<&[InfoIpTunnel]> {
    let parts = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::LinkInfo(parts) => Some(parts),
        _ => None,
    })?;
    parts.iter().any(|p| matches!(p, LinkInfo::Kind(InfoKind::IpIp))).then_some(())?;
    parts.iter().find_map(|p| match p {
        LinkInfo::Data(InfoData::IpTunnel(infos)) => Some(infos.as_slice()),
        _ => None,
    })
}

/// In which attributes the device is not as it should be, in words.
fn differ(infos: &[InfoIpTunnel], spec: &IpipSpec) -> Vec<String> {
    let find = |pick: &dyn Fn(&InfoIpTunnel) -> Option<String>| infos.iter().find_map(pick);
    let set = |ip: &IpAddr| (!ip.is_unspecified()).then(|| ip.to_string());
    let local = find(&|i| if let InfoIpTunnel::Local(ip) = i { set(ip) } else { None });
    let remote = find(&|i| if let InfoIpTunnel::Remote(ip) = i { set(ip) } else { None });
    let mode = find(&|i| match i {
        InfoIpTunnel::Protocol(protocol) => Some(u8::from(*protocol).to_string()),
        _ => None,
    });
    let link = find(&|i| match i {
        InfoIpTunnel::Link(index) if *index != 0 => Some(index.to_string()),
        _ => None,
    });
    let external = infos.iter().any(|i| matches!(i, InfoIpTunnel::CollectMetadata));
    let parts = [
        ("local address", local, Some(spec.local.to_string())),
        ("remote address", remote, None),
        ("inner protocol", mode, Some(u8::from(IpProtocol::Ipip).to_string())),
        ("outgoing interface number", link, None),
        ("external mode", external.then(|| "on".to_owned()), None),
    ];
    let none = || "none".to_owned();
    let differing = parts.into_iter().filter(|(_, there, wanted)| there != wanted);
    differing
        .map(|(what, there, wanted)| {
            format!("has {what} {} instead of {}", there.unwrap_or_else(none), wanted.unwrap_or_else(none))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_core::Emitable as _;

    fn spec() -> IpipSpec {
        IpipSpec { name: IfName::new("flannel.ipip").unwrap(), local: "192.0.2.1".parse().unwrap(), mtu: 1480 }
    }

    /// The request as sent, checked by hand against the attributes that
    /// `ip link add flannel.ipip mtu 1480 type ipip local 192.0.2.1 mode ipip nopmtudisc` sends (strace).
    #[test]
    fn the_request_byte_for_byte() {
        let message = message(&spec());
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let (header, attributes) = bytes.split_at(16);
        assert_eq!(header, [0; 16], "no family, type, index or flags are asked for");
        let name = [&[0x11, 0, 3, 0][..], b"flannel.ipip\0\0\0\0"].concat();
        let mtu = [8, 0, 4, 0, 0xc8, 5, 0, 0];
        // With its final NUL, which `ip` leaves out and the kernel takes either way.
        let kind = [&[9, 0, 1, 0][..], b"ipip\0\0\0\0"].concat();
        let local = [8, 0, 2, 0, 192, 0, 2, 1];
        let (ttl, tos) = ([5, 0, 4, 0, 0, 0, 0, 0], [5, 0, 5, 0, 0, 0, 0, 0]);
        let (protocol, pmtudisc) = ([5, 0, 9, 0, 4, 0, 0, 0], [5, 0, 10, 0, 0, 0, 0, 0]);
        let data = [&[0x2c, 0, 2, 0][..], &local, &ttl, &tos, &protocol, &pmtudisc].concat();
        let info = [&[0x3c, 0, 0x12, 0][..], &kind, &data].concat();
        let mut rest = attributes.to_vec();
        for expected in [name, mtu.to_vec(), info] {
            let at = rest.windows(expected.len()).position(|w| w == expected);
            let at = at.unwrap_or_else(|| panic!("{expected:x?} is not in {rest:x?}"));
            rest.drain(at..at + expected.len());
        }
        assert_eq!(rest, [0; 0], "and nothing else");
    }

    #[test]
    fn a_device_made_so_is_adopted_and_every_difference_is_named() {
        let made = |spec: &IpipSpec| tunnel(&message(spec)).unwrap().to_vec();
        assert_eq!(differ(&made(&spec()), &spec()), [""; 0]);
        // The kernel also tells what was left at zero.
        let mut told = made(&spec());
        told.extend([InfoIpTunnel::Remote(Ipv4Addr::UNSPECIFIED.into()), InfoIpTunnel::Link(0)]);
        assert_eq!(differ(&told, &spec()), [""; 0]);
        let mut other = made(&IpipSpec { local: "192.0.2.2".parse().unwrap(), ..spec() });
        other.extend([InfoIpTunnel::Remote("192.0.2.9".parse().unwrap()), InfoIpTunnel::CollectMetadata]);
        assert_eq!(
            differ(&other, &spec()),
            [
                "has local address 192.0.2.2 instead of 192.0.2.1",
                "has remote address 192.0.2.9 instead of none",
                "has external mode on instead of none",
            ]
        );
        let bridge: LinkMessage = rtnetlink::LinkBridge::new("flannel.ipip").build();
        assert!(tunnel(&bridge).is_none());
    }
}
