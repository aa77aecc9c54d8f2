//! [`Firewall`] through the iptables programs of the host.

use flannel_core::family::Family;
use flannel_host::filter::FilterError;
use flannel_host::filter::iptables::Iptables as Program;
use flannel_host::filter::monitor::Monitor;
use tracing::debug;

use super::{BridgeRules, Firewall};

/// What to do where iptables is not installed.
const REMEDY: &str = "install iptables, or accept the bridges \"fl-*\" in your forward rules yourself; until then \
                      packets between containers may be dropped";

/// Sets the rules of iptables, and of ip6tables where a network has IPv6.
#[derive(Debug)]
pub struct Iptables {
    chain: String,
}

impl Iptables {
    /// Works on this chain. iptables allows 28 characters.
    pub fn new(chain: String) -> Self {
        Self { chain }
    }
}

/// The program for a family.
pub fn program(family: Family) -> Program {
    Program::new(family, REMEDY)
}

impl Firewall for Iptables {
    async fn apply(&self, rules: &BridgeRules) -> Result<bool, String> {
        let mut changed = false;
        for family in Family::ALL {
            for chain in rules.chains(family, &self.chain) {
                match program(family).ensure(&chain).await {
                    Ok(repaired) => changed |= repaired,
                    // Nothing to remove with, and so nothing to remove: a host may well have no ip6tables.
                    Err(error) if chain.rules.is_empty() => debug!("{error}"),
                    Err(error) => return Err(describe(&error)),
                }
            }
        }
        Ok(changed)
    }

    fn monitor(&self) -> Monitor {
        Monitor::open()
    }
}

fn describe(error: &FilterError) -> String {
    match error {
        FilterError::Program(error) if error.is_not_installed() => error.to_string(),
        error => format!("cannot set the forward rules, so packets between containers may be dropped: {error}"),
    }
}
