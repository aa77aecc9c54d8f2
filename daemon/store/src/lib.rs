//! flannel's etcd client, for every program that reads or writes a flannel network's keys.
//!
//! [`options`] are the flags and variables, the same for all programs. [`client`] is a connection to one of several
//! endpoints, with timeouts, paging and compare-and-swap writes on keys below a prefix. On it, [`etcd`] keeps the
//! leases; [`leases`] is the trait it implements and [`follow`] turns it into an endless stream of updates.
//! [`memory`] is the same store without etcd, for tests.

pub mod client;
pub mod etcd;
pub mod follow;
pub mod leases;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub mod metrics;
pub mod options;
