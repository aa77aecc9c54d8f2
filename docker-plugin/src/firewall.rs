//! Letting containers' packets through a host that forwards nothing.
//!
//! Docker sets the policy of FORWARD to DROP on most hosts, and with `br_netfilter` even packets between two ports of
//! one bridge pass through FORWARD. So each bridge is accepted there, in a chain of our own that FORWARD jumps to.
//! For `--internal` networks only the flannel network is accepted, and all else is dropped in the mangle table,
//! which comes first: an accept of somebody else's in the filter table can't undo it.
//!
//! Rules are data ([`RuleSet`]), their text is made by [`render`], and one `iptables-restore` a table applies it as
//! one transaction. [`Guard`] does that in the background, again every half minute, and tells when a change is in.

use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;

use flannel_core::name::IfName;
use ipnet::IpNet;
use tokio::sync::watch;
use tracing::{debug, warn};

#[cfg(test)]
pub mod fake;
pub mod iptables;

/// How often the rules are put back, should a foreign hand have removed them.
const RESYNC: Duration = Duration::from_secs(30);

/// How long a call of Docker's waits for its rules at most; iptables may be held up by others' locks.
const PATIENCE: Duration = Duration::from_secs(2);

/// An address family, as iptables has a program for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `iptables`
    V4,
    /// `ip6tables`
    V6,
}

impl Family {
    /// The family of a range.
    pub fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// A bridge to let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: IfName,
    /// Whether only the flannel network may be reached.
    pub internal: bool,
    /// The whole flannel network, one a family that the bridge has.
    pub flannel: Vec<IpNet>,
}

/// All the rules we want.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// In the order of their rules.
    pub bridges: Vec<Bridge>,
}

impl RuleSet {
    /// Whether there is a rule for this family and table.
    pub fn needs(&self, family: Family, table: Table) -> bool {
        let mut bridges = self.bridges.iter().filter(|b| table == Table::Filter || b.internal);
        bridges.any(|b| b.flannel.iter().any(|n| Family::of(n) == family))
    }
}

/// The input for `iptables-restore --noflush`: our chain in this table, emptied and filled. With `jump`, FORWARD is
/// told to go there.
pub fn render(rules: &RuleSet, family: Family, table: Table, chain: &str, jump: bool) -> String {
    let mut text = format!("*{}\n:{chain} - [0:0]\n", table.name());
    // Writing into a String can't fail.
    let mut line = |l: std::fmt::Arguments<'_>| writeln!(text, "{l}").expect("a String takes every write");
    for bridge in &rules.bridges {
        let name = &bridge.name;
        for net in bridge.flannel.iter().filter(|n| Family::of(n) == family) {
            match (table, bridge.internal) {
                (Table::Filter, false) => {
                    line(format_args!("-A {chain} -i {name} -j ACCEPT"));
                    line(format_args!("-A {chain} -o {name} -j ACCEPT"));
                }
                (Table::Filter, true) => {
                    line(format_args!("-A {chain} -i {name} -o {name} -j ACCEPT"));
                    line(format_args!("-A {chain} -d {net} -i {name} -j ACCEPT"));
                    line(format_args!("-A {chain} -s {net} -o {name} -j ACCEPT"));
                }
                (Table::Mangle, false) => {}
                (Table::Mangle, true) => {
                    // Neighbour discovery between two containers has addresses outside the network.
                    line(format_args!("-A {chain} -i {name} -o {name} -j RETURN"));
                    line(format_args!("-A {chain} ! -d {net} -i {name} -j DROP"));
                    line(format_args!("-A {chain} ! -s {net} -o {name} -j DROP"));
                }
            }
        }
    }
    if jump {
        line(format_args!("-A FORWARD -j {chain}"));
    }
    text.push_str("COMMIT\n");
    text
}

/// The tables our chain is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Where FORWARD's policy is.
    Filter,
    /// Where `--internal` is enforced.
    Mangle,
}

impl Table {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Filter, Self::Mangle];

    /// As iptables calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Mangle => "mangle",
        }
    }
}

/// The packet filter, as far as we need it.
pub trait Firewall: Send + Sync + 'static {
    /// Makes our chain hold exactly these rules, and removes it where there are none.
    fn apply(&self, rules: &RuleSet) -> impl Future<Output = Result<(), String>> + Send;
}

/// Keeps the rules in place.
#[derive(Debug)]
pub struct Guard {
    wanted: watch::Sender<(u64, RuleSet)>,
    applied: watch::Receiver<u64>,
}

impl Guard {
    /// Starts the work in the background; it ends when the guard is dropped. Rules stay then, as containers do.
    pub fn start(firewall: impl Firewall) -> Self {
        let (wanted, orders) = watch::channel((0, RuleSet::default()));
        let (report, applied) = watch::channel(0);
        tokio::spawn(keep(firewall, orders, report));
        Self { wanted, applied }
    }

