//! One network namespace, made and removed.
//!
//! Two ways inside: a closure on a thread of its own ([`Namespace::run`]; the thread never comes back, so no other
//! code can find itself in the wrong place), or a program through `ip netns exec` ([`Namespace::command`]).

use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::thread::{self, JoinHandle};

use rustix::mount::mount_bind;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::{output, words};
use crate::{Context, Error, Result, SOON, cgroups, eventually};

const PREFIX: &str = "fllab-";
const DIRECTORY: &str = "/run/netns";

/// Whether namespaces may be made: not any more once an interrupted program has begun to clean up.
static OPEN: RwLock<bool> = RwLock::new(true);

/// Proof that the current thread is inside a [`Namespace`]; functions that open sockets ask for it. It cannot leave
/// its thread.
#[derive(Debug)]
pub struct Inside {
    _stays_on_its_thread: PhantomData<*const ()>,
}

/// A network namespace of this process's making; dropping it ends the programs inside and removes it, and with it its
/// interfaces and their other ends.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
    ours: bool,
}

impl Namespace {
    /// Makes `fllab-<pid>-<lab>-<role>` with the loopback interface up.
    pub fn create(lab: usize, role: &str) -> Result<Self> {
        let open = still_open()?;
        let name = format!("{}{role}", prefix(lab));
        output(Command::new("ip").args(["netns", "add", &name]))?;
        let path = Path::new(DIRECTORY).join(&name);
        let file = File::open(&path).context(|| path.display().to_string())?;
        let made = Self { name, file, ours: true };
        drop(open);
        made.ip("link set lo up")?;
        // Root may ping without a raw socket, as in Docker's containers.
        made.sysctl("net/ipv4/ping_group_range", "0 0")?;
        Ok(made)
    }

    /// The namespace of this name, made and owned by another process: not removed when dropped.
    pub fn of_other(name: &str) -> Result<Self> {
        let path = Path::new(DIRECTORY).join(name);
        let file = File::open(&path).context(|| path.display().to_string())?;
        Ok(Self { name: name.to_owned(), file, ours: false })
    }

    /// Gives a namespace of another's making, a container's, a name of ours: `fllab-<pid>-<lab>-<role>`. It goes with
    /// what is inside, as one of ours.
    pub fn adopt(lab: usize, role: &str, file: File) -> Result<Self> {
        let _open = still_open()?;
        let name = format!("{}{role}", prefix(lab));
        let path = Path::new(DIRECTORY).join(&name);
        std::fs::write(&path, "").context(|| path.display().to_string())?;
        let adopted = Self { name, file, ours: true };
        adopted.run(|_| mount_bind("/proc/thread-self/ns/net", &path))?.context(|| path.display().to_string())?;
        Ok(adopted)
    }

    /// The name `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `body` on a new thread inside and waits for its end.
    pub fn run<T: Send>(&self, body: impl FnOnce(&Inside) -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| enter(&self.file).map(|inside| body(&inside)));
            join(thread.join()).context(|| format!("entering {}", self.name))
        })
    }

    /// Starts `body` on a new thread inside.
    pub fn spawn<T: Send + 'static>(
        &self,
        body: impl FnOnce(&Inside) -> T + Send + 'static,
    ) -> Result<JoinHandle<std::io::Result<T>>> {
        let file = self.file.try_clone().context(|| self.name.clone())?;
        Ok(thread::spawn(move || enter(&file).map(|inside| body(&inside))))
    }

    /// `program`, to be run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a command line (words without quotes) inside and returns what it prints.
    pub fn exec(&self, line: &str) -> Result<String> {
        let mut words = words(line);
        output(self.command(words.next().unwrap_or_default()).args(words))
    }

    /// `ip ARGUMENTS` inside.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        output(Command::new("ip").args(["-n", &self.name]).args(words(arguments)))
    }

    /// `bridge ARGUMENTS` inside.
    pub fn bridge(&self, arguments: &str) -> Result<String> {
        output(Command::new("bridge").args(["-n", &self.name]).args(words(arguments)))
    }

    /// Waits until a port of a bridge passes frames on. A port just plugged in drops them until the kernel has noticed
    /// its carrier, which takes up to a second on a busy machine, and then a first ARP request is lost.
    pub fn port_forwards(&self, port: &str) -> Result<()> {
        eventually(&format!("port {port} forwards"), SOON, || {
            let state = self.bridge(&format!("link show dev {port}"))?;
            if state.contains("state forwarding") { Ok(()) } else { Err(Error::new(state)) }
        })
    }

    /// Sets `net/...` below `/proc/sys` inside: the kernel shows each thread the settings of its own namespace.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name);
        self.run(|_| std::fs::write(&path, value))?.context(|| format!("{} = {value}", path.display()))
    }
}

