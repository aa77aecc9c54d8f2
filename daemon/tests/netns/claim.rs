//! Which subnet a starting host gets: its own of before, a free one, never another host's.

use std::collections::BTreeSet;

use crate::support::*;

/// The lease of a host that does not exist.
fn foreign(last: u8) -> String {
    format!(r#"{{"PublicIP":"172.31.77.{last}","PublicIPv6":null}}"#)
}

fn write(host: &Host, subnet: &str) -> Result<()> {
    let text =
        format!("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET={subnet}\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n");
    std::fs::write(host.subnet_file(), text).context(|| "subnet.env".to_owned())
}

#[test]
fn the_subnet_of_the_file_is_taken_again() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        for subnet in ["10.5.77.1/24", "10.5.200.1/24"] {
            write(host, subnet)?;
            lab.etcd().delete_all(SUBNETS)?;
            let daemon = host.up(FLANNELD, &[])?;
            assert_eq!(daemon.ready()?.gateway.to_string(), subnet);
            daemon.stop()?;
        }
        Ok(())
    });
}

#[test]
fn a_file_that_does_not_fit_is_passed_over() {
    lab(1, r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.10.0","SubnetMax":"10.5.20.0","Backend":{"Type":"alloc"}}"#)
        .check(|lab| {
            let host = lab.host(1);
            // Outside the range, another length, another network, several at once, nonsense.
            for subnet in ["10.5.77.1/24", "10.5.12.1/25", "10.6.12.1/24", "10.5.12.1/24,10.5.13.1/24", "x"] {
                write(host, subnet)?;
                lab.etcd().delete_all(SUBNETS)?;
                let daemon = host.up(FLANNELD, &[])?;
                let got = daemon.ready()?;
                let third = got.gateway.addr().octets()[2];
                assert!(got.gateway.prefix_len() == 24 && (10..=20).contains(&third), "{subnet}: {}", got.text);
                daemon.stop()?;
            }
            Ok(())
        });
}

#[test]
fn a_subnet_another_host_holds_is_left_to_it() {
    lab(1, &plain("alloc")).check(|lab| {
        let key = format!("{SUBNETS}10.5.77.0-24");
        lab.etcd().put(&key, &foreign(9))?;
        write(lab.host(1), "10.5.77.1/24")?;
        let got = lab.host(1).up(FLANNELD, &[])?.ready()?;
        assert_ne!(got.key(), key);
        assert_eq!(lab.etcd().get(&key)?.unwrap().value, foreign(9));
        assert_eq!(lab.etcd().list(SUBNETS)?.len(), 2);
        Ok(())
    });
}

/// Also with the file gone: the key with our public address is ours.
#[test]
fn the_key_with_our_public_ip_is_taken_over() {
    lab(1, &plain("vxlan")).check(|lab| {
        let key = format!("{SUBNETS}10.5.77.0-24");
        lab.etcd().put_for(&key, &foreign(1), 600)?;
        let got = lab.host(1).up(FLANNELD, &[])?.ready()?;
        assert_eq!(got.key(), key);
        let stored = lab.etcd().get(&key)?.unwrap();
        let mac = lab.host(1).mac_of("flannel.1")?;
        assert_eq!(
            stored.value,
            format!(
                r#"{{"PublicIP":"172.31.77.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
            )
        );
        let (granted, _) = lab.etcd().time_to_live(stored.lease)?;
        assert_eq!(granted, 86400);
        assert_eq!(lab.etcd().list(SUBNETS)?.len(), 1);
        Ok(())
    });
}

#[test]
fn our_key_that_no_longer_fits_is_given_up() {
    lab(1, &plain("alloc")).check(|lab| {
        let old = format!("{SUBNETS}10.5.64.0-20");
        lab.etcd().put(&old, &foreign(1))?;
        let got = lab.host(1).up(FLANNELD, &[])?.ready()?;
        assert_eq!(got.gateway.prefix_len(), 24);
        let keys: Vec<_> = lab.etcd().list(SUBNETS)?.into_iter().map(|kv| kv.key).collect();
        assert_eq!(keys, [got.key()]);
        Ok(())
    });
}

/// Subnets of other lengths and a key that can't be read take their room too, or at least do no harm.
#[test]
fn a_free_pick_overlaps_nobody() {
    lab(1, r#"{"Network":"10.5.0.0/22","SubnetLen":24,"Backend":{"Type":"alloc"}}"#).check(|lab| {
        // Of 10.5.1.0, 10.5.2.0 and 10.5.3.0 two are taken, one of them by something smaller.
        lab.etcd().put(&format!("{SUBNETS}10.5.1.0-24"), &foreign(7))?;
        lab.etcd().put(&format!("{SUBNETS}10.5.3.64-26"), &foreign(8))?;
        lab.etcd().put(&format!("{SUBNETS}nonsense"), "nonsense")?;
        let got = lab.host(1).up(FLANNELD, &[])?.ready()?;
        assert_eq!(got.gateway.to_string(), "10.5.2.1/24");
        Ok(())
    });
}

/// Twenty daemons, twenty subnets, all at the same moment; then one more.
#[test]
fn twenty_start_at_once_and_each_gets_its_own() {
    const MANY: usize = 20;
    // 10.5.0.32 and on in steps of 32: exactly twenty.
    let config = r#"{"Network":"10.5.0.0/22","SubnetLen":27,"SubnetMax":"10.5.2.128","Backend":{"Type":"alloc"}}"#;
    lab(1, config).check(|lab| {
        let host = lab.host(1);
        let start = |number: usize| {
            let file = host.directory().join(format!("{number}.env"));
            let daemon = host.flanneld(FLANNELD).subnet_file(file);
            let public = format!("-public-ip=203.0.113.{number}");
            daemon.args(&["-iface=eth0", &public, "-iptables-forward-rules=false"]).start()
        };
        let daemons: Vec<Daemon> = (1..=MANY).map(start).collect::<Result<_>>()?;
        let subnets: BTreeSet<String> =
            daemons.iter().map(|d| Ok(d.ready()?.gateway.to_string())).collect::<Result<_>>()?;
        assert_eq!(subnets.len(), MANY, "{subnets:#?}");
        assert_eq!(lab.etcd().list(SUBNETS)?.len(), MANY);

        let exit = start(MANY + 1)?.exit_within(SOON)?;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        let line = one_line(&exit.log, &["out of subnets"]);
        for piece in ["SubnetMin", "10.5.0.32", "SubnetMax", "10.5.2.128", "10.5.0.0/22"] {
            assert!(line.contains(piece), "{piece:?} is not in {line:?}");
        }
        Ok(())
    });
}

/// The hard case of the same: ten hosts, all told by their file to take one subnet.
#[test]
fn a_lost_race_for_one_subnet_is_tried_again() {
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let start = |number: usize| {
            let file = host.directory().join(format!("{number}.env"));
            std::fs::write(&file, "FLANNEL_SUBNET=10.5.77.1/24\n").context(|| file.display().to_string())?;
            let public = format!("-public-ip=203.0.113.{number}");
            let daemon = host.flanneld(FLANNELD).subnet_file(file);
            daemon.args(&["-iface=eth0", &public, "-iptables-forward-rules=false"]).start()
        };
        let daemons: Vec<Daemon> = (1..=10).map(start).collect::<Result<_>>()?;
        let subnets: BTreeSet<String> =
            daemons.iter().map(|d| Ok(d.ready()?.gateway.to_string())).collect::<Result<_>>()?;
        assert_eq!(subnets.len(), 10, "{subnets:#?}");
        assert!(subnets.contains("10.5.77.1/24"), "{subnets:#?}");
        Ok(())
    });
}
