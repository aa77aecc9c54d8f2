//! A host: a namespace with an address on the underlay, a directory for its files, and the daemons started on it.

use std::net::Ipv4Addr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::{Context, Daemon, Flanneld, Namespace, Process, Result, SubnetEnv};

/// How `ip route` shows the mark that flanneld gives its routes.
const MARK: &str = " proto 70";

/// One host. What can be done in a namespace can be done on it.
#[derive(Debug)]
pub struct Host {
    /// Kept to the end of the lab, so that a failed test is looked at while they still run.
    processes: Mutex<Vec<Process>>,
    lab: usize,
    name: String,
    namespace: Namespace,
    address: Ipv4Addr,
    directory: PathBuf,
    etcd: String,
}

impl Host {
    /// A host of lab number `lab` in `namespace`, its files below the lab's directory.
    pub fn new(
        lab: usize,
        name: String,
        namespace: Namespace,
        address: Ipv4Addr,
        directory: PathBuf,
        etcd: String,
    ) -> Self {
        Self { processes: Mutex::new(Vec::new()), lab, name, namespace, address, directory, etcd }
    }

    /// `h1`, `h2`, ...
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the underlay.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where its files are: `subnet.env`, logs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The number of the lab it belongs to.
    pub fn lab(&self) -> usize {
        self.lab
    }

    /// The endpoints its daemons ask.
    pub fn etcd(&self) -> &str {
        &self.etcd
    }

    /// The file a daemon writes here by default.
    pub fn subnet_file(&self) -> PathBuf {
        self.directory.join("subnet.env")
    }

    /// Its `subnet.env`, as it is now.
    pub fn subnet_env(&self) -> Result<SubnetEnv> {
        SubnetEnv::read(&self.subnet_file())
    }

    /// The text of its `subnet.env`, as it is now.
    pub fn subnet_text(&self) -> Result<String> {
        let path = self.subnet_file();
        std::fs::read_to_string(&path).context(|| path.display().to_string())
    }

    /// The IPv6 routes to global addresses (`ip -6 route`), one a line.
    pub fn routes6(&self) -> Result<Vec<String>> {
        Ok(lines(&self.ip("-6 route")?.replace(MARK, ""))
            .into_iter()
            .filter(|line| !line.starts_with("fe80:"))
            .collect())
    }

    /// The daemon `program`, to be started here with the usual flags (etcd's endpoint, the subnet file) and more.
    pub fn flanneld(&self, program: impl Into<PathBuf>) -> Flanneld<'_> {
        Flanneld::new(self, program.into())
    }

    /// The routes (`ip route`), one a line, without the blanks `ip` puts at the end and without a daemon's mark on its
    /// own, which upstream has none of.
    pub fn routes(&self) -> Result<Vec<String>> {
        Ok(lines(&self.ip("route")?.replace(MARK, "")))
    }

    /// The neighbours of a device that the kernel did not find by itself.
    pub fn neighbours(&self, device: &str) -> Result<Vec<String>> {
        Ok(lines(&self.ip(&format!("neigh show dev {device} nud permanent"))?))
    }

    /// The forwarding entries of a device that have a destination.
    pub fn forwarding(&self, device: &str) -> Result<Vec<String>> {
        let all = self.bridge(&format!("fdb show dev {device}"))?;
        Ok(lines(&all).into_iter().filter(|line| line.contains(" dst ")).collect())
    }

    /// `iptables-save -t TABLE` without comments and counters: policies, chains and rules.
    pub fn rules(&self, table: &str) -> Result<Vec<String>> {
        self.saved("iptables-save", table)
    }

    /// The same of `ip6tables-save`.
    pub fn rules6(&self, table: &str) -> Result<Vec<String>> {
        self.saved("ip6tables-save", table)
    }

    fn saved(&self, program: &str, table: &str) -> Result<Vec<String>> {
        let all = self.exec(&format!("{program} -t {table}"))?;
        Ok(lines(&all).into_iter().filter(|l| l.starts_with(':') || l.starts_with("-A")).map(without_count).collect())
    }

    /// The index of an interface: a new one after it was re-created.
    pub fn index_of(&self, device: &str) -> Result<u32> {
        let line = self.ip(&format!("-o link show dev {device}"))?;
        line.split(':').next().and_then(|n| n.trim().parse().ok()).context(|| format!("no index in {line:?}"))
    }

    /// The MAC address of an interface.
    pub fn mac_of(&self, device: &str) -> Result<String> {
        let line = self.ip(&format!("-o link show dev {device}"))?;
        let mut words = line.split_whitespace().skip_while(|w| *w != "link/ether");
        words.nth(1).map(str::to_owned).context(|| format!("no MAC in {line:?}"))
    }

    /// What a reboot ends: programs, and the kernel's state with the namespace.
    pub fn reboot_into(&mut self, namespace: Namespace) {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.namespace = namespace;
    }

    /// Ends `process` when the host goes.
    pub fn adopt(&self, process: Process) {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).push(process);
    }

    /// Starts the daemon with the usual flags and `args`, and waits until it has written its subnet file.
    pub fn up(&self, program: impl Into<PathBuf>, args: &[&str]) -> Result<Daemon> {
        let daemon = self.flanneld(program).args(args).start()?;
        daemon.ready()?;
        Ok(daemon)
    }
}

impl Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// `:FORWARD ACCEPT [12:3456]` without the counters.
fn without_count(line: String) -> String {
    match line.split_once(" [") {
        Some((chain, _)) if line.starts_with(':') => chain.to_owned(),
        _ => line,
    }
}
