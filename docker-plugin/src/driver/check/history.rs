//! What one check remembers for the next, and who waits for one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::docker::engine::DockerNetwork;
use crate::driver::drift::Difference;

/// The history of checks.
#[derive(Debug)]
pub(in crate::driver) struct History {
    /// Reserved during a check.
    pub(super) lock: tokio::sync::Mutex<()>,
    /// The number of the last check that was requested.
    pub(super) requested: watch::Sender<u64>,
    /// The number of the last one that is complete.
    pub(super) complete: watch::Sender<u64>,
    /// Differences seen once, and when.
    unconfirmed: Mutex<BTreeMap<Difference, Instant>>,
    /// Differences that are in the log already.
    logged: Mutex<BTreeSet<Difference>>,
    /// Networks that Docker had us remove, which it still lists for a moment.
    removed: Mutex<BTreeSet<String>>,
    /// Containers by EndpointID, as of the last check.
    containers: Mutex<BTreeMap<String, String>>,
    /// The state was lost, so what Docker says needs no second check.
    state_lost: bool,
}

impl History {
    /// Without any check. With `state_lost`, there was no state to read.
    pub(in crate::driver) fn new(state_lost: bool) -> Self {
        Self {
            lock: tokio::sync::Mutex::default(),
            requested: watch::Sender::new(0),
            complete: watch::Sender::new(0),
            unconfirmed: Mutex::default(),
            logged: Mutex::default(),
            removed: Mutex::default(),
            containers: Mutex::default(),
            state_lost,
        }
    }

    pub(super) fn unconfirmed(&self) -> MutexGuard<'_, BTreeMap<Difference, Instant>> {
        self.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn logged(&self) -> MutexGuard<'_, BTreeSet<Difference>> {
        self.logged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests a check, and returns its number.
    pub(super) fn request(&self) -> u64 {
        let mut number = 0;
        self.requested.send_modify(|n| {
            *n += 1;
            number = *n;
        });
        number
    }

    /// Records the names of containers.
    pub(super) fn record(&self, networks: &[DockerNetwork]) {
        let endpoints = networks.iter().flat_map(|n| n.endpoints.iter());
        let named = endpoints.filter(|(_, e)| !e.container.is_empty()).map(|(id, e)| (id.clone(), e.container.clone()));
        *self.containers.lock().unwrap_or_else(PoisonError::into_inner) = named.collect();
    }

    /// The container of an endpoint, if the last check saw it.
    pub(in crate::driver) fn container(&self, endpoint: &str) -> Option<String> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).get(endpoint).cloned()
    }

    /// Records that Docker had a network removed.
    pub(in crate::driver) fn record_removal(&self, network: &str) {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).insert(network.to_owned());
    }

    /// Whether Docker had a network removed since this process started. It never uses an ID again.
    pub(in crate::driver) fn was_removed(&self, network: &str) -> bool {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).contains(network)
    }

    /// Whether there was no state to read.
    pub(in crate::driver) fn is_state_lost(&self) -> bool {
        self.state_lost
    }

    /// Whether one of Docker's networks is adopted at the first check: it is unknown because the state was lost, not
    /// because of a call in progress.
    pub(super) fn needs_no_recheck(&self, difference: &Difference) -> bool {
        matches!(difference, Difference::NetworkUnknown { .. }) && self.state_lost
    }
}