    /// Orders these rules and waits until they are in place, but not for long: Docker holds a lock meanwhile.
    /// `make` is called while no other order can be given, so that the last order is that of the latest state.
    pub async fn set(&self, make: impl FnOnce() -> RuleSet) {
        let mut number = 0;
        self.wanted.send_modify(|(n, wanted)| {
            *n += 1;
            number = *n;
            *wanted = make();
        });
        let mut applied = self.applied.clone();
        match tokio::time::timeout(PATIENCE, applied.wait_for(|done| *done >= number)).await {
            Ok(Ok(_) | Err(_)) => {}
            Err(_) => debug!("forward rules are still being set up"),
        }
    }
}

async fn keep(firewall: impl Firewall, mut orders: watch::Receiver<(u64, RuleSet)>, report: watch::Sender<u64>) {
    let mut resync = tokio::time::interval(RESYNC);
    resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    resync.reset();
    let mut last_failure = None;
    loop {
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            _ = resync.tick() => {
                // Without networks there is nothing to keep, unless clearing up failed.
                if last_failure.is_none() && orders.borrow().1.bridges.is_empty() {
                    continue;
                }
            }
        }
        let (ordered, rules) = orders.borrow_and_update().clone();
        match firewall.apply(&rules).await {
            Ok(()) => last_failure = None,
            Err(e) => {
                // The same failure every half minute is one line, not many.
                if last_failure.as_ref() != Some(&e) {
                    warn!("{e}");
                    last_failure = Some(e);
                }
            }
        }
        report.send_replace(ordered);
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeFirewall;
    use super::*;

    fn bridge(name: &str, internal: bool, flannel: &[&str]) -> Bridge {
        let flannel = flannel.iter().map(|n| n.parse().unwrap()).collect();
        Bridge { name: IfName::new(name).unwrap(), internal, flannel }
    }

    fn two() -> RuleSet {
        RuleSet {
            bridges: vec![
                bridge("fl-aaa", false, &["10.5.0.0/16"]),
                bridge("fl-bbb", true, &["10.5.0.0/16", "fd00:5::/48"]),
            ],
        }
    }

    #[test]
    fn accepts_bridges_and_keeps_internal_ones_inside() {
        let filter = render(&two(), Family::V4, Table::Filter, "FLANNEL-DOCKER", true);
        assert_eq!(
            filter,
            "*filter\n:FLANNEL-DOCKER - [0:0]\n\
             -A FLANNEL-DOCKER -i fl-aaa -j ACCEPT\n-A FLANNEL-DOCKER -o fl-aaa -j ACCEPT\n\
             -A FLANNEL-DOCKER -i fl-bbb -o fl-bbb -j ACCEPT\n\
             -A FLANNEL-DOCKER -d 10.5.0.0/16 -i fl-bbb -j ACCEPT\n\
             -A FLANNEL-DOCKER -s 10.5.0.0/16 -o fl-bbb -j ACCEPT\n\
             -A FORWARD -j FLANNEL-DOCKER\nCOMMIT\n"
        );
        let mangle = render(&two(), Family::V6, Table::Mangle, "FLANNEL-DOCKER", false);
        assert_eq!(
            mangle,
            "*mangle\n:FLANNEL-DOCKER - [0:0]\n-A FLANNEL-DOCKER -i fl-bbb -o fl-bbb -j RETURN\n\
             -A FLANNEL-DOCKER ! -d fd00:5::/48 -i fl-bbb -j DROP\n\
             -A FLANNEL-DOCKER ! -s fd00:5::/48 -o fl-bbb -j DROP\nCOMMIT\n"
        );
    }

    #[test]
    fn a_table_without_rules_is_not_needed() {
        let plain = RuleSet { bridges: two().bridges[..1].to_vec() };
        assert!(plain.needs(Family::V4, Table::Filter) && !plain.needs(Family::V4, Table::Mangle));
        assert!(!plain.needs(Family::V6, Table::Filter) && two().needs(Family::V6, Table::Mangle));
        assert!(!RuleSet::default().needs(Family::V4, Table::Filter));
    }

    #[tokio::test(start_paused = true)]
    async fn rules_are_in_place_when_set_returns_and_are_put_back() {
        let firewall = FakeFirewall::default();
        let guard = Guard::start(firewall.clone());
        guard.set(two).await;
        assert_eq!(firewall.applied(), [two()]);
        tokio::time::advance(RESYNC).await;
        while firewall.applied().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(firewall.applied()[1], two());
        guard.set(RuleSet::default).await;
        assert_eq!(firewall.applied().last(), Some(&RuleSet::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_firewall_that_hangs_or_fails_keeps_no_call_for_long() {
        let firewall = FakeFirewall::default();
        let guard = Guard::start(firewall.clone());
        firewall.hang(true);
        let started = tokio::time::Instant::now();
        guard.set(two).await;
        assert_eq!(started.elapsed(), PATIENCE);
        firewall.hang(false);
        firewall.fail(true);
        guard.set(two).await;
        firewall.fail(false);
        guard.set(two).await;
        assert_eq!(firewall.applied().last(), Some(&two()));
    }
}
