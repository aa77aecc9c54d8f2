//! The program: read the flags, log, run, exit with a code that means something.

use std::process::ExitCode;

use flannel_core::flags::Stop;
use flanneld::docker_opts;
use flanneld::opts::Options;
use flanneld::service_manager::ServiceManager;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const BAD_FLAGS: u8 = 2;

fn main() -> ExitCode {
    if let Some(words) = docker_opts::asked(std::env::args_os()) {
        return docker_opts::run(words);
    }
    let (options, leftover) =
        match Options::read(std::env::args_os().skip(1).map(to_utf8), |name| std::env::var(name).ok()) {
            Ok(read) => read,
            Err(Stop::Help) => {
                eprint!("{}", Options::usage());
                eprintln!("Docker's options of the lease: see flanneld docker-opts -h");
                return ExitCode::SUCCESS;
            }
            Err(stop) => {
                eprintln!("flanneld: {stop}");
                return ExitCode::from(BAD_FLAGS);
            }
        };
    if options.version {
        eprintln!("{}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    flannel_host::log::to_stderr(flannel_host::log::level(options.verbosity));
    leftover.bad_variables.iter().for_each(|bad| tracing::warn!("{bad}"));
    if !leftover.words.is_empty() {
        tracing::warn!(
            "ignored on the command line from {:?} on: a switch takes its value as -NAME=VALUE",
            leftover.words[0]
        );
    }
    match options.check().map_err(flanneld::error::Error::Flag).and_then(|()| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// An argument that is not UTF-8 is a value no flag accepts, but no reason to panic.
fn to_utf8(arg: std::ffi::OsString) -> String {
    arg.to_string_lossy().into_owned()
}

#[tokio::main(flavor = "current_thread")]
async fn run(options: &Options) -> Result<(), flanneld::error::Error> {
    if options.check_config {
        println!("config OK: {}", flanneld::daemon::check(options).await?);
        return Ok(());
    }
    let shutdown = CancellationToken::new();
    let fault = |e: std::io::Error| flanneld::error::Error::System(format!("cannot listen for signals: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(fault)?;
    let token = shutdown.clone();
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if token.is_cancelled() {
                // The second signal does not wait for a clean shutdown.
                std::process::exit(1);
            }
            tracing::info!("{}", flanneld::daemon::SHUTTING_DOWN);
            token.cancel();
        }
    });
    let manager = ServiceManager::of_process(std::process::id(), |name| std::env::var(name).ok());
    flanneld::daemon::run(options, &manager, &shutdown).await
}
