//! The commands on labs of namespaces. They run on a plain thread, since nothing there is async; when the program is
//! interrupted meanwhile, what was made is removed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::show;
use crate::args::{Args, BACKENDS};
use crate::faults::{self, Fault, Outcome};
use crate::matrix::Matrix;
use crate::progress::{Progress, print};
use crate::topology::Topology;
use crate::world::{Node, World};
use crate::{Error, Result, bench, holder, results};
use flannel_testbed::abandon;

/// The exit code of a program ended by Ctrl-C, as shells give it.
const INTERRUPTED: i32 = 130;
/// A lab of namespaces is there in some seconds.
const UP_WITHIN: Duration = Duration::from_secs(60);

/// The topology asked for, with the backend asked for.
pub(super) fn topology(args: &Args) -> Result<Topology> {
    let name = args.words.first().map_or("three-hosts", String::as_str);
    Ok(Topology::load(name)?.with_backend(args.backend()))
}

/// The daemon to try.
fn flanneld(args: &Args) -> Result<PathBuf> {
    program(args.flanneld.as_deref(), "flanneld")
}

/// A program: the one given, else the one beside this one.
fn program(given: Option<&Path>, name: &str) -> Result<PathBuf> {
    if let Some(path) = given {
        return absolute(path);
    }
    let own = std::env::current_exe().map_err(|error| Error::State(format!("this program's own path: {error}")))?;
    Ok(own.with_file_name(name))
}

