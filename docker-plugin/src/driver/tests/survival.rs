//! Faults half way, restarts, reboots, and leases that change.

use super::*;
use crate::docker::engine::fake::FakeDocker;
use crate::driver::drift::Difference;

#[tokio::test]
async fn a_network_that_fails_leaves_nothing() {
    let host = Host::new(V4);
    let given = host.pool("").await.unwrap();
    let gateway = host.gateway(&given.pool_id).await.unwrap();
    host.driver.links.interfaces().fail_next = 1;
    let error = host.create(N1, "flannel-local", &given.pool, &gateway).await.unwrap_err();
    assert!(matches!(error, Error::Link(_)), "{error}");
    assert_eq!(host.kernel(), Interfaces::default());

    // The disk refuses after the bridge is there.
    let block = host.dir.path().join(format!("state/.state.json.{}", std::process::id()));
    std::fs::create_dir(&block).unwrap();
    let error = host.create(N1, "flannel-local", &given.pool, &gateway).await.unwrap_err();
    assert!(matches!(error, Error::State(_)), "{error}");
    assert_eq!(host.kernel(), Interfaces::default());
    assert!(host.driver.state().networks.is_empty());
    assert!(host.driver.state().pools.values().all(|p| p.network.is_none()));
    let error = host.address(&given.pool_id, "").await.unwrap_err();
    assert!(matches!(error, Error::State(_)), "{error}");
    std::fs::remove_dir(&block).unwrap();
    host.create(N1, "flannel-local", &given.pool, &gateway).await.unwrap();
    assert_eq!(host.address(&given.pool_id, "10.5.72.2").await.unwrap(), "10.5.72.2/24");
}

#[tokio::test]
async fn what_join_made_goes_with_delete_endpoint() {
    let host = Host::new(V4);
    host.network(N1, "").await.unwrap();
    host.endpoint(N1, E1, "10.5.72.2/24", "").await.unwrap();
    host.join(N1, E1).await.unwrap();
    host.driver.delete_endpoint(call(N1, E1)).await.unwrap();
    assert!(host.kernel().veths.is_empty());
    assert!(host.driver.state().networks[N1].endpoints.is_empty());
}

#[tokio::test]
async fn goes_on_after_a_restart() {
    let host = Host::new(V4);
    let pool = host.network(N1, "").await.unwrap();
    let address = host.address(&pool, "").await.unwrap();
    host.endpoint(N1, E1, &address, "").await.unwrap();
    host.join(N1, E1).await.unwrap();
    let before = (host.driver.state(), host.kernel());

    let host = host.restart(None).await;
    assert_eq!((host.driver.state(), host.kernel()), before);
    assert_eq!(host.rules().bridges.len(), 1);
    assert_eq!(host.address(&pool, "").await.unwrap(), "10.5.72.3/24");
    host.stop(N1, E1).await;
    host.remove_network(N1, &pool).await;
    assert_eq!(host.kernel(), Interfaces::default());
}

#[tokio::test]
async fn makes_bridges_and_rules_again_after_a_reboot() {
    let host = Host::new(V4);
    let pool = host.network(N1, "").await.unwrap();
    let bridges = host.kernel().bridges;
    let host = host.restart(Some(Interfaces::default())).await;
    assert_eq!(host.kernel().bridges, bridges);
    assert_eq!(host.rules().bridges.len(), 1);
    // The bridge lost at another hand comes back with the next container.
    host.driver.links.interfaces().bridges.clear();
    host.endpoint(N1, E1, &host.address(&pool, "").await.unwrap(), "").await.unwrap();
    host.join(N1, E1).await.unwrap();
    assert_eq!(host.kernel().bridges, bridges);
}

#[tokio::test]
async fn before_flanneld_is_up_a_restart_goes_by_what_it_remembers() {
    let host = Host::new(V4);
    host.network(N1, "").await.unwrap();
    let bridges = host.kernel().bridges;
    std::fs::remove_file(env_path(host.dir.path())).unwrap();
    let host = host.restart(Some(Interfaces::default())).await;
    assert_eq!(host.kernel().bridges, bridges);
    let error = host.endpoint(N1, E1, "10.5.72.2/24", "").await.unwrap_err();
    assert!(matches!(error, Error::NoLease { .. }), "{error}");
}

