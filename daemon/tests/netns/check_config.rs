//! `-check-config`: a verdict in one line, and nothing is changed.

use crate::support::*;

/// Runs it; whatever it says, the host and etcd must be as before.
fn verdict(lab: &Lab, args: &[&str]) -> Result<Exit> {
    let host = lab.host(1);
    let state = || {
        let links = host.ip("-br link")?;
        Ok::<_, Error>((links, host.routes()?, host.rules("filter")?, host.rules("nat")?, lab.etcd().list("/")?))
    };
    let before = state()?;
    let exit = host.flanneld(FLANNELD).arg("-check-config").args(args).run(SOON)?;
    assert_eq!(state()?, before, "{args:?} changed something");
    assert!(!host.subnet_file().exists(), "{args:?} left a subnet file");
    assert!(!host.directory().join("state").exists(), "{args:?} left a state directory");
    Ok(exit)
}

#[test]
fn a_good_one_is_called_good() {
    for (backend, mtu) in [("vxlan", 1500), ("host-gw", 1500), ("udp", 1500), ("alloc", 1500)] {
        lab(1, &plain(backend)).check(|lab| {
            let exit = verdict(lab, &["-ip-masq"])?;
            assert_eq!(exit.code, Some(0), "{}", exit.log);
            one_line(&exit.log, &["config OK", backend, "10.5.0.0/16", "eth0", &mtu.to_string()]);
            Ok(())
        });
    }
}

#[test]
fn a_bad_one_is_named_with_every_mistake() {
    let config = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"SubnetMin":"10.6.0.0","SubnetMax":"10.4.0.0","Backend":{"Type":"vxlan"}}"#;
    lab(1, config).check(|lab| {
        let exit = verdict(lab, &[])?;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        one_line(&exit.log, &[CONFIG, "SubnetMin", "SubnetMax", "IPv6Network"]);
        for (config, piece) in [
            ("{not json", "JSON"),
            (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"nope"}}"#, "nope"),
            (r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":"1"}}"#, "VNI"),
        ] {
            lab.configure(config)?;
            let exit = verdict(lab, &[])?;
            assert_eq!(exit.code, Some(1), "{}", exit.log);
            one_line(&exit.log, &[CONFIG, piece]);
        }
        Ok(())
    });
}

/// It does not wait: neither for a key nor for etcd.
#[test]
fn what_is_missing_is_named_at_once() {
    Lab::flat(1).unwrap().check(|lab| {
        let exit = verdict(lab, &[])?;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        one_line(&exit.log, &[CONFIG]);
        lab.configure(&plain("alloc"))?;
        for (args, piece) in [
            (["-iface=nosuch0"], "-iface"),
            (["-public-ip=203.0.113.7"], "-public-ip"),
            (["-etcd-endpoints=http://172.31.77.1:2379"], "http://172.31.77.1:2379"),
            (["-etcd-prefix=/elsewhere"], "/elsewhere/config"),
        ] {
            let exit = verdict(lab, &args)?;
            assert_eq!(exit.code, Some(1), "{args:?}:\n{}", exit.log);
            one_line(&exit.log, &[piece]);
        }
        Ok(())
    });
}

/// A daemon that runs is not disturbed.
#[test]
fn it_runs_beside_the_daemon() {
    lab(1, &plain("vxlan")).check(|lab| {
        let host = lab.host(1);
        let daemon = host.up(FLANNELD, &["-healthz-port=8081"])?;
        let (index, stored) = (host.index_of("flannel.1")?, lab.etcd().list(SUBNETS)?);
        let exit = host.flanneld(FLANNELD).args(&["-check-config", "-healthz-port=8081"]).run(SOON)?;
        assert_eq!(exit.code, Some(0), "{}", exit.log);
        assert_eq!((host.index_of("flannel.1")?, lab.etcd().list(SUBNETS)?), (index, stored));
        assert!(daemon.process().exited()?.is_none());
        Ok(())
    });
}

#[test]
fn kubernetes_flags_are_refused_with_the_reason() {
    lab(1, &plain("vxlan")).check(|lab| {
        for flag in [
            "-kube-subnet-mgr",
            "--kube-subnet-mgr=true",
            "-kube-api-url=http://172.31.77.9",
            "-kubeconfig-file=/etc/kube",
            "-kube-annotation-prefix=x",
            "-net-config-path=/etc/net-conf.json",
        ] {
            let exit = lab.host(1).flanneld(FLANNELD).arg(flag).run(SOON)?;
            assert_eq!(exit.code, Some(2), "{flag}:\n{}", exit.log);
            let name = flag.trim_start_matches('-').split('=').next().unwrap_or_default();
            one_line(&exit.log, &[name, "etcd", "Kubernetes"]);
            assert_eq!(lab.etcd().list(SUBNETS)?, []);
        }
        // What does not ask for Kubernetes is no fault.
        lab.host(1).up(FLANNELD, &["-kube-subnet-mgr=false", "-set-node-network-unavailable=false"]).map(drop)
    });
}
