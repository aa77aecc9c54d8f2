//! What thousands of hosts cost a flanneld and its etcd: tables for docs/explanation/performance.md, section "scale", and
//! docs/explanation/scale.md. `ci/bench scale` builds what it needs and runs it.
//!
//! ```text
//! etcd with N leases ==== switch ==== h1: the flanneld under test; beside it a namespace for ip -batch
//! ```
//!
//! Read the ratios: both sides of each come from one run on one machine.

mod batch;
mod churn;
mod join;
mod lease;
mod light;
mod routes;
mod start;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use flannel_testbed::{Context as _, Result};

const SIZES: [usize; 4] = [100, 1000, 5000, 20_000];
/// Of the table of joins.
const JOINED: [usize; 2] = [1000, 5000];
/// Of the table of what etcd bears.
const LIGHT: [usize; 3] = [1000, 2000, 5000];
const BACKENDS: [&str; 3] = ["vxlan", "host-gw", "udp"];
const TABLES: [&str; 5] = ["start", "join", "churn", "etcd", "routes"];

/// What is measured.
struct Bench {
    flanneld: PathBuf,
    light_hosts: PathBuf,
    sizes: Option<Vec<usize>>,
    backends: Vec<String>,
    tables: Vec<String>,
    /// Over how many seconds the light hosts start.
    spread: Option<usize>,
}

fn main() -> ExitCode {
    let Some(bench) = Bench::read(std::env::args().skip(1)) else {
        eprintln!(
            "scale-bench: usage: scale-bench FLANNELD LIGHT_HOSTS [sizes=100,1000,5000,20000] \
             [backends=vxlan,host-gw,udp] [tables=start,join,churn,etcd,routes] [spread=SECONDS]"
        );
        return ExitCode::from(2);
    };
    match bench.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("scale-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

impl Bench {
    fn read(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let own = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mut bench = Self {
            flanneld: words.next()?.into(),
            light_hosts: words.next()?.into(),
            sizes: None,
            backends: own(&BACKENDS),
            tables: own(&TABLES),
            spread: None,
        };
        for word in words {
            let (name, list) = word.split_once('=')?;
            let list: Vec<String> = list.split(',').map(str::to_owned).collect();
            let known = |known: &[&str]| list.iter().all(|word| known.contains(&word.as_str()));
            match name {
                "sizes" => bench.sizes = Some(list.iter().map(|n| n.parse().ok()).collect::<Option<_>>()?),
                "spread" => bench.spread = Some(list.first()?.parse().ok()?),
                "backends" if known(&BACKENDS) => bench.backends = list,
                "tables" if known(&TABLES) => bench.tables = list,
                _ => return None,
            }
        }
        Some(bench)
    }

    fn has(&self, table: &str) -> bool {
        self.tables.iter().any(|t| t == table)
    }

    fn sizes<'a>(&'a self, usual: &'a [usize]) -> &'a [usize] {
        self.sizes.as_deref().unwrap_or(usual)
    }

    fn run(&self) -> Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        println!("{}: {cores} cores, kernel {}", self.flanneld.display(), read("/proc/sys/kernel/osrelease")?);
        // Permanent neighbours do not count against these (linux/net/core/neighbour.c); forwarding records have no
        // limit but a device's own, which is off.
        for number in 1..=3 {
            let name = format!("net/ipv4/neigh/default/gc_thresh{number}");
            println!("{name} {}", read(&format!("/proc/sys/{name}"))?);
        }
        if self.has("start") {
            start::table(&self.flanneld, &self.backends, self.sizes(&SIZES))?;
        }
        if self.has("join") {
            join::table(&self.flanneld, self.sizes(&JOINED))?;
        }
        if self.has("churn") {
            churn::table(&self.flanneld)?;
        }
        if self.has("etcd") {
            light::table(&self.light_hosts, self.sizes(&LIGHT), self.spread)?;
        }
        if self.has("routes") {
            routes::table(self.sizes(&SIZES))?;
        }
        Ok(())
    }
}

fn read(path: &str) -> Result<String> {
    Ok(std::fs::read_to_string(Path::new(path)).context(|| path.to_owned())?.trim().to_owned())
}

/// The value at a share of a sorted list.
fn at(sorted: &[f64], percent: usize) -> f64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}
