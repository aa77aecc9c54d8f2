//! Which interface carries the traffic, and which address goes into the lease.
//!
//! ```text
//! h2 (behind the router): lo, br7 172.31.99.9/24 mtu 1400,
//!                         eth0 172.31.78.2/24 172.31.78.33/24 169.254.9.9/16, default route through eth0
//! ```

use crate::support::*;

fn crowded() -> Lab {
    let lab = Lab::new(&[Segment::Near, Segment::Far]).unwrap();
    let host = lab.host(2);
    for command in [
        "addr add 172.31.78.33/24 dev eth0",
        "addr add 169.254.9.9/16 dev eth0",
        "link add br7 type bridge",
        "addr add 172.31.99.9/24 dev br7",
        "link set br7 mtu 1400 up",
    ] {
        host.ip(command).unwrap();
    }
    lab.configure(&plain("alloc")).unwrap();
    lab
}

// parity: daemon/tests/vectors/recorded/iface-selection
#[test]
fn the_first_choice_that_matches_wins() {
    crowded().check(|lab| {
        let host = lab.host(2);
        for (flags, public, mtu) in [
            (&[][..], "172.31.78.2", 1500),
            (&["-iface=br7"], "172.31.99.9", 1400),
            (&["-iface=172.31.78.33"], "172.31.78.33", 1500),
            (&["-iface=nosuch", "-iface=br7"], "172.31.99.9", 1400),
            (&["-iface-regex=^br"], "172.31.99.9", 1400),
            (&[r"-iface-regex=172\.31\.9"], "172.31.99.9", 1400),
            (&["-iface-regex=nomatch.*", "-iface-regex=eth"], "172.31.78.2", 1500),
            (&["-iface=nosuch", "-iface-regex=br"], "172.31.99.9", 1400),
            (&["-iface-can-reach=172.31.99.50"], "172.31.99.9", 1400),
            (&["-iface-can-reach=172.31.77.1"], "172.31.78.2", 1500),
            (&["-iface=nosuch", "-iface-can-reach=172.31.99.50"], "172.31.99.9", 1400),
            (&["-public-ip=172.31.78.33"], "172.31.78.33", 1500),
            (&["-public-ip=203.0.113.7", "-iface=eth0"], "203.0.113.7", 1500),
            (&["-iface="], "172.31.78.2", 1500),
        ] {
            lab.etcd().delete_all(SUBNETS)?;
            let daemon = host.up(FLANNELD, flags)?;
            let env = daemon.ready()?;
            let lease = lab.etcd().get(&env.key())?.context(|| format!("{flags:?}: no key"))?.value;
            assert_eq!(lease, format!(r#"{{"PublicIP":"{public}","PublicIPv6":null}}"#), "{flags:?}");
            assert_eq!(env.mtu, mtu, "{flags:?}");
            daemon.stop()?;
        }
        Ok(())
    });
}

#[test]
fn none_that_matches_is_named() {
    crowded().check(|lab| {
        for (flags, named) in [
            (&["-iface=172.31.78.33/24"][..], "172.31.78.33/24"),
            (&["-iface=lo"], "lo"),
            (&["-iface=nosuch", "-iface=203.0.113.1"], "203.0.113.1"),
            (&["-iface-regex=("], "-iface-regex"),
            (&["-iface-can-reach=notanip"], "notanip"),
            (&["-public-ip=203.0.113.7"], "203.0.113.7"),
            (&["-public-ip=fd00::1", "-iface=eth0"], "fd00::1"),
        ] {
            let exit = lab.host(2).flanneld(FLANNELD).args(flags).run(SOON)?;
            assert!(exit.code.is_some_and(|code| code != 0), "{flags:?}: {exit:?}");
            assert!(exit.log.contains(named) && !exit.log.contains("panicked"), "{flags:?}:\n{}", exit.log);
        }
        assert_eq!(lab.etcd().list(SUBNETS)?, []);
        Ok(())
    });
}

/// The tunnel's outer address is the public one, and the device says so.
#[test]
fn vxlan_uses_the_chosen_interface() {
    let lab = crowded();
    lab.configure(&plain("vxlan")).unwrap();
    lab.check(|lab| {
        let env = lab.host(2).up(FLANNELD, &["-iface=br7"])?.ready()?;
        assert_eq!(env.mtu, 1350);
        let device = lab.host(2).ip("-d link show dev flannel.1")?;
        assert!(device.contains("local 172.31.99.9 dev br7"), "{device}");
        assert!(device.contains("mtu 1350"), "{device}");
        Ok(())
    });
}
