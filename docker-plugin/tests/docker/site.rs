//! A host with a Docker, a lease and the plugin of its own, and what a user types there.

use std::path::PathBuf;

use flannel_lab::netns::{
    Context as _, Dockerd, Error, Host, IMAGE, Lab, Machine, Process, Result, Signal, eventually,
};

use crate::support::{Said, run};

/// The lease of [`Site`], in both families.
pub(crate) const ENV: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\n\
     FLANNEL_IPV6_NETWORK=fd00:5::/48\nFLANNEL_IPV6_SUBNET=fd00:5:0:72::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";

/// How long what Docker or the plugin does in the background may take.
pub(crate) const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// A lab without flanneld: `h1` is the site, `h2` somebody outside.
pub(crate) fn lab() -> Lab {
    Lab::without_etcd(&[flannel_lab::netns::Segment::Near; 2]).unwrap_or_else(|e| panic!("{e}"))
}

/// The host `h1`, with Docker, an image and the plugin.
pub(crate) struct Site<'a> {
    pub(crate) machine: Machine,
    pub(crate) host: &'a Host,
    plugin: Option<Process>,
    dockerd: Dockerd,
}

impl<'a> Site<'a> {
    /// Boots it with the lease of [`ENV`].
    pub(crate) fn boot(lab: &'a Lab, args: &[&str]) -> Result<Self> {
        let host = lab.host(1);
        let machine = host.machine()?;
        let dockerd = machine.dockerd(&[])?;
        machine.import_image()?;
        let mut site = Self { machine, host, plugin: None, dockerd };
        site.lease("subnet", ENV)?;
        site.launch(args)?;
        Ok(site)
    }

