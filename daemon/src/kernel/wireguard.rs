//! The devices of the wireguard backend and their peers: the device by rtnetlink, its keys and peers by generic
//! netlink (linux/wireguard.h), whose family number is asked for once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use flannel_core::entry::{LinkIndex, Peer};
use flannel_core::ipnet::IpNet;
use flannel_core::key::SubnetKey;
use flannel_core::name::IfName;
use flannel_core::wireguard::{PrivateKey, PublicKey};
use flannel_host::netlink::{attributes, refused};
use futures_util::StreamExt as _;
use netlink_packet_generic::GenlMessage;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use rtnetlink::LinkWireguard;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::SocketAddr as NetlinkAddr;
use rtnetlink::sys::protocols::NETLINK_GENERIC;

use super::netlink::Netlink;
use super::{Fault, KernelError};

/// How the device should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardSpec {
    /// Its name.
    pub name: IfName,
    /// Bytes of inner packet.
    pub mtu: u32,
}

/// The generic netlink socket, and the number of wireguard's family.
pub(super) struct Socket {
    handle: ConnectionHandle<GenlMessage<WireguardMessage>>,
    family: u16,
}

impl Netlink {
    /// Makes the device unless it is there. A device of that name and another kind is replaced, as upstream does.
    pub async fn ensure_wireguard(&self, spec: &WireguardSpec) -> Result<LinkIndex, KernelError> {
        if let Some(link) = self.link(&spec.name).await? {
            let index = LinkIndex(link.header.index);
            if is_wireguard(&link) {
                if attributes::mtu(&link) != Some(spec.mtu) {
                    self.set_mtu(index, spec.mtu).await?;
                }
                return Ok(index);
            }
            tracing::warn!("device {} is not a wireguard device: re-creating it", spec.name);
            self.delete_link(index, &spec.name).await?;
        }
        let result = self.handle().link().add(device_message(spec)).execute().await;
        result.map_err(refused(|| format!("create wireguard device {}", spec.name))).map_err(|mut error| {
            if error.fault == Fault::Unsupported {
                error.reason.push_str(" (wireguard); load the module wireguard or choose another backend");
            }
            error
        })?;
        tracing::info!("made device {}", spec.name);
        self.index_of_created(&spec.name).await
    }

    /// Gives a device its key and port.
    pub async fn set_wireguard(&self, link: LinkIndex, key: PrivateKey, port: u16) -> Result<(), KernelError> {
        let what = || format!("set key and port {port} of wireguard device {}", link.0);
        let attributes = vec![
            WireguardAttribute::IfIndex(link.0),
            WireguardAttribute::PrivateKey(key.0),
            WireguardAttribute::ListenPort(port),
        ];
        self.set(attributes, what).await
    }

