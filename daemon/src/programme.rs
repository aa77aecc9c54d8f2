//! Connecting the lease to the others: one owner of the view and of what is installed, one loop, one reconcile.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use flannel_core::config::NetworkConfig;
use flannel_core::entry::{LinkIndex, Table};
use flannel_core::key::SubnetKey;
use flannel_core::lease::{BadLease, Lease, LeaseAttrs};
use flannel_core::view::{Change, LeaseView};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, Prepared, Reach};
use crate::kernel::KernelError;
use crate::kernel::monitor::{Loss, Monitor};
use crate::kernel::netlink::Netlink;
use crate::metrics::METRICS;
use crate::reconcile::Reconciler;
use crate::service_manager::ServiceManager;
use crate::subnet::follow::Update;

/// How often everything is compared with the kernel, whatever it tells (upstream's host-gw does so as often).
const LOOK: Duration = Duration::from_secs(10);
/// How long after a loss the comparison waits for more of the same kind.
const SETTLE: Duration = Duration::from_millis(100);

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
    /// Before the first list it is not known which entries of an earlier run are stale.
    listed: bool,
    /// The device may be gone or down.
    device_in_doubt: bool,
    next_look: Instant,
    /// Which hosts are on our link, as far as asked since the last look.
    on_link: HashMap<IpAddr, bool>,
    complaints: BTreeMap<SubnetKey, String>,
}

enum Wake {
    Updates(usize),
    Loss(Loss),
    Look,
    Beat,
    Shutdown,
}

impl<'a> Programme<'a> {
    /// Starts listening to the kernel.
    pub fn new(host: Host, doubt: &'a Notify) -> Result<Self, KernelError> {
        let Host { kernel, config, prepared, backend, own, attrs, blackhole } = host;
        let reconciler = Reconciler::new(kernel.clone(), backend.tunnels().cloned());
        Ok(Self {
            kernel,
            config,
            prepared,
            backend,
            own,
            attrs,
            blackhole,
            doubt,
            monitor: Monitor::open()?,
            reconciler,
            view: LeaseView::new(own),
            listed: false,
            device_in_doubt: false,
            next_look: Instant::now(),
            on_link: HashMap::new(),
            complaints: BTreeMap::new(),
        })
    }

    /// Puts what does not depend on other hosts: the host is not to be called ready without it. What fails is told and
    /// tried again by [`Programme::run`].
    pub async fn stand(&mut self) {
        let standing = Table::from_iter(self.backend.standing());
        self.reconciler.run(&standing).await;
    }