#[tokio::test]
async fn a_changed_lease_stops_old_networks_and_says_so() {
    let host = Host::new(V4);
    host.network(N1, "").await.unwrap();
    host.lease(&V4.replace("10.5.72.1", "10.5.99.1"));
    let error = host.endpoint(N1, E1, "10.5.72.2/24", "").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "network 111111111111 has pool 10.5.72.0/24, but this host's flannel lease is 10.5.99.0/24 now: recreate it, \
         with \"docker network rm 111111111111\" and \"docker network create -d flannel --ipam-driver flannel NAME\""
    );
    // The new lease can be used meanwhile, and the old bridge, whose range is another host's now, does not come back.
    host.network(N2, "").await.unwrap();
    let host = host.restart(Some(Interfaces::default())).await;
    let bridges: Vec<_> = host.kernel().bridges.into_keys().map(|n| n.to_string()).collect();
    assert_eq!(bridges, ["fl-222222222222"]);
}

#[tokio::test]
async fn removes_at_start_what_belongs_to_nothing() {
    let host = Host::new(V4);
    host.network(N1, "").await.unwrap();
    host.endpoint(N1, E1, "10.5.72.2/24", "").await.unwrap();
    host.join(N1, E1).await.unwrap();
    host.endpoint(N1, E2, "10.5.72.3/24", "").await.unwrap();
    host.join(N1, E2).await.unwrap();
    // Died between forgetting and removing.
    host.driver.store.forget(|s| s.networks.get_mut(N1).unwrap().endpoints.remove(E2)).await;
    let _docker = docker_with(&host, vec![docker_network(N1, "10.5.72.0/24", &[(E1, "10.5.72.2/24")])]);
    let host = host.restart(None).await;
    // Not without asking Docker: a container may hang on it.
    assert_eq!(host.kernel().veths.len(), 2);
    assert_eq!(kinds(&check_twice(&host).await.repaired), ["address-untaken", "device-orphaned"]);
    let veths: Vec<_> = host.kernel().veths.into_keys().map(|n| n.to_string()).collect();
    assert_eq!(veths, ["flhe1e1e1e1e1e1"]);
}

#[tokio::test]
async fn a_bridge_that_belongs_to_nothing_goes_before_it_is_in_the_way() {
    let host = Host::new(V4);
    host.network(N1, "").await.unwrap();
    host.driver.store.forget(|s| drop((s.networks.remove(N1), std::mem::take(&mut s.pools)))).await;
    let host = host.restart(None).await;
    assert_eq!(host.kernel(), Interfaces::default());
}

#[tokio::test]
async fn a_new_mtu_reaches_new_containers() {
    let host = Host::new(V4);
    host.network(N1, "").await.unwrap();
    host.lease(&V4.replace("1450", "1472"));
    host.endpoint(N1, E1, "10.5.72.2/24", "").await.unwrap();
    host.join(N1, E1).await.unwrap();
    assert_eq!(host.kernel().veths.into_values().next().unwrap().mtu, 1472);
    assert_eq!(host.kernel().bridges.into_values().next().unwrap().mtu, 1472);
}

/// Docker's word on a network of the lease, with these endpoints in it (EndpointID and address).
fn docker_network(id: &str, subnet: &str, endpoints: &[(&str, &str)]) -> serde_json::Value {
    let containers: serde_json::Map<_, _> = endpoints
        .iter()
        .map(|(endpoint, address)| {
            let there = json!({"Name": "web", "EndpointID": endpoint, "MacAddress": "02:00:0a:05:48:02",
                               "IPv4Address": address, "IPv6Address": ""});
            ((*endpoint).to_owned(), there)
        })
        .collect();
    json!({"Id": id, "Name": "net", "Driver": "flannel", "Scope": "local", "Containers": containers, "Options": {},
           "IPAM": {"Driver": "flannel", "Config": [{"Subnet": subnet, "Gateway": gateway_of(subnet)}]}})
}

