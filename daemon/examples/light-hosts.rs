//! Hosts without a kernel: each takes its lease, follows the others and renews, by the daemon's own code and over a
//! connection of its own, so that it shows what etcd bears.
//!
//! `light-hosts ENDPOINT HOSTS SPREAD_SECONDS RENEW_SECONDS`: starts `HOSTS` hosts evenly over the first time, waits
//! until every one knows every other, then has them renew for the second time, as fast as all of them are told of it.
//! Prints `name value` lines; `ci/bench scale` makes a table of them.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::error::Error;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use flannel_core::config::NetworkConfig;
use flannel_core::key::SubnetKey;
use flannel_core::lease::LeaseAttrs;
use flannel_core::subnet_env::PreviousSubnets;
use flannel_core::view::Change;
use flannel_host::backoff::Backoff;
use flannel_store::etcd::EtcdStore;
use flannel_store::follow::{Update, follow};
use flannel_store::leases::{Listed, StoreError, SubnetStore};
use flanneld::opts::Options;
use flanneld::subnet::{OwnLease, SubnetManager, TTL};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::LocalSet;

type Fault = Box<dyn Error>;

/// How many renewals may be under way, not yet told to all.
const UNDER_WAY: usize = 64;

/// What all hosts count together.
struct Sums {
    hosts: u64,
    /// Seconds from the start of a host to its lease.
    to_lease: RefCell<Vec<f64>>,
    tries: Cell<u64>,
    failures: Cell<u64>,
    known: Cell<u64>,
    events: Cell<u64>,
    renewals: Cell<u64>,
    /// Seconds of a renewal.
    to_renew: RefCell<Vec<f64>>,
    /// A renewal takes one away; it comes back when all hosts were told.
    may_renew: Semaphore,
    changed: Notify,
}

impl Sums {
    fn new(hosts: u64) -> Self {
        Self {
            hosts,
            to_lease: RefCell::default(),
            tries: Cell::default(),
            failures: Cell::default(),
            known: Cell::default(),
            events: Cell::default(),
            renewals: Cell::default(),
            to_renew: RefCell::default(),
            may_renew: Semaphore::new(0),
            changed: Notify::new(),
        }
    }

    /// A host was told of a lease.
    fn told(&self) {
        self.events.set(self.events.get() + 1);
        if self.events.get().is_multiple_of(self.hosts) && self.renewals.get() > 0 {
            self.may_renew.add_permits(1);
        }
    }
}

/// The leases a host knows, by a bit for each subnet of the network: thousands of hosts that know thousands each would
/// not fit otherwise.
struct Known {
    bits: Vec<u64>,
    count: u64,
}

impl Known {
    fn none() -> Self {
        Self { bits: vec![0; (1 << 16) / 64], count: 0 }
    }

    fn set(&mut self, key: SubnetKey, is_there: bool) {
        let Some(subnet) = key.v4() else { return };
        let [_, high, low, _] = subnet.network().octets();
        let (word, bit) = (usize::from(u16::from_be_bytes([high, low])) / 64, 1 << (low % 64));
        match (is_there, self.bits[word] & bit != 0) {
            (true, false) => self.count += 1,
            (false, true) => self.count -= 1,
            _ => return,
        }
        self.bits[word] ^= bit;
    }
}

struct Plan {
    endpoint: String,
    hosts: u64,
    spread: Duration,
    renew: Duration,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let plan = match words.as_slice() {
        [endpoint, hosts, spread, renew] => {
            hosts.parse().ok().zip(spread.parse().ok()).zip(renew.parse().ok()).map(|((hosts, spread), renew)| Plan {
                endpoint: endpoint.clone(),
                hosts,
                spread: Duration::from_secs(spread),
                renew: Duration::from_secs(renew),
            })
        }
        _ => None,
    };
    let Some(plan) = plan else {
        eprintln!("light-hosts: usage: light-hosts ENDPOINT HOSTS SPREAD_SECONDS RENEW_SECONDS");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Fault::from).and_then(|runtime| LocalSet::new().block_on(&runtime, simulate(&plan))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("light-hosts: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn simulate(plan: &Plan) -> Result<(), Fault> {
    let sums = Rc::new(Sums::new(plan.hosts));
    let start = Instant::now();
    for number in 0..plan.hosts {
        let sums = Rc::clone(&sums);
        let at = start + plan.spread.mul_f64(number as f64 / plan.hosts as f64);
        let endpoint = plan.endpoint.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(at.into()).await;
            if let Err(error) = host(number, &endpoint, &sums).await {
                eprintln!("host {number}: {error}");
                sums.failures.set(sums.failures.get() + 1);
                sums.changed.notify_one();
            }
        });
    }
    // Until each knows each, itself included.
    let all = plan.hosts * plan.hosts;
    let known = until(&sums, || sums.known.get() >= all || sums.failures.get() > 0);
    tokio::select! {
        () = known => {}
        never = progress(&sums, start, all) => match never {},
    }
    if sums.failures.get() > 0 {
        return Err(format!("{} hosts ended", sums.failures.get()).into());
    }
    println!("start_seconds {:.3}", start.elapsed().as_secs_f64());
    percentiles("lease", &mut sums.to_lease.borrow_mut());
    println!("tries {}", sums.tries.get());
    println!("start_events {}", sums.events.get());
    println!("start_processor_seconds {:.1}", processor_seconds());

