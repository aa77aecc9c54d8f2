//! Somebody takes away what the daemon put into the kernel; it comes back, and pods talk again.
//!
//! ```text
//! pod1 -- cbr0 h1 ==== underlay ==== h2 cbr0 -- pod1        the hand works on h1
//! ```

use std::time::{Duration, Instant};

use crate::support::*;

/// The kernel tells of what is removed or replaced; the comparison every ten seconds would be too late for these.
const HEALED: Duration = Duration::from_secs(5);

/// Two hosts with a pod each that talk; `damage` is done on h1 one by one, and each time they must talk again.
fn heals(backend: &str, ttl: u8, within: Duration, damage: &[&str], between: impl Fn(&Host) -> Result<()>) {
    lab(2, &plain(backend)).check(|lab| {
        let daemons = [lab.host(1).up(FLANNELD, &[])?, lab.host(2).up(FLANNELD, &[])?];
        let far = daemons[1].ready()?.subnet();
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        let ask = format!("-c 1 -W 0.2 {}", two.address());
        let talk = |when: &str, deadline: Duration| {
            eventually(&format!("an answer {when}"), deadline, || {
                Ping::once(&one, one.directory(), &ask)?.all_answered(ttl)
            })
        };
        talk("at first", SOON)?;
        let before = lab.host(1).routes()?;
        for command in damage {
            let command = command.replace("<far>", &far.to_string()).replace("<base>", &far.addr().to_string());
            let command = command.replace("<mac>", &lab.host(2).mac_of("flannel.1").unwrap_or_default());
            let when = format!("after {command}");
            let start = Instant::now();
            match command.strip_prefix("bridge ") {
                Some(rest) => lab.host(1).bridge(rest)?,
                None => lab.host(1).ip(&command)?,
            };
            between(lab.host(1))?;
            talk(&when, within)?;
            eventually(&format!("the routes of before {when}"), within, || {
                let now = lab.host(1).routes()?;
                expect(now == before, || format!("{now:#?} instead of {before:#?}"))
            })?;
            eprintln!("{command}: healed in {:?}", start.elapsed());
        }
        // Stable, not fighting itself.
        one.ping(two.address(), 50)?.all_answered(ttl)
    });
}

#[test]
fn vxlan_entries_and_device_that_were_removed() {
    heals(
        "vxlan",
        62,
        HEALED,
        &[
            "route del <far>",
            "neigh del <base> dev flannel.1",
            "bridge fdb del <mac> dev flannel.1",
            "addr flush dev flannel.1",
            "link set flannel.1 down",
            "link del flannel.1",
        ],
        |_| Ok(()),
    );
}

#[test]
fn a_vxlan_route_that_was_replaced() {
    heals("vxlan", 62, HEALED, &["route replace <far> via 172.31.77.254"], |_| Ok(()));
}

#[test]
fn a_vxlan_neighbour_that_was_replaced() {
    let damage = "neigh replace <base> lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent";
    heals("vxlan", 62, HEALED, &[damage], |_| Ok(()));
}

#[test]
fn host_gw_routes_that_were_removed() {
    heals("host-gw", 62, HEALED, &["route del <far>", "link set eth0 down"], |host| {
        // Interface and default route are the operator's to put back.
        if !host.routes()?.iter().any(|r| r.starts_with("default")) {
            host.ip("link set eth0 up")?;
            host.ip("route add default via 172.31.77.254")?;
        }
        Ok(())
    });
}

#[test]
fn a_host_gw_route_that_was_replaced() {
    heals("host-gw", 62, HEALED, &["route replace <far> via 172.31.77.254", "route replace blackhole <far>"], |_| {
        Ok(())
    });
}

#[test]
fn the_tun_of_udp() {
    heals("udp", 60, HEALED, &["link set flannel0 down", "addr flush dev flannel0", "link del flannel0"], |_| Ok(()));
}

/// What a host of before left in the kernel goes when the daemon next starts and finds no such lease.
#[test]
fn entries_of_a_host_that_left_meanwhile_are_swept() {
    for (backend, lease) in [
        (
            "vxlan",
            r#"{"PublicIP":"172.31.77.7","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"7a:3f:56:96:72:2e"}}"#,
        ),
        ("host-gw", r#"{"PublicIP":"172.31.77.7","PublicIPv6":null,"BackendType":"host-gw"}"#),
    ] {
        lab(1, &plain(backend)).check(|lab| {
            let host = lab.host(1);
            let key = format!("{SUBNETS}10.5.200.0-24");
            lab.etcd().put(&key, lease)?;
            // Not ours: another network, and the operator's own.
            host.ip("route add 10.99.0.0/16 via 172.31.77.9")?;
            let daemon = host.up(FLANNELD, &[])?;
            route_comes(host, "10.5.200.0/24")?;
            daemon.kill()?;
            lab.etcd().delete(&key)?;
            host.up(FLANNELD, &[])?;
            route_goes(host, "10.5.200.0/24")?;
            if backend == "vxlan" {
                eventually("no entry of the host that left", SOON, || {
                    let left = [host.neighbours("flannel.1")?, host.forwarding("flannel.1")?].concat();
                    expect(left.is_empty(), || format!("{left:#?}"))
                })?;
            }
            assert!(host.routes()?.iter().any(|r| r.starts_with("10.99.0.0/16")), "a route of others went too");
            Ok(())
        });
    }
}

/// A route of the same shape as ours, through a gateway on the same interface, but made by a person.
#[test]
fn a_route_of_the_operators_own_is_left_alone() {
    lab(2, &plain("host-gw")).check(|lab| {
        let host = lab.host(1);
        host.ip("route add 10.5.222.0/24 via 172.31.77.2")?;
        host.up(FLANNELD, &[])?;
        let far = lab.host(2).up(FLANNELD, &[])?.ready()?.subnet();
        route_comes(host, &far.to_string())?;
        assert!(host.ip(&format!("route show {far}"))?.contains("proto 70"), "ours bear a mark");
        holds("the operator's route stays", Duration::from_secs(12), || {
            let routes = host.routes()?;
            expect(routes.iter().any(|r| r.starts_with("10.5.222.0/24")), || format!("{routes:#?}"))
        })
    });
}
