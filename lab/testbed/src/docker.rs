//! A Docker of one's own on a [`Machine`]: the daemon, the client's commands, an image.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::output;
use crate::{Context, Error, Machine, Process, Result, Signal, eventually, machine};

/// How long a daemon may take to answer. For each network of a plugin that is not there it waits 15 s, and for each
/// container with a restart policy another 15 s.
const START: Duration = Duration::from_secs(90);

/// How long a command may take: Docker waits 60 s for a plugin that is not there.
const COMMAND: &str = "100";

/// What the image has: the applets of busybox that tests need.
const APPLETS: [&str; 10] = ["sh", "ping", "ping6", "ip", "nc", "nslookup", "httpd", "sleep", "wget", "true"];

/// The name of the image that [`Machine::import_image`] makes.
pub const IMAGE: &str = "busybox";

impl Machine {
    /// Starts dockerd with its usual places and `args`, and waits until it answers. It starts its own containerd.
    pub fn dockerd(&self, args: &[&str]) -> Result<Dockerd> {
        let dockerd = self.dockerd_unready(args)?;
        dockerd.ready()?;
        Ok(dockerd)
    }

    /// The same without waiting.
    pub fn dockerd_unready(&self, args: &[&str]) -> Result<Dockerd> {
        let mut command = self.command("dockerd");
        // Cgroups are shared with the real machine. The storage driver is named because the others are slow here.
        command.arg(format!("--cgroup-parent=/{}", self.cgroup()));
        command.args(["--host=unix:///var/run/docker.sock", "--storage-driver=overlay2"]).args(args);
        let process = self.start("dockerd", command)?;
        Ok(Dockerd { process, socket: self.docker_socket() })
    }

    /// Docker's socket, seen from outside.
    pub fn docker_socket(&self) -> PathBuf {
        self.run_directory().join("docker.sock")
    }

    /// `docker`, to be given words.
    pub fn docker_command(&self) -> Command {
        let mut command = Command::new("timeout");
        command.args([COMMAND, "docker"]).arg(format!("--host=unix://{}", self.docker_socket().display()));
        for name in ["DOCKER_HOST", "DOCKER_CONTEXT"] {
            command.env_remove(name);
        }
        // Whoever runs the tests may have settings of their own.
        command.env("PATH", machine::path()).env("DOCKER_CONFIG", self.directory().join("docker-client"));
        command
    }

    /// Runs a `docker` command that must succeed; what it prints, trimmed.
    pub fn docker(&self, words: &[&str]) -> Result<String> {
        Ok(output(self.docker_command().args(words))?.trim().to_owned())
    }

    /// The same of a line of words without quotes.
    pub fn docker_line(&self, line: &str) -> Result<String> {
        self.docker(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Makes the image [`IMAGE`] out of the machine's busybox, without a registry.
    pub fn import_image(&self) -> Result<()> {
        let root = self.directory().join("image");
        let at = |path: &Path| path.display().to_string();
        std::fs::create_dir_all(root.join("bin")).context(|| at(&root))?;
        std::fs::copy("/bin/busybox", root.join("bin/busybox"))
            .context(|| "/bin/busybox (apt-get install busybox-static)".to_owned())?;
        for applet in APPLETS {
            let link = root.join("bin").join(applet);
            std::os::unix::fs::symlink("busybox", &link).context(|| at(&link))?;
        }
        let tar = self.directory().join("image.tar");
        output(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."))?;
        self.docker(&["import", &at(&tar), IMAGE]).map(drop)
    }

    /// Makes the bridge that Docker makes for the first container without a gateway, and which then stays, so that a
    /// comparison of before and after does not see it come.
    pub fn make_gateway_bridge(&self) -> Result<()> {
        let options = ["bridge.name=docker_gwbridge", "bridge.enable_icc=false", "bridge.enable_ip_masquerade=true"];
        let options: Vec<_> = options.iter().map(|o| format!("com.docker.network.{o}")).collect();
        let mut words = vec!["network", "create", "--driver=bridge"];
        for option in &options {
            words.extend(["-o", option]);
        }
        words.push("docker_gwbridge");
        self.docker(&words).map(drop)
    }
}

/// A daemon. It is ended by [`Dockerd::end`], or with its machine.
#[derive(Debug, Clone)]
pub struct Dockerd {
    process: Process,
    socket: PathBuf,
}

impl Dockerd {
    /// Waits until it answers.
    pub fn ready(&self) -> Result<()> {
        eventually("dockerd's first answer", START, || {
            if let Some(status) = self.process.exited()? {
                return Err(Error::new(format!("dockerd ended, {status}:\n{}", self.process.log())));
            }
            let answer = ping(&self.socket).context(|| self.socket.display().to_string())?;
            if answer.starts_with("HTTP/1.0 200") { Ok(()) } else { Err(Error::new(answer)) }
        })
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Sends `signal` and waits for its end.
    pub fn end(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)?;
        self.process.exit_within(START).map(drop)
    }
}

fn ping(socket: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
