//! `flannel-lab up`: from images to a tried lab.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt as _, future};

use super::lab::{self, Lab};
use crate::args::Args;
use crate::compose::{self, Project};
use crate::engine::Engine;
use crate::host::LabHost;
use crate::progress::{Progress, print};
use crate::topology::Topology;
use crate::{Error, Result, underlay};

/// A host has a lease and a Docker in 3 to 6 s on a slow machine.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Makes the lab, or what is missing of it, and tries every path.
pub(super) async fn up(args: &Args, progress: &Progress) -> Result<()> {
    let topology = super::namespaces::topology(args)?;
    if let Some(refused) = compose::refusal(&topology) {
        return Err(Error::Usage(refused));
    }
    let images = check_images(&args.images)?;
    let engine = Engine::connect().await?;
    for image in ["flannel-lab-etcd", "flannel-lab-host"] {
        engine.image_id(&format!("{image}:{}", tag())).await.map(drop)?;
    }

    let running = Lab::find_if_any(&engine, &args.name).await?;
    let project = project(args, topology, &engine, running.as_ref(), images).await?;
    for image in project.topology.host.iter().filter_map(|host| host.image.as_deref()) {
        let saving = save(&engine, image, &project.images);
        progress.during(&format!("image {image} is made a file"), saving).await?;
    }
    if let Some(lab) = &running {
        // A host's Docker data belongs to a lease and an MTU; a new backend gets new hosts.
        let (backend, topology) = (project.topology.backend(), &project.topology.name);
        if lab.backend != backend || lab.underlay != project.underlays[0] || lab.topology != *topology {
            progress.say(format_args!(
                "lab {} runs {}, {}: re-created for {topology}, {backend}",
                lab.name, lab.topology, lab.backend
            ));
            progress.during("compose removes the old lab", lab::remove(&engine, &args.name)).await.map(drop)?;
        }
    }

    progress.say(format_args!(
        "lab {}: {}, {}, underlay {}.0/24",
        project.name,
        project.topology.about,
        project.topology.backend(),
        project.underlays.join(".0/24, ")
    ));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    progress.during("compose makes the containers", project.up()).await?;
    let lab = Lab::find(&engine, &args.name).await?;
    renew_flannel(&lab.hosts, &project, progress).await?;
    wait_for_hosts(&lab.hosts, i32::try_from(since).unwrap_or(0), progress).await?;

    progress.say("a flannel network and a container on each host: docker network create -d flannel demo");
    super::try_all(args, &lab, &project.topology, progress).await?;
    print(format_args!("\n{}\n", next_steps(&lab)));
    Ok(())
}

/// The compose file of the lab that `up` would make.
pub(super) async fn compose_file(args: &Args) -> Result<serde_json::Value> {
    let topology = super::namespaces::topology(args)?;
    if let Some(refused) = compose::refusal(&topology) {
        return Err(Error::Usage(refused));
    }
    let images = check_images(&args.images)?;
    Ok(project(args, topology, &Engine::connect().await?, None, images).await?.file())
}

/// The tag of the images, as for ci/images.
fn tag() -> String {
    std::env::var("LAB_TAG").unwrap_or_else(|_| "latest".to_owned())
}

/// The images' directory as compose needs it, with the files in it.
fn check_images(directory: &Path) -> Result<PathBuf> {
    for file in ["flannel.tar", "flannel.id", "busybox.tar", "busybox.id", "flannel-lab"] {
        let path = directory.join(file);
        if !path.is_file() {
            return Err(Error::State(format!("{} is missing: run ci/images, or give --images", path.display())));
        }
    }
    std::path::absolute(directory).map_err(|error| Error::State(format!("{}: {error}", directory.display())))
}

async fn project(
    args: &Args,
    topology: Topology,
    engine: &Engine,
    running: Option<&Lab>,
    images: PathBuf,
) -> Result<Project> {
    // A lab that runs keeps its topology and backend by default.
    let topology = match running {
        Some(lab) if args.words.is_empty() => {
            Topology::load(&lab.topology).unwrap_or(topology).with_backend(Some(args.backend().unwrap_or(&lab.backend)))
        }
        _ => topology,
    };
    let own = engine.labelled_networks("com.docker.compose.project", &args.name).await?;
    let mut used: Vec<String> =
        engine.subnets().await?.into_iter().filter_map(|(name, net)| (!own.contains(&name)).then_some(net)).collect();
    let of_running = running.map(|lab| lab.underlay.clone()).filter(|underlay| !underlay.is_empty());
    let mut underlays = Vec::new();
    for _ in &topology.underlay {
        let asked = args.underlay.clone().or_else(|| of_running.clone()).filter(|_| underlays.is_empty());
        let underlay = asked.map_or_else(|| underlay::choose(&used), Ok)?;
        used.push(format!("{underlay}.0/24"));
        underlays.push(underlay);
    }
    Ok(Project { name: args.name.clone(), topology, underlays, images, tag: tag() })
}

