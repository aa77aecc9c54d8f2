//! Which pools are given, which are refused, and with which words.

use super::*;
use flannel_core::net::overlap;

#[tokio::test]
async fn a_foreign_pool_is_refused_with_the_command_to_type() {
    let host = Host::new(V4);
    let error = host.create(N1, "LocalDefault", "172.27.0.0/16", "172.27.0.1/16").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pool 172.27.0.0/16 is not inside this host's flannel lease 10.5.72.0/24: type \"docker network create -d \
         flannel --ipam-driver flannel NAME\", or \"docker network create -d flannel --subnet 10.5.72.0/24 NAME\""
    );
    // The command is one that works: beside another network it names a part that is free.
    host.network(N2, "10.5.72.0/25").await.unwrap();
    let error = host.create(N1, "LocalDefault", "172.27.0.0/16", "172.27.0.1/16").await.unwrap_err().to_string();
    assert!(error.contains("--ipam-driver flannel --subnet 10.5.72.128/25 NAME"), "{error}");
    for foreign in ["10.5.73.0/24", "10.5.0.0/16", "192.168.0.0/24"] {
        assert!(matches!(host.pool(foreign).await, Err(Error::ForeignPool { .. })), "{foreign}");
    }
}

#[tokio::test]
async fn without_subnet_env_the_line_names_the_file() {
    let host = Host::new(V4);
    std::fs::remove_file(env_path(host.dir.path())).unwrap();
    for error in [
        host.pool("").await.unwrap_err(),
        host.create(N1, "LocalDefault", "10.5.72.0/24", "10.5.72.1/24").await.unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.contains("subnet.env is not there: flanneld has not written it yet"), "{text}");
    }
}

#[tokio::test]
async fn a_lease_is_one_network_or_several_by_parts() {
    let host = Host::new(V4);
    let whole = host.network(N1, "").await.unwrap();
    let error = host.pool("").await.unwrap_err().to_string();
    assert_eq!(
        error,
        "this host's flannel lease 10.5.72.0/24 is taken: 10.5.72.0/24 belongs to network 111111111111; to have \
         several networks, type \"docker network rm 111111111111\" and create each on a part of the lease, as with \
         \"docker network create -d flannel --ipam-driver flannel --subnet 10.5.72.0/25 NAME\""
    );
    host.remove_network(N1, &whole).await;
    host.network(N1, "10.5.72.0/25").await.unwrap();
    let error = host.network(N2, "10.5.72.64/26").await.unwrap_err().to_string();
    assert_eq!(
        error,
        "10.5.72.64/26 of this host's flannel lease 10.5.72.0/24 is taken: 10.5.72.0/25 belongs to network \
         111111111111; a part is free: type \"docker network create -d flannel --ipam-driver flannel --subnet \
         10.5.72.128/25 NAME\""
    );
    let second = host.network(N2, "10.5.72.128/25").await.unwrap();
    assert_eq!(host.address(&second, "").await.unwrap(), "10.5.72.130/25");
    assert_eq!(host.kernel().bridges.len(), 2);
}

#[tokio::test]
async fn networks_with_dockers_own_addresses_count_too() {
    let host = Host::new(V4);
    host.create(N1, "LocalDefault", "10.5.72.0/26", "10.5.72.1/26").await.unwrap();
    let error = host.pool("").await.unwrap_err().to_string();
    assert!(error.contains("10.5.72.0/26 belongs to network 111111111111"), "{error}");
    let error = host.create(N2, "LocalDefault", "10.5.72.0/25", "10.5.72.1/25").await.unwrap_err();
    assert!(matches!(error, Error::Taken { .. }), "{error}");
    assert_eq!(host.kernel().bridges.len(), 1);
}

