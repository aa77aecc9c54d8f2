//! Faults: each breaks one thing in a lab of its own, while traffic runs, and is held to what flannel promises then.
//!
//! ```text
//!   c3 on h3 ──────────┐            the bystander: untouched by what happens to h1
//!                      ├──> c2 on h2
//!   c1 on h1 ──────────┘            the victim's flow; h1 is where things are broken
//!   h4                              joins while it is broken, or afterwards: a new host must always come in
//! ```
//!
//! A fault's body ([`Fault::run`]) tells its [`Scene`] when the cause begins and when it is taken away. What follows
//! from the flows is [`Measured`]; whether that keeps the [`Promise`], [`judge()`] says, without any I/O.

mod docker;
mod etcd;
mod host;
mod judge;
mod lease;
mod link;
mod run;
mod scene;
mod table;
mod tampering;

use serde::{Deserialize, Serialize};

use crate::measure::FlowReport;
use flannel_testbed::Result;

pub use judge::judge;
pub use run::{Options, run_all};
pub use scene::Scene;
pub(crate) use table::newcomer;
pub use table::render;

/// What a flow may lose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Nothing.
    Nothing,
    /// What it must while the cause lasts; so many seconds after its end, at the latest, it flows again. A cause that
    /// nobody takes away counts from its beginning.
    Heals(f64),
    /// At most this share, in percent, while the cause lasts; nothing afterwards.
    Share(f64),
}

/// What flannel promises under a fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Promise {
    /// In words.
    pub says: &'static str,
    /// For the flow of the host that is hit.
    pub victim: Limit,
    /// For the flow between hosts that are not.
    pub bystander: Limit,
    /// Whether every TCP connection lives on; one to a container that is restarted cannot.
    pub connections: bool,
}

impl Promise {
    /// Nobody loses a packet.
    const NOTHING: Self =
        Self { says: "nothing is lost", victim: Limit::Nothing, bystander: Limit::Nothing, connections: true };

    const fn heals(says: &'static str, seconds: f64) -> Self {
        Self { says, victim: Limit::Heals(seconds), ..Self::NOTHING }
    }
}

/// What is special about the lab a fault needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Members of etcd beside the first.
    pub more_members: u8,
    /// How long the lease of the host that is hit lives, in seconds; a day unless given.
    pub lease_ttl: Option<u32>,
    /// Hosts beside the usual four.
    pub more_hosts: u8,
    /// The host that is hit and the one it talks to are Docker hosts, with these words for dockerd.
    pub docker: Option<&'static [&'static str]>,
    /// The flow of the host that is hit goes to it, not from it: where its container is restarted.
    pub inbound: bool,
}

impl Needs {
    const NOTHING: Self = Self { more_members: 0, lease_ttl: None, more_hosts: 0, docker: None, inbound: false };
}

/// One fault.
#[derive(Clone, Copy)]
pub struct Fault {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens, for the table and the report.
    pub what: &'static str,
    /// Whether it is of the quick set.
    pub quick: bool,
    /// What its lab needs.
    pub needs: Needs,
    /// The promise with this backend; `None` where there is nothing to break.
    pub promise: fn(&str) -> Option<Promise>,
    /// Breaks it, and mends it where that is part of it.
    pub run: fn(&Scene<'_>) -> Result<()>,
}

impl std::fmt::Debug for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All faults there are.
#[must_use]
pub fn all() -> Vec<Fault> {
    [host::FAULTS, docker::FAULTS, etcd::FAULTS, link::FAULTS, tampering::FAULTS, lease::FAULTS].concat()
}

/// What a new container or a new host met while the cause lasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Newcomer {
    /// It worked at once.
    Works,
    /// It did not, while the cause lasted.
    Waits,
}

/// What was seen during a fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// When the cause began, in seconds since the flows' start.
    pub cause: f64,
    /// When it was taken away, if it was.
    pub cured: Option<f64>,
    /// How long the flows ran.
    pub length: f64,
    /// Pings lost by the victim's flow and by the bystander's.
    pub lost: usize,
    /// Pings that the victim's flow sent.
    pub sent: usize,
    /// Pings lost by the bystander's flow.
    pub bystander_lost: usize,
    /// The victim's longest time without an answer, in seconds.
    pub gap: f64,
    /// From the cause's end (or beginning, if it has none) to the flow's; `None`: it never flowed again.
    pub heal: Option<f64>,
    /// Pings lost in percent of those sent while the cause lasted.
    pub share: f64,
    /// Pings lost after the cause was taken away, or before it began.
    pub lost_outside: usize,
    /// The longest time in which the TCP connection got nothing, in seconds.
    pub tcp_gap: f64,
    /// Why the TCP connection ended, if it did.
    pub tcp_broken: Option<String>,
    /// A new container on the host that was hit, while the cause lasted.
    pub new_container: Option<Newcomer>,
    /// A new host, while the cause lasted.
    pub new_host: Option<Newcomer>,
    /// Of the victim's flow in steps of 100 ms: pings sent, pings lost, the longest answer in ms.
    pub timeline: Vec<(u16, u16, f32)>,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The fault's name.
    pub fault: String,
    /// What happened.
    pub what: String,
    /// With which backend.
    pub backend: String,
    /// What was promised.
    pub promise: String,
    /// What was seen; absent when the fault could not be carried out.
    pub measured: Option<Measured>,
    /// How the promise was broken; nothing when it was kept.
    pub broken: Vec<String>,
    /// Where logs, captures and state are, of a broken one.
    pub evidence: Option<String>,
    /// All in all, in seconds.
    pub seconds: f64,
}

/// The timeline of a flow that began at `begin`.
fn timeline(flow: &FlowReport, begin: f64) -> Vec<(u16, u16, f32)> {
    const STEP: f64 = 0.1;
    let mut steps: Vec<(u16, u16, f32)> = Vec::new();
    for mark in &flow.pings {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some hundred steps, from zero on")]
        let step = ((mark.at - begin).max(0.0) / STEP) as usize;
        if steps.len() <= step {
            steps.resize(step + 1, (0, 0, 0.0));
        }
        let (sent, lost, longest) = &mut steps[step];
        *sent += 1;
        match mark.answered {
            None => *lost += 1,
            #[expect(clippy::cast_possible_truncation, reason = "a time for a drawing")]
            Some(at) => *longest = longest.max(((at - mark.at) * 1000.0) as f32),
        }
    }
    steps
}
