//! The matrix of a lab of containers: the plan and the checks are those of namespaces, asked by this program in each
//! container and on each host.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future;

use super::{PROGRAM, Workload};
use crate::eventually::{Condition, eventually};
use crate::host::LabHost;
use crate::matrix::{Cell, Kind, Matrix, Path, Phase, Place, by_asker, cells, plan};
use crate::measure::{Answer, Ask, Check, PORT, PUBLISHED};
use crate::progress::Progress;
use crate::topology::Topology;
use crate::{Error, Result};

/// Captures packets' heads on a host until it is killed; returns when it has begun.
const CAPTURE: &str = "rm -f /var/log/lab/capture.*; \
    tcpdump -i any -n -q -s 160 -U -w /var/log/lab/capture.pcap 2> /var/log/lab/capture.log & \
    timeout 10 sh -c 'until grep -q \"listening on\" /var/log/lab/capture.log; do sleep 0.05; done'";

/// Workloads, one on each host, with the places that paths lead between.
#[derive(Debug)]
pub struct Trial<'a> {
    workloads: &'a [Workload],
    topology: &'a Topology,
    places: Vec<Place>,
}

impl<'a> Trial<'a> {
    /// Finds the addresses and MTUs of all places.
    pub async fn new(workloads: &'a [Workload], topology: &'a Topology) -> Result<Self> {
        let found = future::join_all(workloads.iter().map(|workload| places(workload, topology))).await;
        let places = found.into_iter().collect::<Result<Vec<_>>>()?.concat();
        Ok(Self { workloads, topology, places })
    }

    /// Waits until every workload reaches every other one that it may reach: a new host is known to the others only
    /// after a moment.
    pub async fn settle(&self, within: Duration) -> Result<()> {
        let mut paths = plan(&self.places, self.topology);
        paths.retain(|path| {
            path.checks.contains(&Check::Ping) && self.is_container(path.from) && self.is_container(path.to)
        });
        paths.iter_mut().for_each(|path| path.checks = vec![Check::Ping]);
        eventually("all containers reach each other", within, async || {
            let answers = self.ask_at_once(&paths, Phase::Quiet).await?;
            Ok(match answers.into_iter().find_map(|answer| answer.outcome.err()) {
                None => Condition::Ready(()),
                Some(why) => Condition::NotYet(why),
            })
        })
        .await
    }

    fn is_container(&self, place: usize) -> bool {
        self.places[place].kind == Kind::Container
    }

    /// Tries every path once; all askers at once, but one after the other for the throughput. An error means that trying
    /// was not possible; a path that is down is in the matrix.
    pub async fn run(&self, backend: &str, begin: Instant, progress: &Progress) -> Result<Matrix> {
        let paths = plan(&self.places, self.topology);
        progress.say(format_args!("tries {} paths", paths.len()));
        let mut answers = progress.during("single packets", self.ask_at_once(&paths, Phase::Quiet)).await?;
        answers.extend(progress.during("transfers", self.ask_at_once(&paths, Phase::Transfers)).await?);
        for (name, asks) in &by_asker(&self.places, &paths, Phase::Throughput) {
            answers.extend(progress.during("throughput, one after the other", self.ask(name, asks)).await?);
        }
        Ok(self.matrix(backend, begin, cells(&paths, answers)))
    }

    fn matrix(&self, backend: &str, begin: Instant, cells: Vec<Cell>) -> Matrix {
        Matrix {
            topology: self.topology.name.clone(),
            backend: backend.to_owned(),
            runner: "containers".to_owned(),
            seconds: begin.elapsed().as_secs_f64(),
            places: self.places.clone(),
            cells,
        }
    }

    /// Tries what failed once more while each host captures its packets, for [`crate::diagnose::write`].
    pub async fn capture_failed(&self, matrix: &Matrix) -> Result<()> {
        let hosts = || self.workloads.iter().map(|workload| &workload.host);
        let begun = future::join_all(hosts().map(|host| host.run(&["sh", "-c", CAPTURE]))).await;
        begun.into_iter().collect::<Result<Vec<_>>>()?;
        let paths = matrix.failed();
        for phase in [Phase::Quiet, Phase::Transfers, Phase::Throughput] {
            self.ask_at_once(&paths, phase).await?;
        }
        future::join_all(hosts().map(|host| host.run(&["pkill", "-x", "tcpdump"]))).await;
        Ok(())
    }

