//! A container on a flannel network of a host: the end of the paths that are tried.

use crate::host::LabHost;
use crate::{Error, Result};

/// The file that every workload serves by HTTP.
const BLOB: &str = "/srv/blob";

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

/// The bytes that a workload serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// How many.
    pub bytes: u64,
    /// Their SHA-256, in hex.
    pub sha256: String,
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
    /// Makes sure that the container runs on the network, and reads its addresses.
    pub async fn ensure(host: &LabHost, network: &str, name: &str) -> Result<Self> {
        let state = host.exec(&["docker", "inspect", "-f", "{{.State.Running}}", name]).await?;
        match state.stdout.trim() {
            "true" => {}
            "false" => host.docker(&["start", name]).await.map(drop)?,
            _ => host.docker(&["run", "-d", "--name", name, "--network", network, "busybox"]).await.map(drop)?,
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

    /// Makes the container serve so many random bytes; those of an earlier run are served again.
    pub async fn serve(&self, bytes: u64) -> Result<Blob> {
        let command = format!(
            "if [ \"$(stat -c %s {BLOB} 2>/dev/null)\" != {bytes} ]; then head -c {bytes} /dev/urandom > {BLOB}; fi; \
             sha256sum < {BLOB}"
        );
        let output = self.sh(&command).await?;
        let sha256 = output.stdout.split_whitespace().next().unwrap_or_default().to_owned();
        if output.code != 0 || sha256.len() != 64 {
            return Err(Error::State(format!("{}: cannot make {BLOB}: {}", self.label(), output.said())));
        }
        Ok(Blob { bytes, sha256 })
    }
}
