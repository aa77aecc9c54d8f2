//! The Docker engine of this machine: looking at containers and running commands in them.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{ListContainersOptions, LogsOptions, RemoveContainerOptions, RestartContainerOptions};
use futures_util::{Stream, StreamExt as _};

use crate::{Error, Result};

/// The longest that a command in a container may take: longer than Docker waits for a plugin that is not there.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// A connection to dockerd.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
}

/// What a command in a container left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i64,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Both streams in one, for messages.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{} {}", self.stderr.trim(), self.stdout.trim()).trim().to_owned()
    }
}

impl Engine {
    /// Connects to the engine that `docker` would use (`DOCKER_HOST`, else the local socket).
    pub async fn connect() -> Result<Self> {
        let docker = Docker::connect_with_defaults().map_err(Error::docker("connect"))?;
        let docker = docker
            .negotiate_version()
            .await
            .map_err(Error::docker("connect (is dockerd running? ci/setup starts it)"))?;
        Ok(Self { docker })
    }

    /// The client itself, for what this type has no method for.
    #[must_use]
    pub fn client(&self) -> &Docker {
        &self.docker
    }

    /// Runs a command in a container and waits for its end, whatever its exit code. A command that hangs is an error
    /// after [`COMMAND_LIMIT`]; it goes on in the container.
    pub async fn exec(&self, container: &str, command: &[&str]) -> Result<Output> {
        tokio::time::timeout(COMMAND_LIMIT, self.exec_to_end(container, command)).await.unwrap_or_else(|_| {
            Err(Error::Timeout {
                what: format!("{container}: `{}` ends", command.join(" ")),
                within: COMMAND_LIMIT,
                last: "it still runs".to_owned(),
            })
        })
    }

