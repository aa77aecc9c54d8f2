//! What a container's start costs on a flannel network, beside Docker's own, as one table. `ci/bench docker` builds what
//! it needs and runs it.
//!
//! A host with a Docker of its own, without flanneld: a lease is written by hand, since nothing here leaves the host.
//! Docker cannot start a container on two networks by one command, so beside `docker run --rm` the start and the removal
//! alone are measured, of containers that were created, and connected to a second bridge, before.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use flannel_lab::netns::{Context as _, Error, IMAGE, Lab, Machine, Result, SOON, Segment, eventually, output};

const ROUNDS: usize = 15;
const AT_ONCE: usize = 50;
const ROUNDS_AT_ONCE: usize = 3;
const ENV: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";

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
    let Some(program) = std::env::args().nth(1) else {
        eprintln!("docker-bench: which flannel-docker? docker-bench PATH");
        return ExitCode::from(2);
    };
    match bench(Path::new(&program)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("docker-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn bench(program: &Path) -> Result<()> {
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

    heading(&format!("docker run --rm ... true, {ROUNDS} rounds"));
    report(ROUNDS, |kind, _| match kind.second {
        Some(_) => Ok(None),
        None => {
            let line = format!("run --rm --network {} {IMAGE} true", kind.network);
            timed(|| machine.docker_line(&line)).map(Some)
        }
    })?;

    heading(&format!("start and removal of a container that was created before, {ROUNDS} rounds"));
    report(ROUNDS, |kind, _| {
        create(&machine, kind, "bench", "true")?;
        timed(|| machine.docker_line("start -a bench").and_then(|_| machine.docker_line("rm bench"))).map(Some)
    })?;

    heading(&format!("start of {AT_ONCE} containers at once, {ROUNDS_AT_ONCE} rounds"));
    report(ROUNDS_AT_ONCE, |kind, _| {
        let names: Vec<_> = (0..AT_ONCE).map(|n| format!("bench{n}")).collect();
        all(&names, |name| create(&machine, kind, name, "sleep 1000"))?;
        let took = timed(|| all(&names, |name| machine.docker_line(&format!("start {name}")).map(drop)))?;
        machine.docker_line(&format!("rm -f {}", names.join(" ")))?;
        Ok(Some(took))
    })?;
    println!("\nthe plugin's memory after that: {:.1} MiB", plugin.rss_kib()? as f64 / 1024.0);
    Ok(())
}

fn start(machine: &Machine, program: &Path) -> Result<flannel_lab::netns::Process> {
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

fn heading(what: &str) {
    println!("\n{what:<66} p50 ms  p90 ms   ratio");
}

/// Measures every kind in turn, so that what else the machine does hits all alike, and prints a row each. The ratio is
/// the median of the rounds' own ratios to the kind it is compared with.
fn report(rounds: usize, mut measure: impl FnMut(&Kind, usize) -> Result<Option<Duration>>) -> Result<()> {
    let mut times = vec![Vec::new(); KINDS.len()];
    for round in 0..rounds {
        for (kind, times) in KINDS.iter().zip(&mut times) {
            times.extend(measure(kind, round)?);
        }
    }
    for (kind, own) in KINDS.iter().zip(&times).filter(|(_, own)| !own.is_empty()) {
        let ratios: Vec<_> =
            own.iter().zip(&times[kind.beside]).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
        let milli: Vec<_> = own.iter().map(|t| t.as_secs_f64() * 1000.0).collect();
        let ratio = match ratios.is_empty() {
            true => String::new(),
            false => format!("{:.2} of {}", quantile(&ratios, 0.5), KINDS[kind.beside].name),
        };
        println!("  {:<64} {:>6.0}  {:>6.0}   {ratio}", kind.name, quantile(&milli, 0.5), quantile(&milli, 0.9));
    }
    Ok(())
}

fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * at).round() as usize]
}
