//! Rules by the program `nft`: tables of our own, replaced whole in one transaction.
//!
//! How nft lists a rule depends on its version, so what stands is not compared with our own text but with what nft
//! listed right after the table was put in place.
//!
//! An accept in our table does not overrule a drop in another's. Where the host's iptables drop what no rule of theirs
//! accepts (Docker's FORWARD policy), the forward rules therefore go there as well.

use std::collections::BTreeMap;

use flannel_core::rules::RuleSet;
use flannel_core::rules::iptables::Purpose;
use flannel_core::rules::nft;

use super::iptables::Iptables;
use super::{Except, TrafficError, TrafficManager, run};

/// The nftables of the host.
#[derive(Debug)]
pub struct Nftables {
    /// The host's iptables, if it has any.
    iptables: Option<Iptables>,
    /// How each table looked when it was right.
    right: BTreeMap<&'static str, String>,
}

impl Nftables {
    /// Checks that the program is there.
    pub async fn new(iptables: Option<Iptables>) -> Result<Self, TrafficError> {
        run("nft", &["--version"], None).await?;
        Ok(Self { iptables, right: BTreeMap::new() })
    }

    async fn apply_table(&mut self, rules: &RuleSet) -> Result<bool, TrafficError> {
        let table = nft::table(&rules.network);
        let listed = list(table).await;
        if listed.is_some() && listed.as_ref() == self.right.get(table) {
            return Ok(false);
        }
        let wanted = rules.masquerade || rules.forward;
        if !wanted && listed.is_none() {
            return Ok(false);
        }
        tracing::info!("setting the rules of nftables, table {table}");
        run("nft", &["-f", "-"], Some(&nft::replace(rules))).await?;
        match list(table).await {
            Some(listed) if nft::may_list(rules, &listed) => self.right.insert(table, listed),
            // Another hand was in between: nothing to compare with, so the next check sets the table again.
            _ => self.right.remove(table),
        };
        Ok(true)
    }
}

impl TrafficManager for Nftables {
    async fn apply(&mut self, rules: &RuleSet) -> Result<bool, TrafficError> {
        let mut repaired = self.apply_table(rules).await?;
        if let Some(iptables) = &self.iptables {
            let forward = rules.forward && iptables.drops_forwarded(&rules.network).await?;
            repaired |= iptables.apply_one(&RuleSet { forward, ..*rules }, Purpose::Forward).await?;
        }
        Ok(repaired)
    }

    async fn clear(&mut self, except: Except<'_>) -> Result<(), TrafficError> {
        for table in nft::TABLES {
            if !except.iter().any(|(net, _)| nft::table(net) == table) && list(table).await.is_some() {
                tracing::info!("removing nftables table {table} of an earlier run");
                run("nft", &["-f", "-"], Some(&nft::remove(table))).await?;
                self.right.remove(table);
            }
        }
        Ok(())
    }
}

/// The table as nft prints it, without counters; nothing when there is none.
async fn list(table: &str) -> Option<String> {
    let (family, name) = table.split_once(' ')?;
    run("nft", &["--stateless", "list", "table", family, name], None).await.ok()
}