#[tokio::test]
async fn ranges_lie_inside_their_pool() {
    let host = Host::new(V4);
    let ask = |pool: &str, sub: &str| read::<RequestPool>(json!({"Pool": pool, "SubPool": sub}));
    let error = host.driver.request_pool(ask("10.5.72.0/25", "10.5.72.128/25")).await.unwrap_err();
    assert!(matches!(error, Error::RangeOutside { .. }), "{error}");
    let given = host.driver.request_pool(ask("10.5.72.0/24", "10.5.72.128/25")).await.unwrap();
    assert_eq!(host.gateway(&given.pool_id).await.unwrap(), "10.5.72.1/24");
    assert_eq!(host.address(&given.pool_id, "").await.unwrap(), "10.5.72.128/24");
    assert_eq!(host.address(&given.pool_id, "10.5.72.5").await.unwrap(), "10.5.72.5/24");
    let error = host.address(&given.pool_id, "10.5.72.5").await.unwrap_err();
    assert!(matches!(error, Error::AddressInUse { .. }), "{error}");
    assert!(matches!(host.pool("10.5.72.0/31").await, Err(Error::Taken { .. } | Error::PoolTooSmall { .. })));
}

#[tokio::test]
async fn late_releases_hit_nobody() {
    let host = Host::new(V4);
    let first = host.network(N1, "").await.unwrap();
    host.remove_network(N1, &first).await;
    let second = host.network(N2, "").await.unwrap();
    assert_ne!(first, second);
    host.driver.release_pool(ReleasePool { pool_id: first }).await.unwrap();
    assert_eq!(host.address(&second, "").await.unwrap(), "10.5.72.2/24");
}

#[tokio::test(start_paused = true)]
async fn a_pool_whose_network_never_came_is_free_again() {
    let host = Host::new(V4);
    let lost = host.pool("").await.unwrap();
    host.gateway(&lost.pool_id).await.unwrap();
    let error = host.pool("").await.unwrap_err().to_string();
    assert!(error.contains("belongs to a network that is being created; try again when that is done"), "{error}");
    tokio::time::advance(Duration::from_secs(61)).await;
    host.network(N1, "").await.unwrap();
}

/// What dockerd does with a pool of our choice: it compares it with the routes, and asks again as long as they overlap.
async fn docker_asks(host: &Host) -> (Result<String, Error>, usize) {
    let mut earlier = Vec::new();
    for calls in 1..10 {
        let given = match host.pool("").await {
            Ok(given) => given,
            Err(e) => return (Err(e), calls),
        };
        let pool: IpNet = given.pool.parse().unwrap();
        let routes = host.driver.links.routes().await.unwrap();
        if pool.prefix_len() > 0 && routes.iter().any(|r| overlap(&r.destination, &pool)) {
            earlier.push(given.pool_id);
            continue;
        }
        for pool_id in earlier {
            host.driver.release_pool(ReleasePool { pool_id }).await.unwrap();
        }
        let gateway = match given.data.get("com.docker.network.gateway") {
            Some(gateway) => gateway.clone(),
            None => host.gateway(&given.pool_id).await.unwrap(),
        };
        host.create(N1, "flannel-local", &given.pool, &gateway).await.unwrap();
        return (host.address(&given.pool_id, "").await, calls);
    }
    panic!("Docker would ask for ever");
}

/// Destination, device and metric.
type Route = (&'static str, Option<&'static str>, u32);

