//! A container on a flannel network of a host: the end of the paths that are tried.

mod matrix;

use crate::host::LabHost;
use crate::measure::{PORT, PUBLISHED};
use crate::{Error, Result};

pub use matrix::Trial;

/// This program on a host, and in a workload.
const PROGRAM: (&str, &str) = ("/images/flannel-lab", "/bin/flannel-lab");
/// The label of a workload that says which build of the program it serves with.
const LABEL: &str = "flannel.lab.program";

/// How a network gets its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipam {
    /// The plain `docker network create -d flannel`: Docker takes a pool from the lease.
    Docker,
    /// `--ipam-driver flannel`: the plugin hands out the lease.
    Flannel,
}

/// A running container on a host's flannel network.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Where it runs.
    pub host: LabHost,
    /// The container's name on the host.
    pub name: String,
    /// Its address on the flannel network.
    pub address: String,
    /// The network's gateway: the address of the host's bridge, inside the lease.
    pub gateway: String,
    /// The network it is on.
    pub network: String,
}

/// Makes the network on the host unless it is there.
pub async fn ensure_network(host: &LabHost, network: &str, ipam: Ipam) -> Result<()> {
    let present = host.exec(&["docker", "network", "inspect", "-f", "{{.Driver}}", network]).await?;
    match present.stdout.trim() {
        "flannel" => return Ok(()),
        "" => {}
        other => {
            return Err(Error::State(format!(
                "{}: network {network} belongs to the driver {other}: give another name, or docker network rm {network}",
                host.name
            )));
        }
    }
    let mut words = vec!["network", "create", "-d", "flannel"];
    if ipam == Ipam::Flannel {
        words.extend(["--ipam-driver", "flannel"]);
    }
    words.push(network);
    host.docker(&words).await.map(drop)
}

impl Workload {
    /// Makes sure that the container runs on the network and serves, at a published port too, and reads its addresses.
    pub async fn ensure(host: &LabHost, network: &str, name: &str) -> Result<Self> {
        let sum = host.run(&["sha256sum", PROGRAM.0]).await?;
        let build = sum.split_whitespace().next().unwrap_or_default();
        let format = format!("{{{{.State.Running}}}} {{{{index .Config.Labels \"{LABEL}\"}}}}");
        let state = host.exec(&["docker", "inspect", "-f", &format, name]).await?;
        match state.stdout.trim().split_once(' ') {
            Some(("true", other)) if other == build => {}
            Some((_, other)) if other == build => host.docker(&["start", name]).await.map(drop)?,
            found => {
                if found.is_some() {
                    host.docker(&["rm", "-f", name]).await?;
                }
                let (mount, publish) = (format!("{}:{}:ro", PROGRAM.0, PROGRAM.1), format!("{PUBLISHED}:{PORT}"));
                let label = format!("{LABEL}={build}");
                let words = ["run", "-d", "--name", name, "--network", network, "--label", &label, "-v", &mount];
                let words = [&words[..], &["-p", &publish, "busybox", PROGRAM.1, "serve"]].concat();
                host.docker(&words).await.map(drop)?;
            }
        }
        let address = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        let address = host.docker(&["inspect", "-f", &address, name]).await?;
        // The range's last item: the gateway may be written with a mask, by an IPAM driver.
        let gateway = host
            .docker(&["network", "inspect", "-f", "{{range .IPAM.Config}}{{.Gateway}}{{end}}", network])
            .await?
            .split('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        if address.is_empty() || gateway.is_empty() {
            return Err(Error::State(format!(
                "{}: container {name} has address {address:?} and gateway {gateway:?} on network {network}: \
                 see docker inspect {name} there",
                host.name
            )));
        }
        Ok(Self { host: host.clone(), name: name.to_owned(), address, gateway, network: network.to_owned() })
    }

    /// `c1 on host1`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{} on {}", self.name, self.host.name)
    }

    /// Runs a shell command in the container, whatever its exit code.
    pub async fn sh(&self, command: &str) -> Result<crate::engine::Output> {
        self.host.exec(&["docker", "exec", &self.name, "sh", "-c", command]).await
    }
}
