//! The protocol: one table of methods, and what their answers have in common.
//!
//! Docker sends no content type, repeats a request without its body when a connection breaks, and takes an error of
//! the IPAM role with status 200 for success unless the field is called `Error`. So bodies are read as bytes, an empty
//! one is refused, and each role has its own error field. A call runs to its end even if Docker hangs up, so that
//! nothing stays half made.

use std::future::{Future, IntoFuture as _};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::api::network::{Allocated, EndpointCall, OperInfo};
use crate::api::repair::{self, Repaired};
use crate::api::{Activate, Empty, Options, ipam, network};
use crate::driver::Driver;
use crate::error::Error;
use crate::links::Links;

const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// How long connections and calls may go on after a shutdown was requested.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Which error field Docker reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Network,
    Ipam,
}

/// Answers calls on `listener` until `shutdown`; then running calls are finished and idle connections closed.
pub async fn serve<L: Links>(
    listener: UnixListener,
    driver: Arc<Driver<L>>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let calls = TaskTracker::new();
    let stopping = Arc::new(Notify::new());
    let stop = {
        let stopping = Arc::clone(&stopping);
        async move {
            shutdown.await;
            stopping.notify_one();
        }
    };
    let served = axum::serve(listener, router(driver, &calls)).with_graceful_shutdown(stop).into_future();
    let mut served = pin!(served);
    tokio::select! {
        served = &mut served => served?,
        () = stopping.notified() => match timeout(SHUTDOWN_TIMEOUT, served).await {
            Ok(served) => served?,
            Err(_) => warn!("a connection is still in use after {SHUTDOWN_TIMEOUT:?}: closing it"),
        },
    }
    calls.close();
    if timeout(SHUTDOWN_TIMEOUT, calls.wait()).await.is_err() {
        warn!("a call is still running after {SHUTDOWN_TIMEOUT:?}: abandoning it");
    }
    Ok(())
}

/// Every method there is.
pub fn router<L: Links>(driver: Arc<Driver<L>>, calls: &TaskTracker) -> Router {
    let spaces = driver.address_spaces();
    let table = Table { driver, calls: calls.clone(), router: Router::new() };
    table
        .fixed("Plugin.Activate", &Activate { implements: ["NetworkDriver", "IpamDriver"] })
        .fixed("NetworkDriver.GetCapabilities", &network::Capabilities { scope: "local", connectivity_scope: "global" })
        .call("NetworkDriver.CreateNetwork", Role::Network, |d, r| async move { d.create_network(r).await })
        .call("NetworkDriver.DeleteNetwork", Role::Network, |d, r| async move { d.delete_network(r).await })
        .call("NetworkDriver.CreateEndpoint", Role::Network, |d, r| async move { d.create_endpoint(r).await })
        .call("NetworkDriver.DeleteEndpoint", Role::Network, |d, r| async move { d.delete_endpoint(r).await })
        .call("NetworkDriver.Join", Role::Network, |d, r| async move { d.join(r).await })
        .call("NetworkDriver.Leave", Role::Network, |d, r| async move { d.leave(r).await })
        .call("NetworkDriver.EndpointOperInfo", Role::Network, |_, _: EndpointCall| async { Ok(OperInfo::default()) })
        // Only for networks with flannel.gateway=true: on others Docker publishes ports itself, on docker_gwbridge.
        .call("NetworkDriver.ProgramExternalConnectivity", Role::Network, |d, r| async move { d.program(r).await })
        .call("NetworkDriver.RevokeExternalConnectivity", Role::Network, |d, r| async move { d.revoke(r).await })
        // Swarm: addresses are given by each host's lease, so there is nothing to agree upon.
        .fixed("NetworkDriver.AllocateNetwork", &Allocated::default())
        .fixed("NetworkDriver.FreeNetwork", &Empty {})
        .fixed("NetworkDriver.DiscoverNew", &Empty {})
        .fixed("NetworkDriver.DiscoverDelete", &Empty {})
        .fixed(
            "IpamDriver.GetCapabilities",
            &ipam::Capabilities { requires_mac_address: false, requires_request_replay: false },
        )
        .fixed("IpamDriver.GetDefaultAddressSpaces", &spaces)
        .call("IpamDriver.RequestPool", Role::Ipam, |d, r| async move { d.request_pool(r).await })
        .call("IpamDriver.ReleasePool", Role::Ipam, |d, r| async move { d.release_pool(r).await })
        .call("IpamDriver.RequestAddress", Role::Ipam, |d, r| async move { d.request_address(r).await })
        .call("IpamDriver.ReleaseAddress", Role::Ipam, |d, r| async move { d.release_address(r).await })
        // Not Docker's: `flannel-docker doctor --fix`.
        .call(repair::METHOD, Role::Network, |d, _: Options| async move { Ok(Repaired::from(d.repair_all().await)) })
        .router
        .fallback(
            |uri: axum::http::Uri| async move { refuse(StatusCode::NOT_FOUND, &format!("no method {}", uri.path())) },
        )
        .method_not_allowed_fallback(|| async { refuse(StatusCode::METHOD_NOT_ALLOWED, "methods are called by POST") })
}

