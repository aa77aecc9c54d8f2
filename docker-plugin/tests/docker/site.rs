//! A host with a Docker, a lease, a plugin and a kernel of its own, on which everything may be killed; and somebody
//! outside.
//!
//! What a user does there is in [`typed`].

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flannel_testbed::{
    Context as _, Dockerd, Error, Host, Lab, Machine, Process, Result, Segment, Signal, Snapshot, eventually,
};
use serde_json::{Value, json};

pub(crate) mod typed;

/// The lease, in both families.
pub(crate) const ENV: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\n\
     FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:72::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";

/// How long what Docker or the plugin does in the background may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Longer than a plugin that is not there holds Docker up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Another build of the plugin in place of the one under test: a release build, to measure it.
const OTHER_PROGRAM: &str = "FLANNEL_TEST_PLUGIN";

pub(crate) fn program() -> PathBuf {
    std::env::var_os(OTHER_PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_flannel-docker").into()).into()
}

/// A lab without flanneld: the site, and somebody outside.
pub(crate) fn two_hosts() -> Result<Lab> {
    Lab::without_etcd(&[Segment::Near; 2])
}

/// Runs a test on a site whose plugin has these flags.
pub(crate) fn on_site(args: &[&str], body: impl FnOnce(&Site) -> Result<()>) {
    on(Site::boot(&[], args), body);
}

/// Runs a test on this site.
pub(crate) fn on(site: Result<Site>, body: impl FnOnce(&Site) -> Result<()>) {
    let site = site.unwrap_or_else(|e| panic!("{e}"));
    if let Err(e) = body(&site) {
        panic!("{e}");
    }
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
    /// A host with the lease of [`ENV`], Docker and the plugin, with these flags.
    pub(crate) fn boot(dockerd_args: &[&str], args: &[&str]) -> Result<Self> {
        Self::boot_in(two_hosts()?, dockerd_args, args)
    }

    /// The same in a lab of [`two_hosts`] that has been changed.
    pub(crate) fn boot_in(lab: Lab, dockerd_args: &[&str], args: &[&str]) -> Result<Self> {
        let site = Self::in_lab(lab, dockerd_args)?;
        site.lease("subnet", ENV)?;
        site.launch(args)?;
        Ok(site)
    }

    /// The first host of any lab; the lease and the plugin are up to the caller.
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

    /// Its network alone.
    pub(crate) fn host(&self) -> &Host {
        self.lab.host(1)
    }

    /// Somebody of the same underlay who knows nothing of flannel.
    pub(crate) fn outside(&self) -> &Host {
        self.lab.host(2)
    }

    /// Writes a subnet file, as flanneld does.
    pub(crate) fn lease(&self, name: &str, text: &str) -> Result<()> {
        let path = self.subnet_file().with_file_name(format!("{name}.env"));
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).and_then(|()| fs::write(&path, text)).context(|| path.display().to_string())
    }

    /// Another IPv4 subnet in the lease's place, given as `10.5.80`.
    pub(crate) fn move_lease(&self, to: &str) -> Result<()> {
        self.lease("subnet", &ENV.replace("10.5.72.", &format!("{to}.")))
    }

    /// `/run/flannel/subnet.env` inside.
    pub(crate) fn subnet_file(&self) -> PathBuf {
        self.machine().run_directory().join("flannel/subnet.env")
    }

    /// The plugin's state inside.
    pub(crate) fn state_file(&self) -> PathBuf {
        self.machine().lib_directory().join("flannel-docker/state.json")
    }

    /// What the plugin remembers.
    pub(crate) fn state(&self) -> Result<Value> {
        let path = self.state_file();
        let text = fs::read(&path).context(|| path.display().to_string())?;
        serde_json::from_slice(&text).context(|| path.display().to_string())
    }

    /// Where Docker finds the plugin.
    pub(crate) fn socket(&self) -> PathBuf {
        self.machine().run_directory().join("docker/plugins/flannel.sock")
    }

    /// Starts the plugin with these flags and waits until it answers.
    pub(crate) fn launch(&self, args: &[&str]) -> Result<()> {
        self.launch_program(&program(), args)
    }

    pub(crate) fn launch_program(&self, program: &Path, args: &[&str]) -> Result<()> {
        let mut command = self.machine().command(program);
        command.arg("-v=1").args(args);
        let plugin = self.machine().start("plugin", command)?;
        let socket = self.socket();
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

    /// What all plugins of this host have said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.machine().directory().join("plugin.log")).unwrap_or_default()
    }

    /// How long its slowest call took.
    pub(crate) fn slowest_call(&self) -> Duration {
        let log = self.log();
        let calls = log.lines().filter_map(|l| l.split_once(": done in ")).map(|(_, took)| {
            let number = took.trim_end_matches(|c: char| !c.is_ascii_digit());
            let unit = match &took[number.len()..] {
                "s" => 1.0,
                "ms" => 1e-3,
                _ => 1e-6,
            };
            Duration::from_secs_f64(number.parse::<f64>().expect("a call's time") * unit)
        });
        calls.max().expect("a call in the log")
    }

    /// Sends the plugin a signal and waits for its end.
    pub(crate) fn end_plugin(&self, signal: Signal) -> Result<ExitStatus> {
        let plugin = lock(&self.plugin).take().ok_or_else(|| Error::new("no plugin runs"))?;
        plugin.signal(signal)?;
        plugin.exit_within(PATIENCE)
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

    /// What the running dockerd, and all before it, have said.
    pub(crate) fn docker_log(&self) -> String {
        lock(&self.dockerd).as_ref().map(|d| d.process().log()).unwrap_or_default()
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

    /// `flannel-docker doctor`: its report.
    pub(crate) fn doctor(&self, args: &[&str]) -> Result<String> {
        let mut command = self.machine().command(program());
        command.arg("doctor").args(args);
        self.machine().output(command)
    }

    /// Its report as JSON, and its exit code.
    pub(crate) fn doctor_json(&self, args: &str) -> Result<(Value, String)> {
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

    /// The same for a Docker that was killed half way: it forgets cables of its own bridges. They can't be taken for
    /// ours, which have other names, the MTU of flannel and a mark.
    pub(crate) fn leaves_nothing_of_ours(&self) -> Result<()> {
        self.leaves_only(|line| {
            let cable = line.strip_prefix("+ link veth").and_then(|rest| rest.split_once(" mtu 1500"));
            let is_dockers = |name: &str| name.len() == 7 && name.bytes().all(|b| b.is_ascii_hexdigit());
            cable.is_some_and(|(name, rest)| is_dockers(name) && ["", " master docker_gwbridge"].contains(&rest))
        })
    }

    fn leaves_only(&self, dockers: impl Fn(&str) -> bool) -> Result<()> {
        for id in self.docker("ps -aq")?.split_whitespace() {
            self.docker(&format!("rm -f {id}"))?;
        }
        for id in self.docker("network ls -q --filter driver=flannel")?.split_whitespace() {
            self.docker(&format!("network rm {id}"))?;
        }
        self.is_well()?;
        let state = self.state()?;
        if state["networks"] != json!({}) || state["pools"] != json!({}) {
            return Err(Error::new(format!("the state is not empty: {state}")));
        }
        let before = self.before.as_ref().expect("taken at start");
        let (dockers, differs): (Vec<_>, Vec<_>) =
            self.machine().snapshot()?.since(before).into_iter().partition(|line| dockers(line));
        if !dockers.is_empty() {
            println!("Docker has forgotten {} cables of its own: {dockers:?}", dockers.len());
        }
        if differs.is_empty() { Ok(()) } else { Err(Error::new(format!("the host is not as before: {differs:#?}"))) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
