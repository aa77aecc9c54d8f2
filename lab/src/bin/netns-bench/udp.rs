//! The udp backend, with and without offloads, beside the kernel's own ways and beside the limit, all in one run:
//! five labs run at once, and each measurement goes round all of them before the next round.
//!
//! ```text
//! pod -- cbr0 h1 ==== switch ==== h2 cbr0 -- pod      the same path for all, also for the limit
//! ```

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flannel_testbed::{Context as _, Error, Lab, Pod, Process, Result, SOON, eventually, transfer};

use crate::measure::{Flood, Sender, Tcp, flood, questions, tcp};
use crate::overview::{kernel, mebi, reachable};

/// Of each figure the middle one of so many rounds is shown; the variable `ROUNDS` sets another number.
const ROUNDS: usize = 5;
const SECONDS: u32 = 3;
const FLOOD: Duration = Duration::from_secs(2);
const QUESTIONS: usize = 4000;
const PORT: &str = "8285";

const WAYS: [(&str, &str); 5] = [
    ("udp", r#"{"Type":"udp"}"#),
    ("udp, Offload false", r#"{"Type":"udp","Offload":false}"#),
    ("limit", r#"{"Type":"alloc"}"#),
    ("vxlan", r#"{"Type":"vxlan"}"#),
    ("host-gw", r#"{"Type":"host-gw"}"#),
];

/// Two hosts that are connected in one of the ways.
struct Way {
    name: &'static str,
    // In the order they have to go.
    one: Pod,
    two: Pod,
    forwarders: Vec<Process>,
    lab: Lab,
    seen: Seen,
}

/// What the rounds gave.
#[derive(Default)]
struct Seen {
    one_flow: Vec<Tcp>,
    one_flow_cost: Vec<f64>,
    eight_flows: Vec<f64>,
    together: Vec<Flood>,
    large: Vec<Flood>,
    small: Vec<Flood>,
    waits: Vec<Duration>,
    memory: f64,
}

pub(crate) fn bench(program: &Path) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    println!("{}: {cores} cores, kernel {}; the middle of {rounds} rounds", program.display(), kernel()?);
    let mut ways: Vec<Way> =
        WAYS.iter().map(|(name, backend)| connect(program, name, backend)).collect::<Result<_>>()?;
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for way in &mut ways {
            way.round()?;
        }
    }
    println!("{}", table(&mut ways));
    let way = &ways[0];
    println!("{}", integrity(way)?);
    Ok(())
}

/// 10 GB from pod to pod, hashed at both ends, while leases of other hosts come and go.
fn integrity(way: &Way) -> Result<String> {
    const BYTES: usize = 10_000_000_000;
    const GUESTS: u8 = 100;
    let key = |n: u8| format!("/coreos.com/network/subnets/10.5.{}.0-24", n + 100);
    let etcd = way.lab.etcd();
    let taken: Vec<String> = way.lab.hosts().iter().map(|h| Ok(h.subnet_env()?.key())).collect::<Result<_>>()?;
    let guests: Vec<u8> = (0..GUESTS).filter(|n| !taken.contains(&key(*n))).collect();
    let over = AtomicBool::new(false);
    let start = Instant::now();
    let (moved, changes) = std::thread::scope(|scope| {
        let changing = scope.spawn(|| -> Result<u32> {
            let mut changes = 0;
            while !over.load(Ordering::Relaxed) {
                for n in &guests {
                    etcd.put(&key(*n), &format!(r#"{{"PublicIP":"192.0.2.{n}","PublicIPv6":null}}"#))?;
                }
                for n in &guests {
                    etcd.delete(&key(*n))?;
                }
                changes += 2 * u32::try_from(guests.len()).unwrap_or(0);
            }
            Ok(changes)
        });
        let moved = transfer(&way.one, &way.two, way.two.address(), BYTES);
        over.store(true, Ordering::Relaxed);
        (moved, changing.join())
    });
    let (moved, changes) = (moved?, changes.map_err(|_| Error::new("the changing thread panicked"))??);
    let took = start.elapsed().as_secs_f64();
    Ok(format!(
        "{} bytes with the same SHA-256 at both ends in {took:.0} s, {changes} leases came or went meanwhile",
        moved.bytes
    ))
}

fn connect(program: &Path, name: &'static str, backend: &str) -> Result<Way> {
    let lab = Lab::flat(2)?;
    lab.configure(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#))?;
    let mut daemons = Vec::new();
    for host in lab.hosts() {
        daemons.push(host.up(program, &[])?.process().clone());
    }
    let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
    let forwarders = if name == "limit" { limit(&lab, [&one, &two])? } else { daemons };
    reachable(&one, &two)?;
    Ok(Way { name, one, two, forwarders, lab, seen: Seen::default() })
}

/// The limit program on both hosts, with the routes and the MTU the udp backend would have.
fn limit(lab: &Lab, pods: [&Pod; 2]) -> Result<Vec<Process>> {
    let me = std::env::current_exe().context(|| "this program's path".to_owned())?;
    let mut processes = Vec::new();
    for (number, pod) in [1, 2].into_iter().zip(pods) {
        let (host, other) = (lab.host(number), lab.host(3 - number));
        let mut command = host.command(&me);
        command.args(["limit", "limit0", &host.address().to_string(), &other.address().to_string(), PORT]);
        processes.push(Process::start("limit", command, &host.directory().join("limit.log"))?);
        eventually("the limit's device", SOON, || host.ip("link set limit0 mtu 1472 up"))?;
        host.ip(&format!("route add {} dev limit0", other.subnet_env()?.subnet()))?;
        host.ip("link set cbr0 mtu 1472")?;
        host.ip("link set pod1 mtu 1472")?;
        pod.ip("link set eth0 mtu 1472")?;
    }
    Ok(processes)
}

impl Way {
    fn round(&mut self) -> Result<()> {
        let Self { one, two, forwarders, seen, .. } = self;
        let address = two.address();
        let spent = || forwarders.iter().map(Process::cpu_seconds).sum::<Result<f64>>();
        let before = spent()?;
        let flow = tcp(one, two, address, 1, SECONDS)?;
        seen.one_flow_cost.push((spent()? - before + flow.seconds) / flow.gigabytes);
        seen.one_flow.push(flow);
        seen.eight_flows.push(tcp(one, two, address, 8, SECONDS)?.gigabits);
        seen.waits.extend(questions(one, two, address, QUESTIONS)?);
        seen.together.push(flood(one, two, address, (1400, Sender::Together), FLOOD)?);
        seen.large.push(flood(one, two, address, (1400, Sender::EachAlone), FLOOD)?);
        seen.small.push(flood(one, two, address, (64, Sender::EachAlone), FLOOD)?);
        for process in forwarders.iter() {
            seen.memory = seen.memory.max(mebi(process.rss_kib()? * 1024));
        }
        Ok(())
    }
}

fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn table(ways: &mut [Way]) -> String {
    let mut text = String::from(
        "\n| | one flow, Gbit/s | of the limit | eight flows, Gbit/s | CPU s/GB | 1400 B by UDP_SEGMENT, 1000/s | lost, % | 1400 B, 1000/s | lost, % | 64 B, 1000/s | lost, % | wait p50, us | p99, us | RSS, MiB |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let one_flow = |way: &Way| middle(&way.seen.one_flow.iter().map(|t| t.gigabits).collect::<Vec<_>>());
    let limit = ways.iter().find(|way| way.name == "limit").map_or(f64::NAN, one_flow);
    for way in ways {
        way.seen.waits.sort_unstable();
        let wait = |percent: usize| {
            let waits = &way.seen.waits;
            waits.get(waits.len() * percent / 100).map_or(f64::NAN, |w| w.as_secs_f64() * 1e6)
        };
        let rate = |floods: &[Flood]| middle(&floods.iter().map(|f| f.received / 1000.0).collect::<Vec<_>>());
        let lost = |floods: &[Flood]| middle(&floods.iter().map(|f| f.lost).collect::<Vec<_>>());
        let (seen, flow) = (&way.seen, one_flow(way));
        let cells = format!(
            "| {} | {flow:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} |",
            way.name,
            flow / limit,
            middle(&seen.eight_flows),
            middle(&seen.one_flow_cost),
            rate(&seen.together),
            lost(&seen.together),
            rate(&seen.large),
            lost(&seen.large),
            rate(&seen.small),
            lost(&seen.small),
            wait(50),
            wait(99),
            seen.memory,
        );
        writeln!(text, "{cells}").expect("a String takes every write");
    }
    text
}
