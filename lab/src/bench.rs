//! Throughput of each backend beside the bare underlay, of one run.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::matrix::Kind;
use crate::measure::Check;
use crate::topology::Topology;
use crate::world::{Node, World};
use crate::{Error, Result, holder};

/// How often each lab is measured; the best counts, since a busy machine only ever makes it slower.
const ROUNDS: usize = 3;

/// One backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The backend.
    pub backend: String,
    /// Container to container, Mbit/s.
    pub containers: f64,
    /// Host to host without flannel in the same lab, Mbit/s.
    pub hosts: f64,
    /// Container to container, the mean ping in ms.
    pub ping: f64,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bench {
    /// A line a backend.
    pub lines: Vec<Line>,
}

/// Measures these backends on two hosts of the topology.
pub fn run(backends: &[String], topology: &Topology, flanneld: &Path, tell: &dyn Fn(&Line)) -> Result<Bench> {
    let mut lines = Vec::new();
    for backend in backends {
        let mut two = topology.clone().with_backend(Some(backend));
        two.host.truncate(2);
        let world = World::build(&two, flanneld)?;
        let nodes: Vec<&Node> = world.nodes().iter().collect();
        world.start(&nodes)?;
        world.populate(&nodes)?;
        world.settle(&nodes)?;
        let mut line = Line { backend: backend.clone(), containers: 0.0, hosts: 0.0, ping: f64::MAX };
        for _ in 0..ROUNDS {
            let matrix = holder::try_all(&world, std::time::Instant::now())?;
            if let Some(wrong) = matrix.wrong().first() {
                return Err(Error::State(format!("{backend}: {wrong}")));
            }
            let best =
                |check, kind| matrix.between(check, kind, kind).filter_map(|cell| cell.value).fold(0.0, f64::max);
            line.containers = line.containers.max(best(Check::Throughput, Kind::Container));
            line.hosts = line.hosts.max(best(Check::Throughput, Kind::Host));
            let pings = matrix.between(Check::Ping, Kind::Container, Kind::Container).filter_map(|cell| cell.value);
            line.ping = line.ping.min(pings.fold(f64::MAX, f64::min));
        }
        tell(&line);
        lines.push(line);
    }
    Ok(Bench { lines })
}
