//! One host more among N: from the write of its lease to its route in this host's kernel, as `ip monitor` sees it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use flannel_testbed::{Context as _, Error, Result, SOON};

use crate::lease::{self, Absent};
use crate::{at, start};

const JOINS: usize = 300;

pub(crate) fn table(program: &Path, sizes: &[usize]) -> Result<()> {
    println!("\nfrom the write of a lease to its route, vxlan, {JOINS} hosts one after the other, ms");
    println!("                 to the route            etcd's answer alone  CPU of the daemon");
    println!("    N     p50     p99     max     p50     p99     max             a join");
    for &size in sizes {
        let (times, processor) = joins(program, size)?;
        let (mut routes, mut writes): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
        let mut line = format!("{size:>5}");
        for times in [&mut routes, &mut writes] {
            times.sort_by(f64::total_cmp);
            for percent in [50, 99, 100] {
                line.push_str(&format!(" {:>7.1}", at(times, percent)));
            }
        }
        println!("{line} {processor:>18.2}");
    }
    Ok(())
}

/// Milliseconds to the route, and to the answer of etcd that the lease is written; and the processor's of each join.
fn joins(program: &Path, size: usize) -> Result<(Vec<(f64, f64)>, f64)> {
    let lab = lease::lab("vxlan", size)?;
    let daemon = start::ready(&lab, program, "vxlan", size)?;
    let mut command = lab.host(1).command("ip");
    command.args(["-o", "monitor", "route"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut monitor = command.spawn().context(|| "ip monitor".to_owned())?;
    let output = monitor.stdout.take().context(|| "ip monitor's output".to_owned())?;
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    let busy = start::processor(&daemon)?;
    let times: Result<Vec<(f64, f64)>> = (|| {
        // The monitor listens when it has reported a route of ours.
        let probe = "route replace 10.250.250.0/24 dev lo";
        start::until(|| {
            lab.host(1).ip(probe)?;
            Ok(lines.try_recv().is_ok())
        })?;
        (size..size + JOINS)
            .map(|number| {
                let host = Absent::new(number);
                let route = format!("{}/24 ", host.base());
                let begun = Instant::now();
                lab.etcd().put(&host.key(), &host.value("vxlan"))?;
                let written = begun.elapsed().as_secs_f64() * 1000.0;
                loop {
                    let (seen, line) = lines.recv_timeout(SOON).map_err(|e| Error::new(format!("{route}: {e}")))?;
                    if line.starts_with(&route) {
                        return Ok((seen.saturating_duration_since(begun).as_secs_f64() * 1000.0, written));
                    }
                    if begun.elapsed() > Duration::from_secs(30) {
                        return Err(Error::new(format!("{route}: not installed")));
                    }
                }
            })
            .collect()
    })();
    monitor.kill().and_then(|()| monitor.wait()).context(|| "ip monitor".to_owned())?;
    drop(reader.join());
    let busy = start::processor(&daemon)? - busy;
    daemon.kill()?;
    Ok((times?, busy * 1000.0 / JOINS as f64))
}
