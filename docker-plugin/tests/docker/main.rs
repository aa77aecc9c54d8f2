//! The plugin under the real Docker, used as a user would: by the `docker` command.
//!
//! Every test has a host with a Docker of its own ([`site`]): that of the machine, or the one that
//! `FLANNEL_TEST_DOCKER_BIN` names. Needs root, Docker's programs, iptables, nftables, iproute2 and busybox-static; the
//! managed plugin also a running dockerd with the image `flannel`.

mod site;

mod addresses;
mod chaos;
mod doctor;
mod dual_stack;
mod faults;
mod gateway;
mod life;
mod managed;
mod memory;
mod networks;
mod ports;
mod restart;
mod user;
