use super::*;

fn shared() -> Scope {
    let range = flannel_core::config::NetworkConfig::parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap().ranges.v4.unwrap();
    Scope { owned: vec![LinkIndex(9)], shared: Some((LinkIndex(2), vec![range])) }
}

fn route(dst: &str, via: Option<&str>, link: u32) -> Route {
    let via = via.map(|v| v.parse().unwrap());
    Route { dst: dst.parse().unwrap(), via, link: LinkIndex(link), onlink: false }
}

#[test]
fn routes_read_back_as_they_were_written() {
    for ours in [
        route("10.5.1.0/24", Some("192.0.2.1"), 2),
        Route { onlink: true, ..route("10.5.1.0/24", Some("10.5.1.0"), 9) },
        route("10.5.0.0/17", None, 9),
        route("fd00:5:0:1::/64", Some("fd00::1"), 9),
    ] {
        assert_eq!(route_entry(&route_message(&ours), &shared()), Some(Entry::Route(ours)));
    }
}

#[test]
fn forwarding_records_are_read_though_their_family_is_the_bridges() {
    let mac = Mac([0x7a, 0x3f, 0x56, 0x96, 0x72, 0x2e]);
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = 9;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Other(vec![192, 0, 2, 7])));
    let dst = Ipv4Addr::new(192, 0, 2, 7).into();
    assert_eq!(neighbour_entry(&message, &shared()), Some(Entry::Fdb { link: LinkIndex(9), mac, dst }));
    message.header.state = NeighbourState::Reachable;
    assert_eq!(neighbour_entry(&message, &shared()), None, "learned, not ours");
}

#[test]
fn on_a_shared_device_only_gateway_routes_to_subnets_are_ours() {
    for foreign in [
        route("10.5.1.0/24", None, 2),
        route("10.5.1.0/25", Some("192.0.2.1"), 2),
        route("10.9.1.0/24", Some("192.0.2.1"), 2),
        route("10.5.1.0/24", Some("192.0.2.1"), 3),
    ] {
        assert_eq!(route_entry(&route_message(&foreign), &shared()), None, "{foreign}");
    }
    let mut by_dhcp = route_message(&route("10.5.1.0/24", Some("192.0.2.1"), 2));
    by_dhcp.header.protocol = RouteProtocol::Dhcp;
    assert_eq!(route_entry(&by_dhcp, &shared()), None);
}
