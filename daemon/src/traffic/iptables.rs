//! Rules by the programs `iptables-save` and `iptables-restore`: one look and at most one transaction a table.

use std::process::Stdio;

use flannel_core::ipnet::IpNet;
use flannel_core::rules::RuleSet;
use flannel_core::rules::iptables::{Chain, chains, knows_random_fully};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{TrafficError, TrafficManager};

/// The iptables of the host.
#[derive(Debug, Clone, Copy)]
pub struct Iptables {
    random_fully: bool,
}

impl Iptables {
    /// Asks the program for its version, which decides about `--random-fully`.
    pub async fn new() -> Result<Self, TrafficError> {
        let version = run("iptables", &["--version"], None).await?;
        Ok(Self { random_fully: knows_random_fully(&version) })
    }
}

impl TrafficManager for Iptables {
    async fn apply(&self, rules: &RuleSet) -> Result<bool, TrafficError> {
        let family = match rules.network {
            IpNet::V4(_) => "iptables",
            IpNet::V6(_) => "ip6tables",
        };
        let rules = RuleSet { random_fully: rules.random_fully && self.random_fully, ..*rules };
        let mut repaired = false;
        for chain in chains(&rules) {
            repaired |= repair(family, &chain).await?;
        }
        Ok(repaired)
    }
}

async fn repair(family: &str, chain: &Chain) -> Result<bool, TrafficError> {
    let save = run(&format!("{family}-save"), &["-t", chain.table], None).await?;
    let Some(text) = chain.repair(&save) else { return Ok(false) };
    tracing::info!("setting the {} rules of {family}", chain.purpose());
    // Another program may hold the lock for a moment.
    run(&format!("{family}-restore"), &["--noflush", "--wait", "10"], Some(&text)).await?;
    Ok(true)
}

async fn run(program: &str, args: &[&str], input: Option<&str>) -> Result<String, TrafficError> {
    let fail = |why: String| TrafficError(format!("{program} {}: {why}", args.join(" ")));
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command
        .spawn()
        .map_err(|e| fail(format!("{e}; install iptables, or switch -iptables-forward-rules and -ip-masq off")))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes()).await.map_err(|e| fail(e.to_string()))?;
    }
    let output = child.wait_with_output().await.map_err(|e| fail(e.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(fail(format!("{}: {}", output.status, said.lines().next().unwrap_or("it said nothing"))))
    }
}