    /// So many bytes from each workload to each other one by TCP, one after the other, with checksums.
    pub async fn carry(&self, bytes: usize) -> Result<()> {
        for (from, to) in self.places.iter().flat_map(|from| self.places.iter().map(move |to| (from, to))) {
            if from.kind != Kind::Container || to.kind != Kind::Container || from == to {
                continue;
            }
            let ask = Ask { id: 0, target: to.address, mtu: from.mtu, bytes, checks: vec![Check::Tcp] };
            let answers = self.ask(&from.name, &[ask]).await?;
            if let Some(why) = answers.into_iter().find_map(|answer| answer.outcome.err()) {
                return Err(Error::State(format!("{} -> {}: {why}", from.name, to.name)));
            }
        }
        Ok(())
    }

    async fn ask_at_once(&self, paths: &[Path], phase: Phase) -> Result<Vec<Answer>> {
        let asks = by_asker(&self.places, paths, phase);
        let answered = future::join_all(asks.iter().map(|(name, asks)| self.ask(name, asks))).await;
        Ok(answered.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }

    /// Has a workload or a host try paths.
    async fn ask(&self, name: &str, asks: &[Ask]) -> Result<Vec<Answer>> {
        let asks = serde_json::to_string(asks).map_err(|error| Error::State(error.to_string()))?;
        let workload = self.workloads.iter().find(|workload| workload.name == name);
        let text = if let Some(workload) = workload {
            workload.host.docker(&["exec", name, PROGRAM.1, "probe", &asks]).await?
        } else {
            let host = self.workloads.iter().map(|workload| &workload.host).find(|host| host.name == name);
            let host = host.ok_or_else(|| Error::State(format!("there is no place {name}")))?;
            host.run(&[PROGRAM.0, "probe", &asks]).await?
        };
        serde_json::from_str(&text).map_err(|error| Error::State(format!("{name}: flannel-lab probe: {error}: {text}")))
    }
}

/// Container, lease address, host and published port.
async fn places(workload: &Workload, topology: &Topology) -> Result<Vec<Place>> {
    let host = &workload.host;
    let bad = |what: &str| Error::State(format!("{}: {what:?} is not an address or MTU", workload.label()));
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| bad(text));
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| bad(text));
    let env = host.subnet_env().await?;
    let mtu = number(env.get("FLANNEL_MTU").map_or("", String::as_str))?;
    let (own, own_mtu) =
        (address(&underlay_address(host).await?)?, host.run(&["cat", "/sys/class/net/eth0/mtu"]).await?);
    let place = |kind, name: &str, network: &str, address: SocketAddr, mtu| Place {
        kind,
        name: name.to_owned(),
        host: host.name.clone(),
        network: network.to_owned(),
        address,
        mtu,
    };
    let network = &topology.network[0].name;
    Ok(vec![
        place(Kind::Container, &workload.name, network, (address(&workload.address)?, PORT).into(), mtu),
        place(Kind::Gateway, &host.name, network, (address(&workload.gateway)?, PORT).into(), mtu),
        place(Kind::Host, &host.name, "", (own, PORT).into(), number(&own_mtu)?),
        place(Kind::Published, &format!("{}:{PUBLISHED}", host.name), network, (own, PUBLISHED).into(), mtu),
    ])
}

/// The host's address on its underlay.
async fn underlay_address(host: &LabHost) -> Result<String> {
    let line = host.run(&["ip", "-4", "-o", "addr", "show", "dev", "eth0"]).await?;
    let address = line.split_whitespace().nth(3).and_then(|net| net.split('/').next());
    address.map(str::to_owned).ok_or_else(|| Error::State(format!("{}: no address on eth0: {line}", host.name)))
}
