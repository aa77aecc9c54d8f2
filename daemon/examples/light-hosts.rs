//! Hosts without a kernel: each takes its lease, follows the others and renews, by the daemon's own code and over a
//! connection of its own, so that it shows what etcd bears.
//!
//! `light-hosts ENDPOINT HOSTS SPREAD_SECONDS RENEW_SECONDS`: starts `HOSTS` hosts evenly over the first time, waits
//! until every one knows every other, then has all of them renew as fast as etcd answers for the second time. Prints
//! `name value` lines; `ci/bench scale` makes a table of them.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use flannel_core::config::NetworkConfig;
use flannel_core::lease::LeaseAttrs;
use flannel_core::subnet_env::PreviousSubnets;
use flannel_core::view::{Change, LeaseView};
use flanneld::opts::Options;
use flanneld::subnet::etcd::EtcdStore;
use flanneld::subnet::follow::{Update, follow};
use flanneld::subnet::store::{StoreError, SubnetStore};
use flanneld::subnet::{Held, Listed, SubnetManager, TTL};
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;

type Fault = Box<dyn Error>;

/// What all hosts count together.
#[derive(Default)]
struct Sums {
    /// Seconds from the start of a host to its lease.
    to_lease: RefCell<Vec<f64>>,
    tries: Cell<u64>,
    failures: Cell<u64>,
    known: Cell<u64>,
    events: Cell<u64>,
    renewals: Cell<u64>,
    /// Seconds of a renewal.
    to_renew: RefCell<Vec<f64>>,
    renewing: Cell<bool>,
    changed: Notify,
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
    let sums = Rc::new(Sums::default());
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
    // Until each knows each.
    let all = plan.hosts * (plan.hosts - 1);
    until(&sums, || sums.known.get() >= all || sums.failures.get() > 0).await;
    if sums.failures.get() > 0 {
        return Err(format!("{} hosts ended", sums.failures.get()).into());
    }
    println!("start_seconds {:.3}", start.elapsed().as_secs_f64());
    percentiles("lease", &mut sums.to_lease.borrow_mut());
    println!("tries {}", sums.tries.get());
    println!("start_events {}", sums.events.get());

    sums.events.set(0);
    sums.renewing.set(true);
    sums.changed.notify_waiters();
    let start = Instant::now();
    tokio::time::sleep_until((start + plan.renew).into()).await;
    sums.renewing.set(false);
    let renewed = sums.renewals.get();
    println!("renewals_per_second {:.0}", renewed as f64 / start.elapsed().as_secs_f64());
    // The watches have told all of it when the last event is there; each host is told of each renewal, its own too.
    until(&sums, || sums.events.get() >= sums.renewals.get() * plan.hosts).await;
    let took = start.elapsed().as_secs_f64();
    println!("events {}", sums.events.get());
    println!("events_per_second {:.0}", sums.events.get() as f64 / took);
    println!("events_behind_seconds {:.3}", took - plan.renew.as_secs_f64());
    percentiles("renewal", &mut sums.to_renew.borrow_mut());
    Ok(())
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
    let held = loop {
        sums.tries.set(sums.tries.get() + 1);
        match manager.acquire(&config, &PreviousSubnets::default()).await {
            Err(flanneld::error::Error::Store(StoreError::Unreachable(_))) => pause().await,
            other => break other?,
        }
    };
    sums.to_lease.borrow_mut().push(begun.elapsed().as_secs_f64());
    let listed = manager.take_list();
    tokio::select! {
        never = watch(&store, held, listed, sums) => never,
        ended = renew(&manager, held, sums) => ended,
    }
}

/// Counts what it is told until the end.
async fn watch(store: &EtcdStore, held: Held, listed: Option<Listed>, sums: &Sums) -> Result<(), Fault> {
    let (sender, mut updates) = mpsc::channel(1024);
    let count = async {
        let mut view = LeaseView::new(held.key);
        while let Some(update) = updates.recv().await {
            let before = view.len() as u64;
            match update {
                Update::Snapshot(leases) | Update::Remains(leases) => view.replace(leases),
                Update::Change(change) => {
                    if matches!(change, Change::Put(_)) {
                        sums.events.set(sums.events.get() + 1);
                    }
                    view.apply(change);
                }
            }
            sums.known.set(sums.known.get() + view.len() as u64 - before);
            sums.changed.notify_one();
        }
    };
    tokio::join!(follow(store, &sender, listed), count);
    Err("nobody follows any more".into())
}

/// Renews while that is asked for.
async fn renew(manager: &SubnetManager<'_, EtcdStore>, held: Held, sums: &Sums) -> Result<(), Fault> {
    loop {
        while !sums.renewing.get() {
            pause().await;
        }
        let begun = Instant::now();
        match manager.keep(held.key).await {
            Ok(_) => {
                sums.renewals.set(sums.renewals.get() + 1);
                sums.to_renew.borrow_mut().push(begun.elapsed().as_secs_f64());
            }
            Err(StoreError::Unreachable(_)) => pause().await,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(sums: &Sums, ask: impl Fn() -> F) -> Result<T, Fault> {
    loop {
        match ask().await {
            Err(StoreError::Unreachable(_)) => {
                sums.tries.set(sums.tries.get() + 1);
                pause().await;
            }
            other => return Ok(other?),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a host's pause between two tries, and the pace of the simulation")]
async fn pause() {
    tokio::time::sleep(Duration::from_millis(50 + fastrand::u64(..100))).await;
}
