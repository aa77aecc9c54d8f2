//! Networks and endpoints as Docker sees them, and what they are in the kernel.
//!
//! ```text
//!             CreateNetwork            CreateEndpoint              Join
//!   (pool) ----------------> network -----------------> endpoint -------> veth pair, bridge to container
//!            bridge, rules            address, MAC                 |
//!          <----------------         <-----------------         <--+
//!             DeleteNetwork            DeleteEndpoint             Leave
//! ```
//!
//! Docker sends each call once, so every step is recorded on disk before it is answered.
//! What is removed is first forgotten and then deleted: after a crash in between, the leftover carries our mark and is
//! removed at the next start. For the same reason, what is created is recorded last.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::docker::engine::Engine;
use crate::error::{Error, short};
use crate::firewall::{Bridge, BridgeRules, Guard};
use crate::links::{BridgeSpec, HostRoute, Links};
use crate::naming;
use crate::nat::Nat;
use crate::publish::localnet;
use crate::publish::reserve::Reserved;
use crate::store::lease::{FlannelName, Lease, SubnetFile};
use crate::store::{Network, State, Store};
use allocation::Supply;
pub use check::CheckReport;
use check::History;
pub(crate) use check::pause;

mod adopt;
mod allocation;
mod check;
mod connectivity;
pub mod drift;
mod endpoint;
mod ipam;
mod network;
pub mod open;
mod options;
mod repair;
#[cfg(test)]
mod tests;

/// How long Docker may take from its first question about a network to knowing it itself. A pool that no network came
/// for in that time is free again: its `docker network create` failed within Docker.
const CREATION_TIMEOUT: Duration = Duration::from_secs(60);

/// The driver's configuration.
#[derive(Debug)]
pub struct Settings {
    /// The name users give with `-d`: that of the socket.
    pub name: String,
    /// Where the lease is.
    pub subnet_file: SubnetFile,
    /// The Docker that calls.
    pub engine: Engine,
}

/// What keeps our rules in the packet filter.
#[derive(Debug)]
pub struct Guards {
    /// The forward rules.
    pub forward: Guard<BridgeRules>,
    /// Source NAT and published ports of networks in gateway mode.
    pub nat: Guard<Nat>,
}

/// Networks, endpoints and pools over a kernel `L`.
#[derive(Debug)]
pub struct Driver<L> {
    name: String,
    subnet_file: SubnetFile,
    engine: Engine,
    store: Store,
    links: L,
    guards: Guards,
    /// Published ports, by EndpointID.
    reserved: Mutex<HashMap<String, Vec<Reserved>>>,
    /// Reserved while bridges come and go.
    bridges: tokio::sync::Mutex<()>,
    /// Of pools and networks, by ID, as far as they were made in this process.
    created: Mutex<HashMap<String, Creation>>,
    history: History,
}

#[derive(Debug, Clone, Copy)]
struct Creation {
    at: Instant,
    /// A pool that was ours to choose: Docker may refuse it by asking again.
    our_choice: bool,
}

impl<L: Links> Driver<L> {
    /// A driver that goes on where `store` left off; see [`Driver::restore`].
    pub fn new(settings: Settings, store: Store, links: L, guards: Guards) -> Self {
        let Settings { name, subnet_file, engine } = settings;
        let history = History::new(store.was_lost());
        Self {
            name,
            subnet_file,
            engine,
            store,
            links,
            guards,
            reserved: Mutex::default(),
            bridges: tokio::sync::Mutex::default(),
            created: Mutex::default(),
            history,
        }
    }

    /// The address space of the pools we hand out.
    pub fn address_space(&self) -> String {
        format!("{}-local", self.name)
    }

    /// The kernel's interfaces, for tests.
    pub fn links(&self) -> &L {
        &self.links
    }

    /// A copy of the state.
    pub fn state(&self) -> State {
        self.store.read(State::clone)
    }

    /// After a start: makes bridges, veths and rules what the state says, and removes what it does not list. Docker may
    /// call meanwhile.
    pub async fn restore(&self) {
        let networks = self.store.read(|s| s.networks.keys().cloned().collect::<Vec<_>>());
        {
            let _bridges = self.bridges.lock().await;
            self.sweep().await;
        }
        let mut restored = 0;
        for id in &networks {
            let _bridges = self.bridges.lock().await;
            let Some(network) = self.store.read(|s| s.networks.get(id).cloned()) else { continue };
            if let Ok(lease) = self.lease_of(&network)
                && let Err(e) = self.check_lease(id, &network, &lease)
            {
                warn!("{e}");
                continue;
            }
            let mut done = self.ensure_network(id, &network).await;
            if done.is_ok() {
                // Veths that lost their bridge while the plugin was down.
                done = self.attach_veths(id).await;
            }
            match done {
                Ok(()) => restored += 1,
                Err(e) => warn!("network {}: {e}", short(id)),
            }
        }
        if !networks.is_empty() {
            info!("{restored} of {} networks restored", networks.len());
        }
        // Also without networks: rules may be left over. Where the state was lost they are of networks that Docker still
        // has, and stay until it has been asked.
        if !self.history.is_state_lost() {
            self.update_rules().await;
        }
        self.reserve_again().await;
    }

