//! A lab of namespaces made of a [`Topology`]: what `flannel-lab up --in namespaces` and the faults run on.
//!
//! ```text
//!   etcd0   h1     h2            h3          each box a namespace; a bridge of the switch for each underlay;
//!     |      |      |             |          every port with the MTU and the rate of its underlay
//!   ==+======+======+== left  ====+== right
//!                  |              |
//!                  +----- r1 -----+
//! ```

mod diagnose;
mod docker_host;
mod matrix;
mod node;
mod wiring;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use tempfile::TempDir;

use crate::topology::Topology;
use flannel_testbed::{
    Context, Error, Etcd, Namespace, Process, Result, SOON, eventually, join, next_number, prefix, sweep,
};

pub use docker_host::DockerHost;
pub use node::{Node, NodePod};
pub use wiring::limit;

/// A lab of namespaces. Fields in the order they have to go.
#[derive(Debug)]
pub struct World {
    nodes: Vec<Node>,
    etcds: Vec<Etcd>,
    routers: Vec<Namespace>,
    switch: Namespace,
    directory: TempDir,
    topology: Topology,
    flanneld: PathBuf,
    /// A host's name, a variable of its daemons and its value.
    environment: Vec<(String, String, String)>,
}

impl World {
    /// Underlays, routers, etcd with the networks' configs, and hosts; no daemon runs yet. `flanneld` is the program of
    /// every host whose file names no other.
    pub fn build(topology: &Topology, flanneld: &Path) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::new("hosts as network namespaces need root: run this as root"));
        }
        let programs = topology.host.iter().filter_map(|host| host.flanneld.as_deref()).chain([flanneld]);
        for program in programs {
            if !program.is_file() {
                return Err(Error::new(format!("{} is missing: run ci/build, or give --flanneld", program.display())));
            }
        }
        sweep();
        let number = next_number();
        let directory =
            tempfile::Builder::new().prefix(&prefix(number)).tempdir().context(|| "temporary files".to_owned())?;
        let switch = wiring::switch(number, topology)?;
        let (etcds, routers, nodes) = thread::scope(|scope| {
            let (switch, path) = (&switch, directory.path());
            let etcds = scope.spawn(move || etcds(number, topology, switch, path));
            let routers: Vec<_> = topology
                .router
                .iter()
                .map(|router| scope.spawn(move || wiring::router(number, topology, router, switch)))
                .collect();
            let nodes: Vec<_> = topology
                .host
                .iter()
                .map(|spec| scope.spawn(move || Node::plug(number, topology, spec, switch, path)))
                .collect();
            let nodes = nodes.into_iter().map(|thread| join(thread.join())).collect::<Result<Vec<_>>>();
            let routers = routers.into_iter().map(|thread| join(thread.join())).collect::<Result<Vec<_>>>();
            (join(etcds.join()), routers, nodes)
        });
        let world = Self {
            nodes: nodes?,
            etcds: etcds?,
            routers: routers?,
            switch,
            directory,
            topology: topology.clone(),
            flanneld: flanneld.to_owned(),
            environment: Vec::new(),
        };
        for network in &topology.network {
            world.configure(&network.name)?;
        }
        Ok(world)
    }

    /// Sets a variable of the environment of the daemons that are started on a host from now on.
    pub fn set_environment(&mut self, host: &str, name: &str, value: &str) {
        self.environment.push((host.to_owned(), name.to_owned(), value.to_owned()));
    }

    /// Writes a network's config to etcd.
    pub fn configure(&self, network: &str) -> Result<()> {
        let network = self.topology.network.iter().find(|other| other.name == network);
        let network = network.context(|| "no such network".to_owned())?;
        self.etcd().put(&format!("{}/config", self.topology.prefix_of(network)), &network.config.to_string())
    }

    /// Starts the daemons of these hosts at once and waits until each has its lease.
    pub fn start(&self, nodes: &[&Node]) -> Result<()> {
        self.each(nodes, |node| node.start(self))
    }

    /// Makes these hosts, whose daemons run, Docker hosts with this plugin: their pods are containers then.
    pub fn with_docker(&self, nodes: &[&Node], plugin: &Path, dockerd_args: &[&str]) -> Result<()> {
        self.each(nodes, |node| node.become_docker_host(plugin, dockerd_args))
    }

    /// Puts a pod for each network on each of these hosts, and servers on pods and hosts.
    pub fn populate(&self, nodes: &[&Node]) -> Result<()> {
        self.each(nodes, |node| node.populate(self))
    }

    /// Waits until each pod of these hosts reaches those of the others, on every network, except where it must not.
    pub fn settle(&self, nodes: &[&Node]) -> Result<()> {
        self.each(nodes, |from| {
            for to in nodes.iter().filter(|to| to.name() != from.name()) {
                if self.topology.are_apart(from.name(), to.name()) {
                    continue;
                }
                for (pod, target) in from.pods().flat_map(|pod| to.pods().map(move |target| (pod, target))) {
                    if pod.network == target.network {
                        pod.reaches(target)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// The same work for several hosts at once; the first error.
    fn each(&self, nodes: &[&Node], work: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
        thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = nodes.iter().map(|node| scope.spawn(move || work(node))).collect();
            // All are waited for, whatever the first one says.
            let done: Vec<Result<()>> = threads.into_iter().map(|thread| join(thread.join())).collect();
            done.into_iter().collect()
        })
    }

    /// All hosts.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The host of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name() == name).context(|| format!("there is no host {name}"))
    }

    /// The first etcd.
    ///
    /// # Panics
    /// Never: a checked topology has one.
    pub fn etcd(&self) -> &Etcd {
        &self.etcds[0]
    }

    /// All members.
    pub fn etcds(&self) -> &[Etcd] {
        &self.etcds
    }

    /// The routers.
    pub fn routers(&self) -> &[Namespace] {
        &self.routers
    }

    /// The switch; its ports are named after what is plugged in.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// What it was made of.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Where its files are, gone with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What `-etcd-endpoints` takes.
    pub fn endpoints(&self) -> String {
        wiring::endpoints(&self.topology)
    }

    /// The program of a host without one of its own.
    pub fn flanneld(&self) -> &Path {
        &self.flanneld
    }

    pub(super) fn environment_of(&self, host: &str) -> impl Iterator<Item = (&str, &str)> {
        let of_host = self.environment.iter().filter(move |(name, _, _)| name == host);
        of_host.map(|(_, name, value)| (name.as_str(), value.as_str()))
    }

    /// Connects `port` to its bridge or disconnects it; the other end keeps its carrier.
    pub fn connect(&self, port: &str, connected: bool) -> Result<()> {
        let node = self.node(port)?;
        if connected {
            let bridge = wiring::bridge(&node.spec().underlay);
            self.switch.ip(&format!("link set {port} master {bridge}"))?;
            return self.switch.port_forwards(port);
        }
        self.switch.ip(&format!("link set {port} nomaster")).map(drop)
    }
}

fn etcds(number: usize, topology: &Topology, switch: &Namespace, directory: &Path) -> Result<Vec<Etcd>> {
    let mut etcds = Vec::new();
    for (member, address) in topology.etcd_addresses().enumerate() {
        let role = format!("etcd{member}");
        let namespace = Namespace::create(number, &role)?;
        wiring::plug(topology, switch, &namespace, &role, &topology.underlay[0], &[address.into()])?;
        let place = directory.join(&role);
        std::fs::create_dir(&place).context(|| place.display().to_string())?;
        etcds.push(Etcd::new(namespace, address, &place));
    }
    if etcds.len() == 1 {
        etcds[0].start()?;
        return Ok(etcds);
    }
    let failed: OnceLock<Error> = OnceLock::new();
    thread::scope(|scope| {
        for member in 0..etcds.len() {
            let (etcds, failed) = (&etcds, &failed);
            scope.spawn(move || {
                if let Err(error) = start_member(etcds, member, false) {
                    // The first error is reported; the others follow from it.
                    drop(failed.set(error));
                }
            });
        }
    });
    failed.into_inner().map_or(Ok(etcds), Err)
}

/// Starts one of several members; `again` when it has been a member before.
pub(super) fn start_member(etcds: &[Etcd], member: usize, again: bool) -> Result<()> {
    let peer = |etcd: &Etcd| format!("http://{}:2380", etcd.address());
    let cluster: Vec<String> = etcds.iter().enumerate().map(|(n, etcd)| format!("etcd{n}={}", peer(etcd))).collect();
    let own = peer(&etcds[member]);
    let state = if again { "existing" } else { "new" };
    etcds[member].start_with(
        &[],
        &[
            "--name",
            &format!("etcd{member}"),
            "--listen-peer-urls",
            &own,
            "--initial-advertise-peer-urls",
            &own,
            "--initial-cluster",
            &cluster.join(","),
            "--initial-cluster-state",
            state,
            // Elections among several need longer timers than one member's: the machine is busy.
            "--heartbeat-interval",
            "100",
            "--election-timeout",
            "1000",
        ],
    )
}

impl World {
    /// Starts a stopped member again and waits until it answers.
    pub fn restart_etcd(&self, member: usize) -> Result<()> {
        if self.etcds.len() == 1 {
            return self.etcds[0].start();
        }
        start_member(&self.etcds, member, true)
    }

    /// Runs tcpdump on every port of the switch until the capture is stopped; packets' heads only.
    pub fn capture(&self) -> Result<Process> {
        let mut command = self.switch.command("tcpdump");
        command
            .args(["-i", "any", "-n", "-q", "-s", "160", "-U", "-w"])
            .arg(self.directory.path().join("underlay.pcap"));
        Process::start("tcpdump", command, &self.directory.path().join("tcpdump.log"))
    }

    /// Copies all that is known of the lab into a directory: state of every host, logs, etcd's keys, captures.
    pub fn write_diagnosis(&self, directory: &Path) -> Result<()> {
        diagnose::write(self, directory)
    }

    /// Waits until etcd has as many leases of the first network as `count`.
    pub fn leases(&self, count: usize) -> Result<()> {
        let prefix = format!("{}/subnets/", self.topology.prefix_of(&self.topology.network[0]));
        eventually(&format!("{count} leases in etcd"), SOON, || {
            let found = self.etcd().list(&prefix)?.len();
            if found == count { Ok(()) } else { Err(Error::new(format!("there are {found}"))) }
        })
    }
}
