//! `flannel-lab`: makes labs, tries them, breaks them, tells what it found.

use std::process::ExitCode;

use flannel_lab::args::{self, Action};
use flannel_lab::progress::Progress;
use flannel_lab::{Error, commands};

/// Exit code of a wrong command line; everything else that fails is 1.
const USAGE: u8 = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let progress = Progress::from_environment();
    let done = match args::parse(std::env::args().skip(1)) {
        // Prints help and version, too; they are not failures.
        Err(error) => error.exit(),
        Ok(args) => match args.action {
            Action::Up => commands::up(&args, &progress).await,
            Action::Hold => commands::hold(&args).await,
            Action::Down => commands::down(&args, &progress).await,
            Action::Matrix => commands::matrix(&args, &progress).await,
            Action::Status => commands::status(&args).await,
            Action::Exec => match commands::exec(&args).await {
                Ok(0) => Ok(()),
                // The command's own, not ours.
                Ok(code) => return ExitCode::from(u8::try_from(code).unwrap_or(1)),
                Err(error) => Err(error),
            },
            Action::Diagnose => commands::diagnose(&args, &progress).await,
            Action::Fault => commands::fault(&args, &progress).await,
            Action::Bench => commands::bench(&args, &progress).await,
            Action::Report => commands::report(&args, &progress),
            Action::Failures => commands::failures(&args, &progress),
            Action::Topologies => commands::topologies(),
            Action::Compose => commands::compose(&args).await,
            Action::Serve => commands::serve(),
            Action::Probe => commands::probe(&args),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if matches!(error, Error::Usage(_)) { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}
