//! Requests as Docker sent them, through the router, and the answers it is to get.

use std::path::PathBuf;

use axum::body::Body;
use axum::http::Request;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::docker::engine::Engine;
use crate::driver::{Guards, Settings};
use crate::firewall::Guard;
use crate::firewall::fake::FakeFirewall;
use crate::links::fake::FakeLinks;
use crate::store::Store;
use crate::store::lease::SubnetFile;

const ENV: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";

struct Plugin {
    _dir: tempfile::TempDir,
    driver: Arc<Driver<FakeLinks>>,
    calls: TaskTracker,
}

impl Plugin {
    fn new(subnet_env: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.env");
        if let Some(text) = subnet_env {
            std::fs::write(&path, text).unwrap();
        }
        let settings =
            Settings { name: "flannel".to_owned(), subnet_file: SubnetFile(path), engine: Engine::at(PathBuf::new()) };
        let store = Store::open(&dir.path().join("state")).unwrap();
        let guards =
            Guards { forward: Guard::start(FakeFirewall::default()), nat: Guard::start(FakeFirewall::default()) };
        let driver = Arc::new(Driver::new(settings, store, FakeLinks::default(), guards));
        Self { _dir: dir, driver, calls: TaskTracker::new() }
    }

    /// Without a content type, as Docker sends it.
    async fn post(&self, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        self.send(Request::post(path).body(body.into()).unwrap()).await
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = router(Arc::clone(&self.driver), &self.calls).oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }
}

/// Replays a recording; `$POOL` stands for the PoolID of the latest RequestPool.
async fn replay(name: &str, recording: &str) {
    let plugin = Plugin::new(Some(ENV));
    let recording: Value = serde_json::from_str(recording).unwrap();
    let mut pool = String::new();
    for (i, step) in recording["steps"].as_array().unwrap().iter().enumerate() {
        let method = step["method"].as_str().unwrap();
        let body = match &step["request"] {
            Value::Null => String::new(),
            request => request.to_string().replace("$POOL", &pool),
        };
        let (status, mut answer) = plugin.post(&format!("/{method}"), body).await;
        if let Some(id) = answer.get("PoolID").and_then(Value::as_str) {
            pool = id.to_owned();
        }
        if answer.get("PoolID").is_some() {
            answer["PoolID"] = "$POOL".into();
        }
        assert_eq!((status, &answer), (StatusCode::OK, &step["answer"]), "{name}, step {i}, {method}");
    }
    // Every recording ends with everything removed, but for those that stop before.
    if recording["steps"].as_array().unwrap().iter().any(|s| s["method"] == "NetworkDriver.DeleteNetwork") {
        let state = plugin.driver.state();
        assert!(state.networks.is_empty() && state.pools.is_empty(), "{name}: {state:?}");
        assert!(plugin.driver.links().interfaces().bridges.is_empty(), "{name}");
        assert!(plugin.driver.links().interfaces().veths.is_empty(), "{name}");
    }
}

macro_rules! recordings {
    ($($test:ident: $file:literal,)*) => {$(
        #[tokio::test]
        async fn $test() {
            replay($file, include_str!(concat!("../../tests/vectors/", $file, ".json"))).await;
        }
    )*};
}

recordings! {
    answers_docker_20_10: "docker-20.10-run",
    answers_docker_28: "docker-28-run",
    answers_network_options: "options",
    answers_for_internal_networks: "internal",
    answers_with_the_users_ip_and_mac: "ip-and-mac",
    answers_a_foreign_pool: "foreign-pool",
    answers_with_published_ports: "publish",
}

#[tokio::test]
async fn registers_without_a_lease() {
    let plugin = Plugin::new(None);
    let expected = [
        ("/Plugin.Activate", json!({"Implements": ["NetworkDriver", "IpamDriver"]})),
        ("/NetworkDriver.GetCapabilities", json!({"Scope": "local", "ConnectivityScope": "global"})),
        ("/IpamDriver.GetCapabilities", json!({"RequiresMACAddress": false, "RequiresRequestReplay": false})),
        (
            "/IpamDriver.GetDefaultAddressSpaces",
            json!({"LocalDefaultAddressSpace": "flannel-local", "GlobalDefaultAddressSpace": "flannel-global"}),
        ),
    ];
    for (path, answer) in expected {
        assert_eq!(plugin.post(path, "").await, (StatusCode::OK, answer), "{path}");
    }
}

