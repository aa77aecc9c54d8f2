//! The backend `ipip` where the kernel lacks it, which is what can be seen on a kernel without it: the daemon says so
//! and leaves nothing behind. (Upstream leaves its lease.)

use crate::support::*;

fn kernel_has_ipip(host: &Host) -> bool {
    host.ip("link add probe-ipip type ipip local 172.31.77.1").is_ok()
}

/// On a kernel with ipip the same test looks at the device instead.
#[test]
fn it_works_or_the_kernel_is_named_before_there_is_a_lease() {
    lab(1, &plain("ipip")).check(|lab| {
        let host = lab.host(1);
        if kernel_has_ipip(host) {
            host.ip("link del probe-ipip")?;
            let daemon = host.up(FLANNELD, &[])?;
            assert_eq!(host.subnet_env()?.mtu, 1480);
            let device = host.ip("-d link show dev flannel.ipip")?;
            assert!(device.contains("ipip remote any local 172.31.77.1") && device.contains("mtu 1480"), "{device}");
            let key = format!("{SUBNETS}10.5.200.0-24");
            lab.etcd().put(&key, r#"{"PublicIP":"172.31.77.7","PublicIPv6":null,"BackendType":"ipip"}"#)?;
            route_comes(host, "10.5.200.0/24 via 172.31.77.7 dev flannel.ipip onlink")?;
            return daemon.stop().map(drop);
        }
        let exit = host.flanneld(FLANNELD).run(SOON)?;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        one_line(&exit.log, &["backend ipip", "flannel.ipip", "kernel lacks", "choose another backend"]);
        assert_eq!(lab.etcd().list(SUBNETS)?, [], "a lease was left");
        assert!(!host.subnet_file().exists());
        Ok(())
    });
}

/// Somebody else's device of that name is not touched.
#[test]
fn a_device_of_another_kind_is_refused() {
    lab(1, &plain("ipip")).check(|lab| {
        let host = lab.host(1);
        host.ip("link add flannel.ipip type bridge")?;
        let index = host.index_of("flannel.ipip")?;
        let exit = host.flanneld(FLANNELD).run(SOON)?;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        one_line(&exit.log, &["backend ipip", "flannel.ipip", "no ipip tunnel", "ip link del"]);
        assert_eq!(host.index_of("flannel.ipip")?, index);
        assert_eq!(lab.etcd().list(SUBNETS)?, [], "a lease was left");
        Ok(())
    });
}
