//! Leases in odd hands: reservations, thieves, twins.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::*;

fn value(last: u8) -> String {
    format!(r#"{{"PublicIP":"172.31.77.{last}","PublicIPv6":null}}"#)
}

/// A key without a lease says which host gets which subnet, for ever. The host takes it and leaves it without a lease,
/// also over a restart.
#[test]
fn a_reservation_is_taken_and_stays_one() {
    lab(1, &plain("vxlan")).check(|lab| {
        let key = format!("{SUBNETS}10.5.77.0-24");
        lab.etcd().put(&key, &value(1))?;
        for _ in 0..2 {
            let daemon = lab.host(1).up(FLANNELD, &[])?;
            assert_eq!(daemon.ready()?.key(), key);
            let stored = lab.etcd().get(&key)?.context(|| "no key".to_owned())?;
            assert_eq!(stored.lease, 0, "the reservation hangs on an etcd lease now");
            assert!(stored.value.contains("VtepMAC"), "{}", stored.value);
            daemon.stop()?;
        }
        assert_eq!(lab.etcd().list(SUBNETS)?.len(), 1);
        Ok(())
    });
}

/// The recipe for a host that runs already: its key is written again without a lease.
#[test]
fn a_lease_made_a_reservation_stays_one() {
    lab(1, &plain("vxlan")).check(|lab| {
        let daemon = lab.host(1).up(FLANNELD, &[])?;
        let key = daemon.ready()?.key();
        let stored = lab.etcd().get(&key)?.context(|| "no key".to_owned())?;
        assert_ne!(stored.lease, 0);
        lab.etcd().put(&key, &stored.value)?;
        holds("the reservation", Duration::from_secs(2), || {
            let now = lab.etcd().get(&key)?.context(|| "no key".to_owned())?;
            expect(now.lease == 0 && now.value == stored.value, || format!("{now:?}"))
        })?;
        assert!(daemon.process().exited()?.is_none());
        // Also when a hand spoils its value: put right, as a reservation.
        lab.etcd().put(&key, &value(1))?;
        eventually("the own value", SOON, || {
            let now = lab.etcd().get(&key)?.context(|| "no key".to_owned())?;
            expect(now.lease == 0 && now.value == stored.value, || format!("{now:?}"))
        })
    });
}

/// Exit code 3 tells scripts that a restart alone won't help; what runs goes on, and nothing is written to etcd.
#[test]
fn a_stolen_key_ends_the_daemon_and_nothing_else() {
    lab(2, &plain("vxlan")).check(|lab| {
        let host = lab.host(1);
        let daemon = host.up(FLANNELD, &["-ip-masq"])?;
        lab.host(2).up(FLANNELD, &[])?;
        both_know_each_other(host, lab.host(2))?;
        let own = daemon.ready()?;
        let state = || {
            let entries = [host.routes()?, host.neighbours("flannel.1")?, host.forwarding("flannel.1")?];
            Ok::<_, Error>((host.index_of("flannel.1")?, entries, host.rules("nat")?, host.subnet_text()?))
        };
        let before = state()?;
        lab.etcd().put_for(&own.key(), &value(9), 3000)?;
        let exit = daemon.exit_within(SOON)?;
        assert_eq!(exit.code, Some(3), "{}", exit.log);
        one_line(&exit.log, &["ERROR", own.key().trim_start_matches(SUBNETS), "172.31.77.9", "subnet.env"]);
        assert_eq!(state()?, before);
        let stored = lab.etcd().get(&own.key())?.context(|| "no key".to_owned())?;
        assert_eq!(stored.value, value(9));
        Ok(())
    });
}

/// Two hosts with one public address, as behind Vagrant's NAT: each says so, and they don't write in turns without end.
#[test]
fn twins_name_each_other_and_do_not_fight() {
    lab(2, &plain("vxlan")).check(|lab| {
        let args = ["-public-ip=172.31.77.50", "-iface=eth0"];
        let one = lab.host(1).up(FLANNELD, &args)?;
        let two = lab.host(2).up(FLANNELD, &args)?;
        for daemon in [&one, &two] {
            let line = daemon.says("172.31.77.50 too")?;
            assert!(line.contains("-public-ip"), "{line}");
        }
        let key = one.ready()?.key();
        let revision = || Ok::<_, Error>(lab.etcd().get(&key)?.context(|| "no key".to_owned())?.mod_revision);
        let start = revision()?;
        holds("few writes", Duration::from_secs(6), || {
            let written = revision()? - start;
            expect(written <= 8, || format!("{written} writes"))
        })
    });
}

/// As a rack after a power cut.
#[test]
fn a_hundred_start_at_once_and_each_gets_its_own() {
    const MANY: usize = 100;
    lab(1, &plain("alloc")).check(|lab| {
        let host = lab.host(1);
        let start = |number: usize| {
            let file = host.directory().join(format!("{number}.env"));
            let public = format!("-public-ip=203.0.113.{number}");
            let daemon = host.flanneld(FLANNELD).subnet_file(file);
            daemon.args(&["-iface=eth0", &public, "-iptables-forward-rules=false"]).start()
        };
        let daemons: Vec<Daemon> = (1..=MANY).map(start).collect::<Result<_>>()?;
        let subnets: BTreeSet<String> =
            daemons.iter().map(|d| Ok(d.ready()?.gateway.to_string())).collect::<Result<_>>()?;
        assert_eq!(subnets.len(), MANY, "{subnets:#?}");
        let keys = lab.etcd().list(SUBNETS)?;
        assert_eq!(keys.len(), MANY);
        // A lost race leaves no etcd lease behind.
        let on: BTreeSet<i64> = keys.iter().map(|kv| kv.lease).collect();
        let leases = lab.etcd().ctl("lease list")?;
        assert_eq!(leases.lines().filter(|l| !l.starts_with("found")).count(), on.len(), "{leases}");
        Ok(())
    });
}
