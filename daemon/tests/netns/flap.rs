//! The external interface goes down and comes up: a cable, a driver, `ip link set`. The kernel forgets every route
//! through it without a word; ours are back within a second of its return.
//!
//! ```text
//! pod1 -- cbr0 h1 eth0 -/ /- underlay ---- h2 cbr0 -- pod1
//! ```

use std::time::Duration;

use crate::support::*;

const BACK: Duration = Duration::from_secs(1);

fn flap(backend: &str) {
    lab(2, &plain(backend)).check(|lab| {
        let host = lab.host(1);
        for third in 200..220 {
            let lease = format!(r#"{{"PublicIP":"172.31.77.{third}","PublicIPv6":null,"BackendType":"host-gw"}}"#);
            let lease = if backend == "vxlan" { absent_vxlan(third) } else { lease };
            lab.etcd().put(&format!("{SUBNETS}10.5.{third}.0-24"), &lease)?;
        }
        let daemon = host.up(FLANNELD, &[])?;
        lab.host(2).up(FLANNELD, &[])?;
        both_know_each_other(host, lab.host(2))?;
        let (one, two) = (host.pod(1)?, lab.host(2).pod(1)?);
        let ours = || {
            let mut routes = host.routes()?;
            // The own lease may begin so, too.
            routes.retain(|r| r.starts_with("10.5.2") && r.contains(" via "));
            Ok::<_, Error>(routes)
        };
        let before = eventually("all routes", SOON, || {
            let seen = ours()?;
            expect(seen.len() >= 20, || format!("{seen:#?}"))?;
            Ok(seen)
        })?;
        for _ in 0..2 {
            host.ip("link set eth0 down")?;
            if backend == "host-gw" {
                assert_eq!(ours()?, Vec::<String>::new());
            }
            host.ip("link set eth0 up")?;
            // The default route is the operator's to put back.
            host.ip("route add default via 172.31.77.254")?;
            eventually("the routes", BACK, || {
                let seen = ours()?;
                expect(seen == before, || format!("{} of {}: {seen:#?}", seen.len(), before.len()))
            })?;
            eventually("an answer", SOON, || one.ping(two.address(), 1)?.all_answered(62))?;
        }
        assert!(daemon.process().exited()?.is_none());
        Ok(())
    });
}

#[test]
fn host_gw_routes_are_back_when_the_interface_is() {
    flap("host-gw");
}

#[test]
fn vxlan_goes_on_when_the_interface_is_back() {
    flap("vxlan");
}
