//! A Docker of a few answers, for tests.

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::extract::{Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Answers questions about networks until it is dropped.
#[derive(Debug)]
pub struct FakeDocker {
    networks: Arc<Mutex<Vec<Value>>>,
    server: JoinHandle<()>,
}

impl FakeDocker {
    /// A Docker at this socket that has these networks, written as its API writes them.
    pub fn start(socket: &Path, networks: Vec<Value>) -> Self {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let networks = Arc::new(Mutex::new(networks));
        let api = axum::Router::new()
            .route("/version", get(async || answer(&json!({"ApiVersion": "1.41"}))))
            .route("/networks", get(list))
            .route("/networks/{id}", get(inspect));
        // With and without the version in front, as Docker does.
        let router = axum::Router::new().nest("/v1.41", api.clone()).merge(api).with_state(Arc::clone(&networks));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { networks, server }
    }

    /// What it has from now on.
    pub fn set(&self, networks: Vec<Value>) {
        *self.networks.lock().unwrap() = networks;
    }
}

impl Drop for FakeDocker {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Networks = Arc<Mutex<Vec<Value>>>;

async fn list(State(networks): State<Networks>) -> Response {
    let mut all = networks.lock().unwrap().clone();
    for network in &mut all {
        network["Containers"] = json!({});
    }
    answer(&Value::Array(all))
}

async fn inspect(State(networks): State<Networks>, UrlPath(id): UrlPath<String>) -> Response {
    match networks.lock().unwrap().iter().find(|n| n["Id"] == id.as_str()) {
        Some(network) => answer(network),
        None => (StatusCode::NOT_FOUND, json!({"message": "no such network"}).to_string()).into_response(),
    }
}

fn answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