    async fn exec_to_end(&self, container: &str, command: &[&str]) -> Result<Output> {
        let doing = || format!("run `{}` in {container}", command.join(" "));
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.to_vec()),
            ..Default::default()
        };
        let id = self.docker.create_exec(container, options).await.map_err(Error::docker(doing()))?.id;
        let started = self.docker.start_exec(&id, None).await.map_err(Error::docker(doing()))?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if let StartExecResults::Attached { mut output, .. } = started {
            while let Some(piece) = output.next().await {
                match piece.map_err(Error::docker(doing()))? {
                    LogOutput::StdErr { message } => stderr.extend_from_slice(&message),
                    other => stdout.extend_from_slice(&other.into_bytes()),
                }
            }
        }
        let ended = self.docker.inspect_exec(&id).await.map_err(Error::docker(doing()))?;
        let code = ended.exit_code.ok_or_else(|| Error::State(format!("{}: no exit code (still running)", doing())))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Output { code, stdout: text(stdout), stderr: text(stderr) })
    }

    /// Runs a command that must succeed; its standard output, trimmed.
    pub async fn run(&self, container: &str, command: &[&str]) -> Result<String> {
        let output = self.exec(container, command).await?;
        if output.code != 0 {
            return Err(Error::Command {
                container: container.to_owned(),
                command: command.join(" "),
                code: output.code,
                output: output.said(),
            });
        }
        Ok(output.stdout.trim().to_owned())
    }

    /// Copies a file of a container.
    pub async fn copy(&self, container: &str, from: &str, to: &Path) -> Result<()> {
        let command = format!("docker cp {container}:{from} {}", to.display());
        let failed = |reason: String| Error::Program { command: command.clone(), reason };
        let mut copy = tokio::process::Command::new("docker");
        let output = copy.arg("cp").arg(format!("{container}:{from}")).arg(to).output().await.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    /// A container's description.
    pub async fn inspect(&self, container: &str) -> Result<ContainerInspectResponse> {
        self.docker.inspect_container(container, None).await.map_err(Error::docker(format!("inspect {container}")))
    }

    /// The containers, running or not, with all the labels; their names and labels.
    pub async fn labelled(&self, labels: &[(&str, &str)]) -> Result<Vec<(String, HashMap<String, String>)>> {
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), wanted)])),
            ..Default::default()
        };
        let found = self.docker.list_containers(Some(options)).await.map_err(Error::docker("list containers"))?;
        Ok(found
            .into_iter()
            .filter_map(|container| {
                let name = container.names?.into_iter().next()?.trim_start_matches('/').to_owned();
                Some((name, container.labels.unwrap_or_default()))
            })
            .collect())
    }

    /// The id of an image, or what to do to have it.
    pub async fn image_id(&self, image: &str) -> Result<String> {
        match self.docker.inspect_image(image).await {
            Ok(found) => Ok(found.id.unwrap_or_default()),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                Err(Error::State(format!("image {image} is missing: run ci/images")))
            }
            Err(other) => Err(Error::docker(format!("inspect image {image}"))(other)),
        }
    }

    /// The subnets of all networks, by network name.
    pub async fn subnets(&self) -> Result<Vec<(String, String)>> {
        let networks = self.docker.list_networks(None).await.map_err(Error::docker("list networks"))?;
        let mut subnets = Vec::new();
        for network in networks {
            let name = network.name.unwrap_or_default();
            for config in network.ipam.and_then(|ipam| ipam.config).unwrap_or_default() {
                subnets.extend(config.subnet.map(|subnet| (name.clone(), subnet)));
            }
        }
        Ok(subnets)
    }

    /// Removes a container, running or not, with its volumes.
    pub async fn remove(&self, container: &str) -> Result<()> {
        let options = RemoveContainerOptions { force: true, v: true, link: false };
        self.docker
            .remove_container(container, Some(options))
            .await
            .map_err(Error::docker(format!("remove container {container}")))
    }

    /// The names of the networks with a label.
    pub async fn labelled_networks(&self, label: &str, value: &str) -> Result<Vec<String>> {
        let networks = self.docker.list_networks(None).await.map_err(Error::docker("list networks"))?;
        let wanted = |labels: &HashMap<String, String>| labels.get(label).is_some_and(|found| found == value);
        Ok(networks
            .into_iter()
            .filter(|network| network.labels.as_ref().is_some_and(wanted))
            .filter_map(|network| network.name)
            .collect())
    }

    /// Removes a network.
    pub async fn remove_network(&self, network: &str) -> Result<()> {
        self.docker.remove_network(network).await.map_err(Error::docker(format!("remove network {network}")))
    }

    /// Restarts a container, with a second for an orderly end.
    pub async fn restart(&self, container: &str) -> Result<()> {
        let options = RestartContainerOptions { t: Some(1), signal: None };
        self.docker
            .restart_container(container, Some(options))
            .await
            .map_err(Error::docker(format!("restart {container}")))
    }

    /// The lines a container writes from the Unix time `since` on, as they come.
    pub fn follow(&self, container: &str, since: i32) -> impl Stream<Item = String> + use<> {
        let options = LogsOptions { follow: true, stdout: true, stderr: true, since, ..Default::default() };
        // The stream ends with the container; a broken one ends too, and whoever waits for a condition will see why.
        self.docker
            .logs(container, Some(options))
            .filter_map(async |line| Some(String::from_utf8_lossy(&line.ok()?.into_bytes()).trim_end().to_owned()))
    }

    /// The last lines a container wrote.
    pub async fn tail(&self, container: &str, lines: u32) -> String {
        let options = LogsOptions { stdout: true, stderr: true, tail: lines.to_string(), ..Default::default() };
        let pieces: Vec<_> = self.docker.logs(container, Some(options)).collect().await;
        pieces
            .into_iter()
            .map(|piece| match piece {
                Ok(line) => String::from_utf8_lossy(&line.into_bytes()).into_owned(),
                Err(error) => format!("(no log: {error})\n"),
            })
            .collect()
    }
}
