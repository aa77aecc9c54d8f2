//! ProgramExternalConnectivity and RevokeExternalConnectivity: ports of networks in gateway mode.
//!
//! Docker calls them when a container's default route comes to lead through a network and when it no longer does, with
//! `docker network connect` and `disconnect` also while the container runs. A failure of Program is shown to the user;
//! then no Revoke follows, but Leave and DeleteEndpoint, so those release the ports as well.

use std::sync::{MutexGuard, PoisonError};

use tracing::{info, warn};

use super::Driver;
use crate::api::Empty;
use crate::api::network::{EndpointCall, Program};
use crate::error::{Error, short};
use crate::links::Links;
use crate::nat::Nat;
use crate::publish::ports::{self, Wanted};
use crate::publish::reserve::{self, Reserved};
use crate::publish::{self, localnet};
use crate::store::State;
use crate::store::port::Port;

impl<L: Links> Driver<L> {
    /// Publishes the endpoint's ports.
    pub async fn program(&self, request: Program) -> Result<Empty, Error> {
        let Program { network_id, endpoint_id, options } = request;
        let wanted = ports::read(&options)?;
        let network = self.network(&network_id)?;
        let missing = || Error::UnknownEndpoint { id: short(&endpoint_id).to_owned() };
        let endpoint = self.endpoint(&network_id, &endpoint_id)?;
        if !network.gateway {
            // Docker publishes them itself, on docker_gwbridge.
            return Ok(Empty {});
        }
        if is_met(&wanted, &endpoint.ports) && self.reserved().contains_key(&endpoint_id) != wanted.is_empty() {
            return Ok(Empty {});
        }
        // Those of another set first: the new one may have the same ports.
        self.reserved().remove(&endpoint_id);
        let to = publish::target(&endpoint.addresses).ok_or_else(missing)?;
        let taken = self.store.read(|s| taken(s, &endpoint_id));
        let mut held = Vec::new();
        for wanted in &wanted {
            let ours: Vec<_> = taken.iter().copied().chain(held.iter().map(|h: &Reserved| h.port)).collect();
            held.push(reserve::reserve(wanted, to, &ours)?);
        }
        let published: Vec<_> = held.iter().map(|h| h.port).collect();
        let put = |s: &mut State| {
            let endpoint = s.networks.get_mut(&network_id).and_then(|n| n.endpoints.get_mut(&endpoint_id));
            endpoint.ok_or_else(missing)?.ports.clone_from(&published);
            Ok(())
        };
        self.store.change(put).await?;
        self.reserved().insert(endpoint_id.clone(), held);
        if let Err(reason) = self.try_update_nat().await {
            self.unpublish(&network_id, &endpoint_id).await;
            return Err(Error::Request { what: format!("ports of endpoint {}", short(&endpoint_id)), reason });
        }
        for port in &published {
            info!("endpoint {}: port {} of the container is {port} of the host", short(&endpoint_id), port.container);
        }
        Ok(Empty {})
    }

    /// Releases the endpoint's ports.
    pub async fn revoke(&self, request: EndpointCall) -> Result<Empty, Error> {
        self.unpublish(&request.network_id, &request.endpoint_id).await;
        Ok(Empty {})
    }

    /// Releases what the endpoint has published, if anything.
    pub(super) async fn unpublish(&self, network_id: &str, endpoint_id: &str) {
        let had = self
            .store
            .forget(|s| {
                let endpoint = s.networks.get_mut(network_id).and_then(|n| n.endpoints.get_mut(endpoint_id));
                endpoint.map(|e| std::mem::take(&mut e.ports)).unwrap_or_default()
            })
            .await;
        if !had.is_empty() {
            self.update_nat().await;
        }
        self.reserved().remove(endpoint_id);
    }

    /// After a start: reserves what is published.
    pub(super) async fn reserve_again(&self) {
        let published = self.store.read(|s| {
            let networks = s.networks.values().filter(|n| n.gateway);
            let endpoints = networks.flat_map(|n| n.endpoints.iter());
            endpoints.map(|(id, e)| (id.clone(), e.ports.clone(), publish::target(&e.addresses))).collect::<Vec<_>>()
        });
        for (id, ports, to) in published {
            let Some(to) = to.filter(|_| !ports.is_empty()) else { continue };
            if self.reserved().contains_key(&id) {
                continue;
            }
            let mut held = Vec::new();
            for port in ports {
                let Port { proto, container, host_ip, host } = port;
                match reserve::reserve(&Wanted { proto, container, host_ip, first: host, last: host }, to, &[]) {
                    Ok(port) => held.push(port),
                    // Its packets are still translated before that other program sees them.
                    Err(e) => warn!("endpoint {}: {e}", short(&id)),
                }
            }
            self.reserved().insert(id, held);
        }
        self.update_nat().await;
    }

    /// Brings the translation up to date with the state, or says why that failed; it is retried in any case.
    pub(super) async fn try_update_nat(&self) -> Result<(), String> {
        self.guards.nat.set(|| self.nat()).await
    }

    /// The same for callers who go on either way.
    pub(super) async fn update_nat(&self) {
        self.guards.nat.set_in_background(|| self.nat()).await;
    }

    fn nat(&self) -> Nat {
        self.store.read(|s| publish::nat(s, localnet::takes_localnet))
    }

    /// Releases the reservations of the endpoint's ports.
    pub(super) fn release_ports(&self, endpoint_id: &str) {
        self.reserved().remove(endpoint_id);
    }

    fn reserved(&self) -> MutexGuard<'_, std::collections::HashMap<String, Vec<Reserved>>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether these ports are what is wanted, in the same order.
fn is_met(wanted: &[Wanted], ports: &[Port]) -> bool {
    wanted.len() == ports.len() && wanted.iter().zip(ports).all(|(w, p)| w.is_met_by(p))
}

/// What all other endpoints have published.
fn taken(state: &State, endpoint_id: &str) -> Vec<Port> {
    let endpoints = state.networks.values().flat_map(|n| n.endpoints.iter());
    endpoints.filter(|(id, _)| *id != endpoint_id).flat_map(|(_, e)| e.ports.iter().copied()).collect()
}
