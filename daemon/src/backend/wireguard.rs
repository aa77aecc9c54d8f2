//! wireguard: the kernel's encrypted tunnels. docs/upstream.md, section 5.5.
//!
//! A device for each family (mode separate) or one for both. All hosts' devices make a mesh: a remote lease is a peer,
//! known by its public key, reached at its public address, with its subnets behind it. The routes are the same
//! whatever leases there are: the whole network goes into the device, which knows the peer by the destination. They
//! leave the own subnet out, as the udp backend's do and for the same reason.
//!
//! Unlike the other backends' devices, these end with the daemon when it is told to end, as upstream has it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use flannel_core::backend_config::{Mode, Wireguard as Options};
use flannel_core::config::Range;
use flannel_core::entry::{Entry, LinkIndex, Peer, Route};
use flannel_core::family::{Dual, Families, Family};
use flannel_core::ipnet::IpNet;
use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, Lease, LeaseAttrs};
use flannel_core::name::IfName;
use flannel_core::net::without;
use flannel_core::wireguard::{PrivateKey, PublicKey, WireguardData};
use futures_util::future::LocalBoxFuture;

use super::{Attached, Backend, Context, DevicePattern, Kind, base, setup};
use crate::data_plane::DataPlane;
use crate::error::Error;
use crate::kernel::netlink::Netlink;
use crate::kernel::wireguard::WireguardSpec;
use crate::kernel::{KernelError, Scope};

mod key;

/// Outer IPv6 (40), UDP (8) and WireGuard (32) headers, in bytes; upstream takes as much for IPv4.
const OVERHEAD: u32 = 80;
const KEY_FILE: &str = "/run/flannel/wgkey";

/// The backend's line in the table.
pub const KIND: Kind = Kind {
    name: "wireguard",
    devices: &[
        DevicePattern { kind: "wireguard", prefix: "flannel-wg" },
        DevicePattern { kind: "wireguard", prefix: "flannel-wg-v6" },
    ],
    read: |fields| {
        let options = Options::read(fields);
        Box::new(move |context| {
            Box::pin(async move { Ok(Box::new(Prepared::new(context, &options).await?) as Box<dyn Backend>) })
        })
    },
};

/// A device as it must be.
#[derive(Debug, Clone)]
struct Device {
    spec: WireguardSpec,
    port: u16,
    /// The families of the subnets behind its peers.
    families: Families,
}

/// The devices, and the key the other hosts are told.
pub struct Prepared {
    devices: Vec<Device>,
    key: PrivateKey,
    public_key: PublicKey,
    options: Options,
    own: Own,
    uplink: LinkIndex,
    /// The devices of the last attaching, with their addresses.
    made: Vec<(LinkIndex, Vec<IpNet>)>,
}

/// How this host is reached.
#[derive(Debug, Clone, Copy)]
struct Own {
    families: Families,
    /// By IPv6 also from networks that are not ours.
    v6_public: bool,
}

impl Prepared {
    /// Reads the key, makes the devices, makes the key if there was none: neither a bad key file nor a kernel without
    /// wireguard is a reason to leave anything behind.
    pub async fn new(Context { kernel, uplink, .. }: &Context, options: &Options) -> Result<Self, Error> {
        let own = Own {
            families: Dual { v4: uplink.v4.map(drop), v6: uplink.v6.map(drop) },
            v6_public: uplink.v6.is_some_and(|a| !is_private(IpAddr::V6(a.public))),
        };
        let path = std::env::var_os(key::VARIABLE).filter(|p| !p.is_empty());
        let path = path.map_or_else(|| PathBuf::from(KEY_FILE), PathBuf::from);
        let known = key::read(&path).map_err(fail)?;
        let devices = devices(options, own, uplink.mtu).map_err(fail)?;
        for device in &devices {
            kernel.ensure_wireguard(&device.spec).await.map_err(setup("wireguard"))?;
        }
        let key = match known.map_or_else(|| key::make(&path), Ok) {
            Ok(key) => key,
            Err(reason) => {
                remove(kernel, &devices).await;
                return Err(fail(reason));
            }
        };
        Ok(Self {
            devices,
            key,
            public_key: key::public(key),
            options: options.clone(),
            own,
            uplink: uplink.index,
            made: Vec::new(),
        })
    }

