//! Connecting the lease to the others: one owner of the view and of what is installed, one loop, one reconcile.
//!
//! A change of a lease costs what changed. The comparison with the kernel costs what there is, so the more there is the
//! more seldom it comes by itself; the kernel's notifications call for it at once.

mod tally;

use std::collections::BTreeSet;
use std::time::Duration;

use flannel_core::config::NetworkConfig;
use flannel_core::entry::LinkIndex;
use flannel_core::key::SubnetKey;
use flannel_core::lease::{Lease, LeaseAttrs};
use flannel_core::view::{Change, LeaseView};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, Prepared};
use crate::connect::Connections;
use crate::kernel::KernelError;
use crate::kernel::monitor::{Loss, Monitor};
use crate::kernel::netlink::Netlink;
use crate::metrics::METRICS;
use crate::reconcile::Reconciler;
use crate::service_manager::ServiceManager;
use flannel_store::follow::Update;
use tally::Tally;

/// How often the devices are looked at and what failed is tried again, and at most how often everything is compared
/// with the kernel, whatever it tells (upstream's host-gw does so as often).
const LOOK: Duration = Duration::from_secs(10);
/// The longest time between two comparisons.
const LONGEST: Duration = Duration::from_secs(600);
/// How long after a loss the comparison waits for more of the same kind.
const SETTLE: Duration = Duration::from_millis(100);
/// How long the hosts have to put their leases back into an etcd that has lost its data: longer than any of them needs
/// to notice, and than etcd needs to tell all hosts of each.
const GRACE: Duration = Duration::from_secs(60);
const GRACE_EACH: Duration = Duration::from_millis(50);
/// How many dropped leases are named.
const NAMED: usize = 10;
/// Comparisons may take this part of the processor's time, one in so many: when nothing happens, and when losses follow
/// each other.
const SHARE: (u32, u32) = (4000, 10);

/// A host with its lease, ready to be connected to the others.
pub struct Host {
    /// The kernel.
    pub kernel: Netlink,
    /// The network's config.
    pub config: NetworkConfig,
    /// The backend, for attaching it again.
    pub prepared: Prepared,
    /// The backend as attached.
    pub backend: Box<dyn Backend>,
    /// The own lease.
    pub own: SubnetKey,
    /// What the own lease says.
    pub attrs: LeaseAttrs,
    /// Keep a blackhole route for the own subnet.
    pub blackhole: bool,
}

/// The programming of one backend.
pub struct Programme<'a> {
    kernel: Netlink,
    config: NetworkConfig,
    prepared: Prepared,
    backend: Box<dyn Backend>,
    own: SubnetKey,
    attrs: LeaseAttrs,
    blackhole: bool,
    /// Told when the own lease may not stand any more.
    doubt: &'a Notify,
    monitor: Monitor,
    reconciler: Reconciler<Netlink>,
    view: LeaseView,
    connections: Connections,
    /// The leases whose entries are to be worked out again; several changes of one are one.
    stale: BTreeSet<SubnetKey>,
    /// Before the first list it is not known which entries of an earlier run are stale.
    listed: bool,
    /// When what etcd has lost and nobody has put back is dropped.
    grace: Option<Instant>,
    /// The device may be gone or down.
    device_in_doubt: bool,
    /// When the devices are looked at, and when everything is compared.
    next_look: Instant,
    next_comparison: Instant,
    /// When the last comparison ended, and the processor's time it took.
    compared: Option<(Instant, Duration)>,
    tally: Tally,
}

enum Wake {
    Updates(usize),
    Losses,
    Look,
    Beat,
    Shutdown,
}

impl<'a> Programme<'a> {
    /// Starts listening to the kernel.
    pub fn new(host: Host, doubt: &'a Notify) -> Result<Self, KernelError> {
        let Host { kernel, config, prepared, backend, own, attrs, blackhole } = host;
        let reconciler = Reconciler::new(kernel.clone(), backend.tunnels().cloned());
        let monitor = Monitor::open(kernel.port())?;
        Ok(Self {
            kernel,
            config,
            prepared,
            backend,
            own,
            connections: Connections::new(attrs.clone()),
            attrs,
            blackhole,
            doubt,
            monitor,
            reconciler,
            view: LeaseView::new(own),
            stale: BTreeSet::new(),
            listed: false,
            grace: None,
            device_in_doubt: false,
            next_look: Instant::now(),
            next_comparison: Instant::now(),
            compared: None,
            tally: Tally::default(),
        })
    }

