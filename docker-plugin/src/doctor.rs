//! `flannel-docker doctor`: what is inconsistent between Docker, the plugin, the kernel and the lease.
//!
//! It changes nothing, whether the plugin runs or not, and may be run at any time. With `-fix` the running plugin is
//! asked to repair what it can ([`crate::api::repair`]); where none runs, the doctor does it in its place, with the same
//! code. What is left is reported with what to do about it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::api::repair::Repaired;
use crate::docker::engine::Engine;
use crate::driver::drift::{Difference, Remedy, View, compare};
use crate::driver::{Driver, open, pause};
use crate::links::Links as _;
use crate::links::netlink::Netlink;
use crate::opts::Opts;
use crate::publish::{self, localnet};
use crate::store::lease::SubnetFile;
use crate::store::{self, State};

mod plugin;
mod rules;

/// How long a problem has to last: what is gone by then was a call in progress.
const RECHECK_AFTER: Duration = Duration::from_secs(1);

/// An inconsistency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The kind, for programs.
    pub kind: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether `-fix` repairs it.
    pub fixable: bool,
}

/// What was found, and what was done about it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What is wrong now.
    pub problems: Vec<Problem>,
    /// What `-fix` has repaired.
    pub fixed: Vec<String>,
    /// How many networks were checked.
    pub networks: usize,
    /// How many containers were checked.
    pub containers: usize,
}

impl Problem {
    /// A difference in the packet filter.
    fn of_rules(kind: &'static str, problem: String) -> Self {
        let remedy = "the plugin repairs them within 30 seconds, and -fix does so at once".to_owned();
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
            Remedy::Automatic => ("the plugin repairs it within a minute, and -fix does so at once".to_owned(), true),
            Remedy::Manual(remedy) => (remedy, false),
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
            line(format_args!("problem: {}\n         {}", problem.problem, problem.remedy));
        }
        let checked = format!("{} networks with {} containers", self.networks, self.containers);
        match self.problems.len() {
            0 => line(format_args!("no problems found: {checked}")),
            1 => line(format_args!("1 problem: {checked}")),
            more => line(format_args!("{more} problems: {checked}")),
        }
        text
    }
}

/// Checks, repairs if `-fix` was given, and reports. An error where nothing could be checked.
pub async fn run(opts: &Opts) -> Result<Report, String> {
    let doctor = Doctor::new(opts)?;
    let mut report = doctor.examine().await?;
    if !opts.fix || report.problems.is_empty() {
        return Ok(report);
    }
    let before = report.problems;
    let repaired = doctor.fix(opts).await?;
    report = doctor.examine().await?;
    // Rules are restored as a whole, so the repair does not say what was wrong with them.
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

    /// Checks twice, so that calls in progress are not reported.
    async fn examine(&self) -> Result<Report, String> {
        let first = self.check().await?;
        if first.problems.is_empty() {
            return Ok(first);
        }
        pause(RECHECK_AFTER).await;
        let mut second = self.check().await?;
        second.problems.retain(|p| first.problems.contains(p));
        Ok(second)
    }

    async fn check(&self) -> Result<Report, String> {
        let mut problems = Vec::new();
        let mut add = |kind, problem: String, remedy: &str| {
            problems.push(Problem { kind, problem, remedy: remedy.to_owned(), fixable: false });
        };
        if let Err(e) = plugin::answers(&self.opts.socket).await {
            add("plugin-unreachable", e, "start the plugin, if possible before Docker, which waits for it");
        }
        let state = match store::peek(&self.opts.state_dir) {
            Ok(state) => state.unwrap_or_default(),
            Err(e) => {
                add(
                    "state-unreadable",
                    e,
                    "restart the plugin: it sets the file aside and rebuilds the state from Docker",
                );
                State::default()
            }
        };
        let docker = match self.engine.networks(&self.name).await {
            Ok(networks) => Some(networks),
            Err(e) => {
                add("docker-unreachable", e, "start Docker, or name its socket with -docker-socket");
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
                add("lease-missing", e.to_string(), "start flanneld, or name its file with -subnet-file");
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
                problem: "net.ipv4.ip_forward is 0: containers cannot reach other hosts".to_owned(),
                remedy: "type \"sysctl -w net.ipv4.ip_forward=1\"".to_owned(),
                fixable: false,
            });
        }
        let containers = state.networks.values().map(|n| n.endpoints.len()).sum();
        Ok(Report { problems, fixed: Vec::new(), networks: state.networks.len(), containers })
    }

    /// Has the running plugin repair what it can; where none runs, does so in its place.
    async fn fix(&self, opts: &Opts) -> Result<Repaired, String> {
        if plugin::answers(&self.opts.socket).await.is_ok() {
            return plugin::repair(&self.opts.socket).await;
        }
        Ok(Driver::open(opts)?.repair_all().await.into())
    }
}

fn forwards() -> bool {
    !std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|v| v.trim() == "0")
}
