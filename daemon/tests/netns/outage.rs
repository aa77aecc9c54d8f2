//! etcd goes, comes back, forgets; the own key vanishes. What runs goes on running.

use std::time::Duration;

use crate::support::*;

/// Longer than [`SOON`]: the daemon may pause some seconds between its tries.
const AFTER_A_PAUSE: Duration = Duration::from_secs(15);

fn lease(last: u8) -> String {
    format!(r#"{{"PublicIP":"172.31.77.{last}","PublicIPv6":null,"BackendType":"host-gw"}}"#)
}

fn key(third: u8) -> String {
    format!("{SUBNETS}10.5.{third}.0-24")
}

fn comes(host: &Host, route: &str) -> Result<()> {
    eventually(&format!("route {route}"), AFTER_A_PAUSE, || {
        let routes = host.routes()?;
        expect(routes.iter().any(|r| r == route), || format!("{routes:#?}"))
    })
}

#[test]
fn routes_outlive_etcd_and_new_leases_are_seen_afterwards() {
    lab(1, &plain("host-gw")).check(|lab| {
        let (host, etcd) = (lab.host(1), lab.etcd());
        let daemon = host.up(FLANNELD, &[])?;
        etcd.put(&key(200), &lease(7))?;
        comes(host, "10.5.200.0/24 via 172.31.77.7 dev eth0")?;
        etcd.stop()?;
        holds("the routes", Duration::from_secs(2), || {
            let routes = host.routes()?;
            expect(routes.iter().any(|r| r.starts_with("10.5.200.0/24")), || format!("{routes:#?}"))
        })?;
        etcd.start()?;
        etcd.put(&key(201), &lease(8))?;
        comes(host, "10.5.201.0/24 via 172.31.77.8 dev eth0")?;
        assert!(host.routes()?.iter().any(|r| r.starts_with("10.5.200.0/24")));
        assert!(daemon.process().exited()?.is_none());
        Ok(())
    });
}

/// The daemon is cut off while etcd changes everything and forgets the changes: it must list again, and by value.
#[test]
fn what_was_compacted_away_is_not_missed() {
    lab(1, &plain("host-gw")).check(|lab| {
        let (host, etcd) = (lab.host(1), lab.etcd());
        let daemon = host.up(FLANNELD, &[])?;
        let own = daemon.ready()?;
        etcd.put_together(&[(&key(200), &lease(7)), (&key(201), &lease(7)), (&key(202), &lease(7))])?;
        for third in [200, 201, 202] {
            comes(host, &format!("10.5.{third}.0/24 via 172.31.77.7 dev eth0"))?;
        }
        etcd.stop()?;
        lab.connect("h1", false)?;
        etcd.start()?;
        etcd.delete(&key(200))?;
        etcd.put(&key(201), &lease(8))?;
        etcd.put(&key(203), &lease(9))?;
        etcd.compact()?;
        lab.connect("h1", true)?;
        comes(host, "10.5.203.0/24 via 172.31.77.9 dev eth0")?;
        comes(host, "10.5.201.0/24 via 172.31.77.8 dev eth0")?;
        comes(host, "10.5.202.0/24 via 172.31.77.7 dev eth0")?;
        route_goes(host, "10.5.200.0/24")?;
        // The watch goes on from there, and the own lease was not taken for somebody else's.
        etcd.put(&key(204), &lease(9))?;
        comes(host, "10.5.204.0/24 via 172.31.77.9 dev eth0")?;
        let own_route = format!("{} via", own.subnet());
        assert!(!host.routes()?.iter().any(|r| r.starts_with(&own_route)), "a route to the own subnet");
        assert!(etcd.get(&own.key())?.is_some());
        Ok(())
    });
}

/// etcd comes back empty. The others are about to put their leases back, so their routes stay; what nobody puts back goes
/// after a minute.
#[test]
fn what_an_emptied_etcd_lost_stays_for_a_minute() {
    lab(1, &plain("host-gw")).check(|lab| {
        let (host, etcd) = (lab.host(1), lab.etcd());
        let daemon = host.up(FLANNELD, &[])?;
        let own = daemon.ready()?;
        let routes = [200, 201].map(|third| format!("10.5.{third}.0/24 via 172.31.77.7 dev eth0"));
        etcd.put_together(&[(&key(200), &lease(7)), (&key(201), &lease(7))])?;
        routes.iter().try_for_each(|route| comes(host, route))?;
        etcd.kill()?;
        etcd.wipe()?;
        etcd.start()?;
        eventually("the own key", AFTER_A_PAUSE, || etcd.get(&own.key())?.context(|| daemon.log()))?;
        daemon.says("2 leases of other hosts are missing")?;
        etcd.put(&key(200), &lease(7))?;
        let stand = |count: usize| {
            let now = host.routes()?;
            expect(routes.iter().filter(|route| now.contains(route)).count() == count, || format!("{now:#?}"))
        };
        holds("both routes", Duration::from_secs(3), || stand(2))?;
        eventually("the end of what nobody put back", Duration::from_secs(75), || stand(1))?;
        daemon.says("dropped: 10.5.201.0-24")?;
        comes(host, &routes[0])
    });
}

/// No FIN, no RST: what lay between forgot the connection, and whatever goes over it is lost. It must be found dead
/// without waiting for TCP, which tries for a quarter of an hour.
#[test]
fn a_silent_cut_is_noticed() {
    lab(1, &plain("host-gw")).check(|lab| {
        let (host, etcd) = (lab.host(1), lab.etcd());
        host.up(FLANNELD, &[])?;
        etcd.put(&key(200), &lease(7))?;
        comes(host, "10.5.200.0/24 via 172.31.77.7 dev eth0")?;
        for flag in ["FIN", "RST"] {
            let rule = format!("-p tcp --sport 2379 --tcp-flags {flag} {flag}");
            etcd.namespace().exec(&format!("iptables -w -A OUTPUT -d {} {rule} -j DROP", host.address()))?;
        }
        etcd.stop()?;
        etcd.start()?;
        etcd.put(&key(201), &lease(8))?;
        eventually("the new lease", Duration::from_secs(45), || {
            let routes = host.routes()?;
            expect(routes.iter().any(|r| r.starts_with("10.5.201.0/24")), || format!("{routes:#?}"))
        })
    });
}

#[test]
fn the_own_key_is_put_back() {
    for backend in ["vxlan", "alloc"] {
        lab(1, &plain(backend)).check(|lab| {
            let (host, etcd) = (lab.host(1), lab.etcd());
            let daemon = host.up(FLANNELD, &[])?;
            let own = daemon.ready()?;
            let before = etcd.get(&own.key())?.unwrap();
            for _ in 0..2 {
                assert!(etcd.delete(&own.key())?);
                let after = eventually("the own key", SOON, || {
                    etcd.get(&own.key())?.context(|| format!("keys: {:#?}; log:\n{}", etcd.list("/"), daemon.log()))
                })?;
                assert_eq!(after.value, before.value);
                let (granted, left) = etcd.time_to_live(after.lease)?;
                assert!(granted == 86400 && left > 86300, "{left} of {granted} s");
            }
            assert!(daemon.process().exited()?.is_none());
            assert_eq!(host.subnet_env()?, own);
            assert_eq!(etcd.list(SUBNETS)?.len(), 1);
            Ok(())
        });
    }
}

/// A host that lost its lease says to whom, and never takes it back.
#[test]
fn a_key_of_another_host_is_left_to_it() {
    lab(1, &plain("vxlan")).check(|lab| {
        let etcd = lab.etcd();
        let daemon = lab.host(1).up(FLANNELD, &[])?;
        let own = daemon.ready()?;
        let theirs = r#"{"PublicIP":"172.31.77.9","PublicIPv6":null,"BackendType":"host-gw"}"#;
        etcd.put_for(&own.key(), theirs, 3000)?;
        daemon.says("172.31.77.9")?;
        holds("the other host's lease", Duration::from_secs(1), || {
            let stored = etcd.get(&own.key())?.context(|| "no key".to_owned())?;
            expect(stored.value == theirs, || stored.value)
        })?;
        // Containers that run keep what they have meanwhile.
        lab.host(1).ip("link show dev flannel.1")?;
        assert_eq!(lab.host(1).subnet_env()?, own);
        Ok(())
    });
}

#[test]
fn without_etcd_at_the_start_it_names_the_endpoints_and_waits() {
    Lab::without_etcd(&[Segment::Near]).unwrap().check(|lab| {
        let daemon = lab.host(1).flanneld(FLANNELD).start()?;
        daemon.says("http://172.31.77.100:2379")?;
        assert!(daemon.process().exited()?.is_none() && !daemon.has_written());
        lab.etcd().start()?;
        lab.configure(&plain("vxlan"))?;
        eventually("the first lease", AFTER_A_PAUSE, || daemon.ready())?;
        // The same line over and over would bury what matters.
        assert!(daemon.log().lines().count() < 60, "{}", daemon.log());
        Ok(())
    });
}

#[test]
fn sigterm_ends_it_while_etcd_is_away() {
    Lab::without_etcd(&[Segment::Near]).unwrap().check(|lab| {
        let daemon = lab.host(1).flanneld(FLANNELD).start()?;
        daemon.says("http://172.31.77.100:2379")?;
        let exit = daemon.stop()?;
        assert_eq!(exit.code, Some(0), "{}", exit.log);
        // The same with etcd gone from under a running one.
        lab.etcd().start()?;
        lab.configure(&plain("vxlan"))?;
        let daemon = lab.host(1).up(FLANNELD, &[])?;
        lab.etcd().stop()?;
        let exit = daemon.stop()?;
        assert_eq!(exit.code, Some(0), "{}", exit.log);
        Ok(())
    });
}

/// A dead endpoint first in the list costs time, not the start.
#[test]
fn one_of_two_endpoints_is_enough() {
    lab(1, &plain("alloc")).check(|lab| {
        let endpoints = format!("-etcd-endpoints=http://172.31.77.1:2379,{}", lab.etcd().endpoint());
        lab.host(1).up(FLANNELD, &[&endpoints]).map(drop)
    });
}