#[tokio::test]
async fn each_role_has_its_error_field() {
    let plugin = Plugin::new(None);
    let (status, answer) = plugin.post("/IpamDriver.RequestPool", r#"{"Pool":"","V6":false}"#).await;
    assert_eq!(status, StatusCode::OK);
    assert!(answer["Error"].as_str().unwrap().contains("subnet.env is not there") && answer.get("Err").is_none());
    let request = r#"{"NetworkID":"9eccb7a0fab95b18","Options":null,"IPv4Data":null,"IPv6Data":null}"#;
    let (status, answer) = plugin.post("/NetworkDriver.CreateNetwork", request).await;
    assert_eq!(status, StatusCode::OK);
    assert!(answer["Err"].as_str().unwrap().contains("subnet.env is not there") && answer.get("Error").is_none());
}

#[tokio::test]
async fn an_empty_or_broken_body_is_refused() {
    let plugin = Plugin::new(Some(ENV));
    for method in ["NetworkDriver.CreateEndpoint", "NetworkDriver.Leave", "IpamDriver.RequestPool"] {
        for body in ["", "null", "{", "[]", "{\"NetworkID\":7,\"PoolID\":7,\"Pool\":7}"] {
            let (status, answer) = plugin.post(&format!("/{method}"), body).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{method} {body:?}: {answer}");
            assert!(answer["Err"].is_string());
        }
    }
    assert!(plugin.driver.state().pools.is_empty());
}

#[tokio::test]
async fn unknown_methods_are_404_and_others_are_posted() {
    let plugin = Plugin::new(Some(ENV));
    let (status, answer) = plugin.post("/NetworkDriver.GwAllocCheck", "{}").await;
    assert_eq!((status, answer), (StatusCode::NOT_FOUND, json!({"Err": "no method /NetworkDriver.GwAllocCheck"})));
    let (status, answer) = plugin.send(Request::get("/Plugin.Activate").body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(answer["Err"].is_string());
}

/// One request over a connection of its own, which stays open.
async fn ask(socket: &std::path::Path, request: &str) -> (tokio::net::UnixStream, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    (stream, String::from_utf8_lossy(&answer[..length]).into_owned())
}

#[tokio::test]
async fn ends_with_idle_connections_open_and_finishes_calls_whose_caller_hung_up() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let plugin = Plugin::new(Some(ENV));
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("flannel.sock");
    let (listener, file) = crate::socket::bind(&socket).await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let driver = Arc::clone(&plugin.driver);
    let server = tokio::spawn(serve(listener, driver, async move { stopped.await.unwrap() }));

    let head = "POST /Plugin.Activate HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n";
    let (mut idle, answer) = ask(&socket, head).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("NetworkDriver"), "{answer}");

    // A caller that does not wait for its answer.
    let body = json!({
        "NetworkID": "9eccb7a0fab95b18", "Options": {},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Pool": "10.5.72.0/24", "Gateway": "10.5.72.1/24"}],
    })
    .to_string();
    let length = body.len();
    let request = format!("POST /NetworkDriver.CreateNetwork HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}");
    let mut hasty = tokio::net::UnixStream::connect(&socket).await.unwrap();
    hasty.write_all(request.as_bytes()).await.unwrap();
    while plugin.driver.links().interfaces().bridges.is_empty() {
        tokio::task::yield_now().await;
    }
    drop(hasty);

    drop(file);
    stop.send(()).unwrap();
    timeout(SHUTDOWN_TIMEOUT / 2, server).await.expect("the server does not end").unwrap().unwrap();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0, "the idle connection is still open");
    assert_eq!(plugin.driver.state().networks.len(), 1, "the call was left half done");
    assert!(!socket.exists());
}
