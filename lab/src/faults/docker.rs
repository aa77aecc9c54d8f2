//! What befalls Docker and its plugin. The hosts of these faults are machines with a dockerd and a flannel-docker of
//! their own, and the flows run between their containers.

use super::{Fault, Needs, Promise, Scene};
use crate::measure::{Ask, Check, TCP_BYTES, ask_all};
use flannel_testbed::{Error, Result, eventually};

/// The number of the container that the flow runs through.
const FIRST: u8 = 1;
/// How long Docker may take to have its containers back.
const BACK: std::time::Duration = std::time::Duration::from_secs(60);

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "plugin-kill",
        what: "flannel-docker killed by SIGKILL, back after 2 s",
        quick: false,
        needs: Needs { docker: Some(&["--live-restore"]), ..Needs::NOTHING },
        promise: |_| {
            Some(Promise { says: "nothing is lost; a new container waits for it, and works", ..Promise::NOTHING })
        },
        run: |scene| {
            let docker = scene.victim().docker()?;
            scene.cause();
            docker.kill_plugin()?;
            let run = scene.begin_new_container()?;
            scene.last(2.0)?;
            scene.new_container_waits(&run)?;
            docker.start_plugin()?;
            scene.cured();
            scene.new_container_comes(&run)
        },
    },
    Fault {
        name: "dockerd-kill-live",
        what: "dockerd and its containerd killed by SIGKILL, back after 2 s, with live-restore",
        quick: false,
        needs: Needs { docker: Some(&["--live-restore"]), ..Needs::NOTHING },
        promise: |_| {
            Some(Promise { says: "nothing is lost; new containers work after its return", ..Promise::NOTHING })
        },
        run: |scene| {
            let docker = scene.victim().docker()?;
            let before = docker.started(FIRST)?;
            scene.cause();
            docker.kill_dockerd()?;
            scene.try_new_container()?;
            scene.last(2.0)?;
            docker.start_dockerd()?;
            scene.cured();
            let after = docker.started(FIRST)?;
            if after != before {
                return Err(Error::new(format!("the container was restarted: {after} instead of {before}")));
            }
            scene.new_container_comes(&scene.begin_new_container()?)
        },
    },
    Fault {
        name: "dockerd-kill",
        what: "dockerd and its containerd killed by SIGKILL, back after 2 s: it restarts its containers",
        quick: false,
        needs: Needs { docker: Some(&[]), inbound: true, ..Needs::NOTHING },
        promise: |_| {
            Some(Promise {
                connections: false,
                ..Promise::heals(
                    "containers with a restart policy are back with their addresses, and flow 15 s after its start",
                    15.0,
                )
            })
        },
        run: |scene| {
            let docker = scene.victim().docker()?;
            let before = docker.started(FIRST)?;
            scene.cause();
            docker.kill_dockerd()?;
            scene.try_new_container()?;
            scene.last(2.0)?;
            scene.cured();
            docker.start_dockerd()?;
            eventually("the container is restarted", BACK, || match docker.started(FIRST)? {
                now if now == before => Err(Error::new("it is the same as before")),
                _ => Ok(()),
            })?;
            serves_again(scene)?;
            scene.new_container_comes(&scene.begin_new_container()?)
        },
    },
];

/// A transfer from the other host's container to the one that came back.
fn serves_again(scene: &Scene<'_>) -> Result<()> {
    let network = &scene.world.topology().network[0].name;
    let back = scene.victim().container(network, FIRST)?;
    scene.other().pod()?.reaches(&back)?;
    let ask = Ask { id: 0, target: back.server()?, mtu: 0, bytes: TCP_BYTES, checks: vec![Check::Tcp] };
    let answers = scene.other().pod()?.run(|_| ask_all(&[ask]))?;
    answers[0].outcome.clone().map(drop).map_err(Error::new)
}
