//! Start, memory and one flow over each backend, as one table.
//!
//! ```text
//! pod -- cbr0 h1 ==== switch ==== h2 cbr0 -- pod       the reference: h1 to h2, nothing of flannel in between
//! ```

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use flannel_testbed::{Context as _, Error, Host, Lab, Pod, Process, Result, SOON, Signal, eventually, output};

use crate::measure::tcp;

const RUNS: usize = 20;
const SECONDS: u32 = 4;
const BACKENDS: [&str; 3] = ["host-gw", "vxlan", "udp"];

pub(crate) fn bench(program: &Path) -> Result<()> {
    let size = std::fs::metadata(program).context(|| program.display().to_string())?.len();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{}: {:.2} MiB; {cores} cores, kernel {}", program.display(), mebi(size), kernel()?);

    println!("\nfrom exec to subnet.env, ms, {RUNS} runs          p50     p90");
    for backend in BACKENDS {
        let lab = lab(1, backend)?;
        row(&format!("{backend}, first start"), &starts(&lab, program, true)?);
        row(&format!("{backend}, restart"), &starts(&lab, program, false)?);
    }

    println!("\nidle memory, one other host                  RSS MiB");
    for backend in BACKENDS {
        println!("  {backend:<44} {:>6.1}", idle(program, backend)?);
    }

    println!("\none TCP flow for {SECONDS} s                       Gbit/s   ratio");
    let plain = lab(2, "alloc")?;
    let reference = tcp(plain.host(1), plain.host(2), plain.host(2).address(), 1, SECONDS)?.gigabits;
    drop(plain);
    flow("host to host without flannel", reference, reference);
    for backend in BACKENDS {
        let lab = lab(2, backend)?;
        for host in lab.hosts() {
            host.up(program, &[])?;
        }
        let (one, two) = (lab.host(1).pod(1)?, lab.host(2).pod(1)?);
        reachable(&one, &two)?;
        flow(&format!("pod to pod, {backend}"), tcp(&one, &two, two.address(), 1, SECONDS)?.gigabits, reference);
    }
    Ok(())
}

fn lab(hosts: usize, backend: &str) -> Result<Lab> {
    let lab = Lab::flat(hosts)?;
    lab.configure(&format!(r#"{{"Network":"10.5.0.0/16","Backend":{{"Type":"{backend}"}}}}"#))?;
    Ok(lab)
}

pub(crate) fn reachable(one: &Pod, two: &Pod) -> Result<()> {
    eventually("the first answer between pods", SOON, || {
        let report = one.ping(two.address(), 1)?;
        if report.replies.is_empty() { Err(Error::new(report.text)) } else { Ok(()) }
    })
}

/// Times of [`RUNS`] starts, each from nothing (`fresh`: no lease, no file, no device) or after a SIGTERM.
fn starts(lab: &Lab, program: &Path, fresh: bool) -> Result<Vec<Duration>> {
    let host = lab.host(1);
    let file = host.subnet_file();
    (0..RUNS)
        .map(|_| {
            if fresh {
                lab.etcd().delete_all("/coreos.com/network/subnets/")?;
                // Absent before the first run and with backends that have none.
                drop(host.ip("link del flannel.1"));
            }
            // The file's presence is what is waited for; the lease of before is found by the public address.
            if file.exists() {
                std::fs::remove_file(&file).context(|| file.display().to_string())?;
            }
            start_once(host, program, &lab.etcd().endpoint(), &file)
        })
        .collect()
}

/// Starts the program straight from a thread inside, so that no other program's start is in the figure.
fn start_once(host: &Host, program: &Path, endpoint: &str, file: &Path) -> Result<Duration> {
    let mut command = Command::new(program);
    command.arg(format!("-etcd-endpoints={endpoint}")).arg(format!("-subnet-file={}", file.display()));
    let log = host.directory().join("bench.log");
    let (took, process) = host.run(move |_| -> Result<(Duration, Process)> {
        let start = Instant::now();
        let process = Process::start("flanneld", command, &log)?;
        while !file.exists() {
            if start.elapsed() > SOON {
                return Err(Error::new(format!("no {} after {SOON:?}:\n{}", file.display(), process.log())));
            }
            // Fine beside the milliseconds of interest, and it leaves the cores to daemon and etcd.
            std::thread::park_timeout(Duration::from_micros(200));
        }
        Ok((start.elapsed(), process))
    })??;
    process.signal(Signal::TERM)?;
    process.exit_within(SOON)?;
    Ok(took)
}

/// Resident memory in MiB once it has not changed for half a second.
fn idle(program: &Path, backend: &str) -> Result<f64> {
    let lab = lab(2, backend)?;
    let daemon = lab.host(1).up(program, &[])?;
    lab.host(2).up(program, &[])?;
    let mut last = (Instant::now(), 0);
    let kib = eventually("memory that stays the same", SOON, || {
        let now = daemon.process().rss_kib()?;
        if now != last.1 {
            last = (Instant::now(), now);
        }
        if last.0.elapsed() > Duration::from_millis(500) { Ok(now) } else { Err(Error::new("still changing")) }
    })?;
    Ok(mebi(kib * 1024))
}

pub(crate) fn kernel() -> Result<String> {
    Ok(output(Command::new("uname").arg("-r"))?.trim().to_owned())
}

pub(crate) fn mebi(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52, shown with two digits")]
    let bytes = bytes as f64;
    bytes / 1024.0 / 1024.0
}

fn row(name: &str, times: &[Duration]) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)].as_secs_f64() * 1000.0;
    println!("  {name:<43} {:>7.1} {:>7.1}", at(50), at(90));
}

fn flow(name: &str, gigabits: f64, reference: f64) {
    println!("  {name:<43} {gigabits:>7.2} {:>7.2}", gigabits / reference);
}
