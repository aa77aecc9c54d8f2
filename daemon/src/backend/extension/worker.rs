//! Carrying out SubnetAddCommand and SubnetRemoveCommand: a task of its own, one command at a time, so that a slow one
//! holds up nothing else of the daemon.
//!
//! What is wished for (the remote leases) comes from outside and replaces what was wished before; what was done is
//! remembered here. The difference is worked off step by step; a step that failed is left until the next look, and its
//! reason is told once.

use std::collections::BTreeMap;
use std::time::Duration;

use flannel_core::ipnet::IpNet;
use flannel_core::key::SubnetKey;
use flannel_core::lease::Lease;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::command::Job;

/// Time limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// The longest a command may take.
    pub(super) limit: Duration,
    /// How long after a failure it is tried again.
    pub(super) look: Duration,
}

/// How often a removal is tried. What it was to remove may be gone already, and then it fails for ever.
const REMOVALS: u32 = 3;

/// The command lines.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    pub(super) add: String,
    pub(super) remove: String,
}

/// A remote host as the commands see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) lease: Lease,
    /// What its pre-startup command printed.
    pub(super) data: String,
}

type Remotes = BTreeMap<SubnetKey, Remote>;

/// The task; it ends, with the command it is at, when this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    wishes: watch::Sender<Remotes>,
    task: JoinHandle<()>,
}

impl Worker {
    pub(super) fn start(lines: Lines, times: Times) -> Self {
        let (wishes, inbox) = watch::channel(Remotes::new());
        let task = tokio::spawn(work(lines, times, inbox));
        Self { wishes, task }
    }

    /// From now on these are to be connected, and no others.
    pub(super) fn wish(&self, remotes: Remotes) {
        self.wishes.send_if_modified(|wished| {
            let news = *wished != remotes;
            *wished = remotes;
            news
        });
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn work(lines: Lines, times: Times, mut inbox: watch::Receiver<Remotes>) {
    let mut book = Book::default();
    let mut next_look = Instant::now() + times.look;
    loop {
        let wished = inbox.borrow_and_update().clone();
        if let Some(step) = book.next(&wished) {
            let result = step.job(&lines).run_unless_empty(times.limit).await;
            book.note(step, result);
            continue;
        }
        tokio::select! {
            news = inbox.changed() => if news.is_err() { return },
            () = tokio::time::sleep_until(next_look) => {
                next_look = Instant::now() + times.look;
                book.look();
            }
        }
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Add(Remote),
    Remove(Remote),
}

impl Step {
    fn remote(&self) -> &Remote {
        match self {
            Self::Add(remote) | Self::Remove(remote) => remote,
        }
    }

    fn job<'a>(&'a self, lines: &'a Lines) -> Job<'a> {
        let (key, line) = match self {
            Self::Add(_) => ("SubnetAddCommand", &lines.add),
            Self::Remove(_) => ("SubnetRemoveCommand", &lines.remove),
        };
        let Remote { lease, data } = self.remote();
        let net = |net: Option<IpNet>| net.map(|net| net.to_string()).unwrap_or_default();
        let variables = vec![
            ("SUBNET", net(lease.key.v4().map(IpNet::V4))),
            ("PUBLIC_IP", lease.attrs.public_ip.to_string()),
            ("IPV6SUBNET", net(lease.key.v6().map(IpNet::V6))),
            ("PUBLIC_IPV6", lease.attrs.public_ipv6.map(|ip| ip.to_string()).unwrap_or_default()),
        ];
        Job { key, line, variables, input: data }
    }
}

/// What was done for a lease.
#[derive(Debug)]
struct Done {
    remote: Remote,
    /// The add command succeeded. One that failed may have done its work in part.
    good: bool,
    failed_removals: u32,
}

/// What was done, and what is not to be tried before the next look.
#[derive(Debug, Default)]
struct Book {
    done: BTreeMap<SubnetKey, Done>,
    failed: BTreeMap<SubnetKey, Step>,
    complaints: BTreeMap<SubnetKey, String>,
}

impl Book {
    /// What to do next: first removals, because a subnet that comes may be where one goes.
    fn next(&self, wished: &Remotes) -> Option<Step> {
        let stale = self.done.iter().filter(|(key, done)| wished.get(key) != Some(&done.remote));
        let removals = stale.map(|(_, done)| Step::Remove(done.remote.clone()));
        let missing = wished.iter().filter(|(key, _)| self.done.get(key).is_none_or(|done| !done.good));
        // A lease that changed is added once its old self is removed.
        let settled = missing.filter(|(key, remote)| self.done.get(key).is_none_or(|done| done.remote == **remote));
        let additions = settled.map(|(_, remote)| Step::Add(remote.clone()));
        removals.chain(additions).find(|step| self.failed.get(&step.remote().lease.key) != Some(step))
    }

    fn note(&mut self, step: Step, result: Result<(), String>) {
        let key = step.remote().lease.key;
        match (&step, &result) {
            (Step::Add(remote), _) => {
                let done = Done { remote: remote.clone(), good: result.is_ok(), failed_removals: 0 };
                self.done.insert(key, done);
            }
            (Step::Remove(_), Ok(())) => {
                self.done.remove(&key);
            }
            (Step::Remove(_), Err(_)) => {
                // Nothing to say where there was nothing to remove.
                let tries = self.done.get_mut(&key).map_or(REMOVALS, |done| {
                    done.failed_removals += 1;
                    if done.good { done.failed_removals } else { REMOVALS }
                });
                if tries >= REMOVALS {
                    self.done.remove(&key);
                }
            }
        }
        let Err(why) = result else {
            let what = if matches!(step, Step::Add(_)) { "connected" } else { "removed" };
            tracing::info!("lease {} is {what} by command", step.remote().lease);
            self.failed.remove(&key);
            self.complaints.remove(&key);
            return;
        };
        let given_up = !self.done.contains_key(&key);
        if given_up || self.complaints.get(&key) != Some(&why) {
            let next = if given_up { "it is given up" } else { "it is tried again" };
            tracing::warn!("lease {}: {why}; {next}", step.remote().lease);
        }
        if given_up {
            self.failed.remove(&key);
            self.complaints.remove(&key);
        } else {
            self.failed.insert(key, step);
            self.complaints.insert(key, why);
        }
    }

    /// Everything that failed may be tried again.
    fn look(&mut self) {
        self.failed.clear();
    }
}

impl Job<'_> {
    /// A command that is not configured is done.
    async fn run_unless_empty(&self, limit: Duration) -> Result<(), String> {
        if self.line.is_empty() { Ok(()) } else { self.run(limit).await.map(drop) }
    }
}

#[cfg(test)]
mod tests;