struct Table<L> {
    driver: Arc<Driver<L>>,
    calls: TaskTracker,
    router: Router,
}

impl<L: Links> Table<L> {
    /// A method whose answer is always the same, whatever the body.
    fn fixed(self, method: &'static str, answer: &impl Serialize) -> Self {
        let text = json_text(answer);
        let handler = move || async move {
            debug!("{method}");
            respond(StatusCode::OK, text)
        };
        Self { router: self.router.route(&format!("/{method}"), post(handler)), ..self }
    }

    fn call<Req, Res, F, Fut>(self, method: &'static str, role: Role, run: F) -> Self
    where
        Req: DeserializeOwned + Send + 'static,
        Res: Serialize + Send + 'static,
        F: Fn(Arc<Driver<L>>, Req) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Res, Error>> + Send + 'static,
    {
        let driver = Arc::clone(&self.driver);
        let calls = self.calls.clone();
        let handler = move |body: Bytes| async move {
            let request = match parse(&body) {
                Ok(request) => request,
                Err(reason) => {
                    // Docker does not repeat the call; what it did without us shows in its list of networks.
                    driver.request_check();
                    warn!("{method}: {reason}");
                    return refuse(StatusCode::BAD_REQUEST, &reason);
                }
            };
            let started = Instant::now();
            let result = calls.spawn(run(driver, request)).await;
            let took = started.elapsed();
            match result {
                Ok(Ok(answer)) => {
                    debug!("{method}: done in {took:.1?}");
                    respond(StatusCode::OK, json_text(&answer))
                }
                Ok(Err(e)) => {
                    info!("{method}: {e}");
                    let text = e.to_string();
                    let answer = match role {
                        Role::Network => json!({ "Err": text }),
                        Role::Ipam => json!({ "Error": text }),
                    };
                    respond(StatusCode::OK, answer.to_string())
                }
                Err(e) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("{method} panicked: {e}")),
            }
        };
        Self { router: self.router.route(&format!("/{method}"), post(handler)), ..self }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    if body.is_empty() {
        // Docker's retry after a broken connection.
        return Err("the request came without its body: try again".to_owned());
    }
    // serde would also take the fields in a row, without names.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err("cannot read the request: it is not a JSON object".to_owned());
    }
    serde_json::from_slice(body).map_err(|e| format!("cannot read the request: {e}"))
}

fn json_text(value: &impl Serialize) -> String {
    // Our answers are structs of texts, numbers and maps with text keys, which JSON can always hold.
    serde_json::to_string(value).expect("an answer is JSON")
}

fn refuse(status: StatusCode, reason: &str) -> Response {
    respond(status, json!({ "Err": reason }).to_string())
}

fn respond(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response()
}

#[cfg(test)]
mod tests;
