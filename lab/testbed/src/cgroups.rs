//! The cgroups of a machine's containers: a directory of one name in each hierarchy.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{Context, Error, Result, SOON, eventually};

const ROOT: &str = "/sys/fs/cgroup";

/// Removes the cgroup `name` from every hierarchy; its processes must have been killed.
pub(super) fn remove(name: &str) -> Result<()> {
    // The last process may have been reaped a moment before its cgroup knows.
    eventually(&format!("cgroup {name} is empty"), SOON, || {
        places(name).into_iter().filter(|p| p.exists()).try_for_each(|place| remove_tree(&place))
    })
}

/// Names directly below the hierarchies, each once.
pub(super) fn names() -> Vec<String> {
    let mut names: Vec<String> = hierarchies().iter().flat_map(|h| directories(h)).filter_map(name_of).collect();
    names.sort();
    names.dedup();
    names
}

/// Version 1 has a directory a controller, version 2 one tree; both are there on a hybrid host.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(ROOT);
    let mut all = directories(&root);
    all.push(root);
    all
}

fn places(name: &str) -> Vec<PathBuf> {
    hierarchies().iter().map(|h| h.join(name)).collect()
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "for filter_map over paths that nobody else wants")]
fn name_of(path: PathBuf) -> Option<String> {
    path.file_name()?.to_str().map(str::to_owned)
}

fn remove_tree(path: &Path) -> Result<()> {
    for inner in directories(path) {
        remove_tree(&inner)?;
    }
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::new(format!("{}: {e}", path.display()))).context(|| "removing".to_owned()),
    }
}