/// The name of an image's file: `flannel:old` is `flannel-old`.
fn file_name(image: &str) -> String {
    image.replace([':', '/'], "-")
}

/// Writes an image of this machine's Docker where the hosts look for it, unless it is there.
async fn save(engine: &Engine, image: &str, images: &Path) -> Result<()> {
    let id = engine.image_id(image).await?;
    let (tar, mark) =
        (images.join(format!("{}.tar", file_name(image))), images.join(format!("{}.id", file_name(image))));
    if tar.exists() && std::fs::read_to_string(&mark).is_ok_and(|known| known.trim() == id) {
        return Ok(());
    }
    let failed = |reason: String| Error::Program { command: format!("docker save {image}"), reason };
    let saved = tokio::process::Command::new("docker").args(["save", "-o"]).arg(&tar).arg(image).output().await;
    let saved = saved.map_err(|error| failed(error.to_string()))?;
    if !saved.status.success() {
        return Err(failed(String::from_utf8_lossy(&saved.stderr).trim().to_owned()));
    }
    std::fs::write(&mark, format!("{id}\n")).map_err(|error| Error::State(format!("{}: {error}", mark.display())))
}

/// Restarts the hosts that run an older flannel image than the one in the images' directory, and starts flannel where
/// somebody has stopped it.
async fn renew_flannel(hosts: &[LabHost], project: &Project, progress: &Progress) -> Result<()> {
    let path = project.images.join("flannel.id");
    let wanted =
        std::fs::read_to_string(&path).map_err(|error| Error::State(format!("{}: {error}", path.display())))?;
    let renewals = hosts.iter().map(async |host| {
        let mark = host.exec(&["cat", "/var/lib/docker-early/lab-flannel.id"]).await?;
        let others = project.topology.host.iter().any(|spec| spec.name == host.name && spec.image.is_some());
        if mark.code == 0 && !others && mark.stdout.trim() != wanted.trim() {
            progress.say(format_args!("{}: the flannel image has changed, restarts", host.name));
            return host.engine().restart(&host.container).await;
        }
        if mark.code == 0 {
            // Absent for a moment while the host starts; then the host itself sees to it.
            host.exec(&["sh", "-c", "docker -H unix:///run/docker-early.sock start flannel"]).await.map(drop)?;
        }
        Ok(())
    });
    future::join_all(renewals).await.into_iter().collect()
}

/// Waits for all hosts and passes on what they say meanwhile.
async fn wait_for_hosts(hosts: &[LabHost], since: i32, progress: &Progress) -> Result<()> {
    let talk = future::join_all(hosts.iter().map(async |host| {
        let mut lines = host.engine().follow(&host.container, since).boxed();
        while let Some(line) = lines.next().await {
            // The host's own clock gives way to ours.
            progress.say(format_args!("  {}", line.split_once("] ").map_or(line.as_str(), |(_, text)| text)));
        }
    }));
    let ready = future::join_all(hosts.iter().map(|host| host.ready(READY_WITHIN)));
    tokio::select! {
        ready = ready => ready.into_iter().collect(),
        // The talk ends only when all hosts have stopped; `ready` says why.
        _ = async { talk.await; future::pending::<()>().await } => Ok(()),
    }
}

fn next_steps(lab: &Lab) -> String {
    let host = &lab.hosts[0].container;
    let name = if lab.name == crate::args::DEFAULT_NAME { String::new() } else { format!(" --name {}", lab.name) };
    format!(
        "a shell on h1:                  docker exec -it {host} bash\n\
         a shell in its container:       docker exec -it {host} docker exec -it c1 sh\n\
         flannel's log there:            docker exec {host} docker -H unix:///run/docker-early.sock logs flannel\n\
         the leases in etcd:             docker exec {etcd} etcdctl get --prefix /coreos.com/network\n\
         your own container:             docker exec -it {host} docker run --rm -it --network demo busybox sh\n\
         try every path again:           target/bin/flannel-lab matrix{name}\n\
         another backend:                ci/up --backend udp{name}      (vxlan, host-gw, udp)\n\
         take it down:                   ci/up --down{name}",
        etcd = lab.etcd,
    )
}
