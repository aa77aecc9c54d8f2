//! Rules as `iptables-save` prints them and `iptables-restore` takes them.
//!
//! Each concern is a chain of its own with one jump to it at the end of a built-in chain. What stands is compared
//! with what should, in full and in order, and put right in one transaction that leaves alone what is right.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::RuleSet;

/// A chain of ours, its rules, and the jump to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The table: `nat` or `filter`.
    pub table: &'static str,
    parent: &'static str,
    name: &'static str,
    comment: &'static str,
    /// The rules without `-A CHAIN`; none means that chain and jump should not be there.
    rules: Vec<String>,
}

/// The chains of a rule set: masquerading in `nat`, forwarding in `filter`.
pub fn chains(set: &RuleSet) -> [Chain; 2] {
    let RuleSet { network: net, subnet: pod, .. } = set;
    let random = if set.random_fully { " --random-fully" } else { "" };
    let multicast = match net {
        IpNet::V4(_) => "224.0.0.0/4",
        IpNet::V6(_) => "ff00::/8",
    };
    // parity: goldens/vxlan-ipmasq/n1/iptables-save.txt
    let masquerade = Chain {
        table: "nat",
        parent: "POSTROUTING",
        name: "FLANNEL-POSTRTG",
        comment: "flanneld masq",
        rules: vec![
            // Another component (kube-proxy's mark) masquerades these itself.
            rule("-m mark --mark 0x4000/0x4000", "flanneld masq", "RETURN"),
            // Traffic inside the network keeps its source.
            rule(&format!("-s {pod} -d {net}"), "flanneld masq", "RETURN"),
            rule(&format!("-s {net} -d {pod}"), "flanneld masq", "RETURN"),
            // So does what comes from outside to this host's containers (published ports).
            rule(&format!("! -s {net} -d {pod}"), "flanneld masq", "RETURN"),
            rule(&format!("-s {net} ! -d {multicast}"), "flanneld masq", &format!("MASQUERADE{random}")),
            // The host itself, speaking to containers of others with an address they have no route to.
            rule(&format!("! -s {net} -d {net}"), "flanneld masq", &format!("MASQUERADE{random}")),
        ],
    };
    let forward = Chain {
        table: "filter",
        parent: "FORWARD",
        name: "FLANNEL-FWD",
        comment: "flanneld forward",
        rules: vec![
            rule(&format!("-s {net}"), "flanneld forward", "ACCEPT"),
            rule(&format!("-d {net}"), "flanneld forward", "ACCEPT"),
        ],
    };
    [masquerade.only_if(set.masquerade), forward.only_if(set.forward)]
}

fn rule(matches: &str, comment: &str, target: &str) -> String {
    format!("{matches} -m comment --comment \"{comment}\" -j {target}")
}

impl Chain {
    fn only_if(mut self, wanted: bool) -> Self {
        if !wanted {
            self.rules.clear();
        }
        self
    }

    /// Given what `iptables-save -t TABLE` printed, the text for `iptables-restore --noflush` that puts this chain
    /// right; nothing when it is right.
    pub fn repair(&self, save: &str) -> Option<String> {
        let Self { table, parent, name, comment, rules } = self;
        let declared = save.lines().any(|l| l.strip_prefix(':').is_some_and(|l| l.split(' ').next() == Some(*name)));
        let of_chain = |chain: &str| -> Vec<&str> {
            let start = format!("-A {chain} ");
            save.lines().filter_map(|l| l.strip_prefix(&start)).map(str::trim_end).collect()
        };
        let to_us = format!("-j {name}");
        let jumps: Vec<&str> = of_chain(parent).into_iter().filter(|l| l.ends_with(&to_us)).collect();
        let jump = rule("", comment, name);
        let jump = jump.trim_start();
        let right_jump = if rules.is_empty() { jumps.is_empty() } else { jumps == [jump] };
        let right_rules = declared != rules.is_empty() && of_chain(name) == *rules;
        if right_jump && right_rules {
            return None;
        }
        let mut text = format!("*{table}\n");
        let mut line = |l: std::fmt::Arguments<'_>| {
            writeln!(text, "{l}").expect("a String takes every write");
        };
        if !right_jump {
            jumps.iter().for_each(|jump| line(format_args!("-D {parent} {jump}")));
        }
        if rules.is_empty() {
            if declared {
                line(format_args!("-F {name}"));
                line(format_args!("-X {name}"));
            }
        } else {
            if !right_rules {
                // Creates the chain, or empties it.
                line(format_args!(":{name} - [0:0]"));
                rules.iter().for_each(|rule| line(format_args!("-A {name} {rule}")));
            }
            if !right_jump {
                line(format_args!("-A {parent} {jump}"));
            }
        }
        text.push_str("COMMIT\n");
        Some(text)
    }

    /// What the chain is for, for messages.
    pub fn purpose(&self) -> &'static str {
        if self.table == "nat" { "masquerade" } else { "forward" }
    }
}

