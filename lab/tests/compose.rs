//! `compose/compose.yaml`, written for readers, and what `flannel-lab` gives to compose for the same topology are the same
//! lab. Compose itself normalises both; it needs no Docker daemon for that.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use flannel_lab::compose::Project;
use flannel_lab::topology::Topology;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose").canonicalize().unwrap()
}

/// `compose -f FILE config`, run in `compose/`. Docker's plugin if there is one, else docker-compose.
async fn normalised(file: &str, input: &str) -> String {
    let plugin = Command::new("docker").args(["compose", "version"]).output().await;
    let program: &[&str] =
        if plugin.is_ok_and(|output| output.status.success()) { &["docker", "compose"] } else { &["docker-compose"] };
    let mut child = Command::new(program[0])
        .args(&program[1..])
        .args(["-f", file, "config"])
        .current_dir(directory())
        // The file of defaults is part of what is tested.
        .env_remove("LAB_TAG")
        .env_remove("COMPOSE_PROJECT_NAME")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}: run ci/setup", program.join(" ")));
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The text without what only the written file has: how its images are built, the version of the format, shared parts.
fn comparable(text: &str) -> Vec<&str> {
    let mut skipped = None;
    let mut lines = Vec::new();
    for line in text.lines() {
        let word = line.trim_start();
        let indent = line.len() - word.len();
        if skipped.is_some_and(|outer| indent > outer) {
            continue;
        }
        let skip = word == "build:" || indent == 0 && (word.starts_with("version:") || word.starts_with("x-"));
        skipped = skip.then_some(indent);
        if !skip {
            lines.push(line);
        }
    }
    lines
}

#[tokio::test]
async fn the_compose_file_is_the_lab_that_flannel_lab_makes() {
    let images = directory().parent().unwrap().join("target/images");
    let project = Project {
        name: "flannel-lab".to_owned(),
        topology: Topology::load("three-hosts").unwrap(),
        underlays: vec!["172.29.77".to_owned()],
        images,
        tag: "latest".to_owned(),
    };
    let written = normalised("compose.yaml", "").await;
    let made = normalised("-", &project.file().to_string()).await;
    assert_eq!(comparable(&written), comparable(&made), "compose/compose.yaml and lab/src/compose.rs differ");
    assert!(written.contains("images/host"), "compose builds the hosts' image: {written}");
}
