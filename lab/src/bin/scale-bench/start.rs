//! A start that finds N leases: when the host is ready, when its last entry is installed, what it takes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use flannel_testbed::{Context as _, Daemon, Error, Host, Lab, Result};

use crate::batch;
use crate::lease::{self, Absent};

const PORT: u16 = 8081;
const TIMEOUT: Duration = Duration::from_secs(300);
/// How long the idle processor time is counted.
const IDLE: Duration = Duration::from_secs(30);

pub(crate) fn table(program: &Path, backends: &[String], sizes: &[usize]) -> Result<()> {
    println!("\nstart with N leases in etcd");
    println!(
        "backend      N  subnet.env s  last entry s  ip -batch s  ratio  CPU s  RSS MiB  peak MiB  idle CPU %  comparison ms"
    );
    for backend in backends {
        for &size in sizes {
            row(program, backend, size)?;
        }
    }
    Ok(())
}

fn row(program: &Path, backend: &str, size: usize) -> Result<()> {
    let lab = lease::lab(backend, size)?;
    let host = lab.host(1);
    let start = Instant::now();
    let daemon = start_daemon(host, program)?;
    let env = until(|| Ok(daemon.has_written()))?.duration_since(start);
    let wanted = size * Absent::entries(backend);
    // The routes of udp are installed whatever leases there are.
    let entries = || Ok(metric(host, "flannel_entries ")?.is_some_and(|n| n >= wanted));
    let last = until(entries)?.duration_since(start);
    let busy = processor(&daemon)?;
    let made = if backend == "udp" { wanted } else { batch::count(&lab, backend)? };
    if made != wanted {
        return Err(Error::new(format!("{backend}, {size} leases: {made} entries in the kernel instead of {wanted}")));
    }
    let (rss, peak) = (daemon.process().rss_kib()?, daemon.process().peak_rss_kib()?);
    let comparison = comparison(host, &daemon, backend)?;
    let idle = idle(&daemon)?;
    let by_batch = batch::time(backend, size, host.directory())?;
    let (seconds, ratio) = by_batch.map_or(("-".into(), "-".into()), |took| {
        (format!("{:.3}", took.as_secs_f64()), format!("{:.2}", last.as_secs_f64() / took.as_secs_f64()))
    });
    println!(
        "{backend:<8} {size:>5} {:>13.3} {:>13.3} {seconds:>12} {ratio:>6} {busy:>6.2} {:>8.1} {:>9.1} {idle:>11.3} {comparison:>14}",
        env.as_secs_f64(),
        last.as_secs_f64(),
        kibi(rss),
        kibi(peak),
    );
    daemon.kill()
}

/// Starts the daemon under test with its metrics.
pub(crate) fn start_daemon(host: &Host, program: &Path) -> Result<Daemon> {
    host.flanneld(program).args(&["-healthz-port=8081"]).start()
}

/// Waits until all of so many leases are connected.
pub(crate) fn ready(lab: &Lab, program: &Path, backend: &str, size: usize) -> Result<Daemon> {
    let daemon = start_daemon(lab.host(1), program)?;
    let wanted = size * Absent::entries(backend);
    until(|| Ok(metric(lab.host(1), "flannel_entries ")?.is_some_and(|n| n >= wanted)))?;
    Ok(daemon)
}

/// Asks until it is so; when that was.
pub(crate) fn until(mut good: impl FnMut() -> Result<bool>) -> Result<Instant> {
    let start = Instant::now();
    while !good()? {
        if start.elapsed() > TIMEOUT {
            return Err(Error::new(format!("not within {TIMEOUT:?}")));
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Ok(Instant::now())
}

/// Processor seconds of a daemon's threads so far.
pub(crate) fn processor(daemon: &Daemon) -> Result<f64> {
    let threads = format!("/proc/{}/task", daemon.process().pid());
    let mut nanoseconds = 0.0;
    for thread in std::fs::read_dir(&threads).context(|| threads.clone())? {
        let path = thread.context(|| threads.clone())?.path().join("schedstat");
        // Nanoseconds on a processor come first. A thread may have ended meanwhile.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        nanoseconds += text
            .split_whitespace()
            .next()
            .and_then(|n| n.parse::<f64>().ok())
            .context(|| path.display().to_string())?;
    }
    Ok(nanoseconds / 1e9)
}

/// Percent of one processor while nothing happens.
fn idle(daemon: &Daemon) -> Result<f64> {
    let (before, start) = (processor(daemon)?, Instant::now());
    while start.elapsed() < IDLE {
        std::thread::park_timeout(IDLE.saturating_sub(start.elapsed()));
    }
    Ok((processor(daemon)? - before) / start.elapsed().as_secs_f64() * 100.0)
}

/// Processor milliseconds of a comparison with the kernel, which another program's change calls for.
fn comparison(host: &Host, daemon: &Daemon, backend: &str) -> Result<String> {
    let damage = match backend {
        "vxlan" => format!("neigh del {} dev flannel.1", Absent::new(0).base()),
        "host-gw" => format!("route del {}/24", Absent::new(0).base()),
        _ => return Ok("-".into()),
    };
    let count = || Ok::<_, Error>(metric(host, "flannel_comparisons_total ")?.unwrap_or(0));
    let (before, busy) = (count()?, processor(daemon)?);
    host.ip(&damage)?;
    until(|| Ok(count()? > before))?;
    until(|| Ok(metric(host, "flannel_entries_failed ")? == Some(0)))?;
    Ok(format!("{:.0}", (processor(daemon)? - busy) * 1000.0))
}

/// A number of `/metrics`; nothing while the daemon does not answer yet.
pub(crate) fn metric(host: &Host, name: &str) -> Result<Option<usize>> {
    let page = host.run(|_| -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: h1\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    })?;
    let Ok(page) = page else { return Ok(None) };
    Ok(page.lines().find_map(|line| line.strip_prefix(name)?.parse().ok()))
}

pub(crate) fn kibi(kib: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52, shown with one digit")]
    let kib = kib as f64;
    kib / 1024.0
}
