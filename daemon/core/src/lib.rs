//! The words and decisions of flannel, without any I/O: no sockets, no files, no clock, no runtime.
//!
//! # Glossary
//! - **network**: the address range of the whole cluster (`Network` in etcd's config).
//! - **lease**: one host's **subnet** of the network with the **lease attributes** other hosts need to reach it, kept
//!   in etcd under a key made from the subnet, for 24 hours unless renewed.
//! - **remote lease**: a lease of another host.
//! - **backend**: how packets get to the other hosts (vxlan, host-gw, udp, ...).
//! - **entry**: one thing the kernel (or the udp proxy) must know to reach a remote lease: a route, a neighbour, a
//!   forwarding-database record, a tunnel.
//! - **external interface**: the host's interface that carries the traffic between hosts; its address, or the one
//!   given by `-public-ip`, is the **public IP**.
//! - **VTEP**: the vxlan tunnel end point, the device `flannel.<VNI>`.
//!
//! Numbers of sections ("contract, section 2.3") refer to the description of upstream's behaviour this project was
//! built from; the facts used are repeated where they are used.
#![forbid(unsafe_code)]

pub mod allocate;
pub mod backend_config;
pub mod config;
pub mod desired;
pub mod docker_opts;
pub mod entry;
pub mod filter;
pub mod flags;
mod json;
pub mod key;
pub mod lease;
pub mod name;
pub mod packet;
pub mod renewal;
pub mod schedule;
pub mod subnet_env;
pub mod view;
pub mod wireguard;

pub use ipnet;
