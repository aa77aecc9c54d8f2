//! Rules that let containers' packets through a host that forwards nothing.
//!
//! Docker sets the policy of FORWARD to DROP on most hosts, and with `br_netfilter` even packets between two ports of
//! one bridge pass through FORWARD. So each bridge is accepted there, in a chain of our own that FORWARD jumps to.
//! For `--internal` networks only the flannel network is accepted, and all else is dropped in the mangle table,
//! which comes first: an accept in the filter table by another program cannot undo it. The mangle table also keeps
//! the flannel networks of one host apart.
//!
//! [`BridgeRules`] says what is wanted, [`BridgeRules::chains`] puts it in iptables' words, and a [`Guard`] keeps it
//! installed in the background and reports when a change is in place.

use flannel_core::family::Family;
use flannel_core::filter::iptables::{Chain, Table};
use flannel_core::name::IfName;
use ipnet::IpNet;

#[cfg(test)]
pub mod fake;
pub mod guard;
pub mod iptables;

pub use guard::{Firewall, Guard, Rules};

/// A bridge to let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: IfName,
    /// Whether only the flannel network may be reached.
    pub internal: bool,
    /// Whether other flannel networks of this host are kept out.
    pub isolated: bool,
    /// The whole flannel network, one a family that the bridge has.
    pub flannel: Vec<IpNet>,
}

/// All the forward rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BridgeRules {
    /// In the order of their rules.
    pub bridges: Vec<Bridge>,
}

impl Rules for BridgeRules {
    fn is_empty(&self) -> bool {
        self.bridges.is_empty()
    }
}

/// Every bridge of a flannel network, whichever plugin of the host it belongs to.
const BRIDGES: &str = "fl-+";

/// Through this bridge of Docker's, containers of networks without a gateway would reach other flannel networks.
const GWBRIDGE: &str = "docker_gwbridge";

impl BridgeRules {
    /// The chains of one family, in each table we may need; they have no rules where none are wanted.
    pub fn chains(&self, family: Family, name: &str) -> [Chain; 2] {
        let chain = |table, rules| Chain { table, parent: "FORWARD", name: name.to_owned(), jump_matches: "", rules };
        let mut mangle = self.internal(family);
        mangle.extend(self.isolation(family));
        [chain(Table::Filter, self.accepts(family)), chain(Table::Mangle, mangle)]
    }

    /// The bridges that have this family, with their flannel network of it.
    fn of(&self, family: Family) -> impl Iterator<Item = (&Bridge, &IpNet)> {
        let of_family = move |net: &&IpNet| Family::of(**net) == family;
        self.bridges
            .iter()
            .flat_map(move |bridge| bridge.flannel.iter().filter(of_family).map(move |net| (bridge, net)))
    }

    fn accepts(&self, family: Family) -> Vec<String> {
        let mut rules = Vec::new();
        for (Bridge { name, internal, .. }, net) in self.of(family) {
            if *internal {
                rules.push(format!("-i {name} -o {name} -j ACCEPT"));
                rules.push(format!("-d {net} -i {name} -j ACCEPT"));
                rules.push(format!("-s {net} -o {name} -j ACCEPT"));
            } else {
                rules.push(format!("-i {name} -j ACCEPT"));
                rules.push(format!("-o {name} -j ACCEPT"));
            }
        }
        rules
    }

    fn internal(&self, family: Family) -> Vec<String> {
        let mut rules = Vec::new();
        for (Bridge { name, .. }, net) in self.of(family).filter(|(bridge, _)| bridge.internal) {
            // Neighbour discovery between two containers has addresses outside the network.
            rules.push(format!("-i {name} -o {name} -j RETURN"));
            rules.push(format!("! -d {net} -i {name} -j DROP"));
            rules.push(format!("! -s {net} -o {name} -j DROP"));
        }
        rules
    }

