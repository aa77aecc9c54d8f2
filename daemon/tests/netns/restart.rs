//! The daemon goes and comes back; containers must not notice.

use std::time::Duration;

use crate::support::*;

/// What a restart must leave as it is.
#[derive(Debug, PartialEq)]
struct Kept {
    file: String,
    key: String,
    value: String,
    device: Option<(u32, String)>,
    routes: Vec<String>,
}

fn kept(lab: &Lab, device: Option<&str>) -> Result<Kept> {
    let host = lab.host(1);
    let env = host.subnet_env()?;
    let stored = lab.etcd().get(&env.key())?.context(|| format!("no key {}", env.key()))?;
    let device = device.map(|d| Ok::<_, Error>((host.index_of(d)?, host.mac_of(d)?))).transpose()?;
    Ok(Kept { file: env.text, key: stored.key, value: stored.value, device, routes: host.routes()? })
}

/// `kill -9` while a ping runs every 10 ms, then a new start, then SIGTERM and another new start.
fn no_packet_is_lost(backend: &str, device: Option<&str>) {
    lab(2, &plain(backend)).check(|lab| {
        let first = lab.host(1).up(FLANNELD, &["-ip-masq"])?;
        lab.host(2).up(FLANNELD, &["-ip-masq"])?;
        both_know_each_other(lab.host(1), lab.host(2))?;
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        let ping = one.ping_on(two.address())?;
        ping.replies_more(20)?;
        let before = kept(lab, device)?;

        first.kill()?;
        ping.replies_more(50)?;
        assert_eq!(kept(lab, device)?, before, "after kill -9");

        let second = lab.host(1).up(FLANNELD, &["-ip-masq"])?;
        ping.replies_more(50)?;
        assert_eq!(kept(lab, device)?, before, "after the restart");

        let exit = second.stop()?;
        assert_eq!(exit.code, Some(0), "{}", exit.log);
        ping.replies_more(50)?;
        assert_eq!(kept(lab, device)?, before, "after SIGTERM");

        lab.host(1).up(FLANNELD, &["-ip-masq"])?;
        ping.replies_more(50)?;
        assert_eq!(kept(lab, device)?, before, "after the second restart");

        let report = ping.stop()?;
        assert_eq!(report.lost(), 0, "{}", report.text);
        eprintln!("longest gap {:?} of {} packets", report.longest_gap(), report.sent);
        // Not only what ran already: a new container talks too.
        lab.host(1).pod(2)?.ping(two.address(), 3)?.all_answered(62)
    });
}

#[test]
fn no_packet_is_lost_under_vxlan() {
    no_packet_is_lost("vxlan", Some("flannel.1"));
}

#[test]
fn no_packet_is_lost_under_host_gw() {
    no_packet_is_lost("host-gw", None);
}

#[test]
fn sigterm_leaves_all_but_the_tun() {
    for (backend, device) in [("vxlan", Some("flannel.1")), ("host-gw", None), ("udp", None), ("alloc", None)] {
        lab(2, &plain(backend)).check(|lab| {
            let daemon = lab.host(1).up(FLANNELD, &["-ip-masq"])?;
            lab.host(2).up(FLANNELD, &[])?;
            if backend != "alloc" {
                both_know_each_other(lab.host(1), lab.host(2))?;
            }
            let rules = |h: &Host| Ok::<_, Error>([h.rules("nat")?, h.rules("filter")?]);
            let (before, rules_before) = (kept(lab, device)?, rules(lab.host(1))?);
            let exit = daemon.stop()?;
            assert_eq!(exit.code, Some(0), "{}", exit.log);
            assert_eq!(rules(lab.host(1))?, rules_before, "{backend}");
            let mut after = kept(lab, device)?;
            if backend == "udp" {
                assert!(lab.host(1).ip("link show dev flannel0").is_err(), "flannel0 is still there");
                after.routes = before.routes.clone();
            }
            assert_eq!(after, before, "{backend}");
            Ok(())
        });
    }
}

#[test]
fn sigint_ends_it_too() {
    lab(1, &plain("alloc")).check(|lab| {
        let daemon = lab.host(1).up(FLANNELD, &[])?;
        daemon.process().signal(Signal::INT)?;
        let exit = daemon.exit_within(Duration::from_secs(2))?;
        assert_eq!(exit.code, Some(0), "{}", exit.log);
        Ok(())
    });
}

/// A TUN of a killed daemon goes with it; the next one makes it anew and pods talk again.
#[test]
fn udp_comes_back_after_kill() {
    lab(2, &plain("udp")).check(|lab| {
        let first = lab.host(1).up(FLANNELD, &[])?;
        lab.host(2).up(FLANNELD, &[])?;
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        let talk = || {
            eventually("an answer", SOON, || {
                let report = one.ping(two.address(), 1)?;
                expect(!report.replies.is_empty(), || report.text)
            })
        };
        talk()?;
        let before = lab.host(1).subnet_env()?;
        first.kill()?;
        assert!(lab.host(1).ip("link show dev flannel0").is_err(), "flannel0 is still there");
        assert_eq!(lab.host(1).up(FLANNELD, &[])?.ready()?, before);
        talk()?;
        one.ping(two.address(), 10)?.all_answered(60)
    });
}

/// A device that does not fit the config is made anew, and the log says why; one that fits is kept.
#[test]
fn a_vxlan_device_that_does_not_fit_is_replaced() {
    lab(2, &plain("vxlan")).check(|lab| {
        let host = lab.host(1);
        host.ip("link add flannel.1 type vxlan id 1 dev eth0 local 172.31.77.1 dstport 4789 nolearning")?;
        let foreign = host.index_of("flannel.1")?;
        let daemon = host.up(FLANNELD, &[])?;
        let seen = host.ip("-d link show dev flannel.1")?;
        if seen.contains("dstport 8472") {
            assert_ne!(host.index_of("flannel.1")?, foreign);
            one_line(&daemon.log(), &["flannel.1", "4789", "8472"]);
        } else {
            // Port 0 in the config leaves the port to what is there, as upstream; then pods must not be expected to
            // reach hosts on another port.
            panic!("a device on port 4789 was adopted, which no other host sends to: {seen}");
        }
        lab.host(2).up(FLANNELD, &[])?;
        both_know_each_other(host, lab.host(2))?;
        let (one, two) = (host.pod(1)?, lab.host(2).pod(1)?);
        eventually("an answer", SOON, || one.ping(two.address(), 1)?.all_answered(62))
    });
}
