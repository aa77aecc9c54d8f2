//! [`Nat`] through the program `nft` of the host.

use flannel_host::filter::monitor::Monitor;
use flannel_host::filter::nft::Nft as Program;

use super::{Nat, table};
use crate::firewall::{Firewall, Rules as _};

/// `nft`, with what to do where it is not installed.
pub const NFT: Program = Program::new("install nftables, or leave out -o flannel.gateway");

/// Sets one table, which is ours.
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
    async fn apply(&self, nat: &Nat) -> Result<bool, String> {
        match NFT.ensure(&table(nat, &self.table)).await {
            Ok(changed) => Ok(changed),
            // Nothing to remove it with: a host without such networks needs no nft.
            Err(error) if nat.is_empty() => {
                tracing::debug!("{error}");
                Ok(false)
            }
            Err(error) => Err(format!("cannot set the rules of networks with flannel.gateway=true: {error}")),
        }
    }

    fn monitor(&self) -> Monitor {
        Monitor::open()
    }
}

/// Whether nft works, in one line if it does not.
pub async fn check() -> Result<(), String> {
    NFT.version().await.map(drop).map_err(|error| error.to_string())
}
