//! What the looks at Docker remember of each other, and who waits for one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::docker::engine::DockerNetwork;
use crate::driver::drift::Difference;

/// The book of looks.
#[derive(Debug)]
pub(super) struct Looks {
    /// Held by the one that looks.
    pub(super) lock: tokio::sync::Mutex<()>,
    /// The number of the last look that a call asked for.
    pub(super) wanted: watch::Sender<u64>,
    /// The same, of the last that is over.
    pub(super) done: watch::Sender<u64>,
    /// Seen once, and when.
    suspects: Mutex<BTreeMap<Difference, Instant>>,
    /// What the log has been told of already.
    told: Mutex<BTreeSet<Difference>>,
    /// Networks that Docker had us remove. For a moment after it still lists them.
    removed: Mutex<BTreeSet<String>>,
    /// Who is at an endpoint, as of the last look.
    names: Mutex<BTreeMap<String, String>>,
    /// The state was lost, so Docker is believed at the first look.
    lost: bool,
}

impl Looks {
    /// An empty book. With `lost`, the state could not be read.
    pub(super) fn new(lost: bool) -> Self {
        Self {
            lock: tokio::sync::Mutex::default(),
            wanted: watch::Sender::new(0),
            done: watch::Sender::new(0),
            suspects: Mutex::default(),
            told: Mutex::default(),
            removed: Mutex::default(),
            names: Mutex::default(),
            lost,
        }
    }

    pub(super) fn suspects(&self) -> MutexGuard<'_, BTreeMap<Difference, Instant>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers who is where.
    pub(super) fn meet(&self, networks: &[DockerNetwork]) {
        let endpoints = networks.iter().flat_map(|n| n.endpoints.iter());
        let names = endpoints.filter(|(_, e)| !e.container.is_empty()).map(|(id, e)| (id.clone(), e.container.clone()));
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names.collect();
    }

    /// The container at an endpoint, if the last look saw it.
    pub(super) fn name_of(&self, endpoint: &str) -> Option<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).get(endpoint).cloned()
    }

    pub(super) fn told(&self) -> MutexGuard<'_, BTreeSet<Difference>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that Docker gave up a network.
    pub(super) fn removed(&self, network: &str) {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).insert(network.to_owned());
    }

    /// Whether Docker gave up a network in this process's life. It never uses an ID again.
    pub(super) fn was_removed(&self, network: &str) -> bool {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).contains(network)
    }

    /// Whether there was no state to read.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether a network of Docker's may be taken on at once: one that we forgot by losing the state, not by a call.
    pub(super) fn trusts_docker(&self, difference: &Difference) -> bool {
        matches!(difference, Difference::NetworkUnknown { .. }) && self.lost
    }
}
