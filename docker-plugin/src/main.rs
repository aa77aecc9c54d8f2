//! flannel-docker: serves Docker's network and address driver over the host's flannel lease, or examines one that does.

use std::process::ExitCode;
use std::sync::Arc;

use flannel_core::flags::Stop;
use flannel_docker::docker::default_network::Ready;
use flannel_docker::driver::Driver;
use flannel_docker::opts::{self, Opts, PROGRAM};
use flannel_docker::store::lease::SubnetFile;
use flannel_docker::{doctor, server, socket};
use flannel_host::log;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{Level, error, info, warn};

/// Bad flags.
const USAGE: u8 = 2;
/// The plugin cannot start or continue.
const FAILURE: u8 = 1;

/// The argument that runs the doctor instead of the plugin.
const DOCTOR: &str = "doctor";

fn main() -> ExitCode {
    let mut args = match std::env::args_os().skip(1).map(|arg| arg.into_string()).collect::<Result<Vec<_>, _>>() {
        Ok(args) => args,
        Err(arg) => {
            eprintln!("{PROGRAM}: {arg:?} is not UTF-8");
            return ExitCode::from(USAGE);
        }
    };
    let is_doctor = args.first().is_some_and(|word| word == DOCTOR);
    args.drain(..usize::from(is_doctor));
    let (opts, left) = match Opts::parse(args, |name| std::env::var(name).ok()) {
        Ok(read) => read,
        Err(Stop::Help) => {
            eprint!("{}", opts::help());
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            eprintln!("{PROGRAM}: {e}");
            return ExitCode::from(USAGE);
        }
    };
    if opts.version {
        println!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let level = match opts.verbosity {
        // The report is the output.
        0 if is_doctor => Level::ERROR,
        n => log::level(n),
    };
    log::to_stderr(level);
    if let [word, ..] = left.words.as_slice() {
        error!("{word:?} is not a flag: write -NAME=VALUE");
        return ExitCode::from(USAGE);
    }
    for bad in left.bad_variables {
        warn!("{bad}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            error!("no runtime: {e}");
            return ExitCode::from(FAILURE);
        }
    };
    if is_doctor {
        return runtime.block_on(examine(&opts));
    }
    match runtime.block_on(run(opts)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!("{e}");
            ExitCode::from(FAILURE)
        }
    }
}

/// 0 without problems, 1 with problems or where something could not be checked.
async fn examine(opts: &Opts) -> ExitCode {
    match doctor::run(opts).await {
        Ok(report) => {
            let json = || serde_json::to_string_pretty(&report).expect("a report is JSON");
            println!("{}", if opts.json { json() } else { report.text().trim_end().to_owned() });
            if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) }
        }
        Err(e) => {
            error!("{e}");
            ExitCode::from(FAILURE)
        }
    }
}

async fn run(opts: Opts) -> Result<(), String> {
    let name = opts.driver_name()?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| format!("no signals: {e}"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| format!("no signals: {e}"))?;

    let driver = Arc::new(Driver::open(&opts)?);
    let (listener, file) = socket::listen(&opts.socket).await?;
    info!("driver {name} on {}, lease from {}", opts.socket.display(), opts.subnet_file.display());

    // A plugin without state would refuse calls about networks that Docker has.
    driver.recover().await;
    // Docker is answered while bridges and rules are being put right: at its start it waits for us.
    let restoring = tokio::spawn({
        let driver = Arc::clone(&driver);
        async move {
            driver.restore().await;
            driver.watch().await;
        }
    });
    let ready = (!opts.docker_network.is_empty()).then(|| {
        let ready = Ready {
            name: opts.docker_network,
            options: opts.docker_network_options,
            driver: name,
            docker_socket: opts.docker_socket,
            subnet_file: SubnetFile(opts.subnet_file),
        };
        tokio::spawn(ready.keep())
    });
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("shutting down: running calls finish, networks stay as they are");
        // From now on Docker's new calls wait for a successor.
        drop(file);
    };
    let served = server::serve(listener, driver, stop).await.map_err(|e| format!("socket: {e}"));
    restoring.abort();
    if let Some(ready) = ready {
        ready.abort();
    }
    served
}