    /// Removes a device; one that is not there is no error.
    pub async fn remove_wireguard(&self, name: &IfName) -> Result<(), KernelError> {
        match self.link(name).await? {
            Some(link) if is_wireguard(&link) => self.delete_link(LinkIndex(link.header.index), name).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn put_peer(&self, peer: &Peer) -> Result<(), KernelError> {
        self.set(put_attributes(peer), || format!("put peer {} at {}", peer.key, peer.endpoint)).await
    }

    pub(super) async fn remove_peer(&self, peer: &Peer) -> Result<(), KernelError> {
        self.set(remove_attributes(peer), || format!("remove peer {}", peer.key)).await
    }

    /// The peers of a device.
    pub async fn peers(&self, link: LinkIndex) -> Result<Vec<Peer>, KernelError> {
        let what = || format!("list the peers of wireguard device {}", link.0);
        let socket = self.socket().await?;
        let message = socket.message(WireguardCmd::GetDevice, vec![WireguardAttribute::IfIndex(link.0)]);
        let answers = request(&socket.handle, message, NLM_F_REQUEST | NLM_F_DUMP, what).await?;
        Ok(read_peers(link, answers.into_iter().flat_map(|answer| answer.payload.attributes)))
    }

    async fn set(&self, attributes: Vec<WireguardAttribute>, what: impl Fn() -> String) -> Result<(), KernelError> {
        let socket = self.socket().await?;
        let message = socket.message(WireguardCmd::SetDevice, attributes);
        request(&socket.handle, message, NLM_F_REQUEST | NLM_F_ACK, what).await.map(drop)
    }

    async fn socket(&self) -> Result<&Socket, KernelError> {
        self.wireguard.get_or_try_init(Socket::open).await
    }
}

impl Socket {
    async fn open() -> Result<Self, KernelError> {
        let what = || "find wireguard's netlink family".to_owned();
        let control = connect::<GenlMessage<GenlCtrl>>()?;
        let question = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName("wireguard".into())],
        });
        let missing = |reason: String| KernelError { what: what(), reason, fault: Fault::Unsupported };
        let answers = request(&control, question, NLM_F_REQUEST | NLM_F_ACK, what).await.map_err(|error| {
            if error.fault == Fault::NotFound { missing("this kernel lacks wireguard".into()) } else { error }
        })?;
        let attributes = answers.into_iter().flat_map(|answer| answer.payload.nlas);
        let family =
            attributes.into_iter().find_map(|a| if let GenlCtrlAttrs::FamilyId(id) = a { Some(id) } else { None });
        let family = family.ok_or_else(|| missing("the kernel gave no number".into()))?;
        Ok(Self { handle: connect()?, family })
    }

    fn message(&self, cmd: WireguardCmd, attributes: Vec<WireguardAttribute>) -> GenlMessage<WireguardMessage> {
        let mut message = GenlMessage::from_payload(WireguardMessage { cmd, attributes });
        message.set_resolved_family_id(self.family);
        message
    }
}

fn connect<T>() -> Result<ConnectionHandle<T>, KernelError>
where
    T: std::fmt::Debug + NetlinkSerializable + NetlinkDeserializable + Unpin + Send + 'static,
{
    let (connection, handle, _) = rtnetlink::proto::new_connection(NETLINK_GENERIC).map_err(|e| KernelError {
        what: "open a generic netlink socket".into(),
        reason: e.to_string(),
        fault: Fault::Other,
    })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Sends a request and collects the answers; an error among them is the result.
async fn request<T>(
    handle: &ConnectionHandle<T>,
    message: T,
    flags: u16,
    what: impl Fn() -> String,
) -> Result<Vec<T>, KernelError>
where
    T: std::fmt::Debug + NetlinkSerializable + NetlinkDeserializable,
    NetlinkPayload<T>: From<T>,
{
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.finalize();
    let sent = handle.request(message, NetlinkAddr::new(0, 0));
    let mut stream = sent.map_err(|e| KernelError { what: what(), reason: e.to_string(), fault: Fault::Other })?;
    let mut answers = Vec::new();
    while let Some(answer) = stream.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(inner) => answers.push(inner),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(refused(what)(rtnetlink::Error::NetlinkError(error)));
            }
            _ => {}
        }
    }
    Ok(answers)
}

fn device_message(spec: &WireguardSpec) -> LinkMessage {
    LinkWireguard::new(spec.name.as_str()).mtu(spec.mtu).build()
}

pub(super) fn is_wireguard(link: &LinkMessage) -> bool {
    let of_kind = |parts: &Vec<LinkInfo>| parts.iter().any(|p| matches!(p, LinkInfo::Kind(InfoKind::Wireguard)));
    link.attributes.iter().any(|a| matches!(a, LinkAttribute::LinkInfo(parts) if of_kind(parts)))
}

