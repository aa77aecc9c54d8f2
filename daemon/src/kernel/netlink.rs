//! The kernel as flanneld's reconciler needs it, over [`flannel_host::netlink`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::sync::Arc;

use flannel_core::entry::{Entry, Table};
use flannel_core::ipnet::IpNet;
use flannel_host::netlink::attributes::gateway;
use flannel_host::netlink::socket::Socket;
use flannel_host::netlink::{DUMP_ATTEMPTS, interrupted, io_error, refused, route_query};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteProtocol, RouteType};
use tokio::sync::OnceCell;

use super::install::install;
use super::{Failure, Fault, Kernel, KernelError, Scope, Verb, message};
use crate::metrics::METRICS;

/// The netlink sockets.
#[derive(Clone)]
pub struct Netlink {
    host: flannel_host::netlink::Netlink,
    /// Opened when a wireguard device is first used.
    pub(super) wireguard: Arc<OnceCell<super::wireguard::Socket>>,
}

impl Deref for Netlink {
    type Target = flannel_host::netlink::Netlink;

    fn deref(&self) -> &Self::Target {
        &self.host
    }
}

impl Netlink {
    /// Opens sockets in the current network namespace; a task of the current runtime serves them.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self { host: flannel_host::netlink::Netlink::open()?, wireguard: Arc::default() })
    }

    /// Which hosts are reached without a gateway, by the kernel's choice of route; a host without a route is not among
    /// the answers.
    pub async fn are_on_link(&self, ips: Vec<IpAddr>) -> Result<Vec<(IpAddr, bool)>, KernelError> {
        let mut answers = Vec::new();
        let queries: Vec<_> = ips.iter().map(|ip| RouteNetlinkMessage::GetRoute(route_query(*ip))).collect();
        METRICS.reach_requests.add(u64::try_from(queries.len()).unwrap_or(u64::MAX));
        let mut socket = self.socket().await;
        let asked = socket.query_all(&queries, |place, answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                answers.push((ips[place], gateway(&route).is_none()));
            }
        });
        let datagrams = asked.await.map_err(|e| io_error(format!("look up the routes to {} hosts", ips.len()), &e))?;
        METRICS.datagrams.add(datagrams);
        Ok(answers)
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
        let put = self.handle().route().add(message).execute().await;
        match put.map_err(refused(|| format!("put a blackhole route for {subnet}"))) {
            Err(error) if error.fault == Fault::Exists => Ok(()),
            other => other,
        }
    }
}

impl Kernel for Netlink {
    async fn carry_out(&self, verb: Verb, entries: &[Entry]) -> Result<Vec<Failure>, KernelError> {
        install(&mut *self.socket().await, verb, entries).await
    }

    async fn list(&self, scope: &Scope) -> Result<Table, KernelError> {
        let mut entries = Table::default();
        let mut socket = self.socket().await;
        for request in message::dumps(scope) {
            self.dump_into(&mut socket, &request, scope, &mut entries).await?;
        }
        Ok(entries)
    }
}

impl Netlink {
    /// Adds to `entries` what a dump lists of ours: complete, or an error. An entry read by an interrupted attempt may
    /// be gone since, so each attempt starts with none.
    async fn dump_into(
        &self,
        socket: &mut Socket,
        request: &RouteNetlinkMessage,
        scope: &Scope,
        entries: &mut Table,
    ) -> Result<(), KernelError> {
        let what = || "list routes, neighbours and FDB entries".to_owned();
        let mut read = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            METRICS.dump_requests.inc();
            METRICS.datagrams.inc();
            read.clear();
            let complete = socket.dump(request, |message| read.extend(message::ours(&message, scope))).await;
            if complete.map_err(|e| io_error(what(), &e))? {
                read.into_iter().for_each(|entry| entries.put(entry));
                return Ok(());
            }
        }
        Err(interrupted(what()))
    }

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
