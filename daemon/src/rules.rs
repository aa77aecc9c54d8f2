//! The packet-filter rules of this host: set up once, then checked at intervals.

use std::time::Duration;

use flannel_core::config::NetworkConfig;
use flannel_core::key::SubnetKey;
use flannel_core::rules::RuleSet;
use flannel_core::rules::iptables::Purpose;
use tokio::time::{Instant, MissedTickBehavior};

use crate::error::Error;
use crate::metrics::METRICS;
use crate::opts::Options;
use crate::traffic::iptables::Iptables;
use crate::traffic::nftables::Nftables;
use crate::traffic::{TrafficError, TrafficManager as _};

/// Without br_netfilter, packets between two ports of a bridge pass no iptables chain.
const BRIDGE_NETFILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// The way the rules are set.
enum Filter {
    Iptables(Iptables),
    Nftables(Nftables),
    /// No rules are wanted, and there is no program to remove any.
    None,
}

/// The rule sets of the families that are on.
pub struct Rules {
    filter: Filter,
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
        let filter = match Filter::new(config.nftables).await {
            Ok(filter) => filter,
            Err(error) if wanted => return Err(Error::Traffic(error.to_string())),
            Err(error) => {
                tracing::debug!("no rules are wanted, and none can be removed: {error}");
                Filter::None
            }
        };
        if wanted && !std::path::Path::new(BRIDGE_NETFILTER).exists() {
            tracing::warn!(
                "{BRIDGE_NETFILTER} is missing: run `modprobe br_netfilter`, as Docker does, if containers of one host can't reach each other"
            );
        }
        let mut rules = Self { filter, sets };
        rules.apply().await.map_err(Error::Traffic)?;
        Ok(rules)
    }

    async fn apply(&mut self) -> Result<bool, String> {
        let mut repaired = false;
        for set in &self.sets {
            let applied = match &mut self.filter {
                Filter::Iptables(iptables) => iptables.apply(set).await,
                Filter::Nftables(nftables) => nftables.apply(set).await,
                Filter::None => Ok(false),
            };
            repaired |= applied.map_err(|e| e.to_string())?;
        }
        Ok(repaired)
    }

    /// Removes the rules of the other way, and those of a family that is off. A program that is not there has left
    /// nothing.
    async fn clear_others(&mut self) -> Result<(), TrafficError> {
        let networks = || self.sets.iter().map(|set| set.network);
        let forward: Vec<_> = networks().map(|net| (net, Purpose::Forward)).collect();
        let both: Vec<_> = forward.iter().copied().chain(networks().map(|net| (net, Purpose::Masquerade))).collect();
        match &mut self.filter {
            Filter::Iptables(iptables) => {
                iptables.clear(&both).await?;
                match Nftables::new(None).await {
                    Ok(mut nftables) => nftables.clear(&[]).await,
                    Err(_) => Ok(()),
                }
            }
            Filter::Nftables(nftables) => {
                nftables.clear(&both).await?;
                match Iptables::new().await {
                    // The forward rules may be needed there too.
                    Ok(mut iptables) => iptables.clear(&forward).await,
                    Err(_) => Ok(()),
                }
            }
            Filter::None => Ok(()),
        }
    }

    /// Clears what an earlier run left (only now, so that there was no moment without rules), then checks the rules
    /// every `period`, for ever; a fault is told once.
    pub async fn keep(mut self, period: Duration) {
        let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        if let Err(fault) = self.clear_others().await {
            tracing::warn!("rules of an earlier run can't be removed: {fault}");
        }
        loop {
            ticks.tick().await;
            match self.apply().await {
                Ok(true) => {
                    METRICS.rule_repairs.inc();
                    tracing::warn!("rules were missing or changed by another program: put right");
                }
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

impl Filter {
    async fn new(nftables: bool) -> Result<Self, TrafficError> {
        let iptables = Iptables::new().await;
        if nftables { Nftables::new(iptables.ok()).await.map(Self::Nftables) } else { iptables.map(Self::Iptables) }
    }
}
