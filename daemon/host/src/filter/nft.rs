//! Rules through `nft`: one listing and at most one transaction a table.

use flannel_core::filter::nft::{Listing, Table};

use super::FilterError;
use crate::program::Program;

/// The nftables of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nft {
    remedy: &'static str,
}

impl Nft {
    /// `remedy` says what to do where `nft` is not installed.
    pub const fn new(remedy: &'static str) -> Self {
        Self { remedy }
    }

    /// The version line of the program.
    pub async fn version(&self) -> Result<String, FilterError> {
        Ok(self.program(["--version"]).run().await?.stdout)
    }

    /// The table as the kernel has it; nothing where there is no such table.
    pub async fn listed(&self, table: &Table) -> Result<Option<Listing>, FilterError> {
        let list = self.program(["--stateless", "list", "table", table.family, &table.name]);
        match list.run().await {
            Ok(output) => Ok(Some(Listing::parse(&output.stdout, table)?)),
            Err(error) if error.stderr().contains("No such file or directory") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a table right; true if it was not.
    pub async fn ensure(&self, table: &Table) -> Result<bool, FilterError> {
        let Some(text) = table.repair(self.listed(table).await?.as_ref()) else { return Ok(false) };
        tracing::debug!("nft: {}", text.trim_end().replace('\n', "; "));
        self.program(["-f", "-"]).stdin(&text).run().await?;
        Ok(true)
    }

    fn program<'a>(&'a self, args: impl IntoIterator<Item = &'a str>) -> Program<'a> {
        Program::new("nft").args(args).remedy(self.remedy)
    }
}
