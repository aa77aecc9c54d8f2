//! Whether the packet filter holds the rules the plugin sets.

use flannel_core::family::Family;

use super::Problem;
use crate::firewall::iptables::program;
use crate::firewall::{BridgeRules, Rules as _};
use crate::nat::nft::NFT;
use crate::nat::{Nat, table};

/// What differs in the forward rules, one problem a table.
pub(super) async fn forward(rules: &BridgeRules, chain: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for family in Family::ALL {
        for chain in rules.chains(family, chain) {
            let program = program(family);
            match program.saved(chain.table).await {
                Ok(saved) => {
                    let differences = chain.differences(&saved);
                    problems.extend(differing("rules-wrong", &program.to_string(), &differences));
                }
                // Without ip6tables there are no rules to compare.
                Err(_) if chain.rules.is_empty() => {}
                Err(error) => problems.push(Problem::unreadable(error.to_string(), "iptables")),
            }
        }
    }
    problems
}

/// What differs in the table of egress rules and published ports.
pub(super) async fn ports(nat: &Nat, name: &str) -> Option<Problem> {
    let table = table(nat, name);
    match NFT.listed(&table).await {
        Ok(listed) => differing("ports-wrong", "nftables", &table.differences(listed.as_ref())),
        // Without such networks a host needs no nft.
        Err(_) if nat.is_empty() => None,
        Err(error) => Some(Problem::unreadable(error.to_string(), "nftables")),
    }
}

fn differing(kind: &'static str, filter: &str, differences: &[String]) -> Option<Problem> {
    let (first, rest) = differences.split_first()?;
    let more = if rest.is_empty() { String::new() } else { format!(" (and {} more differences)", rest.len()) };
    Some(Problem::of_rules(kind, format!("{filter}, {first}{more}")))
}
