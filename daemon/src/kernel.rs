//! The kernel's side: what the daemon programmes, behind the few calls the reconciler needs.

use std::fmt;
use std::future::Future;

use flannel_core::config::Range;
use flannel_core::entry::{Entry, LinkIndex, Table};
pub use flannel_host::netlink::{Fault, KernelError};

#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod host;
mod install;
pub mod ipip;
mod message;
pub mod monitor;
pub mod netlink;
pub mod offload;
pub mod vxlan;
pub mod wireguard;

/// Where this daemon's entries are to be found, for telling them from everybody else's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Devices that are wholly ours: every route, neighbour and forwarding record on them.
    pub owned: Vec<LinkIndex>,
    /// A device shared with others, with the ranges of the flannel network: ours there are only routes through a
    /// gateway to one of the network's subnets.
    pub shared: Option<(LinkIndex, Vec<Range>)>,
}

/// What is done with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It is made, or takes the place of what stands in its slot.
    Put,
    /// It is taken away; one that is not there is no error.
    Remove,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "put",
            Self::Remove => "remove",
        })
    }
}

/// An entry that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its place among those given.
    pub place: usize,
    /// Why.
    pub error: KernelError,
}

/// Entries of the kernel.
pub trait Kernel {
    /// Does one thing with each entry, in their order; those not told of went well. An error says that it is not known
    /// what came of them.
    fn carry_out(&self, verb: Verb, entries: &[Entry]) -> impl Future<Output = Result<Vec<Failure>, KernelError>>;

    /// The entries that are ours.
    fn list(&self, scope: &Scope) -> impl Future<Output = Result<Table, KernelError>>;
}
