//! What a user types on a [`Site`], and what is seen then.

use std::process::{Command, Stdio};

use flannel_testbed::{Error, IMAGE, Result, Signal, eventually};

use super::{PATIENCE, SOON, Site};

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, whatever comes of it.
#[expect(clippy::disallowed_methods, reason = "a test has nothing else to do while the command runs")]
pub(crate) fn run(command: &mut Command) -> Result<Said> {
    let line = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().map_err(|e| Error::new(format!("{line}: {e}")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(Said { ok: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) })
}

/// Fails unless it is so.
pub(crate) fn check(what: &str, is_so: bool, seen: impl std::fmt::Debug) -> Result<()> {
    if is_so { Ok(()) } else { Err(Error::new(format!("{what}: {seen:?}"))) }
}

/// Waits until a page says this.
pub(crate) fn serves(what: &str, expected: &str, mut page: impl FnMut() -> Result<String>) -> Result<()> {
    eventually(what, SOON, || match page()?.trim() {
        said if said == expected => Ok(()),
        said => Err(Error::new(format!("it says {said:?}"))),
    })
}

impl Site {
    /// A `docker` command line, of words without quotes, that must succeed.
    pub(crate) fn docker(&self, line: &str) -> Result<String> {
        self.machine().docker_line(line)
    }

    /// One that must be refused; what is said then.
    pub(crate) fn refused(&self, line: &str) -> Result<String> {
        match self.try_docker(line)? {
            Said { ok: false, stderr, .. } => Ok(stderr),
            said => Err(Error::new(format!("docker {line} succeeded: {}", said.stdout))),
        }
    }

    /// The same whatever comes of it.
    pub(crate) fn try_docker(&self, line: &str) -> Result<Said> {
        run(self.machine().docker_command().args(line.split_whitespace()))
    }

    /// `docker network create -d flannel --ipam-driver flannel OPTIONS NAME`
    pub(crate) fn network(&self, options_and_name: &str) -> Result<String> {
        self.docker(&format!("network create -d flannel --ipam-driver flannel {options_and_name}"))
    }

    /// Removes a network that many containers joined or left at once. Docker (20.10 to 28) may then count endpoints that
    /// are gone, with any driver: its count is changed without a lock (libnetwork's `atomicIncDecEpCnt`), and is put right
    /// when dockerd starts.
    pub(crate) fn remove_crowded_network(&self, name: &str) -> Result<()> {
        let said = self.try_docker(&format!("network rm {name}"))?;
        if said.ok || !said.stderr.contains("has active endpoints") {
            return if said.ok { Ok(()) } else { Err(Error::new(said.stderr)) };
        }
        self.end_docker(Signal::TERM)?;
        self.start_docker()?;
        check("the count was wrong", self.docker_log().contains("Fixing inconsistent endpoint_cnt"), said)?;
        self.docker(&format!("network rm {name}")).map(drop)
    }

    /// A container that sleeps. SIGKILL ends it, so that nobody waits for one that is deaf to SIGTERM.
    pub(crate) fn run(&self, network: &str, name: &str, options: &str) -> Result<String> {
        self.sleeper(&format!("--name {name} --network {network} {options}"))
    }

    /// The same with all of its options.
    pub(crate) fn sleeper(&self, options: &str) -> Result<String> {
        self.docker(&format!("run -d --stop-signal SIGKILL {options} {IMAGE} sleep 100000"))
    }

    /// A container that serves its own name by HTTP at port 80.
    pub(crate) fn server(&self, name: &str, options: &str) -> Result<()> {
        let mut words = vec!["run", "-d", "--name", name, "--hostname", name];
        words.extend(options.split_whitespace());
        words.extend([IMAGE, "sh", "-c", "hostname > /index.html; exec httpd -f -p 80 -h /"]);
        self.machine().docker(&words).map(drop)
    }

    /// A container with a hardware address. Docker's newer commands refuse `--mac-address` for an older daemon, so this
    /// is what the older ones send.
    pub(crate) fn sleeper_with_mac(&self, name: &str, network: &str, mac: &str) -> Result<()> {
        let body = serde_json::json!({"Image": IMAGE, "Cmd": ["sleep", "1000"], "MacAddress": mac,
                                      "HostConfig": {"NetworkMode": network}});
        let mut command = self.machine().command("curl");
        command.args(["-sS", "--fail-with-body", "--unix-socket", "/var/run/docker.sock"]);
        command.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
        command.arg(format!("http://docker/v1.41/containers/create?name={name}"));
        self.machine().output(command)?;
        self.docker(&format!("start {name}")).map(drop)
    }

    /// Runs a command in a container.
    pub(crate) fn exec(&self, container: &str, line: &str) -> Result<String> {
        self.docker(&format!("exec {container} {line}"))
    }

    /// One container reaches another, by name or address.
    pub(crate) fn ping(&self, from: &str, to: &str) -> Result<()> {
        self.exec(from, &format!("ping -c 1 -W 2 {to}")).map(drop)
    }

    /// The same, as soon as it can be.
    pub(crate) fn talks(&self, from: &str, to: &str) -> Result<()> {
        eventually(&format!("{from} reaches {to}"), PATIENCE, || self.ping(from, to))
    }

    /// A container's value of a Go template below its place in a network.
    pub(crate) fn place(&self, container: &str, network: &str, field: &str) -> Result<String> {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").{field}}}}}");
        self.machine().docker(&["inspect", "-f", &format, container])
    }

    /// The container's address in the network.
    pub(crate) fn address(&self, network: &str, container: &str) -> Result<String> {
        self.place(container, network, "IPAddress")
    }

    /// A page as the host itself gets it.
    pub(crate) fn page(&self, address: &str) -> Result<String> {
        self.machine().exec(&format!("curl -gsS -m 5 http://{address}/index.html"))
    }

    /// A page as somebody outside gets it.
    pub(crate) fn page_outside(&self, address: &str) -> Result<String> {
        self.outside().exec(&format!("curl -gsS -m 5 http://{address}/index.html"))
    }

    /// A page as a container gets it; by address, since the names are those of the host.
    pub(crate) fn page_in(&self, container: &str, address: &str) -> Result<String> {
        let sandbox = self.docker(&format!("inspect -f {{{{.NetworkSettings.SandboxKey}}}} {container}"))?;
        self.machine().exec(&format!("nsenter --net={sandbox} curl -gsS -m 3 http://{address}/index.html"))
    }
}
