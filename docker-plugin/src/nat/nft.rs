//! [`Nat`] by the program `nft` of the host.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tracing::debug;

use super::{Nat, render};
use crate::firewall::{Firewall, Rules as _};

/// Runs `nft` on one table, which is ours.
#[derive(Debug)]
pub struct Nft {
    table: String,
}

impl Nft {
    /// Works on this table of the family inet.
    pub fn new(table: String) -> Self {
        Self { table }
    }
}

impl Firewall<Nat> for Nft {
    async fn apply(&self, nat: &Nat) -> Result<(), String> {
        if nat.is_empty() && !list(&self.table).await.is_ok_and(|listed| listed.is_some()) {
            // Nothing to remove, or nothing to remove it with: a host without such networks needs no nft.
            return Ok(());
        }
        let text = render(nat, &self.table);
        debug!("{}", text.trim_end().replace('\n', "; "));
        let outcome = run(&["-f", "-"], &text).await?;
        if outcome.ok {
            return Ok(());
        }
        Err(format!("nft refused the rules of networks with flannel.gateway=true: {}", outcome.stderr))
    }
}

/// Whether nft is there, in one line if it is not.
pub async fn check() -> Result<(), String> {
    run(&["--version"], "").await.map(drop)
}

/// Our table in nft's words; nothing where there is none.
pub async fn list(table: &str) -> Result<Option<String>, String> {
    let outcome = run(&["list", "table", "inet", table], "").await?;
    match outcome {
        Outcome { ok: true, stdout, .. } => Ok(Some(stdout)),
        Outcome { stderr, .. } if stderr.contains("No such file or directory") => Ok(None),
        Outcome { stderr, .. } => Err(format!("nft can't list table inet {table}: {stderr}")),
    }
}

struct Outcome {
    ok: bool,
    stdout: String,
    stderr: String,
}

async fn run(args: &[&str], input: &str) -> Result<Outcome, String> {
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => {
            "nft is not there: install nftables, or leave out -o flannel.gateway".to_owned()
        }
        _ => format!("nft can't be run: {e}"),
    };
    let mut command = Command::new("nft");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why itself.
        match stdin.write_all(input.as_bytes()).await {
            Ok(()) | Err(_) => drop(stdin),
        }
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Ok(Outcome { ok: output.status.success(), stdout, stderr })
}
