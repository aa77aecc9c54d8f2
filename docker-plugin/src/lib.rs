//! A Docker plugin over flannel: `docker network create -d flannel --ipam-driver flannel NAME` makes a network out of
//! the host's flannel lease.
//!
//! Docker speaks HTTP over a unix socket to us ([`server`], [`api`]). A network is a bridge with the lease's first
//! address, an endpoint is a veth pair from that bridge into the container ([`driver`], [`links`]), and the packet filter
//! lets them through ([`firewall`]). In gateway mode we also do source NAT and publish ports ([`nat`], [`publish`]).
//! flanneld carries packets between the hosts; all we know of it is the file it writes ([`store::lease`]). What Docker
//! creates is recorded on disk ([`store`]), and compared with what Docker and the kernel have ([`driver::drift`]).

pub mod api;
pub mod docker;
pub mod doctor;
pub mod driver;
pub mod error;
pub mod firewall;
pub mod links;
pub mod naming;
pub mod nat;
pub mod opts;
pub mod publish;
pub mod server;
pub mod socket;
pub mod store;
