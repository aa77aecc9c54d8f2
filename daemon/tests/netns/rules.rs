//! iptables: rules exactly as upstream's, once each, in order, repaired when a person or another program disturbs them.

use std::time::{Duration, Instant};

use crate::support::*;

// parity: daemon/tests/vectors/recorded/vxlan-ipmasq, daemon/tests/vectors/recorded/vxlan-ipmasq-opts
fn nat(subnet: &str, random: &str) -> Vec<String> {
    let masq = r#"-m comment --comment "flanneld masq""#;
    vec![
        ":PREROUTING ACCEPT".to_owned(),
        ":INPUT ACCEPT".to_owned(),
        ":OUTPUT ACCEPT".to_owned(),
        ":POSTROUTING ACCEPT".to_owned(),
        ":FLANNEL-POSTRTG -".to_owned(),
        format!("-A POSTROUTING {masq} -j FLANNEL-POSTRTG"),
        format!("-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN"),
        format!("-A FLANNEL-POSTRTG -s {subnet} -d 10.5.0.0/16 {masq} -j RETURN"),
        format!("-A FLANNEL-POSTRTG -s 10.5.0.0/16 -d {subnet} {masq} -j RETURN"),
        format!("-A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d {subnet} {masq} -j RETURN"),
        format!("-A FLANNEL-POSTRTG -s 10.5.0.0/16 ! -d 224.0.0.0/4 {masq} -j MASQUERADE{random}"),
        format!("-A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d 10.5.0.0/16 {masq} -j MASQUERADE{random}"),
    ]
}

fn filter() -> Vec<String> {
    let forward = r#"-m comment --comment "flanneld forward""#;
    vec![
        ":INPUT ACCEPT".to_owned(),
        ":FORWARD ACCEPT".to_owned(),
        ":OUTPUT ACCEPT".to_owned(),
        ":FLANNEL-FWD -".to_owned(),
        format!("-A FORWARD {forward} -j FLANNEL-FWD"),
        format!("-A FLANNEL-FWD -s 10.5.0.0/16 {forward} -j ACCEPT"),
        format!("-A FLANNEL-FWD -d 10.5.0.0/16 {forward} -j ACCEPT"),
    ]
}

/// Lines of ours: with our chains or our comments.
pub(crate) fn ours(host: &Host) -> Result<Vec<String>> {
    let all = [host.rules("nat")?, host.rules("filter")?].concat();
    Ok(all.into_iter().filter(|l| l.contains("FLANNEL") || l.contains("flanneld")).collect())
}

fn as_they_should_be(host: &Host, subnet: &str) -> Result<()> {
    let seen = host.rules("nat")?;
    expect(seen == nat(subnet, " --random-fully"), || format!("{seen:#?}"))?;
    let seen = host.rules("filter")?;
    expect(seen == filter(), || format!("{seen:#?}"))
}

#[test]
fn they_are_upstreams_when_the_file_is_written_and_once_after_restarts() {
    lab(1, &plain("vxlan")).check(|lab| {
        let host = lab.host(1);
        for round in 0..3 {
            let daemon = host.up(FLANNELD, &["-ip-masq"])?;
            let subnet = daemon.ready()?.subnet().to_string();
            as_they_should_be(host, &subnet).context(|| format!("start {round}"))?;
            if round == 0 { daemon.kill()? } else { drop(daemon.stop()?) }
        }
        Ok(())
    });
}

#[test]
fn flags_choose_among_them() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let daemon = host.up(FLANNELD, &["-iptables-forward-rules=false"])?;
        assert_eq!(ours(host)?, Vec::<String>::new());
        daemon.stop()?;
        let daemon =
            host.up(FLANNELD, &["-iptables-forward-rules=false", "-ip-masq", "-ip-masq-fully-random-disable"])?;
        let env = daemon.ready()?;
        assert_eq!(host.rules("nat")?, nat(&env.subnet().to_string(), ""));
        assert!(env.text.ends_with("FLANNEL_IPMASQ=true\n"), "{}", env.text);
        assert!(!ours(host)?.iter().any(|l| l.contains("FORWARD") || l.contains("FWD")));
        Ok(())
    });
}

#[test]
fn the_subnet_of_before_leaves_no_rules_behind() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let daemon = host.up(FLANNELD, &["-ip-masq"])?;
        let old = daemon.ready()?;
        daemon.stop()?;
        lab.etcd().delete_all(SUBNETS)?;
        lab.etcd().put(&old.key(), r#"{"PublicIP":"172.31.77.9","PublicIPv6":null}"#)?;
        let new = host.up(FLANNELD, &["-ip-masq"])?.ready()?;
        assert_ne!(new.subnet(), old.subnet());
        as_they_should_be(host, &new.subnet().to_string())
    });
}

/// Each of these is undone within a second or two with `-iptables-resync=1`.
#[test]
fn what_a_hand_breaks_is_put_right() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let subnet = host.up(FLANNELD, &["-ip-masq", "-iptables-resync=1"])?.ready()?.subnet().to_string();
        for damage in [
            "-t nat -F FLANNEL-POSTRTG",
            "-t nat -F POSTROUTING",
            "-t nat -D FLANNEL-POSTRTG 3",
            "-t nat -I FLANNEL-POSTRTG -j ACCEPT",
            "-t filter -F FORWARD",
            "-t filter -F FLANNEL-FWD",
            "-t filter -A FORWARD -m comment --comment flanneld_forward -j FLANNEL-FWD",
            "-t filter -A FLANNEL-FWD -j DROP",
        ] {
            host.exec(&format!("iptables -w {damage}"))?;
            // A second jump with another comment is not ours to remove; all else must be as before.
            if damage.contains("flanneld_forward") {
                eventually(damage, Duration::from_secs(4), || {
                    let seen = host.rules("filter")?;
                    expect(filter().iter().all(|rule| seen.contains(rule)), || format!("{seen:#?}"))
                })?;
                host.exec("iptables -w -t filter -D FORWARD -m comment --comment flanneld_forward -j FLANNEL-FWD")?;
                continue;
            }
            eventually(&format!("repair after iptables {damage}"), Duration::from_secs(4), || {
                as_they_should_be(host, &subnet)
            })?;
        }
        Ok(())
    });
}

