//! Rules by the programs `iptables-save` and `iptables-restore`: one look and at most one transaction a table.

use flannel_core::ipnet::IpNet;
use flannel_core::rules::RuleSet;
use flannel_core::rules::iptables::{Chain, Purpose, chain, knows_random_fully};

use super::{Except, TrafficError, TrafficManager, run};

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

    /// Whether the host drops forwarded packets of a family that no rule accepts, as Docker has it.
    pub(super) async fn drops_forwarded(&self, network: &IpNet) -> Result<bool, TrafficError> {
        let save = run(&format!("{}-save", family(network)), &["-t", "filter"], None).await?;
        Ok(save.lines().any(|line| line.starts_with(":FORWARD DROP")))
    }

    /// Makes one of our chains as the set wants it.
    pub(super) async fn apply_one(&self, rules: &RuleSet, purpose: Purpose) -> Result<bool, TrafficError> {
        let rules = RuleSet { random_fully: rules.random_fully && self.random_fully, ..*rules };
        repair(family(&rules.network), &chain(&rules, purpose)).await
    }
}

impl TrafficManager for Iptables {
    async fn apply(&mut self, rules: &RuleSet) -> Result<bool, TrafficError> {
        let masquerade = self.apply_one(rules, Purpose::Masquerade).await?;
        let forward = self.apply_one(rules, Purpose::Forward).await?;
        Ok(masquerade || forward)
    }

    async fn clear(&mut self, except: Except<'_>) -> Result<(), TrafficError> {
        for family in ["iptables", "ip6tables"] {
            for purpose in [Purpose::Masquerade, Purpose::Forward] {
                if !except.iter().any(|(net, kept)| self::family(net) == family && *kept == purpose) {
                    repair(family, &Chain::none(purpose)).await?;
                }
            }
        }
        Ok(())
    }
}

fn family(network: &IpNet) -> &'static str {
    match network {
        IpNet::V4(_) => "iptables",
        IpNet::V6(_) => "ip6tables",
    }
}

async fn repair(family: &str, chain: &Chain) -> Result<bool, TrafficError> {
    let save = run(&format!("{family}-save"), &["-t", chain.table()], None).await?;
    let Some(text) = chain.repair(&save) else { return Ok(false) };
    tracing::info!("setting the {} rules of {family}", chain.purpose());
    // Another program may hold the lock for a moment.
    run(&format!("{family}-restore"), &["--noflush", "--wait", "10"], Some(&text)).await?;
    Ok(true)
}