    /// The lease's data for a family.
    fn data(&self, family: Family) -> WireguardData {
        WireguardData { public_key: self.public_key, port: Some(port(&self.options, family)) }
    }

    /// Gives the devices key, port and addresses; makes them again if they were lost.
    async fn attach(&mut self, Context { kernel, config, .. }: &Context, lease: SubnetKey) -> Result<Wireguard, Error> {
        self.made.clear();
        let mut links = Vec::new();
        let mut routes = Vec::new();
        for device in &self.devices {
            let link = kernel.ensure_wireguard(&device.spec).await.map_err(setup("wireguard"))?;
            kernel.set_wireguard(link, self.key, device.port).await.map_err(setup("wireguard"))?;
            let mut addresses = Vec::new();
            for (family, range) in config.ranges.iter().filter(|(family, _)| device.families.has(*family)) {
                let Some(subnet) = lease.net(family) else { continue };
                kernel.ensure_address(link, base(subnet), range.network).await.map_err(setup("wireguard"))?;
                addresses.push(base(subnet));
                let route = |dst| Entry::Route(Route { dst, via: None, link, onlink: false });
                routes.extend(without(&range.network, &subnet).into_iter().map(route));
            }
            links.push(Tunnel { link, families: device.families });
            self.made.push((link, addresses));
        }
        let shared = Some((self.uplink, config.ranges.values().copied().collect()));
        let mtu = self.devices.iter().map(|d| d.spec.mtu).min().unwrap_or_default();
        Ok(Wireguard { links, shared, routes, mtu, options: self.options.clone(), own: self.own })
    }

    /// Whether the devices are still those of the last attaching.
    async fn is_intact(&self, kernel: &Netlink) -> Result<bool, KernelError> {
        for (device, (link, addresses)) in self.devices.iter().zip(&self.made) {
            if !kernel.device_is_intact(&device.spec.name, *link).await? {
                return Ok(false);
            }
            for address in addresses {
                if !kernel.has_address(*link, *address).await? {
                    return Ok(false);
                }
            }
        }
        // An attaching that failed half-way is to be repeated.
        Ok(self.made.len() == self.devices.len())
    }
}

