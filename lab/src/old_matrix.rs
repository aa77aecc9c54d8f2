//! The matrix: every path between workloads, tried and told.
//!
//! Paths of n workloads on n hosts: each workload pings each other one and each host's lease address (its own too), and
//! fetches a file from each other one by TCP: n(n-1) + n² + n(n-1).

use std::time::Duration;

use futures_util::StreamExt as _;

use crate::probe;
use crate::progress::Progress;
use crate::workload::{Blob, Workload};
use crate::{Error, Result};

/// Pings a path gets; all must be answered.
const PINGS: u32 = 3;
/// How many paths are tried at once: enough to be quick, few enough not to disturb one another.
const AT_ONCE: usize = 4;

/// Where a path leads: workloads and hosts by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Ping that workload.
    Workload(usize),
    /// Ping that host's lease address.
    Lease(usize),
    /// Fetch that workload's file.
    File(usize),
}

/// One path: from a workload to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The number of the workload that asks.
    pub from: usize,
    /// What it asks.
    pub target: Target,
}

/// What came of a path: milliseconds of a ping or seconds of a transfer, or why it is down.
pub type Outcome = std::result::Result<f64, String>;

/// All paths of a lab with so many workloads.
#[must_use]
pub fn plan(workloads: usize) -> Vec<Path> {
    let pairs = || (0..workloads).flat_map(move |from| (0..workloads).map(move |to| (from, to)));
    let others = || pairs().filter(|(from, to)| from != to);
    let pings = others().map(|(from, to)| Path { from, target: Target::Workload(to) });
    let leases = pairs().map(|(from, to)| Path { from, target: Target::Lease(to) });
    let files = others().map(|(from, to)| Path { from, target: Target::File(to) });
    pings.chain(leases).chain(files).collect()
}

/// Waits for the lab to settle, then tries every path. A lab that does not settle is tried all the same, to see which
/// paths are down.
pub async fn settle_and_run(
    workloads: &[Workload],
    within: Duration,
    file_bytes: u64,
    progress: &Progress,
) -> Result<Vec<(Path, Outcome)>> {
    if let Err(error) = progress.during("waits until all hosts know each other", settle(workloads, within)).await {
        progress.say(format_args!("  {error}"));
    }
    run(workloads, file_bytes, progress).await
}

/// Waits until every workload reaches every other one: a new host is known to the others only after a moment.
pub async fn settle(workloads: &[Workload], within: Duration) -> Result<()> {
    let paths = plan(workloads.len());
    let mut waits = futures_util::stream::iter(paths)
        .filter_map(async |path| match path.target {
            Target::Workload(to) => Some((path.from, to)),
            _ => None,
        })
        .map(async |(from, to)| probe::answers(&workloads[from], &workloads[to].address, within).await)
        .buffer_unordered(AT_ONCE)
        .boxed_local();
    while let Some(reached) = waits.next().await {
        reached?;
    }
    Ok(())
}

/// Tries every path once and tells how far it is. An error means that trying was not possible; a path that is down is
/// an outcome.
pub async fn run(workloads: &[Workload], file_bytes: u64, progress: &Progress) -> Result<Vec<(Path, Outcome)>> {
    let mut blobs = Vec::new();
    for blob in futures_util::future::join_all(workloads.iter().map(|workload| workload.serve(file_bytes))).await {
        blobs.push(blob?);
    }
    let paths = plan(workloads.len());
    let total = paths.len();
    let (files, pings): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| matches!(path.target, Target::File(_)));
    let mut outcomes = Vec::with_capacity(total);
    let mut told = progress.elapsed();
    let mut dark: Vec<(usize, usize)> = Vec::new();
    for (paths, at_once) in [(pings, AT_ONCE), (files, 1)] {
        let mut tries = futures_util::stream::iter(paths)
            .map(async |path| (path, attempt(workloads, &blobs, path, &dark).await))
            .buffer_unordered(at_once)
            .boxed_local();
        let mut lost = Vec::new();
        while let Some((path, outcome)) = tries.next().await {
            if let Err(why) = &outcome {
                if let Target::Workload(to) = path.target {
                    lost.push((path.from, to));
                }
                progress.say(format_args!("  DOWN: {}: {why}", describe(workloads, path)));
            }
            outcomes.push((path, outcome));
            if progress.elapsed() - told >= Duration::from_secs(1) {
                told = progress.elapsed();
                progress.say(format_args!("  {} of {total} paths tried", outcomes.len()));
            }
        }
        drop(tries);
        dark.append(&mut lost);
    }
    Ok(outcomes)
}

