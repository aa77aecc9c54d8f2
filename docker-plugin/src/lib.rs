//! A Docker plugin over flannel: `docker network create -d flannel --ipam-driver flannel NAME` makes a network out of
//! the host's flannel lease.
//!
//! Docker speaks HTTP over a unix socket to us ([`server`], [`api`]). A network is a bridge with the lease's first
//! address, an endpoint is a veth pair from that bridge into the container ([`driver`], [`links`]), and the packet
//! filter is told to let them through ([`firewall`]); where a network is to have its way out and its published ports by
//! us, they are translated ([`nat`], [`ports`]). flanneld carries packets between the hosts; all we know of it is
//! the file it writes ([`lease`]). What Docker tells us is remembered on disk ([`state`]), and compared with what it and
//! the kernel have ([`reconcile`]).

pub mod address;
pub mod api;
pub mod doctor;
pub mod driver;
pub mod engine;
pub mod error;
pub mod firewall;
pub mod gateway;
pub mod lease;
pub mod links;
pub mod names;
pub mod nat;
pub mod opts;
pub mod pool;
pub mod ports;
pub mod ready;
pub mod reconcile;
pub mod server;
pub mod socket;
pub mod state;
