//! What must survive a restart: networks, endpoints, pools. Docker announces each of them once.
//!
//! One JSON file with a version, written whole and moved into place (temporary file, fsync, rename, fsync of the
//! directory) before a call that changed it is answered. Calls that arrive while a write is under way share the next
//! one. A file that can't be read is set aside, never overwritten.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flannel_host::files;
use serde::Deserialize;
use tracing::{error, warn};

use crate::error::Error;
use copies::{Batch, Copies};
use state::VERSION;
pub use state::{Endpoint, Network, State, Subnet, WITHOUT_IPAM};

mod copies;
pub mod lease;
pub mod pool;
pub mod port;
mod state;

/// The file's name.
const FILE: &str = "state.json";

/// The state with its file.
#[derive(Debug)]
pub struct Store {
    file: Arc<StateFile>,
    lost: bool,
    // Locked for the process's lifetime: two writers would overwrite each other's changes.
    _lock: File,
}

#[derive(Debug)]
struct StateFile {
    path: PathBuf,
    copies: Mutex<Copies>,
    /// Reserved while the file is written.
    writing: tokio::sync::Mutex<()>,
}

impl Store {
    /// Reads the state in `dir`, which is made if need be and belongs to this process from now on.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let failed = |path: &Path, e: &dyn std::fmt::Display| {
            Error::State(format!(
                "{}: {e}; make it readable and writable, or name another place with -state-dir",
                path.display()
            ))
        };
        fs::create_dir_all(dir).map_err(|e| failed(dir, &e))?;
        let lock_path = dir.join("lock");
        let lock = File::create(&lock_path).map_err(|e| failed(&lock_path, &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = "is in use by another flannel-docker; stop that one, or name another place with -state-dir";
                return Err(Error::State(format!("{} {text}", dir.display())));
            }
            Err(TryLockError::Error(e)) => return Err(failed(&lock_path, &e)),
        }
        let path = dir.join(FILE);
        let read = match fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(failed(&path, &e)),
        };
        let lost = read.is_none();
        let mut state = read.unwrap_or_default();
        // Docker gives up a network whose creation we did not see the end of.
        state.pools.retain(|_, pool| pool.network.as_ref().is_some_and(|n| state.networks.contains_key(n)));
        let copies = Mutex::new(Copies::new(state));
        let file = Arc::new(StateFile { path, copies, writing: tokio::sync::Mutex::default() });
        Ok(Self { file, lost, _lock: lock })
    }

    /// Whether there was no state to read: at the first start, and after it was damaged.
    pub fn was_lost(&self) -> bool {
        self.lost
    }

    /// Reads the state.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(self.file.copies().pending())
    }

    /// Changes the state and has it on disk before it returns. If `apply` refuses or the disk does, nothing is changed.
    pub async fn change<T>(&self, apply: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<T, Error> {
        let (value, batch) = self.file.copies().change(apply)?;
        self.write(batch).await?;
        Ok(value)
    }

    /// Removes something from the state. A failed write does not bring it back: the next one covers it.
    pub async fn forget<T>(&self, apply: impl Fn(&mut State) -> T) -> T {
        let (value, batch) = self.file.copies().remove(apply);
        if let Some(batch) = batch
            && let Err(e) = self.write(batch).await
        {
            error!("{e}");
        }
        value
    }

    /// Waits until the batch is written, by whichever call writes it.
    async fn write(&self, batch: Arc<Batch>) -> Result<(), Error> {
        let file = Arc::clone(&self.file);
        // A caller that gives up must not leave a write half accounted for.
        let written = tokio::spawn(async move { file.write(&batch).await }).await;
        written.unwrap_or_else(|e| Err(Error::State(format!("state file: {e}"))))
    }
}

impl StateFile {
    async fn write(self: &Arc<Self>, batch: &Batch) -> Result<(), Error> {
        let _one_at_a_time = self.writing.lock().await;
        if let Some(outcome) = batch.outcome() {
            return outcome;
        }
        let state = self.copies().begin_write();
        let file = Arc::clone(self);
        let replaced = tokio::task::spawn_blocking(move || {
            let bytes = serde_json::to_vec_pretty(&*state)?;
            files::replace(&file.path, &bytes, files::PUBLIC)
        });
        let outcome = replaced.await.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| {
            let path = self.path.display();
            Error::State(format!("cannot write state file {path}: {e}; free disk space, or make it writable"))
        });
        self.copies().end_write(outcome.clone());
        outcome
    }

    fn copies(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the state in `dir` as it is, without touching anything; nothing where there is none.
pub fn peek(dir: &Path) -> Result<Option<State>, String> {
    let path = dir.join(FILE);
    let shown = path.display();
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("{shown} is damaged: {e}")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{shown} can't be read: {e}")),
    }
}

/// Nothing where the file is damaged; it is out of the way then.
fn parse(path: &Path, bytes: &[u8]) -> Result<Option<State>, Error> {
    #[derive(Deserialize)]
    struct Header {
        version: u32,
    }
    match serde_json::from_slice::<Header>(bytes) {
        Ok(Header { version }) if version > VERSION => {
            let text = "was written by a newer flannel-docker; run that, or name another place with -state-dir";
            return Err(Error::State(format!("{} (version {version}) {text}", path.display())));
        }
        Ok(_) | Err(_) => {}
    }
    let error = match serde_json::from_slice(bytes) {
        Ok(state) => return Ok(Some(state)),
        Err(e) => e,
    };
    let aside = aside(path);
    fs::rename(path, &aside).map_err(|e| {
        Error::State(format!("{} is damaged ({error}) and can't be moved away: {e}; move it by hand", path.display()))
    })?;
    warn!("{} is damaged ({error}): it is kept as {}; Docker is asked what was in it", path.display(), aside.display());
    Ok(None)
}

/// A name beside `path` that is not taken.
fn aside(path: &Path) -> PathBuf {
    let numbered = (1u64..).map(|n| path.with_extension(format!("json.damaged-{n}")));
    numbered.into_iter().find(|p| !p.exists()).unwrap_or_else(|| path.with_extension("json.damaged"))
}

#[cfg(test)]
mod tests;
