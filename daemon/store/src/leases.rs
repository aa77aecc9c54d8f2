//! The leases of one flannel network as the lease protocol needs them.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, LeaseAttrs};
use futures_util::Stream;

/// A point in the store's history, as etcd counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub i64);

/// A lease as it is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The subnets.
    pub key: SubnetKey,
    /// The attributes, or why they cannot be read; the subnet is taken either way.
    pub attrs: Result<LeaseAttrs, BadLease>,
    /// When it was last written.
    pub revision: Revision,
    /// It never expires: an operator reserved the subnet by writing the key without a time to live.
    pub reserved: bool,
}

/// All leases at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The leases.
    pub leases: Vec<Stored>,
    /// When they were as listed.
    pub revision: Revision,
}

/// The time to live of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// This long unless renewed.
    Expires(Duration),
    /// Never expires: a reservation.
    Never,
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expires(ttl) => write!(f, "for {} s", ttl.as_secs()),
            Self::Never => f.write_str("reserved, without expiry"),
        }
    }
}

/// What must be true for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key is not there.
    Absent,
    /// The key was last written then.
    Revision(Revision),
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It was written.
    Yes {
        /// The time to live the store granted.
        ttl: Ttl,
        /// The key's new revision.
        revision: Revision,
    },
    /// The expectation did not hold; nothing was changed.
    Raced,
}

/// What a watch reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A lease was written.
    Put(Stored),
    /// A lease was removed or expired.
    Delete(SubnetKey),
    /// All events up to this revision were delivered.
    Progress(Revision),
    /// The store no longer has the events since the revision asked for: list again.
    Compacted,
}

/// Why an operation of the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The config key does not exist.
    #[error(
        "config {0} is not in etcd: put it there with `etcdctl put {0} '{{\"Network\":\"10.5.0.0/16\",\"Backend\":{{\"Type\":\"vxlan\"}}}}'` (API v3)"
    )]
    NoConfig(String),
    /// No endpoint is reachable; a retry may succeed.
    #[error("flag -etcd-endpoints: no etcd endpoint is reachable: {0}")]
    Unreachable(String),
    /// etcd answered with a refusal (credentials, permission).
    #[error("etcd refused: {0}")]
    Refused(String),
    /// Flags or files that can never work, whatever etcd does.
    #[error("{0}")]
    Setup(String),
}

/// The store of one flannel network.
pub trait SubnetStore {
    /// The config's text.
    fn config(&self) -> impl Future<Output = Result<String, StoreError>>;

    /// All leases, and the revision at which this was so.
    fn list(&self) -> impl Future<Output = Result<(Vec<Stored>, Revision), StoreError>>;

    /// One lease.
    fn get(&self, key: SubnetKey) -> impl Future<Output = Result<Option<Stored>, StoreError>>;

    /// Writes a lease, if `expect` is true.
    fn put(
        &self,
        key: SubnetKey,
        attrs: &LeaseAttrs,
        ttl: Ttl,
        expect: Expect,
    ) -> impl Future<Output = Result<Written, StoreError>>;

    /// Removes a lease last written at `revision`; false when it was written since or is gone.
    fn delete(&self, key: SubnetKey, revision: Revision) -> impl Future<Output = Result<bool, StoreError>>;

    /// Everything that happens to leases after `revision`. Ends or fails when the connection breaks.
    fn watch(
        &self,
        after: Revision,
    ) -> impl Future<Output = Result<impl Stream<Item = Result<WatchEvent, StoreError>> + Unpin, StoreError>>;
}
