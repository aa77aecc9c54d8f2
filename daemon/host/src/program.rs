//! Running programs of the host (`iptables-restore`, `nft`, `ethtool`), each with a time limit.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// How long a program may run unless the caller says otherwise. `iptables --wait` can block on another program's lock;
/// nothing that sets rules takes this long otherwise.
pub const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(20);

/// A program with its arguments and what it reads.
#[derive(Debug, Clone)]
pub struct Program<'a> {
    name: &'a str,
    args: Vec<&'a str>,
    stdin: Option<&'a str>,
    time_limit: Duration,
    remedy: Option<&'a str>,
}

/// What a program printed before it exited successfully.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error, which programs use for warnings too.
    pub stderr: String,
}

/// Why a program did not do its work; the text names the program and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// There is no such program.
    #[error("{program} is not installed{}", remedy.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    NotInstalled {
        /// The program.
        program: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// It cannot be started, or its output cannot be read.
    #[error("cannot run {program}: {error}")]
    Io {
        /// The program.
        program: String,
        /// The operating system's reason.
        error: io::Error,
    },
    /// It was killed at its time limit.
    #[error("{program} did not finish within {}s and was killed", limit.as_secs_f32())]
    TimedOut {
        /// The program and its arguments.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// It exited with an error.
    #[error("{program}: {}", first_line(stderr).unwrap_or_else(|| status.to_string()))]
    Failed {
        /// The program and its arguments.
        program: String,
        /// How it exited.
        status: ExitStatus,
        /// All of its standard error.
        stderr: String,
    },
}

impl ProgramError {
    /// Whether the program is not there, so that trying again is useless until it is installed.
    pub fn is_not_installed(&self) -> bool {
        matches!(self, Self::NotInstalled { .. })
    }

    /// What the program wrote to standard error before it failed.
    pub fn stderr(&self) -> &str {
        if let Self::Failed { stderr, .. } = self { stderr } else { "" }
    }
}

impl<'a> Program<'a> {
    /// A program found by `$PATH`.
    pub fn new(name: &'a str) -> Self {
        Self { name, args: Vec::new(), stdin: None, time_limit: DEFAULT_TIME_LIMIT, remedy: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args);
        self
    }

    /// What it reads; without, its standard input is empty.
    #[must_use]
    pub fn stdin(mut self, text: &'a str) -> Self {
        self.stdin = Some(text);
        self
    }

    /// A time limit of its own.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// What to do when it is not installed: "install nftables".
    #[must_use]
    pub fn remedy(mut self, remedy: &'a str) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// Runs it to its end. The child is killed when the time limit passes or the caller stops waiting.
    pub async fn run(&self) -> Result<Output, ProgramError> {
        let mut command = Command::new(self.name);
        command.args(&self.args).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                ProgramError::NotInstalled { program: self.name.to_owned(), remedy: self.remedy.map(str::to_owned) }
            }
            _ => self.io_error(error),
        })?;
        let output = match tokio::time::timeout(self.time_limit, exchange(child, self.stdin)).await {
            Ok(finished) => finished.map_err(|error| self.io_error(error))?,
            Err(_) => return Err(ProgramError::TimedOut { program: self.command_line(), limit: self.time_limit }),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        if output.status.success() {
            return Ok(Output { stdout, stderr });
        }
        Err(ProgramError::Failed { program: self.command_line(), status: output.status, stderr })
    }

    fn io_error(&self, error: io::Error) -> ProgramError {
        ProgramError::Io { program: self.name.to_owned(), error }
    }

    fn command_line(&self) -> String {
        [&[self.name], self.args.as_slice()].concat().join(" ")
    }
}

/// Writes the input while the output is read, so that neither side waits for the other.
async fn exchange(mut child: Child, input: Option<&str>) -> io::Result<std::process::Output> {
    let stdin = child.stdin.take();
    let write = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input)
            && let Err(error) = stdin.write_all(input.as_bytes()).await
        {
            // A program that exits without reading all says why itself.
            tracing::debug!("input was not read to its end: {error}");
        }
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    output
}

fn first_line(text: &str) -> Option<String> {
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn input_output_and_errors_come_back() {
        let cat = Program::new("cat").stdin("text").run().await.unwrap();
        assert_eq!(cat.stdout, "text");
        let failed = Program::new("sh").args(["-c", "echo; echo no such rule >&2; echo more >&2; exit 3"]).run().await;
        let failed = failed.unwrap_err();
        assert!(failed.to_string().ends_with(": no such rule"), "{failed}");
        assert_eq!(failed.stderr(), "no such rule\nmore\n");
        let silent = Program::new("sh").args(["-c", "exit 3"]).run().await.unwrap_err();
        assert!(silent.to_string().ends_with("exit status: 3"), "{silent}");
    }

    #[tokio::test]
    async fn a_missing_program_names_its_remedy() {
        let missing = Program::new("flannel-no-such-program").remedy("install nftables").run().await.unwrap_err();
        assert!(missing.is_not_installed());
        assert_eq!(missing.to_string(), "flannel-no-such-program is not installed: install nftables");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed() {
        let limit = Duration::from_millis(50);
        let hung = Program::new("sh").args(["-c", "echo $$; exec cat /dev/zero > /dev/null"]).time_limit(limit);
        let error = hung.run().await.unwrap_err();
        assert!(matches!(error, ProgramError::TimedOut { .. }), "{error}");
    }

    /// More than a pipe holds, in both directions at once.
    #[tokio::test]
    async fn large_input_and_output_do_not_block_each_other() {
        let text = "a line of rules\n".repeat(100_000);
        assert_eq!(Program::new("cat").stdin(&text).run().await.unwrap().stdout, text);
        Program::new("true").stdin(&text).run().await.unwrap();
    }
}
