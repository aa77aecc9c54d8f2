//! `-tx-checksum`: who computes checksums of what the vxlan device sends.

use crate::support::*;

fn feature(host: &Host) -> Result<String> {
    let features = host.exec("ethtool -k flannel.1")?;
    let line = features.lines().find_map(|l| l.trim().strip_prefix("tx-checksum-ip-generic: ")).map(str::to_owned);
    line.context(|| features.clone())
}

#[test]
fn it_is_switched_as_the_flag_says() {
    lab(2, &plain("vxlan")).check(|lab| {
        let host = lab.host(1);
        for (flag, expected) in [("auto", "on"), ("off", "off"), ("auto", "off"), ("on", "on"), ("off", "off")] {
            let daemon = host.up(FLANNELD, &[&format!("-tx-checksum={flag}")])?;
            assert_eq!(feature(host)?, expected, "-tx-checksum={flag}");
            daemon.stop()?;
        }
        host.up(FLANNELD, &["-tx-checksum=off"])?;
        // A device made anew is switched too.
        host.ip("link del flannel.1")?;
        eventually("the device with the feature off", SOON, || {
            let seen = feature(host)?;
            expect(seen == "off", || seen)
        })?;
        lab.host(2).up(FLANNELD, &["-tx-checksum=off"])?;
        both_know_each_other(host, lab.host(2))?;
        let (one, two) = (host.pod(1)?, lab.host(2).pod(1)?);
        eventually("an answer", SOON, || one.ping(two.address(), 1)?.all_answered(62))?;
        transfer(&one, &two, two.address(), 1 << 20).map(drop)
    });
}

#[test]
fn a_value_that_is_none_is_refused() {
    lab(1, &plain("vxlan")).check(|lab| {
        let exit = lab.host(1).flanneld(FLANNELD).arg("-tx-checksum=maybe").run(SOON)?;
        assert_eq!(exit.code, Some(2), "{}", exit.log);
        one_line(&exit.log, &["-tx-checksum", "maybe", "auto"]);
        assert_eq!(lab.etcd().list(SUBNETS)?, []);
        assert!(lab.host(1).ip("link show dev flannel.1").is_err(), "a device was left");
        Ok(())
    });
}
