//! The packet-filter rules of this host: set before the network is announced, then checked at intervals and whenever
//! another program has changed the packet filter.
//!
//! The config chooses between iptables and nftables. Each way clears what the other left, so that switching leaves
//! nothing behind.

use std::time::Duration;

use flannel_core::config::NetworkConfig;
use flannel_core::family::Family;
use flannel_core::filter::iptables::{Table, knows_random_fully};
use flannel_core::filter::network::{NetworkRules, Purpose, no_table};
use flannel_core::filter::nft;
use flannel_core::key::SubnetKey;
use flannel_host::filter::FilterError;
use flannel_host::filter::iptables::Iptables;
use flannel_host::filter::monitor::Monitor;
use flannel_host::filter::nft::Nft;
use flannel_host::say_once::SayOnce;
use tokio::time::{Instant, MissedTickBehavior};

use crate::error::Error;
use crate::metrics::METRICS;
use crate::opts::Options;

/// Without br_netfilter, packets between two ports of a bridge pass no iptables chain.
const BRIDGE_NETFILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// What to do where a program is not installed.
const REMEDY: &str = "install it, or switch -iptables-forward-rules and -ip-masq off";

/// The programs that set the rules.
#[derive(Debug, Clone, Copy)]
enum Programs {
    Iptables,
    /// With the host's iptables as well, if it has any: an accept in our table does not overrule a drop in another's,
    /// so the forward rules are installed there too where the policy of FORWARD is DROP, as Docker sets it.
    Nftables {
        iptables: bool,
    },
    /// No rules are wanted, and there is no program that could remove any.
    None,
}

/// The rules of each address family that is on.
#[derive(Debug)]
pub struct Filter {
    programs: Programs,
    rules: Vec<NetworkRules>,
    monitor: Monitor,
}

impl Filter {
    /// Installs the rules. Those switched off are removed if an earlier run left them.
    pub async fn set_up(options: &Options, config: &NetworkConfig, lease: SubnetKey) -> Result<Self, Error> {
        let wanted = options.ip_masq || options.forward_rules;
        let (programs, random_fully) = match find_programs(config.nftables).await {
            Ok(found) => found,
            Err(error) if wanted => return Err(Error::Traffic(error.to_string())),
            Err(error) => {
                tracing::debug!("no rules are wanted, and none can be removed: {error}");
                (Programs::None, false)
            }
        };
        let rules = config.ranges.values().filter_map(|range| {
            Some(NetworkRules {
                network: range.network,
                subnet: lease.net(&range.network)?,
                masquerade: options.ip_masq,
                forward: options.forward_rules,
                random_fully: random_fully && !options.random_fully_off,
            })
        });
        // Opened first, so that no change after ours goes unnoticed.
        let filter = Self { programs, rules: rules.collect(), monitor: Monitor::open() };
        if wanted && !std::path::Path::new(BRIDGE_NETFILTER).exists() {
            tracing::warn!(
                "{BRIDGE_NETFILTER} is missing: run `modprobe br_netfilter`, as Docker does, if containers of one host \
                 cannot reach each other"
            );
        }
        filter.apply().await.map_err(|error| Error::Traffic(error.to_string()))?;
        Ok(filter)
    }

    /// Makes the rules right; true if they were not.
    async fn apply(&self) -> Result<bool, FilterError> {
        let mut repaired = false;
        for rules in &self.rules {
            repaired |= match self.programs {
                Programs::Iptables => set_iptables(rules).await?,
                Programs::Nftables { iptables } => {
                    let table = set_table(&rules.table()).await?;
                    let forward = iptables && accept_beside_drop(rules).await?;
                    table || forward
                }
                Programs::None => false,
            };
        }
        Ok(repaired)
    }

