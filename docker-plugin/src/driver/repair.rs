//! Putting right what differs between Docker, our state and the kernel: in the background, never in a handler.

use std::collections::BTreeSet;
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::Driver;
use super::adopt::read_endpoint;
use crate::api::network::EndpointCall;
use crate::docker::engine::DockerNetwork;
use crate::driver::drift::{Difference, Remedy, View, compare};
use crate::error::Error;
use crate::links::{Links, Owned};
use crate::store::State;

/// How often Docker is asked when nothing is the matter. After a start, or a call that was lost, it is asked more
/// often, since the end of what it is about may take it a minute.
const PERIOD: Duration = Duration::from_secs(60);

/// How soon after the first look the second comes, which tells a difference from a call half way.
const SECOND_LOOK: Duration = Duration::from_secs(5);

/// How soon a Docker that did not answer is asked again. At boot it comes after us.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// How often what is put right may bring more to light.
const REPAIRS: usize = 3;

/// How long a start without a state waits for Docker.
const RECOVERY: Duration = Duration::from_secs(2);

/// How long a call waits for a look that may free what it wants. A look takes some milliseconds, and a Docker that
/// takes longer has to wait for us no longer than this.
const CALL_PATIENCE: Duration = Duration::from_millis(250);

/// What a look brought.
#[derive(Debug, Default)]
pub struct Looked {
    /// Why Docker could not be asked.
    pub silent: Option<String>,
    /// What was put right.
    pub done: Vec<Difference>,
    /// What is to be looked at once more.
    pub suspected: Vec<Difference>,
    /// What we can't put right, with the reason where we tried.
    pub left: Vec<(Difference, Option<String>)>,
}

impl<L: Links> Driver<L> {
    /// Where there was no state to read, asks Docker for it before its calls are answered; but not for long, since at
    /// boot Docker waits for us.
    pub async fn recover(&self) {
        if self.looks.is_lost() && timeout(RECOVERY, self.look()).await.is_err() {
            warn!(
                "Docker has not said in {RECOVERY:?} which networks it has: it is asked again while calls are answered"
            );
        }
    }

    /// Puts right all that can be, and looks twice where that is needed; once more, where that has shown more.
    pub async fn repair_all(&self) -> Looked {
        self.restore().await;
        let mut done = Vec::new();
        let mut looked = self.look().await;
        for _ in 0..REPAIRS {
            done.append(&mut looked.done);
            if looked.suspected.is_empty() {
                break;
            }
            drop(timeout(SECOND_LOOK, pending::<()>()).await);
            looked = self.look().await;
        }
        done.append(&mut looked.done);
        looked.done = done;
        looked
    }

    /// Looks at start, then now and then, and when a call asks for it. Never returns.
    pub async fn watch(&self) {
        let mut calm = SECOND_LOOK;
        loop {
            let asked = *self.looks.wanted.borrow();
            let looked = self.look().await;
            self.looks.done.send_replace(asked);
            let pause = match looked {
                // Without Docker there is nobody to ask; the kernel is looked after all the same.
                _ if !self.engine.is_known() => PERIOD,
                Looked { silent: Some(reason), .. } => {
                    debug!("{reason}");
                    TRY_AGAIN
                }
                Looked { suspected, .. } if !suspected.is_empty() => SECOND_LOOK,
                Looked { .. } => {
                    calm = PERIOD.min(calm * 2);
                    calm
                }
            };
            let mut wanted = self.looks.wanted.subscribe();
            if timeout(pause, wanted.wait_for(|number| *number > asked)).await.is_ok() {
                // Something has happened, and its end may not be seen yet.
                calm = SECOND_LOOK;
            }
        }
    }

    /// Has Docker asked soon: one of its calls was lost.
    pub fn look_soon(&self) {
        self.looks.wanted.send_modify(|n| *n += 1);
    }

    /// Orders a look and waits for it, but not for long.
    pub(super) async fn want_look(&self) {
        let mut number = 0;
        self.looks.wanted.send_modify(|n| {
            *n += 1;
            number = *n;
        });
        let mut done = self.looks.done.subscribe();
        if timeout(CALL_PATIENCE, done.wait_for(|n| *n >= number)).await.is_err() {
            debug!("Docker has not said yet which networks it has");
        }
    }

    /// Compares once, and puts right what is certain.
    pub async fn look(&self) -> Looked {
        let _one_at_a_time = self.looks.lock.lock().await;
        // Before Docker is asked: what is made meanwhile is not taken for gone.
        let state = self.state();
        let (docker, silent) = match self.engine.networks(&self.name).await {
            Ok(networks) => (Some(networks), None),
            Err(reason) => (None, Some(reason)),
        };
        let devices = match self.links.owned().await {
            Ok(devices) => devices,
            Err(e) => {
                warn!("{e}");
                return Looked { silent, ..Looked::default() };
            }
        };
        let leases = self.subnet_file.leases(state.networks.values().map(|n| &n.flannel));
        let address_space = self.address_space();
        let view = View {
            address_space: &address_space,
            state: &state,
            docker: docker.as_deref(),
            devices: &devices,
            leases: &leases,
        };
        let found = compare(&view);
        let mut looked = Looked { silent, ..Looked::default() };
        for difference in self.certain(found, &mut looked.suspected) {
            match difference.remedy() {
                Remedy::Yours(_) => looked.left.push((difference, None)),
                Remedy::Ours => match self.repair(&difference, docker.as_deref().unwrap_or_default(), &devices).await {
                    Ok(true) => {
                        info!("{difference}: put right");
                        looked.done.push(difference);
                    }
                    Ok(false) => {}
                    Err(e) => looked.left.push((difference, Some(e.to_string()))),
                },
            }
        }
        if let Some(docker) = &docker {
            self.looks.meet(docker);
        }
        let first_word = self.looks.is_lost() && looked.silent.is_none();
        if first_word || !looked.done.is_empty() {
            self.order_rules().await;
            // The guard has told of a failure, and tries on.
            drop(self.order_nat().await);
        }
        self.tell(&looked.left);
        looked
    }