/// Runs blocking work; a signal ends the program, after what this process made has been removed.
async fn interruptible<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let failed = |error: std::io::Error| Error::State(format!("signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut work = tokio::task::spawn_blocking(work);
    tokio::select! {
        done = &mut work => return done.unwrap_or_else(|error| Err(Error::State(format!("it broke off: {error}")))),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    eprintln!("interrupted: removes what it has made");
    abandon();
    std::process::exit(INTERRUPTED);
}

/// `up --in namespaces`: a lab that stays, held by a process in the background.
pub(super) async fn up(args: &Args, progress: &Progress) -> Result<()> {
    let begin = Instant::now();
    let topology = topology(args)?;
    if holder::find(&args.name)?.is_some() {
        return Err(Error::State(format!("lab {0} runs already: flannel-lab down --name {0}", args.name)));
    }
    holder::make_directory()?;
    progress.say(format_args!(
        "lab {}: {}, {}, {} hosts as namespaces",
        args.name,
        topology.about,
        topology.backend(),
        topology.host.len()
    ));
    let log = holder::log_file(&args.name);
    let broken = |error: std::io::Error| Error::State(format!("{}: {error}", log.display()));
    let out = std::fs::File::create(&log).map_err(broken)?;
    let err = out.try_clone().map_err(broken)?;
    let own = std::env::current_exe().map_err(broken)?;
    let mut command = Command::new(own);
    command.arg("hold").args(&args.words).args(["--name", &args.name]);
    command.arg("--flanneld").arg(flanneld(args)?);
    if let Some(backend) = args.backend() {
        command.args(["--backend", backend]);
    }
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().map_err(broken)?;
    let name = args.name.clone();
    let ready = crate::eventually::eventually("the lab is there", UP_WITHIN, async || {
        if let Ok(Some(status)) = child.try_wait() {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(Error::State(format!("lab {name} was not made ({status}): {}", said.trim())));
        }
        Ok(match holder::find(&name)? {
            Some(state) => crate::eventually::Condition::Ready(state),
            None => crate::eventually::Condition::NotYet("not yet".to_owned()),
        })
    });
    let state = progress.during("the lab is made and tried", ready).await?;
    let matrix = holder::first_matrix(&args.name)?;
    show(&matrix, &topology, args)?;
    let option = if args.name == crate::args::DEFAULT_NAME { String::new() } else { format!(" --name {}", args.name) };
    print(format_args!("{}\n", state.about.join("\n")));
    print(format_args!(
        "all {} paths as they should be, {}, {:.1} s\n\n\
         a shell on h1:           flannel-lab exec{option} h1 bash\n\
         a ping between pods:     flannel-lab exec{option} c1 ping ADDRESS\n\
         try every path again:    flannel-lab matrix{option}\n\
         take it down:            flannel-lab down{option}\n",
        matrix.paths(),
        matrix.backend,
        begin.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// The background process.
pub(super) async fn hold(args: &Args) -> Result<()> {
    let begin = Instant::now();
    // A terminal's Ctrl-C is not for the lab that stays.
    if let Err(error) = rustix::process::setsid() {
        eprintln!("goes on in the caller's session: {error}");
    }
    let (topology, flanneld, name) = (topology(args)?, flanneld(args)?, args.name.clone());
    interruptible(move || holder::hold(&name, &topology, &flanneld, begin)).await
}

/// `matrix` of a running lab of namespaces.
pub(super) fn matrix_again(args: &Args) -> Result<()> {
    let matrix: Matrix = serde_json::from_str(&holder::ask(&args.name, "matrix")?)
        .map_err(|error| Error::State(format!("lab {}: {error}", args.name)))?;
    let topology = Topology::load(&matrix.topology).unwrap_or_else(|_| bare(&matrix));
    match show(&matrix, &topology, args) {
        Ok(()) => {
            print(format_args!("all {} paths as they should be, {}\n", matrix.paths(), matrix.backend));
            Ok(())
        }
        Err(error) => {
            let directory = absolute(&Path::new("target/diagnosis").join(&args.name))?;
            let written = holder::ask(&args.name, &format!("diagnose {}", directory.display()))?;
            Err(Error::State(format!("{error}\nlogs, captures and state of each host: {written}")))
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::State(format!("{}: {error}", path.display())))
}

/// Enough of a topology to draw a lab whose file is not at hand.
fn bare(matrix: &Matrix) -> Topology {
    Topology {
        name: matrix.topology.clone(),
        about: String::new(),
        underlay: Vec::new(),
        router: Vec::new(),
        etcd: crate::topology::EtcdSpec::default(),
        network: Vec::new(),
        host: Vec::new(),
        apart: Vec::new(),
    }
}

/// `matrix --in namespaces`: a lab of its own, gone afterwards.
pub(super) async fn matrix_alone(args: &Args, progress: &Progress) -> Result<()> {
    let begin = Instant::now();
    let (topology, flanneld) = (topology(args)?, flanneld(args)?);
    let evidence = absolute(&Path::new("target/diagnosis").join(format!("matrix-{}", topology.name)))?;
    let tried = topology.clone();
    let work = interruptible(move || {
        let world = World::build(&tried, &flanneld)?;
        let nodes: Vec<&Node> = world.nodes().iter().collect();
        let made = world.start(&nodes).and_then(|()| world.populate(&nodes)).and_then(|()| world.settle(&nodes));
        let matrix = made.map_err(Error::from).and_then(|()| holder::try_all(&world, begin));
        if !matrix.as_ref().is_ok_and(|matrix| matrix.wrong().is_empty()) {
            world.write_diagnosis(&evidence)?;
            eprintln!("logs, captures and state of each host: {}", evidence.display());
        }
        matrix
    });
    let matrix = progress.during("the lab is made and tried", work).await?;
    show(&matrix, &topology, args)?;
    let (paths, backend, seconds) = (matrix.paths(), &matrix.backend, matrix.seconds);
    print(format_args!("all {paths} paths as they should be, {backend}, {seconds:.1} s from nothing\n"));
    Ok(())
}

/// `status` of a running lab of namespaces.
pub(super) fn status(args: &Args, state: &holder::State) -> Result<()> {
    let about = holder::ask(&args.name, "status")?;
    print(format_args!(
        "lab {}, {}, {}, namespaces held by process {}\n{about}\n",
        args.name, state.topology, state.backend, state.pid
    ));
    Ok(())
}

/// `diagnose` of a running lab of namespaces.
pub(super) fn diagnose(args: &Args) -> Result<()> {
    let directory = absolute(&Path::new("target/diagnosis").join(&args.name))?;
    let written = holder::ask(&args.name, &format!("diagnose {}", directory.display()))?;
    print(format_args!("written: {written}\n"));
    Ok(())
}

/// `down` of a running lab of namespaces: asked to end, and waited for.
pub(super) async fn down(args: &Args, progress: &Progress, state: &holder::State) -> Result<()> {
    holder::ask(&args.name, "down")?;
    let process = PathBuf::from(format!("/proc/{}", state.pid));
    let gone = crate::eventually::eventually("the lab's process ends", UP_WITHIN, async || {
        if process.exists() {
            return Ok(crate::eventually::Condition::NotYet("it is still there".to_owned()));
        }
        Ok(crate::eventually::Condition::Ready(()))
    });
    progress.during("the lab goes", gone).await?;
    progress.say(format_args!("lab {} removed: its namespaces, processes and files", args.name));
    Ok(())
}

/// `exec` in a running lab of namespaces; the command's own exit code.
pub(super) async fn exec(args: &Args, state: &holder::State) -> Result<i32> {
    let names: Vec<&str> = state.namespaces.keys().map(String::as_str).collect();
    let namespace = state.namespaces.get(&args.words[0]).ok_or_else(|| {
        Error::Usage(format!("lab {}: there is no {}, but {}", args.name, args.words[0], names.join(", ")))
    })?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).args(&args.words[1..]);
    let ended = command.status().await.map_err(|error| Error::State(format!("ip netns exec: {error}")))?;
    Ok(ended.code().unwrap_or(1))
}

/// `fault`: the table, and an error if a promise was broken.
pub(super) async fn fault(args: &Args, progress: &Progress) -> Result<()> {
    let all = faults::all();
    if args.words == ["list"] {
        for fault in &all {
            print(format_args!("{:18} {}{}\n", fault.name, fault.what, if fault.quick { " (quick)" } else { "" }));
        }
        return Ok(());
    }
    let chosen = choose(&all, &args.words)?;
    let backends: Vec<String> =
        if args.backends.is_empty() { BACKENDS.map(str::to_owned).to_vec() } else { args.backends.clone() };
    let pairs: Vec<(Fault, String)> = chosen
        .iter()
        .flat_map(|fault| backends.iter().map(|backend| (*fault, backend.clone())))
        .filter(|(fault, backend)| (fault.promise)(backend).is_some())
        .collect();
    let options = faults::Options {
        flanneld: flanneld(args)?,
        plugin: program(args.plugin.as_deref(), "flannel-docker")?,
        upgrade_to: args.upgrade_to.clone(),
        topology: Topology::load("three-hosts")?,
        jobs: args.jobs,
        evidence: absolute(Path::new("target/diagnosis"))?,
    };
    let total = pairs.len();
    progress.say(format_args!("{total} faults, {} at once, each in a lab of its own", args.jobs));
    let voice = progress.clone();
    let outcomes = interruptible(move || {
        let ended = std::sync::atomic::AtomicUsize::new(0);
        let tell = |outcome: &Outcome| {
            let number = ended.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            let kept = if outcome.broken.is_empty() { "kept" } else { "BROKEN" };
            voice.say(format_args!(
                "  {number} of {total}: {} {}: {kept}, {:.1} s",
                outcome.fault, outcome.backend, outcome.seconds
            ));
        };
        Ok(faults::run_all(&pairs, &options, &tell))
    })
    .await?;
    results::keep_faults(&args.results, &outcomes)?;
    if let Some(path) = &args.json {
        results::write(path, &outcomes)?;
    }
    print(format_args!("{}", faults::render(&outcomes)));
    let broken = outcomes.iter().filter(|outcome| !outcome.broken.is_empty()).count();
    if broken == 0 {
        print(format_args!("all {total} promises kept, {} s\n", progress.elapsed().as_secs()));
        return Ok(());
    }
    Err(Error::State(format!("{broken} of {total} promises broken")))
}

fn choose(all: &[Fault], words: &[String]) -> Result<Vec<Fault>> {
    let mut chosen = Vec::new();
    for word in words {
        let found: Vec<Fault> =
            all.iter().copied().filter(|f| word == "all" || f.name == word || (word == "quick" && f.quick)).collect();
        if found.is_empty() {
            return Err(Error::Usage(format!("there is no fault {word}: flannel-lab fault list names them")));
        }
        chosen.extend(found);
    }
    Ok(chosen)
}

/// `bench`: throughput of each backend.
pub(super) async fn measure(args: &Args, progress: &Progress) -> Result<()> {
    let backends: Vec<String> =
        if args.backends.is_empty() { BACKENDS.map(str::to_owned).to_vec() } else { args.backends.clone() };
    let (flanneld, topology, voice) = (flanneld(args)?, Topology::load("three-hosts")?, progress.clone());
    let found = interruptible(move || {
        bench::run(&backends, &topology, &flanneld, &|line| {
            voice.say(format_args!(
                "  {:8} {:6.0} Mbit/s between containers, {:6.0} between the hosts ({:.2}), ping {:.3} ms",
                line.backend,
                line.containers,
                line.hosts,
                line.containers / line.hosts,
                line.ping
            ));
        })
    })
    .await?;
    results::keep_bench(&args.results, &found)?;
    args.json.as_ref().map_or(Ok(()), |path| results::write(path, &found))
}
