//! Short programs: run, wait, read what they say.

use std::process::{Command, Stdio};

use crate::{Context, Error, Result};

/// The words of a command line without quotes.
pub(super) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace()
}

/// Runs `command` to its end and returns its standard output; an exit code other than 0 is an error that quotes
/// standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    command.stdin(Stdio::null());
    #[expect(clippy::disallowed_methods, reason = "the harness runs on plain threads, there is no runtime to block")]
    let done = command.output().context(|| line.clone())?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(text);
    }
    let stderr = String::from_utf8_lossy(&done.stderr);
    Err(Error::new(format!("{line}: {}: {}{}", done.status, text.trim(), stderr.trim())))
}
