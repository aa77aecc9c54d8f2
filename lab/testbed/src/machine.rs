//! A host with files and processes of its own: what Docker needs to be Docker.
//!
//! A [`Host`] is a network namespace only. A [`Machine`] adds namespaces for mounts, processes, IPC and the host name,
//! with a process 1 that ends everything inside when it goes:
//!
//! ```text
//!   DIRECTORY/run  -> /run       sockets, pid files: gone after a reboot
//!   DIRECTORY/lib  -> /var/lib   Docker's data, the plugin's state: kept
//!   DIRECTORY/etc  over /etc     what is written there stays inside; the machine's own daemon.json is not seen
//! ```
//!
//! All three are seen from outside, too, so a socket is spoken to by its path below [`Machine::run_directory`].
//! Shared with the real machine: programs, `/tmp`, the kernel's cgroups (a directory of our own in each) and cores.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::command::output;
use crate::{Context, Error, Host, Process, Result, SOON, cgroups, eventually};

/// A directory with programs that go before those of the machine: another Docker with its containerd and runc.
pub const DOCKER_BIN: &str = "FLANNEL_TEST_DOCKER_BIN";

/// Runs as process 1: `$1` is the directory, `$2` the host's name. The real machine's Docker settings are hidden once,
/// so that what a test writes there survives a reboot.
const BOOT: &str = r#"set -e
mount --bind "$1/run" /run
mount --bind "$1/lib" /var/lib
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/etc.work" /etc
[ -e "$1/etc/docker" ] || rm -rf /etc/docker
hostname "$2"
iptables -P FORWARD DROP
ip6tables -P FORWARD DROP
touch /run/booted
exec docker-init -s -- sleep infinity
"#;

/// A running machine. Dropping it is pulling its plug: no process, mount or cgroup of it is left, files are.
#[derive(Debug)]
pub struct Machine {
    name: String,
    directory: PathBuf,
    /// `unshare`, which waits for process 1.
    holder: Process,
    /// Process 1, as seen from outside.
    init: Pid,
    processes: OwnedFd,
    /// Children of ours. Process 1 is not gone before they have been waited for.
    started: Mutex<Vec<Process>>,
}

impl Host {
    /// Boots the host as a machine of its own. Declare it after the lab, so that it goes before it.
    pub fn machine(&self) -> Result<Machine> {
        Machine::boot(self)
    }
}

impl Machine {
    fn boot(host: &Host) -> Result<Self> {
        let directory = host.directory().to_owned();
        let run = directory.join("run");
        match fs::remove_dir_all(&run) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(|| run.display().to_string()),
            _ => {}
        }
        for name in ["run", "lib", "etc", "etc.work"] {
            let path = directory.join(name);
            fs::create_dir_all(&path).context(|| path.display().to_string())?;
        }
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", host.namespace_name()));
        command.args(["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c", BOOT, "boot"]).arg(&directory).arg(host.name());
        let holder = Process::start(&format!("machine {}", host.name()), command, &directory.join("boot.log"))?;
        eventually(&format!("machine {} is up", host.name()), SOON, || {
            if let Some(status) = holder.exited()? {
                return Err(Error::new(format!("it ended, {status}: {}", holder.log())));
            }
            if run.join("booted").exists() { Ok(()) } else { Err(Error::new(holder.log())) }
        })?;
        let init = only_child(holder.pid())?;
        let processes = pidfd_open(init, PidfdFlags::empty()).context(|| format!("process 1 of {}", host.name()))?;
        let name = cgroup_of(host);
        Ok(Self { name, directory, holder, init, processes, started: Mutex::default() })
    }

    /// Where its `/run` is seen from outside.
    pub fn run_directory(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// Where its `/var/lib` is seen from outside.
    pub fn lib_directory(&self) -> PathBuf {
        self.directory.join("lib")
    }

    /// A file of it, by the path inside: what is mounted there is not seen in its directories from outside. The path
    /// must not lead over links to absolute paths.
    pub fn open(&self, path: &str) -> Result<fs::File> {
        let path = format!("/proc/{}/root{path}", self.init.as_raw_pid());
        fs::File::open(&path).context(|| path.clone())
    }

    /// Where its files and logs are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The cgroup below which its containers are.
    pub fn cgroup(&self) -> &str {
        &self.name
    }

    /// `program`, to be run inside with [`Machine::start`] or [`Machine::output`].
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init.as_raw_pid()));
        command.args(["--mount", "--uts", "--ipc", "--net", "--"]).arg(program);
        command.env("PATH", path());
        for name in ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG"] {
            command.env_remove(name);
        }
        command
    }

    /// Starts a program that stays; what it prints is added to `NAME.log` of the directory.
    pub fn start(&self, name: &str, command: Command) -> Result<Process> {
        let log = self.directory.join(format!("{name}.log"));
        let process = self.as_parent(|| Process::start(name, command, &log))??;
        self.started().push(process.clone());
        Ok(process)
    }

    fn started(&self) -> MutexGuard<'_, Vec<Process>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a program to its end and returns what it prints.
    pub fn output(&self, mut command: Command) -> Result<String> {
        self.as_parent(|| output(&mut command))?
    }

    /// Runs a command line (words without quotes) inside and returns what it prints.
    pub fn exec(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().unwrap_or_default());
        command.args(words);
        self.output(command)
    }

    /// Runs `body` on a thread whose children are processes of the machine: they end with it, whatever they do.
    fn as_parent<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_thread_name_spaces(self.processes.as_fd(), ThreadNameSpaceType::PROCESS_ID).map(|()| body())
            });
            crate::namespace::join(thread.join()).context(|| format!("entering machine {}", self.name))
        })
    }

    /// Pulls its plug: everything inside is killed at once.
    pub fn power_off(self) {
        drop(self);
    }

    fn end(&self) -> Result<()> {
        if self.holder.exited()?.is_none() {
            match kill_process(self.init, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(e) => return Err(e).context(|| format!("process 1 of {}", self.name)),
            }
            for process in self.started().drain(..) {
                process.exit_within(SOON)?;
            }
            self.holder.exit_within(SOON)?;
        }
        cgroups::remove(&self.name)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.report());
        }
        if let Err(e) = self.end() {
            eprintln!("{e}");
        }
    }
}

impl Machine {
    /// The ends of its logs, for a failed test.
    fn report(&self) -> String {
        const LINES: usize = 60;
        let mut text = String::new();
        let logs = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|e| e.path());
        for log in logs.filter(|p| p.extension().is_some_and(|e| e == "log")) {
            let all = fs::read(&log).unwrap_or_default();
            let all = String::from_utf8_lossy(&all);
            // dockerd tells how its containerd comes up each time.
            let lines: Vec<_> = all.lines().filter(|l| !l.contains("level=info")).collect();
            let end = lines[lines.len().saturating_sub(LINES)..].join("\n");
            text.push_str(&format!("--- {}:\n{end}\n", log.display()));
        }
        text
    }
}

/// The search path inside.
pub(super) fn path() -> std::ffi::OsString {
    let usual = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let Some(first) = std::env::var_os(DOCKER_BIN).filter(|d| !d.is_empty()) else { return usual };
    let all = std::iter::once(PathBuf::from(first)).chain(std::env::split_paths(&usual));
    std::env::join_paths(all).unwrap_or(usual)
}

fn cgroup_of(host: &Host) -> String {
    format!("{}{}", crate::namespace::prefix(host.lab()), host.name())
}

pub(super) fn only_child(parent: u32) -> Result<Pid> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(&path).context(|| path.clone())?;
    children.trim().parse().ok().and_then(Pid::from_raw).context(|| format!("{path}: {children:?}"))
}
