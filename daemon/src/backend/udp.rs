//! udp: each IPv4 packet in a datagram of its own, carried by the daemon. docs/upstream.md, section 5.2.
//!
//! For hosts whose kernel or network has no vxlan. The TUN device `flannel0` takes the packets of the flannel network;
//! two threads of its own ([`proxy`]) move them. The device ends with the daemon, unless the service manager
//! keeps descriptors: then device and socket wait for the next daemon, with what comes meanwhile.
//!
//! A datagram holds one whole IPv4 packet, so that upstream's daemon can be the other end. To be quick all the same the
//! kernel is asked for many packets at a time: from the device it gives one header and up to 64 KiB of payload, which
//! [`flannel_core::packet`] cuts into packets that one system call sends; from the socket it gives up to 64 datagrams,
//! which are joined the same way. What the kernel does not offer is done packet by packet.
//!
//! One difference to upstream, invisible on the wire: upstream routes the whole network into the device. Docker takes
//! such a route for an overlap with the lease and refuses (or, with an IPAM plugin, asks for ever), so here the routes
//! leave the host's own subnet out.

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_core::backend_config::Udp as Options;
use flannel_core::config::Range;
use flannel_core::entry::{Entry, LinkIndex, Route};
use flannel_core::family::Families;
use flannel_core::ipnet::{IpNet, Ipv4Net};
use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, Lease, LeaseAttrs};
use flannel_core::name::IfName;
use flannel_core::net::without;
use futures_util::future::LocalBoxFuture;

use super::{Attached, Backend, Context, Kind, base};
use crate::data_plane::DataPlane;
use crate::error::Error;
use crate::kernel::netlink::Netlink;
use crate::kernel::{KernelError, Scope};
use crate::service_manager::DescriptorStore;
pub use table::Tunnels;

pub mod device;
pub mod drops;
pub mod proxy;
mod receiver;
mod sender;
pub mod sys;
pub mod table;
pub mod transport;

/// Outer IPv4 (20) and UDP (8) headers, in bytes.
const OVERHEAD: u32 = 28;
/// The kernel fills in the first free number, as for upstream.
const NAME: &str = "flannel%d";

/// The backend's line in the table.
pub const KIND: Kind = Kind {
    name: "udp",
    devices: &[],
    read: |fields| {
        let options = Options::read(fields);
        Box::new(move |context| {
            Box::pin(async move { Ok(Box::new(Prepared::new(context, &options)?) as Box<dyn Backend>) })
        })
    },
};

/// The proxy's place, and the proxy once it runs.
pub struct Prepared {
    listen: SocketAddrV4,
    options: Options,
    store: DescriptorStore,
    uplink: LinkIndex,
    mtu: u32,
    running: Option<Running>,
    made: Option<(LinkIndex, IpNet)>,
}

struct Running {
    name: IfName,
    tunnels: Tunnels,
    _proxy: proxy::Proxy,
}

impl Prepared {
    /// The socket is bound to the interface's address, which is therefore the source of what is sent.
    pub fn new(context: &Context, options: &Options) -> Result<Self, Error> {
        let uplink = &context.uplink;
        let v4 = uplink.v4.ok_or_else(|| Error::Setup {
            backend: "udp",
            reason: "it carries IPv4 only: switch EnableIPv4 on or choose vxlan".into(),
        })?;
        if uplink.v6.is_some() {
            tracing::warn!("backend udp carries IPv4 only: the IPv6 subnets of this network stay unconnected");
        }
        let listen = SocketAddrV4::new(v4.own, options.port);
        let mtu = uplink.mtu.saturating_sub(OVERHEAD);
        let store = context.descriptors.clone();
        Ok(Self { listen, options: *options, store, uplink: uplink.index, mtu, running: None, made: None })
    }

