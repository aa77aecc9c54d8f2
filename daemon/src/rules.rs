//! The packet-filter rules of this host: set up once, then checked at intervals.

use std::time::Duration;

use flannel_core::config::NetworkConfig;
use flannel_core::key::SubnetKey;
use flannel_core::rules::RuleSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::error::Error;
use crate::opts::Options;
use crate::traffic::TrafficManager as _;
use crate::traffic::iptables::Iptables;

/// Without br_netfilter, packets between two ports of a bridge pass no iptables chain.
const BRIDGE_NETFILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// The rule sets of the families that are on.
pub struct Rules {
    /// Nothing where no rules are wanted and there is no iptables.
    manager: Option<Iptables>,
    sets: Vec<RuleSet>,
}

impl Rules {
    /// Makes the rules stand before anybody is told that the network is ready. Rules switched off are removed if an
    /// earlier run left them.
    pub async fn set_up(options: &Options, config: &NetworkConfig, lease: SubnetKey) -> Result<Self, Error> {
        let set = |range: &flannel_core::config::Range| {
            Some(RuleSet {
                network: range.network,
                subnet: lease.net_like(&range.network)?,
                masquerade: options.ip_masq,
                forward: options.forward_rules,
                random_fully: !options.random_fully_off,
            })
        };
        let sets = config.ranges().filter_map(set).collect();
        let wanted = options.ip_masq || options.forward_rules;
        let manager = match Iptables::new().await {
            Ok(manager) => Some(manager),
            Err(error) if wanted => return Err(Error::Traffic(error.to_string())),
            Err(error) => {
                tracing::debug!("no rules are wanted, and none can be removed: {error}");
                None
            }
        };
        if wanted && !std::path::Path::new(BRIDGE_NETFILTER).exists() {
            tracing::warn!(
                "{BRIDGE_NETFILTER} is missing: run `modprobe br_netfilter`, as Docker does, if containers of one host can't reach each other"
            );
        }
        let rules = Self { manager, sets };
        rules.apply().await.map_err(Error::Traffic)?;
        Ok(rules)
    }

    async fn apply(&self) -> Result<bool, String> {
        let Some(manager) = &self.manager else { return Ok(false) };
        let mut repaired = false;
        for set in &self.sets {
            repaired |= manager.apply(set).await.map_err(|e| e.to_string())?;
        }
        Ok(repaired)
    }

    /// Checks the rules every `period`, for ever; a fault is told once.
    pub async fn keep(&self, period: Duration) {
        let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            ticks.tick().await;
            match self.apply().await {
                Ok(true) => tracing::warn!("rules were missing or changed by another program: put right"),
                Ok(false) => told.clear(),
                Err(fault) if fault != told => {
                    tracing::warn!("rules can't be checked: {fault}; trying again");
                    told = fault;
                }
                Err(_) => {}
            }
        }
    }
}
