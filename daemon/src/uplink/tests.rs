//! The host of goldens/iface-selection: lo; br7 172.31.99.9/24; eth0 169.254.9.9/16, 172.31.78.3/24, 172.31.78.33/24.

use super::*;
use crate::kernel::host::Address;

fn address(text: &str, host: bool) -> Address {
    Address { ip: text.parse().unwrap(), permanent: true, secondary: false, deprecated: false, host }
}

fn host() -> Vec<Interface> {
    let interface =
        |index, name: &str, mtu, addresses| Interface { index: LinkIndex(index), name: name.into(), mtu, addresses };
    vec![
        interface(1, "lo", 65536, vec![address("127.0.0.1", true), address("::1", true)]),
        interface(7, "br7", 1400, vec![address("172.31.99.9", false), address("fe80::9cf0:45ff:fe8d:d47c", false)]),
        interface(
            17,
            "eth0",
            1500,
            vec![
                address("169.254.9.9", false),
                address("172.31.78.3", false),
                address("172.31.78.33", false),
                address("fe80::ee:ff:fe00:3", false),
            ],
        ),
    ]
}

fn chosen(choice: Choice<'_>) -> (String, String) {
    let (interface, ip) = choice.unwrap();
    (interface.name.clone(), ip.to_string())
}

fn pair(name: &str, ip: &str) -> (String, String) {
    (name.into(), ip.into())
}

// parity: goldens/iface-selection/STEPS.txt
#[test]
fn names_and_addresses_as_upstream() {
    let host = host();
    assert_eq!(chosen(by_value(&host, "br7")), pair("br7", "172.31.99.9"));
    assert_eq!(chosen(by_value(&host, "eth0")), pair("eth0", "172.31.78.3"));
    assert_eq!(chosen(by_value(&host, "172.31.78.33")), pair("eth0", "172.31.78.33"));
    assert_eq!(by_value(&host, "lo").unwrap_err(), "interface lo has no usable IPv4 address");
    for missing in ["172.31.78.33/24", "nosuch"] {
        let error = by_value(&host, missing).unwrap_err();
        assert!(error.starts_with("there is no such interface; there are lo, br7 (172.31.99.9), eth0 ("), "{error}");
    }
    assert!(by_value(&host, "203.0.113.1").unwrap_err().starts_with("no interface has this address"));
}

// parity: goldens/iface-selection/STEPS.txt
#[test]
fn patterns_match_addresses_before_names() {
    let host = host();
    assert_eq!(chosen(by_regex(&host, "^br")), pair("br7", "172.31.99.9"));
    assert_eq!(chosen(by_regex(&host, r"172\.31\.9")), pair("br7", "172.31.99.9"));
    assert_eq!(chosen(by_regex(&host, "eth")), pair("eth0", "172.31.78.3"));
    assert_eq!(chosen(by_regex(&host, r"78\.33$")), pair("eth0", "172.31.78.33"));
    assert!(by_regex(&host, "nomatch.*").unwrap_err().starts_with("it matches no address and no name"));
    assert!(by_regex(&host, "(").unwrap_err().starts_with("it is no regular expression"));
}

#[test]
fn ways_come_in_upstreams_order() {
    let options = IfaceOptions {
        names: vec!["a".into(), String::new()],
        regexes: vec!["b".into()],
        can_reach: "192.0.2.1".into(),
        ..IfaceOptions::default()
    };
    assert_eq!(
        ways(&options),
        [Way::Given("iface", "a"), Way::DefaultRoute, Way::Regex("b"), Way::CanReach("192.0.2.1")]
    );
    assert_eq!(ways(&IfaceOptions::default()), [Way::DefaultRoute]);
    let public = IfaceOptions { public_ip: "192.0.2.1".into(), ..IfaceOptions::default() };
    assert_eq!(ways(&public), [Way::Given("public-ip", "192.0.2.1")]);
}

#[test]
fn the_public_address_need_not_be_the_interfaces() {
    let host = host();
    let uplink = complete(&host[2], Ipv4Addr::new(172, 31, 78, 3), "203.0.113.7").unwrap();
    assert_eq!(uplink.public_ip, Ipv4Addr::new(203, 0, 113, 7));
    assert_eq!(uplink.ip, Ipv4Addr::new(172, 31, 78, 3));
    assert!(complete(&host[2], uplink.ip, "garbage").unwrap_err().contains("-public-ip"));
}

#[test]
fn better_addresses_come_first() {
    let mut interface = host().remove(2);
    interface.addresses[1].permanent = false;
    interface.addresses[2].secondary = true;
    assert_eq!(usable(&interface)[0], Ipv4Addr::new(172, 31, 78, 33));
    interface.addresses[2].deprecated = true;
    assert_eq!(usable(&interface)[0], Ipv4Addr::new(172, 31, 78, 3));
    interface.addresses.truncate(1);
    assert_eq!(usable(&interface), [Ipv4Addr::new(169, 254, 9, 9)]);
}
