//! The words and decisions of flannel, without any I/O: no sockets, no files, no clock, no runtime.
//!
//! The terms are explained in docs/architecture.md, section "Glossary".
//!
//! "docs/upstream.md, section 2.3" refers to the description of upstream's behaviour that this project was built from;
//! `parity:` names the recording of upstream that a test compares with.
#![forbid(unsafe_code)]

pub mod allocate;
pub mod backend_config;
pub mod config;
pub mod desired;
pub mod docker_opts;
pub mod entry;
pub mod family;
pub mod filter;
pub mod flags;
mod json;
pub mod key;
pub mod lease;
pub mod name;
pub mod net;
pub mod packet;
pub mod renewal;
pub mod schedule;
pub mod subnet_env;
pub mod view;
pub mod wireguard;

pub use ipnet;