/// The periodic check is an hour away; iptables-nft announces its changes.
#[test]
fn a_flush_is_repaired_at_once() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let subnet = host.up(FLANNELD, &["-ip-masq", "-iptables-resync=3600"])?.ready()?.subnet().to_string();
        for damage in ["iptables -w -t nat -F", "iptables -w -F", "nft flush ruleset"] {
            host.exec(damage)?;
            eventually(&format!("repair after {damage}"), Duration::from_secs(2), || as_they_should_be(host, &subnet))?;
        }
        Ok(())
    });
}

/// Another program removes our rules whenever it sees them, as fast as it can. Neither wins, and the fight costs a few
/// transactions: five at once, then one in five seconds (`flannel_core::filter::recheck`).
#[test]
fn a_fight_over_the_rules_has_a_bounded_rate() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        host.up(FLANNELD, &["-ip-masq", "-iptables-resync=3600"])?.ready()?;
        let (until, mut removed) = (Instant::now() + Duration::from_secs(8), 0);
        while Instant::now() < until {
            if host.rules("filter")?.iter().any(|rule| rule.starts_with("-A FLANNEL-FWD")) {
                host.exec("iptables -w -F FLANNEL-FWD")?;
                removed += 1;
            }
        }
        expect((3..=8).contains(&removed), || format!("{removed} times in 8 s"))
    });
}

#[test]
fn rules_out_of_order_are_put_in_order() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let subnet = host.up(FLANNELD, &["-ip-masq", "-iptables-resync=1"])?.ready()?.subnet().to_string();
        // The first rule goes to the end: all are there, and the mark no longer spares anything.
        host.exec("iptables -w -t nat -D FLANNEL-POSTRTG 1")?;
        host.exec("iptables -w -t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN")?;
        eventually("the order", Duration::from_secs(4), || as_they_should_be(host, &subnet))
    });
}

/// Rules of others beside ours stay as they are, through start, resync and restart.
#[test]
fn rules_of_others_are_left_alone() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let others = [
            "-t filter -N OTHERS",
            "-t filter -A FORWARD -j OTHERS",
            "-t filter -A OTHERS -s 10.9.0.0/16 -j DROP",
            "-t nat -A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE",
        ];
        for rule in others {
            host.exec(&format!("iptables -w {rule}"))?;
        }
        let theirs = || {
            let all = [host.rules("nat")?, host.rules("filter")?].concat();
            Ok::<_, Error>(
                all.into_iter().filter(|l| l.contains("OTHERS") || l.contains("10.9.0.0")).collect::<Vec<_>>(),
            )
        };
        let before = theirs()?;
        assert_eq!(before.len(), 4, "{before:#?}");
        host.up(FLANNELD, &["-ip-masq", "-iptables-resync=1"])?.kill()?;
        host.up(FLANNELD, &["-ip-masq", "-iptables-resync=1"])?;
        host.exec("iptables -w -t filter -F FLANNEL-FWD")?;
        eventually("the repair", SOON, || {
            let seen = host.rules("filter")?;
            expect(seen.iter().filter(|l| l.starts_with("-A FLANNEL-FWD")).count() == 2, || format!("{seen:#?}"))
        })?;
        assert_eq!(theirs()?, before);
        Ok(())
    });
}

/// A FORWARD policy of DROP, as dockerd sets it: pods talk, on one host and across, and not with the rules off.
#[test]
fn pods_talk_beside_a_forward_policy_of_drop() {
    lab(2, &plain("vxlan")).check(|lab| {
        for host in lab.hosts() {
            host.exec("iptables -w -P FORWARD DROP")?;
            host.up(FLANNELD, &["-ip-masq"])?;
        }
        both_know_each_other(lab.host(1), lab.host(2))?;
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        let beside = lab.host(1).pod(2)?;
        eventually("an answer", SOON, || one.ping(two.address(), 1)?.all_answered(62))?;
        two.ping(one.address(), 3)?.all_answered(62)?;
        one.ping(beside.address(), 3)?.all_answered(64)?;
        // The policy is the user's.
        assert!(lab.host(1).rules("filter")?.contains(&":FORWARD DROP".to_owned()));
        // Packets that do not get to our rules are dropped: the test above proves something.
        lab.host(2).exec("iptables -w -I FORWARD -j RETURN")?;
        one.ping(two.address(), 2)?.none_answered()
    });
}

/// Inside the network containers keep their addresses; what leaves it has the host's.
///
/// ```text
/// pod h1 -- h1 ==vxlan== h2 -- pod h2      the switch 172.31.77.254 stands for the world
/// ```
#[test]
fn only_what_leaves_the_network_is_masqueraded() {
    lab(2, &plain("vxlan")).check(|lab| {
        for host in lab.hosts() {
            host.up(FLANNELD, &["-ip-masq"])?;
        }
        both_know_each_other(lab.host(1), lab.host(2))?;
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        eventually("an answer", SOON, || one.ping(two.address(), 1)?.all_answered(62))?;
        assert_eq!(source_seen(&one, &two, two.address())?, one.address());
        let world = Segment::Near.address(254);
        assert_eq!(source_seen(&one, lab.switch(), world)?, lab.host(1).address());
        Ok(())
    });
}
