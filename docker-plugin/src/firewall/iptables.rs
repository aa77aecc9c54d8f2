//! [`Firewall`] by the `iptables` programs of the host.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tracing::debug;

use super::{Family, Firewall, RuleSet, Table, render};

/// Runs `iptables` and `iptables-restore`, and `ip6tables` where a network has IPv6.
#[derive(Debug)]
pub struct Iptables {
    chain: String,
}

impl Iptables {
    /// Works on this chain. iptables allows 28 characters.
    pub fn new(chain: String) -> Self {
        Self { chain }
    }

    async fn fill(&self, rules: &RuleSet, family: Family, table: Table) -> Result<(), String> {
        let there = run(family, &["-t", table.name(), "-C", "FORWARD", "-j", &self.chain], None).await?.ok;
        let text = render(rules, family, table, &self.chain, !there);
        debug!("{}", text.trim_end().replace('\n', "; "));
        run(family, &["--noflush"], Some(&text)).await?.or_refused(family)
    }

    async fn remove(&self, family: Family, table: Table) -> Result<(), String> {
        let on = |words: &[&'static str]| {
            let mut args = vec!["-t", table.name()];
            args.extend(words);
            args.push(&self.chain);
            args
        };
        if !run(family, &on(&["-S"]), None).await?.ok {
            return Ok(());
        }
        while run(family, &on(&["-D", "FORWARD", "-j"]), None).await?.ok {}
        run(family, &on(&["-F"]), None).await?.or_refused(family)?;
        run(family, &on(&["-X"]), None).await?.or_refused(family)
    }
}

impl Firewall for Iptables {
    async fn apply(&self, rules: &RuleSet) -> Result<(), String> {
        for family in [Family::V4, Family::V6] {
            for table in Table::ALL {
                if rules.needs(family, table) {
                    self.fill(rules, family, table).await?;
                } else if let Err(e) = self.remove(family, table).await {
                    // Nothing to remove with, and so nothing to remove: a host may well have no ip6tables.
                    debug!("{e}");
                }
            }
        }
        Ok(())
    }
}

struct Outcome {
    ok: bool,
    stderr: String,
}

impl Outcome {
    fn or_refused(self, family: Family) -> Result<(), String> {
        if self.ok {
            return Ok(());
        }
        let program = program(family, false);
        Err(format!(
            "{program} refused our forward rules, so packets between containers may be dropped: {}",
            self.stderr
        ))
    }
}

fn program(family: Family, restore: bool) -> &'static str {
    match (family, restore) {
        (Family::V4, false) => "iptables",
        (Family::V4, true) => "iptables-restore",
        (Family::V6, false) => "ip6tables",
        (Family::V6, true) => "ip6tables-restore",
    }
}

/// Runs iptables with these words, or iptables-restore where there is input.
async fn run(family: Family, args: &[&str], input: Option<&str>) -> Result<Outcome, String> {
    let program = program(family, input.is_some());
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => format!(
            "{program} is not there: install iptables, or accept the bridges \"fl-*\" in your forward rules yourself; \
             until then packets between containers may be dropped"
        ),
        _ => format!("{program} can't be run: {e}"),
    };
    let mut command = Command::new(program);
    command.arg("--wait").args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why itself.
        match stdin.write_all(input.unwrap_or_default().as_bytes()).await {
            Ok(()) | Err(_) => drop(stdin),
        }
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    let stderr = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Ok(Outcome { ok: output.status.success(), stderr })
}
