//! Rules through `iptables-save` and `iptables-restore`: one read and at most one transaction a table.

use std::fmt;

use flannel_core::family::Family;
use flannel_core::filter::iptables::{Chain, Saved, Table};

use super::FilterError;
use crate::program::Program;

/// How long `iptables-restore` waits for the lock of another program, in seconds.
const LOCK_TIMEOUT: &str = "10";

/// The iptables of one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Iptables {
    name: &'static str,
    save: &'static str,
    restore: &'static str,
    remedy: &'static str,
}

impl Iptables {
    /// `iptables` or `ip6tables`; `remedy` says what to do where it is not installed.
    pub const fn new(family: Family, remedy: &'static str) -> Self {
        match family {
            Family::V4 => Self { name: "iptables", save: "iptables-save", restore: "iptables-restore", remedy },
            Family::V6 => Self { name: "ip6tables", save: "ip6tables-save", restore: "ip6tables-restore", remedy },
        }
    }

    /// The version line of the program.
    pub async fn version(&self) -> Result<String, FilterError> {
        Ok(Program::new(self.name).args(["--version"]).remedy(self.remedy).run().await?.stdout)
    }

    /// The rules of a table.
    pub async fn saved(&self, table: Table) -> Result<Saved, FilterError> {
        let output = Program::new(self.save).args(["-t", table.name()]).remedy(self.remedy).run().await?;
        // Some versions print the line about an incompatible table to standard error.
        let notes = output.stderr.lines().filter(|line| line.starts_with('#'));
        let text: Vec<&str> = output.stdout.lines().chain(notes).collect();
        Ok(Saved::parse(&text.join("\n"), table)?)
    }

    /// Makes a chain right; true if it was not.
    pub async fn ensure(&self, chain: &Chain) -> Result<bool, FilterError> {
        self.repair(chain, &self.saved(chain.table).await?).await
    }

    /// Makes a chain right in a table that was read already; true if it was not.
    pub async fn repair(&self, chain: &Chain, saved: &Saved) -> Result<bool, FilterError> {
        let Some(text) = chain.repair(saved) else { return Ok(false) };
        tracing::debug!("{}: {}", self.restore, text.trim_end().replace('\n', "; "));
        let restore = Program::new(self.restore).args(["--noflush", "--wait", LOCK_TIMEOUT]).remedy(self.remedy);
        restore.stdin(&text).run().await?;
        Ok(true)
    }
}

impl fmt::Display for Iptables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
