//! Keeping the kernel in sync with the leases: one owner of the view and of what is installed, one loop.
//!
//! A change of a lease costs what changed. When everything is compared with the kernel is the decision of
//! [`flannel_core::schedule`]; the kernel's notifications ask for it at once.

mod tally;

use std::collections::BTreeSet;
use std::time::Duration;

use flannel_core::entry::LinkIndex;
use flannel_core::key::SubnetKey;
use flannel_core::lease::{Lease, LeaseAttrs};
use flannel_core::schedule::{CHECK_INTERVAL, Due, Schedule};
use flannel_core::view::{Change, LeaseView};
use flannel_store::follow::Update;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::{Attached, Backend, Context};
use crate::connect::Connections;
use crate::data_plane::DataPlane;
use crate::kernel::KernelError;
use crate::kernel::monitor::{KernelEvent, Monitor};
use crate::metrics::METRICS;
use crate::reconcile::Reconciler;
use crate::service_manager::ServiceManager;
use tally::Tally;

/// How many dropped leases a log line names.
const MAX_NAMED: usize = 10;

/// A host with its lease, ready to be connected to the others.
pub struct Host {
    /// The kernel, the config and the interface.
    pub context: Context,
    /// The backend, for attaching it again.
    pub backend: Box<dyn Backend>,
    /// The backend as attached.
    pub attached: Box<dyn Attached>,
    /// The own lease.
    pub own: SubnetKey,
    /// What the own lease says.
    pub attrs: LeaseAttrs,
    /// Keep a blackhole route for the own subnet.
    pub blackhole: bool,
}

/// Keeps one host's entries in sync with the leases.
pub struct Sync<'a> {
    host: Host,
    /// Wakes whoever keeps the own lease, when it may be gone or changed.
    recheck_lease: &'a Notify,
    monitor: Monitor,
    reconciler: Reconciler<DataPlane>,
    view: LeaseView,
    connections: Connections,
    /// The leases whose entries are to be computed again; several changes of one lease are one.
    stale: BTreeSet<SubnetKey>,
    /// Before the first list it is not known which entries of an earlier run are stale.
    listed: bool,
    /// The device may be gone or down.
    device_suspect: bool,
    schedule: Schedule,
    /// The moment the schedule's times count from.
    epoch: Instant,
    tally: Tally,
}

enum Wake {
    Updates(usize),
    KernelEvents,
    Deadline,
    Watchdog,
    Shutdown,
}

impl<'a> Sync<'a> {
    /// Subscribes to the kernel's notifications.
    pub fn new(host: Host, recheck_lease: &'a Notify) -> Result<Self, KernelError> {
        let kernel = &host.context.kernel;
        Ok(Self {
            recheck_lease,
            monitor: Monitor::open(kernel.port())?,
            reconciler: Reconciler::new(host.attached.data_plane(kernel)),
            view: LeaseView::new(host.own),
            connections: Connections::new(host.attrs.clone()),
            stale: BTreeSet::new(),
            listed: false,
            device_suspect: false,
            schedule: Schedule::new(Duration::ZERO),
            epoch: Instant::now(),
            tally: Tally::default(),
            host,
        })
    }

    /// Installs what does not depend on other hosts: the host must not be called ready without it. What fails is logged
    /// and retried by [`Sync::run`].
    pub async fn install_static(&mut self) {
        self.reconciler.claim(None, self.host.attached.static_entries());
        self.apply().await;
    }

