//! Finding a lab that compose has made, and removing it.

use crate::compose::ROLE;
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
    /// The topology's name.
    pub(super) topology: String,
    /// `h1`, `h2`, ... in this order.
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
            let service = labels.get(SERVICE).cloned().unwrap_or_default();
            match labels.get(ROLE).map(String::as_str) {
                Some("etcd") => etcd = Some(container),
                Some("host") => hosts.push(LabHost::new(engine.clone(), service, container)),
                _ => {}
            }
        }
        let (Some(etcd), false) = (etcd, hosts.is_empty()) else { return Ok(None) };
        let environment = engine.inspect(&etcd).await?.config.and_then(|config| config.env).unwrap_or_default();
        let value = |name: &str| {
            let found = environment.iter().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or("?").to_owned()
        };
        let (backend, topology) = (value("BACKEND"), value("TOPOLOGY"));
        let network = format!("{name}_underlay");
        let underlay = engine
            .subnets()
            .await?
            .into_iter()
            .find_map(|(found, subnet)| (found == network).then(|| underlay::of_subnet(&subnet))?)
            .unwrap_or_default();
        Ok(Some(Self { name: name.to_owned(), backend, underlay, etcd, topology, hosts }))
    }
}

/// Removes the lab of this name, whole or half; whether there was any. By compose's labels alone: what else it knows of
/// the lab may have changed since.
pub(super) async fn remove(engine: &Engine, name: &str) -> Result<bool> {
    let containers = engine.labelled(&[(PROJECT, name)]).await?;
    let networks = engine.labelled_networks(PROJECT, name).await?;
    let there = !containers.is_empty() || !networks.is_empty();
    let removals = containers.iter().map(|(container, _)| engine.remove(container));
    futures_util::future::join_all(removals).await.into_iter().collect::<Result<()>>()?;
    for network in networks {
        engine.remove_network(&network).await?;
    }
    Ok(there)
}
