//! The host's lease, as flanneld tells it in `subnet.env`.
//!
//! The file is read at each use: flanneld may start after us, and may come back with another subnet.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use flannel_core::family::Family;
use flannel_core::subnet_env::{HostSubnet, SubnetEnv};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// One address family of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// The whole flannel network.
    pub network: IpNet,
    /// This host's subnet of it.
    pub subnet: IpNet,
}

/// What `subnet.env` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// One or two families, IPv4 first.
    pub sides: Vec<Side>,
    /// What a container's interface may send at most.
    pub mtu: u32,
}

impl Lease {
    /// The side of a family, given as such or by a network of it.
    pub fn side(&self, family: impl Into<Family>) -> Option<Side> {
        let family = family.into();
        self.sides.iter().copied().find(|s| Family::of(s.subnet) == family)
    }

    /// Whether `subnet` belongs to this host.
    pub fn holds(&self, subnet: &IpNet) -> bool {
        self.side(subnet).is_some_and(|s| s.subnet.contains(subnet))
    }
}

impl From<SubnetEnv> for Lease {
    fn from(env: SubnetEnv) -> Self {
        let side = |s: &HostSubnet| Side { network: s.network.trunc(), subnet: s.gateway.trunc() };
        Self { sides: env.subnets.values().map(side).collect(), mtu: env.mtu }
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, side) in self.sides.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { " and " }, side.subnet)?;
        }
        Ok(())
    }
}

/// The name of another daemon's flannel network: that of its subnet file without `.env`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FlannelName(String);

impl FlannelName {
    const MAX: usize = 64;
}

impl fmt::Display for FlannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FlannelName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > Self::MAX || text.starts_with('.') || !text.bytes().all(letters) {
            return Err(Error::Request {
                what: format!("flannel network {text:?}"),
                reason: format!(
                    "must be the name of a subnet file without .env: at most {} letters, digits, '-', '_' and '.'",
                    Self::MAX
                ),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

/// Leases by flannel network; the daemon's without a name is under `None`.
pub type Leases = BTreeMap<Option<FlannelName>, Lease>;

/// Where the lease is to be read.
#[derive(Debug, Clone)]
pub struct SubnetFile(pub PathBuf);

impl SubnetFile {
    /// Reads the lease, or says in one line what keeps it from being read.
    pub fn read(&self) -> Result<Lease, Error> {
        let path = self.path().display().to_string();
        let text = match std::fs::read_to_string(self.path()) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Error::NoLease { path }),
            Err(e) => return Err(Error::LeaseUnreadable { path, reason: e.to_string() }),
        };
        let env = SubnetEnv::parse(&text).map_err(|e| Error::LeaseUnreadable { path, reason: e.to_string() })?;
        Ok(env.into())
    }

    /// The leases of these flannel networks, as far as they can be read.
    pub fn leases<'a>(&self, of: impl IntoIterator<Item = &'a Option<FlannelName>>) -> Leases {
        let read = |name: &Option<FlannelName>| Some((name.clone(), self.of(name.as_ref()).read().ok()?));
        of.into_iter().filter_map(read).collect()
    }

    /// The file of another daemon's flannel network, which is beside this one; this one itself without a name.
    pub fn of(&self, flannel: Option<&FlannelName>) -> Self {
        match flannel {
            Some(name) => Self(self.path().with_file_name(format!("{name}.env"))),
            None => self.clone(),
        }
    }

    /// The flannel networks that have a file beside this one.
    pub fn others(&self) -> Vec<FlannelName> {
        let dir = self.path().parent().and_then(|dir| std::fs::read_dir(dir).ok());
        let files = dir.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let own = self.path().file_name().and_then(|n| n.to_str());
        let others = files.filter(|file| Some(file.as_str()) != own);
        let mut names: Vec<_> = others.filter_map(|file| file.strip_suffix(".env")?.parse().ok()).collect();
        names.sort_unstable();
        names
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENV: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_IPV6_NETWORK=fd00:5::/48\n\
         FLANNEL_IPV6_SUBNET=fd00:5:0:2e::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn another_daemons_file_is_beside_ours() {
        let dir = tempfile::tempdir().unwrap();
        let file = SubnetFile(dir.path().join("subnet.env"));
        for name in ["subnet.env", "red.env", "blue.env", "notes.txt", ".env"] {
            std::fs::write(dir.path().join(name), ENV).unwrap();
        }
        let others: Vec<_> = file.others().iter().map(ToString::to_string).collect();
        assert_eq!(others, ["blue", "red"]);
        assert_eq!(file.of(Some(&"blue".parse().unwrap())).path(), dir.path().join("blue.env"));
        assert_eq!(file.of(None).path(), file.path());
        for bad in ["", "../x", ".hidden", "a b", &"x".repeat(65)] {
            assert!(bad.parse::<FlannelName>().unwrap_err().to_string().contains("without .env"), "{bad:?}");
        }
    }

    #[test]
    fn reads_the_file_anew_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = SubnetFile(dir.path().join("subnet.env"));
        assert!(matches!(file.read(), Err(Error::NoLease { .. })));
        std::fs::write(file.path(), "FLANNEL_SUBNET=10.5.72.1/24\n").unwrap();
        assert!(matches!(file.read(), Err(Error::LeaseUnreadable { .. })));
        std::fs::write(file.path(), ENV).unwrap();
        let lease = file.read().unwrap();
        assert_eq!(lease.mtu, 1450);
        assert_eq!(lease.to_string(), "10.5.72.0/24 and fd00:5:0:2e::/64");
        assert_eq!(lease.side(Family::V4), Some(Side { network: net("10.5.0.0/16"), subnet: net("10.5.72.0/24") }));
    }

    #[test]
    fn holds_parts_of_its_own_family_only() {
        let lease = Lease::from(SubnetEnv::parse(ENV).unwrap());
        for inside in ["10.5.72.0/24", "10.5.72.128/25", "fd00:5:0:2e::/64", "fd00:5:0:2e:1::/80"] {
            assert!(lease.holds(&net(inside)), "{inside}");
        }
        for outside in ["10.5.73.0/24", "10.5.0.0/16", "0.0.0.0/0", "fd00:5:0:2f::/64", "::/0"] {
            assert!(!lease.holds(&net(outside)), "{outside}");
        }
    }
}
