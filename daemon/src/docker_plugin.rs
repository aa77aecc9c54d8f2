//! `-docker-plugin`: flannel-docker, the Docker network plugin, as a child of the daemon, for hosts that run both in
//! one container. It serves from the start, before there is a lease, because Docker asks once and remembers.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::opts::Options;
use flannel_host::backoff::Backoff;

const PROGRAM: &str = "flannel-docker";

/// Keeps the plugin running until `shutdown`, then ends it and waits for it.
pub async fn supervise(options: &Options, shutdown: &CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    while !shutdown.is_cancelled() {
        let reason = match command(options).spawn() {
            Ok(child) => match attend(child, shutdown).await {
                Some(reason) => reason,
                None => return,
            },
            Err(error) => format!("can't start: {error}; flannel-docker must be beside flanneld or in $PATH"),
        };
        tracing::error!("{PROGRAM} {reason}: starting it again");
        tokio::select! {
            () = backoff.pause() => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// Waits for the child's end and says how it was; nothing when it ended because of `shutdown`.
async fn attend(mut child: Child, shutdown: &CancellationToken) -> Option<String> {
    let status = tokio::select! {
        status = child.wait() => status,
        () = shutdown.cancelled() => {
            terminate(&child);
            if let Err(error) = child.wait().await {
                tracing::warn!("can't wait for {PROGRAM}: {error}");
            }
            return None;
        }
    };
    Some(status.map_or_else(|error| format!("can't be waited for: {error}"), |status| format!("ended with {status}")))
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
        tracing::warn!("can't end {PROGRAM}: {error}");
    }
}

fn command(options: &Options) -> Command {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PROGRAM)));
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(PROGRAM));
    let mut command = Command::new(program);
    command.arg("-subnet-file").arg(&options.subnet_file).arg(format!("-v={}", options.verbosity)).kill_on_drop(true);
    command
}
