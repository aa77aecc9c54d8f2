//! The driver over a kernel and a packet filter that are not there, called as Docker calls it.

mod pools;
mod survival;
mod ways_out;

use std::path::{Path, PathBuf};

use flannel_core::family::Family;
use serde_json::json;

use super::*;
use crate::api::ipam::{ReleaseAddress, ReleasePool, RequestAddress, RequestPool};
use crate::api::network::{CreateEndpoint, CreateNetwork, DeleteNetwork, EndpointCall, Joined};
use crate::firewall::fake::FakeFirewall;
use crate::links::HostRoute;
use crate::links::fake::{FakeLinks, Interfaces};

const N1: &str = "1111111111110000000000000000000000000000000000000000000000000000";
const N2: &str = "2222222222220000000000000000000000000000000000000000000000000000";
const E1: &str = "e1e1e1e1e1e10000000000000000000000000000000000000000000000000000";
const E2: &str = "e2e2e2e2e2e20000000000000000000000000000000000000000000000000000";

const E3: &str = "e3e3e3e3e3e30000000000000000000000000000000000000000000000000000";

const V4: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
const DUAL: &str = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_IPV6_NETWORK=fd00:5::/48\n\
                    FLANNEL_IPV6_SUBNET=fd00:5:0:72::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

/// A host with a plugin.
struct Host {
    dir: tempfile::TempDir,
    firewall: FakeFirewall,
    nat: FakeFirewall<Nat>,
    driver: Driver<FakeLinks>,
}

impl Host {
    fn new(subnet_env: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(env_path(dir.path()), subnet_env).unwrap();
        let (firewall, nat) = (FakeFirewall::default(), FakeFirewall::default());
        let driver = start(dir.path(), &firewall, &nat, Interfaces::default());
        Self { dir, firewall, nat, driver }
    }

    /// The plugin ends and another starts, on the same kernel unless it is given another.
    async fn restart(self, kernel: Option<Interfaces>) -> Self {
        let Self { dir, firewall, nat, driver } = self;
        let kernel = kernel.unwrap_or_else(|| driver.links.interfaces().clone());
        drop(driver);
        let driver = start(dir.path(), &firewall, &nat, kernel);
        driver.restore().await;
        Self { dir, firewall, nat, driver }
    }

    fn lease(&self, subnet_env: &str) {
        std::fs::write(env_path(self.dir.path()), subnet_env).unwrap();
    }

    fn kernel(&self) -> Interfaces {
        self.driver.links.interfaces().clone()
    }

    fn add_route(&self, destination: &str, device: Option<&str>, metric: u32) {
        let route = HostRoute { destination: destination.parse().unwrap(), device: device.map(str::to_owned), metric };
        self.driver.links.interfaces().routes.push(route);
    }

    fn rules(&self) -> BridgeRules {
        self.firewall.applied().pop().unwrap_or_default()
    }

    async fn pool(&self, subnet: &str) -> Result<crate::api::ipam::PoolGiven, Error> {
        let v6 = subnet.contains(':');
        self.driver.request_pool(read(json!({"Pool": subnet, "V6": v6}))).await
    }

    async fn address(&self, pool_id: &str, wanted: &str) -> Result<String, Error> {
        let request = json!({"PoolID": pool_id, "Address": wanted, "Options": null});
        Ok(self.driver.request_address(read(request)).await?.address)
    }

    async fn gateway(&self, pool_id: &str) -> Result<String, Error> {
        let options = json!({"RequestAddressType": "com.docker.network.gateway"});
        let request: RequestAddress = read(json!({"PoolID": pool_id, "Address": "", "Options": options}));
        Ok(self.driver.request_address(request).await?.address)
    }

    async fn create(&self, id: &str, space: &str, pool: &str, gateway: &str) -> Result<(), Error> {
        self.create_with(id, json!({}), &[(space, pool, gateway)]).await
    }

    async fn create_with(
        &self,
        id: &str,
        options: serde_json::Value,
        data: &[(&str, &str, &str)],
    ) -> Result<(), Error> {
        let family = |family: Family| {
            let of_family = data.iter().filter(|(_, pool, _)| pool.contains(':') == (family == Family::V6));
            let items = of_family.map(|(s, p, g)| json!({"AddressSpace": s, "Pool": p, "Gateway": g}));
            items.collect::<Vec<_>>()
        };
        let request: CreateNetwork = read(
            json!({"NetworkID": id, "Options": options, "IPv4Data": family(Family::V4), "IPv6Data": family(Family::V6)}),
        );
        self.driver.create_network(request).await.map(drop)
    }

