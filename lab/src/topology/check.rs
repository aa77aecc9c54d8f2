//! What can be wrong with a topology.

use std::collections::BTreeSet;

use super::{Topology, Underlay};

/// A port's name in the switch is `NAME.UNDERLAY` at most; the kernel takes 15 letters.
const NAME: std::ops::RangeInclusive<usize> = 1..=10;
/// IPv6 needs 1280; above 9000 no card goes.
const MTU: std::ops::RangeInclusive<u32> = 576..=9000;
/// Addresses from .1 on are the hosts', .100 to .102 etcd's.
const HOSTS: usize = 99;

/// All mistakes, each with the object's name.
pub(super) fn mistakes(topology: &Topology) -> Vec<String> {
    let mut found = Vec::new();
    names(topology, &mut found);
    for underlay in &topology.underlay {
        underlay_alone(underlay, &mut found);
    }
    for (number, one) in topology.underlay.iter().enumerate() {
        for other in &topology.underlay[number + 1..] {
            if one.subnet.contains(&other.subnet) || other.subnet.contains(&one.subnet) {
                found.push(format!("underlays {} and {} overlap: {}", one.name, other.name, one.subnet));
            }
        }
    }
    let known = |name: &String| topology.underlay.iter().any(|underlay| underlay.name == *name);
    for router in &topology.router {
        if router.joins.len() < 2 {
            found.push(format!("router {} joins {} underlay: give two or more", router.name, router.joins.len()));
        }
        for name in router.joins.iter().filter(|name| !known(name)) {
            found.push(format!("router {}: there is no underlay {name}", router.name));
        }
    }
    if ![1, 3].contains(&topology.etcd.members) {
        found.push(format!("etcd: members = {}: give 1 or 3", topology.etcd.members));
    }
    networks(topology, &mut found);
    hosts(topology, &mut found);
    found
}

fn names(topology: &Topology, found: &mut Vec<String>) {
    let kinds: [(&str, Vec<&String>); 4] = [
        ("underlay", topology.underlay.iter().map(|u| &u.name).collect()),
        ("router", topology.router.iter().map(|r| &r.name).collect()),
        ("network", topology.network.iter().map(|n| &n.name).collect()),
        ("host", topology.host.iter().map(|h| &h.name).collect()),
    ];
    for (kind, names) in kinds {
        let mut seen = BTreeSet::new();
        for name in &names {
            let good = NAME.contains(&name.len())
                && name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            if !good {
                found.push(format!("{kind} {name:?}: a name is a small letter and up to nine more, digits or -"));
            }
            if !seen.insert(name) {
                found.push(format!("{kind} {name} is there twice"));
            }
        }
        if names.is_empty() && kind != "router" {
            found.push(format!("there is no {kind}: give one as [[{kind}]]"));
        }
    }
}

fn underlay_alone(underlay: &Underlay, found: &mut Vec<String>) {
    let name = &underlay.name;
    if underlay.subnet.prefix_len() != 24 || underlay.subnet.addr() != underlay.subnet.network() {
        found
            .push(format!("underlay {name}: subnet {} is not a /24: give for example 172.31.77.0/24", underlay.subnet));
    }
    if !underlay.subnet.addr().is_private() {
        found.push(format!("underlay {name}: {} is not private", underlay.subnet));
    }
    if !MTU.contains(&underlay.mtu) {
        found.push(format!("underlay {name}: mtu {} is not from {} to {}", underlay.mtu, MTU.start(), MTU.end()));
    }
    if underlay.ipv6.is_some_and(|net| net.prefix_len() != 64 || net.addr() != net.network()) {
        found.push(format!("underlay {name}: ipv6 is not a /64: give for example fd77::/64"));
    }
    if underlay.ipv6.is_some() && underlay.mtu < 1280 {
        found.push(format!("underlay {name}: mtu {} is too small for IPv6: give 1280 or more", underlay.mtu));
    }
    if let Some(rate) = &underlay.rate {
        let digits = rate.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let good = digits.parse::<u32>().is_ok_and(|number| number > 0)
            && ["kbit", "mbit", "gbit"].contains(&&rate[digits.len()..]);
        if !good {
            found.push(format!("underlay {name}: rate {rate:?}: give a number with kbit, mbit or gbit"));
        }
    }
}

