//! The kernel through netlink: single requests by rtnetlink, entries by the thousand through a socket of our own
//! ([`super::batch`]).
//!
//! Error numbers are decoded here and nowhere else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use flannel_core::entry::{Entry, Table};
use flannel_core::ipnet::IpNet;
use futures_util::{Stream, TryStreamExt};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno as E;
use tokio::sync::{Mutex, OnceCell};

use super::message::{self, gateway, table};
use super::socket::{Socket, is_overrun};
use super::{Failure, Fault, Kernel, KernelError, Scope, Verb};

/// The netlink sockets.
#[derive(Clone)]
pub struct Netlink {
    pub(super) handle: rtnetlink::Handle,
    socket: Arc<Mutex<Socket>>,
    port: u32,
    /// Opened when a wireguard device is first spoken to.
    pub(super) wireguard: Arc<OnceCell<super::wireguard::Socket>>,
}

impl Netlink {
    /// Opens a socket in the current network namespace; its work is done by a task of the current runtime.
    pub fn open() -> Result<Self, KernelError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| KernelError {
            what: "open a netlink socket".into(),
            reason: e.to_string(),
            fault: Fault::Other,
        })?;
        tokio::spawn(connection);
        let socket = Socket::open(0)?;
        let port = socket.port();
        Ok(Self { handle, socket: Arc::new(Mutex::new(socket)), port, wireguard: Arc::default() })
    }

    /// The port that the kernel names as the author of our changes of entries.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Which hosts are reached without a gateway, by the kernel's own choice of route; a host without any route is not
    /// among the answers.
    pub async fn are_on_link(&self, ips: Vec<IpAddr>) -> Result<Vec<(IpAddr, bool)>, KernelError> {
        let mut answers = Vec::new();
        let requests: Vec<_> = ips.iter().map(|ip| RouteNetlinkMessage::GetRoute(question(*ip))).collect();
        let mut socket = self.socket.lock().await;
        let asked = socket.ask(&requests, |place, answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                answers.push((ips[place], gateway(&route).is_none()));
            }
        });
        asked.await.map_err(|e| KernelError {
            what: format!("look up the routes to {} hosts", ips.len()),
            reason: e.to_string(),
            fault: if is_overrun(&e) { Fault::Overrun } else { Fault::Other },
        })?;
        Ok(answers)
    }

    /// The route the kernel would take to an address.
    pub(super) async fn route_to(&self, ip: IpAddr) -> Result<RouteMessage, KernelError> {
        let what = || format!("look up the route to {ip}");
        let routes = collect(self.handle.route().get(question(ip)).execute(), what).await?;
        routes.into_iter().next().ok_or_else(|| KernelError {
            what: what(),
            reason: "the kernel gave no answer".into(),
            fault: Fault::NotFound,
        })
    }

    /// Routes of the main table of one family.
    pub(super) async fn main_routes(&self, family: AddressFamily) -> Result<Vec<RouteMessage>, KernelError> {
        let request = match family {
            AddressFamily::Inet6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
            _ => RouteMessageBuilder::<Ipv4Addr>::new().build(),
        };
        let mut routes = collect(self.handle.route().get(request).execute(), || "list routes".into()).await?;
        routes.retain(|route| table(route) == u32::from(RouteHeader::RT_TABLE_MAIN));
        Ok(routes)
    }
}

/// What asks for the route to an address.
fn question(ip: IpAddr) -> RouteMessage {
    match ip {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32).build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128).build(),
    }
}

/// Behind every other route: a bridge or device that has the subnet wins, also one that comes later.
const BLACKHOLE_METRIC: u32 = 1 << 30;

impl Netlink {
    /// Makes packets to a subnet end here where no other route has them.
    pub async fn ensure_blackhole(&self, subnet: IpNet) -> Result<(), KernelError> {
        let mut message = match subnet {
            IpNet::V4(net) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(net.addr(), net.prefix_len()).build()
            }
            IpNet::V6(net) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(net.addr(), net.prefix_len()).build()
            }
        };
        message.header.protocol = RouteProtocol::Boot;
        message.header.kind = RouteType::BlackHole;
        message.attributes.push(RouteAttribute::Priority(BLACKHOLE_METRIC));
        let put = self.handle.route().add(message).execute().await;
        match put.map_err(refused(|| format!("put a blackhole route for {subnet}"))) {
            Err(error) if error.fault == Fault::Exists => Ok(()),
            other => other,
        }
    }
}

impl Kernel for Netlink {
    async fn carry_out(&self, verb: Verb, entries: &[Entry]) -> Result<Vec<Failure>, KernelError> {
        self.socket.lock().await.carry_out(verb, entries).await
    }

    async fn list(&self, scope: &Scope) -> Result<Table, KernelError> {
        let mut entries = Table::default();
        let mut socket = self.socket.lock().await;
        let mut put = |message| {
            if let Some(entry) = message::ours(&message, scope) {
                entries.put(entry);
            }
        };
        for request in message::dumps(scope) {
            let failed = |e: io::Error| KernelError {
                what: "list routes, neighbours and forwarding records".into(),
                reason: e.to_string(),
                fault: if is_overrun(&e) { Fault::Overrun } else { Fault::Other },
            };
            socket.dump(&request, &mut put).await.map_err(failed)?;
        }
        drop(socket);
        Ok(entries)
    }
}

impl Netlink {
    /// Puts or removes wireguard peers.
    pub async fn carry_out_peers(&self, verb: Verb, entries: &[Entry]) -> Vec<Failure> {
        let mut failures = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            let Entry::Peer(peer) = entry else { continue };
            let result = match verb {
                Verb::Put => self.put_peer(peer).await,
                Verb::Remove => match self.remove_peer(peer).await {
                    Err(e) if matches!(e.fault, Fault::NotFound | Fault::NoDevice) => Ok(()),
                    other => other,
                },
            };
            failures.extend(result.err().map(|error| Failure { place, error }));
        }
        failures
    }
}

/// All messages of a dump.
pub(super) async fn collect<T>(
    dump: impl Stream<Item = Result<T, rtnetlink::Error>>,
    what: impl Fn() -> String,
) -> Result<Vec<T>, KernelError> {
    dump.try_collect().await.map_err(refused(what))
}

/// Decodes what the kernel answered.
pub(super) fn refused(what: impl Fn() -> String) -> impl FnOnce(rtnetlink::Error) -> KernelError {
    move |error| {
        let rtnetlink::Error::NetlinkError(message) = &error else {
            return KernelError { what: what(), reason: error.to_string(), fault: Fault::Other };
        };
        refusal(what(), E::from_raw_os_error(message.raw_code().wrapping_neg()))
    }
}

/// Decodes an error number.
pub(super) fn refusal(what: String, errno: E) -> KernelError {
    let (fault, remedy) = match errno {
        E::EXIST => (Fault::Exists, ""),
        E::NOENT | E::SRCH => (Fault::NotFound, ""),
        E::NODEV => (Fault::NoDevice, ""),
        E::PERM | E::ACCESS => (Fault::Denied, "; run as root or with CAP_NET_ADMIN"),
        E::OPNOTSUPP | E::AFNOSUPPORT => (Fault::Unsupported, "; this kernel lacks it"),
        E::ADDRINUSE => (Fault::Other, "; another program or device has the port"),
        E::NETUNREACH => (Fault::Other, "; the gateway is not on the interface's link"),
        _ => (Fault::Other, ""),
    };
    let reason = io::Error::from_raw_os_error(errno.raw_os_error());
    KernelError { what, reason: format!("{reason}{remedy}"), fault }
}
