//! `-ip-blackhole-route`: what is addressed to the own subnet and has nowhere to go ends here, instead of leaving by
//! the default route.
//!
//! ```text
//! h2 ==vxlan== h1 - - > 172.31.77.254 counts what leaks
//! ```

use crate::support::*;

/// Sends to an address of h1's subnet nobody has, from h2; how many packets left h1 by its default route.
fn leaked(lab: &Lab) -> Result<u32> {
    let subnet = lab.host(1).subnet_env()?.subnet();
    let rule = format!("PREROUTING -d {subnet} -m comment --comment leak -j ACCEPT");
    let switch = lab.switch();
    switch.exec(&format!("iptables -w -t mangle -A {rule}"))?;
    let unused = lab.host(1).subnet_env()?.address(77);
    let report = Ping::once(lab.host(2), lab.host(2).directory(), &format!("-i 0.02 -c 5 -W 0.3 {unused}"))?;
    report.none_answered()?;
    let counters = switch.exec("iptables -w -t mangle -nvxL PREROUTING")?;
    switch.exec(&format!("iptables -w -t mangle -D {rule}"))?;
    let count = counters.lines().find(|l| l.contains("leak")).and_then(|l| l.split_whitespace().next());
    count.and_then(|n| n.parse().ok()).context(|| counters.clone())
}

#[test]
fn what_is_for_nobody_ends_here() {
    lab(2, &plain("vxlan")).check(|lab| {
        let host = lab.host(1);
        let daemon = host.up(FLANNELD, &[])?;
        lab.host(2).up(FLANNELD, &[])?;
        both_know_each_other(host, lab.host(2))?;
        // Without the flag it leaks: the test proves something.
        assert!(leaked(lab)? > 0);
        daemon.stop()?;

        let own = host.up(FLANNELD, &["-ip-blackhole-route"])?.ready()?;
        let route = route_comes(host, &format!("blackhole {}", own.subnet()))?;
        assert_eq!(leaked(lab)?, 0);
        assert!(host.ip(&format!("route get {}", own.address(77))).is_err(), "not the blackhole: {route}");

        // A bridge that comes later has the subnet, the blackhole stands behind it.
        let (one, two) = (host.pod(1)?, lab.host(2).pod(1)?);
        two.ping(one.address(), 3)?.all_answered(62)?;
        let way = host.ip(&format!("route get {}", own.address(77)))?;
        assert!(way.contains("dev cbr0"), "{way}");
        // And ends things again when the bridge is down.
        host.ip("link set cbr0 down")?;
        assert_eq!(leaked(lab)?, 0);
        Ok(())
    });
}

#[test]
fn it_is_put_back_and_put_once() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let own = host.up(FLANNELD, &["-ip-blackhole-route", "-iptables-resync=1"])?.ready()?;
        let start = format!("blackhole {}", own.subnet());
        let route = route_comes(host, &start)?;
        host.ip(&format!("route del {}", route.trim_start_matches("blackhole ").trim()))?;
        // Not a loss on a device of ours, so the comparison every ten seconds finds it.
        eventually("the blackhole route", std::time::Duration::from_secs(12), || {
            let routes = host.routes()?;
            expect(routes.contains(&route), || format!("{routes:#?}"))
        })?;
        host.up(FLANNELD, &["-ip-blackhole-route"])?;
        assert_eq!(host.routes()?.iter().filter(|r| r.starts_with(&start)).count(), 1);
        Ok(())
    });
}
