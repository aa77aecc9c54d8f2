//! Letting containers' packets through a host that forwards nothing.
//!
//! Docker sets the policy of FORWARD to DROP on most hosts, and with `br_netfilter` even packets between two ports of
//! one bridge pass through FORWARD. So each bridge is accepted there, in a chain of our own that FORWARD jumps to.
//! For `--internal` networks only the flannel network is accepted, and all else is dropped in the mangle table,
//! which comes first: an accept of somebody else's in the filter table can't undo it. There, too, flannel networks of
//! one host are kept apart.
//!
//! Rules are data ([`RuleSet`]), their text is made by [`render`], and one `iptables-restore` a table applies it as
//! one transaction. [`Guard`] does that in the background, again every half minute, and tells when a change is in.

use std::fmt::Write as _;

use flannel_core::name::IfName;
use ipnet::IpNet;

#[cfg(test)]
pub mod fake;
pub mod guard;
pub mod iptables;

pub use guard::{Firewall, Guard, Rules};

/// An address family, as iptables has a program for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `iptables`
    V4,
    /// `ip6tables`
    V6,
}

impl Family {
    /// The family of a range.
    pub fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

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

/// All the rules we want.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// In the order of their rules.
    pub bridges: Vec<Bridge>,
}

impl Rules for RuleSet {
    fn is_empty(&self) -> bool {
        self.bridges.is_empty()
    }
}

impl RuleSet {
    /// Whether there is a rule for this family and table.
    pub fn needs(&self, family: Family, table: Table) -> bool {
        let mut bridges = self.bridges.iter().filter(|b| table == Table::Filter || b.internal || b.isolated);
        bridges.any(|b| b.flannel.iter().any(|n| Family::of(n) == family))
    }
}

/// Every bridge of a flannel network, whichever plugin of the host it belongs to.
const BRIDGES: &str = "fl-+";

/// By this bridge of Docker's, containers of networks without a gateway would reach other flannel networks.
const GWBRIDGE: &str = "docker_gwbridge";

/// The input for `iptables-restore --noflush`: our chain in this table, emptied and filled. With `jump`, FORWARD is
/// told to go there.
pub fn render(rules: &RuleSet, family: Family, table: Table, chain: &str, jump: bool) -> String {
    let mut text = format!("*{}\n:{chain} - [0:0]\n", table.name());
    // Writing into a String can't fail.
    let mut line = |l: std::fmt::Arguments<'_>| writeln!(text, "{l}").expect("a String takes every write");
    for bridge in &rules.bridges {
        let name = &bridge.name;
        for net in bridge.flannel.iter().filter(|n| Family::of(n) == family) {
            match (table, bridge.internal) {
                (Table::Filter, false) => {
                    line(format_args!("-A {chain} -i {name} -j ACCEPT"));
                    line(format_args!("-A {chain} -o {name} -j ACCEPT"));
                }
                (Table::Filter, true) => {
                    line(format_args!("-A {chain} -i {name} -o {name} -j ACCEPT"));
                    line(format_args!("-A {chain} -d {net} -i {name} -j ACCEPT"));
                    line(format_args!("-A {chain} -s {net} -o {name} -j ACCEPT"));
                }
                (Table::Mangle, false) => {}
                (Table::Mangle, true) => {
                    // Neighbour discovery between two containers has addresses outside the network.
                    line(format_args!("-A {chain} -i {name} -o {name} -j RETURN"));
                    line(format_args!("-A {chain} ! -d {net} -i {name} -j DROP"));
                    line(format_args!("-A {chain} ! -s {net} -o {name} -j DROP"));
                }
            }
        }
    }
    if table == Table::Mangle {
        let of_family = |b: &&Bridge| b.isolated && b.flannel.iter().any(|n| Family::of(n) == family);
        let isolated: Vec<_> = rules.bridges.iter().filter(of_family).map(|b| &b.name).collect();
        if !isolated.is_empty() {
            // A port published there is meant for everybody.
            line(format_args!("-A {chain} -m conntrack --ctstate DNAT -j RETURN"));
        }
        for name in isolated {
            line(format_args!("-A {chain} -i {name} -o {name} -j RETURN"));
            line(format_args!("-A {chain} -i {BRIDGES} -o {name} -j DROP"));
            line(format_args!("-A {chain} -i {name} -o {BRIDGES} -j DROP"));
            line(format_args!("-A {chain} -i {GWBRIDGE} -o {name} -j DROP"));
        }
    }
    if jump {
        line(format_args!("-A FORWARD -j {chain}"));
    }
    text.push_str("COMMIT\n");
    text
}

