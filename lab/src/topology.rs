//! The file that says what a lab is made of: underlays, routers between them, etcd, hosts, and the flannel networks on
//! them. Both runners, namespaces and containers, make the same lab of the same file.
//!
//! ```toml
//! about = "two hosts behind a router from each other"
//!
//! [[underlay]]                       # an L2; its last address but one is the first router's, .100 etcd's
//! name = "left"
//! subnet = "172.31.77.0/24"
//! mtu = 1500                         # of the hosts' interfaces; 1500
//! rate = "50mbit"                    # of each host's port, both ways; unlimited
//! ipv6 = "fd77::/64"                 # none
//!
//! [[underlay]]
//! name = "right"
//! subnet = "172.31.78.0/24"
//!
//! [[router]]
//! name = "r1"
//! joins = ["left", "right"]
//!
//! [[network]]                        # a flannel network: an etcd prefix with this config, a daemon on each host
//! name = "net"
//! config = { Network = "10.5.0.0/16", Backend = { Type = "vxlan", DirectRouting = true } }
//!
//! [[host]]
//! name = "h1"
//! underlay = "left"
//! flanneld = "/opt/flannel-0.27/flanneld"    # another program than the lab's, in namespaces
//! image = "flannel:old"                      # and in containers
//! args = ["-ip-masq"]
//! ```
//!
//! All errors in a file are reported together, each with the name of the object.

mod check;
mod plan;

use std::path::{Path, PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub use plan::Way;
pub(crate) use plan::with_length;

/// The ready ones, by name; the files are in `compose/topologies`.
const READY: [(&str, &str); 6] = [
    ("three-hosts", include_str!("../../compose/topologies/three-hosts.toml")),
    ("two-segments", include_str!("../../compose/topologies/two-segments.toml")),
    ("host-gw-refused", include_str!("../../compose/topologies/host-gw-refused.toml")),
    ("slow-link", include_str!("../../compose/topologies/slow-link.toml")),
    ("dual-stack", include_str!("../../compose/topologies/dual-stack.toml")),
    ("several-networks", include_str!("../../compose/topologies/several-networks.toml")),
];

/// A topology, read and checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The file's name without its ending.
    #[serde(default)]
    pub name: String,
    /// One sentence for people.
    #[serde(default)]
    pub about: String,
    /// The L2s.
    pub underlay: Vec<Underlay>,
    /// What joins them.
    #[serde(default)]
    pub router: Vec<Router>,
    /// The store.
    #[serde(default)]
    pub etcd: EtcdSpec,
    /// The flannel networks.
    pub network: Vec<Network>,
    /// The hosts.
    pub host: Vec<HostSpec>,
    /// Pairs of hosts between which no container reaches the other, by design; the matrix checks that too.
    #[serde(default)]
    pub apart: Vec<[String; 2]>,
}

/// An L2 with its addresses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Underlay {
    /// Its name.
    pub name: String,
    /// Its IPv4 subnet, a /24.
    pub subnet: Ipv4Net,
    /// Its IPv6 subnet.
    pub ipv6: Option<Ipv6Net>,
    /// The MTU of what is plugged in.
    #[serde(default = "usual_mtu")]
    pub mtu: u32,
    /// How fast each port is, as `tc` writes it.
    pub rate: Option<String>,
}

fn usual_mtu() -> u32 {
    1500
}

/// Joins underlays; everybody on them has it as the way to the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// Its name.
    pub name: String,
    /// The underlays' names.
    pub joins: Vec<String>,
}

/// etcd on the first underlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdSpec {
    /// One or three.
    #[serde(default = "one")]
    pub members: u8,
}

impl Default for EtcdSpec {
    fn default() -> Self {
        Self { members: 1 }
    }
}

fn one() -> u8 {
    1
}

/// A flannel network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name; the etcd prefix is `/coreos.com/NAME`, that of the first is upstream's default.
    pub name: String,
    /// Flannel's config as it is written to etcd.
    pub config: serde_json::Value,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// Its name.
    pub name: String,
    /// Where it is plugged in.
    pub underlay: String,
    /// The flannel networks it is on; all when empty.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Another daemon than the lab's.
    pub flanneld: Option<PathBuf>,
    /// Another image than the lab's.
    pub image: Option<String>,
    /// More flags of its daemons.
    #[serde(default)]
    pub args: Vec<String>,
}

impl Topology {
    /// The ready topology of this name, or else the file.
    pub fn load(name_or_file: &str) -> Result<Self> {
        if let Some((name, text)) = READY.iter().find(|(name, _)| *name == name_or_file) {
            return Self::parse(name, text);
        }
        let path = Path::new(name_or_file);
        let text = std::fs::read_to_string(path).map_err(|error| {
            let names: Vec<&str> = READY.iter().map(|(name, _)| *name).collect();
            Error::Usage(format!("topology {name_or_file}: {error}; give a file or one of {}", names.join(", ")))
        })?;
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Self::parse(&name, &text)
    }

    /// The names of the ready ones.
    pub fn ready() -> impl Iterator<Item = &'static str> {
        READY.iter().map(|(name, _)| *name)
    }

    /// Reads a file's text and checks what it says.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut topology: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            Error::Usage(format!("topology {name}, line {line}: {}", error.message().replace('\n', " ")))
        })?;
        topology.name = name.to_owned();
        let mistakes = check::mistakes(&topology);
        if mistakes.is_empty() {
            Ok(topology)
        } else {
            Err(Error::Usage(format!("topology {name}: {}", mistakes.join("; "))))
        }
    }

    /// The same with another backend in every network; what else the file said of the backend goes.
    #[must_use]
    pub fn with_backend(mut self, backend: Option<&str>) -> Self {
        let Some(backend) = backend else { return self };
        for (number, network) in self.network.iter_mut().enumerate() {
            if network.config["Backend"]["Type"] == backend {
                continue;
            }
            let mut value = serde_json::json!({ "Type": backend });
            // Daemons of several networks share a host: each needs a device or port of its own.
            match backend {
                "vxlan" if number > 0 => value["VNI"] = (number + 1).into(),
                "udp" if number > 0 => value["Port"] = (8285 + number).into(),
                _ => {}
            }
            network.config["Backend"] = value;
        }
        self
    }

    /// The backend of the first network.
    #[must_use]
    pub fn backend(&self) -> &str {
        // Upstream's default.
        self.network.first().and_then(|network| network.config["Backend"]["Type"].as_str()).unwrap_or("udp")
    }
}
