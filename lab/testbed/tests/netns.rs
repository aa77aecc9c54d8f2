//! The namespace harness itself, with routes made by hand in the place of a daemon. Needs root.

use std::path::Path;
use std::time::Duration;

use flannel_testbed::{Error, Lab, Ping, Result, SOON, Segment, eventually, holds};

/// What host-gw would do: a lease for each host, and a route to each other one's.
fn routes_by_hand(lab: &Lab) -> Result<()> {
    for (i, host) in lab.hosts().iter().enumerate() {
        let env = format!("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.{i}.1/24\nFLANNEL_MTU=1500\n");
        std::fs::write(host.subnet_file(), env).map_err(|e| Error::new(e.to_string()))?;
        for (j, other) in lab.hosts().iter().enumerate().filter(|(j, _)| *j != i) {
            host.ip(&format!("route add 10.5.{j}.0/24 via {}", other.address()))?;
        }
    }
    Ok(())
}

#[test]
fn pods_talk_over_routes_made_by_hand() {
    Lab::flat(2).unwrap().check(|lab| {
        routes_by_hand(lab)?;
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        one.ping(two.address(), 3)?.all_answered(62)?;
        one.ping_whole(two.address(), 1500)?.all_answered(62)?;
        one.ping_whole(two.address(), 1501)?.none_answered()?;
        let moved = flannel_testbed::transfer(&one, &two, two.address(), 20_000_000)?;
        assert_eq!(moved.bytes, 20_000_000);
        Ok(())
    });
}

#[test]
fn a_far_host_is_reached_through_the_router() {
    Lab::new(&[Segment::Near, Segment::Far]).unwrap().check(|lab| {
        let far = lab.host(2).address();
        assert_eq!(far.to_string(), "172.31.78.2");
        Ping::once(lab.host(1), lab.host(1).directory(), &format!("-c 2 -i 0.02 {far}"))?.all_answered(63)
    });
}

#[test]
fn a_ping_counts_what_is_lost_while_the_cable_is_out() {
    Lab::flat(2).unwrap().check(|lab| {
        let ping = Ping::start(lab.host(1), lab.host(1).directory(), &format!("-i 0.01 {}", lab.host(2).address()))?;
        ping.replies_more(10)?;
        lab.connect("h2", false)?;
        let before = ping.replies()?;
        holds("silence", Duration::from_secs(1), || {
            // One may have been on its way.
            if ping.replies()? <= before + 1 {
                Ok(())
            } else {
                Err(Error::new("answers came over a disconnected port"))
            }
        })?;
        lab.connect("h2", true)?;
        ping.replies_more(10)?;
        let report = ping.stop()?;
        assert!(report.lost() > 30 && report.longest_gap() > Duration::from_millis(900), "{}", report.text);
        Ok(())
    });
}

#[test]
fn etcd_keeps_its_keys_and_leases_over_a_restart() {
    Lab::flat(0).unwrap().check(|lab| {
        let etcd = lab.etcd();
        etcd.put_together(&[("/a/1", "x"), ("/a/2", "y\"&<")])?;
        etcd.put_for("/a/3", "z", 86400)?;
        etcd.stop()?;
        assert!(etcd.get("/a/1").is_err(), "a stopped etcd answered");
        etcd.start()?;
        let all = etcd.list("/a/")?;
        let pairs: Vec<_> = all.iter().map(|kv| (kv.key.as_str(), kv.value.as_str())).collect();
        assert_eq!(pairs, [("/a/1", "x"), ("/a/2", "y\"&<"), ("/a/3", "z")]);
        assert_eq!(all[0].mod_revision, all[1].mod_revision);
        assert_eq!(all[0].lease, 0);
        let (granted, left) = etcd.time_to_live(all[2].lease)?;
        assert!(granted == 86400 && left > 86300, "{granted} {left}");
        etcd.compact()?;
        assert!(etcd.delete("/a/1")? && !etcd.delete("/a/1")?);
        etcd.delete_all("/a/")?;
        assert_eq!(etcd.list("/")?, []);
        Ok(())
    });
}

/// A test process that was killed leaves namespaces and files; the next lab removes them, and only them.
#[test]
fn leftovers_of_the_dead_go_with_the_next_lab() {
    let ended = Lab::flat(0).unwrap();
    let mut child = ended.switch().command("true").spawn().unwrap();
    let (dead, alive) = (child.id(), std::process::id());
    child.wait().unwrap();
    let files = |pid: u32| std::env::temp_dir().join(format!("fllab-{pid}-9-test"));
    for pid in [dead, alive] {
        std::fs::create_dir(files(pid)).unwrap();
    }
    let other = std::env::temp_dir().join(format!("fllab-x{dead}-9-test"));
    std::fs::create_dir(&other).unwrap();
    drop(Lab::without_etcd(&[]).unwrap());
    let seen = (files(dead).exists(), files(alive).exists(), other.exists());
    for path in [files(alive), other] {
        std::fs::remove_dir(path).unwrap();
    }
    assert_eq!(seen, (false, true, true));
    ended.etcd().list("/").unwrap();
}

#[test]
fn nothing_stays_behind() {
    let lab = Lab::flat(1).unwrap();
    let names = [lab.switch().name().to_owned(), lab.host(1).namespace_name().to_owned()];
    let directory = lab.host(1).directory().to_owned();
    let mut sleeper = lab.host(1).command("sleep").arg("1000").spawn().unwrap();
    eventually("the program inside", SOON, || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", sleeper.id())).unwrap_or_default();
        if stat.contains("(sleep)") { Ok(()) } else { Err(Error::new(stat)) }
    })
    .unwrap();
    for name in &names {
        assert!(Path::new("/run/netns").join(name).exists());
    }
    drop(lab);
    for name in &names {
        assert!(!Path::new("/run/netns").join(name).exists(), "{name} is still there");
    }
    assert!(!directory.exists());
    let ended = eventually("the end of the program", SOON, || match sleeper.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(Error::new(format!("{other:?}"))),
    });
    // Not left running when the assertion fails.
    drop(sleeper.kill());
    assert!(!ended.unwrap().success());
}
