//! What an operator gets wrong: one clear line that names the key or flag and the remedy, the right exit code, and
//! nothing half done.

use std::time::Duration;

use crate::support::*;

/// Starts the daemon with `args`; it must end with `code` and one line that has all of `pieces`, before it claimed
/// anything.
fn refused(lab: &Lab, args: &[&str], code: i32, pieces: &[&str]) -> Result<()> {
    let exit = lab.host(1).flanneld(FLANNELD).args(args).run(SOON)?;
    assert_eq!(exit.code, Some(code), "{args:?}:\n{}", exit.log);
    one_line(&exit.log, pieces);
    assert!(!exit.log.contains("panicked"), "{args:?}:\n{}", exit.log);
    assert_eq!(lab.etcd().list(SUBNETS)?, [], "{args:?} left a lease");
    assert!(!lab.host(1).subnet_file().exists(), "{args:?} left a subnet file");
    Ok(())
}

#[test]
fn flags_that_are_none_exit_2() {
    lab(1, &plain("alloc")).check(|lab| {
        refused(lab, &["-nosuchflag"], 2, &["-nosuchflag"])?;
        refused(lab, &["--nosuchflag=1"], 2, &["nosuchflag"])?;
        refused(lab, &["-healthz-port=abc"], 2, &["-healthz-port", "abc"])?;
        refused(lab, &["-ip-masq=maybe"], 2, &["-ip-masq", "maybe"])?;
        refused(lab, &["-etcd-prefix"], 2, &["-etcd-prefix"])
    });
}

#[test]
fn a_renew_margin_out_of_range_is_refused() {
    lab(1, &plain("alloc")).check(|lab| {
        for margin in ["0", "1440", "-5"] {
            let flag = format!("-subnet-lease-renew-margin={margin}");
            let exit = lab.host(1).flanneld(FLANNELD).arg(flag).run(SOON)?;
            assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
            one_line(&exit.log, &["-subnet-lease-renew-margin", margin, "1439"]);
        }
        for margin in ["1", "1439"] {
            let daemon = lab.host(1).up(FLANNELD, &["-subnet-lease-renew-margin", margin])?;
            daemon.stop()?;
        }
        Ok(())
    });
}

#[test]
fn interfaces_and_addresses_that_are_not_there() {
    lab(1, &plain("alloc")).check(|lab| {
        refused(lab, &["-iface=nosuch0"], 1, &["-iface", "nosuch0"])?;
        refused(lab, &["-iface=lo"], 1, &["-iface", "lo", "address"])?;
        refused(lab, &["-iface=203.0.113.1"], 1, &["-iface", "203.0.113.1"])?;
        refused(lab, &["-public-ip=203.0.113.7"], 1, &["-public-ip", "203.0.113.7"])?;
        let exit = lab.host(1).flanneld(FLANNELD).args(&["-public-ip=garbage", "-iface=eth0"]).run(SOON)?;
        assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
        one_line(&exit.log, &["-public-ip", "garbage"]);
        lab.host(1).ip("route del default")?;
        refused(lab, &[], 1, &["default route", "-iface"])
    });
}

/// A gateway must be an address the other hosts can send to.
#[test]
fn host_gw_refuses_a_public_ip_that_is_not_the_interfaces() {
    lab(1, &plain("host-gw")).check(|lab| {
        refused(lab, &["-public-ip=203.0.113.7", "-iface=eth0"], 1, &["host-gw", "203.0.113.7", "172.31.77.1"])
    });
}

#[test]
fn an_unknown_backend_exits_1() {
    for (backend, named) in
        [(r#"{"Type":"nope"}"#, "nope"), (r#"{"Type":"VXLAN","VNI":16777216}"#, "VNI"), ("{}", "Type")]
    {
        lab(1, &format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#))
            .check(|lab| refused(lab, &[], 1, &["Backend", named]));
    }
}

/// A missing key and a bad one are waited out: the daemon names the key, reads again, and comes up once it is right.
#[test]
fn a_missing_config_is_waited_for() {
    Lab::flat(1).unwrap().check(|lab| {
        let daemon = lab.host(1).flanneld(FLANNELD).start()?;
        daemon.says(CONFIG)?;
        assert!(daemon.process().exited()?.is_none() && !daemon.has_written());
        lab.configure("{not json")?;
        eventually("a line about JSON", SOON, || {
            let log = daemon.log();
            expect(log.lines().any(|l| l.contains(CONFIG) && l.contains("JSON")), || log.clone())
        })?;
        lab.configure(r#"{"Network":"10.5.0.0/29"}"#)?;
        daemon.says("10.5.0.0/29")?;
        lab.configure(&plain("alloc"))?;
        daemon.ready()?;
        Ok(())
    });
}

#[test]
fn sigterm_ends_it_while_it_waits_for_the_config() {
    Lab::flat(1).unwrap().check(|lab| {
        let daemon = lab.host(1).flanneld(FLANNELD).start()?;
        daemon.says(CONFIG)?;
        let exit = daemon.stop()?;
        assert_eq!(exit.code, Some(0), "{}", exit.log);
        Ok(())
    });
}

/// As upstream: a warning, the network works, and it is never ready.
#[test]
fn a_subnet_file_that_cannot_be_written_is_named() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        std::fs::write(host.directory().join("file"), "").context(|| "file".to_owned())?;
        let path = host.directory().join("file/subnet.env");
        let daemon = host.flanneld(FLANNELD).subnet_file(&path).arg("-healthz-port=8081").start()?;
        daemon.says(&path.display().to_string())?;
        one_line(&daemon.log(), &["-subnet-file", &path.display().to_string()]);
        if daemon.process().exited()?.is_none() {
            holds("not ready", Duration::from_millis(300), || {
                let seen = http_get(host, std::net::Ipv4Addr::LOCALHOST, 8081, "/readyz")?;
                expect(seen.0 == 503, || format!("{seen:?}"))
            })?;
        }
        Ok(())
    });
}

/// The directory is made, the mode is 0644 whatever the umask, and no temporary file stays.
#[test]
fn the_subnet_file_is_made_with_its_directory() {
    use std::os::unix::fs::PermissionsExt as _;
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let path = host.directory().join("run/flannel/subnet.env");
        host.flanneld(FLANNELD).subnet_file(&path).start()?.ready()?;
        let mode = std::fs::metadata(&path).context(|| "subnet.env".to_owned())?.permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        let beside: Vec<_> =
            std::fs::read_dir(path.parent().unwrap()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(beside, ["subnet.env"]);
        Ok(())
    });
}

/// Two daemons of one network on one host: the second can't have the UDP port, and says which.
#[test]
fn a_udp_port_taken_is_named() {
    lab(1, &plain("udp")).check(|lab| {
        let host = lab.host(1);
        let holder = host.run(|_| std::net::UdpSocket::bind(("0.0.0.0", 8285)))?.context(|| "socket".to_owned())?;
        let exit = host.flanneld(FLANNELD).run(SOON)?;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        one_line(&exit.log, &["8285"]);
        assert!(host.ip("link show dev flannel0").is_err(), "a TUN was left");
        drop(holder);
        Ok(())
    });
}
