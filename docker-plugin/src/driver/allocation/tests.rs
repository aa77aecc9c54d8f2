use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn route(destination: &str, device: Option<&str>, metric: u32) -> HostRoute {
    HostRoute { destination: net(destination), device: device.map(str::to_owned), metric }
}

fn claim(subnet: &str, network: Option<&str>) -> Claim {
    Claim { subnet: net(subnet), network: network.map(str::to_owned) }
}

/// What `ask` is told by an allocation from 10.5.72.0/24, with IPv6 beside it.
fn with<T>(claims: &[Claim], routes: &[HostRoute], ask: impl FnOnce(&Allocation<'_>) -> T) -> T {
    let v4 = Side { network: net("10.5.0.0/16"), subnet: net("10.5.72.0/24") };
    let v6 = Side { network: net("fd00:5::/48"), subnet: net("fd00:5:0:72::/64") };
    let lease = Lease { sides: vec![v4, v6], mtu: 1450 };
    let supply = Supply { driver: "flannel", flannel: None, lease: &lease, routes };
    ask(&supply.side(v4, claims.to_vec()))
}

fn chosen(claims: &[Claim], routes: &[HostRoute]) -> Result<(String, bool), String> {
    let choice = with(claims, routes, |a| a.choose()).map_err(|e| e.to_string())?;
    Ok((choice.subnet.to_string(), choice.covered))
}

#[test]
fn the_whole_lease_is_chosen_unless_something_of_the_host_is_inside() {
    let whole = Ok(("10.5.72.0/24".to_owned(), false));
    assert_eq!(chosen(&[], &[]), whole);
    assert_eq!(chosen(&[claim("10.5.9.0/24", None)], &[route("10.5.9.0/24", Some("eth1"), 0)]), whole);
    let half = Ok(("10.5.72.128/25".to_owned(), false));
    assert_eq!(chosen(&[], &[route("10.5.72.0/26", Some("virbr0"), 100)]), half);
    assert_eq!(chosen(&[], &[route("10.5.72.0/26", None, 0)]), half);
    // Our bridge's route has a lower metric, so this one never applies.
    assert_eq!(chosen(&[], &[route("10.5.72.0/26", None, 1024)]), Ok(("10.5.72.0/24".to_owned(), true)));
    assert_eq!(chosen(&[], &[route("10.0.0.0/8", Some("tun0"), 0)]), Ok(("10.5.72.0/24".to_owned(), true)));
}

#[test]
fn a_refused_choice_names_who_has_the_range_and_what_is_left() {
    let error = chosen(&[claim("10.5.72.0/25", Some("0123456789abcdef"))], &[]).unwrap_err();
    assert!(error.contains("belongs to network 0123456789ab;"), "{error}");
    assert!(error.contains("--ipam-driver flannel --subnet 10.5.72.128/25 NAME"), "{error}");
    let error = chosen(&[claim("10.5.72.0/24", Some("0123456789abcdef"))], &[]).unwrap_err();
    assert!(error.contains("docker network rm 0123456789ab") && error.contains("--subnet 10.5.72.0/25"), "{error}");
    let error = chosen(&[claim("10.5.72.0/24", None)], &[]).unwrap_err();
    assert!(error.contains("a network that is being created; try again"), "{error}");
    let error = chosen(&[], &[route("10.5.72.0/24", Some("eth1"), 0)]).unwrap_err();
    assert!(error.contains("eth1 of this host") && error.contains("ip route show 10.5.72.0/24"), "{error}");
}

#[test]
fn a_range_that_was_asked_for_is_free_or_refused() {
    let claims = [claim("10.5.72.0/26", Some("n1"))];
    let routes = [route("10.5.72.192/26", Some("eth1"), 0)];
    let check = |pool: &str| with(&claims, &routes, |a| a.check(net(pool)).map(|c| c.subnet.to_string()));
    assert_eq!(check("10.5.72.64/26").unwrap(), "10.5.72.64/26");
    for (pool, owner) in [("10.5.72.0/25", "network n1"), ("10.5.72.128/25", "eth1 of this host")] {
        let error = check(pool).unwrap_err().to_string();
        assert!(error.contains(owner) && error.contains("--subnet 10.5.72.64/26"), "{error}");
    }
    assert!(matches!(check("10.6.0.0/24"), Err(Error::ForeignPool { .. })));
}

#[test]
fn a_foreign_range_is_answered_with_the_commands_that_work() {
    let foreign = |claims: &[Claim], family: Family| {
        with(claims, &[], |a| {
            let side = a.supply.lease.side(family).unwrap();
            a.supply.side(side, claims.to_vec()).foreign(net("192.168.0.0/24")).to_string()
        })
    };
    let error = foreign(&[], Family::V4);
    assert!(error.contains("--ipam-driver flannel NAME") && error.contains("-d flannel --subnet 10.5.72.0/24"));
    let error = foreign(&[claim("10.5.72.0/25", None)], Family::V6);
    assert!(error.contains("--ipv6 --subnet 10.5.72.128/25 --subnet fd00:5:0:72::/64 NAME"), "{error}");
}

#[test]
fn a_lease_of_one_family_refuses_the_other() {
    let lease = Lease { sides: vec![Side { network: net("10.5.0.0/16"), subnet: net("10.5.72.0/24") }], mtu: 1450 };
    let supply = Supply { driver: "flannel", flannel: None, lease: &lease, routes: &[] };
    assert!(supply.family(Family::V4, "IPv4", Vec::new()).is_ok());
    let error = supply.family(Family::V6, "IPv4", Vec::new()).unwrap_err().to_string();
    assert!(error.contains("has no IPv6 part") && error.contains("--ipv6"), "{error}");
}
