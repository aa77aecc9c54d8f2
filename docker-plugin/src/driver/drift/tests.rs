use std::collections::BTreeMap;

use super::*;
use crate::docker::engine::{DockerEndpoint, DockerPool};
use crate::store::lease::{Lease, Side};
use crate::store::pool::Pool;
use crate::store::{Endpoint, Subnet};

const N: &str = "1111111111110000000000000000000000000000000000000000000000000000";
const E: &str = "e1e1e1e1e1e10000000000000000000000000000000000000000000000000000";

/// What the four say.
#[derive(Clone)]
struct Four {
    state: State,
    docker: Vec<DockerNetwork>,
    devices: Vec<Owned>,
    lease: Lease,
}

/// One network with one container, about which all agree.
fn agreed() -> Four {
    let subnet: IpNet = "10.5.72.0/24".parse().unwrap();
    let gateway: IpNet = "10.5.72.1/24".parse().unwrap();
    let address: IpNet = "10.5.72.2/24".parse().unwrap();
    let side = Side { network: "10.5.0.0/16".parse().unwrap(), subnet };
    let mut state = State::default();
    let mut network: Network = serde_json::from_value(serde_json::json!({
        "subnets": [], "address_space": "flannel-local", "mtu_option": null, "internal": false, "lease_mtu": 1450,
        "lease": [], "endpoints": {}
    }))
    .unwrap();
    network.subnets = vec![Subnet { pool: subnet, gateway }];
    network.lease = vec![side];
    let mac = naming::mac_for(address.addr());
    network.endpoints = BTreeMap::from([(
        E.to_owned(),
        serde_json::from_value::<Endpoint>(serde_json::json!({
            "addresses": [address], "mac": mac.to_string(), "sandbox": null }))
        .unwrap(),
    )]);
    state.networks.insert(N.to_owned(), network);
    let mut pool = Pool::new(subnet, subnet).unwrap();
    pool.network = Some(N.to_owned());
    pool.claim(gateway.addr()).unwrap();
    pool.claim(address.addr()).unwrap();
    state.pools.insert("pool-1".to_owned(), pool);
    let there = DockerEndpoint { container: "web".to_owned(), mac: mac.to_string(), addresses: vec![address] };
    let docker = DockerNetwork {
        id: N.to_owned(),
        name: "net".to_owned(),
        ipam_driver: "flannel".to_owned(),
        pools: vec![DockerPool { subnet, gateway: Some(gateway.addr()), range: None, auxiliary: Vec::new() }],
        endpoints: BTreeMap::from([(E.to_owned(), there)]),
        ..DockerNetwork::default()
    };
    let bridge = naming::bridge(N).unwrap().to_string();
    let devices = vec![
        Owned { name: bridge.clone(), is_bridge: true, mtu: 1450, up: true, bridge: None, addresses: vec![gateway] },
        Owned {
            name: naming::host_end(E).unwrap().to_string(),
            mtu: 1450,
            up: true,
            bridge: Some(bridge),
            ..Owned::default()
        },
    ];
    Four { state, docker: vec![docker], devices, lease: Lease { sides: vec![side], mtu: 1450 } }
}

fn found(four: &Four) -> Vec<Difference> {
    let view = View {
        address_space: "flannel-local",
        state: &four.state,
        docker: Some(&four.docker),
        devices: &four.devices,
        leases: &BTreeMap::from([(None, four.lease.clone())]),
    };
    compare(&view).into_iter().collect()
}

fn kinds(four: &Four) -> Vec<&'static str> {
    found(four).iter().map(Difference::kind).collect()
}

#[test]
fn where_all_agree_nothing_differs() {
    assert_eq!(found(&agreed()), []);
}

#[test]
fn a_silent_docker_is_held_against_nobody() {
    let mut four = agreed();
    four.state.networks.get_mut(N).unwrap().endpoints.clear();
    let view = View {
        address_space: "flannel-local",
        state: &four.state,
        docker: None,
        devices: &four.devices,
        leases: &BTreeMap::new(),
    };
    assert_eq!(compare(&view), BTreeSet::new());
}

#[test]
fn each_thing_that_breaks_has_its_name() {
    let broken = |change: &dyn Fn(&mut Four)| {
        let mut four = agreed();
        change(&mut four);
        kinds(&four)
    };
    let network = |f: &mut Four| f.state.networks.remove(N);
    assert_eq!(broken(&|f| drop(f.docker.pop())), ["network-gone"]);
    assert_eq!(
        broken(&|f| {
            network(f);
            f.docker.clear();
        }),
        ["device-orphaned", "device-orphaned"]
    );
    assert_eq!(
        broken(&|f| {
            network(f);
        }),
        ["network-unknown"],
        "its devices may be wanted yet"
    );
    assert_eq!(broken(&|f| f.docker[0].endpoints.clear()), ["endpoint-gone"]);
    assert_eq!(broken(&|f| f.state.networks.get_mut(N).unwrap().endpoints.clear()), ["endpoint-unknown"]);
    assert_eq!(
        broken(&|f| f.state.pools.get_mut("pool-1").unwrap().claim("10.5.72.9".parse().unwrap()).unwrap()),
        ["address-leaked"]
    );
    assert_eq!(
        broken(&|f| f.state.pools.get_mut("pool-1").unwrap().release("10.5.72.2".parse().unwrap())),
        ["address-untaken"]
    );
    assert_eq!(
        broken(&|f| f.lease.sides[0].subnet = "10.5.99.0/24".parse().unwrap()),
        ["lease-changed"],
        "its bridge is nobody's business any more"
    );
    assert_eq!(broken(&|f| drop(f.devices.remove(0))), ["bridge-missing"]);
    assert_eq!(broken(&|f| f.devices[0].mtu = 1500), ["bridge-wrong"]);
    assert_eq!(broken(&|f| f.devices[0].up = false), ["bridge-wrong"]);
    assert_eq!(broken(&|f| f.devices[0].addresses.clear()), ["bridge-wrong"]);
    assert_eq!(broken(&|f| f.devices[1].bridge = None), ["veth-detached"]);
    assert_eq!(broken(&|f| drop(f.devices.remove(1))), ["veth-missing"]);
    assert_eq!(
        broken(&|f| f.devices.push(Owned { name: "flhffffffffffff".to_owned(), ..Owned::default() })),
        ["device-orphaned"]
    );
}

// --aux-address and --gateway are taken though no container has them.
#[test]
fn addresses_the_user_keeps_are_not_leaked() {
    let mut four = agreed();
    let kept: IpAddr = "10.5.72.77".parse().unwrap();
    four.state.pools.get_mut("pool-1").unwrap().claim(kept).unwrap();
    assert_eq!(kinds(&four), ["address-leaked"]);
    four.docker[0].pools[0].auxiliary.push(kept);
    assert_eq!(found(&four), []);
}

#[test]
fn every_difference_is_one_line_that_names_its_object() {
    let mut four = agreed();
    four.docker.clear();
    four.devices.clear();
    for difference in found(&four) {
        let line = difference.to_string();
        assert!(line.contains("111111111111") && !line.contains('\n') && !line.contains(N), "{line}");
    }
}