/// Tries one path. A file is not asked for where pings were lost already (`dark`): it would only take long.
async fn attempt(workloads: &[Workload], blobs: &[Blob], path: Path, dark: &[(usize, usize)]) -> Outcome {
    let from = &workloads[path.from];
    let address = match path.target {
        Target::File(to) if dark.contains(&(path.from, to)) => return Err("not tried, pings were lost".to_owned()),
        Target::File(to) => {
            let fetched = probe::fetch(from, &workloads[to].address, &blobs[to]).await;
            return fetched.map_err(|error| error.to_string());
        }
        Target::Workload(to) => &workloads[to].address,
        Target::Lease(to) => &workloads[to].gateway,
    };
    match probe::ping(from, address, PINGS).await {
        Ok(probe::Pings { sent, received, best_ms: Some(best) }) if sent == received => Ok(best),
        Ok(pings) => Err(format!("{} of {} pings to {address} answered", pings.received, pings.sent)),
        Err(error) => Err(error.to_string()),
    }
}

/// A path in words.
fn describe(workloads: &[Workload], path: Path) -> String {
    let from = workloads[path.from].label();
    match path.target {
        Target::Workload(to) => format!("ping {from} -> {}", workloads[to].label()),
        Target::Lease(to) => format!("ping {from} -> lease address of {}", workloads[to].host.name),
        Target::File(to) => format!("tcp {from} <- {}", workloads[to].label()),
    }
}

/// An error that names the paths that are down, if any is.
pub fn all_up(workloads: &[Workload], outcomes: &[(Path, Outcome)]) -> Result<()> {
    let down: Vec<String> = outcomes
        .iter()
        .filter_map(|(path, outcome)| Some(format!("{}: {}", describe(workloads, *path), outcome.as_ref().err()?)))
        .collect();
    if down.is_empty() {
        return Ok(());
    }
    Err(Error::State(format!("{} of {} paths down:\n  {}", down.len(), outcomes.len(), down.join("\n  "))))
}

/// A cell's column: which of its workload's three.
fn column(target: Target) -> (usize, usize) {
    match target {
        Target::Workload(to) => (0, to),
        Target::Lease(to) => (1, to),
        Target::File(to) => (2, to),
    }
}

/// The outcomes as a table for a terminal.
#[must_use]
pub fn render(names: &[String], outcomes: &[(Path, Outcome)]) -> String {
    let n = names.len();
    let mut cells = vec![vec![vec!["-".to_owned(); n]; 3]; n];
    for (path, outcome) in outcomes {
        let (kind, to) = column(path.target);
        cells[path.from][kind][to] = match outcome {
            Ok(value) => format!("{value:.2}"),
            Err(_) => "DOWN".to_owned(),
        };
    }
    let width = names.iter().map(String::len).max().unwrap_or(0);
    let mut table = String::new();
    for (kind, title) in ["ping, ms", "ping the lease address, ms", "tcp with checksum, s"].iter().enumerate() {
        table.push_str(&format!("  {title}\n  {:width$}", ""));
        for name in names {
            table.push_str(&format!("  {name:>width$}"));
        }
        table.push('\n');
        for (from, name) in names.iter().enumerate() {
            table.push_str(&format!("  {name:width$}"));
            for cell in &cells[from][kind] {
                table.push_str(&format!("  {cell:>width$}"));
            }
            table.push('\n');
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_workloads_have_21_paths() {
        let paths = plan(3);
        assert_eq!(paths.len(), 21);
        assert!(paths.iter().enumerate().all(|(i, path)| !paths[..i].contains(path)), "no path twice");
        assert!(!paths.contains(&Path { from: 1, target: Target::Workload(1) }));
        assert!(paths.contains(&Path { from: 1, target: Target::Lease(1) }));
    }

    #[test]
    fn a_lone_workload_reaches_its_own_lease() {
        assert_eq!(plan(1), [Path { from: 0, target: Target::Lease(0) }]);
    }

    #[test]
    fn a_path_down_shows_in_its_cell() {
        let names = ["c1 on host1".to_owned(), "c2 on host2".to_owned()];
        let outcomes: Vec<(Path, Outcome)> = plan(2)
            .into_iter()
            .map(|path| {
                let down = path == Path { from: 1, target: Target::Workload(0) };
                (path, if down { Err("0 of 3".to_owned()) } else { Ok(0.25) })
            })
            .collect();
        let table = render(&names, &outcomes);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "  ping, ms");
        assert_eq!(lines[2], "  c1 on host1            -         0.25");
        assert_eq!(lines[3], "  c2 on host2         DOWN            -");
        assert_eq!(table.matches("DOWN").count(), 1);
    }
}