    /// Removes bridges of ours that belong to no network we know: each would keep its route, and Docker refuses a pool
    /// that overlaps a route. One with a veth in it is kept until Docker has been asked: a container may run there.
    async fn sweep(&self) {
        let owned = match self.links.owned().await {
            Ok(owned) => owned,
            Err(e) => {
                warn!("{e}");
                return;
            }
        };
        let in_use: BTreeSet<_> = owned.iter().filter_map(|o| o.bridge.as_ref()).collect();
        for bridge in owned.iter().filter(|o| o.is_bridge && !in_use.contains(&o.name)) {
            self.remove_unknown(&bridge.name).await;
        }
    }

    /// Removes a device that belongs to no known network or endpoint. The lock on bridges must be held: a bridge is made before its
    /// network is remembered. Returns whether there was one.
    async fn remove_unknown(&self, device: &str) -> bool {
        let is_known = self.store.read(|s| {
            let mut bridges = s.networks.keys().filter_map(|id| naming::bridge(id).ok());
            let endpoints = s.networks.values().flat_map(|n| n.endpoints.keys());
            let mut veths = endpoints.flat_map(|id| [naming::host_end(id), naming::container_end(id)]).flatten();
            bridges.any(|n| n.as_str() == device) || veths.any(|n| n.as_str() == device)
        });
        let Ok(name) = flannel_core::name::IfName::new(device.to_owned()) else { return false };
        if is_known {
            return false;
        }
        info!("{device} belongs to no known network or endpoint: removing it");
        if let Err(e) = self.links.remove(&name).await {
            warn!("{e}");
            return false;
        }
        true
    }

    /// Whether a pool or network may still be in the making, within Docker or between us.
    fn is_young(&self, id: &str, now: Instant) -> bool {
        self.created().get(id).is_some_and(|created| now.duration_since(created.at) < CREATION_TIMEOUT)
    }

    fn created(&self) -> MutexGuard<'_, HashMap<String, Creation>> {
        self.created.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates or corrects a network's bridge, and attaches its veths if it was re-created. The lock on bridges must
    /// be held.
    async fn ensure_network(&self, id: &str, network: &Network) -> Result<(), Error> {
        if self.links.ensure_bridge(&bridge_spec(id, network)?).await? {
            self.attach_veths(id).await?;
        }
        if network.gateway {
            localnet::allow_localnet(&naming::bridge(id)?);
        }
        Ok(())
    }

    async fn attach_veths(&self, id: &str) -> Result<(), Error> {
        let bridge = naming::bridge(id)?;
        let endpoints = |s: &State| s.networks.get(id).map(|n| n.endpoints.keys().cloned().collect::<Vec<_>>());
        for endpoint in self.store.read(endpoints).unwrap_or_default() {
            self.links.attach_veth(&naming::host_end(&endpoint)?, &bridge).await?;
        }
        Ok(())
    }

    /// Whether the network's addresses are still this host's.
    fn check_lease(&self, id: &str, network: &Network, lease: &Lease) -> Result<(), Error> {
        match network.subnets.iter().find(|s| !lease.holds(&s.pool)) {
            None => Ok(()),
            Some(subnet) => Err(Error::LeaseChanged {
                id: short(id).to_owned(),
                pool: subnet.pool,
                lease: lease.to_string(),
                command: self.create_command(network.flannel.as_ref(), ""),
            }),
        }
    }

    /// The lease of the network's flannel network.
    fn lease_of(&self, network: &Network) -> Result<Lease, Error> {
        self.subnet_file.of(network.flannel.as_ref()).read()
    }

    /// The flannel network that has this range in its lease: ours, or another daemon's on this host.
    fn find_flannel(&self, pool: &IpNet) -> Option<FlannelName> {
        let holds = |file: SubnetFile| file.read().is_ok_and(|lease| lease.holds(pool));
        if holds(self.subnet_file.clone()) {
            return None;
        }
        self.subnet_file.others().into_iter().find(|name| holds(self.subnet_file.of(Some(name))))
    }

    /// Brings the forward rules up to date with the state.
    async fn update_rules(&self) {
        self.guards.forward.set_in_background(|| self.store.read(rules)).await;
    }

    /// What networks are allocated from.
    fn supply<'a>(&'a self, flannel: Option<&'a FlannelName>, lease: &'a Lease, routes: &'a [HostRoute]) -> Supply<'a> {
        Supply { driver: &self.name, flannel, lease, routes }
    }

    fn create_command(&self, flannel: Option<&FlannelName>, options: &str) -> String {
        allocation::create_command(&self.name, flannel, options)
    }
}

fn bridge_spec(id: &str, network: &Network) -> Result<BridgeSpec, Error> {
    let addresses: Vec<_> = network.subnets.iter().map(|s| s.gateway).collect();
    let mac = naming::mac_for_all(&addresses).ok_or_else(|| Error::UnknownNetwork { id: short(id).to_owned() })?;
    Ok(BridgeSpec { name: naming::bridge(id)?, addresses, mtu: network.mtu(), mac })
}

/// The forward rules for all networks.
pub fn rules(state: &State) -> BridgeRules {
    let bridges = state.networks.iter().filter_map(|(id, network)| {
        let flannel = network.lease.iter().map(|side| side.network).collect();
        let Network { internal, isolated, .. } = *network;
        Some(Bridge { name: naming::bridge(id).ok()?, internal, isolated, flannel })
    });
    BridgeRules { bridges: bridges.collect() }
}