    /// Writes a subnet file, as flanneld does.
    pub(crate) fn lease(&self, name: &str, text: &str) -> Result<()> {
        let dir = self.machine.run_directory().join("flannel");
        let path = dir.join(format!("{name}.env"));
        std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, text)).context(|| path.display().to_string())
    }

    /// Starts the plugin and waits until it answers.
    pub(crate) fn launch(&mut self, args: &[&str]) -> Result<()> {
        let mut command = self.machine.command(env!("CARGO_BIN_EXE_flannel-docker"));
        command.arg("-v=1").args(args);
        let plugin = self.machine.start("flannel-docker", command)?;
        let socket = self.machine.run_directory().join("docker/plugins/flannel.sock");
        eventually("the plugin answers", SOON, || match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::new(format!("{}: {e}\n{}", socket.display(), plugin.log()))),
        })?;
        self.plugin = Some(plugin);
        Ok(())
    }

    /// Ends the plugin.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<()> {
        let plugin = self.plugin.take().context(|| "the plugin runs".to_owned())?;
        plugin.signal(signal)?;
        plugin.exit_within(SOON).map(drop)
    }

    /// What the plugin has said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.machine.directory().join("flannel-docker.log")).unwrap_or_default()
    }

    /// What the plugin remembers.
    pub(crate) fn state(&self) -> Result<serde_json::Value> {
        let path = self.machine.lib_directory().join("flannel-docker/state.json");
        let text = std::fs::read(&path).context(|| path.display().to_string())?;
        serde_json::from_slice(&text).context(|| path.display().to_string())
    }

    /// A `docker` command line of words without quotes.
    pub(crate) fn docker(&self, line: &str) -> Result<String> {
        self.machine.docker_line(line)
    }

    /// A `docker` command line that must be refused; what is said then.
    pub(crate) fn refused(&self, line: &str) -> Result<String> {
        let Said { ok, stdout, stderr } = self.try_docker(line);
        if ok {
            return Err(Error::new(format!("docker {line}: done: {stdout}")));
        }
        Ok(stderr)
    }

    /// The same whatever comes of it.
    pub(crate) fn try_docker(&self, line: &str) -> Said {
        let socket = format!("--host=unix://{}", self.machine.docker_socket().display());
        let mut words = vec![socket.as_str()];
        words.extend(line.split_whitespace());
        run("docker", &words)
    }

    /// `docker network create -d flannel --ipam-driver flannel OPTIONS NAME`
    pub(crate) fn network(&self, options_and_name: &str) -> Result<String> {
        self.docker(&format!("network create -d flannel --ipam-driver flannel {options_and_name}"))
    }

    /// Removes a network that many containers joined or left at once. Docker (20.10 to 28) may then count endpoints that
    /// are gone, with any driver: its count is changed without a lock (libnetwork's `atomicIncDecEpCnt`), and is put right
    /// when dockerd starts.
    pub(crate) fn remove_crowded_network(&mut self, name: &str) -> Result<()> {
        let said = self.try_docker(&format!("network rm {name}"));
        if said.ok || !said.stderr.contains("has active endpoints") {
            return if said.ok { Ok(()) } else { Err(Error::new(said.stderr)) };
        }
        self.dockerd.end(Signal::TERM)?;
        self.dockerd = self.machine.dockerd(&[])?;
        check("the count was wrong", self.dockerd.process().log().contains("Fixing inconsistent endpoint_cnt"), said)?;
        self.docker(&format!("network rm {name}")).map(drop)
    }

    /// A container that sleeps.
    pub(crate) fn sleeper(&self, options: &str) -> Result<String> {
        self.docker(&format!("run -d {options} {IMAGE} sleep 1000"))
    }

    /// A container that serves its own name by HTTP at port 80.
    pub(crate) fn server(&self, name: &str, options: &str) -> Result<()> {
        let docker = |words: &[&str]| self.machine.docker(words);
        let mut words = vec!["run", "-d", "--name", name, "--hostname", name];
        words.extend(options.split_whitespace());
        words.extend([IMAGE, "sh", "-c", "hostname > /index.html; exec httpd -f -p 80 -h /"]);
        docker(&words).map(drop)
    }

    /// Runs a command in a container.
    pub(crate) fn exec(&self, container: &str, line: &str) -> Result<String> {
        self.docker(&format!("exec {container} {line}"))
    }

    /// A container's value of a Go template below `.NetworkSettings.Networks`.
    pub(crate) fn place(&self, container: &str, network: &str, field: &str) -> Result<String> {
        self.docker(&format!("inspect -f {{{{.NetworkSettings.Networks.{network}.{field}}}}} {container}"))
    }

    /// A page as the host itself gets it.
    pub(crate) fn page(&self, address: &str) -> Result<String> {
        self.machine.exec(&format!("curl -gsS -m 5 http://{address}/index.html"))
    }

    /// A page as somebody outside gets it.
    pub(crate) fn page_outside(&self, lab: &Lab, address: &str) -> Result<String> {
        lab.host(2).exec(&format!("curl -gsS -m 5 http://{address}/index.html"))
    }

    /// A page as a container gets it; by address, since the names are those of the host.
    pub(crate) fn page_in(&self, container: &str, address: &str) -> Result<String> {
        let sandbox = self.docker(&format!("inspect -f {{{{.NetworkSettings.SandboxKey}}}} {container}"))?;
        self.machine.exec(&format!("nsenter --net={sandbox} curl -gsS -m 3 http://{address}/index.html"))
    }

    /// A container with a hardware address. Docker's newer commands refuse `--mac-address` for an older daemon, so this
    /// is what the older ones send.
    pub(crate) fn sleeper_with_mac(&self, name: &str, network: &str, mac: &str) -> Result<()> {
        let body = serde_json::json!({"Image": IMAGE, "Cmd": ["sleep", "1000"], "MacAddress": mac,
                                      "HostConfig": {"NetworkMode": network}});
        let mut command = self.machine.command("curl");
        command.args(["-sS", "--fail-with-body", "--unix-socket", "/var/run/docker.sock"]);
        command.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
        command.arg(format!("http://docker/v1.41/containers/create?name={name}"));
        self.machine.output(command)?;
        self.docker(&format!("start {name}")).map(drop)
    }

    /// Rules and table of the plugin that are left.
    pub(crate) fn leftovers(&self) -> Result<Vec<String>> {
        let mut all = self.machine.exec("ip -o link")?;
        for list in ["iptables-save", "ip6tables-save", "nft list tables"] {
            all.push_str(&self.machine.exec(list)?);
        }
        let ours = |l: &&str| l.contains("fl-") || l.contains("flh") || l.to_lowercase().contains("flannel-docker");
        Ok(all.lines().filter(ours).map(str::to_owned).collect())
    }

    /// A place for files that both sides see.
    pub(crate) fn directory(&self) -> PathBuf {
        self.machine.directory().to_owned()
    }
}

/// Waits until a page says this.
pub(crate) fn serves(what: &str, expected: &str, mut page: impl FnMut() -> Result<String>) -> Result<()> {
    eventually(what, SOON, || match page()?.trim() {
        said if said == expected => Ok(()),
        said => Err(Error::new(format!("it says {said:?}"))),
    })
}

/// Fails unless it is so.
pub(crate) fn check(what: &str, is_so: bool, seen: impl std::fmt::Debug) -> Result<()> {
    if is_so { Ok(()) } else { Err(Error::new(format!("{what}: {seen:?}"))) }
}
