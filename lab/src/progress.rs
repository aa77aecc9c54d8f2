//! Telling a person what goes on: one line a step, with the seconds since the start.

use std::io::Write as _;
use std::time::{Duration, Instant};

/// Set by the scripts that did something before: the seconds that passed already.
pub const ELAPSED_VARIABLE: &str = "FLANNEL_LAB_ELAPSED";

/// The longest time without a line.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The clock of a run and its output.
#[derive(Debug, Clone)]
pub struct Progress {
    begin: Instant,
    before: Duration,
}

/// Prints text as it is. When nobody reads it any more (`flannel-lab up | head`), the work goes on all the same.
pub fn print(text: std::fmt::Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    // The only error that there can be is the one above.
    drop(stdout.write_fmt(text).and_then(|()| stdout.flush()));
}

impl Progress {
    /// Starts the clock at `before`.
    #[must_use]
    pub fn new(before: Duration) -> Self {
        Self { begin: Instant::now(), before }
    }

    /// Starts the clock with the seconds of the calling script.
    #[must_use]
    pub fn from_environment() -> Self {
        let before = std::env::var(ELAPSED_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        Self::new(Duration::from_secs(before))
    }

    /// The time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.before + self.begin.elapsed()
    }

    /// Awaits a piece of work; when it takes long, says every two seconds that it still goes on.
    pub async fn during<F: Future>(&self, what: &str, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(TIMEOUT, work.as_mut()).await {
                Ok(done) => return done,
                Err(_) => self.say(format_args!("  ... {what}")),
            }
        }
    }

    /// Prints one line, with the clock before it.
    pub fn say(&self, text: impl std::fmt::Display) {
        print(format_args!("[{:4}s] {text}\n", self.elapsed().as_secs()));
    }
}
