//! What `flannel-lab` does, a function a command.

mod containers;
mod lab;
mod namespaces;
mod up;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::{Args, Runner};
use crate::host::LabHost;
use crate::matrix::Matrix;
use crate::measure::{Ask, Server, ask_all};
use crate::progress::{Progress, print};
use crate::topology::Topology;
use crate::workload::{Trial, Workload};
use crate::{Error, Result, holder, results};

use lab::Lab;

/// The flannel network that `up` makes on each host.
const NETWORK: &str = "demo";
/// New hosts know each other within this time.
const SETTLE: Duration = Duration::from_secs(15);

/// Brings a lab up.
pub async fn up(args: &Args, progress: &Progress) -> Result<()> {
    match args.runner {
        Some(Runner::Namespaces) => namespaces::up(args, progress).await,
        _ => up::up(args, progress).await,
    }
}

/// Holds a lab of namespaces in the background.
pub async fn hold(args: &Args) -> Result<()> {
    namespaces::hold(args).await
}

/// Takes the lab down; a lab that is not there is down.
pub async fn down(args: &Args, progress: &Progress) -> Result<()> {
    match holder::find(&args.name)? {
        Some(state) => namespaces::down(args, progress, &state).await,
        None => containers::down(args, progress).await,
    }
}

/// Tries every path.
pub async fn matrix(args: &Args, progress: &Progress) -> Result<()> {
    if args.runner == Some(Runner::Namespaces) {
        return namespaces::matrix_alone(args, progress).await;
    }
    if !args.words.is_empty() {
        return Err(Error::Usage("a topology is for matrix --in namespaces".to_owned()));
    }
    match holder::find(&args.name)? {
        Some(_) => namespaces::matrix_again(args),
        None => containers::matrix(args, progress).await,
    }
}

/// Shows hosts, leases and containers.
pub async fn status(args: &Args) -> Result<()> {
    match holder::find(&args.name)? {
        Some(state) => namespaces::status(args, &state),
        None => containers::status(args).await,
    }
}

/// Runs a command on a host; its exit code.
pub async fn exec(args: &Args) -> Result<i32> {
    match holder::find(&args.name)? {
        Some(state) => namespaces::exec(args, &state).await,
        None => containers::exec(args).await,
    }
}

/// Writes down all that is known of each host.
pub async fn diagnose(args: &Args, progress: &Progress) -> Result<()> {
    match holder::find(&args.name)? {
        Some(_) => namespaces::diagnose(args),
        None => containers::diagnose(args, progress).await,
    }
}

/// Breaks things.
pub async fn fault(args: &Args, progress: &Progress) -> Result<()> {
    namespaces::fault(args, progress).await
}

/// Measures throughput.
pub async fn bench(args: &Args, progress: &Progress) -> Result<()> {
    namespaces::measure(args, progress).await
}

/// Writes the page of all that was found.
pub fn report(args: &Args, progress: &Progress) -> Result<()> {
    let mut results = results::load(&args.results)?;
    results.settings = crate::report::settings();
    let path = args.out.clone().unwrap_or_else(|| args.results.join("report.html"));
    write(&path, &crate::report::page(&results))?;
    progress.say(format_args!("written: {}", path.display()));
    Ok(())
}

/// Writes the failure matrix of all that was found.
pub fn failures(args: &Args, progress: &Progress) -> Result<()> {
    let results = results::load(&args.results)?;
    let path = args.out.clone().unwrap_or_else(|| args.results.join("failure-matrix.md"));
    write(&path, &crate::report::failures(&results, &crate::report::settings()))?;
    progress.say(format_args!("written: {}", path.display()));
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| Error::State(format!("{}: {error}", path.display())))
}

/// Prints the compose file that `up` would give to compose.
pub async fn compose(args: &Args) -> Result<()> {
    let file = up::compose_file(args).await?;
    print(format_args!("{file:#}\n"));
    Ok(())
}

/// Names the ready topologies.
pub fn topologies() -> Result<()> {
    for name in Topology::ready() {
        print(format_args!("{name:18} {}\n", Topology::load(name)?.about));
    }
    Ok(())
}

/// Serves until it is killed.
pub fn serve() -> Result<()> {
    let failed = |error: std::io::Error| Error::State(format!("port {}: {error}", crate::measure::PORT));
    let _server = Server::start(&crate::measure::own_addresses().map_err(failed)?).map_err(failed)?;
    loop {
        std::thread::park();
    }
}

/// Probes paths from the place it runs in, and prints the answers.
pub fn probe(args: &Args) -> Result<()> {
    let bad = |error: serde_json::Error| Error::Usage(format!("probe: {error}"));
    let asks: Vec<Ask> = serde_json::from_str(&args.words[0]).map_err(bad)?;
    print(format_args!("{}\n", serde_json::to_string(&ask_all(&asks)).map_err(bad)?));
    Ok(())
}

/// Prints a matrix, keeps it, and fails when something is wrong in it.
fn show(matrix: &Matrix, topology: &Topology, args: &Args) -> Result<()> {
    print(format_args!("{}", matrix.render()));
    results::keep_matrix(&args.results, matrix, topology)?;
    if let Some(path) = &args.json {
        results::write(path, matrix)?;
    }
    let wrong = matrix.wrong();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::State(format!("{} checks failed:\n  {}", wrong.len(), wrong.join("\n  "))))
}

async fn write_diagnosis(lab: &Lab) -> Result<PathBuf> {
    let directory = Path::new("target/diagnosis").join(&lab.name);
    crate::diagnose::write(&lab.hosts, Some(&lab.etcd), &directory).await
}

/// Makes sure of a network and a workload on each host: `c1` on the first, and so on.
async fn workloads(hosts: &[LabHost]) -> Result<Vec<Workload>> {
    let all = hosts.iter().enumerate().map(async |(number, host)| {
        crate::workload::ensure_network(host, NETWORK, crate::workload::Ipam::Docker).await?;
        Workload::ensure(host, NETWORK, &format!("c{}", number + 1)).await
    });
    futures_util::future::join_all(all).await.into_iter().collect()
}

/// Runs the matrix, prints it, and on failure writes the diagnosis.
async fn try_all(args: &Args, lab: &Lab, topology: &Topology, progress: &Progress) -> Result<()> {
    let tried = async {
        let workloads = progress.during("networks and containers", workloads(&lab.hosts)).await?;
        let begin = std::time::Instant::now();
        let trial = Trial::new(&workloads, topology).await?;
        // A lab that does not settle is tried all the same, to see which paths are down.
        if let Err(error) = progress.during("waits until all hosts know each other", trial.settle(SETTLE)).await {
            progress.say(format_args!("  {error}"));
        }
        let matrix = trial.run(&lab.backend, begin, progress).await?;
        if !matrix.wrong().is_empty()
            && let Err(error) = progress.during("what failed once more", trial.capture_failed(&matrix)).await
        {
            progress.say(format_args!("  no capture of what failed: {error}"));
        }
        show(&matrix, topology, args)?;
        Ok::<_, Error>(matrix.paths())
    };
    match tried.await {
        Ok(paths) => {
            let seconds = progress.elapsed().as_secs();
            print(format_args!("all {paths} paths as they should be, {}, {seconds} s\n", lab.backend));
            Ok(())
        }
        Err(error) => {
            let logs = match write_diagnosis(lab).await {
                Ok(directory) => format!("logs, captures and state of each host: {}", directory.display()),
                Err(second) => format!("no diagnosis could be written: {second}"),
            };
            Err(Error::State(format!("{error}\n{logs}")))
        }
    }
}
