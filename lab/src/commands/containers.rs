//! The commands on labs of containers.

use super::lab::{self, Lab};
use crate::args::Args;
use crate::engine::Engine;
use crate::progress::{Progress, print};
use crate::topology::Topology;
use crate::{Error, Result};

/// Takes the lab down; a lab that is not there is down.
pub(super) async fn down(args: &Args, progress: &Progress) -> Result<()> {
    let engine = Engine::connect().await?;
    if progress.during("compose removes the lab", lab::remove(&engine, &args.name)).await? {
        progress.say(format_args!("lab {} removed: its containers, their volumes and its network", args.name));
    } else {
        progress.say(format_args!("lab {}: there is none", args.name));
    }
    Ok(())
}

/// Tries every path of a running lab.
pub(super) async fn matrix(args: &Args, progress: &Progress) -> Result<()> {
    let lab = Lab::find(&Engine::connect().await?, &args.name).await?;
    let topology = Topology::load(&lab.topology)?.with_backend(Some(&lab.backend));
    super::try_all(args, &lab, &topology, progress).await
}

/// Shows hosts, leases and containers.
pub(super) async fn status(args: &Args) -> Result<()> {
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
pub(super) async fn diagnose(args: &Args, progress: &Progress) -> Result<()> {
    let lab = Lab::find(&Engine::connect().await?, &args.name).await?;
    let directory = super::write_diagnosis(&lab).await?;
    progress.say(format_args!("written: {}", directory.display()));
    Ok(())
}

/// Runs a command on a host (`h1`) or in its workload (`c1`), on this terminal.
pub(super) async fn exec(args: &Args) -> Result<i32> {
    let lab = Lab::find(&Engine::connect().await?, &args.name).await?;
    let wanted = &args.words[0];
    let inside = wanted.strip_prefix('c').map(|number| format!("h{number}"));
    let host = lab.hosts.iter().find(|host| host.name == *wanted || Some(&host.name) == inside.as_ref());
    let host = host.ok_or_else(|| {
        let names: Vec<&str> = lab.hosts.iter().map(|host| host.name.as_str()).collect();
        Error::Usage(format!("lab {}: there is no {wanted}, but {}, and c1 on h1", args.name, names.join(", ")))
    })?;
    let terminal = if std::io::IsTerminal::is_terminal(&std::io::stdin()) { "-it" } else { "-i" };
    let mut command = tokio::process::Command::new("docker");
    command.args(["exec", terminal, &host.container]);
    if inside.is_some() {
        command.args(["docker", "exec", terminal, wanted]);
    }
    command.args(&args.words[1..]);
    let ended = command.status().await.map_err(|error| Error::State(format!("docker exec: {error}")))?;
    Ok(ended.code().unwrap_or(1))
}
