//! Finding a lab that compose has made, and removing it.

use std::path::PathBuf;

use crate::compose::Project;
use crate::engine::Engine;
use crate::host::LabHost;
use crate::{Error, Result, underlay};

/// Compose's labels.
const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";

/// A lab that runs.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) name: String,
    pub(super) backend: String,
    pub(super) underlay: String,
    /// The container with etcd in it.
    pub(super) etcd: String,
    /// `host1`, `host2`, ... in this order.
    pub(super) hosts: Vec<LabHost>,
}

impl Lab {
    /// The lab of this name, which must be there.
    pub(super) async fn find(engine: &Engine, name: &str) -> Result<Self> {
        Self::find_if_any(engine, name)
            .await?
            .ok_or_else(|| Error::State(format!("there is no lab {name}: ci/up makes one (--name {name})")))
    }

    /// The lab of this name, if there is one. Half a lab (someone removed containers) counts as none.
    pub(super) async fn find_if_any(engine: &Engine, name: &str) -> Result<Option<Self>> {
        let mut containers = engine.labelled(&[(PROJECT, name)]).await?;
        containers.sort_by(|one, other| one.0.cmp(&other.0));
        let mut etcd = None;
        let mut hosts = Vec::new();
        for (container, labels) in containers {
            match labels.get(SERVICE).map(String::as_str) {
                Some("etcd") => etcd = Some(container),
                Some(host) if host.starts_with("host") => hosts.push(LabHost::new(engine.clone(), host, container)),
                _ => {}
            }
        }
        let (Some(etcd), false) = (etcd, hosts.is_empty()) else { return Ok(None) };
        let environment = engine.inspect(&etcd).await?.config.and_then(|config| config.env).unwrap_or_default();
        let backend = environment.iter().find_map(|entry| entry.strip_prefix("BACKEND=")).unwrap_or("?").to_owned();
        let network = format!("{name}_underlay");
        let underlay = engine
            .subnets()
            .await?
            .into_iter()
            .find_map(|(found, subnet)| (found == network).then(|| underlay::of_subnet(&subnet))?)
            .unwrap_or_default();
        Ok(Some(Self { name: name.to_owned(), backend, underlay, etcd, hosts }))
    }
}

/// Removes the lab of this name, whole or half; whether there was any.
pub(super) async fn remove(engine: &Engine, name: &str) -> Result<bool> {
    let network = format!("{name}_underlay");
    let subnets = engine.subnets().await?;
    let subnet = subnets.iter().find_map(|(found, subnet)| (*found == network).then_some(subnet));
    if engine.labelled(&[(PROJECT, name)]).await?.is_empty() && subnet.is_none() {
        return Ok(false);
    }
    let project = Project {
        name: name.to_owned(),
        backend: String::new(),
        underlay: subnet.and_then(|subnet| underlay::of_subnet(subnet)).unwrap_or_else(|| "172.29.77".to_owned()),
        images: PathBuf::from("/nonexistent"),
    };
    project.down().await?;
    Ok(true)
}
