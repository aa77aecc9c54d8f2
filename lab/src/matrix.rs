//! The matrix: every path between containers, hosts and published ports, tried and held to what it promises.
//!
//! What there is to try follows from the places ([`plan`]); each place tries its own paths
//! ([`crate::measure::ask_all`]); [`Matrix`] is what came of it, for people and for machines.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::measure::{Answer, Ask, Check, TCP_BYTES};
use crate::topology::Topology;

/// What a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A container on a flannel network.
    Container,
    /// A host, by its address on the underlay.
    Host,
    /// The first address of a host's lease.
    Gateway,
    /// A port of a host that leads to its container.
    Published,
}

/// One end of paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What it is.
    pub kind: Kind,
    /// For people: `c1`, `h2`, `h2:7412`. One that asks has one name for all its addresses.
    pub name: String,
    /// The host it is on.
    pub host: String,
    /// The flannel network it is on; empty for a host.
    pub network: String,
    /// Where its server listens; one that has none is only pinged.
    pub address: SocketAddr,
    /// The MTU of its interface.
    pub mtu: u32,
}

/// From one place to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// Number of the place that asks.
    pub from: usize,
    /// Number of the place that is asked.
    pub to: usize,
    /// What is tried.
    pub checks: Vec<Check>,
}

/// One tried check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Number of the place that asked.
    pub from: usize,
    /// Number of the place that was asked.
    pub to: usize,
    /// What was tried.
    pub check: Check,
    /// Its value in the check's unit.
    pub value: Option<f64>,
    /// What is wrong, if anything is.
    pub wrong: Option<String>,
    /// Packets lost, in percent.
    pub loss: f64,
}

/// All that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// The topology's name.
    pub topology: String,
    /// The first network's backend.
    pub backend: String,
    /// `namespaces` or `containers`.
    pub runner: String,
    /// How long it took, in seconds: in namespaces from nothing, else from the first path to the last.
    pub seconds: f64,
    /// The ends.
    pub places: Vec<Place>,
    /// What came of every check.
    pub cells: Vec<Cell>,
}

/// All paths between the places. `apart` says of two hosts that their containers must not reach each other.
#[must_use]
pub fn plan(places: &[Place], topology: &Topology) -> Vec<Path> {
    let networks: BTreeSet<(&str, &str)> = places.iter().map(|p| (p.host.as_str(), p.network.as_str())).collect();
    let several = topology.network.len() > 1;
    let mut paths = Vec::new();
    for (from, asks) in
        places.iter().enumerate().filter(|(_, place)| matches!(place.kind, Kind::Container | Kind::Host))
    {
        for (to, asked) in places.iter().enumerate() {
            let same_family = asks.address.is_ipv4() == asked.address.is_ipv4();
            let own = asks.host == asked.host;
            let crosses = asks.kind == Kind::Container || asked.kind == Kind::Container || asked.kind == Kind::Gateway;
            let apart = crosses && asked.kind != Kind::Host && topology.are_apart(&asks.host, &asked.host);
            // A host reaches the containers of a network that it is on itself.
            let foreign = match asks.kind {
                // With several networks nothing is masqueraded, so a host must know the way back.
                Kind::Container if several && !own => !networks.contains(&(&asked.host, &asks.network)),
                Kind::Container => false,
                _ if asked.kind == Kind::Published => false,
                _ => !asked.network.is_empty() && !networks.contains(&(&asks.host, &asked.network)),
            };
            let other_network = asks.kind == Kind::Container
                && matches!(asked.kind, Kind::Container | Kind::Gateway)
                && asks.network != asked.network;
            if !same_family || from == to || foreign || other_network {
                continue;
            }
            let checks: &[Check] = match (asks.kind, asked.kind) {
                (Kind::Container, Kind::Container) if own => continue,
                (_, Kind::Container | Kind::Gateway) if apart => &[Check::Silence],
                (Kind::Container, Kind::Container) => &[
                    Check::Ping,
                    Check::Tcp,
                    Check::Udp,
                    Check::ExactMtu,
                    Check::AboveMtu,
                    Check::Fragments,
                    Check::Throughput,
                ],
                (Kind::Host, Kind::Host) if own => continue,
                (Kind::Host, Kind::Host) => &[Check::Ping, Check::Tcp, Check::Udp, Check::Throughput],
                (_, Kind::Container | Kind::Host) => &[Check::Ping, Check::Tcp, Check::Udp],
                (_, Kind::Gateway) => &[Check::Ping],
                // From the outside, as a browser does; Docker's own way back in is Docker's.
                (_, Kind::Published) if own => continue,
                (_, Kind::Published) => &[Check::Tcp],
            };
            paths.push(Path { from, to, checks: checks.to_vec() });
        }
    }
    paths
}

