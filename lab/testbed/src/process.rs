//! Programs that stay: started inside a namespace, logged to a file, ended by their pid.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::namespace::still_open;
use crate::{Context, Error, Result, eventually};

/// A running program. Clones are the same program; it is killed when the last one goes.
#[derive(Debug, Clone)]
pub struct Process {
    running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    name: String,
    pid: Pid,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `command`; what it prints is added to the file `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let open = || OpenOptions::new().create(true).append(true).open(log);
        let out = open().context(|| log.display().to_string())?;
        let err = out.try_clone().context(|| log.display().to_string())?;
        Self::spawn(name, command.stdout(out).stderr(err), log)
    }

    /// Starts `command` with standard output in the file `out` (emptied first) and standard error in `log`.
    pub fn start_apart(name: &str, mut command: Command, out: &Path, log: &Path) -> Result<Self> {
        let out = File::create(out).context(|| out.display().to_string())?;
        let err = File::create(log).context(|| log.display().to_string())?;
        Self::spawn(name, command.stdout(out).stderr(err), log)
    }

    fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let _open = still_open()?;
        let child = command.stdin(Stdio::null()).spawn().context(|| format!("starting {name}: {command:?}"))?;
        let pid = Pid::from_child(&child);
        let running = Running { name: name.to_owned(), pid, log: log.to_owned(), child: Mutex::new(child) };
        Ok(Self { running: Arc::new(running) })
    }

    /// Its process id, also that of the program itself: `ip netns exec` becomes the program it runs.
    pub fn pid(&self) -> u32 {
        self.running.pid.as_raw_pid().unsigned_abs()
    }

    /// All it printed so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.running.log).map_or_else(|e| format!("({e})"), |b| String::from_utf8_lossy(&b).into_owned())
    }

    /// Its exit status, `None` while it runs.
    pub fn exited(&self) -> Result<Option<ExitStatus>> {
        self.running.child().try_wait().context(|| self.running.name.clone())
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // The lock keeps the pid from being reaped, and so from being given to somebody else, meanwhile.
        let mut child = self.running.child();
        if let Some(status) = child.try_wait().context(|| self.running.name.clone())? {
            return Err(Error::new(format!("{} has ended: {status}", self.running.name)));
        }
        kill_process(self.running.pid, signal).context(|| format!("{}: {signal:?}", self.running.name))
    }

    /// Runs `body`, which stops and inspects the process; nobody else waits for it meanwhile.
    pub fn traced<T>(&self, body: impl FnOnce(u32) -> Result<T>) -> Result<T> {
        let _child = self.running.child();
        body(self.pid())
    }

    /// Waits for its end.
    pub fn exit_within(&self, deadline: Duration) -> Result<ExitStatus> {
        eventually(&format!("end of {}", self.running.name), deadline, || {
            self.exited()?.context(|| format!("it still runs; its log:\n{}", self.log()))
        })
    }

    /// SIGKILL, as `kill -9`; returns when it is gone.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.exit_within(crate::SOON).map(drop)
    }

    /// Its resident memory in KiB.
    pub fn rss_kib(&self) -> Result<u64> {
        self.kib("VmRSS:")
    }

    /// The most resident memory it ever had, in KiB.
    pub fn peak_rss_kib(&self) -> Result<u64> {
        self.kib("VmHWM:")
    }

    fn kib(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&path).context(|| path.clone())?;
        let line = status.lines().find_map(|l| l.strip_prefix(field)).context(|| format!("{path}: no {field}"))?;
        line.trim().trim_end_matches(" kB").parse().context(|| format!("{path}: {line}"))
    }

    /// CPU seconds it has used, in and out of the kernel.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = std::fs::read_to_string(&path).context(|| path.clone())?;
        // Behind the name, which may hold blanks: state is field 3, utime 14 and stime 15 of proc(5), in hundredths.
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
        let ticks =
            |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).context(|| format!("{path}: {stat}"));
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    }
}

impl Running {
    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut child = self.child();
        if matches!(child.try_wait(), Ok(None))
            && let Err(e) = child.kill().and_then(|()| child.wait())
        {
            eprintln!("{}: cannot be ended: {e}", self.name);
        }
    }
}
