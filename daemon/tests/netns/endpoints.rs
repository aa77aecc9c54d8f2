//! Several endpoints, of which some are no help.

use crate::support::*;

/// One refuses, one never answers, one drops what it gets; the last one works.
#[test]
fn dead_and_silent_endpoints_cost_time_only() {
    let lab = Lab::without_etcd(&[Segment::Near]).unwrap();
    lab.etcd().start_with(&["http://0.0.0.0:2377"], &[]).unwrap();
    lab.configure(&plain("host-gw")).unwrap();
    lab.check(|lab| {
        lab.etcd().namespace().exec("iptables -w -A INPUT -p tcp --dport 2377 -j DROP")?;
        let endpoints = [
            // Nobody listens.
            "http://172.31.77.1:2379",
            // Dropped without a word.
            "http://172.31.77.100:2377",
            "http://172.31.77.100:2379",
        ];
        let daemon = lab.host(1).up(FLANNELD, &[&format!("-etcd-endpoints={}", endpoints.join(","))])?;
        let lease = r#"{"PublicIP":"172.31.77.7","PublicIPv6":null,"BackendType":"host-gw"}"#;
        lab.etcd().put(&format!("{SUBNETS}10.5.200.0-24"), lease)?;
        route_comes(lab.host(1), "10.5.200.0/24 via 172.31.77.7 dev eth0")?;
        assert!(daemon.process().exited()?.is_none());
        Ok(())
    });
}

/// When none works, each is named with its reason.
#[test]
fn each_that_does_not_work_is_named() {
    Lab::without_etcd(&[Segment::Near]).unwrap().check(|lab| {
        let endpoints = "-etcd-endpoints=http://172.31.77.1:2379,http://172.31.77.100:4001";
        let daemon = lab.host(1).flanneld(FLANNELD).arg(endpoints).start()?;
        daemon.says("http://172.31.77.1:2379")?;
        one_line(&daemon.log(), &["http://172.31.77.1:2379", "http://172.31.77.100:4001", "refused"]);
        Ok(())
    });
}

#[test]
fn what_is_no_url_is_refused() {
    lab(1, &plain("alloc")).check(|lab| {
        for (value, piece) in [
            ("172.31.77.100:2379", "172.31.77.100:2379"),
            ("", "URL"),
            (",", "URL"),
            ("ftp://172.31.77.100", "ftp"),
            ("http://172.31.77.100:2379/path", "path"),
            ("http://", "URL"),
        ] {
            let exit = lab.host(1).flanneld(FLANNELD).arg(format!("-etcd-endpoints={value}")).run(SOON)?;
            assert_eq!(exit.code, Some(1), "{value:?}:\n{}", exit.log);
            one_line(&exit.log, &["-etcd-endpoints", piece]);
        }
        Ok(())
    });
}
