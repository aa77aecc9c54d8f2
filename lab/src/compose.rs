//! Docker Compose: the plugin where it exists, else the old program of its own.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::{Error, Result};

/// The compose file, so that the program needs no source tree.
const FILE: &str = include_str!("../../compose/lab.yaml");

/// A lab as compose sees it: a project and the file's variables.
#[derive(Debug, Clone)]
pub struct Project {
    /// The project's name; it begins the names of all its containers.
    pub name: String,
    /// The backend in etcd's config.
    pub backend: String,
    /// First three numbers of the underlay's addresses.
    pub underlay: String,
    /// Where the image files are.
    pub images: PathBuf,
}

/// Which program there is.
async fn program() -> Result<Vec<&'static str>> {
    for words in [vec!["docker", "compose"], vec!["docker-compose"]] {
        let probe = Command::new(words[0])
            .args(&words[1..])
            .arg("version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        if probe.is_ok_and(|status| status.success()) {
            return Ok(words);
        }
    }
    Err(Error::State("neither `docker compose` nor docker-compose is there: run ci/setup".to_owned()))
}

impl Project {
    /// Makes what is missing and starts it; what runs already and is as the file says stays as it is.
    pub async fn up(&self) -> Result<()> {
        self.run(&["up", "-d"]).await
    }

    /// Removes the project's containers, their volumes and the network.
    pub async fn down(&self) -> Result<()> {
        self.run(&["down", "-v", "-t", "0"]).await
    }

    async fn run(&self, words: &[&str]) -> Result<()> {
        let program = program().await?;
        let shown = format!("{} -p {} {}", program.join(" "), self.name, words.join(" "));
        let failed = |reason: String| Error::Program { command: shown.clone(), reason };
        let mut child = Command::new(program[0])
            .args(&program[1..])
            .args(["-p", &self.name, "-f", "-"])
            .args(words)
            .env("BACKEND", &self.backend)
            .env("LAB_UNDERLAY", &self.underlay)
            .env("LAB_IMAGES", &self.images)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(FILE.as_bytes()).await.map_err(|error| failed(error.to_string()))?;
        }
        let output = child.wait_with_output().await.map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = said.lines().collect();
            return Err(failed(format!("{}\n{}", output.status, lines[lines.len().saturating_sub(12)..].join("\n"))));
        }
        Ok(())
    }
}
