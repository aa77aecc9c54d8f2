//! Why the daemon stops, and the exit code that tells scripts.

use std::net::SocketAddr;
use std::path::PathBuf;

use flannel_core::backend_config::BadBackend;
use flannel_core::config::{BadConfig, NetworkConfig};
use flannel_core::key::SubnetKey;

use flannel_store::leases::StoreError;

/// A fault that ends the daemon. Each is one line that names the object and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag's value.
    #[error("{0}")]
    Flag(String),
    /// The health server cannot listen.
    #[error("flag -healthz-port: cannot listen on {0}: {1}; choose a free port")]
    Healthz(SocketAddr, std::io::Error),
    /// etcd answers, but not to us (credentials, certificates).
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A config that waiting cannot mend.
    #[error("config {key} in etcd: {source}")]
    Config {
        /// The etcd key.
        key: String,
        /// The mistakes.
        source: BadConfig,
    },
    /// The `Backend` object of the config.
    #[error("config {key} in etcd: {source}")]
    Backend {
        /// The etcd key.
        key: String,
        /// The mistakes.
        source: BadBackend,
    },
    /// No interface matches the flags.
    #[error("{0}")]
    Uplink(String),
    /// The backend cannot be set up.
    #[error("backend {backend}: {reason}")]
    Setup {
        /// The backend's name.
        backend: &'static str,
        /// What failed, and the remedy.
        reason: String,
    },
    /// Every subnet is taken.
    #[error("out of subnets: {taken} leases leave no free subnet; {}", .remedy)]
    OutOfSubnets {
        /// How many leases there are.
        taken: usize,
        /// What to change.
        remedy: String,
    },
    /// Every race for a subnet was lost.
    #[error("no lease after {0} attempts: other hosts took each subnet first; start again")]
    LostRaces(u32),
    /// Another host holds our subnet.
    #[error(
        "lease {key} now belongs to {holder}: this host's containers must get another subnet; \
         remove {} and start again, then recreate the Docker networks", .subnet_file.display()
    )]
    Conflict {
        /// The subnet.
        key: SubnetKey,
        /// The other host's public address.
        holder: String,
        /// The file that remembers the subnet.
        subnet_file: PathBuf,
    },
    /// The packet-filter rules cannot be installed.
    #[error("{0}")]
    Traffic(String),
    /// A failed operation of the kernel or the system that the daemon cannot run without.
    #[error("{0}")]
    System(String),
}

impl Error {
    /// 2 for a wrong command line, 3 for a lease lost to another host, 1 for everything else, as upstream.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Flag(_) => 2,
            Self::Conflict { .. } => 3,
            _ => 1,
        }
    }

    /// The remedy of [`Error::OutOfSubnets`].
    pub(crate) fn out_of_subnets(config: &NetworkConfig, taken: usize) -> Self {
        let ranges =
            config.ranges.values().map(|r| format!("{} .. {} of {} in /{}", r.min, r.max, r.network, r.subnet_len));
        let ranges = ranges.collect::<Vec<_>>().join(" and ");
        let remedy = format!(
            "the range is {ranges}: widen SubnetMin/SubnetMax or Network, lengthen SubnetLen, or delete dead leases"
        );
        Self::OutOfSubnets { taken, remedy }
    }
}
