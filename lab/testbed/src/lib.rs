//! Hosts as network namespaces: seconds instead of minutes, no images, as many labs at once as there are tests.
//!
//! ```text
//!            etcd .100        h1 .1          h2 .2             h3 .3
//!              eth0            eth0           eth0              eth0
//!               |               |              |                 |
//!        =======+======= br0 ===+==============+====      == br1 +==
//!                       172.31.77.0/24        .254 \      / .254   172.31.78.0/24
//!                                                   switch (routes between the two)
//! ```
//!
//! Each box is a namespace of its own. A host on [`Segment::Near`] shares the L2 with etcd, one on [`Segment::Far`]
//! sits behind the router. [`Host::pod`] adds a substitute for a container: a namespace behind a bridge that holds the
//! lease's first address. [`Host::machine`] makes it a machine with files and processes of its own, and that can have a
//! Docker: [`Machine::dockerd`].
//!
//! Every name begins with `fllab-<pid>-<number>-`, so labs of parallel tests never meet. All of it goes when the
//! [`Lab`] is dropped, after a panic too; what a killed test process left behind goes when the next lab starts. No
//! interface, address or rule is ever made in the caller's own namespace.
//!
//! Not isolated: the kernel's module list, `/run/xtables.lock` and the cores all labs share.

mod cgroups;
mod clock;
mod command;
pub mod diagnose;
mod docker;
mod error;
mod etcd;
mod flanneld;
mod host;
mod lab;
mod machine;
mod namespace;
mod ping;
mod pod;
mod process;
mod raw;
mod snapshot;
mod transfer;
mod wait;

pub use command::output;
pub use docker::{Dockerd, IMAGE};
pub use error::{Context, Error, Result};
pub use etcd::{Etcd, KeyValue};
pub use flanneld::{Daemon, Exit, Flanneld, SubnetEnv};
pub use host::Host;
pub use ipnet::Ipv4Net;
pub use lab::{Lab, Segment, next_number};
pub use machine::{DOCKER_BIN, Machine};
pub use namespace::{Inside, Namespace, abandon, join, prefix, sweep};
pub use ping::{Ping, PingReport, Reply};
pub use pod::Pod;
pub use process::Process;
pub use raw::{capture, injector, tap};
pub use rustix::net::ipproto;
pub use rustix::process::Signal;
pub use snapshot::Snapshot;
pub use transfer::{Transfer, transfer};
pub use wait::{SOON, eventually, holds, pause};