    sums.events.set(0);
    let (start, before) = (Instant::now(), processor_seconds());
    sums.may_renew.add_permits(UNDER_WAY);
    tokio::time::sleep_until((start + plan.renew).into()).await;
    sums.may_renew.close();
    // Each host is told of each renewal, its own too; what is under way comes to its end.
    until(&sums, || sums.events.get() >= sums.renewals.get() * plan.hosts).await;
    let took = start.elapsed().as_secs_f64();
    println!("renewals {}", sums.renewals.get());
    println!("renewals_per_second {:.0}", sums.renewals.get() as f64 / took);
    println!("events_per_second {:.0}", sums.events.get() as f64 / took);
    percentiles("renewal", &mut sums.to_renew.borrow_mut());
    println!("renew_processor_seconds {:.1}", processor_seconds() - before);
    Ok(())
}

/// Says now and then how far the start is: with thousands it takes minutes.
#[expect(clippy::disallowed_methods, reason = "the pace of the progress")]
async fn progress(sums: &Sums, start: Instant, all: u64) -> Infallible {
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        eprintln!(
            "light-hosts: {:.0} s: {} leases taken by {} tries, each host knows {:.1} % of the others",
            start.elapsed().as_secs_f64(),
            sums.to_lease.borrow().len(),
            sums.tries.get(),
            sums.known.get() as f64 / all as f64 * 100.0
        );
    }
}

/// The processor's time the hosts had so far.
fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

async fn until(sums: &Sums, good: impl Fn() -> bool) {
    while !good() {
        sums.changed.notified().await;
    }
}

fn percentiles(what: &str, seconds: &mut [f64]) {
    seconds.sort_by(f64::total_cmp);
    let Some(last) = seconds.len().checked_sub(1) else { return };
    for (name, share) in [("p50", 50), ("p99", 99), ("max", 100)] {
        println!("{what}_{name}_seconds {:.3}", seconds[last * share / 100]);
    }
}

/// One host, from its start on.
async fn host(number: u64, endpoint: &str, sums: &Sums) -> Result<(), Fault> {
    let (options, _) =
        Options::read([format!("-etcd-endpoints={endpoint}")], |_| None).map_err(|stop| stop.to_string())?;
    let store = EtcdStore::new(&options.etcd)?;
    let begun = Instant::now();
    let config = patiently(sums, || async { store.config().await }).await?;
    let config = NetworkConfig::parse(&config)?;
    let public = Ipv4Addr::from_bits(0xc0a8_0000_u32.wrapping_add(u32::try_from(number)?));
    let mac = number.to_be_bytes();
    let data = format!(r#"{{"VNI":1,"VtepMAC":"02:00:{:02x}:{:02x}:{:02x}:{:02x}"}}"#, mac[4], mac[5], mac[6], mac[7]);
    let attrs = LeaseAttrs { backend_type: "vxlan".into(), backend_data: Some(data), ..LeaseAttrs::new(public) };
    let mut manager = SubnetManager::new(&store, attrs.clone(), TTL, fastrand::Rng::new());
    let mut backoff = backoff();
    let held = loop {
        sums.tries.set(sums.tries.get() + 1);
        match manager.acquire(&config, &PreviousSubnets::default()).await {
            Err(flanneld::error::Error::Store(StoreError::Unreachable(_))) => backoff.pause().await,
            other => break other?,
        }
    };
    sums.to_lease.borrow_mut().push(begun.elapsed().as_secs_f64());
    let listed = manager.take_list();
    tokio::select! {
        never = watch(&store, listed, sums) => never,
        ended = renew(&manager, held, sums) => ended,
    }
}

/// Counts what it is told until the end.
async fn watch(store: &EtcdStore, listed: Option<Listed>, sums: &Sums) -> Result<(), Fault> {
    let (sender, mut updates) = mpsc::channel(1024);
    let count = async {
        let mut known = Known::none();
        while let Some(update) = updates.recv().await {
            let before = known.count;
            match update {
                Update::Snapshot(leases) | Update::SnapshotAfterDataLoss(leases) => {
                    known = Known::none();
                    leases.iter().for_each(|lease| known.set(lease.key, true));
                }
                Update::Change(Change::Put(lease)) => {
                    known.set(lease.key, true);
                    sums.told();
                }
                Update::Change(Change::Delete(key)) => known.set(key, false),
            }
            sums.known.set(sums.known.get() + known.count - before);
            sums.changed.notify_one();
        }
    };
    tokio::join!(follow(store, &sender, listed), count);
    Err("nobody follows any more".into())
}

/// Renews when it is this host's turn, until there are no more turns.
async fn renew(manager: &SubnetManager<'_, EtcdStore>, held: OwnLease, sums: &Sums) -> Result<(), Fault> {
    while let Ok(turn) = sums.may_renew.acquire().await {
        turn.forget();
        let begun = Instant::now();
        let mut backoff = backoff();
        while let Err(error) = manager.renew(held.key).await {
            match error {
                StoreError::Unreachable(_) => backoff.pause().await,
                other => return Err(other.into()),
            }
        }
        sums.renewals.set(sums.renewals.get() + 1);
        sums.to_renew.borrow_mut().push(begun.elapsed().as_secs_f64());
    }
    std::future::pending().await
}

async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(sums: &Sums, ask: impl Fn() -> F) -> Result<T, Fault> {
    let mut backoff = backoff();
    loop {
        match ask().await {
            Err(StoreError::Unreachable(_)) => {
                sums.tries.set(sums.tries.get() + 1);
                backoff.pause().await;
            }
            other => return Ok(other?),
        }
    }
}

/// The pauses of a daemon that takes its lease.
fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5))
}
