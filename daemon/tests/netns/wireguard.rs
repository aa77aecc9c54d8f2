//! The backend `wireguard`. Where the kernel lacks it, which is all a kernel without it can show, the daemon says so
//! and leaves nothing behind.

use std::path::PathBuf;

use crate::support::*;

const CONFIG_WITH_SECRET: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard","ListenPort":5182,
    "PSK":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}}"#;

/// Each host has a key file of its own, though namespaces share the file system.
fn key_file(host: &Host) -> PathBuf {
    host.directory().join("keys/wgkey")
}

fn daemon(host: &Host) -> Flanneld<'_> {
    host.flanneld(FLANNELD).env("WIREGUARD_KEY_FILE", key_file(host).display().to_string())
}

/// Before anything is made.
#[test]
fn a_bad_key_file_is_named() {
    lab(1, CONFIG_WITH_SECRET).check(|lab| {
        let (host, key) = (lab.host(1), key_file(lab.host(1)));
        std::fs::create_dir(host.directory().join("keys")).context(|| "keys".to_owned())?;
        std::fs::write(&key, "c2VjcmV0").context(|| "wgkey".to_owned())?;
        let exit = daemon(host).run(SOON)?;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        one_line(&exit.log, &["backend wireguard", &key.display().to_string(), "remove it"]);
        assert!(!exit.log.contains("c2VjcmV0"), "a secret in the log:\n{}", exit.log);
        assert!(host.ip("link show dev flannel-wg").is_err(), "a device was left");
        assert_eq!(lab.etcd().list(SUBNETS)?, [], "a lease was left");
        Ok(())
    });
}

/// With wireguard in the kernel two hosts' containers talk through it, and the device ends with the daemon.
#[test]
fn it_works_or_the_kernel_is_named_before_there_is_a_lease() {
    lab(2, CONFIG_WITH_SECRET).check(|lab| {
        let (h1, h2) = (lab.host(1), lab.host(2));
        if h1.ip("link add probe-wg type wireguard").is_ok() {
            h1.ip("link del probe-wg")?;
            let first = daemon(h1).start()?;
            assert_eq!(first.ready()?.mtu, 1420);
            daemon(h2).start()?.ready()?;
            both_know_each_other(h1, h2)?;
            let (one, two) = (h1.pod(1)?, h2.pod(1)?);
            one.ping(two.address(), 5)?.all_answered(62)?;
            two.ping(one.address(), 5)?.all_answered(62)?;
            assert_eq!(first.stop()?.code, Some(0));
            assert!(h1.ip("link show dev flannel-wg").is_err(), "the device stayed");
            assert!(!first.log().contains("AAEC"), "a secret in the log");
            return Ok(());
        }
        let exit = daemon(h1).run(SOON)?;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        one_line(&exit.log, &["backend wireguard", "flannel-wg", "kernel lacks", "choose another backend"]);
        assert!(!exit.log.contains("AAEC"), "a secret in the log:\n{}", exit.log);
        assert_eq!(lab.etcd().list(SUBNETS)?, [], "a lease was left");
        assert!(!h1.subnet_file().exists() && !key_file(h1).exists());
        Ok(())
    });
}
