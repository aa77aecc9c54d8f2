//! A host of a [`World`]: its daemons, its pods, and the servers that measurements talk to.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::{DockerHost, World, wiring};
use crate::measure::{PORT, PUBLISHED, Server};
use crate::topology::{HostSpec, Topology};
use flannel_testbed::{Context, Daemon, Error, Flanneld, Host, Namespace, Pod, Result, SOON, SubnetEnv, eventually};

/// A pod with its network and its server.
#[derive(Debug)]
pub struct NodePod {
    /// The network's name.
    pub network: String,
    pod: Pod,
    _server: Server,
}

/// A host. What can be done on a [`Host`] can be done on it. Fields in the order they have to go.
#[derive(Debug)]
pub struct Node {
    docker: OnceLock<DockerHost>,
    host: Host,
    spec: HostSpec,
    networks: Vec<String>,
    daemons: Mutex<Vec<(String, Daemon)>>,
    pods: OnceLock<Vec<NodePod>>,
    server: OnceLock<Server>,
}

impl Node {
    /// Makes the host and plugs it in.
    pub(super) fn plug(
        lab: usize,
        topology: &Topology,
        spec: &HostSpec,
        switch: &Namespace,
        directory: &Path,
    ) -> Result<Self> {
        let namespace = Namespace::create(lab, &spec.name)?;
        let underlay = topology.underlay_of(&spec.underlay);
        let number = topology.number_of(&spec.name);
        let address = underlay.address(number);
        let addresses = topology.addresses_of(spec);
        wiring::plug(topology, switch, &namespace, &spec.name, underlay, &addresses)?;
        wiring::forward(&namespace, topology)?;
        let directory = directory.join(&spec.name);
        std::fs::create_dir(&directory).context(|| directory.display().to_string())?;
        let host = Host::new(lab, spec.name.clone(), namespace, address, directory, wiring::endpoints(topology));
        let networks = topology.networks_of(spec).map(|network| network.name.clone()).collect();
        Ok(Self {
            docker: OnceLock::new(),
            host,
            spec: spec.clone(),
            networks,
            daemons: Mutex::default(),
            pods: OnceLock::new(),
            server: OnceLock::new(),
        })
    }

    /// Its addresses on the underlay.
    pub fn addresses(&self, topology: &Topology) -> Vec<IpAddr> {
        topology.addresses_of(&self.spec)
    }

    /// What the file says of it.
    pub fn spec(&self) -> &HostSpec {
        &self.spec
    }

    /// The networks it is on.
    pub fn networks(&self) -> &[String] {
        &self.networks
    }

    /// A network's subnet file: the usual one for the topology's first.
    pub fn subnet_file_of(&self, world: &World, network: &str) -> PathBuf {
        if world.topology().network[0].name == network {
            return self.host.subnet_file();
        }
        self.host.directory().join(format!("{network}.env"))
    }