    /// Runs until `shutdown`; everything installed stays. The service manager hears of each round, so that it notices
    /// a loop that hangs.
    pub async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Update>,
        manager: &ServiceManager,
        shutdown: &CancellationToken,
    ) {
        let mut updates = Vec::new();
        let mut next_beat = Instant::now();
        loop {
            // Every arm may be dropped; the work is done after the choice.
            let wake = tokio::select! {
                () = shutdown.cancelled() => Wake::Shutdown,
                count = inbox.recv_many(&mut updates, usize::MAX) => Wake::Updates(count),
                loss = self.monitor.next() => Wake::Loss(loss),
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
                Wake::Loss(loss) => self.note(loss),
                Wake::Look => self.look().await,
                Wake::Beat => {
                    manager.alive();
                    next_beat = Instant::now() + manager.beat().unwrap_or(LOOK);
                }
            }
        }
    }

    /// Takes news into the view; says whether there may be something to do.
    fn take(&mut self, update: Update) -> bool {
        match update {
            Update::Snapshot(leases) => {
                let own = leases.iter().find(|l| l.key == self.own);
                self.check_own(own.map(|l| &l.attrs));
                self.view.replace(leases);
                self.listed = true;
                true
            }
            Update::Change(change) => {
                match &change {
                    Change::Put(lease) if lease.key == self.own => self.check_own(Some(&lease.attrs)),
                    Change::Delete(key) if *key == self.own => self.check_own(None),
                    _ => {}
                }
                self.view.apply(change)
            }
        }
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
            Loss::Route(index) => concerns(&index),
            Loss::Neighbour(index) => scope.owned.contains(&index),
            Loss::Stands(entry) => self.reconciler.is_contradicted_by(&entry),
            Loss::Unknown => {
                self.device_in_doubt = true;
                true
            }
        };
        if ours {
            self.next_look = self.next_look.min(Instant::now() + SETTLE);
        }
    }

    /// Compares everything with the kernel and puts right what is not.
    async fn look(&mut self) {
        self.next_look = Instant::now() + LOOK;
        match self.prepared.stands(&self.kernel).await {
            Ok(stands) => self.device_in_doubt |= !stands,
            Err(error) => tracing::warn!("{error}; trying again"),
        }
        if self.device_in_doubt {
            match self.prepared.attach(&self.kernel, &self.config, self.own).await {
                Ok(backend) => {
                    self.backend = backend;
                    self.reconciler = Reconciler::new(self.kernel.clone(), self.backend.tunnels().cloned());
                    self.device_in_doubt = false;
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
        self.on_link.clear();
        if let Err(error) = self.reconciler.look(&self.backend.scope()).await {
            tracing::warn!("can't compare with the kernel: {error}; trying again");
            return;
        }
        self.reconcile().await;
    }

    async fn reconcile(&mut self) {
        if !self.listed {
            return;
        }
        let desired = self.desired().await;
        self.reconciler.run(&desired).await;
        if let Some(tunnels) = self.backend.tunnels() {
            tunnels.open();
        }
    }

    async fn desired(&mut self) -> Table {
        let mut desired = Table::from_iter(self.backend.standing());
        let leases: Vec<Lease> = self.view.remote().cloned().collect();
        self.complaints.retain(|key, _| leases.iter().any(|l| l.key == *key));
        let mut usable = Vec::new();
        for lease in leases {
            let entries = if let Some(ip) = self.would_swallow(&lease) {
                Err(BadLease(format!("its subnet covers {ip}, by which hosts reach each other; delete the lease")))
            } else if self.claims_to_be_us(&lease) {
                Err(BadLease(
                    "its public address is this host's own; give each host its own -public-ip, or delete the lease"
                        .into(),
                ))
            } else {
                let reach = self.reach_of(&lease).await;
                self.backend.entries(&lease, reach)
            };
            match entries {
                Ok(entries) => {
                    self.complaints.remove(&lease.key);
                    entries.into_iter().for_each(|entry| desired.put(entry));
                    usable.push(lease);
                }
                Err(bad) => self.complain(&lease, bad.0),
            }
        }
        self.backend.follow(usable);
        METRICS.leases.set(self.view.remote().count());
        METRICS.leases_unusable.set(self.complaints.len());
        desired
    }

    fn complain(&mut self, lease: &Lease, why: String) {
        if self.complaints.get(&lease.key) != Some(&why) {
            tracing::warn!(lease = %lease.key, "lease {lease} is not connected: {why}");
            self.complaints.insert(lease.key, why);
        }
    }

    /// The public address, ours or its own, that a route to this lease's subnet would draw into the tunnel.
    fn would_swallow(&self, lease: &Lease) -> Option<IpAddr> {
        let both = |net| [self.attrs.public_ip_like(&net), lease.attrs.public_ip_like(&net)].map(|ip| (net, ip));
        lease.key.nets().flat_map(both).find_map(|(net, ip)| ip.filter(|ip| net.contains(ip)))
    }

    fn claims_to_be_us(&self, lease: &Lease) -> bool {
        let (own, theirs) = (&self.attrs, &lease.attrs);
        (own.public_ip == theirs.public_ip && !own.public_ip.is_unspecified())
            || (own.public_ipv6 == theirs.public_ipv6 && own.public_ipv6.is_some())
    }

    async fn reach_of(&mut self, lease: &Lease) -> Reach {
        if !self.backend.wants_reach() {
            return Reach::default();
        }
        let v4_on_link = self.is_on_link(IpAddr::V4(lease.attrs.public_ip)).await;
        let v6_on_link = match lease.attrs.public_ipv6 {
            Some(ip) => self.is_on_link(IpAddr::V6(ip)).await,
            None => false,
        };
        Reach { v4_on_link, v6_on_link }
    }

    async fn is_on_link(&mut self, ip: IpAddr) -> bool {
        if let Some(on_link) = self.on_link.get(&ip) {
            return *on_link;
        }
        // A host without any route is left to the tunnel.
        let on_link = self.kernel.is_on_link(ip).await.unwrap_or(false);
        self.on_link.insert(ip, on_link);
        on_link
    }
}
