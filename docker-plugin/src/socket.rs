//! The socket Docker finds us by.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::net::UnixListener;
use tracing::{info, warn};

/// The socket's file, removed when this goes.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// By the time we end, somebody else may have put another in place.
    identity: Identity,
}

/// Device, inode and, since inodes are used again, the time of birth where the file system keeps it.
type Identity = (u64, u64, Option<SystemTime>);

fn identity(path: &Path) -> io::Result<Identity> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino(), file.created().ok()))
}

/// Whether somebody listens there. Ours no longer does when its file goes.
fn is_answered(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

/// Listens at `path`, whose directory is made if need be. A socket nobody answers on any more is replaced.
pub async fn bind(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    let shown = path.display();
    let failed = |what: &str, e: io::Error| format!("socket {shown}: {what}: {e}; choose another place with -socket");
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| failed("its directory can't be made", e))?;
    }
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed("it can't be looked at", e)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(format!("socket {shown}: a file of that name is there and is no socket; remove it"));
        }
        Ok(_) => {
            if is_answered(path) {
                return Err(format!(
                    "socket {shown}: another program answers there; stop it, or choose another place with -socket"
                ));
            }
            info!("socket {shown}: left over, nobody answers there; replacing it");
            fs::remove_file(path).map_err(|e| failed("the old one can't be removed", e))?;
        }
    }
    let listener = UnixListener::bind(path).map_err(|e| failed("it can't be made", e))?;
    // Whoever can write to it can have bridges and rules made.
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(|e| failed("its mode can't be set", e))?;
    let identity = identity(path).map_err(|e| failed("it can't be looked at", e))?;
    Ok((listener, SocketFile { path: path.to_owned(), identity }))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The identity alone would do, did every file system keep a time of birth.
        let ours = identity(&self.path).is_ok_and(|i| i == self.identity) && !is_answered(&self.path);
        if ours && let Err(e) = fs::remove_file(&self.path) {
            warn!("socket {}: can't be removed: {e}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replaces_a_dead_socket_and_spares_a_live_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugins/flannel.sock");
        let (listener, file) = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let error = bind(&path).await.unwrap_err();
        assert!(error.contains("another program answers"), "{error}");
        drop(listener);
        let (listener, successor) = bind(&path).await.unwrap();
        drop(file);
        assert!(path.exists(), "the successor's socket was removed");
        drop(listener);
        drop(successor);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn leaves_other_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flannel.sock");
        fs::write(&path, "mine").unwrap();
        let error = bind(&path).await.unwrap_err();
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
