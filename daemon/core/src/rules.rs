//! The packet-filter rules of a host: which there are, apart from how they are written.
//!
//! Source: contract, section 6.1 (upstream's HEAD).

use ipnet::IpNet;

pub mod iptables;

/// What the rules of one address family are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleSet {
    /// The whole flannel network.
    pub network: IpNet,
    /// The host's own subnet.
    pub subnet: IpNet,
    /// Masquerade what leaves the flannel network (`-ip-masq`).
    pub masquerade: bool,
    /// Accept forwarded traffic from and to the flannel network (`-iptables-forward-rules`).
    pub forward: bool,
    /// Choose source ports at random (`MASQUERADE --random-fully`), which avoids collisions of hosts behind one
    /// address; off by `-ip-masq-fully-random-disable` and for iptables before 1.6.2.
    pub random_fully: bool,
}