/// Whether this version of iptables (the output of `iptables --version`) knows `--random-fully`: 1.6.2 and later.
pub fn knows_random_fully(version: &str) -> bool {
    let number = version.split_whitespace().find_map(|word| word.strip_prefix('v')).unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    (part(), part(), part()) >= (1, 6, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> RuleSet {
        RuleSet {
            network: "10.5.0.0/16".parse().unwrap(),
            subnet: "10.5.57.0/24".parse().unwrap(),
            masquerade: true,
            forward: true,
            random_fully: true,
        }
    }

    // parity: goldens/vxlan-ipmasq/n1/iptables-save.txt
    const NAT: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment \"flanneld masq\" -j RETURN
-A FLANNEL-POSTRTG -s 10.5.57.0/24 -d 10.5.0.0/16 -m comment --comment \"flanneld masq\" -j RETURN
-A FLANNEL-POSTRTG -s 10.5.0.0/16 -d 10.5.57.0/24 -m comment --comment \"flanneld masq\" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d 10.5.57.0/24 -m comment --comment \"flanneld masq\" -j RETURN
-A FLANNEL-POSTRTG -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully
COMMIT
";
    const FILTER: &str = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.5.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT
-A FLANNEL-FWD -d 10.5.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT
COMMIT
";
    const EMPTY: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";

    #[test]
    fn upstreams_recorded_rules_are_right() {
        let [nat, filter] = chains(&set());
        assert_eq!(nat.repair(NAT), None);
        assert_eq!(filter.repair(FILTER), None);
    }

    #[test]
    fn missing_rules_are_made_in_one_transaction() {
        let [_, filter] = chains(&set());
        let made = "*filter\n:FLANNEL-FWD - [0:0]\n\
            -A FLANNEL-FWD -s 10.5.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT\n\
            -A FLANNEL-FWD -d 10.5.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT\n\
            -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\nCOMMIT\n";
        assert_eq!(filter.repair(EMPTY).as_deref(), Some(made));
        assert_eq!(filter.repair("").as_deref(), Some(made));
    }

    #[test]
    fn wrong_order_duplicates_and_old_networks_are_put_right() {
        let [_, filter] = chains(&set());
        let jump = "-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n";
        let twice = FILTER.replace(jump, &format!("{jump}{jump}"));
        let text = filter.repair(&twice).unwrap();
        assert_eq!(text.matches("-D FORWARD").count(), 2);
        assert_eq!(text.matches("-A FORWARD").count(), 1);
        assert!(!text.contains(":FLANNEL-FWD"), "right rules are left alone: {text}");
        let old = FILTER.replace("10.5.0.0/16", "10.9.0.0/16");
        let text = filter.repair(&old).unwrap();
        assert!(text.contains(":FLANNEL-FWD") && !text.contains("FORWARD "), "{text}");
        let mut lines: Vec<&str> = FILTER.lines().collect();
        lines.swap(6, 7);
        assert!(filter.repair(&lines.join("\n")).is_some());
    }

    #[test]
    fn what_is_switched_off_is_removed() {
        let [nat, filter] = chains(&RuleSet { masquerade: false, forward: false, ..set() });
        assert_eq!(
            filter.repair(FILTER).unwrap(),
            "*filter\n-D FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n-F FLANNEL-FWD\n-X FLANNEL-FWD\nCOMMIT\n"
        );
        assert_eq!(filter.repair(EMPTY), None);
        assert_eq!(nat.repair(""), None);
    }

    #[test]
    fn ipv6_has_its_own_multicast() {
        let set =
            RuleSet { network: "fd00:5::/48".parse().unwrap(), subnet: "fd00:5:0:1::/64".parse().unwrap(), ..set() };
        let [nat, _] = chains(&set);
        assert!(nat.repair("").unwrap().contains("-s fd00:5::/48 ! -d ff00::/8"));
    }

    #[test]
    fn random_fully_needs_iptables_1_6_2() {
        for (version, knows) in [
            ("iptables v1.8.9 (nf_tables)", true),
            ("iptables v1.6.2", true),
            ("iptables v1.6.1", false),
            ("iptables v1.4.21", false),
            ("", false),
        ] {
            assert_eq!(knows_random_fully(version), knows, "{version}");
        }
        let [nat, _] = chains(&RuleSet { random_fully: false, ..set() });
        assert!(!nat.repair("").unwrap().contains("random"));
    }
}
