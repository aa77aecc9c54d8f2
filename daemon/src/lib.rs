//! flanneld: a host's agent of a flannel network.
//!
//! [`daemon`] is the start-up and the only module that knows all the others. [`subnet`] speaks the lease protocol,
//! [`backend`] turns remote leases into entries, [`sync`] keeps them installed through [`data_plane`] and [`kernel`], [`filter`] sets packet-filter rules,
//! [`uplink`] chooses the interface, [`ready`] and [`service_manager`] tell the host. [`docker_opts`] is a program of
//! its own, run once behind the daemon. The words they share are `flannel-core`'s.

pub mod backend;
pub mod connect;
pub mod daemon;
pub mod data_plane;
pub mod docker_opts;
pub mod docker_plugin;
pub mod error;
pub mod filter;
pub mod keeper;
pub mod kernel;
pub mod metrics;
pub mod opts;
pub mod ready;
pub mod reconcile;
pub mod service_manager;
pub mod subnet;
pub mod sync;
pub mod uplink;
