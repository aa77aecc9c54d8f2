//! A lab for one test: etcd and hosts by testcontainers, gone when the test ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use flannel_lab::engine::Engine;
use flannel_lab::host::LabHost;
use flannel_lab::{Error, Result, diagnose};
use testcontainers::bollard::models::DeviceMapping;
use testcontainers::core::{AccessMode, Mount, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};

/// Where ci/images leaves the files that the hosts load.
const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/images");
/// Where diagnoses go.
const DIAGNOSES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/diagnosis");
/// etcd answers and the config is in it.
const ETCD_READY: &str = "config in /coreos.com/network/config";
/// From a container's start to a nested Docker that answers.
const HOST_READY: Duration = Duration::from_secs(120);

/// etcd and hosts on a network of their own.
pub(crate) struct TestLab {
    pub(crate) hosts: Vec<LabHost>,
    /// The hosts' addresses on the underlay.
    pub(crate) addresses: Vec<String>,
    pub(crate) etcd_address: String,
    engine: Engine,
    etcd: ContainerAsync<GenericImage>,
    /// Held, for dropping them removes the containers.
    _containers: Vec<ContainerAsync<GenericImage>>,
}

impl TestLab {
    /// Starts etcd with the backend in its config, then so many hosts at once, and waits until all are ready.
    pub(crate) async fn start(backend: &str, count: usize) -> Result<Self> {
        let engine = Engine::connect().await?;
        let tag = std::env::var("LAB_TAG").unwrap_or_else(|_| "latest".to_owned());
        for image in ["flannel-lab-etcd", "flannel-lab-host"] {
            engine.image_id(&format!("{image}:{tag}")).await?;
        }
        for file in ["flannel.tar", "busybox.tar", "flannel-lab"] {
            if !Path::new(IMAGES).join(file).is_file() {
                return Err(Error::State(format!("target/images/{file} is missing: run ci/images")));
            }
        }
        let images = std::path::absolute(IMAGES).map_err(|error| Error::State(format!("{IMAGES}: {error}")))?;
        let network = format!("flannel-test-{backend}-{}", std::process::id());

        let etcd = GenericImage::new("flannel-lab-etcd", &tag)
            .with_wait_for(WaitFor::message_on_stdout(ETCD_READY))
            .with_network(&network)
            .with_env_var("BACKEND", backend)
            .start()
            .await
            .map_err(failed("start etcd"))?;
        let etcd_address = address(&engine, etcd.id(), &network).await?;

        let starts = (1..=count).map(async |number| {
            GenericImage::new("flannel-lab-host", &tag)
                .with_network(&network)
                .with_hostname(format!("host{number}"))
                .with_env_var("ETCD_ENDPOINTS", format!("http://{etcd_address}:2379"))
                .with_mount(
                    Mount::bind_mount(images.to_string_lossy(), "/images").with_access_mode(AccessMode::ReadOnly),
                )
                .with_mount(Mount::tmpfs_mount("/run"))
                .with_cap_add("ALL")
                .with_cap_drop("SYS_RESOURCE")
                .with_security_opt("seccomp:unconfined")
                .with_security_opt("apparmor:unconfined")
                .with_host_config_modifier(|config| config.devices = Some(vec![tun()]))
                .start()
                .await
                .map_err(failed("start a host"))
        });
        let containers: Vec<_> = futures_util::future::join_all(starts).await.into_iter().collect::<Result<_>>()?;

        let mut hosts = Vec::new();
        let mut addresses = Vec::new();
        for (number, container) in containers.iter().enumerate() {
            hosts.push(LabHost::new(engine.clone(), format!("host{}", number + 1), container.id()));
            addresses.push(address(&engine, container.id(), &network).await?);
        }
        let lab = Self { hosts, addresses, etcd_address, engine, etcd, _containers: containers };
        for ready in futures_util::future::join_all(lab.hosts.iter().map(|host| host.ready(HOST_READY))).await {
            if let Err(error) = ready {
                let diagnosis = lab.diagnose(&format!("test-{backend}")).await;
                return Err(Error::State(format!("{error}\n{diagnosis}")));
            }
        }
        Ok(lab)
    }

    /// Keys and values under a prefix in etcd, the values as JSON.
    pub(crate) async fn etcd_keys(&self, prefix: &str) -> Result<BTreeMap<String, serde_json::Value>> {
        let text = self.engine.run(self.etcd.id(), &["etcdctl", "get", "--prefix", prefix]).await?;
        let lines: Vec<&str> = text.lines().collect();
        let pairs = lines.chunks_exact(2).map(|pair| {
            let value = serde_json::from_str(pair[1])
                .map_err(|error| Error::State(format!("etcd: {} is not JSON: {error}: {}", pair[0], pair[1])))?;
            Ok((pair[0].to_owned(), value))
        });
        pairs.collect()
    }

    /// The names of each host's links.
    pub(crate) async fn links(&self) -> Result<Vec<(String, BTreeSet<String>)>> {
        let mut all = Vec::new();
        for host in &self.hosts {
            let text = host.run(&["ip", "-o", "link"]).await?;
            let names = text.lines().filter_map(|line| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned()));
            all.push((host.name.clone(), names.collect()));
        }
        Ok(all)
    }

    /// Writes down what is known of every host; where, and the end of each flannel's log.
    pub(crate) async fn diagnose(&self, name: &str) -> String {
        let directory = Path::new(DIAGNOSES).join(name);
        let mut text = match diagnose::write(&self.hosts, Some(self.etcd.id()), &directory).await {
            Ok(_) => format!("logs and state of each host: {}\n", directory.display()),
            Err(error) => format!("no diagnosis could be written: {error}\n"),
        };
        for host in &self.hosts {
            let log = host.early_docker(&["logs", "--tail", "15", "flannel"]).await;
            text.push_str(&format!("{}: flannel: {}\n", host.name, log.unwrap_or_else(|error| error.to_string())));
        }
        text
    }
}

fn tun() -> DeviceMapping {
    let device = Some("/dev/net/tun".to_owned());
    DeviceMapping {
        path_on_host: device.clone(),
        path_in_container: device,
        cgroup_permissions: Some("rwm".to_owned()),
    }
}

fn failed(doing: &'static str) -> impl FnOnce(testcontainers::TestcontainersError) -> Error {
    move |error| Error::State(format!("{doing}: {error}"))
}

/// A container's address on a network.
async fn address(engine: &Engine, container: &str, network: &str) -> Result<String> {
    let networks = engine.inspect(container).await?.network_settings.and_then(|settings| settings.networks);
    networks
        .and_then(|mut networks| networks.remove(network)?.ip_address)
        .filter(|address| !address.is_empty())
        .ok_or_else(|| Error::State(format!("container {container} has no address on {network}")))
}
