//! Docker Compose: the file made of a topology, and which of its programs is installed.
//!
//! The file is made from the topology each time, so that both runners make the same lab of the same words; `flannel-lab
//! compose` prints it, for those who want to run compose by hand.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::topology::{HostSpec, Topology};
use crate::{Error, Result};

/// The label that says what a container of a lab is.
pub const ROLE: &str = "flannel.lab.role";
/// Docker's bridge has the first address of a network; etcd and the hosts come later.
const FIRST: u8 = 10;

/// A lab as compose sees it.
#[derive(Debug, Clone)]
pub struct Project {
    /// The project's name; it begins the names of all its containers.
    pub name: String,
    /// What it is made of.
    pub topology: Topology,
    /// First three numbers of each underlay's addresses, in the topology's order.
    pub underlays: Vec<String>,
    /// Where the image files are.
    pub images: PathBuf,
    /// The tag of the lab's images.
    pub tag: String,
}

/// What a topology has that containers cannot be given, if anything.
#[must_use]
pub fn refusal(topology: &Topology) -> Option<String> {
    let what = if topology.network.len() > 1 {
        "several flannel networks"
    } else if topology.underlay.iter().any(|underlay| underlay.ipv6.is_some()) {
        "IPv6 on the underlay"
    } else if topology.etcd.members > 1 {
        "several etcd members"
    } else if topology.host.iter().any(|host| host.flanneld.is_some()) {
        "a program for a host (containers take `image`)"
    } else {
        return None;
    };
    Some(format!("topology {}: {what} needs --in namespaces", topology.name))
}

/// The name of an underlay's network in the project.
fn network(number: usize) -> String {
    if number == 0 { "underlay".to_owned() } else { format!("underlay{}", number + 1) }
}

impl Project {
    /// The whole compose file.
    #[must_use]
    pub fn file(&self) -> Value {
        let mut services = Map::new();
        services.insert("etcd".to_owned(), self.etcd());
        for host in &self.topology.host {
            services.insert(host.name.clone(), self.host(host));
        }
        for router in &self.topology.router {
            let last = self.topology.router_number(&router.name);
            let networks: Map<String, Value> = router
                .joins
                .iter()
                .map(|name| (network(self.number(name)), json!({ "ipv4_address": self.address(name, last) })))
                .collect();
            services.insert(
                router.name.clone(),
                json!({
                    "image": format!("flannel-lab-host:{}", self.tag),
                    "entrypoint": ["tini", "--", "sleep", "infinity"],
                    "cap_add": ["NET_ADMIN"],
                    "labels": { ROLE: "router" },
                    // Not a Docker host, so nothing of one is looked for.
                    "healthcheck": { "disable": true },
                    "networks": networks,
                }),
            );
        }
        let several = self.topology.underlay.len() > 1;
        let networks: Map<String, Value> = self
            .topology
            .underlay
            .iter()
            .enumerate()
            .map(|(number, underlay)| {
                let mut options = json!({ "com.docker.network.driver.mtu": underlay.mtu.to_string() });
                if several {
                    // Else what a router hands on would get this machine's address.
                    options["com.docker.network.bridge.enable_ip_masquerade"] = "false".into();
                }
                let subnet = format!("{}.0/24", self.underlays[number]);
                (network(number), json!({ "ipam": { "config": [{ "subnet": subnet }] }, "driver_opts": options }))
            })
            .collect();
        json!({ "version": "2.4", "services": services, "networks": networks })
    }

    fn etcd(&self) -> Value {
        let backend = self.topology.backend();
        let networks: Map<String, Value> = self
            .topology
            .underlay
            .iter()
            .map(|one| (network(self.number(&one.name)), json!({ "ipv4_address": self.address(&one.name, FIRST) })))
            .collect();
        json!({
            "image": format!("flannel-lab-etcd:{}", self.tag),
            "environment": {
                "BACKEND": backend,
                "TOPOLOGY": self.topology.name,
                "FLANNEL_CONFIG": self.topology.network[0].config.to_string(),
            },
            "labels": { ROLE: "etcd" },
            // On every underlay, with the same last number: it knows no routes.
            "networks": networks,
        })
    }

    fn host(&self, host: &HostSpec) -> Value {
        let place = self.number(&host.underlay);
        let underlay = &self.topology.underlay[place];
        let ways = self.topology.ways(&host.underlay);
        let routes: Vec<String> = ways
            .iter()
            .map(|way| {
                let [_, _, _, last] = way.via.octets();
                format!("{}.0/24 via {}", self.underlays[self.number(&way.to.name)], self.address(&host.underlay, last))
            })
            .collect();
        json!({
            "image": format!("flannel-lab-host:{}", self.tag),
            "hostname": host.name,
            "depends_on": ["etcd"],
            // What --privileged would give, less what some machines cannot give: docs/how-to/run-the-lab.md.
            "cap_add": ["ALL"],
            "cap_drop": ["SYS_RESOURCE"],
            "security_opt": ["seccomp:unconfined", "apparmor:unconfined"],
            "devices": ["/dev/net/tun"],
            "tmpfs": ["/run"],
            "volumes": [format!("{}:/images:ro", self.images.display()), "/var/lib/docker", "/var/lib/docker-early"],
            "environment": {
                "ETCD_ENDPOINTS": format!("http://{}:2379", self.address(&host.underlay, FIRST)),
                "FLANNEL_ARGS": host.args.join(" "),
                "FLANNEL_IMAGE": host.image.clone().unwrap_or_else(|| "flannel".to_owned()),
                "LAB_ROUTES": routes.join("\n"),
                "LAB_RATE": underlay.rate.clone().unwrap_or_default(),
                // Not read by the host: a change of it makes compose re-create the host.
                "BACKEND": self.topology.network[0].config["Backend"].to_string(),
            },
            "labels": { ROLE: "host" },
            "networks": {
                network(place): { "ipv4_address": self.address(&host.underlay, FIRST + self.topology.number_of(&host.name)) },
            },
        })
    }

