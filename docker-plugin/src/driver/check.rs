//! Comparing Docker, the state and the kernel, and repairing what differs: in the background, never in a handler.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::Driver;
use super::drift::{Difference, Remedy, View, compare};
use crate::api::repair::Repaired;
use crate::links::Links;

mod history;

pub(super) use history::History;

/// How often Docker is asked when nothing has happened. After a start or a lost call it is asked more often, since
/// Docker may take a minute to finish what that call was about.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// How long a difference that may be a call in progress has to last.
const RECHECK_AFTER: Duration = Duration::from_secs(5);

/// How soon a Docker that did not answer is asked again. At boot it starts after us.
const DOCKER_RETRY: Duration = Duration::from_secs(2);

/// How many checks a complete repair makes at most: each may bring more to light.
const MAX_CHECKS: usize = 3;

/// How long a start without a state waits for Docker.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a call waits for a check that may free what it asks for. A check takes milliseconds, and a Docker that
/// takes longer waits for us no longer than this.
const CALL_TIMEOUT: Duration = Duration::from_millis(250);

/// What a check found and did.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Why Docker could not be asked.
    pub docker_error: Option<String>,
    /// What was repaired.
    pub repaired: Vec<Difference>,
    /// What has to be seen once more.
    pub unconfirmed: Vec<Difference>,
    /// What was not repaired, with the reason where that was tried.
    pub left: Vec<(Difference, Option<String>)>,
}

impl From<CheckReport> for Repaired {
    fn from(report: CheckReport) -> Self {
        let left = report.left.iter().filter_map(|(d, reason)| Some(format!("{d}: {}", reason.as_ref()?)));
        Self { left: left.collect(), done: report.repaired.iter().map(ToString::to_string).collect() }
    }
}

/// Lets time pass between two checks: only a difference that lasts is not a call in progress.
#[expect(clippy::disallowed_methods, reason = "that time has passed is the condition waited for")]
pub(crate) async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

impl<L: Links> Driver<L> {
    /// Where there was no state to read, asks Docker for it before its calls are answered; but not for long, since at
    /// boot Docker waits for us.
    pub async fn recover(&self) {
        if self.history.is_state_lost() && timeout(RECOVERY_TIMEOUT, self.check()).await.is_err() {
            warn!(
                "Docker did not list its networks within {RECOVERY_TIMEOUT:?}; calls are answered, and it is asked again"
            );
        }
    }

    /// Repairs all that can be, with a second check of what needs one, and more where that has brought more to light.
    pub async fn repair_all(&self) -> CheckReport {
        self.restore().await;
        let mut repaired = Vec::new();
        let mut report = self.check().await;
        for _ in 0..MAX_CHECKS {
            repaired.append(&mut report.repaired);
            if report.unconfirmed.is_empty() {
                break;
            }
            pause(RECHECK_AFTER).await;
            report = self.check().await;
        }
        repaired.append(&mut report.repaired);
        report.repaired = repaired;
        report
    }

    /// Checks at start, periodically, and when a call requests it. Never returns.
    pub async fn watch(&self) {
        let mut interval = RECHECK_AFTER;
        loop {
            let number = *self.history.requested.borrow();
            let report = self.check().await;
            self.history.complete.send_replace(number);
            let wait = match report {
                // Without Docker there is nothing to compare with; the kernel is checked all the same.
                _ if !self.engine.is_known() => CHECK_INTERVAL,
                CheckReport { docker_error: Some(reason), .. } => {
                    debug!("{reason}");
                    DOCKER_RETRY
                }
                CheckReport { unconfirmed, .. } if !unconfirmed.is_empty() => RECHECK_AFTER,
                CheckReport { .. } => {
                    interval = CHECK_INTERVAL.min(interval * 2);
                    interval
                }
            };
            let mut requested = self.history.requested.subscribe();
            if timeout(wait, requested.wait_for(|n| *n > number)).await.is_ok() {
                // Something has happened that may not be complete yet.
                interval = RECHECK_AFTER;
            }
        }
    }

    /// Requests a check: one of Docker's calls was lost.
    pub fn request_check(&self) {
        self.history.request();
    }

    /// Requests a check and waits for it, but not for long.
    pub(super) async fn check_now(&self) {
        let number = self.history.request();
        let mut complete = self.history.complete.subscribe();
        if timeout(CALL_TIMEOUT, complete.wait_for(|n| *n >= number)).await.is_err() {
            debug!("Docker has not listed its networks yet");
        }
    }

    /// Compares once, and repairs what is certain.
    pub async fn check(&self) -> CheckReport {
        let _one_at_a_time = self.history.lock.lock().await;
        // Read before Docker is asked, so that what is created meanwhile is not taken for removed.
        let state = self.state();
        let (docker, docker_error) = match self.engine.networks(&self.name).await {
            Ok(networks) => (Some(networks), None),
            Err(reason) => (None, Some(reason)),
        };
        let mut report = CheckReport { docker_error, ..CheckReport::default() };
        let devices = match self.links.owned().await {
            Ok(devices) => devices,
            Err(e) => {
                warn!("{e}");
                return report;
            }
        };
        let leases = self.subnet_file.leases(state.networks.values().map(|n| &n.flannel));
        let address_space = self.address_space();
        let docker = docker.as_deref();
        let view = View { address_space: &address_space, state: &state, docker, devices: &devices, leases: &leases };
        for difference in self.confirmed(compare(&view), &mut report.unconfirmed) {
            if let Remedy::Manual(_) = difference.remedy() {
                report.left.push((difference, None));
                continue;
            }
            match self.repair(&difference, docker.unwrap_or_default(), &devices).await {
                Ok(true) => {
                    info!("{difference}: repaired");
                    report.repaired.push(difference);
                }
                Ok(false) => {}
                Err(e) => report.left.push((difference, Some(e.to_string()))),
            }
        }
        if let Some(docker) = docker {
            self.history.record(docker);
        }
        self.finish(docker.is_some(), &report).await;
        report
    }

    /// Brings the packet filter up to date after a check, and logs what is left.
    async fn finish(&self, docker_answered: bool, report: &CheckReport) {
        let is_recovered = self.history.is_state_lost() && docker_answered;
        if is_recovered || !report.repaired.is_empty() {
            self.update_rules().await;
            self.update_nat().await;
        }
        let mut logged = self.history.logged();
        for (difference, reason) in report.left.iter().filter(|(d, _)| !logged.contains(d)) {
            match (reason, difference.remedy()) {
                (Some(reason), _) => warn!("{difference}: {reason}"),
                (None, Remedy::Manual(remedy)) => warn!("{difference}: {remedy}"),
                (None, Remedy::Automatic) => warn!("{difference}"),
            }
        }
        *logged = report.left.iter().map(|(d, _)| d.clone()).collect();
    }

    /// Those to act upon now; the others have to be seen a second time.
    fn confirmed(&self, found: BTreeSet<Difference>, unconfirmed: &mut Vec<Difference>) -> Vec<Difference> {
        let now = Instant::now();
        let mut seen = self.history.unconfirmed();
        seen.retain(|d, _| found.contains(d));
        let (confirmed, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|difference| {
            if !difference.needs_recheck() {
                return true;
            }
            let since = *seen.entry(difference.clone()).or_insert(now);
            now.duration_since(since) >= RECHECK_AFTER || self.history.needs_no_recheck(difference)
        });
        *unconfirmed = rest;
        confirmed
    }
}