fn networks(topology: &Topology, found: &mut Vec<String>) {
    for network in &topology.network {
        let nets: Vec<ipnet::Ipv4Net> =
            network.config["Network"].as_str().into_iter().filter_map(|text| text.parse().ok()).collect();
        if nets.is_empty() && network.config["EnableIPv4"] != false {
            found.push(format!("network {}: config has no Network: give for example 10.5.0.0/16", network.name));
        }
        for underlay in &topology.underlay {
            if nets.iter().any(|net| net.contains(&underlay.subnet) || underlay.subnet.contains(net)) {
                found.push(format!("network {} covers underlay {}", network.name, underlay.name));
            }
        }
        if network.config["EnableIPv6"] == true && topology.underlay.iter().any(|underlay| underlay.ipv6.is_none()) {
            found.push(format!("network {} has EnableIPv6, so every underlay needs ipv6", network.name));
        }
    }
}

fn hosts(topology: &Topology, found: &mut Vec<String>) {
    if topology.host.len() > HOSTS {
        found.push(format!("{} hosts are too many: {HOSTS} have addresses", topology.host.len()));
    }
    for host in &topology.host {
        if !topology.underlay.iter().any(|underlay| underlay.name == host.underlay) {
            found.push(format!("host {}: there is no underlay {}", host.name, host.underlay));
        } else if let Some(first) = topology.underlay.first()
            && !topology.connected(&host.underlay, &first.name)
        {
            found.push(format!("host {}: no router joins {} with etcd's {}", host.name, host.underlay, first.name));
        }
        for name in &host.networks {
            if !topology.network.iter().any(|network| network.name == *name) {
                found.push(format!("host {}: there is no network {name}", host.name));
            }
        }
    }
    for name in topology.apart.iter().flatten() {
        if !topology.host.iter().any(|host| host.name == *name) {
            found.push(format!("apart: there is no host {name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
about = "two"
[[underlay]]
name = "a"
subnet = "172.31.77.0/24"
[[network]]
name = "net"
config = { Network = "10.5.0.0/16", Backend = { Type = "vxlan" } }
[[host]]
name = "h1"
underlay = "a"
[[host]]
name = "h2"
underlay = "a"
"#;

    #[test]
    fn the_ready_ones_are_good() {
        for name in Topology::ready() {
            let topology = Topology::load(name).unwrap_or_else(|error| panic!("{error}"));
            assert!(!topology.about.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_object_in_one_line() {
        for (old, new, part) in [
            ("name = \"h2\"", "name = \"h1\"", "host h1 is there twice"),
            ("name = \"h2\"", "name = \"H2\"", "host \"H2\""),
            ("name = \"h2\"", "nane = \"h2\"", "line 13"),
            ("underlay = \"a\"", "underlay = \"b\"", "host h1: there is no underlay b"),
            ("172.31.77.0/24", "172.31.77.0/16", "underlay a: subnet"),
            ("172.31.77.0/24", "8.8.8.0/24", "not private"),
            ("172.31.77.0/24", "10.5.7.0/24", "network net covers underlay a"),
            ("172.31.77.0/24\"", "172.31.77.0/24\"\nmtu = 100", "mtu 100"),
            ("172.31.77.0/24\"", "172.31.77.0/24\"\nrate = \"fast\"", "rate \"fast\""),
            ("172.31.77.0/24\"", "172.31.77.0/24\"\nrate = \"0mbit\"", "rate \"0mbit\""),
            ("Network = \"10.5.0.0/16\"", "EnableIPv6 = true", "network net has EnableIPv6"),
            (
                "[[network]]",
                "[[router]]\nname = \"r\"\njoins = [\"c\"]\n[[network]]",
                "router r: there is no underlay c",
            ),
            ("about = \"two\"", "etcd = { members = 2 }", "etcd: members = 2"),
            ("about = \"two\"", "apart = [[\"h1\", \"h9\"]]", "apart: there is no host h9"),
        ] {
            let text = GOOD.replacen(old, new, 1);
            assert_ne!(text, GOOD, "{old}");
            let error = Topology::parse("t", &text).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{part}: {error}");
        }
        Topology::parse("t", GOOD).unwrap();
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = GOOD.replace("\"a\"", "\"A\"").replace("\"h2\"", "\"h1\"");
        let error = Topology::parse("t", &text).unwrap_err().to_string();
        assert!(error.contains("underlay \"A\"") && error.contains("host h1 is there twice"), "{error}");
    }
}
