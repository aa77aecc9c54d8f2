//! Calls to the running plugin, as Docker makes them.

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::repair::{METHOD, Repaired};

/// The plugin answers in milliseconds; a repair checks twice, seconds apart, with a Docker that may be slow.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
const REPAIR_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether a plugin answers at this socket.
pub(super) async fn answers(socket: &Path) -> Result<(), String> {
    call(socket, "Plugin.Activate", "", CALL_TIMEOUT).await.map(drop)
}

/// Has the plugin repair what it can.
pub(super) async fn repair(socket: &Path) -> Result<Repaired, String> {
    let answer = call(socket, METHOD, "{}", REPAIR_TIMEOUT).await?;
    if let Some(error) = answer.get("Err").and_then(Value::as_str) {
        return Err(format!("the plugin at {}: {error}", socket.display()));
    }
    serde_json::from_value(answer).map_err(|e| format!("the plugin at {}: {e}", socket.display()))
}

async fn call(socket: &Path, method: &str, body: &'static str, limit: Duration) -> Result<Value, String> {
    let shown = socket.display();
    match timeout(limit, exchange(socket, method, body)).await {
        Ok(Ok((StatusCode::OK, bytes))) => {
            serde_json::from_slice(&bytes).map_err(|e| format!("the plugin at {shown} did not answer with JSON: {e}"))
        }
        Ok(Ok((status, _))) => Err(format!("the plugin at {shown} answers {status}: it may be of another version")),
        Ok(Err(e)) => Err(format!("no plugin answers at {shown}: {e}")),
        Err(_) => Err(format!("the plugin at {shown} did not answer within {limit:?}")),
    }
}

async fn exchange(
    socket: &Path,
    method: &str,
    body: &'static str,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("/{method}")).header("Host", "plugin").body(Full::<Bytes>::from(body))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let bytes = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, bytes))
}
