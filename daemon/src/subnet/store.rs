//! What the lease protocol needs of its store, and nothing else.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, LeaseAttrs};
use futures_util::Stream;

/// A point in the store's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub i64);

/// A lease as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The subnets.
    pub key: SubnetKey,
    /// The attributes, or why they can't be read; the subnet is taken either way.
    pub attrs: Result<LeaseAttrs, BadLease>,
    /// When it was last written.
    pub revision: Revision,
    /// It never runs out: a person reserved the subnet by writing the key without a time to live.
    pub reserved: bool,
}

/// How long a lease lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// This long unless renewed.
    For(Duration),
    /// For ever: a reservation.
    Reserved,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(ttl) => write!(f, "for {} s", ttl.as_secs()),
            Self::Reserved => f.write_str("for ever, by reservation"),
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

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It stands.
    Yes {
        /// How long it lives, as the store granted it.
        life: Life,
        /// The key's new revision.
        revision: Revision,
    },
    /// What was expected was no longer true; nothing was changed.
    Raced,
}

/// News of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A lease was written.
    Put(Stored),
    /// A lease was removed or ran out.
    Delete(SubnetKey),
    /// Everything up to this revision was told.
    Progress(Revision),
    /// The store no longer knows what happened since the revision asked for: list again.
    Compacted,
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The config key is not there.
    #[error(
        "config {0} is not in etcd: put it there with `etcdctl put {0} '{{\"Network\":\"10.5.0.0/16\",\"Backend\":{{\"Type\":\"vxlan\"}}}}'` (API v3)"
    )]
    NoConfig(String),
    /// No endpoint answers; another try may go better.
    #[error("flag -etcd-endpoints: no etcd answers: {0}")]
    Unreachable(String),
    /// etcd answered with a refusal (credentials, permission).
    #[error("etcd refused: {0}")]
    Refused(String),
    /// Flags or files that can never work.
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
        life: Life,
        expect: Expect,
    ) -> impl Future<Output = Result<Written, StoreError>>;

    /// Removes a lease last written at `revision`; false when it was written since or is gone.
    fn delete(&self, key: SubnetKey, revision: Revision) -> impl Future<Output = Result<bool, StoreError>>;

    /// Everything that happens to leases after `revision`. Ends or errs when the connection breaks.
    fn watch(
        &self,
        after: Revision,
    ) -> impl Future<Output = Result<impl Stream<Item = Result<News, StoreError>> + Unpin, StoreError>>;
}