/// A peer as it should be, whatever it was: the allowed subnets are replaced, a key no longer shared is zeroed.
fn put_attributes(peer: &Peer) -> Vec<WireguardAttribute> {
    let nets = peer.allowed.iter().flat_map(SubnetKey::nets);
    let attributes = vec![
        WireguardPeerAttribute::PublicKey(peer.key.0),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
        WireguardPeerAttribute::PresharedKey(peer.psk.map_or([0; 32], |psk| psk.0)),
        WireguardPeerAttribute::Endpoint(peer.endpoint),
        WireguardPeerAttribute::PersistentKeepalive(peer.keepalive),
        WireguardPeerAttribute::AllowedIps(nets.map(allowed_ip).collect()),
    ];
    vec![WireguardAttribute::IfIndex(peer.link.0), WireguardAttribute::Peers(vec![WireguardPeer(attributes)])]
}

fn remove_attributes(peer: &Peer) -> Vec<WireguardAttribute> {
    let attributes = vec![
        WireguardPeerAttribute::PublicKey(peer.key.0),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
    ];
    vec![WireguardAttribute::IfIndex(peer.link.0), WireguardAttribute::Peers(vec![WireguardPeer(attributes)])]
}

fn allowed_ip(net: IpNet) -> WireguardAllowedIp {
    let family = match net {
        IpNet::V4(_) => WireguardAddressFamily::Ipv4,
        IpNet::V6(_) => WireguardAddressFamily::Ipv6,
    };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(net.network()),
        WireguardAllowedIpAttr::Cidr(net.prefix_len()),
    ])
}

/// A device with many peers is told in several messages, and a peer cut in two by that has its key in both.
fn read_peers(link: LinkIndex, attributes: impl Iterator<Item = WireguardAttribute>) -> Vec<Peer> {
    let mut peers: BTreeMap<PublicKey, (Peer, Vec<IpNet>)> = BTreeMap::new();
    let told = attributes.flat_map(|a| if let WireguardAttribute::Peers(peers) = a { peers } else { Vec::new() });
    for WireguardPeer(parts) in told {
        let key = parts.iter().find_map(|p| if let WireguardPeerAttribute::PublicKey(k) = p { Some(*k) } else { None });
        let Some(key) = key.map(PublicKey) else { continue };
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let blank = Peer { link, key, endpoint: nowhere, allowed: None, psk: None, keepalive: 0 };
        let (peer, nets) = peers.entry(key).or_insert((blank, Vec::new()));
        for part in parts {
            match part {
                WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = endpoint,
                WireguardPeerAttribute::PresharedKey(psk) => peer.psk = (psk != [0; 32]).then_some(PrivateKey(psk)),
                WireguardPeerAttribute::PersistentKeepalive(seconds) => peer.keepalive = seconds,
                WireguardPeerAttribute::AllowedIps(ips) => nets.extend(ips.iter().filter_map(read_allowed_ip)),
                _ => {}
            }
        }
    }
    peers.into_values().map(|(peer, nets)| Peer { allowed: lease_of(&nets), ..peer }).collect()
}

fn read_allowed_ip(WireguardAllowedIp(parts): &WireguardAllowedIp) -> Option<IpNet> {
    let ip: IpAddr =
        parts.iter().find_map(|p| if let WireguardAllowedIpAttr::IpAddr(ip) = p { Some(*ip) } else { None })?;
    let len = parts.iter().find_map(|p| if let WireguardAllowedIpAttr::Cidr(len) = p { Some(*len) } else { None })?;
    IpNet::new(ip, len).ok()
}

/// The lease these are the subnets of; nothing when there are more than a lease has, or none.
fn lease_of(nets: &[IpNet]) -> Option<SubnetKey> {
    let v4 = nets.iter().find_map(|net| if let IpNet::V4(net) = net { Some(*net) } else { None });
    let v6 = nets.iter().find_map(|net| if let IpNet::V6(net) = net { Some(*net) } else { None });
    SubnetKey::new(v4, v6).filter(|key| key.nets().count() == nets.len())
}

#[cfg(test)]
mod tests;
