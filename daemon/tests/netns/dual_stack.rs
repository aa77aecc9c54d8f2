//! IPv4 and IPv6 side by side, and IPv6 alone.
//!
//! ```text
//! pod1 -- cbr0 h1 ==== 172.31.77.0/24 and fd77::/64 ==== h2 cbr0 -- pod1
//! ```

use std::collections::BTreeSet;

use crate::support::*;

fn config(backend: &str, v4: bool) -> String {
    let v4 = if v4 { r#""Network":"10.5.0.0/16""# } else { r#""EnableIPv4":false"# };
    format!(r#"{{{v4},"EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{{"Type":"{backend}"}}}}"#)
}

fn dual_lab(hosts: usize, config: &str) -> Lab {
    let made = lab(hosts, config);
    made.add_ipv6().unwrap();
    made
}

/// Base addresses of a host's subnets.
struct Bases {
    v4: String,
    v6: String,
}

fn bases(host: &Host) -> Result<Bases> {
    let text = host.subnet_text()?;
    let v6 = SubnetEnv::value(&text, "FLANNEL_IPV6_SUBNET")?;
    let v6 = v6.strip_suffix("1/64").context(|| format!("not the first address of a /64: {v6}"))?.to_owned();
    let v4 = SubnetEnv::value(&text, "FLANNEL_SUBNET").map_or_else(|_| String::new(), |net| net.replace(".1/24", ".0"));
    Ok(Bases { v4, v6 })
}

/// Waits until pods of both hosts answer each other by every family they have.
fn talk(one: &Pod, two: &Pod, v4: bool) -> Result<()> {
    for (from, to) in [(one, two), (two, one)] {
        if v4 {
            eventually("an answer by IPv4", SOON, || from.ping(to.address(), 1)?.all_answered(62))?;
            from.ping(to.address(), 3)?.all_answered(62)?;
        }
        eventually("an answer by IPv6", SOON, || from.ping(to.address6(), 1)?.all_answered(62))?;
        from.ping(to.address6(), 3)?.all_answered(62)?;
    }
    Ok(())
}

fn routes6_to(host: &Host, net: &str) -> Result<Vec<String>> {
    Ok(host.routes6()?.into_iter().filter(|r| r.starts_with(net)).collect())
}

// parity: daemon/tests/vectors/recorded/dualstack-vxlan; FLANNEL_MTU differs on purpose: 1430 is what the IPv6 device has
#[test]
fn vxlan_has_a_device_for_each_family() {
    dual_lab(2, &config("vxlan", true)).check(|lab| {
        let (one, two) = (lab.host(1), lab.host(2));
        for host in [one, two] {
            host.up(FLANNELD, &["-ip-masq"])?;
        }
        let (own, other) = (bases(one)?, bases(two)?);
        assert_eq!(
            one.subnet_text()?,
            format!(
                "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={}/24\nFLANNEL_IPV6_NETWORK=fd00:5::/48\n\
                 FLANNEL_IPV6_SUBNET={}1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n",
                own.v4.strip_suffix('0').map(|start| format!("{start}1")).unwrap_or_default(),
                own.v6
            )
        );
        let (mac4, mac6) = (one.mac_of("flannel.1")?, one.mac_of("flannel-v6.1")?);
        let key = format!("{SUBNETS}{}-24&{}-64", own.v4, own.v6);
        let stored = lab.etcd().get(&key)?.context(|| format!("no key {key}"))?;
        assert_eq!(
            stored.value,
            format!(
                r#"{{"PublicIP":"172.31.77.1","PublicIPv6":"fd77::1","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac4}"}},"BackendV6Data":{{"VNI":1,"VtepMAC":"{mac6}"}}}}"#
            )
        );
        assert_eq!(lab.etcd().time_to_live(stored.lease)?.0, 86400);
        let details = one.ip("-d link show dev flannel-v6.1")?;
        for piece in ["mtu 1430", "vxlan id 1 local fd77::1 dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto"] {
            assert!(details.contains(piece), "{piece:?}: {details}");
        }
        assert!(details.contains("noudp6zerocsumtx noudp6zerocsumrx"), "{details}");
        assert!(one.ip("-6 addr show dev flannel-v6.1 scope global")?.contains(&format!("inet6 {}/128", own.v6)));
        // On the other host, everything about this one.
        let (b4, b6) = (&own.v4, &own.v6);
        eventually("entries of both families", SOON, || {
            let seen = [
                two.neighbours("flannel.1")?,
                two.forwarding("flannel.1")?,
                two.neighbours("flannel-v6.1")?,
                two.forwarding("flannel-v6.1")?,
                routes6_to(two, b6)?,
            ];
            let wanted = [
                vec![format!("{b4} lladdr {mac4} PERMANENT")],
                vec![format!("{mac4} dst 172.31.77.1 self permanent")],
                vec![format!("{b6} lladdr {mac6} PERMANENT")],
                vec![format!("{mac6} dst fd77::1 self permanent")],
                vec![format!("{b6}/64 via {b6} dev flannel-v6.1 metric 1024 onlink pref medium")],
            ];
            expect(seen == wanted, || format!("{seen:#?} instead of {wanted:#?}"))
        })?;
        route_comes(one, &format!("{0}/24 via {0} dev flannel.1 onlink", other.v4))?;
        talk(&one.pod(1)?, &two.pod(1)?, true)
    });
}

// parity: daemon/tests/vectors/recorded/dualstack-host-gw
#[test]
fn host_gw_routes_both_families() {
    dual_lab(2, &config("host-gw", true)).check(|lab| {
        let (one, two) = (lab.host(1), lab.host(2));
        for host in [one, two] {
            host.up(FLANNELD, &["-ip-masq"])?;
        }
        let (own, other) = (bases(one)?, bases(two)?);
        let stored = lab.etcd().get(&format!("{SUBNETS}{}-24&{}-64", own.v4, own.v6))?;
        assert_eq!(
            stored.context(|| "no key".to_owned())?.value,
            r#"{"PublicIP":"172.31.77.1","PublicIPv6":"fd77::1","BackendType":"host-gw"}"#
        );
        route_comes(one, &format!("{}/24 via 172.31.77.2 dev eth0", other.v4))?;
        let wanted = format!("{}/64 via fd77::2 dev eth0 metric 1024 pref medium", other.v6);
        eventually("the IPv6 route", SOON, || {
            let seen = routes6_to(one, &other.v6)?;
            expect(seen == [wanted.clone()], || format!("{seen:#?}"))
        })?;
        assert!(one.subnet_text()?.contains("FLANNEL_MTU=1500\n"));
        let (a, b) = (one.pod(1)?, two.pod(1)?);
        talk(&a, &b, true)?;
        // Taken away, or led astray: back again.
        for damage in
            [format!("-6 route del {}/64", other.v6), format!("-6 route replace {}/64 via fd77::fe", other.v6)]
        {
            one.ip(&damage)?;
            eventually(&format!("the route after ip {damage}"), SOON, || {
                let seen = routes6_to(one, &other.v6)?;
                expect(seen == [wanted.clone()], || format!("{seen:#?}"))
            })?;
        }
        talk(&a, &b, true)
    });
}

// parity: daemon/tests/vectors/recorded/dualstack-vxlan/n1/ip6tables-save.txt
#[test]
fn ip6tables_have_the_same_rules() {
    dual_lab(1, &config("alloc", true)).check(|lab| {
        let host = lab.host(1);
        let daemon = host.up(FLANNELD, &["-ip-masq", "-iptables-resync=1"])?;
        let pod = format!("{}/64", bases(host)?.v6);
        let masq = r#"-m comment --comment "flanneld masq""#;
        let forward = r#"-m comment --comment "flanneld forward""#;
        let nat = [
            format!("-A POSTROUTING {masq} -j FLANNEL-POSTRTG"),
            format!("-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN"),
            format!("-A FLANNEL-POSTRTG -s {pod} -d fd00:5::/48 {masq} -j RETURN"),
            format!("-A FLANNEL-POSTRTG -s fd00:5::/48 -d {pod} {masq} -j RETURN"),
            format!("-A FLANNEL-POSTRTG ! -s fd00:5::/48 -d {pod} {masq} -j RETURN"),
            format!("-A FLANNEL-POSTRTG -s fd00:5::/48 ! -d ff00::/8 {masq} -j MASQUERADE --random-fully"),
            format!("-A FLANNEL-POSTRTG ! -s fd00:5::/48 -d fd00:5::/48 {masq} -j MASQUERADE --random-fully"),
        ];
        let filter = [
            format!("-A FORWARD {forward} -j FLANNEL-FWD"),
            format!("-A FLANNEL-FWD -s fd00:5::/48 {forward} -j ACCEPT"),
            format!("-A FLANNEL-FWD -d fd00:5::/48 {forward} -j ACCEPT"),
        ];
        let stand = || {
            for (table, wanted) in [("nat", nat.as_slice()), ("filter", filter.as_slice())] {
                let seen: Vec<_> = host.rules6(table)?.into_iter().filter(|l| l.starts_with("-A")).collect();
                expect(seen == wanted, || format!("{table}: {seen:#?}"))?;
            }
            Ok(())
        };
        stand()?;
        for damage in ["-t nat -F FLANNEL-POSTRTG", "-t filter -F FORWARD", "-t filter -D FLANNEL-FWD 1"] {
            host.exec(&format!("ip6tables -w {damage}"))?;
            eventually(&format!("repair after ip6tables {damage}"), SOON, stand)?;
        }
        // With the family off its rules go.
        daemon.stop()?;
        lab.etcd().delete_all(SUBNETS)?;
        lab.configure(&plain("alloc"))?;
        host.up(FLANNELD, &["-ip-masq"])?;
        eventually("no IPv6 rules", SOON, || {
            let seen = [host.rules6("nat")?, host.rules6("filter")?].concat();
            expect(!seen.iter().any(|l| l.contains("FLANNEL")), || format!("{seen:#?}"))
        })
    });
}

#[test]
fn nftables_have_a_table_for_each_family() {
    let nft = config("alloc", true).replacen('{', r#"{"EnableNFTables":true,"#, 1);
    dual_lab(1, &nft).check(|lab| {
        let host = lab.host(1);
        host.up(FLANNELD, &["-ip-masq"])?;
        let pod = format!("{}/64", bases(host)?.v6);
        let seen = host.exec("nft --stateless list table ip6 flannel-ipv6")?;
        for rule in [
            format!("ip6 saddr {pod} ip6 daddr fd00:5::/48 return"),
            format!("ip6 saddr != fd00:5::/48 ip6 daddr {pod} return"),
            "ip6 saddr fd00:5::/48 ip6 daddr != ff00::/8 masquerade fully-random".to_owned(),
            "ip6 daddr fd00:5::/48 accept".to_owned(),
        ] {
            assert_eq!(seen.matches(&rule).count(), 1, "{rule:?}: {seen}");
        }
        host.exec("nft list table ip flannel-ipv4").map(drop)
    });
}

/// A host of before EnableIPv6, and one that is no longer: what both have is connected, and nobody stumbles.
#[test]
fn leases_of_one_family_disturb_nobody() {
    dual_lab(2, &config("vxlan", true)).check(|lab| {
        let v6_only = r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd77::9","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}}"#;
        lab.etcd().put(&format!("{SUBNETS}10.5.200.0-24"), &absent_vxlan(200))?;
        let daemons = [lab.host(1).up(FLANNELD, &[])?, lab.host(2).up(FLANNELD, &[])?];
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        talk(&one, &two, true)?;
        route_comes(lab.host(1), "10.5.200.0/24 via 10.5.200.0 dev flannel.1 onlink")?;
        // And those that come later.
        lab.etcd().put(&format!("{SUBNETS}10.5.201.0-24"), &absent_vxlan(201))?;
        lab.etcd().put(&format!("{SUBNETS}0.0.0.0-0&fd00:5:0:1234::-64"), v6_only)?;
        route_comes(lab.host(1), "10.5.201.0/24 via 10.5.201.0 dev flannel.1 onlink")?;
        eventually("the route of the IPv6 lease", SOON, || {
            let seen = routes6_to(lab.host(1), "fd00:5:0:1234::")?;
            expect(seen.len() == 1, || format!("{seen:#?}"))
        })?;
        assert!(!lab.host(1).routes()?.iter().any(|r| r.starts_with("0.0.0.0")), "a route for 0.0.0.0/0");
        assert_eq!(lab.host(1).routes()?.iter().filter(|r| r.starts_with("default")).count(), 1);
        talk(&one, &two, true)?;
        for daemon in &daemons {
            assert!(daemon.process().exited()?.is_none(), "{}", daemon.log());
        }
        Ok(())
    });
}

/// And the other way round: a host with IPv4 alone among dual-stack ones.
#[test]
fn a_host_of_one_family_connects_what_it_has() {
    dual_lab(2, &plain("vxlan")).check(|lab| {
        let lease = r#"{"PublicIP":"172.31.77.7","PublicIPv6":"fd77::7","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:07"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:06:07"}}"#;
        lab.etcd().put(&format!("{SUBNETS}10.5.200.0-24&fd00:5:0:7::-64"), lease)?;
        let daemon = lab.host(1).up(FLANNELD, &[])?;
        route_comes(lab.host(1), "10.5.200.0/24 via 10.5.200.0 dev flannel.1 onlink")?;
        assert!(lab.host(1).ip("link show dev flannel-v6.1").is_err());
        assert_eq!(routes6_to(lab.host(1), "fd00:5:")?, Vec::<String>::new());
        assert!(daemon.process().exited()?.is_none(), "{}", daemon.log());
        Ok(())
    });
}

/// Upstream knows a host by its IPv4 address alone, so that here all would be one host.
#[test]
fn hosts_of_ipv6_alone_have_leases_of_their_own() {
    for backend in ["vxlan", "host-gw"] {
        dual_lab(3, &config(backend, false)).check(|lab| {
            let daemons: Vec<Daemon> = lab
                .hosts()
                .iter()
                .map(|h| {
                    let daemon = h.flanneld(FLANNELD).start()?;
                    daemon.wrote()?;
                    Ok(daemon)
                })
                .collect::<Result<_>>()?;
            let keys: BTreeSet<String> = lab.etcd().list(SUBNETS)?.into_iter().map(|kv| kv.key).collect();
            let wanted: BTreeSet<String> = lab
                .hosts()
                .iter()
                .map(|h| Ok(format!("{SUBNETS}0.0.0.0-0&{}-64", bases(h)?.v6)))
                .collect::<Result<_>>()?;
            assert_eq!(keys, wanted);
            assert_eq!(keys.len(), 3);
            let mtu = if backend == "vxlan" { 1430 } else { 1500 };
            assert_eq!(
                lab.host(1).subnet_text()?,
                format!(
                    "FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET={}1/64\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=false\n",
                    bases(lab.host(1))?.v6
                )
            );
            assert!(lab.host(1).ip("link show dev flannel.1").is_err(), "an IPv4 device");
            let pods: Vec<Pod> = lab.hosts().iter().map(|h| h.pod(1)).collect::<Result<_>>()?;
            talk(&pods[0], &pods[1], false)?;
            talk(&pods[1], &pods[2], false)?;
            // A restart finds the own lease again, by the file and by the public address alone.
            let before = lab.host(1).subnet_text()?;
            daemons[0].stop()?;
            for keep_file in [true, false] {
                if !keep_file {
                    std::fs::remove_file(lab.host(1).subnet_file()).context(|| "subnet.env".to_owned())?;
                }
                let daemon = lab.host(1).flanneld(FLANNELD).start()?;
                assert_eq!(daemon.wrote()?, before);
                daemon.stop()?;
            }
            assert_eq!(lab.etcd().list(SUBNETS)?.len(), 3);
            Ok(())
        });
    }
}
