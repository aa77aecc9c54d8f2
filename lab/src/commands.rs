//! What `flannel-lab` does, a function a command.

mod lab;
mod up;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use up::up;

use crate::args::Args;
use crate::engine::Engine;
use crate::host::LabHost;
use crate::progress::{Progress, print};
use crate::workload::Workload;
use crate::{Error, Result};

use lab::Lab;

/// The flannel network that `up` makes on each host.
const NETWORK: &str = "demo";
/// What a workload serves for the matrix.
const FILE_BYTES: u64 = 16 << 20;

/// New hosts know each other within this time.
const SETTLE: Duration = Duration::from_secs(15);

/// Takes the lab down; a lab that is not there is down.
pub async fn down(args: &Args, progress: &Progress) -> Result<()> {
    let engine = Engine::connect().await?;
    if progress.during("compose removes the lab", lab::remove(&engine, &args.name)).await? {
        progress.say(format_args!("lab {} removed: its containers, their volumes and its network", args.name));
    } else {
        progress.say(format_args!("lab {}: there is none", args.name));
    }
    Ok(())
}

/// Tries every path of a running lab.
pub async fn matrix(args: &Args, progress: &Progress) -> Result<()> {
    let lab = Lab::find(&Engine::connect().await?, &args.name).await?;
    let workloads = workloads(&lab.hosts).await?;
    try_all(&lab, &workloads, progress).await
}

/// Shows hosts, leases and containers.
pub async fn status(args: &Args) -> Result<()> {
    let lab = Lab::find(&Engine::connect().await?, &args.name).await?;
    print(format_args!("lab {}, {}, underlay {}.0/24\n", lab.name, lab.backend, lab.underlay));
    for host in &lab.hosts {
        let lease = host.lease().await.unwrap_or_else(|error| error.to_string());
        let format = "{{.Names}} ({{.Image}}) {{.Status}} on {{.Networks}}";
        let containers = match host.docker(&["ps", "--format", format]).await {
            Ok(none) if none.is_empty() => "no containers".to_owned(),
            Ok(containers) => containers.replace('\n', "\n  "),
            Err(error) => error.to_string(),
        };
        print(format_args!("{} ({}): lease {lease}\n  {containers}\n", host.name, host.container));
    }
    Ok(())
}

/// Writes down all that is known of each host.
pub async fn diagnose(args: &Args, progress: &Progress) -> Result<()> {
    let lab = Lab::find(&Engine::connect().await?, &args.name).await?;
    let directory = write_diagnosis(&lab).await?;
    progress.say(format_args!("written: {}", directory.display()));
    Ok(())
}

async fn write_diagnosis(lab: &Lab) -> Result<PathBuf> {
    let directory = Path::new("target/diagnosis").join(&lab.name);
    crate::diagnose::write(&lab.hosts, Some(&lab.etcd), &directory).await
}

/// Makes sure of a network and a workload on each host: `c1` on the first, and so on.
async fn workloads(hosts: &[LabHost]) -> Result<Vec<Workload>> {
    let all = hosts.iter().enumerate().map(async |(number, host)| {
        crate::workload::ensure_network(host, NETWORK, crate::workload::Ipam::Docker).await?;
        Workload::ensure(host, NETWORK, &format!("c{}", number + 1)).await
    });
    futures_util::future::join_all(all).await.into_iter().collect()
}

/// Runs the matrix, prints it, and on failure writes the diagnosis.
async fn try_all(lab: &Lab, workloads: &[Workload], progress: &Progress) -> Result<()> {
    progress.say(format_args!("tries {} paths", crate::old_matrix::plan(workloads.len()).len()));
    let tried = async {
        let outcomes = crate::old_matrix::settle_and_run(workloads, SETTLE, FILE_BYTES, progress).await?;
        let names: Vec<String> = workloads.iter().map(Workload::label).collect();
        print(format_args!("{}", crate::old_matrix::render(&names, &outcomes)));
        crate::old_matrix::all_up(workloads, &outcomes)?;
        Ok::<_, Error>(outcomes.len())
    };
    match tried.await {
        Ok(paths) => {
            let seconds = progress.elapsed().as_secs();
            print(format_args!("all {paths} paths up, {}, {seconds} s\n", lab.backend));
            Ok(())
        }
        Err(error) => {
            let logs = match write_diagnosis(lab).await {
                Ok(directory) => format!("logs and state of each host: {}", directory.display()),
                Err(second) => format!("no diagnosis could be written: {second}"),
            };
            Err(Error::State(format!("{error}\n{logs}")))
        }
    }
}
