use super::*;
use iptables::{Saved, Table};

fn rules() -> NetworkRules {
    NetworkRules {
        network: "10.5.0.0/16".parse().unwrap(),
        subnet: "10.5.57.0/24".parse().unwrap(),
        masquerade: true,
        forward: true,
        random_fully: true,
    }
}

fn ipv6() -> NetworkRules {
    NetworkRules { network: "fd00:5::/48".parse().unwrap(), subnet: "fd00:5:0:1::/64".parse().unwrap(), ..rules() }
}

// parity: daemon/tests/vectors/recorded/vxlan-ipmasq/n1/iptables-save.txt
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

fn filter(text: &str) -> Saved {
    Saved::parse(text, Table::Filter).unwrap()
}

fn nat(text: &str) -> Saved {
    Saved::parse(text, Table::Nat).unwrap()
}

#[test]
fn upstreams_recorded_rules_are_right() {
    assert_eq!(rules().chain(Purpose::Masquerade).repair(&nat(NAT)), None);
    assert_eq!(rules().chain(Purpose::Forward).repair(&filter(FILTER)), None);
}

#[test]
fn missing_rules_are_made_in_one_transaction() {
    let forward = rules().chain(Purpose::Forward);
    let made = "*filter\n:FLANNEL-FWD - [0:0]\n\
        -A FLANNEL-FWD -s 10.5.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT\n\
        -A FLANNEL-FWD -d 10.5.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT\n\
        -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\nCOMMIT\n";
    assert_eq!(forward.repair(&filter(EMPTY)).as_deref(), Some(made));
    assert_eq!(forward.repair(&filter("")).as_deref(), Some(made));
    assert_eq!(forward.render(), made);
}

#[test]
fn wrong_order_duplicates_and_old_networks_are_repaired() {
    let forward = rules().chain(Purpose::Forward);
    let jump = "-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n";
    let twice = FILTER.replace(jump, &format!("{jump}{jump}"));
    let text = forward.repair(&filter(&twice)).unwrap();
    assert_eq!(text.matches("-D FORWARD").count(), 2);
    assert_eq!(text.matches("-A FORWARD").count(), 1);
    assert!(!text.contains(":FLANNEL-FWD"), "right rules are left alone: {text}");
    let old = FILTER.replace("10.5.0.0/16", "10.9.0.0/16");
    let text = forward.repair(&filter(&old)).unwrap();
    assert!(text.contains(":FLANNEL-FWD") && !text.contains("FORWARD "), "{text}");
    let mut lines: Vec<&str> = FILTER.lines().collect();
    lines.swap(6, 7);
    assert!(forward.repair(&filter(&lines.join("\n"))).is_some());
}

#[test]
fn what_is_switched_off_is_removed() {
    let off = NetworkRules { masquerade: false, forward: false, ..rules() };
    let forward = off.chain(Purpose::Forward);
    assert_eq!(
        forward.repair(&filter(FILTER)).unwrap(),
        "*filter\n-D FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n-F FLANNEL-FWD\n-X FLANNEL-FWD\nCOMMIT\n"
    );
    assert_eq!(forward.repair(&filter(EMPTY)), None);
    assert_eq!(off.chain(Purpose::Masquerade).repair(&nat("")), None);
    assert_eq!(off.table().render(), "add table ip flannel-ipv4\ndelete table ip flannel-ipv4\n");
    let plain = NetworkRules { random_fully: false, forward: false, ..rules() };
    assert!(!plain.table().render().contains("random") && !plain.table().render().contains("forward"));
    assert!(!plain.chain(Purpose::Masquerade).render().contains("random"));
}

#[test]
fn ipv6_has_its_own_multicast_and_table() {
    assert!(ipv6().chain(Purpose::Masquerade).render().contains("-s fd00:5::/48 ! -d ff00::/8"));
    let text = ipv6().table().render();
    assert!(text.contains("table ip6 flannel-ipv6 {"));
    assert!(text.contains("ip6 saddr fd00:5::/48 ip6 daddr != ff00::/8 masquerade"));
}

// parity: daemon/tests/vectors/recorded/nftables-ipmasq/n1/nft-list-ruleset.txt, save for the two rules upstream has wrong and the comments
#[test]
fn one_transaction_of_nft_has_all_rules_in_order() {
    let text = rules().table().render();
    let uncommented: Vec<_> = text.lines().map(|l| l.split(" comment ").next().unwrap()).collect();
    assert_eq!(
        uncommented,
        [
            "add table ip flannel-ipv4",
            "delete table ip flannel-ipv4",
            "table ip flannel-ipv4 {",
            "  chain postrtg {",
            "    type nat hook postrouting priority srcnat; policy accept;",
            "    meta mark & 0x4000 == 0x4000 return",
            "    ip saddr 10.5.57.0/24 ip daddr 10.5.0.0/16 return",
            "    ip saddr 10.5.0.0/16 ip daddr 10.5.57.0/24 return",
            "    ip saddr != 10.5.0.0/16 ip daddr 10.5.57.0/24 return",
            "    ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
            "    ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random",
            "  }",
            "  chain forward {",
            "    type filter hook forward priority filter; policy accept;",
            "    ip saddr 10.5.0.0/16 accept",
            "    ip daddr 10.5.0.0/16 accept",
            "  }",
            "}",
        ]
    );
    assert_eq!(text.matches(" comment \"").count(), 8);
}