    /// A daemon for a network, ready to be started.
    pub fn daemon_for<'a>(&'a self, world: &World, network: &str, program: Option<&Path>) -> Flanneld<'a> {
        let own = self.spec.flanneld.as_deref().unwrap_or(world.flanneld());
        let mut flanneld = self.host.flanneld(program.unwrap_or(own)).arg("-iface=eth0");
        // Two daemons on a host would set the same chains of iptables, each in place of the other's, for ever: with
        // several networks nobody sets rules.
        let rules = if world.topology().network.len() > 1 { "-iptables-forward-rules=false" } else { "-ip-masq" };
        flanneld = flanneld.arg(rules);
        let known = world.topology().network.iter().find(|other| other.name == network);
        if let Some(network) = known {
            flanneld = flanneld.arg(format!("-etcd-prefix={}", world.topology().prefix_of(network)));
        }
        for (name, value) in world.environment_of(self.name()) {
            flanneld = flanneld.env(name, value);
        }
        let args: Vec<&str> = self.spec.args.iter().map(String::as_str).collect();
        flanneld.args(&args).subnet_file(self.subnet_file_of(world, network))
    }

    /// Starts its daemons and waits until each has its lease.
    pub fn start(&self, world: &World) -> Result<()> {
        self.start_with(world, None)
    }

    /// The same with another program.
    pub fn start_with(&self, world: &World, program: Option<&Path>) -> Result<()> {
        let started = self.launch(world, program)?;
        started.iter().try_for_each(|daemon| daemon.wrote().map(drop))
    }

    /// Starts its daemons and does not wait.
    pub fn launch(&self, world: &World, program: Option<&Path>) -> Result<Vec<Daemon>> {
        let mut started = Vec::new();
        for network in &self.networks {
            let daemon = self.daemon_for(world, network, program).start()?;
            started.push(daemon.clone());
            self.slots().retain(|(name, _)| name != network);
            self.slots().push((network.clone(), daemon));
        }
        Ok(started)
    }

    /// The daemon of its first network.
    pub fn daemon(&self) -> Result<Daemon> {
        let first = self.slots().first().map(|(_, daemon)| daemon.clone());
        first.context(|| format!("{}: no daemon was started", self.name()))
    }

    /// All its daemons.
    pub fn daemons(&self) -> Vec<Daemon> {
        self.slots().iter().map(|(_, daemon)| daemon.clone()).collect()
    }

    fn slots(&self) -> MutexGuard<'_, Vec<(String, Daemon)>> {
        self.daemons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its pods, once it is populated.
    pub fn pods(&self) -> impl Iterator<Item = &NodePod> {
        self.pods.get().into_iter().flatten()
    }

    /// Its pod on its first network.
    pub fn pod(&self) -> Result<&NodePod> {
        self.pods().next().context(|| format!("{}: no pod was made", self.name()))
    }

    /// The text of a network's subnet file.
    pub fn subnet_text_of(&self, world: &World, network: &str) -> Result<String> {
        let path = self.subnet_file_of(world, network);
        std::fs::read_to_string(&path).context(|| path.display().to_string())
    }

    /// The MTU that a network's subnet file tells.
    pub fn mtu_of(&self, world: &World, network: &str) -> Result<u32> {
        let text = self.subnet_text_of(world, network)?;
        SubnetEnv::value(&text, "FLANNEL_MTU")?.parse().context(|| format!("{}: FLANNEL_MTU", self.name()))
    }

    /// Gives it a Docker and this plugin; its first network's daemon must run.
    pub(super) fn become_docker_host(&self, plugin: &Path, dockerd_args: &[&str]) -> Result<()> {
        let docker = DockerHost::boot(&self.host, plugin, dockerd_args)?;
        self.docker.set(docker).map_err(|_| Error::new(format!("{} is a Docker host already", self.name())))
    }

    /// Its Docker.
    pub fn docker(&self) -> Result<&DockerHost> {
        self.docker.get().context(|| format!("{} is not a Docker host", self.name()))
    }

    /// A container that runs on this Docker host, with a server in it.
    pub fn container(&self, network: &str, number: u8) -> Result<NodePod> {
        let pod = self.docker()?.adopt(&self.host, number)?;
        let addresses: Vec<IpAddr> = pod.addresses().collect();
        let server = serve(&pod, &addresses)?;
        Ok(NodePod { network: network.to_owned(), pod, _server: server })
    }

    /// One more pod on a network; each number once. On a Docker host it is a container.
    pub fn new_pod(&self, world: &World, network: &str, number: u8) -> Result<NodePod> {
        if let Some(docker) = self.docker.get() {
            docker.run(&self.host, number)?;
            return self.container(network, number);
        }
        let place = world.topology().network.iter().position(|other| other.name == network).unwrap_or(0);
        let text = self.subnet_text_of(world, network)?;
        let pod = self.host.pod_of(&text, &format!("cbr{place}"), number)?;
        let addresses: Vec<IpAddr> = pod.addresses().collect();
        let server = serve(&pod, &addresses)?;
        Ok(NodePod { network: network.to_owned(), pod, _server: server })
    }

    pub(super) fn populate(&self, world: &World) -> Result<()> {
        let mut pods = Vec::new();
        for (network, number) in self.networks.iter().zip(1..) {
            pods.push(self.new_pod(world, network, number)?);
        }
        if let Some(first) = pods.first().filter(|_| self.docker.get().is_none()) {
            publish(&self.host, first)?;
        }
        let server = serve(&self.host, &self.addresses(world.topology()))?;
        drop((self.pods.set(pods), self.server.set(server)));
        Ok(())
    }
}

impl NodePod {
    /// Where its server listens.
    pub fn server(&self) -> Result<SocketAddr> {
        let first = self.pod.addresses().next();
        first.map(|address| (address, PORT).into()).context(|| "a pod without an address".to_owned())
    }

    /// Waits until it reaches the other one, by every family both have.
    pub fn reaches(&self, other: &Self) -> Result<()> {
        for address in other.pod.addresses() {
            eventually(&format!("{} reaches {address}", self.pod.name()), SOON, || {
                let ask = crate::measure::Ask {
                    id: 0,
                    target: (address, PORT).into(),
                    mtu: 0,
                    bytes: 0,
                    checks: vec![crate::measure::Check::Silence],
                };
                // One ping: silence is what is not wanted here.
                let answers = self.pod.run(|_| crate::measure::ask_all(&[ask]))?;
                match &answers[0].outcome {
                    Err(_) => Ok(()),
                    Ok(_) => Err(Error::new("no answer to ping")),
                }
            })?;
        }
        Ok(())
    }
}

impl Deref for NodePod {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.pod
    }
}

impl Deref for Node {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

fn serve(namespace: &Namespace, addresses: &[IpAddr]) -> Result<Server> {
    namespace.run(|_| Server::start(addresses))?.context(|| format!("server in {}", namespace.name()))
}

/// What `docker run -p` does for a container: who asks the host's port gets the pod.
fn publish(host: &Host, pod: &NodePod) -> Result<()> {
    let Some(IpAddr::V4(address)) = pod.addresses().next() else { return Ok(()) };
    host.exec(&format!(
        "iptables -t nat -A PREROUTING -p tcp -d {} --dport {PUBLISHED} -j DNAT --to-destination {address}:{PORT}",
        host.address()
    ))
    .map(drop)
}