    /// Removes the rules of the other way, and those of a family that is off.
    async fn clear_others(&self) -> Result<(), FilterError> {
        for family in Family::ALL {
            let is_on = self.rules.iter().any(|rules| rules.family() == family);
            let unused = match self.programs {
                Programs::None => return Ok(()),
                Programs::Iptables if is_on => &[][..],
                // The forward rules may be needed beside the table.
                Programs::Nftables { .. } if is_on => &[Purpose::Masquerade],
                _ => &Purpose::ALL,
            };
            let program = Iptables::new(family, REMEDY);
            for purpose in unused {
                if was_there(program.ensure(&purpose.no_chain()).await)? {
                    tracing::info!("removed the {purpose} rules of {program} left by an earlier run");
                }
            }
            let in_nftables = matches!(self.programs, Programs::Nftables { .. });
            if in_nftables && is_on {
                continue;
            }
            match was_there(Nft::new(REMEDY).ensure(&no_table(family)).await) {
                Ok(true) => tracing::info!("removed the nftables table {} left by an earlier run", no_table(family)),
                Ok(false) => {}
                // Where nft does not work, nothing has used it.
                Err(error) if !in_nftables => tracing::debug!("{error}"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Clears what an earlier run left (only now, so that there was no moment without rules), then checks the rules
    /// every `period` and after each change by another program, for ever. A lasting fault is logged once.
    pub async fn keep(mut self, period: Duration) {
        let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut faults = SayOnce::default();
        if let Err(error) = self.clear_others().await {
            tracing::warn!("cannot remove the rules of an earlier run: {error}");
        }
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.monitor.due() => {}
            }
            self.monitor.checking();
            match self.apply().await {
                Ok(true) => {
                    METRICS.rule_repairs.inc();
                    tracing::warn!("another program removed or changed our rules: repaired");
                }
                Ok(false) => drop(faults.clear(&())),
                Err(error) => {
                    let error = error.to_string();
                    if faults.is_news((), &error) {
                        tracing::warn!("cannot check the rules: {error}; trying again");
                    }
                }
            }
        }
    }
}

/// The programs of the host, and whether they choose source ports at random.
async fn find_programs(nftables: bool) -> Result<(Programs, bool), FilterError> {
    let iptables = Iptables::new(Family::V4, REMEDY).version().await;
    if nftables {
        Nft::new(REMEDY).version().await?;
        return Ok((Programs::Nftables { iptables: iptables.is_ok() }, true));
    }
    Ok((Programs::Iptables, knows_random_fully(&iptables?)))
}

/// A program that is not installed has left nothing.
fn was_there(removed: Result<bool, FilterError>) -> Result<bool, FilterError> {
    match removed {
        Err(FilterError::Program(error)) if error.is_not_installed() => Ok(false),
        other => other,
    }
}

async fn set_iptables(rules: &NetworkRules) -> Result<bool, FilterError> {
    let program = Iptables::new(rules.family(), REMEDY);
    let mut repaired = false;
    for purpose in Purpose::ALL {
        if program.ensure(&rules.chain(purpose)).await? {
            tracing::info!("set the {purpose} rules of {program}");
            repaired = true;
        }
    }
    Ok(repaired)
}

async fn set_table(table: &nft::Table) -> Result<bool, FilterError> {
    let repaired = Nft::new(REMEDY).ensure(table).await?;
    if repaired {
        tracing::info!("set the rules of nftables, table {table}");
    }
    Ok(repaired)
}

/// Installs the forward rules in iptables as well where they are needed, and only there.
async fn accept_beside_drop(rules: &NetworkRules) -> Result<bool, FilterError> {
    let program = Iptables::new(rules.family(), REMEDY);
    let saved = program.saved(Table::Filter).await?;
    let forward = rules.forward && saved.drops_by_default("FORWARD");
    let repaired = program.repair(&NetworkRules { forward, ..*rules }.chain(Purpose::Forward), &saved).await?;
    if repaired {
        tracing::info!("set the {} rules of {program}", Purpose::Forward);
    }
    Ok(repaired)
}