fn gateway_of(subnet: &str) -> String {
    crate::store::pool::Pool::new(subnet.parse().unwrap(), subnet.parse().unwrap()).unwrap().first().to_string()
}

/// A Docker that has just these networks.
fn docker_with(host: &Host, networks: Vec<serde_json::Value>) -> FakeDocker {
    FakeDocker::start(&host.dir.path().join("docker.sock"), networks)
}

fn kinds(differences: &[Difference]) -> Vec<&'static str> {
    differences.iter().map(Difference::kind).collect()
}

/// Two looks, as far apart as they have to be.
async fn check_twice(host: &Host) -> CheckReport {
    let first = host.driver.check().await;
    assert_eq!(first.repaired, [], "acted upon at first sight");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    host.driver.check().await
}

#[tokio::test]
async fn a_network_removed_in_our_absence_gives_up_its_lease() {
    let host = Host::new(V4);
    host.network(N1, "10.5.72.0/25").await.unwrap();
    host.network(N2, "10.5.72.128/25").await.unwrap();
    let _docker = docker_with(&host, vec![docker_network(N2, "10.5.72.128/25", &[])]);
    // Docker denies a network that it is still creating, so a young one is safe.
    assert_eq!(host.driver.check().await.repaired, []);
    assert!(matches!(host.pool("10.5.72.0/25").await, Err(Error::Taken { .. })));
    let host = host.restart(None).await;
    assert_eq!(kinds(&host.driver.check().await.repaired), ["network-gone"]);
    let left: Vec<_> = host.kernel().bridges.into_keys().map(|n| n.to_string()).collect();
    assert_eq!(left, ["fl-222222222222"]);
    assert_eq!(host.rules().bridges.len(), 1);
    assert!(matches!(host.pool("10.5.72.128/25").await, Err(Error::Taken { .. })));
    host.network(N1, "10.5.72.0/25").await.unwrap();
}

#[tokio::test]
async fn where_docker_is_silent_a_network_stays() {
    let host = Host::new(V4);
    host.network(N1, "").await.unwrap();
    let host = host.restart(None).await;
    let looked = host.driver.check().await;
    assert!(looked.docker_error.is_some() && looked.repaired.is_empty(), "{looked:?}");
    assert!(matches!(host.pool("").await, Err(Error::Taken { .. })));
}