    /// Runs until `shutdown`; everything installed stays. The service manager's watchdog is fed by this loop, so that it
    /// notices one that hangs.
    pub async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Update>,
        manager: &ServiceManager,
        shutdown: &CancellationToken,
    ) {
        let (mut updates, mut events) = (Vec::new(), Vec::new());
        let mut next_notification = Instant::now();
        // What an earlier run left, before anything is installed.
        self.run_due().await;
        loop {
            // Every arm may be dropped; the work is done after the choice.
            let wake = tokio::select! {
                () = shutdown.cancelled() => Wake::Shutdown,
                count = inbox.recv_many(&mut updates, usize::MAX) => Wake::Updates(count),
                () = self.monitor.next(&mut events) => Wake::KernelEvents,
                () = tokio::time::sleep_until(self.epoch + self.schedule.next_deadline()) => Wake::Deadline,
                () = tokio::time::sleep_until(next_notification), if manager.watchdog_interval().is_some() => Wake::Watchdog,
            };
            match wake {
                Wake::Shutdown => return self.host.backend.detach(&self.host.context.kernel).await,
                Wake::Updates(0) => return,
                Wake::Updates(_) => {
                    let mut changed = false;
                    for update in updates.drain(..) {
                        changed |= self.accept(update);
                    }
                    if changed {
                        self.reconcile().await;
                    }
                }
                Wake::KernelEvents => events.drain(..).for_each(|event| self.on_kernel_event(event)),
                Wake::Deadline => self.run_due().await,
                Wake::Watchdog => {
                    manager.notify_watchdog();
                    next_notification = Instant::now() + manager.watchdog_interval().unwrap_or(CHECK_INTERVAL);
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    async fn run_due(&mut self) {
        let now = self.now();
        match self.schedule.due(now) {
            Some(Due::EndGrace) => self.end_grace().await,
            Some(Due::Check) => self.check(now, false).await,
            Some(Due::Compare) => self.check(now, true).await,
            None => {}
        }
    }

    /// Takes an update into the view and marks the leases that changed; returns whether there may be something to do.
    fn accept(&mut self, update: Update) -> bool {
        match update {
            Update::Snapshot(leases) => self.accept_all(leases, false),
            Update::SnapshotAfterDataLoss(leases) => self.accept_all(leases, true),
            Update::Change(change) => {
                let key = match &change {
                    Change::Put(lease) => lease.key,
                    Change::Delete(key) => *key,
                };
                if key == self.host.own {
                    self.check_own(if let Change::Put(lease) = &change { Some(&lease.attrs) } else { None });
                }
                let changed = self.view.apply(change);
                if changed {
                    self.stale.insert(key);
                }
                changed
            }
        }
    }

    /// Takes a whole list. After a data loss of etcd it says what exists, not what is gone: each host is about to restore
    /// its lease, and until then the missing ones stay in effect.
    fn accept_all(&mut self, leases: Vec<Lease>, data_lost: bool) -> bool {
        let own = leases.iter().find(|l| l.key == self.host.own);
        self.check_own(own.map(|l| &l.attrs));
        if data_lost || self.schedule.in_grace() {
            let missing = self.view.restore(leases);
            let left = self.schedule.data_lost(self.now(), missing);
            tracing::warn!(
                "etcd has lost data: {missing} leases of other hosts are missing; they stay in effect for {} s unless \
                 restored earlier",
                left.as_secs()
            );
        } else {
            self.view.replace(leases);
        }
        self.listed = true;
        self.mark_all_stale();
        true
    }

    /// The end of the grace period: drops the leases nobody has restored.
    async fn end_grace(&mut self) {
        let gone = self.view.drop_missing();
        if !gone.is_empty() {
            let names: Vec<String> = gone.iter().take(MAX_NAMED).map(ToString::to_string).collect();
            let more = if gone.len() > MAX_NAMED { ", ..." } else { "" };
            let (count, names) = (gone.len(), names.join(", "));
            tracing::warn!("dropping {count} leases that etcd lost and nobody restored: {names}{more}");
        }
        self.stale.extend(gone);
        self.reconcile().await;
    }

    /// Every lease's entries are to be computed again, also of those that went.
    fn mark_all_stale(&mut self) {
        self.stale.extend(self.view.remote().map(|lease| lease.key));
        self.stale.extend(self.reconciler.leases());
        self.connections.retain(|key| self.view.get(key).is_some());
    }

    fn check_own(&self, attrs: Option<&LeaseAttrs>) {
        if attrs != Some(&self.host.attrs) {
            self.recheck_lease.notify_one();
        }
    }

    fn on_kernel_event(&mut self, event: KernelEvent) {
        let scope = self.host.attached.scope();
        let concerns = |index: &LinkIndex| {
            scope.owned.contains(index) || scope.shared.as_ref().is_some_and(|(shared, _)| shared == index)
        };
        let ours = match event {
            KernelEvent::LinkDown(index) => {
                self.device_suspect |= scope.owned.contains(&index);
                concerns(&index)
            }
            KernelEvent::RoutesChanged(index) => concerns(&index),
            KernelEvent::Removed(slot) => self.reconciler.has(&slot),
            KernelEvent::Installed(entry) => self.reconciler.is_contradicted_by(&entry),
            KernelEvent::Overrun => {
                self.device_suspect = true;
                true
            }
        };
        if ours {
            self.schedule.loss(self.now());
        }
    }

    /// Checks the devices, retries what failed, and if `compare` compares everything with the kernel.
    async fn check(&mut self, now: Duration, mut compare: bool) {
        match self.host.backend.is_intact(&self.host.context.kernel).await {
            Ok(intact) => self.device_suspect |= !intact,
            Err(error) => tracing::warn!("{error}; trying again"),
        }
        if self.device_suspect {
            if let Err(error) = self.attach_again().await {
                tracing::warn!("cannot repair the device: {error}; trying again");
                return;
            }
            compare = true;
        }
        self.ensure_blackhole().await;
        if compare {
            self.compare(now).await;
        } else if self.reconciler.is_behind() {
            self.reconcile().await;
        }
        self.tally.log(self.reconciler.installed());
    }

    async fn attach_again(&mut self) -> Result<(), crate::error::Error> {
        let Host { context, backend, own, .. } = &mut self.host;
        self.host.attached = backend.attach(context, *own).await?;
        self.reconciler = Reconciler::new(self.host.attached.data_plane(&self.host.context.kernel));
        self.reconciler.claim(None, self.host.attached.static_entries());
        self.device_suspect = false;
        METRICS.device_repairs.inc();
        Ok(())
    }

    async fn ensure_blackhole(&self) {
        for subnet in self.host.own.nets().filter(|_| self.host.blackhole) {
            if let Err(error) = self.host.context.kernel.ensure_blackhole(subnet).await {
                tracing::warn!("flag -ip-blackhole-route: {error}; trying again");
            }
        }
    }

    async fn compare(&mut self, started: Duration) {
        let cpu = processor_time();
        self.connections.forget_reach();
        if let Err(error) = self.reconciler.compare(&self.host.attached.scope()).await {
            tracing::warn!("cannot compare with the kernel: {error}; trying again");
            self.schedule.comparison_failed();
            return;
        }
        METRICS.comparisons.inc();
        self.mark_all_stale();
        self.schedule.comparing();
        self.reconcile().await;
        let cost = processor_time().saturating_sub(cpu);
        self.schedule.compared(started, self.now(), cost);
    }

    async fn reconcile(&mut self) {
        if !self.listed {
            return;
        }
        let stale = std::mem::take(&mut self.stale);
        if self.host.attached.needs_reach() {
            let leases = stale.iter().filter_map(|key| self.view.get(key));
            if let Err(error) = self.connections.learn_reach(&self.host.context.kernel, leases).await {
                tracing::warn!("{error}; these hosts are reached through the tunnel");
                self.schedule.loss(self.now());
            }
        }
        for key in stale {
            let entries = match self.view.get(&key) {
                Some(lease) => self.connections.entries(self.host.attached.as_ref(), lease),
                None => {
                    self.connections.forget(&key);
                    None
                }
            };
            self.reconciler.claim(Some(key), entries.unwrap_or_default());
        }
        let connections = &self.connections;
        self.host.attached.on_leases(&mut self.view.remote().filter(|lease| !connections.is_unusable(&lease.key)));
        METRICS.leases.set(self.view.len());
        METRICS.leases_unusable.set(self.connections.unusable());
        self.apply().await;
        self.reconciler.kernel().leases_known();
    }

    async fn apply(&mut self) {
        let round = self.reconciler.apply().await;
        if round.unknown {
            self.schedule.loss(self.now());
        }
        self.tally.add(round);
        self.tally.log(self.reconciler.installed());
    }
}

/// The processor time of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