/// Held while a namespace is made or a program started, so that an interruption waits until it can be seen.
pub(super) fn still_open() -> Result<RwLockReadGuard<'static, bool>> {
    let open = OPEN.read().unwrap_or_else(PoisonError::into_inner);
    if *open { Ok(open) } else { Err(Error::new("interrupted")) }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Clean-up after an interruption may have been quicker.
        if self.ours
            && Path::new(DIRECTORY).join(&self.name).exists()
            && let Err(e) = remove(&self.name)
        {
            eprintln!("{e}");
        }
    }
}

fn enter(file: &File) -> std::io::Result<Inside> {
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(Inside { _stays_on_its_thread: PhantomData })
}

/// Passes a panic of the thread on: an assertion inside a namespace is an assertion of the test.
pub fn join<T>(ended: thread::Result<T>) -> T {
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn remove(name: &str) -> Result<()> {
    let pids = output(Command::new("ip").args(["netns", "pids", name]))?;
    for pid in pids.split_whitespace().filter_map(|p| p.parse().ok()).filter_map(Pid::from_raw) {
        kill(pid);
    }
    output(Command::new("ip").args(["netns", "del", name])).map(drop)
}

fn kill(pid: Pid) {
    // One that ended meanwhile is what we want.
    if let Err(e) = kill_process(pid, Signal::KILL)
        && e != rustix::io::Errno::SRCH
    {
        eprintln!("process {}: {e}", pid.as_raw_pid());
    }
}

/// The start of the name of everything lab `lab` of this process makes.
pub fn prefix(lab: usize) -> String {
    format!("{PREFIX}{}-{lab}-", std::process::id())
}

/// For a program that was interrupted: no namespace can be made and no program started any more, and all that this
/// process made goes, with the programs inside.
pub fn abandon() {
    *OPEN.write().unwrap_or_else(PoisonError::into_inner) = false;
    // One just started may still be on its way into its namespace.
    children().into_iter().for_each(kill);
    let own = format!("{PREFIX}{}-", std::process::id());
    sweep_where(|name| name.starts_with(&own));
}

/// The processes that this one has started.
fn children() -> Vec<Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .filter_map(Pid::from_raw)
        .collect()
}

/// Removes what processes that were killed could not remove themselves: namespaces with the programs in them, cgroups,
/// temporary files.
pub fn sweep() {
    sweep_where(is_orphan);
}

fn sweep_where(wanted: impl Fn(&str) -> bool) {
    // Another process may be quicker with what nobody owns.
    for name in names(Path::new(DIRECTORY)).into_iter().filter(|name| wanted(name)) {
        if let Err(e) = remove(&name) {
            eprintln!("left over from a killed lab: {e}");
        }
    }
    for name in cgroups::names().into_iter().filter(|name| wanted(name)) {
        if let Err(e) = cgroups::remove(&name) {
            eprintln!("left over from a killed lab: {e}");
        }
    }
    let temporary = std::env::temp_dir();
    for path in names(&temporary).into_iter().filter(|name| wanted(name)).map(|name| temporary.join(name)) {
        if let Err(e) = std::fs::remove_dir_all(&path) {
            eprintln!("left over from a killed lab: {}: {e}", path.display());
        }
    }
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Whether a process made it which is no longer there.
fn is_orphan(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
    pid.is_some_and(|pid| {
        !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) && !Path::new("/proc").join(pid).exists()
    })
}
