//! What befalls the leases.

use super::host::{back, gone};
use super::{Fault, Needs, Promise};
use flannel_testbed::{Error, SOON};

/// The exit code of a daemon whose lease belongs to another host.
const CONFLICT: i32 = 3;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "lease-deleted",
        what: "a host's lease deleted from etcd by hand",
        quick: false,
        needs: Needs::NOTHING,
        promise: |_| Some(Promise::heals("put back at once, flows within 2 s", 2.0)),
        run: |scene| {
            let key = scene.victim().subnet_env()?.key();
            let before = scene.world.etcd().get(&key)?;
            scene.cause();
            scene.world.etcd().delete(&key)?;
            back(scene, &key)?;
            let after = scene.world.etcd().get(&key)?;
            let value = |kv: Option<flannel_testbed::KeyValue>| kv.map(|kv| kv.value);
            if value(before) == value(after) { Ok(()) } else { Err(Error::new("it came back changed")) }
        },
    },
    Fault {
        name: "lease-stolen",
        what: "another host's address written into a host's lease; taken out again after 1 s, and the host started again",
        quick: true,
        needs: Needs::NOTHING,
        promise: |_| {
            Some(Promise::heals("its daemon ends with code 3 and says why; flows 5 s after its new start", 5.0))
        },
        run: |scene| {
            let key = scene.victim().subnet_env()?.key();
            let (own, thief) = (scene.victim().address(), scene.spare().address());
            let value = scene.world.etcd().get(&key)?.map(|kv| kv.value).unwrap_or_default();
            let daemon = scene.victim().daemon()?;
            scene.cause();
            scene.world.etcd().put(&key, &value.replace(&own.to_string(), &thief.to_string()))?;
            let exit = daemon.exit_within(SOON)?;
            if exit.code != Some(CONFLICT) || !exit.log.contains(&thief.to_string()) {
                return Err(Error::new(format!(
                    "code {:?} instead of {CONFLICT}, or {thief} not named:\n{}",
                    exit.code, exit.log
                )));
            }
            scene.last(1.0)?;
            scene.world.etcd().delete(&key)?;
            gone(scene, &key)?;
            scene.cured();
            scene.victim().start(scene.world)
        },
    },
    Fault {
        name: "same-address",
        what: "a second host joins with a host's public address for 3 s",
        quick: false,
        needs: Needs::NOTHING,
        promise: |_| Some(Promise::heals("reported by name; flows 15 s after the second one's end", 15.0)),
        run: |scene| {
            let network = &scene.world.topology().network[0].name;
            let public = format!("-public-ip={}", scene.victim().address());
            scene.cause();
            let second = scene.spare().daemon_for(scene.world, network, None).arg(public).start()?;
            scene.last(3.0)?;
            if second.process().exited()?.is_none() {
                second.stop()?;
            }
            scene.cured();
            // Refused, warned of, or, where both hosts' leases would be the same to the letter, reported by the second.
            let logs = second.log() + &scene.victim().daemon()?.log();
            if ["ERROR", "WARN", "taking it over"].iter().any(|word| logs.contains(word)) {
                return Ok(());
            }
            Err(Error::new(format!("neither daemon says anything of {}:\n{logs}", scene.victim().address())))
        },
    },
];
