//! flanneld's rules for one range of the network: masquerade what leaves it, accept what is forwarded within.
//!
//! Chains, rules and comments of iptables and the names of the nftables tables are upstream's, so that either daemon
//! finds and clears what the other left. Where upstream's nftables rules are wrong (the mark compared without its mask;
//! own subnet and network swapped in the fourth rule, which makes the sixth unreachable) these follow the iptables
//! rules instead. docs/upstream.md, sections 6.1, 6.2 and 10.

use std::fmt;

use ipnet::IpNet;

use super::{iptables, nft};
use crate::family::Family;

/// What the rules of one address family are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkRules {
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

/// What a chain of iptables is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Table `nat`: masquerade what leaves the network.
    Masquerade,
    /// Table `filter`: accept what is forwarded.
    Forward,
}

impl Purpose {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Masquerade, Self::Forward];

    /// Neither chain nor jump, as when the rules are switched off.
    pub fn no_chain(self) -> iptables::Chain {
        self.chain(Vec::new())
    }

    fn comment(self) -> &'static str {
        match self {
            Self::Masquerade => "-m comment --comment \"flanneld masq\"",
            Self::Forward => "-m comment --comment \"flanneld forward\"",
        }
    }

    fn chain(self, rules: Vec<String>) -> iptables::Chain {
        let (table, parent, name) = match self {
            Self::Masquerade => (iptables::Table::Nat, "POSTROUTING", "FLANNEL-POSTRTG"),
            Self::Forward => (iptables::Table::Filter, "FORWARD", "FLANNEL-FWD"),
        };
        iptables::Chain { table, parent, name: name.to_owned(), jump_matches: self.comment(), rules }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Masquerade => "masquerade",
            Self::Forward => "forward",
        })
    }
}

impl NetworkRules {
    /// The address family of the rules.
    pub fn family(&self) -> Family {
        Family::of(self.network)
    }

    /// The multicast range, which is never masqueraded.
    fn multicast(&self) -> &'static str {
        match self.family() {
            Family::V4 => "224.0.0.0/4",
            Family::V6 => "ff00::/8",
        }
    }

    /// The chain of iptables for this purpose.
    pub fn chain(&self, purpose: Purpose) -> iptables::Chain {
        let Self { network: net, subnet: pod, .. } = self;
        let multicast = self.multicast();
        let random = if self.random_fully { " --random-fully" } else { "" };
        let rule = |matches: &str, target: &str| format!("{matches} {} -j {target}", purpose.comment());
        let masquerade = format!("MASQUERADE{random}");
        // parity: daemon/tests/vectors/recorded/vxlan-ipmasq/n1/iptables-save.txt
        purpose.chain(match purpose {
            Purpose::Masquerade if self.masquerade => vec![
                // Another component (kube-proxy's mark) masquerades these itself.
                rule("-m mark --mark 0x4000/0x4000", "RETURN"),
                // Traffic inside the network keeps its source.
                rule(&format!("-s {pod} -d {net}"), "RETURN"),
                rule(&format!("-s {net} -d {pod}"), "RETURN"),
                // So does what comes from outside to this host's containers (published ports).
                rule(&format!("! -s {net} -d {pod}"), "RETURN"),
                rule(&format!("-s {net} ! -d {multicast}"), &masquerade),
                // The host itself, sending to containers of others from an address they have no route to.
                rule(&format!("! -s {net} -d {net}"), &masquerade),
            ],
            Purpose::Forward if self.forward => {
                vec![rule(&format!("-s {net}"), "ACCEPT"), rule(&format!("-d {net}"), "ACCEPT")]
            }
            _ => Vec::new(),
        })
    }

    /// The table of nftables.
    pub fn table(&self) -> nft::Table {
        let Self { network: net, subnet: pod, .. } = self;
        let (ip, multicast) = (ip(self.family()), self.multicast());
        let random = if self.random_fully { " fully-random" } else { "" };
        let mut table = no_table(self.family());
        if self.masquerade {
            // The same six rules, for the same reasons, as the iptables chain FLANNEL-POSTRTG.
            table.chains.push(nft::Chain {
                name: "postrtg",
                hook: Some("type nat hook postrouting priority srcnat; policy accept;"),
                rules: vec![
                    "meta mark & 0x4000 == 0x4000 return".to_owned(),
                    format!("{ip} saddr {pod} {ip} daddr {net} return"),
                    format!("{ip} saddr {net} {ip} daddr {pod} return"),
                    format!("{ip} saddr != {net} {ip} daddr {pod} return"),
                    format!("{ip} saddr {net} {ip} daddr != {multicast} masquerade{random}"),
                    format!("{ip} saddr != {net} {ip} daddr {net} masquerade{random}"),
                ],
            });
        }
        if self.forward {
            table.chains.push(nft::Chain {
                name: "forward",
                hook: Some("type filter hook forward priority filter; policy accept;"),
                rules: vec![format!("{ip} saddr {net} accept"), format!("{ip} daddr {net} accept")],
            });
        }
        table
    }
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The absence of the nftables table of this address family.
pub fn no_table(family: Family) -> nft::Table {
    let name = match family {
        Family::V4 => "flannel-ipv4",
        Family::V6 => "flannel-ipv6",
    };
    nft::Table { family: ip(family), name: name.to_owned(), chains: Vec::new() }
}

#[cfg(test)]
mod tests;
