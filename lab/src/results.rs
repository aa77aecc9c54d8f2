//! What `matrix`, `fault` and `bench` found, kept as files for the report and the failure matrix.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bench::Bench;
use crate::faults::Outcome;
use crate::matrix::Matrix;
use crate::topology::Topology;
use crate::{Error, Result};

/// Everything that was kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// One for each topology, backend and runner.
    pub matrices: Vec<Matrix>,
    /// The topologies of these.
    pub topologies: Vec<Topology>,
    /// One for each fault and backend.
    pub faults: Vec<Outcome>,
    /// Throughput.
    pub bench: Option<Bench>,
    /// Versions and settings, as name and value.
    pub settings: Vec<(String, String)>,
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::State(format!("{}: {error}", path.display()))
}

/// Writes a value as JSON, with the directories it needs.
pub fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed(path))?;
    }
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::State(format!("{}: {e}", path.display())))?;
    std::fs::write(path, text).map_err(failed(path))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(failed(path))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::State(format!("{}: {e}: of another version? delete it", path.display())))
}

/// Keeps a matrix and its topology.
pub fn keep_matrix(directory: &Path, matrix: &Matrix, topology: &Topology) -> Result<()> {
    let name = format!("{}-{}-{}.json", matrix.runner, matrix.topology, matrix.backend);
    write(&directory.join("matrix").join(name), &(matrix, topology))
}

/// Keeps outcomes, each in place of an earlier one of the same fault and backend.
pub fn keep_faults(directory: &Path, outcomes: &[Outcome]) -> Result<()> {
    for outcome in outcomes {
        write(&directory.join("fault").join(format!("{}-{}.json", outcome.fault, outcome.backend)), outcome)?;
    }
    Ok(())
}

/// Keeps a bench.
pub fn keep_bench(directory: &Path, bench: &Bench) -> Result<()> {
    write(&directory.join("bench.json"), bench)
}

/// Reads all that was kept. Faults come in the order they are listed in.
pub fn load(directory: &Path) -> Result<Results> {
    let mut results = Results::default();
    for path in files(&directory.join("matrix"))? {
        let (matrix, topology): (Matrix, Topology) = read(&path)?;
        results.matrices.push(matrix);
        results.topologies.push(topology);
    }
    for path in files(&directory.join("fault"))? {
        results.faults.push(read(&path)?);
    }
    let order: Vec<&str> = crate::faults::all().iter().map(|fault| fault.name).collect();
    let place = |outcome: &Outcome| order.iter().position(|name| *name == outcome.fault).unwrap_or(order.len());
    let backend =
        |outcome: &Outcome| crate::args::BACKENDS.iter().position(|name| *name == outcome.backend).unwrap_or(0);
    results.faults.sort_by_key(|outcome| (place(outcome), backend(outcome)));
    let bench = directory.join("bench.json");
    if bench.exists() {
        results.bench = Some(read(&bench)?);
    }
    if results.matrices.is_empty() && results.faults.is_empty() && results.bench.is_none() {
        return Err(Error::State(format!(
            "{}: nothing was tried yet: run flannel-lab matrix, fault or bench first",
            directory.display()
        )));
    }
    Ok(results)
}

/// The JSON files of a directory, by name; none if it is not there.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed(directory))?,
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .collect();
    paths.sort();
    Ok(paths)
}
