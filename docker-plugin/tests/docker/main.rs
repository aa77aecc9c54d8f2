//! The plugin under the real Docker of this machine, used as a user would: by the `docker` command.
//!
//! [`restart`] and the tests after it have a Docker of their own ([`own`]).
//!
//! Needs root, a running dockerd, iptables, iproute2 and busybox-static. Every name is unique to its test, every test
//! has a lease of its own, and all that was made is removed.

mod site;
mod support;

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
mod own;
mod ports;
mod restart;
mod user;