impl Backend for Prepared {
    fn attrs(&self, plain: LeaseAttrs) -> LeaseAttrs {
        LeaseAttrs {
            backend_type: "wireguard".into(),
            backend_data: self.own.families.v4.map(|()| self.data(Family::V4).to_json()),
            backend_v6_data: self.own.families.v6.map(|()| self.data(Family::V6).to_json()),
            ..plain
        }
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

    fn detach<'a>(&'a self, kernel: &'a Netlink) -> LocalBoxFuture<'a, ()> {
        Box::pin(remove(kernel, &self.devices))
    }
}

async fn remove(kernel: &Netlink, devices: &[Device]) {
    for Device { spec, .. } in devices {
        match kernel.remove_wireguard(&spec.name).await {
            Ok(()) => tracing::info!("removed device {}", spec.name),
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

fn fail(reason: String) -> Error {
    Error::Setup { backend: "wireguard", reason }
}

/// The port this host listens on for peers of a family.
fn port(options: &Options, family: Family) -> u16 {
    if family == Family::V4 || options.mode != Mode::Separate { options.listen_port } else { options.listen_port_v6 }
}

fn devices(options: &Options, own: Own, uplink_mtu: u32) -> Result<Vec<Device>, String> {
    let outer = options.mtu.unwrap_or(uplink_mtu);
    let mtu = outer
        .checked_sub(OVERHEAD)
        .filter(|mtu| *mtu >= 68)
        .ok_or_else(|| format!("{outer} bytes leave no room behind {OVERHEAD} bytes of headers; set Backend.MTU"))?;
    let device = |name: &str, families: Families| {
        let name = IfName::new(name).map_err(|e| e.to_string())?;
        let first = families.each().next().unwrap_or(Family::V4);
        Ok(Device { spec: WireguardSpec { name, mtu }, port: port(options, first), families })
    };
    match options.mode {
        Mode::Separate => {
            let of_family = |family| match family {
                Family::V4 => device("flannel-wg", Families::V4),
                Family::V6 => device("flannel-wg-v6", Families::V6),
            };
            own.families.each().map(of_family).collect()
        }
        Mode::Ipv4 if !own.families.has(Family::V4) => {
            Err("Backend.Mode is ipv4, but the network has no IPv4; choose another mode".into())
        }
        Mode::Ipv6 if !own.families.has(Family::V6) => {
            Err("Backend.Mode is ipv6, but the network has no IPv6; choose another mode".into())
        }
        Mode::Auto | Mode::Ipv4 | Mode::Ipv6 => Ok(vec![device("flannel-wg", own.families)?]),
    }
}

/// A device at work.
#[derive(Debug, Clone, Copy)]
struct Tunnel {
    link: LinkIndex,
    families: Families,
}

/// The backend with its lease.
#[derive(Debug, Clone)]
pub struct Wireguard {
    links: Vec<Tunnel>,
    /// Where routes of an earlier run with host-gw may be; they would go before ours.
    shared: Option<(LinkIndex, Vec<Range>)>,
    routes: Vec<Entry>,
    mtu: u32,
    options: Options,
    own: Own,
}

impl Wireguard {
    /// The peer of a lease on one device; nothing where the two have no family in common.
    fn peer(&self, remote: &Lease, tunnel: Tunnel) -> Result<Option<Entry>, BadLease> {
        let Some(allowed) = remote.key.of_families(tunnel.families) else { return Ok(None) };
        // A host has one key for both families, so a peer of both finds it in the data of either.
        let family = if allowed.v4().is_some() { Family::V4 } else { Family::V6 };
        let other = remote.attrs.data(Family::V6).filter(|_| allowed.v6().is_some());
        let data = remote.attrs.required_data(family).or_else(|missing| other.ok_or(missing))?;
        let data = WireguardData::from_json(data)?;
        let address = self.address(remote, allowed)?;
        let port = data.port.unwrap_or_else(|| port(&self.options, family));
        Ok(Some(Entry::Peer(Box::new(Peer {
            link: tunnel.link,
            key: data.public_key,
            endpoint: SocketAddr::new(address, port),
            allowed: Some(allowed),
            psk: self.options.psk,
            keepalive: self.options.keepalive,
        }))))
    }

    /// Where a host is reached. In mode auto IPv4 is taken unless it is private and IPv6 is public on both sides.
    fn address(&self, remote: &Lease, allowed: SubnetKey) -> Result<IpAddr, BadLease> {
        let [v4, v6] = Family::ALL.map(|family| remote.attrs.public(family));
        let own = self.own.families;
        let address = match self.options.mode {
            Mode::Separate if allowed.v4().is_some() => v4,
            Mode::Separate => v6,
            Mode::Ipv4 => v4,
            Mode::Ipv6 => v6,
            Mode::Auto => match (v4.filter(|_| own.has(Family::V4)), v6.filter(|_| own.has(Family::V6))) {
                (Some(v4), Some(v6)) if is_private(v4) && self.own.v6_public && !is_private(v6) => Some(v6),
                (Some(v4), _) => Some(v4),
                (None, v6) => v6,
            },
        };
        address.ok_or_else(|| BadLease("it has no public address of the family that carries the tunnel".into()))
    }
}

/// Not to be reached from everywhere.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

impl Attached for Wireguard {
    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn scope(&self) -> Scope {
        Scope { owned: self.links.iter().map(|t| t.link).collect(), shared: self.shared.clone() }
    }

    fn data_plane(&self, kernel: &Netlink) -> DataPlane {
        DataPlane::new(kernel.clone()).with_peers(self.links.iter().map(|t| t.link).collect())
    }

    fn static_entries(&self) -> Vec<Entry> {
        self.routes.clone()
    }

    fn entries(&self, remote: &Lease, _: Families) -> Result<Vec<Entry>, BadLease> {
        if remote.attrs.backend_type != "wireguard" {
            return Ok(Vec::new());
        }
        self.links.iter().filter_map(|tunnel| self.peer(remote, *tunnel).transpose()).collect()
    }
}

#[cfg(test)]
mod tests;