    /// As `docker network create -d flannel --ipam-driver flannel [--subnet SUBNET]` does.
    async fn network(&self, id: &str, subnet: &str) -> Result<String, Error> {
        let given = self.pool(subnet).await?;
        let gateway = match given.data.get(crate::api::ipam::GATEWAY) {
            Some(gateway) => gateway.clone(),
            None => self.gateway(&given.pool_id).await?,
        };
        self.create(id, "flannel-local", &given.pool, &gateway).await?;
        Ok(given.pool_id)
    }

    async fn remove_network(&self, id: &str, pool_id: &str) {
        self.driver.release_pool(ReleasePool { pool_id: pool_id.to_owned() }).await.unwrap();
        self.driver.delete_network(DeleteNetwork { network_id: id.to_owned() }).await.unwrap();
    }

    async fn endpoint(&self, network: &str, id: &str, address: &str, mac: &str) -> Result<Option<String>, Error> {
        let interface = json!({"Address": address, "AddressIPv6": "", "MacAddress": mac});
        let request: CreateEndpoint =
            read(json!({"NetworkID": network, "EndpointID": id, "Interface": interface, "Options": {}}));
        Ok(self.driver.create_endpoint(request).await?.interface.and_then(|i| i.mac_address))
    }

    async fn join(&self, network: &str, endpoint: &str) -> Result<Joined, Error> {
        self.join_in(network, endpoint, "/var/run/docker/netns/6465ec84fc4b").await
    }

    async fn join_in(&self, network: &str, endpoint: &str, sandbox: &str) -> Result<Joined, Error> {
        let request = json!({"NetworkID": network, "EndpointID": endpoint, "SandboxKey": sandbox, "Options": {}});
        self.driver.join(read(request)).await
    }

    async fn stop(&self, network: &str, endpoint: &str) {
        self.driver.leave(call(network, endpoint)).await.unwrap();
        self.driver.delete_endpoint(call(network, endpoint)).await.unwrap();
    }
}

fn start(dir: &Path, firewall: &FakeFirewall, nat: &FakeFirewall<Nat>, kernel: Interfaces) -> Driver<FakeLinks> {
    let settings = Settings {
        name: "flannel".to_owned(),
        subnet_file: SubnetFile(env_path(dir)),
        engine: Engine::at(dir.join("docker.sock")),
    };
    let links = FakeLinks::default();
    *links.interfaces() = kernel;
    let guards = Guards { forward: Guard::start(firewall.clone()), nat: Guard::start(nat.clone()) };
    Driver::new(settings, Store::open(&dir.join("state")).unwrap(), links, guards)
}

fn env_path(dir: &Path) -> PathBuf {
    dir.join("subnet.env")
}

fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn call(network: &str, endpoint: &str) -> EndpointCall {
    EndpointCall { network_id: network.to_owned(), endpoint_id: endpoint.to_owned() }
}

#[tokio::test]
async fn a_containers_life() {
    let host = Host::new(V4);
    let pool = host.network(N1, "").await.unwrap();
    let bridge = host.kernel().bridges.into_values().next().unwrap();
    assert_eq!(bridge.name.as_str(), "fl-111111111111");
    assert_eq!(bridge.addresses, ["10.5.72.1/24".parse().unwrap()]);
    assert_eq!((bridge.mtu, bridge.mac.to_string().as_str()), (1450, "02:00:0a:05:48:01"));
    assert_eq!(host.rules().bridges.len(), 1);

    let address = host.address(&pool, "").await.unwrap();
    assert_eq!(address, "10.5.72.2/24");
    assert_eq!(host.endpoint(N1, E1, &address, "").await.unwrap().as_deref(), Some("02:00:0a:05:48:02"));
    let joined = host.join(N1, E1).await.unwrap();
    assert_eq!(
        serde_json::to_value(&joined).unwrap(),
        json!({
            "InterfaceName": {"SrcName": "flce1e1e1e1e1e1", "DstPrefix": "eth"},
            "StaticRoutes": [{"Destination": "10.5.0.0/16", "RouteType": 0, "NextHop": "10.5.72.1"}],
        })
    );
    let veth = host.kernel().veths.into_values().next().unwrap();
    assert_eq!((veth.bridge, veth.mtu), (bridge.name, 1450));

    host.stop(N1, E1).await;
    host.remove_network(N1, &pool).await;
    assert_eq!(host.kernel(), Interfaces::default());
    assert_eq!(host.rules(), BridgeRules::default());
    let state = host.driver.state();
    assert!(state.networks.is_empty() && state.pools.is_empty(), "{state:?}");
}

