//! Networks with `flannel.gateway=true`: what is translated, published and given back.

use super::*;
use crate::api::network::Program;

/// A network in gateway mode, and a container in it.
async fn with_container(host: &Host) {
    let generic = json!({"com.docker.network.generic": {"flannel.gateway": "true"}});
    host.create_with(N1, generic, &[("LocalDefault", "10.5.72.0/24", "10.5.72.1/24")]).await.unwrap();
    host.endpoint(N1, E1, "10.5.72.2/24", "").await.unwrap();
}

/// ProgramExternalConnectivity of one port of 127.0.0.1, 0 for any.
async fn program(host: &Host, endpoint: &str, port: u16) -> Result<(), Error> {
    let map = json!([{"Proto": 6, "Port": 80, "HostIP": "127.0.0.1", "HostPort": port, "HostPortEnd": port}]);
    let options = json!({"com.docker.network.portmap": map});
    let request: Program = read(json!({"NetworkID": N1, "EndpointID": endpoint, "Options": options}));
    host.driver.program(request).await.map(drop)
}

fn ports(host: &Host, endpoint: &str) -> Vec<u16> {
    host.driver.state().networks[N1].endpoints[endpoint].ports.iter().map(|p| p.host).collect()
}

/// What is translated now.
fn translated(host: &Host) -> Nat {
    host.nat.applied().pop().unwrap_or_default()
}

#[tokio::test]
async fn join_gives_the_gateway_and_program_the_ports() {
    let host = Host::new(V4);
    with_container(&host).await;
    let joined = host.join(N1, E1).await.unwrap();
    assert_eq!((joined.gateway.as_deref(), joined.gateway_ipv6), (Some("10.5.72.1"), None));
    assert!(host.kernel().veths.values().all(|c| c.hairpin));
    program(&host, E1, 0).await.unwrap();
    let chosen = ports(&host, E1);
    assert!(chosen.len() == 1 && chosen[0] != 0, "{chosen:?}");
    // Said twice, with the same open choice: the first answer stands.
    program(&host, E1, 0).await.unwrap();
    assert_eq!(ports(&host, E1), chosen);
    let nat = translated(&host);
    assert_eq!((nat.bridges.len(), nat.ports.len()), (1, 1));
    assert!(std::net::TcpListener::bind(("127.0.0.1", chosen[0])).is_err(), "the port is not held");
    host.driver.revoke(call(N1, E1)).await.unwrap();
    host.driver.revoke(call(N1, E1)).await.unwrap();
    assert_eq!((ports(&host, E1).len(), translated(&host).ports.len()), (0, 0));
}

#[tokio::test]
async fn a_port_that_is_taken_leaves_nothing_and_each_end_gives_ports_back() {
    let host = Host::new(V4);
    with_container(&host).await;
    host.endpoint(N1, E2, "10.5.72.3/24", "").await.unwrap();
    program(&host, E1, 0).await.unwrap();
    let taken = ports(&host, E1)[0];
    let error = program(&host, E2, taken).await.unwrap_err().to_string();
    assert!(error.contains("is in use on this host"), "{error}");
    assert_eq!((ports(&host, E2).len(), translated(&host).ports.len()), (0, 1));
    // After a refusal no Revoke comes, but Leave and DeleteEndpoint; either of them will do.
    host.driver.leave(call(N1, E1)).await.unwrap();
    assert_eq!(translated(&host).ports.len(), 0);
    program(&host, E1, 0).await.unwrap();
    host.driver.delete_endpoint(call(N1, E1)).await.unwrap();
    assert_eq!(translated(&host).ports.len(), 0);
    program(&host, E2, 0).await.unwrap();
    host.driver.delete_network(DeleteNetwork { network_id: N1.to_owned() }).await.unwrap();
    assert_eq!(translated(&host), Nat::default());
}

#[tokio::test]
async fn a_packet_filter_that_refuses_fails_the_container() {
    let host = Host::new(V4);
    with_container(&host).await;
    host.nat.fail(true);
    let error = program(&host, E1, 0).await.unwrap_err().to_string();
    assert!(error.contains("made to fail"), "{error}");
    assert_eq!(ports(&host, E1).len(), 0);
    host.nat.fail(false);
    program(&host, E1, 0).await.unwrap();
}

#[tokio::test]
async fn ports_are_held_again_after_a_restart() {
    let host = Host::new(V4);
    with_container(&host).await;
    program(&host, E1, 0).await.unwrap();
    let published = ports(&host, E1);
    let host = host.restart(None).await;
    assert_eq!((ports(&host, E1), translated(&host).ports.len()), (published.clone(), 1));
    assert!(std::net::TcpListener::bind(("127.0.0.1", published[0])).is_err(), "the port is not held");
}

#[tokio::test]
async fn without_the_option_docker_publishes() {
    let host = Host::new(V4);
    host.create(N1, "LocalDefault", "10.5.72.0/24", "10.5.72.1/24").await.unwrap();
    host.endpoint(N1, E1, "10.5.72.2/24", "").await.unwrap();
    assert_eq!(host.join(N1, E1).await.unwrap().gateway, None);
    program(&host, E1, 0).await.unwrap();
    assert_eq!((ports(&host, E1).len(), translated(&host)), (0, Nat::default()));
}