/// The tables our chain is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Where FORWARD's policy is.
    Filter,
    /// Where `--internal` is enforced.
    Mangle,
}

impl Table {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Filter, Self::Mangle];

    /// As iptables calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Mangle => "mangle",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(name: &str, internal: bool, flannel: &[&str]) -> Bridge {
        let flannel = flannel.iter().map(|n| n.parse().unwrap()).collect();
        Bridge { name: IfName::new(name).unwrap(), internal, isolated: false, flannel }
    }

    fn two() -> RuleSet {
        RuleSet {
            bridges: vec![
                bridge("fl-aaa", false, &["10.5.0.0/16"]),
                bridge("fl-bbb", true, &["10.5.0.0/16", "fd00:5::/48"]),
            ],
        }
    }

    #[test]
    fn accepts_bridges_and_keeps_internal_ones_inside() {
        let filter = render(&two(), Family::V4, Table::Filter, "FLANNEL-DOCKER", true);
        assert_eq!(
            filter,
            "*filter\n:FLANNEL-DOCKER - [0:0]\n\
             -A FLANNEL-DOCKER -i fl-aaa -j ACCEPT\n-A FLANNEL-DOCKER -o fl-aaa -j ACCEPT\n\
             -A FLANNEL-DOCKER -i fl-bbb -o fl-bbb -j ACCEPT\n\
             -A FLANNEL-DOCKER -d 10.5.0.0/16 -i fl-bbb -j ACCEPT\n\
             -A FLANNEL-DOCKER -s 10.5.0.0/16 -o fl-bbb -j ACCEPT\n\
             -A FORWARD -j FLANNEL-DOCKER\nCOMMIT\n"
        );
        let mangle = render(&two(), Family::V6, Table::Mangle, "FLANNEL-DOCKER", false);
        assert_eq!(
            mangle,
            "*mangle\n:FLANNEL-DOCKER - [0:0]\n-A FLANNEL-DOCKER -i fl-bbb -o fl-bbb -j RETURN\n\
             -A FLANNEL-DOCKER ! -d fd00:5::/48 -i fl-bbb -j DROP\n\
             -A FLANNEL-DOCKER ! -s fd00:5::/48 -o fl-bbb -j DROP\nCOMMIT\n"
        );
    }

    #[test]
    fn isolated_bridges_are_kept_from_all_others() {
        let mut rules = two();
        rules.bridges.swap_remove(1);
        rules.bridges[0].isolated = true;
        assert!(rules.needs(Family::V4, Table::Mangle) && !rules.needs(Family::V6, Table::Mangle));
        assert_eq!(
            render(&rules, Family::V4, Table::Mangle, "C", false),
            "*mangle\n:C - [0:0]\n-A C -m conntrack --ctstate DNAT -j RETURN\n-A C -i fl-aaa -o fl-aaa -j RETURN\n\
             -A C -i fl-+ -o fl-aaa -j DROP\n-A C -i fl-aaa -o fl-+ -j DROP\n\
             -A C -i docker_gwbridge -o fl-aaa -j DROP\nCOMMIT\n"
        );
    }

    #[test]
    fn a_table_without_rules_is_not_needed() {
        let plain = RuleSet { bridges: two().bridges[..1].to_vec() };
        assert!(plain.needs(Family::V4, Table::Filter) && !plain.needs(Family::V4, Table::Mangle));
        assert!(!plain.needs(Family::V6, Table::Filter) && two().needs(Family::V6, Table::Mangle));
        assert!(!RuleSet::default().needs(Family::V4, Table::Filter));
    }
}
