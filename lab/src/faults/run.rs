//! Carrying faults out: a lab for each, several at once, and the evidence of those that broke their promise.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Fault, Limit, Measured, Outcome, Promise, Scene, judge};
use crate::topology::{HostSpec, Topology};
use crate::world::{Node, World};
use flannel_testbed::Result;

/// A flow that has not healed so long after its limit will not.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How faults are carried out.
#[derive(Debug, Clone)]
pub struct Options {
    /// The daemon under trial.
    pub flanneld: PathBuf,
    /// The plugin of the labs' Docker hosts.
    pub plugin: PathBuf,
    /// What an upgrade brings in its place; a copy of the same unless given.
    pub upgrade_to: Option<PathBuf>,
    /// What the labs are made of, before what each fault needs.
    pub topology: Topology,
    /// How many at once.
    pub jobs: usize,
    /// Where the evidence goes.
    pub evidence: PathBuf,
}

/// Carries them out with this backend, and tells each as it ends.
pub fn run_all(faults: &[(Fault, String)], options: &Options, tell: &(dyn Fn(&Outcome) + Sync)) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Outcome)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((fault, backend)) = faults.get(number) else { return };
                    let Some(promise) = (fault.promise)(backend) else { continue };
                    let outcome = carry_out(fault, backend, &promise, options);
                    tell(&outcome);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

fn carry_out(fault: &Fault, backend: &str, promise: &Promise, options: &Options) -> Outcome {
    let begin = Instant::now();
    let mut outcome = Outcome {
        fault: fault.name.to_owned(),
        what: fault.what.to_owned(),
        backend: backend.to_owned(),
        promise: promise.says.to_owned(),
        measured: None,
        broken: Vec::new(),
        evidence: None,
        seconds: 0.0,
    };
    let topology = topology_for(fault, &options.topology.clone().with_backend(Some(backend)));
    match World::build(&topology, &options.flanneld) {
        Err(error) => outcome.broken.push(format!("no lab: {error}")),
        Ok(mut world) => {
            if let Some(seconds) = fault.needs.lease_ttl {
                // Only the one that is hit: others that have no time to renew theirs would be hit too.
                let victim = topology.host[0].name.clone();
                world.set_environment(&victim, "FLANNEL_TEST_LEASE_TTL", &seconds.to_string());
            }
            match story(fault, promise, &world, options) {
                Ok(measured) => {
                    outcome.broken = judge(promise, &measured);
                    outcome.measured = Some(measured);
                }
                Err(error) => outcome.broken.push(error.to_string()),
            }
            if !outcome.broken.is_empty() {
                outcome.evidence = Some(evidence(&world, &outcome, &options.evidence));
            }
        }
    }
    outcome.seconds = begin.elapsed().as_secs_f64();
    outcome
}

fn story(fault: &Fault, promise: &Promise, world: &World, options: &Options) -> Result<Measured> {
    let nodes: Vec<&Node> = world.nodes()[..3].iter().collect();
    world.start(&nodes)?;
    if let Some(dockerd_args) = fault.needs.docker {
        world.with_docker(&nodes[..2], &options.plugin, dockerd_args)?;
    }
    world.populate(&nodes)?;
    world.settle(&nodes)?;
    let _capture = world.capture()?;
    let scene = Scene::begin(world, fault.needs.inbound, options.upgrade_to.as_deref())?;
    (fault.run)(&scene)?;
    let limit = match promise.victim {
        Limit::Heals(seconds) => Duration::from_secs_f64(seconds),
        Limit::Nothing | Limit::Share(_) => Duration::ZERO,
    };
    // Silence to the end is for the judge to tell, with the rest of what was measured.
    if scene.flowing(limit + TIMEOUT).is_ok() {
        scene.newcomer_is_reached()?;
    }
    scene.end()
}

/// The topology with a fourth host, and with what the fault needs.
fn topology_for(fault: &Fault, base: &Topology) -> Topology {
    let mut topology = base.clone();
    topology.etcd.members = 1 + fault.needs.more_members;
    let underlay = topology.host[0].underlay.clone();
    let wanted = 4 + usize::from(fault.needs.more_hosts);
    for number in topology.host.len() + 1..=wanted {
        topology.host.push(HostSpec {
            name: format!("h{number}"),
            underlay: underlay.clone(),
            networks: Vec::new(),
            flanneld: None,
            image: None,
            args: Vec::new(),
        });
    }
    topology
}

fn evidence(world: &World, outcome: &Outcome, directory: &Path) -> String {
    let directory = directory.join(format!("fault-{}-{}", outcome.fault, outcome.backend));
    let written = world.write_diagnosis(&directory).and_then(|()| {
        let text = serde_json::to_string_pretty(outcome).unwrap_or_else(|error| error.to_string());
        std::fs::write(directory.join("outcome.json"), text)
            .map_err(|error| flannel_testbed::Error::new(format!("{}: {error}", directory.display())))
    });
    match written {
        Ok(()) => directory.display().to_string(),
        Err(error) => format!("none could be written: {error}"),
    }
}
