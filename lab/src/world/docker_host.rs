//! A host of a lab with a Docker and a flannel-docker of its own: its pods are containers on a flannel network.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use flannel_testbed::{
    Context, Dockerd, Error, Host, IMAGE, Machine, Namespace, Pod, Process, Result, SOON, Signal, eventually,
};

/// The flannel network of its containers.
const NETWORK: &str = "demo";

/// Docker and the plugin of one host. Fields in the order they have to go.
#[derive(Debug)]
pub struct DockerHost {
    plugin: Mutex<Process>,
    dockerd: Mutex<Dockerd>,
    machine: Machine,
    program: PathBuf,
    subnet_file: PathBuf,
    dockerd_args: Vec<String>,
}

impl DockerHost {
    /// Boots the host as a machine, with the plugin, Docker, an image and a flannel network.
    pub(super) fn boot(host: &Host, program: &Path, dockerd_args: &[&str]) -> Result<Self> {
        let machine = host.machine()?;
        let subnet_file = host.subnet_file();
        let docker = Self {
            plugin: Mutex::new(start_plugin(&machine, program, &subnet_file)?),
            dockerd: Mutex::new(machine.dockerd(dockerd_args)?),
            machine,
            program: program.to_owned(),
            subnet_file,
            dockerd_args: dockerd_args.iter().map(|&arg| arg.to_owned()).collect(),
        };
        docker.machine.import_image()?;
        // Docker takes an address of the user's only where the range is the user's, too.
        let lease = host.subnet_env()?.subnet();
        let network = format!("network create -d flannel --ipam-driver flannel --subnet {lease} {NETWORK}");
        docker.machine.docker_line(&network)?;
        Ok(docker)
    }

    /// Its machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// `kill -9` of the plugin; returns when it is gone.
    pub fn kill_plugin(&self) -> Result<()> {
        lock(&self.plugin).kill()
    }

    /// Starts the plugin and waits until it answers.
    pub fn start_plugin(&self) -> Result<()> {
        *lock(&self.plugin) = start_plugin(&self.machine, &self.program, &self.subnet_file)?;
        Ok(())
    }

    /// `kill -9` of dockerd, which takes its containerd with it; containers are nobody's then, and run.
    pub fn kill_dockerd(&self) -> Result<()> {
        lock(&self.dockerd).end(Signal::KILL)
    }

    /// Starts dockerd and waits until it answers.
    pub fn start_dockerd(&self) -> Result<()> {
        let args: Vec<&str> = self.dockerd_args.iter().map(String::as_str).collect();
        *lock(&self.dockerd) = self.machine.dockerd(&args)?;
        Ok(())
    }

    /// The arguments of `docker run` for a container of this number: the address as a pod's of this number, back after every
    /// end of its own.
    fn words(host: &Host, number: u8) -> Result<Vec<String>> {
        let address = address(host, number)?;
        let line = format!(
            "run -d --restart=always --stop-signal=SIGKILL --name c{number} --network {NETWORK} --ip {address} {IMAGE} \
             sleep 100000"
        );
        Ok(line.split_whitespace().map(str::to_owned).collect())
    }

    /// Runs a container.
    pub(super) fn run(&self, host: &Host, number: u8) -> Result<()> {
        let words = Self::words(host, number)?;
        self.machine.docker(&words.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    /// The same in the background: what it does with a Docker or a plugin that does not answer is to be seen.
    pub fn begin_to_run(&self, host: &Host, number: u8) -> Result<Process> {
        let mut command = self.machine.docker_command();
        command.args(Self::words(host, number)?);
        Process::start(&format!("docker run c{number}"), command, &self.machine.directory().join("docker-run.log"))
    }

    /// When a container was started last, as Docker writes it, if it runs.
    pub fn started(&self, number: u8) -> Result<String> {
        let said = self.machine.docker(&["inspect", "-f", "{{.State.Running}} {{.State.StartedAt}}", &name(number)])?;
        said.strip_prefix("true ").map(str::to_owned).context(|| format!("container c{number} does not run: {said}"))
    }

    /// The network namespace of a container as a pod.
    pub(super) fn adopt(&self, host: &Host, number: u8) -> Result<Pod> {
        let key = self.machine.docker(&["inspect", "-f", "{{.NetworkSettings.SandboxKey}}", &name(number)])?;
        let file = key.rsplit('/').next().unwrap_or_default();
        let file = self.machine.open(&format!("/run/docker/netns/{file}"))?;
        // A container that came back has another one: each has a name of its own.
        let role = format!("{}c{number}-{:x}", host.name(), fastrand::u16(..));
        let namespace = Namespace::adopt(host.lab(), &role, file)?;
        Ok(Pod::adopted(namespace, address(host, number)?, host.directory()))
    }
}

fn name(number: u8) -> String {
    format!("c{number}")
}

/// The address of the host's pod of this number.
fn address(host: &Host, number: u8) -> Result<Ipv4Addr> {
    Ok(host.subnet_env()?.address(1 + u32::from(number)))
}

fn start_plugin(machine: &Machine, program: &Path, subnet_file: &Path) -> Result<Process> {
    let mut command = machine.command(program);
    command.arg(format!("-subnet-file={}", subnet_file.display()));
    let plugin = machine.start("flannel-docker", command)?;
    let socket = machine.run_directory().join("docker/plugins/flannel.sock");
    eventually("the plugin answers", SOON, || {
        if let Some(status) = plugin.exited()? {
            return Err(Error::new(format!("it ended, {status}: {}", plugin.log())));
        }
        UnixStream::connect(&socket).map(drop).context(|| socket.display().to_string())
    })?;
    Ok(plugin)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
