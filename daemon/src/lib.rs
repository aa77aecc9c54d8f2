//! flanneld: a host's agent of a flannel network.
//!
//! [`daemon`] tells the story; it alone knows all the parts. [`subnet`] speaks the lease protocol with etcd,
//! [`backend`] turns remote leases into entries, [`kernel`] programmes them, [`filter`] sets packet-filter rules,
//! [`uplink`] chooses the interface, [`ready`] and [`service_manager`] tell the host. [`docker_opts`] is a program of
//! its own, run once behind the daemon. The words they share are `flannel-core`'s.

pub mod backend;
pub mod connect;
pub mod daemon;
pub mod docker_opts;
pub mod docker_plugin;
pub mod error;
pub mod filter;
pub mod keeper;
pub mod kernel;
pub mod metrics;
pub mod opts;
pub mod programme;
pub mod ready;
pub mod reconcile;
pub mod service_manager;
pub mod subnet;
pub mod uplink;