    fn number(&self, underlay: &str) -> usize {
        self.topology.underlay.iter().position(|other| other.name == underlay).unwrap_or(0)
    }

    fn address(&self, underlay: &str, last: u8) -> String {
        format!("{}.{last}", self.underlays[self.number(underlay)])
    }
}

/// Which program there is.
async fn program() -> Result<Vec<&'static str>> {
    for words in [vec!["docker", "compose"], vec!["docker-compose"]] {
        let probe = Command::new(words[0])
            .args(&words[1..])
            .arg("version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        if probe.is_ok_and(|status| status.success()) {
            return Ok(words);
        }
    }
    Err(Error::State("neither `docker compose` nor docker-compose is there: run ci/setup".to_owned()))
}

impl Project {
    /// Makes what is missing and starts it; what runs already and is as the file says stays as it is.
    pub async fn up(&self) -> Result<()> {
        self.run(&["up", "-d"]).await
    }

    /// Removes the project's containers, their volumes and the network.
    pub async fn down(&self) -> Result<()> {
        self.run(&["down", "-v", "-t", "0"]).await
    }

    async fn run(&self, words: &[&str]) -> Result<()> {
        let program = program().await?;
        let shown = format!("{} -p {} {}", program.join(" "), self.name, words.join(" "));
        let failed = |reason: String| Error::Program { command: shown.clone(), reason };
        let mut child = Command::new(program[0])
            .args(&program[1..])
            .args(["-p", &self.name, "-f", "-"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(self.file().to_string().as_bytes()).await.map_err(|error| failed(error.to_string()))?;
        }
        let output = child.wait_with_output().await.map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = said.lines().collect();
            return Err(failed(format!("{}\n{}", output.status, lines[lines.len().saturating_sub(12)..].join("\n"))));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(topology: &str) -> Project {
        Project {
            name: "lab".to_owned(),
            topology: Topology::load(topology).unwrap(),
            underlays: vec!["172.29.77".to_owned(), "172.29.80".to_owned()],
            images: PathBuf::from("/images-here"),
            tag: "latest".to_owned(),
        }
    }

    #[test]
    fn three_hosts_and_an_etcd_on_one_network() {
        let file = project("three-hosts").file();
        let services: Vec<&String> = file["services"].as_object().unwrap().keys().collect();
        assert_eq!(services, ["etcd", "h1", "h2", "h3"]);
        assert_eq!(file["services"]["h2"]["networks"]["underlay"]["ipv4_address"], "172.29.77.12");
        assert_eq!(file["services"]["h2"]["environment"]["LAB_ROUTES"], "");
        assert_eq!(file["networks"].as_object().unwrap().len(), 1);
        let config: Value =
            serde_json::from_str(file["services"]["etcd"]["environment"]["FLANNEL_CONFIG"].as_str().unwrap()).unwrap();
        assert_eq!(config["Backend"]["Type"], "vxlan");
    }

    #[test]
    fn a_router_has_a_foot_in_each_and_hosts_know_the_way() {
        let file = project("slow-link").file();
        assert_eq!(file["services"]["r1"]["networks"]["underlay2"]["ipv4_address"], "172.29.80.254");
        let h3 = &file["services"]["h3"];
        assert_eq!(h3["networks"]["underlay2"]["ipv4_address"], "172.29.80.13");
        assert_eq!(h3["environment"]["LAB_ROUTES"], "172.29.77.0/24 via 172.29.80.254");
        assert_eq!(h3["environment"]["LAB_RATE"], "20mbit");
        assert_eq!(h3["environment"]["ETCD_ENDPOINTS"], "http://172.29.80.10:2379");
        assert_eq!(file["networks"]["underlay2"]["driver_opts"]["com.docker.network.driver.mtu"], "1400");
    }

    #[test]
    fn a_host_runs_the_image_that_the_topology_names() {
        let mut project = project("three-hosts");
        project.topology.host[1].image = Some("flannel:old".to_owned());
        let file = project.file();
        let image = |host: &str| file["services"][host]["environment"]["FLANNEL_IMAGE"].clone();
        assert_eq!([image("h1"), image("h2")], ["flannel", "flannel:old"]);
    }

    #[test]
    fn what_containers_cannot_be_given_is_named() {
        for (name, part) in [("dual-stack", "IPv6"), ("several-networks", "several flannel networks")] {
            let refused = refusal(&Topology::load(name).unwrap()).unwrap();
            assert!(refused.contains(part) && refused.contains("--in namespaces"), "{refused}");
        }
        assert_eq!(refusal(&Topology::load("two-segments").unwrap()), None);
    }
}
