//! The kernel's side: what the daemon programmes, behind the few calls the reconciler needs.

use std::future::Future;

use flannel_core::config::Range;
use flannel_core::entry::{Entry, LinkIndex, Table};

pub mod device;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod host;
pub mod ipip;
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
    /// Whether the owned devices are wireguard's, and so their peers ours too.
    pub peers: bool,
}

/// What went wrong with one operation, as far as the daemon reacts to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is there already.
    Exists,
    /// It is not there.
    NotFound,
    /// The device is gone.
    NoDevice,
    /// Not allowed.
    Denied,
    /// This kernel can't do it.
    Unsupported,
    /// Something else.
    Other,
}

/// An operation the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("can't {what}: {reason}")]
pub struct KernelError {
    /// What was tried, with its object: "add route 10.5.1.0/24 via 192.0.2.1".
    pub what: String,
    /// Why not, with the remedy where there is one.
    pub reason: String,
    /// The reason as far as the daemon reacts to it.
    pub fault: Fault,
}

/// Entries of the kernel.
pub trait Kernel {
    /// Creates the entry, or replaces what stands in its slot.
    fn put(&self, entry: &Entry) -> impl Future<Output = Result<(), KernelError>>;

    /// Removes the entry; one that is not there is no error.
    fn remove(&self, entry: &Entry) -> impl Future<Output = Result<(), KernelError>>;

    /// The entries that are ours.
    fn list(&self, scope: &Scope) -> impl Future<Output = Result<Table, KernelError>>;
}
