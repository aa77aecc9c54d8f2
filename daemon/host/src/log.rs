//! Log lines on stderr: a time, a level, a sentence, and behind it the event's fields as `name=value`.
//!
//! A lasting fault logs the same line again and again. The same warning or error is written once every ten seconds,
//! with how often it was suppressed in between.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Level;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How long a repeated line is suppressed.
const SUPPRESSION: Duration = Duration::from_secs(10);
/// How many different lines are remembered; beyond that all are forgotten, and a line may repeat sooner.
const MAX_REMEMBERED: usize = 256;

/// The level of `-v=N`: 0 is events, 1 details, 4 everything.
pub fn level(verbosity: i64) -> Level {
    match verbosity {
        ..=0 => Level::INFO,
        1..=3 => Level::DEBUG,
        4.. => Level::TRACE,
    }
}

/// Starts logging to stderr: our own crates at this level, libraries (the frames of HTTP/2, etcd's client) only with
/// their warnings.
pub fn to_stderr(level: Level) {
    let format = fmt::layer().with_writer(Stderr::default()).with_ansi(false).with_target(false);
    let filter =
        filter_fn(move |event| *event.level() <= if is_ours(event.target()) { level } else { level.min(Level::WARN) });
    tracing_subscriber::registry().with(format.with_filter(filter)).init();
}

fn is_ours(target: &str) -> bool {
    target.starts_with("flannel")
}

/// stderr, with the lines written lately.
#[derive(Debug, Default)]
struct Stderr(Mutex<Repeats>);

#[derive(Debug, Default)]
struct Repeats(HashMap<String, (Instant, u64)>);

impl Repeats {
    /// The line to write now, if any.
    fn pass(&mut self, line: &str, now: Instant) -> Option<String> {
        // Without the time, which always differs.
        let message = line.split_once(' ').map_or(line, |(_, rest)| rest).trim();
        if !(message.starts_with("WARN") || message.starts_with("ERROR")) {
            return Some(line.to_owned());
        }
        if self.0.len() >= MAX_REMEMBERED {
            self.0.clear();
        }
        let entry = self.0.entry(message.to_owned()).or_insert((now, 0));
        let (first, suppressed) = *entry;
        if first != now && now.duration_since(first) < SUPPRESSION {
            entry.1 += 1;
            return None;
        }
        *entry = (now, 0);
        Some(match suppressed {
            0 => line.to_owned(),
            _ => format!("{} (and {suppressed} times before)\n", line.trim_end()),
        })
    }
}

/// The writer of one event; tracing writes each in one call.
struct Line<'a>(&'a Stderr);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        let pass = self.0.0.lock().unwrap_or_else(PoisonError::into_inner).pass(&line, Instant::now());
        if let Some(line) = pass {
            std::io::stderr().write_all(line.as_bytes())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_warning_is_suppressed_and_counted() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(repeats.pass("T1  WARN no route\n", at(0)).as_deref(), Some("T1  WARN no route\n"));
        assert_eq!(repeats.pass("T2  WARN no route\n", at(1)), None);
        assert_eq!(repeats.pass("T3  WARN no lease\n", at(1)).as_deref(), Some("T3  WARN no lease\n"));
        assert_eq!(repeats.pass("T4  WARN no route\n", at(9)), None);
        let after = repeats.pass("T5  WARN no route\n", at(11));
        assert_eq!(after.as_deref(), Some("T5  WARN no route (and 2 times before)\n"));
        assert_eq!(repeats.pass("T6  WARN no route\n", at(12)), None);
    }

    #[test]
    fn events_are_always_written() {
        let mut repeats = Repeats::default();
        let now = Instant::now();
        for time in ["T1", "T2"] {
            let line = format!("{time}  INFO installed\n");
            assert_eq!(repeats.pass(&line, now), Some(line));
        }
    }

    #[test]
    fn verbosity_raises_our_own_crates_only() {
        for ours in ["flanneld::sync", "flannel_docker::driver", "flannel_host::log", "flannel_core"] {
            assert!(is_ours(ours));
        }
        for other in ["h2::codec::framed_read", "etcd_client", "hyper_util::client"] {
            assert!(!is_ours(other));
        }
        assert_eq!([level(-1), level(0), level(1), level(4)], [Level::INFO, Level::INFO, Level::DEBUG, Level::TRACE]);
    }
}
