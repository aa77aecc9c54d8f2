//! Flags as Go reads them, and the environment behind them.

use crate::support::*;

#[test]
fn one_dash_or_two_with_or_without_an_equals_sign() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let (endpoint, file) = (lab.etcd().endpoint(), host.subnet_file().display().to_string());
        for (dashes, join) in [("-", true), ("--", true), ("-", false), ("--", false)] {
            let mut daemon = host.flanneld(FLANNELD).bare();
            for (name, value) in [("etcd-endpoints", endpoint.as_str()), ("subnet-file", &file), ("v", "1")] {
                daemon = if join {
                    daemon.arg(format!("{dashes}{name}={value}"))
                } else {
                    daemon.arg(format!("{dashes}{name}")).arg(value)
                };
            }
            // A boolean takes no word of its own, and that word ends the flags.
            let daemon = daemon.arg(format!("{dashes}ip-masq")).arg("false").arg("-nosuchflag").start()?;
            assert!(daemon.ready()?.text.contains("FLANNEL_IPMASQ=true"), "{dashes} {join}");
            daemon.stop()?;
        }
        Ok(())
    });
}

#[test]
fn the_environment_stands_in_for_flags_and_gives_way_to_them() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let (endpoint, file) = (lab.etcd().endpoint(), host.subnet_file());
        let bare = || {
            let daemon = host.flanneld(FLANNELD).bare().env("FLANNELD_ETCD_ENDPOINTS", endpoint.clone());
            daemon.env("FLANNELD_SUBNET_FILE", file.display().to_string())
        };
        let daemon = bare().env("FLANNELD_IP_MASQ", "true").start()?;
        assert!(daemon.ready()?.text.contains("FLANNEL_IPMASQ=true"));
        daemon.stop()?;
        let daemon = bare().env("FLANNELD_IP_MASQ", "true").arg("-ip-masq=false").start()?;
        assert!(daemon.ready()?.text.contains("FLANNEL_IPMASQ=false"));
        daemon.stop()?;
        // An empty one is none; a bad one is named and ignored.
        let daemon = bare().env("FLANNELD_IP_MASQ", "").env("FLANNELD_HEALTHZ_PORT", "abc").start()?;
        assert!(daemon.ready()?.text.contains("FLANNEL_IPMASQ=false"));
        one_line(&daemon.log(), &["FLANNELD_HEALTHZ_PORT", "abc"]);
        daemon.stop()?;
        let exit = bare().env("FLANNELD_IFACE", "nosuch0").run(SOON)?;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        Ok(())
    });
}

#[test]
fn help_and_version_need_nothing() {
    Lab::without_etcd(&[Segment::Near]).unwrap().check(|lab| {
        for flag in ["-version", "--version", "-version=true"] {
            let exit = lab.host(1).flanneld(FLANNELD).bare().arg(flag).run(SOON)?;
            assert_eq!(exit.code, Some(0), "{}", exit.log);
            assert_eq!(exit.log.lines().count(), 1, "{}", exit.log);
        }
        for flag in ["-h", "-help", "--help"] {
            let exit = lab.host(1).flanneld(FLANNELD).bare().arg(flag).run(SOON)?;
            assert_eq!(exit.code, Some(0), "{}", exit.log);
            for name in ["-etcd-endpoints", "-subnet-file", "-iptables-resync", "-healthz-port", "-iface-can-reach"] {
                assert!(exit.log.contains(name), "{name} is not in:\n{}", exit.log);
            }
        }
        Ok(())
    });
}

// parity: docs/upstream.md, section 2.1: the prefix is cleaned as a path is, and gets no leading slash.
#[test]
fn the_prefix_is_cleaned_as_a_path() {
    Lab::flat(1).unwrap().check(|lab| {
        for (flag, prefix) in [
            ("/coreos.com/network/", "/coreos.com/network/"),
            ("coreos.com/network", "coreos.com/network/"),
            ("//a//b", "/a/b/"),
            ("/a/x/../c", "/a/c/"),
        ] {
            lab.etcd().put(&format!("{prefix}config"), &plain("alloc"))?;
            let daemon = lab.host(1).up(FLANNELD, &["-etcd-prefix", flag])?;
            let keys = lab.etcd().list(&format!("{prefix}subnets/"))?;
            assert_eq!(keys.len(), 1, "{flag}: {keys:#?}");
            daemon.stop()?;
        }
        Ok(())
    });
}

/// Two networks on one host, told apart by prefix and subnet file, as upstream's own "multi" test has them.
#[test]
fn two_daemons_share_a_host() {
    lab(2, &plain("alloc")).check(|lab| {
        let etcd = lab.etcd();
        etcd.put("/vxlan/network/config", r#"{"Network":"10.11.0.0/16","Backend":{"Type":"vxlan"}}"#)?;
        etcd.put("/hostgw/network/config", r#"{"Network":"10.12.0.0/16","Backend":{"Type":"host-gw"}}"#)?;
        for host in lab.hosts() {
            for name in ["vxlan", "hostgw"] {
                let file = host.directory().join(format!("{name}.env"));
                let prefix = format!("--etcd-prefix=/{name}/network");
                host.flanneld(FLANNELD).subnet_file(file).arg(prefix).start()?.ready()?;
            }
        }
        let read = |host: &Host, name: &str| SubnetEnv::read(&host.directory().join(format!("{name}.env")));
        let (h1, h2) = (lab.host(1), lab.host(2));
        let far = read(h2, "vxlan")?.subnet();
        route_comes(h1, &format!("{far} via {} dev flannel.1 onlink", far.addr()))?;
        let far = read(h2, "hostgw")?.subnet();
        route_comes(h1, &format!("{far} via 172.31.77.2 dev eth0"))?;
        // Each keeps to its own network's routes.
        assert!(!h1.routes()?.iter().any(|r| r.starts_with("10.12.") && r.contains("flannel.1")));
        Ok(())
    });
}
