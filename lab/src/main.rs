//! `flannel-lab`: makes a lab of Docker hosts, tries it, takes it down.

use std::process::ExitCode;

use flannel_lab::args::{self, Action};
use flannel_lab::progress::{Progress, print};
use flannel_lab::{Error, commands};

/// Exit code of a wrong command line; everything else that fails is 1.
const USAGE: u8 = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let progress = Progress::from_environment();
    let done = match args::parse(std::env::args().skip(1)) {
        Err(error) => Err(error),
        Ok(args) => match args.action {
            Action::Up => commands::up(&args, &progress).await,
            Action::Down => commands::down(&args, &progress).await,
            Action::Matrix => commands::matrix(&args, &progress).await,
            Action::Status => commands::status(&args).await,
            Action::Diagnose => commands::diagnose(&args, &progress).await,
            Action::Help => {
                print(format_args!("{}", args::HELP));
                Ok(())
            }
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
