//! The socket Docker finds us by.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as Passed;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};
use tracing::{info, warn};

/// The socket's file, removed when this goes.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// The file itself. By the time we end, somebody else may have put another in its place, and as long as this is
    /// open its inode number is not given to another.
    file: fs::File,
}

fn is_same(ours: io::Result<fs::Metadata>, path: &Path) -> io::Result<bool> {
    let (ours, there) = (ours?, fs::symlink_metadata(path)?);
    Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

/// The socket that systemd has opened for us, if this process is a unit with a socket unit; else one made at `path`.
/// A socket of systemd's is not removed at our end: Docker's calls wait in it for the next start.
pub async fn listen(path: &Path) -> Result<(UnixListener, Option<SocketFile>), String> {
    let mut passed = ListenFd::from_env();
    match passed.len() {
        0 => bind(path).await.map(|(listener, file)| (listener, Some(file))),
        1 => {
            let listener = passed.take_unix_listener(0).and_then(|l| l.ok_or_else(|| io::ErrorKind::NotFound.into()));
            let listener =
                listener.map_err(|e| format!("systemd's socket: {e}; the socket unit must have ListenStream=PATH"))?;
            Ok((adopt(listener, path)?, None))
        }
        more => Err(format!(
            "systemd has passed {more} sockets: one ListenStream= in the socket unit is all there is to serve"
        )),
    }
}

/// Takes over a listener, which must be the one at `path`: the file's name is the driver's.
fn adopt(listener: Passed, path: &Path) -> Result<UnixListener, String> {
    let address = listener.local_addr().ok().and_then(|a| a.as_pathname().map(Path::to_owned)).unwrap_or_default();
    if !is_same(fs::symlink_metadata(&address), path).unwrap_or(false) {
        return Err(format!(
            "systemd's socket is {}, and -socket is {}: make ListenStream= and -socket the same",
            address.display(),
            path.display()
        ));
    }
    let taken = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
    taken.map_err(|e| format!("socket {}: it can't be used: {e}", path.display()))
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
            return Err(format!("socket {shown}: a file of that name exists and is not a socket; remove it"));
        }
        Ok(_) => {
            if UnixStream::connect(path).await.is_ok() {
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
    // A socket can't be opened for reading, only be held.
    let held = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let file = held.map_err(|e| failed("it can't be held", e.into()))?.into();
    Ok((listener, SocketFile { path: path.to_owned(), file }))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = is_same(self.file.metadata(), &self.path).unwrap_or(false);
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
        let (_listener, successor) = bind(&path).await.unwrap();
        drop(file);
        assert!(path.exists(), "the successor's socket was removed");
        drop(successor);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn adopts_the_socket_at_its_path_only() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("flannel.sock"), dir.path().join("other.sock"));
        let error = adopt(Passed::bind(&other).unwrap(), &path).unwrap_err();
        assert!(error.contains("other.sock, and -socket is"), "{error}");
        let listener = adopt(Passed::bind(&path).unwrap(), &dir.path().join(".").join("flannel.sock")).unwrap();
        let (there, here) = tokio::join!(UnixStream::connect(&path), listener.accept());
        assert!(there.is_ok() && here.is_ok());
    }

    #[tokio::test]
    async fn leaves_other_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flannel.sock");
        fs::write(&path, "mine").unwrap();
        let error = bind(&path).await.unwrap_err();
        assert!(error.contains("not a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
