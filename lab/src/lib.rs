//! The lab: hosts that are not there until one makes them, and what is needed to try flannel on them.
//!
//! There are two kinds. [`world`] makes hosts as network namespaces, in seconds. The rest makes
//! Docker hosts as containers:
//!
//! A **lab** is an etcd and some **hosts** on one underlay network. A host is a container with two dockerds in it
//! (docs/how-to/run-the-lab.md): the early one runs the `flannel` image, the main one runs **workloads** on flannel networks. The
//! binary `flannel-lab` makes a lab by compose and checks it; the end-to-end tests make the same hosts by
//! testcontainers and check them with the same code.
//!
//! ```text
//! args -> commands -> { compose, engine, host, workload } -> matrix -> report
//! ```

pub mod args;
pub mod bench;
pub mod commands;
pub mod compose;
pub mod diagnose;
pub mod engine;
pub mod error;
pub mod eventually;
pub mod faults;
pub mod holder;
pub mod host;
pub mod matrix;
pub mod measure;
pub mod progress;
pub mod report;
pub mod results;
pub mod topology;
pub mod underlay;
pub mod workload;
pub mod world;

pub use error::{Error, Result};
