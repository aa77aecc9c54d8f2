//! What befalls etcd.

use super::{Fault, Needs, Promise, Scene};
use flannel_testbed::{Context, Error, Result, SOON, Signal, eventually};

/// Every host goes on with what it knows.
fn nothing(_: &str) -> Option<Promise> {
    Some(Promise::NOTHING)
}

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "etcd-kill",
        what: "etcd killed by SIGKILL, back after 2 s",
        quick: true,
        needs: Needs::NOTHING,
        promise: nothing,
        run: |scene| {
            scene.cause();
            scene.world.etcd().kill()?;
            newcomers(scene)?;
            scene.last(2.0)?;
            scene.world.etcd().start()?;
            scene.cured();
            Ok(())
        },
    },
    Fault {
        name: "etcd-pause",
        what: "etcd is stopped (SIGSTOP) for 7 s: longer than a request to it may take",
        quick: false,
        needs: Needs::NOTHING,
        promise: nothing,
        run: |scene| {
            scene.cause();
            scene.world.etcd().signal(Signal::STOP)?;
            let tried = newcomers(scene).and_then(|()| scene.last(7.0));
            scene.world.etcd().signal(Signal::CONT)?;
            scene.cured();
            tried
        },
    },
    Fault {
        name: "etcd-blackhole",
        what: "packets between one host and etcd vanish for 7 s",
        quick: true,
        needs: Needs::NOTHING,
        promise: nothing,
        run: |scene| {
            scene.cause();
            blackhole(scene, true)?;
            scene.try_new_container()?;
            scene.last(7.0)?;
            blackhole(scene, false)?;
            scene.cured();
            Ok(())
        },
    },
    Fault {
        name: "etcd-compacted",
        what: "etcd compacts away what one host has not seen, while a new host joins",
        quick: true,
        needs: Needs::NOTHING,
        promise: |_| {
            Some(Promise { says: "nothing is lost, and it learns of the new host all the same", ..Promise::NOTHING })
        },
        run: |scene| {
            scene.cause();
            blackhole(scene, true)?;
            scene.try_new_host()?;
            for number in 0..20 {
                scene.world.etcd().put("/coreos.com/other", &number.to_string())?;
            }
            scene.world.etcd().compact()?;
            blackhole(scene, false)?;
            scene.cured();
            Ok(())
        },
    },
    Fault {
        name: "etcd-wiped",
        what: "etcd comes back with all data lost, and gets its config again",
        quick: false,
        needs: Needs::NOTHING,
        promise: |_| {
            Some(Promise {
                says: "nothing is lost; every host puts its old subnet into etcd again",
                ..Promise::NOTHING
            })
        },
        run: |scene| {
            let etcd = scene.world.etcd();
            let keys = || -> Result<Vec<String>> {
                Ok(etcd.list("/coreos.com/network/subnets/")?.into_iter().map(|kv| kv.key).collect())
            };
            let before = keys()?;
            scene.cause();
            etcd.kill()?;
            etcd.wipe()?;
            etcd.start()?;
            scene.world.configure(&scene.world.topology().network[0].name)?;
            scene.cured();
            eventually("every lease in etcd again", SOON * 3, || {
                let now = keys()?;
                if now == before { Ok(()) } else { Err(Error::new(format!("{now:?} instead of {before:?}"))) }
            })
        },
    },
    Fault {
        name: "etcd-member",
        what: "one of three etcd members killed for 3 s: the one that all hosts ask first",
        quick: false,
        needs: Needs { more_members: 2, ..Needs::NOTHING },
        promise: |_| {
            Some(Promise { says: "nothing is lost, a new host joins by the members that are left", ..Promise::NOTHING })
        },
        run: |scene| {
            scene.cause();
            scene.world.etcd().kill()?;
            // The daemon goes from one endpoint to the next by itself; this takes as long as one request.
            scene.try_new_host()?;
            let waits = scene.last(3.0);
            scene.world.restart_etcd(0)?;
            scene.cured();
            waits
        },
    },
];

/// A new container and a new host while etcd is away.
fn newcomers(scene: &Scene<'_>) -> Result<()> {
    scene.try_new_container()?;
    scene.try_new_host()
}

/// Drops what one host sends to etcd and gets from it, or lets it through again.
fn blackhole(scene: &Scene<'_>, on: bool) -> Result<()> {
    if !on {
        return scene.victim().exec("nft delete table inet labfault").map(drop);
    }
    let rules = scene.world.directory().join("blackhole.nft");
    let text = "table inet labfault {
        chain in { type filter hook input priority -500; tcp sport 2379 drop; }
        chain out { type filter hook output priority -500; tcp dport 2379 drop; }
    }";
    std::fs::write(&rules, text).context(|| rules.display().to_string())?;
    scene.victim().exec(&format!("nft -f {}", rules.display())).map(drop)
}
