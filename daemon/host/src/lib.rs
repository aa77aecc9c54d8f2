//! The I/O twin of `flannel-core`: what both daemons do to a Linux host, and the only way they do it.
//!
//! Dependencies point one way: `flannel-core <- flannel-host <- {flanneld, flannel-docker}`. Decisions belong in
//! `flannel-core`; this crate reads the host's state, applies what was decided, and reports what the kernel or a
//! program answered.

pub mod backoff;
pub mod files;
pub mod filter;
pub mod log;
pub mod metrics;
pub mod netlink;
pub mod program;
pub mod say_once;
