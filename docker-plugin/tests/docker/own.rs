//! A host with a Docker, a plugin and a kernel of its own, on which everything may be killed.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flannel_lab::netns::{Dockerd, Error, IMAGE, Lab, Machine, Process, Result, Segment, Signal, Snapshot, eventually};

/// Longer than a plugin that is not there holds Docker up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Another build of the plugin in place of the one under test: a release build, to measure it.
const OTHER_PROGRAM: &str = "FLANNEL_TEST_PLUGIN";

pub(crate) fn program() -> PathBuf {
    std::env::var_os(OTHER_PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_flannel-docker").into()).into()
}

/// The host. Fields in the order they have to go.
#[derive(Debug)]
pub(crate) struct Site {
    plugin: Mutex<Option<Process>>,
    dockerd: Mutex<Option<Dockerd>>,
    machine: Option<Machine>,
    pub(crate) lab: Lab,
    before: Option<Snapshot>,
    dockerd_args: Vec<String>,
}

impl Site {
    /// A host with a lease that nobody else has, Docker (with `dockerd_args`) and the plugin.
    pub(crate) fn start(dockerd_args: &[&str]) -> Result<Self> {
        let lab = Lab::without_etcd(&[Segment::Near])?;
        let site = Self::in_lab(lab, dockerd_args)?;
        site.write_lease("10.213.7")?;
        site.launch()?;
        Ok(site)
    }

    /// The same on the first host of a lab; the lease and the plugin are up to the caller.
    pub(crate) fn in_lab(lab: Lab, dockerd_args: &[&str]) -> Result<Self> {
        let machine = lab.host(1).machine()?;
        let dockerd_args: Vec<String> = dockerd_args.iter().map(|&a| a.to_owned()).collect();
        let mut site = Self {
            plugin: Mutex::default(),
            dockerd: Mutex::default(),
            machine: Some(machine),
            lab,
            before: None,
            dockerd_args,
        };
        site.start_docker()?;
        site.machine().import_image()?;
        site.machine().make_gateway_bridge()?;
        site.before = Some(site.machine().snapshot()?);
        Ok(site)
    }

    /// The machine, which is on.
    pub(crate) fn machine(&self) -> &Machine {
        self.machine.as_ref().expect("the machine is on")
    }

    /// Writes the file flanneld writes.
    pub(crate) fn write_lease(&self, lease: &str) -> Result<()> {
        let text = format!(
            "FLANNEL_NETWORK=10.213.0.0/16\nFLANNEL_SUBNET={lease}.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
        );
        let file = self.subnet_file();
        let dir = file.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).and_then(|()| fs::write(&file, text)).map_err(|e| Error::new(e.to_string()))
    }

    /// `/run/flannel/subnet.env` inside.
    pub(crate) fn subnet_file(&self) -> PathBuf {
        self.machine().run_directory().join("flannel/subnet.env")
    }

    /// The plugin's state inside.
    pub(crate) fn state_file(&self) -> PathBuf {
        self.machine().lib_directory().join("flannel-docker/state.json")
    }

    pub(crate) fn state(&self) -> String {
        fs::read_to_string(self.state_file()).unwrap_or_default()
    }

    /// Starts the plugin with its usual flags and waits until it answers.
    pub(crate) fn launch(&self) -> Result<()> {
        self.launch_program(&program(), &[])
    }

    pub(crate) fn launch_program(&self, program: &Path, args: &[&str]) -> Result<()> {
        let mut command = self.machine().command(program);
        command.arg("-v=1").args(args);
        let plugin = self.machine().start("plugin", command)?;
        let socket = self.machine().run_directory().join("docker/plugins/flannel.sock");
        eventually("the plugin answers", PATIENCE, || {
            if let Some(status) = plugin.exited()? {
                return Err(Error::new(format!("it ended, {status}: {}", plugin.log())));
            }
            UnixStream::connect(&socket).map(drop).map_err(|e| Error::new(e.to_string()))
        })?;
        *lock(&self.plugin) = Some(plugin);
        Ok(())
    }

    /// The plugin's process.
    pub(crate) fn plugin(&self) -> Process {
        lock(&self.plugin).clone().expect("the plugin runs")
    }

    /// Sends the plugin a signal and waits for its end.
    pub(crate) fn end_plugin(&self, signal: Signal) -> Result<()> {
        let plugin = lock(&self.plugin).take().ok_or_else(|| Error::new("no plugin runs"))?;
        plugin.signal(signal)?;
        plugin.exit_within(PATIENCE).map(drop)
    }

    /// Starts dockerd and waits until it answers.
    pub(crate) fn start_docker(&self) -> Result<()> {
        let args: Vec<&str> = self.dockerd_args.iter().map(String::as_str).collect();
        *lock(&self.dockerd) = Some(self.machine().dockerd(&args)?);
        Ok(())
    }

    /// Sends dockerd a signal and waits for its end.
    pub(crate) fn end_docker(&self, signal: Signal) -> Result<()> {
        let dockerd = lock(&self.dockerd).take();
        dockerd.ok_or_else(|| Error::new("no dockerd runs"))?.end(signal)
    }

    /// Pulls the plug of the host and switches it on again; neither Docker nor the plugin are started.
    pub(crate) fn reboot(&mut self) -> Result<()> {
        (*lock(&self.plugin), *lock(&self.dockerd)) = (None, None);
        if let Some(machine) = self.machine.take() {
            machine.power_off();
        }
        self.lab.reboot(1)?;
        self.machine = Some(self.lab.host(1).machine()?);
        Ok(())
    }

    /// A `docker` command line, of words without quotes, that must succeed.
    pub(crate) fn docker(&self, line: &str) -> Result<String> {
        self.machine().docker_line(line)
    }

    /// The same, and what it complains of when it fails.
    pub(crate) fn refused(&self, line: &str) -> Result<String> {
        match self.docker(line) {
            Ok(said) => Err(Error::new(format!("docker {line} succeeded: {said}"))),
            Err(e) => Ok(e.to_string()),
        }
    }

    /// A network that leaves its range to the plugin.
    pub(crate) fn network(&self, name: &str) -> Result<String> {
        self.docker(&format!("network create -d flannel --ipam-driver flannel {name}"))
    }

    /// A container that sleeps. SIGKILL ends it, so that nobody waits for one that is deaf to SIGTERM.
    pub(crate) fn run(&self, network: &str, name: &str, args: &str) -> Result<String> {
        self.docker(&format!(
            "run -d --stop-signal SIGKILL --name {name} --network {network} {args} {IMAGE} sleep 100000"
        ))
    }

    /// The container's address in the network.
    pub(crate) fn address(&self, network: &str, name: &str) -> Result<String> {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        self.machine().docker(&["inspect", "-f", &format, name])
    }

    /// One container reaches another, by name.
    pub(crate) fn ping(&self, from: &str, to: &str) -> Result<()> {
        self.docker(&format!("exec {from} ping -c 1 -W 2 {to}")).map(drop)
    }

    /// The same, as soon as it can be.
    pub(crate) fn talks(&self, from: &str, to: &str) -> Result<()> {
        eventually(&format!("{from} reaches {to}"), PATIENCE, || self.ping(from, to))
    }

    /// `flannel-docker doctor`: its report.
    pub(crate) fn doctor(&self, args: &[&str]) -> Result<String> {
        let mut command = self.machine().command(program());
        command.arg("doctor").args(args);
        self.machine().output(command)
    }

    /// Its report as JSON, and its exit code.
    pub(crate) fn doctor_json(&self, args: &str) -> Result<(serde_json::Value, String)> {
        let mut command = self.machine().command("sh");
        command.arg("-c").arg(format!("{} doctor -json {args}; echo \"exit $?\"", program().display()));
        let said = self.machine().output(command)?;
        let (json, code) = said.rsplit_once("exit ").ok_or_else(|| Error::new(said.clone()))?;
        let json = serde_json::from_str(json).map_err(|e| Error::new(format!("{e}: {said}")))?;
        Ok((json, code.trim().to_owned()))
    }

    /// The doctor finds nothing, at the latest after the plugin has had time for its second look.
    pub(crate) fn is_well(&self) -> Result<()> {
        eventually("the doctor finds nothing", PATIENCE, || self.doctor(&[]).map(drop))
    }

    /// Removes all containers and networks, and sees that the host is as before, to the last rule.
    pub(crate) fn leaves_nothing(&self) -> Result<()> {
        self.leaves_only(|_| false)
    }

    /// The same for a Docker that was killed half way: it forgets cables of its own bridges (`veth` and seven digits).
    pub(crate) fn leaves_nothing_of_ours(&self) -> Result<()> {
        self.leaves_only(|line| line.starts_with("+ link veth"))
    }

    fn leaves_only(&self, dockers: impl Fn(&str) -> bool) -> Result<()> {
        for id in self.docker("ps -aq")?.split_whitespace() {
            self.docker(&format!("rm -f {id}"))?;
        }
        for id in self.docker("network ls -q --filter driver=flannel")?.split_whitespace() {
            self.docker(&format!("network rm {id}"))?;
        }
        self.is_well()?;
        let state = self.state();
        if !(state.contains("\"networks\": {}") && state.contains("\"pools\": {}")) {
            return Err(Error::new(format!("the state is not empty: {state}")));
        }
        let before = self.before.as_ref().expect("taken at start");
        let mut differs = self.machine().snapshot()?.since(before);
        differs.retain(|line| !dockers(line));
        if differs.is_empty() { Ok(()) } else { Err(Error::new(format!("the host is not as before: {differs:#?}"))) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