    fn isolation(&self, family: Family) -> Vec<String> {
        let has_family = |bridge: &&Bridge| bridge.flannel.iter().any(|net| Family::of(net) == family);
        let isolated: Vec<_> = self.bridges.iter().filter(|b| b.isolated).filter(has_family).map(|b| &b.name).collect();
        let mut rules = Vec::new();
        if !isolated.is_empty() {
            // A published port is meant for everybody.
            rules.push("-m conntrack --ctstate DNAT -j RETURN".to_owned());
        }
        for name in isolated {
            rules.push(format!("-i {name} -o {name} -j RETURN"));
            rules.push(format!("-i {BRIDGES} -o {name} -j DROP"));
            rules.push(format!("-i {name} -o {BRIDGES} -j DROP"));
            rules.push(format!("-i {GWBRIDGE} -o {name} -j DROP"));
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(name: &str, internal: bool, flannel: &[&str]) -> Bridge {
        let flannel = flannel.iter().map(|n| n.parse().unwrap()).collect();
        Bridge { name: IfName::new(name).unwrap(), internal, isolated: false, flannel }
    }

    fn two() -> BridgeRules {
        BridgeRules {
            bridges: vec![
                bridge("fl-aaa", false, &["10.5.0.0/16"]),
                bridge("fl-bbb", true, &["10.5.0.0/16", "fd00:5::/48"]),
            ],
        }
    }

    #[test]
    fn accepts_bridges_and_keeps_internal_ones_inside() {
        let [filter, mangle] = two().chains(Family::V4, "FLANNEL-DOCKER");
        assert_eq!(
            filter.render(),
            "*filter\n:FLANNEL-DOCKER - [0:0]\n\
             -A FLANNEL-DOCKER -i fl-aaa -j ACCEPT\n-A FLANNEL-DOCKER -o fl-aaa -j ACCEPT\n\
             -A FLANNEL-DOCKER -i fl-bbb -o fl-bbb -j ACCEPT\n\
             -A FLANNEL-DOCKER -d 10.5.0.0/16 -i fl-bbb -j ACCEPT\n\
             -A FLANNEL-DOCKER -s 10.5.0.0/16 -o fl-bbb -j ACCEPT\n\
             -A FORWARD -j FLANNEL-DOCKER\nCOMMIT\n"
        );
        assert!(mangle.render().contains("-A FLANNEL-DOCKER ! -d 10.5.0.0/16 -i fl-bbb -j DROP"));
        let [_, mangle] = two().chains(Family::V6, "FLANNEL-DOCKER");
        assert_eq!(
            mangle.rules,
            [
                "-i fl-bbb -o fl-bbb -j RETURN",
                "! -d fd00:5::/48 -i fl-bbb -j DROP",
                "! -s fd00:5::/48 -o fl-bbb -j DROP"
            ]
        );
    }

    #[test]
    fn isolated_bridges_are_kept_from_all_others() {
        let mut rules = two();
        rules.bridges.swap_remove(1);
        rules.bridges[0].isolated = true;
        let [_, mangle] = rules.chains(Family::V4, "C");
        assert_eq!(
            mangle.rules,
            [
                "-m conntrack --ctstate DNAT -j RETURN",
                "-i fl-aaa -o fl-aaa -j RETURN",
                "-i fl-+ -o fl-aaa -j DROP",
                "-i fl-aaa -o fl-+ -j DROP",
                "-i docker_gwbridge -o fl-aaa -j DROP",
            ]
        );
        let [_, mangle] = rules.chains(Family::V6, "C");
        assert_eq!(mangle.rules, Vec::<String>::new());
    }

    #[test]
    fn a_table_without_rules_is_not_needed() {
        let needs = |rules: &BridgeRules, family| rules.chains(family, "C").map(|chain| !chain.rules.is_empty());
        let plain = BridgeRules { bridges: two().bridges[..1].to_vec() };
        assert_eq!((needs(&plain, Family::V4), needs(&plain, Family::V6)), ([true, false], [false, false]));
        assert_eq!((needs(&two(), Family::V4), needs(&two(), Family::V6)), ([true, true], [true, true]));
        assert_eq!(needs(&BridgeRules::default(), Family::V4), [false, false]);
    }
}
