//! A plugin process with its own name, lease and state, and the commands around it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flannel_docker::opts::Opts;

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, which must come within a minute and a half.
#[expect(clippy::disallowed_methods, reason = "a test has nothing else to do while the command runs")]
pub(crate) fn run(program: &str, args: &[&str]) -> Said {
    let output = Command::new("timeout").arg("90").arg(program).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{program} can't be run: {e}"));
    assert_ne!(output.status.code(), Some(124), "{program} {args:?} did not end");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Said { ok: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Runs a command that must succeed.
pub(crate) fn sh(program: &str, args: &[&str]) -> String {
    let said = run(program, args);
    assert!(said.ok, "{program} {}: {} {}", args.join(" "), said.stdout, said.stderr);
    said.stdout
}

/// Runs a command that must fail, and gives what it complains of.
pub(crate) fn refused(program: &str, args: &[&str]) -> String {
    let said = run(program, args);
    assert!(!said.ok, "{program} {}: succeeded: {}", args.join(" "), said.stdout);
    said.stderr
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A plugin with all that belongs to it; whatever carries its name is removed in the end.
pub(crate) struct Plugin {
    /// The driver's name, and the beginning of every other.
    pub(crate) name: String,
    /// The first three bytes of the lease, as in `10.213.7`.
    pub(crate) lease: String,
    dir: tempfile::TempDir,
    child: Option<Child>,
    routes: Vec<String>,
    // Keeps the lease from other tests.
    _claim: File,
}

impl Plugin {
    /// A plugin that runs and has a lease, and an image to run.
    pub(crate) fn start() -> Self {
        assert_eq!(sh("id", &["-u"]), "0", "these tests make bridges and rules: run them as root");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("flt{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        let (lease, claim) = claim_lease();
        let mut plugin = Self { name, lease, dir, child: None, routes: Vec::new(), _claim: claim };
        plugin.write_lease(&plugin.lease.clone());
        plugin.import_image();
        plugin.launch();
        plugin
    }

    /// Writes `subnet.env` with this lease.
    pub(crate) fn write_lease(&self, lease: &str) {
        let host = lease.rsplit('.').next().unwrap();
        let text = format!(
            "FLANNEL_NETWORK=10.213.0.0/16\nFLANNEL_SUBNET={lease}.1/24\nFLANNEL_IPV6_NETWORK=fd00:213::/48\n\
             FLANNEL_IPV6_SUBNET=fd00:213:0:{host}::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
        );
        fs::write(self.path("subnet.env"), text).unwrap();
    }

    /// Takes the lease away.
    pub(crate) fn remove_lease(&self) {
        fs::remove_file(self.path("subnet.env")).unwrap();
    }

    fn import_image(&self) {
        let root = self.path("image");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static must be installed");
        for applet in ["sh", "ping", "ping6", "ip", "nc", "httpd", "sleep", "wget"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let tar = self.path("image.tar");
        sh("tar", &["-C", &root.display().to_string(), "-cf", &tar.display().to_string(), "."]);
        sh("docker", &["import", &tar.display().to_string(), &self.image()]);
    }

    /// Starts the program and waits until it answers.
    pub(crate) fn launch(&mut self) {
        self.launch_with("state", &[]);
    }

    /// Starts the program with a state that knows nothing, in place of one that does, and nobody to ask.
    pub(crate) fn launch_ignorant(&mut self) {
        self.launch_with("nothing-known", &["-docker-socket="]);
    }

    fn launch_with(&mut self, state: &str, args: &[&str]) {
        let log = OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_flannel-docker"))
            .arg(format!("-socket={}", self.socket().display()))
            .arg(format!("-subnet-file={}", self.path("subnet.env").display()))
            .arg(format!("-state-dir={}", self.path(state).display()))
            .arg("-v=1")
            .args(args)
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually("the plugin answers", || UnixStream::connect(self.socket()).is_ok());
    }

    /// Ends the program by this signal and waits for its end.
    pub(crate) fn end(&mut self, signal: &str) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("the plugin runs");
        sh("kill", &[signal, &child.id().to_string()]);
        child.wait().unwrap()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        Path::new("/run/docker/plugins").join(format!("{}.sock", self.name))
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn state(&self) -> String {
        fs::read_to_string(self.path("state/state.json")).unwrap_or_default()
    }

    fn image(&self) -> String {
        format!("{}:img", self.name)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// An address of the lease.
    pub(crate) fn ip(&self, last: u8) -> String {
        format!("{}.{last}", self.lease)
    }

    /// The full name of one of our networks or containers.
    pub(crate) fn named(&self, short: &str) -> String {
        format!("{}-{short}", self.name)
    }

    /// `docker network create -d NAME ARGS SHORT`
    pub(crate) fn create(&self, args: &[&str], short: &str) -> Said {
        let name = self.named(short);
        let mut all = vec!["network", "create", "-d", &self.name];
        all.extend(args);
        all.push(&name);
        run("docker", &all)
    }

    /// A network with our own IPAM; gives its short ID.
    pub(crate) fn network(&self, args: &[&str], short: &str) -> String {
        let mut all = vec!["--ipam-driver", &self.name];
        all.extend(args);
        let said = self.create(&all, short);
        assert!(said.ok, "network {short}: {}\n{}", said.stderr, self.log());
        said.stdout[..12].to_owned()
    }

    pub(crate) fn remove_network(&self, short: &str) {
        sh("docker", &["network", "rm", &self.named(short)]);
    }

    /// A container that sleeps in a network.
    pub(crate) fn container(&self, network: &str, short: &str, args: &[&str]) -> Said {
        self.container_running(network, short, args, &["sleep", "1000"])
    }

    pub(crate) fn container_running(&self, network: &str, short: &str, args: &[&str], command: &[&str]) -> Said {
        let (name, image) = (self.named(short), self.image());
        let network = if network == "bridge" { network.to_owned() } else { self.named(network) };
        // Without --init, sleep is process 1 and deaf to SIGTERM; nothing here waits for it.
        let mut all = vec!["run", "-d", "--name", &name, "--network", &network];
        all.extend(args);
        all.push(&image);
        all.extend(command);
        run("docker", &all)
    }

    /// A container that must start.
    pub(crate) fn must_run(&self, network: &str, short: &str, args: &[&str]) {
        let said = self.container(network, short, args);
        assert!(said.ok, "container {short}: {}\n{}", said.stderr, self.log());
    }

    pub(crate) fn remove_container(&self, short: &str) {
        sh("docker", &["rm", "-f", &self.named(short)]);
    }

    /// Runs a command in a container.
    pub(crate) fn exec(&self, short: &str, command: &[&str]) -> Said {
        let name = self.named(short);
        let mut all = vec!["exec", &name];
        all.extend(command);
        run("docker", &all)
    }

    /// Whether a container reaches an address or name.
    pub(crate) fn pings(&self, short: &str, target: &str) -> bool {
        self.exec(short, &["ping", "-c", "2", "-W", "2", target]).ok
    }

    pub(crate) fn must_ping(&self, short: &str, target: &str) {
        let said = self.exec(short, &["ping", "-c", "2", "-W", "2", target]);
        assert!(said.ok, "{short} does not reach {target}: {} {}\n{}", said.stdout, said.stderr, self.log());
    }

    /// `docker inspect` of a container's place in a network.
    pub(crate) fn inspect(&self, short: &str, network: &str, field: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{}\").{field}}}}}", self.named(network));
        sh("docker", &["inspect", "-f", &format, &self.named(short)])
    }

    /// Adds a route to the host, removed in the end.
    pub(crate) fn add_route(&mut self, route: &str) {
        let mut args = vec!["route", "add"];
        args.extend(route.split(' '));
        sh("ip", &args);
        self.routes.push(route.to_owned());
    }

    /// What is left of us on the host: interfaces by these IDs, bridges with our mark, rules of our chain.
    pub(crate) fn leftovers(&self, ids: &[&str]) -> Vec<String> {
        let mark = self.path("state").display().to_string();
        let links = sh("ip", &["-o", "link"]);
        let links = links.lines().filter(|l| l.contains(&mark) || ids.iter().any(|id| l.contains(id)));
        let chain = Opts { state_dir: self.path("state"), ..Opts::default() }.chain();
        let rules = sh("iptables-save", &[]) + &sh("ip6tables-save", &[]);
        let rules = rules.lines().filter(|l| l.contains(&chain) || ids.iter().any(|id| l.contains(id)));
        links.chain(rules).map(str::to_owned).collect()
    }

    /// Our chain's name.
    pub(crate) fn chain(&self) -> String {
        Opts { state_dir: self.path("state"), ..Opts::default() }.chain()
    }
}

/// A container of another host, as this host sees it: something with a flannel address behind an interface.
pub(crate) struct Remote {
    name: String,
    /// Its address.
    pub(crate) ip: String,
    _claim: File,
}

impl Remote {
    pub(crate) fn new(plugin: &Plugin) -> Self {
        let (lease, claim) = claim_lease();
        // Interface names have 15 characters.
        let name = plugin.name.replacen("flt", "flr", 1);
        let remote = Self { ip: format!("{lease}.2"), name, _claim: claim };
        let (name, ip, gateway) = (remote.name.as_str(), format!("{}/24", remote.ip), format!("{lease}.1"));
        sh("ip", &["netns", "add", name]);
        sh("ip", &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name]);
        sh("ip", &["addr", "add", &format!("{gateway}/24"), "dev", name]);
        sh("ip", &["link", "set", name, "up"]);
        sh("ip", &["-n", name, "addr", "add", &ip, "dev", "eth0"]);
        sh("ip", &["-n", name, "link", "set", "eth0", "up"]);
        sh("ip", &["-n", name, "route", "add", "default", "via", &gateway]);
        remote
    }

    /// Whether it reaches an address.
    pub(crate) fn pings(&self, target: &str) -> bool {
        run("ip", &["netns", "exec", &self.name, "ping", "-c", "2", "-W", "2", target]).ok
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        run("ip", &["link", "del", &self.name]);
        run("ip", &["netns", "del", &self.name]);
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.name, self.log());
        }
        // Without the plugin Docker would wait a minute for each container.
        if self.child.is_none() && !std::thread::panicking() {
            self.launch();
        }
        let filter = format!("name={}-", self.name);
        let list = |args: &[&str]| -> Vec<String> {
            run("docker", args).stdout.split_whitespace().map(str::to_owned).collect()
        };
        for id in list(&["ps", "-aq", "--filter", &filter]) {
            run("docker", &["rm", "-f", &id]);
        }
        for id in list(&["network", "ls", "-q", "--filter", &filter]) {
            run("docker", &["network", "rm", &id]);
        }
        run("docker", &["rmi", &self.image()]);
        for route in &self.routes {
            let mut args = vec!["route", "del"];
            args.extend(route.split(' '));
            run("ip", &args);
        }
        if let Some(mut child) = self.child.take() {
            run("kill", &[&child.id().to_string()]);
            let ended = child.wait();
            assert!(ended.is_ok() || std::thread::panicking(), "{ended:?}");
        }
    }
}

/// A lease that no other test has, on this machine and while this one runs.
fn claim_lease() -> (String, File) {
    let dir = std::env::temp_dir().join("flannel-docker-test-leases");
    fs::create_dir_all(&dir).unwrap();
    let start = std::process::id() % 200;
    for n in (0..200).map(|i| (start + i) % 200 + 20) {
        let file = File::create(dir.join(n.to_string())).unwrap();
        if file.try_lock().is_ok() {
            return (format!("10.213.{n}"), file);
        }
    }
    panic!("every test lease is taken: see {}", dir.display());
}