/// When a check is tried: what counts single packets goes before what fills queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Single packets; all askers at once.
    Quiet,
    /// Short transfers; all askers at once.
    Transfers,
    /// One after the other.
    Throughput,
}

impl Phase {
    fn of(check: Check) -> Self {
        match check {
            Check::Tcp => Self::Transfers,
            Check::Throughput => Self::Throughput,
            _ => Self::Quiet,
        }
    }
}

/// What each asking name has to try in a phase.
#[must_use]
pub fn by_asker(places: &[Place], paths: &[Path], phase: Phase) -> BTreeMap<String, Vec<Ask>> {
    let mut asks: BTreeMap<String, Vec<Ask>> = BTreeMap::new();
    for (id, path) in paths.iter().enumerate() {
        let checks: Vec<Check> = path.checks.iter().copied().filter(|check| Phase::of(*check) == phase).collect();
        if checks.is_empty() {
            continue;
        }
        let (from, to) = (&places[path.from], &places[path.to]);
        // Packets of the sender's own MTU are what it can send.
        asks.entry(from.name.clone()).or_default().push(Ask {
            id,
            target: to.address,
            mtu: from.mtu,
            bytes: TCP_BYTES,
            checks,
        });
    }
    asks
}

/// Answers as cells.
#[must_use]
pub fn cells(paths: &[Path], answers: Vec<Answer>) -> Vec<Cell> {
    let cell = |answer: Answer| {
        let Path { from, to, .. } = paths[answer.id];
        let (value, wrong) = match answer.outcome {
            Ok(value) => (Some(value), None),
            Err(wrong) => (None, Some(wrong)),
        };
        Cell { from, to, check: answer.check, value, wrong, loss: answer.loss }
    };
    let mut cells: Vec<Cell> = answers.into_iter().map(cell).collect();
    cells.sort_by_key(|cell| (cell.check, cell.from, cell.to));
    cells
}

