//! `EnableNFTables`: our own tables instead of iptables chains, repaired when disturbed, and nothing left of the one
//! way after a switch to the other.

use std::time::Duration;

use crate::rules::ours as iptables_of_ours;
use crate::support::*;

const TABLE: &str = "ip flannel-ipv4";

fn config(backend: &str) -> String {
    format!(r#"{{"Network":"10.5.0.0/16","EnableNFTables":true,"Backend":{{"Type":"{backend}"}}}}"#)
}

/// The lines of our table as `nft` lists it, trimmed and without the digests by which flanneld recognises its rules.
fn table(host: &Host) -> Result<Vec<String>> {
    let text = host.exec(&format!("nft --stateless list table {TABLE}"))?;
    let lines = text.lines().map(|line| line.split(" comment ").next().unwrap_or(line).trim().to_owned());
    Ok(lines.filter(|line| !line.is_empty() && line != "}").collect())
}

// parity: daemon/tests/vectors/recorded/nftables-ipmasq, save for two rules: the mark is compared with its mask, and the fourth has network
// and subnet the right way round
fn expected(subnet: &str) -> Vec<String> {
    [
        "table ip flannel-ipv4 {",
        "chain postrtg {",
        "type nat hook postrouting priority srcnat; policy accept;",
        "meta mark & 0x00004000 == 0x00004000 return",
        "ip saddr <pod> ip daddr 10.5.0.0/16 return",
        "ip saddr 10.5.0.0/16 ip daddr <pod> return",
        "ip saddr != 10.5.0.0/16 ip daddr <pod> return",
        "ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
        "ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random",
        "chain forward {",
        "type filter hook forward priority filter; policy accept;",
        "ip saddr 10.5.0.0/16 accept",
        "ip daddr 10.5.0.0/16 accept",
    ]
    .map(|line| line.replace("<pod>", subnet))
    .to_vec()
}

fn as_it_should_be(host: &Host, subnet: &str) -> Result<()> {
    let seen = table(host)?;
    let wanted = expected(subnet);
    expect(seen == wanted, || format!("{seen:#?} instead of {wanted:#?}"))
}

/// Names of all tables, those iptables made itself included.
fn tables(host: &Host) -> Result<Vec<String>> {
    Ok(host.exec("nft list tables")?.lines().map(|l| l.trim_start_matches("table ").to_owned()).collect())
}

#[test]
fn the_table_has_every_rule_once_also_after_restarts() {
    lab(1, &config("alloc")).check(|lab| {
        let host = lab.host(1);
        for round in 0..3 {
            let daemon = host.up(FLANNELD, &["-ip-masq"])?;
            let subnet = daemon.ready()?.subnet().to_string();
            as_it_should_be(host, &subnet).context(|| format!("start {round}"))?;
            assert_eq!(tables(host)?.iter().filter(|t| t.contains("flannel")).count(), 1, "{:?}", tables(host));
            assert_eq!(iptables_of_ours(host)?, Vec::<String>::new());
            if round == 0 { daemon.kill()? } else { drop(daemon.stop()?) }
        }
        Ok(())
    });
}

#[test]
fn flags_choose_among_the_rules() {
    lab(1, &config("alloc")).check(|lab| {
        let host = lab.host(1);
        let daemon = host.up(FLANNELD, &["-iptables-forward-rules=false"])?;
        assert!(table(host).is_err(), "a table without a rule");
        daemon.stop()?;
        let daemon =
            host.up(FLANNELD, &["-iptables-forward-rules=false", "-ip-masq", "-ip-masq-fully-random-disable"])?;
        let seen = table(host)?.join("\n");
        assert!(seen.contains("masquerade") && !seen.contains("random") && !seen.contains("forward"), "{seen}");
        daemon.stop()?;
        host.up(FLANNELD, &[])?;
        let seen = table(host)?.join("\n");
        assert!(!seen.contains("masquerade") && seen.contains("chain forward"), "{seen}");
        Ok(())
    });
}

#[test]
fn what_a_hand_breaks_is_put_right() {
    lab(1, &config("alloc")).check(|lab| {
        let host = lab.host(1);
        let subnet = host.up(FLANNELD, &["-ip-masq", "-iptables-resync=1"])?.ready()?.subnet().to_string();
        as_it_should_be(host, &subnet)?;
        for damage in [
            "flush chain ip flannel-ipv4 postrtg",
            "flush table ip flannel-ipv4",
            "delete table ip flannel-ipv4",
            "insert rule ip flannel-ipv4 forward ip saddr 10.5.0.0/16 drop",
            "add rule ip flannel-ipv4 forward accept",
            "add chain ip flannel-ipv4 more",
            "flush ruleset",
        ] {
            host.exec(&format!("nft {damage}"))?;
            assert!(as_it_should_be(host, &subnet).is_err(), "nft {damage} changed nothing");
            eventually(&format!("repair after nft {damage}"), Duration::from_secs(4), || {
                as_it_should_be(host, &subnet)
            })?;
        }
        Ok(())
    });
}

/// An accept of ours does not overrule a drop in another table: where iptables drop what is forwarded (as dockerd sets
/// it), the forward rules are installed there as well.
#[test]
fn pods_talk_beside_an_iptables_forward_policy_of_drop() {
    lab(2, &config("vxlan")).check(|lab| {
        for host in lab.hosts() {
            host.exec("iptables -w -P FORWARD DROP")?;
            host.up(FLANNELD, &["-ip-masq"])?;
        }
        both_know_each_other(lab.host(1), lab.host(2))?;
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        eventually("an answer", SOON, || one.ping(two.address(), 1)?.all_answered(62))?;
        two.ping(one.address(), 3)?.all_answered(62)?;
        assert!(lab.host(1).rules("filter")?.contains(&":FORWARD DROP".to_owned()), "the policy is the user's");
        // Packets that do not get to our rules are dropped: the test above proves something.
        lab.host(2).exec("iptables -w -I FORWARD -j RETURN")?;
        one.ping(two.address(), 2)?.none_answered()
    });
}

/// Docker starts after us and sets its policy then.
#[test]
fn a_forward_policy_set_later_is_noticed() {
    lab(2, &config("vxlan")).check(|lab| {
        for host in lab.hosts() {
            host.up(FLANNELD, &["-iptables-resync=1"])?;
        }
        both_know_each_other(lab.host(1), lab.host(2))?;
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        eventually("an answer", SOON, || one.ping(two.address(), 1)?.all_answered(62))?;
        assert_eq!(iptables_of_ours(lab.host(1))?, Vec::<String>::new());
        for host in lab.hosts() {
            host.exec("iptables -w -P FORWARD DROP")?;
        }
        eventually("an answer in spite of the policy", SOON, || one.ping(two.address(), 1)?.all_answered(62))
    });
}

#[test]
fn only_what_leaves_the_network_is_masqueraded() {
    lab(2, &config("vxlan")).check(|lab| {
        for host in lab.hosts() {
            host.up(FLANNELD, &["-ip-masq"])?;
        }
        both_know_each_other(lab.host(1), lab.host(2))?;
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        eventually("an answer", SOON, || one.ping(two.address(), 1)?.all_answered(62))?;
        assert_eq!(source_seen(&one, &two, two.address())?, one.address());
        let world = Segment::Near.address(254);
        assert_eq!(source_seen(&one, lab.switch(), world)?, lab.host(1).address());
        // A host to another host's pod: from the network to the network, as it is.
        let base = lab.host(1).subnet_env()?.subnet().addr();
        assert_eq!(source_seen(lab.host(1), &two, two.address())?, base);
        Ok(())
    });
}

/// A restart finds its own table right and leaves it alone, counters and handles included.
#[test]
fn a_restart_does_not_touch_an_intact_table() {
    lab(1, &config("alloc")).check(|lab| {
        let host = lab.host(1);
        let handles = || host.exec(&format!("nft -a list table {TABLE}"));
        host.up(FLANNELD, &["-ip-masq"])?.kill()?;
        let before = handles()?;
        host.up(FLANNELD, &["-ip-masq"])?.stop()?;
        assert_eq!(handles()?, before);
        Ok(())
    });
}

/// The periodic check is an hour away; nftables announces the change.
#[test]
fn a_flush_is_repaired_at_once() {
    lab(1, &config("alloc")).check(|lab| {
        let host = lab.host(1);
        let subnet = host.up(FLANNELD, &["-ip-masq", "-iptables-resync=3600"])?.ready()?.subnet().to_string();
        for damage in ["flush ruleset", "delete table ip flannel-ipv4", "flush chain ip flannel-ipv4 forward"] {
            host.exec(&format!("nft {damage}"))?;
            eventually(&format!("repair after nft {damage}"), Duration::from_secs(2), || {
                as_it_should_be(host, &subnet)
            })?;
        }
        Ok(())
    });
}

/// Packets that another program marked for itself are not touched, whatever else it marked them with.
#[test]
fn a_marked_packet_keeps_its_source() {
    lab(1, &config("alloc")).check(|lab| {
        let host = lab.host(1);
        host.up(FLANNELD, &["-ip-masq"])?;
        let one = host.pod(1)?;
        let world = Segment::Near.address(254);
        // The way back, since the world does not know the pod.
        lab.switch().ip(&format!("route add {} via {}", host.subnet_env()?.subnet(), host.address()))?;
        assert_eq!(source_seen(&one, lab.switch(), world)?, host.address());
        for mark in ["0x4000", "0x4001", "0xc000"] {
            host.exec("nft add table ip marker")?;
            host.exec("nft add chain ip marker pre { type filter hook prerouting priority mangle; }")?;
            host.exec(&format!("nft add rule ip marker pre ip saddr {} meta mark set {mark}", one.address()))?;
            assert_eq!(source_seen(&one, lab.switch(), world)?, one.address(), "mark {mark}");
            host.exec("nft delete table ip marker")?;
        }
        Ok(())
    });
}

/// There and back, with traffic running all the time: nothing of the other way stays, and no packet is lost.
#[test]
fn switching_leaves_nothing_of_the_other_way() {
    lab(2, &plain("vxlan")).check(|lab| {
        let host = lab.host(1);
        let mut daemon = host.up(FLANNELD, &["-ip-masq"])?;
        let subnet = daemon.ready()?.subnet().to_string();
        lab.host(2).up(FLANNELD, &["-ip-masq"])?;
        both_know_each_other(host, lab.host(2))?;
        let (one, two) = (host.pod(1)?, lab.host(2).pod(1)?);
        eventually("an answer", SOON, || one.ping(two.address(), 1)?.all_answered(62))?;
        let ping = one.ping_on(two.address())?;
        let first = iptables_of_ours(host)?;
        assert!(!first.is_empty());
        for way in ["nftables", "iptables", "nftables", "iptables"] {
            daemon.stop()?;
            lab.configure(&if way == "nftables" { config("vxlan") } else { plain("vxlan") })?;
            daemon = host.up(FLANNELD, &["-ip-masq"])?;
            eventually(&format!("{way} alone"), SOON, || {
                let (chains, tables) = (iptables_of_ours(host)?, tables(host)?);
                let flannel: Vec<_> = tables.iter().filter(|t| t.contains("flannel")).collect();
                if way == "nftables" {
                    expect(chains.is_empty() && flannel == [TABLE], || format!("{chains:#?} {flannel:?}"))?;
                    return as_it_should_be(host, &subnet);
                }
                expect(chains == first && flannel.is_empty(), || format!("{chains:#?} {flannel:?}"))
            })?;
            ping.replies_more(5)?;
        }
        let report = ping.stop()?;
        assert_eq!(report.lost(), 0, "{}", report.text);
        Ok(())
    });
}

/// What an upstream daemon in either mode left: its tables have our names, its chains too.
#[test]
fn what_upstream_left_is_cleared() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        for family in ["ip flannel-ipv4", "ip6 flannel-ipv6"] {
            host.exec(&format!("nft add table {family}"))?;
            host.exec(&format!("nft add chain {family} postrtg {{ type nat hook postrouting priority srcnat; }}"))?;
        }
        let daemon = host.up(FLANNELD, &[])?;
        eventually("no tables of nftables mode", SOON, || {
            let seen = tables(host)?;
            expect(!seen.iter().any(|t| t.contains("flannel")), || format!("{seen:?}"))
        })?;
        daemon.stop()?;
        // An empty chain that nothing jumps to, and forward rules: what upstream does not clear itself.
        host.exec("iptables -w -t nat -N FLANNEL-POSTRTG")?;
        host.exec("ip6tables -w -t filter -N FLANNEL-FWD")?;
        host.exec("ip6tables -w -t filter -A FORWARD -j FLANNEL-FWD -m comment --comment flanneld_forward")?;
        host.exec("ip6tables -w -t filter -D FORWARD -j FLANNEL-FWD -m comment --comment flanneld_forward")?;
        lab.configure(&config("alloc"))?;
        host.up(FLANNELD, &[])?;
        eventually("no chains of iptables mode", SOON, || {
            let seen = [iptables_of_ours(host)?, host.rules6("filter")?, host.rules6("nat")?].concat();
            expect(!seen.iter().any(|l| l.contains("FLANNEL")), || format!("{seen:#?}"))
        })
    });
}
