//! A host loses power: what it has on disk is there afterwards, what was in the kernel and below /run is not.

use crate::support::*;

/// Same address, same subnet, same MAC: to the others nothing has changed, and they are not told anything.
#[test]
fn a_rebooted_host_keeps_its_vtep() {
    let mut lab = lab(2, &plain("vxlan"));
    let own = lab.host(1).up(FLANNELD, &[]).unwrap().ready().unwrap();
    lab.host(2).up(FLANNELD, &[]).unwrap();
    both_know_each_other(lab.host(1), lab.host(2)).unwrap();
    let mac = lab.host(1).mac_of("flannel.1").unwrap();
    let known = (lab.host(2).neighbours("flannel.1").unwrap(), lab.host(2).forwarding("flannel.1").unwrap());
    let stored = lab.etcd().get(&own.key()).unwrap().unwrap().value;

    std::fs::remove_file(lab.host(1).subnet_file()).unwrap();
    lab.reboot(1).unwrap();
    assert!(lab.host(1).ip("link show dev flannel.1").is_err(), "the device outlived the reboot");

    lab.check(|lab| {
        assert_eq!(lab.host(1).up(FLANNELD, &[])?.ready()?, own);
        assert_eq!(lab.host(1).mac_of("flannel.1")?, mac);
        let stored_now = lab.etcd().get(&own.key())?.context(|| "no key".to_owned())?;
        assert_eq!(stored_now.value, stored);
        assert_eq!((lab.host(2).neighbours("flannel.1")?, lab.host(2).forwarding("flannel.1")?), known);
        both_know_each_other(lab.host(1), lab.host(2))?;
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        eventually("an answer", SOON, || one.ping(two.address(), 1)?.all_answered(62))?;
        two.ping(one.address(), 3)?.all_answered(62)
    });
}

/// A disk copied to a host with another address must not bring the MAC along: two VTEPs with one would cut each other
/// off.
#[test]
fn a_copied_disk_does_not_copy_the_mac() {
    lab(2, &plain("vxlan")).check(|lab| {
        lab.host(1).up(FLANNELD, &[])?.stop()?;
        let (from, to) = (lab.host(1).directory().join("state"), lab.host(2).directory().join("state"));
        std::fs::create_dir(&to).context(|| to.display().to_string())?;
        let mut copied = 0;
        for file in std::fs::read_dir(&from).context(|| from.display().to_string())?.flatten() {
            std::fs::copy(file.path(), to.join(file.file_name())).context(|| file.path().display().to_string())?;
            copied += 1;
        }
        assert!(copied > 0, "nothing is remembered in {}", from.display());
        lab.host(2).up(FLANNELD, &[])?;
        assert_ne!(lab.host(1).mac_of("flannel.1")?, lab.host(2).mac_of("flannel.1")?);
        Ok(())
    });
}

/// A file that holds no MAC is told and replaced, not trusted and not fatal.
#[test]
fn a_damaged_memory_is_replaced() {
    lab(1, &plain("vxlan")).check(|lab| {
        let host = lab.host(1);
        let state = host.directory().join("state");
        std::fs::create_dir(&state).context(|| state.display().to_string())?;
        let file = state.join("flannel.1-172.31.77.1.mac");
        for content in ["", "garbage", "01:00:5e:00:00:01\n", "\u{fffd}"] {
            std::fs::write(&file, content).context(|| file.display().to_string())?;
            let daemon = host.up(FLANNELD, &[])?;
            one_line(&daemon.log(), &["flannel.1-172.31.77.1.mac"]);
            let written = std::fs::read_to_string(&file).context(|| file.display().to_string())?;
            assert_eq!(written.trim(), host.mac_of("flannel.1")?);
            daemon.stop()?;
        }
        Ok(())
    });
}