#[tokio::test]
async fn routes_of_the_host_never_make_docker_ask_for_ever() {
    let whole = "10.5.72.2/24";
    let cases: [(&[Route], Result<&str, &str>); 8] = [
        (&[], Ok(whole)),
        (&[("10.5.73.0/24", Some("flannel.1"), 0), ("172.17.0.0/16", Some("docker0"), 0)], Ok(whole)),
        // udp as upstream has it: the whole network leads into the tunnel.
        (&[("10.5.0.0/16", Some("flannel0"), 0)], Ok(whole)),
        // -ip-blackhole-route, where it gives way to the bridge and where it does not.
        (&[("10.5.72.0/24", None, 1000)], Ok(whole)),
        (&[("10.5.72.0/24", None, 0)], Err("10.5.72.0/24 belongs to a blackhole route of this host")),
        // Docker's own bridge has a part.
        (&[("10.5.72.0/26", Some("docker0"), 0)], Ok("10.5.72.130/25")),
        (&[("10.5.72.0/26", Some("docker0"), 0), ("10.0.0.0/8", Some("tun0"), 0)], Ok("10.5.72.130/25")),
        (&[("10.5.72.0/24", Some("cni0"), 0)], Err("10.5.72.0/24 belongs to cni0 of this host")),
    ];
    for (routes, expected) in cases {
        let host = Host::new(V4);
        for (destination, device, metric) in routes {
            host.add_route(destination, *device, *metric);
        }
        let (answer, calls) = docker_asks(&host).await;
        assert_eq!(calls, 1, "{routes:?}");
        match (answer, expected) {
            (Ok(address), Ok(expected)) => assert_eq!(address, expected, "{routes:?}"),
            (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{routes:?}: {e}"),
            (answer, _) => panic!("{routes:?}: {answer:?}"),
        }
    }
}

// Should Docker find an overlap that we did not, its second request tells.
#[tokio::test]
async fn a_second_request_is_the_refusal_of_the_first_answer() {
    let host = Host::new(V4);
    let first = host.pool("").await.unwrap();
    assert_eq!(first.pool, "10.5.72.0/24");
    let second = host.pool("").await.unwrap();
    assert_eq!(second.pool, "0.0.0.0/0");
    assert_eq!(second.data.get("com.docker.network.gateway").map(String::as_str), Some("10.5.72.1/24"));
    host.driver.release_pool(ReleasePool { pool_id: first.pool_id }).await.unwrap();
    host.create(N1, "flannel-local", "0.0.0.0/0", "10.5.72.1/24").await.unwrap();
    assert_eq!(host.address(&second.pool_id, "").await.unwrap(), "10.5.72.2/24");
    assert_eq!(host.kernel().bridges.into_values().next().unwrap().addresses, ["10.5.72.1/24".parse().unwrap()]);
}

#[tokio::test]
async fn a_bridge_left_over_does_not_stand_in_the_way() {
    let host = Host::new(V4);
    let pool = host.network(N1, "").await.unwrap();
    host.driver.links.interfaces().fail_next = 1;
    host.remove_network(N1, &pool).await;
    assert_eq!(host.kernel().bridges.len(), 1, "the fault did not strike");
    assert_eq!(docker_asks(&host).await, (Ok("10.5.72.2/24".to_owned()), 1));
}

// Docker fails a container when a route of one network covers an address of the next, or is there twice.
#[tokio::test]
async fn a_container_may_join_several_parts_of_the_lease() {
    let host = Host::new(V4);
    host.network(N1, "10.5.72.0/25").await.unwrap();
    host.network(N2, "10.5.72.128/25").await.unwrap();
    host.endpoint(N1, E1, "10.5.72.2/25", "").await.unwrap();
    host.endpoint(N2, E2, "10.5.72.130/25", "").await.unwrap();
    let first = host.join_in(N1, E1, "/netns/a").await.unwrap().static_routes;
    assert_eq!(first.len(), 8);
    let lease: IpNet = "10.5.72.0/24".parse().unwrap();
    assert!(first.iter().all(|r| !overlap(&r.destination.parse().unwrap(), &lease)), "{first:?}");
    assert_eq!(host.join_in(N2, E2, "/netns/a").await.unwrap().static_routes, []);
    // Another container has its own.
    host.endpoint(N2, E3, "10.5.72.131/25", "").await.unwrap();
    assert_eq!(host.join_in(N2, E3, "/netns/b").await.unwrap().static_routes.len(), 8);
}

#[tokio::test]
async fn networks_created_at_the_same_time_do_not_take_each_others_pools() {
    let host = Host::new(V4);
    let low = host.pool("10.5.72.0/25").await.unwrap();
    let high = host.pool("10.5.72.128/25").await.unwrap();
    assert!(matches!(host.pool("").await, Err(Error::Taken { .. })));
    assert!(matches!(host.pool("10.5.72.0/26").await, Err(Error::Taken { .. })));
    let (low, high) = (host.gateway(&low.pool_id).await.unwrap(), host.gateway(&high.pool_id).await.unwrap());
    host.create(N1, "flannel-local", "10.5.72.0/25", &low).await.unwrap();
    host.create(N2, "flannel-local", "10.5.72.128/25", &high).await.unwrap();
}

#[tokio::test]
async fn the_commands_in_refusals_name_what_is_really_free() {
    let host = Host::new(V4);
    host.add_route("10.5.72.0/26", Some("docker0"), 0);
    host.add_route("10.5.72.128/26", Some("docker_gwbridge"), 0);
    host.create(N1, "LocalDefault", "10.5.72.64/26", "10.5.72.65/26").await.unwrap();
    let free = "--subnet 10.5.72.192/26 NAME";
    for error in [
        host.pool("").await.unwrap_err(),
        host.pool("10.5.72.64/27").await.unwrap_err(),
        host.pool("10.5.72.0/27").await.unwrap_err(),
        host.pool("10.9.0.0/24").await.unwrap_err(),
        host.create(N2, "LocalDefault", "172.18.0.0/16", "172.18.0.1/16").await.unwrap_err(),
    ] {
        assert!(error.to_string().contains(free), "{error}");
    }
    host.network(N2, "10.5.72.192/26").await.unwrap();
}

// Docker 29 says who asks; earlier ones do not.
#[tokio::test]
async fn a_container_that_docker_names_comes_back_to_its_address() {
    let host = Host::new(V4);
    let pool = host.network(N1, "").await.unwrap();
    let ask = async |name: &str| {
        let options = json!({"com.docker.network.endpoint.name": name});
        let request = read(json!({"PoolID": pool, "Address": "", "Options": options}));
        host.driver.request_address(request).await.unwrap().address
    };
    let web = ask("web").await;
    let release = json!({"PoolID": pool, "Address": web.split('/').next()});
    host.driver.release_address(read(release)).await.unwrap();
    assert_eq!(ask("other").await, "10.5.72.3/24");
    assert_eq!(ask("web").await, web);
}

#[tokio::test]
async fn a_range_of_another_daemons_lease_is_that_daemons_network() {
    let host = Host::new(V4);
    let blue = "FLANNEL_NETWORK=10.6.0.0/16\nFLANNEL_SUBNET=10.6.9.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n";
    std::fs::write(host.dir.path().join("blue.env"), blue).unwrap();
    let pool = host.network(N1, "10.6.9.0/25").await.unwrap();
    let state = host.driver.state();
    let network = &state.networks[N1];
    assert_eq!(network.flannel.as_ref().map(ToString::to_string).as_deref(), Some("blue"));
    assert_eq!((network.mtu(), network.lease[0].network), (1400, "10.6.0.0/16".parse().unwrap()));
    assert_eq!(host.address(&pool, "").await.unwrap(), "10.6.9.2/25");
    // Its lease goes; ours has nothing to do with it.
    std::fs::write(host.dir.path().join("blue.env"), blue.replace("10.6.9.1", "10.6.10.1")).unwrap();
    let error = host.endpoint(N1, E1, "10.6.9.2/25", "").await.unwrap_err();
    assert!(error.to_string().contains("--ipam-opt flannel.network=blue NAME"), "{error}");
}

#[tokio::test]
async fn without_ipam_the_addresses_are_ours_and_come_back() {
    let host = Host::new(DUAL);
    host.create_with(N1, json!({}), &[("null", "0.0.0.0/0", ""), ("null", "::/0", "")]).await.unwrap();
    let create = async |id: &str, mac: &str| {
        let interface = json!({"Address": "", "AddressIPv6": "", "MacAddress": mac});
        let request = json!({"NetworkID": N1, "EndpointID": id, "Interface": interface});
        host.driver.create_endpoint(read(request)).await.unwrap().interface.unwrap()
    };
    let first = create(E1, "").await;
    assert_eq!(first.address.as_deref(), Some("10.5.72.2/24"));
    assert_eq!(first.address_ipv6.as_deref(), Some("fd00:5:0:72::2/64"));
    assert_eq!(first.mac_address.as_deref(), Some("02:00:0a:05:48:02"));
    // Said twice.
    assert_eq!(create(E1, "").await, first);
    // An answer must not repeat the user's hardware address.
    let second = create(E2, "02:42:00:00:00:07").await;
    assert_eq!((second.address.as_deref(), second.mac_address), (Some("10.5.72.3/24"), None));
    host.stop(N1, E2).await;
    assert_eq!(create(E3, "02:42:00:00:00:07").await.address.as_deref(), Some("10.5.72.3/24"));
    let pools = host.driver.state().pools;
    assert!(pools.values().all(|p| p.used() == 3), "{pools:?}");
    host.driver.delete_network(DeleteNetwork { network_id: N1.to_owned() }).await.unwrap();
    assert!(host.driver.state().pools.is_empty());
}