#[tokio::test]
async fn an_answer_never_repeats_what_docker_decided() {
    let host = Host::new(V4);
    host.network(N1, "").await.unwrap();
    assert_eq!(host.endpoint(N1, E1, "10.5.72.9/24", "02:42:ac:11:65:43").await.unwrap(), None);
    host.join(N1, E1).await.unwrap();
    assert_eq!(host.kernel().veths.into_values().next().unwrap().mac.to_string(), "02:42:ac:11:65:43");
}

#[tokio::test]
async fn options_are_heeded_or_refused() {
    let host = Host::new(V4);
    let data = [("LocalDefault", "10.5.72.0/24", "10.5.72.254/24")];
    let mtu =
        |value: serde_json::Value| json!({"com.docker.network.generic": {"com.docker.network.driver.mtu": value}});
    for bad in [json!("big"), json!("67"), json!("65536"), json!("")] {
        let error = host.create_with(N1, mtu(bad.clone()), &data).await.unwrap_err().to_string();
        assert!(error.starts_with("option com.docker.network.driver.mtu="), "{bad}: {error}");
        assert_eq!(host.kernel(), Interfaces::default());
    }
    let mut options = mtu(json!("1400"));
    options["com.docker.network.internal"] = json!(true);
    host.create_with(N1, options, &data).await.unwrap();
    let bridge = host.kernel().bridges.into_values().next().unwrap();
    assert_eq!((bridge.mtu, bridge.addresses), (1400, vec!["10.5.72.254/24".parse().unwrap()]));
    assert!(host.rules().bridges[0].internal);
    // Inside the flannel network an internal container goes where any other does.
    host.endpoint(N1, E1, "10.5.72.1/24", "").await.unwrap();
    assert_eq!(host.join(N1, E1).await.unwrap().static_routes[0].next_hop, "10.5.72.254");
}

#[tokio::test]
async fn both_families() {
    let host = Host::new(DUAL);
    let (v4, v6) = (host.pool("").await.unwrap(), host.driver.request_pool(read(json!({"V6": true}))).await.unwrap());
    assert_eq!(v6.pool, "fd00:5:0:72::/64");
    let (g4, g6) = (host.gateway(&v4.pool_id).await.unwrap(), host.gateway(&v6.pool_id).await.unwrap());
    assert_eq!(g6, "fd00:5:0:72::1/64");
    let data = [("flannel-local", v4.pool.as_str(), g4.as_str()), ("flannel-local", v6.pool.as_str(), g6.as_str())];
    host.create_with(N1, json!({"com.docker.network.enable_ipv6": true}), &data).await.unwrap();
    assert_eq!(host.kernel().bridges.into_values().next().unwrap().addresses.len(), 2);
    assert_eq!(host.rules().bridges[0].flannel.len(), 2);
    let interface = json!({"Address": "10.5.72.2/24", "AddressIPv6": "fd00:5:0:72::2/64", "MacAddress": ""});
    let request = json!({"NetworkID": N1, "EndpointID": E1, "Interface": interface});
    host.driver.create_endpoint(read(request)).await.unwrap();
    let routes = host.join(N1, E1).await.unwrap().static_routes;
    assert_eq!(routes[1].destination, "fd00:5::/48");
    assert_eq!(routes[1].next_hop, "fd00:5:0:72::1");
}

#[tokio::test]
async fn ipv6_without_an_ipv6_lease_is_refused() {
    let host = Host::new(V4);
    let data = [("LocalDefault", "10.5.72.0/24", "10.5.72.1/24"), ("LocalDefault", "fd00::/64", "fd00::1/64")];
    let error = host.create_with(N1, json!({}), &data).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "this host's flannel lease 10.5.72.0/24 has no IPv6 part: leave out --ipv6, or switch IPv6 on in flannel's config"
    );
    assert_eq!(host.kernel(), Interfaces::default());
}

#[tokio::test]
async fn what_is_not_known_is_gone_already() {
    let host = Host::new(V4);
    host.stop(N1, E1).await;
    host.stop("", "../..").await;
    host.remove_network(N1, "pool-1").await;
    for address in ["10.5.72.1", "", "nonsense"] {
        let request = ReleaseAddress { pool_id: "pool-1".to_owned(), address: address.to_owned() };
        host.driver.release_address(request).await.unwrap();
    }
    assert!(matches!(host.address("pool-1", "").await, Err(Error::UnknownPool { .. })));
    assert!(matches!(host.endpoint(N1, E1, "10.5.72.2/24", "").await, Err(Error::UnknownNetwork { .. })));
    host.network(N1, "").await.unwrap();
    assert!(matches!(host.join(N1, E1).await, Err(Error::UnknownEndpoint { .. })));
    let outside = host.endpoint(N1, E1, "10.6.0.2/24", "").await.unwrap_err().to_string();
    assert!(outside.contains("10.6.0.2/24") && outside.contains("10.5.72.0/24"), "{outside}");
}
