//! A network that is simply there: `-docker-network NAME`.
//!
//! In the background, since Docker asks us back while it creates one, and may come long after us. What is there is left
//! alone, unless its lease is gone and nobody is in it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use bollard::errors::Error as Refusal;
use bollard::models::{Ipam, NetworkCreateRequest, NetworkInspect};
use bollard::{API_DEFAULT_VERSION, Docker};
use flannel_core::family::Family;
use ipnet::IpNet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::store::lease::{Lease, SubnetFile};

/// How often it is looked for: soon enough for who starts Docker and then a container by hand.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// How long Docker may take to answer, in seconds.
const CALL_TIMEOUT: u64 = 60;

/// The network to have.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Its name.
    pub name: String,
    /// `-o` of it.
    pub options: Vec<(String, String)>,
    /// The driver's name, ours.
    pub driver: String,
    /// Where Docker is.
    pub docker_socket: PathBuf,
    /// Where the lease is.
    pub subnet_file: SubnetFile,
}

/// What is to be done about a network that is there.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Its addresses are not this host's any more, and nobody is in it.
    Renew,
    /// Not ours to change; why.
    Leave(String),
}

impl Ready {
    /// Makes it as soon as Docker and the lease are there, and again when it is gone. Ends with the program.
    pub async fn keep(self) {
        let mut step = interval(RETRY_INTERVAL);
        step.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut logged = None;
        loop {
            step.tick().await;
            match self.ensure().await {
                Ok(()) => logged = None,
                // The same every two seconds is one line, not many.
                Err(e) if logged.as_ref() != Some(&e) => {
                    warn!("network {}: {e}", self.name);
                    logged = Some(e);
                }
                Err(_) => {}
            }
        }
    }

    async fn ensure(&self) -> Result<(), String> {
        let lease = self.subnet_file.read().map_err(|e| e.to_string())?;
        let socket = self.docker_socket.display().to_string();
        let down = |e: Refusal| format!("Docker at {socket} can't be asked: {e}");
        let docker = Docker::connect_with_unix(&socket, CALL_TIMEOUT, API_DEFAULT_VERSION).map_err(down)?;
        let docker = docker.negotiate_version().await.map_err(down)?;
        match docker.inspect_network(&self.name, None).await {
            Ok(there) => match judge(&there, &self.driver, &lease) {
                Verdict::Good => return Ok(()),
                Verdict::Leave(reason) => return Err(reason),
                Verdict::Renew => {
                    info!("network {}: its addresses are not in lease {lease} any more: re-creating it", self.name);
                    docker.remove_network(&self.name).await.map_err(|e| format!("it can't be removed: {e}"))?;
                }
            },
            Err(Refusal::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(e) => return Err(down(e)),
        }
        let made = docker.create_network(self.request(&lease)).await;
        made.map_err(|e| format!("Docker did not create it: {e}"))?;
        info!("network {} is ready: docker run --network {0}", self.name);
        Ok(())
    }

    fn request(&self, lease: &Lease) -> NetworkCreateRequest {
        NetworkCreateRequest {
            name: self.name.clone(),
            driver: Some(self.driver.clone()),
            enable_ipv6: Some(lease.side(Family::V6).is_some()),
            ipam: Some(Ipam { driver: Some(self.driver.clone()), ..Ipam::default() }),
            options: Some(self.options.iter().cloned().collect::<HashMap<_, _>>()),
            ..NetworkCreateRequest::default()
        }
    }
}

fn judge(there: &NetworkInspect, driver: &str, lease: &Lease) -> Verdict {
    let name = there.name.as_deref().unwrap_or_default();
    let found = there.driver.as_deref().unwrap_or_default();
    if found != driver && found.strip_suffix(":latest") != Some(driver) {
        return Verdict::Leave(format!(
            "a network of that name is there, of driver {found}: remove it with \"docker network rm {name}\", or choose \
             another -docker-network"
        ));
    }
    let configs = there.ipam.as_ref().and_then(|i| i.config.as_ref()).into_iter().flatten();
    let pools = configs.filter_map(|c| c.subnet.as_ref()?.parse::<IpNet>().ok());
    // One that covers everything is how we hide a pool from Docker's comparison with the routes.
    let is_gone = pools.into_iter().any(|pool| pool.prefix_len() > 0 && !lease.holds(&pool));
    match (is_gone, there.containers.as_ref().is_none_or(HashMap::is_empty)) {
        (false, _) => Verdict::Good,
        (true, true) => Verdict::Renew,
        (true, false) => Verdict::Leave(format!(
            "its addresses are not in this host's flannel lease {lease} any more; remove its containers, and it is \
             re-created"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verdict(there: serde_json::Value) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let file = SubnetFile(dir.path().join("subnet.env"));
        let text = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        std::fs::write(file.path(), text).unwrap();
        judge(&serde_json::from_value(there).unwrap(), "flannel", &file.read().unwrap())
    }

    #[test]
    fn what_is_there_is_left_alone_unless_its_lease_is_gone_and_nobody_is_in_it() {
        let ipam = |subnet: &str| json!({"Driver": "flannel", "Config": [{"Subnet": subnet}]});
        let nobody = json!({});
        let somebody = json!({"c1": {"Name": "web"}});
        let there = |driver: &str, subnet: &str, who: &serde_json::Value| {
            verdict(json!({"Name": "net", "Driver": driver, "IPAM": ipam(subnet), "Containers": who}))
        };
        assert_eq!(there("flannel", "10.5.72.0/24", &nobody), Verdict::Good);
        assert_eq!(there("flannel:latest", "0.0.0.0/0", &somebody), Verdict::Good);
        assert_eq!(there("flannel", "10.5.9.0/24", &nobody), Verdict::Renew);
        assert!(matches!(there("flannel", "10.5.9.0/24", &somebody), Verdict::Leave(r) if r.contains("10.5.72.0/24")));
        assert!(
            matches!(there("bridge", "10.5.72.0/24", &nobody), Verdict::Leave(r) if r.contains("docker network rm net"))
        );
    }
}
