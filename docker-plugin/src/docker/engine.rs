//! Docker's own word on which networks there are, and who is in them.
//!
//! Docker tells a plugin what it does, but only while the plugin is there to hear it: `docker network rm` and
//! `docker stop` succeed without. So it is asked, by its API, now and then and in the background: never by a handler,
//! since Docker may be slow or down while it waits for our answer.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::models::{EndpointResource, IpamConfig, NetworkInspect};
use bollard::{API_DEFAULT_VERSION, Docker};
use ipnet::IpNet;
use tokio::time::timeout;

/// Docker answers from memory; whoever takes longer is in trouble of its own.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The Docker that calls us.
#[derive(Debug, Clone)]
pub struct Engine {
    socket: Option<PathBuf>,
}

/// One of our networks, as Docker has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerNetwork {
    /// The full ID.
    pub id: String,
    /// What users call it.
    pub name: String,
    /// Whether its addresses are ours to give, or Docker's.
    pub ipam_driver: String,
    /// What Docker was told of its ranges.
    pub pools: Vec<DockerPool>,
    /// `-o`
    pub options: BTreeMap<String, String>,
    /// `--internal`
    pub internal: bool,
    /// `--ipv6`
    pub ipv6: bool,
    /// By EndpointID.
    pub endpoints: BTreeMap<String, DockerEndpoint>,
}

/// A range of a network. What the user did not type may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerPool {
    /// The range; `0.0.0.0/0` where we hid it from Docker's comparison with the host's routes.
    pub subnet: IpNet,
    /// `--gateway`, or what IPAM chose.
    pub gateway: Option<IpAddr>,
    /// `--ip-range`
    pub range: Option<IpNet>,
    /// `--aux-address`
    pub auxiliary: Vec<IpAddr>,
}

/// A container's place in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerEndpoint {
    /// The container's name, or a text of Docker's where it has none yet.
    pub container: String,
    /// As Docker writes it; may be empty.
    pub mac: String,
    /// One a family.
    pub addresses: Vec<IpNet>,
}

impl Engine {
    /// Asked at this socket; an empty path is never asked.
    pub fn at(socket: PathBuf) -> Self {
        Self { socket: Some(socket).filter(|s| !s.as_os_str().is_empty()) }
    }

    /// Whether there is somebody to ask.
    pub fn is_known(&self) -> bool {
        self.socket.is_some()
    }

    /// All networks of the driver `name` that live on this host, or why Docker can't be asked.
    pub async fn networks(&self, name: &str) -> Result<Vec<DockerNetwork>, String> {
        let Some(socket) = &self.socket else {
            return Err("nobody is to be asked (-docker-socket is empty)".to_owned());
        };
        let shown = socket.display();
        match timeout(CALL_TIMEOUT, ask(socket, name)).await {
            Ok(Ok(networks)) => Ok(networks),
            Ok(Err(e)) => Err(format!("Docker at {shown} can't be asked: {e}")),
            Err(_) => Err(format!("Docker at {shown} does not answer")),
        }
    }
}

