//! Keeping rules in the packet filter as they are wanted, in the background.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};

/// How often the rules are put back, should a foreign hand have removed them.
const RESYNC: Duration = Duration::from_secs(30);

/// How long a call of Docker's waits for its rules at most; iptables may be held up by others' locks.
const PATIENCE: Duration = Duration::from_secs(2);

/// A set of rules, applied as a whole.
pub trait Rules: Clone + Default + Send + Sync + 'static {
    /// Whether there is nothing to keep in place.
    fn is_empty(&self) -> bool;
}

/// The packet filter, as far as rules of this kind need it.
pub trait Firewall<R = super::RuleSet>: Send + Sync + 'static {
    /// Makes the rules that are ours exactly these, and leaves nothing where there are none.
    fn apply(&self, rules: &R) -> impl Future<Output = Result<(), String>> + Send;
}

/// Keeps the rules in place.
#[derive(Debug)]
pub struct Guard<R = super::RuleSet> {
    wanted: watch::Sender<(u64, R)>,
    applied: watch::Receiver<Applied>,
}

/// The number of the last order that was tried, and what went wrong.
#[derive(Debug, Clone, Default)]
struct Applied {
    number: u64,
    failure: Option<String>,
}

impl<R: Rules> Guard<R> {
    /// Starts the work in the background; it ends when the guard is dropped. Rules stay then, as containers do.
    pub fn start(firewall: impl Firewall<R>) -> Self {
        let (wanted, orders) = watch::channel((0, R::default()));
        let (report, applied) = watch::channel(Applied::default());
        tokio::spawn(keep(firewall, orders, report));
        Self { wanted, applied }
    }

    /// Orders these rules and waits until they are in place, but not for long: Docker holds a lock meanwhile. What
    /// takes longer, or fails, is tried again in the background. `make` is called while no other order can be given,
    /// so that the last order is that of the latest state.
    pub async fn set(&self, make: impl FnOnce() -> R) -> Result<(), String> {
        let mut number = 0;
        self.wanted.send_modify(|(n, wanted)| {
            *n += 1;
            number = *n;
            *wanted = make();
        });
        let mut applied = self.applied.clone();
        let done = tokio::time::timeout(PATIENCE, applied.wait_for(|a| a.number >= number)).await;
        match done {
            Ok(Ok(applied)) => applied.failure.clone().map_or(Ok(()), Err),
            Ok(Err(_)) => Err("the rules are not kept any more: restart flannel-docker".to_owned()),
            Err(_) => {
                debug!("rules are still being set up");
                Ok(())
            }
        }
    }

    /// [`Guard::set`] for callers who go on either way: a failure is logged, and retried in the background.
    pub async fn set_in_background(&self, make: impl FnOnce() -> R) {
        drop(self.set(make).await);
    }
}

async fn keep<R: Rules>(
    firewall: impl Firewall<R>,
    mut orders: watch::Receiver<(u64, R)>,
    report: watch::Sender<Applied>,
) {
    let mut resync = tokio::time::interval(RESYNC);
    resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    resync.reset();
    let mut last_failure = None;
    loop {
        tokio::select! {
            changed = orders.changed() => if changed.is_err() { return },
            _ = resync.tick() => {
                // Without networks there is nothing to keep, unless clearing up failed.
                if last_failure.is_none() && orders.borrow().1.is_empty() {
                    continue;
                }
            }
        }
        let (number, rules) = orders.borrow_and_update().clone();
        let failure = firewall.apply(&rules).await.err();
        // The same failure every half minute is one line, not many.
        if let Some(e) = failure.as_ref().filter(|e| last_failure.as_ref() != Some(*e)) {
            warn!("{e}");
        }
        last_failure.clone_from(&failure);
        report.send_replace(Applied { number, failure });
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeFirewall;
    use super::super::{Bridge, RuleSet};
    use super::*;

    fn two() -> RuleSet {
        let bridge = |name: &str| Bridge {
            name: flannel_core::name::IfName::new(name).unwrap(),
            internal: false,
            isolated: true,
            flannel: vec!["10.5.0.0/16".parse().unwrap()],
        };
        RuleSet { bridges: vec![bridge("fl-aaa"), bridge("fl-bbb")] }
    }

    #[tokio::test(start_paused = true)]
    async fn rules_are_in_place_when_set_returns_and_are_put_back() {
        let firewall = FakeFirewall::default();
        let guard = Guard::start(firewall.clone());
        guard.set(two).await.unwrap();
        assert_eq!(firewall.applied(), [two()]);
        tokio::time::advance(RESYNC).await;
        while firewall.applied().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(firewall.applied()[1], two());
        guard.set(RuleSet::default).await.unwrap();
        assert_eq!(firewall.applied().last(), Some(&RuleSet::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_firewall_that_hangs_or_fails_keeps_no_call_for_long() {
        let firewall = FakeFirewall::default();
        let guard = Guard::start(firewall.clone());
        firewall.hang(true);
        let started = tokio::time::Instant::now();
        guard.set(two).await.unwrap();
        assert_eq!(started.elapsed(), PATIENCE);
        firewall.hang(false);
        firewall.fail(true);
        assert_eq!(guard.set(two).await, Err("made to fail".to_owned()));
        firewall.fail(false);
        guard.set(two).await.unwrap();
        assert_eq!(firewall.applied().last(), Some(&two()));
    }
}
