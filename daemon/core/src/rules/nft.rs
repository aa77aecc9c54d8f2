//! Rules for nftables: one table for each address family, replaced whole in one transaction.
//!
//! The tables have upstream's names, so that either daemon finds and clears what the other left. Where upstream's
//! rules are wrong (the mark compared without its mask; own subnet and network swapped in the fourth rule, which makes
//! the sixth unreachable) these follow the iptables rules instead. Contract, sections 6.2 and 10.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::RuleSet;

/// The table of a family, as nft names it: family and name.
pub fn table(network: &IpNet) -> &'static str {
    match network {
        IpNet::V4(_) => "ip flannel-ipv4",
        IpNet::V6(_) => "ip6 flannel-ipv6",
    }
}

/// Both tables, for clearing.
pub const TABLES: [&str; 2] = ["ip flannel-ipv4", "ip6 flannel-ipv6"];

/// The text for `nft -f -` that puts this table, and nothing of an earlier one, in place.
pub fn replace(set: &RuleSet) -> String {
    let table = table(&set.network);
    let mut text = remove(table);
    let RuleSet { network: net, subnet: pod, .. } = set;
    let (ip, multicast) = match net {
        IpNet::V4(_) => ("ip", "224.0.0.0/4"),
        IpNet::V6(_) => ("ip6", "ff00::/8"),
    };
    let random = if set.random_fully { " fully-random" } else { "" };
    let mut chains = String::new();
    if set.masquerade {
        // The same six rules, for the same reasons, as the iptables chain FLANNEL-POSTRTG.
        let rules = [
            "meta mark & 0x4000 == 0x4000 return".to_owned(),
            format!("{ip} saddr {pod} {ip} daddr {net} return"),
            format!("{ip} saddr {net} {ip} daddr {pod} return"),
            format!("{ip} saddr != {net} {ip} daddr {pod} return"),
            format!("{ip} saddr {net} {ip} daddr != {multicast} masquerade{random}"),
            format!("{ip} saddr != {net} {ip} daddr {net} masquerade{random}"),
        ];
        chains += &chain("postrtg", "type nat hook postrouting priority srcnat; policy accept;", &rules);
    }
    if set.forward {
        let rules = [format!("{ip} saddr {net} accept"), format!("{ip} daddr {net} accept")];
        chains += &chain("forward", "type filter hook forward priority filter; policy accept;", &rules);
    }
    if !chains.is_empty() {
        write!(text, "table {table} {{\n{chains}}}\n").expect("a String takes every write");
    }
    text
}

/// Whether a listing of the table may be of the one that [`replace`] makes: it has as many lines. How nft words them
/// depends on its version.
pub fn may_list(set: &RuleSet, listing: &str) -> bool {
    let ours = replace(set);
    let (_, table) = ours.split_at(remove(table(&set.network)).len());
    let lines = |text: &str| text.lines().filter(|line| !line.trim().is_empty()).count();
    lines(table) == lines(listing)
}

/// The text for `nft -f -` that leaves no such table, whether there is one or not.
pub fn remove(table: &str) -> String {
    // Deleting a table that is not there fails, so it is made first.
    format!("add table {table}\ndelete table {table}\n")
}

fn chain(name: &str, hook: &str, rules: &[String]) -> String {
    format!("  chain {name} {{\n    {hook}\n    {}\n  }}\n", rules.join("\n    "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> RuleSet {
        RuleSet {
            network: "10.5.0.0/16".parse().unwrap(),
            subnet: "10.5.85.0/24".parse().unwrap(),
            masquerade: true,
            forward: true,
            random_fully: true,
        }
    }

    // parity: goldens/nftables-ipmasq/n1/nft-list-ruleset.txt, save for the two rules upstream has wrong
    #[test]
    fn one_transaction_has_all_rules_in_order() {
        assert_eq!(
            replace(&set()),
            "add table ip flannel-ipv4\n\
             delete table ip flannel-ipv4\n\
             table ip flannel-ipv4 {\n\
            \x20 chain postrtg {\n\
            \x20   type nat hook postrouting priority srcnat; policy accept;\n\
            \x20   meta mark & 0x4000 == 0x4000 return\n\
            \x20   ip saddr 10.5.85.0/24 ip daddr 10.5.0.0/16 return\n\
            \x20   ip saddr 10.5.0.0/16 ip daddr 10.5.85.0/24 return\n\
            \x20   ip saddr != 10.5.0.0/16 ip daddr 10.5.85.0/24 return\n\
            \x20   ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random\n\
            \x20   ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random\n\
            \x20 }\n\
            \x20 chain forward {\n\
            \x20   type filter hook forward priority filter; policy accept;\n\
            \x20   ip saddr 10.5.0.0/16 accept\n\
            \x20   ip daddr 10.5.0.0/16 accept\n\
            \x20 }\n\
             }\n"
        );
    }

    // parity: goldens/nftables-ipmasq/n1/nft-list-ruleset.txt, for the form of a listing
    #[test]
    fn a_listing_with_a_rule_more_or_less_is_another_table() {
        let listing = "table ip flannel-ipv4 {\n\tchain forward {\n\t\ttype filter hook forward priority filter; \
            policy accept;\n\t\tip saddr 10.5.0.0/16 accept\n\t\tip daddr 10.5.0.0/16 accept\n\t}\n\n}\n";
        let set = RuleSet { masquerade: false, ..set() };
        assert!(may_list(&set, listing));
        assert!(!may_list(&set, &listing.replace("\t\tip saddr 10.5.0.0/16 accept\n", "")));
        assert!(!may_list(&set, &listing.replace("accept\n\t}", "accept\n\t\tdrop\n\t}")));
    }

    #[test]
    fn what_is_switched_off_is_not_there() {
        let none = RuleSet { masquerade: false, forward: false, ..set() };
        assert_eq!(replace(&none), remove("ip flannel-ipv4"));
        let plain = replace(&RuleSet { random_fully: false, forward: false, ..set() });
        assert!(!plain.contains("random") && !plain.contains("forward"));
    }

    #[test]
    fn ipv6_has_its_own_table_and_words() {
        let set =
            RuleSet { network: "fd00:5::/48".parse().unwrap(), subnet: "fd00:5:0:1::/64".parse().unwrap(), ..set() };
        let text = replace(&set);
        assert!(text.contains("table ip6 flannel-ipv6 {"));
        assert!(text.contains("ip6 saddr fd00:5::/48 ip6 daddr != ff00::/8 masquerade"));
    }
}
