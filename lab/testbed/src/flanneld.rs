//! A flanneld under test: any binary with upstream's command line, known by its flags, its log, its file and its exit
//! code only.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::{Context, Error, Host, Process, Result, SOON, Signal, eventually};

/// A daemon about to be started.
#[derive(Debug)]
pub struct Flanneld<'a> {
    host: &'a Host,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    subnet_file: PathBuf,
    usual_flags: bool,
}

/// How a daemon ended.
#[derive(Debug)]
pub struct Exit {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub log: String,
}

impl<'a> Flanneld<'a> {
    pub(super) fn new(host: &'a Host, program: PathBuf) -> Self {
        let subnet_file = host.subnet_file();
        Self { host, program, args: Vec::new(), env: Vec::new(), subnet_file, usual_flags: true }
    }

    /// Adds a flag.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds flags.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&a| a.to_owned()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Has it write another file than the host's usual one.
    #[must_use]
    pub fn subnet_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.subnet_file = path.into();
        self
    }

    /// Leaves out `-etcd-endpoints` and `-subnet-file`: the caller gives all there is.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.usual_flags = false;
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<Daemon> {
        let mut command = self.host.command(&self.program);
        if self.usual_flags {
            command.arg(format!("-etcd-endpoints={}", self.host.etcd()));
            command.arg(format!("-subnet-file={}", self.subnet_file.display()));
        }
        command.args(&self.args);
        // A variable of the caller's must not decide what is tested.
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("FLANNELD_")) {
            command.env_remove(name);
        }
        // By the environment, since upstream's flanneld would refuse an unknown flag.
        command.env("FLANNELD_STATE_DIR", self.host.directory().join("state"));
        command.envs(self.env);
        let before = Stamp::of(&self.subnet_file);
        let log = self.host.directory().join(format!("flanneld-{}.log", fastrand::u32(..)));
        let process = Process::start(&format!("flanneld on {}", self.host.name()), command, &log)?;
        self.host.adopt(process.clone());
        Ok(Daemon { process, subnet_file: self.subnet_file, before })
    }

    /// Starts it and waits for its end.
    pub fn run(self, deadline: Duration) -> Result<Exit> {
        self.start()?.exit_within(deadline)
    }
}

/// A started daemon. It is not ended by being dropped but with its lab, or by [`Daemon::stop`] and [`Daemon::kill`].
#[derive(Debug, Clone)]
pub struct Daemon {
    process: Process,
    subnet_file: PathBuf,
    before: Option<Stamp>,
}

impl Daemon {
    /// Waits until this daemon, not an earlier one, has written its subnet file; its IPv4 side.
    pub fn ready(&self) -> Result<SubnetEnv> {
        self.wrote()?;
        SubnetEnv::read(&self.subnet_file)
    }

    /// Waits until this daemon, not an earlier one, has written its subnet file; its text.
    pub fn wrote(&self) -> Result<String> {
        eventually("subnet.env", SOON, || {
            if let Some(status) = self.process.exited()? {
                return Err(Error::new(format!("flanneld ended, {status}:\n{}", self.log())));
            }
            if !self.has_written() {
                return Err(Error::new(format!("{} not written; log:\n{}", self.subnet_file.display(), self.log())));
            }
            std::fs::read_to_string(&self.subnet_file).context(|| self.subnet_file.display().to_string())
        })
    }

    /// Whether this daemon has written its subnet file.
    pub fn has_written(&self) -> bool {
        let now = Stamp::of(&self.subnet_file);
        now.is_some() && now != self.before
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until a line of its log contains `text` and returns that line.
    pub fn says(&self, text: &str) -> Result<String> {
        eventually(&format!("a line with {text:?}"), SOON, || {
            let log = self.log();
            log.lines().find(|l| l.contains(text)).map(str::to_owned).context(|| format!("the log is:\n{log}"))
        })
    }

    /// SIGTERM; its exit, which must come within two seconds.
    pub fn stop(&self) -> Result<Exit> {
        self.process.signal(Signal::TERM)?;
        self.exit_within(Duration::from_secs(2))
    }

    /// `kill -9`.
    pub fn kill(&self) -> Result<()> {
        self.process.kill()
    }

    /// Waits for its end.
    pub fn exit_within(&self, deadline: Duration) -> Result<Exit> {
        let status: ExitStatus = self.process.exit_within(deadline)?;
        Ok(Exit { code: status.code(), log: self.log() })
    }
}

/// What tells one writing of a file from the next: it is replaced, not rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let m: Metadata = std::fs::metadata(path).ok()?;
        Some(Self { inode: m.ino(), seconds: m.mtime(), nanoseconds: m.mtime_nsec() })
    }
}

/// The IPv4 side of a `subnet.env`, and its whole text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetEnv {
    /// `FLANNEL_NETWORK`.
    pub network: Ipv4Net,
    /// `FLANNEL_SUBNET`: the lease with its first address.
    pub gateway: Ipv4Net,
    /// `FLANNEL_MTU`.
    pub mtu: u32,
    /// The file.
    pub text: String,
}

impl SubnetEnv {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context(|| path.display().to_string())?;
        let value = |name: &str| Self::value(&text, name).context(|| path.display().to_string());
        let net = |name: &str| value(name)?.parse::<Ipv4Net>().context(|| format!("{}: {name}", path.display()));
        Ok(Self {
            network: net("FLANNEL_NETWORK")?,
            gateway: net("FLANNEL_SUBNET")?,
            mtu: value("FLANNEL_MTU")?.parse().context(|| format!("{}: FLANNEL_MTU", path.display()))?,
            text: text.clone(),
        })
    }

    /// The value of one of the file's variables.
    pub fn value<'a>(text: &'a str, name: &str) -> Result<&'a str> {
        let found = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
        found.context(|| format!("no {name} in {text:?}"))
    }

    /// The lease: the gateway's subnet.
    pub fn subnet(&self) -> Ipv4Net {
        self.gateway.trunc()
    }

    /// The address `offset` after the lease's base.
    pub fn address(&self, offset: u32) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::from(u32::from(self.subnet().addr()) + offset)
    }

    /// The lease's key below the default prefix.
    pub fn key(&self) -> String {
        let subnet = self.subnet();
        format!("/coreos.com/network/subnets/{}-{}", subnet.addr(), subnet.prefix_len())
    }
}
