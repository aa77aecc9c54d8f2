//! Log lines on stderr: a time, a level, a sentence, and behind it the event's fields as `name=value`.
//!
//! A fault that stays says the same again and again. The same warning or error is written once in a while, with how
//! often it was held back meanwhile.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// How long the same line is held back.
const QUIET: Duration = Duration::from_secs(10);
/// How many different lines are remembered; beyond, all is forgotten, and lines may come again sooner.
const REMEMBERED: usize = 256;

/// Starts logging: 0 is events, 1 details, 4 everything.
pub fn to_stderr(verbosity: i64) {
    let level = match verbosity {
        ..=0 => tracing::Level::INFO,
        1..=3 => tracing::Level::DEBUG,
        4.. => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Stderr::default())
        .with_ansi(false)
        .with_target(false)
        .init();
}

/// stderr, with the memory of what was said.
#[derive(Debug, Default)]
struct Stderr(Mutex<Repeats>);

#[derive(Debug, Default)]
struct Repeats(HashMap<String, (Instant, u64)>);

impl Repeats {
    /// The line as it is to be written now, if it is.
    fn pass(&mut self, line: &str, now: Instant) -> Option<String> {
        // Behind the time, which is always new.
        let said = line.split_once(' ').map_or(line, |(_, rest)| rest).trim();
        if !(said.starts_with("WARN") || said.starts_with("ERROR")) {
            return Some(line.to_owned());
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        let entry = self.0.entry(said.to_owned()).or_insert((now, 0));
        let (first, held) = *entry;
        if first != now && now.duration_since(first) < QUIET {
            entry.1 += 1;
            return None;
        }
        *entry = (now, 0);
        Some(if held == 0 { line.to_owned() } else { format!("{} (and {held} times before)\n", line.trim_end()) })
    }
}

/// One line on its way; tracing writes each event by one call.
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
    fn the_same_warning_is_held_back_for_a_while_and_counted() {
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
    fn events_are_always_told() {
        let mut repeats = Repeats::default();
        let now = Instant::now();
        for time in ["T1", "T2"] {
            let line = format!("{time}  INFO programmed\n");
            assert_eq!(repeats.pass(&line, now), Some(line));
        }
    }
}
