//! `flannel-docker doctor`: what is off between Docker, the plugin, the kernel and the lease, in plain words.
//!
//! It only looks, beside a plugin that runs or not, and may be run at any time. With `-fix` the running plugin is told
//! to put right what it can ([`REPAIR`]); where none runs, the doctor does it in its place, with the same code. What
//! is left after that is said, with what to type.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::future::pending;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::docker::engine::Engine;
use crate::driver::drift::{Difference, Remedy, View, compare};
use crate::driver::{Driver, Looked, open};
use crate::links::Links as _;
use crate::links::netlink::Netlink;
use crate::opts::Opts;
use crate::publish::{self, localnet};
use crate::store::lease::SubnetFile;
use crate::store::{self, State};

mod plugin;
mod rules;

/// The method of the plugin that puts right what can be.
pub const REPAIR: &str = "FlannelDocker.Repair";

/// How long after the first look the second comes, which tells what is off from what is under way.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Something that is off.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// A word for programs.
    pub kind: &'static str,
    /// What is off.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether `-fix` does it.
    pub fixable: bool,
}

/// What was found, and what was done about it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What is off now.
    pub problems: Vec<Problem>,
    /// What `-fix` has put right.
    pub fixed: Vec<String>,
    /// Networks and containers that were looked at.
    pub networks: usize,
    /// The same of containers.
    pub containers: usize,
}

/// Answer to [`REPAIR`].
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Repaired {
    /// What was put right.
    pub done: Vec<String>,
    /// What could not be, and why.
    pub left: Vec<String>,
}

impl Repaired {
    /// In words.
    pub fn of(looked: &Looked) -> Self {
        let left = looked.left.iter().filter_map(|(d, reason)| Some(format!("{d}: {}", reason.as_ref()?)));
        Self { done: looked.done.iter().map(ToString::to_string).collect(), left: left.collect() }
    }
}

impl Problem {
    /// A difference in the packet filter.
    fn of_rules(kind: &'static str, problem: String) -> Self {
        let remedy =
            "the plugin repairs them at its next check, within half a minute, and at once with -fix".to_owned();
        Self { kind, problem, remedy, fixable: true }
    }

    /// A packet filter that cannot be read.
    fn unreadable(problem: String, program: &str) -> Self {
        Self {
            kind: "rules-unreadable",
            problem,
            remedy: format!("run the doctor as root, with {program} installed"),
            fixable: false,
        }
    }
}

impl From<&Difference> for Problem {
    fn from(difference: &Difference) -> Self {
        let (remedy, fixable) = match difference.remedy() {
            Remedy::Ours => ("the plugin puts it right by itself, and at once with -fix".to_owned(), true),
            Remedy::Yours(remedy) => (remedy, false),
        };
        Self { kind: difference.kind(), problem: difference.to_string(), remedy, fixable }
    }
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String can't fail.
        let mut line = |l: std::fmt::Arguments<'_>| writeln!(text, "{l}").expect("a String takes every write");
        for fixed in &self.fixed {
            line(format_args!("fixed: {fixed}"));
        }
        for problem in &self.problems {
            line(format_args!("off: {}\n     {}", problem.problem, problem.remedy));
        }
        let looked_at = format!("{} networks with {} containers", self.networks, self.containers);
        match self.problems.len() {
            0 => line(format_args!("all is well: {looked_at}")),
            1 => line(format_args!("1 thing is off: {looked_at}")),
            more => line(format_args!("{more} things are off: {looked_at}")),
        }
        text
    }
}

/// Looks, puts right if `-fix` was given, and reports. An error where it could not even look.
pub async fn run(opts: &Opts) -> Result<Report, String> {
    let doctor = Doctor::new(opts)?;
    let mut report = doctor.examine().await?;
    if !opts.fix || report.problems.is_empty() {
        return Ok(report);
    }
    let before = report.problems;
    let repaired = doctor.fix(opts).await?;
    report = doctor.examine().await?;
    // Rules are written anew whatever was off with them, so nobody tells what it was.
    let gone = before.into_iter().filter(|p| p.fixable && !report.problems.contains(p)).map(|p| p.problem);
    let fixed: BTreeSet<_> = repaired.done.into_iter().chain(gone).collect();
    report.fixed = fixed.into_iter().collect();
    for reason in repaired.left {
        for problem in report.problems.iter_mut().filter(|p| reason.starts_with(&p.problem)) {
            reason.trim_start_matches(&problem.problem).trim_start_matches(": ").clone_into(&mut problem.remedy);
            problem.fixable = false;
        }
    }
    Ok(report)
}