    /// Says what is left, once.
    fn tell(&self, left: &[(Difference, Option<String>)]) {
        let mut told = self.looks.told();
        for (difference, reason) in left.iter().filter(|(d, _)| !told.contains(d)) {
            match (reason, difference.remedy()) {
                (Some(reason), _) => warn!("{difference}: {reason}"),
                (None, Remedy::Yours(remedy)) => warn!("{difference}: {remedy}"),
                (None, Remedy::Ours) => warn!("{difference}"),
            }
        }
        *told = left.iter().map(|(d, _)| d.clone()).collect();
    }

    /// Those to act upon now; the others are kept for the second look.
    fn certain(&self, found: BTreeSet<Difference>, suspected: &mut Vec<Difference>) -> Vec<Difference> {
        let now = Instant::now();
        let mut suspects = self.looks.suspects();
        suspects.retain(|d, _| found.contains(d));
        let mut certain = Vec::new();
        for difference in found {
            if !difference.needs_second_look() {
                certain.push(difference);
                continue;
            }
            let since = *suspects.entry(difference.clone()).or_insert(now);
            if now.duration_since(since) >= SECOND_LOOK || self.looks.trusts_docker(&difference) {
                certain.push(difference);
            } else {
                suspected.push(difference);
            }
        }
        certain
    }

    /// Puts one thing right. Tells whether there was anything to do: it may have changed since it was seen.
    async fn repair(
        &self,
        difference: &Difference,
        docker: &[DockerNetwork],
        devices: &[Owned],
    ) -> Result<bool, Error> {
        match difference {
            Difference::NetworkUnknown { network, .. } => {
                let Some(there) = docker.iter().find(|n| n.id == *network) else { return Ok(false) };
                self.adopt_network(there, devices).await
            }
            Difference::NetworkGone { network } => {
                // While Docker is still creating a network, it does not list it.
                if self.is_young(network, Instant::now()) {
                    return Ok(false);
                }
                self.remove_network(network).await;
                Ok(true)
            }
            Difference::EndpointUnknown { network, endpoint, .. } => {
                let there = docker.iter().find(|n| n.id == *network);
                let Some(there) = there.and_then(|n| n.endpoints.get(endpoint)) else { return Ok(false) };
                let read = read_endpoint(&there.addresses, &there.mac);
                let Some(read) = read else { return Ok(false) };
                let add = |s: &mut State| {
                    let known = s.networks.get_mut(network);
                    Ok(known.is_some_and(|n| n.endpoints.insert(endpoint.clone(), read).is_none()))
                };
                // A disk that refuses is told, and the next look tries again.
                self.store.change(add).await
            }
            Difference::EndpointGone { network, endpoint } => {
                let known = self.state().networks.get(network).and_then(|n| n.endpoints.get(endpoint).cloned());
                let Some(known) = known else { return Ok(false) };
                let call = EndpointCall { network_id: network.clone(), endpoint_id: endpoint.clone() };
                self.delete_endpoint(call).await?;
                for address in known.addresses {
                    self.release(network, address.addr()).await;
                }
                Ok(true)
            }
            Difference::AddressLeaked { network, address } => {
                self.release(network, *address).await;
                Ok(true)
            }
            Difference::AddressUntaken { network, address } => {
                let claim = |s: &mut State| {
                    let mut pools = s.pools.values_mut().filter(|p| p.network.as_deref() == Some(network));
                    pools.find(|p| p.subnet.contains(address)).map_or(Ok(()), |p| p.claim(*address))
                };
                self.store.change(claim).await.map(|()| true)
            }
            Difference::BridgeMissing { network, .. }
            | Difference::BridgeWrong { network, .. }
            | Difference::CableUnplugged { network, .. } => {
                let _held = self.bridges.lock().await;
                let Some(known) = self.store.read(|s| s.networks.get(network).cloned()) else { return Ok(false) };
                self.ensure_network(network, &known).await?;
                self.replug(network).await?;
                Ok(true)
            }
            Difference::DeviceLeft { device } => {
                let _held = self.bridges.lock().await;
                Ok(self.remove_unknown(device).await)
            }
            Difference::LeaseChanged { .. } | Difference::CableMissing { .. } => Ok(false),
        }
    }

    async fn release(&self, network: &str, address: std::net::IpAddr) {
        // One that a container has got since is not ours to release.
        self.store
            .forget(|s| {
                let had = s.networks.get(network).map(|n| n.endpoints.values().flat_map(|e| &e.addresses));
                if had.is_some_and(|mut a| a.any(|a| a.addr() == address)) {
                    return;
                }
                let pools = s.pools.values_mut().filter(|p| p.network.as_deref() == Some(network));
                pools.filter(|p| p.subnet.contains(&address)).for_each(|p| p.release(address));
            })
            .await;
    }
}
