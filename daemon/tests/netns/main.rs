//! The binary `flanneld` from outside: hosts as network namespaces, a real etcd, and what an operator would look at
//! (the file, the key, `ip`, `bridge`, `iptables-save`, packets). Needs root; `ci/netns` runs it.
//!
//! ```text
//!    etcd .100      h1 .1        h2 .2       ...
//!      |             |            |
//!   ===+============ + ===========+====  172.31.77.0/24, the router is .254
//!
//!   h1: pod1 (lease + 2) -- cbr0 (lease + 1) -- [flannel.1 | flannel0 | plain route] -- eth0
//! ```
//!
//! A module an idea; each test makes its own hosts, so all run at once.

mod blackhole;
mod certificates;
mod check_config;
mod claim;
mod command_line;
mod config;
mod crowd;
mod device;
mod docker_opts;
mod dual_stack;
mod endpoints;
mod errors;
mod etcd_auth;
mod etcd_tls;
mod expiry;
mod extension;
mod flap;
mod health;
mod ipip;
mod leases;
mod metrics;
mod nftables;
mod offload;
mod outage;
mod peers;
mod pods;
mod reboot;
mod recorded;
mod repair;
mod restart;
mod rules;
mod scale;
mod scale_cost;
mod scale_trouble;
mod service_manager;
mod storm;
mod support;
mod switch;
mod udp;
mod udp_offload;
mod udp_packets;
mod udp_restart;
mod udp_senders;
mod uplink;
mod wireguard;
