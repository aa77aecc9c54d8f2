//! What befalls the daemon of a host.

use std::time::Duration;

use super::{Fault, Limit, Needs, Promise, Scene};
use flannel_testbed::{Context, Error, Result, SOON, Signal, eventually, holds};

/// The backend whose daemon carries the packets itself.
const USERSPACE: &str = "udp";
/// More than a lease lives.
const JUMP: Duration = Duration::from_secs(25 * 3600);
/// Timers stop while a host sleeps: the daemon reads the boot clock every minute.
const RENEWED: Duration = Duration::from_secs(70);

/// Nothing is lost where the kernel carries the packets; where the daemon does, they wait for it.
fn kernel_goes_on(backend: &str) -> Option<Promise> {
    if backend == USERSPACE {
        return Some(Promise::heals("flows 5 s after the daemon's return: it carries the packets", 5.0));
    }
    Some(Promise::NOTHING)
}

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "flanneld-kill",
        what: "flanneld killed by SIGKILL, back after 1.5 s",
        quick: true,
        needs: Needs::NOTHING,
        promise: kernel_goes_on,
        run: |scene| {
            scene.cause();
            scene.victim().daemon()?.kill()?;
            scene.try_new_host()?;
            if scene.world.topology().backend() != USERSPACE {
                scene.try_new_container()?;
            }
            scene.last(1.5)?;
            scene.cured();
            scene.victim().start(scene.world)
        },
    },
    Fault {
        name: "flanneld-stop",
        what: "flanneld stopped for longer than its lease lives (4 s here), then started",
        quick: true,
        needs: Needs { lease_ttl: Some(4), ..Needs::NOTHING },
        promise: |_| {
            Some(Promise::heals("the others drop its route; 5 s after its return it flows, on the same subnet", 5.0))
        },
        run: |scene| {
            let key = scene.victim().subnet_env()?.key();
            scene.cause();
            scene.victim().daemon()?.stop()?;
            gone(scene, &key)?;
            scene.last(1.0)?;
            scene.cured();
            scene.victim().start(scene.world)?;
            let now = scene.victim().subnet_env()?.key();
            if now == key { Ok(()) } else { Err(Error::new(format!("{now} instead of {key}"))) }
        },
    },
    Fault {
        name: "flanneld-upgrade",
        what: "flanneld stopped and another build of it started",
        quick: false,
        needs: Needs::NOTHING,
        promise: kernel_goes_on,
        run: |scene| {
            let copy = scene.world.directory().join("flanneld-next");
            let next = match scene.upgrade_to {
                Some(next) => next,
                None => {
                    std::fs::copy(scene.world.flanneld(), &copy).context(|| copy.display().to_string())?;
                    &copy
                }
            };
            scene.cause();
            scene.victim().daemon()?.stop()?;
            scene.victim().start_with(scene.world, Some(next))?;
            scene.cured();
            Ok(())
        },
    },
    Fault {
        name: "clock-jump",
        what: "the boot clock that a host's flanneld sees jumps 25 h ahead, as after sleep: past the end of its lease",
        quick: false,
        needs: Needs::NOTHING,
        // Only a process of one thread can be moved to another clock; udp's daemon has some that carry packets.
        promise: |backend| {
            let promise = Promise { says: "nothing is lost; it renews its lease within 70 s", ..Promise::NOTHING };
            (backend != USERSPACE).then_some(promise)
        },
        run: |scene| {
            let key = scene.victim().subnet_env()?.key();
            let lease = || scene.world.etcd().get(&key)?.context(|| format!("{key} is gone"));
            let before = lease()?;
            let log = scene.world.directory().join("clock.log");
            scene.cause();
            scene.victim().daemon()?.process().jump_boot_clock(JUMP, &log)?;
            eventually("the lease is renewed", RENEWED, || {
                if lease()?.mod_revision > before.mod_revision { Ok(()) } else { Err(Error::new("not yet")) }
            })?;
            let after = lease()?;
            if after.value == before.value { Ok(()) } else { Err(Error::new(format!("changed: {after:?}"))) }
        },
    },
    Fault {
        name: "suspend",
        what: "a host's flanneld is stopped (SIGSTOP) for longer than its lease lives (4 s here)",
        quick: false,
        needs: Needs { lease_ttl: Some(4), ..Needs::NOTHING },
        promise: |_| Some(Promise::heals("5 s after waking it has its lease back, and it flows", 5.0)),
        run: |scene| {
            let key = scene.victim().subnet_env()?.key();
            let daemon = scene.victim().daemon()?;
            scene.cause();
            daemon.process().signal(Signal::STOP)?;
            gone(scene, &key)?;
            scene.last(1.0)?;
            scene.cured();
            daemon.process().signal(Signal::CONT)?;
            back(scene, &key)
        },
    },
    Fault {
        name: "join-storm",
        what: "fifty more hosts join at the same moment",
        quick: false,
        needs: Needs { more_hosts: 50, ..Needs::NOTHING },
        promise: |_| Some(Promise::NOTHING),
        run: |scene| {
            let late: Vec<_> = scene.world.nodes()[4..].iter().collect();
            let all = scene.world.nodes().len() - 1;
            scene.cause();
            scene.world.start(&late)?;
            scene.world.leases(all)?;
            // The victim knows the way to each of them.
            for node in late {
                let base = node.subnet_env()?.subnet().addr();
                eventually(&format!("a way to {}", node.name()), SOON, || {
                    let way = scene.victim().ip(&format!("route get {base}"))?;
                    if way.contains(" dev ") { Ok(()) } else { Err(Error::new(way)) }
                })?;
            }
            Ok(())
        },
    },
    Fault {
        name: "config-broken",
        what: "flannel's config in etcd overwritten with nonsense for 2 s",
        quick: false,
        needs: Needs::NOTHING,
        promise: |_| Some(Promise { says: "running hosts go on: nothing is lost", ..Promise::NOTHING }),
        run: |scene| {
            scene.cause();
            scene.world.etcd().put("/coreos.com/network/config", "{")?;
            scene.try_new_host()?;
            scene.try_new_container()?;
            holds("the daemon runs on", Duration::from_secs(2), || {
                let ended = scene.victim().daemon()?.process().exited()?;
                ended.map_or(Ok(()), |status| Err(Error::new(format!("it ended: {status}"))))
            })?;
            scene.cured();
            scene.world.configure(&scene.world.topology().network[0].name)
        },
    },
];

/// Waits until the lease is not in etcd any more.
pub(super) fn gone(scene: &Scene<'_>, key: &str) -> Result<()> {
    eventually(&format!("the end of {key}"), SOON * 2, || match scene.world.etcd().get(key)? {
        None => Ok(()),
        Some(_) => Err(Error::new("it is still there")),
    })
}

/// Waits until it is there again.
pub(super) fn back(scene: &Scene<'_>, key: &str) -> Result<()> {
    eventually(&format!("the return of {key}"), SOON * 2, || {
        scene.world.etcd().get(key)?.map(drop).context(|| "it is not there".to_owned())
    })
}

/// A promise about the share lost while the cause lasts.
pub(super) const fn share(says: &'static str, percent: f64) -> Promise {
    Promise { says, victim: Limit::Share(percent), ..Promise::NOTHING }
}
