//! One command line of the operator's, run by `sh -c`: with a time limit, its output bounded, nothing of it left
//! running when it is given up.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// Bytes kept of what a command prints; the rest is read and dropped, so that the command is not stopped by it.
const KEPT: usize = 64 * 1024;
/// How long after the shell's end its output is waited for: a process it left in the background may hold it open.
const GRACE: Duration = Duration::from_millis(200);
/// Characters of a complaint that go into a log line.
const TOLD: usize = 300;

/// A command line with its place in the config and its variables.
#[derive(Debug, Clone)]
pub(super) struct Job<'a> {
    /// The key of the config, for messages.
    pub(super) key: &'static str,
    pub(super) line: &'a str,
    pub(super) variables: Vec<(&'static str, String)>,
    /// What it reads, a newline behind it.
    pub(super) input: &'a str,
}

impl Job<'_> {
    /// Runs the command and returns what it printed, trimmed. The error is one line: the key and what the command
    /// complained of.
    pub(super) async fn run(&self, limit: Duration) -> Result<String, String> {
        let fail = |why: String| format!("Backend.{} {why}", self.key);
        let mut child = self.spawn().map_err(|e| fail(format!("can't be started by sh: {e}")))?;
        let mut group = Group::of(&child);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let end = tokio::time::timeout(limit, self.attend(&mut child, &mut out, &mut err)).await;
        let said = || {
            let said = one_line(if err.is_empty() { &out } else { &err });
            if said.is_empty() { "it printed nothing".to_owned() } else { said }
        };
        match end {
            Err(_) => Err(fail(format!("did not end within {} s and was killed: {}", limit.as_secs_f32(), said()))),
            Ok(Err(error)) => Err(fail(format!("can't be waited for: {error}"))),
            Ok(Ok(status)) => {
                // What it left in the background on purpose stays.
                group.release();
                if !status.success() {
                    return Err(fail(format!("failed with {status}: {}", said())));
                }
                if !err.is_empty() {
                    tracing::info!("Backend.{} says: {}", self.key, one_line(&err));
                }
                Ok(String::from_utf8_lossy(&out).trim().to_owned())
            }
        }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        let mut command = Command::new("sh");
        command.arg("-c").arg(self.line).envs(variables).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }

    /// Feeds the command and listens to it until it ends.
    async fn attend(&self, child: &mut Child, out: &mut Vec<u8>, err: &mut Vec<u8>) -> std::io::Result<ExitStatus> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            // A command that doesn't read its input closes it, which is its own affair.
            if let Some(mut stdin) = stdin
                && let Err(error) = stdin.write_all(format!("{}\n", self.input).as_bytes()).await
            {
                tracing::debug!("Backend.{} did not read its input: {error}", self.key);
            }
        };
        let mut talk = std::pin::pin!(async {
            tokio::join!(feed, keep(stdout, out), keep(stderr, err));
        });
        let mut silent = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                () = &mut talk, if !silent => silent = true,
            }
        };
        if !silent && tokio::time::timeout(GRACE, talk).await.is_err() {
            tracing::debug!("Backend.{} left a process that holds its output", self.key);
        }
        status
    }
}

/// Reads all, keeps the beginning.
async fn keep(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let room = KEPT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
}

fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = lines.join("; ");
    match line.char_indices().nth(TOLD) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

/// The shell and all it started, killed unless released: also when the daemon is told to end meanwhile.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0
            && let Err(error) = kill_process_group(pid, Signal::KILL)
        {
            tracing::debug!("can't kill process group {}: {error}", pid.as_raw_nonzero());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn job<'a>(line: &'a str, input: &'a str) -> Job<'a> {
        Job { key: "SubnetAddCommand", line, variables: vec![("SUBNET", "10.5.1.0/24".into())], input }
    }

    #[tokio::test]
    async fn the_shell_sees_variables_and_input() {
        let line = r#"read -r first; printf '  %s|%s|%s\n\n' "$SUBNET" "$first" "$(cat | wc -c)""#;
        assert_eq!(job(line, "a b").run(LONG).await.unwrap(), "10.5.1.0/24|a b|0");
        assert_eq!(job("cat", "").run(LONG).await.unwrap(), "");
        assert_eq!(job("true && echo 'a  b' | tr a c; echo >&2 x", "").run(LONG).await.unwrap(), "c  b");
    }

    #[tokio::test]
    async fn a_failure_is_one_line_with_what_the_command_said() {
        let error = job("echo out; echo no way >&2; echo $SUBNET >&2; exit 3", "").run(LONG).await.unwrap_err();
        assert_eq!(error, "Backend.SubnetAddCommand failed with exit status: 3: no way; 10.5.1.0/24");
        let error = job("exit 1", "").run(LONG).await.unwrap_err();
        assert_eq!(error, "Backend.SubnetAddCommand failed with exit status: 1: it printed nothing");
    }

    #[tokio::test]
    async fn much_output_and_much_unread_input_stop_nothing() {
        let said = job("head -c 1000000 /dev/zero | tr '\\0' x", &"y".repeat(1_000_000)).run(LONG).await.unwrap();
        assert_eq!(said.len(), KEPT);
    }

    /// The child of the shell holds the file locked; the lock is free once it is gone.
    #[tokio::test]
    async fn a_hung_command_is_killed_with_its_children() {
        let root = tempfile::tempdir().unwrap();
        let lock = root.path().join("lock");
        let line = format!("flock {} sh -c 'echo stuck >&2; sleep 1000'; true", lock.display());
        let error = job(&line, "").run(Duration::from_millis(500)).await.unwrap_err();
        assert_eq!(error, "Backend.SubnetAddCommand did not end within 0.5 s and was killed: stuck");
        let free = format!("flock -w 10 {} echo free", lock.display());
        assert_eq!(job(&free, "").run(LONG).await.unwrap(), "free");
    }

    #[tokio::test]
    async fn a_process_left_behind_is_not_waited_for() {
        let said = tokio::time::timeout(LONG, job("sleep 1000 & echo $!", "").run(10 * LONG)).await.unwrap().unwrap();
        let left = Pid::from_raw(said.parse().unwrap()).unwrap();
        rustix::process::kill_process(left, Signal::KILL).unwrap();
    }
}