struct Doctor<'a> {
    opts: &'a Opts,
    name: String,
    engine: Engine,
    links: Netlink,
}

impl<'a> Doctor<'a> {
    fn new(opts: &'a Opts) -> Result<Self, String> {
        let name = opts.driver_name()?;
        let links = open::links(opts)?;
        Ok(Self { opts, name, engine: Engine::at(opts.docker_socket.clone()), links })
    }

    /// Looks, and a second time at what may have been under way.
    async fn examine(&self) -> Result<Report, String> {
        let first = self.look().await?;
        if first.problems.is_empty() {
            return Ok(first);
        }
        drop(timeout(SECOND_LOOK, pending::<()>()).await);
        let mut second = self.look().await?;
        second.problems.retain(|p| first.problems.contains(p));
        Ok(second)
    }

    async fn look(&self) -> Result<Report, String> {
        let mut problems = Vec::new();
        let mut off = |kind, problem: String, remedy: &str| {
            problems.push(Problem { kind, problem, remedy: remedy.to_owned(), fixable: false });
        };
        if let Err(e) = plugin::answers(&self.opts.socket).await {
            off("plugin-silent", e, "start the plugin, before Docker if you can: Docker waits for it");
        }
        let state = match store::peek(&self.opts.state_dir) {
            Ok(state) => state.unwrap_or_default(),
            Err(e) => {
                off("state-unreadable", e, "start the plugin again: it sets the file aside and asks Docker");
                State::default()
            }
        };
        let docker = match self.engine.networks(&self.name).await {
            Ok(networks) => Some(networks),
            Err(e) => {
                off("docker-silent", e, "start Docker, or name its socket with -docker-socket");
                None
            }
        };
        let subnet_file = SubnetFile(self.opts.subnet_file.clone());
        let mut flannels: BTreeSet<_> = state.networks.values().map(|n| n.flannel.clone()).collect();
        if flannels.is_empty() {
            flannels.insert(None);
        }
        for name in &flannels {
            if let Err(e) = subnet_file.of(name.as_ref()).read() {
                off("lease-missing", e.to_string(), "start flanneld, or name its file with -subnet-file");
            }
        }
        let leases = subnet_file.leases(&flannels);
        let devices = self.links.owned().await.map_err(|e| e.to_string())?;
        let address_space = format!("{}-local", self.name);
        let view = View {
            address_space: &address_space,
            state: &state,
            docker: docker.as_deref(),
            devices: &devices,
            leases: &leases,
        };
        problems.extend(compare(&view).iter().map(Problem::from));
        problems.extend(rules::forward(&crate::driver::rules(&state), &self.opts.chain()).await);
        let nat = publish::nat(&state, localnet::takes_localnet);
        problems.extend(rules::ports(&nat, &self.opts.table()).await);
        if !state.networks.is_empty() && !forwards() {
            problems.push(Problem {
                kind: "no-forwarding",
                problem: "net.ipv4.ip_forward is 0: containers can't reach other hosts".to_owned(),
                remedy: "type \"sysctl -w net.ipv4.ip_forward=1\"".to_owned(),
                fixable: false,
            });
        }
        let containers = state.networks.values().map(|n| n.endpoints.len()).sum();
        Ok(Report { problems, fixed: Vec::new(), networks: state.networks.len(), containers })
    }

    /// By the plugin that runs, or in its place.
    async fn fix(&self, opts: &Opts) -> Result<Repaired, String> {
        if plugin::answers(&self.opts.socket).await.is_ok() {
            return plugin::repair(&self.opts.socket).await;
        }
        Ok(Repaired::of(&Driver::open(opts)?.repair_all().await))
    }
}

fn forwards() -> bool {
    !std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|v| v.trim() == "0")
}
