//! What a container's start costs on a flannel network, beside Docker's own, as one table. `ci/bench docker` builds what
//! it needs and runs it. Words after the program's path choose parts: `run`, `start`, `crowd`.
//!
//! A host with a Docker of its own, without flanneld: a lease is written by hand, since nothing here leaves the host.
//! Docker cannot start a container on two networks by one command, so beside `docker run --rm` the start and the removal
//! alone are measured, of containers that were created, and connected to a second bridge, before.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use flannel_testbed::{Context as _, Error, IMAGE, Lab, Machine, Result, SOON, Segment, eventually, output};

const ROUNDS: usize = 15;
const AT_ONCE: usize = 50;
const ROUNDS_AT_ONCE: usize = 3;
const ENV: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";

const PARTS: [&str; 3] = ["run", "start", "crowd"];

/// What a container is on.
struct Kind {
    name: &'static str,
    network: &'static str,
    second: Option<&'static str>,
    /// The kind it is compared with.
    beside: usize,
}

const KINDS: [Kind; 4] = [
    Kind { name: "one bridge of Docker's", network: "one", second: None, beside: 0 },
    Kind { name: "two bridges of Docker's", network: "one", second: Some("two"), beside: 1 },
    Kind { name: "flannel", network: "flannel", second: None, beside: 1 },
    Kind { name: "flannel, flannel.gateway=true", network: "gateway", second: None, beside: 0 },
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (Some(program), parts) = (words.first(), words.get(1..).unwrap_or_default()) else {
        eprintln!("docker-bench: which flannel-docker? docker-bench PATH [PART...]");
        return ExitCode::from(2);
    };
    if let Some(unknown) = parts.iter().find(|p| !PARTS.contains(&p.as_str())) {
        eprintln!("docker-bench: there is no part {unknown}: give {}", PARTS.join(", "));
        return ExitCode::from(2);
    }
    match bench(Path::new(program), |part| parts.is_empty() || parts.iter().any(|p| p == part)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("docker-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn bench(program: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let lab = Lab::without_etcd(&[Segment::Near])?;
    let machine = lab.host(1).machine()?;
    let _dockerd = machine.dockerd(&[])?;
    machine.import_image()?;
    let plugin = start(&machine, program)?;
    machine.docker_line("network create one")?;
    machine.docker_line("network create two")?;
    let flannel = "network create -d flannel --ipam-driver flannel";
    machine.docker_line(&format!("{flannel} --subnet 10.5.72.0/25 flannel"))?;
    machine.docker_line(&format!("{flannel} --subnet 10.5.72.128/25 -o flannel.gateway=true gateway"))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let version = machine.docker_line("version -f {{.Server.Version}}")?;
    println!(
        "{}: Docker {version}, {cores} cores, kernel {}",
        program.display(),
        output(Command::new("uname").arg("-r"))?.trim()
    );

    if wanted("run") {
        report(ROUNDS, &[&format!("docker run --rm ... true, {ROUNDS} rounds")], |kind| match kind.second {
            Some(_) => Ok(Vec::new()),
            None => {
                let line = format!("run --rm --network {} {IMAGE} true", kind.network);
                Ok(vec![timed(|| machine.docker_line(&line))?])
            }
        })?;
    }
    if wanted("start") {
        let what = format!("start and removal of a container that was created before, {ROUNDS} rounds");
        report(ROUNDS, &[&what], |kind| {
            create(&machine, kind, "bench", "true")?;
            Ok(vec![timed(|| machine.docker_line("start -a bench").and_then(|_| machine.docker_line("rm bench")))?])
        })?;
    }
    if wanted("crowd") {
        let what = |what: &str| format!("{what} of {AT_ONCE} containers at once, {ROUNDS_AT_ONCE} rounds");
        report(ROUNDS_AT_ONCE, &[&what("start"), &what("removal")], |kind| {
            let names: Vec<_> = (0..AT_ONCE).map(|n| format!("bench{n}")).collect();
            names.iter().try_for_each(|name| create(&machine, kind, name, "sleep 1000"))?;
            let start = timed(|| all(&names, |name| machine.docker_line(&format!("start {name}")).map(drop)))?;
            let removal = timed(|| all(&names, |name| machine.docker_line(&format!("rm -f {name}")).map(drop)))?;
            Ok(vec![start, removal])
        })?;
    }
    println!("\nthe plugin's memory after that: {:.1} MiB", plugin.rss_kib()? as f64 / 1024.0);
    Ok(())
}

fn start(machine: &Machine, program: &Path) -> Result<flannel_testbed::Process> {
    let dir = machine.run_directory().join("flannel");
    let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(dir.join("subnet.env"), ENV));
    written.context(|| dir.display().to_string())?;
    let plugin = machine.start("flannel-docker", machine.command(program))?;
    let socket = machine.run_directory().join("docker/plugins/flannel.sock");
    eventually("the plugin's socket", SOON, || match socket.exists() {
        true => Ok(()),
        false => Err(Error::new(plugin.log())),
    })?;
    Ok(plugin)
}

fn create(machine: &Machine, kind: &Kind, name: &str, command: &str) -> Result<()> {
    machine.docker_line(&format!("create --name {name} --network {} {IMAGE} {command}", kind.network))?;
    match kind.second {
        Some(second) => machine.docker_line(&format!("network connect {second} {name}")).map(drop),
        None => Ok(()),
    }
}

/// Runs `body` for each name at once.
fn all(names: &[String], body: impl Fn(&str) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = names.iter().map(|name| scope.spawn(|| body(name))).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
    })
}

fn timed<T>(body: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let start = Instant::now();
    body()?;
    Ok(start.elapsed())
}

/// Measures every kind in turn, so that what else the machine does hits all alike, and prints a table for each thing
/// that was measured, with a row for each kind. The ratio is the median of the rounds' own ratios to the kind it is
/// compared with.
fn report(rounds: usize, things: &[&str], mut measure: impl FnMut(&Kind) -> Result<Vec<Duration>>) -> Result<()> {
    let mut times = vec![vec![Vec::new(); KINDS.len()]; things.len()];
    for _ in 0..rounds {
        for (kind, place) in KINDS.iter().zip(0..) {
            for (took, times) in measure(kind)?.into_iter().zip(&mut times) {
                times[place].push(took);
            }
        }
    }
    for (thing, times) in things.iter().zip(&times) {
        println!("\n{thing:<66} p50 ms  p90 ms   ratio");
        for (kind, own) in KINDS.iter().zip(times).filter(|(_, own)| !own.is_empty()) {
            let ratios: Vec<_> =
                own.iter().zip(&times[kind.beside]).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
            let milli: Vec<_> = own.iter().map(|t| t.as_secs_f64() * 1000.0).collect();
            let ratio = match ratios.is_empty() {
                true => String::new(),
                false => format!("{:.2} of {}", quantile(&ratios, 0.5), KINDS[kind.beside].name),
            };
            println!("  {:<64} {:>6.0}  {:>6.0}   {ratio}", kind.name, quantile(&milli, 0.5), quantile(&milli, 0.9));
        }
    }
    Ok(())
}

fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * at).round() as usize]
}