async fn ask(socket: &Path, name: &str) -> Result<Vec<DockerNetwork>, BollardError> {
    let path = socket.display().to_string();
    let docker = Docker::connect_with_unix(&path, CALL_TIMEOUT.as_secs(), API_DEFAULT_VERSION)?;
    let mut found = Vec::new();
    for listed in docker.list_networks(None).await? {
        let (Some(id), Some(driver)) = (listed.id, listed.driver) else { continue };
        if !is_ours(&driver, name) {
            continue;
        }
        // The list does not say who is in them.
        match docker.inspect_network(&id, None).await {
            Ok(network) => found.extend(read(&id, network)),
            // Removed meanwhile, or not made yet.
            Err(BollardError::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(found)
}

/// A managed plugin's driver has a tag.
fn is_ours(driver: &str, name: &str) -> bool {
    driver == name || driver.strip_suffix(":latest") == Some(name)
}

/// Nothing for a swarm's network that this host has no part in.
fn read(id: &str, network: NetworkInspect) -> Option<DockerNetwork> {
    let endpoints: BTreeMap<_, _> = network.containers.unwrap_or_default().into_values().filter_map(endpoint).collect();
    if network.scope.as_deref() != Some("local") && endpoints.is_empty() {
        return None;
    }
    let ipam = network.ipam.unwrap_or_default();
    Some(DockerNetwork {
        id: id.to_owned(),
        name: network.name.unwrap_or_default(),
        ipam_driver: ipam.driver.unwrap_or_default(),
        pools: ipam.config.unwrap_or_default().into_iter().filter_map(pool).collect(),
        options: network.options.unwrap_or_default().into_iter().collect(),
        internal: network.internal.unwrap_or(false),
        ipv6: network.enable_ipv6.unwrap_or(false),
        endpoints,
    })
}

fn endpoint(endpoint: EndpointResource) -> Option<(String, DockerEndpoint)> {
    let id = endpoint.endpoint_id.filter(|id| !id.is_empty())?;
    let addresses = [endpoint.ipv4_address, endpoint.ipv6_address].into_iter().flatten();
    Some((
        id,
        DockerEndpoint {
            container: endpoint.name.unwrap_or_default(),
            mac: endpoint.mac_address.unwrap_or_default(),
            addresses: addresses.filter_map(|a| a.parse().ok()).collect(),
        },
    ))
}

fn pool(config: IpamConfig) -> Option<DockerPool> {
    let auxiliary: HashMap<String, String> = config.auxiliary_addresses.unwrap_or_default();
    Some(DockerPool {
        subnet: config.subnet?.parse().ok()?,
        gateway: config.gateway.as_deref().and_then(address),
        range: config.ip_range.and_then(|r| r.parse().ok()),
        auxiliary: auxiliary.values().filter_map(|a| address(a)).collect(),
    })
}

/// Some versions write a prefix length after it.
fn address(text: &str) -> Option<IpAddr> {
    text.split_once('/').map_or(text, |(address, _)| address).parse().ok()
}

#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::fake::FakeDocker;
    use super::*;

    #[tokio::test]
    async fn reads_our_networks_and_who_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let config = json!([{"Subnet": "10.5.72.0/24", "Gateway": "10.5.72.1/24", "IPRange": "10.5.72.128/25",
                             "AuxiliaryAddresses": {"printer": "10.5.72.9"}}]);
        let ours = json!({"Id": "9eccb7a0fab9", "Name": "net", "Driver": "flannel", "Scope": "local", "Internal": true,
            "EnableIPv6": false, "IPAM": {"Driver": "flannel", "Options": null, "Config": config},
            "Options": {"com.docker.network.driver.mtu": "1400"},
            "Containers": {"c0ffee": {"Name": "web", "EndpointID": "e1", "MacAddress": "02:00:0a:05:48:02",
                                      "IPv4Address": "10.5.72.2/24", "IPv6Address": ""}}});
        let elsewhere =
            json!({"Id": "abc", "Name": "s", "Driver": "flannel:latest", "Scope": "swarm", "Containers": {}});
        let other = json!({"Id": "def", "Name": "bridge", "Driver": "bridge", "Scope": "local", "Containers": {}});
        let _docker = FakeDocker::start(&socket, vec![ours, elsewhere, other]);
        let networks = Engine::at(socket).networks("flannel").await.unwrap();
        let endpoint = DockerEndpoint {
            container: "web".to_owned(),
            mac: "02:00:0a:05:48:02".to_owned(),
            addresses: vec!["10.5.72.2/24".parse().unwrap()],
        };
        let expected = DockerNetwork {
            id: "9eccb7a0fab9".to_owned(),
            name: "net".to_owned(),
            ipam_driver: "flannel".to_owned(),
            pools: vec![DockerPool {
                subnet: "10.5.72.0/24".parse().unwrap(),
                gateway: Some("10.5.72.1".parse().unwrap()),
                range: Some("10.5.72.128/25".parse().unwrap()),
                auxiliary: vec!["10.5.72.9".parse().unwrap()],
            }],
            options: BTreeMap::from([("com.docker.network.driver.mtu".to_owned(), "1400".to_owned())]),
            internal: true,
            ipv6: false,
            endpoints: BTreeMap::from([("e1".to_owned(), endpoint)]),
        };
        assert_eq!(networks, [expected]);
    }

    #[tokio::test]
    async fn silence_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let asked = |socket: PathBuf| async move { Engine::at(socket).networks("flannel").await };
        let absent = asked(dir.path().join("absent")).await.unwrap_err();
        assert!(absent.contains("can't be asked"), "{absent}");
        assert!(asked(PathBuf::new()).await.unwrap_err().contains("-docker-socket"));
        let hangs = dir.path().join("hangs");
        let _listener = tokio::net::UnixListener::bind(&hangs).unwrap();
        tokio::time::pause();
        let error = asked(hangs).await.unwrap_err();
        assert!(error.contains("can't be asked") || error.contains("does not answer"), "{error}");
    }
}
