//! Leases of hosts that are not there, written by hand: what the daemon makes of them in the kernel.
//!
//! ```text
//! h1: flanneld            172.31.77.7, .8: leases only
//! ```

use std::time::Duration;

use crate::support::*;

const MAC: &str = "7a:3f:56:96:72:2e";
const OTHER_MAC: &str = "ee:01:02:03:04:05";

fn key(subnet: &str) -> String {
    format!("{SUBNETS}{subnet}")
}

fn vxlan(last: u8, mac: &str) -> String {
    format!(
        r#"{{"PublicIP":"172.31.77.{last}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

fn host_gw(last: u8) -> String {
    format!(r#"{{"PublicIP":"172.31.77.{last}","PublicIPv6":null,"BackendType":"host-gw"}}"#)
}

/// All that a vxlan host knows about one remote lease.
fn known(host: &Host, subnet: &str, macs: &[&str]) -> Result<Vec<String>> {
    let mut known: Vec<String> = host.routes()?.into_iter().filter(|r| r.contains(subnet)).collect();
    known.extend(host.neighbours("flannel.1")?.into_iter().filter(|n| n.starts_with(subnet)));
    known.extend(host.forwarding("flannel.1")?.into_iter().filter(|f| macs.iter().any(|m| f.starts_with(m))));
    Ok(known)
}

fn entries(subnet: &str, mac: &str, public: &str) -> Vec<String> {
    vec![
        format!("{subnet}/24 via {subnet} dev flannel.1 onlink"),
        format!("{subnet} lladdr {mac} PERMANENT"),
        format!("{mac} dst {public} self permanent"),
    ]
}

fn becomes(host: &Host, subnet: &str, macs: &[&str], expected: &[String]) -> Result<()> {
    eventually(&format!("{subnet} as {expected:?}"), SOON, || {
        let seen = known(host, subnet, macs)?;
        expect(seen == expected, || format!("{seen:#?}"))
    })
}

#[test]
fn a_vxlan_lease_comes_changes_and_goes() {
    lab(1, &plain("vxlan")).check(|lab| {
        let host = lab.host(1);
        host.up(FLANNELD, &[])?;
        let (etcd, subnet, macs) = (lab.etcd(), "10.5.200.0", &[MAC, OTHER_MAC]);
        let key = key("10.5.200.0-24");
        etcd.put(&key, &vxlan(7, MAC))?;
        becomes(host, subnet, macs, &entries(subnet, MAC, "172.31.77.7"))?;
        etcd.put(&key, &vxlan(8, MAC))?;
        becomes(host, subnet, macs, &entries(subnet, MAC, "172.31.77.8"))?;
        // A new device of the other host: the old MAC's record must not stay.
        etcd.put(&key, &vxlan(8, OTHER_MAC))?;
        becomes(host, subnet, macs, &entries(subnet, OTHER_MAC, "172.31.77.8"))?;
        // Now something else than vxlan, whatever its data look like.
        for other in [host_gw(8), vxlan(8, OTHER_MAC).replace(r#""vxlan""#, r#""wireguard""#)] {
            etcd.put(&key, &vxlan(8, MAC))?;
            becomes(host, subnet, macs, &entries(subnet, MAC, "172.31.77.8"))?;
            etcd.put(&key, &other)?;
            becomes(host, subnet, macs, &[])?;
        }
        etcd.put(&key, &vxlan(7, MAC))?;
        becomes(host, subnet, macs, &entries(subnet, MAC, "172.31.77.7"))?;
        etcd.delete(&key)?;
        becomes(host, subnet, macs, &[])
    });
}

#[test]
fn a_host_gw_lease_comes_changes_and_goes() {
    lab(1, &plain("host-gw")).check(|lab| {
        let host = lab.host(1);
        host.up(FLANNELD, &[])?;
        let (etcd, key) = (lab.etcd(), key("10.5.200.0-24"));
        etcd.put(&key, &host_gw(7))?;
        route_comes(host, "10.5.200.0/24 via 172.31.77.7 dev eth0")?;
        etcd.put(&key, &host_gw(8))?;
        route_comes(host, "10.5.200.0/24 via 172.31.77.8 dev eth0")?;
        route_goes(host, "10.5.200.0/24 via 172.31.77.7")?;
        etcd.put(&key, &vxlan(8, MAC))?;
        route_goes(host, "10.5.200.0/24")?;
        etcd.put(&key, &host_gw(7))?;
        route_comes(host, "10.5.200.0/24 via 172.31.77.7 dev eth0")?;
        etcd.delete(&key)?;
        route_goes(host, "10.5.200.0/24")
    });
}

/// An address off the link can't be a gateway: said once, and nobody else suffers.
#[test]
fn a_host_gw_lease_off_the_link_is_named() {
    lab(1, &plain("host-gw")).check(|lab| {
        let daemon = lab.host(1).up(FLANNELD, &[])?;
        let far = r#"{"PublicIP":"192.0.2.9","PublicIPv6":null,"BackendType":"host-gw"}"#;
        lab.etcd().put_together(&[(&key("10.5.200.0-24"), far), (&key("10.5.201.0-24"), &host_gw(7))])?;
        route_comes(lab.host(1), "10.5.201.0/24 via 172.31.77.7 dev eth0")?;
        daemon.says("10.5.200.0/24")?;
        assert!(!lab.host(1).routes()?.iter().any(|r| r.starts_with("10.5.200.0/24")));
        Ok(())
    });
}

#[test]
fn leases_that_were_there_first_are_known_too() {
    lab(1, &plain("vxlan")).check(|lab| {
        for subnet in ["10.5.200.0-24", "10.5.201.0-24"] {
            lab.etcd().put(&key(subnet), &vxlan(7, MAC))?;
        }
        lab.host(1).up(FLANNELD, &[])?;
        route_comes(lab.host(1), "10.5.200.0/24 via 10.5.200.0 dev flannel.1 onlink")?;
        route_comes(lab.host(1), "10.5.201.0/24 via 10.5.201.0 dev flannel.1 onlink").map(drop)
    });
}

#[test]
fn both_leases_of_one_transaction_are_seen() {
    for (backend, lease) in [("vxlan", vxlan(7, MAC)), ("host-gw", host_gw(7))] {
        lab(1, &plain(backend)).check(|lab| {
            lab.host(1).up(FLANNELD, &[])?;
            lab.etcd().put_together(&[(&key("10.5.200.0-24"), &lease), (&key("10.5.201.0-24"), &lease)])?;
            route_comes(lab.host(1), "10.5.200.0/24")?;
            route_comes(lab.host(1), "10.5.201.0/24").map(drop)
        });
    }
}

/// Tolerant as Go: field names in any case, unknown fields, no PublicIPv6.
#[test]
fn other_spellings_of_a_lease_are_read() {
    lab(1, &plain("vxlan")).check(|lab| {
        lab.host(1).up(FLANNELD, &[])?;
        let lease = format!(
            r#"{{ "publicip": "172.31.77.7", "new": [1], "BACKENDTYPE": "vxlan", "backenddata": {{"vtepmac": "{MAC}"}} }}"#
        );
        lab.etcd().put(&key("10.5.200.0-24"), &lease)?;
        becomes(lab.host(1), "10.5.200.0", &[MAC], &entries("10.5.200.0", MAC, "172.31.77.7"))
    });
}

/// Keys and values nobody can read, with the piece of the key the log must name. None is among the hundred subnets
/// the daemon draws its own from.
const MALFORMED: &[(&[u8], &[u8], &str)] = &[
    (b"garbage", b"{}", "garbage"),
    (b"10.5.159.0", b"{}", "10.5.159.0"),
    (b"10.5.160.0-33", b"{}", "10.5.160.0-33"),
    (b"10.5.256.0-24", b"{}", "10.5.256.0-24"),
    (
        b"0.0.0.0-0",
        br#"{"PublicIP":"172.31.77.7","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:07"}}"#,
        "0.0.0.0-0",
    ),
    (b"10.5.161.0-24", b"not json", "10.5.161.0"),
    (b"10.5.162.0-24", b"", "10.5.162.0"),
    (b"10.5.163.0-24", br#"{"PublicIP":null,"BackendType":"vxlan"}"#, "10.5.163.0"),
    (b"10.5.164.0-24", br#"{"PublicIP":"","BackendType":"vxlan"}"#, "10.5.164.0"),
    (b"10.5.165.0-24", br#"{"PublicIP":"172.31.77.7","BackendType":"vxlan"}"#, "10.5.165.0"),
    (
        b"10.5.166.0-24",
        br#"{"PublicIP":"172.31.77.7","BackendType":"vxlan","BackendData":{"VtepMAC":"x"}}"#,
        "10.5.166.0",
    ),
    (b"10.5.167.0-24", b"\xff\xfe\x00", "10.5.167.0"),
    (b"bytes-\xff\xfe", b"{}", "bytes-"),
];

fn put_malformed(lab: &Lab) -> Result<()> {
    for (name, value, _) in MALFORMED {
        let key = [SUBNETS.as_bytes(), name].concat();
        lab.etcd().put_raw(&key, value, 0)?;
    }
    Ok(())
}

/// One line for each, not more, and peers before and after are there all along.
fn nobody_is_disturbed(lab: &Lab, daemon: &Daemon) -> Result<()> {
    lab.etcd().put(&key("10.5.201.0-24"), &vxlan(8, OTHER_MAC))?;
    becomes(lab.host(1), "10.5.201.0", &[OTHER_MAC], &entries("10.5.201.0", OTHER_MAC, "172.31.77.8"))?;
    holds("the first peer's entries", Duration::from_millis(500), || {
        let seen = known(lab.host(1), "10.5.200.0", &[MAC])?;
        expect(seen == entries("10.5.200.0", MAC, "172.31.77.7"), || format!("{seen:#?}"))
    })?;
    for (_, _, named) in MALFORMED {
        daemon.says(named)?;
        one_line(&daemon.log(), &[named]);
    }
    Ok(())
}

#[test]
fn malformed_leases_that_arrive_disturb_nobody() {
    lab(1, &plain("vxlan")).check(|lab| {
        let daemon = lab.host(1).up(FLANNELD, &[])?;
        lab.etcd().put(&key("10.5.200.0-24"), &vxlan(7, MAC))?;
        route_comes(lab.host(1), "10.5.200.0/24")?;
        put_malformed(lab)?;
        nobody_is_disturbed(lab, &daemon)
    });
}

#[test]
fn malformed_leases_that_were_there_first_disturb_nobody() {
    lab(1, &plain("vxlan")).check(|lab| {
        lab.etcd().put(&key("10.5.200.0-24"), &vxlan(7, MAC))?;
        put_malformed(lab)?;
        let daemon = lab.host(1).up(FLANNELD, &[])?;
        route_comes(lab.host(1), "10.5.200.0/24")?;
        nobody_is_disturbed(lab, &daemon)
    });
}

/// Such a lease would draw the packets between the hosts themselves into the tunnel, etcd's included.
#[test]
fn a_lease_that_covers_the_hosts_own_network_is_named_and_left_out() {
    lab(1, &plain("vxlan")).check(|lab| {
        let daemon = lab.host(1).up(FLANNELD, &[])?;
        lab.etcd().put(&key("172.31.77.0-24"), &vxlan(7, MAC))?;
        daemon.says("lease 172.31.77.0-24 of 172.31.77.7 is not connected: its subnet covers 172.31.77.1")?;
        lab.etcd().put(&key("10.5.200.0-24"), &vxlan(8, MAC))?;
        route_comes(lab.host(1), "10.5.200.0/24")?;
        assert!(!lab.host(1).routes()?.iter().any(|r| r.starts_with("172.31.77.0/24 via")));
        Ok(())
    });
}

/// A peer's lease that turns malformed is no reason to cut it off from everybody else's containers at once; what
/// must not happen is that others suffer, and that the peer can't come back.
#[test]
fn a_malformed_lease_can_be_put_right() {
    lab(1, &plain("vxlan")).check(|lab| {
        lab.host(1).up(FLANNELD, &[])?;
        let subnet = "10.5.200.0";
        lab.etcd().put(&key("10.5.200.0-24"), "not json")?;
        lab.etcd().put(&key("10.5.200.0-24"), &vxlan(7, MAC))?;
        becomes(lab.host(1), subnet, &[MAC], &entries(subnet, MAC, "172.31.77.7"))?;
        lab.etcd().delete(&key("10.5.200.0-24"))?;
        becomes(lab.host(1), subnet, &[MAC], &[])
    });
}

#[test]
fn alloc_makes_nothing_of_peers() {
    lab(1, &plain("alloc")).check(|lab| {
        lab.etcd().put(&key("10.5.200.0-24"), &vxlan(7, MAC))?;
        lab.etcd().put(&key("10.5.201.0-24"), &host_gw(7))?;
        lab.host(1).up(FLANNELD, &[])?;
        holds("no route to a peer", Duration::from_millis(500), || {
            let routes = lab.host(1).routes()?;
            expect(!routes.iter().any(|r| r.starts_with("10.5.20")), || format!("{routes:#?}"))
        })
    });
}
