//! Telling the host that the network is ready: the health server. (`subnet.env` and the service manager are told by
//! [`crate::daemon`], at the same time.)

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::any;
use tokio_util::sync::CancellationToken;

use crate::metrics::{self, METRICS};
use flannel_host::metrics::CONTENT_TYPE as OPEN_METRICS;

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

/// Serves `/healthz` and `/readyz` (docs/upstream.md, section 7) and `/metrics` until the daemon ends.
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
        .route("/metrics", any(|| async { ([(CONTENT_TYPE, OPEN_METRICS)], metrics::page()) }))
        .route("/readyz", any(ready));
    tokio::spawn(async move {
        let server = axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = server.await {
            tracing::warn!("health server ended: {error}");
        }
    });
    Ok(())
}