#[tokio::test]
async fn a_call_waits_for_a_look_that_makes_room() {
    let host = Host::new(V4);
    host.network(N1, "").await.unwrap();
    let host = host.restart(None).await;
    let _docker = docker_with(&host, Vec::new());
    tokio::select! {
        () = host.driver.watch() => {}
        made = host.network(N2, "") => assert!(made.is_ok(), "{made:?}"),
    }
    let left: Vec<_> = host.kernel().bridges.into_keys().map(|n| n.to_string()).collect();
    assert_eq!(left, ["fl-222222222222"]);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_docker_holds_up_no_call() {
    let host = Host::new(V4);
    host.network(N1, "").await.unwrap();
    let host = host.restart(None).await;
    let _stalled = tokio::net::UnixListener::bind(host.dir.path().join("docker.sock")).unwrap();
    let started = Instant::now();
    let look = async {
        host.driver.watch().await;
    };
    tokio::select! {
        () = look => {}
        refused = host.pool("") => assert!(matches!(refused, Err(Error::Taken { .. })), "{refused:?}"),
    }
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_container_gone_in_our_absence_gives_up_its_address() {
    let host = Host::new(V4);
    let pool = host.network(N1, "").await.unwrap();
    for (endpoint, address) in [(E1, "10.5.72.2/24"), (E2, "10.5.72.3/24")] {
        assert_eq!(host.address(&pool, "").await.unwrap(), address);
        host.endpoint(N1, endpoint, address, "").await.unwrap();
        host.join(N1, endpoint).await.unwrap();
    }
    // Asked for and never used: Docker died in between.
    assert_eq!(host.address(&pool, "").await.unwrap(), "10.5.72.4/24");
    let host = host.restart(None).await;
    let _docker = docker_with(&host, vec![docker_network(N1, "10.5.72.0/24", &[(E1, "10.5.72.2/24")])]);
    let looked = check_twice(&host).await;
    assert_eq!(kinds(&looked.repaired), ["endpoint-gone", "address-leaked"]);
    let state = host.driver.state();
    let taken: Vec<_> = state.pools[&pool].taken().map(|a| a.to_string()).collect();
    assert_eq!(taken, ["10.5.72.1", "10.5.72.2"]);
    let veths: Vec<_> = host.kernel().veths.into_keys().map(|n| n.to_string()).collect();
    assert_eq!(veths, ["flhe1e1e1e1e1e1"]);
    assert_eq!(host.driver.check().await.repaired, []);
}

#[tokio::test]
async fn what_docker_does_meanwhile_is_no_difference() {
    let host = Host::new(V4);
    let pool = host.network(N1, "").await.unwrap();
    let docker = docker_with(&host, vec![docker_network(N1, "10.5.72.0/24", &[])]);
    let address = host.address(&pool, "").await.unwrap();
    host.endpoint(N1, E1, &address, "").await.unwrap();
    host.join(N1, E1).await.unwrap();
    let looked = host.driver.check().await;
    assert_eq!(kinds(&looked.unconfirmed), ["endpoint-gone"]);
    docker.set(vec![docker_network(N1, "10.5.72.0/24", &[(E1, "10.5.72.2/24")])]);
    let looked = check_twice(&host).await;
    assert_eq!((looked.repaired, looked.unconfirmed), (Vec::new(), Vec::new()));
    assert_eq!(host.driver.state().networks[N1].endpoints.len(), 1);
}

#[tokio::test]
async fn a_lost_state_is_had_again_from_docker() {
    let host = Host::new(V4);
    let pool = host.network(N1, "").await.unwrap();
    let address = host.address(&pool, "").await.unwrap();
    host.endpoint(N1, E1, &address, "02:00:0a:05:48:02").await.unwrap();
    host.join(N1, E1).await.unwrap();
    let (before, kernel) = (host.driver.state(), host.kernel());
    std::fs::write(host.dir.path().join("state/state.json"), "{\"version\":1,").unwrap();
    let docker = docker_with(&host, vec![docker_network(N1, "10.5.72.0/24", &[(E1, "10.5.72.2/24")])]);
    let host = host.restart(None).await;
    assert!(host.dir.path().join("state/state.json.damaged-1").exists());
    assert_eq!(kinds(&host.driver.check().await.repaired), ["network-unknown"]);
    let after = host.driver.state();
    assert_eq!(after.networks, before.networks);
    assert_eq!(host.kernel().bridges, kernel.bridges);
    // Docker goes on with the PoolID it was given.
    assert_eq!(host.address(&pool, "").await.unwrap(), "10.5.72.3/24");
    assert_eq!(host.driver.state().pools.keys().collect::<Vec<_>>(), [&pool]);
    // A network that is being removed does not come back.
    host.remove_network(N1, &pool).await;
    let looked = check_twice(&host).await;
    assert_eq!((kinds(&looked.repaired), host.driver.state().networks.len()), (Vec::new(), 0));
    drop(docker);
}

#[tokio::test]
async fn a_bridge_that_somebody_changed_is_put_right() {
    let host = Host::new(V4);
    host.network(N1, "").await.unwrap();
    host.endpoint(N1, E1, "10.5.72.2/24", "").await.unwrap();
    host.join(N1, E1).await.unwrap();
    let kernel = host.kernel();
    host.driver.links.interfaces().bridges.clear();
    assert_eq!(kinds(&host.driver.check().await.repaired), ["bridge-missing", "veth-detached"]);
    assert_eq!(host.kernel(), kernel);
    host.driver.links.interfaces().bridges.values_mut().for_each(|b| b.mtu = 1500);
    assert_eq!(kinds(&host.driver.check().await.repaired), ["bridge-wrong"]);
    assert_eq!(host.kernel(), kernel);
}
