//! Keeps rules installed in the background: sets what is ordered, and repairs what another program changed.

use std::future::Future;
use std::time::Duration;

use flannel_host::filter::monitor::Monitor;
use flannel_host::say_once::SayOnce;
use tokio::sync::watch;
use tracing::{debug, warn};

/// How often the rules are checked; the kernel announces changes of nftables and iptables-nft, but none of
/// iptables-legacy.
const RESYNC: Duration = Duration::from_secs(30);

/// How long a call of Docker's waits for its rules; iptables may be held up by another program's lock.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// A set of rules, applied as a whole.
pub trait Rules: Clone + Default + Send + Sync + 'static {
    /// Whether there is nothing to keep installed.
    fn is_empty(&self) -> bool;
}

/// The packet filter, as far as rules of this kind need it.
pub trait Firewall<R = super::BridgeRules>: Send + Sync + 'static {
    /// Makes our rules exactly these, and leaves nothing where there are none; true if anything had to be changed.
    fn apply(&self, rules: &R) -> impl Future<Output = Result<bool, String>> + Send;

    /// Notifications of changes by other programs; by default there are none.
    fn monitor(&self) -> Monitor {
        Monitor::never()
    }
}

/// Keeps the rules installed.
#[derive(Debug)]
pub struct Guard<R = super::BridgeRules> {
    wanted: watch::Sender<(u64, R)>,
    applied: watch::Receiver<Applied>,
}

/// The number of the last order that was applied, and what went wrong.
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

    /// Orders these rules and waits up to [`CALL_TIMEOUT`] until they are installed: Docker holds a lock meanwhile.
    /// What takes longer, or fails, is retried in the background. `make` is called while no other order can be given,
    /// so that the last order is that of the latest state.
    pub async fn set(&self, make: impl FnOnce() -> R) -> Result<(), String> {
        let mut number = 0;
        self.wanted.send_modify(|(n, wanted)| {
            *n += 1;
            number = *n;
            *wanted = make();
        });
        let mut applied = self.applied.clone();
        let done = tokio::time::timeout(CALL_TIMEOUT, applied.wait_for(|a| a.number >= number)).await;
        match done {
            Ok(Ok(applied)) => applied.failure.clone().map_or(Ok(()), Err),
            Ok(Err(_)) => Err("the packet filter is no longer maintained: restart flannel-docker".to_owned()),
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
    let mut monitor = firewall.monitor();
    let mut resync = tokio::time::interval(RESYNC);
    resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    resync.reset();
    let mut faults = SayOnce::default();
    loop {
        let ordered = tokio::select! {
            changed = orders.changed() => {
                if changed.is_err() {
                    return;
                }
                true
            }
            _ = resync.tick() => false,
            () = monitor.due() => false,
        };
        monitor.checking();
        // Without networks there is nothing to keep, unless removing the rules failed.
        if !ordered && faults.is_empty() && orders.borrow().1.is_empty() {
            continue;
        }
        let (number, rules) = orders.borrow_and_update().clone();
        let failure = match firewall.apply(&rules).await {
            Ok(changed) => {
                if changed && !ordered && faults.is_empty() {
                    warn!("another program removed or changed our packet-filter rules: repaired");
                }
                faults.clear(&());
                None
            }
            Err(failure) => {
                if faults.is_news((), &failure) {
                    warn!("{failure}; trying again");
                }
                Some(failure)
            }
        };
        report.send_replace(Applied { number, failure });
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeFirewall;
    use super::super::{Bridge, BridgeRules};
    use super::*;

    fn two() -> BridgeRules {
        let bridge = |name: &str| Bridge {
            name: flannel_core::name::IfName::new(name).unwrap(),
            internal: false,
            isolated: true,
            flannel: vec!["10.5.0.0/16".parse().unwrap()],
        };
        BridgeRules { bridges: vec![bridge("fl-aaa"), bridge("fl-bbb")] }
    }

    #[tokio::test(start_paused = true)]
    async fn rules_are_installed_when_set_returns_and_checked_later() {
        let firewall = FakeFirewall::default();
        let guard = Guard::start(firewall.clone());
        guard.set(two).await.unwrap();
        assert_eq!(firewall.applied(), [two()]);
        tokio::time::advance(RESYNC).await;
        while firewall.applied().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(firewall.applied()[1], two());
        guard.set(BridgeRules::default).await.unwrap();
        assert_eq!(firewall.applied().last(), Some(&BridgeRules::default()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_firewall_that_hangs_or_fails_does_not_block_a_call() {
        let firewall = FakeFirewall::default();
        let guard = Guard::start(firewall.clone());
        firewall.hang(true);
        let started = tokio::time::Instant::now();
        guard.set(two).await.unwrap();
        assert_eq!(started.elapsed(), CALL_TIMEOUT);
        firewall.hang(false);
        firewall.fail(true);
        assert_eq!(guard.set(two).await, Err("made to fail".to_owned()));
        firewall.fail(false);
        guard.set(two).await.unwrap();
        assert_eq!(firewall.applied().last(), Some(&two()));
    }
}
