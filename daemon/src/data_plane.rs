//! The places entries are installed in: the kernel's tables by rtnetlink, wireguard's peers by generic netlink, and the
//! udp proxy's table of tunnels.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use flannel_core::entry::{Entry, LinkIndex, Table};
use flannel_core::ipnet::Ipv4Net;

use crate::backend::udp::Tunnels;
use crate::kernel::netlink::Netlink;
use crate::kernel::{Failure, Kernel, KernelError, Scope, Verb};

/// Installs each entry where it belongs.
pub struct DataPlane {
    netlink: Netlink,
    tunnels: Option<Tunnels>,
    /// What is in the proxy's table.
    installed: RefCell<BTreeMap<Ipv4Net, Ipv4Addr>>,
    /// The wireguard devices whose peers are ours.
    peers: Vec<LinkIndex>,
}

#[derive(PartialEq)]
enum Place {
    Kernel,
    Peers,
    Proxy,
}

fn place(entry: &Entry) -> Place {
    match entry {
        Entry::Tunnel { .. } => Place::Proxy,
        Entry::Peer(_) => Place::Peers,
        Entry::Neigh { .. } | Entry::Fdb { .. } | Entry::Route(_) => Place::Kernel,
    }
}

impl DataPlane {
    /// With the kernel alone.
    pub fn new(netlink: Netlink) -> Self {
        Self { netlink, tunnels: None, installed: RefCell::default(), peers: Vec::new() }
    }

    /// With a udp proxy's table.
    pub fn with_tunnels(self, tunnels: Tunnels) -> Self {
        Self { tunnels: Some(tunnels), ..self }
    }

    /// With the peers of these wireguard devices.
    pub fn with_peers(self, peers: Vec<LinkIndex>) -> Self {
        Self { peers, ..self }
    }

    /// From now on the entries are those of all leases.
    pub fn leases_known(&self) {
        if let Some(tunnels) = &self.tunnels {
            tunnels.open();
        }
    }

    /// The proxy gets all its tunnels at once.
    fn change_tunnels(&self, verb: Verb, entries: &[Entry]) {
        let Some(tunnels) = &self.tunnels else { return };
        let mut installed = self.installed.borrow_mut();
        for entry in entries {
            let Entry::Tunnel { subnet, to } = entry else { continue };
            match verb {
                Verb::Put => installed.insert(*subnet, *to),
                Verb::Remove => installed.remove(subnet),
            };
        }
        tunnels.replace(installed.iter().map(|(subnet, to)| (*subnet, *to)));
    }
}

impl Kernel for DataPlane {
    async fn carry_out(&self, verb: Verb, entries: &[Entry]) -> Result<Vec<Failure>, KernelError> {
        let mut failures = Vec::new();
        let mut start = 0;
        for run in entries.chunk_by(|one, next| place(one) == place(next)) {
            let failed = match place(&run[0]) {
                Place::Kernel => self.netlink.carry_out(verb, run).await?,
                Place::Peers => self.netlink.carry_out_peers(verb, run).await,
                Place::Proxy => {
                    self.change_tunnels(verb, run);
                    Vec::new()
                }
            };
            failures.extend(failed.into_iter().map(|failure| Failure { place: start + failure.place, ..failure }));
            start += run.len();
        }
        Ok(failures)
    }

    async fn list(&self, scope: &Scope) -> Result<Table, KernelError> {
        let mut entries = self.netlink.list(scope).await?;
        for link in &self.peers {
            for peer in self.netlink.peers(*link).await? {
                entries.put(Entry::Peer(Box::new(peer)));
            }
        }
        for (subnet, to) in self.installed.borrow().iter() {
            entries.put(Entry::Tunnel { subnet: *subnet, to: *to });
        }
        Ok(entries)
    }
}
