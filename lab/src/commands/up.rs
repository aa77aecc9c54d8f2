//! `flannel-lab up`: from images to a tried lab.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt as _, future};

use super::lab::{self, Lab};
use crate::args::Args;
use crate::compose::Project;
use crate::engine::Engine;
use crate::host::LabHost;
use crate::progress::{Progress, print};
use crate::{Error, Result, underlay};

/// A host has a lease and a Docker in 3 to 6 s on a slow machine.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Makes the lab, or what is missing of it, and tries every path.
pub(super) async fn up(args: &Args, progress: &Progress) -> Result<()> {
    let images = check_images(&args.images)?;
    let engine = Engine::connect().await?;
    for image in ["flannel-lab-etcd", "flannel-lab-host"] {
        engine.image_id(&format!("{image}:{}", tag())).await.map(drop)?;
    }

    let running = Lab::find_if_any(&engine, &args.name).await?;
    let project = project(args, &engine, running.as_ref(), images).await?;
    if let Some(lab) = &running {
        // A host's Docker data belongs to a lease and an MTU; a new backend gets new hosts.
        if lab.backend != project.backend || lab.underlay != project.underlay {
            progress.say(format_args!("lab {} runs {}: made anew for {}", lab.name, lab.backend, project.backend));
            progress.during("compose removes the old lab", lab::remove(&engine, &args.name)).await.map(drop)?;
        }
    }

    progress.say(format_args!("lab {}: {}, three hosts on {}.0/24", project.name, project.backend, project.underlay));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    progress.during("compose makes the containers", project.up()).await?;
    let lab = Lab::find(&engine, &args.name).await?;
    renew_flannel(&lab.hosts, &project.images, progress).await?;
    wait_for_hosts(&lab.hosts, i32::try_from(since).unwrap_or(0), progress).await?;

    progress.say("a flannel network and a container on each host: docker network create -d flannel demo");
    let workloads = progress.during("networks and containers", super::workloads(&lab.hosts)).await?;
    super::try_all(&lab, &workloads, progress).await?;
    print(format_args!("\n{}\n", next_steps(&lab)));
    Ok(())
}

/// The tag of the images, as for ci/images.
fn tag() -> String {
    std::env::var("LAB_TAG").unwrap_or_else(|_| "latest".to_owned())
}

/// The images' directory as compose needs it, with the files in it.
fn check_images(directory: &Path) -> Result<PathBuf> {
    for file in ["flannel.tar", "flannel.id", "busybox.tar", "busybox.id"] {
        let path = directory.join(file);
        if !path.is_file() {
            return Err(Error::State(format!("{} is missing: run ci/images, or give --images", path.display())));
        }
    }
    std::path::absolute(directory).map_err(|error| Error::State(format!("{}: {error}", directory.display())))
}

async fn project(args: &Args, engine: &Engine, running: Option<&Lab>, images: PathBuf) -> Result<Project> {
    let backend = args
        .backend()
        .map(str::to_owned)
        .or_else(|| running.map(|lab| lab.backend.clone()))
        .unwrap_or_else(|| "vxlan".to_owned());
    let of_running = running.map(|lab| lab.underlay.clone()).filter(|underlay| !underlay.is_empty());
    let underlay = match args.underlay.clone().or(of_running) {
        Some(underlay) => underlay,
        None => {
            let network = format!("{}_underlay", args.name);
            let others: Vec<String> = engine
                .subnets()
                .await?
                .into_iter()
                .filter_map(|(name, net)| (name != network).then_some(net))
                .collect();
            underlay::choose(&others)?
        }
    };
    Ok(Project { name: args.name.clone(), backend, underlay, images })
}

/// Restarts the hosts that run an older flannel image than the one in the images' directory, and starts flannel where
/// somebody has stopped it.
async fn renew_flannel(hosts: &[LabHost], images: &Path, progress: &Progress) -> Result<()> {
    let path = images.join("flannel.id");
    let wanted =
        std::fs::read_to_string(&path).map_err(|error| Error::State(format!("{}: {error}", path.display())))?;
    let renewals = hosts.iter().map(async |host| {
        let mark = host.exec(&["cat", "/var/lib/docker-early/lab-flannel.id"]).await?;
        if mark.code == 0 && mark.stdout.trim() != wanted.trim() {
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
        "a shell on host1:               docker exec -it {host} bash\n\
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
