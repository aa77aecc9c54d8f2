//! Containers come and go while the plugin and Docker die at random. In the end nothing is off and nothing is left.
//!
//! `ci/test --chaos` is the full run: `FLANNEL_CHAOS_ROUNDS` (100), `FLANNEL_CHAOS_CONTAINERS` (200) and
//! `FLANNEL_CHAOS_SEED` change what is done; the seed of each run is printed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fastrand::Rng;
use flannel_testbed::{Error, Result, Signal, eventually};

use crate::site::{PATIENCE, Site};

const NETWORKS: [&str; 2] = ["low", "high"];

/// What one command of a crowd does.
#[derive(Debug, Clone)]
enum Move {
    Run { name: String, network: &'static str, policy: bool },
    Remove(String),
    Restart(String),
    Kill(String),
    Connect { name: String, network: &'static str },
    Disconnect { name: String, network: &'static str },
}

/// What happens to the daemons meanwhile.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Nothing,
    Plugin(Signal),
    Docker(Signal),
    Both,
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().map_or(usual, |v| v.parse().unwrap_or_else(|e| panic!("{variable}={v}: {e}")))
}

#[test]
fn whatever_dies_nothing_is_left() {
    let rounds = number("FLANNEL_CHAOS_ROUNDS", 6);
    let most = usize::try_from(number("FLANNEL_CHAOS_CONTAINERS", 24)).unwrap();
    let seed = number("FLANNEL_CHAOS_SEED", fastrand::u64(..1_000_000));
    println!("chaos: {rounds} rounds, at most {most} containers, FLANNEL_CHAOS_SEED={seed}");
    let mut chaos = Chaos { rng: Rng::with_seed(seed), most, next: 0, greatest: (0, 0), obeyed: 0 };
    let site = Site::boot(&["--live-restore"], &[]).unwrap();
    for (network, range) in NETWORKS.iter().zip(["10.5.72.0/25", "10.5.72.128/25"]) {
        site.docker(&format!("network create -d flannel --ipam-driver flannel --subnet {range} {network}")).unwrap();
    }
    for round in 1..=rounds {
        chaos.round(&site, round).unwrap_or_else(|e| panic!("seed {seed}, round {round}: {e}"));
    }
    // Both died while a container was between two networks, and nobody but its owner can plug it in again.
    let well = eventually("the doctor finds nothing, once he is obeyed", PATIENCE, || {
        chaos.obeyed += obey_the_doctor(&site)?;
        site.doctor(&[]).map(drop)
    });
    well.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    site.leaves_nothing_of_ours().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let (containers, kib) = chaos.greatest;
    println!("chaos: {} times a container was started again because the doctor said so", chaos.obeyed);
    println!("chaos: over; at most {containers} containers at once, {kib} KiB resident in the plugin");
}

struct Chaos {
    rng: Rng,
    most: usize,
    next: usize,
    /// Containers at once, and the plugin's memory.
    greatest: (usize, u64),
    /// How often the doctor's word was followed.
    obeyed: usize,
}

impl Chaos {
    fn round(&mut self, site: &Site, round: u64) -> Result<()> {
        let there: Vec<String> = names(site, "ps -a --format {{.Names}}")?;
        let moves = self.crowd(&there);
        let blow = self.blow();
        println!("round {round}: {} containers, {} commands, {blow:?}", there.len(), moves.len());
        // While the crowd is at it, and not when all is quiet.
        let done = AtomicUsize::new(0);
        let wait_for = self.rng.usize(..=moves.len() / 2);
        thread::scope(|scope| {
            // Four at a time, as many users.
            for part in moves.chunks(moves.len().div_ceil(4).max(1)) {
                let done = &done;
                scope.spawn(move || {
                    for line in part.iter().map(Move::line) {
                        obey(site, &line);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            eventually("the crowd is at it", PATIENCE, || match done.load(Ordering::Relaxed) {
                enough if enough >= wait_for => Ok(()),
                few => Err(Error::new(format!("{few} of {wait_for} commands"))),
            })?;
            blow.strike(site)
        })?;
        self.settle(site)
    }

    /// What runs talks.
    fn settle(&mut self, site: &Site) -> Result<()> {
        for network in NETWORKS {
            eventually(&format!("two containers of {network} talk"), PATIENCE, || {
                let running = names(site, &format!("ps --format {{{{.Names}}}} --filter network={network}"))?;
                let (Some(one), Some(other)) = (running.first(), running.last()) else { return Ok(()) };
                site.ping(one, other).or_else(|e| {
                    self.obeyed += obey_the_doctor(site)?;
                    Err(e)
                })
            })?;
        }
        let running = names(site, "ps --format {{.Names}}")?.len();
        self.greatest = (self.greatest.0.max(running), self.greatest.1.max(site.plugin().rss_kib()?));
        Ok(())
    }

    fn blow(&mut self) -> Blow {
        match self.rng.u8(..10) {
            0..2 => Blow::Nothing,
            2..5 => Blow::Plugin(Signal::KILL),
            5..6 => Blow::Plugin(Signal::TERM),
            6..8 => Blow::Docker(Signal::KILL),
            8..9 => Blow::Docker(Signal::TERM),
            _ => Blow::Both,
        }
    }

    fn crowd(&mut self, there: &[String]) -> Vec<Move> {
        let room = self.most.saturating_sub(there.len());
        let births = self.rng.usize(..=room.min(self.most / 4));
        let mut moves: Vec<Move> = (0..births)
            .map(|_| {
                self.next += 1;
                Move::Run { name: format!("c{}", self.next), network: self.network(), policy: self.rng.bool() }
            })
            .collect();
        for name in there {
            if self.rng.u8(..6) == 0 {
                moves.push(match self.rng.u8(..6) {
                    0 | 1 => Move::Remove(name.clone()),
                    2 => Move::Restart(name.clone()),
                    3 => Move::Kill(name.clone()),
                    4 => Move::Connect { name: name.clone(), network: self.network() },
                    _ => Move::Disconnect { name: name.clone(), network: self.network() },
                });
            }
        }
        self.rng.shuffle(&mut moves);
        moves
    }

    fn network(&mut self) -> &'static str {
        NETWORKS[self.rng.usize(..NETWORKS.len())]
    }
}

impl Move {
    fn line(&self) -> String {
        match self {
            Self::Run { name, network, policy } => {
                let policy = if *policy { "--restart always" } else { "" };
                format!("run -d --stop-signal SIGKILL --name {name} --network {network} {policy} busybox sleep 100000")
            }
            Self::Remove(name) => format!("rm -f {name}"),
            Self::Restart(name) => format!("restart {name}"),
            Self::Kill(name) => format!("kill {name}"),
            Self::Connect { name, network } => format!("network connect {network} {name}"),
            Self::Disconnect { name, network } => format!("network disconnect {network} {name}"),
        }
    }
}

impl Blow {
    /// Kills, and starts again what was killed.
    fn strike(self, site: &Site) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Plugin(signal) => {
                site.end_plugin(signal)?;
                site.launch(&[])
            }
            Self::Docker(signal) => {
                site.end_docker(signal)?;
                site.start_docker()
            }
            Self::Both => {
                site.end_docker(Signal::KILL)?;
                site.end_plugin(Signal::KILL)?;
                site.launch(&[])?;
                site.start_docker()
            }
        }
    }
}

/// Starts containers again for which Docker broke off a `network disconnect` when it was killed: it takes them for
/// connected, and their cable is gone.
fn obey_the_doctor(site: &Site) -> Result<usize> {
    let (report, _) = site.doctor_json("")?;
    let problems = report["problems"].as_array().into_iter().flatten().filter(|p| p["kind"] == "veth-missing");
    let commands: Vec<_> = problems.filter_map(|p| p["remedy"].as_str()?.split('"').nth(1)).collect();
    for command in &commands {
        println!("  the doctor says {command}");
        obey(site, command.trim_start_matches("docker "));
    }
    Ok(commands.len())
}

/// Runs one `docker` command. It may fail, and what that leaves is looked at in the end.
fn obey(site: &Site, line: &str) {
    match site.try_docker(line) {
        Ok(said) if said.ok => {}
        Ok(said) => println!("  {line}: {}", said.stderr.lines().next().unwrap_or_default()),
        Err(e) => println!("  {line}: {e}"),
    }
}

fn names(site: &Site, line: &str) -> Result<Vec<String>> {
    let said = eventually("Docker's answer", PATIENCE, || site.docker(line).map_err(|e| Error::new(e.to_string())))?;
    Ok(said.split_whitespace().map(str::to_owned).collect())
}
