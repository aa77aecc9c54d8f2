//! One host of the lab: a container with two dockerds, and flannel's lease.

use std::collections::HashMap;
use std::time::Duration;

use crate::engine::{Engine, Output};
use crate::eventually::{Condition, eventually};
use crate::{Error, Result};

/// The Docker that runs the flannel image.
const EARLY_SOCKET: &str = "unix:///run/docker-early.sock";

/// A host of the lab.
#[derive(Debug, Clone)]
pub struct LabHost {
    /// What people call it: `host1`.
    pub name: String,
    /// The container that it is.
    pub container: String,
    engine: Engine,
}

impl LabHost {
    /// The host in this container.
    #[must_use]
    pub fn new(engine: Engine, name: impl Into<String>, container: impl Into<String>) -> Self {
        Self { name: name.into(), container: container.into(), engine }
    }

    /// The engine in which the host is a container.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Runs a command on the host, whatever its exit code.
    pub async fn exec(&self, command: &[&str]) -> Result<Output> {
        self.engine.exec(&self.container, command).await
    }

    /// Runs a command on the host that must succeed; its standard output, trimmed.
    pub async fn run(&self, command: &[&str]) -> Result<String> {
        self.engine.run(&self.container, command).await
    }

    /// Runs the host's `docker` with these words.
    pub async fn docker(&self, words: &[&str]) -> Result<String> {
        self.run(&[&["docker"], words].concat()).await
    }

    /// Runs `docker` with these words for the early Docker.
    pub async fn early_docker(&self, words: &[&str]) -> Result<String> {
        self.run(&[&["docker", "-H", EARLY_SOCKET], words].concat()).await
    }

    /// Waits until flannel has a lease and the main Docker answers.
    pub async fn ready(&self, within: Duration) -> Result<()> {
        let what = format!("{} is ready (flannel has a lease, Docker answers)", self.name);
        eventually(&what, within, async || {
            let state = self.engine.inspect(&self.container).await?.state.unwrap_or_default();
            if !state.running.unwrap_or(false) {
                let log = self.engine.tail(&self.container, 5).await;
                return Err(Error::State(format!("{} stopped while starting: {}", self.name, log.trim())));
            }
            if self.exec(&["test", "-e", "/run/lab/ready"]).await?.code == 0 {
                return Ok(Condition::Ready(()));
            }
            Ok(Condition::NotYet(self.engine.tail(&self.container, 1).await.trim().to_owned()))
        })
        .await
    }

    /// The host's `subnet.env`, name by name.
    pub async fn subnet_env(&self) -> Result<HashMap<String, String>> {
        Ok(variables(&self.run(&["cat", "/run/flannel/subnet.env"]).await?))
    }

    /// The host's lease, as `subnet.env` has it: `10.5.7.1/24`.
    pub async fn lease(&self) -> Result<String> {
        self.subnet_env().await?.remove("FLANNEL_SUBNET").ok_or_else(|| {
            Error::State(format!("{}: subnet.env has no FLANNEL_SUBNET: look at flannel's log", self.name))
        })
    }
}

/// The assignments of a text, one a line.
fn variables(text: &str) -> HashMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::variables;

    #[test]
    fn reads_assignments() {
        let read = variables("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_MTU=1450\n\nnot one\n");
        assert_eq!(read.len(), 2);
        assert_eq!(read["FLANNEL_NETWORK"], "10.5.0.0/16");
        assert_eq!(read["FLANNEL_MTU"], "1450");
    }
}
