//! Packet-filter rules: applied at start, checked ever after.

use std::future::Future;

use flannel_core::rules::RuleSet;

pub mod iptables;

/// Why rules could not be set: a sentence with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TrafficError(pub String);

/// The host's packet filter.
pub trait TrafficManager {
    /// Makes the rules of the set, and nothing else of ours, stand; says whether anything had to be done.
    fn apply(&self, rules: &RuleSet) -> impl Future<Output = Result<bool, TrafficError>>;
}