    /// Opens device and socket and starts the proxy; a device that was lost is re-created.
    async fn attach(&mut self, Context { kernel, config, .. }: &Context, lease: SubnetKey) -> Result<Udp, Error> {
        let fail = |reason: String| Error::Setup { backend: "udp", reason };
        let (Some(range), Some(subnet)) = (config.ranges.v4, lease.v4()) else {
            return Err(fail("the lease has no IPv4 subnet".into()));
        };
        let IpNet::V4(network) = range.network else {
            return Err(fail("Network is no IPv4 network".into()));
        };
        let lost = match &self.running {
            Some(running) => kernel.index_of(&running.name).await.map_err(|e| fail(e.to_string()))?.is_none(),
            None => true,
        };
        if lost {
            // The old proxy must be gone first: its socket has the port.
            self.running = None;
            let tunnels = Tunnels::default();
            let config = proxy::ProxyConfig {
                listen: self.listen,
                own: subnet.network(),
                offload: self.options.offload,
                any_source: self.options.any_source,
            };
            let proxy = proxy::Proxy::start(NAME, config, tunnels.clone(), &self.store).map_err(fail)?;
            let name = IfName::new(proxy.device()).map_err(|e| fail(e.to_string()))?;
            self.running = Some(Running { name, tunnels, _proxy: proxy });
        }
        let Some(running) = &self.running else { return Err(fail("the proxy is not running".into())) };
        let link = self.configure(kernel, &running.name, subnet, network).await.map_err(|e| fail(e.to_string()))?;
        let tunnels = running.tunnels.clone();
        self.made = Some((link, base(subnet.into())));
        Ok(Udp { link, uplink: (self.uplink, range), mtu: self.mtu, network, subnet, tunnels })
    }

    /// Whether the device is the one of the last attaching and has its address.
    async fn is_intact(&self, kernel: &Netlink) -> Result<bool, KernelError> {
        let (Some(running), Some((link, address))) = (&self.running, self.made) else { return Ok(false) };
        Ok(kernel.index_of(&running.name).await? == Some(link) && kernel.has_address(link, address).await?)
    }

    async fn configure(
        &self,
        kernel: &Netlink,
        name: &IfName,
        subnet: Ipv4Net,
        network: Ipv4Net,
    ) -> Result<LinkIndex, KernelError> {
        let link = kernel.index_of(name).await?.ok_or_else(|| KernelError {
            what: format!("find device {name}"),
            reason: "it was removed right after it was made".into(),
            fault: crate::kernel::Fault::NotFound,
        })?;
        kernel.set_mtu(link, self.mtu).await?;
        kernel.ensure_address(link, base(subnet.into()), network.into()).await?;
        Ok(link)
    }
}

impl Backend for Prepared {
    /// parity: upstream leaves BackendType out.
    fn attrs(&self, plain: LeaseAttrs) -> LeaseAttrs {
        plain
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
pub struct Udp {
    link: LinkIndex,
    /// Where routes of an earlier run with host-gw may be; they would go before ours.
    uplink: (LinkIndex, Range),
    mtu: u32,
    network: Ipv4Net,
    subnet: Ipv4Net,
    tunnels: Tunnels,
}

impl Attached for Udp {
    fn mtu(&self) -> u32 {
        self.mtu
    }

    fn scope(&self) -> Scope {
        let (uplink, range) = self.uplink;
        Scope { owned: vec![self.link], shared: Some((uplink, vec![range])) }
    }

    fn static_entries(&self) -> Vec<Entry> {
        let route = |dst| Entry::Route(Route { dst, via: None, link: self.link, onlink: false });
        without(&self.network.into(), &self.subnet.into()).into_iter().map(route).collect()
    }

    /// Leases of any backend count, as for upstream: their hosts may speak udp all the same.
    fn entries(&self, remote: &Lease, _: Families) -> Result<Vec<Entry>, BadLease> {
        let Some(subnet) = remote.key.v4() else { return Ok(Vec::new()) };
        let to = remote.attrs.public_ip;
        if to == Ipv4Addr::UNSPECIFIED {
            return Err(BadLease("PublicIP is missing".into()));
        }
        Ok(vec![Entry::Tunnel { subnet, to }])
    }

    fn data_plane(&self, kernel: &Netlink) -> DataPlane {
        DataPlane::new(kernel.clone()).with_tunnels(self.tunnels.clone())
    }
}
