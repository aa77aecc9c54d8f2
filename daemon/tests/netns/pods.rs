//! Containers of two hosts talk: ping with the TTL upstream leaves, packets of exactly the MTU, 100 MB of TCP each
//! way.
//!
//! ```text
//! pod1 -- cbr0 h1 ==== underlay ==== h2 cbr0 -- pod1
//! ```

use crate::support::*;

const MEGABYTES: usize = 1_000_000;

/// TTLs as recorded: routing costs one at each host; the udp proxy takes one more when it sends and one when it
/// receives.
struct Expected {
    mtu: u32,
    pod_ttl: u8,
    host_ttl: u8,
}

fn pods_talk(config: &str, expected: &Expected) {
    lab(2, config).check(|lab| {
        for host in lab.hosts() {
            host.up(FLANNELD, &[])?;
        }
        let (h1, h2) = (lab.host(1), lab.host(2));
        both_know_each_other(h1, h2)?;
        let (one, two) = (h1.pod(1)?, h2.pod(1)?);
        first_ping(&one, &two)?;
        one.ping(two.address(), 10)?.all_answered(expected.pod_ttl)?;
        two.ping(one.address(), 10)?.all_answered(expected.pod_ttl)?;

        // Host to host by their lease's first address, with and without a source of that kind.
        let (from, to) = (h1.subnet_env()?.address(1), h2.subnet_env()?.address(1));
        let ping = |args: String| Ping::once(h1, h1.directory(), &args);
        ping(format!("-i 0.02 -c 3 -W 2 -I {from} {to}"))?.all_answered(expected.host_ttl)?;
        ping(format!("-i 0.02 -c 3 -W 2 {to}"))?.all_answered(expected.host_ttl)?;

        assert_eq!(h1.subnet_env()?.mtu, expected.mtu);
        one.ping_whole(two.address(), expected.mtu)?.all_answered(expected.pod_ttl)?;
        one.ping_whole(two.address(), expected.mtu + 1)?.none_answered()?;
        // Longer ones in fragments.
        Ping::once(&one, one.directory(), &format!("-i 0.02 -c 3 -W 2 -s 4000 {}", two.address()))?
            .all_answered(expected.pod_ttl)?;

        for (sender, receiver) in [(&one, &two), (&two, &one)] {
            let moved = transfer(sender, receiver, receiver.address(), 100 * MEGABYTES)?;
            eprintln!("100 MB in {:?}", moved.took);
        }
        Ok(())
    });
}

/// ARP and the other host's watch take a moment; from then on nothing may be lost.
fn first_ping(one: &Pod, two: &Pod) -> Result<()> {
    eventually("a first answer", SOON, || {
        let report = one.ping(two.address(), 1)?;
        expect(!report.replies.is_empty(), || report.text)
    })
}

#[test]
fn over_udp() {
    pods_talk(&plain("udp"), &Expected { mtu: 1472, pod_ttl: 60, host_ttl: 62 });
}

#[test]
fn over_vxlan() {
    pods_talk(&plain("vxlan"), &Expected { mtu: 1450, pod_ttl: 62, host_ttl: 64 });
}

#[test]
fn over_host_gw() {
    pods_talk(&plain("host-gw"), &Expected { mtu: 1500, pod_ttl: 62, host_ttl: 64 });
}

/// Three hosts: each pod reaches each other one.
#[test]
fn three_hosts_reach_each_other() {
    lab(3, &plain("vxlan")).check(|lab| {
        for host in lab.hosts() {
            host.up(FLANNELD, &[])?;
        }
        let pods: Vec<Pod> = lab.hosts().iter().map(|h| h.pod(1)).collect::<Result<_>>()?;
        for (from, one) in pods.iter().enumerate() {
            for (_, two) in pods.iter().enumerate().filter(|(to, _)| *to != from) {
                first_ping(one, two)?;
                one.ping(two.address(), 3)?.all_answered(62)?;
            }
        }
        Ok(())
    });
}
