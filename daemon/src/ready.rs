//! Telling the host that the network is ready: `subnet.env`, the health server, the service manager.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::any;
use flannel_core::subnet_env::SubnetEnv;
use tokio_util::sync::CancellationToken;

use crate::metrics::{self, METRICS};

/// Writes `subnet.env` so that a reader sees the old file or the new one, whole, also after a power cut. Mode 0644
/// whatever the umask; directories are made with their parents. Contract, section 3.
pub fn write_subnet_env(path: &Path, env: &SubnetEnv) -> std::io::Result<()> {
    write_file(path, &env.render())
}

/// Writes a whole file in the place of an earlier one, in the same careful way.
pub fn write_file(path: &Path, text: &str) -> std::io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let name = path.file_name().ok_or_else(|| std::io::Error::other("it names no file"))?;
    let temporary = directory.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(directory)?.sync_all()
    };
    write().inspect_err(|_| {
        // A half-made file would only lie about; what matters is the error that led here.
        if let Err(error) = std::fs::remove_file(&temporary) {
            tracing::debug!("can't remove {}: {error}", temporary.display());
        }
    })
}

/// Whether the network is ready; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on it is, or is not.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
        METRICS.ready.set(usize::from(ready));
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Serves `/healthz` and `/readyz` (contract, section 7) and `/metrics` until the daemon ends.
pub async fn serve_health(
    listen: SocketAddr,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    tracing::info!("health server on {}", listener.local_addr()?);
    let ready = move || async move {
        if readiness.get() {
            (StatusCode::OK, "flanneld is ready")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "flanneld is not ready yet")
        }
    };
    let routes = axum::Router::new()
        .route("/healthz", any(|| async { "flanneld is running" }))
        .route("/metrics", any(|| async { ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], METRICS.render()) }))
        .route("/readyz", any(ready));
    tokio::spawn(async move {
        let server = axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = server.await {
            tracing::warn!("health server ended: {error}");
        }
    });
    Ok(())
}

/// Tells the service manager, if there is one, that the daemon is ready (sd_notify(3): one datagram to
/// `$NOTIFY_SOCKET`, whose leading `@` stands for an abstract address).
pub fn notify_ready(socket: Option<&str>) {
    let Some(address) = socket.filter(|s| !s.is_empty()) else { return };
    if let Err(error) = notify(address, b"READY=1") {
        tracing::warn!("can't tell the service manager at {address}: {error}");
    }
}

fn notify(address: &str, message: &[u8]) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    let to = match address.strip_prefix('@') {
        Some(name) => std::os::unix::net::SocketAddr::from_abstract_name(name)?,
        None => std::os::unix::net::SocketAddr::from_pathname(address)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &to).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flannel_core::subnet_env::Side;

    fn env() -> SubnetEnv {
        let side = Side { network: "10.5.0.0/16".parse().unwrap(), gateway: "10.5.1.1/24".parse().unwrap() };
        SubnetEnv { v4: Some(side), v6: None, mtu: 1450, ip_masq: false }
    }

    #[test]
    fn the_file_is_made_with_its_directories_and_leaves_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/subnet.env");
        for _ in 0..2 {
            write_subnet_env(&path, &env()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), env().render());
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
            assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("subnet.env");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("x"), "").unwrap();
        assert!(write_subnet_env(&path, &env()).is_err());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_service_manager_gets_one_datagram() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        notify_ready(path.to_str());
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
    }
}