    /// Puts what does not depend on other hosts: the host is not to be called ready without it. What fails is told and
    /// tried again by [`Programme::run`].
    pub async fn stand(&mut self) {
        self.reconciler.claim(None, self.backend.standing());
        self.programme().await;
    }

    /// Runs until `shutdown`; everything installed stays. The service manager hears of each round, so that it notices
    /// a loop that hangs.
    pub async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Update>,
        manager: &ServiceManager,
        shutdown: &CancellationToken,
    ) {
        let (mut updates, mut losses) = (Vec::new(), Vec::new());
        let mut next_beat = Instant::now();
        // What an earlier run left, before anything is put.
        self.look().await;
        loop {
            // Every arm may be dropped; the work is done after the choice.
            let wake = tokio::select! {
                () = shutdown.cancelled() => Wake::Shutdown,
                count = inbox.recv_many(&mut updates, usize::MAX) => Wake::Updates(count),
                () = self.monitor.next(&mut losses) => Wake::Losses,
                () = tokio::time::sleep_until(self.next_look) => Wake::Look,
                () = tokio::time::sleep_until(next_beat), if manager.beat().is_some() => Wake::Beat,
            };
            match wake {
                Wake::Shutdown => return self.prepared.detach(&self.kernel).await,
                Wake::Updates(0) => return,
                Wake::Updates(_) => {
                    let mut changed = false;
                    for update in updates.drain(..) {
                        changed |= self.take(update);
                    }
                    if changed {
                        self.reconcile().await;
                    }
                }
                Wake::Losses => losses.drain(..).for_each(|loss| self.note(loss)),
                Wake::Look => self.look().await,
                Wake::Beat => {
                    manager.alive();
                    next_beat = Instant::now() + manager.beat().unwrap_or(LOOK);
                }
            }
        }
    }

    /// Takes news into the view and notes which leases are others now; says whether there may be something to do.
    fn take(&mut self, update: Update) -> bool {
        match update {
            Update::Snapshot(leases) => self.take_all(leases, false),
            Update::SnapshotAfterDataLoss(leases) => self.take_all(leases, true),
            Update::Change(change) => {
                let key = match &change {
                    Change::Put(lease) => lease.key,
                    Change::Delete(key) => *key,
                };
                if key == self.own {
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

    /// Takes a whole list. Of a store that has lost data it says what is there, not what is gone: each host is about to
    /// put its lease back, and until then the others go on as they are.
    fn take_all(&mut self, leases: Vec<Lease>, lost_data: bool) -> bool {
        let own = leases.iter().find(|l| l.key == self.own);
        self.check_own(own.map(|l| &l.attrs));
        if lost_data || self.grace.is_some() {
            let missing = self.view.restore(leases);
            let all = GRACE + GRACE_EACH * u32::try_from(missing).unwrap_or(u32::MAX);
            let end = *self.grace.get_or_insert_with(|| Instant::now() + all);
            self.next_look = self.next_look.min(end);
            tracing::warn!(
                "etcd has lost data: {missing} leases of other hosts are missing, they stay in force for {} s unless put \
                 back",
                end.saturating_duration_since(Instant::now()).as_secs()
            );
        } else {
            self.view.replace(leases);
        }
        self.listed = true;
        self.doubt_all();
        true
    }

    /// The end of the grace: what nobody has put back goes.
    fn end_grace(&mut self) {
        self.grace = None;
        let gone = self.view.drop_missing();
        if !gone.is_empty() {
            let names: Vec<String> = gone.iter().take(NAMED).map(ToString::to_string).collect();
            let more = if gone.len() > NAMED { ", ..." } else { "" };
            let (count, names) = (gone.len(), names.join(", "));
            tracing::warn!("{count} leases that etcd lost and nobody has put back are dropped: {names}{more}");
        }
        self.stale.extend(gone);
    }

    /// Every lease's entries are to be worked out again, also of those that went.
    fn doubt_all(&mut self) {
        self.stale.extend(self.view.remote().map(|lease| lease.key));
        self.stale.extend(self.reconciler.leases());
        self.connections.retain(|key| self.view.get(key).is_some());
    }

    fn check_own(&self, attrs: Option<&LeaseAttrs>) {
        if attrs != Some(&self.attrs) {
            self.doubt.notify_one();
        }
    }

    fn note(&mut self, loss: Loss) {
        let scope = self.backend.scope();
        let concerns = |index: &LinkIndex| {
            scope.owned.contains(index) || scope.shared.as_ref().is_some_and(|(shared, _)| shared == index)
        };
        let ours = match loss {
            Loss::Link(index) => {
                self.device_in_doubt |= scope.owned.contains(&index);
                concerns(&index)
            }
            Loss::Routes(index) => concerns(&index),
            Loss::Gone(slot) => self.reconciler.has(&slot),
            Loss::Stands(entry) => self.reconciler.is_contradicted_by(&entry),
            Loss::Unknown => {
                self.device_in_doubt = true;
                true
            }
        };
        if ours {
            self.compare_soon();
        }
    }

    fn compare_soon(&mut self) {
        let now = Instant::now();
        let rested = self.compared.map_or(now, |(ended, took)| ended + took * SHARE.1);
        self.next_comparison = self.next_comparison.min(rested.max(now + SETTLE));
        self.next_look = self.next_look.min(self.next_comparison);
    }

    /// Looks at the devices, tries again what failed, and when it is time compares everything with the kernel.
    async fn look(&mut self) {
        let now = Instant::now();
        let mut comparing = now >= self.next_comparison;
        self.next_look = now + LOOK;
        if self.grace.is_some_and(|end| now >= end) {
            self.end_grace();
            self.reconcile().await;
        }
        self.next_look = self.grace.map_or(self.next_look, |end| self.next_look.min(end));
        match self.prepared.stands(&self.kernel).await {
            Ok(stands) => self.device_in_doubt |= !stands,
            Err(error) => tracing::warn!("{error}; trying again"),
        }
        if self.device_in_doubt {
            match self.prepared.attach(&self.kernel, &self.config, self.own).await {
                Ok(backend) => {
                    self.backend = backend;
                    self.reconciler = Reconciler::new(self.kernel.clone(), self.backend.tunnels().cloned());
                    self.reconciler.claim(None, self.backend.standing());
                    self.device_in_doubt = false;
                    comparing = true;
                    METRICS.device_repairs.inc();
                }
                Err(error) => {
                    tracing::warn!("the device can't be put right: {error}; trying again");
                    return;
                }
            }
        }
        if self.blackhole {
            for subnet in self.own.nets() {
                if let Err(error) = self.kernel.ensure_blackhole(subnet).await {
                    tracing::warn!("flag -ip-blackhole-route: {error}; trying again");
                }
            }
        }
        if comparing {
            self.compare(now).await;
        } else if self.reconciler.is_behind() {
            self.reconcile().await;
        }
        self.tally.tell(self.reconciler.in_force());
    }

    async fn compare(&mut self, now: Instant) {
        let start = processor_time();
        self.connections.forget_reach();
        if let Err(error) = self.reconciler.look(&self.backend.scope()).await {
            tracing::warn!("can't compare with the kernel: {error}; trying again");
            self.next_comparison = self.next_look;
            return;
        }
        METRICS.comparisons.inc();
        self.doubt_all();
        // Before putting right: a repair may call for the next comparison.
        self.next_comparison = self.next_look + LONGEST;
        self.reconcile().await;
        let took = processor_time().saturating_sub(start);
        self.compared = Some((Instant::now(), took));
        self.next_comparison = self.next_comparison.min(now + (took * SHARE.0).clamp(LOOK, LONGEST));
    }

    async fn reconcile(&mut self) {
        if !self.listed {
            return;
        }
        let stale = std::mem::take(&mut self.stale);
        if self.backend.wants_reach() {
            let leases = stale.iter().filter_map(|key| self.view.get(key));
            if let Err(error) = self.connections.learn_reach(&self.kernel, leases).await {
                tracing::warn!("{error}; the hosts not asked about are reached through the tunnel");
                self.compare_soon();
            }
        }
        for key in stale {
            let entries = match self.view.get(&key) {
                Some(lease) => self.connections.entries(self.backend.as_ref(), lease),
                None => {
                    self.connections.gone(&key);
                    None
                }
            };
            self.reconciler.claim(Some(key), entries.unwrap_or_default());
        }
        if self.backend.follows() {
            let usable = self.view.remote().filter(|lease| !self.connections.is_unusable(&lease.key));
            self.backend.follow(usable.cloned().collect());
        }
        METRICS.leases.set(self.view.len());
        METRICS.leases_unusable.set(self.connections.unusable());
        self.programme().await;
        if let Some(tunnels) = self.backend.tunnels() {
            tunnels.open();
        }
    }

    async fn programme(&mut self) {
        let round = self.reconciler.run().await;
        if round.unknown {
            self.compare_soon();
        }
        self.tally.add(round);
        self.tally.tell(self.reconciler.in_force());
    }
}

/// The processor's time this thread had so far.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
