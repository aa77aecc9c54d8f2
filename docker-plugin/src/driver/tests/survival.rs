//! Faults half way, restarts, reboots, and leases that change.

use super::*;

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
    let block = host.dir.path().join("state/state.json.new");
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
    assert!(host.kernel().cables.is_empty());
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
    let host = host.restart(None).await;
    let cables: Vec<_> = host.kernel().cables.into_keys().map(|n| n.to_string()).collect();
    assert_eq!(cables, ["flhe1e1e1e1e1e1"]);
}

#[tokio::test]
async fn a_new_mtu_reaches_new_containers() {
    let host = Host::new(V4);
    host.network(N1, "").await.unwrap();
    host.lease(&V4.replace("1450", "1472"));
    host.endpoint(N1, E1, "10.5.72.2/24", "").await.unwrap();
    host.join(N1, E1).await.unwrap();
    assert_eq!(host.kernel().cables.into_values().next().unwrap().mtu, 1472);
    assert_eq!(host.kernel().bridges.into_values().next().unwrap().mtu, 1472);
}

/// A Docker that has just these networks.
fn docker_with(host: &Host, networks: &'static [&'static str]) {
    let listener = tokio::net::UnixListener::bind(host.dir.path().join("docker.sock")).unwrap();
    let answer = move |axum::extract::Path(id): axum::extract::Path<String>| async move {
        if networks.contains(&id.as_str()) { axum::http::StatusCode::OK } else { axum::http::StatusCode::NOT_FOUND }
    };
    let router = axum::Router::new().route("/networks/{id}", axum::routing::get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
}

#[tokio::test]
async fn a_network_removed_in_our_absence_gives_up_its_lease() {
    let host = Host::new(V4);
    host.network(N1, "10.5.72.0/25").await.unwrap();
    host.network(N2, "10.5.72.128/25").await.unwrap();
    docker_with(&host, &[N2]);
    // Docker denies a network that it is still creating, so a young one is safe.
    assert!(matches!(host.pool("10.5.72.0/25").await, Err(Error::Taken { .. })));
    let host = host.restart(None).await;
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
    assert!(matches!(host.pool("").await, Err(Error::Taken { .. })));
    docker_with(&host, &[]);
    host.network(N2, "").await.unwrap();
    let left: Vec<_> = host.kernel().bridges.into_keys().map(|n| n.to_string()).collect();
    assert_eq!(left, ["fl-222222222222"]);
}
