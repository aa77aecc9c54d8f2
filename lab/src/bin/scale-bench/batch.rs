//! The same entries by `ip -batch` and `bridge -batch`, in a namespace of their own: what the kernel allows a program
//! that does nothing else.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use flannel_testbed::{Context as _, Error, Lab, Namespace, Result};

use crate::lease::Absent;

/// Entries the batch namespaces of one process made so far.
static BATCHES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(900);

/// How long it takes; nothing for a backend without entries in the kernel.
pub(crate) fn time(backend: &str, count: usize, directory: &Path) -> Result<Option<Duration>> {
    if backend == "udp" {
        return Ok(None);
    }
    let number = BATCHES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let namespace = Namespace::create(number, "batch")?;
    namespace.ip("link set lo up")?;
    namespace.ip("link add eth0 type bridge")?;
    namespace.ip("addr add 172.31.77.1/24 dev eth0")?;
    namespace.ip("link set eth0 up")?;
    let hosts = || (0..count).map(Absent::new);
    let mut batches = Vec::new();
    if backend == "vxlan" {
        namespace.ip("link add flannel.1 type vxlan id 1 local 172.31.77.1 dev eth0 dstport 8472 nolearning")?;
        namespace.ip("addr add 10.1.0.0/32 dev flannel.1")?;
        namespace.ip("link set flannel.1 up")?;
        let neigh = |h: Absent| format!("neigh replace {} lladdr {} nud permanent dev flannel.1", h.base(), h.mac());
        let fdb = |h: Absent| format!("fdb replace {} dst {} self permanent dev flannel.1", h.mac(), h.public(backend));
        let route = |h: Absent| format!("route replace {0}/24 via {0} dev flannel.1 onlink", h.base());
        batches.push(("ip", file(directory, "neigh", hosts().map(neigh))?));
        batches.push(("bridge", file(directory, "fdb", hosts().map(fdb))?));
        batches.push(("ip", file(directory, "route", hosts().map(route))?));
    } else {
        let route = |h: Absent| format!("route replace {}/24 via {} dev eth0", h.base(), h.public(backend));
        batches.push(("ip", file(directory, "route", hosts().map(route))?));
    }
    let start = Instant::now();
    for (program, file) in &batches {
        namespace.exec(&format!("{program} -batch {file}"))?;
    }
    let took = start.elapsed();
    let made = namespace.ip("route show")?.lines().filter(|line| line.contains("/24 via")).count();
    if made != count {
        return Err(Error::new(format!("ip -batch made {made} routes of {count}")));
    }
    Ok(Some(took))
}

fn file(directory: &Path, name: &str, lines: impl Iterator<Item = String>) -> Result<String> {
    let mut text = String::new();
    for line in lines {
        writeln!(text, "{line}").context(|| "text".to_owned())?;
    }
    let path = directory.join(format!("batch.{name}"));
    std::fs::write(&path, text).context(|| path.display().to_string())?;
    Ok(path.display().to_string())
}

/// The routes, neighbours and forwarding records of the leases, counted by iproute2.
pub(crate) fn count(lab: &Lab, backend: &str) -> Result<usize> {
    let host = lab.host(1);
    match backend {
        "vxlan" => Ok(host.routes()?.iter().filter(|r| r.contains("dev flannel.1")).count()
            + host.neighbours("flannel.1")?.len()
            + host.forwarding("flannel.1")?.len()),
        _ => Ok(host.routes()?.iter().filter(|r| r.contains("/24 via 172.31.77.")).count()),
    }
}