impl Matrix {
    /// What is wrong, a line each.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        self.cells
            .iter()
            .filter_map(|cell| Some(format!("{}: {}", self.describe(cell), cell.wrong.as_ref()?)))
            .collect()
    }

    /// The paths on which something is wrong, each with the first check that failed.
    #[must_use]
    pub fn failed(&self) -> Vec<Path> {
        let mut failed: BTreeMap<(usize, usize), Check> = BTreeMap::new();
        for cell in self.cells.iter().filter(|cell| cell.wrong.is_some()) {
            failed.entry((cell.from, cell.to)).or_insert(cell.check);
        }
        failed.into_iter().map(|((from, to), check)| Path { from, to, checks: vec![check] }).collect()
    }

    /// A check in words.
    #[must_use]
    pub fn describe(&self, cell: &Cell) -> String {
        let (from, to) = (&self.places[cell.from], &self.places[cell.to]);
        format!("{} {} -> {}{}", table::title(cell.check).0, from.name, to.name, family(to.address.ip()))
    }

    /// How many paths there are.
    #[must_use]
    pub fn paths(&self) -> usize {
        self.cells.iter().map(|cell| (cell.from, cell.to)).collect::<BTreeSet<_>>().len()
    }

    /// The cells of one check between two kinds.
    pub fn between(&self, check: Check, from: Kind, to: Kind) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(move |cell| {
            cell.check == check && self.places[cell.from].kind == from && self.places[cell.to].kind == to
        })
    }

    /// As tables for a terminal.
    #[must_use]
    pub fn render(&self) -> String {
        table::render(self)
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { " (IPv6)" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container, a host, a gateway and a published port on each of three hosts.
    fn places() -> Vec<Place> {
        let mut places = Vec::new();
        for number in 1..=3_u8 {
            for kind in [Kind::Container, Kind::Host, Kind::Gateway, Kind::Published] {
                let last = if kind == Kind::Gateway { 1 } else { 2 };
                let network = if kind == Kind::Host { "" } else { "net" };
                places.push(Place {
                    kind,
                    name: format!("{}{number}", if kind == Kind::Container { "c" } else { "h" }),
                    host: format!("h{number}"),
                    network: network.to_owned(),
                    address: ([10, 5, number, last], 1).into(),
                    mtu: 1450,
                });
            }
        }
        places
    }

    fn count(paths: &[Path], places: &[Place], from: Kind, to: Kind) -> usize {
        paths.iter().filter(|path| places[path.from].kind == from && places[path.to].kind == to).count()
    }

    #[test]
    fn three_hosts_have_60_paths() {
        let (places, topology) = (places(), Topology::load("three-hosts").unwrap());
        let paths = plan(&places, &topology);
        let count = |from, to| count(&paths, &places, from, to);
        assert_eq!(count(Kind::Container, Kind::Container), 6);
        assert_eq!(count(Kind::Container, Kind::Host), 9);
        assert_eq!(count(Kind::Host, Kind::Container), 9);
        assert_eq!(count(Kind::Container, Kind::Gateway), 9);
        assert_eq!(count(Kind::Host, Kind::Gateway), 9);
        assert_eq!(count(Kind::Host, Kind::Host), 6);
        assert_eq!(count(Kind::Host, Kind::Published) + count(Kind::Container, Kind::Published), 12);
        assert_eq!(paths.len(), 60);
        assert!(paths.iter().enumerate().all(|(n, path)| !paths[..n].contains(path)), "no path twice");
    }

    #[test]
    fn hosts_apart_are_held_to_silence_between_their_containers() {
        let (places, topology) = (places(), Topology::load("host-gw-refused").unwrap());
        for path in plan(&places, &topology) {
            let (from, to) = (&places[path.from], &places[path.to]);
            let silent = path.checks == [Check::Silence];
            let far = (from.host == "h3") != (to.host == "h3");
            assert_eq!(silent, far && matches!(to.kind, Kind::Container | Kind::Gateway), "{from:?} {to:?}");
        }
    }

    #[test]
    fn what_fills_queues_is_asked_apart_from_the_rest() {
        let (places, topology) = (places(), Topology::load("three-hosts").unwrap());
        let paths = plan(&places, &topology);
        let asked = |phase| -> Vec<Check> {
            by_asker(&places, &paths, phase).into_values().flatten().flat_map(|ask| ask.checks).collect()
        };
        assert!(asked(Phase::Quiet).iter().all(|check| !matches!(check, Check::Throughput | Check::Tcp)));
        assert_eq!(asked(Phase::Throughput), [Check::Throughput; 12]);
        assert_eq!(by_asker(&places, &paths, Phase::Quiet).len(), 6);
        let all: usize = paths.iter().map(|path| path.checks.len()).sum();
        let phases = [Phase::Quiet, Phase::Transfers, Phase::Throughput];
        assert_eq!(phases.map(|phase| asked(phase).len()).iter().sum::<usize>(), all, "each check once");
    }
}
