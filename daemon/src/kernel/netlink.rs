//! The kernel as flanneld's reconciler needs it, over [`flannel_host::netlink`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::sync::Arc;

use flannel_core::entry::{Entry, Table};
use flannel_core::ipnet::IpNet;
use flannel_host::netlink::attributes::gateway;
use flannel_host::netlink::{io_error, refused, route_query};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteProtocol, RouteType};
use tokio::sync::OnceCell;

use super::install::install;
use super::{Failure, Fault, Kernel, KernelError, Scope, Verb, message};
use crate::metrics::METRICS;

/// How often a dump of a table is repeated that other changes interrupted. Entries it then lacks are installed once
/// more, which does no harm.
const DUMP_ATTEMPTS: u32 = 3;

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
        // Peers are generic netlink's; they come last of what is put and first of what is removed.
        let is_peer = |entry: &Entry| matches!(entry, Entry::Peer(_));
        let mut failures = Vec::new();
        let mut start = 0;
        for run in entries.chunk_by(|one, next| is_peer(one) == is_peer(next)) {
            let failed = if is_peer(&run[0]) {
                self.carry_out_peers(verb, run).await
            } else {
                install(&mut *self.socket().await, verb, run).await?
            };
            failures.extend(failed.into_iter().map(|failure| Failure { place: start + failure.place, ..failure }));
            start += run.len();
        }
        Ok(failures)
    }

    async fn list(&self, scope: &Scope) -> Result<Table, KernelError> {
        let mut entries = Table::default();
        let mut socket = self.socket().await;
        for request in message::dumps(scope) {
            for _ in 0..DUMP_ATTEMPTS {
                METRICS.dump_requests.inc();
                METRICS.datagrams.inc();
                let complete = socket.dump(&request, |message| {
                    if let Some(entry) = message::ours(&message, scope) {
                        entries.put(entry);
                    }
                });
                let failed = |e| io_error("list routes, neighbours and FDB entries".into(), &e);
                if complete.await.map_err(failed)? {
                    break;
                }
            }
        }
        drop(socket);
        if scope.peers {
            for link in &scope.owned {
                self.peers(*link).await?.into_iter().for_each(|peer| entries.put(Entry::Peer(Box::new(peer))));
            }
        }
        Ok(entries)
    }
}

impl Netlink {
    async fn carry_out_peers(&self, verb: Verb, entries: &[Entry]) -> Vec<Failure> {
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
